"""Notices: what is worth a look and is nobody's orphan. They are reported, and nothing is ever done about them.

They stand beside the rules, not among them: no notice is a `Reason`, none has an action, and whatever decides to delete
does not know this module. Each rests on the Pod, on what Airflow says of it, and on time. Pure: neither I/O nor a
clock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from healer.decision.rules import HELD, base_name, is_done
from healer.model import UNREADABLE, Answer, Known, Pod, Reason, TaskInstance

WAITED_FOR = frozenset({Reason.IN_USE, Reason.REATTACHED, Reason.ADOPTABLE, Reason.ADOPTION_UNKNOWN})
"""Reasons of Pods that their task instance waits for, or may take over."""

UNCERTAIN = frozenset(
    {
        Reason.LABELS_MISSING,
        Reason.PHASE_UNKNOWN,
        Reason.AIRFLOW_UNKNOWN,
        Reason.ABSENT,
        Reason.LABELS_AMBIGUOUS,
        Reason.ELSEWHERE,
        Reason.UNEXPECTED_STATE,
        Reason.TRY_AHEAD,
        Reason.ADOPTABLE,
        Reason.ADOPTION_UNKNOWN,
        Reason.OTHER_POD,
        Reason.POSTDATES,
    }
)
"""Reasons that keep a Pod because something is not known, not yet settled, or odd."""


class Notice(StrEnum):
    """What is worth a look. Each member says when, for the docs; the thresholds are `notices` of the configuration."""

    when: str

    def __new__(cls, value: str, when: str) -> Notice:
        """Make a `str` member that carries its row of the table."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.when = when
        return member

    STUCK_PENDING = (
        "stuck-pending",
        "Pending for longer than `notices.pending` while its task instance waits for it: "  # noqa: ISC004
        "an image that can't be pulled, no node for it",
    )
    STUCK_TERMINATING = (
        "stuck-terminating",
        "still there `notices.terminating` after Kubernetes should have ended it: a lost node, a finalizer",
    )
    DEFERRED_LONG = "deferred-long", "older than `notices.deferred`, and its task instance is deferred"
    DUPLICATE = (
        "duplicate",
        "several unmarked Pods of one task instance that has not ended work at a time: the next try can't choose",
    )
    UNCERTAIN_LONG = "uncertain-long", "kept for longer than `notices.uncertain` for the same uncertain reason"
    RETENTION_BOUNDED = (
        "retention-bounded",
        "its annotation `kpo-healer.io/retention` holds no duration, or a longer one than "  # noqa: ISC004
        "`policy.retention.longest`: once its work is over it stays for as long as that",
    )
    POD_GONE = (
        "pod-gone",
        "the Pod vanished while it worked, and `notices.gone` later its task instance still is running or deferred",
    )


class Thresholds(Struct, frozen=True):
    """When something becomes worth a look, in seconds; `settled` is the age at which a Pod is no mere transition.

    `retention` is the longest that an annotation may ask for.
    """

    pending: float
    terminating: float
    deferred: float
    uncertain: float
    gone: float
    settled: float
    retention: float


class NoticeInput(Struct, frozen=True):
    """One Pod as it is now. `now`: the API server's time (epoch seconds, None where not known).

    `kept_for`: for how many seconds it has been kept for this very reason, as far as somebody watched. `twins`: how
    many other Pods of its task instance work, unmarked and settled.
    """

    pod: Pod
    reason: Reason
    answer: Answer | None
    now: float | None
    kept_for: float = 0.0
    duplicates: int = 0

    @property
    def task(self) -> TaskInstance | None:
        """The task instance, where Airflow knows it."""
        return self.answer.task if isinstance(self.answer, Known) else None

    @property
    def age(self) -> float:
        """How old the Pod is, in seconds; 0 where that can't be told."""
        return 0.0 if self.now is None or self.pod.created is None else self.now - self.pod.created

    @property
    def overdue(self) -> float:
        """For how many seconds the Pod should have been gone; below 0 where it need not be."""
        return -1.0 if self.now is None or self.pod.ends is None else self.now - self.pod.ends


class ActiveNotice(Struct, frozen=True):
    """One notice and its sentence."""

    notice: Notice
    detail: str


def notices(pod_input: NoticeInput, thresholds: Thresholds) -> tuple[ActiveNotice, ...]:
    """Return what is worth a look about a Pod."""
    return tuple(
        ActiveNotice(notice, tell(pod_input)) for notice, applies, tell in _NOTICES if applies(pod_input, thresholds)
    )


