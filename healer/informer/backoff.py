"""Patience with what fails: delays that grow up to a limit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import chain, repeat

from healer.clock import boottime

MAX_BACKOFF = 30.0
RESET_AFTER = 60.0
"""Seconds of life after which a death counts as the first one again."""


class Backoff:
    """Delays that double up to a limit, and begin anew after a steady time."""

    def __init__(self, first: float, clock: Callable[[], float] = boottime) -> None:
        """Take the first delay in seconds; after 0 comes 1."""
        self._first = first
        self._clock = clock
        self._delay: float | None = None
        self._until = 0.0

    def next(self) -> float:
        """Return how long to wait now, in seconds."""
        now = self._clock()
        if self._delay is None or now > self._until + RESET_AFTER:
            self._delay = self._first
        else:
            self._delay = min(max(self._delay * 2, 1.0), MAX_BACKOFF)
        self._until = now + self._delay
        return self._delay


class ApiBackoff:
    """kopf's delays between the attempts of one request, without an end.

    One namespace that is forbidden, or a server that is away, then doesn't end the whole watch.
    """

    def __iter__(self) -> Iterator[float]:
        for delay in chain((1, 2, 4, 8, 16), repeat(MAX_BACKOFF)):
            yield delay * random.uniform(0.8, 1.2)
