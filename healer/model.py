"""The typed facts that flow through one pass: Pods, task instances, answers, findings.

Everything here is frozen and knows neither I/O nor clocks. Times that Kubernetes or Airflow wrote are seconds since the
epoch, in *their* clock; times of our own (`sent`) are seconds of `healer.clock`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, StrEnum, auto
from functools import lru_cache

from msgspec import UNSET, Struct, UnsetType, field

OWNER_LABEL = "kpo-healer.io/airflow"
"""Label that names the Airflow a Pod belongs to; set by a `pod_mutation_hook` where several share a namespace."""

ID_ANNOTATIONS = {
    "dag_id": "kpo-healer.io/dag-id",
    "task_id": "kpo-healer.io/task-id",
    "run_id": "kpo-healer.io/run-id",
    "map_index": "kpo-healer.io/map-index",
}
"""Annotations with the raw ids of a Pod's task instance, written beside the stamp: labels can't hold all of them."""

PROTECT_ANNOTATION = "kpo-healer.io/protect"
"""Annotation by which a user takes one Pod out of the healer's hands; see `protects`."""

NO_PROTECTION = frozenset({"", "false", "no", "off", "0"})
"""Values of the annotation that protect nothing, without case and surrounding blanks. Any other one protects."""

RETENTION_ANNOTATION = "kpo-healer.io/retention"
"""Annotation by which a user lets one done Pod stay longer than the policy says, as `3d`; never shorter."""

UNREADABLE = -1.0
"""`Pod.retention` where the annotation holds no duration: somebody wants the Pod to stay, for as long as it may."""


class Requirement(Struct, frozen=True):
    """One term of a label selector. `value` is None where the label must be absent.

    `differs`: the label must not have this value, and may be absent (`!=` of a selector matches that too).
    """

    label: str
    value: str | None = None
    differs: bool = False

    def __str__(self) -> str:
        """The term as the API server reads it."""
        if self.value is None:
            return f"!{self.label}"
        return f"{self.label}{'!=' if self.differs else '='}{self.value}"

    def admits(self, value: str | None) -> bool:
        """Whether a Pod may have this value of the label, None for none."""
        return (value != self.value) if self.differs else (value == self.value)


SELECTOR = (
    Requirement("kubernetes_pod_operator", "True"),
    Requirement("airflow-worker"),
    Requirement("kubernetes_executor", "True", differs=True),
    Requirement("spark_kubernetes_operator"),
)
"""Which Pods are the operator's. What is outside is never judged nor deleted, whatever else its labels say.

The operator's own search leaves out `airflow-worker` alone; the executor's workers have `kubernetes_executor=True`
beside it. Charts and hooks write `kubernetes_executor=False` on the operator's Pods.
"""

POD_SELECTOR = ",".join(map(str, SELECTOR))
"""`SELECTOR` as every LIST and WATCH sends it."""


def protects(value: str | None) -> bool:
    """Return whether this value of the annotation `PROTECT_ANNOTATION` protects; None: the Pod has no such annotation.

    Only ASCII blanks count as blanks, so that the admission policy of the chart can say the very same.
    """
    return value is not None and value.strip("\t\n\f\r ").lower() not in NO_PROTECTION


@lru_cache(maxsize=2048)
def intern_bounded(text: str) -> str:
    """Return this text, held once: ten thousand Pods and rows repeat few ids.

    A bounded memory on purpose, and not `sys.intern`: run ids are new every day, and Python 3.12 never forgets an
    interned text; before and after that its table of them still grows.
    """
    return text


class Action(StrEnum):
    """What the policy wants done with a Pod of a given reason."""

    KEEP = "keep"
    REPORT = "report"
    DELETE = "delete"


class RuleGroup(StrEnum):
    """The three blocks of the rules, in the order in which they are tried."""

    NOT_OURS = "not ours to touch"
    NOT_KNOWN = "not known"
    KNOWN = "known"


