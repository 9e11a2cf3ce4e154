"""The rule table, case by case: each rule is hit, and missed by one detail.

Every expected value is written by hand from what is known of KubernetesPodOperator (the D-numbers are the rows of the
decision table in the docs), not taken from the code. A row that only just misses a rule names that rule in `misses`,
and says by its own reason which one it gets instead.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

import healer.decision.labels
import healer.decision.rules
import healer.model
from healer.decision.labels import safe_label
from healer.decision.rules import (
    RULES,
    RuleOptions,
    decided_by_pod,
    judge,
    needs_identity,
    needs_siblings,
    rule_table,
    trace,
)
from healer.model import (
    ACTING,
    Absent,
    Action,
    Ambiguous,
    Answer,
    Container,
    DagDeleted,
    Known,
    NamedPods,
    Pod,
    Reason,
    RuleGroup,
    RunDeleted,
    TaskInstance,
    Unknown,
)
from tests.unit.strategies import (
    BASE,
    BASE_ENDED,
    CREATED,
    DAG_ID,
    END,
    IDS,
    NO_SOURCE,
    RUN_ID,
    RUN_LABEL,
    SIDECAR,
    SIDECAR_ENDED,
    a_done_pod,
    a_pod,
    a_sibling,
    a_task,
    ended,
    known,
    naming,
)


@dataclass(frozen=True)
class Row:
    """A Pod, what Airflow answers, and the reason that must come of it."""

    reason: str
    sentence: str
    pod: Pod
    answer: Answer
    rests_on: str = ""
    misses: str = ""
    terms: RuleOptions | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.sentence}"


GONE = NamedPods(frozenset({("airflow", "load-gone")}))
OVER = known(ended(), NO_SOURCE)
"""The task instance has succeeded, and Airflow has no Pod to name."""


def twin(task: TaskInstance | None = None, named: Pod | None = None, **sibling: Any) -> Known:
    """Return an answer by which a later try runs, and Airflow names its Pod, which is alive unless changed here."""
    other = a_sibling(**sibling)
    return known(task or a_task("running", 2), naming(named or other), other)


def not_ours() -> list[Row]:
    """Block 1: what the Pod alone decides, whatever Airflow says."""
    labels_missing = [
        Row("labels-missing", f"label {name} is {value!r}", a_pod(**{name: value}), OVER, "D18")
        for name, values in {
            "dag_id": (None, ""),
            "task_id": (None, ""),
            "run_id": (None, ""),
            "try_number": (None, "", "0", "-1", "01", "1.0", " 1", "one", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 30),
            "map_index": ("", "-1", "00", "x", "1\n"),
        }.items()
        for value in values
    ]
    return [
        Row("not-selected", "an executor's worker, however it got here", a_pod(selected=False), OVER, "D24"),
        Row("not-selected", "the same, protected and owned", a_pod(selected=False, protected=True, owned=True), OVER),
        Row("orphaned", "the selector finds it", a_pod(selected=True), OVER, misses="not-selected"),
        Row("terminating", "it is being deleted already", a_pod(terminating=True), OVER),
        Row("orphaned", "it is not being deleted", a_pod(terminating=False), OVER, misses="terminating"),
        Row("protected", "a user took it out of the healer's hands", a_pod(protected=True), OVER),
        Row("abandoned", "KPO's mark protects nothing", a_pod(checked=True), OVER, misses="protected"),
        Row("owned", "a Job owns it and goes on after the task's success", a_pod(owned=True), OVER, "D24"),
        Row(
            "foreign-operator",
            "made by a Job operator, but no Job owns it",
            a_pod(owned=False),
            known(ended(operator="KubernetesJobOperator"), NO_SOURCE),
            "D24",
            misses="owned",
        ),
        *labels_missing,
        Row(
            "orphaned",
            "no map_index label: the task is not mapped",
            a_pod(map_index=None),
            OVER,
            "D13",
            "labels-missing",
        ),
        Row("phase-unknown", "its node is lost, the container may run on", a_pod(phase="Unknown"), OVER, "D23"),
        Row("phase-unknown", "it has no phase", a_pod(phase=""), OVER, "D23"),
        Row("orphaned", "it is still pending", a_pod(phase="Pending"), OVER, "D13", "phase-unknown"),
    ]


def not_known() -> list[Row]:
    """Block 2: no full, positive answer."""
    return [*airflow_unknown(), *nothing_found(), *of_another_kind()]


def airflow_unknown() -> list[Row]:
    """Rows for errors, parts of answers and answers to another question."""
    lacking = [
        Row("airflow-unknown", f"the row {what}", a_pod(), known(replace(ended(), **change), NO_SOURCE), "D1")
        for what, change in {
            "has no state": {"state": UNSET},
            "has no try": {"try_number": None},
            "has no operator": {"operator": None},
            "has an empty operator": {"operator": ""},
        }.items()
    ]
    another = [
        Row("airflow-unknown", f"the row is of another {what}", a_pod(), known(ended(**change), NO_SOURCE), rests_on)
        for what, change, rests_on in (
            ("DAG", {"dag_id": "etl2"}, "D1"),
            ("task", {"task_id": "load2"}, "D1"),
            ("run whose label differs in the hash alone", {"run_id": "scheduled__2026-01-01T00:00:0000:00"}, "D1"),
            ("run that has the label without its hash as id", {"run_id": "scheduled__2026-01-01T0000000000"}, "D1"),
            ("map index, where a user's label says the task is not mapped", {"map_index": 0}, "D18"),
        )
    ]
    return [
        Row("airflow-unknown", "the server fails", a_pod(), Unknown(0.0, "500 Internal Server Error"), "D1"),
        Row(
            "airflow-unknown", "the Pod is done, but the server is silent", a_done_pod(), Unknown(0.0, "timeout"), "D1"
        ),
        *lacking,
        Row(
            "adoptable",
            "the row's state is there, and null",
            a_pod(),
            known(a_task(None), NO_SOURCE),
            "D11",
            misses="airflow-unknown",
        ),
        *another,
        Row(
            "airflow-unknown",
            "a user's label map_index=5 on a task that is not mapped",
            a_pod(map_index="5"),
            OVER,
            "D18",
        ),
        Row("airflow-unknown", "ended and active, but nobody asked for its identity", a_pod(), known(ended()), "D1"),
        Row(
            "airflow-unknown",
            "L < T and running, but nobody asked for its identity",
            a_pod(),
            known(a_task("running", 2)),
            "D1",
        ),
        Row(
            "airflow-unknown",
            "an identity source failed, though another one named a Pod",
            a_pod(),
            known(a_task("running", 2), NamedPods(naming(a_sibling()).named, "XCom: 500"), a_sibling()),
            "D1",
        ),
        Row("airflow-unknown", "whose done Pod it is was not asked", a_done_pod(), known(ended()), "D1"),
        Row("kept", "a marked one needs no name", a_done_pod(checked=True), known(ended()), "D7", "airflow-unknown"),
        Row("orphaned", "the identity sources have nothing", a_pod(), OVER, "D13", misses="airflow-unknown"),
        Row("airflow-unknown", "another run is deleted", a_pod(), RunDeleted(0.0, DAG_ID, "manual-1"), "D1"),
        Row("airflow-unknown", "another DAG's run is deleted", a_pod(), RunDeleted(0.0, "etl2", RUN_ID), "D1"),
    ]


def nothing_found() -> list[Row]:
    """Rows for what Airflow does not know, or knows more than once."""
    deleted = RunDeleted(0.0, DAG_ID, RUN_ID)
    return [
        Row("run-deleted", "the run is gone and its DAG is there", a_pod(), deleted, "D19"),
        Row("purged", "the same, and the Pod is done", a_done_pod(), deleted, "D25", "run-deleted"),
        Row("purged", "the same, and KPO is through with it", a_done_pod(checked=True), deleted, "D25"),
        Row("purged", "base ended, a sidecar runs on", a_pod(containers=(BASE_ENDED, SIDECAR)), deleted, "D25"),
        Row("purged", "the DAG is gone with all its runs", a_done_pod(), DagDeleted(0.0, DAG_ID), "D25", "absent"),
        Row("run-deleted", "only a sidecar ended", a_pod(containers=(BASE, SIDECAR_ENDED)), deleted, "D19", "purged"),
        Row("absent", "the DAG is gone, and the Pod works", a_pod(), DagDeleted(0.0, DAG_ID), "D21", "purged"),
        Row("absent", "done, and the DAG is not proven absent", a_done_pod(), Absent(0.0, "?"), "D18", "purged"),
        Row("airflow-unknown", "another DAG is gone", a_done_pod(), DagDeleted(0.0, "etl2"), "D1", "purged"),
        Row(
            "absent",
            "the run is there, the task instance is not",
            a_pod(),
            Absent(0.0, "no task instance"),
            "D18",
            "run-deleted",
        ),
        Row("absent", "the DAG is not there: another Airflow's?", a_pod(), Absent(0.0, "no DAG"), "D21", "run-deleted"),
        Row(
            "labels-ambiguous",
            "a hashed run id can't be resolved",
            a_pod(),
            Ambiguous(0.0, "not found"),
            "D20",
            "absent",
        ),
        Row("labels-ambiguous", "two runs have this label", a_pod(), Ambiguous(0.0, "2 runs"), "D22"),
        Row(
            "orphaned",
            "exactly one run has this hashed label",
            a_pod(run_id=RUN_LABEL),
            known(ended(run_id=RUN_ID), NO_SOURCE),
            "D13",
            misses="labels-ambiguous",
        ),
    ]


def of_another_kind() -> list[Row]:
    """Rows for task instances that are not KPO's, not here, or in no state of KPO's."""
    return [
        *(
            Row("foreign-operator", f"{name} runs a Job", a_pod(), known(ended(operator=name), NO_SOURCE), "D24")
            for name in (
                "KubernetesJobOperator",
                "KubernetesStartKueueJobOperator",
                "GKEStartJobOperator",
                "GKEStartKueueJobOperator",
            )
        ),
        Row(
            "foreign-operator",
            "the policy says that OurJobOperator runs Jobs",
            a_done_pod(),
            known(ended(operator="OurJobOperator")),
            "D24",
            terms=RuleOptions(foreign_operators=frozenset({"OurJobOperator"})),
        ),
        Row(
            "orphaned",
            "nobody says that OurJobOperator runs Jobs",
            a_pod(),
            known(ended(operator="OurJobOperator"), NO_SOURCE),
            "D13",
            misses="foreign-operator",
        ),
        Row(
            "orphaned",
            "GKEStartPodOperator is a KubernetesPodOperator",
            a_pod(),
            known(ended(operator="GKEStartPodOperator"), NO_SOURCE),
            "D13",
            misses="foreign-operator",
        ),
        Row("elsewhere", "the task runs its Pods in other", a_pod(), known(ended(namespace="other"), NO_SOURCE), "D21"),
        Row("elsewhere", "Airflow names another one", a_pod(), known(ended(namespace="other"), GONE), "D21"),
        Row(
            "elsewhere",
            "Airflow names a Pod of this name, and no namespace",
            a_pod(),
            known(ended(namespace="other"), NamedPods(frozenset({(None, "load-1")}))),
            "D21",
        ),
        Row(
            "elsewhere",
            "Airflow names a Pod of this name where the task says",
            a_pod(),
            known(ended(namespace="other"), NamedPods(frozenset({("other", "load-1")}))),
            "D21",
        ),
        Row(
            "orphaned",
            "a hook has moved it, and Airflow names it here",
            a_pod(),
            known(ended(namespace="other"), naming(a_pod())),
            "D13",
            "elsewhere",
        ),
        Row(
            "in-use",
            "a hook has moved it, and the task runs",
            a_pod(),
            known(a_task(namespace="other"), naming(a_pod())),
            "D2",
            "elsewhere",
        ),
        Row("airflow-unknown", "nobody asked where it is", a_pod(), known(ended(namespace="other")), "D1", "elsewhere"),
        *(
            Row(
                "orphaned",
                f"the row's namespace is {name!r}",
                a_pod(),
                known(ended(namespace=name), NO_SOURCE),
                "D13",
                "elsewhere",
            )
            for name in ("airflow", "", None)
        ),
        *(
            Row("unexpected-state", f"state {state!r}", a_done_pod(checked=True), known(a_task(state)), "D12")
            for state in ("up_for_reschedule", "awaiting_input", "shutdown", "SUCCESS", "", "none")
        ),
        Row(
            "adoptable",
            "state up_for_retry is known",
            a_pod(),
            known(a_task("up_for_retry")),
            "D11",
            "unexpected-state",
        ),
    ]


def in_use() -> list[Row]:
    """Block 3, first part: what Airflow needs now or soon."""
    done = {"active": a_pod(), "done": a_done_pod()}
    later = a_task("running", 2)
    return [
        *(
            Row(
                "try-ahead",
                f"the Pod is of try 2, the task instance {task.state} at {task.try_number}",
                a_pod(try_number="2"),
                known(task, NO_SOURCE),
                "D16",
            )
            for task in (ended(), ended("failed", 0), a_task("running"), a_task(None), a_task("removed"))
        ),
        Row("try-ahead", "no try of the task instance has begun", a_pod(), known(ended("failed", 0), NO_SOURCE), "D16"),
        Row(
            "orphaned",
            "the Pod's try is the task instance's",
            a_pod(try_number="2"),
            known(ended(try_number=2), NO_SOURCE),
            "D13",
            "try-ahead",
        ),
        *(
            Row("in-use", f"{state} at the Pod's try, the Pod is {what}", pod, known(a_task(state)), rests_on)
            for state, rests_on in {"running": "D2", "deferred": "D8", "scheduled": "D9", "queued": "D9"}.items()
            for what, pod in done.items()
        ),
        Row(
            "in-use",
            "running: KPO may still be inside its cleanup",
            a_pod(checked=True),
            known(a_task()),
            "D2",
            "abandoned",
        ),
        Row("in-use", "running: the same with a done Pod", a_done_pod(checked=True), known(a_task()), "D2", "kept"),
        Row("adoption-unknown", "running, but at a later try", a_pod(), known(later, NO_SOURCE), "D5", "in-use"),
        *(
            Row(
                "reattached",
                f"a later try took the {what} Pod over and is {state}",
                pod,
                known(a_task(state, 2), naming(pod)),
                "D3",
            )
            for what, pod in done.items()
            for state in ("running", "deferred")
        ),
        Row(
            "reattached",
            "the same, KPO marked it meanwhile",
            a_done_pod(checked=True),
            known(later, naming(a_pod())),
            "D3",
            "kept",
        ),
        Row(
            "reattached",
            "Airflow names it without a namespace",
            a_pod(),
            known(later, NamedPods(frozenset({(None, "load-1")}))),
            "D3",
        ),
        Row(
            "reattached",
            "one source names it, another one its sibling",
            a_pod(),
            known(later, naming(a_pod(), a_sibling()), a_sibling()),
            "D3",
            misses="superseded",
        ),
        Row(
            "adoption-unknown",
            "Airflow names a Pod of this name in another namespace",
            a_pod(),
            known(later, NamedPods(frozenset({("other", "load-1")}))),
            "D5",
            misses="reattached",
        ),
        *(
            Row("adoptable", f"{state}: the next try takes it over, {what}", pod, known(a_task(state)), "D11")
            for state in ("up_for_retry", "restarting", None)
            for what, pod in done.items()
        ),
        *(
            Row("adoptable", f"{state} for a later try, the Pod is {what}", pod, known(a_task(state, 2)), "D5 D10")
            for state in ("scheduled", "queued")
            for what, pod in done.items()
        ),
        Row(
            "in-use",
            "scheduled at the Pod's own try is a hand-over",
            a_pod(),
            known(a_task("scheduled")),
            "D9",
            "adoptable",
        ),
        Row("orphaned", "no try comes after the end", a_pod(), OVER, "D13", misses="adoptable"),
    ]


def through() -> list[Row]:
    """Block 3, second part: Pods that KPO has marked `already_checked`."""
    return [
        *(
            Row(
                "kept",
                f"KPO is through with it, state {task.state}",
                a_done_pod(checked=True),
                known(task, NO_SOURCE),
                "D7",
            )
            for task in (
                ended(),
                ended("failed"),
                a_task("up_for_retry"),
                a_task("running", 2),
                a_task("queued", 2),
                a_task("removed"),
            )
        ),
        Row(
            "kept",
            "its base container ended, a sidecar runs on",
            a_pod(checked=True, containers=(BASE_ENDED, SIDECAR)),
            OVER,
            "D7",
        ),
        Row("finished", "done, but without KPO's mark", a_done_pod(), OVER, "D14", misses="kept"),
        Row(
            "adoptable",
            "done, without KPO's mark, before the next try",
            a_done_pod(),
            known(a_task("up_for_retry")),
            "D11",
            "kept",
        ),
        Row(
            "abandoned",
            "its base container may be started again",
            a_pod(checked=True, containers=(BASE_ENDED,), restart_never=False),
            OVER,
            "D6",
            misses="kept",
        ),
        *(
            Row(
                "abandoned",
                f"KPO gave up on it and it runs on, state {task.state}",
                a_pod(checked=True),
                known(task, NO_SOURCE),
                "D6",
            )
            for task in (ended(), ended("failed"), a_task("up_for_retry"), a_task("running", 2), a_task("removed"))
        ),
        Row("abandoned", "it never started", a_pod(checked=True, phase="Pending"), OVER, "D26"),
        Row("abandoned", "Airflow names it", a_pod(checked=True), known(ended(), naming(a_pod())), "D6"),
        Row(
            "other-pod",
            "marked and active, and Airflow names another Pod of this try",
            a_pod(checked=True),
            known(ended(), GONE),
            "D13",
            "abandoned",
        ),
        Row("orphaned", "it runs on without KPO's mark", a_pod(), OVER, "D13", misses="abandoned"),
        Row(
            "reattached",
            "KPO's mark on a Pod that Airflow names",
            a_pod(checked=True),
            known(a_task("running", 2), naming(a_pod())),
            "D3",
            misses="abandoned",
        ),
    ]


def siblings() -> list[Row]:
    """Block 3, third part: a later try holds a Pod, and it is not this one."""
    third = a_task("running", 3)
    misses: dict[str, Known] = {
        "is terminating": twin(terminating=True),
        "is checked": twin(checked=True),
        "has an owner": twin(owned=True),
        "is on a lost node": twin(phase="Unknown"),
        "was made less than the grace later": twin(created=CREATED + 119.9),
        "was made earlier": twin(created=CREATED - 200),
        "has no creation time": twin(created=None),
        "is of the same try": twin(try_number="1"),
        "is of a try that has not begun": twin(try_number="3"),
        "is of another map index": twin(map_index="0"),
        "is of another run": twin(run_id="manual-1"),
        "is of another task": twin(task_id="load2"),
        "is of another DAG": twin(dag_id="etl2"),
        "has no try label": twin(try_number=None),
        "is not the Pod that Airflow names": twin(named=a_pod(name="load-3", uid="uid-3")),
        "could not be read": known(a_task("running", 2), naming(a_sibling())),
    }
    return [
        Row("superseded", "a living sibling of the running try replaced it", a_pod(), twin(), "D4"),
        Row("superseded", "the same, and it is done", a_done_pod(), twin(), "D4"),
        Row("superseded", "the same, deferred", a_pod(), twin(a_task("deferred", 2)), "D4"),
        Row("superseded", "the sibling is done, KPO is in its cleanup", a_pod(), twin(phase="Succeeded"), "D4"),
        Row("superseded", "a sibling between its try and the running one", a_pod(), twin(third), "D4"),
        Row(
            "superseded",
            "named without a namespace",
            a_pod(),
            known(a_task("running", 2), NamedPods(frozenset({(None, "load-2")})), a_sibling()),
            "D4",
        ),
        *(
            Row("adoption-unknown", f"the sibling {what}", a_pod(), answer, "D5", "superseded")
            for what, answer in misses.items()
        ),
        Row("adoption-unknown", "its own creation time is missing", a_pod(created=None), twin(), "D5", "superseded"),
        Row("adoptable", "the later try has not begun", a_pod(), twin(a_task("queued", 2)), "D10", "superseded"),
        Row("adoption-unknown", "no source names any Pod", a_pod(), known(a_task("deferred", 2), NO_SOURCE), "D5"),
        Row("superseded", "a living sibling is proof", a_pod(), twin(), "D4", misses="adoption-unknown"),
    ]


def over() -> list[Row]:
    """Block 3, last part: the task instance has ended or its task is gone."""
    return [
        Row("task-removed", "its task was removed from the DAG", a_pod(), known(a_task("removed")), "D17"),
        Row("task-removed", "the same, of an earlier try and done", a_done_pod(), known(a_task("removed", 2)), "D17"),
        Row("adoptable", "the task was restored", a_pod(), known(a_task(None)), "D11", misses="task-removed"),
        Row("other-pod", "Airflow names another Pod of the same try", a_pod(), known(ended(), GONE), "D13"),
        Row("orphaned", "Airflow names this Pod", a_pod(), known(ended(), naming(a_pod())), "D13", misses="other-pod"),
        Row(
            "orphaned",
            "Airflow names another Pod, of a later try",
            a_pod(),
            known(ended(try_number=2), GONE),
            "D13",
            "other-pod",
        ),
        Row("other-pod", "Airflow names another Pod, and this one is done", a_done_pod(), known(ended(), GONE), "D14"),
        Row("finished", "Airflow names it", a_done_pod(), known(ended(), naming(a_pod())), "D14", "other-pod"),
        Row(
            "finished",
            "done, of an earlier try, and Airflow names another Pod",
            a_done_pod(),
            known(ended(try_number=2), GONE),
            "D14",
            "other-pod",
        ),
        Row("kept", "marked and done, whatever Airflow names", a_done_pod(checked=True), known(ended(), GONE), "D7"),
        Row("postdates", "made eleven minutes after the end", a_pod(created=END + 660), OVER, "D13"),
        Row("postdates", "the same, and done", a_done_pod(created=END + 600.1), OVER, "D13"),
        Row(
            "orphaned",
            "made ten minutes after the end: clocks may differ",
            a_pod(created=END + 600),
            OVER,
            "D13",
            "postdates",
        ),
        Row(
            "orphaned",
            "the end is not known",
            a_pod(created=END + 9999),
            known(ended(end_date=None), NO_SOURCE),
            "D13",
            "postdates",
        ),
        *(
            Row("orphaned", f"{state}, and it runs on", a_pod(), known(ended(state), NO_SOURCE), "D13 D15")
            for state in ("success", "failed", "skipped", "upstream_failed")
        ),
        Row("orphaned", "of an earlier try", a_pod(), known(ended("failed", 3)), "D13"),
        Row("orphaned", "it has not even started", a_pod(phase="Pending", containers=(BASE,)), OVER, "D13"),
        Row(
            "orphaned",
            "its base container may start again",
            a_pod(containers=(BASE_ENDED,), restart_never=False),
            OVER,
            "D13",
            "finished",
        ),
        Row("orphaned", "only its sidecar ended", a_pod(containers=(BASE, SIDECAR_ENDED)), OVER, "D13", "finished"),
        Row("orphaned", "it has no container called base", a_pod(containers=(SIDECAR_ENDED,)), OVER, "D13", "finished"),
        Row(
            "orphaned",
            "its base container has another name and runs on",
            a_pod(containers=(Container("main"), BASE_ENDED)),
            known(ended(base_container="main"), NO_SOURCE),
            "D13",
            misses="finished",
        ),
        Row("in-use", "the task runs", a_pod(), known(a_task()), "D2", misses="orphaned"),
        Row("finished", "it is done", a_done_pod(), OVER, "D14", misses="orphaned"),
        *(
            Row("finished", f"{state}, and the Pod is done", a_done_pod(), known(ended(state), NO_SOURCE), "D14 D15")
            for state in ("success", "failed", "skipped", "upstream_failed")
        ),
        Row(
            "finished",
            "its node had no room: phase Failed, no container status",
            a_pod(phase="Failed", containers=(BASE,)),
            OVER,
            "D14",
        ),
        Row(
            "finished",
            "evicted: phase Failed, its container was killed",
            a_pod(phase="Failed", containers=(Container("base", terminated=True, exit_code=137),)),
            OVER,
            "D14",
        ),
        Row(
            "finished",
            "base ended while another's image can't be had: phase Pending",
            a_pod(phase="Pending", containers=(BASE_ENDED, SIDECAR)),
            OVER,
            "D14",
        ),
        Row(
            "finished",
            "phase Succeeded, no container status",
            a_pod(phase="Succeeded", containers=(BASE,)),
            OVER,
            "D14",
        ),
        Row("finished", "base ended, the xcom sidecar runs on", a_pod(containers=(BASE_ENDED, SIDECAR)), OVER, "D14"),
        Row(
            "finished",
            "base has another name and ended",
            a_pod(containers=(SIDECAR, Container("main", terminated=True, exit_code=1))),
            known(ended(base_container="main"), NO_SOURCE),
            "D14",
        ),
        Row(
            "in-use",
            "the Pod is done, and its hand-over is still queued",
            a_done_pod(),
            known(a_task("queued")),
            "D9",
            "finished",
        ),
    ]


TABLE = [*not_ours(), *not_known(), *in_use(), *through(), *siblings(), *over()]

CONCLUSIONS = {
    "D1": {"airflow-unknown"},
    "D2": {"in-use"},
    "D3": {"reattached"},
    "D4": {"superseded"},
    "D5": {"adoption-unknown", "adoptable"},
    "D6": {"abandoned"},
    "D7": {"kept"},
    "D8": {"in-use"},
    "D9": {"in-use"},
    "D10": {"adoptable"},
    "D11": {"adoptable"},
    "D12": {"unexpected-state"},
    "D13": {"orphaned", "other-pod", "postdates"},
    "D14": {"finished", "other-pod"},
    "D15": {"orphaned", "finished"},
    "D16": {"try-ahead"},
    "D17": {"task-removed"},
    "D18": {"absent", "labels-missing", "airflow-unknown"},
    "D19": {"run-deleted"},
    "D20": {"labels-ambiguous"},
    "D21": {"absent", "elsewhere"},
    "D22": {"labels-ambiguous"},
    "D23": {"phase-unknown"},
    "D24": {"owned", "foreign-operator", "not-selected"},
    "D25": {"purged"},
    "D26": {"abandoned"},
}
"""What may follow from each row of the decision table."""

DANGER = {"D1", "D2", "D3", "D5", "D8", "D9", "D10", "D11", "D12", "D16", "D18", "D20", "D21", "D22", "D23", "D24"}
"""The rows of the decision table where a deletion loses live work: no policy may allow it."""

ORDER = [
    *("not-selected", "terminating", "protected", "owned", "labels-missing", "phase-unknown"),
    *("airflow-unknown", "purged", "run-deleted", "absent", "labels-ambiguous", "foreign-operator", "elsewhere"),
    *("unexpected-state", "try-ahead", "in-use", "reattached", "kept", "abandoned", "adoptable", "superseded"),
    *("adoption-unknown", "task-removed", "other-pod", "postdates", "orphaned", "finished"),
]
"""The reasons in the order in which they are tried."""

DELETE = {"kept", "superseded", "orphaned", "finished"}
REPORT = {"purged", "run-deleted", "abandoned", "task-removed"}


def named(d_number: str) -> set[str]:
    """The reasons of all rows that rest on this row of the decision table."""
    return {row.reason for row in TABLE if d_number in row.rests_on.split()}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_row_gets_its_reason(row: Row) -> None:
    finding = judge(row.pod, row.answer, row.terms)
    assert finding.reason == row.reason, finding.detail
    assert finding.task == (row.answer.task if isinstance(row.answer, Known) else None)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_trace_ends_where_the_judgement_does(row: Row) -> None:
    finding = judge(row.pod, row.answer, row.terms)
    *before, last = trace(row.pod, row.answer, row.terms)
    assert (last.reason, last.matched, last.why) == (finding.reason, True, finding.detail)
    assert [step.reason for step in before] == ORDER[: len(before)]
    assert not any(step.matched for step in before)
    assert all(step.why for step in before)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_pod_alone_decides_the_first_block_and_no_other(row: Row) -> None:
    assert decided_by_pod(row.pod) == (row.reason in ORDER[:6])


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_what_the_rule_needs_was_asked_for(row: Row) -> None:
    """A row that rests on an identity or a sibling would be asked for it, or its answer would never come about."""
    if isinstance(row.answer, Known) and row.reason in {"reattached", "superseded", "other-pod"}:
        assert needs_identity(row.pod, row.answer.task)
    if row.reason == "superseded":
        assert needs_siblings(row.pod, row.answer)


@pytest.mark.parametrize("reason", ORDER)
def test_each_reason_is_hit_and_narrowly_missed(reason: str) -> None:
    assert any(row.reason == reason for row in TABLE)
    assert any(row.misses == reason and row.reason != reason for row in TABLE)


def test_no_row_misses_its_own_reason_or_one_that_does_not_exist() -> None:
    assert {row.misses for row in TABLE} - {""} == set(ORDER)
    assert [str(row) for row in TABLE if row.misses == row.reason] == []
    assert len({str(row) for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("d_number", [f"D{n}" for n in range(1, 27)])
def test_each_row_of_the_decision_table_is_named_and_concludes_what_it_says(d_number: str) -> None:
    assert named(d_number) == CONCLUSIONS[d_number]
    if d_number in DANGER:
        assert {reason for reason in named(d_number) if Reason(reason) in ACTING} == set()


@pytest.mark.parametrize("reason", Reason)
def test_the_sources_of_a_reason_are_those_its_rows_rest_on(reason: Reason) -> None:
    assert set(reason.sources) <= {d_number for d_number, reasons in CONCLUSIONS.items() if reason in reasons}


def test_reasons_rules_and_docs_have_the_same_order() -> None:
    assert [str(reason) for reason in Reason] == ORDER
    assert [str(reason) for reason, _, _ in RULES] == ORDER
    assert [line.split("`")[1] for line in rule_table().splitlines() if line.startswith("| `")] == ORDER


def test_blocks_stand_in_one_piece_and_only_knowledge_deletes() -> None:
    blocks = [reason.block for reason in Reason]
    assert blocks == sorted(blocks, key=list(RuleGroup).index)
    assert {str(reason) for reason in Reason if reason.action is Action.DELETE} == DELETE
    assert {str(reason) for reason in Reason if reason.action is Action.REPORT} == REPORT
    assert {str(reason) for reason in ACTING} == DELETE | REPORT
    assert all(Reason(reason).block is RuleGroup.KNOWN for reason in DELETE)


HOSTILE = "x\r\nlevel=info msg=forged\x1b[2K\x00\x85\u2028\u2029\u202e\ud800"


def hostile_cases() -> list[tuple[Pod, Answer]]:
    """Every text that a user or a DAG author can write, in every place where a detail quotes it."""
    names = NamedPods(frozenset({(HOSTILE, HOSTILE), (None, HOSTILE)}))
    by_hash = {name: safe_label(HOSTILE) for name in ("dag_id", "run_id")}
    return [
        *((a_pod(**{name: HOSTILE}), OVER) for name in ("dag_id", "task_id", "run_id", "try_number", "map_index")),
        (a_pod(phase=HOSTILE), OVER),
        *((a_pod(), answer(0.0, HOSTILE)) for answer in (Unknown, Absent, Ambiguous)),
        (a_pod(), Unknown(0.0, "")),
        (a_pod(**by_hash), RunDeleted(0.0, HOSTILE, HOSTILE)),
        (a_done_pod(**by_hash), DagDeleted(0.0, HOSTILE)),
        (a_pod(), known(ended(), NamedPods(failed=HOSTILE))),
        (a_pod(), known(ended(), names)),
        (a_pod(), known(a_task("running", 2), names)),
        (a_pod(), known(a_task(HOSTILE))),
        (a_pod(), known(ended(namespace=HOSTILE))),
        (a_pod(), known(ended(base_container=HOSTILE), NO_SOURCE)),
        (a_pod(namespace=HOSTILE, name=HOSTILE), known(a_task("running", 2), names)),
        (a_pod(containers=(Container(HOSTILE, terminated=True),)), known(ended(base_container=HOSTILE), NO_SOURCE)),
        (a_pod(), known(ended(end_date=float("nan")), NO_SOURCE)),
        (a_pod(), known(ended(end_date=1e300), NO_SOURCE)),
    ]


@pytest.mark.parametrize(("pod", "answer"), hostile_cases())
def test_a_detail_is_one_printable_line_whatever_it_quotes(pod: Pod, answer: Answer) -> None:
    steps = list(trace(pod, answer, RuleOptions(foreign_operators=frozenset({HOSTILE}))))
    for step in steps:
        assert step.why
        assert step.why.isprintable(), step
        step.why.encode()


def test_a_foreign_operator_is_quoted_in_one_line() -> None:
    terms = RuleOptions(foreign_operators=frozenset({HOSTILE}))
    finding = judge(a_pod(), known(ended(operator=HOSTILE), NO_SOURCE), terms)
    assert (finding.reason, finding.detail.isprintable()) == (Reason.FOREIGN_OPERATOR, True)


def test_the_proof_of_an_orphan_says_what_it_rests_on() -> None:
    detail = judge(a_pod(), known(ended("failed", 2), NO_SOURCE)).detail
    for fact in ("failed", "try 2", "try 1", "Running", "1970-01-01T02:51:40Z"):
        assert fact in detail


def test_a_time_that_is_no_number_proves_nothing() -> None:
    nan = float("nan")
    assert judge(a_pod(created=nan), twin()).reason == Reason.ADOPTION_UNKNOWN
    assert judge(a_pod(), twin(created=nan)).reason == Reason.ADOPTION_UNKNOWN
    assert judge(a_pod(), twin(), RuleOptions(grace=nan)).reason == Reason.ADOPTION_UNKNOWN
    assert judge(a_pod(created=nan), OVER).reason == Reason.POSTDATES


@pytest.mark.parametrize("module", [healer.decision.rules, healer.decision.labels, healer.model])
def test_the_rules_import_nothing_that_could_look_around(module: object) -> None:
    """Neither clock nor network, disk, environment or chance: what isn't imported can't be asked."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = ("healer.", "msgspec.", "collections.abc.", "enum.", "__future__.")
    allowed = {"re", "hashlib.md5", "string.ascii_letters", "string.digits", "datetime.datetime", "datetime.UTC"}
    allowed |= {"functools.lru_cache"}  # of texts that come out as they went in: it can't be asked what it has seen
    assert {name for name in imported if not name.startswith(own)} <= allowed
    assert not {"now", "today", "utcnow"} & {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)  # type: ignore[arg-type]
    }


@pytest.mark.parametrize(("raw", "label"), IDS.items())
def test_the_ids_of_these_tests_have_the_labels_of_the_provider(raw: str, label: str) -> None:
    assert safe_label(raw) == label
