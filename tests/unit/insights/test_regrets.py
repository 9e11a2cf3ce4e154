"""Regret: each way in which a would-be victim is used again is counted, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from healer.insights.regrets import MAX_CHECKS, MAX_DELETED, RegretTracker
from healer.model import Absent, Answer, DeleteResult, DeleteStatus, Known, NamedPods, Pod, RunDeleted
from tests.unit.fakes import EPOCH, ORPHANED, PROMPT, World
from tests.unit.strategies import (
    BASE_ENDED,
    DAG_ID,
    NO_SOURCE,
    RUN_ID,
    a_pod,
    a_sibling,
    a_task,
    ended,
    naming,
)

AT_ONCE = {**PROMPT, "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"}}
RUN_GONE = RunDeleted(0.0, DAG_ID, RUN_ID)
SUCCEEDED = Known(0.0, ended("success", end_date=None), NamedPods())
DONE = {"phase": "Succeeded", "containers": (BASE_ENDED,)}

LATER = 2_000_000.0
"""A start of a later try: after everything that the builders date, and after the clocks of these worlds."""


def cleared(try_number: int = 1, state: str | None = None) -> Known:
    """The task instance after a clear: a new id, and still the start of the try before."""
    return Known(0.0, a_task(state, try_number, id="id-2"))


def again(state: str = "running", try_number: int = 2, identity: NamedPods | None = None, **changes: Any) -> Known:
    """A later try that has begun."""
    return Known(0.0, a_task(state, try_number, **{"id": "id-2", "start_date": LATER, **changes}), identity)


def watching(answer: Answer = ORPHANED, *, actions: dict[str, str] | None = None, **pod: Any) -> World:
    """A world in report mode in which the Pod `a` would have been deleted."""
    world = World(mode="report", policy={**AT_ONCE, "actions": actions or {}})
    world.pod("a", answer, **pod)
    world.audit()
    return world


def names(world: World, name: str = "pod-a") -> NamedPods:
    """The latest try names this Pod."""
    return NamedPods(frozenset({("airflow", name)}))


def use(world: World, answer: Known) -> None:
    """Airflow names the Pod for what it says now."""
    world.airflow.answers["a"] = answer
    world.airflow.named["a"] = names(world)


def regrets(world: World, reason: str = "orphaned") -> float:
    return world.metric("regrets_total", reason=reason)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


def stories(told: list[Any]) -> list[Any]:
    return [line for line in told if line["event"].startswith("regret")]


# --- the ways of use --------------------------------------------------------------------------------------------------


def test_one_that_a_later_try_adopts_is_regretted_once(told: list[Any]) -> None:
    world = watching()
    world.wait(600)
    world.airflow.answers["a"] = cleared()
    world.audit()
    use(world, again(identity=names(world)))
    world.audit()
    assert regrets(world) == 0, "what shows a sign is asked about once more"
    world.run()
    assert regrets(world) == 1
    world.audit()
    world.airflow.answers["a"] = again("success")
    world.audit()
    world.run()
    assert regrets(world) == 1
    (line,) = stories(told)
    assert line["log_level"] == "warning"
    assert (line["pod"], line["uid"], line["reason"], line["way"]) == ("airflow/pod-a", "a", "orphaned", "adopted")
    assert line["task"] == f"task load of DAG etl, run {RUN_ID}"
    assert line["would_be_deleted"] == "1970-01-12T15:10:00Z", f"{EPOCH} and what our clock begins with"
    assert "try 2 took it over" in line["how"]
    assert "ended" in line["detail"] or "task instance is failed" in line["detail"]


def test_one_whose_task_instance_runs_again_at_the_same_try_is_regretted(told: list[Any]) -> None:
    """The database was restored, or the answers came from a replica that lags."""
    world = watching()
    world.airflow.answers["a"] = Known(0.0, a_task("deferred"))
    world.audit()
    world.run()
    assert regrets(world) == 1
    assert stories(told)[0]["way"] == "same-try"


def test_one_whose_run_is_made_anew_is_regretted(told: list[Any]) -> None:
    """KPO searches by the run's id alone and takes over what works."""
    world = watching(RUN_GONE)
    world.airflow.answers["a"] = again("running", 1)
    world.audit()
    world.run()
    assert regrets(world, "run-deleted") == 1
    assert stories(told)[0]["way"] == "same-try"


