"""Limits on what a pass may do: a breaker against mass deletion, and a rate limiter. They choose who is tried next.

Both are counted before anything is deleted and hold in report mode too, so that the preview is the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from healer import config
from healer.decision.quarantine import Suspect
from healer.model import Finding, Pod, Withheld, rfc3339_utc

OVERRIDE = "release.kpo-healer.io/"
"""Prefix of annotations on the Lease: the breaker of one Airflow is overridden until then (RFC 3339)."""

OVERRIDE_DURATION = timedelta(hours=1)

Withholds = Callable[[Pod, Finding], bool]
"""Whether nothing proves that a Pod is the Airflow's: see `OwnershipGuard.withholds`."""


class Breaker:
    """Stops the deletion of active Pods when too many of them are pending deletion at once.

    Such a pass is more likely a restored database or a wrong URL than a thousand real orphans. Open, it lets nothing
    through; after `coolDown` it is half-open and lets `minCount` through, then opens again; it closes when the share
    falls. Times are monotonic seconds.
    """

    def __init__(self, limits: config.BreakerConfig) -> None:
        """Start closed."""
        self._limits = limits
        self._opened: float | None = None
        self._left = 0

    @property
    def is_open(self) -> bool:
        """Whether it is open or half-open."""
        return self._opened is not None

    def update(self, *, active: int, pending_deletion: int, now: float, overridden: bool = False) -> None:
        """Take into account how many Pods are active, and how many of these are pending deletion, due or not.

        `overridden`: an operator has looked at it and wants all of it to go.
        """
        tripped = pending_deletion >= self._limits.min_count and pending_deletion > self._limits.max_share * active
        if overridden or not tripped:
            self._opened = None
        elif self._opened is None:
            self._open(now)

    def allowance(self, now: float) -> int | None:
        """How many active Pods may be deleted now; None is no limit."""
        if self._opened is None:
            return None
        return self._left if now >= self._opened + self._limits.cool_down else 0

    def consume(self, now: float) -> None:
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


class RateLimiter:
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

    def consume(self, now: float) -> None:
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


class Batch(Struct, frozen=True):
    """Who is tried next, who is not, and what withholds each of these now, by Pod uid."""

    suspects: tuple[Suspect, ...]
    left: tuple[Suspect, ...]
    withheld: Mapping[str, Withheld]


class Limits:
    """The breaker and the rate limiter of one Airflow."""

    def __init__(self, limits: config.LimitsConfig, now: float) -> None:
        """Start with the breaker closed and the full rate. `now` is monotonic seconds."""
        self.breaker = Breaker(limits.breaker)
        self.rate_limiter = RateLimiter(limits.deletions_per_minute, now)

    def consume(self, suspect: Suspect, now: float) -> None:
        """Count one deletion."""
        self.rate_limiter.consume(now)
        if suspect.active:
            self.breaker.consume(now)

    def next_batch(self, queue: Sequence[Suspect], most: float, now: float) -> Batch:
        """Take from the head of the queue as many as may be tried now, `most` of them at the most."""
        available = self.rate_limiter.available(now)
        room = most if available is None else min(most, available)
        allowance = self.breaker.allowance(now)
        batch: list[Suspect] = []
        left: list[Suspect] = []
        withheld: dict[str, Withheld] = {}
        for suspect in queue:
            stopped = _is_stopped(suspect, allowance)
            if stopped or len(batch) >= room:
                left.append(suspect)
                withheld[suspect.pod.uid] = Withheld.BREAKER if stopped else Withheld.RATE
                continue
            batch.append(suspect)
            if suspect.active and allowance is not None:
                allowance -= 1
        return Batch(tuple(batch), tuple(left), withheld)

    def preview(
        self, suspects: Iterable[Suspect], mode: config.Mode, withholds: Withholds, now: float
    ) -> dict[str, Withheld]:
        """Return what would be withheld, by Pod uid, if all that is due now were tried; nothing is spent."""
        withheld: dict[str, Withheld] = {}
        due = []
        for suspect in suspects:
            if suspect.due > now:
                withheld[suspect.pod.uid] = Withheld.NOT_DUE
            elif withholds(suspect.pod, suspect.finding):
                withheld[suspect.pod.uid] = Withheld.OWNERSHIP
            else:
                due.append(suspect)
        tried = self.next_batch(sorted(due, key=lambda s: (s.due, s.pod.created or 0.0)), math.inf, now)
        if mode is not config.Mode.ENFORCE:
            withheld |= {suspect.pod.uid: Withheld.REPORT_MODE for suspect in tried.suspects}
        return {**withheld, **tried.withheld}


def _is_stopped(suspect: Suspect, allowance: int | None) -> bool:
    """Whether the breaker keeps a suspect; it lets what is done pass."""
    return suspect.active and allowance is not None and allowance <= 0


def is_overridden(annotations: Mapping[str, str], airflow: str, now: float | None) -> bool:
    """Whether the breaker of an Airflow is overridden, by the annotations of the Lease.

    `now` is the API server's time (epoch seconds), if it is known.
    """
    until = _seconds(annotations.get(OVERRIDE + airflow))
    return until is not None and now is not None and now < until


def with_override(annotations: Mapping[str, str], airflow: str, now: float) -> tuple[dict[str, str], datetime]:
    """Return the annotations with the breaker of an Airflow overridden for an hour from `now` on (epoch seconds), and
    until when. What ended earlier is taken away."""
    until = datetime.fromtimestamp(int(now), UTC) + OVERRIDE_DURATION
    kept = {
        name: value
        for name, value in annotations.items()
        if not name.startswith(OVERRIDE) or is_overridden(annotations, name.removeprefix(OVERRIDE), now)
    }
    return {**kept, OVERRIDE + airflow: rfc3339_utc(until)}, until


def _seconds(text: str | None) -> float | None:
    """Return an RFC 3339 time as epoch seconds; None where it is missing, malformed or has no zone."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
