"""Regret: a Pod that would have been deleted, and that Airflow used after all.

Where a policy only reports, the Pods that it would have deleted are watched on. Three ways of use leave something to
see through Airflow's API and the Pod:

* `same-try`: the task instance runs, or is deferred, at the very try of the Pod's label. What was taken for its end was
  none (a stale replica, a restored database), or a run of the same id was made anew.
* `adopted`: a later try took the working Pod over (D3): Airflow names it for that try. If the Pod is gone by the time
  that we look, or the later try has ended, it is still named.
* `result`: KPO came back for the outcome of a Pod that was done. It names the Pod again, or has marked it since.

A sign of use is no proof. A Pod that shows one is asked about once more in the next pass, and by then it is judged: so
that stale data of an earlier try is not mistaken for use.

Pure: neither I/O nor a clock. Nothing is kept across a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum, auto

from msgspec import Struct
from msgspec.structs import replace

from healer.decision.labels import parse
from healer.decision.rules import HELD, PHASES, base_name, is_done, judge
from healer.model import Answer, Finding, Known, NamedPods, Pod, Reason, RuleGroup, TaskInstance

MAX_DELETED = 1000
"""Pods that are gone and still asked about, at the most; the oldest are forgotten."""

MAX_QUICK_CHECKS = 3
"""Times that a sign is looked into in pass after pass; one that stays open waits for the audits from then on."""

MAX_CHECKS = 10
"""Answers after which a Pod that is gone is forgotten, whatever became of it."""


class UseKind(StrEnum):
    """How Airflow used a Pod that would have been deleted."""

    SAME_TRY = "same-try"
    ADOPTED = "adopted"
    RESULT = "result"


class Judgement(Enum):
    """What came of looking into a sign where nothing proves a use: settled, or not to be told yet."""

    UNUSED = auto()
    PENDING = auto()


class WouldDelete(Struct, frozen=True):
    """A Pod that would have been deleted. `pod` is its latest look, `at` the API server's time of the would-be end.

    `active` and `checked` are as of then. `pending`: it shows a sign of use that is not judged yet, after
    having been `asked` about so often. `settled`: what Airflow and the Pod said when the last sign was judged.
    """

    pod: Pod
    finding: Finding
    active: bool
    checked: bool
    at: float | None
    uses: frozenset[UseKind] = frozenset()
    pending: bool = False
    deleted: bool = False
    asked: int = 0
    settled: tuple[object, ...] | None = None


class Regret(Struct, frozen=True):
    """One Pod, one way of use. `how` is the story in a sentence."""

    tracked: WouldDelete
    use: UseKind
    how: str
    task: TaskInstance


class Recheck(Struct, frozen=True):
    """A Pod that showed a sign, and what Airflow says of it in a later pass."""

    tracked: WouldDelete
    answer: Answer

    @property
    def task(self) -> TaskInstance | None:
        """The task instance, where Airflow knows it."""
        return self.answer.task if isinstance(self.answer, Known) else None

    @property
    def wants_identity(self) -> bool:
        """Whether it depends on which Pod the latest try names."""
        return self.task is not None and (_is_later(self.tracked, self.task) or _is_marked(self.tracked))


class RegretTracker:
    """The Pods that would have been deleted of one Airflow, by Pod uid. Never more than there are Pods, and
    `MAX_DELETED`."""

    def __init__(self) -> None:
        """Start with none: what an earlier process would have deleted is not known."""
        self._tracked: dict[str, WouldDelete] = {}

    def __len__(self) -> int:
        """How many Pods are watched."""
        return len(self._tracked)

    def __contains__(self, uid: object) -> bool:
        """Whether the Pod is watched."""
        return uid in self._tracked

    def track(self, pod: Pod, finding: Finding, at: float | None) -> bool:
        """Watch a Pod from now on: all was done but the DELETE. Return whether this is news.

        The first time counts, until a later try has ended too.
        """
        known = self._tracked.get(pod.uid)
        if known is not None and (known.pending or _id(known.finding.task) == _id(finding.task)):
            return False
        active = not is_done(pod, base_name(finding.task))
        ways = known.uses if known else frozenset()
        self._tracked[pod.uid] = WouldDelete(pod, finding, active, pod.checked, at, ways)
        return True

    def on_update(self, pod: Pod) -> None:
        """Take over a Pod that changed. One that is on its way out, or that KPO has marked since, shows a sign."""
        tracked = self._tracked.get(pod.uid)
        if tracked is not None:
            shows = (pod.terminating and not tracked.pod.terminating) or (pod.checked and not tracked.pod.checked)
            tracked = replace(tracked, pod=pod, deleted=False)
            self._tracked[pod.uid] = self._reopened(tracked) if shows else tracked

    def on_deleted(self, uids: Iterable[str]) -> None:
        """Note that Pods are gone: perhaps because a later try was through with them."""
        for uid in uids:
            tracked = self._tracked.pop(uid, None)
            if tracked is not None:
                self._tracked[uid] = self._reopened(replace(tracked, deleted=True))
        deleted = [uid for uid, tracked in self._tracked.items() if tracked.deleted]
        self.forget(deleted[: max(0, len(deleted) - MAX_DELETED)])

    def forget(self, uids: Iterable[str]) -> None:
        """Stop watching: we have deleted these Pods ourselves."""
        for uid in uids:
            self._tracked.pop(uid, None)

    def to_query(self, *, audit: bool) -> list[Pod]:
        """Pods to be asked about: those that show a sign; at audits also those that nobody else asks about."""
        wanted = []
        for tracked in self._tracked.values():
            hidden = tracked.pod.protected or tracked.pod.phase not in PHASES
            shows = tracked.pending and (audit or tracked.asked < MAX_QUICK_CHECKS)
            if shows or (audit and hidden):
                wanted.append(tracked.pod)
        return wanted

    def on_answers(self, answers: Mapping[str, Answer]) -> list[Recheck]:
        """Return what is to be judged now; note which of the other answers show a sign of use."""
        watched = [(uid, self._tracked[uid]) for uid in answers if uid in self._tracked]
        for uid, tracked in watched:
            if not tracked.pending and _shows_use(tracked, answers[uid]):
                self._tracked[uid] = self._reopened(tracked)
        return [Recheck(tracked, answers[uid]) for uid, tracked in watched if tracked.pending]

    def judge(self, recheck: Recheck, identity: NamedPods) -> Regret | None:
        """Close a recheck, or leave it open. `identity`: which Pod the latest try names. Return a new regret."""
        tracked = recheck.tracked
        found = judgement(recheck, identity)
        if found is Judgement.PENDING:
            # An Airflow that is down for long is no reason to forget a Pod.
            asked = tracked.asked + 1 if recheck.task else min(tracked.asked + 1, MAX_QUICK_CHECKS)
            self._put(replace(tracked, asked=asked))
            return None
        settled = replace(tracked, pending=False, settled=_observed(tracked, recheck.answer))
        if not isinstance(found, Regret):
            self._put(settled)
            return None
        self._put(replace(settled, uses=tracked.uses | {found.use}))
        return None if found.use in tracked.uses else found

    def _put(self, tracked: WouldDelete) -> None:
        """Go on watching, but not a Pod that is gone once that is explained, or can't be."""
        if tracked.deleted and (not tracked.pending or tracked.asked >= MAX_CHECKS):
            del self._tracked[tracked.pod.uid]
        else:
            self._tracked[tracked.pod.uid] = tracked

    @staticmethod
    def _reopened(tracked: WouldDelete) -> WouldDelete:
        return replace(tracked, pending=True, asked=0)


