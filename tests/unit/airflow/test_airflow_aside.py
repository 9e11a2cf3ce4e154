"""One bad thing does not hold up the rest: what is refused is found, set aside, and asked again last and alone.

Every bound is a count of what the server saw: requests, bytes and rows of its audit table (one for each POST).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from healer.airflow import Airflow
from healer.airflow.queries import list_query, resolver
from healer.airflow.queries.list_query import MOST_ALONE, MOST_HALVED, MOST_LISTS
from healer.airflow.queries.turns import AGAIN, NOT_YET, Turns
from healer.clock import boottime
from healer.config import Config
from healer.decision.labels import safe_label
from healer.decision.quarantine import Now
from healer.model import Ambiguous, Answer, Container, Known, Labels, PassKind, Pod, RawIds, Unknown
from healer.reconciler import Dependencies, Reconciler
from healer.telemetry.metrics import Metrics
from tests.unit.airflow_fake import START, Asked, FakeAirflow, Reply, config, error, healer, kinds, pod, row, serving
from tests.unit.fakes import Clock, FakeCluster, FakeRecorder

Fault = Callable[[Asked], Reply | None]

END = "2026-01-01T00:30:00Z"
RETRY = {"Retry-After": "60"}


AIRFLOW_3 = pytest.mark.parametrize("fake", ["3.3.2"], indirect=True)
"""What Airflow 2 has not: task instance ids, a state store, filters by map index and by the beginning of a run's id."""


