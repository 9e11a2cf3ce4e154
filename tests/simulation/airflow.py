"""The model of Airflow and of KubernetesPodOperator (KPO): task instances, their tries, and who holds which Pod.

It follows what was read in and measured on the provider: the Pod's label keeps the try that made it, adoption writes
nothing to the Pod, the identity is written after the Pod was created or adopted, and a worker can die between any two
of these steps.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import UNSET
from msgspec.structs import replace

from healer.model import Container, Labels, Pod, TaskInstance
from tests.simulation.cluster import Server, Time

RUN_ID = "scheduled__2026-01-01T00:00:00+00:00"
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed"})
"""States of a task instance that no try follows unless it is cleared. Its own copy: the healer's may be wrong."""

DOOMED = 90.0
"""Seconds in which a worker learns that its task instance was marked or cleared, and dies (Airflow 2's worst case)."""

IN_FLIGHT = 60.0
"""Seconds in which a request for a Pod may still be done whose sender was killed: the API server's request timeout."""

STARTING = 5.0
"""Seconds that a start may be under way: so long SQLite waits for a lock, and the start waits for nothing else."""

OVERTAKEN = frozenset({"success", "failed", "skipped", "up_for_retry"})
"""States that a start which read `queued` just before may overwrite with `running`; see the move "start overtakes"."""

_UNSAFE = re.compile(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-\.]|[^a-z0-9A-Z]*$")


def label_value(raw: str) -> str:
    """The provider's `make_safe_label_value`, as it stands there: what KPO writes, whatever the healer thinks of it."""
    safe = _UNSAFE.sub("", raw)
    if len(safe) > 63 or raw != safe:
        return safe[:53] + "-" + hashlib.md5(raw.encode(), usedforsecurity=False).hexdigest()[:9]
    return safe


Stage = Literal["search", "asked", "made", "watching", "deferred", "resuming", "ending"]
OnFinish = Literal["delete_pod", "delete_succeeded_pod", "keep_pod", "delete_active_pod"]


@dataclass(slots=True)
class Worker:
    """A try in progress: a worker process, or a trigger and what will be resumed from it."""

    number: int
    stage: Stage = "search"
    pod: str | None = None
    failing: bool = False
    lost: bool = False
    doomed_at: float = math.inf
    row: int = 0
    """The id of the row that it was to start."""


@dataclass(frozen=True)
class Setup:
    """What the author of the DAG chose, and which Airflow this is."""

    operator: str = "KubernetesPodOperator"
    namespace: str = "airflow"
    map_index: int = -1
    durable: bool = True
    deferrable: bool = False
    on_finish: OnFinish = "delete_pod"
    kill_keeps: bool = False
    store: bool = True
    xcom: bool = True
    base: str = "base"
    fixed_name: bool = False
    sidecar: bool = False
    restarts: bool = False
    retries: int = 1
    stamp: str | None = None
    elsewhere: bool = False
    dag: str = "etl"
    run: str = RUN_ID
    task: str = ""
    namesake_of: int | None = None
    """The task instance of ours whose ids this one of another Airflow has; None for one of ours."""


class Snapshot:
    """What Airflow's database said of a task instance from a moment on."""

    __slots__ = (
        "dag_exists",
        "fields",
        "held",
        "max_tries",
        "pushed",
        "row",
        "run_exists",
        "stored",
        "time",
        "xcom",
    )

    def __init__(self, time: float, task: Task, fields: Fields) -> None:
        """`fields` tells whether two are the same."""
        self.time, self.fields = time, fields
        self.row = task.row()
        self.held = task.held_as()
        self.stored, self.xcom = task.stored, task.xcom
        self.pushed, self.max_tries = task.pushed, task.retries
        self.run_exists, self.dag_exists = task.run_exists, task.dag_exists

    def says(self, fields: Fields) -> bool:
        """Whether nothing has changed."""
        return self.fields == fields


Fields = tuple[Any, ...]


