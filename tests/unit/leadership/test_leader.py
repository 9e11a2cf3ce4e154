"""The elector: of any number of replicas at most one may act, whatever is delayed, lost or refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from healer.cluster import Lease
from healer.config import LeaderElectionConfig
from healer.errors import ClusterError, UnreachableError
from healer.leader_election import (
    AlwaysLeader,
    ElectionLoop,
    LeaderElector,
    identity,
)

TERMS = LeaderElectionConfig()
ELECTIONS = os.environ.get("KPO_HEALER_ELECTIONS")
"""How many random histories; without it a few, always the same ones."""
DURATION, DEADLINE, RETRY = 15.0, 10.0, 2.0


@dataclass
class Store:
    """The Lease as the API server keeps it."""

    lease: Lease | None = None
    version: int = 0
    writes: list[str] = field(default_factory=list)

    def create(self, lease: Lease) -> Lease:
        if self.lease is not None:
            raise ClusterError("already exists", status=409)
        return self._write(lease)

    def replace(self, lease: Lease) -> Lease:
        if self.lease is None:
            raise ClusterError("not found", status=404)
        if lease.resource_version != self.lease.resource_version:
            raise ClusterError("the object has been modified", status=409)
        return self._write(lease)

    def _write(self, lease: Lease) -> Lease:
        self.version += 1
        self.writes.append(lease.holder)
        self.lease = replace(lease, resource_version=str(self.version))
        return self.lease


@dataclass
class Trip:
    """How one request fares: how long until it arrives and until its answer does, and what is lost.

    `late`: a request whose sender has given up arrives all the same, after so many more requests of anybody.
    """

    there: float = 0.0
    back: float = 0.0
    fate: str = "arrives"
    late: int = 0


class Client:
    """What an elector has of the Store: requests that take time, get lost, or arrive long after."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def get(self) -> Lease | None:
        return self._world.travel(self._name, lambda: self._world.store.lease)

    def create(self, lease: Lease) -> Lease:
        return self._world.travel(self._name, lambda: self._world.store.create(lease))  # type: ignore[return-value]

    def replace(self, lease: Lease) -> Lease:
        return self._world.travel(self._name, lambda: self._world.store.replace(lease))  # type: ignore[return-value]


class World:
    """Some electors, each by a clock of its own, around one Lease."""

    def __init__(self, count: int, drift: float = 0.0) -> None:
        self.store, self.time = Store(), 1000.0
        self.trips: list[Trip] = []
        self.straying: list[tuple[int, Callable[[], object]]] = []
        self.during: Callable[[], None] = lambda: None
        self.electors = [self._elector(n, 5000.0 * n, 1 + n * drift) for n in range(count)]

    def _elector(self, n: int, offset: float, rate: float) -> LeaderElector:
        clock = lambda: offset + rate * self.time  # noqa: E731
        return LeaderElector(Client(self, f"e{n}"), TERMS, f"e{n}", clock=clock, wall=lambda: 0.0)

    def travel(self, name: str, act: Callable[[], Lease | None]) -> Lease | None:
        trip = self.trips.pop() if self.trips else Trip()
        self._arrivals()
        self._pass(trip.there)
        if trip.fate == "lost":
            if trip.late:
                self.straying.append((trip.late, act))
            raise UnreachableError("timeout")
        if trip.fate == "refused":
            raise ClusterError("503", status=503)
        found = act()
        self._pass(trip.back)
        if trip.fate == "unanswered":
            raise UnreachableError("timeout")
        return found

    def _arrivals(self) -> None:
        """Let requests arrive whose senders have long given up."""
        waiting, self.straying = self.straying, []
        for left, act in waiting:
            if left > 1:
                self.straying.append((left - 1, act))
                continue
            try:
                act()
            except ClusterError:
                continue

    def _pass(self, seconds: float) -> None:
        self.time += seconds / 2
        self.check()
        self.time += seconds / 2
        self.check()

    def leaders(self) -> list[str]:
        return [elector.identity for elector in self.electors if elector.is_leader()]

    def check(self) -> None:
        assert len(self.leaders()) <= 1, self.leaders()


TRIPS = st.builds(
    Trip,
    there=st.sampled_from([0.0, 0.0, 0.5, 3.0, 20.0]),
    back=st.sampled_from([0.0, 0.0, 0.5, 3.0, 20.0]),
    fate=st.sampled_from(["arrives", "arrives", "arrives", "lost", "refused", "unanswered"]),
    late=st.integers(0, 6),
)
MOVES = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 2), st.lists(TRIPS, max_size=4)),
    st.tuples(st.just("step"), st.integers(0, 2), st.just([])),
    st.tuples(st.just("resign"), st.integers(0, 2), st.lists(TRIPS, max_size=3)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 2.0, 4.9, 5.1, 9.9, 14.9, 15.1]), st.just([])),
    st.tuples(st.just("annotate"), st.just(0), st.just([])),
    st.tuples(st.just("delete"), st.just(0), st.just([])),
    st.tuples(st.just("restore"), st.just(0), st.just([])),
)


