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
from healer.labels import believed, parse, safe_label
from healer.model import ID_ANNOTATIONS, Action, Ambiguous, Known, Labels, Pod, RawIds, RunDeleted
from healer.rules import judge
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
    return judge(one, healer(fake).look([one])[one.uid])


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
    key = parse(Labels(DAG, TASK, RUN, label, "1"))
    assert not isinstance(key, str)
    key = replace(key, run_id=safe_label(RUN))
    assert (believed(key, RawIds(DAG, TASK, RUN, told)) != RawIds()) is good


# --- what follows -----------------------------------------------------------------------------------------------------


def test_a_run_that_no_list_shows_any_more_is_found(fake: FakeAirflow) -> None:
    fake.rows = [row(run=RUN, state="failed"), *(row(run=f"newer{n}") for n in range(600))]
    unstamped = pod(run=RUN)
    assert isinstance(healer(fake).look([unstamped])[unstamped.uid], Ambiguous)
    fake.asked.clear()
    assert finding(fake, stamped(RUN)).reason == "orphaned"
    assert not [path for path in fake.paths() if path.endswith(("/dagRuns", "/tasks", "/dags"))], "nothing is looked up"


def test_a_twin_of_the_label_is_told_from_the_run(fake: FakeAirflow) -> None:
    fake.rows = [row(run=RUN, state="failed"), row(run=safe_label(RUN), state="running")]
    twin = replace(pod(run=RUN), uid="twin", name="twin")
    one, airflow = stamped(RUN), healer(fake)
    answers = airflow.look([one, twin])
    assert isinstance(answers[twin.uid], Ambiguous)
    answer = answers[one.uid]
    assert isinstance(answer, Known)
    assert answer.task.run_id == RUN
    confirmed = airflow.ask_each([one])[one.uid]
    assert isinstance(confirmed, Known)
    assert confirmed.task.run_id == RUN


def test_a_run_that_is_gone_is_proven_gone(fake: FakeAirflow) -> None:
    fake.dags = {DAG}
    one = stamped(RUN)
    assert isinstance(healer(fake).look([one])[one.uid], RunDeleted)


@pytest.mark.parametrize("told", ["ended", "", safe_label(RUN), "../../dags/other", "nightly  load"])
def test_forged_ids_never_turn_a_keep_into_a_deletion(fake: FakeAirflow, told: str) -> None:
    """Of a running task's Pod, with an ended run of whatever id is told."""
    fake.rows = [row(run=RUN, state="running"), row(run=told or "ended", state="failed")]
    forged = stamped(RUN, run_id=told)
    found = finding(fake, forged)
    assert found.reason.action is Action.KEEP
    assert found.reason == judge(forged, healer(fake).look([pod(run=RUN)])[forged.uid]).reason, (
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