def test_one_whose_result_is_taken_by_a_later_try_is_regretted(told: list[Any]) -> None:
    world = watching(SUCCEEDED, **DONE)
    use(world, again(identity=names(world)))
    world.audit()
    world.run()
    assert regrets(world, "finished") == 0, "up to its policy, KPO takes the result or makes a new Pod"
    world.cluster.change("a", checked=True)
    world.airflow.answers["a"] = again("success")
    world.run()
    assert regrets(world, "finished") == 1
    assert stories(told)[0]["way"] == "result"


def test_one_that_kpo_comes_back_to_is_regretted(told: list[Any]) -> None:
    """A worker that Airflow had given up reads log and result of its Pod, and marks it."""
    world = watching()
    world.cluster.change("a", checked=True, **DONE)
    world.airflow.named["a"] = names(world)
    world.run()
    assert regrets(world) == 1
    assert stories(told)[0]["way"] == "result"


def test_one_that_was_adopted_and_is_gone_before_anybody_looked_is_regretted(told: list[Any]) -> None:
    world = watching()
    use(world, again("success"))
    del world.cluster.pods["a"]
    world.run()
    assert regrets(world) == 1
    assert stories(told)[0]["way"] == "adopted"
    world.run()
    assert world.airflow.asked("look")[2:] == [], "it is not asked about again"
    assert "a" in world.airflow.forgotten


def test_one_that_is_protected_is_watched_on() -> None:
    world = watching()
    world.cluster.change("a", protected=True)
    use(world, again(identity=names(world)))
    world.audit()
    world.audit()
    assert regrets(world) == 1


def test_one_on_its_way_out_is_asked_about_at_once() -> None:
    world = watching()
    use(world, again("running"))
    world.cluster.change("a", terminating=True)
    world.run()
    del world.cluster.pods["a"]
    world.run()
    assert regrets(world) == 1


def test_one_that_ended_again_with_a_later_try_is_regretted_and_would_be_deleted_anew() -> None:
    """Adopted and lost again between two audits."""
    world = watching()
    use(world, again("failed", end_date=None))
    world.audit()
    world.run()
    assert regrets(world) == 1
    use(world, again("failed", 3, id="id-3", start_date=LATER + 1, end_date=None))
    world.audit()
    world.run()
    assert regrets(world) == 1, "once per Pod and way"


def test_a_superseded_one_that_is_used_after_all_is_regretted() -> None:
    world = World(mode="report", policy=AT_ONCE)
    older, younger = world.pod("a"), a_sibling(created=world.clock.server - 50, name="pod-b", uid="b")
    world.cluster.add(younger)
    twins = Known(0.0, a_task("running", 2), naming(younger))
    world.airflow.answers |= {"a": twins, "b": Known(0.0, a_task("running", 2))}
    world.audit()
    world.airflow.named["a"] = naming(younger)
    world.audit()
    world.run()
    assert regrets(world, "superseded") == 0
    world.airflow.answers["a"] = Known(0.0, a_task("running", 2), naming(older))
    world.airflow.named["a"] = naming(older)
    world.audit()
    world.run()
    assert regrets(world, "superseded") == 1


@pytest.mark.parametrize(
    ("pod", "answer", "reason"), [({"checked": True}, ORPHANED, "abandoned"), ({}, ORPHANED, "orphaned")]
)
def test_a_reason_that_only_reports_is_watched_in_enforce_mode_too(pod: Any, answer: Answer, reason: str) -> None:
    world = World(mode="enforce", policy={**AT_ONCE, "actions": {reason: "report"}})
    world.pod("a", answer, **pod)
    world.audit()
    world.airflow.answers["a"] = Known(0.0, a_task("running"))
    world.audit()
    world.run()
    assert regrets(world, reason) == 1


def test_one_that_may_not_be_deleted_is_watched_too() -> None:
    world = World(mode="enforce", policy=AT_ONCE)
    world.pod("a")
    world.cluster.results["a"] = [DeleteResult(DeleteStatus.DENIED, "no right")]
    world.audit()
    world.cluster.results["a"] = [DeleteResult(DeleteStatus.DENIED, "no right")] * 9
    world.airflow.answers["a"] = Known(0.0, a_task("running"))
    world.audit()
    world.run()
    assert regrets(world) == 1


