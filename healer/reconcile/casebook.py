"""What is known of each Pod of one Airflow: the Pod, the last clear answer, and the finding that follows from both.

Between audits a Pod keeps its last answer; when the Pod itself changes it is judged again with it. That is good enough
to suspect and never to delete: whoever is acted on is asked about anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Set
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from healer.config import Ownership
from healer.model import Answer, Block, Finding, Known, Pod, TaskInstance, Unknown
from healer.rules import ENDED, Terms, base_name, is_done, judge
from healer.suspects import Signature, signature

_NOT_ASKED = Unknown(0.0, "Airflow was not asked yet")


class Record(Struct, frozen=True, gc=False):
    """One Pod's page. `answer` is the last clear one; `doubt` what the last question brought if it was not clear.

    `before` is the last row that tells of a task instance which has not ended: it explains, and decides nothing.
    """

    pod: Pod
    finding: Finding
    answer: Answer | None = None
    doubt: Answer | None = None
    before: TaskInstance | None = None

    @property
    def active(self) -> bool:
        """Whether the Pod still works, as far as its base container is known; a doubt does not make it unknown."""
        task = self.answer.task if isinstance(self.answer, Known) else None
        return not is_done(self.pod, base_name(task))


class Claim(Protocol):
    """Whose Pods are an Airflow's: what its configuration says of it."""

    @property
    def name(self) -> str:
        """What a stamp calls it."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where its Pods are."""

    @property
    def ownership(self) -> Ownership | None:
        """Which of the Pods there are its."""


def owns(airflow: Claim, pod: Pod) -> bool:
    """Whether a Pod is this Airflow's to judge. A Pod stamped for another Airflow never is."""
    if pod.namespace not in airflow.namespaces:
        return False
    if airflow.ownership is Ownership.STAMPED:
        return pod.stamp == airflow.name
    return pod.stamp in {None, airflow.name}


