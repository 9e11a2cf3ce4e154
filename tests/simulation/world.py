"""One history: the models, real healers between them, and the clock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from healer.config import AirflowConfig, Config
from healer.leader_election import LeaderElector  # noqa: F401 - what a healer is made of is imported with the world
from healer.model import Pod, Reason, Withheld
from tests.simulation import intruders, latecomers  # noqa: F401 - their moves are among the others
from tests.simulation.agenda import Agenda
from tests.simulation.airflow import DOOMED, Kpo, Setup, Task, is_over
from tests.simulation.answers import AirflowFaults, AirflowSeam
from tests.simulation.api import Wire
from tests.simulation.checks import Violation
from tests.simulation.cluster import EPOCH, NAMESPACES, Facts, Server
from tests.simulation.lease import LeaseObject
from tests.simulation.moves import MOVES
from tests.simulation.replica import Replica
from tests.simulation.verdict import NAME, POLICY, Verdict, seconds, wishes

MIDDLE = {
    "": "",
    "asked": " (before Airflow's answer)",
    "answered": " (before the DELETE)",
    "checked": " (between the last check and the sending)",
    "sent": " (the DELETE is on its way)",
}
"""The moments of a request in which things can happen, in words."""

BEGIN = 5000.0


class Event(Struct, frozen=True):
    """One thing that happened: when, what, to whom, in which variant, and in the middle of which request if any."""

    at: float
    move: str
    target: int
    choice: float
    hook: str = ""


class Plan(Struct, frozen=True):
    """What a history begins with: the healer's configuration (as in the file), the task instances, the replicas.

    `lease` is the part `leaderElection` of the file, None for a sole replica. `rest`: through the real
    Airflow client. `silent_clock`: the API server does not tell its time at first. `hidden`: sources of
    the identity (store, xcom) that the healer's account may never read.
    """

    airflow: Mapping[str, Any]
    interval: float
    audit: float
    skew: float
    setups: tuple[Setup, ...]
    lease: Mapping[str, str] | None = None
    offsets: tuple[float, ...] = (0.0,)
    rest: bool = False
    silent_clock: bool = False
    hidden: frozenset[str] = frozenset()
    two: bool = False
    """Whether the Airflow is one of the second kind."""


class Director(Protocol):
    """Says what happens when."""

    def next_at(self) -> float:
        """When the next event happens; infinite after the last."""

    def pop(self, world: World) -> Event | None:
        """Return the event that happens now."""

    def at_hook(self, world: World, hook: str, pods: Sequence[Pod]) -> Event | None:
        """Return what happens in the middle of this request."""


@dataclass
class Tally:
    """What is counted; in the place of the healer's metrics. `words` tells the story if it is wanted."""

    counts: Counter[str] = field(default_factory=Counter)
    words: list[str] | None = None
    trail: list[str] = field(default_factory=list)
    events: int = 0
    windows: int = 0
    lagged: int = 0

    def deletion(self, airflow: str, reason: Reason, result: str) -> None:
        self.counts[f"deletion: {result}"] += 1

    def pods(self, airflow: str, counts: Mapping[Reason, int]) -> None:
        for reason in counts:
            self.counts[_REASONS[reason]] += 1

    def withheld(self, airflow: str, counts: Mapping[Withheld, int]) -> None:
        for why in counts:
            self.counts[f"withheld: {why.value}"] += 1

    def breaker(self, airflow: str, is_open: bool) -> None:
        self.counts["breaker open"] += is_open

    def set_aside(self, airflow: str, count: int) -> None:
        self.counts["set aside"] += count

    def regret(self, airflow: str, reason: Reason) -> None:
        self.counts[f"regret: {reason.value}"] += 1

    def ignore(self, *_: object) -> None:
        """Figures that the simulation does not need."""

    healing_delay = suspects = notices = held = wasted = reclaimed = pass_done = ignore
    withheld_longest = kept_longest = ownership_refuted = ignore


_REASONS = {reason: f"reason: {reason.value}" for reason in Reason}

_CONFIGS: dict[str, Config] = {}


