"""The one-shot commands beside a real cluster and a real Airflow: what they do, and how they end."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.world import EAGER, World
from tests.lab import healer as lab
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run
from tests.lab.healer import ACCOUNT, Installation, Running
from tests.lab.kube import ANNOTATION
from tests.lab.processes import wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def occupied(world: World) -> World:
    """A running task's Pod, an orphan, and two leftovers: one that succeeded and one that failed."""
    names = {"alive": "running", "dead": "failed", "over": "success", "broken": "failed"}
    world.seed(*(world.task(name, state) for name, state in names.items()))
    for task in ("alive", "dead"):
        world.pod(task, name=task)
    world.ended("over", name="over")
    marks = {f"{ANNOTATION}run-for": "0s", f"{ANNOTATION}exit-code": "1"}
    world.pod("broken", name="broken", phase="Failed", annotations=marks)
    return world


def enforcing(installation: Installation) -> Installation:
    installation.config["mode"] = "enforce"
    return installation


def reasons(findings: list[Any]) -> dict[str, str]:
    return {finding["pod"]: finding["reason"] for finding in findings}


# --- run --once ---


def test_once_heals_and_lists_what_is_due_later(occupied: World) -> None:
    retention = {"succeeded": "0s", "failed": "1h", "kept": "1h"}
    installation = enforcing(occupied.installation(policy=EAGER | {"retention": retention}))
    told = installation.ask("run", "--once", "-o", "json", expect=(0,)).data()
    assert reasons(told["deleted"]) == {"dead": "orphaned", "over": "finished"}
    assert reasons(told["left"]) == {"broken": "finished"}
    (left,) = told["left"]
    assert (left["action"], left["withheld"]) == ("delete", "not-due")
    assert left["due"] > left["since"]
    occupied.wait_names({"alive", "broken"})
    assert {event.name for event in occupied.deletes(200)} == {"dead", "over"}
    assert set(occupied.events("OrphanDeleted")) | set(occupied.events("LeftoverDeleted")) == {"dead", "over"}


def test_once_in_report_mode_deletes_nothing(occupied: World) -> None:
    told = occupied.installation().ask("run", "--once", "-o", "json", expect=(0,)).data()
    assert told["deleted"] == []
    left = {finding["pod"]: finding["withheld"] for finding in told["left"]}
    assert left == dict.fromkeys(("dead", "over", "broken"), "report-mode")
    assert occupied.deletes() == []


def test_once_is_incomplete_where_a_namespace_may_not_be_read(occupied: World, namespace: str) -> None:
    installation = enforcing(occupied.installation())
    installation.config["airflows"][0]["namespaces"].append(namespace)
    told = installation.ask("run", "--once", expect=(3,))
    assert told.err.splitlines()[-1].startswith(f"incomplete: namespace {namespace}: ")
    occupied.wait_names({"alive"})


# --- scan, explain ---


def test_scan_ends_with_what_it_found(occupied: World) -> None:
    installation = occupied.installation()
    found = installation.ask("scan", "-o", "json", expect=(1,)).data()
    assert reasons(found) == {"dead": "orphaned", "over": "finished", "broken": "finished"}
    for name in ("dead", "over", "broken"):
        occupied.cluster.delete_pod(occupied.namespace, name, grace=0)
    occupied.wait_names({"alive"})
    assert "Nothing found among 1 Pods" in installation.ask("scan", expect=(0,)).out
    assert occupied.deletes() == []


def test_scan_is_incomplete_where_airflow_is_silent(occupied: World) -> None:
    installation = occupied.installation()
    installation.config["airflows"][0]["url"] = "http://127.0.0.1:9"
    told = installation.ask("scan", "--all", "-o", "json", expect=(3,))
    assert set(reasons(told.data()).values()) == {"airflow-unknown"}
    assert "incomplete: Airflow demo: " in told.err


