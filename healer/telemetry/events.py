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

from msgspec import Struct

from healer.cluster import Cluster
from healer.log import get_logger
from healer.model import (
    Action,
    CauseFinding,
    DeleteResult,
    DeleteStatus,
    Finding,
    Pod,
    Reason,
    Withheld,
    rfc3339,
)
from healer.telemetry.findings import subject

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


def _sentence(finding: Finding) -> str:
    return f"{finding.reason}: {subject(finding)}: {finding.detail}"


def _cause_text(cause: CauseFinding | None) -> str:
    """Say why a Pod was left behind; `explain` has the remedy.

    At the end of an Event, where the API server's limit cuts off what is least.
    """
    return f"; left behind: {cause.cause}: {cause.detail}" if cause else ""


class _QueuedEvent(Struct, frozen=True):
    pod: Pod
    reason: str
    message: str
    warning: bool


class _Rank(IntEnum):
    """What is written first: somebody waits for the Events of orphans, and nobody for those of leftovers."""

    ORPHAN = 0
    LEFTOVER = 1
    END = 2


class EventRecorder:
    """Writes Events about Pods, in the background: those of orphans first, each kind in order."""

    def __init__(self, cluster: Cluster, *, pause: Callable[[float], object] = time.sleep) -> None:
        """Prepare; nothing is written before `start`. `pause` waits between two Events."""
        self._cluster = cluster
        self._pause = pause
        self._waiting: queue.PriorityQueue[tuple[_Rank, int, _QueuedEvent | None]] = queue.PriorityQueue(BACKLOG)
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

    def record_detected(
        self,
        pod: Pod,
        finding: Finding,
        action: Action,
        withheld: Withheld | None,
        cause: CauseFinding | None = None,
        *,
        due: float | None = None,
    ) -> None:
        """Tell that a Pod is an orphan and still there; `due` is since when it may be acted on, in epoch seconds."""
        if finding.reason in DETECTED:
            since = f"; due since {moment}" if (moment := rfc3339(due)) else ""
            why = f"; not deleted: {withheld.value}" if withheld else f"; policy: {action.value}"
            text = f"{_sentence(finding)}{since}{why}{_cause_text(cause)}"
            self._enqueue(pod, "OrphanDetected", text, warning=True)

    def record_deletion(
        self, pod: Pod, finding: Finding, outcome: DeleteResult, cause: CauseFinding | None = None
    ) -> None:
        """Tell what became of a DELETE."""
        sentence = f"{_sentence(finding)}{_cause_text(cause)}"
        match outcome.status:
            case DeleteStatus.DELETED:
                self._enqueue(pod, "OrphanDeleted" if finding.reason in DETECTED else LEFTOVER_DELETED, sentence)
            case DeleteStatus.DENIED | DeleteStatus.ERROR:
                self._enqueue(pod, "DeletionFailed", f"{outcome.message} {sentence}", warning=True)

    def _enqueue(self, pod: Pod, reason: str, message: str, *, warning: bool = False) -> None:
        """Queue an Event. Never blocks; a flood is told once in the log and not once per Event."""
        rank = _Rank.LEFTOVER if reason == LEFTOVER_DELETED else _Rank.ORPHAN
        try:
            if rank is _Rank.LEFTOVER and self._waiting.qsize() >= ROOM_FOR_LEFTOVERS:
                raise queue.Full
            self._waiting.put_nowait((rank, next(self._numbers), _QueuedEvent(pod, reason, message, warning)))
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

    def _next(self) -> _QueuedEvent | None:
        """Wait for the next Event; None when it is time to stop and none is waiting."""
        if self._stopping.is_set() and self._waiting.empty():
            return None
        return self._waiting.get()[2]


class Silence(EventRecorder):
    """Writes nothing: for a look from outside the cluster, which must leave no trace there."""

    def start(self) -> None:
        """Start nothing."""

    def alive(self) -> bool:
        """Return True: nothing can have died."""
        return True

    def _enqueue(self, pod: Pod, reason: str, message: str, *, warning: bool = False) -> None:
        """Say nothing."""
