"""The three questions asked of a real API server, as its least privileged user, in every known version."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from healer.airflow import Airflow as Asker
from healer.airflow import Call
from healer.airflow.api.credentials import Login
from healer.airflow.api.transport import AirflowRequest
from healer.config import AirflowConfig
from healer.decision.labels import safe_label
from healer.decision.rules import judge
from healer.errors import LoginRefusedError
from healer.model import (
    Absent,
    Ambiguous,
    Answer,
    DagDeleted,
    Known,
    Labels,
    NamedPods,
    Pod,
    RawIds,
    Reason,
    RunDeleted,
    Unknown,
)
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.processes import wait_for

RUN = "scheduled__2026-01-01T00:00:00+00:00"
OLD = ("3.0.6", "3.1.8", "3.2.2")
VERSIONS = (*OLD, "3.3.2")

_numbers = itertools.count()


def asker(lab: Airflow, calls: list[Call] | None = None, **fields: Any) -> Asker:
    """The healer's side, as viewer unless `fields` (YAML keys) say otherwise."""
    login = {} if {"token", "tokenFile"} & fields.keys() else {"username": "viewer", "password": "viewer"}
    config = {"name": "lab", "namespaces": ["airflow"], "url": lab.url, **login, **fields}
    return Asker(AirflowConfig.model_validate(config), observe=(calls if calls is not None else []).append)


def pod(dag: str, task: str, run: str = RUN, map_index: int = -1, **fields: Any) -> Pod:
    """The Pod of this task instance's first try."""
    number = next(_numbers)
    index = None if map_index < 0 else str(map_index)
    defaults: dict[str, Any] = {
        "namespace": "airflow",
        "name": f"pod-{number}",
        "uid": f"uid-{number}",
        "resource_version": "1",
        "created": 1767225602.0,
        "phase": "Running",
        "labels": Labels(safe_label(dag), safe_label(task), safe_label(run), index, "1"),
    }
    return Pod(**(defaults | fields))


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def state(answer: Answer) -> Any:
    assert isinstance(answer, Known), answer
    return answer.task.state


def used(calls: list[Call]) -> dict[str, int]:
    """How often each call was made."""
    return {name: sum(call.call == name for call in calls) for name in {call.call for call in calls}}


@pytest.fixture
def dag(request: pytest.FixtureRequest) -> str:
    """A DAG id of the test's own."""
    return f"q{next(_numbers)}_{request.node.name.partition('[')[0]}"[:200]


@pytest.fixture(params=VERSIONS)
def lab(request: pytest.FixtureRequest, airflow_of: Callable[[str], Airflow]) -> Airflow:
    """An API server of each known version in turn."""
    return airflow_of(request.param)


# --- in every version ---


def test_every_kind_of_answer(lab: Airflow, dag: str) -> None:
    """A viewer's right is enough for all of them."""
    long = dag + "_" + "x" * 70
    odd = "free text / with: signs"
    lab.seed(
        [
            Dag(dag, runs=[
                Run(RUN, tasks=[
                    Task("running"), Task("success", state="success"), Task("cleared", state=None),
                    Task("between", state="up_for_retry"), Task("mapped", state="failed", map_index=0, count=3),
                ]),
                Run(odd, tasks=[Task("t", state="skipped")]),
            ]),
            Dag(f"{dag}_2", runs=[Run(RUN, tasks=[Task("success", state="running")])]),
            Dag(long, runs=[Run(RUN, tasks=[Task("_t_", state="deferred")])]),
        ]
    )  # fmt: skip
    expected = {
        "running": pod(dag, "running"),
        "success": pod(dag, "success", phase="Succeeded"),
        None: pod(dag, "cleared"),
        "up_for_retry": pod(dag, "between"),
        "failed": pod(dag, "mapped", map_index=2, phase="Failed"),
        "skipped": pod(dag, "t", odd, phase="Failed"),
        "deferred": pod(long, "_t_"),
    }
    other = pod(f"{dag}_2", "success")
    airflow = asker(lab)
    answers = airflow.get_all([*expected.values(), other])
    assert {state(answers[p.uid]) for p in expected.values()} == expected.keys()
    assert [state(answers[p.uid]) for p in expected.values()] == list(expected)
    assert state(answers[other.uid]) == "running", "the other DAG's run of the same id"
    fresh = airflow.get_each([*expected.values(), other])
    assert [state(fresh[p.uid]) for p in expected.values()] == list(expected)
    row = answers[expected["running"].uid]
    assert isinstance(row, Known)
    assert (row.task.operator, row.task.namespace, row.task.base_container) == (
        "KubernetesPodOperator",
        "airflow",
        "base",
    )
    assert row.task.id
    assert row.task.try_number == 1


