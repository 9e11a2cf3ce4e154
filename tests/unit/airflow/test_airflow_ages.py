"""How old an answer is: as old as the oldest request behind it, whatever kind of answer it is.

The server waits a little before some requests are answered, so that the times of two requests can't be mistaken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from healer.airflow.api.schema import TaskInstancePage
from healer.airflow.api.task_key import TaskKey
from healer.airflow.queries.results import QueryResult
from healer.clock import boottime
from healer.decision.labels import safe_label
from healer.model import Absent, Ambiguous, Answer, Known, LabelKey, RunDeleted, TaskInstance, Unknown
from tests.unit.airflow_fake import RUN, Asked, FakeAirflow, Reply, error, healer, pod, row, serving

WAIT = 0.05


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        yield server


class Times:
    """When the server got each request; each takes a moment."""

    def __init__(self, fake: FakeAirflow, fault: Callable[[Asked], Reply | None] = lambda _: None) -> None:
        self.all: list[tuple[Asked, float]] = []
        self._fault = fault
        fake.intercept = self._intercept

    def _intercept(self, asked: Asked) -> Reply | None:
        self.all.append((asked, boottime()))
        time.sleep(WAIT)
        return self._fault(asked)

    def of(self, ending: str) -> list[float]:
        found = [at for asked, at in self.all if asked.path.endswith(ending)]
        assert found, ending
        return found


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


# --- rows -------------------------------------------------------------------------------------------------------------

KEY = LabelKey("d", "t1", "r1", -1, 1)
MINE = TaskKey("d", "r1", "t1")
OTHERS = (TaskKey("d", "r1", "t2"), TaskKey("d", "r2", "t1"))
"""Their cross product holds `MINE`."""


def a_row(state: str = "failed") -> TaskInstance:
    return TaskInstance("d", "r1", "t1", -1, "id", state, 1, "KubernetesPodOperator")


def page(*rows: TaskInstance) -> TaskInstancePage:
    return TaskInstancePage(rows, 0, len(rows))


@pytest.mark.parametrize(
    ("lists", "sent", "state"),
    [
        ([((MINE,), page(a_row()), 7.0)], 7.0, "failed"),
        ([(OTHERS, page(a_row()), 1.0), ((MINE,), page(), 9.0)], 1.0, "failed"),
        ([((MINE,), page(), 2.0), (OTHERS, page(a_row()), 8.0)], 2.0, "failed"),
        ([(OTHERS, page(a_row("running")), 1.0), ((MINE,), page(a_row()), 9.0)], 9.0, "failed"),
        ([((MINE,), page(a_row()), 3.0), (OTHERS, page(a_row("running")), 9.0)], 3.0, "failed"),
        ([((MINE,), page(a_row()), 3.0), ((MINE,), page(a_row()), 9.0)], 3.0, "failed"),
    ],
    ids=["own", "by chance, then gone", "gone, then by chance", "own is newer", "own is older", "twice"],
)
def test_a_row_is_as_old_as_the_older_of_its_list_and_that_of_its_cell(
    lists: list[Any], sent: float, state: str
) -> None:
    harvest = QueryResult()
    for asked in lists:
        harvest.add(*asked)
    for answer in (harvest.answer(KEY, [MINE]), harvest.row(MINE, -1)):
        assert isinstance(answer, Known)
        assert (answer.sent, answer.task.state) == (sent, state)


def test_an_ambiguous_answer_is_as_old_as_the_oldest_row_that_makes_it_so() -> None:
    harvest, twin = QueryResult(), safe_label(RUN)
    for sent, run in ((1.0, RUN), (9.0, twin)):
        task_key = TaskKey("d", run, "t1")
        harvest.add((task_key,), page(TaskInstance("d", run, "t1", -1, "id", "failed", 1, "K")), sent)
    answer = harvest.answer(LabelKey("d", "t1", twin, -1, 1), [TaskKey("d", RUN, "t1"), TaskKey("d", twin, "t1")])
    assert isinstance(answer, Ambiguous)
    assert answer.sent == 1.0


def test_rows_that_contradict_each_other_are_as_old_as_their_list() -> None:
    harvest = QueryResult()
    harvest.add(OTHERS, page(a_row(), a_row("running")), 1.0)
    harvest.add((MINE,), page(), 9.0)
    answer = harvest.answer(KEY, [MINE])
    assert isinstance(answer, Unknown)
    assert answer.sent == 1.0


# --- questions --------------------------------------------------------------------------------------------------------


def test_of_a_list(fake: FakeAirflow) -> None:
    fake.rows = [row(run="r")]
    times = Times(fake)
    answer = only(healer(fake).get_all([pod(run="r")]))
    assert isinstance(answer, Known)
    assert answer.sent <= times.of("/list")[0]


def test_of_a_single_question_identity_included(fake: FakeAirflow) -> None:
    fake.rows = [row(run="r", state="failed", end_date="2026-01-01T00:30:00Z")]
    airflow, one = healer(fake), pod(run="r")
    airflow.get_all([one])
    times = Times(fake)
    answer = only(airflow.get_each([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert answer.sent <= times.of("/taskInstances/t/-1")[0] < times.of("/pod_identifier")[0]


@pytest.mark.parametrize("part", ["/taskInstances/t/-1", "/pod_identifier", "/pod_name"])
def test_what_a_cache_on_the_way_has_kept_is_no_answer(fake: FakeAirflow, part: str) -> None:
    fake.rows = [row(run="r", state="failed", end_date="2026-01-01T00:30:00Z")]
    airflow, one = healer(fake), pod(run="r")
    airflow.get_all([one])
    honest, kept = fake.intercept, {"Age": "40", "X-Cache": "HIT"}

    def cache(asked: Asked) -> Reply | None:
        if not asked.path.endswith(part):
            return None
        fake.intercept = honest
        reply = fake.answer(asked)
        fake.intercept = cache
        return Reply(reply.status, reply.body, kept)

    fake.intercept = cache
    answer = only(airflow.get_each([one]))
    why = answer.why if isinstance(answer, Unknown) else answer.identity.failed  # type: ignore[attr-defined]
    assert "gives answers that it has kept for 40 s" in why
    assert {asked.headers["Cache-Control"] for asked in fake.asked} == {"no-cache"}
    kept["Age"] = "0"
    assert isinstance(only(airflow.get_each([one])), Known)


def test_a_version_that_a_cache_has_kept_stops_nothing(fake: FakeAirflow) -> None:
    fake.rows = [row(run="r")]
    kept = Reply(200, {"version": fake.version}, {"Age": "40"})
    fake.intercept = lambda asked: kept if asked.path.endswith("/version") else None
    assert isinstance(only(healer(fake).get_all([pod(run="r")])), Known)


def test_of_labels_that_had_to_be_looked_up(fake: FakeAirflow) -> None:
    fake.rows = [row(dag="_d_", run="free text")]
    times, airflow, one = Times(fake), healer(fake), pod(dag="_d_", run="free text")
    answer = only(airflow.get_all([one]))
    assert isinstance(answer, Known)
    assert answer.sent <= times.of("/api/v2/dags")[0] < times.of("/list")[0]
    times.all.clear()
    again = only(airflow.get_all([one]))
    assert times.all[0][1] - WAIT < again.sent <= times.of("/list")[0], "which id it is was known: only the list counts"


def test_of_labels_that_could_not_be_resolved(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    times = Times(fake)
    answer = only(healer(fake).get_all([pod(run="free text")]))
    assert isinstance(answer, Ambiguous)
    assert answer.sent <= times.of("/dagRuns")[0]


def test_of_a_look_up_that_failed(fake: FakeAirflow) -> None:
    times = Times(fake, lambda asked: error(500, "bug") if asked.path.endswith("/dagRuns") else None)
    answer = only(healer(fake).get_all([pod(run="free text")]))
    assert isinstance(answer, Unknown)
    assert answer.sent <= times.of("/dagRuns")[0]


@pytest.mark.parametrize("confirmed", [False, True])
@pytest.mark.parametrize("kind", [RunDeleted, Absent, Known])
def test_of_an_absence(fake: FakeAirflow, kind: type[Answer], confirmed: bool) -> None:
    """The run's 404 and the DAG's 200, and what was asked before them that had nothing."""
    airflow, one = healer(fake), pod(run="r")
    if confirmed:
        fake.rows = [row(run="r")]
        airflow.get_all([one])
    fake.dags, fake.rows = {"d"}, []
    fake.runs = set() if kind is RunDeleted else {("d", "r")}
    if kind is Known:
        fake.rows = [row(run="r")]

    def omitted(asked: Asked) -> Reply | None:
        return Reply(body={"task_instances": [], "total_entries": 0}) if asked.is_list else None

    times = Times(fake, omitted)
    answer = only(airflow.get_each([one]) if confirmed else airflow.get_all([one]))
    assert isinstance(answer, kind)
    task_instances = [at for asked, at in times.all if "/taskInstances" in asked.path]
    assert answer.sent <= min(task_instances)
    if kind is not Known or not confirmed:
        assert answer.sent <= min(times.of("/dags/d")[0], times.of("/dagRuns/r")[0])


def test_of_two_task_instances_that_no_list_had(fake: FakeAirflow) -> None:
    fake.rows = [row(run=RUN), row(run=safe_label(RUN))]

    def omitted(asked: Asked) -> Reply | None:
        return Reply(body={"task_instances": [], "total_entries": 0}) if asked.is_list else None

    times = Times(fake, omitted)
    answer = only(healer(fake).get_all([pod()]))
    assert isinstance(answer, Ambiguous)
    assert answer.sent <= times.of("/list")[0]


def test_of_a_question_that_failed(fake: FakeAirflow) -> None:
    fake.rows = [row(run="r")]
    airflow, one = healer(fake), pod(run="r")
    airflow.get_all([one])
    times = Times(fake, lambda asked: error(500, "bug") if "/taskInstances" in asked.path else None)
    for ask in (airflow.get_all, airflow.get_each, airflow.list_recently_ended):
        times.all.clear()
        answer = only(ask([one]))
        assert isinstance(answer, Unknown)
        assert answer.sent <= times.all[0][1]