class Reason(StrEnum):
    """Why a Pod is kept, reported or deleted. The members, in order, are the rule table of the docs.

    Each member carries its block, the action taken by default, the rows of the decision table it rests on (D-numbers,
    docs/rules.md) and the sentence that says when it applies. The first one that matches wins.
    """

    block: RuleGroup
    action: Action
    sources: tuple[str, ...]
    when: str

    __hash__ = str.__hash__  # an Enum's own is Python code, and each pass looks up some for each Pod

    def __new__(cls, value: str, block: RuleGroup, action: Action, sources: str, when: str) -> Reason:
        """Make a `str` member that carries its row of the table."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.block, member.action, member.sources, member.when = block, action, tuple(sources.split()), when
        member.__doc__ = when
        return member

    NOT_SELECTED = (
        "not-selected",
        RuleGroup.NOT_OURS,
        Action.KEEP,
        "D24",
        "the selector leaves it out, however it was found: an executor's worker, a Spark driver, somebody else's Pod",
    )
    TERMINATING = "terminating", RuleGroup.NOT_OURS, Action.KEEP, "", "deletionTimestamp is set"
    PROTECTED = (
        "protected",
        RuleGroup.NOT_OURS,
        Action.KEEP,
        "",
        "annotation kpo-healer.io/protect has any value but an empty one, false, no, off or 0",
    )
    OWNED = (
        "owned",
        RuleGroup.NOT_OURS,
        Action.KEEP,
        "D24",
        "it has a controller ownerReference (Pods of Jobs carry the same labels)",
    )
    LABELS_MISSING = (
        "labels-missing",
        RuleGroup.NOT_OURS,
        Action.KEEP,
        "D18",
        "dag_id, task_id, run_id or try_number is missing or malformed, or map_index is malformed",
    )
    PHASE_UNKNOWN = (
        "phase-unknown",
        RuleGroup.NOT_OURS,
        Action.KEEP,
        "D23",
        "the phase is Unknown (lost node) or missing",
    )

    AIRFLOW_UNKNOWN = (
        "airflow-unknown",
        RuleGroup.NOT_KNOWN,
        Action.KEEP,
        "D1",
        "no full, positive answer: an error, a refusal, a partial or unparsable answer, "  # noqa: ISC004
        "a row without state, try or operator, an identity source that failed, "
        "a Pod that Airflow names and that can't be read just now",
    )
    PURGED = (
        "purged",
        RuleGroup.NOT_KNOWN,
        Action.REPORT,
        "D25",
        "done, and the run or the DAG is proven absent: nobody can clear or re-enter it",
    )
    RUN_DELETED = (
        "run-deleted",
        RuleGroup.NOT_KNOWN,
        Action.REPORT,
        "D19",
        "active, and the run is proven absent while its DAG exists",
    )
    ABSENT = (
        "absent",
        RuleGroup.NOT_KNOWN,
        Action.KEEP,
        "D18 D21",
        "Airflow does not know the DAG or the task instance: proves nothing",
    )
    LABELS_AMBIGUOUS = (
        "labels-ambiguous",
        RuleGroup.NOT_KNOWN,
        Action.KEEP,
        "D20 D22",
        "several task instances match the labels, or a label can't be resolved to an id",
    )
    FOREIGN_OPERATOR = (
        "foreign-operator",
        RuleGroup.NOT_KNOWN,
        Action.KEEP,
        "D24",
        "the task instance's operator runs Jobs, or is named in policy.foreignOperators",
    )
    ELSEWHERE = (
        "elsewhere",
        RuleGroup.NOT_KNOWN,
        Action.KEEP,
        "D21",
        "the task instance's rendered namespace is another one than the Pod's, "  # noqa: ISC004
        "and no source names this very Pod with its namespace",
    )
    UNEXPECTED_STATE = (
        "unexpected-state",
        RuleGroup.NOT_KNOWN,
        Action.KEEP,
        "D12",
        "up_for_reschedule, awaiting_input, or a state this version does not know",
    )

    TRY_AHEAD = "try-ahead", RuleGroup.KNOWN, Action.KEEP, "D16", "L > T"
    IN_USE = "in-use", RuleGroup.KNOWN, Action.KEEP, "D2 D8 D9", "L = T; running, deferred, scheduled or queued"
    REATTACHED = "reattached", RuleGroup.KNOWN, Action.KEEP, "D3", "L < T; running or deferred; Airflow names this Pod"
    KEPT = (
        "kept",
        RuleGroup.KNOWN,
        Action.DELETE,
        "D7",
        "checked and done: KPO is through with it, its search skips it for ever",
    )
    ABANDONED = (
        "abandoned",
        RuleGroup.KNOWN,
        Action.REPORT,
        "D6 D26",
        "checked and active, started or not: KPO gave up on it (or a user set the label)",
    )
    ADOPTABLE = (
        "adoptable",
        RuleGroup.KNOWN,
        Action.KEEP,
        "D10 D11",
        "between tries (up_for_retry, none, restarting; scheduled or queued with L < T): the next try takes it over",
    )
    SUPERSEDED = (
        "superseded",
        RuleGroup.KNOWN,
        Action.DELETE,
        "D4",
        "L < T; running or deferred; no source names this Pod and one names a living sibling of a later try",
    )
    ADOPTION_UNKNOWN = (
        "adoption-unknown",
        RuleGroup.KNOWN,
        Action.KEEP,
        "D5",
        "L < T; running or deferred; nothing proves which Pod is in use",
    )
    TASK_REMOVED = (
        "task-removed",
        RuleGroup.KNOWN,
        Action.REPORT,
        "D17",
        "the task was removed from its DAG (and may be restored)",
    )
    OTHER_POD = (
        "other-pod",
        RuleGroup.KNOWN,
        Action.KEEP,
        "D13 D14",
        "ended, L = T, active or done and unchecked, and Airflow names another Pod: "  # noqa: ISC004
        "another Airflow with the same ids, a copy, forged labels",
    )
    POSTDATES = (
        "postdates",
        RuleGroup.KNOWN,
        Action.KEEP,
        "D13",
        "ended, and the Pod was created more than 10 minutes after the task instance's end",
    )
    ORPHANED = "orphaned", RuleGroup.KNOWN, Action.DELETE, "D13 D15", "ended, L <= T, active"
    FINISHED = "finished", RuleGroup.KNOWN, Action.DELETE, "D14", "ended, L <= T, done"


ACTING = tuple(reason for reason in Reason if reason.action is not Action.KEEP)
"""The reasons whose action a policy may set; all others keep, always."""


class Labels(Struct, frozen=True, gc=False):
    """The KPO labels as they stand on the Pod: strings, or None where absent."""

    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    map_index: str | None = None
    try_number: str | None = None


class RawIds(Struct, frozen=True, gc=False):
    """The raw ids as the annotations have them, or None where absent. They prove nothing by themselves."""

    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    map_index: str | None = None


class LabelKey(Struct, frozen=True, gc=False):
    """The labels, parsed: which task instance they point at. `map_index` is -1 where the task is not mapped."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int

    @property
    def same_task(self) -> tuple[str, str, str, int]:
        """Everything but the try: equal for all Pods of one task instance."""
        return self.dag_id, self.task_id, self.run_id, self.map_index


