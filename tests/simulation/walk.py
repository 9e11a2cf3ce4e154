"""The random walk: a plan and events from a seed, their replay, and the shrinking of a failure to a short story."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any

from msgspec import Struct, structs

from healer.model import Pod
from tests.simulation.airflow import Setup, label_value
from tests.simulation.checks import Violation
from tests.simulation.moves import heaviest, state_of, table
from tests.simulation.world import BEGIN, Event, Plan, Tally, World

LENGTHS = (40, 50, 60, 70)
"""Events in a history, at most; what can't happen any more is passed over."""

PAUSES = (0.2, 2.0, 8.0, 25.0, 80.0, 300.0)
PAUSE_SUMS = tuple(accumulate((35, 30, 22, 12, 5, 2)))
KINDS = ("task",) * 16 + ("pod",) * 8 + ("world",) * 3 + ("replica",)
KINDS_OF_TWO = (*KINDS, *("replica",) * 3)
KINDS_AT_CHECK = ("replica", "replica", "task", "pod")
"""Between the last check and the sending, what happens to the healer itself matters most."""

AFTERMATH = 1.0
"""Seconds by which a failure may come later when its story is told again without what it does not need."""

ATTEMPTS = 25
"""How often a draw is tried before all that can happen is listed."""

RARELY = 0.3
"""How often something happens where only rare things can: else all that has ended would be cleared at once."""

TWO = 0.4
"""How many histories have two healers."""

REST = 0.3
"""How many histories ask the model through the healer's own Airflow client."""

SECOND = 0.3
"""How many histories are of an Airflow 2, asked through the healer's own client."""

LEASES = (
    {"leaseDuration": "30s", "renewDeadline": "20s", "retryPeriod": "9s"},
    {"leaseDuration": "60s", "renewDeadline": "45s", "retryPeriod": "20s"},
    {"leaseDuration": "90s", "renewDeadline": "60s", "retryPeriod": "25s"},
)

ELECTS = True

NAMESAKES = 0.15
"""In how many histories another Airflow has the same ids in the same namespaces."""

REFUSED_AT_HOOK = 0.04
"""How often a login ends in mid-confirmation, between the row and which Pod Airflow names."""

AT_HOOK = 0.3
"""How often something happens in the middle of a confirmation or a DELETE."""


LEADER_AT_HOOK = 0.1
"""How often, of two healers, this is that the one which acts is stopped: a Lease lost in mid-pass is rare otherwise."""


class Result(Struct, frozen=True):
    """A history as it went."""

    seed: int
    plan: Plan
    events: tuple[Event, ...]
    tally: Tally
    pods: int
    end: float
    violation: str | None = None

    @property
    def hash(self) -> bytes:
        """What makes two histories the same: the task instances, and what happened in which order."""
        text = repr((self.plan, self.tally.trail))
        return hashlib.blake2b(text.encode(), digest_size=12).digest()