def test_what_has_ended_lately(lab: Airflow, dag: str) -> None:
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("a"), Task("b"), Task("c")])])])
    pods = [pod(dag, name, phase="Failed") for name in "abc"]
    airflow = asker(lab)
    airflow.get_all(pods)
    assert airflow.list_recently_ended(pods) == {}
    lab.act(dag, RUN, "b", "succeed")
    lab.act(dag, RUN, "c", "fail")
    answers = airflow.list_recently_ended(pods)
    assert {uid: state(answer) for uid, answer in answers.items()} == {pods[1].uid: "success", pods[2].uid: "failed"}


def test_every_absence(lab: Airflow, dag: str) -> None:
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t")]), Run("gone", tasks=[Task("t")], state="success")])])
    pods = {
        "task": pod(dag, "no-such-task"),
        "index": pod(dag, "t", map_index=3),
        "run": pod(dag, "t", "no-such-run"),
        "hashed": pod(dag, "t", "scheduled__2027-01-01T00:00:00+00:00"),
        "unresolved": pod(dag, "t", "not: there"),
        "dag": pod(f"{dag}_none", "t"),
        "deleted": pod(dag, "t", "gone"),
    }
    airflow = asker(lab)
    airflow.get_all(list(pods.values()))
    lab.delete_run(dag, "gone")
    for answers in (airflow.get_all(list(pods.values())), airflow.get_each(list(pods.values()))):
        found = {name: type(answers[one.uid]) for name, one in pods.items()}
        assert found == {
            "task": Absent,
            "index": Absent,
            "run": RunDeleted,
            "hashed": RunDeleted,
            "unresolved": Ambiguous,
            "dag": DagDeleted,
            "deleted": RunDeleted,
        }
    deleted = answers[pods["hashed"].uid]
    assert isinstance(deleted, RunDeleted)
    assert (deleted.dag_id, deleted.run_id) == (dag, "scheduled__2027-01-01T00:00:00+00:00")


def test_a_large_mapped_task(lab: Airflow, dag: str) -> None:
    """5,000 indices of which 100 have Pods: only the first look reads a page of rows that nobody wants."""
    lab.seed([Dag(dag, runs=[Run("r", tasks=[Task("m", map_index=0, count=100), Task("t")])])])
    old = "2026-01-01T00:00:00"
    lab.seed([Dag(dag, runs=[Run("r", tasks=[ended_task(old, 4900)])])])
    pods = [pod(dag, "m", "r", i) for i in range(100)] + [pod(dag, "t", "r")]
    calls: list[Call] = []
    airflow = asker(lab, calls)
    answers = airflow.get_all(pods)
    assert {state(answer) for answer in answers.values()} == {"running"}
    calls.clear()
    airflow.start_audit()
    answers = airflow.get_all(pods)
    assert {state(answer) for answer in answers.values()} == {"running"}
    assert sum(call.rows for call in calls if call.call != "task-instance") <= 101
    calls.clear()
    assert airflow.list_recently_ended(pods) == {}
    assert used(calls) == {"list": 1}
    assert sum(call.rows for call in calls) <= 5


def ended_task(when: str, count: int) -> Task:
    """Mapped task instances that ended long ago."""
    end = dt.datetime.fromisoformat(when).replace(tzinfo=dt.UTC)
    return Task("m", state="success", map_index=100, count=count, start_date=end, end_date=end)


