"""Delete what is confirmed: the only place that decides to send a DELETE.

What is due passes the breaker and the rate limiter, oldest first, in small batches. The reconciler asks and judges each
batch anew; what is still the same case is deleted at once, before the next batch is asked about: no evidence grows old.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import AirflowConfig, Mode
from healer.decision import quarantine
from healer.decision.limits import Limits, Withholds
from healer.decision.quarantine import CLOCK_STEP, Now, Suspect
from healer.decision.records import RecordStore, owns
from healer.deletion.audit_log import AuditLog
from healer.deletion.pod_deleter import Evidence
from healer.deletion.steps import Candidate, Confirmation, Confirmed, PassResult
from healer.errors import ClusterError
from healer.leader_election import LeadershipCheck
from healer.log import get_logger
from healer.model import Action, DeleteResult, DeleteStatus, Pod, Reason, Withheld

BATCH_SIZE = 20
"""How many Pods are confirmed before they are deleted: the window in which Airflow could change its mind is short."""

MAX_CONFIRM_FACTOR = 3
"""How many times the rate may be confirmed in one pass, so that candidates that are not confirmed can't use it up."""

MAX_ERRORS = 3
"""How many errors in a row end a pass: the API server has trouble, and asking Airflow on is in vain."""

MIN_RETRY_AFTER, MAX_RETRY_AFTER = 1.0, 300.0
"""Bounds, in seconds, of what a server may ask us to wait; a senseless figure must not end all healing."""

log = get_logger(__name__)


class Deleter(Protocol):
    """Sends the DELETE: see `PodDeleter`."""

    def delete_pod(self, pod: Pod, evidence: Evidence, is_leader: LeadershipCheck) -> DeleteResult:
        """Delete the Pod if the evidence is fresh and this replica leads at the moment of sending."""


class Diagnostics(Protocol):
    """What is read of Pods just before they go, for people."""

    def collect(self, suspects: Sequence[Suspect]) -> None:
        """Read how these Pods fare. Never raises."""

    def log(self, pod: Pod) -> None:
        """Write the line about a Pod that was deleted."""


class DeletionMetrics(Protocol):
    """What the metrics want to know of deletions."""

    def deletion(self, airflow: str, reason: Reason, result: str) -> None:
        """Count one decision to delete and what became of it."""

    def healing_delay(self, airflow: str, seconds: float) -> None:
        """Note how long after it was due a Pod was deleted."""


@dataclass
class DeletionRun:
    """One pass through the queue. `limit` is how many may be confirmed; `backed_off`: in the batch under way.

    `gone`: by uid the resourceVersions of Pods that need no attention any more, those deleted among them.
    `results`: by uid what became of the last DELETE of each Pod.
    """

    queue: list[Suspect]
    limit: float
    withheld: dict[str, Withheld]
    results: dict[str, DeleteResult] = field(default_factory=dict)
    deleted: list[Suspect] = field(default_factory=list)
    not_enforced: list[Suspect] = field(default_factory=list)
    gone: dict[str, frozenset[str]] = field(default_factory=dict)
    requeued: set[str] = field(default_factory=set)
    confirmed: int = 0
    errors: int = 0
    size: int = BATCH_SIZE
    backed_off: bool = False
    stopped: bool = False


def any_suspect(_suspect: Suspect) -> bool:
    """Return True: whatever is due may be deleted."""
    return True