@pytest.fixture(params=["3.3.2", "2.11.2"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeAirflow]:
    with serving(version=request.param) as server:
        yield server


def names(asked: Asked) -> set[str]:
    """The DAGs, runs and tasks that a question about task instances holds."""
    if asked.is_list:
        return {name for key in ("dag_ids", "dag_run_ids", "task_ids") for name in asked.body.get(key, ())}
    return set(asked.path.split("/")) if "/taskInstances" in asked.path else set()


def refusing(bad: Collection[str], reply: Reply, *, only_lists: bool = False) -> Fault:
    """Fail on each question about task instances that holds one of these names."""
    found = set(bad)

    def intercept(asked: Asked) -> Reply | None:
        return reply if (asked.is_list or not only_lists) and names(asked) & found else None

    return intercept


class Load:
    """What a server has seen since the mark."""

    def __init__(self, fake: FakeAirflow) -> None:
        self._fake = fake
        self.mark()

    def mark(self) -> None:
        self._fake.asked.clear()

    @property
    def audit_rows(self) -> int:
        return sum(asked.method == "POST" and "/api/" in asked.path for asked in self._fake.asked)

    @property
    def calls(self) -> int:
        return len(self._fake.asked)

    @property
    def sent(self) -> int:
        return sum(len(json.dumps(asked.body)) for asked in self._fake.asked if asked.is_list)


# --- lists ------------------------------------------------------------------------------------------------------------

REFUSALS = {
    "500": error(500, "KeyError: '__var'"),
    "database": error(500, {"reason": "Database error", "message": "NUL"}),
    "422": error(422, "Invalid input"),
    "400": error(400, "DataError"),
    "413": Reply(413, b"<html>too large", {"Content-Type": "text/html"}),
    "414": Reply(414, b"", {"Content-Type": "text/html"}),
    "431": Reply(431, b""),
    "403 of a gateway": Reply(403, b"<html>blocked", {"Content-Type": "text/html"}),
    "404": error(404, "Dag not found"),
    "blocked with 200": Reply(200, b"<html>blocked", {"Content-Type": "text/html"}),
    "not JSON": Reply(200, b"{"),
    "another shape": Reply(200, {"task_instances": 7}),
    "redirected": Reply(302, b"", {"Location": "/blocked"}),
    "broken off": Reply(fault="reset"),
    "cut off": Reply(200, {"task_instances": [], "total_entries": 0}, fault="cut"),
    "503": Reply(503, b"<html>", {"Content-Type": "text/html"}),
    "410": error(410, "gone"),
    "429 that does not say when": Reply(429, {"detail": "slow down"}),
    "429 of a gateway": Reply(429, b"<html>", {"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS.keys())
@pytest.mark.parametrize("bad", [["d05"], [f"d{n:02}" for n in range(20, 31)]], ids=["1", "11"])
def test_whatever_one_dag_is_refused_for_the_others_are_answered(
    fake: FakeAirflow, reply: Reply, bad: list[str]
) -> None:
    fake.rows = [row(dag=f"d{n:02}", run="r") for n in range(40)]
    pods = [pod(dag=f"d{n:02}", run="r") for n in range(40)]
    fake.intercept = refusing(bad, reply)
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert [p.labels.dag_id for p in pods if not isinstance(answers[p.uid], Known)] == bad
        assert airflow.set_aside == len(bad)
    # Each is asked once more where the connection broke.
    assert len(fake.lists()) <= 3 + 2 * len(bad) * 6 * (1 + (reply.fault is not None))


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS.keys())
@pytest.mark.parametrize("bad", [["t05"], [f"t{n:02}" for n in range(20, 31)]], ids=["1", "11"])
def test_whatever_one_task_is_refused_for_the_others_of_its_dag_are_answered_in_the_same_pass(
    fake: FakeAirflow, reply: Reply, bad: list[str]
) -> None:
    fake.rows = [row(task=f"t{n:02}", run="r") for n in range(40)]
    pods = [pod(task=f"t{n:02}", run="r") for n in range(40)]
    fake.intercept = refusing(bad, reply)
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert [p.labels.task_id for p in pods if not isinstance(answers[p.uid], Known)] == bad
        assert airflow.set_aside == len(bad)
    tries = 1 + (reply.fault is not None)
    assert len(fake.lists()) <= 3 + 2 * len(bad) * 6 * tries
    # Version and login; a few probes of the DAG, of lists, of the server; each bad one alone in either pass.
    assert len(fake.asked) <= len(fake.lists()) + 8 + 2 * len(bad) * tries


@pytest.mark.parametrize("status", [400, 422, 500])
def test_of_what_a_server_says_at_length_the_beginning_is_told(fake: FakeAirflow, status: int) -> None:
    fake.rows = [row(task=task, run="r") for task in ("good", "bad")]
    pods = [pod(task=task, run="r") for task in ("good", "bad")]
    fake.intercept = refusing(["bad"], error(status, f"SELECT {'x' * 1_000_000}"))
    good, bad = healer(fake).get_all(pods).values()
    assert isinstance(good, Known)
    assert isinstance(bad, Unknown)
    assert f"answered {status}: SELECT xxx" in bad.why
    assert len(bad.why) < 500, "it is in the log, in Events and in the memory, once for each Pod"


@pytest.mark.parametrize("status", [403, 404])
def test_a_dag_that_is_refused_whole_costs_one_question_more_and_is_not_halved(fake: FakeAirflow, status: int) -> None:
    dags = [f"d{n:02}" for n in range(20)]
    fake.rows = [row(dag=dag, task=f"t{m}", run="r") for dag in dags for m in range(10)]
    pods = [pod(dag=dag, task=f"t{m}", run="r") for dag in dags for m in range(10)]
    fake.intercept = refusing(dags[5:15], error(status, "no"))
    answers = healer(fake).get_all(pods)
    assert {p.labels.dag_id for p in pods if not isinstance(answers[p.uid], Known)} == set(dags[5:15])
    assert len(fake.lists()) <= 2 * 20, "down to the DAG and no further"
    assert len([asked for asked in fake.asked if asked.path.endswith("/dagRuns/~/taskInstances")]) == 10


def test_a_429_stops_the_pass_when_a_question_that_depends_on_nothing_gets_one_too(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{n:03}", run="r") for n in range(400)]
    pods = [pod(dag=f"d{n:03}", run="r") for n in range(400)]
    fake.intercept = lambda asked: error(429, "slow down") if len(fake.lists()) > 3 and "/dags" in asked.path else None
    answers = healer(fake).get_all(pods)
    assert kinds(answers, pods) == ["Known"] * 60 + ["Unknown"] * 340
    assert [asked.path.endswith("/dags") for asked in fake.asked[-2:]] == [False, True], "and nothing more"


def spread(count: int, among: int, how: str) -> list[int]:
    """Where bad ones are among others: first, last, in the middle, or all over."""
    begin = {"first": 0, "last": among - count, "middle": (among - count) // 2, "all over": 0}[how]
    step = among // count if how == "all over" else 1
    return [begin + step * n for n in range(count)]


@pytest.mark.parametrize("where", ["first", "last", "middle", "all over"])
@pytest.mark.parametrize(("count", "only_lists"), [(1, False), (11, False), (1000, False), (1000, True)])
def test_bad_rows_hold_up_nobody_however_many_there_are_and_wherever_they_sort(
    fake: FakeAirflow, count: int, where: str, only_lists: bool
) -> None:
    among = 1200
    tasks = [f"t{n:04}" for n in range(among)]
    bad = {tasks[n] for n in spread(count, among, where)}
    fake.rows = [row(task=task, run="r", state="queued") for task in tasks]
    pods = [pod(task=task, run="r") for task in tasks]
    fake.intercept = refusing(bad, error(500, "KeyError"), only_lists=only_lists)
    airflow, load = healer(fake), Load(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        good = [p for p in pods if p.labels.task_id not in bad]
        assert {type(answers[p.uid]).__name__ for p in good} == {"Known"}
    assert load.audit_rows <= 2 * (10 + 2 * MOST_HALVED)
    assert load.calls <= 2 * (10 + 3 * MOST_HALVED + MOST_ALONE)
    if not only_lists:
        assert airflow.set_aside == count


def test_what_is_set_aside_is_asked_alone_and_last_and_the_rest_as_if_it_were_not_there(fake: FakeAirflow) -> None:
    tasks = [f"t{n:03}" for n in range(200)]
    fake.rows = [row(task=task, run="r") for task in tasks]
    pods = [pod(task=task, run="r") for task in tasks]
    bad = set(tasks[50:150])
    fake.intercept = refusing(bad, error(500, "KeyError"))
    airflow, load = healer(fake), Load(fake)
    airflow.get_all(pods)
    for _ in range(3):
        load.mark()
        answers = airflow.get_all(pods)
        assert [len(body["task_ids"]) for body in fake.lists()] == [100], "one list of all that is well"
        asked = [asked for asked in fake.asked if "/taskInstances" in asked.path]
        assert [bool(names(each) & bad) for each in asked] == [False] + [True] * AGAIN, "and then the others"
        assert load.calls <= len(asked) + 2, "and whether it is the server that fails"
        assert load.audit_rows == 1
    told = answers[pods[60].uid]
    assert isinstance(told, Unknown)
    assert told.why.startswith("set aside, and asked again alone after all others: ")
    assert "answered 500: KeyError" in told.why


def test_each_of_those_set_aside_has_its_turn(fake: FakeAirflow) -> None:
    tasks = [f"t{n:03}" for n in range(100)]
    pods = [pod(task=task, run="r") for task in tasks]
    fake.intercept = refusing(tasks, error(500, "KeyError"))
    airflow = healer(fake)
    airflow.get_all(pods)
    fake.asked.clear()
    for _ in range(100 // AGAIN):
        airflow.get_all(pods)
    assert {asked.path.split("/")[-2] for asked in fake.asked if "/taskInstances/t" in asked.path} == set(tasks)
    assert fake.lists() == []


def test_what_is_well_again_comes_back_soon_and_is_listed_with_the_others(fake: FakeAirflow) -> None:
    tasks = [f"t{n:03}" for n in range(300)]
    fake.rows = [row(task=task, run="r") for task in tasks]
    pods = [pod(task=task, run="r") for task in tasks]
    fake.intercept = refusing(tasks[:250], error(500, "KeyError"))
    airflow = healer(fake)
    airflow.get_all(pods)
    assert airflow.set_aside == 250
    fake.intercept = lambda _: None
    airflow.start_audit()
    passes = 0
    while airflow.set_aside:
        answers, passes = airflow.get_all(pods), passes + 1
    assert passes <= 3
    answers = airflow.get_all(pods)
    fake.asked.clear()
    answers = airflow.get_all(pods)
    assert set(kinds(answers, pods)) == {"Known"}
    assert [len(body["task_ids"]) for body in fake.lists()] == [300]
    assert len(fake.asked) == 1


def test_a_pass_query_is_one_call_and_a_few_about_what_is_set_aside(fake: FakeAirflow) -> None:
    tasks = [f"t{n:03}" for n in range(300)]
    fake.rows = [row(task=task, run="r") for task in tasks]
    pods = [pod(task=task, run="r") for task in tasks]
    airflow = healer(fake)
    airflow.get_all(pods)
    fake.intercept = refusing(tasks[100:200], error(500, "KeyError"))
    airflow.list_recently_ended(pods)
    fake.rows[0] |= {"state": "failed", "end_date": END}
    for _ in range(3):
        fake.asked.clear()
        answers = airflow.list_recently_ended(pods)
        assert isinstance(answers.pop(pods[0].uid), Known)
        assert answers.keys() == {p.uid for p in pods[100:200]}, "and of these nothing is known"
        assert len(fake.lists()) == 1
        assert len(fake.asked) <= 1 + AGAIN + 2 + 2, "identity of the orphan, and whether it is the server that fails"


@AIRFLOW_3
def test_one_bad_map_index_does_not_hold_up_its_task(fake: FakeAirflow) -> None:
    fake.rows = [row(task="m", run="r", map_index=n) for n in range(400)]
    pods = [pod(task="m", run="r", map_index=n) for n in range(400)]

    def intercept(asked: Asked) -> Reply | None:
        indices = {value for key, value in asked.query if key == "map_index"}
        whole = "m" in (asked.body or {}).get("task_ids", ()) or asked.path.endswith("/m/177") or "177" in indices
        return error(500, "KeyError") if whole and "/taskInstances" in asked.path else None

    fake.intercept = intercept
    airflow = healer(fake)
    for _ in range(3):
        fake.asked.clear()
        answers = airflow.get_all(pods)
        assert [n for n, p in enumerate(pods) if not isinstance(answers[p.uid], Known)] == [177]
    assert airflow.set_aside == 1
    assert len(fake.asked) <= 400 / 50 + 2, "the others by their indices, fifty at a time"


@AIRFLOW_3
def test_a_bad_row_among_indices_that_have_no_pod_costs_nobody_his_answer(fake: FakeAirflow) -> None:
    fake.rows = [row(task="m", run="r", map_index=n) for n in range(400)] + [row(task="t", run="r")]
    pods = [pod(task="m", run="r", map_index=n) for n in range(10)] + [pod(task="t", run="r")]
    fake.intercept = refusing({"m"}, error(500, "KeyError"), only_lists=True)
    airflow = healer(fake)
    for audit in (False, False, True, False, False):
        if audit:
            airflow.start_audit()
        fake.asked.clear()
        assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}
    assert len(fake.asked) == 2, "one list of the other task, one of these indices"


def test_ids_that_fit_into_no_url_are_set_aside_too(fake: FakeAirflow) -> None:
    runs = [f"a/{n:02}" for n in range(30)]
    fake.rows = [row(run=run) for run in [*runs, "r"]]
    pods = [pod(run=run) for run in [*runs, "r"]]
    for n, one in enumerate(pods[:-1]):
        pods[n] = replace(one, raw=RawIds("d", "t", runs[n]))
    fake.intercept = refusing(runs[3:14], error(500, "KeyError"))
    airflow = healer(fake)
    for _ in range(3):
        fake.asked.clear()
        answers = airflow.get_all(pods)
        assert [n for n, p in enumerate(pods) if not isinstance(answers[p.uid], Known)] == [*range(3, 14)]
    assert len(fake.lists()) <= 1 + 11


def test_a_dag_that_may_not_be_read_is_set_aside_whole_and_the_others_are_not(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{n}", task=f"t{m}", run="r") for n in range(10) for m in range(30)]
    pods = [pod(dag=f"d{n}", task=f"t{m}", run="r") for n in range(10) for m in range(30)]
    fake.intercept = refusing({"d3", "d8"}, error(403, "Forbidden"))
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert {p.labels.dag_id for p in pods if not isinstance(answers[p.uid], Known)} == {"d3", "d8"}
    assert len(fake.lists()) <= 2 + 2 * 2 * 4, "down to the DAG and no further"


@pytest.mark.parametrize("count", [1, 11])
def test_a_row_without_ids_keeps_only_those_whose_row_it_may_be(fake: FakeAirflow, count: int) -> None:
    """All runs here have labels that may stand for another run, so that a row without ids may be anybody's."""
    runs = [f"scheduled__2026-01-01T{n // 60:02}:{n % 60:02}:00+00:00" for n in range(200)]
    fake.rows = [row(run=run) for run in runs]
    for bad in fake.rows[90 : 90 + count]:
        bad["map_index"] = "none"
    pods = [pod(run=run) for run in runs]
    airflow = healer(fake)
    for _ in range(3):
        fake.asked.clear()
        answers = airflow.get_all(pods)
        assert [n for n, p in enumerate(pods) if not isinstance(answers[p.uid], Known)] == [*range(90, 90 + count)]
        assert airflow.set_aside == count
    assert len(fake.lists()) <= 3, "of at most 200 runs"


def test_lists_that_take_too_long_stay_behind_the_others_from_audit_to_audit(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{n:03}", run="r") for n in range(200)]
    pods = [pod(dag=f"d{n:03}", run="r") for n in range(200)]
    slow = {f"d{n:03}" for n in range(60)}
    fake.intercept = refusing(slow, Reply(504, b""))
    airflow = healer(fake)
    airflow.get_all(pods)
    for _ in range(3):
        airflow.start_audit()
        answers = airflow.get_all(pods)
        assert {p.labels.dag_id for p in pods if isinstance(answers[p.uid], Unknown)} == slow
        assert airflow.set_aside == 0, "that is the server's"


# --- when it is the server that fails ---------------------------------------------------------------------------------

DOWN = {
    "401": (error(401, "Not authenticated"), 8),
    "429": (Reply(429, {"detail": "slow down"}), 4),
    "503 that says when": (Reply(503, b"", RETRY), 4),
    "500": (error(500, {"reason": "Database error"}), 30),
    "502": (Reply(502, b"<html>", {"Content-Type": "text/html"}), 30),
    "reset": (Reply(fault="reset"), 60),
    "login page": (Reply(200, b"<html>", {"Content-Type": "text/html"}), 8),
    "login page elsewhere": (Reply(302, b"", {"Location": "/login"}), 8),
    "no such path": (error(404, "Not Found"), 8),
}


@pytest.mark.parametrize(("reply", "most"), DOWN.values(), ids=DOWN.keys())
def test_a_server_that_fails_is_not_asked_on_and_nothing_is_set_aside(
    fake: FakeAirflow, reply: Reply, most: int
) -> None:
    pods = [pod(dag=f"d{n:03}", task=f"t{m}", run="r") for n in range(100) for m in range(5)]
    airflow = healer(fake)
    fake.intercept = lambda asked: reply if "/dags" in asked.path else None
    for _ in range(2):
        fake.asked.clear()
        assert set(kinds(airflow.get_all(pods), pods)) == {"Unknown"}
        assert len(fake.asked) <= most
        assert airflow.set_aside == 0


def test_timeouts_in_a_row_stop_the_question_and_the_next_one_begins_with_the_others(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{n:03}", run="r") for n in range(200)]
    pods = [pod(dag=f"d{n:03}", run="r") for n in range(200)]
    slow = {f"d{n:03}" for n in range(60)}
    fake.intercept = refusing(slow, Reply(504, b""))
    airflow = healer(fake)
    assert set(kinds(airflow.get_all(pods), pods)) == {"Unknown"}
    assert len(fake.lists()) == 3
    answers = airflow.get_all(pods)
    assert {p.labels.dag_id for p in pods if isinstance(answers[p.uid], Unknown)} == slow


# --- look-ups, absence, identity --------------------------------------------------------------------------------------


def orphans(count: int, dag: str = "d") -> tuple[list[dict[str, Any]], list[Pod]]:
    rows = [row(dag=dag, task=f"t{n:03}", run="r", state="failed", end_date=END) for n in range(count)]
    return rows, [pod(dag=dag, task=f"t{n:03}", run="r") for n in range(count)]


def failing(part: str, bad: Collection[str]) -> Fault:
    """Fail on paths that hold this part and one of these names."""
    return lambda asked: error(500, "bug") if part in asked.path and set(asked.path.split("/")) & set(bad) else None


def is_named(answer: Answer) -> bool:
    """Whether it is known which Pod Airflow names."""
    return isinstance(answer, Known) and answer.identity is not None and answer.identity.failed is None


@pytest.mark.parametrize("count", [1, 30])
def test_a_dag_that_cannot_be_listed_is_no_sign_that_the_server_fails(fake: FakeAirflow, count: int) -> None:
    rows, pods = orphans(40)
    fake.rows = [*rows, row(dag="!")]
    source = "state-store" if fake.version.startswith("3") else "xcomEntries"
    bad = failing(source, [f"t{n:03}" for n in range(count)])
    dags = "/api/v2/dags"
    fake.intercept = lambda asked: (
        error(500, "KeyError") if asked.path == dags and int(dict(asked.query)["offset"]) == 0 else bad(asked)
    )
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert [is_named(answers[p.uid]) for p in pods] == [False] * count + [True] * (40 - count)
        assert airflow.set_aside == count
    assert airflow.login() is None


@AIRFLOW_3
@pytest.mark.parametrize("count", [1, 11, 300])
def test_identity_that_fails_for_some_does_not_stop_that_of_others(fake: FakeAirflow, count: int) -> None:
    fake.rows, pods = orphans(400)
    bad = [f"t{n:03}" for n in range(50, 50 + count)]
    fake.intercept = failing("/state-store/", bad)
    airflow = healer(fake)
    for n in range(3):
        fake.asked.clear()
        answers = airflow.get_all(pods)
        assert [p.labels.task_id for p in pods if not is_named(answers[p.uid])] == bad
        assert airflow.set_aside == count
        assert n == 0 or len(fake.paths(part="state-store")) == min(count, AGAIN)
    assert len(fake.lists()) == 1


def test_identity_that_fails_for_all_leaves_the_lists_alone(fake: FakeAirflow) -> None:
    fake.rows, pods = orphans(100)
    fake.rows += [row(dag="z", task=f"t{n}", run="r") for n in range(30)]
    pods += [pod(dag="z", task=f"t{n}", run="r") for n in range(30)]
    fake.intercept = lambda asked: error(500, "bug") if "state-store" in asked.path else None
    airflow = healer(fake)
    for _ in range(3):
        assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}


HOURS = [f"x__20{n // 700:02}-{n % 12 + 1:02}-{n // 24 % 28 + 1:02}T{n % 24:02}0000-{n:09x}" for n in range(1000)]


def forged_runs(count: int, dag: str = "d") -> list[Pod]:
    made = []
    for n, label in enumerate(HOURS[:count]):
        one = pod(dag=dag)
        made.append(replace(one, uid=f"u{n}", name=f"p{n}", labels=replace(one.labels, run_id=label)))
    return made


@AIRFLOW_3
def test_a_thousand_hours_in_labels_are_looked_up_in_turn_and_an_honest_dag_comes_first(fake: FakeAirflow) -> None:
    run = "operator_triggered__2026-01-01T00:00:00.123456+00:00_aBcD1234"
    fake.rows = [row(), row(dag="z", run=run)]
    honest, forged = pod(dag="z", run=run), forged_runs(1000)
    airflow, seen = healer(fake), Counter[str]()
    for n in range(12):
        fake.asked.clear()
        answers = airflow.get_all([*forged, honest])
        assert len(fake.asked) <= 200 + 200 * 5 + 10
        assert isinstance(answers[honest.uid], Known)
        hours = [dict(asked.query).get("run_id_prefix_pattern") for asked in fake.asked]
        seen.update(hour for hour in hours if hour)
        if n == 0:
            waiting = [a for a in answers.values() if isinstance(a, Unknown)]
            assert len(waiting) > 700
            assert {a.why for a in waiting} == {NOT_YET}, "nothing is told as looked at that was not"
    assert max(seen.values()) == 1, "no hour is asked for twice before the next audit"
    assert set(kinds(answers, forged)) == {"Ambiguous"}


@AIRFLOW_3
def test_many_labels_of_a_dag_with_many_runs_are_compared_once_with_each(
    fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0

    def counted(text: str) -> str:
        nonlocal compared
        compared += 1
        return safe_label(text)

    monkeypatch.setattr(resolver, "safe_label", counted)
    fake.rows = [row(run=f"free text {n}") for n in range(600)]
    forged = [pod(run=f"forged text {n}") for n in range(20)]
    assert set(kinds(healer(fake).get_all(forged), forged)) == {"Ambiguous"}
    assert compared <= 4 * 500 * len(forged)


@pytest.mark.parametrize("part", ["/dagRuns", "/tasks", "/dags"])
def test_look_ups_that_fail_hold_up_only_those_who_need_them(fake: FakeAirflow, part: str) -> None:
    fake.rows = [row(dag=f"d{n:03}", run="r") for n in range(300)] + [row(dag="z", task="_t_", run="free text")]
    pods = [pod(dag=f"d{n:03}", run="r") for n in range(300)]
    needy = [pod(dag=f"d{n:03}", task="_x_", run="free text") for n in range(300)]
    needy += [pod(dag="_z_", run="r")]
    fake.intercept = lambda asked: (
        error(500, "bug") if asked.path.endswith(part) and "limit=1" not in str(asked) else None
    )
    if part == "/dags":  # the question that depends on nothing is one about DAGs too
        fake.intercept = lambda asked: error(500, "bug") if ("order_by", "dag_id") in asked.query else None
    airflow = healer(fake)
    for n in range(3):
        fake.asked.clear()
        answers = airflow.get_all([*pods, *needy])
        assert set(kinds(answers, pods)) == {"Known"}
        failing_calls = [path for path in fake.paths() if path.endswith(part)]
        assert n < 2 or len(failing_calls) <= AGAIN + 10
    assert airflow.set_aside > 0


def test_absence_has_turns_and_no_dag_waits_for_the_flood_of_another(fake: FakeAirflow) -> None:
    fake.dags = {"d", "z"}
    flood, others = [pod(run=f"r{n:04}") for n in range(1300)], [pod(dag="z", run=f"r{n}") for n in range(3)]
    airflow, told = healer(fake), set[str]()
    for n in range(3):
        airflow.start_audit()
        answers = airflow.get_all([*flood, *others])
        assert set(kinds(answers, others)) == {"RunDeleted"}
        proven = {uid for uid, answer in answers.items() if type(answer).__name__ == "RunDeleted"}
        assert len(proven) == 500
        assert {a.why for a in answers.values() if isinstance(a, Unknown)} == {NOT_YET}
        assert n > 1 or not proven & told - {p.uid for p in others}, "never the same first ones again"
        told |= proven
    assert told == {p.uid for p in [*flood, *others]}


def test_a_thousand_forged_dags_are_asked_about_in_turn(fake: FakeAirflow) -> None:
    forged = [pod(dag=f"forged{n:04}") for n in range(1000)]
    airflow, load = healer(fake), Load(fake)
    first = airflow.get_all(forged)
    assert Counter(kinds(first, forged)) == {"DagDeleted": 500, "Unknown": 500}
    assert load.audit_rows <= 1000 / 20 + 1
    left = [p for p in forged if isinstance(first[p.uid], Unknown)]
    load.mark()
    assert set(kinds(airflow.get_all(left), left)) == {"DagDeleted"}
    assert load.audit_rows <= 500 / 20 + 1


def test_a_found_one_is_not_the_only_one_while_another_reading_is_not_known(fake: FakeAirflow) -> None:
    """Its label may stand for two runs; of one it could not be found out whether it exists."""
    one = pod()
    fake.rows = [row()]
    twin = safe_label(one.labels.run_id or "")
    assert twin == one.labels.run_id
    fake.intercept = lambda asked: (
        Reply(body={"task_instances": [], "total_entries": 0})
        if asked.is_list
        else error(500, "bug")
        if asked.path.endswith(f"/dagRuns/{twin}")
        else None
    )
    assert isinstance(healer(fake).get_all([one])[one.uid], Unknown)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_turns_go_round_and_every_dag_has_one() -> None:
    turns: Turns[tuple[str, int]] = Turns("x", lambda key: key[0])
    wanted = [("a", n) for n in range(30)] + [("b", 0), ("c", 0)]
    first = turns.take(wanted, 10)
    assert {key[0] for key in first} == {"a", "b", "c"}
    seen = Counter(first)
    for _ in range(3):
        seen.update(turns.take(wanted, 10))
    assert {key for key in wanted if key[0] == "a"} <= seen.keys()
    assert max(seen[key] for key in wanted if key[0] == "a") <= 2


def test_what_is_set_aside_comes_after_the_others_and_is_forgotten_when_nobody_asks() -> None:
    turns: Turns[tuple[str, int]] = Turns("x", lambda key: key[0])
    for n in range(30):
        turns.fail(("a", n), "500")
    assert turns.take([("a", n) for n in range(40)], 100)[:10] == [("a", n) for n in range(30, 40)]
    assert len(turns.take([("a", n) for n in range(40)], 100)) == 10 + AGAIN
    assert str(turns.waits(("a", 3))).startswith("set aside")
    assert str(turns.waits(("a", 33))) == NOT_YET
    turns.start_audit()
    turns.take([("a", 5)], 100)
    turns.start_audit()
    assert list(turns.failed) == [("a", 5)]
    turns.good(("a", 5))
    assert turns.failed == {}


def test_for_whom_the_server_wants_to_be_left_alone_twice_rests_until_an_audit() -> None:
    turns: Turns[str] = Turns("things", lambda key: key)
    turns.pause("b", "busy")
    assert turns.take(["a", "b", "c"], 9) == ["a", "c", "b"], "the first time it comes last"
    for key in "bbcc":
        turns.pause(key, "busy")
    assert turns.take(["a", "b", "c"], 9) == ["a"]
    assert "busy" in str(turns.waits("b"))
    turns.start_audit()
    assert turns.take(["a", "b", "c"], 9) == ["a", "b"], "one at each audit: it may make all others wait"
    turns.pause("b", "busy")
    turns.start_audit()
    assert turns.take(["a", "b", "c"], 9) == ["a", "c"]
    turns.good("c")
    assert turns.take(["a", "b", "c"], 9) == ["a", "c", "b"], "the others may be well too"


def test_there_are_only_so_many_lists_and_the_next_question_goes_on_behind_them(
    fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_LISTS == 500
    monkeypatch.setattr(list_query, "MOST_LISTS", 3)
    fake.rows = [row(dag=f"d{n:03}", run="r") for n in range(100)]
    pods = [pod(dag=f"d{n:03}", run="r") for n in range(100)]
    airflow, known = healer(fake), set[str]()
    for n in (1, 2):
        answers = airflow.get_all(pods)
        assert len(fake.lists()) == 3 * n
        known |= {uid for uid, answer in answers.items() if isinstance(answer, Known)}
        assert {a.why for a in answers.values() if isinstance(a, Unknown)} == {NOT_YET}
    assert len(known) == 100


# --- lists of ids -----------------------------------------------------------------------------------------------------


def failing_rows(fake: FakeAirflow, ending: str, column: str, bad: Collection[str]) -> Fault:
    """Fail on each page of a list of ids that holds one of these, as where a row can't be serialized."""

    def intercept(asked: Asked) -> Reply | None:
        if not asked.path.endswith(ending):
            return None
        query, ids = dict(asked.query), sorted({r[column] for r in fake.rows})
        start = int(query.get("offset", 0))
        return error(500, "KeyError") if set(ids[start : start + int(query["limit"])]) & set(bad) else None

    return intercept


@pytest.mark.parametrize("where", ["first", "last", "middle", "all over"])
@pytest.mark.parametrize("count", [1, 11])
@pytest.mark.parametrize("column", ["dag_id", "dag_run_id"])
def test_a_row_that_a_list_of_ids_fails_on_holds_up_only_the_labels_that_it_may_hide(
    fake: FakeAirflow, column: str, count: int, where: str
) -> None:
    ids = [f"an id with blanks {n:03}" for n in range(250)]
    bad = {ids[n] for n in spread(count, len(ids), where)}
    place = "dag" if column == "dag_id" else "run"
    fake.rows = [row(**{"run": "r", place: each}) for each in ids]
    pods = {each: pod(**{"run": "r", place: each}) for each in ids}
    hashed_alike = safe_label(ids[100])
    fake.rows.append(row(**{"run": "r", place: hashed_alike}))
    ending = "/dags" if place == "dag" else "/dagRuns"
    fake.intercept = failing_rows(fake, ending, column, bad)
    airflow = healer(fake)
    for _ in range(2):
        fake.asked.clear()
        answers = airflow.get_all(list(pods.values()))
        assert {each for each, p in pods.items() if isinstance(answers[p.uid], Unknown)} == bad
        assert sum(path.endswith(ending) for path in fake.paths()) <= 5 + 16 * count
        assert airflow.set_aside == 1
    answer = answers[pods[ids[100]].uid]
    assert isinstance(answer, Ambiguous), "one that is called like a label is among its candidates"
    airflow.start_audit()
    fake.intercept = lambda _: None
    answers = airflow.get_all(list(pods.values()))
    assert set(kinds(answers, [p for each, p in pods.items() if each != ids[100]])) == {"Known"}
    assert airflow.set_aside == 0


@pytest.mark.parametrize("place", ["dag", "run"])
def test_an_id_called_like_a_label_is_not_believed_while_the_one_behind_the_label_may_be_unread(
    fake: FakeAirflow, place: str
) -> None:
    label = safe_label("an id with blanks")
    fake.rows = [row(**{"run": "r", place: each}) for each in (label, "an id with blanks")]
    one = pod(**{"run": "r", place: label})
    ending, column = ("/dags", "dag_id") if place == "dag" else ("/dagRuns", "dag_run_id")
    fake.intercept = failing_rows(fake, ending, column, ["an id with blanks"])
    answer = healer(fake).get_all([one])[one.uid]
    assert isinstance(answer, Unknown)
    assert "KeyError" in answer.why


def test_tasks_that_cannot_be_listed_are_found_among_the_task_instances_of_the_run(fake: FakeAirflow) -> None:
    tasks = ["extract" * 10, "_odd_", "plain"]
    fake.rows = [row(task=task, run=f"r{n}") for task in tasks for n in range(3)]
    pods = [pod(task=task, run=f"r{n}") for task in tasks for n in range(3)]
    pods += [pod(task="never" * 20, run="r0")]
    fake.intercept = lambda asked: error(500, "KeyError") if asked.path.endswith("/tasks") else None
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert kinds(answers, pods) == ["Known"] * 9 + ["Unknown"], "what was not found may be one that can't be told"


# --- a renamed or removed task ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.0.6", "3.1.8", "3.3.2"])
@pytest.mark.parametrize("task", ["extract" * 10, "group." + "load" * 20, "лента", "_odd_"])
@pytest.mark.parametrize("map_index", [-1, 0, 7])
@pytest.mark.parametrize("state", ["failed", "removed"])
def test_a_task_that_its_dag_has_no_more_is_found_among_the_task_instances_of_the_run(
    fake: FakeAirflow, version: str, task: str, map_index: int, state: str
) -> None:
    fake.version = version
    indices = [-1] if map_index < 0 else range(9)
    fake.rows = [row(task=task, map_index=n, state=state, end_date=END) for n in indices] + [row(task="now")]
    fake.tasks["d"] = ["now", "renamed" * 10]
    one, airflow = pod(task=task, map_index=map_index), healer(fake)
    answer = airflow.get_all([one])[one.uid]
    assert isinstance(answer, Known)
    assert (answer.task.task_id, answer.task.map_index) == (task, map_index)
    fake.asked.clear()
    assert isinstance(airflow.get_all([one])[one.uid], Known)
    assert len(fake.asked) == 1, "what was found is remembered"


def test_a_task_that_no_task_instance_has_either_stays_ambiguous_and_is_asked_for_once(fake: FakeAirflow) -> None:
    fake.rows = [row(task=f"t{n}") for n in range(250)]
    one, airflow = pod(task="never" * 20), healer(fake)
    answer = airflow.get_all([one])[one.uid]
    assert isinstance(answer, Ambiguous)
    assert "nor a task instance of the run has it" in answer.why
    asked = len(fake.asked)
    airflow.get_all([one])
    again = [path for path in fake.paths()[asked:] if "/task" in path]
    assert again == [], "only whether its run and its DAG still exist"
    assert len(fake.lists()) == 0, "no row in the audit table"


def test_the_task_instances_of_a_run_whose_dag_is_not_serialized_are_listed(fake: FakeAirflow) -> None:
    task = "extract" * 10
    fake.rows, fake.tasks["d"] = [row(task=task)], []
    gone = error(404, "The Dag with ID: `d` was not found")
    fake.intercept = lambda asked: gone if asked.path.endswith("/taskInstances") else None
    one = pod(task=task)
    assert isinstance(healer(fake).get_all([one])[one.uid], Known)


def test_the_runs_that_are_read_for_old_tasks_are_bounded_and_have_turns(fake: FakeAirflow) -> None:
    task = "extract" * 10
    fake.rows, fake.tasks["d"] = [row(task=task, run=f"r{n:03}") for n in range(250)], ["now"]
    pods = [pod(task=task, run=f"r{n:03}") for n in range(250)]
    airflow, known = healer(fake), 0
    for n in range(3):
        fake.asked.clear()
        answers = airflow.get_all(pods)
        known = kinds(answers, pods).count("Known")
        assert known == min(100 * (n + 1), 250)
        assert len([path for path in fake.paths() if path.endswith("/taskInstances")]) == min(100, 250 - 100 * n)


# --- the real reconciler ----------------------------------------------------------------------------------------------


class Real(Clock):
    """Time as it is, so that the clients' dates fit; the API server shows an hour after the rows' start."""

    def __init__(self) -> None:
        super().__init__()
        self._began = boottime()

    def __call__(self) -> float:
        return boottime()

    @property
    def server(self) -> float:
        return START + 3600 + boottime() - self._began

    def now(self) -> Now:
        return Now(boottime(), self.server)


@contextmanager
def scene(bad: Callable[[FakeAirflow], list[Pod]]) -> Iterator[tuple[Reconciler, FakeCluster, FakeAirflow, Metrics]]:
    """Five orphans each of two DAGs, and whatever bad there is between them."""
    with serving() as fake:
        fake.rows = [row(dag=d, task=f"t{n}", run="r", state="failed", end_date=END) for d in "az" for n in range(5)]
        pods = [pod(dag=d, task=f"t{n}", run="r", containers=(Container("base"),)) for d in "az" for n in range(5)]
        pods += bad(fake)
        policy = {"grace": "0s", "minAge": "0s"}
        found = config(fake, ownership="exclusive", mode="enforce", policy=policy, limits={"breaker": {"maxShare": 1}})
        clock = Real()
        cluster = FakeCluster(clock)
        cluster.add(*pods)
        metrics = Metrics(Config(airflows=(found,)))
        tools = Dependencies(cluster, FakeRecorder(), metrics, lambda: True, clock)  # type: ignore[arg-type]
        yield Reconciler(found, Airflow(found), tools), cluster, fake, metrics


def passes_until_healed(bad: Callable[[FakeAirflow], list[Pod]], most: int = 12) -> tuple[int, int]:
    """Return after how many passes the ten orphans are gone, and the most rows in the audit table after one of them."""
    with scene(bad) as (reconciler, cluster, fake, _):
        load, rows = Load(fake), []
        for number in range(1, most):
            load.mark()
            reconciler.reconcile(cluster.selected(), PassKind.AUDIT if number == 1 else PassKind.FULL, {})
            rows.append(load.audit_rows)
            if sum(p.labels.dag_id in ("a", "z") for p, _ in cluster.deletes) == 10:
                return number, max(rows)
    return most, max(rows)


def bad_rows(count: int, reply: Reply, *, only_lists: bool = False) -> Callable[[FakeAirflow], list[Pod]]:
    def add(fake: FakeAirflow) -> list[Pod]:
        tasks = [f"b{n:04}" for n in range(count)]
        fake.rows += [row(dag="m", task=task, run="r") for task in tasks]
        fake.intercept = refusing(tasks, reply, only_lists=only_lists)
        return [pod(dag="m", task=task, run="r") for task in tasks]

    return add


def forged_ids(raw: str, reply: Reply) -> Callable[[FakeAirflow], list[Pod]]:
    """A thousand Pods whose annotations say something that a database refuses."""

    def add(fake: FakeAirflow) -> list[Pod]:
        fake.intercept = lambda asked: (
            reply if asked.is_list and not set(map(ord, str(asked.body))) <= set(range(128)) else None
        )
        told = [f"m{n}{raw}" for n in range(1000)]
        return [
            replace(
                pod(dag="m", task=f"f{n}", run="r"),
                labels=Labels(safe_label(one), f"f{n}", "r", None, "1"),
                raw=RawIds(dag_id=one),
            )
            for n, one in enumerate(told)
        ]

    return add


def failing_lookups(part: str) -> Callable[[FakeAirflow], list[Pod]]:
    def add(fake: FakeAirflow) -> list[Pod]:
        fake.intercept = lambda asked: (
            error(500, "bug") if asked.path.endswith(part) and asked.path.startswith("/api/v2/dags/m") else None
        )
        return [pod(dag=f"m{n:03}", task="_t_", run=f"free text {n}") for n in range(300)]

    return add


def failing_identity(count: int) -> Callable[[FakeAirflow], list[Pod]]:
    def add(fake: FakeAirflow) -> list[Pod]:
        rows, pods = orphans(count, "m")
        fake.rows += rows
        fake.intercept = lambda asked: (
            error(500, "bug") if "/dags/m/" in asked.path and "state-store" in asked.path else None
        )
        return [replace(p, containers=(Container("base"),)) for p in pods]

    return add


SCENES: dict[str, Callable[[FakeAirflow], list[Pod]]] = {
    "1 bad row": bad_rows(1, error(500, "KeyError")),
    "11 bad rows": bad_rows(11, error(500, "KeyError")),
    "1000 bad rows": bad_rows(1000, error(500, "KeyError")),
    "1000 rows that only lists fail on": bad_rows(1000, error(500, "KeyError"), only_lists=True),
    "422 for a whole batch": bad_rows(1, error(422, "DataError")),
    "422 for 1000": bad_rows(1000, error(422, "DataError")),
    "429 for a whole batch": bad_rows(11, error(429, "slow down")),
    "404 for a whole batch": bad_rows(11, error(404, "Dag not found")),
    "403 for a whole batch": bad_rows(11, error(403, "Forbidden")),
    "413 for a whole batch": bad_rows(11, Reply(413, b"")),
    "1000 forged Pods with NUL": forged_ids("\0", error(500, "NUL")),
    "1000 forged Pods with an emoji": forged_ids("\U0001f600", error(422, "charset")),
    "1000 forged Pods, written from right to left": forged_ids("\u202e", error(500, "x")),
    "1000 forged Pods of as many DAGs": lambda _: [pod(dag=f"forged{n}") for n in range(1000)],
    "1000 forged Pods of as many hours": lambda _: forged_runs(1000, "m"),
    "500 on lists of runs": failing_lookups("/dagRuns"),
    "500 on lists of tasks": failing_lookups("/tasks"),
    "500 on identity of many": failing_identity(300),
}


@pytest.fixture(scope="module")
def undisturbed() -> int:
    return passes_until_healed(lambda _: [])[0]


@pytest.mark.parametrize("bad", SCENES.values(), ids=SCENES.keys())
def test_unrelated_orphans_are_healed_in_as_many_passes_as_without_the_fault(
    undisturbed: int, bad: Callable[[FakeAirflow], list[Pod]]
) -> None:
    passes, audit_rows = passes_until_healed(bad)
    assert passes == undisturbed
    assert audit_rows <= 10 + 2 * MOST_HALVED + 1000 / 20


def without_mercy(part: str, status: int) -> Callable[[FakeAirflow], list[Pod]]:
    """Three Pods of a DAG; to questions of one kind about one of them the server wants to be left alone."""

    def add(fake: FakeAirflow) -> list[Pod]:
        rows, pods = orphans(3, "m")
        fake.rows += rows if part != "/dags/n" else []
        busy = Reply(status, {"detail": "slow down"}, {"Retry-After": "0.05"})
        fake.intercept = lambda asked: (
            busy if (part == "/list" and "t001m" in names(asked)) or (part != "/list" and part in asked.path) else None
        )
        if part == "/list":
            fake.rows.append(row(dag="m", task="t001m", run="r"))
            return [*pods, pod(dag="m", task="t001m", run="r")]
        if part == "/dags/n":
            return [pod(dag="n", run="r")]
        return [replace(p, containers=(Container("base"),)) for p in pods]

    return add


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("part", ["/list", "/m/dagRuns/r/taskInstances/t001/state-store", "/dags/n"])
def test_a_question_for_which_the_server_wants_to_be_left_alone_does_not_stop_the_rest_for_ever(
    part: str, status: int
) -> None:
    with scene(without_mercy(part, status)) as (reconciler, cluster, _, metrics):
        healed = 0
        for number in range(1, 16):
            reconciler.reconcile(cluster.selected(), PassKind.AUDIT if number == 1 else PassKind.FULL, {})
            healed = sum(p.labels.dag_id in ("a", "z") for p, _ in cluster.deletes)
            if healed == 10:
                break
            time.sleep(0.06)
        assert healed == 10
        reconciler.reconcile(cluster.selected(), PassKind.FULL, {})
        assert metrics.registry.get_sample_value("kpo_healer_set_aside", {"airflow": "a"}) == 1


def test_what_is_set_aside_is_shown_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with scene(bad_rows(11, error(500, "KeyError"))) as (reconciler, cluster, fake, metrics):
        for number in range(4):
            reconciler.reconcile(cluster.selected(), PassKind.AUDIT if number == 0 else PassKind.FULL, {})
        assert metrics.registry.get_sample_value("kpo_healer_set_aside", {"airflow": "a"}) == 11
        shown = [each for each in reconciler.findings() if each.pod.labels.dag_id == "m"]
        assert {each.finding.detail.partition(":")[0] for each in shown} == {
            "set aside, and asked again alone after all others"
        }
        fake.intercept = lambda _: None
        for _ in range(3):
            reconciler.reconcile(cluster.selected(), PassKind.AUDIT, {})
        assert metrics.registry.get_sample_value("kpo_healer_set_aside", {"airflow": "a"}) == 0
        assert {e.finding.reason.value for e in reconciler.findings() if e.pod.labels.dag_id == "m"} == {"in-use"}
