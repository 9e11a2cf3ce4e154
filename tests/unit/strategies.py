"""Builders and Hypothesis strategies for Pods, task instances and answers.

The builders make one ordinary case that a test changes where it matters: `a_pod()` is a running Pod of try 1 of the
task instance of `a_task()`. The strategies draw from few ids, states and names, so that what is drawn often fits
together: the rules are interesting where almost everything agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from healer.model import (
    Absent,
    Ambiguous,
    Answer,
    Container,
    Identity,
    Known,
    Labels,
    Pod,
    RunDeleted,
    TaskInstance,
    Unknown,
)
from healer.rules import Terms

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


NO_SOURCE = Identity()
"""Airflow was asked and has no Pod to name."""


def naming(*pods: Pod) -> Identity:
    """Return the identity by which Airflow names these Pods."""
    return Identity(frozenset((pod.namespace, pod.name) for pod in pods))


def known(task: TaskInstance, identity: Identity | None = None, *siblings: Pod) -> Known:
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

STATES = (
    *("success", "failed", "skipped", "upstream_failed", "running", "deferred", "scheduled", "queued"),
    *("up_for_retry", "restarting", None, "removed", "up_for_reschedule", "awaiting_input", "shutdown", "", UNSET),
)
OPERATORS = ("KubernetesPodOperator", "GKEStartPodOperator", "KubernetesJobOperator", "CustomJobOperator", "", None)
PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown", "")
TIMES = tuple(CREATED + seconds for seconds in (-700, -601, -600, -120, 0, 1, 119, 120, 121, 599, 600, 601, 2000))
LABEL_TRIES = ("1", "2", "3", "0", "01", "", None)
MAP_INDEXES = (None, "0", "5", "-1")


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any], one_in: int = 8) -> st.SearchStrategy[Any]:
    """Draw the usual value, and once in a while the rare one."""
    return st.integers(1, one_in).flatmap(lambda n: rare if n == one_in else usual)


def often(value: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Draw this value mostly, else one of the others."""
    return mostly(st.just(value), st.sampled_from(others))


def containers() -> st.SearchStrategy[tuple[Container, ...]]:
    """Draw the containers of a Pod: base, another name for it, a sidecar; each running or ended, or missing."""
    one = st.builds(
        Container,
        name=st.sampled_from(("base", "main", "sidecar")),
        terminated=st.booleans(),
        exit_code=st.sampled_from((None, 0, 1)),
        finished_at=st.sampled_from((None, *TIMES)),
    )
    return st.lists(one, max_size=3, unique_by=lambda container: container.name).map(tuple)


def labels() -> st.SearchStrategy[Labels]:
    """Draw labels: mostly those of `a_pod()`, each of them now and then missing, malformed or of another id."""
    values = tuple(IDS.values())
    return st.builds(
        Labels,
        dag_id=often(DAG_ID, *values, None, ""),
        task_id=often(TASK_ID, *values, None, ""),
        run_id=often(RUN_LABEL, *values, None, ""),
        map_index=often(*MAP_INDEXES),
        try_number=mostly(st.sampled_from(LABEL_TRIES[:3]), st.sampled_from(LABEL_TRIES)),
    )


def pods(name: str = "load-1", uid: str = "uid-1") -> st.SearchStrategy[Pod]:
    """Draw a Pod in any condition, whose labels mostly point at `a_task()`."""
    return st.builds(
        Pod,
        namespace=often("airflow", "other"),
        name=st.just(name),
        uid=st.just(uid),
        resource_version=st.just("1"),
        created=mostly(st.sampled_from(TIMES), st.none()),
        phase=mostly(st.sampled_from(PHASES[:4]), st.sampled_from(PHASES)),
        labels=labels(),
        containers=containers(),
        terminating=often(False, True),
        protected=often(False, True),
        owned=often(False, True),
        checked=st.booleans(),
        restart_never=often(True, False),
    )


def tasks() -> st.SearchStrategy[TaskInstance]:
    """Draw a row of Airflow, with any field that may be missing now and then missing."""
    ids = tuple(IDS)
    return st.builds(
        TaskInstance,
        dag_id=often(DAG_ID, *ids),
        run_id=often(RUN_ID, *ids),
        task_id=often(TASK_ID, *ids),
        map_index=often(-1, 0, 5),
        id=st.sampled_from((None, "id-1", "id-2")),
        state=mostly(st.sampled_from(STATES[:8]), st.sampled_from(STATES), one_in=3),
        try_number=mostly(st.sampled_from((1, 2, 3)), st.sampled_from((None, 0, -1))),
        operator=often(*OPERATORS),
        start_date=st.sampled_from((None, *TIMES)),
        end_date=st.sampled_from((None, *TIMES)),
        base_container=often(None, "base", "main", ""),
        namespace=often(None, "airflow", "other", ""),
    )


def identities(pods_there: Sequence[Pod]) -> st.SearchStrategy[Identity | None]:
    """Draw what Airflow names: some of these Pods (with or without their namespace), one that is gone, nothing."""
    names = [(namespace, pod.name) for pod in pods_there for namespace in (None, pod.namespace)]
    named = st.lists(st.sampled_from([*names, ("airflow", "gone"), (None, "gone")]), max_size=2).map(frozenset)
    return mostly(st.builds(Identity, named=named, failed=often(None, "XCom: 500")), st.none())


@st.composite
def judged(draw: st.DrawFn) -> tuple[Pod, Answer, Terms]:
    """Draw what `judge` is called with."""
    pod = draw(pods())
    siblings = tuple(draw(st.lists(pods("load-2", "uid-2"), max_size=1)))
    if siblings and draw(st.booleans()):  # most siblings differ in their labels by the try alone
        siblings = (replace(siblings[0], labels=replace(pod.labels, try_number=siblings[0].labels.try_number)),)
    answer: Answer = Known(0.0, draw(tasks()), draw(identities((pod, *siblings))), siblings)
    ids = st.sampled_from(tuple(IDS))
    others = st.one_of(
        st.sampled_from((Unknown(0.0, "timeout"), Absent(0.0, "no such DAG"), Ambiguous(0.0, "two runs"))),
        st.builds(RunDeleted, sent=st.just(0.0), dag_id=ids, run_id=ids),
    )
    answer = draw(mostly(st.just(answer), others))
    foreign = draw(often(frozenset(), frozenset({"CustomJobOperator"})))
    return pod, answer, Terms(foreign, draw(st.sampled_from((0.0, GRACE))))
