"""Regret: a Pod that would have been deleted, and that Airflow used after all.

Where a policy only reports, the Pods that it would have deleted are watched on. Three ways of use leave something to
see through Airflow's API and the Pod:

* `same-try`: the task instance runs, or is deferred, at the very try of the Pod's label. What was taken for its end was
  none (a stale replica, a restored database), or a run of the same id was made anew.
* `adopted`: a later try took the working Pod over (D3): Airflow names it for that try. If the Pod is gone by the time
  that we look, or the later try has ended, it is still named.
* `result`: KPO came back for the outcome of a Pod that was done. It names the Pod again, or has marked it since.

A sign of use is no proof. A Pod that shows one is asked about once more in the next pass, and by then it is judged: so
that what an earlier try has left in Airflow, and a later one is about to overwrite, is not taken for its word.

Pure: neither I/O nor a clock. Nothing is kept across a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum, auto

from msgspec import Struct
from msgspec.structs import replace

from healer.labels import parse
from healer.model import Answer, Block, Finding, Identity, Known, Pod, Reason, TaskInstance
from healer.rules import HELD, PHASES, base_name, is_done, judge

GHOSTS = 1000
"""Victims that are gone and still asked about, at the most; the oldest are let go of."""

EAGER = 3
"""Times that a sign is looked into in pass after pass; one that stays open waits for the audits from then on."""

STUBBORN = 10
"""Answers after which a Pod that is gone is let go of, whatever became of it."""


class Way(StrEnum):
    """How Airflow used a Pod that would have been deleted."""

    SAME_TRY = "same-try"
    ADOPTED = "adopted"
    RESULT = "result"


class Verdict(Enum):
    """What came of looking into a sign where nothing proves a use: settled, or not to be told yet."""

    UNUSED = auto()
    OPEN = auto()


class Victim(Struct, frozen=True):
    """A Pod that would have been deleted. `pod` is its latest look, `at` the API server's time of the would-be end.

    `active` and `checked` are as of then. `open`: it shows a sign of use that is not judged yet, after
    having been `asked` about so often. `settled`: what Airflow and the Pod said when the last sign was judged.
    """

    pod: Pod
    finding: Finding
    active: bool
    checked: bool
    at: float | None
    ways: frozenset[Way] = frozenset()
    open: bool = False
    gone: bool = False
    asked: int = 0
    settled: tuple[object, ...] | None = None


class Regret(Struct, frozen=True):
    """One Pod, one way of use. `how` is the story in a sentence."""

    victim: Victim
    way: Way
    how: str
    task: TaskInstance


class Inquiry(Struct, frozen=True):
    """A victim that showed a sign, and what Airflow says of it in a later pass."""

    victim: Victim
    answer: Answer

    @property
    def task(self) -> TaskInstance | None:
        """The task instance, where Airflow knows it."""
        return self.answer.task if isinstance(self.answer, Known) else None

    @property
    def wants_identity(self) -> bool:
        """Whether it depends on which Pod the latest try names."""
        return self.task is not None and (_is_later(self.victim, self.task) or _is_marked(self.victim))


class Regrets:
    """The would-be victims of one Airflow, by Pod uid. Never more than there are Pods, and `GHOSTS`."""

    def __init__(self) -> None:
        """Start with none: what an earlier process would have deleted is not known."""
        self._victims: dict[str, Victim] = {}

    def __len__(self) -> int:
        """How many Pods are watched."""
        return len(self._victims)

    def __contains__(self, uid: object) -> bool:
        """Whether the Pod is watched."""
        return uid in self._victims

    def condemn(self, pod: Pod, finding: Finding, at: float | None) -> bool:
        """Watch a Pod from now on: all was done but the DELETE. Return whether this is news.

        The first time counts, until a later try has ended too.
        """
        known = self._victims.get(pod.uid)
        if known is not None and (known.open or _id(known.finding.task) == _id(finding.task)):
            return False
        active = not is_done(pod, base_name(finding.task))
        ways = known.ways if known else frozenset()
        self._victims[pod.uid] = Victim(pod, finding, active, pod.checked, at, ways)
        return True

    def see(self, pod: Pod) -> None:
        """Take over a Pod that changed. One that is on its way out, or that KPO has marked since, shows a sign."""
        victim = self._victims.get(pod.uid)
        if victim is not None:
            shows = (pod.terminating and not victim.pod.terminating) or (pod.checked and not victim.pod.checked)
            victim = replace(victim, pod=pod, gone=False)
            self._victims[pod.uid] = self._opened(victim) if shows else victim

    def vanish(self, uids: Iterable[str]) -> None:
        """Note that Pods are gone: perhaps because a later try was through with them."""
        for uid in uids:
            victim = self._victims.pop(uid, None)
            if victim is not None:
                self._victims[uid] = self._opened(replace(victim, gone=True))
        ghosts = [uid for uid, victim in self._victims.items() if victim.gone]
        self.forget(ghosts[: max(0, len(ghosts) - GHOSTS)])

    def forget(self, uids: Iterable[str]) -> None:
        """Stop watching: we have deleted these Pods ourselves."""
        for uid in uids:
            self._victims.pop(uid, None)

    def to_ask(self, *, audit: bool) -> list[Pod]:
        """Pods to be asked about: those that show a sign; at audits also those that nobody else asks about."""
        return [
            victim.pod
            for victim in self._victims.values()
            if (victim.open and (audit or victim.asked < EAGER)) or (audit and _is_hidden(victim.pod))
        ]

    def hear(self, answers: Mapping[str, Answer]) -> list[Inquiry]:
        """Return what is to be judged now; note which of the other answers show a sign of use."""
        watched = [(uid, self._victims[uid]) for uid in answers if uid in self._victims]
        for uid, victim in watched:
            if not victim.open and _shows_use(victim, answers[uid]):
                self._victims[uid] = self._opened(victim)
        return [Inquiry(victim, answers[uid]) for uid, victim in watched if victim.open]

    def judge(self, inquiry: Inquiry, identity: Identity) -> Regret | None:
        """Close an inquiry, or leave it open. `identity`: which Pod the latest try names. Return a new regret."""
        victim = inquiry.victim
        found = verdict(inquiry, identity)
        if found is Verdict.OPEN:
            # An Airflow that is down for long is no reason to let go of anybody.
            asked = victim.asked + 1 if inquiry.task else min(victim.asked + 1, EAGER)
            self._put(replace(victim, asked=asked))
            return None
        settled = replace(victim, open=False, settled=_picture(victim, inquiry.answer))
        if not isinstance(found, Regret):
            self._put(settled)
            return None
        self._put(replace(settled, ways=victim.ways | {found.way}))
        return None if found.way in victim.ways else found

    def _put(self, victim: Victim) -> None:
        """Go on watching, but not a Pod that is gone once that is explained, or can't be."""
        if victim.gone and (not victim.open or victim.asked >= STUBBORN):
            del self._victims[victim.pod.uid]
        else:
            self._victims[victim.pod.uid] = victim

    @staticmethod
    def _opened(victim: Victim) -> Victim:
        return replace(victim, open=True, asked=0)


