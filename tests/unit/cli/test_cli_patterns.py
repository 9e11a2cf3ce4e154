"""Patterns of namespaces on the command line: what is found by them, and what is told where they find nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.unit.cli_world import Answer, Script, Seen, World, answer, kubernetes, world
from tests.unit.cluster_server import page, raw_pod

pytestmark = pytest.mark.usefixtures("own_logging")

FOUND = ("a", "b", "team-a", "kube-system")


def cluster(*namespaces: str, status: int = 200, denied: tuple[str, str] = ("", "")) -> Script:
    """An API server with these namespaces, in two pages; in each but `a`, which has the one Pod, there is none.

    `denied`: a verb on Pods and the namespace where it is not granted, beside the whole cluster.
    """

    def script(seen: Seen) -> Answer:
        path, _, query = seen.path.partition("?")
        if path == "/api/v1/namespaces":
            if status != 200:
                return answer(status, {"message": "namespaces is forbidden"})
            first = "continue=" not in query
            items = [{"metadata": {"name": name}} for name in (namespaces[:1] if first else namespaces[1:])]
            return answer(200, {"metadata": {"continue": "more" if first else ""}, "items": items})
        if path.endswith("/pods"):
            return answer(200, page(raw_pod()) if path.endswith("/namespaces/a/pods") else page())
        if path.endswith("/selfsubjectaccessreviews"):
            wanted = seen.body["spec"]["resourceAttributes"]
            if (wanted["verb"], wanted["namespace"]) in {denied, (denied[0], "")} and wanted["resource"] == "pods":
                return answer(201, {"status": {"allowed": False}})
        return kubernetes(seen)

    return script


@pytest.fixture
def made(tmp_path: Any, capsys: Any) -> Iterator[World]:
    with world(tmp_path, capsys, cluster=cluster(*FOUND)) as made:
        yield made


def lists(made: World) -> list[str]:
    """The namespaces whose Pods were listed."""
    paths = [seen.path.partition("?")[0] for seen in made.cluster.seen if seen.method == "GET"]
    return [path.split("/")[-2] for path in paths if path.endswith("/pods")]


# --- scan, explain, run --once ---


def test_scan_looks_where_the_pattern_says(made: World) -> None:
    told = made.run("scan", "-o", "name", config=made.config(namespaces=["a*", "team-*"]))
    assert (told.code, told.out.split(), told.err) == (1, ["a/p"], "")
    assert lists(made) == ["a", "team-a"]


def test_scan_says_that_a_pattern_finds_nothing(made: World) -> None:
    told = made.run("scan", config=made.config(namespaces=["a*", "x-*"]))
    assert told.code == 3
    assert "incomplete: namespaces x-*: no namespace matches this pattern yet" in " ".join(told.err.split())


def test_scan_says_that_namespaces_cant_be_listed(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=cluster(status=403)) as made:
        told = made.run("scan", config=made.config(namespaces=["a*", "b"]))
    assert told.code == 3
    assert "incomplete: namespace a*: The healer may not list the namespaces" in " ".join(told.err.split())
    assert lists(made) == ["b", "b"]  # the second one asks whether there is any Pod at all


def test_explain_knows_whose_a_namespace_is(made: World) -> None:
    config = made.config(namespaces=["a*"])
    assert "What Airflow prod says" in made.run("explain", "a/p", config=config).out
    assert "belongs to no Airflow" in made.run("explain", "b/p", config=config).err
    assert "write NAMESPACE/POD" in " ".join(made.run("explain", "p", config=config).err.split())


def test_explain_says_that_a_namespace_is_claimed_twice(made: World) -> None:
    document = yaml.safe_load(made.config(namespaces=["te*"]).read_text())
    document["airflows"] += [document["airflows"][0] | {"name": "other", "namespaces": ["*am-a"]}]
    both = made.folder / "both.yaml"
    both.write_text(yaml.safe_dump(document))
    told = made.run("explain", "team-a/p", config=both)
    assert "namespace team-a is claimed by prod and other" in " ".join(told.err.split())
    told = made.run("check", config=both)
    assert told.code == 1
    assert "nothing is decided there: namespace team-a is claimed by prod and other" in " ".join(told.out.split())
    assert "team-a" not in lists(made)


def test_run_once_heals_there(made: World) -> None:
    told = made.run("run", "--once", config=made.config(namespaces=["a*", "x-*"]))
    assert (told.code, made.deletions) == (0, 1), told.err


def test_run_once_says_that_it_had_nowhere_to_look(made: World) -> None:
    told = made.run("run", "--once", config=made.config(namespaces=["x-*"]))
    assert (told.code, made.deletions) == (3, 0)
    assert "Airflow prod: no namespace matches any of its patterns" in " ".join(told.err.split())


def test_run_once_deletes_nothing_where_namespaces_cant_be_listed(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=cluster(status=403)) as made:
        told = made.run("run", "--once", config=made.config(namespaces=["a*"]))
    assert (told.code, made.deletions) == (3, 0)
    assert "may not list the namespaces" in " ".join(told.err.split())


# --- delete ---


def test_delete_says_that_namespaces_cant_be_listed_and_not_that_the_pod_has_vanished(
    tmp_path: Any, capsys: Any
) -> None:
    with world(tmp_path, capsys, cluster=cluster(status=403)) as made:
        told = made.run("delete", "a/p", "--yes", config=made.config(namespaces=["x", "a*"]))
    assert (told.code, made.deletions) == (3, 0)
    assert "a/p is not deleted: namespace a: The healer may not list the namespaces" in told.err


def test_delete_goes_on_in_a_namespace_that_is_named_though_namespaces_cant_be_listed(
    tmp_path: Any, capsys: Any
) -> None:
    with world(tmp_path, capsys, cluster=cluster(status=403)) as made:
        told = made.run("delete", "a/p", "--yes", config=made.config(namespaces=["a", "a*"]))
    assert (told.code, made.deletions) == (0, 1), told.err


# --- check ---


def test_check_tells_what_patterns_stand_for(made: World) -> None:
    told = made.run("check", config=made.config(namespaces=["a*", "team-*", "x-*"]))
    said = " ".join(told.out.split())
    assert told.code == 0, said
    assert "Airflows: 1, namespaces: 0, patterns: 3" in said
    assert "namespaces team-* namespaces that only it stands for now: 1, all good in 1" in said
    assert "no namespace matches this pattern yet" in said


def test_check_says_which_right_lacks_in_one_of_them(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=cluster("a", "ab", denied=("delete", "ab"))) as made:
        told = made.run("check", config=made.config(namespaces=["a*"]))
    said = " ".join(told.out.split())
    assert told.code == 1
    assert said.count("may not delete pods") == 1
    assert "namespaces a* namespaces that only it stands for now: 2, all good in 1" in said
    assert "What the healer needs in namespace ab" in said


def test_check_shows_the_cluster_role_where_namespaces_cant_be_listed(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=cluster(status=403)) as made:
        told = made.run("check", config=made.config(namespaces=["a*"]))
    assert told.code == 1
    assert "kind: ClusterRole\n" in told.out
    assert "kind: ClusterRoleBinding\n" in told.out
    assert "resources: [namespaces]\n    verbs: [get, list]" in told.out
    assert "verbs: [get, list, watch, delete]" in told.out


def test_check_shows_no_cluster_role_where_the_right_to_list_namespaces_is_not_what_lacks(
    tmp_path: Any, capsys: Any
) -> None:
    with world(tmp_path, capsys, cluster=cluster(status=500)) as made:
        told = made.run("check", config=made.config(namespaces=["a*"]))
    assert told.code == 1
    assert "The API server can't list the namespaces now (500)" in " ".join(told.out.split())
    assert "ClusterRole" not in told.out


def reviews(made: World) -> list[str]:
    """The namespaces of which was asked what the account may do with Pods."""
    bodies = [seen.body for seen in made.cluster.seen if seen.path.endswith("/selfsubjectaccessreviews")]
    wanted = [body["spec"]["resourceAttributes"] for body in bodies]
    return [each["namespace"] for each in wanted if each["resource"] == "pods"]


def test_check_asks_for_rights_once_where_they_hold_in_the_whole_cluster(tmp_path: Any, capsys: Any) -> None:
    """A cluster may have thousands of namespaces."""
    names = ["a", *(f"a{number}" for number in range(20))]
    with world(tmp_path, capsys, cluster=cluster(*names)) as made:
        told = made.run("check", config=made.config(namespaces=["a*"]))
    assert (told.code, reviews(made)) == (0, [""] * 4), told.out
    assert "namespaces that only it stands for now: 21, all good in 21" in " ".join(told.out.split())


def test_check_needs_no_right_to_delete_where_all_patterns_report(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=cluster("a", "ab", denied=("delete", "ab"))) as made:
        told = made.run("check", "--mode", "report", config=made.config(namespaces=["a*"]))
    assert (told.code, reviews(made)) == (0, [""] * 3), told.out