@settings(max_examples=int(ELECTIONS or 300), derandomize=not ELECTIONS, deadline=None)
@given(moves=st.lists(MOVES, max_size=40), drift=st.sampled_from([0.0, 0.02]))
def test_never_do_two_lead(moves: list[tuple[str, float, list[Trip]]], drift: float) -> None:
    """Any order of steps, delays, lost requests, lost answers, requests that arrive late, a Lease that is deleted or
    comes back as it was in a backup."""
    world = World(3, drift)
    for elector in world.electors:
        elector.try_acquire_or_renew()
    backup = world.store.lease
    for what, argument, trips in moves:
        world.trips = list(trips)
        if what == "step":
            world.electors[int(argument)].try_acquire_or_renew()
        elif what == "resign":
            world.electors[int(argument)].release()
        elif what == "wait":
            world.time += argument
        elif what == "annotate" and world.store.lease:
            world.store.replace(replace(world.store.lease, annotations={"a": str(world.time)}))
        elif what == "delete":
            world.store.lease = None
        elif what == "restore":
            restore(world, backup)
        world.check()
    recover(world)


def restore(world: World, backup: Lease | None) -> None:
    """Bring a backup back, when all have had a look at what is there now: nobody restores within two seconds.

    No request outlives the server that it was sent to.
    """
    world.trips.clear()
    for elector in world.electors:
        elector._note(world.store.lease)
    world.straying.clear()
    world.store.lease = backup


def recover(world: World) -> None:
    """When all faults have ended, one leads within the Lease's duration and an interval."""
    world.trips.clear()
    world.straying.clear()
    end = world.time + 1.1 * DURATION + RETRY
    while world.time < end:
        for elector in world.electors:
            elector.try_acquire_or_renew()
            world.check()
        world.time += RETRY / 2
    assert len(world.leaders()) == 1


# --- one thing at a time ----------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    return World(2)


def lead(world: World) -> tuple[LeaderElector, LeaderElector]:
    one, other = world.electors
    one.try_acquire_or_renew()
    other.try_acquire_or_renew()
    assert world.leaders() == []
    world.time += DURATION
    one.try_acquire_or_renew()
    other.try_acquire_or_renew()
    assert world.leaders() == ["e0"]
    return one, other


def test_the_first_makes_the_lease_waits_and_is_written_down(world: World) -> None:
    lead(world)
    lease = world.store.lease
    assert lease is not None
    assert (lease.holder, lease.duration, lease.transitions) == ("e0", DURATION, 1)
    assert lease.acquired == lease.renewed == "1970-01-01T00:00:00.000000Z"


def test_leadership_ends_with_the_deadline_counted_from_before_the_request(world: World) -> None:
    one, _ = lead(world)
    world.trips = [Trip(there=3.0, back=2.0)]
    sent = world.time
    one.try_acquire_or_renew()
    world.time = sent + DEADLINE - 0.01
    assert one.is_leader()
    world.time = sent + DEADLINE
    assert not one.is_leader()


def test_an_answer_that_comes_too_late_is_no_leadership(world: World) -> None:
    one, _ = world.electors
    world.trips = [Trip(back=DEADLINE + 1), Trip()]
    one.try_acquire_or_renew()
    assert not one.is_leader()


def test_a_leader_that_renews_keeps_the_term_and_writes_once_per_step(world: World) -> None:
    one, other = lead(world)
    for _ in range(20):
        world.time += one.try_acquire_or_renew()
        other.try_acquire_or_renew()
    assert (one.term, world.leaders()) == (1, ["e0"])
    assert world.store.writes == ["", *["e0"] * 21]
    assert world.store.lease is not None
    assert world.store.lease.transitions == 1


def test_a_dead_leader_is_followed_within_the_duration_and_an_interval(world: World) -> None:
    _, other = lead(world)
    dead = world.time
    while not other.is_leader():
        world.time += other.try_acquire_or_renew()
    assert DURATION <= world.time - dead <= DURATION + RETRY
    assert world.store.lease is not None
    assert (world.store.lease.holder, world.store.lease.transitions) == ("e1", 2)


def test_the_duration_that_the_holder_wrote_counts_if_it_is_longer(world: World) -> None:
    _, other = lead(world)
    assert world.store.lease is not None
    world.store.lease = replace(world.store.lease, duration=60.0)
    other.try_acquire_or_renew()
    world.time += 59
    other.try_acquire_or_renew()
    assert not other.is_leader()
    world.time += 1
    other.try_acquire_or_renew()
    assert other.is_leader()


def test_who_resigns_is_followed_at_the_next_step(world: World) -> None:
    one, other = lead(world)
    one.release()
    assert world.leaders() == []
    assert other.try_acquire_or_renew() == RETRY
    assert world.leaders() == ["e1"]
    one.release()
    assert world.leaders() == ["e1"], "only one's own Lease is given away"


def test_who_never_led_resigns_without_a_request(world: World) -> None:
    world.electors[0].release()
    assert world.store.writes == []


