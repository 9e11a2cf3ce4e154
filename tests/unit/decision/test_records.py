"""What is known of each Pod, and whose fate must be asked about."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from healer.config import Policy
from healer.decision.quarantine import Now
from healer.decision.records import RecordStore, owns
from healer.model import Absent, Answer, Known, NamedPods, Pod, Reason, RuleGroup, Unknown
from tests.unit.fakes import ORPHANED, RUNNING, an_airflow
from tests.unit.strategies import BASE_ENDED, a_done_pod, a_pod, a_task, ended

NOW = Now(5000.0, 1_005_000.0)
DOWN = Unknown(0.0, "down")
HALF = Known(0.0, ended("failed"), NamedPods(failed="XCom: 500"))


def a_book(*pods: Pod) -> RecordStore:
    records = RecordStore(Policy())
    records.sync(pods, NOW)
    return records


def wanted(records: RecordStore) -> list[str]:
    return sorted(pod.uid for pod in records.pending())


def reason(records: RecordStore, uid: str = "uid-1") -> Reason:
    record = records.get(uid)
    assert record is not None
    return record.finding.reason


OWNERSHIP = [
    ("exclusive", None, True),
    ("exclusive", "default", True),
    ("exclusive", "another", False),
    ("exclusive", "", False),
    ("stamped", None, False),
    ("stamped", "default", True),
    ("stamped", "another", False),
    (None, None, True),
    (None, "another", False),
]


@pytest.mark.parametrize(("ownership", "stamp", "mine"), OWNERSHIP)
def test_a_pod_is_judged_by_the_airflow_it_belongs_to(ownership: Any, stamp: str | None, mine: bool) -> None:
    airflow = an_airflow(ownership=ownership, mode="report")
    assert owns(airflow, a_pod(owner_label=stamp)) is mine
    assert not owns(airflow, a_pod(owner_label=stamp, namespace="other"))


def test_a_new_pod_is_unknown_until_it_was_asked_about() -> None:
    records = a_book(a_pod())
    assert reason(records) is Reason.AIRFLOW_UNKNOWN
    assert wanted(records) == ["uid-1"]
    records.evaluate(a_pod(), RUNNING, NOW)
    assert reason(records) is Reason.IN_USE
    assert wanted(records) == []


def test_a_pod_keeps_its_last_answer_while_it_does_not_change() -> None:
    records = a_book(a_pod())
    records.evaluate(a_pod(), RUNNING, NOW)
    changed, gone = records.sync([a_pod()], NOW)
    assert (changed, gone) == ([], set())
    assert reason(records) is Reason.IN_USE


IN_USE_CHANGES = [
    pytest.param({"phase": "Pending"}, False, id="phase"),
    pytest.param({"containers": (BASE_ENDED,)}, False, id="done, of a task that runs"),
    pytest.param({"try_number": "2"}, True, id="try"),
    pytest.param({"protected": True}, True, id="protected"),
]


@pytest.mark.parametrize(("change", "asked"), IN_USE_CHANGES)
def test_a_pod_that_changed_is_asked_about_only_when_it_matters(change: dict[str, Any], asked: bool) -> None:
    records = a_book(a_pod())
    records.evaluate(a_pod(), RUNNING, NOW)
    changed, _ = records.sync([a_pod(resource_version="2", **change)], NOW)
    assert [record.pod.resource_version for record in changed] == ["2"]
    assert wanted(records) == (["uid-1"] if asked else [])


def test_a_change_while_airflow_is_in_doubt_is_not_forgotten() -> None:
    records = a_book(a_pod())
    records.evaluate(a_pod(), ORPHANED, NOW)
    records.evaluate(a_pod(), DOWN, NOW)
    records.sync([a_done_pod(resource_version="2")], NOW)
    assert reason(records) is Reason.AIRFLOW_UNKNOWN
    assert wanted(records) == ["uid-1"]


def test_an_unclear_answer_keeps_the_last_clear_one() -> None:
    records = a_book(a_pod())
    records.evaluate(a_pod(), RUNNING, NOW)
    records.evaluate(a_pod(), DOWN, NOW)
    record = records.get("uid-1")
    assert record is not None
    assert (record.finding.reason, record.answer, record.last_unclear) == (Reason.AIRFLOW_UNKNOWN, RUNNING, DOWN)
    records.clear_unknown({"uid-1"})
    assert reason(records) is Reason.IN_USE


def test_nobody_is_reassured_without_a_clear_answer_of_old() -> None:
    records = a_book(a_pod())
    records.evaluate(a_pod(), DOWN, NOW)
    records.clear_unknown({"uid-1"})
    assert reason(records) is Reason.AIRFLOW_UNKNOWN


@pytest.mark.parametrize(
    ("before", "now", "asked"),
    [
        pytest.param(None, DOWN, True, id="never answered for"),
        pytest.param(RUNNING, DOWN, False, id="the pass query will tell"),
        pytest.param(Absent(0.0, "no DAG"), DOWN, True, id="absent: no pass query would tell"),
        pytest.param(RUNNING, HALF, True, id="ended, and its identity could not be read"),
        pytest.param(DOWN, RUNNING, False, id="answered"),
        pytest.param(HALF, ORPHANED, False, id="answered at last"),
        pytest.param(RUNNING, Known(0.0, a_task(None, None)), False, id="half a row: until the audit"),
    ],
)
def test_who_is_asked_about_in_the_next_full_pass(before: Answer | None, now: Answer, asked: bool) -> None:
    records = a_book(a_pod())
    if before is not None:
        records.evaluate(a_pod(), before, NOW)
    records.evaluate(a_pod(), now, NOW)
    assert wanted(records) == (["uid-1"] if asked else [])


def test_a_doubt_does_not_make_a_done_pod_active() -> None:
    main = replace(BASE_ENDED, name="main")
    pod = a_pod(containers=(main,))
    records = a_book(pod)
    records.evaluate(pod, Known(0.0, ended("success", base_container="main")), NOW)
    records.evaluate(pod, DOWN, NOW)
    record = records.get("uid-1")
    assert record is not None
    assert not record.active


def test_pods_that_vanish_are_told_and_leave_nothing_behind() -> None:
    records = a_book(a_pod(), a_pod(uid="uid-2"))
    _, gone = records.sync([a_pod()], NOW)
    assert gone == {"uid-2"}
    records.delete("uid-1")
    assert len(records) == 0
    assert wanted(records) == []
    records.sync([], NOW)
    assert not records._pending


def test_nobody_is_asked_about_in_a_namespace_that_can_not_be_read_nor_where_the_pod_alone_decides() -> None:
    pods = [a_pod(), a_pod(uid="b", namespace="dark"), a_pod(uid="c", protected=True), a_pod(uid="d", dag_id=None)]
    assert list(a_book(*pods).queryable({"dark"})) == ["uid-1"]


# --- what is kept as the records change, instead of being counted anew ------------------------------------------------

PICTURES = st.dictionaries(
    st.sampled_from("abcd"),
    st.sampled_from(
        [
            {},
            {"phase": "Succeeded"},
            {"phase": "Failed", "containers": (BASE_ENDED,)},
            {"containers": (BASE_ENDED,)},
            {"terminating": True},
            {"owner_label": "another"},
            {"protected": True},
        ]
    ),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("meet"), PICTURES),
        st.tuples(st.just("hear"), st.sampled_from("abcd"), st.sampled_from([RUNNING, ORPHANED, DOWN, HALF])),
        st.tuples(st.just("drop"), st.sampled_from("abcd")),
        st.tuples(st.just("reassure"), st.just(None)),
    ),
    max_size=12,
)


@given(STEPS)
def test_what_is_told_of_all_pods_is_what_counting_them_tells(steps: list[Any]) -> None:
    airflow, versions = an_airflow(), itertools.count()
    records = RecordStore(Policy(), lambda pod: owns(airflow, pod))
    for kind, *what in steps:
        if kind == "meet":
            before = {record.pod.uid: record.pod for record in records}
            picture = [a_pod(uid=uid, resource_version=str(next(versions)), **how) for uid, how in what[0].items()]
            _, gone = records.sync(picture, NOW)
            ours = {pod.uid for pod in picture if owns(airflow, pod)}
            assert (set(records.snapshot()), gone) == (ours, before.keys() - ours)
            again = records.sync(picture, NOW)
            assert again == ([], set()), "the same objects once more"
        elif kind == "hear" and (record := records.get(what[0])) is not None:
            records.evaluate(record.pod, what[1], NOW)
        elif kind == "drop":
            records.delete(what[0])
        elif kind == "reassure":
            records.clear_unknown(records.snapshot().keys())
            assert not [r for r in records if r.last_unclear is not None and r.answer is not None]
        assert records.active() == sum(1 for r in records if r.active and not r.pod.terminating)
        assert records._unclear == {r.pod.uid for r in records if r.last_unclear is not None}
        assert records.suspects() == [r.suspect for r in records if r.suspect is not None]
        ours = [r.pod for r in records if r.finding.reason.block is not RuleGroup.NOT_OURS]
        assert [r.pod for r in records.queryable(()).values()] == ours
        assert records._active <= set(records.snapshot())
