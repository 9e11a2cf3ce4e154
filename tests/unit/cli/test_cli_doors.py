"""What `scan`, `check` and `run --once` say of namespaces that are empty or missing, and of Pods that are no Pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from healer.cluster import Listing, decode_pod, what_is_told
from healer.cluster.pods import decode_page
from healer.informer.store import PodStore
from tests.unit.cli_world import Answer, Script, Seen, answer, kubernetes, missing, world
from tests.unit.cluster_server import page, raw_pod

pytestmark = pytest.mark.usefixtures("own_logging")


def where(exists: bool | None, *, pods: bool = False) -> Script:
    """An API server whose namespace `b` has no Pod of ours, nor any other unless `pods`."""

    def script(seen: Seen) -> Answer:
        path, _, query = seen.path.partition("?")
        if path.endswith("/namespaces/b"):
            if exists is None:
                return answer(403, {"kind": "Status", "message": "namespaces is forbidden"})
            return answer(200, {"kind": "Namespace"}) if exists else missing("not found")
        if path.endswith("/namespaces/b/pods"):
            return answer(200, page(raw_pod()) if pods and "labelSelector" not in query else page())
        return kubernetes(seen)

    return script


@pytest.mark.parametrize(
    ("exists", "words"),
    [
        (False, "there is no such namespace"),
        (True, "it exists and holds no Pod at all"),
        (None, "we may not read whether it exists"),
    ],
)
@pytest.mark.parametrize("namespaces", [["b"], ["a", "b"]])
def test_a_namespace_without_any_pod_is_no_nothing_found(
    exists: bool | None, words: str, namespaces: list[str], tmp_path: Path, capsys: Any
) -> None:
    with world(tmp_path, capsys, cluster=where(exists)) as made:
        config = made.config(namespaces=namespaces)
        found = made.run("scan", config=config)
        assert found.code == 3
        assert [line for line in found.err.splitlines() if words in line and "namespace b: " in line]
        assert "Nothing found" not in found.out
        checked = made.run("check", config=config)
        assert checked.code == 1
        assert [line for line in checked.out.splitlines() if line.startswith("fail") and words in line]


def test_a_namespace_with_other_pods_is_in_order(tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=where(True, pods=True)) as made:
        config = made.config(namespaces=["b"])
        assert made.run("scan", config=config).code == 0
        assert made.run("check", config=config).code == 0


def test_run_once_minds_a_missing_namespace_and_no_idle_one(tmp_path: Path, capsys: Any) -> None:
    for exists, code in ((False, 3), (True, 0), (None, 0)):
        with world(tmp_path, capsys, cluster=where(exists)) as made:
            assert made.run("run", "--once", config=made.config(namespaces=["b"])).code == code


# --- Pods that can't be decoded -----------------------------------------------------------------------------------


def odd(how: str, name: str = "odd") -> dict[str, Any]:
    """A Pod that is none in one of the ways there are."""
    raw = json.loads(json.dumps(raw_pod(name=name)))
    raw["metadata"]["uid"] = f"uid-{name}"
    if how == "status":
        raw["status"] = "Running"
    elif how == "labels":
        raw["metadata"]["labels"]["try_number"] = 1
    elif how == "uid":
        del raw["metadata"]["uid"]
    elif how == "metadata":
        raw["metadata"] = None
    return dict(raw)


HOWS = ["status", "labels", "uid", "metadata"]


@pytest.mark.parametrize("how", HOWS)
def test_an_odd_pod_of_a_page_is_named_and_spoils_no_other(how: str) -> None:
    decoded = decode_page(json.dumps(page(raw_pod(name="good"), odd(how))).encode())
    assert [pod.name for pod in decoded.pods] == ["good"]
    (skipped,) = decoded.skipped
    assert str(skipped) == ("?/?" if how == "metadata" else "a/odd")


@pytest.mark.parametrize("how", HOWS)
def test_check_and_scan_name_it(how: str, tmp_path: Path, capsys: Any) -> None:
    def cluster(seen: Seen) -> Answer:
        if seen.path.partition("?")[0].endswith("/namespaces/a/pods"):
            return answer(200, page(raw_pod(), odd(how)))
        return kubernetes(seen)

    named = "a/?" if how == "metadata" else "a/odd"
    with world(tmp_path, capsys, cluster=cluster) as made:
        told = f"1 Pods can't be decoded, so that nothing is decided about them: {named}"
        found = made.run("scan")
        assert found.code == 1, "the others are looked at as ever"
        assert told in found.out
        as_json = made.run("scan", "-o", "json")
        assert [finding["pod"] for finding in json.loads(as_json.out)] == ["p"]
        assert told in as_json.err
        checked = made.run("check")
        assert checked.code == 0
        assert [line for line in checked.out.splitlines() if line.startswith("warn") and told in line]
        healed = made.run("run", "--once", "-o", "json")
        assert json.loads(healed.out)["undecodable"] == [named]


def test_the_store_forgets_what_it_knew_of_it_and_tells_it_once() -> None:
    store = PodStore()
    good = decode_pod(odd("none") | {})
    assert good is not None
    store.upsert(good)
    spoiled = what_is_told(odd("status"))
    with structlog.testing.capture_logs() as lines:
        for version in ("2", "3"):
            store.spoil(spoiled, version)
        store.replace("a", Listing([], "4", (spoiled,)), store.generation())
    assert store.list_pods() == []
    assert [str(each) for each in store.undecodable("a")] == ["a/odd"]
    assert [(line["pod"], line["uid"]) for line in lines] == [("a/odd", "uid-odd")]
    store.delete(spoiled.key, "a", "5")
    assert store.undecodable("a") == []


def test_a_pod_that_can_be_decoded_again_is_known_again() -> None:
    store = PodStore()
    store.spoil(what_is_told(odd("status")), "2")
    raw = odd("none")
    raw["metadata"]["resourceVersion"] = "3"
    good = decode_pod(raw)
    assert good is not None
    store.upsert(good)
    assert store.undecodable("a") == []
    assert store.list_pods() == [good]