@dataclass
class Task:
    """A task instance, the truth about it, and its rows in the past (for a replica that lags)."""

    index: int
    setup: Setup
    state: str | None = None
    number: int = 0
    ident: int = 1
    start: float | None = None
    end: float | None = None
    run_exists: bool = True
    dag_exists: bool = True
    row_exists: bool = True
    stored: str | None = None
    xcom: str | None = None
    holder: Worker | None = None
    zombies: list[Worker] = field(default_factory=list)
    retries: int = 1
    past: list[Snapshot] = field(default_factory=list)
    revived: set[int] = field(default_factory=set)
    unnamed: set[int] = field(default_factory=set)
    """Ids under which it lost what named its Pod, though it may have ended before: it was removed then."""
    idents: int = 1
    starting_until: float = -math.inf
    two: bool = False
    """Whether it is one of Airflow 2, where a row has no id and the XComs of a try outlive its end by some seconds."""
    idle: bool = False
    """Whether it was cleared after its end, and no try has begun since."""
    pushed: float | None = None
    """When the XCom was pushed, by Airflow's clock."""

    def __post_init__(self) -> None:
        """Compute the labels once: they are asked for again and again."""
        self._safe_ids = (label_value(self.dag_id), label_value(self.task_id), label_value(self.run_id))
        self.face = (*self._safe_ids, self.setup.map_index)

    @property
    def exists(self) -> bool:
        """Whether Airflow has a row."""
        return self.run_exists and self.dag_exists and self.row_exists

    @property
    def dag_id(self) -> str:
        """The raw id."""
        return self.setup.dag

    @property
    def run_id(self) -> str:
        """The raw id."""
        return self.setup.run

    @property
    def task_id(self) -> str:
        """Two mapped task instances share one task."""
        return self.setup.task or f"task-{self.place // 2 if self.setup.map_index >= 0 else self.place}"

    @property
    def place(self) -> int:
        """Its number among the task instances of its own Airflow."""
        return self.index if self.setup.namesake_of is None else self.setup.namesake_of

    @property
    def ours(self) -> bool:
        """Whether it is of the Airflow that the healer looks after."""
        return self.setup.namesake_of is None

    @property
    def ended(self) -> bool:
        """Whether no try is to come unless it is cleared."""
        return self.state in ENDED

    def labels(self, number: int | None = None) -> Labels:
        """Return the labels that a Pod of this try gets, None: of the current one."""
        index = str(self.setup.map_index) if self.setup.map_index >= 0 else None
        return Labels(*self._safe_ids, index, str(self.number if number is None else number))

    def row(self) -> TaskInstance | None:
        """Return the row as it is now."""
        if not self.exists:
            return None
        setup = self.setup
        return TaskInstance(
            self.dag_id,
            self.run_id,
            self.task_id,
            setup.map_index,
            None if self.two else f"id-{self.index}-{self.ident}",
            self.state if self.state != "" else UNSET,
            self.number,
            setup.operator,
            self.start,
            self.end,
            setup.base,
            "other" if setup.elsewhere else setup.namespace,
        )

    def fields(self) -> Fields:
        """Return all that the database holds."""
        return (
            self.state,
            self.number,
            self.ident,
            self.start,
            self.end,
            self.stored,
            self.xcom,
            self.pushed,
            self.retries if self.two else None,
            self.run_exists,
            self.dag_exists,
            self.row_exists,
        )

    def held_as(self) -> Fields:
        """Return what a Pod's use depends on beside the database: who works, how far, on which Pod."""
        holder = self.holder
        return () if holder is None else (holder.stage, holder.pod, holder.lost)

    def record(self, clock: float, fields: Fields) -> None:
        """Keep what the database says now, if it changed."""
        if not self.past or not self.past[-1].says(fields):
            self.past.append(Snapshot(clock, self, fields))

    def at(self, clock: float) -> Snapshot:
        """Return what the database said at this moment."""
        return next((each for each in reversed(self.past) if each.time <= clock), self.past[0])

    def restore(self, clock: float) -> None:
        """Take back all that the database holds; whoever was at work then is not heard of any more."""
        then = self.at(clock)
        self.state, self.number, self.ident, self.start, self.end, self.stored, self.xcom, *others = then.fields
        self.pushed, retries, *exists = others
        self.retries = self.retries if retries is None else retries
        self.starting_until = -math.inf
        self.run_exists, self.dag_exists, self.row_exists = exists
        self.revived.add(self.ident)
        stage, pod = then.held[:2] if then.held else ("search", None)
        if stage in {"deferred", "resuming"}:  # a trigger is in the database too, and takes up its Pod again
            self.holder = Worker(self.number, stage, pod, row=self.ident)
        elif self.state == "running":
            self.holder = Worker(self.number, lost=True)

    @property
    def named_by_xcom(self) -> str | None:
        """The Pod that the XCom names; in Airflow 2 that of the try before counts for nothing once a try runs."""
        old = self.two and self.state in {"running", "deferred"}
        return None if old and (self.pushed is None or self.pushed < (self.start or 0.0)) else self.xcom

    def begin_try(self) -> None:
        """Remove the XComs of the try before: Airflow 2 does that some seconds later, in the runner."""
        if not self.two:
            self.xcom = None

    def move(self, state: str | None, clock: float, *, anew: bool = False) -> None:
        """Go to a state. `anew`: the row gets another id, as at each retry and clear."""
        overtakes = self.state == "queued" and not anew and state in OVERTAKEN
        self.starting_until = clock + STARTING if overtakes else -math.inf
        self.state = state
        if anew:
            self.idents += 1
            self.ident = self.idents
        if state in {"success", "failed", "upstream_failed"}:
            self.end = clock
        elif state == "running":
            self.start, self.end, self.idle = clock, None, False
        elif state == "up_for_retry":
            self.end = clock
        elif state != "removed" and state not in ENDED and not self.two:  # a removed row keeps the end that it had
            self.end = None  # in Airflow 2 any row does, until it runs again


