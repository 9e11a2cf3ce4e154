"""Findings as users see them, and the EventRecorder: never in the way, never too fast, never the end of anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from healer.model import Action, Cause, CauseFinding, DeleteResult, DeleteStatus, Finding, Reason, Withheld, rfc3339
from healer.telemetry.events import BACKLOG, DETECTED, EVENTS_PER_SECOND, ROOM_FOR_LEFTOVERS, EventRecorder
from healer.telemetry.findings import FindingView, subject
from tests.unit.fakes import Clock, FakeCluster
from tests.unit.strategies import a_pod, a_task, ended

FINDING = Finding(Reason.ORPHANED, "the proof", ended("failed"))


def written(*tell: Callable[[EventRecorder], None]) -> list[tuple[str, str, str]]:
    """Return the Events that come of what a EventRecorder was told."""
    cluster = FakeCluster(Clock())
    recorder = EventRecorder(cluster, pause=lambda _: None)  # type: ignore[arg-type]
    for each in tell:
        each(recorder)
    recorder.start()
    recorder.stop(timeout=60.0)
    return cluster.events


# --- Shown ------------------------------------------------------------------------------------------------------------


def explained(view: FindingView) -> dict[str, str]:
    assert view.cause is not None
    return {"name": "not-cleaned-up", "detail": view.cause.detail, "remedy": view.cause.remedy}


def test_a_finding_reads_as_documented() -> None:
    view = FindingView(a_pod(map_index="3"), "default", FINDING, Action.DELETE, Withheld.NOT_DUE, 0.0, 60.0)
    assert view.to_dict() == {
        "namespace": "airflow",
        "pod": "load-1",
        "uid": "uid-1",
        "airflow": "default",
        "dag_id": "etl",
        "task": {
            "dag_id": "etl",
            "run_id": "scheduled__2026-01-01T00:00:00+00:00",
            "task_id": "load",
            "map_index": -1,
            "try_number": 1,
            "state": "failed",
        },
        "labels": {
            "dag_id": "etl",
            "task_id": "load",
            "run_id": "scheduled__2026-01-01T0000000000-b36726f5d",
            "map_index": "3",
            "try_number": "1",
        },
        "reason": "orphaned",
        "action": "delete",
        "withheld": "not-due",
        "detail": "the proof",
        "since": "1970-01-01T00:00:00Z",
        "due": "1970-01-01T00:01:00Z",
        "created": rfc3339(a_pod().created),
        "cause": explained(view),
        "notices": [],
        "holds": {"cpu_cores": 0.0, "memory_bytes": 0.0, "extended": {}, "since": "1970-01-01T02:51:40Z"},
    }


def test_what_is_not_known_is_null() -> None:
    shown = FindingView(a_pod(dag_id=None), "default", Finding(Reason.LABELS_MISSING, "x"), Action.KEEP).to_dict()
    assert [shown[key] for key in ("dag_id", "task", "withheld", "since", "due")] == [None] * 5
    assert "dag_id" not in shown["labels"]


def test_a_cleared_state_is_null() -> None:
    shown = FindingView(a_pod(), "default", Finding(Reason.ADOPTABLE, "x", a_task(None)), Action.KEEP).to_dict()
    assert shown["task"]["state"] is None


def test_a_time_is_told_in_whole_seconds_of_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_769_860_800.9) == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize("seconds", [None, 1e15, -1e15, float("nan")])
def test_a_time_beyond_any_calendar_is_no_time_and_no_error(seconds: float | None) -> None:
    assert rfc3339(seconds) is None


def test_a_mapped_task_is_named_with_its_index() -> None:
    assert subject(Finding(Reason.ORPHANED, "", ended(map_index=3))).startswith("task load [3] of DAG etl, run ")
    assert subject(Finding(Reason.RUN_DELETED, "")) == "its task instance"


# --- Events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_is_worth_it_is_detected(reason: Reason) -> None:
    events = written(lambda recorder: recorder.record_detected(a_pod(), Finding(reason, "proof"), Action.DELETE, None))
    assert [what for _, what, _ in events] == (["OrphanDetected"] if reason in DETECTED else [])


@pytest.mark.parametrize(
    ("reason", "result", "expected"),
    [
        (Reason.ORPHANED, DeleteStatus.DELETED, ["OrphanDeleted"]),
        (Reason.SUPERSEDED, DeleteStatus.DELETED, ["OrphanDeleted"]),
        (Reason.FINISHED, DeleteStatus.DELETED, ["LeftoverDeleted"]),
        (Reason.KEPT, DeleteStatus.DELETED, ["LeftoverDeleted"]),
        (Reason.ORPHANED, DeleteStatus.DENIED, ["DeletionFailed"]),
        (Reason.FINISHED, DeleteStatus.ERROR, ["DeletionFailed"]),
        (Reason.ORPHANED, DeleteStatus.CONFLICT, []),
        (Reason.ORPHANED, DeleteStatus.GONE, []),
        (Reason.ORPHANED, DeleteStatus.STALE, []),
    ],
)
def test_what_became_of_a_delete_is_told(reason: Reason, result: DeleteStatus, expected: list[str]) -> None:
    events = written(
        lambda recorder: recorder.record_deletion(
            a_pod(), Finding(reason, "proof"), DeleteResult(result, "The server.")
        )
    )
    assert [what for _, what, _ in events] == expected


def test_an_event_names_reason_task_instance_proof_and_what_holds_it_back() -> None:
    ((_, _, message),) = written(
        lambda recorder: recorder.record_detected(a_pod(), FINDING, Action.DELETE, Withheld.BREAKER)
    )
    for part in ("orphaned", "task load of DAG etl, run scheduled__", "the proof", "not deleted: breaker"):
        assert part in message
    ((_, _, message),) = written(
        lambda recorder: recorder.record_detected(a_pod(), FINDING, Action.DELETE, None, due=60.0)
    )
    assert "; due since 1970-01-01T00:01:00Z; policy: delete" in message
    assert "\n" not in message
    ((_, _, message),) = written(lambda recorder: recorder.record_detected(a_pod(), FINDING, Action.REPORT, None))
    assert message.endswith("policy: report")
    ((_, _, message),) = written(
        lambda recorder: recorder.record_deletion(a_pod(), FINDING, DeleteResult(DeleteStatus.DENIED, "No right."))
    )
    assert message.startswith("No right. orphaned: ")


def test_an_event_ends_with_why_the_pod_was_left_behind() -> None:
    cause = CauseFinding(Cause.WORKER_LOST, "it was running", "more memory")
    told = "; left behind: worker-lost: it was running"
    events = written(
        lambda recorder: recorder.record_detected(a_pod(), FINDING, Action.REPORT, None, cause),
        lambda recorder: recorder.record_deletion(a_pod(), FINDING, GONE, cause),
        lambda recorder: recorder.record_deletion(
            a_pod(), FINDING, DeleteResult(DeleteStatus.DENIED, "No right."), cause
        ),
    )
    assert [message.endswith(told) for _, _, message in events] == [True] * 3


class Jammed(FakeCluster):
    """Its first Event hangs until `free` is set."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.reached, self.free = threading.Event(), threading.Event()

    def post_event(self, *args: Any, **words: Any) -> None:
        self.reached.set()
        self.free.wait(60.0)
        super().post_event(*args, **words)