# --- what is no regret ------------------------------------------------------------------------------------------------


def quiet(world: World) -> bool:
    """Whether many passes go by without a regret."""
    for _ in range(3):
        world.run()
        world.audit()
    counts = [s.value for m in world.metrics.registry.collect() for s in m.samples if "regrets" in s.name]
    return not any(counts)


def test_its_own_end_is_no_regret() -> None:
    world = watching()
    world.airflow.named["a"] = names(world)
    world.cluster.change("a", **DONE)
    assert quiet(world)


@pytest.mark.parametrize(
    "answer", [ORPHANED, SUCCEEDED, RUN_GONE, Absent(0.0, "no DAG"), cleared(), cleared(2, "queued")]
)
def test_one_that_somebody_deletes_is_no_regret(answer: Answer) -> None:
    """Airflow's names survive the end, and a clear."""
    world = watching()
    world.airflow.answers["a"], world.airflow.named["a"] = answer, names(world)
    del world.cluster.pods["a"]
    assert quiet(world)


def test_a_run_that_is_deleted_is_no_regret() -> None:
    world = watching()
    world.airflow.answers["a"] = RUN_GONE
    assert quiet(world)


def test_a_clear_alone_is_no_regret() -> None:
    world = watching()
    use(world, cleared())
    assert quiet(world)
    use(world, cleared(2, "queued"))
    assert quiet(world)
    use(world, Known(0.0, ended("upstream_failed", 2, id="id-2", end_date=None)))
    assert quiet(world), "the later try never began"


@pytest.mark.parametrize("state", ["running", "success"])
def test_a_later_try_with_a_pod_of_its_own_is_no_regret(state: str) -> None:
    world = watching()
    world.airflow.answers["a"] = again(state, identity=names(world))
    world.airflow.named["a"] = names(world, "pod-b")
    assert quiet(world)
    del world.cluster.pods["a"]
    assert quiet(world)


def test_a_later_try_that_failed_before_it_had_a_pod_is_no_regret() -> None:
    world = watching()
    world.airflow.answers["a"] = again("failed")
    assert quiet(world)


def test_a_done_one_that_a_later_try_replaces_is_no_regret() -> None:
    world = watching(SUCCEEDED, **DONE)
    use(world, again(identity=names(world)))
    assert quiet(world)
    world.airflow.named["a"] = NO_SOURCE
    del world.cluster.pods["a"]
    assert quiet(world)
    world.airflow.named["a"] = names(world, "pod-b")
    assert quiet(world)


@pytest.mark.parametrize("state", ["running", "deferred", "success"])
def test_one_that_kpos_search_skips_can_not_be_used(state: str) -> None:
    """The state store names the old Pod until the next try has made its own."""
    world = watching(SUCCEEDED, checked=True, **DONE)
    use(world, again(state, identity=names(world)))
    assert quiet(world)
    del world.cluster.pods["a"]
    assert quiet(world)


def test_the_mark_on_a_twin_that_kpo_retires_is_no_regret() -> None:
    world = watching()
    world.cluster.change("a", checked=True)
    world.airflow.answers["a"] = again()
    world.airflow.named["a"] = names(world, "pod-b")
    assert quiet(world)


def test_one_that_would_not_have_been_deleted_is_not_watched() -> None:
    """Not yet due; refuted; stopped by the breaker; kept by the policy."""
    early = World(mode="report", policy={**AT_ONCE, "grace": "1h"})
    breaker = World(mode="report", policy=AT_ONCE, limits={"breaker": {"maxShare": 0.1, "minCount": 1}})
    keeping = World(mode="report", policy={**AT_ONCE, "actions": {"orphaned": "keep"}})
    for world in (early, breaker, keeping):
        world.pod("a")
        world.audit()
        world.airflow.answers["a"] = Known(0.0, a_task("running"))
        assert quiet(world)


def test_each_would_be_deletion_is_told_once(told: list[Any]) -> None:
    world = watching()
    for _ in range(3):
        world.audit()
    world.cluster.change("a", **DONE)
    world.audit()
    (line,) = [line for line in told if line["event"] == "would delete"]
    assert (line["pod"], line["uid"], line["reason"]) == ("airflow/pod-a", "a", "orphaned")


