"""The model of the cluster: Pods with resourceVersions, the hints that a watch gives of them, and failures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace

from healer.informer import PodStore
from healer.model import Labels, Pod

EPOCH = 1_700_000_000.0
"""What the API server's clock shows when ours shows 0."""

HEARD = 120.0
"""Seconds within which a healer hears anew from the API server, and of its clock."""

NAMESPACES = ("airflow", "jobs")

Time = Callable[[], float]


class Key(NamedTuple):
    """The labels, read by the models' own rules: which task instance and try they point at."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int


def read_labels(labels: Labels) -> Key | None:
    """Return what the labels point at, None where one is missing or malformed."""
    dag, task, run, index, number = labels.dag_id, labels.task_id, labels.run_id, labels.map_index, labels.try_number
    if not (dag and task and run and number and _COUNT.fullmatch(number) and int(number)):
        return None
    if index is not None and not _COUNT.fullmatch(index):
        return None
    return Key(dag, task, run, -1 if index is None else int(index), int(number))


_COUNT = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


@dataclass(slots=True)
class Facts:
    """What the model knows of a Pod and nobody else does. Times are seconds of the simulated monotonic clock."""

    task: int | None
    born: float
    used_since: float | None = None
    free_since: float = math.inf
    proven_until: float = -math.inf
    """Until when something has said that it is ours: what was true when the healer asked may not be when it acts."""
    done_at: float | None = None
    done_at_server: float = 0.0
    gone_at: float = math.inf
    stuck: bool = False
    vanished_first: float = math.inf
    marked_by_user: bool = False
    key: Key | None = None
    maker: int | None = None
    """Who made it: `task`, or the task instance of another Airflow that has the same ids."""
    shared_since: float | None = None
    """Since when another Airflow uses it, or may."""


@dataclass
class Faults:
    """What is wrong with the API server right now."""

    unlisted: dict[str, str] = field(default_factory=dict)
    unread: bool = False
    delete: str = ""
    silent_clock: bool = False
    unfiltered: bool = False
    """Lists and watches leave the selector out of account."""


class Late(NamedTuple):
    """A hint that is under way."""

    at: float
    pod: Pod
    gone: bool


class Watcher:
    """One healer's watch, and its picture of the Pods: hints come at once, late, in the wrong order, or never."""

    def __init__(self, clock: Time, faults: Faults) -> None:
        self._clock, self._faults = clock, faults
        self.mode = "prompt"
        self.store = PodStore()
        self.late: list[Late] = []
        self.deaf_until = -math.inf

    def hint(self, pod: Pod, *, gone: bool = False) -> None:
        """Take note of a change, now or later."""
        now = self._clock()
        if self.mode == "lost":
            return
        at = now if self.mode == "prompt" else now + 45.0
        if self.mode == "reversed":  # each one overtakes its predecessor
            at = now + 90.0 - len(self.late)
        at = max(at, self.deaf_until)
        if at <= now:
            self._deliver(pod, gone)
        else:
            self.late.append(Late(at, pod, gone))

    def next_timer(self) -> float:
        """When a late hint arrives."""
        return min((late.at for late in self.late), default=math.inf)

    def deliver(self) -> None:
        """Deliver the late hints that are due."""
        now = self._clock()
        due = sorted((late for late in self.late if late.at <= now), key=lambda late: late.at)
        self.late = [late for late in self.late if late.at > now]
        for late in due:
            self._deliver(late.pod, late.gone)

    def _deliver(self, pod: Pod, gone: bool) -> None:
        if gone or not (pod.selected or self._faults.unfiltered):
            self.store.delete(pod.uid, pod.namespace, pod.resource_version)
        else:
            self.store.upsert(pod)


class Server:
    """The API server: truth about the Pods, and what it answers."""

    def __init__(self, clock: Time, touch: Callable[[], None] = lambda: None) -> None:
        """`touch` is called after each change."""
        self.clock, self.touch = clock, touch
        self.version = 100
        self.jumped = 0.0
        self._ahead, self._ahead_until = 0.0, -math.inf
        self.pods: dict[str, Pod] = {}
        self.facts: dict[str, Facts] = {}
        self.faults = Faults()
        self.watchers: list[Watcher] = []
        self.dirty: set[str] = set()
        self._going: dict[str, float] = {}
        self._born = 0

    @property
    def time(self) -> float:
        """What the API server's clock shows."""
        return EPOCH + self.clock() + self.jumped

    def jump(self, by: float) -> None:
        """Let the clock be off by so many seconds from now on."""
        if by < self.jumped:
            self._ahead, self._ahead_until = self.jumped, self.clock() + HEARD
        self.jumped = by

    @property
    def latest(self) -> float:
        """What a healer may take for its time at most: it was told the last time that it heard of the server."""
        ahead = self._ahead if self.clock() <= self._ahead_until else self.jumped
        return EPOCH + self.clock() + max(ahead, self.jumped)

    # --- what happens to Pods ---------------------------------------------------------------------------------------

    def create(self, pod: Pod, task: int | None, *, maker: int | None = None) -> Pod:
        """Add a Pod; uid, version and time are the server's to give. `maker`: who made it, if not this `task`."""
        self._born += 1
        self.version += 1
        uid = f"uid-{self._born}"
        pod = replace(pod, uid=uid, resource_version=str(self.version), created=math.floor(self.time))
        self.pods[uid] = pod
        maker = task if maker is None else maker
        self.facts[uid] = Facts(task, self.clock(), key=read_labels(pod.labels), maker=maker)
        self._changed(pod)
        return pod

    def change(self, uid: str, **fields: Any) -> None:
        """Write to a Pod: its resourceVersion changes too."""
        self.version += 1
        pod = self.pods[uid] = replace(self.pods[uid], resource_version=str(self.version), **fields)
        if "labels" in fields:
            self.facts[uid].key = read_labels(pod.labels)
        self._changed(pod)

    def end(self, uid: str, grace: float = 10.0) -> None:
        """Accept a deletion: the Pod terminates, and is gone after its grace period unless something holds it."""
        if uid in self.pods and not self.pods[uid].terminating:
            self.change(uid, terminating=True)
            facts = self.facts[uid]
            facts.gone_at = self.clock() + grace
            if not facts.stuck:
                self._going[uid] = facts.gone_at
                self.touch()

    def remove(self, uid: str) -> None:
        """Let a Pod vanish."""
        self.version += 1
        self._going.pop(uid, None)
        self._changed(replace(self.pods.pop(uid), resource_version=str(self.version)), gone=True)

    def expire(self) -> None:
        """Let all go whose grace period is over."""
        if not self._going:
            return
        now = self.clock()
        for uid in [uid for uid, at in self._going.items() if at <= now]:
            self.remove(uid)

    def next_timer(self) -> float:
        """When the next Pod vanishes."""
        return min(self._going.values()) if self._going else math.inf

    def of_name(self, namespace: str, name: str) -> Pod | None:
        """Return the Pod that has this name now."""
        for pod in self.pods.values():
            if pod.name == name and pod.namespace == namespace:
                return pod
        return None

    def _changed(self, pod: Pod, *, gone: bool = False) -> None:
        self.dirty.add(pod.uid)
        self.touch()
        for watcher in self.watchers:
            watcher.hint(pod, gone=gone)
