"""The account of what suspects have held since their task instance ended, in resource-seconds.

Each second of a Pod is counted once. Counting begins with the end of the task instance where Airflow tells it, else
with our first sight; but not before this term of leadership began: what was before that, the leader of that time has
counted, and the sum over all replicas stays right. It ends when the Pod is deleted, ends by itself, or is no suspect
any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from healer.decision.quarantine import Now, Suspect
from healer.insights.resource_usage import idle_since, task_end, total
from healer.model import Amounts


class UsageMeter:
    """Up to when each suspect of one Airflow is accounted for."""

    def __init__(self, began: float) -> None:
        """`began` is when this term began, in monotonic seconds."""
        self._began = began
        self._until: dict[str, float] = {}

    def accrue(self, suspects: Iterable[Suspect], deleted: Iterable[Suspect], now: Now) -> Amounts:
        """Return the resource-seconds since the last time, those of Pods just deleted included."""
        staying = list(suspects)
        seconds = []
        for suspect in (*staying, *deleted):
            until = self._until.get(suspect.pod.uid)
            since = until if until is not None else max(self._began, min(suspect.since, _end(suspect, now)))
            seconds.append((suspect.pod, max(0.0, now.ours - since)))
        self._until = {suspect.pod.uid: now.ours for suspect in staying}
        return total(seconds)


def _end(suspect: Suspect, now: Now) -> float:
    """Return when the need for a Pod ended, in our monotonic seconds; never, where it is not known."""
    if task_end(suspect.finding.task) is None:
        return math.inf
    idle = idle_since(suspect.pod, suspect.finding.task)
    return math.inf if idle is None else now.to_ours(idle)
