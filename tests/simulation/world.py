"""One history: the models, the healer's real reconciler between them, the clock, and the checks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from healer.cluster import ClusterError, Outcome, Proof
from healer.config import AirflowConfig, Config, Mode
from healer.controller import Schedule
from healer.model import Finding, Pod, Reason, Withheld
from healer.reconcile import Depth, Reconciler, Tools
from tests.simulation.airflow import DOOMED, Kpo, Setup, Task
from tests.simulation.answers import AirflowFaults, AirflowSeam
from tests.simulation.cluster import EPOCH, NAMESPACES, Api, Facts, Server, Wire
from tests.simulation.moves import MOVES, Move
from tests.simulation.verdict import POLICY, Verdict, ended_for_good

MIDDLE = {
    "": "",
    "asked": " (before Airflow's answer)",
    "answered": " (before the DELETE)",
    "sent": " (the DELETE is on its way)",
}
"""The moments of a request in which things can happen, in words."""


class Event(Struct, frozen=True):
    """One thing that happened: when, what, to whom, in which variant, and in the middle of which request if any."""

    at: float
    move: str
    target: int
    choice: float
    hook: str = ""


class Plan(Struct, frozen=True):
    """What a history begins with: the healer's configuration (as in the file) and the task instances."""

    airflow: Mapping[str, Any]
    interval: float
    audit: float
    skew: float
    setups: tuple[Setup, ...]


class Violation(Exception):  # noqa: N818 - it is what the checks find, no error of the program
    """The healer did what it must never do, or did not do what it must."""


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
    sends: list[float] = field(default_factory=list)
    windows: int = 0
    lagged: int = 0

    def deletion(self, airflow: str, reason: Reason, result: str) -> None:
        self.counts[f"deletion: {result}"] += 1

    def pods(self, airflow: str, counts: Mapping[Reason, int]) -> None:
        for reason in counts:
            self.counts[f"reason: {reason.value}"] += 1

    def withheld(self, airflow: str, counts: Mapping[Withheld, int]) -> None:
        for why in counts:
            self.counts[f"withheld: {why.value}"] += 1

    def breaker(self, airflow: str, is_open: bool) -> None:
        self.counts["breaker open"] += is_open

    def ignore(self, *_: object) -> None:
        """Figures that the simulation does not need."""

    healing_delay = suspects = held = pass_done = ignore


class Silent:
    """In the place of the herald."""

    def detected(self, pod: Pod, finding: Finding, action: Any, withheld: Withheld | None) -> None:
        """Say nothing."""

    def deletion(self, pod: Pod, finding: Finding, outcome: Outcome) -> None:
        """Say nothing."""


_CONFIGS: dict[str, Config] = {}


def parsed(plan: Plan) -> Config:
    """Return the configuration of a plan; reading one anew each time would cost more than the history."""
    key = repr((plan.airflow, plan.interval, plan.audit))
    if key not in _CONFIGS:
        basics = {"name": "prod", "namespaces": list(NAMESPACES), "url": "http://airflow:8080", "token": "t"}
        times = {"interval": f"{plan.interval:g}s", "auditInterval": f"{plan.audit:g}s"}
        _CONFIGS[key] = Config.model_validate({"airflows": [basics | dict(plan.airflow)], **times})
    return _CONFIGS[key]


