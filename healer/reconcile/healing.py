"""Confirm and act: the only place that decides to delete.

Whoever is ripe passes the breaker and the budget, oldest first, in small slices. Each slice is asked about and judged
anew; what is still the same case is deleted at once, before the next slice is asked about: no evidence grows old.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from healer.cluster import Cluster, ClusterError, Proof, Result, Right
from healer.cluster import Outcome as Deletion
from healer.config import AirflowConfig, Mode
from healer.guard import Breaker, Budget
from healer.model import Action, Answer, Finding, Known, Pod, Reason, Unknown, Withheld
from healer.report import Herald
from healer.suspects import Now, Quarantine, Signature, Suspect, signature

SLICE = 20
"""How many Pods are confirmed before they are deleted: the window in which Airflow could change its mind is short."""

REFUTATIONS = 3
"""How many times the budget may be confirmed in one pass, so that refuted candidates can't use it up."""

log = structlog.get_logger(__name__)


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
    """What a round of healing left behind."""

    withheld: dict[str, Withheld]
    deleted: tuple[Suspect, ...] = ()


@dataclass
class _Round:
    """The state of one pass through the queue."""

    queue: list[Suspect]
    withheld: dict[str, Withheld] = field(default_factory=dict)
    deleted: list[Suspect] = field(default_factory=list)
    again: set[str] = field(default_factory=set)
    confirmed: int = 0
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
        herald: Herald,
        tally: Tally,
        right: Right,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what to act on, with and about; `clock` tells monotonic seconds."""
        self._airflow, self._cluster, self._quarantine = airflow, cluster, quarantine
        self._confirm, self._herald, self._tally = confirm, herald, tally
        self._right, self._clock = right, clock
        self.breaker = Breaker(airflow.limits.breaker)
        self.budget = Budget(airflow.limits.deletions_per_minute, clock())
        self._previewed: dict[str, tuple[Signature, float]] = {}
        self._denied: set[str] = set()
        self._unsure: set[str] = set()
        self._sent: dict[str, str] = {}
        self._paused_until = 0.0

    def start_audit(self) -> None:
        """Give those whose deletion was denied another chance: rights may have changed."""
        self._denied.clear()

    def forget(self, uids: set[str]) -> None:
        """Forget Pods that are gone."""
        self._denied -= uids
        self._unsure -= uids
        for uid in uids:
            self._previewed.pop(uid, None)

    def settle(self, pods: Iterable[Pod]) -> list[Pod]:
        """Return the Pods without those we deleted, and forget which of these the cluster has let go of."""
        picture = list(pods)
        self._sent = {pod.uid: self._sent[pod.uid] for pod in picture if pod.uid in self._sent}
        return [pod for pod in picture if self._sent.get(pod.uid) != pod.resource_version]

    def preview(self, now: Now) -> dict[str, Withheld]:
        """Return what would be withheld if all that is due now were tried; nothing is asked and nothing spent."""
        withheld: dict[str, Withheld] = {}
        room = self.budget.available(now.ours)
        for suspect in sorted(self._quarantine, key=lambda s: (s.due, s.pod.created or 0.0)):
            if suspect.action is Action.DELETE:
                why = self._preview(suspect, now, room)
                if why is not None:
                    withheld[suspect.pod.uid] = why
                if room is not None and why in {None, Withheld.REPORT_MODE}:
                    room -= 1
        return withheld

    def _preview(self, suspect: Suspect, now: Now, room: int | None) -> Withheld | None:
        if suspect.due > now.ours:
            return Withheld.NOT_DUE
        if suspect.active and self.breaker.is_open:
            return Withheld.BREAKER
        if room is not None and room <= 0:
            return Withheld.RATE
        return None if self._airflow.mode is Mode.ENFORCE else Withheld.REPORT_MODE

    def next_event(self) -> float:
        """When the breaker or the budget lets more through, in monotonic seconds."""
        return min(self.breaker.next_event(), self.budget.next_event(SLICE))

    def heal(self, now: Now, unreadable: set[str]) -> Healed:
        """Confirm and delete what may be deleted now. Return what was withheld and why."""
        round_ = _Round([s for s in self._quarantine.ripe(now) if s.action is Action.DELETE])
        for suspect in self._quarantine:
            if suspect.action is Action.DELETE and not self._quarantine.is_ripe(suspect, now):
                round_.withheld[suspect.pod.uid] = Withheld.NOT_DUE
        round_.queue = [s for s in round_.queue if self._may_be_tried(s, unreadable, round_)]
        limit = self._confirmations()
        while round_.queue and not round_.stopped:
            slice_ = self._slice(round_, limit)
            if slice_:
                self._treat(slice_, round_)
        return Healed(round_.withheld, tuple(round_.deleted))

    def _may_be_tried(self, suspect: Suspect, unreadable: set[str], round_: _Round) -> bool:
        uid = suspect.pod.uid
        if suspect.pod.namespace in unreadable or uid in self._denied or self._clock() < self._paused_until:
            return False
        if self._previewed.get(uid) == (suspect.signature, suspect.since):
            closed = suspect.active and self.breaker.is_open
            round_.withheld[uid] = Withheld.BREAKER if closed else Withheld.REPORT_MODE
            return False
        return True

    def _confirmations(self) -> float:
        available = self.budget.available(self._clock())
        return float("inf") if available is None else available * REFUTATIONS

    def _slice(self, round_: _Round, limit: float) -> list[Suspect]:
        """Take the next candidates off the queue: as many as breaker, budget and the window allow."""
        available = self.budget.available(self._clock())
        room = min(SLICE, limit - round_.confirmed, SLICE if available is None else available)
        allowance = self.breaker.allowance(self._clock())
        slice_: list[Suspect] = []
        while round_.queue and len(slice_) < room:
            suspect = round_.queue.pop(0)
            if suspect.active and allowance is not None:
                if allowance <= 0:
                    round_.withheld[suspect.pod.uid] = Withheld.BREAKER
                    continue
                allowance -= 1
            slice_.append(suspect)
        if not slice_:
            round_.withheld.update((s.pod.uid, self._why_not(s, allowance)) for s in round_.queue)
            round_.queue.clear()
        return slice_

    def _why_not(self, suspect: Suspect, allowance: int | None) -> Withheld:
        return Withheld.BREAKER if suspect.active and allowance is not None and allowance <= 0 else Withheld.RATE

    def _treat(self, slice_: Sequence[Suspect], round_: _Round) -> None:
        """Ask about a slice anew, and act on what is still the same case."""
        pods = {s.pod.uid: pod for s in slice_ if (pod := self._as_it_is(s)) is not None}
        fresh = self._confirm(list(pods.values()))
        round_.confirmed += len(slice_)
        round_.stopped = bool(pods) and all(isinstance(answer, Unknown) for answer, _ in fresh.values())
        for suspect in slice_:
            pod, found = pods.get(suspect.pod.uid), fresh.get(suspect.pod.uid)
            if pod is None or found is None or round_.stopped:
                continue
            answer, finding = found
            if signature(finding) == suspect.signature:
                self._act(suspect, pod, answer, finding, round_)
            else:
                self._refuted(suspect, pod, finding)

    def _as_it_is(self, suspect: Suspect) -> Pod | None:
        """Return the Pod to confirm; read anew where an earlier DELETE had no clear end, None if it is gone."""
        uid = suspect.pod.uid
        if uid not in self._unsure:
            return suspect.pod
        try:
            pod = self._cluster.get_pod(suspect.pod.namespace, suspect.pod.name)
        except ClusterError:
            return None
        self._unsure.discard(uid)
        if pod is None or pod.uid != uid or pod.terminating:
            self._quarantine.drop(uid)
            return None
        return pod

    def _refuted(self, suspect: Suspect, pod: Pod, finding: Finding) -> None:
        self._tally.deletion(self._airflow.name, suspect.finding.reason, "refuted")
        was, now = suspect.finding.reason.value, finding.reason.value
        log.info("refuted", pod=str(pod), uid=pod.uid, was=was, now=now, why=finding.detail)
        self._quarantine.observe(pod, finding, Now(self._clock(), self._cluster.now()))
        self._quarantine.refute(pod.uid)

    def _act(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding, round_: _Round) -> None:
        now = self._clock()
        if self._airflow.mode is not Mode.ENFORCE:
            self._spend(suspect, now)
            self._previewed[pod.uid] = suspect.signature, suspect.since
            round_.withheld[pod.uid] = Withheld.REPORT_MODE
            return
        deletion = self._cluster.delete_pod(pod, Proof(finding, answer.sent), self._right)
        if deletion.result is not Result.STALE:
            self._spend(suspect, now)
        self._tally.deletion(self._airflow.name, finding.reason, deletion.result.value)
        self._tell(suspect, pod, answer, finding, deletion)
        self._settle(suspect, pod, deletion, round_)

    def _spend(self, suspect: Suspect, now: float) -> None:
        self.budget.spend(now)
        if suspect.active:
            self.breaker.spend(now)

    def _settle(self, suspect: Suspect, pod: Pod, deletion: Deletion, round_: _Round) -> None:
        """Draw the consequence of what became of a DELETE."""
        match deletion.result:
            case Result.DELETED | Result.GONE:
                self._sent[pod.uid] = pod.resource_version
                self._quarantine.drop(pod.uid)
                round_.deleted.append(suspect)
                if deletion.result is Result.DELETED:
                    self._tally.healing_delay(self._airflow.name, max(0.0, self._clock() - suspect.due))
            case Result.CONFLICT:
                self._unsure.add(pod.uid)
                self._once_more(suspect, round_)
            case Result.STALE:
                self._once_more(suspect, round_)
            case Result.DENIED:
                self._denied.add(pod.uid)
            case Result.ERROR:
                self._unsure.add(pod.uid)
                self._quarantine.refute(pod.uid)
                self._paused_until = self._clock() + (deletion.retry_after or 0.0)
                round_.stopped = True

    def _once_more(self, suspect: Suspect, round_: _Round) -> None:
        """Put a candidate whose Pod changed, or whose evidence grew old, back into the queue, once per pass."""
        if suspect.pod.uid not in round_.again:
            round_.again.add(suspect.pod.uid)
            round_.queue.append(suspect)

    def _tell(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding, deletion: Deletion) -> None:
        self._herald.deletion(pod, finding, deletion)
        task = answer.task if isinstance(answer, Known) else None
        log.info(
            "delete",
            airflow=self._airflow.name,
            pod=str(pod),
            uid=pod.uid,
            resource_version=pod.resource_version,
            reason=finding.reason.value,
            detail=finding.detail,
            result=deletion.result.value,
            said=deletion.message or None,
            task=msgspec.to_builtins(task) if task else None,
            sightings=suspect.sightings,
            suspected_seconds=round(self._clock() - suspect.since, 3),
            evidence_age_seconds=round(self._clock() - answer.sent, 3),
        )
