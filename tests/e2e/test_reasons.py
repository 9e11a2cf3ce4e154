"""Each reason, made on real parts: real Pods, real rows behind Airflow's real API, seen through `scan --all`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from healer.decision.labels import safe_label
from healer.model import Cause, Reason
from tests.e2e.world import Json, World, ago
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Event, Run
from tests.lab.healer import Told
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.pods import SIDECAR, job_pod, kpo_pod

HANGS = {f"{ANNOTATION}hang-terminating": "true"}


def _terminating(world: World) -> str:
    world.seed(world.task("terminating", "failed"))
    name = world.pod("terminating", annotations=HANGS)
    world.cluster.delete_pod(world.namespace, name)
    return name


def _protected(world: World) -> str:
    world.seed(world.task("protected", "failed"))
    return world.pod("protected", annotations={"kpo-healer.io/protect": "true"})


def _owned(world: World) -> str:
    world.seed(world.task("owned", "success"))
    return world.make(job_pod(dag_id=world.dag, task_id="owned", run_id="r", namespace=world.namespace))


def _labels_missing(world: World) -> str:
    world.seed(world.task("unlabelled", "failed"))
    return world.pod("unlabelled", labels={"try_number": None})


def _phase_unknown(world: World) -> str:
    world.seed(world.task("lost", "failed"))
    name = world.pod("lost")
    world.cluster.set_status(world.namespace, name, phase="Unknown")
    return name


def _airflow_unknown(world: World) -> str:
    world.seed(world.task("vague", "failed"))
    world.airflow.update(world.dag, "r", "vague", operator=None)
    return world.pod("vague")


def _purged(world: World) -> str:
    world.seed(world.task("work", "failed"), run="purged", state="failed")
    world.airflow.delete_run(world.dag, "purged")
    return world.ended("work", run="purged")


def _run_deleted(world: World) -> str:
    world.seed(world.task("work", "failed"), run="forgotten", state="failed")
    world.airflow.delete_run(world.dag, "forgotten")
    return world.pod("work", run="forgotten")


def _absent(world: World) -> str:
    world.seed(world.task("present", "failed"))
    return world.pod("absent")


def _labels_ambiguous(world: World) -> str:
    """A run id that is the very label of another one."""
    world.seed(world.task("work", "failed"), run="nightly load")
    world.seed(world.task("work", "running"), run=safe_label("nightly load"))
    return world.pod("work", run="nightly load")


def _foreign_operator(world: World) -> str:
    world.seed(world.task("job", "success", operator="KubernetesJobOperator"))
    return world.pod("job")


def _elsewhere(world: World) -> str:
    world.seed(world.task("elsewhere", "failed", rendered_namespace="default"))
    return world.pod("elsewhere")


def _unexpected_state(world: World) -> str:
    world.seed(world.task("waits", "up_for_reschedule"))
    return world.pod("waits")


def _try_ahead(world: World) -> str:
    world.seed(world.task("ahead", "failed", max_tries=3))
    return world.pod("ahead", try_number=2)


def _in_use(world: World) -> str:
    world.seed(world.task("runs", "deferred"))
    return world.pod("runs")


def _reattached(world: World) -> str:
    name = world.pod("again")
    world.seed(world.task("again", "running", try_number=2, max_tries=2, pod=name))
    return name


def _kept(world: World) -> str:
    world.seed(world.task("kept", "running"))
    world.airflow.act(world.dag, "r", "kept", "succeed")
    return world.ended("kept", checked=True)


def _abandoned(world: World) -> str:
    world.seed(world.task("given-up", "failed"))
    return world.pod("given-up", checked=True)


def _adoptable(world: World) -> str:
    world.seed(world.task("between", "up_for_retry"))
    return world.pod("between")


def _superseded(world: World) -> str:
    first = world.pod("twin")
    world.wait_second(2)
    second = world.pod("twin", try_number=2)
    world.seed(world.task("twin", "running", try_number=2, max_tries=2, pod=second))
    return first


def _adoption_unknown(world: World) -> str:
    world.seed(world.task("nameless", "running", try_number=2, max_tries=2))
    return world.pod("nameless")


def _task_removed(world: World) -> str:
    world.seed(world.task("removed", "removed"))
    return world.pod("removed")


def _other_pod(world: World) -> str:
    world.seed(world.task("copied", "success", pod="the-real-one"))
    return world.pod("copied")


def _postdates(world: World) -> str:
    world.seed(world.task("long-over", "success", end_date=ago(minutes=20)))
    return world.pod("long-over")


def _orphaned(world: World) -> str:
    return _made_to_end(world, "dead", "fail")


def _orphaned_of_an_earlier_try(world: World) -> str:
    world.seed(world.task("dead-twice", "failed", try_number=2, max_tries=2))
    return world.pod("dead-twice")


def _orphaned_and_mapped(world: World) -> str:
    world.seed(world.task("mapped", "skipped", map_index=0, count=3))
    return world.pod("mapped", map_index=1)


def _orphaned_of_a_long_name(world: World) -> str:
    """All three ids are only hashes in the labels."""
    dag = f"{world.dag}_a_DAG_whose_name_is_far_too_long_for_any_label_of_Kubernetes"
    task = "a_task_whose_name_is_far_too_long_for_any_label_of_Kubernetes_to_hold"
    run = "free text, with: signs"
    world.airflow.seed([Dag(dag, runs=[Run(run, tasks=[world.task(task, "upstream_failed")])])])
    return world.make(kpo_pod(dag_id=dag, task_id=task, run_id=run, namespace=world.namespace))


def _orphaned_by_the_end_of_the_run(world: World) -> str:
    """As the scheduler leaves it after a dagrun_timeout: skipped, and no end of its own."""
    world.seed(world.task("cut", "skipped", end_date=None))
    return world.pod("cut")


def _orphaned_at_birth(world: World) -> str:
    world.seed(world.task("late", "failed", end_date=ago(minutes=1)))
    return world.pod("late")


def _orphaned_by_a_mark(world: World) -> str:
    return _made_to_end(world, "marked", "succeed")


def _made_to_end(world: World, task: str, deed: Event) -> str:
    """A task instance that runs, has a Pod, and then ends by Airflow's own doing."""
    world.seed(world.task(task, "running"))
    name = world.pod(task)
    world.airflow.act(world.dag, "r", task, deed)
    return name


