"""What is known of each Pod of one Airflow: one record, and one store that writes it.

Between audits a Pod keeps its last answer; when the Pod itself changes it is judged again with it. That is good enough
to suspect and never to delete: what is acted on is asked about anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Set
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from healer.config import Ownership, OwnershipLabel, Policy, covers
from healer.decision import quarantine
from healer.decision.quarantine import Now, Signature, Suspect, signature
from healer.decision.rules import ENDED, RuleOptions, base_name, is_done, judge
from healer.model import Answer, Finding, Known, Pod, RuleGroup, TaskInstance, Unknown

_NOT_ASKED = Unknown(0.0, "Airflow was not asked yet")


class Attempts(Struct, frozen=True, gc=False):
    """What earlier passes have tried. All that is known here holds the next DELETE back, and none brings it about.

    `reported`: the case, and since when it is suspected, for which all but the DELETE was done. `failure`: why the last
    DELETE failed. `denied`: the API server refused it, until the next audit. `needs_reread`: a DELETE had no clear end,
    or met a Pod that had changed.
    """

    reported: tuple[Signature, float] | None = None
    failure: str | None = None
    denied: bool = False
    needs_reread: bool = False


_NOT_TRIED = Attempts()


class Record(Struct, frozen=True, gc=False):
    """All that is known of one Pod. `answer` is the last clear one; `last_unclear` the last one if it was not clear.

    `last_active_task` is the last row of a task instance which has not ended: it explains, and decides nothing.
    `event_sent`: the case for which an Event was written since the last audit.
    """

    pod: Pod
    finding: Finding
    answer: Answer | None = None
    last_unclear: Answer | None = None
    last_active_task: TaskInstance | None = None
    suspect: Suspect | None = None
    attempts: Attempts = _NOT_TRIED
    event_sent: Signature | None = None

    @property
    def active(self) -> bool:
        """Whether the Pod still works, as far as its base container is known; an unclear answer does not change it."""
        task = self.answer.task if isinstance(self.answer, Known) else None
        return not is_done(self.pod, base_name(task))


class OwnershipConfig(Protocol):
    """Whose Pods are an Airflow's: what its configuration says of it."""

    @property
    def name(self) -> str:
        """What a stamp calls it."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where its Pods are: names and patterns."""

    @property
    def ownership(self) -> Ownership | OwnershipLabel | None:
        """Which of the Pods there are its."""


def owns(airflow: OwnershipConfig, pod: Pod) -> bool:
    """Whether a Pod is this Airflow's to judge. One that the selector leaves out, or stamped for another, never is."""
    if not pod.selected or not covers(airflow.namespaces, pod.namespace):
        return False
    if airflow.ownership is Ownership.STAMPED:
        return pod.owner_label == airflow.name
    return pod.owner_label in {None, airflow.name} and (
        not isinstance(airflow.ownership, OwnershipLabel) or has_own_label(airflow, pod)
    )


def claims_whole(airflow: OwnershipConfig) -> bool:
    """Whether an Airflow claims every Pod of its namespaces, so that no label has to say so."""
    return airflow.ownership is not Ownership.STAMPED and not isinstance(airflow.ownership, OwnershipLabel)


def has_own_label(airflow: OwnershipConfig, pod: Pod) -> bool:
    """Whether a label says that a Pod is this Airflow's: the stamp, or the site's own that its configuration names."""
    claim = airflow.ownership
    if isinstance(claim, OwnershipLabel):
        return (claim.label, claim.value) in pod.owner_labels
    return pod.owner_label == airflow.name


def rule_options(policy: Policy) -> RuleOptions:
    """Return what a policy adds to the rules."""
    return RuleOptions(frozenset(policy.foreign_operators), policy.grace)


