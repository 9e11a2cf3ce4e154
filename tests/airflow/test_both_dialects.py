"""Both dialects ask the same: of the same rows Airflow 2.10, 2.11 and 3.3 give the same answers, but for their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from healer.airflow.api.credential import Credential, basic, bearer
from healer.airflow.api.dialect import Ask, Dialect
from healer.airflow.api.dialects import IN_TURN, Version, version_of
from healer.airflow.api.task_key import TaskKey
from healer.model import TaskInstance
from tests.airflow.two import Told
from tests.airflow.two import ask as ask_over_http
from tests.lab.airflow import Airflow
from tests.lab.airflow2 import Airflow2
from tests.lab.airflow_env import AIRFLOW_2, FULL
from tests.lab.airflow_seed import Dag, Run, Task

RUN = "scheduled__2026-01-01T00:00:00+00:00"
START, END = "2026-01-01T00:00:01+00:00", "2026-01-01T00:01:01.5+00:00"
TASKS: list[Task] = [
    Task("run", "running", start_date=START, xcom="pod-run"),  # type: ignore[arg-type]
    Task("failed", "failed", try_number=2, max_tries=3, start_date=START, end_date=END),  # type: ignore[arg-type]
    Task("cleared", None, start_date=None, end_date=None),
    Task("removed", "removed", start_date=START, end_date=None, rendered=None),  # type: ignore[arg-type]
    Task("m", "success", map_index=0, count=3, start_date=START, end_date=END),  # type: ignore[arg-type]
    Task("python", "success", operator="PythonOperator", start_date=START, end_date=END),  # type: ignore[arg-type]
]


@pytest.fixture(scope="module", params=[*AIRFLOW_2, FULL])
def lab(
    request: pytest.FixtureRequest,
    airflow2_of: Callable[[str], Airflow2],
    airflow_of: Callable[[str], Airflow],
) -> Airflow:
    running = airflow_of(FULL) if request.param == FULL else airflow2_of(request.param)
    running.seed([Dag("both", [Run(RUN, TASKS)])])
    return running


@pytest.fixture
def ask(lab: Airflow) -> Callable[[Ask[Any]], Told]:
    login: Credential = basic("viewer", "viewer") if lab.version in AIRFLOW_2 else bearer(lab.token("viewer"))
    return lambda question: ask_over_http(lab.url, question, login)


@pytest.fixture
def dialect(lab: Airflow) -> Dialect:
    version = version_of(lab.version)
    assert isinstance(version, Version)
    return version.dialect


def cell(task: str, dag: str = "both", run: str = RUN) -> TaskKey:
    return TaskKey(dag, run, task)


def test_a_server_tells_its_version_to_its_own_dialect_alone(lab: Airflow, dialect: Dialect) -> None:
    told = {each: ask_over_http(lab.url, each.version(), None) for each in IN_TURN}
    assert {each: answer.status for each, answer in told.items() if each is not dialect} == {
        each: 404 for each in IN_TURN if each is not dialect
    }
    assert told[dialect].value == lab.version


def common(task: TaskInstance) -> TaskInstance:
    return replace(task, id=None)


def expected(task: str, index: int = -1, **fields: Any) -> TaskInstance:
    usual: Mapping[str, Any] = {
        "operator": "KubernetesPodOperator",
        "try_number": 1,
        "start_date": 1767225601.0,
        "end_date": 1767225661.5,
        "base_container": "base",
        "namespace": "airflow",
    }
    return TaskInstance("both", RUN, task, index, **{**usual, **fields})


ROWS = [
    expected("run", state="running", end_date=None),
    expected("failed", state="failed", try_number=2),
    expected("cleared", state=None, start_date=None, end_date=None),
    expected("removed", state="removed", end_date=None, base_container=None, namespace=None),
    expected("m", 0, state="success"),
    expected("m", 2, state="success"),
    expected("python", state="success", operator="PythonOperator"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.task_id}-{row.map_index}")
def test_a_row_is_read_alike(ask: Callable[[Ask[Any]], Told], dialect: Dialect, row: TaskInstance) -> None:
    found = ask(dialect.task_instance(cell(row.task_id), row.map_index)).value
    assert common(found) == row
    assert found.id
    assert found in ask(dialect.listed((cell(row.task_id),), {})).value.rows


def test_lists_are_alike(ask: Callable[[Ask[Any]], Told], dialect: Dialect) -> None:
    chunk = tuple(cell(task.task_id) for task in TASKS)
    page = ask(dialect.listed(chunk, {})).value
    assert (len(page), page.total, page.malformed) == (8, 8, 0)
    assert {common(row) for row in page.rows} >= set(ROWS)
    lately = {"state": ["failed", "skipped", "success", "upstream_failed"], "end_date_gte": "2026-01-01T00:01:00+00:00"}
    assert len(ask(dialect.listed(chunk, lately)).value) == 5
    assert ask(dialect.listed(chunk, {**lately, "end_date_gte": "2026-01-01T00:02:00+00:00"})).value.rows == ()
    assert ask(dialect.may_list("nobody")).status == 200
    assert sorted(ask(dialect.tasks_of_run("both", RUN, 100)).value.ids).count("m") == 3
    assert set(ask(dialect.tasks("both")).value.ids) == {task.task_id for task in TASKS}
    assert ask(dialect.runs("both", 100)).value.ids == (RUN,)
    assert "both" in ask(dialect.dags(100)).value.ids
    assert ask(dialect.dag("both")).value == "both"
    assert ask(dialect.run("both", RUN)).value == RUN


def test_what_is_not_there_is_said_alike(ask: Callable[[Ask[Any]], Told], dialect: Dialect) -> None:
    questions: list[Ask[Any]] = [
        dialect.dag("nothing"),
        dialect.run("both", "nothing"),
        dialect.run("nothing", RUN),
        dialect.tasks("nothing"),
        dialect.task_instance(cell("nothing"), -1),
        dialect.task_instance(cell("m"), 9),
        dialect.task_instance(cell("m"), -1),
        dialect.task_instance(cell("run"), 0),
        dialect.task_instance(cell("run", run="nothing"), -1),
        dialect.xcom(cell("failed"), -1, "pod_name"),
    ]
    assert [(told.status, told.none) for told in map(ask, questions)] == [(404, True)] * len(questions)
    api = dialect.version().request.path.removesuffix("/version")
    wrong = [replace(each, request=replace(each.request, path=f"{api}/nothing")) for each in questions]
    assert not any(told.none for told in map(ask, wrong))


def test_identity_and_notes_are_alike(ask: Callable[[Ask[Any]], Told], dialect: Dialect) -> None:
    found = ask(dialect.xcom(cell("run"), -1, "pod_name")).value
    row = ask(dialect.task_instance(cell("run"), -1)).value
    assert found.value.text == "pod-run"
    assert dialect.counts(row, found)
    assert ask(dialect.read_note(cell("run"), -1)).value is None
    assert ask(dialect.write_note(cell("run"), -1, "x")).status == 403
    assert ask(dialect.may_note("both", "nobody")).status == 403
    for told in (ask(dialect.write_note(cell("run"), -1, "x")), ask(dialect.may_note("both", "nobody"))):
        assert not told.none