def test_what_we_deleted_ourselves_is_no_regret() -> None:
    world = World(mode="enforce", policy={**AT_ONCE, "actions": {"orphaned": "report"}})
    world.pod("a")
    world.audit()
    world.cluster.change("a", **DONE)
    world.audit()
    assert world.deleted == ["a"]
    use(world, again("success"))
    assert quiet(world)


def test_a_restart_invents_nothing() -> None:
    before = watching()
    after = World(mode="report", policy=AT_ONCE)
    after.cluster.pods = before.cluster.pods
    use(after, again(identity=names(after)))
    assert quiet(after)


# --- how it is asked --------------------------------------------------------------------------------------------------


def test_quiet_victims_cost_no_question() -> None:
    world = watching()
    calls = len(world.airflow.calls)
    for _ in range(5):
        world.run()
    assert len(world.airflow.calls) == calls
    world.audit()
    assert len(world.airflow.calls) == calls + 1
    assert "current" not in [step for step, _ in world.journal]


def test_signs_are_looked_into_together() -> None:
    world = World(mode="report", policy=AT_ONCE)
    for number in range(50):
        world.pod(f"p{number}")
    world.audit()
    world.airflow.calls.clear()
    world.cluster.pods.clear()
    world.run()
    assert [(name, len(uids)) for name, uids in world.airflow.calls] == [("look", 50)]
    assert "current" not in [step for step, _ in world.journal], "their tries are the ones they were made for"


def test_an_airflow_that_is_down_is_asked_again_later() -> None:
    world = watching()
    use(world, again("success"))
    del world.cluster.pods["a"]
    world.airflow.down = True
    for _ in range(6):
        world.run()
    assert len(world.airflow.asked("look")) == 1 + 3, "then only at audits"
    world.airflow.down = False
    world.audit()
    assert regrets(world) == 1


def test_a_name_that_can_not_be_read_is_asked_for_again() -> None:
    world = watching()
    use(world, again())
    world.airflow.named["a"] = NamedPods(failed="500")
    world.audit()
    world.run()
    assert regrets(world) == 0
    use(world, again())
    world.run()
    assert regrets(world) == 1


def test_what_was_looked_into_is_not_looked_into_again() -> None:
    world = watching()
    world.airflow.answers["a"] = again(identity=naming(a_sibling()))
    world.airflow.named["a"] = names(world, "pod-b")
    world.audit()
    world.run()
    asked = [step for step, _ in world.journal].count("current")
    assert asked == 1
    world.audit()
    world.run()
    assert [step for step, _ in world.journal].count("current") == asked


def test_pods_that_are_gone_are_not_held_for_ever() -> None:
    world = watching()
    world.airflow.answers["a"] = again()
    del world.cluster.pods["a"]
    for _ in range(MAX_CHECKS):
        assert world.reconciler._regrets
        world.audit()
    assert not world.reconciler._regrets


def test_a_long_outage_of_airflow_hides_no_regret() -> None:
    world = watching()
    world.airflow.down = True
    del world.cluster.pods["a"]
    for _ in range(3 * MAX_CHECKS):
        world.audit()
    use(world, again("success"))
    world.airflow.down = False
    world.audit()
    assert regrets(world) == 1


def test_few_pods_that_are_gone_are_held_at_a_time() -> None:
    watched = RegretTracker()
    for number in range(MAX_DELETED + 5):
        watched.track(a_pod(uid=str(number)), finding_of(a_pod()), None)
    watched.on_deleted(map(str, range(MAX_DELETED + 5)))
    assert len(watched) == MAX_DELETED
    assert "0" not in watched
    assert str(MAX_DELETED + 4) in watched


def test_a_pod_that_comes_back_is_watched_on() -> None:
    watched = RegretTracker()
    watched.track(a_pod(), finding_of(a_pod()), None)
    watched.on_deleted(["uid-1"])
    watched.on_update(a_pod(resource_version="2"))
    (recheck,) = watched.on_answers({"uid-1": Known(0.0, ended())})
    watched.judge(recheck, NamedPods())
    assert "uid-1" in watched


def finding_of(pod: Pod) -> Any:
    from healer.decision.rules import judge

    return judge(pod, ORPHANED)
