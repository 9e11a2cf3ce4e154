"""The rules: one pure, timeless function from a Pod and Airflow's answer to a finding.

`judge` is used for the first look and for the confirmation alike, so the two can't drift. The rules stand in `RULES` in
the order in which they are tried; the first that matches wins. Each has a predicate and the facts it looked at, so that
`trace` can say of every rule why it did or did not match.

Words: L is the try on the Pod's label, T the task instance's. *Done*: the base container has terminated and is never
restarted, or the phase is Succeeded or Failed; *active*: anything else. *Checked*: KPO set `already_checked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import UNSET, Struct

from healer.decision.labels import parse, safe_label
from healer.model import (
    Absent,
    Ambiguous,
    Answer,
    Container,
    DagDeleted,
    Finding,
    Known,
    LabelKey,
    Pod,
    Reason,
    RunDeleted,
    TaskInstance,
    Unknown,
    printable,
    rfc3339,
)

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed"})
"""States after which no try adopts a Pod (D13, D14)."""

HELD = frozenset({"running", "deferred"})
"""States in which the current try holds some Pod (D2-D5, D8)."""

WAITING = frozenset({"scheduled", "queued"})
"""States of a hand-over (L = T, D9) or of a try that has not begun (L < T, D10)."""

BETWEEN = frozenset({"up_for_retry", "restarting", None})
"""States between two tries: the next one takes the Pod over (D11). None is a cleared task instance."""

REMOVED = "removed"

JOB_OPERATORS = frozenset(
    {"KubernetesJobOperator", "KubernetesStartKueueJobOperator", "GKEStartJobOperator", "GKEStartKueueJobOperator"}
)
"""Operators whose Pods carry KPO's labels but belong to a Job that goes on after the task's success (D24)."""

POSTDATE_TOLERANCE = 600.0
"""Seconds by which worker and API server clocks may differ before a Pod made after the task's end is not its Pod."""

PHASES = frozenset({"Pending", "Running", "Succeeded", "Failed"})
"""Phases that say something. Unknown is a lost node, whose containers may run on (D23)."""

DEFAULT_BASE = "base"
"""KPO's default `base_container_name`."""


class RuleOptions(Struct, frozen=True):
    """What the policy adds to the rules: more foreign operators, and `grace` in seconds (age gap of a sibling)."""

    foreign_operators: frozenset[str] = frozenset()
    grace: float = 120.0


class Step(Struct, frozen=True):
    """One rule as it was tried."""

    reason: Reason
    matched: bool
    why: str


class RuleInput(Struct, frozen=True):
    """A Pod and its answer, with what the rules ask for again and again."""

    pod: Pod
    answer: Answer
    options: RuleOptions
    key: LabelKey | str

    @property
    def known(self) -> Known:
        """The answer, in the block where it is known to be full."""
        assert isinstance(self.answer, Known)  # noqa: S101 - the rules before this block have seen to it
        return self.answer

    @property
    def label_try(self) -> int:
        """L."""
        return self.key.try_number if isinstance(self.key, LabelKey) else 0

    @property
    def task_try(self) -> int:
        """T. Airflow 2.10 and later count a try when it is scheduled, so the number needs no correction."""
        return self.known.task.try_number or 0

    @property
    def held(self) -> bool:
        """An earlier try's Pod while the task instance holds one: L < T, running or deferred."""
        return self.known.task.state in HELD and self.label_try < self.task_try

    @property
    def ended(self) -> bool:
        """The task instance has ended and the Pod is of this try or an earlier one."""
        return self.known.task.state in ENDED and self.label_try <= self.task_try

    @property
    def done(self) -> bool:
        """The Pod's work is over, by the container that the task instance names, where one is known."""
        return is_done(self.pod, base_name(self.answer.task if isinstance(self.answer, Known) else None))

    @property
    def namesake(self) -> bool:
        """Of the very try that has ended, and Airflow names another Pod for it."""
        return self.ended and self.label_try == self.task_try and _names_another(self)


