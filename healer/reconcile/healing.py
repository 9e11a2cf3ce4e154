"""Confirm and act: the only place that decides to delete.

Whoever is ripe passes the breaker and the budget, oldest first, in small slices. Each slice is asked about and judged
anew; what is still the same case is deleted at once, before the next slice is asked about: no evidence grows old.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from healer.clock import steady
from healer.cluster import Cluster, ClusterError, Proof, Result, Right
from healer.cluster import Outcome as Deletion
from healer.config import AirflowConfig, Mode
from healer.guard import Breaker, Budget
from healer.log import get_logger
from healer.model import Action, Answer, Finding, Pod, Reason, Withheld
from healer.reconcile.casebook import owns
from healer.reconcile.chronicle import Chronicle
from healer.reconcile.postmortem import Coroner
from healer.suspects import Now, Quarantine, Signature, Suspect, signature

SLICE = 20
"""How many Pods are confirmed before they are deleted: the window in which Airflow could change its mind is short."""

REFUTATIONS = 3
"""How many times the budget may be confirmed in one pass, so that refuted candidates can't use it up."""

ERRORS = 3
"""How many errors in a row end a round: the API server has trouble, and asking Airflow on is in vain."""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Bounds, in seconds, of what a server may ask us to wait; a senseless figure must not end all healing."""

CLOCK_STEP = 1.0
"""The API server tells its time in whole seconds: a due time computed anew may differ by as much."""

log = get_logger(__name__)


class Confirm(Protocol):
    """Asks and judges anew: the fresh answer and finding of each Pod, by uid."""

    def __call__(self, pods: Sequence[Pod]) -> dict[str, tuple[Answer, Finding]]:
        """Return what is found of each Pod now."""


class Tally(Protocol):
    """What the metrics want to know of a treatment."""

    def deletion(self, airflow: str, reason: Reason, result: str) -> None:
        """Count one decision to delete and what became of it."""

    def healing_delay(self, airflow: str, seconds: float) -> None:
        """Note how long after it was due a Pod was deleted."""


class Healed(Struct, frozen=True):
    """What a round of healing left behind. `gone`: the uids that need no attention any more, the deleted among them.

    `spared`: the suspects that live on although nothing spoke for them: the mode is to report, or the right is missing.
    """

    withheld: dict[str, Withheld]
    deleted: tuple[Suspect, ...] = ()
    gone: frozenset[str] = frozenset()
    spared: tuple[Suspect, ...] = ()


@dataclass
class _Round:
    """The state of one pass through the queue. `limit` is how many may be confirmed; `smooth`, `size`: of the slice."""

    queue: list[Suspect]
    limit: float
    withheld: dict[str, Withheld]
    deleted: list[Suspect] = field(default_factory=list)
    spared: list[Suspect] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    confirmed: int = 0
    errors: int = 0
    size: int = SLICE
    smooth: bool = True
    stopped: bool = False


class Healing:
    """Acts on the ripe suspects of one Airflow, or says why not."""

    def __init__(
        self,
        airflow: AirflowConfig,
        *,
        cluster: Cluster,
        quarantine: Quarantine,
        confirm: Confirm,
        chronicle: Chronicle,
        coroner: Coroner,
        tally: Tally,
        right: Right,
        clock: Callable[[], float] = steady,
    ) -> None:
        """Take what to act on, with and about; `clock` tells monotonic seconds."""
        self._airflow, self._cluster, self._quarantine = airflow, cluster, quarantine
        self._confirm, self._chronicle, self._tally = confirm, chronicle, tally
        self._right, self._clock, self._coroner = right, clock, coroner
        self.breaker = Breaker(airflow.limits.breaker)
        self.budget = Budget(airflow.limits.deletions_per_minute, clock())
        self._previewed: dict[str, tuple[Signature, float]] = {}
        self._failures: dict[str, str] = {}
        self._denied: set[str] = set()
        self._unsure: set[str] = set()
        self._sent: dict[str, frozenset[str]] = {}
        self._size = SLICE
        self._tried = self._paused_until = -math.inf
        self._waiting: frozenset[Withheld] = frozenset()

    def start_audit(self) -> None:
        """Give those whose deletion was denied another chance: rights may have changed."""
        self._denied.clear()

    def forget(self, uids: Set[str]) -> None:
        """Forget Pods that are gone."""
        self._denied -= uids
        self._unsure -= uids
        for uid in uids:
            self._previewed.pop(uid, None)
            self._failures.pop(uid, None)

    def failure(self, uid: str) -> str | None:
        """Return why the last attempt to delete a Pod failed, None if it did not."""
        return self._failures.get(uid)

    def settle(self, pods: Iterable[Pod]) -> list[Pod]:
        """Return the Pods without those that are gone, and forget which of these the picture has let go of."""
        picture = list(pods)
        if not self._sent:
            return picture
        self._sent = {pod.uid: self._sent[pod.uid] for pod in picture if pod.uid in self._sent}
        return [pod for pod in picture if pod.resource_version not in self._sent.get(pod.uid, ())]

    def preview(self, now: Now) -> dict[str, Withheld]:
        """Return what would be withheld if all that is due now were tried; nothing is asked and nothing spent."""
        withheld: dict[str, Withheld] = {}
        room, allowance = self.budget.available(now.ours), self.breaker.allowance(now.ours)
        for suspect in sorted(self._condemned(), key=lambda s: (s.due, s.pod.created or 0.0)):
            why = self._preview(suspect, now, room, allowance)
            if why is not None:
                withheld[suspect.pod.uid] = why
            if why in {None, Withheld.REPORT_MODE}:
                room = None if room is None else room - 1
                allowance = allowance - 1 if allowance is not None and suspect.active else allowance
        return withheld

    def _preview(self, suspect: Suspect, now: Now, room: int | None, allowance: int | None) -> Withheld | None:
        if suspect.due > now.ours:
            return Withheld.NOT_DUE
        if _is_stopped(suspect, allowance):
            return Withheld.BREAKER
        if room is not None and room <= 0:
            return Withheld.RATE
        return None if self._airflow.mode is Mode.ENFORCE else Withheld.REPORT_MODE

    def next_event(self) -> float:
        """When more may be tried than in the last round, in monotonic seconds; infinite where time alone won't help."""
        events = [self._paused_until]
        if Withheld.RATE in self._waiting:
            events.append(self.budget.next_event(SLICE))
        if Withheld.BREAKER in self._waiting:
            events.append(self.breaker.next_event())
        return min((event for event in events if event > self._tried), default=math.inf)

    def heal(self, now: Now, unreadable: Set[str]) -> Healed:
        """Confirm and delete what may be deleted now. Return what was withheld and why."""
        self._tried = now.ours
        round_ = self._begin(now, unreadable)
        # Once the right is lost nothing could be deleted: neither must Airflow be asked any more.
        while round_.queue and not round_.stopped and self._right():
            slice_ = self._slice(round_)
            if slice_:
                self._treat(slice_, round_)
        if not self._right():
            round_.withheld |= {s.pod.uid: Withheld.NOT_LEADER for s in round_.queue}
        self._waiting = frozenset(round_.withheld.values())
        return Healed(round_.withheld, tuple(round_.deleted), frozenset(round_.gone), tuple(round_.spared))

    def _begin(self, now: Now, unreadable: Set[str]) -> _Round:
        available = self.budget.available(now.ours)
        limit = math.inf if available is None else available * REFUTATIONS
        waiting = [s for s in self._condemned() if not self._quarantine.is_ripe(s, now)]
        round_ = _Round([], limit, {suspect.pod.uid: Withheld.NOT_DUE for suspect in waiting})
        ripe = (suspect for suspect in self._quarantine.ripe(now) if suspect.action is Action.DELETE)
        round_.queue = [suspect for suspect in ripe if self._may_be_tried(suspect, unreadable, round_)]
        return round_

    def _condemned(self) -> list[Suspect]:
        return [suspect for suspect in self._quarantine if suspect.action is Action.DELETE]

    def _may_be_tried(self, suspect: Suspect, unreadable: Set[str], round_: _Round) -> bool:
        uid = suspect.pod.uid
        if suspect.pod.namespace in unreadable or uid in self._denied or self._clock() < self._paused_until:
            return False
        if self._previewed.get(uid) == (suspect.signature, suspect.since):
            round_.withheld[uid] = Withheld.REPORT_MODE  # all but the DELETE was done, once is enough
            return False
        return True

    def _slice(self, round_: _Round) -> list[Suspect]:
        """Take the next candidates off the queue: as many as breaker, budget and the window allow."""
        available = self.budget.available(self._clock())
        room = min(self._size, round_.limit - round_.confirmed, self._size if available is None else available)
        allowance = self.breaker.allowance(self._clock())
        slice_: list[Suspect] = []
        left: list[Suspect] = []
        for suspect in round_.queue:
            if len(slice_) >= room or _is_stopped(suspect, allowance):
                left.append(suspect)
                continue
            slice_.append(suspect)
            if suspect.active and allowance is not None:
                allowance -= 1
        if not slice_:
            why = {s.pod.uid: Withheld.BREAKER if _is_stopped(s, allowance) else Withheld.RATE for s in left}
            round_.withheld.update(why)
            left.clear()
        round_.queue = left
        return slice_

    def _treat(self, slice_: Sequence[Suspect], round_: _Round) -> None:
        """Ask about a slice anew, and act on what is still the same case."""
        round_.confirmed += len(slice_)
        round_.size, round_.smooth = self._size, True
        pods = {s.pod.uid: pod for s in slice_ if (pod := self._as_it_is(s, round_)) is not None}
        self._coroner.examine([s for s in slice_ if s.pod.uid in pods and self._airflow.mode is Mode.ENFORCE])
        fresh = {} if round_.stopped else self._confirm(list(pods.values()))
        silent = bool(fresh) and all(finding.reason is Reason.AIRFLOW_UNKNOWN for _, finding in fresh.values())
        for suspect in slice_:
            if suspect.pod.uid in fresh and not round_.stopped:
                self._weigh(suspect, pods[suspect.pod.uid], *fresh[suspect.pod.uid], round_)
        round_.stopped = round_.stopped or silent
        if round_.smooth:
            self._size = min(SLICE, 2 * self._size)

    def _as_it_is(self, suspect: Suspect, round_: _Round) -> Pod | None:
        """Return the Pod to confirm; read anew where an earlier DELETE had no clear end, None if it is out of reach."""
        uid = suspect.pod.uid
        if uid not in self._unsure:
            return suspect.pod
        if round_.stopped:
            return None
        try:
            pod = self._reread(suspect)
        except ClusterError as error:
            log.info("a Pod can't be read again", pod=str(suspect.pod), why=str(error))
            self._quarantine.refute(uid)
            self._trouble(error.retry_after, round_)
            return None
        self._unsure.discard(uid)
        if pod is None:
            self._let_go(suspect, suspect.pod, round_)
        return pod

    def _reread(self, suspect: Suspect) -> Pod | None:
        """Return the Pod as it is now; None if it is gone or going, or not ours to judge any more."""
        pod = self._cluster.get_pod(suspect.pod.namespace, suspect.pod.name)
        if pod is None or pod.uid != suspect.pod.uid or pod.terminating or not pod.selected:
            return None
        return pod if owns(self._airflow, pod) else None

    def _weigh(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding, round_: _Round) -> None:
        """Act if the fresh finding is still the same case, and still due."""
        now = Now(self._clock(), self._cluster.now())
        if signature(finding) != suspect.signature:
            self._not_confirmed(suspect, pod, finding, now)
            return
        # What has changed in the Pod or in what Airflow says of its containers may have changed its retention.
        self._quarantine.follow(pod, finding, now)
        current = self._quarantine.get(pod.uid)
        if current is None or current.due > now.ours + CLOCK_STEP:
            round_.withheld[pod.uid] = Withheld.NOT_DUE
        else:
            self._act(current, pod, answer, finding, round_)

    def _not_confirmed(self, suspect: Suspect, pod: Pod, finding: Finding, now: Now) -> None:
        """Send a suspect to the back: refuted, or not to be seen clearly just now."""
        if finding.reason is not Reason.AIRFLOW_UNKNOWN:
            self._tally.deletion(self._airflow.name, suspect.finding.reason, "refuted")
        was, is_now = suspect.finding.reason.value, finding.reason.value
        log.info("not confirmed", pod=str(pod), uid=pod.uid, was=was, now=is_now, why=finding.detail)
        self._quarantine.observe(pod, finding, now)
        self._quarantine.refute(pod.uid)

    def _act(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding, round_: _Round) -> None:
        now = self._clock()
        self._chronicle.decision(suspect, pod, answer, finding)
        if self._airflow.mode is not Mode.ENFORCE:
            self._spend(suspect, now)
            self._previewed[pod.uid] = suspect.signature, suspect.since
            round_.withheld[pod.uid] = Withheld.REPORT_MODE
            round_.spared.append(suspect)
            return
        deletion = self._cluster.delete_pod(pod, Proof(finding, answer.sent), self._right)
        if deletion.result is not Result.STALE:
            self._spend(suspect, now)
        self._tally.deletion(self._airflow.name, finding.reason, deletion.result.value)
        self._chronicle.deletion(suspect, pod, answer, finding, deletion)
        self._settle(suspect, pod, deletion, round_)

    def _spend(self, suspect: Suspect, now: float) -> None:
        self.budget.spend(now)
        if suspect.active:
            self.breaker.spend(now)

    def _settle(self, suspect: Suspect, pod: Pod, deletion: Deletion, round_: _Round) -> None:
        """Draw the consequence of what became of a DELETE."""
        if deletion.result is not Result.ERROR:
            round_.errors = 0
        match deletion.result:
            case Result.DELETED:
                self._coroner.tell(pod)
                round_.deleted.append(suspect)
                self._tally.healing_delay(self._airflow.name, max(0.0, self._clock() - suspect.due))
                self._let_go(suspect, pod, round_)
            case Result.GONE:
                self._let_go(suspect, pod, round_)
            case Result.CONFLICT:
                self._unsure.add(pod.uid)
                self._once_more(suspect, round_)
            case Result.STALE:
                # Airflow is slow: the fewer are asked about together, the younger is each answer.
                self._size, round_.smooth = max(1, round_.size // 2), False
                self._once_more(suspect, round_)
            case Result.DENIED:
                self._denied.add(pod.uid)
                self._failed(pod, deletion)
                round_.spared.append(suspect)
            case Result.ERROR:
                self._unsure.add(pod.uid)
                self._failed(pod, deletion)
                self._trouble(deletion.retry_after, round_)

    def _let_go(self, suspect: Suspect, pod: Pod, round_: _Round) -> None:
        """Be done with a Pod; the picture shows it for a moment longer, as it was known to us or as it was read."""
        self._sent[pod.uid] = frozenset({suspect.pod.resource_version, pod.resource_version})
        self._quarantine.drop(pod.uid)
        round_.gone.add(pod.uid)

    def _failed(self, pod: Pod, deletion: Deletion) -> None:
        self._failures[pod.uid] = deletion.message
        self._quarantine.refute(pod.uid)

    def _trouble(self, retry_after: float | None, round_: _Round) -> None:
        """End the round if the API server asks us to wait or keeps failing, and begin the next one gently."""
        self._size, round_.smooth = 1, False
        round_.errors += 1
        if retry_after is not None:
            pause = min(max(retry_after, SHORTEST_PAUSE), LONGEST_PAUSE)
            self._paused_until = self._clock() + pause
        round_.stopped = round_.stopped or retry_after is not None or round_.errors >= ERRORS

    def _once_more(self, suspect: Suspect, round_: _Round) -> None:
        """Put a candidate whose Pod changed, or whose evidence grew old, back into the queue, once per pass."""
        if suspect.pod.uid in round_.again:
            self._quarantine.refute(suspect.pod.uid)
        else:
            round_.again.add(suspect.pod.uid)
            round_.queue.append(suspect)


def _is_stopped(suspect: Suspect, allowance: int | None) -> bool:
    """Whether the breaker keeps a suspect; it lets what is done pass."""
    return suspect.active and allowance is not None and allowance <= 0
