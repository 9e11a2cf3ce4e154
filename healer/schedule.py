"""When which pass is made, and whether whoever makes them still does. Pure but for the clock that it is given."""

from __future__ import annotations

from collections.abc import Callable

from healer.clock import boottime
from healer.config import Config
from healer.model import PassKind

BETWEEN_PASSES = 0.5
"""Seconds between two passes at the least, so that suspects falling due one after another are taken together."""


class Heartbeat:
    """Says whether the deciding thread still makes steps. Each request that ends is one, and so is each pass."""

    def __init__(self, patience: float, clock: Callable[[], float] = boottime) -> None:
        """`patience` in seconds."""
        self._patience, self._clock = patience, clock
        self._last = clock()

    def beat(self) -> None:
        """Note a step."""
        self._last = self._clock()

    def check(self) -> tuple[bool, str]:
        """Whether the last step is recent, and a sentence."""
        age = self._clock() - self._last
        return age <= self._patience, f"the last step ended {age:.0f} s ago (allowed: {self._patience:.0f} s)"


class Schedule:
    """When which pass is made. Times are monotonic seconds."""

    def __init__(self, config: Config, now: float) -> None:
        """Begin with an audit at once."""
        self._interval, self._audit_interval = config.interval, config.audit_interval
        self._next_pass = self._next_audit = now

    def next(self, now: float) -> PassKind:
        """Return the pass to make now."""
        kind = PassKind.AUDIT if now >= self._next_audit else PassKind.FULL if now >= self._next_pass else PassKind.DUE
        if kind is PassKind.AUDIT:
            self._next_audit = now + self._audit_interval
        if kind is not PassKind.DUE:
            self._next_pass = now + self._interval
        return kind

    def pause(self, now: float, event: float) -> float:
        """Return the seconds until the next pass; `event` is when a reconciler wants one."""
        return max(BETWEEN_PASSES, min(self._next_pass, self._next_audit, event) - now)