class Container(Struct, frozen=True, gc=False):
    """A container of the Pod's spec, and how it ended if it did."""

    name: str
    terminated: bool = False
    exit_code: int | None = None
    finished_at: float | None = None


class Pod(Struct, frozen=True, gc=False):
    """What the healer knows of a Pod: never its env, args or volumes. `selected`: `SELECTOR` finds it.

    `cpu_cores`, `memory_bytes`, `extended` (such as GPUs, by name) are its effective requests. `airflow_version` is
    that of the Airflow that made it, as its label says. `ends` is when it should have ended, once it is terminating;
    `waiting` why it does not start, while it is Pending. `ended` is when its work was over by its conditions, where no
    container tells it (an eviction). `owner_labels` are those by whose keys an Airflow of the configuration owns Pods.
    `retention` is how long it is to stay once its work is over, as its annotation says: seconds, or `UNREADABLE`.
    """

    namespace: str
    name: str
    uid: str
    resource_version: str
    created: float | None
    phase: str
    labels: Labels
    containers: tuple[Container, ...] = ()
    terminating: bool = False
    protected: bool = False
    owned: bool = False
    checked: bool = False
    restart_never: bool = True
    owner_label: str | None = field(default=None, name="stamp")
    selected: bool = True
    cpu_cores: float = 0.0
    memory_bytes: float = 0.0
    extended: tuple[tuple[str, float], ...] = ()
    airflow_version: str | None = None
    ends: float | None = None
    waiting: str | None = None
    raw: RawIds | None = None
    ended: float | None = None
    owner_labels: tuple[tuple[str, str], ...] = ()
    retention: float | None = None

    def __str__(self) -> str:
        """`namespace/name`, as kubectl users write it."""
        return f"{self.namespace}/{self.name}"