def _finished(world: World) -> str:
    world.seed(world.task("over", "success"))
    return world.ended("over")


def _finished_beside_a_sidecar(world: World) -> str:
    world.seed(world.task("pushed", "failed"))
    marks = {f"{ANNOTATION}base-for": "0s"}
    name = world.pod("pushed", containers=("base", SIDECAR), annotations=marks)

    def ended() -> bool:
        pod = world.cluster.get_pod(world.namespace, name)
        states = {one["name"]: one["state"] for one in pod["status"]["containerStatuses"]}
        return "terminated" in states["base"]

    world.wait(ended, "the end of the base container")
    return name


MAKERS: tuple[tuple[Reason, Callable[[World], str]], ...] = (
    (Reason.TERMINATING, _terminating),
    (Reason.PROTECTED, _protected),
    (Reason.OWNED, _owned),
    (Reason.LABELS_MISSING, _labels_missing),
    (Reason.PHASE_UNKNOWN, _phase_unknown),
    (Reason.AIRFLOW_UNKNOWN, _airflow_unknown),
    (Reason.PURGED, _purged),
    (Reason.RUN_DELETED, _run_deleted),
    (Reason.ABSENT, _absent),
    (Reason.LABELS_AMBIGUOUS, _labels_ambiguous),
    (Reason.FOREIGN_OPERATOR, _foreign_operator),
    (Reason.ELSEWHERE, _elsewhere),
    (Reason.UNEXPECTED_STATE, _unexpected_state),
    (Reason.TRY_AHEAD, _try_ahead),
    (Reason.IN_USE, _in_use),
    (Reason.REATTACHED, _reattached),
    (Reason.KEPT, _kept),
    (Reason.ABANDONED, _abandoned),
    (Reason.ADOPTABLE, _adoptable),
    (Reason.SUPERSEDED, _superseded),
    (Reason.ADOPTION_UNKNOWN, _adoption_unknown),
    (Reason.TASK_REMOVED, _task_removed),
    (Reason.OTHER_POD, _other_pod),
    (Reason.POSTDATES, _postdates),
    (Reason.ORPHANED, _orphaned),
    (Reason.ORPHANED, _orphaned_of_an_earlier_try),
    (Reason.ORPHANED, _orphaned_and_mapped),
    (Reason.ORPHANED, _orphaned_of_a_long_name),
    (Reason.ORPHANED, _orphaned_by_the_end_of_the_run),
    (Reason.ORPHANED, _orphaned_at_birth),
    (Reason.ORPHANED, _orphaned_by_a_mark),
    (Reason.FINISHED, _finished),
    (Reason.FINISHED, _finished_beside_a_sidecar),
)