class Walker:
    """A director that makes up what happens as it goes, and remembers it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._left = random.choice(LENGTHS)
        self._at = BEGIN + self._pause()
        self.events: list[Event] = []

    def _pause(self) -> float:
        chance = self._random.random
        return PAUSES[bisect(PAUSE_SUMS, chance() * PAUSE_SUMS[-1])] * (0.5 + chance())

    def next_at(self) -> float:
        return self._at if self._left > 0 else math.inf

    def pop(self, world: World) -> Event | None:
        self._left -= 1
        at, self._at = self._at, self._at + self._pause()
        kinds = KINDS if world.alone else KINDS_OF_TWO
        return self._take(world, kinds[int(self._random.random() * len(kinds))], at)

    def at_hook(self, world: World, hook: str, pods: Sequence[Pod]) -> Event | None:
        chance = self._random.random
        if self._left <= 0 or chance() > AT_HOOK:
            return None
        self._left -= 1
        if not world.alone and chance() < LEADER_AT_HOOK:
            return self._stop_leader(world, hook)
        if hook == "asked" and chance() < REFUSED_AT_HOOK and not world.faults.mode:
            self.events.append(Event(world.time, "login ends", 0, chance(), hook))
            return self.events[-1]
        pod = pods[int(chance() * len(pods))]
        kinds = KINDS_AT_CHECK if hook == "checked" and not world.alone else KINDS
        kind = kinds[int(chance() * len(kinds))]
        if kind == "pod":
            return self._take(world, kind, world.time, hook, int(pod.uid[4:]))
        if kind == "task":
            return self._take(world, kind, world.time, hook, world.server.facts[pod.uid].task or 0)
        return self._take(world, kind, world.time, hook)

    def _stop_leader(self, world: World, hook: str) -> Event | None:
        """Freeze the healer that acts, for a while that its Lease may not outlast."""
        leader = next((replica.number for replica in world.replicas if replica.leads() and not replica.frozen), None)
        if leader is None:
            return None
        self.events.append(Event(world.time, "healer frozen", leader, self._random.random(), hook))
        return self.events[-1]

    def _take(self, world: World, kind: str, at: float, hook: str = "", only: int | None = None) -> Event | None:
        targets = world.targets(kind) if only is None else [(only, world.target(kind, only))]
        drawn = self._draw(world, kind, targets) if targets and targets[0][1] is not None else None
        if drawn is None:
            return None
        event = Event(at, *drawn, self._random.random(), hook)
        self.events.append(event)
        return event

    def _draw(self, world: World, kind: str, targets: Sequence[tuple[int, Any]]) -> tuple[str, int] | None:
        """Draw a target and a move by its weight, until one can happen. Trying is cheaper than listing all that can."""
        chance = self._random.random
        most, several = heaviest(kind), len(targets)
        for _ in range(ATTEMPTS):
            number, target = targets[int(chance() * several)] if several > 1 else targets[0]
            possible = table(kind, state_of(kind, target))
            drawn = chance() * most
            if drawn < possible.total:
                move = possible.moves[bisect(possible.weights, drawn)]
                if move.can(world, target):
                    return move.name, number
        return self._draw_among_all(world, kind, targets) if chance() < RARELY else None

    def _draw_among_all(self, world: World, kind: str, targets: Sequence[tuple[int, Any]]) -> tuple[str, int] | None:
        able = [
            (move, number)
            for number, target in targets
            for move in table(kind, state_of(kind, target)).moves
            if move.can(world, target)
        ]
        if not able:
            return None
        move, number = self._random.choices(able, [move.weight for move, _ in able])[0]
        return move.name, number


class Replay:
    """A director that repeats recorded events; those that can't happen any more are passed over."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._timed = [event for event in events if not event.hook]
        self._hooked = [event for event in events if event.hook]
        self._next = 0

    def next_at(self) -> float:
        return self._timed[self._next].at if self._next < len(self._timed) else math.inf

    def pop(self, world: World) -> Event | None:
        self._next += 1
        return self._timed[self._next - 1]

    def at_hook(self, world: World, hook: str, pods: Sequence[Pod]) -> Event | None:
        for number, event in enumerate(self._hooked):
            if event.hook == hook and event.at <= world.time:
                return self._hooked.pop(number)
        return None


def make_plan(random: Random) -> Plan:
    """Draw what a history begins with."""
    airflow = {
        "mode": random.choices(("enforce", "report"), (9, 1))[0],
        "ownership": "exclusive",
        "policy": {
            "minAge": random.choice(("0s", "2m")),
            "grace": random.choice(("1m", "2m")),
            "absentGrace": "5m",
            "sightings": random.choice((1, 2, 2, 3)),
            "retention": random.choice(
                (
                    {"succeeded": "0s", "failed": "3m", "kept": "2m", "purged": "4m", "longest": "6m"},
                    {"succeeded": "2m", "failed": "0s", "kept": "0s", "purged": "4m", "longest": "6m"},
                )
            ),
            "foreignOperators": ["OurJobOperator"],
            "actions": random.choice(
                (
                    {},
                    {"abandoned": "delete", "task-removed": "delete", "run-deleted": "delete", "purged": "delete"},
                    {"kept": "keep"},
                )
            ),
        },
        "limits": random.choice(
            (
                {"deletionsPerMinute": None, "breaker": {"maxShare": 1}},
                {"deletionsPerMinute": 60},
                {"deletionsPerMinute": 1, "breaker": {"maxShare": 1}},
                {"breaker": {"maxShare": 0.3, "minCount": 1, "coolDown": "2m"}},
            )
        ),
    }
    number = random.choice((1, 2, 2, 3, 3, 5, 8))
    setups = _named(random, [_setup(random, index) for index in range(number)])
    interval, skew = random.choice((30.0, 60.0)), random.choice((0.0, 0.0, -20.0, 20.0))
    two = ELECTS and random.random() < TWO
    lease = random.choice(LEASES) if two else None
    offsets = (random.choice((0.0, -4000.0, 9e5)), 0.0) if two else (0.0,)
    rest, silent = random.random() < REST, random.random() < 0.1
    if random.random() < NAMESAKES:
        setups = _with_namesakes(random, setups)
    hidden = frozenset(random.choices(((), ("store",), ("xcom",), ("store", "xcom")), (12, 1, 1, 1))[0])
    return Plan(airflow, interval, 300.0, skew, setups, lease, offsets, rest, silent, hidden)


def of_airflow_2(plan: Plan) -> Plan:
    """Return the same plan for an Airflow 2, which has no task state store."""
    setups = tuple(replace(setup, store=False) for setup in plan.setups)
    return structs.replace(plan, setups=setups, rest=True, two=True)


def _with_namesakes(random: Random, setups: tuple[Setup, ...]) -> tuple[Setup, ...]:
    """Add another Airflow's task instances that have the same ids in the same namespaces; never stamped for ours."""
    return (
        *setups,
        *(
            replace(
                _setup(random, number),
                namespace=setup.namespace,
                map_index=setup.map_index,
                dag=setup.dag,
                run=setup.run,
                task=setup.task,
                operator=setup.operator,
                stamp=None if setup.stamp is None else "staging",
                elsewhere=False,
                namesake_of=number,
            )
            for number, setup in enumerate(setups)
        ),
    )