def test_a_task_that_its_dag_has_no_more(lab: Airflow, dag: str) -> None:
    """Renamed or removed since: found among the task instances of the run, without a row in the audit table."""
    old, group = "extract_" + "x" * 70, "group." + "load_" * 15
    lab.seed([Dag(dag, runs=[Run("before", tasks=[Task("now")])])])
    tasks = [Task(old, state="failed"), Task(group, state="removed", map_index=0, count=9), Task("now")]
    lab.seed([Dag(dag, runs=[Run("r", tasks=tasks)])])
    pods = [pod(dag, old, "r", phase="Failed"), pod(dag, group, "r", map_index=7, phase="Failed")]
    calls: list[Call] = []
    answers = asker(lab, calls).get_all(pods)
    assert [(state(a), a.task.task_id) for p in pods if isinstance(a := answers[p.uid], Known)] == [
        ("failed", old),
        ("removed", group),
    ]
    assert (used(calls)["list-get"], used(calls)["list"]) == (1, 1)


def test_a_viewer_may_list_task_instances_and_that_costs_no_rows(lab: Airflow, dag: str) -> None:
    lab.seed([Dag(dag, runs=[Run("r", tasks=[Task("t")])])])
    calls: list[Call] = []
    assert asker(lab, calls)._begin().may_list()
    assert [(call.code, call.bytes < 1000) for call in calls if call.call == "list-get"] == [("200", True)]


def test_check_is_content_with_a_viewer(lab: Airflow, dag: str) -> None:
    lab.seed([Dag(dag)])
    found = asker(lab).probe()
    assert found.version == lab.version
    assert [check.status for check in found.checks] == ["ok"] * 7, found


# --- the newest one in depth ---


def test_retries_and_clears(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t", max_tries=5)])])])
    one = pod(dag, "t")
    airflow = asker(lab)
    airflow.get_all([one])
    seen = []
    for event in ("retry", "schedule", "queue", "run", "defer", "resume", "queue", "run", "succeed"):
        lab.act(dag, RUN, "t", event)  # type: ignore[arg-type]
        answer = only(airflow.get_each([one]))
        assert isinstance(answer, Known)
        seen.append((answer.task.state, answer.task.try_number))
        if event == "retry":
            assert judge(one, answer).reason is Reason.ADOPTABLE
    assert seen == [
        ("up_for_retry", 1),
        ("scheduled", 2),
        ("queued", 2),
        ("running", 2),
        ("deferred", 2),
        ("scheduled", 2),
        ("queued", 2),
        ("running", 2),
        ("success", 2),
    ]


def test_a_clear_changes_the_id(airflow_api: Airflow, dag: str) -> None:
    """Ended, cleared, ended again: another id each time, so that a suspicion starts anew."""
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t", state="success")])])])
    one = pod(dag, "t", phase="Failed")
    airflow = asker(lab)
    first = only(airflow.get_all([one]))
    lab.clear(dag, RUN, "t")
    cleared = only(airflow.get_each([one]))
    assert isinstance(first, Known)
    assert isinstance(cleared, Known)
    assert (first.task.state, cleared.task.state) == ("success", None)
    assert first.task.id != cleared.task.id
    assert judge(one, cleared).reason is Reason.ADOPTABLE


def test_a_running_task_that_is_cleared_is_restarting(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t")])])])
    one = pod(dag, "t")
    airflow = asker(lab)
    airflow.get_all([one])
    lab.clear(dag, RUN, "t")
    answer = only(airflow.get_each([one]))
    assert state(answer) == "restarting"
    assert judge(one, answer).reason is Reason.ADOPTABLE


@pytest.mark.parametrize("ended", ["success", "running"])
def test_a_run_id_that_is_another_ones_label(airflow_api: Airflow, dag: str, ended: str) -> None:
    lab = airflow_api
    other = {"success": "running", "running": "success"}[ended]
    twins = [Run(RUN, tasks=[Task("t", state=ended)]), Run(safe_label(RUN), tasks=[Task("t", state=other)])]
    lab.seed([Dag(dag, runs=twins)])
    one = pod(dag, "t", phase="Failed")
    airflow = asker(lab)
    for answers in (airflow.get_all([one]), airflow.get_each([one])):
        answer = only(answers)
        assert isinstance(answer, Ambiguous)
        assert "2 task instances" in answer.why
    assert airflow.list_recently_ended([one]) == {}


def test_identity_from_both_sources(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    tasks = [
        Task("none", state="success"),
        Task("store", state="success", pod="mine"),
        Task("xcom", state="success", xcom="mine"),
        Task("both", state="success", pod="other", xcom="mine"),
        Task("m", state="success", map_index=0, count=2, pod="store-{index}"),
    ]
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=tasks)])])
    expected: dict[str, set[tuple[str, str]]] = {
        "none": set(),
        "store": {("airflow", "mine")},
        "xcom": {("airflow", "mine")},
        "both": {("airflow", "other"), ("airflow", "mine")},
    }
    pods = {name: pod(dag, name, name="mine") for name in expected} | {"m": pod(dag, "m", map_index=1)}
    answers = asker(lab).get_all(list(pods.values()))
    found = {name: identity(answers[one.uid]) for name, one in pods.items()}
    assert {name: set(one.named) for name, one in found.items()} == expected | {"m": {("airflow", "store-1")}}
    assert all(one.failed is None for one in found.values())
    assert found["both"].names(pods["both"])