class World:
    """Everything of one history."""

    def __init__(self, plan: Plan, director: Director, tally: Tally) -> None:
        self.plan, self.director, self.tally = plan, director, tally
        self.whole = parsed(plan)
        self.config: AirflowConfig = self.whole.airflows[0]
        self.time = 5000.0
        self.tasks = [Task(number, setup, retries=setup.retries) for number, setup in enumerate(plan.setups)]
        self.server: Server = Server(self.clock)
        self.server.on_change = self.refresh
        self.kpo = Kpo(self.server, self.clock)
        self.verdict = Verdict(self.config, self.tasks, self.server, self.kpo)
        self.wire = Wire(self.server, self._before_delete, self._judge)
        self.wire.sent = self._sent
        self.api = Api(self.server, self.clock, self.whole.freshness, self.wire)
        self.restart_wanted = False
        self.airflow: AirflowSeam
        self._active = self._struck = 0
        self._faults = AirflowFaults()
        self._stale: set[str] = set()
        self.refresh()
        self._start()

    def clock(self) -> float:
        """Monotonic seconds."""
        return self.time

    @property
    def airflow_time(self) -> float:
        """What Airflow's clock shows; it may differ from the API server's."""
        return EPOCH + self.time + self.plan.skew

    # --- the healer -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the healer, knowing nothing."""
        self.restart_wanted = False
        self.airflow = AirflowSeam(self.tasks, self.server, self._faults, self.clock, self.forward)
        self.airflow.hook = self._hook
        tools = Tools(self.api, Silent(), self.tally, lambda: True, self.clock, lambda: 0.0)  # type: ignore[arg-type]
        self.reconciler = Reconciler(self.config, self.airflow, tools)  # type: ignore[arg-type]
        self.schedule = Schedule(self.whole, self.time)
        self.server.store = type(self.server.store)()
        self.relist()

    def relist(self) -> None:
        """Note that the watch started over: a LIST is due."""
        self._stale |= set(self.config.namespaces)

    def _resync(self, depth: Depth) -> None:
        """List what the controller lists."""
        stale, self._stale, store = self._stale, set(), self.server.store
        for namespace in self.config.namespaces:
            broken = depth is Depth.FULL and store.why_unreadable(namespace) is not None
            if depth is Depth.AUDIT or namespace in stale or broken:
                started = store.begin()
                try:
                    store.replace(namespace, self.api.list_pods(namespace), started)
                except ClusterError as error:
                    store.unreadable(namespace, str(error))

    def one_pass(self) -> None:
        """Make the pass that is due, and wait until the next one."""
        if self.restart_wanted:
            self._start()
        depth = self.schedule.next(self.time)
        self.tally.counts[f"pass: {depth.name.lower()}"] += 1
        self.tally.trail.append(depth.name)
        self._resync(depth)
        store = self.server.store
        unreadable = {n: why for n in self.config.namespaces if (why := store.why_unreadable(n)) is not None}
        picture = store.snapshot()
        self._active = sum(not ended_for_good(pod, self._task(pod)) for pod in picture if not pod.terminating)
        self._struck = 0
        self.reconciler.reconcile(picture, depth, unreadable)
        self.forward(self.schedule.pause(self.time, self.reconciler.next_event()))

    def _task(self, pod: Pod) -> Task:
        return self.tasks[self.server.facts[pod.uid].task or 0]

    # --- time -------------------------------------------------------------------------------------------------------

    def forward(self, seconds: float) -> None:
        """Let time pass, and all that happens in it."""
        target = self.time + seconds
        while (at := min(self.director.next_at(), self._next_timer())) <= target:
            self.time = max(self.time, at)
            self._tick()
        self.time = target

    def _next_timer(self) -> float:
        doomed = (zombie.doomed_at for task in self.tasks for zombie in task.zombies)
        return min(self.server.next_timer(), min(doomed, default=math.inf))

    def _tick(self) -> None:
        self.server.expire()
        self.server.deliver_late()
        for task in self.tasks:
            task.zombies = [zombie for zombie in task.zombies if zombie.doomed_at > self.time]
        if self.director.next_at() <= self.time:
            event = self.director.pop(self)
            if event is not None:
                self.happen(event)
        self.refresh()

    def happen(self, event: Event) -> None:
        """Let an event happen, if it still can."""
        move = MOVES[event.move]
        target = self.target(move, event.target)
        if target is None or not move.can(self, target):
            return
        words = move.do(self, target, event.choice)
        self.tally.events += 1
        self.tally.counts[f"move: {move.name}"] += 1
        self.tally.trail.append(f"{event.move} {event.target} {event.hook}")
        self.say(self._subject(move, target), words, event.hook)
        self.refresh()

    def target(self, move: Move, number: int) -> Any:
        """Return whom a number means: a task instance, the Pod that was made as the so manieth, or the world."""
        if move.kind == "task":
            return self.tasks[number] if number < len(self.tasks) else None
        return self.server.pods.get(f"uid-{number}") if move.kind == "pod" else 0

    def refresh(self) -> None:
        """Note for each Pod since when it is in use, or free; and what Airflow's database says."""
        for task in self.tasks:
            task.record(self.time)
        for uid, pod in self.server.pods.items():
            facts = self.server.facts[uid]
            why = self.verdict.never_of_airflow(pod)
            if why is not None:
                facts.used_since = self.time if facts.used_since is None else facts.used_since
                vanished = facts.task is not None and not self.tasks[facts.task].exists
                if not vanished and not why.startswith(POLICY):  # neither of the two is a use
                    facts.free_since, facts.looks = math.inf, 0
            else:
                facts.used_since = None
                facts.free_since = self.time if math.isinf(facts.free_since) else facts.free_since
            self._note_end(pod, facts)

    def _note_end(self, pod: Pod, facts: Facts) -> None:
        over = facts.task is not None and ended_for_good(pod, self.tasks[facts.task])
        facts.done_at = (facts.done_at or self.time) if over else None

    # --- what the moves need ------------------------------------------------------------------------------------------

    def retire(self, task: Task, *, alive: bool = True) -> None:
        """Take the task instance from its worker, which lives a little longer unless it is dead already."""
        worker, task.holder = task.holder, None
        if worker is not None and alive and (not worker.lost or worker.stage != "search"):
            worker.doomed_at = math.inf if worker.lost else self.time + DOOMED
            task.zombies.append(worker)

    def doom(self, task: Task) -> None:
        """Let the worker learn, within a while, that its task instance is not its own any more."""
        self.retire(task)

    def enabled(self, kind: str) -> Iterator[tuple[Move, int]]:
        """Yield the moves that can happen now, with their targets."""
        for move in MOVES.values():
            if move.kind != kind:
                continue
            for number in self.numbers(kind):
                if move.can(self, self.target(move, number)):
                    yield move, number

    def numbers(self, kind: str) -> list[int]:
        """Return the numbers of the possible targets."""
        if kind == "task":
            return list(range(len(self.tasks)))
        return [int(uid[4:]) for uid in self.server.pods] if kind == "pod" else [0]

    # --- in the middle of requests, and the checks --------------------------------------------------------------------

    def _hook(self, name: str, pods: Sequence[Pod]) -> None:
        while (event := self.director.at_hook(self, name, pods)) is not None:
            self.happen(event)

    def _before_delete(self, pod: Pod) -> None:
        self._hook("sent", [pod])
        self.forward(0.02)

    def _sent(self, pod: Pod, proof: Proof) -> None:
        """Check that this DELETE may be sent at all: once per confirmation, in enforce mode, within the rate."""
        facts = self.server.facts[pod.uid]
        self.check(self.config.mode is Mode.ENFORCE, pod, "a DELETE was sent in report mode")
        self.check(facts.asked is not None, pod, "a DELETE was sent without a confirmation of its own")
        self.check(proof.sent <= (facts.asked or 0.0), pod, "the evidence is dated later than the question")
        self.check(self.time - proof.sent <= self.whole.freshness, pod, "the evidence is too old")
        facts.asked = None
        facts.sends += 1
        self.say(f"[{pod.uid}] {pod.name}", f"gets a DELETE as {proof.finding.reason.value}")
        rate = self.config.limits.deletions_per_minute
        self.tally.sends.append(self.time)
        lately = sum(at > self.time - 60 for at in self.tally.sends)
        self.check(rate is None or lately <= 2 * rate, pod, f"{lately} DELETEs in a minute, allowed are {rate}")

    def _judge(self, pod: Pod, there: Pod, proof: Proof) -> None:
        """Judge a DELETE at the moment at which it takes effect."""
        facts = self.server.facts[there.uid]
        self.check(there.uid == pod.uid, there, "another Pod of this name was deleted")
        why = self.verdict.never_of_pod(there)
        self.check(why is None, there, f"deleted although {why}")
        self.check(there.resource_version == pod.resource_version, there, "deleted although it changed since")
        why = self.verdict.never_of_airflow(there)
        if why is not None:
            self._excuse(there, facts, proof, why)
            return
        if facts.free_since >= proof.sent - facts.lag:  # in use for a moment, after Airflow was asked
            self.tally.windows += 1
            return
        if proof.finding.reason is not Reason.RUN_DELETED:  # a run that was there again for a while has no id to tell
            self._check_patience(there, facts, proof)
        self._check_breaker(there)
        self.tally.counts[f"healed: {proof.finding.reason.value}"] += 1

    def _excuse(self, pod: Pod, facts: Facts, proof: Proof, why: str) -> None:
        """Tell the documented window, and a replica's lag, from a wrong deletion."""
        since = facts.used_since or 0.0
        if since >= proof.sent:
            self.tally.windows += 1
        elif since >= proof.sent - facts.lag:
            self.tally.lagged += 1
        else:
            self.check(False, pod, f"deleted although {why}, since {self.time - since:.1f} s")

    def _check_patience(self, pod: Pod, facts: Facts, proof: Proof) -> None:
        policy, reason = self.config.policy, proof.finding.reason
        free = self.time - facts.free_since
        absent = reason in {Reason.TASK_REMOVED, Reason.RUN_DELETED}
        grace = policy.absent_grace if absent else policy.grace
        self.check(free >= grace, pod, f"free for {free:.0f} s only, the grace is {grace:.0f} s")
        age = self.server.time - (pod.created or math.inf)
        self.check(age >= policy.min_age - 1, pod, f"only {age:.0f} s old")
        self.check(facts.looks > policy.sightings, pod, f"only {facts.looks} looks found it free")
        if reason in {Reason.FINISHED, Reason.KEPT} and facts.done_at is not None:
            kept = policy.retention.kept
            least = kept if reason is Reason.KEPT else min(policy.retention.succeeded, policy.retention.failed)
            self.check(self.time - facts.done_at >= least - 1, pod, "its retention is not over")

    def _check_breaker(self, pod: Pod) -> None:
        if ended_for_good(pod, self._task(pod)):
            return
        self._struck += 1
        limits = self.config.limits.breaker
        most = max(limits.min_count, limits.max_share * self._active)
        self.check(self._struck <= most, pod, f"{self._struck} of {self._active} active Pods deleted in one pass")

    def check(self, good: bool, pod: Pod, why: str) -> None:
        """Raise a violation unless all is well."""
        if not good:
            raise Violation(f"[{pod.uid}] {pod.name}: {why}")

    # --- telling ------------------------------------------------------------------------------------------------------

    def say(self, subject: str, words: str, hook: str = "") -> None:
        """Tell the story, if somebody listens."""
        if self.tally.words is not None:
            self.tally.words.append(f"{self.time - 5000:7.1f} s  {subject} {words}{MIDDLE[hook]}")

    def _subject(self, move: Move, target: Any) -> str:
        if move.kind == "task":
            return f"task instance {target.index}"
        return f"[{target.uid}] {target.name}" if move.kind == "pod" else "-"

    # --- the end ------------------------------------------------------------------------------------------------------

    def bound(self) -> float:
        """Return the seconds in which every orphan must be gone once nothing happens and nothing fails any more."""
        policy, limits = self.config.policy, self.config.limits
        retention = policy.retention
        patience = (retention.succeeded, retention.failed, retention.kept, policy.absent_grace, policy.min_age)
        pods = len(self.server.pods)
        rate = 60.0 * pods / (limits.deletions_per_minute or 1000)
        tries = math.ceil(pods / max(1, limits.breaker.min_count))
        return max(patience) + policy.grace + rate + tries * limits.breaker.cool_down + self.plan.audit + 400.0

    def settle(self) -> None:
        """End all faults and moves, and let the healer work until every orphan is gone or its bound is over."""
        self.say("-", "nothing fails any more and nothing else happens")
        self._faults.mode, self._faults.lag, self._faults.latency = "", 0.0, 0.05
        self.server.faults.__init__()  # type: ignore[misc]
        self.relist()
        end = self.time + self.bound()
        while self.missed() and self.time < end:
            self.one_pass()
        for uid in self.missed():
            pod = self.server.pods[uid]
            found = self.reconciler.record(uid)
            reason = found.finding.reason.value if found else "not known"
            expected = self.verdict.expected(pod)
            self.check(False, pod, f"is still there as {reason} after {self.bound():.0f} s, it is {expected}")

    def missed(self) -> list[str]:
        """Return the Pods that must be gone in the end and are not; in report mode none must."""
        if self.config.mode is not Mode.ENFORCE:
            return []
        return [uid for uid, pod in self.server.pods.items() if self.verdict.expected(pod) is not None]
