"""What is worth a look among the Pods of one Airflow, and what must be remembered to say so.

Asks nobody in a regular pass. Only whether a task instance still waits for a Pod that vanished is asked, of a bounded
number and together with what an audit asks anyway. Nothing that is found here is acted on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set

from msgspec import Struct
from msgspec.structs import replace

from healer.config import AirflowConfig
from healer.decision.labels import parse
from healer.decision.quarantine import Now
from healer.decision.records import Record
from healer.insights.notices import (
    UNCERTAIN,
    WAITED_FOR,
    ActiveNotice,
    Notice,
    NoticeInput,
    Thresholds,
    gone_detail,
    is_gone_from,
    notices,
    works,
)
from healer.model import Answer, Known, LabelKey, Pod, Reason, TaskInstance, Unknown

MAX_LOST = 1000
"""How many vanished Pods are remembered; the oldest are forgotten."""

MAX_QUERIED = 100
"""About how many of these an audit asks at the most."""

_GroupKey = tuple[str, str | None, str | None, str | None, str | None]


class LostPod(Struct, frozen=True):
    """A Pod that vanished while its task instance used it. `gone` is monotonic seconds.

    `task` is what Airflow has said since, None before it was asked; `known`, what it said when the Pod was there.
    """

    pod: Pod
    known: TaskInstance
    gone: float
    task: TaskInstance | None = None


class NoticeSnapshot(Struct, frozen=True):
    """What is worth a look: notices by Pod uid, and the Pods that are missing, with theirs."""

    active: Mapping[str, tuple[ActiveNotice, ...]] = {}
    lost: tuple[tuple[LostPod, ActiveNotice], ...] = ()

    def counts(self) -> Mapping[Notice, int]:
        """How many Pods there are of each notice."""
        of_pods = Counter(each.notice for noted in self.active.values() for each in noted)
        return of_pods + Counter(noted.notice for _, noted in self.lost)


class _PodGroups:
    """Which Pods are of the same task instance. Most are alone, and need no set of their own."""

    def __init__(self) -> None:
        self._alone: dict[_GroupKey, str] = {}
        self.several: dict[_GroupKey, set[str]] = {}

    def of(self, key: _GroupKey) -> Collection[str]:
        """The uids of these Pods."""
        if key in self._alone:
            return (self._alone[key],)
        return self.several.get(key, ())

    def join(self, key: _GroupKey, uid: str) -> None:
        if key in self._alone:
            self.several[key] = {self._alone.pop(key)}
        if key in self.several:
            self.several[key].add(uid)
        else:
            self._alone[key] = uid

    def part(self, key: _GroupKey, uid: str) -> None:
        if key in self._alone:
            del self._alone[key]
            return
        self.several[key].remove(uid)
        if len(self.several[key]) == 1:
            self._alone[key] = self.several.pop(key).pop()


class NoticeTracker:
    """Looks at all Pods of one Airflow after a pass. Used by one thread.

    Most Pods are the same from look to look: only those whose record changed are sorted anew.
    """

    def __init__(self, config: AirflowConfig) -> None:
        """Start with nothing seen: what was before a restart is not known."""
        limits = config.notices
        self._limits = Thresholds(
            limits.pending,
            limits.terminating,
            limits.deferred,
            limits.uncertain,
            limits.gone,
            config.policy.grace,
            config.policy.retention.longest,
        )
        self._records: Mapping[str, Record] = {}
        self._groups = _PodGroups()
        self._starts_at: dict[str, float] = {}
        self._kept: dict[str, dict[Reason, float]] = {}
        self._lost: dict[str, LostPod] = {}
        self.snapshot = NoticeSnapshot()
        """What the last look has found."""

    def on_deleted(self, uids: Set[str], now: Now) -> None:
        """Note which Pods have vanished; `now` is when that was seen."""
        for uid in uids:
            record = self._records.get(uid)
            if record is not None and isinstance(record.answer, Known) and _in_use(record):
                self._lost[uid] = LostPod(record.pod, record.answer.task, now.ours)
        for uid in list(self._lost)[:-MAX_LOST]:
            del self._lost[uid]

    def to_query(self, now: Now) -> list[Pod]:
        """Vanished Pods whose task instance an audit should tell of: those not asked about first."""
        old = [each for each in self._lost.values() if now.ours - each.gone >= self._limits.gone]
        return [each.pod for each in sorted(old, key=lambda each: (each.task is not None, each.gone))[:MAX_QUERIED]]

    def on_answers(self, answers: Mapping[str, Answer]) -> list[str]:
        """Take over what an audit told of vanished Pods. Return their uids."""
        heard = [uid for uid in answers if uid in self._lost]
        for uid in heard:
            self._on_answer(uid, answers[uid])
        return heard

    def refresh(self, records: Mapping[str, Record], now: Now) -> None:
        """Look at all Pods; `records`, by uid, must not change afterwards."""
        self._sort(records, now)
        self._lost = {uid: each for uid, each in self._lost.items() if not self._is_replaced(each)}
        several = self._groups.several.items()
        duplicates = {key: count for key, uids in several if (count := self._count_duplicates(uids, now)) > 1}
        worth = {uid for uid, start in self._starts_at.items() if now.server is None or start <= now.server}
        worth.update(uid for key in duplicates for uid in self._groups.of(key))
        noted = {uid: self._notices(records[uid], duplicates, now) for uid in worth}
        self.snapshot = NoticeSnapshot(
            {uid: some for uid, some in noted.items() if some}, tuple(self._lost_notices(now))
        )

    def kept_longest(self, now: Now) -> dict[Reason, float]:
        """For how long the Pod is kept that is kept longest for each uncertain reason, in seconds."""
        longest: dict[Reason, float] = {}
        for uid, kept in self._kept.items():
            reason = self._records[uid].finding.reason
            longest[reason] = max(longest.get(reason, 0.0), now.ours - kept.get(reason, now.ours))
        return longest

    def _sort(self, records: Mapping[str, Record], now: Now) -> None:
        """Take over what has changed since the last look."""
        before, self._records = self._records, records
        for uid in before.keys() - records.keys():
            self._groups.part(_group_key(before[uid].pod), uid)
            self._starts_at.pop(uid, None)
            self._kept.pop(uid, None)
        for uid, record in records.items():
            known = before.get(uid)
            if known is not record:
                self._regroup(uid, known, record)
                self._remember(uid, record.finding.reason, now)
                self._watch(uid, record)

    def _regroup(self, uid: str, known: Record | None, record: Record) -> None:
        """Put the Pod to those of the same task instance."""
        key, old = _group_key(record.pod), _group_key(known.pod) if known is not None else None
        if key != old:
            if old is not None:
                self._groups.part(old, uid)
            self._groups.join(key, uid)

    def _watch(self, uid: str, record: Record) -> None:
        start = _starts(record, self._limits)
        if start < math.inf:
            self._starts_at[uid] = start
        else:
            self._starts_at.pop(uid, None)

    def _is_replaced(self, missing: LostPod) -> bool:
        """Whether another Pod of the task instance works."""
        return any(works(self._records[uid].pod, None) for uid in self._groups.of(_group_key(missing.pod)))

    def _count_duplicates(self, uids: Iterable[str], now: Now) -> int:
        """Count those of a task instance's Pods that work at a time."""
        records = (self._records[uid] for uid in uids)
        return sum(1 for record in records if works(record.pod, _task(record)) and self._is_duplicate(record, now))

    def _on_answer(self, uid: str, answer: Answer) -> None:
        missing = self._lost[uid]
        key = parse(missing.pod.labels)
        if isinstance(answer, Known) and isinstance(key, LabelKey):
            task_try = missing.known.try_number or key.try_number
            if is_gone_from(answer.task, task_try):
                self._lost[uid] = replace(missing, task=answer.task)
                return
        if not isinstance(answer, Unknown):
            del self._lost[uid]

    def _remember(self, uid: str, reason: Reason, now: Now) -> None:
        """Remember since when a Pod is kept for an uncertain reason; an answer that failed does not end another."""
        before = self._kept.pop(uid, {})
        if reason in UNCERTAIN:
            others = before if reason is Reason.AIRFLOW_UNKNOWN else {}
            self._kept[uid] = {**others, reason: before.get(reason, now.ours)}

    def _notices(self, record: Record, duplicates: Mapping[_GroupKey, int], now: Now) -> tuple[ActiveNotice, ...]:
        pod, reason = record.pod, record.finding.reason
        since = self._kept.get(pod.uid, {}).get(reason, now.ours)
        others = max(0, duplicates.get(_group_key(pod), 0) - 1)
        return notices(NoticeInput(pod, reason, record.answer, now.server, now.ours - since, others), self._limits)

    def _is_duplicate(self, record: Record, now: Now) -> bool:
        pod = record.pod
        old = now.server is not None and pod.created is not None and now.server - pod.created >= self._limits.settled
        return old and record.finding.reason in {*WAITED_FOR, Reason.SUPERSEDED}

    def _lost_notices(self, now: Now) -> Iterable[tuple[LostPod, ActiveNotice]]:
        for each in self._lost.values():
            if each.task is not None:
                yield each, ActiveNotice(Notice.POD_GONE, gone_detail(each.task, now.ours - each.gone))