def test_a_refused_login_says_so(occupied: World) -> None:
    installation = enforcing(occupied.installation())
    (occupied.folder / "wrong").write_text("not the password\n")
    installation.config["airflows"][0]["passwordFile"] = str(occupied.folder / "wrong")
    for command in (["scan"], ["run", "--once"], ["explain", f"{occupied.namespace}/dead"]):
        told = installation.ask(*command, expect=(2,))
        (line,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
        assert "viewer" in line
    assert installation.ask("check", expect=(1,)).code == 1
    assert occupied.deletes() == []


def test_explain(occupied: World) -> None:
    installation = occupied.installation()
    told = installation.ask("explain", f"{occupied.namespace}/dead", expect=(0,)).out
    assert "orphaned" in told
    assert "It would be deleted as orphaned, but this is report mode" in told
    told = installation.ask("explain", f"{occupied.namespace}/nobody", expect=(2,)).err
    assert told.startswith(f"error: there is no Pod {occupied.namespace}/nobody")


# --- whose Pods ---


def test_stamped_pods_are_judged_by_their_own_airflow_alone(world: World, airflow_of: Callable[[str], Airflow]) -> None:
    """Both Airflows know a task instance of these very ids; for one of them it runs, for the other it has failed."""
    other = airflow_of("3.2.2")
    world.seed(world.task("t", "failed"))
    other.seed([Dag(world.dag, runs=[Run("r", tasks=[world.task("t", "running")])])])
    for name, stamp in {"ours": "demo", "theirs": "other", "nobodys": None, "strangers": "third"}.items():
        world.pod("t", name=name, labels={"kpo-healer.io/airflow": stamp})
    installation = enforcing(world.installation())
    (ours,) = installation.config["airflows"]
    ours["ownership"] = "stamped"
    installation.config["airflows"].append(copy.deepcopy(ours) | {"name": "other", "url": other.url})
    found = {f["pod"]: (f["airflow"], f["reason"]) for f in installation.ask("scan", "--all", "-o", "json").data()}
    assert found == {"ours": ("demo", "orphaned"), "theirs": ("other", "in-use")}
    with installation.run(mode="enforce") as healer:
        world.wait_names({"theirs", "nobodys", "strangers"})
        healer.wait_passes(4)
        assert healer.stop() == 0
    told = installation.ask("explain", f"{world.namespace}/nobodys", expect=(2,)).err
    assert "is stamped for none of demo, other: it is left alone" in told


# --- rights ---


@pytest.fixture
def deployed(occupied: World) -> Installation:
    """kpo-healer with exactly the account and rights of the deployment's manifest."""
    cluster, namespace = occupied.cluster, occupied.namespace
    installation = enforcing(occupied.installation())
    for document in manifest(namespace):  # in place of the lab's own Role and RoleBinding, which have the same names
        cluster.apply(document)
    token = cluster.request(
        "POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{ACCOUNT}/token", {"spec": {"expirationSeconds": 3600}}
    )["status"]["token"]
    installation.kubeconfig = cluster.write_kubeconfig(f"deployed-{namespace}", {"token": token})
    return installation


def manifest(namespace: str) -> list[Any]:
    """The account and rights of the manifest, all in another namespace than those it is written for."""
    documents = yaml.safe_load_all((DEPLOY / "manifests/enforce.yaml").read_text())
    kept = [one for one in documents if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    for document in kept:
        document["metadata"]["namespace"] = namespace
        for subject in document.get("subjects", ()):
            subject["namespace"] = namespace
    return kept


def check(installation: Installation) -> dict[str, int]:
    lines = json.loads(installation.ask("check", "-o", "json").out)
    return {status: sum(line["status"] == status for line in lines) for status in ("ok", "fail")}


def test_the_manifest_has_all_rights_that_are_needed(occupied: World, deployed: Installation) -> None:
    wait_for(lambda: check(deployed)["fail"] == 0, timeout=60, what="a check that finds nothing missing")
    with deployed.run(mode="enforce") as healer:
        occupied.wait_names({"alive"})
        assert healer.stop() == 0
    user = f"system:serviceaccount:{occupied.namespace}:{ACCOUNT}"
    refused = [event for event in occupied.cluster.audit(occupied.mark, user=user) if event.code == 403]
    assert refused == []
    assert set(occupied.events("LeftoverDeleted")) == {"over", "broken"}


def test_without_the_right_to_delete(occupied: World) -> None:
    """Report mode lacks nothing; enforce mode counts what it is denied, says so and goes on."""
    pods, *others = copy.deepcopy(list(lab.RIGHTS))
    pods["verbs"].remove("delete")
    installation = occupied.installation()
    occupied.cluster.service_account(ACCOUNT, ACCOUNT, [pods, *others], namespaces=[occupied.namespace])
    with installation.run(mode="report") as healer:
        wait_for(lambda: healer.metric("withheld", why="report-mode") == 3, timeout=60, what="three Pods withheld")
        assert not [line for line in healer.lines() if "may not delete" in str(line)]
        assert healer.stop() == 0
    assert check(installation)["fail"] == 0
    with installation.run(mode="enforce") as healer:
        wait_for(lambda: denied(healer) >= 3, timeout=60, what="three denied deletions")
        healer.wait_passes(6)
        assert healer.metric("pods", reason="orphaned") == 1
        assert healer.metric("deletions_total", result="deleted") == 0
        wait_for(lambda: len(occupied.events("DeletionFailed")) == 3, timeout=60, what="an Event for each")
        # A right that is given later is found.
        occupied.cluster.service_account(ACCOUNT, ACCOUNT, lab.RIGHTS, namespaces=[occupied.namespace])
        occupied.wait_names({"alive"})
        assert healer.stop() == 0


def denied(healer: Running) -> float:
    return healer.metric("deletions_total", result="denied")