def _named(random: Random, setups: list[Setup]) -> tuple[Setup, ...]:
    """Give the ids forms that their labels do not show: too long, not to be inverted, one that is another's label."""
    form = random.choices(("plain", "long", "odd", "twin"), (6, 1, 1, 1))[0]
    if form == "odd":
        return tuple(replace(setup, run="manual run no. 1 (again)") for setup in setups)
    if form == "long":
        dag, head = "etl " + "x" * 60, "load " + "y" * 60
        return tuple(replace(s, dag=dag, task=f"{head} {number}") for number, s in enumerate(setups))
    if form == "twin" and len(setups) > 1:
        raw = "load " + "z" * 60
        one, two = replace(setups[0], task=raw, map_index=-1), replace(setups[1], task=label_value(raw), map_index=-1)
        return (one, two, *setups[2:])
    return tuple(setups)


def _setup(random: Random, index: int) -> Setup:
    return Setup(
        operator=random.choices(("KubernetesPodOperator", "KubernetesJobOperator", "OurJobOperator"), (28, 3, 1))[0],
        namespace=random.choices(("airflow", "jobs"), (3, 1))[0],
        map_index=random.choice((-1, -1, index)),
        durable=random.random() < 0.65,
        deferrable=random.random() < 0.5,
        on_finish=random.choices(("delete_pod", "delete_succeeded_pod", "keep_pod", "delete_active_pod"), (4, 1, 2, 1))[
            0
        ],
        kill_keeps=random.random() < 0.2,
        store=random.random() < 0.65,
        xcom=random.random() < 0.75,
        base=random.choice(("base", "base", "main")),
        fixed_name=random.random() < 0.12,
        sidecar=random.random() < 0.3,
        restarts=random.random() < 0.1,
        retries=random.choice((0, 1, 2)),
        stamp=random.choices((None, "prod", "staging"), (10, 2, 1))[0],
        elsewhere=random.random() < 0.04,
    )


def walk(seed: int) -> Result:
    """Make the history of a seed."""
    random = Random(seed)
    plan = make_plan(random)
    # By a chance of its own: the histories of Airflow 3 stay what they are.
    if Random(f"dialect {seed}").random() < SECOND:
        plan = of_airflow_2(plan)
    walker, tally = Walker(random), Tally()
    world = World(plan, walker, tally)
    violation, end = _run(world, lambda: walker.next_at() < math.inf and world.step())
    return Result(seed, plan, tuple(walker.events), tally, len(world.server.facts), end, violation)


def replay(result: Result, events: Sequence[Event] | None = None, words: list[str] | None = None) -> Result:
    """Repeat a history, or what is left of its events."""
    events, tally = result.events if events is None else tuple(events), Tally(words=words)
    world = World(result.plan, Replay(events), tally)
    violation, _ = _run(world, lambda: world.step(result.end))
    return Result(result.seed, result.plan, events, tally, len(world.server.facts), result.end, violation)


def _run(world: World, goes_on: Callable[[], bool]) -> tuple[str | None, float]:
    """Let the history happen; return the violation if there was one, and when its moves had ended."""
    end = math.inf
    try:
        while goes_on():
            pass
        end = world.time
        while world.step(end):  # whatever falls on the same moment
            pass
        world.settle()
    except Violation as violation:
        return str(violation), min(end, world.time + AFTERMATH)
    finally:
        world.close()
        _collect(world)
    return None, end


def _collect(world: World) -> None:
    counts = world.tally.counts
    for name, number in world.kpo.seen.items():
        counts[f"KPO: {name}"] += number
    for replica in world.replicas:
        counts.update(replica.collected())
    counts["window"] += world.tally.windows
    counts["stale replica"] += world.tally.lagged
    counts["take-over"] += max(0, world.lease.takeovers - 1)


def shrink(result: Result) -> Result:
    """Leave out whatever is not needed for a violation: halves first, then single events, until none can go."""
    events, size = list(result.events), max(1, len(result.events) // 2)
    while True:
        before = len(events)
        start = 0
        while start < len(events):
            shorter = events[:start] + events[start + size :]
            if replay(result, shorter).violation is not None:
                events = shorter
            else:
                start += size
        if size == 1 and len(events) == before:
            break
        size = max(1, size // 2)
    return replay(result, events)


def story(result: Result) -> str:
    """Tell a history in words."""
    words: list[str] = []
    again = replay(result, words=words)
    setups = [f"task instance {index}: {setup}" for index, setup in enumerate(result.plan.setups)]
    head = [f"seed {result.seed}: {again.violation or 'all is well'}", f"configuration: {result.plan.airflow}", *setups]
    return "\n".join([*head, *words])