def judgement(recheck: Recheck, identity: NamedPods) -> Regret | Judgement:
    """Return the regret if Airflow uses, or has used, the Pod; else whether that is settled."""
    tracked, task = recheck.tracked, recheck.task
    if task is None or not _is_clear(tracked.pod, recheck.answer, identity):
        return Judgement.PENDING if _is_unknown(tracked.pod, recheck.answer, identity) else Judgement.UNUSED
    if _is_same_try(tracked, task):
        return Regret(
            tracked, UseKind.SAME_TRY, f"its task instance is {task.state} again at try {task.try_number}", task
        )
    if not recheck.wants_identity or identity.names_another(tracked.pod):
        return Judgement.UNUSED
    if not identity.named or _may_be_replaced(tracked, task):
        return Judgement.PENDING if task.state in HELD else Judgement.UNUSED
    way = UseKind.ADOPTED if tracked.active and _is_later(tracked, task) else UseKind.RESULT
    return Regret(tracked, way, _story(tracked, way, task), task)


def _story(tracked: WouldDelete, way: UseKind, task: TaskInstance) -> str:
    if not _is_later(tracked, task):
        return f"KPO came back for its result and marked it, try {task.try_number} is {task.state or 'cleared'}"
    what = "took it over" if way is UseKind.ADOPTED else "took its result"
    return f"try {task.try_number} {what}: Airflow names it for this try, which is {task.state or 'cleared'}"


