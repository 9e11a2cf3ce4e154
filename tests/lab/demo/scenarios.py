"""How production leaves Pods behind, and the Pods beside them that only look left behind.

Airflow works on all runs side by side, so everything is triggered first and waited for afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.lab.demo.cast import NAMESPACE, Fate, Json, Role, Stage, Task, moment
from tests.lab.kube import ANNOTATION
from tests.lab.pods import executor_pod, job_pod, kpo_pod
from tests.lab.processes import wait_for

Tell = Callable[[str], None]

GRACE: Final = 5.0
"""Seconds of `policy.grace` in the demo: a twin must be that much younger to count as a successor."""


@dataclass
class Plot:
    """What the later acts go on with."""

    adopted: Task
    adopted_role: Role
    running: Task
    dead: Role
    """The plain orphan that is explained."""
    renamed: Task
    renamed_role: Role
    """The orphan whose name a new Pod takes just before the DELETE."""


@dataclass(frozen=True)
class Runs:
    """The runs that were triggered at the start."""

    running: Task
    killed: Task
    protected: Task
    forgotten: Task
    renamed: Task
    sidecar: Task
    adopted: Task
    spaced: Task
    colon: Task
    mapped: tuple[Task, Task, Task]
    waiting: Task
    stuck: Task
    twin: Task


def set_up(stage: Stage, tell: Tell) -> Plot:
    """Makes all Pods but those that come into being while kpo-healer is at work."""
    runs = _trigger(stage)
    tell("15 task instances of KubernetesPodOperator start: sync, deferrable, mapped, with retries, with a sidecar")
    running = stage.pod(runs.running)
    stage.add("a task that runs", running, Fate.LIVES, "in-use")
    dead = _killed(stage, runs, tell)
    adopted = _between_tries(stage, runs, tell)
    renamed = _unscheduled(stage, runs)
    _mapped(stage, runs, tell)
    _look_alike_runs(stage, runs, tell)
    _dead_triggerer(stage, runs, tell)
    _sidecar(stage, runs, tell)
    _by_hand(stage, runs, tell)
    _forgotten(stage, runs, tell)
    return Plot(runs.adopted, adopted, runs.running, dead, runs.renamed, renamed)


def _trigger(stage: Stage) -> Runs:
    mapped = stage.trigger("kpo_mapped").run
    protect = {"kpo-healer.io/protect": "true"}
    return Runs(
        running=stage.trigger("kpo_sync"),
        killed=stage.trigger("kpo_sync"),
        protected=stage.trigger("kpo_sync", annotations=protect),
        forgotten=stage.trigger("kpo_sync"),
        renamed=stage.trigger("kpo_sync", annotations={f"{ANNOTATION}stay-pending": "true"}),
        sidecar=stage.trigger("kpo_xcom"),
        adopted=stage.trigger("kpo_retries_late"),
        spaced=stage.trigger("kpo_retries_late", "nightly load"),
        colon=stage.trigger("kpo_retries_late", "nightly:load"),
        mapped=(Task("kpo_mapped", mapped, 0), Task("kpo_mapped", mapped, 1), Task("kpo_mapped", mapped, 2)),
        waiting=stage.trigger("kpo_deferrable"),
        stuck=stage.trigger("kpo_deferrable"),
        twin=stage.trigger("kpo_twins_deferrable"),
    )


def _killed_for(stage: Stage, task: Task, story: str, should: Fate, reason: str = "orphaned") -> Role:
    """An orphan: SIGKILL for the task's own process, no try left."""
    pod = stage.kill(task)
    return stage.add(story, pod, should, reason, stage.ended(task))


def _killed(stage: Stage, runs: Runs, tell: Tell) -> Role:
    tell("SIGKILL for tasks' own processes, as when memory runs out: no try is left, their Pods run on")
    story = "an orphan, protected by annotation"
    _killed_for(stage, runs.protected, story, Fate.LIVES, "protected")
    return _killed_for(stage, runs.killed, "its task was killed, no retries", Fate.HEALED)


def _unscheduled(stage: Stage, runs: Runs) -> Role:
    """Pending for ever. (kwok deletes by name alone what was on its node: it would take a new Pod of that name too.)"""
    pod = stage.kill(runs.renamed, phase="Pending")
    story = "a Pending orphan that a human deletes"
    return stage.add(story, pod, Fate.GOES, "orphaned", stage.ended(runs.renamed))


def _between_tries(stage: Stage, runs: Runs, tell: Tell) -> Role:
    pod = stage.kill(runs.adopted)
    stage.wait(runs.adopted, "up_for_retry")
    tell("the same with retries left: the next try will take this Pod over, so it must not be touched")
    return stage.add("its task was killed, the next try adopts it", pod, Fate.GOES, "reattached")


def _mapped(stage: Stage, runs: Runs, tell: Tell) -> None:
    first, second, third = runs.mapped
    _killed_for(stage, second, "mapped index 1, killed", Fate.HEALED)
    for task in (first, third):
        stage.add(f"mapped index {task.index}, runs", stage.pod(task), Fate.LIVES, "in-use")
    tell("a mapped task: index 1 is killed, 0 and 2 run on")