def identity(answer: Answer) -> NamedPods:
    assert isinstance(answer, Known)
    assert answer.identity is not None
    return answer.identity


@pytest.mark.parametrize("version", OLD)
def test_identity_without_a_state_store(airflow_of: Callable[[str], Airflow], version: str, dag: str) -> None:
    lab = airflow_of(version)
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t", state="success", xcom="mine"), Task("u", state="failed")])])])
    pods = [pod(dag, "t", name="mine"), pod(dag, "u")]
    calls: list[Call] = []
    answers = asker(lab, calls).get_all(pods)
    assert [set(identity(answers[p.uid]).named) for p in pods] == [{("airflow", "mine")}, set()]
    assert "state-store" not in used(calls)


def test_one_row_that_makes_the_page_a_500(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    tasks = [*(Task(f"t{i}") for i in range(99)), Task("poison")]
    lab.seed([Dag(dag, runs=[Run("r", tasks=tasks)])])
    lab.sql("update task_instance set context_carrier = '{}' where dag_id = ? and task_id = 'poison'", dag)
    pods = [pod(dag, task.task_id, "r") for task in tasks]
    calls: list[Call] = []
    answers = asker(lab, calls).get_all(pods)
    assert [task.task_id for task, p in zip(tasks, pods, strict=True) if isinstance(answers[p.uid], Unknown)] == [
        "poison"
    ]
    # Halving needs 2 log2(100) of them; a busy server may fail once or twice more for reasons of its own.
    assert used(calls)["list"] <= 30


def test_a_quiet_pass_over_more_than_200_live_runs(airflow_api: Airflow, dag: str) -> None:
    """The price that the docs name: calls, rows, bytes, and rows in Airflow's audit table."""
    lab = airflow_api
    dags = [
        Dag(f"{dag}_{i}", runs=[Run(f"manual__2026-01-01T00:00:00.{i:06}+00:00", tasks=[Task("a"), Task("b")])])
        for i in range(210)
    ]
    lab.seed(dags)
    pods = [pod(d.dag_id, task.task_id, run.run_id) for d in dags for run in d.runs for task in run.tasks]
    calls: list[Call] = []
    airflow = asker(lab, calls)
    answers = airflow.get_all(pods)
    assert {state(answer) for answer in answers.values()} == {"running"}
    assert used(calls)["list"] == 11
    calls.clear()
    audited = "select count(*), coalesce(max(length(extra)), 0) from log where event like '%task_instances_batch%'"
    (before, _), *_ = lab.sql(audited)
    assert airflow.list_recently_ended(pods) == {}
    (after, longest), *_ = lab.sql(audited)
    assert used(calls) == {"list": 2}
    assert sum(call.rows for call in calls) == 0
    assert sum(call.bytes for call in calls) < 1000
    assert after - before == 2
    assert longest < 40_000
    lab.act(dags[7].dag_id, dags[7].runs[0].run_id, "b", "succeed")
    calls.clear()
    (answer,) = airflow.list_recently_ended(pods).values()
    assert isinstance(answer, Known)
    assert answer.task.dag_id == dags[7].dag_id
    assert sum(call.rows for call in calls if call.call == "list") <= 2


def test_answers_longer_than_a_page(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(f"r{j}", tasks=[Task(f"t{i}") for i in range(50)]) for j in range(25)])])
    pods = [pod(dag, f"t{i}", f"r{j}") for i in range(50) for j in range(25)]
    calls: list[Call] = []
    answers = asker(lab, calls).get_all(pods)
    assert len(answers) == 1250
    assert {state(answer) for answer in answers.values()} == {"running"}
    assert max(call.rows for call in calls) <= 500