def judge(pod: Pod, answer: Answer, options: RuleOptions | None = None) -> Finding:
    """Return the finding for a Pod: the first rule that matches, and its proof in one sentence. Never raises."""
    case = RuleInput(pod, answer, options or RuleOptions(), parse(pod.labels))
    task = answer.task if isinstance(answer, Known) else None
    named = isinstance(answer, Known) and _names_with_namespace(case)
    for reason, matches, facts in RULES:
        if matches(case):
            return Finding(reason, printable(facts(case)), task, named, _is_contested(case))
    return Finding(Reason.UNEXPECTED_STATE, "no rule covers this combination", task)


def trace(pod: Pod, answer: Answer, options: RuleOptions | None = None) -> Iterator[Step]:
    """Yield every rule tried, in order, up to the one that matches, with the facts that decided it."""
    case = RuleInput(pod, answer, options or RuleOptions(), parse(pod.labels))
    for reason, matches, facts in RULES:
        matched = matches(case)
        yield Step(reason, matched, printable(facts(case)))
        if matched:
            return


def decided_by_pod(pod: Pod) -> bool:
    """Whether the Pod alone decides, so that Airflow need not be asked."""
    case = RuleInput(pod, Unknown(0.0, ""), RuleOptions(), parse(pod.labels))
    return any(matches(case) for _, matches, _ in _OF_THE_POD)


def base_name(task: TaskInstance | None) -> str:
    """Return the name of the container whose end is the Pod's end."""
    return (task.base_container if task else None) or DEFAULT_BASE


def base_of(pod: Pod, name: str) -> Container | None:
    """Return the Pod's base container, None if it has none of that name (then only the phase decides)."""
    for container in pod.containers:  # each pass asks this of each Pod: no generator
        if container.name == name:
            return container
    return None


def is_done(pod: Pod, base: str) -> bool:
    """Whether the Pod's work is over: phase Succeeded or Failed, or its base container ended for good."""
    if pod.phase in {"Succeeded", "Failed"}:
        return True
    container = base_of(pod, base)
    return container is not None and container.terminated and pod.restart_never


def needs_identity(pod: Pod, task: TaskInstance) -> bool:
    """Whether a rule wants to know which Pod Airflow itself names: moved? adopted? superseded? a copy of the real one?

    What KPO is through with (checked and done) works for nobody, whichever Airflow it is of.
    """
    key = parse(pod.labels)
    if isinstance(key, str) or task.try_number is None or task.operator in JOB_OPERATORS:
        return False
    if _is_rendered_elsewhere(pod, task):
        return True
    if task.state in HELD:
        return key.try_number < task.try_number
    through = pod.checked and is_done(pod, base_name(task))
    return task.state in ENDED and key.try_number == task.try_number and not through


def may_prove_itself(pod: Pod, task: TaskInstance, *, refuted: bool) -> bool:
    """Whether Airflow may name this very Pod, though no rule needs to know: that proves whose it is.

    It is worth a question where the Pod still works, and where another Airflow's Pods refute the claim to its
    namespace: what a later try adopted and what KPO has kept would stay there for ever, although Airflow names it.
    """
    key = parse(pod.labels)
    if isinstance(key, str) or task.try_number is None or task.operator in JOB_OPERATORS:
        return False
    asked = refuted or not is_done(pod, base_name(task))
    return asked and task.state in ENDED and key.try_number <= task.try_number


def needs_siblings(pod: Pod, answer: Answer) -> bool:
    """Whether the Pods that Airflow names instead must be read, to tell `superseded` from `adoption-unknown`."""
    if not isinstance(answer, Known) or answer.identity is None or answer.identity.failed is not None:
        return False
    return answer.task.state in HELD and answer.identity.names_another(pod) and needs_identity(pod, answer.task)


