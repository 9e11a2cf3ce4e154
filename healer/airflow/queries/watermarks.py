"""Since when a task instance may have ended unseen.

A pass asks only for what has ended since the last good answer. "Since" is a time that Airflow itself has written, so
that our clock does not matter, less ten minutes for workers whose clocks differ and for transactions that commit late.
A wrong mark costs time, never a Pod: whatever slips through is seen by the next audit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from healer.airflow.api.task_key import TaskKey
from healer.model import TaskInstance

OVERLAP = 600.0
"""Seconds that are asked for again."""

AHEAD = 60.0
"""Seconds by which a time may be ahead of the API server's clock; beyond, the worker's clock is wrong."""


class Watermarks:
    """Up to when each cell is known. A cell without a mark must be asked about without a date."""

    def __init__(self) -> None:
        self._newest: float | None = None
        self._marks: dict[TaskKey, float] = {}

    @property
    def newest(self) -> float | None:
        """The newest time in any answer so far: taken before a question is sent, it says up to when that covers."""
        return self._newest

    def see(self, rows: Iterable[TaskInstance], date: float | None) -> float | None:
        """Take note of an answer's times and of the server's clock; return the newest time of this answer."""
        limit = float("inf") if date is None else date + AHEAD
        times = (time for row in rows for time in (row.start_date, row.end_date) if time is not None and time <= limit)
        floor = [] if date is None else [date - OVERLAP]
        newest = max([*times, *floor], default=None)
        self._newest = later(self._newest, newest)
        return newest

    def covered(self, task_keys: Iterable[TaskKey], until: float | None, *, first: bool) -> None:
        """A complete answer about these task keys has come, good until that time.

        `first`: only for task keys without a mark. An answer about some new Pods of a cell says nothing to its others.
        """
        if until is None:
            return
        for task_key in task_keys:
            if not first or task_key not in self._marks:
                self._marks[task_key] = until

    def marked(self, task_key: TaskKey) -> bool:
        """Whether there is a mark."""
        return task_key in self._marks

    def since(self, task_keys: Iterable[TaskKey]) -> str | None:
        """Return from when on to ask for the task keys, as RFC 3339; None if there is one without a mark, or with one
        that no calendar has."""
        marks = [self._marks.get(task_key) for task_key in task_keys]
        if not marks or None in marks:
            return None
        oldest = min(mark for mark in marks if mark is not None)
        try:
            return datetime.fromtimestamp(oldest - OVERLAP, UTC).isoformat()
        except (OverflowError, OSError, ValueError):
            return None

    def keep_only(self, task_keys: set[TaskKey]) -> None:
        """Forget the marks of all other task keys."""
        self._marks = {task_key: mark for task_key, mark in self._marks.items() if task_key in task_keys}


def later(one: float | None, other: float | None) -> float | None:
    """Return the later of two times, either of which may be unknown."""
    return one if other is None else other if one is None else max(one, other)