def test_a_page_limit_of_ten(dag: str) -> None:
    """`[api] maximum_page_limit` clamps GETs: of DAGs, of runs, and of a task that is too large for a list."""
    with Airflow.start(components=("api-server",), env={"AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "10"}) as lab:
        runs = [Run(f"run: {j}", tasks=[Task("t")]) for j in range(40)]
        lab.seed([Dag(f"{dag}_"), Dag(dag, runs=[*runs, Run("r", tasks=[Task("m", map_index=0, count=1200)])])])
        lab.seed([Dag(f"{dag}_", runs=[Run("r", tasks=[Task("t")])])])
        pods = [pod(dag, "t", "run: 3"), pod(f"{dag}_", "t", "r"), *(pod(dag, "m", "r", i) for i in range(60))]
        calls: list[Call] = []
        airflow = asker(lab, calls)
        answers = airflow.get_all(pods)
        assert {state(answer) for answer in answers.values()} == {"running"}
        calls.clear()
        answers = airflow.get_all(pods)
        assert {state(answer) for answer in answers.values()} == {"running"}
        assert used(calls) == {"list": 1, "list-get": 6}


def test_a_dag_that_is_not_serialized(airflow_api: Airflow, dag: str) -> None:
    """Its task instances are known all the same; of a run that it has not, the DAG's own 404 is all that is told.

    Whether a run is there that a label does not tell can't be known: the DAG has task instances, whatever its 404 says.
    """
    lab = airflow_api
    hidden = "a run with blanks"
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t")]), Run(hidden, tasks=[Task("t")])], serialized=False)])
    pods = [pod(dag, "t"), pod(dag, "t", "no-such-run"), pod(dag, "t", hidden), pod(f"{dag}-gone", "t", hidden)]
    answers = asker(lab).get_all(pods)
    assert state(answers[pods[0].uid]) == "running"
    assert isinstance(answers[pods[1].uid], DagDeleted)
    assert isinstance(answers[pods[2].uid], Ambiguous)
    assert isinstance(answers[pods[3].uid], DagDeleted)


@pytest.mark.parametrize("raw", ["m\0x", "m\U0001f600", "m\u202egpj", "m" * 251, "m\ud800", " m"])
def test_raw_ids_that_no_database_should_see(airflow_api: Airflow, dag: str, raw: str) -> None:
    """They are not believed, so that what stands beside them is answered in the same list."""
    airflow_api.seed([Dag(dag, runs=[Run("r", tasks=[Task("t")])])])
    forged = pod(dag, "t", "r", labels=Labels(safe_label(raw), "t", "r", None, "1"), raw=RawIds(raw, "t", "r"))
    honest = pod(dag, "t", "r")
    airflow = asker(airflow_api)
    answers = airflow.get_all([forged, honest])
    assert state(answers[honest.uid]) == "running"
    assert isinstance(answers[forged.uid], Ambiguous)
    assert airflow.set_aside == 0


@pytest.mark.parametrize("run", ["a/b", "a?b", "a#b", "a%2Fb", "a b", "{dag_id}", "..", "ü"])
def test_hostile_run_ids(airflow_api: Airflow, dag: str, run: str) -> None:
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(run, tasks=[Task("t")])])])
    label = safe_label(run)
    one = pod(dag, "t", run, labels=Labels(dag, "t", label, None, "1"))
    airflow = asker(lab)
    assert state(only(airflow.get_all([one]))) == "running"
    assert state(only(airflow.get_each([one]))) == "running"


