"""Short histories told by hand, which a random walk comes upon by chance only: what must come of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from random import Random

import pytest

from tests.simulation.airflow import Setup
from tests.simulation.intruders import FLOOD
from tests.simulation.walk import Replay, make_plan
from tests.simulation.world import BEGIN, Event, Plan, Tally, World

POLICY = {
    "minAge": "0s",
    "grace": "1m",
    "absentGrace": "5m",
    "sightings": 2,
    "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"},
    "foreignOperators": [],
    "actions": {},
}
AIRFLOW = {
    "mode": "enforce",
    "ownership": "exclusive",
    "policy": POLICY,
    "limits": {"deletionsPerMinute": None, "breaker": {"maxShare": 1}},
}
ALONE = Setup(durable=False, deferrable=True, store=False, xcom=True, retries=0)
"""It looks for nobody else's Pod, and for none to part from its own."""

LONG = 1500.0
"""Seconds in which whatever is to be healed is healed."""


class Tale:
    """Events one after another."""

    def __init__(self) -> None:
        self._times = count(1)
        self.events: list[Event] = []

    def __call__(self, move: str, target: int = 0, choice: float = 0.9) -> Tale:
        self.events.append(Event(BEGIN + 0.1 * next(self._times), move, target, choice))
        return self

    def starts(self, task: int) -> Tale:
        """A try gets a Pod and writes down which."""
        for move in ("schedule", "queue", "start", "search", "persist"):
            self(move, task)
        return self

    def succeeds(self, task: int, pod: int) -> Tale:
        """The work ends, KPO deletes the Pod, the try ends."""
        self("Pod starts", pod)("base ends", pod, 0.1)("clean up", task)
        return self("end", task)

    def fails(self, task: int) -> Tale:
        """The worker dies and leaves its Pod."""
        return self("worker killed", task)


def plan(*setups: Setup, rest: bool = False, **policy: object) -> Plan:
    airflow = {**AIRFLOW, "policy": {**POLICY, **policy}}
    return Plan(airflow, 30.0, 300.0, 0.0, setups, rest=rest)


def lived(told: Plan, events: Sequence[Event], *, seconds: float = LONG) -> World:
    """Let it happen, and so many seconds more; raises Violation."""
    world = World(told, Replay(events), Tally())
    try:
        while world.step(BEGIN + seconds):
            pass
    finally:
        world.close()
    return world


def alive(world: World) -> set[int]:
    """The Pods that nobody deletes, by the order in which they were made."""
    return {int(uid[4:]) for uid, pod in world.server.pods.items() if not pod.terminating}


def healed(world: World) -> dict[int, float]:
    """When each Pod that is gone was deleted, in seconds since the beginning."""
    facts = world.server.facts
    return {int(uid[4:]): each.gone_at - BEGIN for uid, each in facts.items() if each.gone_at < math.inf}


# --- another Airflow with the same ids -------------------------------------------------------------------------------


def _namesakes(setups: Sequence[Setup]) -> Iterator[Setup]:
    yield from setups
    yield from (replace(setup, namesake_of=number) for number, setup in enumerate(setups))


@pytest.mark.parametrize("rest", [False, True])
def test_a_namesakes_pod_of_this_try_is_kept(rest: bool) -> None:
    tale = Tale().starts(0).starts(1).succeeds(0, 1)
    assert alive(lived(plan(*_namesakes([ALONE]), rest=rest), tale.events)) == {2}


@pytest.mark.parametrize("rest", [False, True])
def test_a_namesakes_done_pod_is_kept_until_its_own_airflow_has_read_it(rest: bool) -> None:
    tale = Tale().starts(0).starts(1)("Pod starts", 2)("base ends", 2, 0.1).succeeds(0, 1)
    assert alive(lived(plan(*_namesakes([ALONE]), rest=rest), tale.events)) == {2}


@pytest.mark.parametrize("rest", [False, True])
def test_a_namesakes_pod_of_an_earlier_try_is_kept_where_one_was_seen(rest: bool) -> None:
    """Stage has ended at try 2 and prod is at try 1; another of prod's Pods in this namespace gives prod away."""
    twice = replace(ALONE, retries=1)
    told = plan(*_namesakes([twice, ALONE]), rest=rest)
    tale = Tale().starts(1).starts(3).succeeds(1, 1)  # Pods 1 and 2: prod's second one gives it away
    tale.starts(0).starts(2).fails(0)("user deletes", 3, 0.9)  # Pods 3 and 4
    tale.starts(0).succeeds(0, 5)
    world = lived(told, tale.events)
    assert alive(world) == {2, 4}


@pytest.mark.parametrize("rest", [False, True])
def test_what_airflow_names_is_healed_where_a_namesake_was_seen(rest: bool) -> None:
    told = plan(*_namesakes([ALONE, ALONE]), rest=rest)
    tale = Tale().starts(1).starts(3).succeeds(1, 1).starts(0).fails(0)
    assert alive(lived(told, tale.events)) == {2}


@pytest.mark.parametrize("rest", [False, True])
def test_a_namesake_that_was_seen_is_not_forgotten(rest: bool) -> None:
    """The Pod that gave it away is gone for more than an audit when the next one is in question."""
    told = plan(*_namesakes([replace(ALONE, retries=1), ALONE]), rest=rest)
    early = Tale().starts(1).starts(3).succeeds(1, 1).starts(0).starts(2).fails(0)("user deletes", 3, 0.9)
    late = Tale()("user deletes", 2, 0.9)
    later = Tale().starts(0).succeeds(0, 5)
    events = [*early.events, *_shifted(late, 200.0), *_shifted(later, 900.0)]
    assert alive(lived(told, events, seconds=2 * LONG)) == {4}


