"""One pass over the Pods of one Airflow: ask, judge, suspect, confirm, delete, report.

Three kinds. An *audit* asks about every Pod without any filter; late and missing end dates, deleted runs and duplicate
labels are caught here. A *full* pass asks which task instances ended lately, and about Pods that are new or changed. A
*due* pass only asks about the suspects that want another look now.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from msgspec import Struct, field

from healer.airflow import Airflow
from healer.airflow.note_writer import NoteWriter
from healer.clock import boottime
from healer.cluster import FRESHNESS, Cluster
from healer.config import AirflowConfig, Mode
from healer.decision import quarantine
from healer.decision.quarantine import Suspect
from healer.decision.records import Record
from healer.decision.withheld import WithheldSince
from healer.deletion.audit_log import AuditLog
from healer.deletion.decision_record import CONTROLLER
from healer.deletion.executor import Deleter, DeletionExecutor, any_suspect
from healer.deletion.pod_deleter import PodDeleter
from healer.deletion.steps import Candidate, Confirmation, Confirmed, PassResult
from healer.informer import PodStore
from healer.insights.causes import explain
from healer.insights.diagnostics import DiagnosticsCollector
from healer.insights.regrets import Regret, RegretTracker
from healer.insights.resource_usage import requested
from healer.insights.usage_meter import UsageMeter
from healer.leader_election import LeadershipCheck
from healer.log import get_logger
from healer.model import Action, Answer, CauseFinding, DeleteResult, Finding, NamedPods, PassKind, Pod, Reason, rfc3339
from healer.scanner import Scanner, complete, never_overridden
from healer.telemetry.events import EventRecorder
from healer.telemetry.findings import FindingView, subject
from healer.telemetry.metrics import Metrics

log = get_logger(__name__)

_reason = attrgetter("finding.reason")


class Dependencies(Struct, frozen=True):
    """What a pass works with.

    `clock` tells monotonic seconds, `wall` epoch seconds (for metrics only); `overridden` whether somebody has
    overridden the breaker of an Airflow; `freshness` is how old evidence may be, in seconds, which the deleter sees to.
    `store` is where the Pods of a pass come from; it learns which of them were deleted. `chosen` says which suspects
    may be deleted and told about, where somebody wants but one of them, and `by` who that is.
    """

    cluster: Cluster
    recorder: EventRecorder
    metrics: Metrics
    is_leader: LeadershipCheck
    clock: Callable[[], float] = boottime
    wall: Callable[[], float] = time.time
    overridden: Callable[[str], bool] = never_overridden
    freshness: float = FRESHNESS
    note_writer: NoteWriter = field(default_factory=NoteWriter)
    store: PodStore = field(default_factory=PodStore)
    deleter: Deleter | None = None
    chosen: Callable[[Suspect], bool] = any_suspect
    by: str = CONTROLLER


class Reconciler(Scanner):
    """Everything that is known and done about the Pods of one Airflow. Used by one thread."""

    def __init__(self, config: AirflowConfig, airflow: Airflow, deps: Dependencies) -> None:
        """Start knowing nothing: safe, only later."""
        super().__init__(config, airflow, deps.cluster, clock=deps.clock, overridden=deps.overridden)
        self._deps = deps
        self._executor = DeletionExecutor(
            config,
            cluster=deps.cluster,
            deleter=deps.deleter or PodDeleter.of(deps.cluster),
            records=self._records,
            limits=self._limits,
            audit_log=AuditLog(
                config,
                airflow,
                cluster=deps.cluster,
                recorder=deps.recorder,
                note_writer=deps.note_writer,
                freshness=deps.freshness,
                clock=deps.clock,
                by=deps.by,
            ),
            diagnostics=DiagnosticsCollector(config.name, config.post_mortem, deps.cluster),
            metrics=deps.metrics,
            is_leader=deps.is_leader,
            withholds=self._ownership.withholds,
            clock=deps.clock,
            chosen=deps.chosen,
        )
        self._regrets = RegretTracker()
        self._usage_meter = UsageMeter(deps.clock())
        self._withheld_since = WithheldSince()
        self._set_aside = 0
        self._result = PassResult()
        self.deleted: tuple[FindingView, ...] = ()
        """What the last pass deleted."""

    def reconcile(self, pods: Iterable[Pod], kind: PassKind, unreadable: Mapping[str, str]) -> None:
        """Make one pass over the Pods. `unreadable` says of which namespaces nothing is known now, and why."""
        started = self._clock()
        self.deleted = ()  # also where this pass fails before it deletes
        changed, gone = self._sync(pods, kind, unreadable)
        self._regrets.on_deleted(gone)
        for record in changed:
            self._regrets.on_update(record.pod)
        besides = [] if kind is PassKind.DUE else self._regrets.to_query(audit=kind is PassKind.AUDIT)
        answers = self._query(kind, unreadable, besides)
        evaluated = self._evaluate(answers)
        self._check_regrets(answers)
        self._airflow.forget(self._notice_tracker.on_answers(answers))
        self._update_breaker()
        self._delete_due(unreadable)
        self._track_would_delete(evaluated)
        self._emit_events()
        if kind is not PassKind.DUE:
            self._notice_tracker.refresh(self._records.snapshot(), self._now())
        self._export_metrics(started)

    def next_event(self) -> float:
        """When there is something to do before the next regular pass, in monotonic seconds; infinite if nothing."""
        return min(quarantine.next_event(self._chosen(), self._now()), self._executor.next_event())

    def result(self, uid: str) -> DeleteResult | None:
        """Return what became of the DELETE that the last pass sent for a Pod; None if it sent none."""
        return self._result.results.get(uid)

    def failures(self) -> dict[str, str]:
        """Return the Pods that are due in enforce mode and still there, by uid, with what is known of the reason."""
        if self.config.mode is not Mode.ENFORCE:
            return {}
        failures = {}
        for suspect in quarantine.due(self._records.suspects(), self._now(), self.config.policy):
            record = self._records.get(suspect.pod.uid)
            if suspect.action is Action.DELETE and record is not None and suspect.pod.uid not in self._withheld:
                failures[suspect.pod.uid] = record.attempts.failure or f"{suspect.pod} could not be confirmed"
        return failures

    def _chosen(self) -> list[Suspect]:
        """Return the suspects that this is about: all, or the one that somebody wants deleted."""
        return [suspect for suspect in self._records.suspects() if self._deps.chosen(suspect)]

    # --- confirm and delete -------------------------------------------------------------------------------------------

    def _delete_due(self, unreadable: Mapping[str, str]) -> None:
        """Confirm what is due, batch by batch, and delete what is confirmed before the next batch is asked about."""
        run = self._executor.begin(self._now(), unreadable.keys())
        while batch := self._executor.next_batch(run):
            self._executor.delete(self._confirm(batch), run)
        self._result = self._executor.finish(run)
        self._withheld = self._result.withheld
        if self._result.deleted:
            finding = self.snapshot().suspect_finding
            self.deleted = tuple(finding(each, self._records.get(each.pod.uid)) for each in self._result.deleted)
        for uid, resource_versions in run.gone.items():
            self._deps.store.expect_deleted(uid, resource_versions)
            self._records.delete(uid)
        self._regrets.forget(run.gone)
        self._airflow.forget(run.gone)

    def _confirm(self, batch: Sequence[Candidate]) -> Confirmation:
        """Ask and judge anew. Only what is still the same case is confirmed."""
        pods = {candidate.pod.uid: candidate.pod for candidate in batch}
        answers = complete(pods, self._airflow.get_each(list(pods.values())))
        confirmed, silent = [], True
        for suspect, pod in ((candidate.suspect, candidate.pod) for candidate in batch):
            answer = self._with_siblings(pod, answers[pod.uid])
            finding, current = self._records.confirm(suspect, pod, answer, self._now())
            self._ownership.see(pod, finding)
            silent = silent and finding.reason is Reason.AIRFLOW_UNKNOWN
            if current is None:
                self._log_not_confirmed(suspect, pod, finding)
            else:
                confirmed.append(Confirmed(current, pod, answer, finding, self._cause(pod, finding)))
        return Confirmation(tuple(confirmed), silent)

    def _log_not_confirmed(self, suspect: Suspect, pod: Pod, finding: Finding) -> None:
        if finding.reason is not Reason.AIRFLOW_UNKNOWN:
            self._deps.metrics.deletion(self.config.name, suspect.finding.reason, "refuted")
        was, is_now = suspect.finding.reason.value, finding.reason.value
        log.info("not confirmed", pod=str(pod), uid=pod.uid, was=was, now=is_now, why=finding.detail)

    def _cause(self, pod: Pod, finding: Finding) -> CauseFinding | None:
        record = self._records.get(pod.uid)
        return explain(pod, finding, record.last_active_task if record else None)

    # --- track what would have been deleted ---------------------------------------------------------------------------

    def _track_would_delete(self, evaluated: Iterable[Record]) -> None:
        """Track Pods that only report mode or policy kept from deletion: due, and the same case by an answer of this
        pass."""
        now = self._now()
        records = (self._records.get(record.pod.uid) for record in evaluated)
        suspects = [record.suspect for record in records if record is not None and record.suspect is not None]
        reported = [each for each in suspects if each.action is Action.REPORT and self._deps.chosen(each)]
        due = (suspect for suspect in reported if quarantine.is_due(suspect, now, self.config.policy))
        for suspect in (*self._result.not_enforced, *due):
            if self._regrets.track(suspect.pod, suspect.finding, now.server):
                log.info(
                    "would delete",
                    airflow=self.config.name,
                    pod=str(suspect.pod),
                    uid=suspect.pod.uid,
                    reason=suspect.finding.reason.value,
                    detail=suspect.finding.detail,
                )

    def _check_regrets(self, answers: Mapping[str, Answer]) -> None:
        """Judge those that showed a sign of use in an earlier pass."""
        rechecks = self._regrets.on_answers(answers)
        wanted = [(each.tracked.pod, each.task) for each in rechecks if each.task and each.wants_identity]
        named = self._airflow.get_current_pods(wanted) if wanted else {}
        for recheck in rechecks:
            regret = self._regrets.judge(recheck, named.get(recheck.tracked.pod.uid, NamedPods()))
            if regret is not None:
                self._log_regret(regret)
        self._airflow.forget([each.tracked.pod.uid for each in rechecks if each.tracked.deleted])

    def _log_regret(self, regret: Regret) -> None:
        tracked = regret.tracked
        self._deps.metrics.regret(self.config.name, tracked.finding.reason)
        log.warning(
            "regret: Airflow used a Pod that would have been deleted",
            airflow=self.config.name,
            pod=str(tracked.pod),
            uid=tracked.pod.uid,
            task=subject(Finding(tracked.finding.reason, "", regret.task)),
            reason=tracked.finding.reason.value,
            detail=tracked.finding.detail,
            would_be_deleted=rfc3339(tracked.at),
            way=regret.use.value,
            how=regret.how,
        )

    # --- Events and metrics -------------------------------------------------------------------------------------------

    def _emit_events(self) -> None:
        """Write an Event on each orphan that is due and still there, once per audit."""
        for suspect in quarantine.due(self._chosen(), self._now(), self.config.policy):
            record = self._records.get(suspect.pod.uid)
            if record is not None and record.event_sent != suspect.signature:
                self._records.note_event(suspect)
                withheld, cause = self._withheld.get(suspect.pod.uid), self._cause(suspect.pod, suspect.finding)
                due = self._now().to_server(suspect.due)
                self._deps.recorder.record_detected(
                    suspect.pod, suspect.finding, suspect.action, withheld, cause, due=due
                )

    def _export_metrics(self, started: float) -> None:
        metrics, name, now = self._deps.metrics, self.config.name, self._now()
        suspects, deleted = self._records.suspects(), self._result.deleted
        metrics.pods(name, Counter(map(_reason, self._records)))
        metrics.suspects(name, quarantine.counts(suspects))
        metrics.withheld(name, Counter(self._withheld.values()))
        metrics.withheld_longest(name, self._withheld_since.longest(self._withheld, now.ours))
        metrics.kept_longest(name, self._notice_tracker.kept_longest(now))
        metrics.ownership_refuted(name, len(self._ownership.refuted))
        metrics.held(name, requested(suspect.pod for suspect in suspects))
        metrics.notices(name, self._notice_tracker.snapshot.counts())
        metrics.wasted(name, self._usage_meter.accrue(suspects, deleted, now))
        metrics.reclaimed(name, requested(suspect.pod for suspect in deleted))
        metrics.breaker(name, self._limits.breaker.is_open)
        self._log_set_aside(self._airflow.set_aside)
        metrics.set_aside(name, self._set_aside)
        metrics.pass_done(name, self._clock() - started, self._deps.wall())

    def _log_set_aside(self, count: int) -> None:
        """Log once when the first is set aside, and when the last one is answered again."""
        before, self._set_aside = self._set_aside, count
        if count and not before:
            why = "; ".join(f"{kind}: {said}" for kind, said in self._airflow.troubles().items())
            log.warning(
                "Airflow fails on some questions: they are set aside and asked again alone, the others are answered",
                airflow=self.config.name,
                set_aside=count,
                why=why,
            )
        elif before and not count:
            log.info("Airflow answers all questions again: nothing is set aside", airflow=self.config.name)


def wait_idle(cluster: Cluster, timeout: float) -> bool:
    """Wait until no DELETE of this process is under way, for at most `timeout` seconds. Return whether that is so."""
    return PodDeleter.of(cluster).wait_idle(timeout)
