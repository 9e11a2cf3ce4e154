"""Builders and Hypothesis strategies for Pods, task instances and answers.

The builders make one ordinary case that a test changes where it matters: `a_pod()` is a running Pod of try 1 of the
task instance of `a_task()`. The strategies draw from few ids, states and names, so that what is drawn often fits
together: the rules are interesting where almost everything agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from healer.decision.rules import RuleOptions
from healer.model import (
    Absent,
    Ambiguous,
    Answer,
    Container,
    DagDeleted,
    Known,
    Labels,
    NamedPods,
    Pod,
    RunDeleted,
    TaskInstance,
    Unknown,
)

DAG_ID, TASK_ID, RUN_ID = "etl", "load", "scheduled__2026-01-01T00:00:00+00:00"
RUN_LABEL = "scheduled__2026-01-01T0000000000-b36726f5d"
"""What KubernetesPodOperator itself wrote for RUN_ID."""

CREATED, END = 10_000.0, 10_300.0
"""When the Pods of the builders were made, and when their task instance ended (seconds since the epoch)."""

GRACE = 120.0
LABEL_FIELDS = frozenset(Labels.__struct_fields__)
BASE, BASE_ENDED = Container("base"), Container("base", terminated=True, exit_code=0, finished_at=END)
SIDECAR, SIDECAR_ENDED = Container("sidecar"), Container("sidecar", terminated=True, exit_code=0, finished_at=END)


def a_pod(**changes: Any) -> Pod:
    """Return a running Pod of try 1. Changes are fields of Pod, or of its labels (`try_number="2"`, `dag_id=None`)."""
    labels = Labels(DAG_ID, TASK_ID, RUN_LABEL, None, "1")
    labels = replace(labels, **{name: changes.pop(name) for name in LABEL_FIELDS & changes.keys()})
    pod = Pod("airflow", "load-1", "uid-1", "1", CREATED, "Running", changes.pop("labels", labels), (BASE,))
    return replace(pod, **changes)


def a_done_pod(**changes: Any) -> Pod:
    """Return a Pod whose containers all ended well."""
    return a_pod(**{"phase": "Succeeded", "containers": (BASE_ENDED,), **changes})


def a_sibling(**changes: Any) -> Pod:
    """Return the running Pod of try 2, made a good while after `a_pod()`."""
    return a_pod(**{"name": "load-2", "uid": "uid-2", "created": CREATED + 200, "try_number": "2", **changes})


def a_task(state: Any = "running", try_number: int | None = 1, **changes: Any) -> TaskInstance:
    """Return the row of the task instance of `a_pod()`."""
    row = TaskInstance(DAG_ID, RUN_ID, TASK_ID, -1, "id-1", state, try_number, "KubernetesPodOperator", CREATED - 5)
    return replace(row, **changes)


def ended(state: str = "success", try_number: int | None = 1, **changes: Any) -> TaskInstance:
    """Return the row of a task instance that has ended."""
    return a_task(state, try_number, **{"end_date": END, **changes})


NO_SOURCE = NamedPods()
"""Airflow was asked and has no Pod to name."""


def naming(*pods: Pod) -> NamedPods:
    """Return the identity by which Airflow names these Pods."""
    return NamedPods(frozenset((pod.namespace, pod.name) for pod in pods))


def known(task: TaskInstance, identity: NamedPods | None = None, *siblings: Pod) -> Known:
    """Return the answer that holds this row."""
    return Known(0.0, task, identity, siblings)


# --- strategies -------------------------------------------------------------------------------------------------------

IDS = {
    "etl": "etl",
    "load": "load",
    RUN_ID: RUN_LABEL,
    RUN_LABEL: RUN_LABEL,  # a run whose id is the label of another one
    "manual-1": "manual-1",
    "x" * 64: "x" * 53 + "-c1bb4f81d",
    "__private__": "private-e3d4839dd",
    "rün~2026/01": "rn202601-a13f9c6cf",
}
"""Ids with the labels that the provider makes of them."""

ENDED = ("success", "failed", "skipped", "upstream_failed")
HELD = ("running", "deferred")
BEFORE = (*HELD, "scheduled", "queued", "up_for_retry", "restarting", None)
OTHER = ("removed", "up_for_reschedule", "awaiting_input", "shutdown", "", UNSET)
TIMES = tuple(CREATED + seconds for seconds in (-700, -601, -600, -120, 0, 1, 119, 120, 121, 599, 600, 601, 2000))
MAIN, MAIN_ENDED = Container("main"), Container("main", terminated=True, exit_code=1)

_LABELS: dict[str, tuple[Any, ...]] = {
    "dag_id": ("etl2", *IDS.values(), None, ""),
    "task_id": ("load2", *IDS.values(), None, ""),
    "run_id": (RUN_LABEL, *IDS.values(), None, ""),
    "map_index": ("0", "5", "-1"),
    "try_number": ("1", "2", "3", "0", "01", "", None),
}
_POD: dict[str, tuple[Any, ...]] = {
    "namespace": ("other",),
    "created": (None, *TIMES),
    "phase": ("Pending", "Running", "Succeeded", "Failed", "Unknown", ""),
    "containers": ((), (BASE_ENDED,), (BASE, SIDECAR_ENDED), (BASE_ENDED, MAIN), (SIDECAR, MAIN_ENDED), (SIDECAR,)),
    "terminating": (True,),
    "protected": (True,),
    "owned": (True,),
    "selected": (False,),
    "checked": (True, False),
    "restart_never": (False,),
}
_TASK: dict[str, tuple[Any, ...]] = {
    "dag_id": tuple(IDS),
    "run_id": tuple(IDS),
    "task_id": tuple(IDS),
    "map_index": (0, 5),
    "id": (None, "id-2"),
    "state": (*ENDED, *BEFORE, *OTHER),
    "try_number": (1, 2, 3, 0, -1, None),
    "operator": ("GKEStartPodOperator", "KubernetesJobOperator", "CustomJobOperator", "", None),
    "end_date": (None, *TIMES),
    "base_container": ("base", "main", ""),
    "namespace": ("airflow", "other", ""),
}
_NAMES = (("airflow", "load-1"), (None, "load-1"), ("airflow", "load-2"), (None, "load-2"), ("airflow", "load-gone"))
_IDENTITIES = (
    *(None, NO_SOURCE, NamedPods(failed="XCom: 500"), NamedPods(frozenset(_NAMES[2:3]), "state store: timeout")),
    *(NamedPods(frozenset({one})) for one in _NAMES),
    *(NamedPods(frozenset({_NAMES[0], other})) for other in _NAMES[2:]),
)
_OTHER_ANSWERS = (
    *(Unknown(0.0, "timeout"), Absent(0.0, "no such DAG"), Ambiguous(0.0, "two runs")),
    *(RunDeleted(0.0, DAG_ID, run_id) for run_id in (RUN_ID, RUN_LABEL, "manual-1")),
    RunDeleted(0.0, "manual-1", RUN_ID),
    *(DagDeleted(0.0, dag_id) for dag_id in (DAG_ID, "manual-1")),
)

Change = tuple[str, str, Any]
"""What is changed (the Pod, its labels, the row, the sibling, its labels, the answer), which field, and to what."""


def _changes(what: str, fields: Mapping[str, tuple[Any, ...]]) -> list[list[Change]]:
    return [[(what, name, value) for value in values] for name, values in fields.items()]


CHANGES: list[list[Change]] = [
    *_changes("pod", _POD),
    *_changes("labels", _LABELS),
    *_changes("task", _TASK) * 2,
    *_changes("sibling", _POD),
    *_changes("sibling labels", _LABELS),
    *_changes("answer", {"identity": _IDENTITIES}) * 4,
    *_changes("answer", {"siblings": ((), (a_sibling(),))}),
    *_changes("answer", {"instead": _OTHER_ANSWERS}),
]


def changed(pod: Pod, answer: Answer, change: Change) -> tuple[Pod, Answer]:
    """Return the Pod and the answer with one field changed, where they have it."""
    what, name, value = change
    if what == "pod":
        return replace(pod, **{name: value}), answer
    if what == "labels":
        return replace(pod, labels=replace(pod.labels, **{name: value})), answer
    if not isinstance(answer, Known):
        return pod, answer
    return pod, value if name == "instead" else _changed_answer(answer, change)


def _changed_answer(answer: Known, change: Change) -> Known:
    what, name, value = change
    if what == "task":
        return replace(answer, task=replace(answer.task, **{name: value}))
    if what == "answer":
        return replace(answer, **{name: value})
    if what == "sibling":
        return replace(answer, siblings=tuple(replace(one, **{name: value}) for one in answer.siblings))
    siblings = (replace(one, labels=replace(one.labels, **{name: value})) for one in answer.siblings)
    return replace(answer, siblings=tuple(siblings))


STARTS: tuple[tuple[Pod, Answer], ...] = (
    (a_pod(), known(ended(), NO_SOURCE)),
    (a_done_pod(), known(ended("failed"), naming(a_pod()))),
    (a_pod(), known(a_task("running"))),
    (a_pod(), known(a_task("running", 2), naming(a_sibling()), a_sibling())),
    (a_pod(), known(a_task("deferred", 2), naming(a_pod()), a_sibling())),
    (a_pod(), known(a_task("up_for_retry"), NO_SOURCE)),
    (a_done_pod(checked=True), known(a_task("queued", 2))),
    (a_pod(), RunDeleted(0.0, DAG_ID, RUN_ID)),
    (a_done_pod(checked=True), DagDeleted(0.0, DAG_ID)),
    (a_pod(map_index="5"), known(ended(map_index=5), NO_SOURCE)),
)
"""Ordinary cases. From these, a few changes lead everywhere."""


def judged(states: Sequence[Any] = ()) -> st.SearchStrategy[tuple[Pod, Answer, RuleOptions]]:
    """Draw what `judge` is called with: an ordinary case, and up to eight changes to it. `states`: only these."""
    terms = st.sampled_from((RuleOptions(), RuleOptions(grace=0.0), RuleOptions(frozenset({"CustomJobOperator"}))))
    change = st.sampled_from(CHANGES).flatmap(st.sampled_from)
    state = st.sampled_from([("task", "state", state) for state in states]) if states else st.none()

    def apply(start: tuple[Pod, Answer], changes: list[Change], last: Change | None, terms: RuleOptions) -> Any:
        for one in [*changes, last] if last else changes:
            start = changed(*start, one)
        return *start, terms

    return st.builds(apply, st.sampled_from(STARTS), st.lists(change, max_size=8), state, terms)