def replaces(sibling: Pod, case: RuleInput) -> bool:
    """Whether this Pod is the living one of a later try that took the judged Pod's place (D4)."""
    pod, key, other = case.pod, case.key, parse(sibling.labels)
    if isinstance(key, str) or isinstance(other, str) or sibling.uid == pod.uid:
        return False
    if sibling.terminating or sibling.checked or sibling.owned or sibling.phase not in PHASES:
        return False
    if sibling.created is None or pod.created is None or not _named(sibling, case):
        return False
    if not sibling.created - pod.created >= case.options.grace:  # so written that a NaN proves nothing
        return False
    return key.same_task == other.same_task and key.try_number < other.try_number <= case.task_try


def rule_table() -> str:
    """Return the table of all rules in Markdown, as the docs show it."""
    lines = ["| reason | when | action by default | rests on |", "| --- | --- | --- | --- |"]
    for block in dict.fromkeys(reason.block for reason in Reason):
        lines.append(f"| *{block}* | | | |")
        lines += [
            f"| `{reason}` | {reason.when} | {reason.action} | {' '.join(reason.sources)} |"
            for reason in Reason
            if reason.block is block
        ]
    return "\n".join(lines)


# --- block 1: not ours to touch ---------------------------------------------------------------------------------------


def _selection(case: RuleInput) -> str:
    return f"the selector {'finds' if case.pod.selected else 'leaves out'} a Pod with its labels"


def _malformed(case: RuleInput) -> str:
    return case.key if isinstance(case.key, str) else "all labels are well-formed"


# --- block 2: not known -----------------------------------------------------------------------------------------------


def _what_is_missing(case: RuleInput) -> str | None:
    """Return why the answer is not full and positive, None if it is."""
    answer = case.answer
    if isinstance(answer, Unknown):
        return answer.why or "no reason given"
    if isinstance(answer, RunDeleted) and not _fits_run(case.key, answer.dag_id, answer.run_id):
        return "Airflow's answer is about another run than the labels"
    if isinstance(answer, DagDeleted) and not _fits_dag(case.key, answer.dag_id):
        return "Airflow's answer is about another DAG than the labels"
    if not isinstance(answer, Known):
        return None
    task = answer.task
    if not _fits(case.key, task):
        return "Airflow's row is about another task instance than the labels"
    if task.state is UNSET or task.try_number is None or not task.operator:
        return "Airflow's row lacks its state, try or operator"
    return _identity_missing(case)


def _identity_missing(case: RuleInput) -> str | None:
    identity = case.known.identity
    if identity is not None:
        return identity.failed
    needed = needs_identity(case.pod, case.known.task) and not _foreign(case)
    return "Airflow was not asked which Pod is in use" if needed else None


def _fits(key: LabelKey | str, task: TaskInstance) -> bool:
    """Whether the labels are those of this task instance: each computed anew, hash included."""
    return (
        isinstance(key, LabelKey)
        and key.map_index == task.map_index
        and safe_label(task.task_id) == key.task_id
        and _fits_run(key, task.dag_id, task.run_id)
    )


def _fits_run(key: LabelKey | str, dag_id: str, run_id: str) -> bool:
    return isinstance(key, LabelKey) and _fits_dag(key, dag_id) and safe_label(run_id) == key.run_id


def _fits_dag(key: LabelKey | str, dag_id: str) -> bool:
    return isinstance(key, LabelKey) and safe_label(dag_id) == key.dag_id


def _why_not_known(case: RuleInput) -> str:
    return _what_is_missing(case) or "Airflow's answer is full"


def _absence(case: RuleInput) -> str:
    answer = case.answer
    if isinstance(answer, RunDeleted):
        return f"DAG {answer.dag_id!r} exists and its run {answer.run_id!r} does not"
    if isinstance(answer, DagDeleted):
        return f"Airflow has no DAG {answer.dag_id!r}"
    if isinstance(answer, Absent | Ambiguous):
        return answer.why
    return "Airflow knows the task instance"


