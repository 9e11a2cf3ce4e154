"""What the rules say of a case, word for word: `explain` shows it, and a deletion's log line and Event rest on it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from healer.decision.rules import RuleInput, RuleOptions, Step, rule_table, trace
from healer.model import Absent, Ambiguous, Answer, Container, DagDeleted, NamedPods, Pod, Reason, RunDeleted, Unknown
from tests.unit.strategies import (
    CREATED,
    DAG_ID,
    NO_SOURCE,
    RUN_ID,
    SIDECAR_ENDED,
    a_done_pod,
    a_pod,
    a_sibling,
    a_task,
    ended,
    known,
    naming,
)

OVER = known(ended(), NO_SOURCE)
LATER = a_task("running", 2)
TRIES = "task instance is running at try 2, the Pod is of try 1"
ENDED_TRIES = "task instance is success at try 1, the Pod is of try 1"
ACTIVE = f"{ENDED_TRIES}, active (phase Running), not checked by KPO"
DONE = f"{ENDED_TRIES}, done (phase Succeeded, container base ended with exit code 0)"
MADE, OVER_AT = "1970-01-01T02:46:40Z", "1970-01-01T02:51:40Z"


def said(pod: Pod, answer: Answer) -> dict[str, str]:
    """What each rule says that is tried for this case."""
    return {str(step.reason): step.why for step in trace(pod, answer)}


OF_THE_POD: list[tuple[str, str, dict[str, Any]]] = [
    ("terminating", "deletionTimestamp is set", {"terminating": True}),
    ("terminating", "deletionTimestamp is not set", {}),
    ("protected", "the protect annotation is set", {"protected": True}),
    ("protected", "the protect annotation is not set", {}),
    ("owned", "it has a controller ownerReference", {"owned": True}),
    ("owned", "it has no controller ownerReference", {}),
    ("labels-missing", "all labels are well-formed", {}),
    ("labels-missing", "label dag_id is missing", {"dag_id": None}),
    ("labels-missing", "label try_number is '0', not a number from 1", {"try_number": "0"}),
    ("labels-missing", "label map_index is 'x', not a number from 0", {"map_index": "x"}),
    ("phase-unknown", "phase Unknown", {"phase": "Unknown"}),
    ("phase-unknown", "phase missing", {"phase": ""}),
    ("phase-unknown", "phase Running", {}),
    ("not-selected", "the selector finds a Pod with its labels", {}),
    ("not-selected", "the selector leaves out a Pod with its labels", {"selected": False}),
]


@pytest.mark.parametrize(("reason", "sentence", "changes"), OF_THE_POD)
def test_of_the_pod(reason: str, sentence: str, changes: dict[str, Any]) -> None:
    assert said(a_pod(**changes), OVER)[reason] == sentence


OF_THE_ANSWER: list[tuple[str, str, Answer]] = [
    ("airflow-unknown", "timeout", Unknown(0.0, "timeout")),
    ("airflow-unknown", "no reason given", Unknown(0.0, "")),
    (
        "airflow-unknown",
        "Airflow's answer is about another run than the labels",
        RunDeleted(0.0, DAG_ID, "manual-1"),
    ),
    (
        "airflow-unknown",
        "Airflow's row is about another task instance than the labels",
        known(ended(task_id="load2"), NO_SOURCE),
    ),
    ("airflow-unknown", "Airflow's row lacks its state, try or operator", known(ended(operator=None), NO_SOURCE)),
    (
        "airflow-unknown",
        "Airflow's row lacks its state, try or operator",
        known(replace(ended(), state=UNSET), NO_SOURCE),
    ),
    ("airflow-unknown", "Airflow was not asked which Pod is in use", known(ended())),
    ("airflow-unknown", "XCom: 500", known(ended(), NamedPods(failed="XCom: 500"))),
    ("airflow-unknown", "Airflow's answer is full", OVER),
    ("airflow-unknown", "Airflow's answer is full", Absent(0.0, "no such run")),
    ("run-deleted", f"DAG '{DAG_ID}' exists and its run '{RUN_ID}' does not", RunDeleted(0.0, DAG_ID, RUN_ID)),
    ("run-deleted", "Airflow knows the task instance", OVER),
    ("purged", "Airflow knows the task instance", OVER),
    ("purged", "no such run", Absent(0.0, "no such run")),
    (
        "purged",
        f"DAG '{DAG_ID}' exists and its run '{RUN_ID}' does not; active (phase Running), not checked by KPO",
        RunDeleted(0.0, DAG_ID, RUN_ID),
    ),
    (
        "purged",
        f"Airflow has no DAG '{DAG_ID}'; active (phase Running), not checked by KPO",
        DagDeleted(0.0, DAG_ID),
    ),
    ("absent", f"Airflow has no DAG '{DAG_ID}'", DagDeleted(0.0, DAG_ID)),
    ("airflow-unknown", "Airflow's answer is about another DAG than the labels", DagDeleted(0.0, "etl2")),
    (
        "elsewhere",
        "rendered namespace other, the Pod's is airflow; Airflow names this very Pod",
        known(ended(namespace="other"), naming(a_pod())),
    ),
    ("abandoned", ACTIVE, OVER),
    ("abandoned", f"{ACTIVE}, Airflow names another Pod", known(ended(), naming(a_sibling()))),
    ("absent", "no such run", Absent(0.0, "no such run")),
    ("labels-ambiguous", "two runs", Ambiguous(0.0, "two runs")),
    ("foreign-operator", "operator KubernetesPodOperator", OVER),
    ("elsewhere", "rendered namespace not known, the Pod's is airflow", OVER),
    ("elsewhere", "rendered namespace other, the Pod's is airflow", known(ended(namespace="other"), NO_SOURCE)),
    ("unexpected-state", "state success", OVER),
    ("unexpected-state", "state none", known(a_task(None))),
    ("try-ahead", "task instance is none (cleared) at try 1, the Pod is of try 1", known(a_task(None))),
    ("in-use", ENDED_TRIES, OVER),
    ("reattached", f"{ENDED_TRIES}; Airflow names no Pod", OVER),
    ("reattached", f"{TRIES}; Airflow names airflow/load-1", known(LATER, naming(a_pod()))),
    (
        "reattached",
        f"{TRIES}; Airflow names */load-9, airflow/load-2, airflow/load-8",
        known(LATER, NamedPods(frozenset({("airflow", "load-8"), (None, "load-9"), ("airflow", "load-2")}))),
    ),
    (
        "reattached",
        "task instance is up_for_retry at try 1, the Pod is of try 1; not asked which Pod is in use",
        known(a_task("up_for_retry")),
    ),
    ("kept", ACTIVE, OVER),
    ("superseded", f"{ENDED_TRIES}; Airflow names no Pod; no living sibling of a later try", OVER),
    (
        "superseded",
        f"{TRIES}; Airflow names airflow/load-2; living sibling airflow/load-2",
        known(LATER, naming(a_sibling()), a_sibling(terminating=True, uid="uid-3"), a_sibling()),
    ),
    (
        "superseded",
        f"{TRIES}; Airflow names airflow/load-2; no living sibling of a later try",
        known(LATER, naming(a_sibling()), a_sibling(terminating=True)),
    ),
    ("task-removed", ACTIVE, OVER),
    ("postdates", f"the task instance ended {OVER_AT}, the Pod was made {MADE}", OVER),
    (
        "postdates",
        f"the task instance ended at a time not known, the Pod was made {MADE}",
        known(ended(end_date=None), NO_SOURCE),
    ),
    (
        "postdates",
        f"the task instance ended at an impossible time, the Pod was made {MADE}",
        known(ended(end_date=1e300), NO_SOURCE),
    ),
    ("orphaned", f"{ACTIVE}; ended {OVER_AT}", OVER),
]


@pytest.mark.parametrize(("reason", "sentence", "answer"), OF_THE_ANSWER)
def test_of_the_answer(reason: str, sentence: str, answer: Answer) -> None:
    assert said(a_pod(), answer)[reason] == sentence


@pytest.mark.parametrize(
    ("reason", "sentence", "pod"),
    [
        ("kept", f"{DONE}, not checked by KPO", a_done_pod()),
        ("kept", f"{DONE}, checked by KPO", a_done_pod(checked=True)),
        ("kept", ACTIVE, a_pod(containers=(SIDECAR_ENDED,))),
        ("kept", f"{ENDED_TRIES}, done (phase Failed), not checked by KPO", a_pod(phase="Failed", containers=())),
        ("finished", f"{DONE}, not checked by KPO; ended {OVER_AT}", a_done_pod()),
        ("postdates", f"the task instance ended {OVER_AT}, the Pod was made at a time not known", a_pod(created=None)),
    ],
)
def test_of_the_pods_work(reason: str, sentence: str, pod: Pod) -> None:
    assert said(pod, OVER)[reason] == sentence


def test_the_container_that_decides_is_the_one_of_the_row() -> None:
    main = Container("main", terminated=True, exit_code=3)
    pod = a_pod(phase="Failed", containers=(Container("base"), main))
    told = said(pod, known(ended(base_container="main"), NO_SOURCE))["kept"]
    assert told == f"{ENDED_TRIES}, done (phase Failed, container main ended with exit code 3), not checked by KPO"


def test_what_can_not_be_printed_is_escaped_and_nothing_else() -> None:
    assert said(a_pod(), Unknown(0.0, "ä\n\u202ez"))["airflow-unknown"] == "ä\\n\\u202ez"


def test_the_last_step_of_a_trace_is_the_one_that_matched() -> None:
    steps = list(trace(a_pod(), known(a_task()), RuleOptions()))
    assert [step.matched for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].reason is Reason.IN_USE


def test_by_default_a_sibling_is_two_minutes_younger_and_no_more_operators_are_foreign() -> None:
    assert RuleOptions() == RuleOptions(foreign_operators=frozenset(), grace=120.0)
    for gap, reason in ((119.9, Reason.ADOPTION_UNKNOWN), (120.0, Reason.SUPERSEDED)):
        sibling = a_sibling(created=CREATED + gap)
        *_, last = trace(a_pod(), known(LATER, naming(sibling), sibling))
        assert last.reason is reason


def test_the_table_of_the_docs_has_a_line_for_each_block_and_rule() -> None:
    head, dashes, block, first, *_ = lines = rule_table().splitlines()
    assert (head, dashes) == ("| reason | when | action by default | rests on |", "| --- | --- | --- | --- |")
    assert block == "| *not ours to touch* | | | |"
    assert first == f"| `not-selected` | {Reason.NOT_SELECTED.when} | keep | D24 |"
    owned = f"| `owned` | {Reason.OWNED.when} | keep | D24 |"
    adoptable = f"| `adoptable` | {Reason.ADOPTABLE.when} | keep | D10 D11 |"
    assert {owned, adoptable} <= set(lines)
    assert len(lines) == 2 + 3 + len(Reason)


@pytest.mark.parametrize("kind", [RuleOptions, Step, RuleInput])
def test_no_rule_can_change_what_the_next_one_sees(kind: Any) -> None:
    assert kind.__struct_config__.frozen
