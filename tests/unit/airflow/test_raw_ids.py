"""Raw ids on a Pod: where its labels prove them nothing is ambiguous, and where they don't nobody believes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from healer.cluster import decode_pod
from healer.decision.labels import believed, parse, safe_label
from healer.decision.rules import judge
from healer.model import ID_ANNOTATIONS, Action, Ambiguous, Known, Labels, Pod, RawIds, RunDeleted
from tests.unit.airflow_fake import FakeAirflow, healer, pod, row, serving
from tests.unit.cluster_server import raw_pod
from tests.unit.strategies import IDS

DAG, TASK, RUN = "d", "t", "nightly load"
"""The run can't be told from its label but by looking for it."""


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        yield server


def stamped(run: str, **raw: Any) -> Pod:
    """Return the Pod of a run, with its raw ids."""
    ids = {"dag_id": DAG, "task_id": TASK, "run_id": run, "map_index": "-1", **raw}
    return replace(pod(run=run), raw=RawIds(**ids))


def finding(fake: FakeAirflow, one: Pod) -> Any:
    return judge(one, healer(fake).get_all([one])[one.uid])


# --- what is believed -------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(IDS)),
    st.sampled_from(sorted(IDS)),
    st.one_of(st.none(), st.sampled_from(sorted({*IDS, *IDS.values(), "", "etl\u0000", "ETL"}))),
)
def test_only_an_id_with_that_very_label_is_believed(dag: str, run: str, told: str | None) -> None:
    key = parse(Labels(safe_label(dag), "load", safe_label(run), None, "1"))
    assert not isinstance(key, str)
    ids = believed(key, RawIds(dag_id=told, run_id=run))
    assert ids.dag_id in {None, told}
    if ids.dag_id is not None:
        assert safe_label(ids.dag_id) == key.dag_id
    if told is not None and safe_label(told) != key.dag_id:
        assert ids == RawIds(), "one that contradicts its label spoils them all"


def test_the_text_of_a_hashed_label_proves_nothing() -> None:
    key = parse(Labels(DAG, TASK, safe_label(RUN), None, "1"))
    assert not isinstance(key, str)
    assert believed(key, RawIds(DAG, TASK, safe_label(RUN))) == RawIds(DAG, TASK, None)
    assert believed(key, RawIds(DAG, TASK, RUN)) == RawIds(DAG, TASK, RUN)


@pytest.mark.parametrize(
    ("label", "told", "good"), [(None, "-1", True), (None, "0", False), ("3", "3", True), ("3", "-1", False)]
)
def test_the_map_index_must_be_that_of_the_label(label: str | None, told: str, good: bool) -> None:
    key = parse(Labels(DAG, TASK, safe_label(RUN), label, "1"))
    assert not isinstance(key, str)
    assert (believed(key, RawIds(DAG, TASK, RUN, told)) != RawIds()) is good


# --- what follows -----------------------------------------------------------------------------------------------------


def test_a_run_that_no_list_shows_any_more_is_found(fake: FakeAirflow) -> None:
    fake.rows = [row(run=RUN, state="failed"), *(row(run=f"newer{n}") for n in range(600))]
    unstamped = pod(run=RUN)
    assert isinstance(healer(fake).get_all([unstamped])[unstamped.uid], Ambiguous)
    fake.asked.clear()
    assert finding(fake, stamped(RUN)).reason == "orphaned"
    assert not [path for path in fake.paths() if path.endswith(("/dagRuns", "/tasks", "/dags"))], "nothing is looked up"


def test_a_twin_of_the_label_is_told_from_the_run(fake: FakeAirflow) -> None:
    fake.rows = [row(run=RUN, state="failed"), row(run=safe_label(RUN), state="running")]
    twin = replace(pod(run=RUN), uid="twin", name="twin")
    one, airflow = stamped(RUN), healer(fake)
    answers = airflow.get_all([one, twin])
    assert isinstance(answers[twin.uid], Ambiguous)
    answer = answers[one.uid]
    assert isinstance(answer, Known)
    assert answer.task.run_id == RUN
    confirmed = airflow.get_each([one])[one.uid]
    assert isinstance(confirmed, Known)
    assert confirmed.task.run_id == RUN


def test_a_run_that_is_gone_is_proven_gone(fake: FakeAirflow) -> None:
    fake.dags = {DAG}
    one = stamped(RUN)
    assert isinstance(healer(fake).get_all([one])[one.uid], RunDeleted)