class Kpo:
    """What the operator does for a task instance: search, create, adopt, check, delete."""

    def __init__(self, server: Server, clock: Time) -> None:
        self._server, self._clock = server, clock
        self.seen: dict[str, int] = {}

    def count(self, what: str) -> None:
        """Count a thing that KPO did."""
        self.seen[what] = self.seen.get(what, 0) + 1

    def candidates(self, task: Task) -> list[str]:
        """Return the uids that the next search would find: the named Pod, else all that carry the labels, unchecked."""
        setup = task.setup
        if not setup.durable:
            return []
        named = self._server.of_name(setup.namespace, task.stored) if setup.store and task.stored else None
        if named is not None and not named.checked:
            return [named.uid]
        return [pod.uid for pod in self._labelled(task)]

    def _labelled(self, task: Task) -> list[Pod]:
        """Return the unchecked Pods that carry the task instance's labels, whatever their try."""
        key, namespace = task.labels(), task.setup.namespace
        return [
            pod
            for pod in self._server.pods.values()
            if _same(pod.labels, key) and pod.namespace == namespace and not pod.checked and pod.selected
        ]

    def search(self, task: Task, worker: Worker) -> str:
        """Adopt what is there, or create; return what came of it.

        Where an ended Pod is found it is deleted first: a worker may die before it has created another (`asked`).
        """
        if worker.stage == "asked":
            return self.create(task, worker)
        if task.two:
            task.xcom = None
        found = self.candidates(task)
        if len(found) > 1:
            worker.failing, worker.stage = True, "ending"
            self.count("found more than one")
            return f"finds {len(found)} Pods and fails"
        worker.stage = "made"
        if found and not self._replaces(task, self._server.pods[found[0]]):
            worker.pod = found[0]
            self.count("adopted" if self._server.pods[found[0]].labels.try_number != str(worker.number) else "found")
            return f"adopts {self._server.pods[found[0]].name}"
        if found:
            self._server.end(found[0])
            self.count("replaced")
            worker.stage = "asked"
            return f"finds {self._server.pods[found[0]].name} ended, and deletes it to make another"
        return self.create(task, worker)

    def _replaces(self, task: Task, pod: Pod) -> bool:
        over = {"delete_pod": {"Succeeded", "Failed"}, "delete_succeeded_pod": {"Succeeded"}}
        return pod.phase in over.get(task.setup.on_finish, set())

    def create(self, task: Task, worker: Worker) -> str:
        """Create a Pod, which carries the try of this worker: KPO takes it from the context with which it began."""
        setup = task.setup
        worker.stage = "made"
        name = f"load-{task.index}" if setup.fixed_name else f"load-{task.index}-{self._server.version}"
        if self._server.of_name(setup.namespace, name) is not None:
            worker.failing, worker.stage = True, "ending"
            self.count("name taken")
            return "can't create a Pod: the name is taken"
        containers = (Container(setup.base), *((Container("sidecar"),) if setup.sidecar else ()))
        pod = Pod(setup.namespace, name, "", "", None, "Pending", task.labels(worker.number), containers)
        worker.pod = self._server.create(_dressed(pod, task), task.place, maker=task.index).uid
        self.count("created")
        return f"creates {name}"

    def persist(self, task: Task, worker: Worker) -> None:
        """Write down which Pod is in use."""
        if not task.setup.durable and not task.setup.deferrable:
            self._part_twins(task, worker)
        pod = self._server.pods.get(worker.pod or "")
        worker.stage = "watching"
        if pod is None:
            return
        if task.setup.store and task.setup.durable:
            task.stored = pod.name
        if task.setup.xcom:
            task.xcom = pod.name

    def _part_twins(self, task: Task, worker: Worker) -> None:
        """Without re-attachment: of several unchecked Pods the youngest is taken, the first of the others marked."""
        found = self._labelled(task)
        if len(found) < 2:
            return
        youngest = max(found, key=lambda pod: pod.created or 0.0)
        other = next(pod for pod in found if pod is not youngest)
        worker.pod = youngest.uid
        self._server.change(other.uid, checked=True)
        if task.setup.on_finish == "delete_pod":
            self._server.end(other.uid)
        self.count("marked a twin")

    def cleanup(self, task: Task, worker: Worker, *, lost: bool) -> str:
        """End of execution: mark and delete as `on_finish_action` says; all errors are swallowed."""
        pod = self._server.pods.get(worker.pod or "")
        worker.stage = "ending"
        if pod is None:
            worker.failing = True
            return "finds its Pod gone"
        succeeded = _succeeded(pod, task.setup.base)
        worker.failing = worker.failing or not succeeded
        if lost:
            self.count("cleanup lost")
            return "can't clean up"
        deletes = self._deletes(task.setup.on_finish, pod, task.setup.base, succeeded)
        if not (succeeded and pod.phase == "Succeeded") or not deletes:
            self._server.change(pod.uid, checked=True)
        if deletes:
            self._server.end(pod.uid)
        elif not succeeded and not is_over(pod, task.setup.base):
            self.count("gave up")
        else:
            self.count("kept")
        return "deletes its Pod" if deletes else "keeps its Pod"

    @staticmethod
    def _deletes(action: OnFinish, pod: Pod, base: str, succeeded: bool) -> bool:
        if action == "delete_active_pod":
            return not is_over(pod, base)
        return action == "delete_pod" or (action == "delete_succeeded_pod" and succeeded)

    def kill(self, task: Task, worker: Worker, *, cleanly: bool) -> str:
        """Let a worker die; with `on_kill` if there is time for it."""
        if cleanly and worker.pod in self._server.pods and not task.setup.kill_keeps and worker.stage != "search":
            self._server.end(worker.pod or "")
            self.count("killed, Pod deleted")
            return "is killed and deletes its Pod"
        self.count("killed, Pod left")
        return "is killed without cleanup"


def is_over(pod: Pod, base: str) -> bool:
    """Whether the work in the Pod has ended, whatever its sidecars do."""
    return pod.phase in {"Succeeded", "Failed"} or any(c.name == base and c.terminated for c in pod.containers)


def _succeeded(pod: Pod, base: str) -> bool:
    return pod.phase == "Succeeded" or any(c.name == base and c.exit_code == 0 for c in pod.containers)


def _same(one: Labels, other: Labels) -> bool:
    mine = (one.dag_id, one.task_id, one.run_id, one.map_index)
    return mine == (other.dag_id, other.task_id, other.run_id, other.map_index)


def _dressed(pod: Pod, task: Task) -> Pod:
    owned = task.setup.operator == "KubernetesJobOperator" and task.place % 2 == 0
    return replace(pod, owned=owned, restart_never=not task.setup.restarts, owner_label=task.setup.stamp)