def test_a_lost_answer_of_the_renewal_does_not_end_the_term(world: World) -> None:
    one, _ = lead(world)
    world.trips = [Trip(fate="unanswered")]
    world.time += one.try_acquire_or_renew()
    assert one.is_leader()
    one.try_acquire_or_renew()
    assert (one.is_leader(), one.term) == (True, 1)


def test_a_term_that_ran_out_is_a_new_one_even_if_nobody_else_led(world: World) -> None:
    one, _ = lead(world)
    world.time += DEADLINE
    one.try_acquire_or_renew()
    assert not one.is_leader(), "that the Lease names us may be old"
    world.time += DURATION - DEADLINE
    one.try_acquire_or_renew()
    assert (one.is_leader(), one.term) == (True, 2)


def test_who_sees_another_holder_stops_at_once(world: World) -> None:
    one, _ = lead(world)
    assert world.store.lease is not None
    world.store.replace(replace(world.store.lease, holder="stranger"))
    one.try_acquire_or_renew()
    assert not one.is_leader()


def test_annotations_and_all_else_survive_a_renewal_and_are_seen_with_it(world: World) -> None:
    one, _ = lead(world)
    assert world.store.lease is not None
    source = {"metadata": {"labels": {"team": "data"}}}
    world.store.replace(replace(world.store.lease, annotations={"a": "b"}, source=source))
    one.try_acquire_or_renew()
    assert one.annotations == {"a": "b"}
    assert world.store.lease.annotations == {"a": "b"}
    assert world.store.lease.source == source
    assert (world.leaders(), one.term) == (["e0"], 1)


def test_a_lease_that_is_deleted_under_its_leader_is_made_anew_by_it_alone(world: World) -> None:
    one, other = lead(world)
    world.store.lease = None
    one.try_acquire_or_renew()
    other.try_acquire_or_renew()
    assert world.store.lease is not None
    assert (world.leaders(), world.store.lease.transitions) == (["e0"], 2)


def test_a_lease_that_another_one_makes_anew_is_waited_for_by_both(world: World) -> None:
    one, other = lead(world)
    world.store.lease = None
    other.try_acquire_or_renew()
    assert world.leaders() == ["e0"]
    one.try_acquire_or_renew()
    assert world.leaders() == []
    world.time += DURATION
    one.try_acquire_or_renew()
    other.try_acquire_or_renew()
    assert world.leaders() == ["e0"]


def test_a_lease_that_is_deleted_is_made_and_waited_for_by_who_has_never_seen_it(world: World) -> None:
    one, other = world.electors
    one.try_acquire_or_renew()
    world.time += DURATION
    one.try_acquire_or_renew()
    world.store.lease = None
    other.try_acquire_or_renew()
    other.try_acquire_or_renew()
    assert world.leaders() == ["e0"]
    world.time += DURATION
    assert world.leaders() == []
    other.try_acquire_or_renew()
    assert world.leaders() == ["e1"]


def test_a_lease_out_of_a_backup_is_believed_after_its_duration_only(world: World) -> None:
    one, other = lead(world)
    backup = world.store.lease
    one.release()
    other.try_acquire_or_renew()
    world.store.lease = backup  # names the first, which led yesterday
    one.try_acquire_or_renew()
    assert world.leaders() == ["e1"]
    other.try_acquire_or_renew()
    assert world.leaders() == []
    world.time += DURATION
    one.try_acquire_or_renew()
    assert world.leaders() == ["e0"]
    assert world.store.lease is not None
    assert world.store.lease.transitions == 2


def test_trouble_is_told_once_and_its_end(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one, _ = lead(world)
    for _ in range(3):
        world.trips = [Trip(fate="refused")] * 2
        one.try_acquire_or_renew()
    assert one.last_error == "503"
    world.trips.clear()
    one.try_acquire_or_renew()
    assert one.last_error is None
    out = capsys.readouterr().out
    assert out.count("can't be acquired or renewed") == 1
    assert out.count("can be reached again") == 1


def test_an_identity_is_never_twice_the_same() -> None:
    assert len({identity() for _ in range(100)}) == 100


def test_a_sole_replica_always_leads() -> None:
    assert (AlwaysLeader().is_leader(), AlwaysLeader().term, AlwaysLeader().annotations) == (True, 1, {})


# --- the campaign -----------------------------------------------------------------------------------------------------


class Stepped:
    """An elector that counts, and whose first step fails of a bug."""

    def __init__(self) -> None:
        self.steps, self.resigned = 0, False
        self.enough = threading.Event()

    def try_acquire_or_renew(self) -> float:
        self.steps += 1
        if self.steps == 1:
            raise RuntimeError("a bug")
        if self.steps > 3:
            self.enough.set()
        return 0.01

    def release(self) -> None:
        self.resigned = True


@pytest.mark.parametrize("settled", [True, False])
def test_a_campaign_steps_through_bugs_and_resigns_where_nothing_is_under_way(settled: bool) -> None:
    elector = Stepped()
    election_loop = ElectionLoop(elector, wait_idle=lambda: settled)  # type: ignore[arg-type]
    election_loop.start()
    assert elector.enough.wait(90)
    assert election_loop.alive()
    election_loop.stop(90)
    assert not election_loop.alive()
    assert elector.resigned is settled