class DeletionExecutor:
    """Deletes the due suspects of one Airflow, or says why not."""

    def __init__(
        self,
        airflow: AirflowConfig,
        *,
        cluster: Cluster,
        deleter: Deleter,
        records: RecordStore,
        limits: Limits,
        audit_log: AuditLog,
        diagnostics: Diagnostics,
        metrics: DeletionMetrics,
        is_leader: LeadershipCheck,
        withholds: Withholds,
        clock: Callable[[], float] = boottime,
        chosen: Callable[[Suspect], bool] = any_suspect,
    ) -> None:
        """Take what to act on, with and about; `clock` tells monotonic seconds, `chosen` which suspects may go."""
        self._airflow, self._cluster, self._deleter = airflow, cluster, deleter
        self._records, self._limits, self._withholds = records, limits, withholds
        self._audit_log, self._diagnostics, self._metrics = audit_log, diagnostics, metrics
        self._is_leader, self._clock, self._chosen = is_leader, clock, chosen
        self._batch_size = BATCH_SIZE
        self._tried = self._paused_until = -math.inf
        self._waiting: frozenset[Withheld] = frozenset()

    def next_event(self) -> float:
        """When more may be tried than in the last pass, in monotonic seconds; infinite where time alone won't help."""
        events = [self._paused_until]
        if Withheld.RATE in self._waiting:
            events.append(self._limits.rate_limiter.next_event(BATCH_SIZE))
        if Withheld.BREAKER in self._waiting:
            events.append(self._limits.breaker.next_event())
        return min((event for event in events if event > self._tried), default=math.inf)

    def begin(self, now: Now, unreadable: Set[str]) -> DeletionRun:
        """Queue the suspects that are due, and may be tried at all."""
        self._tried = now.ours
        available = self._limits.rate_limiter.available(now.ours)
        limit = math.inf if available is None else available * MAX_CONFIRM_FACTOR
        wanted = [each for each in self._records.suspects() if each.action is Action.DELETE and self._chosen(each)]
        due = quarantine.due(wanted, now, self._airflow.policy)
        waiting = {suspect.pod.uid for suspect in wanted} - {suspect.pod.uid for suspect in due}
        run = DeletionRun([], limit, dict.fromkeys(waiting, Withheld.NOT_DUE))
        run.queue = [suspect for suspect in due if self._may_be_tried(suspect, unreadable, run)]
        return run

    def _may_be_tried(self, suspect: Suspect, unreadable: Set[str], run: DeletionRun) -> bool:
        uid, record = suspect.pod.uid, self._records.get(suspect.pod.uid)
        if record is None or record.attempts.denied:
            return False
        if suspect.pod.namespace in unreadable or self._clock() < self._paused_until:
            return False
        if self._withholds(suspect.pod, suspect.finding):
            run.withheld[uid] = Withheld.OWNERSHIP
            return False
        if record.attempts.reported == (suspect.signature, suspect.since):
            run.withheld[uid] = Withheld.REPORT_MODE  # all but the DELETE was done, once is enough
            return False
        return True

    def next_batch(self, run: DeletionRun) -> list[Candidate]:
        """Take the next candidates off the queue: as many as breaker, rate limiter and the window allow."""
        # Once the leadership is lost nothing could be deleted: neither must Airflow be asked any more.
        while run.queue and not run.stopped and self._is_leader():
            batch = self._limits.next_batch(run.queue, min(self._batch_size, run.limit - run.confirmed), self._clock())
            run.queue = list(batch.left) if batch.suspects else []
            if not batch.suspects:
                run.withheld.update(batch.withheld)
                break
            run.confirmed += len(batch.suspects)
            run.size, run.backed_off = self._batch_size, False
            candidates = [Candidate(s, pod) for s in batch.suspects if (pod := self._current_pod(s, run)) is not None]
            if candidates and not run.stopped:
                if self._airflow.mode is Mode.ENFORCE:
                    self._diagnostics.collect([candidate.suspect for candidate in candidates])
                return candidates
            self._grow(run)
        return []

    def delete(self, confirmation: Confirmation, run: DeletionRun) -> None:
        """Delete what is confirmed, and still due and ours; in report mode do all but that."""
        for case in confirmation.confirmed:
            if run.stopped:
                break
            if case.suspect.due > self._clock() + CLOCK_STEP:
                run.withheld[case.pod.uid] = Withheld.NOT_DUE
            elif self._withholds(case.pod, case.finding):  # what refutes the claim may have been seen in this batch
                run.withheld[case.pod.uid] = Withheld.OWNERSHIP
            else:
                self._delete(case, run)
        run.stopped = run.stopped or confirmation.silent
        self._grow(run)

    def finish(self, run: DeletionRun) -> PassResult:
        """Return what the pass left behind."""
        if not self._is_leader():
            run.withheld |= {s.pod.uid: Withheld.NOT_LEADER for s in run.queue}
        self._waiting = frozenset(run.withheld.values())
        return PassResult(run.withheld, tuple(run.deleted), tuple(run.not_enforced), run.results)

    def _grow(self, run: DeletionRun) -> None:
        """End a batch: after one without trouble the next may be larger."""
        if not run.backed_off:
            self._batch_size = min(BATCH_SIZE, 2 * self._batch_size)

    def _current_pod(self, suspect: Suspect, run: DeletionRun) -> Pod | None:
        """Return the Pod to confirm; read anew where an earlier DELETE had no clear end, None if it is out of reach."""
        uid, record = suspect.pod.uid, self._records.get(suspect.pod.uid)
        if record is None or not record.attempts.needs_reread:
            return suspect.pod
        if run.stopped:
            return None
        try:
            pod = self._reread(suspect)
        except ClusterError as error:
            log.info("a Pod can't be read again", pod=str(suspect.pod), why=str(error))
            self._records.requeue(uid)
            self._back_off(error.retry_after, run)
            return None
        self._records.note_attempt(uid, needs_reread=False)
        if pod is None:
            _mark_gone(suspect, suspect.pod, run)
        return pod

    def _reread(self, suspect: Suspect) -> Pod | None:
        """Return the Pod as it is now; None if it is gone or going, or not ours to judge any more."""
        pod = self._cluster.get_pod(suspect.pod.namespace, suspect.pod.name)
        if pod is None or pod.uid != suspect.pod.uid or pod.terminating or not pod.selected:
            return None
        return pod if owns(self._airflow, pod) else None

    def _delete(self, case: Confirmed, run: DeletionRun) -> None:
        now = self._clock()
        self._audit_log.log_decision(case)
        if self._airflow.mode is not Mode.ENFORCE:
            self._limits.consume(case.suspect, now)
            self._records.note_attempt(case.pod.uid, reported=(case.suspect.signature, case.suspect.since))
            run.withheld[case.pod.uid] = Withheld.REPORT_MODE
            run.not_enforced.append(case.suspect)
            return
        result = self._deleter.delete_pod(case.pod, Evidence(case.finding, case.answer.sent), self._is_leader)
        if result.status is not DeleteStatus.STALE:
            self._limits.consume(case.suspect, now)
        self._metrics.deletion(self._airflow.name, case.finding.reason, result.status.value)
        self._audit_log.log_result(case, result)
        self._handle_result(case, result, run)

    def _handle_result(self, case: Confirmed, result: DeleteResult, run: DeletionRun) -> None:
        """Draw the consequence of what became of a DELETE."""
        uid = case.pod.uid
        run.results[uid] = result
        if result.status is not DeleteStatus.ERROR:
            run.errors = 0
        match result.status:
            case DeleteStatus.DELETED:
                self._diagnostics.log(case.pod)
                run.deleted.append(case.suspect)
                self._metrics.healing_delay(self._airflow.name, max(0.0, self._clock() - case.suspect.due))
                _mark_gone(case.suspect, case.pod, run)
            case DeleteStatus.GONE:
                _mark_gone(case.suspect, case.pod, run)
            case DeleteStatus.CONFLICT:
                self._records.note_attempt(uid, needs_reread=True)
                self._requeue(case.suspect, run)
            case DeleteStatus.STALE:
                # Airflow is slow: the fewer are asked about together, the younger is each answer.
                self._batch_size, run.backed_off = max(1, run.size // 2), True
                self._requeue(case.suspect, run)
            case DeleteStatus.DENIED:
                self._records.note_attempt(uid, denied=True, failure=result.message)
                self._records.requeue(uid)
                run.not_enforced.append(case.suspect)
            case DeleteStatus.ERROR:
                self._records.note_attempt(uid, needs_reread=True, failure=result.message)
                self._records.requeue(uid)
                self._back_off(result.retry_after, run)

    def _back_off(self, retry_after: float | None, run: DeletionRun) -> None:
        """End the pass if the API server asks us to wait or keeps failing, and begin the next one gently."""
        self._batch_size, run.backed_off = 1, True
        run.errors += 1
        if retry_after is not None:
            pause = min(max(retry_after, MIN_RETRY_AFTER), MAX_RETRY_AFTER)
            self._paused_until = self._clock() + pause
        run.stopped = run.stopped or retry_after is not None or run.errors >= MAX_ERRORS

    def _requeue(self, suspect: Suspect, run: DeletionRun) -> None:
        """Put a candidate whose Pod changed, or whose evidence grew old, back into the queue, once per pass."""
        if suspect.pod.uid in run.requeued:
            self._records.requeue(suspect.pod.uid)
        else:
            run.requeued.add(suspect.pod.uid)
            run.queue.append(suspect)


def _mark_gone(suspect: Suspect, pod: Pod, run: DeletionRun) -> None:
    run.gone[pod.uid] = frozenset({suspect.pod.resource_version, pod.resource_version})
