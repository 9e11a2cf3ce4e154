"""Simulated time, and who does what when: healers are greenlets that sleep until their next step.

A greenlet can be left between any two of its requests, and never be resumed: so a frozen process, one that is killed,
and two that work at the same time are all the same to the clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from greenlet import GreenletExit, getcurrent, greenlet


class Actor:
    """A thread of a simulated process: when it goes on, and whether it may."""

    __slots__ = ("_greenlet", "halted", "name", "wake")

    def __init__(self, name: str, run: Callable[[], None], hub: greenlet, wake: float) -> None:
        self.name, self.wake, self.halted = name, wake, False
        self._greenlet = greenlet(run, hub)

    @property
    def is_current(self) -> bool:
        """Whether it is the one that runs."""
        return getcurrent() is self._greenlet

    def resume(self) -> None:
        """Let it go on until it sleeps; what it raises is raised here."""
        self._greenlet.switch()

    def end(self) -> None:
        """Let it end where it is."""
        if not self._greenlet.dead and not self.is_current:
            self._greenlet.throw(GreenletExit)


class Agenda:
    """The clock (seconds) and the actors. `soonest` says when something else happens, `tick` lets it happen."""

    def __init__(self, time: float, soonest: Callable[[], float], tick: Callable[[], None]) -> None:
        self.time = time
        self._find_soonest, self._tick = soonest, tick
        self._next: float | None = None
        self._hub = getcurrent()
        self._actors: list[Actor] = []
        self._ended: list[Actor] = []
        self._current: Actor | None = None

    def clock(self) -> float:
        """Return the time."""
        return self.time

    def touch(self) -> None:
        """Note that what happens beside the actors may be another thing now, or at another time."""
        self._next = None

    def _soonest(self) -> float:
        if self._next is None:
            self._next = self._find_soonest()
        return self._next

    def add(self, name: str, run: Callable[[], None], wake: float) -> Actor:
        """Start an actor."""
        actor = Actor(name, run, self._hub, wake)
        self._actors.append(actor)
        return actor

    def remove(self, actor: Actor) -> None:
        """End an actor: at once, or where it goes to sleep next if it is the one that runs."""
        if actor in self._actors:
            self._actors.remove(actor)
        actor.halted = True
        self._ended.append(actor)
        self._bury()

    def sleep(self, seconds: float) -> None:
        """Let time pass for whoever calls."""
        actor = self._current
        if actor is None:
            self.run_until(self.time + seconds)
            return
        wake = self.time + seconds
        if wake < self._soonest() < math.inf and not actor.halted and self._is_first(actor, wake):
            self.time = wake
            return
        actor.wake = wake
        self._hub.switch()

    def _is_first(self, actor: Actor, wake: float) -> bool:
        for other in self._actors:  # noqa: SIM110 - no generator where so much time is spent
            if other.wake <= wake and other is not actor:
                return False
        return True

    def halt_here(self) -> None:
        """Stop whoever calls, if it was frozen or killed meanwhile."""
        if self._current is not None and self._current.halted:
            self.sleep(0.0)

    def run_until(self, time: float) -> None:
        """Let all happen that happens until then."""
        while self.step(time):
            pass
        self.time = max(self.time, time)

    def step(self, limit: float = math.inf) -> bool:
        """Let the next thing happen, unless that is after `limit`; return whether there was one."""
        actor, wake = None, math.inf
        for each in self._actors:
            if each.wake < wake and not each.halted:
                actor, wake = each, each.wake
        other = self._soonest()
        at = min(other, wake)
        if at > limit or at == math.inf:
            return False
        if at > self.time:
            self.time = at
        if other <= wake or actor is None:
            self._tick()
        else:
            self._run(actor)
        return True

    def close(self) -> None:
        """End all actors."""
        for actor in list(self._actors):
            self.remove(actor)

    def _run(self, actor: Actor) -> None:
        actor.wake = math.inf
        self._current = actor
        try:
            actor.resume()
        finally:
            self._current = None
        self._bury()

    def _bury(self) -> None:
        if self._ended and self._current is None:
            ended, self._ended = self._ended, []
            for actor in ended:
                actor.end()
