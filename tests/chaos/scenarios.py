"""What may happen to one run: each scenario is a short story that a thread plays, and what it feeds of the quotas.

Nothing here has to succeed: in the chaos around, a scheduler or an API server may die at any moment. A scenario that
does not come to what it waits for ends, and the run goes its way. What really happened is counted from the records.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from tests.chaos.recorder import ENDED, RUN, Key, Picture, PodStory
from tests.lab.airflow import Airflow
from tests.lab.airflow2 import Airflow2
from tests.lab.kube import ANNOTATION, ApiError, Cluster
from tests.lab.processes import LabError, session_members

Json = Any

STEP: Final = 240.0
"""Seconds that a scenario waits for one thing to come."""

LONG: Final = "900s"
"""How long a Pod runs that is to be there until something happens to it."""

TROUBLE: Final = (LabError, httpx.HTTPError, OSError, KeyError, RuntimeError)
"""What asking a server that is being killed ends with; RuntimeError: our client was closed for a new one meanwhile."""


class MissedError(Exception):
    """What the scenario waited for did not come."""


@dataclass
class Play:
    """One run and the means to interfere with it.

    diary: what was done, with times (epoch seconds). finished: when its scenario was over, monotonic seconds.
    ended: the uids of Pods whose work was ended after that.
    """

    airflow: Airflow
    cluster: Cluster
    picture: Picture
    dice: random.Random
    dag: str
    run: str
    task: str = "work"
    diary: list[tuple[float, str]] = field(default_factory=list)
    clock: Callable[[], float] = field(default=lambda: 0.0)
    finished: float | None = None
    ended: set[str] = field(default_factory=set)

    def note(self, what: str) -> None:
        self.diary.append((self.clock(), what))

    def key(self, index: int = -1) -> Key:
        return Key(self.dag, self.run, self.task, index)

    # Looking

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = STEP) -> Any:
        found = self.picture.wait(condition, timeout)
        if not found:
            self.note(f"waited in vain for {what}")
            raise MissedError(what)
        return found

    def state(self, key: Key) -> str | None:
        last = self.picture.now(key)
        return last.state if last else "absent"

    def wait_state(self, key: Key, *states: str | None, timeout: float = STEP) -> None:
        self.wait(lambda: self.state(key) in states, f"{key}: {states}", timeout)

    def running_pod(self, key: Key, *, tried: int | None = None) -> PodStory | None:
        pods = self.picture.pods_of.get(key, ())
        alive = (p for p in pods if p.alive and p.last.phase == "Running" and tried in (None, p.tried))
        return next(alive, None)

    def wait_running(self, key: Key, *, tried: int | None = None) -> PodStory:
        """Waits for a running Pod of a task instance that runs or waits for it."""
        pod: PodStory = self.wait(
            lambda: self.state(key) in {"running", "deferred"} and self.running_pod(key, tried=tried), f"{key}: a Pod"
        )
        return pod

    def process(self, key: Key) -> int:
        """The process of a running task; OSError when it has none."""
        if isinstance(self.airflow, Airflow2):
            found = self.airflow.task_process(key.dag, key.run, key.task, key.index)
            if found is None:
                raise ProcessLookupError(f"{key} has no process")
            return found
        last = self.picture.now(key)
        title = f"airflow worker -- {uuid.UUID(last.ti)}" if last and last.ti else "none"
        for pid in session_members(self.airflow.scheduler.pid):
            if _title(pid) == title:
                return pid
        raise ProcessLookupError(f"{key} has no process")

    def process_soon(self, key: Key) -> int | None:
        """The same, a moment later if need be: a process takes its title some time after its birth."""
        for _ in range(50):
            found: int | None = _or_none(lambda: self.process(key))
            if found is not None or self.state(key) != "running":
                return found
            time.sleep(0.2)
        return None

    # Doing

    def kill(self, key: Key) -> None:
        """SIGKILL for the task's own process; waits until it has one."""
        self.note(f"SIGKILL for the process of {key}")
        pid = self.process_soon(key)
        if pid is None:
            raise MissedError(f"{key} has no process")
        os.kill(pid, signal.SIGKILL)

    def clear(self, key: Key) -> None:
        self.note(f"clear {key}")
        if self.state(key) in ENDED:  # SQLite has no row locks: a scheduler that ends the run just then undoes it
            self.wait(lambda: self.picture.run_state(self.dag, self.run) in {"success", "failed"}, "the run's end")
        if isinstance(self.airflow, Airflow2):  # a mapped task is cleared whole
            self.airflow.clear(self.dag, self.run, key.task)
            return
        body = {"dry_run": False, "only_failed": False, "dag_run_id": self.run}
        tasks = [[key.task, key.index]] if key.index >= 0 else [key.task]
        self.airflow.request("POST", f"/dags/{self.dag}/clearTaskInstances", body | {"task_ids": tasks})

    def mark(self, key: Key, state: str) -> None:
        self.note(f"mark {key} {state}")
        self.airflow.mark(self.dag, self.run, self.task, state, key.index)

    def delete_run(self) -> None:
        self.wait(lambda: self.picture.run_state(self.dag, self.run) in {"success", "failed"}, "the run's end")
        self.note("delete the run")
        self.airflow.delete_run(self.dag, self.run)

    def end_pod(self, pod: PodStory, *, code: int = 0, sidecar: bool = False) -> None:
        """Lets the work of a Pod end soon."""
        self.note(f"the work of {pod.name} ends with {code}")
        marks = {f"{ANNOTATION}{'base-for' if sidecar else 'run-for'}": "1s", f"{ANNOTATION}exit-code": str(code)}
        try:
            self.cluster.patch_pod(self.airflow.namespace, pod.name, {"metadata": {"annotations": marks}})
        except ApiError as error:
            if error.status != 404:
                raise

    def pause(self, longest: float) -> None:
        """Some time up to `longest` seconds, while the world goes on."""
        self.picture.wait(lambda: False, self.dice.uniform(0, longest))