def _look_alike_runs(stage: Stage, runs: Runs, tell: Tell) -> None:
    """Both run ids lose their special sign in the label; only the hash behind it tells them apart."""
    alive = stage.pod(runs.spaced)
    pod = stage.kill(runs.colon)
    stage.wait(runs.colon, "up_for_retry")
    stage.airflow.clear(runs.colon.dag, runs.colon.run, runs.colon.task)
    stage.wait(runs.colon, "running", try_number=2)
    # Killed before it has named the Pod anew, it leaves an Airflow without a state store nothing that says whose it is.
    stage.wait_adopted(runs.colon, 2)
    stage.airflow.kill_task(*runs.colon.ids)
    stage.wait(runs.colon, "up_for_retry", try_number=2)
    stage.airflow.mark(*runs.colon.ids[:3], "failed")
    ended = stage.ended(runs.colon)
    stage.add('run "nightly:load", killed, marked failed', pod, Fate.HEALED, "orphaned", ended)
    stage.add('run "nightly load", which runs', alive, Fate.LIVES, "in-use")
    tell('two runs, "nightly:load" and "nightly load": one is dead, one runs, only a hash tells their Pods apart')


def _dead_triggerer(stage: Stage, runs: Runs, tell: Tell) -> None:
    airflow = stage.airflow
    waiting, stuck, twin = (_deferred(stage, task) for task in (runs.waiting, runs.stuck, runs.twin))
    for task in (runs.waiting, runs.stuck, runs.twin):
        airflow.wait_trigger(task.dag, task.run)
    tell("the triggerer is killed; the user marks one deferred task failed and clears another, which starts a twin Pod")
    _wait_for_age(stage, twin)
    airflow.lose_triggerer()
    airflow.mark(*runs.stuck.ids[:3], "failed")
    airflow.clear(runs.twin.dag, runs.twin.run, runs.twin.task)
    stage.add("triggerer died, task marked failed", stuck, Fate.HEALED, "orphaned", stage.ended(runs.stuck))
    stage.wait(runs.twin, "deferred", try_number=2)
    used = stage.pod(runs.twin, other_than=twin["metadata"]["name"])
    began = moment(used["metadata"]["creationTimestamp"])
    stage.add("try 2 started a twin beside it", twin, Fate.HEALED, "superseded", began)
    stage.add("the twin that try 2 uses", used, Fate.LIVES, "in-use")
    stage.add("a deferred task, waiting all the time", waiting, Fate.LIVES, "in-use")


def _deferred(stage: Stage, task: Task) -> Json:
    stage.wait(task, "deferred")
    return stage.pod(task)


def _wait_for_age(stage: Stage, pod: Json) -> None:
    """Until a Pod that is made now would be younger by more than the grace, in the API server's whole seconds."""
    born = moment(pod["metadata"]["creationTimestamp"])
    wait_for(lambda: stage.now() > born + GRACE + 1, what="the age of the first twin", interval=0.2)


def _sidecar(stage: Stage, runs: Runs, tell: Tell) -> None:
    pod = stage.kill(runs.sidecar)
    stage.ended(runs.sidecar)
    stage.end_work(pod["metadata"]["name"], sidecar=True)
    tell("a killed task's Pod ends its work well, but nobody is there to tell its sidecar: it stays Running for ever")
    stage.add("its work is done, its sidecar runs on", pod, Fate.HEALED, "finished")


def _forgotten(stage: Stage, runs: Runs, tell: Tell) -> None:
    pod = stage.kill(runs.forgotten)
    ended = stage.ended(runs.forgotten)
    stage.airflow.wait_run(runs.forgotten.dag, runs.forgotten.run, "failed")
    stage.airflow.delete_run(runs.forgotten.dag, runs.forgotten.run)
    stage.add("its run was deleted (policy: report)", pod, Fate.LIVES, "run-deleted", ended)
    tell("a dag run is deleted while its Pod runs: nothing proves that it is an orphan, so it is only reported")


def _by_hand(stage: Stage, runs: Runs, tell: Tell) -> None:
    """Pods that Airflow knows nothing of, labelled as those of the killed task."""
    dead = runs.killed.labels
    elsewhere = {**dead, "dag_id": "of_another_airflow"}
    bodies: tuple[tuple[str, str, Json], ...] = (
        ("a copy of the killed task's Pod", "other-pod", kpo_pod(**dead)),
        ("a copy of the running task's Pod", "in-use", kpo_pod(**runs.running.labels)),
        ("a try that Airflow does not know", "try-ahead", kpo_pod(**dead, try_number=2)),
        ("a Pod of an Airflow that is not ours", "absent", kpo_pod(**elsewhere)),
        ("a Pod of a Kubernetes Job", "owned", job_pod(**dead)),
        ("a worker of KubernetesExecutor", "", executor_pod(**dead)),
    )
    for story, reason, body in bodies:
        stage.add(story, stage.make(body), Fate.LIVES, reason)
    tell("and look-alikes with a dead task's labels: copies, a Job's Pod, an executor worker, another Airflow's Pod")


def keep_pod(stage: Stage) -> Task:
    """A task that is told to keep its Pod, which ends after a second: where containers are real, by the run's id."""
    return stage.trigger("kpo_keep", "exit-0.kept")


def take_the_name(stage: Stage, plot: Plot) -> None:
    """Replaces the orphan by a new Pod of the same name, which a running task uses."""
    name = plot.renamed_role.name
    stage.cluster.delete_pod(NAMESPACE, name, grace=0)
    # It need not run yet: whoever waits here lets kpo-healer's evidence grow old.
    pod = stage.cluster.create_pod(kpo_pod(**plot.running.labels, name=name))
    stage.add("a running task's Pod that took its name", pod, Fate.LIVES, "in-use")
