"""What is known of the Pods of one Airflow: ask, judge, suspect. Nothing here can delete.

A scan is the first half of a pass, and all that `scan` and `explain` do; `healer.reconciler` does the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec.structs import replace

from healer.airflow import Airflow
from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import AirflowConfig, covers
from healer.decision import quarantine
from healer.decision.limits import Limits
from healer.decision.quarantine import Now, Suspect
from healer.decision.records import Record, RecordStore
from healer.decision.rules import needs_siblings
from healer.errors import AccessDeniedError, ClusterError
from healer.insights.notice_tracker import NoticeTracker
from healer.log import get_logger
from healer.model import Action, Answer, Known, NamedPods, PassKind, Pod, Unknown, Withheld
from healer.ownership_guard import OwnershipGuard
from healer.telemetry.findings import FindingView
from healer.telemetry.snapshot import BreakerStatus, Snapshot

log = get_logger(__name__)


def never_overridden(_airflow: str) -> bool:
    """Return False: the breaker of no Airflow is overridden."""
    return False


class Scanner:
    """Everything that is known about the Pods of one Airflow. Used by one thread."""

    def __init__(
        self,
        config: AirflowConfig,
        airflow: Airflow,
        cluster: Cluster,
        *,
        clock: Callable[[], float] = boottime,
        overridden: Callable[[str], bool] = never_overridden,
    ) -> None:
        """Start knowing nothing: safe, only later.

        `clock` tells monotonic seconds, `overridden` whether the breaker of an Airflow is.
        """
        self.config, self._airflow, self._cluster = config, airflow, cluster
        self._clock, self._is_overridden = clock, overridden
        self._ownership = OwnershipGuard(config)
        airflow.refuted = self._ownership.refuted  # a live view
        self._records = RecordStore(config.policy, self._ownership.admits)
        self._limits = Limits(config.limits, clock())
        self._notice_tracker = NoticeTracker(config)
        self._overridden = False
        self._breaker_status: BreakerStatus | None = None
        self._withheld: Mapping[str, Withheld] = {}

    def scan_once(self, pods: Iterable[Pod], unreadable: Mapping[str, str]) -> None:
        """Ask about every Pod once and judge it; nothing is acted on."""
        self._sync(pods, PassKind.AUDIT, unreadable)
        self._evaluate(self._query(PassKind.AUDIT, unreadable))
        self._update_breaker()
        pending = [suspect for suspect in self._records.suspects() if suspect.action is Action.DELETE]
        self._withheld = self._limits.preview(pending, self.config.mode, self._ownership.withholds, self._clock())
        self._notice_tracker.refresh(self._records.snapshot(), self._now())

    def snapshot(self) -> Snapshot:
        """Return what is known now, for other threads to read."""
        suspects = {suspect.pod.uid: suspect for suspect in self._records.suspects()}
        return Snapshot(
            self.config,
            tuple(self._records),
            suspects,
            self._withheld,
            self._now(),
            self._notice_tracker.snapshot,
            self._breaker_status,
        )

    def findings(self, *, first_look: bool = False) -> list[FindingView]:
        """Return the findings on all Pods as users see them; after a first look no Pod has been suspected for long."""
        found = list(self.snapshot().findings())
        return [replace(each, since=None) for each in found] if first_look else found

    def record(self, uid: str) -> Record | None:
        """Return what is known of one Pod."""
        return self._records.get(uid)

    @property
    def refuted(self) -> Mapping[str, str]:
        """The namespaces in which the claim to all Pods does not hold, and why."""
        return self._ownership.refuted

    def obstacle(self, suspect: Suspect) -> Withheld | None:
        """Return what withholds a suspect besides its patience: the ownership or the limits; None if nothing does."""
        if self._ownership.withholds(suspect.pod, suspect.finding):
            return Withheld.OWNERSHIP
        return self._limits.next_batch([suspect], 1, self._clock()).withheld.get(suspect.pod.uid)

    # --- the steps of a scan ------------------------------------------------------------------------------------------

    def _sync(
        self, pods: Iterable[Pod], kind: PassKind, unreadable: Mapping[str, str]
    ) -> tuple[list[Record], set[str]]:
        """Take over which Pods there are. Return the records that changed, and the uids that are gone."""
        now = self._now()
        changed, gone = self._records.sync(pods, now)
        self._notice_tracker.on_deleted(gone, now)
        self._airflow.forget(gone)
        for record in self._records if unreadable else ():
            # Nothing is judged in a namespace that can't be read: what we have of it may be old.
            why = unreadable.get(record.pod.namespace)
            if why is not None:
                self._records.mark_unknown(record.pod, f"namespace {record.pod.namespace} can't be read: {why}", now)
        if kind is PassKind.AUDIT:
            self._airflow.start_audit()
            self._records.start_audit()
        return changed, gone

    def _query(self, kind: PassKind, unreadable: Mapping[str, str], besides: Collection[Pod] = ()) -> dict[str, Answer]:
        """Ask Airflow as much as the kind of pass wants, about Pods that it may know, and some `besides`."""
        known = self._records.queryable(unreadable)
        if kind is PassKind.AUDIT:
            wanted = {uid: record.pod for uid, record in known.items()}
            wanted |= {pod.uid: pod for pod in (*besides, *self._notice_tracker.to_query(self._now()))}
            return complete(wanted, self._airflow.get_all(list(wanted.values()))) if wanted else {}
        suspects = self._records.suspects()
        waiting = quarantine.awaiting_sighting(suspects, self._now(), stale=kind is PassKind.FULL)
        due = {uid: known[uid].pod for suspect in waiting if (uid := suspect.pod.uid) in known}
        answers = complete(due, self._airflow.get_each(list(due.values()))) if due else {}
        if kind is PassKind.FULL:
            answers |= self._query_changed(known, besides, asked=set(answers))
        return answers

    def _query_changed(
        self, known: Mapping[str, Record], besides: Iterable[Pod], *, asked: set[str]
    ) -> dict[str, Answer]:
        """Ask about Pods that are new or changed, and which of the others' task instances have ended lately."""
        wanted = {pod.uid: pod for pod in self._records.pending() if pod.uid in known}
        wanted |= {pod.uid: pod for pod in besides}
        wanted = {uid: pod for uid, pod in wanted.items() if uid not in asked}
        answers = complete(wanted, self._airflow.get_all(list(wanted.values()))) if wanted else {}
        asked |= wanted.keys()
        rest = {
            u: r.pod for u, r in known.items() if r.suspect is None and isinstance(r.answer, Known) and u not in asked
        }
        ended = self._airflow.list_recently_ended(list(rest.values())) if rest else {}
        self._records.clear_unknown(rest.keys() - ended.keys())
        return answers | ended

    def _evaluate(self, answers: Mapping[str, Answer]) -> list[Record]:
        """Judge the Pods by fresh answers. Return their records."""
        evaluated = []
        for uid, answer in answers.items():
            known = self._records.get(uid)
            if known is not None:
                record = self._records.evaluate(known.pod, self._with_siblings(known.pod, answer), self._now())
                self._ownership.see(record.pod, record.finding)
                evaluated.append(record)
        return evaluated

    def _with_siblings(self, pod: Pod, answer: Answer) -> Answer:
        """Read the Pods that Airflow names instead: their existence is evidence, so the store's word won't do.

        One that can't be read just now leaves the identity unknown, so that all of it is asked again in the next pass.
        """
        if not isinstance(answer, Known) or answer.identity is None or not needs_siblings(pod, answer):
            return answer
        named = sorted((namespace or pod.namespace, name) for namespace, name in answer.identity.named)
        try:
            found = [self._read(namespace, name) for namespace, name in named]
        except ClusterError as error:
            return replace(answer, identity=NamedPods(failed=f"the Pod that Airflow names can't be read: {error}"))
        return replace(answer, siblings=tuple(sibling for sibling in found if sibling is not None))

    def _read(self, namespace: str, name: str) -> Pod | None:
        """Return a Pod where we may read it; a right that lacks is not there in the next pass either."""
        if not covers(self.config.namespaces, namespace):
            return None
        try:
            return self._cluster.get_pod(namespace, name)
        except AccessDeniedError as error:
            log.info("a sibling can't be read", pod=f"{namespace}/{name}", why=str(error))
            return None

    def _update_breaker(self) -> None:
        """Let the breaker count, before anything is deleted, how many of the active Pods are pending deletion."""
        active = self._records.active()
        pending_deletion = sum(1 for s in self._records.suspects() if s.active and s.action is Action.DELETE)
        breaker, overridden = self._limits.breaker, self._is_overridden(self.config.name)
        before, self._overridden = (breaker.is_open, self._overridden), overridden
        breaker.update(active=active, pending_deletion=pending_deletion, now=self._clock(), overridden=overridden)
        self._breaker_status = self._open_breaker(active, pending_deletion) if breaker.is_open else None
        if (breaker.is_open, overridden) == before:
            return
        if breaker.is_open:
            write, what = (
                log.warning,
                "open: too many active Pods are pending deletion at once, none of them is deleted",
            )
        elif overridden:
            write, what = log.warning, "lifted by hand: whatever is pending deletion may be deleted"
        else:
            write, what = log.info, "closed again"
        write(f"the breaker is {what}", airflow=self.config.name, condemned=pending_deletion, active=active)

    def _open_breaker(self, active: int, pending_deletion: int) -> BreakerStatus:
        since = self._breaker_status.since if self._breaker_status else self._cluster.now()
        return BreakerStatus(since, f"{pending_deletion} of {active} active Pods are pending deletion at once.")

    def _now(self) -> Now:
        return Now(self._clock(), self._cluster.now())


def complete(pods: Mapping[str, Pod], answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """Return an answer for every Pod: what Airflow passes over in silence is not known."""
    return {uid: answers.get(uid) or Unknown(0.0, "Airflow gave no answer") for uid in pods}