class Amounts(Struct, frozen=True):
    """Resources, or resource-seconds. `extended` is by the resource's name."""

    cpu_cores: float = 0.0
    memory_bytes: float = 0.0
    extended: Mapping[str, float] = {}


class TaskInstance(Struct, frozen=True, gc=False):
    """One row of Airflow's answer. What the row lacked is UNSET; a null state is a cleared task instance."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    id: str | None = None
    state: str | UnsetType | None = UNSET
    try_number: int | None = None
    operator: str | None = None
    start_date: float | None = None
    end_date: float | None = None
    base_container: str | None = None
    namespace: str | None = None


class NamedPods(Struct, frozen=True, gc=False):
    """Which Pods Airflow itself names for a task instance, as (namespace or None, name).

    `failed` says which source could not be read; a source that has no answer (404) or that we may not read (403) is
    simply not among them.
    """

    named: frozenset[tuple[str | None, str]] = frozenset()
    failed: str | None = None

    def names(self, pod: Pod) -> bool:
        """Whether any source names this Pod."""
        return (pod.namespace, pod.name) in self.named or (None, pod.name) in self.named

    def names_with_namespace(self, pod: Pod) -> bool:
        """Whether a source names this very Pod: its name and its namespace."""
        return (pod.namespace, pod.name) in self.named

    def names_another(self, pod: Pod) -> bool:
        """Whether a source names a Pod, and none names this one."""
        return bool(self.named) and not self.names(pod)


class Answer(Struct, frozen=True, gc=False):
    """What Airflow knows of one Pod. `sent` is when the oldest request behind it was sent (monotonic seconds)."""

    sent: float


class Unknown(Answer, frozen=True, gc=False):
    """No full, positive answer."""

    why: str


class RunDeleted(Answer, frozen=True, gc=False):
    """The run is proven absent (its own 404) while its DAG exists (its own 200).

    `only_dag`: no other DAG that exists fits the Pod's label, so that it is the Pod's for sure.
    """

    dag_id: str
    run_id: str
    only_dag: bool = True


class DagDeleted(Answer, frozen=True, gc=False):
    """The DAG is proven absent (its own 404), and with it all its runs."""

    dag_id: str


class Absent(Answer, frozen=True, gc=False):
    """Airflow does not know it, which proves nothing."""

    why: str


class Ambiguous(Answer, frozen=True, gc=False):
    """More than one task instance fits the labels, or a label can't be resolved."""

    why: str


class Known(Answer, frozen=True, gc=False):
    """Exactly one task instance fits. `identity` is None where it was not asked; `siblings` are the Pods, freshly read,
    that Airflow names instead of this one (read only where a rule needs them).

    `heard`: when the identity was asked (monotonic seconds), where that was before `sent`: of a confirmation only that
    an ended try has used this very Pod is remembered.
    """

    task: TaskInstance
    identity: NamedPods | None = None
    siblings: tuple[Pod, ...] = ()
    heard: float | None = None