@pytest.mark.parametrize("told", ["ended", "", safe_label(RUN), "../../dags/other", "nightly  load"])
def test_forged_ids_never_turn_a_keep_into_a_deletion(fake: FakeAirflow, told: str) -> None:
    """Of a running task's Pod, with an ended run of whatever id is told."""
    fake.rows = [row(run=RUN, state="running"), row(run=told or "ended", state="failed")]
    forged = stamped(RUN, run_id=told)
    found = finding(fake, forged)
    assert found.reason.action is Action.KEEP
    assert found.reason == judge(forged, healer(fake).get_all([pod(run=RUN)])[forged.uid]).reason, (
        "as if they were not there"
    )


def test_ids_of_another_task_instance_altogether_are_not_believed(fake: FakeAirflow) -> None:
    fake.rows = [row(run=RUN, state="running"), row(dag="victim", run="r", task="t", state="failed")]
    assert finding(fake, stamped(RUN, dag_id="victim", run_id="r", task_id="t")).reason == "in-use"


def test_they_are_read_from_the_annotations() -> None:
    raw = raw_pod("p")
    raw["metadata"]["annotations"] = {name: field for field, name in ID_ANNOTATIONS.items()} | {"other": "secret"}
    decoded = decode_pod(json.dumps(raw).encode())
    assert decoded is not None
    assert decoded.raw == RawIds("dag_id", "task_id", "run_id", "map_index")
    raw["metadata"]["annotations"] = {"other": "secret"}
    bare = decode_pod(raw)
    assert bare is not None
    assert bare.raw is None


# --- what an author of Pods may write ---------------------------------------------------------------------------------

LONGEST = "x" * 250
HOSTILE: dict[str, tuple[str, bool, bool]] = {
    # the id, whether a DAG or task may be called so, whether a run may
    "plain": ("etl.load-1_a", True, True),
    "letters of any script": ("лента", True, True),
    "as long as a column": (LONGEST, True, True),
    "longer than a column": (LONGEST + "x", False, False),
    "200 kB": ("x" * 200_000, False, False),
    "empty": ("", False, False),
    "NUL": ("m\0x", False, False),
    "line break": ("m\nx", False, False),
    "line break at the end, which Airflow's own pattern lets pass": ("m\n", False, False),
    "escape sequence of a terminal": ("\x1b[31mm", False, False),
    "half a surrogate": ("m\ud800", False, False),
    "written from right to left": ("m\u202egpj", False, False),
    "no width": ("m\u200bx", False, False),
    "emoji": ("m\U0001f600", False, False),
    "blank": ("a b", False, True),
    "blank of another kind": ("a\u00a0b", False, False),
    "leading blank": (" a", False, False),
    "trailing blank": ("a ", False, False),
    "slash": ("a/b", False, True),
    "dots": ("..", True, True),
    "a quoted slash": ("a%2Fb", False, True),
    "time and zone": ("scheduled__2026-01-01T00:00:00+00:00", False, True),
    "SQL": ("'; DROP TABLE dag; --", False, True),
}


@pytest.mark.parametrize(("told", "as_key", "as_run"), HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("field", ["dag_id", "task_id", "run_id"])
def test_an_id_that_airflow_can_not_have_is_not_believed_whatever_its_label(
    field: str, told: str, as_key: bool, as_run: bool
) -> None:
    labels = {"dag_id": DAG, "task_id": TASK, "run_id": "r", field: safe_label(told) or "x"}
    key = parse(Labels(**labels, try_number="1"))
    assert not isinstance(key, str)
    ids = believed(key, RawIds(**{"dag_id": DAG, "task_id": TASK, "run_id": "r", field: told}))
    if as_run if field == "run_id" else as_key:
        assert getattr(ids, field) == told
    else:
        assert ids == RawIds(), "nor what stands beside it"


@pytest.mark.parametrize("told", [told for told, as_key, _ in HOSTILE.values() if not as_key and told])
def test_a_hostile_id_is_never_sent_to_airflow(fake: FakeAirflow, told: str) -> None:
    fake.rows = [row()]
    one = replace(pod(dag="x"), labels=Labels(safe_label(told), TASK, "r", None, "1"), raw=RawIds(told, TASK, "r"))
    answer = healer(fake).get_all([one])[one.uid]
    assert judge(one, answer).reason.action is Action.KEEP
    assert told not in json.dumps([asked.body for asked in fake.asked], ensure_ascii=False)
    assert not any(told in asked.path for asked in fake.asked)


def test_an_id_too_long_to_be_one_is_not_even_kept() -> None:
    raw = raw_pod("p")
    raw["metadata"]["annotations"] = dict.fromkeys(ID_ANNOTATIONS.values(), "x" * 200_000)
    decoded = decode_pod(json.dumps(raw).encode())
    assert decoded is not None
    assert decoded.raw == RawIds("", "", "", "")
