"""What the rules ask for before they judge: whose identity, whose siblings. Each question costs calls to Airflow."""

from __future__ import annotations

import pytest

import healer.decision.rules
from healer.decision.labels import parse
from healer.decision.rules import (
    RuleInput,
    RuleOptions,
    base_name,
    judge,
    may_prove_itself,
    needs_identity,
    needs_siblings,
    replaces,
)
from healer.model import Absent, Answer, Container, Finding, NamedPods, Pod, Reason, TaskInstance, Unknown
from tests.unit.strategies import (
    BASE_ENDED,
    NO_SOURCE,
    SIDECAR,
    a_done_pod,
    a_pod,
    a_sibling,
    a_task,
    ended,
    known,
    naming,
)

LATER = a_task("running", 2)
TWIN = naming(a_sibling())
MAIN_ENDED = Container("main", terminated=True, exit_code=0)


@pytest.mark.parametrize(
    ("needed", "pod", "task"),
    [
        pytest.param(True, a_pod(), LATER, id="adopted, or superseded?"),
        pytest.param(True, a_pod(), a_task("deferred", 2), id="the same, deferred"),
        pytest.param(True, a_done_pod(), LATER, id="the same, and the Pod is done"),
        pytest.param(True, a_pod(), ended(), id="a copy of the real one?"),
        pytest.param(
            True,
            a_pod(containers=(Container("main"), BASE_ENDED)),
            ended(base_container="main"),
            id="its base container has another name and runs on",
        ),
        pytest.param(False, a_pod(), a_task("running"), id="in use"),
        pytest.param(False, a_pod(try_number="3"), LATER, id="try ahead"),
        pytest.param(False, a_pod(try_number="2"), ended(), id="try ahead of an end"),
        pytest.param(False, a_pod(), ended(try_number=2), id="an earlier try's"),
        pytest.param(True, a_done_pod(), ended(), id="done"),
        pytest.param(True, a_pod(containers=(BASE_ENDED, SIDECAR)), ended(), id="done, a sidecar runs on"),
        pytest.param(True, a_pod(checked=True), ended(), id="marked, and it works"),
        pytest.param(False, a_done_pod(checked=True), ended(), id="marked and done"),
        pytest.param(
            False, a_pod(checked=True, containers=(BASE_ENDED, SIDECAR)), ended(), id="marked, a sidecar runs on"
        ),
        pytest.param(
            False,
            a_pod(checked=True, containers=(MAIN_ENDED, SIDECAR)),
            ended(base_container="main"),
            id="marked and done by the container that the task names",
        ),
        pytest.param(False, a_done_pod(), ended(try_number=2), id="done, an earlier try's"),
        pytest.param(True, a_pod(), a_task("running", namespace="other"), id="has a hook moved it?"),
        pytest.param(True, a_pod(), ended(try_number=2, namespace="other"), id="the same, an earlier try's"),
        pytest.param(True, a_done_pod(checked=True), ended(namespace="other"), id="the same, marked and done"),
        pytest.param(False, a_pod(), ended(try_number=2, namespace="airflow"), id="it is where the task says"),
        pytest.param(False, a_pod(), ended(operator="GKEStartJobOperator", namespace="other"), id="a moved Job's"),
        pytest.param(False, a_pod(), a_task("queued", 2), id="the next try takes over"),
        pytest.param(False, a_pod(), a_task("removed"), id="removed"),
        pytest.param(False, a_pod(try_number=None), LATER, id="no label"),
        pytest.param(False, a_pod(), a_task("running", None), id="a row without try"),
        pytest.param(False, a_pod(), ended(try_number=None), id="an ended row without try"),
        pytest.param(False, a_pod(), a_task("running", 2, operator="KubernetesJobOperator"), id="a Job's"),
        pytest.param(False, a_pod(), ended(operator="GKEStartJobOperator"), id="an ended Job's"),
    ],
)
def test_whose_identity_is_asked_for(needed: bool, pod: Pod, task: TaskInstance) -> None:
    assert needs_identity(pod, task) is needed


@pytest.mark.parametrize(
    ("alone", "refuted", "pod", "task"),
    [
        pytest.param(True, True, a_pod(), ended(), id="it works"),
        pytest.param(True, True, a_pod(), ended(try_number=2), id="an earlier try's works"),
        pytest.param(False, True, a_done_pod(), ended(), id="done"),
        pytest.param(False, True, a_done_pod(), ended(try_number=2), id="an earlier try's is done"),
        pytest.param(False, True, a_pod(containers=(BASE_ENDED, SIDECAR)), ended(), id="done, a sidecar runs on"),
        pytest.param(
            False,
            True,
            a_pod(containers=(MAIN_ENDED, SIDECAR)),
            ended(base_container="main"),
            id="done by the container that the task names",
        ),
        pytest.param(False, False, a_pod(try_number="2"), ended(), id="try ahead of an end"),
        pytest.param(False, False, a_pod(), a_task("running"), id="in use"),
        pytest.param(False, False, a_pod(), a_task("running", 2), id="held by the next try"),
        pytest.param(False, False, a_pod(), a_task("removed"), id="removed"),
        pytest.param(False, False, a_pod(try_number=None), ended(), id="no label"),
        pytest.param(False, False, a_pod(), ended(try_number=None), id="an ended row without try"),
        pytest.param(False, False, a_pod(), ended(operator="GKEStartJobOperator"), id="a Job's"),
    ],
)
def test_which_pod_may_be_named_though_no_rule_needs_it(
    alone: bool, refuted: bool, pod: Pod, task: TaskInstance
) -> None:
    """By itself, and where another Airflow's Pods refute the claim to its namespace."""
    assert may_prove_itself(pod, task, refuted=False) is alone
    assert may_prove_itself(pod, task, refuted=True) is refuted


