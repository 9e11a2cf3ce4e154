"""One healer as a process: its two threads (deciding, electing), its watch, its view of the time and of the servers.

What the controller does around the reconciler is done here in the same order: lists, passes, a fresh start whenever the
leadership is gained, nothing but a warm picture without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from healer.errors import ClusterError
from healer.leader_election import LeaderElector
from healer.model import Action, Finding, PassKind, Pod, Reason, Withheld
from healer.reconciler import Dependencies, Reconciler
from healer.schedule import Schedule
from tests.simulation.answers import AirflowSeam, Note, Notes
from tests.simulation.api import Api, Link
from tests.simulation.checks import Checks
from tests.simulation.cluster import Watcher
from tests.simulation.lease import LeaseSeam
from tests.simulation.verdict import NAME

if TYPE_CHECKING:
    from tests.simulation.agenda import Actor
    from tests.simulation.world import World


class Silent:
    """In the place of the recorder."""

    def record_detected(
        self, pod: Pod, finding: Finding, action: Action, withheld: Withheld | None, cause: Any, *, due: float | None
    ) -> None:
        """Say nothing."""

    def record_deletion(self, pod: Pod, finding: Finding, outcome: Any, cause: Any) -> None:
        """Say nothing."""


class Replica:
    """A healer; it can be frozen, killed and started again. `offset` is what its clock shows more than the model's."""

    def __init__(self, world: World, number: int, offset: float) -> None:
        self.world, self.number, self.offset = world, number, offset
        self.signed = "" if world.alone else f" (healer {'AB'[number]})"
        self.link = Link(world.server, world.agenda.sleep)
        self.watcher = Watcher(world.server.clock, world.server.faults)
        world.server.watchers.append(self.watcher)
        self.frozen_until = -math.inf
        self.starts_at = math.inf
        self.began = world.time
        self.lives = 0
        self.seen: Counter[str] = Counter()
        self._actors: list[Actor] = []
        self._stale: set[str] = set()
        self._term = 0
        self.start()

    # --- its life -----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the process is there, frozen or not."""
        return bool(self._actors)

    @property
    def frozen(self) -> bool:
        """Whether it is stopped."""
        return self.frozen_until > self.world.time

    def clock(self) -> float:
        """Return what its own clock shows (monotonic seconds)."""
        return self.world.agenda.time + self.offset

    def to_model(self, ours: float) -> float:
        """Return the model's time of a moment on our clock."""
        return ours - self.offset

    def start(self) -> None:
        """Start the process, knowing nothing."""
        world = self.world
        self.starts_at, self.started = math.inf, world.time
        self.lives += 1
        self.watcher.__init__(world.server.clock, world.server.faults)  # type: ignore[misc]
        self._stale = set(world.config.namespaces)
        self.api = Api(self.link, self.clock, world.whole.freshness, Checks(world, self))
        self.checks: Checks = self.api.wire.watchdog  # type: ignore[assignment]
        others = [replica.api.wire for replica in world.replicas if replica is not self]
        world.wires = [wire for wire in world.wires if wire.late and wire not in others] + others + [self.api.wire]
        self.reconciler: Reconciler | None = None
        self.schedule = Schedule(world.whole, self.clock())
        self._actors = [world.agenda.add("decide", self._decide, world.time)]
        self._new_elector()
        self._begin()

    def _new_elector(self) -> None:
        self.elector: LeaderElector | None = None
        self._term = 0
        if self.world.alone:
            return
        terms = self.world.whole.leader_election
        self.lease = LeaseSeam(self.world.lease, self.link, terms.retry_period, self.world.agenda.sleep)
        name = f"{'AB'[self.number]}{self.lives}"
        self.elector = LeaderElector(self.lease, terms, name, clock=self.clock, wall=self.world.wall)
        self._actors.append(self.world.agenda.add("elect", self._elect, self.world.time + 0.001))

    def kill(self, *, arrives: bool) -> None:
        """End the process where it is. `arrives`: what it has just sent does."""
        self.api.wire.lose(arrives=arrives)
        self._collect()
        actors, self._actors = self._actors, []
        self.elector = self.reconciler = None
        for actor in actors:
            self.world.agenda.remove(actor)

    def freeze(self, seconds: float) -> None:
        """Stop the process for a while; its clock goes on, and so does the watch's buffer."""
        self.frozen_until = self.watcher.deaf_until = self.world.time + seconds
        for actor in self._actors:
            actor.halted = True

    def thaw(self) -> None:
        """Let the process go on."""
        self.frozen_until = -math.inf
        for actor in self._actors:
            actor.halted = False

    def mend(self) -> None:
        """End all that is wrong with it."""
        self.link.fault = ""
        if not self.world.alone and self.elector is not None:
            self.lease.fault = ""
        self.thaw()
        self.watcher.mode, self.watcher.deaf_until = "prompt", -math.inf
        if not self.alive:
            self.start()
        self.relist()

    @property
    def waits(self) -> bool:
        """Whether something is to happen to it at a certain time."""
        return self.starts_at < math.inf or self.frozen_until > 0 or bool(self.watcher.late)

    def next_timer(self) -> float:
        """When it thaws or starts, a late hint comes, or a late DELETE arrives."""
        timer = min(self.starts_at, self.watcher.next_timer())
        return min(timer, self.frozen_until) if self.frozen_until > 0 else timer

    def tick(self) -> None:
        """Let that happen."""
        now = self.world.time
        if self.watcher.late:
            self.watcher.deliver()
        if 0 < self.frozen_until <= now:
            self.thaw()
        if self.starts_at <= now:
            self.start()

    # --- its leadership -----------------------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether the healer thinks that it may act: its `right`."""
        return self.elector is None or self.elector.is_leader()

    def why_not_leader(self) -> str | None:
        """Return why it may not act, by what the model knows of the Lease; None if it may."""
        if self.world.alone:
            return None
        deadline = self.world.terms.renew_deadline
        age = self.world.time - self.lease.renewed
        return None if age < deadline else f"it renewed its Lease {age:.1f} s ago, the deadline is {deadline:g} s"

    def _elect(self) -> None:
        assert self.elector is not None
        while True:
            led = self.elector.is_leader()
            pause = self.elector.try_acquire_or_renew()
            self.world.check_one_leader()
            if self.elector.is_leader() and not led:
                self._actors[0].wake = self.world.time
            self.world.agenda.sleep(max(0.05, pause))

    def resign(self) -> None:
        """SIGTERM: the deciding thread has ended, so the Lease is given away; then the process ends."""
        elector = self.elector
        if elector is None:
            self.kill(arrives=True)
            return
        self._collect()
        for actor in self._actors:
            self.world.agenda.remove(actor)

        def last_act() -> None:
            elector.release()
            self.kill(arrives=True)

        self.reconciler = None
        self._actors = [self.world.agenda.add("resign", last_act, self.world.time)]

    # --- its passes ---------------------------------------------------------------------------------------------------

    def note(self, uid: str) -> Note:
        """Return what it has seen of a Pod since it began."""
        return self.notes.of(uid)

    def _begin(self) -> None:
        """Begin to decide, knowing nothing."""
        world = self.world
        self.began = world.time
        self.foreign: set[str] = set()
        """Namespaces in which it has found another Airflow's Pod."""
        self.airflow: AirflowSeam = world.seam(world.ours, world.server, world.faults, self.clock, world.agenda.sleep)
        self.airflow.hook = world.hook
        self.notes: Notes = self.airflow.notes
        tools = Dependencies(
            self.api,
            Silent(),
            world.tally,
            self.leads,
            self.clock,
            lambda: 0.0,
            store=self.watcher.store,
            deleter=self.api,
        )  # type: ignore[arg-type]
        self.reconciler = Reconciler(world.config, self.airflow, tools)  # type: ignore[arg-type]
        self.schedule = Schedule(world.whole, self.clock())

    def relist(self) -> None:
        """Note that the watch started over: a LIST is due."""
        self._stale |= set(self.world.config.namespaces)

    def _decide(self) -> None:
        sleep = self.world.agenda.sleep
        while True:
            if self.leads():
                if self.elector is not None and self.elector.term != self._term:
                    self._term = self.elector.term
                    self.seen["term"] += 1
                    self._collect_airflow()
                    self._begin()
                sleep(self.one_pass())
            else:
                self.reconciler = None
                self._resync(PassKind.DUE)
                sleep(self.world.plan.interval)

    def one_pass(self) -> float:
        """Make the pass that is due; return the seconds until the next one."""
        world, reconciler = self.world, self.reconciler
        assert reconciler is not None
        kind = self.schedule.next(self.clock())
        world.tally.counts[f"pass: {kind.name.lower()}"] += 1
        world.tally.trail.append(kind.name)
        self._resync(kind)
        store = self.watcher.store
        unreadable = {n: why for n in world.config.namespaces if (why := store.why_unavailable(n)) is not None}
        picture = store.list_pods()
        self.checks.begin_pass(picture)
        reconciler.reconcile(picture, kind, unreadable)
        world.passes += 1
        self._note_foreign(reconciler, picture)
        return self.schedule.pause(self.clock(), reconciler.next_event())

    def _note_foreign(self, reconciler: Reconciler, picture: Sequence[Pod]) -> None:
        for pod in picture:
            record = reconciler.record(pod.uid)
            stamped = pod.selected and pod.owner_label not in {None, NAME}
            if stamped or (record is not None and record.finding.reason is Reason.OTHER_POD):
                self.foreign.add(pod.namespace)

    def _resync(self, kind: PassKind) -> None:
        """List what the controller lists."""
        stale, self._stale, store = self._stale, set(), self.watcher.store
        for namespace in self.world.config.namespaces:
            broken = kind is PassKind.FULL and store.why_unavailable(namespace) is not None
            if kind is PassKind.AUDIT or namespace in stale or broken:
                started = store.generation()
                try:
                    store.replace(namespace, self.api.list_pods(namespace), started)
                except ClusterError as error:
                    store.mark_unavailable(namespace, str(error))

    # --- what is counted ----------------------------------------------------------------------------------------------

    def _collect_airflow(self) -> None:
        for name, number in self.airflow.seen.items():
            self.seen[f"Airflow: {name}"] += number
        self.airflow.seen.clear()

    def _collect(self) -> None:
        self._collect_airflow()
        for name, number in self.api.wire.outcomes.items():
            self.seen[f"DELETE: {name}"] += number
        self.api.wire.outcomes.clear()
        if self.elector is not None:
            for name, number in self.lease.seen.items():
                self.seen[f"Lease: {name}"] += number
            self.lease.seen.clear()

    def collected(self) -> Counter[str]:
        """Return what was counted in all its lives."""
        self._collect()
        return self.seen