def test_telling_never_waits_and_what_waits_is_bounded() -> None:
    cluster = Jammed()
    recorder = EventRecorder(cluster, pause=lambda _: None)  # type: ignore[arg-type]
    recorder.start()
    recorder.record_detected(a_pod(), FINDING, Action.DELETE, None)
    assert cluster.reached.wait(60.0)
    with structlog.testing.capture_logs() as logs:
        for _ in range(BACKLOG + 50):
            recorder.record_detected(a_pod(), FINDING, Action.DELETE, None)
    assert len(logs) == 1, "a flood is told once"
    recorder.stop(timeout=0.0)  # it still hangs, and nobody waits for it
    cluster.free.set()
    recorder.stop(timeout=60.0)
    assert len(cluster.events) == BACKLOG + 1
    assert not recorder._thread.is_alive()


GONE = DeleteResult(DeleteStatus.DELETED, "")


def test_events_of_orphans_come_before_those_of_leftovers_each_in_order() -> None:
    cluster = FakeCluster(Clock())
    recorder = EventRecorder(cluster, pause=lambda _: None)  # type: ignore[arg-type]
    for number in range(3):
        recorder.record_deletion(a_pod(uid=f"leftover-{number}"), Finding(Reason.FINISHED, ""), GONE)
    for number in range(3):
        recorder.record_detected(a_pod(uid=f"orphan-{number}"), FINDING, Action.DELETE, None)
    recorder.record_deletion(a_pod(uid="orphan-3"), FINDING, GONE)
    recorder.start()
    recorder.stop(timeout=60.0)
    expected = [*(f"orphan-{number}" for number in range(4)), *(f"leftover-{number}" for number in range(3))]
    assert [uid for uid, _, _ in cluster.events] == expected


