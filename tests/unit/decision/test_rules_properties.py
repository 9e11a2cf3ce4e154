"""What must hold for every Pod and answer: less knowledge never deletes more, and `judge` is total, pure, timeless.

Each removal is tried alone on cases that lack things already, so removing several at once is covered step by step.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict, replace

from healer import model
from healer.decision.labels import safe_label
from healer.decision.rules import RuleOptions, decided_by_pod, judge, needs_identity, needs_siblings, trace
from healer.model import (
    ACTING,
    Absent,
    Action,
    Ambiguous,
    Answer,
    Container,
    DagDeleted,
    Finding,
    Known,
    Labels,
    NamedPods,
    Pod,
    Reason,
    RunDeleted,
    TaskInstance,
    Unknown,
)
from tests.unit.strategies import BEFORE, ENDED, HELD, LABEL_FIELDS, NO_SOURCE, a_sibling, judged, naming

Case = tuple[Pod, Answer, RuleOptions]

NAMINGS = (None, NO_SOURCE, *(NamedPods(frozenset({("airflow", name)})) for name in ("load-1", "load-2", "load-gone")))
"""All that Airflow may answer when it is asked for the Pod of a task instance."""

# --- less knowledge never deletes more --------------------------------------------------------------------------------


def less_of_a_pod(pod: Pod, map_index: str | None) -> Iterator[tuple[str, Pod]]:
    """Yield the Pod without a status or an identity label, one at a time. `map_index`: the label that is right.

    A wrong map index is not taken away: nothing in its place is what a task that is not mapped has, and knows more.
    """
    for phase in ("", "Unknown"):
        yield f"phase {phase!r}", replace(pod, phase=phase)
    for name in LABEL_FIELDS if pod.labels.map_index == map_index else LABEL_FIELDS - {"map_index"}:
        for nothing in (None, ""):
            yield f"label {name} {nothing!r}", replace(pod, labels=replace(pod.labels, **{name: nothing}))
    yield "all container statuses", replace(pod, containers=tuple(Container(c.name) for c in pod.containers))
    for index, container in enumerate(pod.containers):
        rest = pod.containers[:index] + pod.containers[index + 1 :]
        yield f"container {container.name}", replace(pod, containers=rest)
        yield f"status of {container.name}", replace(pod, containers=(*rest, Container(container.name)))


def less_of_a_row(answer: Known) -> Iterator[tuple[str, Answer]]:
    """Yield the answer without what a row must have, one field at a time, and without the row."""
    for change in ({"state": UNSET}, {"try_number": None}, {"operator": None}, {"operator": ""}):
        yield f"row's {next(iter(change))}", replace(answer, task=replace(answer.task, **change))
    for name in ("dag_id", "run_id", "task_id"):
        yield f"row's {name}", replace(answer, task=replace(answer.task, **{name: ""}))
    yield "the row", Absent(answer.sent, "no row")
    yield "the only matching row", Ambiguous(answer.sent, "two rows")


def less_of_an_identity(answer: Known) -> Iterator[tuple[str, Answer]]:
    """Yield the answer without the reading of an identity source, and without what was read of the Pods named there."""
    yield "identity source", replace(answer, identity=NamedPods(failed="state store: 500"))
    if answer.identity is None or answer.identity.failed is None:  # not to have asked is less than an answer
        yield "identity", replace(answer, identity=None)
    named = answer.identity.named if answer.identity else frozenset()
    for one in named:
        yield f"source that names {one}", replace(answer, identity=NamedPods(named - {one}, "XCom: timeout"))
    for index, sibling in enumerate(answer.siblings):
        rest = answer.siblings[:index] + answer.siblings[index + 1 :]
        yield "sibling", replace(answer, siblings=rest)
        yield "sibling's creation", replace(answer, siblings=(*rest, replace(sibling, created=None)))
        for what, less in less_of_a_pod(sibling, right_index(answer)):
            yield f"sibling's {what}", replace(answer, siblings=(*rest, less))


def right_index(answer: Answer) -> str | None:
    """The label map_index of the task instance that was found."""
    return str(answer.task.map_index) if isinstance(answer, Known) and answer.task.map_index >= 0 else None


def less(pod: Pod, answer: Answer) -> Iterator[tuple[str, Pod, Answer]]:
    """Yield the case with one thing less that the rules require."""
    yield "answer", pod, Unknown(answer.sent, "timeout")
    for what, poorer in less_of_a_pod(pod, right_index(answer)):
        yield what, poorer, answer
    if isinstance(answer, Known):
        for what, shorter in (*less_of_a_row(answer), *less_of_an_identity(answer)):
            yield what, pod, shorter
    if isinstance(answer, RunDeleted):
        yield "run id", pod, replace(answer, run_id="")
        yield "dag id", pod, replace(answer, dag_id="")
        yield "run's 404", pod, Absent(answer.sent, "not proven")
    if isinstance(answer, DagDeleted):
        yield "dag id", pod, replace(answer, dag_id="")
        yield "DAG's 404", pod, Absent(answer.sent, "not proven")


def acts(finding: Finding) -> bool:
    """Whether any policy could act on it."""
    return finding.reason in ACTING


@given(judged())
def test_less_knowledge_never_turns_a_keep_into_a_deletion(case: Case) -> None:
    """Neither by the default actions, nor under any policy: what always keeps goes on to always keep."""
    pod, answer, terms = case
    before = judge(pod, answer, terms)
    for what, less_pod, less_answer in less(pod, answer):
        after = judge(less_pod, less_answer, terms)
        told = f"without {what}: {before.reason} became {after.reason}"
        assert acts(before) or not acts(after), told
        assert before.reason.action is Action.DELETE or after.reason.action is not Action.DELETE, told


@given(judged(), st.sampled_from(("airflow", "other", "", None)))
def test_a_rendered_namespace_only_adds_keeps(case: Case, namespace: str | None) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known))
    assert isinstance(answer, Known)
    without = judge(pod, replace(answer, task=replace(answer.task, namespace=None)), terms)
    having = judge(pod, replace(answer, task=replace(answer.task, namespace=namespace)), terms)
    assert having.reason in {without.reason, Reason.ELSEWHERE} or not acts(having)


@given(judged(ENDED))
def test_nobody_is_acted_on_at_the_try_for_which_airflow_names_another_pod(case: Case) -> None:
    """But for what KPO itself is through with, which works for nobody."""
    pod, answer, terms = case
    assume(isinstance(answer, Known))
    assert isinstance(answer, Known)
    same_try = replace(pod, labels=replace(pod.labels, try_number=str(answer.task.try_number)))
    another = replace(answer, identity=NamedPods(frozenset({("airflow", "load-gone")})))
    finding = judge(same_try, another, terms)
    assert finding.reason is Reason.KEPT or not acts(finding)
    assert not finding.named


@given(judged(), st.booleans())
def test_that_airflow_names_a_pod_is_told_only_where_a_source_says_so(case: Case, named: bool) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known))
    assert isinstance(answer, Known)
    identity = naming(pod) if named else NamedPods(frozenset({(None, pod.name), ("other", pod.name)}))
    assert judge(pod, replace(answer, identity=identity), terms).named == (named or pod.namespace == "other")


@given(judged())
def test_a_name_only_adds_keeps_another_pods_after_the_end_and_this_pods_before_it(case: Case) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known) and answer.identity is not None)
    assert isinstance(answer, Known)
    assert answer.identity is not None
    name = (pod.namespace, pod.name) if answer.task.state in HELD else ("airflow", "another")
    more = replace(answer.identity, named=answer.identity.named | {name})
    before, after = judge(pod, answer, terms), judge(pod, replace(answer, identity=more), terms)
    assert acts(before) or not acts(after)


# --- what must be true of all that is acted on ------------------------------------------------------------------------


@given(judged())
def test_nothing_is_acted_on_without_its_proof(case: Case) -> None:
    pod, answer, terms = case
    assume(acts(judge(pod, answer, terms)))
    assert pod.selected
    assert not any((pod.terminating, pod.protected, pod.owned))
    assert pod.phase in {"Pending", "Running", "Succeeded", "Failed"}
    assert isinstance(answer, Known | RunDeleted | DagDeleted)
    row = answer.task if isinstance(answer, Known) else answer
    assert safe_label(row.dag_id) == pod.labels.dag_id
    if isinstance(row, DagDeleted):
        return
    assert safe_label(row.run_id) == pod.labels.run_id
    if isinstance(row, TaskInstance):
        assert safe_label(row.task_id) == pod.labels.task_id
        assert str(row.map_index) == (pod.labels.map_index or "-1")
        assert int(pod.labels.try_number or 0) <= (row.try_number or 0)
        assert row.operator
        assert "Job" not in row.operator or not (terms.foreign_operators or row.operator == "KubernetesJobOperator")


@given(judged(BEFORE))
def test_a_pod_that_airflow_may_still_need_is_acted_on_only_when_a_sibling_is_proven(case: Case) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known) and not pod.checked)
    assert isinstance(answer, Known)
    finding = judge(pod, answer, terms)
    assert finding.reason not in set(ACTING) - {Reason.SUPERSEDED}
    if finding.reason == Reason.SUPERSEDED:
        assert answer.identity is not None
        assert answer.task.state in HELD
        assert int(pod.labels.try_number or 0) < (answer.task.try_number or 0)
        assert not answer.identity.names(pod)
        assert any(not s.terminating and not s.checked and answer.identity.names(s) for s in answer.siblings)


@given(judged(BEFORE[:4]))
def test_the_pod_of_the_try_that_goes_on_is_never_acted_on_even_if_it_is_marked(case: Case) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known))
    assert isinstance(answer, Known)
    same_try = replace(pod, labels=replace(pod.labels, try_number=str(answer.task.try_number)))
    assert not acts(judge(same_try, answer, terms))


# --- what is asked is what is needed ----------------------------------------------------------------------------------


@given(judged())
def test_an_identity_that_was_not_needed_changes_nothing(case: Case) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known) and not needs_identity(pod, answer.task))
    assert isinstance(answer, Known)
    reasons = {judge(pod, replace(answer, identity=one), terms).reason for one in NAMINGS}
    assert len(reasons) == 1


@given(judged(), judged())
def test_siblings_that_were_not_needed_change_nothing(case: Case, other: Case) -> None:
    pod, answer, terms = case
    assume(isinstance(answer, Known) and not needs_siblings(pod, answer))
    assert isinstance(answer, Known)
    for siblings in ((), (a_sibling(),), (other[0],), (replace(other[0], name="load-2", uid="uid-2"),)):
        assert judge(pod, replace(answer, siblings=siblings), terms).reason == judge(pod, answer, terms).reason


@given(judged(), judged())
def test_where_the_pod_alone_decides_no_answer_changes_anything(case: Case, other: Case) -> None:
    pod, answer, terms = case
    if decided_by_pod(pod):
        assert judge(pod, answer, terms).reason == judge(pod, other[1], other[2]).reason
    else:
        assert judge(pod, Unknown(0.0, "timeout")).reason == Reason.AIRFLOW_UNKNOWN


# --- total, pure, timeless --------------------------------------------------------------------------------------------


def anything(of: type[Struct]) -> st.SearchStrategy[Any]:
    """Draw a struct whose every field is any value of its type."""
    return st.builds(of, **{field.name: st.from_type(field.type) for field in msgspec.structs.fields(of)})


st.register_type_strategy(UnsetType, st.just(UNSET))
for inner in (Labels, Container, Pod, TaskInstance, NamedPods):
    st.register_type_strategy(inner, anything)

GARBAGE = st.tuples(
    anything(Pod),
    st.one_of(*map(anything, (Answer, Unknown, RunDeleted, DagDeleted, Absent, Ambiguous, Known))),
    anything(RuleOptions),
)
FITTING = st.tuples(judged(), anything(TaskInstance), anything(NamedPods), anything(Pod)).map(
    lambda drawn: (drawn[0][0], Known(0.0, drawn[1], drawn[2], (drawn[3],)), drawn[0][2])
)


@given(GARBAGE | FITTING | judged())
def test_judge_is_total(case: Case) -> None:
    pod, answer, terms = case
    finding = judge(pod, answer, terms)
    assert finding.reason in Reason
    assert finding.detail
    assert finding.detail.isprintable()
    assert [step.matched for step in trace(pod, answer, terms)][-1]
    decided_by_pod(pod)
    if isinstance(answer, Known):
        needs_identity(pod, answer.task)
        needs_siblings(pod, answer)


@given(judged())
def test_judge_is_pure(case: Case) -> None:
    before = copy.deepcopy(case)
    first, second = judge(*case), judge(*before)
    assert case == before
    assert first == second == judge(*case)


def shifted(value: Any, seconds: float) -> Any:
    """Return the same facts, all of them so many seconds later."""
    if isinstance(value, tuple):
        return tuple(shifted(one, seconds) for one in value)
    if not isinstance(value, Struct):
        return value
    times = {"created", "ended", "start_date", "end_date", "finished_at", "sent"}
    changed = {
        name: one + seconds if name in times and one is not None else shifted(one, seconds)
        for name, one in asdict(value).items()
    }
    return replace(value, **changed)


@given(judged(), st.integers(-(10**9), 10**9))
def test_judge_is_timeless(case: Case, seconds: int) -> None:
    pod, answer, terms = case
    later = judge(shifted(pod, seconds), shifted(answer, seconds), terms)
    assert later.reason == judge(pod, answer, terms).reason


def test_judge_asks_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the rules asked a clock")

    class Calendar(datetime):
        """Converts times, and can't tell what time it is."""

        now = today = utcnow = forbidden  # type: ignore[assignment]

    drawn: list[Case] = []

    @settings(max_examples=100)
    @given(judged())
    def draw(case: Case) -> None:
        drawn.append(case)

    draw()
    monkeypatch.setattr(model, "datetime", Calendar)
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "localtime", "gmtime"):
        monkeypatch.setattr(time, name, forbidden)
    try:
        findings = [judge(*case) for case in drawn]
    finally:
        monkeypatch.undo()
    assert len(findings) == len(drawn) > 10


def test_the_generated_cases_reach_every_reason() -> None:
    """Else the properties above would say little."""
    reached: set[Reason] = set()

    @settings(max_examples=3_000)
    @given(judged())
    def collect(case: Case) -> None:
        reached.add(judge(*case).reason)

    collect()
    assert set(Reason) - reached == set()