def _shifted(tale: Tale, seconds: float) -> list[Event]:
    return [Event(event.at + seconds, event.move, event.target, event.choice) for event in tale.events]


@pytest.mark.parametrize("rest", [False, True])
def test_a_copy_that_was_given_up_is_not_abandoned(rest: bool) -> None:
    tale = Tale().starts(0)("debug copy", 0)("user checks", 2).fails(0)
    assert alive(lived(plan(ALONE, rest=rest, actions={"abandoned": "delete"}), tale.events)) == {2}


# --- what is gone, and what was moved --------------------------------------------------------------------------------

PURGED = {"actions": {"purged": "delete"}, "retention": {**POLICY["retention"], "purged": "15m"}}


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("move", ["run deleted", "DAG deleted"])
def test_what_is_purged_has_a_retention_of_its_own(move: str, rest: bool) -> None:
    tale = Tale().starts(0)("Pod starts", 1)("base ends", 1, 0.1).fails(0)(move, 0)
    told = plan(ALONE, rest=rest, **PURGED)
    assert alive(lived(told, tale.events, seconds=850.0)) == {1}
    assert alive(lived(told, tale.events)) == set()


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("move", ["run deleted", "DAG deleted"])
def test_what_still_works_is_not_purged(move: str, rest: bool) -> None:
    tale = Tale().starts(0)("Pod starts", 1).fails(0)(move, 0)
    assert alive(lived(plan(ALONE, rest=rest, **PURGED), tale.events)) == {1}


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize(("named", "left"), [(True, set()), (False, {1})])
def test_a_pod_that_a_hook_moved_is_healed_where_airflow_names_it(named: bool, left: set[int], rest: bool) -> None:
    moved = replace(ALONE, elsewhere=True, xcom=named)
    assert alive(lived(plan(moved, rest=rest), Tale().starts(0).fails(0).events)) == left


# --- what spoils the answer about itself -----------------------------------------------------------------------------

FORGED = {
    f"{number}-{status}": (("Pods forged", 0, (place + part) / len(FLOOD)),)
    for place, number in enumerate(FLOOD)
    for status, part in ((422, 0.05), (500, 0.15))
}
BROKEN = {f"{number}-rows": tuple(("row breaks", task, 0.5) for task in range(6, 6 + number)) for number in (1, 2, 12)}


@pytest.mark.parametrize("spoils", [*FORGED.values(), *BROKEN.values()], ids=[*FORGED, *BROKEN])
def test_what_spoils_its_own_answer_holds_up_nobody_else(spoils: Sequence[tuple[str, int, float]]) -> None:
    """Orphans on both sides of it in every order are healed in the very pass in which they are healed without it."""
    setups = [replace(ALONE, task=f"t{n:02}", dag="ahm"[n % 3]) for n in range(6)]
    setups += [replace(ALONE, task=f"u{n:02}", dag="ham"[n % 3]) for n in range(12)]

    def orphans() -> Tale:
        tale = Tale()
        for task in range(len(setups)):
            tale.starts(task)
        for task in range(6):
            tale.fails(task)
        return tale

    without = healed(lived(plan(*setups, rest=True), orphans().events))
    tale = orphans()
    for move, target, choice in spoils:
        tale(move, target, choice)
    with_it = healed(lived(plan(*setups, rest=True), tale.events))
    assert len(without) == 6
    assert _passes(with_it) == _passes(without)


def _passes(times: dict[int, float]) -> dict[int, int]:
    """Times as numbers of passes: an answer takes a little longer where something is asked again."""
    return {pod: round(at / 30.0) for pod, at in times.items()}


def test_a_row_that_mends_is_asked_about_again() -> None:
    tale = Tale().starts(0).starts(1)("row breaks", 0).fails(0).fails(1)
    told = plan(ALONE, replace(ALONE, task="other"), rest=True)
    assert alive(lived(told, tale.events)) == {1}
    tale.events.append(Event(BEGIN + LONG, "row mends", 0, 0.5))
    assert alive(lived(told, tale.events, seconds=2 * LONG)) == set()


# --- who may not read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [0.1, 0.5, 0.9], ids=["login", "right", "gate"])
def test_a_login_that_ends_between_the_row_and_the_name(choice: float) -> None:
    """The 403 of an identity source is none that has nothing: the Pod is a copy of the one that Airflow names."""
    tale = Tale().starts(0)("debug copy", 0).fails(0)
    tale.events.append(Event(BEGIN + 1.0, "login ends", 0, choice, "asked"))
    assert 2 in alive(lived(plan(ALONE, rest=True), tale.events))


# --- who is none of ours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [False, True])
def test_an_executors_pod_is_kept_where_the_selector_is_ignored(rest: bool) -> None:
    tale = Tale().starts(0)("executor's Pod", 0)("selector ignored").fails(0)
    nameless = replace(ALONE, xcom=False)  # else Airflow would name another Pod
    assert alive(lived(plan(nameless, rest=rest), tale.events)) == {2}


def test_every_plan_can_be_read() -> None:
    """Namesakes, hidden sources and all."""
    plans = [make_plan(Random(seed)) for seed in range(300)]
    assert any(len({setup.namesake_of for setup in each.setups}) > 1 for each in plans)
    assert {each.hidden for each in plans} >= {frozenset(), frozenset({"store"}), frozenset({"xcom"})}