def _shows_use(tracked: WouldDelete, answer: Answer) -> bool:
    """Whether an answer gives reason to look closer; what was looked into already does not."""
    if not isinstance(answer, Known) or _observed(tracked, answer) == tracked.settled:
        return False
    if _id(answer.task) == _id(tracked.finding.task):
        return _is_same_try(tracked, answer.task) or (_is_later(tracked, answer.task) and _is_named(tracked, answer))
    return _is_same_try(tracked, answer.task) or _is_later(tracked, answer.task)


def _is_same_try(tracked: WouldDelete, task: TaskInstance) -> bool:
    """The very try of the label runs. Of a run made anew, KPO takes over what works and does not bear its mark."""
    key = parse(tracked.pod.labels)
    if isinstance(key, str) or task.state not in HELD or task.try_number != key.try_number:
        return False
    return _id(task) == _id(tracked.finding.task) or (tracked.active and not tracked.checked)


def _is_later(tracked: WouldDelete, task: TaskInstance) -> bool:
    """A try has begun since that could have taken the Pod: it is none that KPO's search skips."""
    key = parse(tracked.pod.labels)
    if isinstance(key, str) or task.try_number is None or tracked.checked or task.try_number < key.try_number:
        return False
    before = tracked.finding.task
    if before is None:  # the run was proven absent: whatever began before that is what the Pod was made for
        return task.start_date is not None and tracked.at is not None and task.start_date > tracked.at
    if tracked.finding.reason is Reason.SUPERSEDED and task.state in HELD:
        return True
    # A clear gives the next try its id at once; only when it begins does it get a start of its own.
    return task.id != before.id and task.start_date is not None and task.start_date != before.start_date


def _is_marked(tracked: WouldDelete) -> bool:
    return tracked.pod.checked and not tracked.checked


def _may_be_replaced(tracked: WouldDelete, task: TaskInstance) -> bool:
    """A done Pod at the start of a try: up to `on_finish_action`, KPO takes its result or makes a new one."""
    settled = tracked.deleted or tracked.pod.terminating or tracked.pod.checked
    return not settled and is_done(tracked.pod, base_name(task)) and task.state in HELD


def _is_clear(pod: Pod, answer: Answer, identity: NamedPods) -> bool:
    """Whether the rules would believe this answer; a Pod that goes, or is lost, does not spoil it."""
    return isinstance(answer, Known) and _finding(pod, answer, identity).reason.block is RuleGroup.KNOWN


def _is_unknown(pod: Pod, answer: Answer, identity: NamedPods) -> bool:
    return _finding(pod, answer, identity).reason is Reason.AIRFLOW_UNKNOWN


def _finding(pod: Pod, answer: Answer, identity: NamedPods) -> Finding:
    phase = pod.phase if pod.phase in PHASES else "Running"
    there = replace(pod, terminating=False, protected=False, phase=phase)
    return judge(there, replace(answer, identity=identity) if isinstance(answer, Known) else answer)


def _is_named(tracked: WouldDelete, answer: Known) -> bool:
    return answer.identity is not None and answer.identity.names(tracked.pod)


def _observed(tracked: WouldDelete, answer: Answer) -> tuple[object, ...]:
    if not isinstance(answer, Known):
        return (None, None, tracked.pod.checked, False)
    return (_id(answer.task), answer.task.state, tracked.pod.checked, _is_named(tracked, answer))


def _id(task: TaskInstance | None) -> str | None:
    return task.id if task else None
