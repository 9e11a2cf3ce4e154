"""Telling people: findings as JSON and Kubernetes Events on the Pods.

Events are written by a thread of their own, at most five per second: healing never waits for them and goes on without
the right to write them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from itertools import count
from typing import Any

from msgspec import UNSET, Struct

from healer.causes import Explained, explain
from healer.cluster import Cluster, Outcome, Result
from healer.log import get_logger
from healer.model import Action, Finding, Pod, Reason, TaskInstance, Withheld, rfc3339
from healer.notices import Noted
from healer.waste import holds, idle_since

DETECTED = frozenset(
    {Reason.ORPHANED, Reason.SUPERSEDED, Reason.ABANDONED, Reason.TASK_REMOVED, Reason.RUN_DELETED},
)
"""Reasons that are worth an Event while the Pod is still there; a finished leftover is only told when it is deleted."""

EVENTS_PER_SECOND = 5
BACKLOG = 1000
"""Events that may wait; more are dropped, the log and the metrics have them."""

ROOM_FOR_LEFTOVERS = BACKLOG // 2
"""How many may wait when one about a mere leftover is added: thousands of these must not crowd out an orphan's."""

LEFTOVER_DELETED = "LeftoverDeleted"

log = get_logger(__name__)


class Shown(Struct, frozen=True):
    """One finding as users see it. `since` and `due` are epoch seconds in the API server's time.

    `before` is the task instance as last seen before it ended, where somebody has looked.
    """

    pod: Pod
    airflow: str
    finding: Finding
    action: Action
    withheld: Withheld | None = None
    since: float | None = None
    due: float | None = None
    before: TaskInstance | None = None
    notices: tuple[Noted, ...] = ()

    @property
    def cause(self) -> Explained | None:
        """Why the Pod was left behind, where that is known."""
        return explain(self.pod, self.finding, self.before)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding in the form of the JSON output."""
        return {
            "namespace": self.pod.namespace,
            "pod": self.pod.name,
            "uid": self.pod.uid,
            "airflow": self.airflow,
            "task": _task(self.finding.task),
            "labels": _labels(self.pod),
            "reason": self.finding.reason.value,
            "action": self.action.value,
            "withheld": self.withheld.value if self.withheld else None,
            "detail": self.finding.detail,
            "since": rfc3339(self.since),
            "due": rfc3339(self.due),
            "holds": _holds(self.pod, self.finding.task),
            "cause": known.to_dict() if (known := self.cause) else None,
            "notices": [{"name": noted.notice.value, "detail": noted.detail} for noted in self.notices],
        }


def _task(task: TaskInstance | None) -> dict[str, Any] | None:
    if task is None:
        return None
    return {
        "dag_id": task.dag_id,
        "run_id": task.run_id,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "try_number": task.try_number,
        "state": None if task.state is UNSET else task.state,
    }


def _holds(pod: Pod, task: TaskInstance | None) -> dict[str, Any] | None:
    """What a Pod occupies, and since when nobody has needed that; None where it occupies nothing any more."""
    if not holds(pod):
        return None
    return {
        "cpu_cores": pod.cpu_cores,
        "memory_bytes": pod.memory_bytes,
        "extended": dict(pod.extended),
        "since": rfc3339(idle_since(pod, task)),
    }


def _labels(pod: Pod) -> dict[str, str]:
    labels = pod.labels
    found = {name: getattr(labels, name) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")}
    return {name: value for name, value in found.items() if value is not None}


def subject(finding: Finding) -> str:
    """Name the task instance of a finding for a sentence."""
    task = finding.task
    if task is None:
        return "its task instance"
    mapped = f" [{task.map_index}]" if task.map_index >= 0 else ""
    return f"task {task.task_id}{mapped} of DAG {task.dag_id}, run {task.run_id}"


class Notable(Struct, frozen=True):
    """One notice as users see it."""

    pod: Pod
    airflow: str
    noted: Noted
    task: TaskInstance | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the notice in the form of the JSON output."""
        return {
            "notice": self.noted.notice.value,
            "namespace": self.pod.namespace,
            "pod": self.pod.name,
            "uid": self.pod.uid,
            "airflow": self.airflow,
            "task": _task(self.task),
            "detail": self.noted.detail,
        }