def verdict(inquiry: Inquiry, identity: Identity) -> Regret | Verdict:
    """Return the regret if Airflow uses, or has used, the victim; else whether that is settled."""
    victim, task = inquiry.victim, inquiry.task
    if task is None or not _is_clear(victim.pod, inquiry.answer, identity):
        return Verdict.OPEN if _is_unknown(victim.pod, inquiry.answer, identity) else Verdict.UNUSED
    if _is_same_try(victim, task):
        return Regret(victim, Way.SAME_TRY, f"its task instance is {task.state} again at try {task.try_number}", task)
    if not inquiry.wants_identity or identity.names_another(victim.pod):
        return Verdict.UNUSED
    if not identity.named or _may_be_replaced(victim, task):
        return Verdict.OPEN if task.state in HELD else Verdict.UNUSED
    way = Way.ADOPTED if victim.active and _is_later(victim, task) else Way.RESULT
    return Regret(victim, way, _story(victim, way, task), task)


def _story(victim: Victim, way: Way, task: TaskInstance) -> str:
    if not _is_later(victim, task):
        return f"KPO came back for its result and marked it, try {task.try_number} is {task.state or 'cleared'}"
    what = "took it over" if way is Way.ADOPTED else "took its result"
    return f"try {task.try_number} {what}: Airflow names it for this try, which is {task.state or 'cleared'}"