# --- getting in ---


def test_an_expired_token_is_replaced(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t")])])])
    calls: list[Call] = []
    airflow = asker(lab, calls)
    one = pod(dag, "t")
    airflow.get_all([one])
    client = airflow._client
    login = client._asker(client.dialect).credentials
    assert isinstance(login, Login)
    login._token = expired(str(login._token), lab.environ["AIRFLOW__API_AUTH__JWT_SECRET"])
    calls.clear()
    assert state(only(airflow.get_all([one]))) == "running"
    assert [(call.call, call.code) for call in calls] == [("list", "401"), ("login", "201"), ("list", "200")]


def expired(token: str, secret: str) -> str:
    """The same token, but of long ago, signed as Airflow signs."""
    head, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims |= {"iat": 1_000_000_000, "nbf": 1_000_000_000, "exp": 1_000_003_600}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    signature = hmac.new(secret.encode(), f"{head}.{payload}".encode(), hashlib.sha512).digest()
    return f"{head}.{payload}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_a_revoked_token_is_replaced(airflow_api: Airflow, dag: str) -> None:
    lab = airflow_api
    lab.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t")])])])
    calls: list[Call] = []
    airflow = asker(lab, calls)
    one = pod(dag, "t")
    airflow.get_all([one])
    client = airflow._client
    credential = client._asker(client.dialect).credentials.current()
    client._transport.send(AirflowRequest("run", "/api/v2/auth/logout"), credential)
    calls.clear()
    assert state(only(airflow.get_all([one]))) == "running"
    assert [(call.call, call.code) for call in calls] == [("list", "403"), ("login", "201"), ("list", "200")]


def test_a_token_of_an_admin(airflow_api: Airflow, dag: str) -> None:
    airflow_api.seed([Dag(dag, runs=[Run(RUN, tasks=[Task("t")])])])
    assert state(only(asker(airflow_api, token=airflow_api.token("admin")).get_all([pod(dag, "t")]))) == "running"


@pytest.mark.parametrize("fields", [{"token": "no.such.token"}, {"username": "viewer", "password": "wrong"}])
def test_a_refused_login(airflow_api: Airflow, dag: str, fields: dict[str, str]) -> None:
    airflow = asker(airflow_api, **fields)
    answer = only(airflow.get_all([pod(dag, "t")]))
    assert isinstance(answer, Unknown)
    assert "refuse" in answer.why or "can't verify the token" in answer.why
    with pytest.raises(LoginRefusedError):
        airflow.login()


def test_an_address_that_is_not_the_root(airflow_api: Airflow, dag: str) -> None:
    for path in ("/docs", "/nowhere"):
        airflow = asker(airflow_api, url=airflow_api.url + path)
        answer = only(airflow.get_all([pod(dag, "t")]))
        assert isinstance(answer, Unknown)
        assert "without /api/v2" in answer.why or "without what follows" in answer.why, path


def test_a_server_that_stands_still_and_comes_back(dag: str) -> None:
    with Airflow.start(components=("api-server",)) as lab:
        lab.seed([Dag(dag, runs=[Run("r", tasks=[Task("t")])])])
        one = pod(dag, "t", "r")
        airflow = asker(lab, timeout="1s")
        wait_for(lambda: isinstance(only(airflow.get_all([one])), Known), what="the server's first answer")
        lab.api_server.freeze()
        for answers in (airflow.get_all([one]), airflow.list_recently_ended([one]), airflow.get_each([one])):
            answer = only(answers)
            assert isinstance(answer, Unknown)
            assert "no full answer within 1 s" in answer.why
        lab.api_server.thaw()
        wait_for(lambda: isinstance(only(airflow.get_each([one])), Known), what="an answer")