def _sentence(finding: Finding) -> str:
    return f"{finding.reason}: {subject(finding)}: {finding.detail}"


def _left(cause: Explained | None) -> str:
    """Say why a Pod was left behind. At the end of an Event, where the API server's limit cuts off what is least."""
    return f"; left behind: {cause.cause}: {cause.detail}; remedy: {cause.remedy}" if cause else ""


class _Event(Struct, frozen=True):
    pod: Pod
    reason: str
    message: str
    warning: bool


class _Rank(IntEnum):
    """What is written first: somebody waits for the Events of orphans, and nobody for those of leftovers."""

    ORPHAN = 0
    LEFTOVER = 1
    END = 2


class Herald:
    """Writes Events about Pods, in the background: those of orphans first, each kind in order."""

    def __init__(self, cluster: Cluster, *, pause: Callable[[float], object] = time.sleep) -> None:
        """Prepare; nothing is written before `start`. `pause` waits between two Events."""
        self._cluster = cluster
        self._pause = pause
        self._waiting: queue.PriorityQueue[tuple[_Rank, int, _Event | None]] = queue.PriorityQueue(BACKLOG)
        self._numbers = count()
        self._stopping = threading.Event()
        self._full = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write what is waiting, for at most `timeout` seconds and no faster than ever."""
        self._stopping.set()
        with suppress(queue.Full):  # then the writer is awake anyway
            self._waiting.put_nowait((_Rank.END, next(self._numbers), None))
        if self._thread.is_alive():
            self._thread.join(timeout)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def detected(
        self, pod: Pod, finding: Finding, action: Action, withheld: Withheld | None, cause: Explained | None = None
    ) -> None:
        """Tell that a Pod is an orphan and still there."""
        if finding.reason in DETECTED:
            why = f"; not deleted: {withheld.value}" if withheld else f"; policy: {action.value}"
            self._say(pod, "OrphanDetected", f"{_sentence(finding)}{why}{_left(cause)}", warning=True)

    def deletion(self, pod: Pod, finding: Finding, outcome: Outcome, cause: Explained | None = None) -> None:
        """Tell what became of a DELETE."""
        sentence = f"{_sentence(finding)}{_left(cause)}"
        match outcome.result:
            case Result.DELETED:
                self._say(pod, "OrphanDeleted" if finding.reason in DETECTED else LEFTOVER_DELETED, sentence)
            case Result.DENIED | Result.ERROR:
                self._say(pod, "DeletionFailed", f"{outcome.message} {sentence}", warning=True)

    def _say(self, pod: Pod, reason: str, message: str, *, warning: bool = False) -> None:
        """Queue an Event. Never blocks; a flood is told once in the log and not once per Event."""
        rank = _Rank.LEFTOVER if reason == LEFTOVER_DELETED else _Rank.ORPHAN
        try:
            if rank is _Rank.LEFTOVER and self._waiting.qsize() >= ROOM_FOR_LEFTOVERS:
                raise queue.Full
            self._waiting.put_nowait((rank, next(self._numbers), _Event(pod, reason, message, warning)))
            self._full = False
        except queue.Full:
            if not self._full:
                log.warning("Events are dropped: too many are waiting", waiting=BACKLOG)
            self._full = True

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._cluster.post_event(event.pod, event.reason, event.message, warning=event.warning)
            except Exception:
                # The rim of this thread: one Event that can't be written must not end all others.
                log.warning("an Event could not be written", pod=str(event.pod), exc_info=True)
            self._pause(1 / EVENTS_PER_SECOND)

    def _next(self) -> _Event | None:
        """Wait for the next Event; None when it is time to stop and none is waiting."""
        if self._stopping.is_set() and self._waiting.empty():
            return None
        return self._waiting.get()[2]
