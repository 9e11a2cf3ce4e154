"""The verdict has teeth: each way in which a deletion could be wrong is told from the right ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.chaos import verdict
from tests.chaos.audit_tail import Deletion
from tests.chaos.recorder import RUN, Key, Picture, Record

KEY = Key("d", "r", "work")
NOW = 1000.0


class Past:
    """A history that is told line by line; times are seconds."""

    def __init__(self) -> None:
        self.picture = Picture()

    def task(self, at: float, state: str | None, tried: int = 1, *, kind: str = "ti") -> Past:
        self._add(Record(len(self.picture.records) + 1, at, at, kind, KEY, "id", state, tried))
        return self

    def named(self, at: float, pod: str) -> Past:
        self._add(Record(len(self.picture.records) + 1, at, at, "named", KEY, value=pod))
        return self

    def _add(self, record: Record) -> None:
        self.picture.add([record])

    def pod(self, at: float, name: str = "p1", tried: int = 1, *, gone: bool = False, **look: object) -> Past:
        labels = {"dag_id": KEY.dag, "task_id": KEY.task, "run_id": "r", "try_number": str(tried)}
        if look.get("checked"):
            labels["already_checked"] = "True"
        state = {"terminated": {"exitCode": 0}} if look.get("done") else {"running": {}}
        body = {
            "metadata": {
                "uid": f"uid-{name}",
                "name": name,
                "labels": labels,
                "annotations": {RUN: KEY.run},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"containers": [{"name": "base"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "base", "state": state}]},
        }
        self.picture.see(body, at, gone=gone)
        return self

    def judged(self, at: float = NOW, name: str = "p1") -> tuple[str, str]:
        ruling = verdict.rule(self.picture, Deletion(at, "healer", "user", name, 200, f"uid-{name}", "7"))
        return ruling.verdict, ruling.kind


def ended(at: float = NOW - 60, state: str = "failed") -> Past:
    return Past().task(0, "running").pod(1).named(2, "p1").task(at, state)


def second_try(at: float = NOW - 60) -> Past:
    return Past().task(0, "running").pod(1).named(2, "p1").task(3, "up_for_retry").task(at, "running", 2)


RIGHT = {
    "orphan": ended(),
    "finished": ended().pod(NOW - 50, done=True),
    "kept": ended(NOW - 1).pod(NOW - 2, done=True, checked=True),
    "abandoned": ended().pod(NOW - 61, checked=True),
    "run deleted": ended().task(NOW - 30, None, kind="ti-gone"),
    "superseded": second_try().pod(NOW - 50, "p2", 2).named(NOW - 49, "p2"),
}
WRONG = {
    "in use": Past().task(0, "running").pod(1).named(2, "p1"),
    "in use while deferred": Past().task(0, "running").pod(1).task(3, "deferred"),
    "in use while handed over": Past().task(0, "running").pod(1).task(3, "deferred").task(4, "queued"),
    "in use between tries": Past().task(0, "running").pod(1).task(3, "up_for_retry"),
    "in use while done": Past().task(0, "deferred").pod(1).pod(2, done=True),
    "in use while checked by its own try": Past().task(0, "running").pod(1).pod(2, done=True, checked=True),
    "in use after a clear": ended(NOW - 300).task(NOW - 60, None),
    "impatient": ended(NOW - 1),
    "not settled": second_try().pod(NOW - 50, "p2", 2),
    "not settled: the other one is gone": second_try()
    .pod(NOW - 50, "p2", 2)
    .named(NOW - 49, "p2")
    .pod(NOW - 40, "p2", 2, gone=True),
    "adopted": second_try().named(NOW - 49, "p1"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_right(kind: str) -> None:
    assert RIGHT[kind].judged() == ("right", kind)


@pytest.mark.parametrize("what", WRONG)
def test_wrong(what: str) -> None:
    found, kind = WRONG[what].judged()
    assert found == "wrong"
    assert what.startswith(kind)


def test_a_pod_that_airflow_took_back_just_before_is_told_apart() -> None:
    assert ended(NOW - 60).task(NOW - 0.1, None).judged() == ("raced", "in use")


def test_a_pod_that_was_never_free_is_not_raced() -> None:
    """Cleared within the window, but it had not been ended for the grace before that."""
    assert ended(NOW - 2).task(NOW - 1, None).judged()[0] == "wrong"


def test_a_delete_without_preconditions_is_wrong() -> None:
    blind = Deletion(NOW, "healer", "user", "p1", 200, None, None)
    assert verdict.rule(ended().picture, blind).verdict == "wrong"


def _twice(**first: object) -> Past:
    """Of two tries that are over, and the first try's Pod is still there."""
    past = second_try(NOW - 60).pod(NOW - 50, "p2", 2).named(NOW - 49, "p2").task(NOW - 40, "failed", 2)
    return past.pod(NOW - 39, **first).pod(NOW - 38, "p2", 2, gone=True)