class RecordStore:
    """All records of one Airflow, by Pod uid. Nothing else writes them, and to forget a Pod is one call.

    Most Pods are the same from pass to pass: the indexes are updated as records change, and never made anew.
    """

    def __init__(self, policy: Policy, is_ours: Callable[[Pod], bool] = lambda _: True) -> None:
        """Start with no record: after a restart all patience starts over, which is safe and only later.

        `is_ours`: which Pods get a record; of the same Pod it always says the same.
        """
        self._policy, self._options, self._is_ours = policy, rule_options(policy), is_ours
        self._records: dict[str, Record] = {}
        self._suspects: dict[str, Suspect] = {}
        self._pending: set[str] = set()
        self._unclear: set[str] = set()
        self._not_queryable: set[str] = set()
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

    def snapshot(self) -> dict[str, Record]:
        """Return all records by uid, as they are now."""
        return dict(self._records)

    def suspects(self) -> list[Suspect]:
        """Return all Pods in quarantine."""
        return list(self._suspects.values())

    def pending(self) -> list[Pod]:
        """Pods that are new, changed in a way that matters, or never answered for."""
        return [self._records[uid].pod for uid in self._pending if uid in self._records]

    def queryable(self, unreadable: Collection[str]) -> dict[str, Record]:
        """Return the records, by uid, of Pods that Airflow may know, in namespaces that can be read."""
        ours = {u: r for u, r in self._records.items() if u not in self._not_queryable}
        return {u: r for u, r in ours.items() if r.pod.namespace not in unreadable} if unreadable else ours

    def active(self) -> int:
        """Count the Pods that still work and are not on their way out."""
        for uid in self._uncounted:
            record = self._records.get(uid)
            _set_member(self._active, uid, record is not None and record.active and not record.pod.terminating)
        self._uncounted.clear()
        return len(self._active)

    # --- what writes --------------------------------------------------------------------------------------------------

    def sync(self, pods: Iterable[Pod], now: Now) -> tuple[list[Record], set[str]]:
        """Take over which Pods there are. Return the records that changed, and the uids that are gone."""
        known, self._records = self._records, {}
        changed = []
        for pod in pods:
            record = known.get(pod.uid)
            if record is None or record.pod is not pod:  # the same object is ours and has not changed
                if not self._is_ours(pod):
                    continue
                if record is None or record.pod.resource_version != pod.resource_version:
                    record = self._changed(pod, record, now)
                    changed.append(record)
                    self._put(record)
            self._records[pod.uid] = record
        gone = known.keys() - self._records.keys()
        for uid in gone:
            self.delete(uid)
        return changed, gone

    def start_audit(self) -> None:
        """Let refused DELETEs be tried again, as rights may have changed, and Events be written once more."""
        for record in self:
            if record.attempts.denied or record.event_sent is not None:
                self._put(replace(record, attempts=replace(record.attempts, denied=False), event_sent=None))

    def evaluate(self, pod: Pod, answer: Answer, now: Now) -> Record:
        """Judge a Pod by a fresh answer, and count that look. An answer that is not clear leaves the last clear one."""
        record = self._judged(pod, answer)
        suspect = quarantine.observe(record.suspect, pod, record.finding, now, self._policy)
        if suspect is not record.suspect:
            record = replace(record, suspect=suspect)
        self._put(record)
        return record

    def confirm(self, suspect: Suspect, pod: Pod, answer: Answer, now: Now) -> tuple[Finding, Suspect | None]:
        """Judge a suspect once more before it is acted on, which is no sighting.

        Return the fresh finding; and, if that is still the same case, the suspect as it is now. Another case is
        observed as such, and goes to the back of the queue.
        """
        record = self._judged(pod, answer)
        finding = record.finding
        if signature(finding) != suspect.signature:
            found = quarantine.observe(record.suspect, pod, finding, now, self._policy)
            self._put(replace(record, suspect=quarantine.requeued(found) if found is not None else None))
            return finding, None
        # What has changed in the Pod or in what Airflow says of its containers may have changed its retention.
        current = quarantine.update_pod(suspect, pod, finding, now, self._policy)
        self._put(replace(record, suspect=current))
        return finding, current

    def mark_unknown(self, pod: Pod, why: str, now: Now) -> None:
        """Note that nothing could be asked about a Pod."""
        self.evaluate(pod, Unknown(0.0, why), now)

    def clear_unknown(self, covered: Set[str]) -> None:
        """Judge again, by the last clear answer, Pods that a clear answer covered without naming them."""
        for uid in self._unclear & covered:
            record = self._records.get(uid)
            if record is not None and record.answer is not None:
                finding = judge(record.pod, record.answer, self._options)
                self._put(replace(record, finding=finding, last_unclear=None))

    def requeue(self, uid: str) -> None:
        """Send a suspect that could not be confirmed or deleted to the back of the queue."""
        record = self._records.get(uid)
        if record is not None and record.suspect is not None:
            self._put(replace(record, suspect=quarantine.requeued(record.suspect)))

    def note_attempt(self, uid: str, **changes: Any) -> None:
        """Note what came of an attempt to delete a Pod: fields of `Attempts`."""
        record = self._records.get(uid)
        if record is not None:
            self._put(replace(record, attempts=replace(record.attempts, **changes)))

    def note_event(self, suspect: Suspect) -> None:
        """Note that an Event was written about a suspect."""
        record = self._records.get(suspect.pod.uid)
        if record is not None:
            self._put(replace(record, event_sent=suspect.signature))

    def delete(self, uid: str) -> None:
        """Forget a Pod; if it is still there, it comes back as a new one."""
        self._records.pop(uid, None)
        self._suspects.pop(uid, None)
        self._pending.discard(uid)
        self._not_queryable.discard(uid)
        self._unclear.discard(uid)
        self._uncounted.add(uid)

    def _judged(self, pod: Pod, answer: Answer) -> Record:
        """Return the record of a Pod with a fresh answer."""
        known = self._records.get(pod.uid)
        before = _last_active_task(known)
        finding = judge(pod, answer, self._options)
        suspect, attempts, event_sent = (
            (known.suspect, known.attempts, known.event_sent) if known is not None else (None, _NOT_TRIED, None)
        )
        if _is_clear(answer):
            self._pending.discard(pod.uid)
            return Record(pod, finding, answer, None, before, suspect, attempts, event_sent)
        clear = known.answer if known else None
        if not (isinstance(clear, Known) and isinstance(answer, Unknown)):  # no pass query would tell more
            self._pending.add(pod.uid)
        return Record(pod, finding, clear, answer, before, suspect, attempts, event_sent)

    def _changed(self, pod: Pod, record: Record | None, now: Now) -> Record:
        if record is None:
            self._pending.add(pod.uid)
            return Record(pod, judge(pod, _NOT_ASKED, self._options))
        # Whether the change matters is seen by the last clear answer, be the last one unclear or not.
        clear = record.answer or _NOT_ASKED
        if signature(judge(pod, clear, self._options)) != signature(judge(record.pod, clear, self._options)):
            self._pending.add(pod.uid)
        finding = judge(pod, record.last_unclear or clear, self._options)
        suspect = record.suspect
        if suspect is not None:
            suspect = quarantine.update_pod(suspect, pod, finding, now, self._policy)
        return replace(record, pod=pod, finding=finding, suspect=suspect)

    def _put(self, record: Record) -> None:
        """Insert or replace a record and update the indexes."""
        uid = record.pod.uid
        self._uncounted.add(uid)
        self._records[uid] = record
        _set_member(self._unclear, uid, record.last_unclear is not None)
        _set_member(self._not_queryable, uid, record.finding.reason.block is RuleGroup.NOT_OURS)
        if record.suspect is not None:
            self._suspects[uid] = record.suspect
        else:
            self._suspects.pop(uid, None)


def _set_member(uids: set[str], uid: str, belongs: bool) -> None:
    if belongs:
        uids.add(uid)
    else:
        uids.discard(uid)


def _last_active_task(known: Record | None) -> TaskInstance | None:
    """Return the task instance as it was last seen before it ended."""
    if known is None or not isinstance(known.answer, Known):
        return known.last_active_task if known else None
    return known.last_active_task if known.answer.task.state in ENDED else known.answer.task


def _is_clear(answer: Answer) -> bool:
    """Whether the question was answered; an identity that could not be read may be there the next time."""
    failed = isinstance(answer, Known) and answer.identity is not None and answer.identity.failed is not None
    return not (failed or isinstance(answer, Unknown))