def _or_none(what: Callable[[], Any]) -> Any:
    try:
        return what()
    except TROUBLE:
        return None


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
    except OSError:
        return ""


# --- the stories ------------------------------------------------------------------------------------------------------


def nothing(play: Play) -> None:
    """Whatever happens, happens by itself."""


def orphan(play: Play) -> None:
    """The task's process is killed, and there is no retry left: its Pod goes on."""
    key = _one(play)
    play.wait_running(key)
    play.kill(key)
    play.wait_state(key, *ENDED)


def adopted(play: Play) -> None:
    """The process is killed and the next try takes the Pod over, once or twice."""
    key = _one(play)
    pod = play.wait_running(key)
    for tried in range(2, play.dice.choice((3, 3, 4))):
        play.kill(key)
        play.wait_state(key, "up_for_retry", "scheduled", "queued", *ENDED)
        play.wait(partial(_taken_over, play, key, pod, tried), f"try {tried} to adopt {pod.name}")
        play.pause(1.5)
    play.end_pod(pod, code=play.dice.choice((0, 0, 0, 1)))


def killed(play: Play) -> None:
    """The process is killed; what the next try does is its own affair."""
    key = _one(play)
    play.wait_running(key)
    play.kill(key)
    play.wait_state(key, "up_for_retry", "scheduled", "queued", *ENDED)


def _taken_over(play: Play, key: Key, pod: PodStory, tried: int) -> bool:
    last = play.picture.now(key)
    if last is None or last.tried < tried or last.state not in {"running", "deferred"}:
        return False
    since = next(r.at for r in play.picture.tasks[key] if r.kind == "ti" and r.tried == tried)
    return any(r.kind == "named" and r.value == pod.name and r.at > since for r in play.picture.tasks[key])


