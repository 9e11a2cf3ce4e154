"""Limits on what a pass may do: a breaker against mass deletion, and a budget.

Both are counted before anything is deleted and hold in report mode too, so that the preview is the truth.
"""

from __future__ import annotations

import math

from healer import config


class Breaker:
    """Stops the deletion of active Pods when too many of them are condemned at once.

    Such a pass is more likely a restored database or a wrong URL than a thousand real orphans. Open, it lets nothing
    through; after `coolDown` it is half-open and lets `minCount` through, then opens again; it closes when the share
    falls. Times are monotonic seconds.
    """

    def __init__(self, limits: config.Breaker) -> None:
        """Start closed."""
        self._limits = limits
        self._opened: float | None = None
        self._left = 0

    @property
    def is_open(self) -> bool:
        """Whether it is open or half-open."""
        return self._opened is not None

    def update(self, *, active: int, condemned: int, now: float, lifted: bool = False) -> None:
        """Take into account how many Pods are active, and how many of these are condemned, ripe or not.

        `lifted`: somebody has looked at it and wants all of it to go.
        """
        tripped = condemned >= self._limits.min_count and condemned > self._limits.max_share * active
        if lifted or not tripped:
            self._opened = None
        elif self._opened is None:
            self._open(now)

    def allowance(self, now: float) -> int | None:
        """How many active Pods may be deleted now; None is no limit."""
        if self._opened is None:
            return None
        return self._left if now >= self._opened + self._limits.cool_down else 0

    def spend(self, now: float) -> None:
        """Count one deletion of an active Pod; the last one allowed while half-open opens it again."""
        if self._opened is None:
            return
        self._left -= 1
        if self._left <= 0:
            self._open(now)

    def next_event(self) -> float:
        """When it becomes half-open; infinite while it is closed."""
        return math.inf if self._opened is None else self._opened + self._limits.cool_down

    def _open(self, now: float) -> None:
        self._opened, self._left = now, self._limits.min_count


_ROUNDING = 1e-9
"""A token that only a rounding error keeps from being whole counts as whole."""


class Budget:
    """How many deletions may be sent now: a bucket of `deletionsPerMinute` tokens that fills at this rate."""

    def __init__(self, per_minute: int | None, now: float) -> None:
        """Start with a full bucket. `now` is monotonic seconds; None is unlimited."""
        self._per_minute = per_minute
        self._tokens = float(per_minute or 0)
        self._filled = now

    def available(self, now: float) -> int | None:
        """Return the whole tokens in the bucket; None is no limit."""
        if self._per_minute is None:
            return None
        self._fill(now)
        return int(self._tokens + _ROUNDING)

    def spend(self, now: float) -> None:
        """Take one token for one DELETE."""
        if self._per_minute is not None:
            self._fill(now)
            self._tokens -= 1

    def next_event(self, wanted: int) -> float:
        """When the bucket will hold this many tokens, or be full; infinite if it does already."""
        if self._per_minute is None:
            return math.inf
        missing = min(wanted, self._per_minute) - self._tokens
        return self._filled + missing * 60 / self._per_minute if missing > _ROUNDING else math.inf

    def _fill(self, now: float) -> None:
        if self._per_minute is not None:
            self._tokens = min(self._per_minute, self._tokens + (now - self._filled) * self._per_minute / 60)
            self._filled = now