def works(pod: Pod, task: TaskInstance | None) -> bool:
    """Whether KPO's search would find this Pod at work: neither marked, nor on its way out, nor done."""
    return not (pod.checked or pod.terminating or pod.owned or is_done(pod, base_name(task)))


def is_gone_from(task: TaskInstance, label_try: int) -> bool:
    """Whether a task instance still is what it was when its Pod was there: at that try, running or deferred."""
    return task.state in HELD and task.try_number == label_try


def gone_detail(task: TaskInstance, seconds: float) -> str:
    """Say that a Pod is missed."""
    return (
        f"the Pod is gone for {_span(seconds)} and its task instance is {task.state} at try {task.try_number}: "
        "somebody has deleted it, or its worker hangs"
    )


def notice_table() -> str:
    """Return the table of all notices in Markdown, as the docs show it."""
    return "\n".join(["| notice | when |", "| --- | --- |", *(f"| `{each}` | {each.when} |" for each in Notice)])


def _pending(pod_input: NoticeInput, limits: Thresholds) -> bool:
    pod = pod_input.pod
    stuck = pod.phase == "Pending" and not pod.terminating and pod_input.age >= limits.pending
    return stuck and pod_input.reason in WAITED_FOR


def _why_pending(pod_input: NoticeInput) -> str:
    return f"Pending for {_span(pod_input.age)}: {pod_input.pod.waiting or 'Kubernetes gives no reason'}"


def _terminating(pod_input: NoticeInput, limits: Thresholds) -> bool:
    return pod_input.pod.terminating and pod_input.overdue >= limits.terminating


def _deferred(pod_input: NoticeInput, limits: Thresholds) -> bool:
    return pod_input.reason in WAITED_FOR and _state(pod_input) == "deferred" and pod_input.age >= limits.deferred


def _state(pod_input: NoticeInput) -> object:
    return pod_input.task.state if pod_input.task else None


def _duplicate(pod_input: NoticeInput, limits: Thresholds) -> bool:
    involved = pod_input.reason in WAITED_FOR | {Reason.SUPERSEDED}
    return (
        involved
        and pod_input.duplicates > 0
        and pod_input.age >= limits.settled
        and works(pod_input.pod, pod_input.task)
    )


def _duplicates_text(pod_input: NoticeInput) -> str:
    others = "another Pod" if pod_input.duplicates == 1 else f"{pod_input.duplicates} other Pods"
    return f"{others} of its task instance work too, unmarked: the next try fails with FoundMoreThanOnePodFailure"


def _bounded(pod_input: NoticeInput, limits: Thresholds) -> bool:
    wish = pod_input.pod.retention
    return wish is not None and (wish == UNREADABLE or wish > limits.retention)


def _why_bounded(pod_input: NoticeInput) -> str:
    wish = pod_input.pod.retention
    asks = "holds no duration such as 3d" if wish == UNREADABLE else f"asks for {_span(wish or 0.0)}"
    return f"its annotation kpo-healer.io/retention {asks}: it stays for as long as policy.retention.longest allows"


def _uncertain(pod_input: NoticeInput, limits: Thresholds) -> bool:
    return pod_input.reason in UNCERTAIN and pod_input.kept_for >= limits.uncertain


_NOTICES: tuple[tuple[Notice, Callable[[NoticeInput, Thresholds], bool], Callable[[NoticeInput], str]], ...] = (
    (Notice.STUCK_PENDING, _pending, _why_pending),
    (
        Notice.STUCK_TERMINATING,
        _terminating,
        lambda sight: f"it should have ended {_span(sight.overdue)} ago: its node is lost, or a finalizer holds it",
    ),
    (
        Notice.DEFERRED_LONG,
        _deferred,
        lambda sight: f"its task instance is deferred and the Pod {_span(sight.age)} old: is it meant to take so long?",
    ),
    (Notice.DUPLICATE, _duplicate, _duplicates_text),
    (
        Notice.UNCERTAIN_LONG,
        _uncertain,
        lambda sight: f"kept as {sight.reason} for {_span(sight.kept_for)}: nobody but you can settle it",
    ),
    (Notice.RETENTION_BOUNDED, _bounded, _why_bounded),
)


def _span(seconds: float) -> str:
    """`12 minutes`, `3 hours`, `4 days`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} seconds"