CAUSES: Mapping[Callable[[World], str], Cause] = {
    _purged: Cause.PURGED,
    _run_deleted: Cause.RUN_DELETED,
    _task_removed: Cause.TASK_REMOVED,
    _kept: Cause.KEPT_BY_POLICY,
    _abandoned: Cause.TIMEOUT_KEPT,
    _superseded: Cause.NOT_REATTACHED,
    _orphaned: Cause.NOT_CLEANED_UP,
    _orphaned_of_an_earlier_try: Cause.NOT_REATTACHED,
    _orphaned_of_a_long_name: Cause.CLEARED,
    _orphaned_by_the_end_of_the_run: Cause.RUN_CUT_SHORT,
    _orphaned_at_birth: Cause.CREATED_LATE,
    _orphaned_by_a_mark: Cause.MARKED_SUCCESS,
    _finished_beside_a_sidecar: Cause.SIDECAR,
}
"""What one look can tell of why these were left behind."""

WATCHED = {Cause.MARKED_WHILE_DEFERRED, Cause.WORKER_LOST}
"""What only somebody can tell who was there before: made for real in test_findings.py."""


@dataclass
class Scanned:
    """What one scan found of all these Pods."""

    told: Told
    names: dict[Callable[[World], str], str] = field(default_factory=dict)

    def of(self, maker: Callable[[World], str]) -> Json:
        return next(finding for finding in self.told.data() if finding["pod"] == self.names[maker])


@pytest.fixture(scope="module")
def scanned(cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    with World.open(cluster, airflow_api, tmp_path_factory.mktemp("reasons")) as world:
        names = {maker: maker(world) for _, maker in MAKERS}
        told = world.installation().ask("scan", "--all", "-o", "json", expect=(3,))
        assert world.deletes() == []
        yield Scanned(told, names)


def test_every_reason_is_made() -> None:
    assert {reason for reason, _ in MAKERS} == set(Reason) - {Reason.NOT_SELECTED}  # of which nothing is ever said


def test_every_cause_is_made() -> None:
    assert {*CAUSES.values(), *WATCHED} == set(Cause)


@pytest.mark.parametrize(("reason", "maker"), MAKERS, ids=[maker.__name__.strip("_") for _, maker in MAKERS])
def test_reason(scanned: Scanned, reason: Reason, maker: Callable[[World], str]) -> None:
    finding = scanned.of(maker)
    assert finding["reason"] == reason, finding["detail"]
    assert finding["action"] == reason.action
    assert finding["withheld"] == ("not-due" if finding["action"] == "delete" else None)
    assert finding["detail"]


@pytest.mark.parametrize(("maker", "cause"), CAUSES.items(), ids=[maker.__name__.strip("_") for maker in CAUSES])
def test_cause(scanned: Scanned, maker: Callable[[World], str], cause: Cause) -> None:
    told = scanned.of(maker)["cause"]
    assert told["name"] == cause, told["detail"]
    assert told["remedy"]


def test_what_is_kept_was_not_left_behind(scanned: Scanned) -> None:
    causes = {finding["pod"]: finding["cause"] for finding in scanned.told.data() if finding["action"] == "keep"}
    assert set(causes.values()) == {None}


def test_what_airflow_says_unclearly_makes_the_scan_incomplete(scanned: Scanned) -> None:
    warning, incomplete = scanned.told.err.splitlines()
    assert "ownership is refuted" in warning, "by the Pod that is none of this Airflow's"
    assert incomplete.startswith("incomplete: 1 Pods: Airflow gave no clear answer: ")