def twin(play: Play) -> None:
    """A deferrable task without re-attaching dies before it defers; its next try starts a second Pod beside the first.

    Where it was quicker than us it is cleared while its trigger is not there yet, which comes to the same.
    """
    key = play.key()
    play.wait_state(key, "running", "deferred")
    pid = play.process_soon(key)
    first: PodStory = play.wait(lambda: next(iter(play.picture.pods_of.get(key, ())), None), f"{key}: a Pod")
    if pid is not None and play.state(key) == "running":
        play.note("SIGKILL for the process as soon as the Pod is there")
        _or_none(lambda: os.kill(pid, signal.SIGKILL))
    play.wait(lambda: play.state(key) in {"up_for_retry", "deferred", *ENDED}, f"{key}: up_for_retry")
    if play.state(key) == "deferred":
        play.clear(key)
    second: PodStory = play.wait(
        lambda: next((p for p in play.picture.pods_of[key] if p.tried > first.tried), None), f"{key}: a twin"
    )
    play.picture.wait(lambda: not first.alive or not second.alive, 90)
    play.end_pod(second)


def cleared_running(play: Play) -> None:
    """A user clears a task that runs: it is killed and begins again."""
    key = _one(play)
    pod = play.wait_running(key)
    play.pause(3)
    play.clear(key)
    play.wait(lambda: not pod.alive or ((now := play.picture.now(key)) and now.tried > pod.tried), f"{key}: a new try")


def cleared_orphan(play: Play) -> None:
    """A task fails and leaves its Pod; the user clears it while kpo-healer is about to delete that."""
    orphan(play)
    play.pause(9)
    play.clear(_one(play))


def cleared_success(play: Play) -> None:
    """A task that is over is run again."""
    key = _one(play)
    play.wait_state(key, *ENDED)
    play.pause(4)
    play.clear(key)


def marked(play: Play) -> None:
    """A user marks a running or deferred task; sometimes before its trigger is there, so that the Pod is forgotten."""
    key = _one(play)
    if play.dice.random() < 0.5:
        play.wait_running(key)
        play.pause(3)
    else:
        play.wait_state(key, "deferred", "running")
    play.mark(key, play.dice.choice(("failed", "failed", "success")))


def run_deleted(play: Play) -> None:
    """The run of an orphan is deleted: nothing in Airflow is left of it."""
    orphan(play)
    play.delete_run()


def deleted_while_deferred(play: Play) -> None:
    """The run is deleted while its task is deferred."""
    key = _one(play)
    play.wait_state(key, "deferred")
    play.wait_running(key)
    play.pause(3)
    play.note("delete the run")
    play.airflow.delete_run(play.dag, play.run)


def run_by_force(play: Play) -> None:
    """A task fails and leaves its Pod; somebody runs that try once more while kpo-healer is about to delete it."""
    orphan(play)
    play.pause(6)
    assert isinstance(play.airflow, Airflow2)
    play.note("airflow tasks run --force")
    play.airflow.force(play.dag, play.run, play.task)
    play.wait_state(_one(play), "running")


def late_death(play: Play) -> None:
    """The process stands still while its Pod ends, and is killed before it saw that."""
    key = _one(play)
    pod = play.wait_running(key)
    pid = play.process(key)
    play.note("SIGSTOP for the process")
    os.kill(pid, signal.SIGSTOP)
    try:
        play.end_pod(pod, code=play.dice.choice((0, 1)), sidecar="xcom" in play.dag)
        play.wait(lambda: pod.last.done, f"the end of {pod.name}")
    finally:
        play.note("SIGKILL for the process")
        _or_none(lambda: os.kill(pid, signal.SIGKILL))


def _one(play: Play) -> Key:
    """The task instance that it happens to: of a mapped task the first."""
    return play.key(0 if "mapped" in play.dag else -1)