def test_leftovers_do_not_crowd_out_orphans() -> None:
    cluster = FakeCluster(Clock())
    recorder = EventRecorder(cluster, pause=lambda _: None)  # type: ignore[arg-type]
    for _ in range(BACKLOG):
        recorder.record_deletion(a_pod(uid="leftover"), Finding(Reason.KEPT, ""), GONE)
    for _ in range(ROOM_FOR_LEFTOVERS):
        recorder.record_detected(a_pod(uid="orphan"), FINDING, Action.DELETE, None)
    recorder.start()
    recorder.stop(timeout=60.0)
    assert [uid for uid, _, _ in cluster.events].count("orphan") == ROOM_FOR_LEFTOVERS
    assert len(cluster.events) == BACKLOG


def test_between_two_events_there_is_a_pause_also_at_the_end() -> None:
    cluster, pauses = FakeCluster(Clock()), []
    recorder = EventRecorder(cluster, pause=pauses.append)  # type: ignore[arg-type]
    for _ in range(7):
        recorder.record_detected(a_pod(), FINDING, Action.DELETE, None)
    recorder.start()
    recorder.stop(timeout=60.0)
    assert pauses == [1 / EVENTS_PER_SECOND] * 7


def test_an_event_that_can_not_be_written_does_not_end_the_others() -> None:
    class Broken(FakeCluster):
        def post_event(self, pod: Any, *args: Any, **words: Any) -> None:
            if pod.uid == "bad":
                raise RuntimeError("a bug")
            super().post_event(pod, *args, **words)

    cluster = Broken(Clock())
    recorder = EventRecorder(cluster, pause=lambda _: None)  # type: ignore[arg-type]
    for uid in ("bad", "good"):
        recorder.record_detected(a_pod(uid=uid), FINDING, Action.DELETE, None)
    recorder.start()
    recorder.stop(timeout=60.0)
    assert [uid for uid, _, _ in cluster.events] == ["good"]


def test_a_herald_that_waits_for_news_stops_at_once_and_one_that_never_ran_too() -> None:
    idle = EventRecorder(FakeCluster(Clock()))  # type: ignore[arg-type]
    idle.stop(timeout=60.0)
    idle.start()
    idle.stop(timeout=60.0)
    assert not idle._thread.is_alive()


def test_every_reason_that_acts_on_an_active_pod_is_detected() -> None:
    acting = {reason for reason in Reason if reason.action is not Action.KEEP}
    assert acting - {Reason.FINISHED, Reason.KEPT, Reason.PURGED} == DETECTED