@pytest.mark.parametrize(
    ("contested", "pod", "answer"),
    [
        pytest.param(True, a_pod(), known(ended(try_number=2), TWIN), id="an earlier try's works, another is named"),
        pytest.param(
            True, a_pod(checked=True), known(ended(try_number=2), TWIN), id="the same, and some KPO gave up on it"
        ),
        pytest.param(False, a_pod(), known(ended(), TWIN), id="of the very try"),
        pytest.param(False, a_done_pod(), known(ended(try_number=2), TWIN), id="done"),
        pytest.param(False, a_pod(), known(a_task("running", 2), TWIN), id="not ended"),
        pytest.param(False, a_pod(), known(ended(try_number=2), naming(a_pod())), id="it is named itself"),
        pytest.param(False, a_pod(), known(ended(try_number=2), NO_SOURCE), id="nobody is named"),
        pytest.param(False, a_pod(try_number="x"), known(ended(try_number=2), TWIN), id="a label that is no try"),
        pytest.param(False, a_pod(), Unknown(0.0, "timeout"), id="not known"),
    ],
)
def test_what_speaks_against_the_pod_of_an_earlier_try(contested: bool, pod: Pod, answer: Answer) -> None:
    assert judge(pod, answer).contested is contested


@pytest.mark.parametrize(
    ("needed", "answer"),
    [
        pytest.param(True, known(LATER, TWIN), id="Airflow names another Pod"),
        pytest.param(True, known(a_task("deferred", 2), TWIN), id="the same, deferred"),
        pytest.param(False, known(LATER, NO_SOURCE), id="it names nobody"),
        pytest.param(False, known(LATER, naming(a_pod())), id="it names this Pod"),
        pytest.param(False, known(LATER, naming(a_pod(), a_sibling())), id="it names both"),
        pytest.param(False, known(LATER), id="it was not asked"),
        pytest.param(False, known(LATER, NamedPods(TWIN.named, "XCom: 500")), id="a source failed"),
        pytest.param(False, known(ended(), TWIN), id="ended"),
        pytest.param(False, known(a_task("running"), TWIN), id="in use"),
        pytest.param(False, Unknown(0.0, "timeout"), id="not known"),
        pytest.param(False, Absent(0.0, "no DAG"), id="absent"),
    ],
)
def test_whose_siblings_are_read(needed: bool, answer: Answer) -> None:
    assert needs_siblings(a_pod(), answer) is needed


def a_case(pod: Pod, task: TaskInstance) -> RuleInput:
    return RuleInput(pod, known(task, TWIN, a_sibling()), RuleOptions(), parse(pod.labels))


@pytest.mark.parametrize(
    ("held", "over", "label_try", "task"),
    [
        pytest.param(True, False, "1", LATER, id="a later try runs"),
        pytest.param(False, False, "1", a_task("running"), id="its own try runs"),
        pytest.param(False, False, "1", a_task("queued", 2), id="a later try waits"),
        pytest.param(False, True, "1", ended(), id="its own try has ended"),
        pytest.param(False, True, "1", ended(try_number=2), id="a later try has ended"),
        pytest.param(False, False, "2", ended(), id="of a try to come"),
    ],
)
def test_who_holds_a_pod_and_who_has_ended(held: bool, over: bool, label_try: str, task: TaskInstance) -> None:
    case = a_case(a_pod(try_number=label_try), task)
    assert (case.held, case.ended) == (held, over)


def test_a_pod_without_labels_has_no_try_and_nobody_replaced_it() -> None:
    case = a_case(a_pod(dag_id=None), LATER)
    assert case.label_try == 0
    assert not replaces(a_sibling(), case)
    assert replaces(a_sibling(), a_case(a_pod(), LATER)), "with them it would have been"


def test_without_a_row_the_base_container_has_kpos_default_name() -> None:
    assert base_name(None) == base_name(ended()) == base_name(ended(base_container="")) == "base"
    assert base_name(ended(base_container="main")) == "main"


def test_what_no_rule_covers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules cover all there is; should one be lost, nothing may follow from that."""
    monkeypatch.setattr(healer.decision.rules, "RULES", ())
    kept = Finding(Reason.UNEXPECTED_STATE, "no rule covers this combination", ended())
    assert judge(a_pod(), known(ended(), NO_SOURCE)) == kept
