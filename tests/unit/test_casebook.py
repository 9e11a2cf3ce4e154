"""What is known of each Pod, and whose fate must be asked about."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from healer.model import Absent, Answer, Block, Identity, Known, Pod, Reason, Unknown
from healer.reconcile.casebook import Casebook, is_settled, owns
from healer.rules import Terms
from tests.unit.fakes import ORPHANED, RUNNING, an_airflow
from tests.unit.strategies import BASE_ENDED, a_done_pod, a_pod, a_task, ended

DOWN = Unknown(0.0, "down")
HALF = Known(0.0, ended("failed"), Identity(failed="XCom: 500"))


def a_book(*pods: Pod) -> Casebook:
    book = Casebook(Terms())
    book.meet(pods)
    return book


def wanted(book: Casebook) -> list[str]:
    return sorted(pod.uid for pod in book.to_look_at())


def reason(book: Casebook, uid: str = "uid-1") -> Reason:
    record = book.get(uid)
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
    assert owns(airflow, a_pod(stamp=stamp)) is mine
    assert not owns(airflow, a_pod(stamp=stamp, namespace="other"))


def test_a_new_pod_is_unknown_until_it_was_asked_about() -> None:
    book = a_book(a_pod())
    assert reason(book) is Reason.AIRFLOW_UNKNOWN
    assert wanted(book) == ["uid-1"]
    book.hear(a_pod(), RUNNING)
    assert reason(book) is Reason.IN_USE
    assert wanted(book) == []


def test_a_pod_keeps_its_last_answer_while_it_does_not_change() -> None:
    book = a_book(a_pod())
    book.hear(a_pod(), RUNNING)
    changed, gone = book.meet([a_pod()])
    assert (changed, gone) == ([], set())
    assert reason(book) is Reason.IN_USE


IN_USE_CHANGES = [
    pytest.param({"phase": "Pending"}, False, id="phase"),
    pytest.param({"containers": (BASE_ENDED,)}, False, id="done, of a task that runs"),
    pytest.param({"try_number": "2"}, True, id="try"),
    pytest.param({"protected": True}, True, id="protected"),
]


@pytest.mark.parametrize(("change", "asked"), IN_USE_CHANGES)
def test_a_pod_that_changed_is_asked_about_only_when_it_matters(change: dict[str, Any], asked: bool) -> None:
    book = a_book(a_pod())
    book.hear(a_pod(), RUNNING)
    changed, _ = book.meet([a_pod(resource_version="2", **change)])
    assert [record.pod.resource_version for record in changed] == ["2"]
    assert wanted(book) == (["uid-1"] if asked else [])


def test_a_change_while_airflow_is_in_doubt_is_not_forgotten() -> None:
    book = a_book(a_pod())
    book.hear(a_pod(), ORPHANED)
    book.hear(a_pod(), DOWN)
    book.meet([a_done_pod(resource_version="2")])
    assert reason(book) is Reason.AIRFLOW_UNKNOWN
    assert wanted(book) == ["uid-1"]


def test_an_unclear_answer_keeps_the_last_clear_one() -> None:
    book = a_book(a_pod())
    book.hear(a_pod(), RUNNING)
    book.hear(a_pod(), DOWN)
    record = book.get("uid-1")
    assert record is not None
    assert (record.finding.reason, record.answer, record.doubt) == (Reason.AIRFLOW_UNKNOWN, RUNNING, DOWN)
    book.reassure([a_pod()])
    assert reason(book) is Reason.IN_USE


def test_nobody_is_reassured_without_a_clear_answer_of_old() -> None:
    book = a_book(a_pod())
    book.hear(a_pod(), DOWN)
    book.reassure([a_pod()])
    assert reason(book) is Reason.AIRFLOW_UNKNOWN


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
    book = a_book(a_pod())
    if before is not None:
        book.hear(a_pod(), before)
    book.hear(a_pod(), now)
    assert wanted(book) == (["uid-1"] if asked else [])


def test_a_doubt_does_not_make_a_done_pod_active() -> None:
    main = replace(BASE_ENDED, name="main")
    pod = a_pod(containers=(main,))
    book = a_book(pod)
    book.hear(pod, Known(0.0, ended("success", base_container="main")))
    book.hear(pod, DOWN)
    record = book.get("uid-1")
    assert record is not None
    assert not record.active


def test_pods_that_vanish_are_told_and_leave_nothing_behind() -> None:
    book = a_book(a_pod(), a_pod(uid="uid-2"))
    _, gone = book.meet([a_pod()])
    assert gone == {"uid-2"}
    book.drop("uid-1")
    assert len(book) == 0
    assert wanted(book) == []
    book.meet([])
    assert not book._wanted


def test_nobody_is_asked_about_in_a_namespace_that_can_not_be_read_nor_where_the_pod_alone_decides() -> None:
    pods = [a_pod(), a_pod(uid="b", namespace="dark"), a_pod(uid="c", protected=True), a_pod(uid="d", dag_id=None)]
    assert [pod.uid for pod in a_book(*pods).askable({"dark"})] == ["uid-1"]


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
            {"stamp": "another"},
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
    book = Casebook(Terms(), lambda pod: owns(airflow, pod))
    for kind, *what in steps:
        if kind == "meet":
            before = {record.pod.uid: record.pod for record in book}
            picture = [a_pod(uid=uid, resource_version=str(next(versions)), **how) for uid, how in what[0].items()]
            _, gone = book.meet(picture)
            ours = {pod.uid for pod in picture if owns(airflow, pod)}
            assert (set(book.pages()), gone) == (ours, before.keys() - ours)
            again = book.meet(picture)
            assert again == ([], set()), "the same objects once more"
        elif kind == "hear" and (record := book.get(what[0])) is not None:
            book.hear(record.pod, what[1])
        elif kind == "drop":
            book.drop(what[0])
        elif kind == "reassure":
            book.reassure([record.pod for record in book])
            assert not [r for r in book if r.doubt is not None and r.answer is not None]
        assert book.active() == sum(1 for r in book if r.active and not r.pod.terminating)
        assert book._doubted == {r.pod.uid for r in book if r.doubt is not None}
        assert book.unsettled == {r.pod.uid for r in book if not is_settled(r)}
        ours = [r.pod for r in book if r.finding.reason.block is not Block.NOT_OURS]
        assert book.askable(()) == ours
        assert book._active <= set(book.pages())