class Finding(Struct, frozen=True, gc=False):
    """The judgement on one Pod: the reason and its proof in one sentence.

    `named`: Airflow itself names this very Pod, so that it is this Airflow's whatever else is in its namespace.
    `contested`: it works at an earlier try of a task instance that has ended, and Airflow names another Pod: a twin
    that was left behind, or the living Pod of another Airflow with the same ids.
    """

    reason: Reason
    detail: str
    task: TaskInstance | None = None
    named: bool = False
    contested: bool = False


class Withheld(StrEnum):
    """Why a Pod that the policy would act on is not acted on now."""

    OWNERSHIP = "ownership"
    REPORT_MODE = "report-mode"
    NOT_DUE = "not-due"
    BREAKER = "breaker"
    RATE = "rate"
    NOT_LEADER = "not-leader"


def rfc3339_utc(moment: datetime, precision: str = "seconds") -> str:
    """Return a moment, given in UTC, as Kubernetes writes it: RFC 3339 with a `Z`."""
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def rfc3339(seconds: float | None) -> str | None:
    """Return epoch seconds as `2026-01-31T12:00:00Z`, None where they are not known or beyond any calendar."""
    if seconds is None:
        return None
    try:
        return rfc3339_utc(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, OSError, ValueError):  # a retention of ten thousand years
        return None


class DeleteStatus(StrEnum):
    """What became of a DELETE. `deleted` means accepted: the Pod may still be terminating."""

    DELETED = "deleted"
    CONFLICT = "conflict"
    GONE = "gone"
    DENIED = "denied"
    STALE = "stale"
    ERROR = "error"


class DeleteResult(Struct, frozen=True):
    """The result, a sentence about it, and how many seconds the server asked us to wait, if it did.

    After `stale` nothing was sent. After `error` it is not known whether the Pod was deleted.
    """

    status: DeleteStatus
    message: str
    retry_after: float | None = None


class PassKind(Enum):
    """How much a pass asks."""

    DUE = auto()
    FULL = auto()
    AUDIT = auto()


class Cause(StrEnum):
    """Why a Pod was left behind. Each member says in which cases, for the docs."""

    when: str

    def __new__(cls, value: str, when: str) -> Cause:
        """Make a `str` member that carries its row of the table."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.when = when
        return member

    RUN_DELETED = "run-deleted", "the run was deleted, and its Pod was not"
    PURGED = "purged", "the run or the DAG was removed after its Pod had ended, and the Pod was left"
    TASK_REMOVED = "task-removed", "the task was taken out of its DAG, or its mapped list grew shorter"
    TIMEOUT_KEPT = "timeout-kept", "KPO gave up on a Pod that still worked, and its `on_finish_action` left it"
    KEPT_BY_POLICY = "kept-by-policy", "KPO was through with the Pod and its `on_finish_action` left it"
    SIDECAR = "sidecar", "the base container has ended, and another one runs on"
    NOT_REATTACHED = "not-reattached", "a later try did not take the Pod over"
    CLEARED = "cleared", "the task was cleared while its Pod worked, and did not start again"
    RUN_CUT_SHORT = "run-cut-short", "the run ended first: `dagrun_timeout`, fail-fast, or by hand"
    CREATED_LATE = "created-late", "the Pod was made after its task instance had ended"
    MARKED_WHILE_DEFERRED = "marked-while-deferred", "the task was deferred just before it ended: no worker was there"
    MARKED_SUCCESS = "marked-success", "the task is a success, and its Pod still works"
    WORKER_LOST = "worker-lost", "the task ran just before it failed, and its worker did not clean up"
    NOT_CLEANED_UP = "not-cleaned-up", "the task has ended, and KPO's own clean-up has left no trace"


class CauseFinding(Struct, frozen=True):
    """A cause, what of this Pod speaks for it, and what to do so that it does not come back."""

    cause: Cause
    detail: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        """Return it in the form of the JSON output and of the log."""
        return {"name": self.cause.value, "detail": self.detail, "remedy": self.remedy}


def printable(text: str) -> str:
    """Return one line in which control characters and changes of the direction of writing are escaped.

    Ids and messages are written by others, and must neither steer a terminal nor pass for a line of their own.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