def _absence_and_work(case: RuleInput) -> str:
    told = _absence(case)
    return f"{told}; {_work(case)}" if isinstance(case.answer, RunDeleted | DagDeleted) else told


def _foreign(case: RuleInput) -> bool:
    return case.known.task.operator in JOB_OPERATORS | case.options.foreign_operators


def _is_rendered_elsewhere(pod: Pod, task: TaskInstance) -> bool:
    return task.namespace not in {None, "", pod.namespace}


def _elsewhere(case: RuleInput) -> bool:
    """A hook may have moved the Pod: then Airflow names it where it is."""
    return _is_rendered_elsewhere(case.pod, case.known.task) and not _names_with_namespace(case)


def _namespaces(case: RuleInput) -> str:
    where = f"rendered namespace {case.known.task.namespace or 'not known'}, the Pod's is {case.pod.namespace}"
    return f"{where}; Airflow names this very Pod" if _names_with_namespace(case) else where


def _unexpected(case: RuleInput) -> bool:
    return case.known.task.state not in ENDED | HELD | WAITING | BETWEEN | {REMOVED}


# --- block 3: known ---------------------------------------------------------------------------------------------------


def _adoptable(case: RuleInput) -> bool:
    state = case.known.task.state
    return state in BETWEEN or (state in WAITING and case.label_try < case.task_try)


def _in_use(case: RuleInput) -> bool:
    return case.label_try == case.task_try and case.known.task.state in HELD | WAITING


def _names_this(case: RuleInput) -> bool:
    identity = case.known.identity
    return identity is not None and identity.names(case.pod)


def _names_with_namespace(case: RuleInput) -> bool:
    identity = case.known.identity
    return identity is not None and identity.names_with_namespace(case.pod)


def _is_contested(case: RuleInput) -> bool:
    """Whether Airflow's own words speak against an earlier try's Pod that still works."""
    if not isinstance(case.answer, Known) or isinstance(case.key, str):
        return False
    return case.ended and case.label_try < case.task_try and not case.done and _names_another(case)


def _names_another(case: RuleInput) -> bool:
    identity = case.known.identity
    return identity is not None and identity.names_another(case.pod)


def _named(sibling: Pod, case: RuleInput) -> bool:
    identity = case.known.identity
    return identity is not None and identity.names(sibling)


def _superseded(case: RuleInput) -> bool:
    return case.held and _names_another(case) and any(replaces(sibling, case) for sibling in case.known.siblings)


def _postdates(case: RuleInput) -> bool:
    created, end = case.pod.created, case.known.task.end_date
    return case.ended and created is not None and end is not None and not created - end <= POSTDATE_TOLERANCE


def _tries(case: RuleInput) -> str:
    state = case.known.task.state
    return f"task instance is {state or 'none (cleared)'} at try {case.task_try}, the Pod is of try {case.label_try}"


def _tries_and_work(case: RuleInput) -> str:
    return f"{_tries(case)}, {_work(case)}"


def _work(case: RuleInput) -> str:
    base = base_of(case.pod, base_name(case.answer.task if isinstance(case.answer, Known) else None))
    what = f"phase {case.pod.phase}"
    if base is not None and base.terminated:
        what += f", container {base.name} ended with exit code {base.exit_code}"
    return f"{'done' if case.done else 'active'} ({what}), {'checked' if case.pod.checked else 'not checked'} by KPO"


def _identity(case: RuleInput) -> str:
    identity = case.known.identity
    if identity is None:
        return f"{_tries(case)}; not asked which Pod is in use"
    names = ", ".join(sorted(f"{namespace or '*'}/{name}" for namespace, name in identity.named))
    return f"{_tries(case)}; Airflow names {names or 'no Pod'}"


def _siblings(case: RuleInput) -> str:
    living = [str(sibling) for sibling in case.known.siblings if replaces(sibling, case)]
    return f"{_identity(case)}; {'living sibling ' + living[0] if living else 'no living sibling of a later try'}"


