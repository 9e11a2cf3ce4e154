"""The walk: every order of events up to a depth, each state visited once."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tests.simulation.exhaustive.digest import digest
from tests.simulation.exhaustive.events import EVENTS, Event, later
from tests.simulation.exhaustive.model import START, Before, LeaseRecord, Row, Setup, Side, World, must_go
from tests.simulation.exhaustive.replica import CONFIG, NAMES, Body, Stop, Violation

MOST_LIVES = 2
"""How often a replica may start in a story."""

PATIENCE = 25
"""Rounds of 8 s in which every orphan must be gone once nothing fails any more, counted anew from the next audit."""

CALM = "32 s pass, past the grace, in which both replicas look after their Lease"

REST = "8 s pass, in which both replicas look after their Lease"

Way = tuple[Any, ...]
"""How a state was reached: the words of the last event, and the way before it."""


class Theme(Struct, frozen=True):
    """What may happen in a walk: these events, and of these replicas the steps of their electors and their ends.

    `passes`: whether they make passes too. `further`: by how many events it can go deeper than all that can happen.
    `scenes`: where it begins, if not everywhere.
    """

    name: str
    words: str
    events: tuple[Event, ...]
    sides: tuple[int, ...] = (0, 1)
    electors: bool = True
    ends: bool = True
    passes: bool = True
    further: int = 0
    scenes: tuple[str, ...] = ()


def _themed(*groups: str) -> tuple[Event, ...]:
    return tuple(event for event in EVENTS if event.group in groups)


EVERYTHING = Theme("everything", "all that can happen", tuple(EVENTS))
THEMES = (
    EVERYTHING,
    Theme(
        "leadership",
        "both replicas, their Leases and the API server's answers; of Airflow only clears and ends",
        _themed("clear", "task ends", "API server's answers", "late DELETE", "time"),
        further=1,
    ),
    Theme(
        "elections",
        "only the electors, the API server's answers, the ends of the replicas, and time",
        _themed("API server's answers", "time"),
        passes=False,
        further=2,
        scenes=("nothing", "working"),
    ),
    Theme(
        "tries",
        "Airflow, KubernetesPodOperator and the Pods; one replica, which always leads when it makes a pass",
        tuple(event for event in EVENTS if event.group != "API server's answers" and event.name not in {"8s", "16s"}),
        sides=(0,),
        electors=False,
        ends=False,
        further=2,
    ),
)


def theme_of(name: str) -> Theme:
    """Return the theme of this name."""
    return next(theme for theme in THEMES if theme.name == name)


class Terms(Struct, frozen=True):
    """How a walk is made: its theme, the seconds it may take, and in one of how many states all faults are ended."""

    theme: Theme = EVERYTHING
    seconds: float = 1e9
    every: int = 50


class Next(Struct, frozen=True):
    """One event and the world after it; `violation` if it did harm."""

    name: str
    group: str
    words: str
    world: World
    violation: str | None = None


@dataclass
class Report:
    """What a walk came to. `states` are distinct, `seconds` those of a core; `left`: the time was over before the depth
    was reached."""

    depth: int = 0
    states: int = 0
    transitions: int = 0
    seconds: float = 0.0
    checked: int = 0
    left: bool = False
    layers: list[int] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    deletions: Counter[str] = field(default_factory=Counter)
    story: tuple[str, ...] = ()
    violation: str | None = None


class Walk:
    """Both replicas' real parts, and all that can happen to a world."""

    def __init__(self) -> None:
        self.bodies = (Body(0), Body(1))

    # --- where it begins --------------------------------------------------------------------------------------------

    def begin(self, setup: Setup) -> World:
        """Return the world before anything has happened: two replicas that know nothing, a Lease given away, no Pod."""
        sides = tuple(Side(body.new_brain(START, 0), body.new_mind(START, 1)) for body in self.bodies)
        row = Row()
        return World(
            setup,
            START,
            row,
            Before(row, frozenset()),
            None,
            (),
            setup.retries,
            (),
            (),
            (),
            "",
            LeaseRecord("", CONFIG.leader_election.lease_duration, 1, 1),
            (sides[0], sides[1]),
        )

    def after(self, world: World, words: Sequence[str]) -> World:
        """Return the world after these events. Raises ValueError where one can't happen."""
        for wanted in words:
            world = self._after(world, wanted)
        return world

    def _after(self, world: World, wanted: str) -> World:
        for each in self.nexts(world):
            if each.name == wanted:
                if each.violation is not None:
                    raise Violation(each.violation)
                return each.world
        possible = sorted({each.name for each in self.nexts(world)})
        raise ValueError(f"{wanted!r} can't happen here, only: {', '.join(possible)}")

    # --- what can happen --------------------------------------------------------------------------------------------

    def digest(self, world: World) -> bytes:
        """Return what makes a world the same as another."""
        return digest(world, self.bodies)

    def leads(self, world: World, index: int) -> bool:
        """Whether a replica may act now."""
        return self.bodies[index].leads(world)

    def nexts(self, world: World, theme: Theme | None = None) -> Iterator[Next]:
        """Yield all that can happen, or what of it belongs to a theme, and what comes of it."""
        theme = theme or EVERYTHING
        for event in theme.events:
            then = event.step(world)
            if then is not None:
                yield Next(event.name, event.group, event.words, then.settled())
        yield Next("calm", "time", CALM, self._wait(world, 4))
        if not theme.electors:
            yield Next("rest", "time", REST, self._wait(world, 1))
        for index in theme.sides:
            yield from self._of_side(world, index, theme)
        if world.late:
            yield self._late(world)

    def _late(self, world: World) -> Next:
        claim = world.late[0]
        words = f"the late DELETE of replica {NAMES[claim.side]} arrives"
        try:
            then, _ = self.bodies[claim.side].deliver(replace(world, late=world.late[1:]), claim)
        except Violation as violation:
            return Next("late", "late DELETE", words, world, str(violation))
        return Next("late", "late DELETE", words, then)

    def _of_side(self, world: World, index: int, theme: Theme) -> Iterator[Next]:
        side, body = world.sides[index], self.bodies[index]
        if theme.electors and not side.stopping:
            words = f"replica {NAMES[index]} looks after its Lease"
            yield from self._told(f"{NAMES[index]}_lease", "Lease", words, body.steps(world))
        if theme.ends:
            yield from self._ends(world, index)
        if theme.passes and (side.brain.tape is not None or body.leads(world)):
            yield from self._pass(world, index)

    def _ends(self, world: World, index: int) -> Iterator[Next]:
        """Yield how a replica's process can end."""
        side, body, name = world.sides[index], self.bodies[index], NAMES[index]
        if not side.stopping:
            words = f"replica {name} is told to stop"
            yield Next(f"{name}_stop", "replica stops", words, world.with_side(index, stopping=True))
        elif not any(claim.side == index and claim.sent for claim in world.claims) and side.life < MOST_LIVES:
            words = f"replica {name} gives its Lease away, ends, and starts anew"
            yield Next(f"{name}_resign", "replica stops", words, self._anew(body.resign(world), index))
        if side.life < MOST_LIVES:
            words = f"replica {name} is killed and starts anew"
            yield Next(f"{name}_kill", "replica killed", words, self._anew(world, index))

    def _pass(self, world: World, index: int) -> Iterator[Next]:
        name = NAMES[index]
        words = f"replica {name} {'goes on with' if world.sides[index].brain.tape else 'makes'} its pass"
        try:
            stops = self.bodies[index].passes(world, self.bodies[index].leads)
            yield from self._told(f"{name}_pass", "pass", words, stops)
        except Violation as violation:
            yield Next(f"{name}_pass", "pass", words, world, str(violation))

    @staticmethod
    def _told(name: str, group: str, words: str, stops: Iterable[Stop]) -> Iterator[Next]:
        for number, stop in enumerate(stops, 1):
            if stop.where:
                told = f"{words}, up to where {stop.where}"
                yield Next(f"{name}_{number}", f"{group}, overtaken", told, stop.world.settled())
            else:
                yield Next(name, group, f"{words} to its end", stop.world.settled())

    def _wait(self, world: World, times: int) -> World:
        """Let so many times 8 s pass while both replicas look after their Lease."""
        for _ in range(times):
            world = self._electors(later(world, 8.0)).settled()
        return world

    def _electors(self, world: World) -> World:
        for index in (0, 1):
            if not world.sides[index].stopping:
                *_, last = self.bodies[index].steps(world)
                world = last.world
        return world

    def _anew(self, world: World, index: int) -> World:
        """Let a process end at once and start anew; a DELETE past its check may still be on its way."""
        side, body = world.sides[index], self.bodies[index]
        life = side.life + 1
        fresh = Side(body.new_brain(world.now, 0), body.new_mind(world.now, life), side.link, life=life)
        claims = tuple(claim for claim in world.claims if claim.side != index)
        late = (*world.late, *(claim for claim in world.claims if claim.side == index and claim.sent))
        sights = tuple(sight for sight in world.sights if sight.side != index)
        return replace(world.with_side(index, **_fields(fresh)), claims=claims, late=late, sights=sights)

    # --- checks -----------------------------------------------------------------------------------------------------

    def trouble(self, world: World) -> str | None:
        """Return what must never be, if it is so in this world."""
        return "both replicas lead at once" if self.leads(world, 0) and self.leads(world, 1) else None

    def missed(self, world: World) -> str | None:
        """End all faults, let the replicas work, and return what should be gone then and is not."""
        if not _due(world):
            return None
        world = self._calm(world)
        for wait in (0.0, CONFIG.audit_interval):
            world = later(world, wait).settled()
            for _ in range(PATIENCE):
                world = self._round(world)
                if not _due(world):
                    return None
        return f"{_due(world)} is still there {PATIENCE * 8} s after the first audit without faults"

    def _calm(self, world: World) -> World:
        world = replace(world, airflow="", late=())
        for index in (0, 1):
            world = world.with_side(index, link="")
            world = self._anew(world, index) if world.sides[index].stopping else world
            if world.sides[index].brain.tape is not None:
                *_, last = self.bodies[index].passes(world, self.bodies[index].leads)
                world = last.world
        return world

    def _round(self, world: World) -> World:
        world = self._electors(world)
        for index in (0, 1):
            if self.leads(world, index):
                *_, last = self.bodies[index].passes(world, self.bodies[index].leads)
                world = last.world
        return later(world, 8.0).settled()

    # --- the walk ---------------------------------------------------------------------------------------------------

    def explore(self, start: World, depth: int, terms: Terms) -> Report:
        """Visit every state within `depth` events of `start`; stop at the first violation or when the time is over."""
        report, began, spent = Report(), time.monotonic(), time.process_time()
        seen: set[bytes] = {self.digest(start)}
        layer: list[tuple[World, Way]] = [(start, ())]
        report.layers.append(1)
        gc.disable()  # next to nothing here is cyclic, and looking for it in so many states takes half the time
        try:
            for level in range(1, depth + 1):
                left = replace(terms, seconds=terms.seconds - (time.monotonic() - began))
                layer = self._layer(layer, seen, report, left, keep=level < depth)
                report.states = len(seen)
                if report.violation is not None or report.left:
                    break
                report.depth = level
                report.layers.append(report.states - sum(report.layers))
        finally:
            gc.enable()
            report.seconds = time.process_time() - spent
            report.deletions = self.bodies[0].told + self.bodies[1].told
        return report

    def _layer(
        self,
        layer: list[tuple[World, Way]],
        seen: set[bytes],
        report: Report,
        terms: Terms,
        *,
        keep: bool,
    ) -> list[tuple[World, Way]]:
        further: list[tuple[World, Way]] = []
        until = time.monotonic() + terms.seconds
        for world, way in layer:
            if time.monotonic() > until:
                report.left = True
                break
            for each in self.nexts(world, terms.theme):
                report.transitions += 1
                report.groups[each.group] += 1
                here = (each.words, way)
                if each.violation is None:
                    key = self.digest(each.world)
                    if key in seen:
                        continue
                    seen.add(key)
                    each = replace(each, violation=self._examined(each.world, key, report, terms.every))
                if each.violation is not None:
                    report.violation, report.story = each.violation, _story(here)
                    return []
                if keep:
                    further.append((each.world, here))
        return further

    def _examined(self, world: World, key: bytes, report: Report, every: int) -> str | None:
        trouble = self.trouble(world)
        if trouble is None and int.from_bytes(key[:4], "big") % every == 0:
            report.checked += 1
            try:
                trouble = self.missed(world)
            except Violation as violation:
                trouble = f"after all faults had ended: {violation}"
        return trouble


def _fields(side: Side) -> dict[str, Any]:
    return {name: getattr(side, name) for name in side.__struct_fields__}


def _due(world: World) -> str:
    due = [f"{pod.name} ({why})" for pod in world.pods if (why := must_go(world, pod)) is not None]
    return " and ".join(due)


def _story(way: Way) -> tuple[str, ...]:
    words: list[str] = []
    while way:
        words.append(way[0])
        way = way[1]
    return tuple(reversed(words))