@dataclass(frozen=True)
class Terms:
    """The Lease's times in seconds, as the user wrote them."""

    lease_duration: float
    renew_deadline: float
    retry_period: float


def parsed(plan: Plan) -> Config:
    """Return the configuration of a plan; reading one anew each time would cost more than the history."""
    key = repr((plan.airflow, plan.interval, plan.audit, plan.lease))
    if key not in _CONFIGS:
        basics = {"name": NAME, "namespaces": list(NAMESPACES), "url": "http://airflow:8080", "token": "t"}
        times = {"interval": f"{plan.interval:g}s", "auditInterval": f"{plan.audit:g}s"}
        election = {"leaderElection": plan.lease or {"enabled": False}}
        _CONFIGS[key] = Config.model_validate({"airflows": [basics | dict(plan.airflow)], **times, **election})
    return _CONFIGS[key]


class World:
    """Everything of one history."""

    def __init__(self, plan: Plan, director: Director, tally: Tally) -> None:
        self.plan, self.director, self.tally = plan, director, tally
        self.whole = parsed(plan)
        self.config: AirflowConfig = self.whole.airflows[0]
        self.wanted = wishes(plan.airflow)
        self.alone = plan.lease is None
        lease = plan.lease or {}
        times = (seconds(lease.get(name, "0s")) for name in ("leaseDuration", "renewDeadline", "retryPeriod"))
        self.terms = Terms(*times)
        self.agenda = Agenda(BEGIN, self._soonest, self._tick)
        self.tasks = [
            Task(number, setup, retries=setup.retries, two=plan.two) for number, setup in enumerate(plan.setups)
        ]
        self.ours = [task for task in self.tasks if task.ours]
        self.others = [task for task in self.tasks if not task.ours]
        self._settled = False
        self.twins = len({task.face for task in self.ours}) < len(self.ours)
        self.server = Server(self.agenda.clock, self.agenda.touch)
        self.kpo = Kpo(self.server, self.agenda.clock)
        self.faults = AirflowFaults(hidden=plan.hidden)
        self.verdict = Verdict(self.wanted, self.tasks, self.server, self.kpo, self.faults, plan.hidden)
        self.forged = 0
        self.seam: Any = _rest_seam() if plan.rest else AirflowSeam
        self.lease = LeaseObject()
        self.wires: list[Wire] = []
        self.passes = 0
        self.most_lag = 0.0
        self.replicas: list[Replica] = []
        self._faces: list[Any] = [None] * len(self.tasks)
        self.refresh()
        for number, offset in enumerate(plan.offsets):
            self.replicas.append(Replica(self, number, offset))
        self.server.faults.silent_clock = plan.silent_clock

    @property
    def time(self) -> float:
        """The model's time in seconds."""
        return self.agenda.time

    def clock(self) -> float:
        """The model's time in seconds."""
        return self.agenda.time

    def wall(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + self.agenda.time

    @property
    def airflow_time(self) -> float:
        """What Airflow's clock shows; it may differ from the API server's."""
        return EPOCH + self.agenda.time + self.plan.skew

    # --- time -------------------------------------------------------------------------------------------------------

    def _soonest(self) -> float:
        soonest = min(self.director.next_at(), self.server.next_timer())
        for task in self.tasks:
            if task.zombies:
                soonest = min(soonest, min(zombie.doomed_at for zombie in task.zombies))
        for replica in self.replicas:
            if replica.waits:
                soonest = min(soonest, replica.next_timer())
        for wire in self.wires:
            if wire.late:
                soonest = min(soonest, min(flight.at for flight in wire.late))
        return soonest

    def _tick(self) -> None:
        now = self.agenda.time
        self.server.expire()
        for task in self.tasks:
            if task.zombies:
                task.zombies = [zombie for zombie in task.zombies if zombie.doomed_at > now]
        for replica in self.replicas:
            replica.tick()
        for wire in self.wires:
            if wire.late:
                wire.arrive_late()
        if self.director.next_at() <= now:
            event = self.director.pop(self)
            if event is not None:
                self.happen(event)
        self.agenda.touch()
        self.refresh()

    def happen(self, event: Event) -> None:
        """Let an event happen, if it still can."""
        move = MOVES[event.move]
        target = self.target(move.kind, event.target)
        if target is None or not move.possible(self, target):
            return
        words = move.do(self, target, event.choice)
        self.agenda.touch()
        self.tally.events += 1
        self.tally.counts[move.counted] += 1
        self.tally.trail.append(f"{event.move} {event.target} {event.hook}")
        if self.tally.words is not None:
            self.say(self._subject(move.kind, target), words, event.hook)
        self.refresh()

    def target(self, kind: str, number: int) -> Any:
        """Return whom a number means: a task instance, the Pod made as the so manieth, a healer, or the world."""
        if kind == "task":
            return self.tasks[number] if number < len(self.tasks) else None
        if kind == "pod":
            return self.server.pods.get(f"uid-{number}")
        if kind == "replica":
            return self.replicas[number] if number < len(self.replicas) else None
        return 0

    def targets(self, kind: str) -> list[tuple[int, Any]]:
        """Return the possible targets with their numbers."""
        if kind == "task":
            return list(enumerate(self.tasks))
        if kind == "pod":
            return [(int(uid[4:]), pod) for uid, pod in self.server.pods.items()]
        return list(enumerate(self.replicas)) if kind == "replica" else [(0, 0)]

    def refresh(self) -> None:
        """Note for each Pod since when it is in use, or free; and what Airflow's database says."""
        touched: set[int | None] = set()
        faces = self._faces
        for index, task in enumerate(self.tasks):
            fields = task.fields()
            face = (fields, task.held_as())
            if face != faces[index]:
                faces[index] = face
                task.record(self.agenda.time, fields)
                touched.add(task.place)
        server = self.server
        if server.dirty:
            touched.update(server.facts[uid].task for uid in server.dirty)
            server.dirty.clear()
        if touched:
            for uid, pod in server.pods.items():
                facts = server.facts[uid]
                if facts.task in touched:
                    self._note(pod, facts)

    def _note(self, pod: Pod, facts: Facts) -> None:
        now = self.agenda.time
        why = self.verdict.never_of_airflow(pod)
        if self.others:
            shared = self.verdict.never_of_others(pod) is not None
            facts.shared_since = None if not shared else now if facts.shared_since is None else facts.shared_since
        proven = self.verdict.proven(pod)
        facts.proven_until = math.inf if proven else min(now, facts.proven_until)
        vanished = facts.task is not None and not self.tasks[facts.task].exists
        if vanished and facts.vanished_first == math.inf:
            facts.vanished_first = now
        if why is not None:
            facts.used_since = now if facts.used_since is None else facts.used_since
            if vanished and facts.free_since == math.inf and self.verdict.never_if_known(pod) is None:
                facts.free_since = now
            if not vanished and not why.startswith(POLICY):  # neither of the two is a use
                facts.free_since = math.inf
                for replica in self.replicas:
                    replica.note(pod.uid).looks = 0
        else:
            facts.used_since = None
            facts.free_since = now if facts.free_since == math.inf else facts.free_since
        if facts.task is None or not is_over(pod, self.tasks[facts.task].setup.base):
            facts.done_at = None
        elif facts.done_at is None:
            facts.done_at, facts.done_at_server = now, self.server.time

    def fellows(self, task: Task) -> list[Task]:
        """Return the task instances of the same Airflow."""
        return self.ours if task.ours else self.others

    # --- what the moves need ------------------------------------------------------------------------------------------

    def retire(self, task: Task, *, alive: bool = True) -> None:
        """Take the task instance from its worker, which lives a little longer unless it is dead already."""
        worker, task.holder = task.holder, None
        if worker is not None and alive:
            worker.doomed_at = math.inf if worker.lost else self.time + DOOMED
            task.zombies.append(worker)

    def doom(self, task: Task) -> None:
        """Let the worker learn, within a while, that its task instance is not its own any more."""
        self.retire(task)

    # --- in the middle of requests, and the checks --------------------------------------------------------------------

    def hook(self, name: str, pods: Sequence[Pod]) -> None:
        """Let things happen in the middle of a request."""
        while not self._settled and (event := self.director.at_hook(self, name, pods)) is not None:
            self.happen(event)
        self.agenda.touch()
        self.agenda.halt_here()

    def check_one_leader(self) -> None:
        """Check that no two healers, alive or frozen, may act at the same time."""
        leading = [r.signed for r in self.replicas if r.elector is not None and r.elector.is_leader()]
        if len(leading) > 1:
            raise Violation("two healers lead at the same time")

    # --- telling ------------------------------------------------------------------------------------------------------

    def say(self, subject: str, words: str, hook: str = "") -> None:
        """Tell the story, if somebody listens."""
        if self.tally.words is not None:
            self.tally.words.append(f"{self.time - BEGIN:7.1f} s  {subject} {words}{MIDDLE[hook]}")

    def _subject(self, kind: str, target: Any) -> str:
        if kind == "task":
            return f"task instance {target.index}"
        if kind == "replica":
            return "the healer" if self.alone else f"healer {'AB'[target.number]}"
        return f"[{target.uid}] {target.name}" if kind == "pod" else "-"

    # --- the end ------------------------------------------------------------------------------------------------------

    def step(self, limit: float = math.inf) -> bool:
        """Let the next thing happen, unless that is after `limit`; return whether there was one."""
        return self.agenda.step(limit)

    def bound(self) -> float:
        """Return the seconds in which every orphan must be gone once nothing happens and nothing fails any more."""
        wanted, pods = self.wanted, sum(self.server.facts[uid].task is not None for uid in self.server.pods)
        patience = max(*wanted.retention.values(), wanted.absent_grace, wanted.min_age)
        rate = 60.0 * pods / (wanted.per_minute or 1000)
        tries = math.ceil(pods / max(1, wanted.min_count))
        election = self.terms.lease_duration + 4 * self.terms.retry_period
        ahead = max((pod.created or 0.0) - self.server.time for pod in self.server.pods.values()) if pods else 0.0
        return (
            patience
            + wanted.grace
            + rate
            + tries * wanted.cool_down
            + self.plan.audit
            + election
            + max(0.0, ahead)
            + 400.0
        )

    def settle(self) -> None:
        """End all faults and moves, and let the healers work until every orphan is gone or its bound is over."""
        self.say("-", "nothing fails any more and nothing else happens")
        self._settled = True
        self.faults.mode, self.faults.lag, self.faults.latency = "", 0.0, 0.05
        self.server.faults.__init__()  # type: ignore[misc]
        self.server.jump(0.0)
        for replica in self.replicas:
            replica.mend()
        self.agenda.touch()
        bound = self.bound()
        end = self.time + bound
        while self.missed() and self.time < end:
            passes = self.passes
            while self.passes == passes and self.time < end:
                self.agenda.step()
        for uid in self.missed():
            self._tell_missed(self.server.pods[uid], bound)

    def _tell_missed(self, pod: Pod, bound: float) -> None:
        found = [r.reconciler.record(pod.uid) for r in self.replicas if r.reconciler is not None]
        reason = ", ".join(record.finding.reason.value if record else "not known" for record in found)
        expected = self.verdict.expected(pod)
        raise Violation(
            f"[{pod.uid}] {pod.name}: is still there as {reason or 'nothing'} after {bound:.0f} s, it is {expected}"
        )

    def missed(self) -> list[str]:
        """Return the Pods that must be gone in the end and are not; in report mode none must."""
        if not self.wanted.enforce:
            return []
        return [
            uid
            for uid, pod in self.server.pods.items()
            if self.verdict.expected(pod) is not None and not self._is_withheld_rightly(pod)
        ]

    def _is_withheld_rightly(self, pod: Pod) -> bool:
        """Whether a healer has seen another Airflow's Pods there, and nothing proves whose this one is."""
        seen = any(pod.namespace in replica.foreign for replica in self.replicas)
        return seen and not self.verdict.tellable(pod)

    def close(self) -> None:
        """End all healers where they are."""
        self.agenda.close()


def _rest_seam() -> Any:
    from tests.simulation.rest import RestSeam

    return RestSeam
