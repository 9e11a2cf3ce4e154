"""What is worth a look among the Pods of one Airflow, and what must be remembered to say so.

Asks nobody in a regular pass. Only whether a task instance still waits for a Pod that vanished is asked, of a bounded
number and together with what an audit asks anyway. Nothing that is found here is acted on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set

from msgspec import Struct
from msgspec.structs import replace

from healer.config import AirflowConfig
from healer.labels import parse
from healer.model import Answer, Known, LabelKey, Pod, Reason, TaskInstance, Unknown
from healer.notices import (
    UNCERTAIN,
    WAITED_FOR,
    Noted,
    Notice,
    Sight,
    Thresholds,
    gone_detail,
    is_gone_from,
    notices,
    works,
)
from healer.reconcile.casebook import Record
from healer.suspects import Now

MISSED = 1000
"""How many vanished Pods are remembered; the oldest are let go of."""

ASKED = 100
"""About how many of these an audit asks at the most."""

_Twins = tuple[str, str | None, str | None, str | None, str | None]


class Missing(Struct, frozen=True):
    """A Pod that vanished while its task instance used it. `gone` is monotonic seconds.

    `task` is what Airflow has said since, None before it was asked; `known`, what it said when the Pod was there.
    """

    pod: Pod
    known: TaskInstance
    gone: float
    task: TaskInstance | None = None


class Seen(Struct, frozen=True):
    """What is worth a look: notices by Pod uid, and the Pods that are missing, with theirs."""

    noted: Mapping[str, tuple[Noted, ...]] = {}
    missing: tuple[tuple[Missing, Noted], ...] = ()

    def counts(self) -> Mapping[Notice, int]:
        """How many Pods there are of each notice."""
        of_pods = Counter(each.notice for noted in self.noted.values() for each in noted)
        return of_pods + Counter(noted.notice for _, noted in self.missing)


class Lookout:
    """Looks at all Pods of one Airflow after a pass. Used by one thread."""

    def __init__(self, config: AirflowConfig) -> None:
        """Start with nothing seen: what was before a restart is not known."""
        limits = config.notices
        self._limits = Thresholds(
            limits.pending, limits.terminating, limits.deferred, limits.uncertain, limits.gone, config.policy.grace
        )
        self._kept: dict[str, dict[Reason, float]] = {}
        self._used: dict[str, Record] = {}
        self._missing: dict[str, Missing] = {}
        self.seen = Seen()
        """What the last look has found."""

    def miss(self, uids: Set[str], now: Now) -> None:
        """Note which Pods have vanished; `now` is when that was seen."""
        for uid in uids & self._used.keys():
            record = self._used.pop(uid)
            if isinstance(record.answer, Known):
                self._missing[uid] = Missing(record.pod, record.answer.task, now.ours)
        for uid in list(self._missing)[:-MISSED]:
            del self._missing[uid]

    def to_ask(self, now: Now) -> list[Pod]:
        """Vanished Pods whose task instance an audit should tell of: those not asked about first."""
        old = [each for each in self._missing.values() if now.ours - each.gone >= self._limits.gone]
        return [each.pod for each in sorted(old, key=lambda each: (each.task is not None, each.gone))[:ASKED]]

    def hear(self, answers: Mapping[str, Answer]) -> list[str]:
        """Take over what an audit told of vanished Pods. Return their uids."""
        heard = [uid for uid in answers if uid in self._missing]
        for uid in heard:
            self._hear(uid, answers[uid])
        return heard

    def look(self, records: Iterable[Record], now: Now) -> None:
        """Look at all Pods."""
        records = list(records)
        working = [record for record in records if works(record.pod, _task(record))]
        self._used = {record.pod.uid: record for record in working if _in_use(record)}
        twins = Counter(_twins(record.pod) for record in working if self._is_twin(record, now))
        there = {_twins(record.pod) for record in records if works(record.pod, None)} if self._missing else set()
        self._missing = {uid: each for uid, each in self._missing.items() if _twins(each.pod) not in there}
        self._remember(records, now)
        several = {key for key, count in twins.items() if count > 1}
        worth = (record for record in records if _is_worth_a_look(record, several))
        noted = {record.pod.uid: self._notices(record, twins, now) for record in worth}
        self.seen = Seen({uid: some for uid, some in noted.items() if some}, tuple(self._missed(now)))

    def _hear(self, uid: str, answer: Answer) -> None:
        missing = self._missing[uid]
        key = parse(missing.pod.labels)
        if isinstance(answer, Known) and isinstance(key, LabelKey):
            task_try = missing.known.try_number or key.try_number
            if is_gone_from(answer.task, task_try):
                self._missing[uid] = replace(missing, task=answer.task)
                return
        if not isinstance(answer, Unknown):
            del self._missing[uid]

    def _remember(self, records: Iterable[Record], now: Now) -> None:
        """Remember since when each Pod is kept for an uncertain reason; an answer that failed does not end another."""
        kept: dict[str, dict[Reason, float]] = {}
        for record in records:
            reason, uid = record.finding.reason, record.pod.uid
            if reason in UNCERTAIN:
                before = self._kept.get(uid, {})
                others = before if reason is Reason.AIRFLOW_UNKNOWN else {}
                kept[uid] = {**others, reason: before.get(reason, now.ours)}
        self._kept = kept

    def _notices(self, record: Record, twins: Mapping[_Twins, int], now: Now) -> tuple[Noted, ...]:
        pod, reason = record.pod, record.finding.reason
        since = self._kept.get(pod.uid, {}).get(reason, now.ours)
        others = max(0, twins.get(_twins(pod), 0) - 1)
        return notices(Sight(pod, reason, record.answer, now.server, now.ours - since, others), self._limits)

    def _is_twin(self, record: Record, now: Now) -> bool:
        pod = record.pod
        old = now.server is not None and pod.created is not None and now.server - pod.created >= self._limits.settled
        return old and _is_waited_for(record)

    def _missed(self, now: Now) -> Iterable[tuple[Missing, Noted]]:
        for each in self._missing.values():
            if each.task is not None:
                yield each, Noted(Notice.POD_GONE, gone_detail(each.task, now.ours - each.gone))


def _in_use(record: Record) -> bool:
    """Whether a task instance uses the Pod, one that works, and would miss it."""
    task = _task(record)
    used = record.finding.reason in {Reason.IN_USE, Reason.REATTACHED}
    return used and task is not None and is_gone_from(task, task.try_number or 0)


def _task(record: Record) -> TaskInstance | None:
    return record.answer.task if isinstance(record.answer, Known) else None


def _is_waited_for(record: Record) -> bool:
    return record.finding.reason in WAITED_FOR or record.finding.reason is Reason.SUPERSEDED


def _is_worth_a_look(record: Record, several: Set[_Twins]) -> bool:
    """Whether any notice could apply: spares most Pods the rest. `several`: task instances with more than one Pod."""
    reason = record.finding.reason
    if reason in UNCERTAIN or reason is Reason.TERMINATING:
        return True
    if bool(several) and _twins(record.pod) in several:
        return True
    task = _task(record)
    waits = record.pod.phase == "Pending" or (task is not None and task.state == "deferred")
    return waits and reason in WAITED_FOR


def _twins(pod: Pod) -> _Twins:
    """What all Pods of one task instance have in common: KPO searches in one namespace."""
    labels = pod.labels
    return pod.namespace, labels.dag_id, labels.task_id, labels.run_id, labels.map_index
