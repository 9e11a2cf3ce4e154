"""Why a Pod was left behind: each cause, what must not be taken for one, and that it decides nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from msgspec.structs import replace

from healer.decision.rules import RuleOptions, judge
from healer.insights.causes import explain
from healer.model import ACTING, Answer, Cause, Finding, Known, Pod, Reason, TaskInstance
from tests.unit.fakes import ORPHANED, PROMPT, RUNNING, World
from tests.unit.strategies import (
    BASE_ENDED,
    END,
    NO_SOURCE,
    SIDECAR,
    a_done_pod,
    a_pod,
    a_task,
    ended,
    judged,
)

ORPHAN, DONE = Reason.ORPHANED, Reason.FINISHED
FAILED, SUCCESS = ended("failed"), ended("success")
LATE_END = replace(BASE_ENDED, finished_at=END + 600)
DEFERRED, RUNNING_TASK = a_task("deferred"), a_task("running")
CHECKED_SUCCESS = a_done_pod(checked=True)
CHECKED_FAILURE = a_pod(phase="Failed", checked=True, containers=(replace(BASE_ENDED, exit_code=1),))

CASES: list[tuple[Cause, Reason, Pod, TaskInstance | None, TaskInstance | None, str]] = [
    (Cause.RUN_DELETED, Reason.RUN_DELETED, a_pod(), None, None, "its run is gone"),
    (Cause.PURGED, Reason.PURGED, a_done_pod(), None, None, "no record of its run any more"),
    (Cause.TASK_REMOVED, Reason.TASK_REMOVED, a_pod(), a_task("removed"), None, "removed"),
    (Cause.TIMEOUT_KEPT, Reason.ABANDONED, a_pod(checked=True), FAILED, None, "still works"),
    (Cause.TIMEOUT_KEPT, Reason.ABANDONED, a_pod(checked=True, phase="Pending"), FAILED, None, "never started"),
    (Cause.KEPT_BY_POLICY, Reason.KEPT, CHECKED_SUCCESS, SUCCESS, None, "only on_finish_action keep_pod and"),
    (Cause.KEPT_BY_POLICY, Reason.KEPT, CHECKED_FAILURE, FAILED, None, "any on_finish_action but delete_pod"),
    (Cause.SIDECAR, DONE, a_pod(containers=(BASE_ENDED, SIDECAR)), SUCCESS, None, "and sidecar runs on"),
    (Cause.NOT_REATTACHED, Reason.SUPERSEDED, a_pod(), a_task("running", 2), None, "reattach_on_restart"),
    (Cause.NOT_REATTACHED, ORPHAN, a_pod(), ended("failed", 2), None, "a later try"),
    (Cause.CLEARED, ORPHAN, a_pod(), ended("upstream_failed"), None, "cleared"),
    (Cause.CREATED_LATE, ORPHAN, a_pod(created=END + 60), FAILED, None, "after its task instance had ended"),
    (Cause.MARKED_WHILE_DEFERRED, ORPHAN, a_pod(airflow_version="3.1.8"), FAILED, DEFERRED, "10.14"),
    (Cause.MARKED_WHILE_DEFERRED, ORPHAN, a_pod(), SUCCESS, DEFERRED, "is success now"),
    (Cause.RUN_CUT_SHORT, ORPHAN, a_pod(), ended("skipped", end_date=None), RUNNING_TASK, "dagrun_timeout"),
    (Cause.MARKED_SUCCESS, ORPHAN, a_pod(airflow_version="3.1.8"), SUCCESS, None, "somebody has marked it"),
    (Cause.MARKED_SUCCESS, ORPHAN, a_pod(airflow_version="3.3.2"), SUCCESS, RUNNING_TASK, "#73006"),
    (Cause.WORKER_LOST, ORPHAN, a_pod(airflow_version="3.1.8"), FAILED, RUNNING_TASK, "running when last seen"),
    (Cause.NOT_CLEANED_UP, ORPHAN, a_pod(), FAILED, None, "neither deleted nor marked"),
    (Cause.NOT_CLEANED_UP, ORPHAN, a_pod(), FAILED, a_task("deferred", 2), "neither deleted nor marked"),
    (Cause.NOT_CLEANED_UP, ORPHAN, a_pod(), ended("skipped"), None, "neither deleted nor marked"),
    (Cause.NOT_CLEANED_UP, DONE, a_done_pod(), SUCCESS, None, "its work was over when its task ended"),
    (Cause.WORKER_LOST, DONE, a_done_pod(containers=(LATE_END,)), FAILED, RUNNING_TASK, "running when last seen"),
    (Cause.MARKED_SUCCESS, DONE, a_done_pod(containers=(LATE_END,)), SUCCESS, None, "marked"),
]


@pytest.mark.parametrize(("cause", "reason", "pod", "task", "before", "says"), CASES)
def test_cause(
    cause: Cause, reason: Reason, pod: Pod, task: TaskInstance | None, before: TaskInstance | None, says: str
) -> None:
    explained = explain(pod, Finding(reason, "", task), before)
    assert explained is not None
    assert explained.cause is cause
    assert says in explained.detail
    assert explained.remedy


def test_every_cause_is_made() -> None:
    assert {case[0] for case in CASES} == set(Cause)


@pytest.mark.parametrize(
    ("version", "wanted"), [("3.1.8", "10.15"), ("3.3.2", "10.17"), ("4.0.0", "10.17"), (None, "3.3"), ("x", "3.3")]
)
def test_the_remedy_goes_by_the_version_that_made_the_pod(version: str | None, wanted: str) -> None:
    explained = explain(a_pod(airflow_version=version), Finding(ORPHAN, "", FAILED), DEFERRED)
    assert explained is not None
    assert wanted in explained.remedy


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in ACTING])
def test_what_is_kept_was_not_left_behind(reason: Reason) -> None:
    assert explain(a_pod(), Finding(reason, "", a_task()), RUNNING_TASK) is None


def test_whatever_is_found_can_be_explained_or_not() -> None:
    @given(judged())
    def explained(case: tuple[Pod, Answer, RuleOptions]) -> None:
        pod = case[0]
        finding = judge(*case)
        known = explain(pod, finding)
        assert (known is not None) == (finding.reason in ACTING)

    explained()


def test_a_healer_that_has_seen_the_state_before_says_more() -> None:
    world = World(policy={**PROMPT, "grace": "1h"})
    world.pod("deferred", Known(0.0, a_task("deferred")))
    world.pod("running", RUNNING)
    world.pod("unseen", ORPHANED)
    world.audit()
    for uid in ("deferred", "running"):
        world.airflow.answers[uid] = Known(0.0, ended("failed", end_date=None), NO_SOURCE)
    for _ in range(3):
        world.audit()
    told = {uid: world.shown(uid).to_dict()["cause"]["name"] for uid in ("deferred", "running", "unseen")}
    assert told == {"deferred": "marked-while-deferred", "running": "worker-lost", "unseen": "not-cleaned-up"}
    world.airflow.down = True
    world.audit()
    world.airflow.down = False
    world.run()
    assert world.shown("deferred").to_dict()["cause"]["name"] == "marked-while-deferred"


def test_what_has_no_cause_says_so() -> None:
    world = World()
    world.pod("alive", RUNNING)
    world.audit()
    assert world.shown("alive").to_dict()["cause"] is None