def _in_use(record: Record) -> bool:
    """Whether a task instance uses the Pod, one that works, and would miss it."""
    task = _task(record)
    used = record.finding.reason in {Reason.IN_USE, Reason.REATTACHED} and works(record.pod, task)
    return used and task is not None and is_gone_from(task, task.try_number or 0)


def _task(record: Record) -> TaskInstance | None:
    return record.answer.task if isinstance(record.answer, Known) else None


def _starts(record: Record, limits: Thresholds) -> float:
    """From when on, by the API server's clock, a notice may apply to this Pod alone; a second early, never late.

    It spares most Pods the rest: for them the answer is never.
    """
    pod, reason = record.pod, record.finding.reason
    if reason in UNCERTAIN or pod.retention is not None:
        return -math.inf
    if reason is Reason.TERMINATING:
        return -math.inf if pod.ends is None else pod.ends + limits.terminating - 1
    if reason not in WAITED_FOR:
        return math.inf
    task = _task(record)
    waits = [limits.pending] if pod.phase == "Pending" else []
    waits += [limits.deferred] if task is not None and task.state == "deferred" else []
    if not waits:
        return math.inf
    return -math.inf if pod.created is None else pod.created + min(waits) - 1


def _group_key(pod: Pod) -> _GroupKey:
    """What all Pods of one task instance have in common: KPO searches in one namespace."""
    labels = pod.labels
    return pod.namespace, labels.dag_id, labels.task_id, labels.run_id, labels.map_index