class Casebook:
    """All records of one Airflow, by Pod uid.

    Most Pods are the same from pass to pass: what is told of all of them is kept as they change, not counted anew.
    """

    def __init__(self, terms: Terms, is_ours: Callable[[Pod], bool] = lambda _: True) -> None:
        """Start with no record. `is_ours`: which Pods of a picture get one; of the same Pod it always says the same."""
        self._terms, self._is_ours = terms, is_ours
        self._records: dict[str, Record] = {}
        self._wanted: set[str] = set()
        self._doubted: set[str] = set()
        self._unsettled: set[str] = set()
        self._not_asked: set[str] = set()
        self._active: set[str] = set()
        self._uncounted: set[str] = set()

    def __iter__(self) -> Iterator[Record]:
        """All records."""
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        """How many Pods are known."""
        return len(self._records)

    def get(self, uid: str) -> Record | None:
        """Return one Pod's record."""
        return self._records.get(uid)

    def pages(self) -> dict[str, Record]:
        """Return all records by uid, as they are now."""
        return dict(self._records)

    def meet(self, pods: Iterable[Pod]) -> tuple[list[Record], set[str]]:
        """Take over the picture of the Pods. Return the records that changed, and the uids that are gone."""
        known, self._records = self._records, {}
        changed = []
        for pod in pods:
            record = known.get(pod.uid)
            if record is None or record.pod is not pod:  # the same object is ours and has not changed
                if not self._is_ours(pod):
                    continue
                if record is None or record.pod.resource_version != pod.resource_version:
                    record = self._changed(pod, record)
                    changed.append(record)
                    self._put(record)
            self._records[pod.uid] = record
        gone = known.keys() - self._records.keys()
        for uid in gone:
            self._let_go(uid)
        return changed, gone

    def hear(self, pod: Pod, answer: Answer) -> Record:
        """Take over a fresh answer about a Pod and judge it. One that is not clear leaves the last clear one."""
        known = self._records.get(pod.uid)
        before = _before(known)
        finding = judge(pod, answer, self._terms)
        if _is_clear(answer):
            record = Record(pod, finding, answer, before=before)
            self._wanted.discard(pod.uid)
        else:
            record = Record(pod, finding, known.answer if known else None, answer, before)
            if not (is_settled(record) and isinstance(answer, Unknown)):  # no pass query would tell more
                self._wanted.add(pod.uid)
        self._put(record)
        return record

    def drop(self, uid: str) -> None:
        """Forget a Pod; if it is still there, it comes back as a new one."""
        self._records.pop(uid, None)
        self._let_go(uid)

    def doubt(self, pod: Pod, why: str) -> Record:
        """Note that nothing could be asked about a Pod."""
        return self.hear(pod, Unknown(0.0, why))

    def reassure(self, pods: Iterable[Pod]) -> None:
        """End the doubt about Pods that a clear answer covered without naming them: what was known still holds."""
        for pod in pods if self._doubted else ():
            record = self._records.get(pod.uid)
            if record is not None and record.doubt is not None and record.answer is not None:
                finding = judge(pod, record.answer, self._terms)
                self._put(Record(pod, finding, record.answer, before=record.before))

    def to_look_at(self) -> list[Pod]:
        """Pods that are new, changed in a way that matters, or never answered for."""
        return [self._records[uid].pod for uid in self._wanted if uid in self._records]

    def askable(self, unreadable: Collection[str]) -> list[Pod]:
        """Pods whose fate is Airflow's to tell, in namespaces that can be read."""
        pods = [record.pod for uid, record in self._records.items() if uid not in self._not_asked]
        return [pod for pod in pods if pod.namespace not in unreadable] if unreadable else pods

    @property
    def unsettled(self) -> Set[str]:
        """Uids of the Pods for which the pass query may not speak: their one task instance is not known."""
        return self._unsettled

    def active(self) -> int:
        """Count the Pods that still work and are not on their way out."""
        for uid in self._uncounted:
            record = self._records.get(uid)
            _enter(self._active, uid, record is not None and record.active and not record.pod.terminating)
        self._uncounted.clear()
        return len(self._active)

    def _put(self, record: Record) -> None:
        """Take in a record, new or in place of another, and keep what is told of all records true."""
        uid = record.pod.uid
        self._uncounted.add(uid)
        self._records[uid] = record
        _enter(self._doubted, uid, record.doubt is not None)
        _enter(self._unsettled, uid, not is_settled(record))
        _enter(self._not_asked, uid, record.finding.reason.block is Block.NOT_OURS)

    def _let_go(self, uid: str) -> None:
        self._uncounted.add(uid)
        for uids in (self._doubted, self._unsettled, self._not_asked, self._wanted):
            uids.discard(uid)

    def _changed(self, pod: Pod, record: Record | None) -> Record:
        if record is None:
            self._wanted.add(pod.uid)
            return Record(pod, judge(pod, _NOT_ASKED, self._terms))
        if self._case(pod, record) != self._case(record.pod, record):
            self._wanted.add(pod.uid)
        finding = judge(pod, record.doubt or record.answer or _NOT_ASKED, self._terms)
        return replace(record, pod=pod, finding=finding)

    def _case(self, pod: Pod, record: Record) -> Signature:
        """What a Pod would be by the last clear answer, whether that is in doubt now or not."""
        return signature(judge(pod, record.answer or _NOT_ASKED, self._terms))


def is_settled(record: Record) -> bool:
    """Whether the pass query may speak for this Pod: its one task instance is known."""
    return isinstance(record.answer, Known)


def _enter(uids: set[str], uid: str, belongs: bool) -> None:
    if belongs:
        uids.add(uid)
    else:
        uids.discard(uid)


def _before(known: Record | None) -> TaskInstance | None:
    """Return the task instance as it was last seen before it ended."""
    if known is None or not isinstance(known.answer, Known):
        return known.before if known else None
    return known.before if known.answer.task.state in ENDED else known.answer.task


def _is_clear(answer: Answer) -> bool:
    """Whether the question was answered; an identity that could not be read may be there the next time."""
    failed = isinstance(answer, Known) and answer.identity is not None and answer.identity.failed is not None
    return not (failed or isinstance(answer, Unknown))