def _times(case: RuleInput) -> str:
    return f"the task instance ended {_when(case.known.task.end_date)}, the Pod was made {_when(case.pod.created)}"


def _ended_and_work(case: RuleInput) -> str:
    return f"{_tries_and_work(case)}; ended {_when(case.known.task.end_date)}"


def _when(seconds: float | None) -> str:
    return "at a time not known" if seconds is None else rfc3339(seconds) or "at an impossible time"


Predicate = Callable[[RuleInput], bool]
Facts = Callable[[RuleInput], str]

_OF_THE_POD: tuple[tuple[Reason, Predicate, Facts], ...] = (
    (Reason.NOT_SELECTED, lambda case: not case.pod.selected, _selection),
    (
        Reason.TERMINATING,
        lambda case: case.pod.terminating,
        lambda case: f"deletionTimestamp is {'set' if case.pod.terminating else 'not set'}",
    ),
    (
        Reason.PROTECTED,
        lambda case: case.pod.protected,
        lambda case: f"the protect annotation is {'set' if case.pod.protected else 'not set'}",
    ),
    (
        Reason.OWNED,
        lambda case: case.pod.owned,
        lambda case: f"it has {'a' if case.pod.owned else 'no'} controller ownerReference",
    ),
    (Reason.LABELS_MISSING, lambda case: isinstance(case.key, str), _malformed),
    (
        Reason.PHASE_UNKNOWN,
        lambda case: case.pod.phase not in PHASES,
        lambda case: f"phase {case.pod.phase or 'missing'}",
    ),
)

RULES: tuple[tuple[Reason, Predicate, Facts], ...] = (
    *_OF_THE_POD,
    (Reason.AIRFLOW_UNKNOWN, lambda case: _what_is_missing(case) is not None, _why_not_known),
    (
        Reason.PURGED,
        lambda case: isinstance(case.answer, RunDeleted | DagDeleted) and case.done,
        _absence_and_work,
    ),
    (Reason.RUN_DELETED, lambda case: isinstance(case.answer, RunDeleted), _absence),
    (Reason.ABSENT, lambda case: isinstance(case.answer, Absent | DagDeleted), _absence),
    (Reason.LABELS_AMBIGUOUS, lambda case: not isinstance(case.answer, Known), _absence),
    (Reason.FOREIGN_OPERATOR, _foreign, lambda case: f"operator {case.known.task.operator}"),
    (Reason.ELSEWHERE, _elsewhere, _namespaces),
    (Reason.UNEXPECTED_STATE, _unexpected, lambda case: f"state {case.known.task.state or 'none'}"),
    (Reason.TRY_AHEAD, lambda case: case.label_try > case.task_try, _tries),
    (Reason.IN_USE, _in_use, _tries),
    (Reason.REATTACHED, lambda case: case.held and _names_this(case), _identity),
    (Reason.KEPT, lambda case: case.pod.checked and case.done, _tries_and_work),
    (
        Reason.ABANDONED,
        lambda case: case.pod.checked and not case.done and not case.namesake,
        lambda case: f"{_tries_and_work(case)}{', Airflow names another Pod' if case.namesake else ''}",
    ),
    (Reason.ADOPTABLE, _adoptable, _tries),
    (Reason.SUPERSEDED, _superseded, _siblings),
    (Reason.ADOPTION_UNKNOWN, lambda case: case.held, _siblings),
    (Reason.TASK_REMOVED, lambda case: case.known.task.state == REMOVED, _tries_and_work),
    (Reason.OTHER_POD, lambda case: case.namesake, _identity),
    (Reason.POSTDATES, _postdates, _times),
    (Reason.ORPHANED, lambda case: case.ended and not case.done, _ended_and_work),
    (Reason.FINISHED, lambda case: case.ended and case.done, _ended_and_work),
)
"""All rules in the order in which they are tried: the same order as the members of `Reason`."""