@dataclass(frozen=True)
class Scenario:
    """A story with the DAGs it is played on.

    marks: annotations of its Pods, without prefix. feeds: a quota's name. two: whether only an Airflow 2 allows it.
    """

    name: str
    play: Callable[[Play], None]
    dags: tuple[str, ...]
    marks: Mapping[str, str] = field(default_factory=lambda: {"run-for": LONG})
    weight: float = 1.0
    feeds: str | None = None
    two: bool = False


SHORT: Final = {"run-for": "2s"}

SCENARIOS: Final = (
    Scenario("plain", nothing, ("kpo_sync", "kpo_base", "kpo_group", "kpo_mapped"), SHORT, 3),
    Scenario("kept", nothing, ("kpo_keep",), SHORT, 0.7),
    Scenario("xcom", nothing, ("kpo_xcom", "kpo_base_xcom"), {"base-for": "2s", "xcom": '{"rows": 7}'}),
    Scenario("fails", nothing, ("chaos_retries", "chaos_mapped"), {"run-for": "2s", "exit-code": "1"}, 0.7),
    Scenario("evicted", nothing, ("kpo_sync", "chaos_retries_deferrable"), {"evict-after": "3s"}, 0.3),
    Scenario("deferred", nothing, ("kpo_deferrable", "kpo_mapped_deferrable"), SHORT, 2, "handed over"),
    Scenario("gives up", nothing, ("kpo_gives_up",), {"stay-pending": "true"}, 0.3),
    Scenario("orphan", orphan, ("kpo_sync", "kpo_base", "kpo_mapped"), weight=1.5, feeds="orphans"),
    Scenario("orphan with sidecar", orphan, ("kpo_xcom", "kpo_base_xcom"), weight=0.5, feeds="orphans"),
    Scenario("marked deferred", marked, ("kpo_deferrable", "chaos_retries_deferrable"), feeds="orphans"),
    Scenario("marked running", marked, ("kpo_sync", "chaos_retries"), weight=0.6),
    Scenario("adopted", adopted, ("chaos_retries", "chaos_retries", "chaos_mapped"), weight=1.5, feeds="adopted"),
    Scenario("twin", twin, ("chaos_twins_deferrable",), weight=0.7, feeds="twins"),
    Scenario("sync twin", killed, ("chaos_twins",), {"run-for": "15s"}, 0.3),
    Scenario(
        "cleared running", cleared_running, ("kpo_sync", "chaos_retries", "chaos_mapped"), {"run-for": "12s"}, 0.6
    ),
    Scenario("cleared deferred", cleared_running, ("kpo_deferrable",), {"run-for": "12s"}, 0.3),
    Scenario("cleared orphan", cleared_orphan, ("kpo_sync", "kpo_base"), weight=0.7, feeds="cleared"),
    Scenario("cleared success", cleared_success, ("kpo_sync", "kpo_deferrable"), SHORT, 0.4, "cleared"),
    Scenario("run deleted", run_deleted, ("kpo_sync",), weight=0.4),
    Scenario("late death", late_death, ("kpo_sync", "chaos_retries", "kpo_xcom"), weight=0.6),
    Scenario("run deleted while deferred", deleted_while_deferred, ("kpo_deferrable",), weight=0.6, two=True),
    Scenario("run by force", run_by_force, ("kpo_sync", "kpo_base"), weight=0.5, two=True),
)


def configuration(scenario: Scenario, run: str, namespace: str) -> Json:
    """The run's conf: how its Pods behave, and the annotation by which the recorder knows them."""
    annotations = {f"{ANNOTATION}{name}": value for name, value in scenario.marks.items()} | {RUN: run}
    return {"namespace": namespace, "annotations": annotations}


def task_of(dag: str) -> str:
    return "extract.files.work" if dag == "kpo_group" else "work"


def size_of(dag: str) -> int:
    """How many task instances one run of a DAG has."""
    return {"kpo_mapped": 3, "kpo_mapped_deferrable": 3, "chaos_mapped": 2}.get(dag, 1)