def test_what_works_at_an_earlier_try_while_airflow_names_another_one_is_only_reported() -> None:
    past = _twice(checked=True)
    assert verdict.unexplained(past.picture) == []
    assert "nothing proves whose it is" in str(verdict.why_left(past.picture, past.picture.pods["uid-p1"]))


@pytest.mark.parametrize("past", [_twice(done=True), _twice().named(NOW - 30, "p1")], ids=["done", "Airflow names it"])
def test_what_is_done_or_named_at_an_earlier_try_is_missed(past: Past) -> None:
    assert verdict.unexplained(past.picture) == [past.picture.pods["uid-p1"]]


def test_an_orphan_that_is_left_is_missed() -> None:
    past = ended()
    assert verdict.unexplained(past.picture) == [past.picture.pods["uid-p1"]]


@pytest.mark.parametrize("state", [None, "running", "deferred", "up_for_retry", "queued"])
def test_a_pod_that_may_be_used_is_not_missed(state: str | None) -> None:
    assert verdict.unexplained(Past().task(0, "running").pod(1).task(2, state).picture) == []


LINES = {
    "Airflow 3": json.dumps(
        {"timestamp": "1970-01-01T00:20:00Z", "event": "Reusing existing pod 'p1' (phase=Running)"}
    ),
    "Airflow 2": "[1970-01-01T00:20:00.000+0000] {pod.py:602} INFO - Reusing existing pod 'p1' (phase=Running)",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_use_after_the_deletion_is_found_in_the_logs(tmp_path: Path, line: str) -> None:
    past = ended()
    folder = tmp_path / "dag_id=d" / "run_id=r" / "task_id=work"
    folder.mkdir(parents=True)
    (folder / "attempt=2.log").write_text(f"Some other line\n{line}\n")
    pod = past.picture.pods["uid-p1"]
    assert len(list(verdict.used_after(pod, NOW, tmp_path))) == 1
    assert list(verdict.used_after(pod, 1300.0, tmp_path)) == []


def test_it_counts_adoptions_hand_overs_and_clears() -> None:
    past = Past().task(0, "running").pod(1).named(2, "p1").task(3, "deferred").task(4, "scheduled").task(5, "queued")
    past.task(6, "running").task(7, "up_for_retry").task(8, "running", 2).named(9, "p1").task(10, "success", 2)
    past.task(11, None, 2)
    assert verdict.adoptions(past.picture) == [(KEY, 2, "p1")]
    assert verdict.hand_overs(past.picture) == 1
    assert verdict.cleared_after_end(past.picture) == 1


def test_a_story_tells_all() -> None:
    past = ended()
    text = verdict.story(past.picture, past.picture.pods["uid-p1"], [], [(5.0, "SIGKILL")])
    assert "failed, try 1" in text
    assert "director: SIGKILL" in text
    assert dataclasses.asdict(past.picture.pods["uid-p1"])["name"] == "p1"
