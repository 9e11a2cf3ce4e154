"""Every question of the second dialect, and every refusal, asked of real servers: Airflow 2.11 and 2.10."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from healer.airflow.api import dialect2 as two
from healer.airflow.api.credential import basic
from healer.airflow.api.dialect import Ask
from healer.airflow.api.reply import Problem
from healer.airflow.api.schema import Ids
from healer.airflow.api.task_key import TaskKey
from healer.model import TaskInstance
from tests.airflow.two import Told
from tests.airflow.two import ask as ask_over_http
from tests.lab.airflow2 import READ, Airflow2
from tests.lab.airflow_env import AIRFLOW_2
from tests.lab.airflow_seed import Dag, Run, Task

RUN = "scheduled__2026-01-01T00:00:00+00:00"
VIEWER = basic("viewer", "viewer")

Asked = Callable[..., Told]


@pytest.fixture(scope="module", params=list(AIRFLOW_2))
def lab(request: pytest.FixtureRequest, airflow2_of: Callable[[str], Airflow2]) -> Airflow2:
    running = airflow2_of(request.param)
    tasks = [
        Task("run", "running", xcom="pod-run"),
        Task("failed", "failed", try_number=2, max_tries=3),
        Task("cleared", None),
        Task("removed", "removed"),
        Task("skipped", "skipped", end_date=None),
        Task("m", "success", map_index=0, count=3, xcom="pod-{index}"),
        Task("later", "deferred", xcom="pod-later"),
    ]
    other = Dag("b", [Run(RUN, [Task("t", "failed")]), Run("manual__b", [Task("t", "success")])])
    running.seed([Dag("a", [Run(RUN, tasks)]), other, Dag("raw", [Run(RUN, [Task("t")])], serialized=False)])
    running.act("a", RUN, "later", "defer")
    return running


@pytest.fixture
def ask(lab: Airflow2) -> Asked:
    return lambda question, credential=VIEWER: ask_over_http(lab.url, question, credential)


def cell(task: str, dag: str = "a", run: str = RUN) -> TaskKey:
    return TaskKey(dag, run, task)


# Answers


def test_the_version_needs_no_login(lab: Airflow2, ask: Asked) -> None:
    assert ask(two.version(), None).value.split("+")[0] == lab.version


def test_dags_runs_and_tasks_are_listed(ask: Asked) -> None:
    everything = ask(two.dags(100)).value
    assert {"a", "b", "raw", "kpo_sync"} <= set(everything.ids)
    assert everything.total == len(everything.ids)
    assert ask(two.dags(1, 1)).value == Ids((sorted(everything.ids)[1],), everything.total)
    assert ask(two.runs("b", 100)).value == Ids(("manual__b", RUN), 2)
    assert ask(two.runs("~", 100)).value.total >= 4
    assert set(ask(two.tasks("a")).value.ids) == {"run", "failed", "cleared", "removed", "skipped", "m", "later"}


def test_the_tasks_of_a_run_are_listed_once_for_each_instance(ask: Asked) -> None:
    found = ask(two.tasks_of_run("a", RUN, 1000)).value
    assert (sorted(found.ids).count("m"), len(set(found.ids)), found.total) == (3, 7, 9)
    assert ask(two.tasks_of_run("a", "nothing", 1000)).value == Ids((), 0)


def test_dags_and_runs_exist(ask: Asked) -> None:
    assert ask(two.dag("a")).value == "a"
    assert ask(two.run("a", RUN)).value == RUN


@pytest.mark.parametrize(
    ("task", "index", "state", "number"),
    [
        ("run", -1, "running", 1),
        ("failed", -1, "failed", 2),
        ("cleared", -1, None, 1),
        ("removed", -1, "removed", 1),
        ("skipped", -1, "skipped", 1),
        ("later", -1, "deferred", 1),
        ("m", 0, "success", 1),
        ("m", 2, "success", 1),
    ],
)
def test_a_task_instance_is_the_same_alone_and_in_a_list(
    ask: Asked, task: str, index: int, state: str | None, number: int
) -> None:
    alone = ask(two.task_instance(cell(task), index)).value
    assert (alone.dag_id, alone.run_id, alone.task_id, alone.map_index) == ("a", RUN, task, index)
    assert (alone.state, alone.try_number, alone.operator) == (state, number, "KubernetesPodOperator")
    assert (alone.namespace, alone.base_container) == ("airflow", "base")
    assert (alone.end_date is None) == (state not in {"failed", "success"})
    listed = ask(two.listed((cell(task),), {})).value
    assert alone in listed.rows
    assert (listed.malformed, listed.short) == (0, False)


def test_a_list_is_a_cross_product_and_can_be_of_what_has_ended_lately(ask: Asked) -> None:
    chunk = (cell("failed"), cell("m"), cell("run"), cell("t", "b"))
    assert len(ask(two.listed(chunk, {})).value) == 6
    ended = {"state": ["failed", "skipped", "success", "upstream_failed"]}
    rows = ask(two.listed(chunk, ended)).value.rows
    assert sorted(row.task_id for row in rows) == ["failed", "m", "m", "m", "t"]
    since = dt.datetime.fromtimestamp(max(row.end_date or 0 for row in rows) + 60, dt.UTC).isoformat()
    assert ask(two.listed(chunk, {**ended, "end_date_gte": since})).value.rows == ()


def test_an_xcom_has_the_time_of_its_push(ask: Asked) -> None:
    found = ask(two.xcom(cell("run"), -1, "pod_name")).value
    assert found.value.text == "pod-run"
    assert found.pushed > ask(two.task_instance(cell("run"), -1)).value.start_date
    assert ask(two.xcom(cell("m"), 2, "pod_name")).value.value.text == "pod-2"
    assert ask(two.xcom(cell("m"), 2, "pod_namespace")).value.value.text == "airflow"


def test_notes_are_read_and_written(lab: Airflow2, ask: Asked) -> None:
    user = basic("user", "user")
    for index, task in ((-1, "skipped"), (1, "m")):
        assert ask(two.read_note(cell(task), index)).value is None
        assert ask(two.write_note(cell(task), index, "kpo-healer: x"), user).status == 200
        assert ask(two.read_note(cell(task), index)).value == "kpo-healer: x"
    assert ask(two.write_note(cell("skipped"), -1, "y")).status == 403
    assert ask(two.may_note("a", "no-run")).status == 403
    assert ask(two.may_note("a", "no-run"), user).none


# What is not there


ABSENT: list[tuple[str, Ask[Any]]] = [
    ("task", two.task_instance(cell("nothing"), -1)),
    ("task of a missing run", two.task_instance(cell("run", run="nothing"), -1)),
    ("task of a missing DAG", two.task_instance(cell("run", dag="nothing"), -1)),
    ("map index", two.task_instance(cell("m"), 3)),
    ("map index of an unmapped task", two.task_instance(cell("run"), 0)),
    ("unmapped instance of a mapped task", two.task_instance(cell("m"), -1)),
    ("run", two.run("a", "nothing")),
    ("run of a missing DAG", two.run("nothing", RUN)),
    ("DAG", two.dag("nothing")),
    ("tasks of a missing DAG", two.tasks("nothing")),
    ("tasks of a DAG that was not parsed", two.tasks("raw")),
    ("XCom", two.xcom(cell("failed"), -1, "pod_name")),
    ("XCom of a missing task", two.xcom(cell("nothing"), -1, "pod_name")),
    ("XCom of a missing run", two.xcom(cell("run", run="nothing"), -1, "pod_name")),
    ("XCom of a missing DAG", two.xcom(cell("run", dag="nothing"), -1, "pod_name")),
    ("XCom of a missing map index", two.xcom(cell("m"), 3, "pod_name")),
]


@pytest.mark.parametrize("question", [one for _, one in ABSENT], ids=[name for name, _ in ABSENT])
def test_airflow_says_that_there_is_none(ask: Asked, question: Ask[Any]) -> None:
    told = ask(question)
    assert (told.status, told.none) == (404, True)


def test_what_is_missing_from_lists_is_just_not_there(ask: Asked) -> None:
    assert ask(two.runs("nothing", 100)).value == Ids((), 0)
    assert ask(two.listed((cell("run", dag="nothing"), cell("run")), {})).value.total == 1


def test_a_404_of_something_else_is_no_proof(lab: Airflow2, ask: Asked) -> None:
    # A wrong path below the API, one beside it, a proxy that knows no such thing: none of them is Airflow's word.
    for path in ("/api/v1/dags/a/dagRuns/r/taskInstances/t/-1", "/api/v1/nothing", "/api/v2/dags/a", "/nothing"):
        for _, question in ABSENT:
            told = ask(msgspec.structs.replace(question, request=msgspec.structs.replace(question.request, path=path)))
            assert (told.status, told.none) == (404, False), path


def test_a_404_of_one_thing_is_no_proof_for_another(ask: Asked) -> None:
    said = [(ask(question).problem, name) for name, question in ABSENT]
    run, dag = two.run("a", "other").missing, two.dag("other").missing
    assert not any(run(404, problem) or dag(404, problem) for problem, _ in said)
    assert not any(two.run("a", "nothing").missing(404, problem) for problem, name in said if name != "run")
    assert not any(two.dag("nothing").missing(404, problem) for problem, name in said if name != "DAG")


# What is refused


def test_a_wrong_password_is_401_or_looks_like_a_missing_right(lab: Airflow2, ask: Asked) -> None:
    status = 403 if lab.version.startswith("2.11") else 401
    for credential in (basic("viewer", "wrong"), basic("nobody at all", "x"), None):
        for question in (two.task_instance(cell("run"), -1), two.listed((cell("run"),), {}), two.dag("nothing")):
            told = ask(question, credential)
            assert (told.status, told.none) == (status, False)
    assert ask(two.dag("a"), basic("nobody", "nobody")).problem == Problem("Forbidden")


def test_a_missing_right_is_403(lab: Airflow2, ask: Asked) -> None:
    for left_out in range(4):
        name = f"without-{READ[left_out][1].replace(' ', '-').lower()}"
        lab.add_user(name, [right for number, right in enumerate(READ) if number != left_out])
        login = basic(name, name)
        asked = [
            ask(two.dag("a"), login).status,
            ask(two.run("a", RUN), login).status,
            ask(two.task_instance(cell("run"), -1), login).status,
            ask(two.listed((cell("run"),), {}), login).status,
            ask(two.xcom(cell("run"), -1, "pod_name"), login).status,
        ]
        assert asked == FORBIDDEN[READ[left_out][1]], name


FORBIDDEN = {
    "DAGs": [403, 403, 403, 403, 403],
    "DAG Runs": [200, 403, 403, 403, 200],
    "Task Instances": [200, 200, 403, 403, 200],
    "XComs": [200, 200, 200, 200, 403],
}


def test_a_role_for_one_dag_gets_no_list_with_another(lab: Airflow2, ask: Asked) -> None:
    lab.add_user("only-a", [("can_read", "DAG:a"), *READ[1:]])
    login = basic("only-a", "only-a")
    assert ask(two.dags(100), login).value == Ids(("a",), 1)
    assert len(ask(two.listed((cell("run"),), {}), login).value) == 1
    for dag in ("b", "nothing"):
        told = ask(two.listed((cell("run"), cell("t", dag)), {}), login)
        assert (told.status, told.problem.title) == (403, "Forbidden")
        # Of a DAG that does not exist it is told the same as of one that it may not read: nothing.
        assert ask(two.dag(dag), login).status == 403
        assert ask(two.run(dag, RUN), login).status == 403
        assert ask(two.task_instance(cell("t", dag), -1), login).status == 403
        assert ask(two.xcom(cell("t", dag), -1, "pod_name"), login).status == 403
    assert [ask(two.may_list("nobody"), who).status for who in (login, VIEWER, basic("nobody", "nobody"))] == [
        200,
        200,
        403,
    ]


def test_what_no_list_takes_is_400_and_what_no_get_takes_is_a_page(ask: Asked) -> None:
    for filters in ({"order_by": "map_index"}, {"map_index": [0]}, {"state": ["nonsense"]}, {"end_date_gte": "2026"}):
        question = two.listed((cell("run"),), {})
        body = {**(question.request.body or {}), **filters}
        told = ask(msgspec.structs.replace(question, request=msgspec.structs.replace(question.request, body=body)))
        assert told.status == 400, filters


# Rows


def test_five_thousand_indices_come_in_one_answer(lab: Airflow2, ask: Asked) -> None:
    lab.seed([Dag("wide", [Run(RUN, [Task("m", "success", map_index=0, count=5000)])])])
    page = ask(two.listed((cell("m", "wide"),), {})).value
    # As many as a page of ours holds, and Airflow says that there are more: such a task is asked by index.
    assert (len(page), page.total, page.short) == (1000, 5000, True)
    assert ask(two.task_instance(cell("m", "wide"), 4999)).value.map_index == 4999
    lab.erase("wide")


def test_a_purged_run_and_then_its_dag_are_gone(lab: Airflow2, ask: Asked) -> None:
    lab.seed([Dag("purged", [Run(RUN, [Task("t", "failed", xcom="p")])])])
    lab.erase_run("purged", RUN)
    gone = cell("t", "purged")
    assert ask(two.task_instance(gone, -1)).none
    assert ask(two.run("purged", RUN)).none
    assert ask(two.dag("purged")).value == "purged"
    lab.erase("purged")
    assert ask(two.dag("purged")).none


def test_the_cluster_credentials_of_a_trigger_are_nowhere_in_what_is_read(lab: Airflow2, ask: Asked) -> None:
    assert "PLANTED-KUBECONFIG-TOKEN" in json.dumps(lab.task_instance("a", RUN, "later"))
    alone = ask(two.task_instance(cell("later"), -1)).value
    listed = ask(two.listed((cell("later"),), {})).value
    assert "PLANTED" not in repr(alone) + repr(listed)


def names(lab: Airflow2, ask: Asked, *events: Any) -> list[tuple[str | None, str | None]]:
    """What tells the tries apart, after each event."""
    seen: list[tuple[str | None, str | None]] = []
    for event in events:
        lab.act("tries", RUN, "t", event)
        row: TaskInstance = ask(two.task_instance(cell("t", "tries"), -1)).value
        assert row.state is not msgspec.UNSET
        seen.append((row.state, row.id))
    return seen


def test_a_try_has_a_name_of_its_own_which_it_keeps_over_a_deferral(lab: Airflow2, ask: Asked) -> None:
    lab.seed([Dag("tries", [Run(RUN, [Task("t", None, try_number=0, max_tries=0, start_date=None, end_date=None)])])])
    first = names(lab, ask, "schedule", "queue", "run", "defer", "resume", "queue", "run", "fail")
    assert len({name for _, name in first[2:]}) == 1
    (_, forced), (_, again) = names(lab, ask, "force", "fail")
    assert forced == again != first[-1][1]
    retried = names(lab, ask, "retry", "schedule", "queue", "run")
    assert len({name for _, name in retried} | {forced}) == 3
    (_, ended) = names(lab, ask, "fail")[0]
    lab.clear("tries", RUN, "t")
    cleared = ask(two.task_instance(cell("t", "tries"), -1)).value
    assert cleared.id != ended
    lab.erase("tries")


def test_an_xcom_of_the_try_before_does_not_count(lab: Airflow2, ask: Asked) -> None:
    task = Task("t", "running", xcom="pod-1")
    lab.seed([Dag("stale", [Run(RUN, [task])])])
    where = cell("t", "stale")

    def counted() -> bool:
        row = ask(two.task_instance(where, -1)).value
        return two.counts(row, ask(two.xcom(where, -1, "pod_name")).value)

    assert counted()
    for event in ("retry", "schedule", "queue"):
        lab.act("stale", RUN, "t", event)  # type: ignore[arg-type]
        assert counted()  # it has not started: nothing runs that it could be mistaken for
    lab.act("stale", RUN, "t", "run")
    assert not counted()
    lab.act("stale", RUN, "t", "begin")
    assert ask(two.xcom(where, -1, "pod_name")).none
    lab.set_xcom("stale", RUN, "t", "pod_name", "pod-2")
    assert counted()
    lab.erase("stale")