def _shows_use(victim: Victim, answer: Answer) -> bool:
    """Whether an answer gives reason to look closer; what was looked into already does not."""
    if not isinstance(answer, Known) or _picture(victim, answer) == victim.settled:
        return False
    if _id(answer.task) == _id(victim.finding.task):
        return _is_same_try(victim, answer.task) or (_is_later(victim, answer.task) and _is_named(victim, answer))
    return _is_same_try(victim, answer.task) or _is_later(victim, answer.task)


def _is_same_try(victim: Victim, task: TaskInstance) -> bool:
    """The very try of the label runs. Of a run made anew, KPO takes over what works and does not bear its mark."""
    key = parse(victim.pod.labels)
    if isinstance(key, str) or task.state not in HELD or task.try_number != key.try_number:
        return False
    return _id(task) == _id(victim.finding.task) or (victim.active and not victim.checked)


def _is_later(victim: Victim, task: TaskInstance) -> bool:
    """A try has begun since that could have taken the Pod: it is none that KPO's search skips."""
    key = parse(victim.pod.labels)
    if isinstance(key, str) or task.try_number is None or victim.checked or task.try_number < key.try_number:
        return False
    before = victim.finding.task
    if before is None:  # the run was proven absent: whatever began before that is what the Pod was made for
        return task.start_date is not None and victim.at is not None and task.start_date > victim.at
    if victim.finding.reason is Reason.SUPERSEDED and task.state in HELD:
        return True
    # A clear gives the next try its id at once; only when it begins does it get a start of its own.
    return task.id != before.id and task.start_date is not None and task.start_date != before.start_date


def _is_hidden(pod: Pod) -> bool:
    return pod.protected or pod.phase not in PHASES


def _is_marked(victim: Victim) -> bool:
    return victim.pod.checked and not victim.checked


def _may_be_replaced(victim: Victim, task: TaskInstance) -> bool:
    """A done Pod at the start of a try: up to `on_finish_action`, KPO takes its result or makes a new one."""
    settled = victim.gone or victim.pod.terminating or victim.pod.checked
    return not settled and is_done(victim.pod, base_name(task)) and task.state in HELD


def _is_clear(pod: Pod, answer: Answer, identity: Identity) -> bool:
    """Whether the rules would believe this answer; a Pod that goes, or is lost, does not spoil it."""
    return isinstance(answer, Known) and _finding(pod, answer, identity).reason.block is Block.KNOWN


def _is_unknown(pod: Pod, answer: Answer, identity: Identity) -> bool:
    return _finding(pod, answer, identity).reason is Reason.AIRFLOW_UNKNOWN


def _finding(pod: Pod, answer: Answer, identity: Identity) -> Finding:
    phase = pod.phase if pod.phase in PHASES else "Running"
    there = replace(pod, terminating=False, protected=False, phase=phase)
    return judge(there, replace(answer, identity=identity) if isinstance(answer, Known) else answer)


def _is_named(victim: Victim, answer: Known) -> bool:
    return answer.identity is not None and answer.identity.names(victim.pod)


def _picture(victim: Victim, answer: Answer) -> tuple[object, ...]:
    if not isinstance(answer, Known):
        return (None, None, victim.pod.checked, False)
    return (_id(answer.task), answer.task.state, victim.pod.checked, _is_named(victim, answer))


def _id(task: TaskInstance | None) -> str | None:
    return task.id if task else None
