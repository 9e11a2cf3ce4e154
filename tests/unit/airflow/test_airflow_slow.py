"""A few questions that always take too long: they end none but themselves, pass after pass and audit after audit."""

from __future__ import annotations

from typing import Any

import pytest

from healer.airflow.api.transport import CONCURRENCY
from healer.airflow.queries.session import SLOWEST
from healer.model import Known, Pod, RunDeleted, Unknown
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, healer, pod, row, serving

QUESTIONS = 16
"""Three timeouts in a row end a question: that many are asked until eight bad lists of twelve have been told apart."""

PARTS = {"lists": "taskInstances", "identity": "xcomEntries", "runs": "/dagRuns/t", "tasks": "/tasks"}


@pytest.mark.parametrize("bad", [1, 2, 4, 8])
@pytest.mark.parametrize("part", PARTS)
def test_the_others_are_answered(part: str, bad: int) -> None:
    with serving() as fake:
        names = [f"t{n:02}" for n in range(12)]
        slow = set(names[:bad])
        task = "t x" if part == "tasks" else "t"
        if part == "runs":
            fake.dags = {"d"}
            pods = [pod(run=name) for name in names]
        else:
            fake.rows = [row(dag=n, task=task, state="success", end_date="2026-01-01T00:01:00Z") for n in names]
            pods = [pod(dag=name, task=task) for name in names]

        def intercept(asked: Asked) -> Reply | None:
            of_list: Any = asked.body["dag_ids"] if part == "lists" and asked.is_list else ()
            hit = asked.is_list if part == "lists" and of_list else PARTS[part] in asked.path
            return Reply(504, b"") if hit and slow & {*asked.path.split("/"), *of_list} else None

        fake.intercept = intercept
        airflow = healer(fake)
        for number in range(QUESTIONS):
            if number % 2:
                airflow.start_audit()
            answers = airflow.get_all(pods)
        for each in pods[bad:]:
            answer = answers[each.uid]
            assert isinstance(answer, Known | RunDeleted)
            identity = answer.identity if isinstance(answer, Known) else None
            assert identity is None or identity.failed is None


def hanging(fake: FakeAirflow, part: str) -> list[str]:
    """Let the server answer nothing any more from the first question of a kind on; what it was asked from then on."""
    since: list[str] = []
    # From the first of the kind on, so that no good answer that is still on its way begins the row of timeouts anew.
    kind = ("state-store", "xcomEntries") if part == "identity" else (PARTS[part],)

    def intercept(asked: Asked) -> Reply | None:
        if since or any(each in asked.path for each in kind):
            since.append(asked.path)
            return Reply(504, b"")
        return None

    fake.intercept = intercept
    return since


@pytest.mark.parametrize("part", PARTS)
def test_a_server_that_hangs_costs_its_timeouts_once(part: str) -> None:
    """Look-ups, lists, absence and identity have timeouts of their own only as long as something is answered."""
    with serving() as fake:
        names = [f"t{n:02}" for n in range(40)]
        task = "t x" if part == "tasks" else "t"
        fake.dags = {"d"}
        fake.rows = [
            row(dag=n, task=task, state="success", end_date="2026-01-01T00:01:00Z") for n in names if part != "runs"
        ]
        since = hanging(fake, part)
        airflow = healer(fake)
        pods = [pod(run=name) if part == "runs" else pod(dag=name, task=task) for name in names]
        answers = airflow.get_all(pods)
        assert set(answers) == {each.uid for each in pods}
        at_once = CONCURRENCY - 1  # what was on its way when the third timeout came
        assert SLOWEST <= len(since) <= SLOWEST + at_once + 1, "one short question more, which finds out that it hangs"
        since.clear()
        since.append("the pass that follows")
        airflow.get_all(pods)
        assert len(since) <= 1 + 2, "the version, and who is asked for it where it is told by 404"


def due(fake: FakeAirflow, count: int) -> list[Pod]:
    """Pods of ended task instances, so that as many lists as end a question ask for them together."""
    done: dict[str, Any] = {"phase": "Succeeded", "checked": True}
    if count > 20:
        fake.rows = [row(dag=f"d{n}", state="success") for n in range(count)]
        return [pod(f"d{n}", **done) for n in range(count)]
    # So many rows of each task that no two of them go into one list.
    fake.rows = [row(dag=f"d{n}", map_index=index, state="success") for n in range(3) for index in range(70)]
    return [pod(f"d{n % 3}", map_index=n // 3, **done) for n in range(count)]


@pytest.mark.parametrize("count", [20, 100])
def test_lists_of_what_is_due_that_are_slow_do_not_hold_up_the_single_questions(count: int) -> None:
    """Else what is due together would never be confirmed, and stay for ever."""
    with serving() as fake:
        pods = due(fake, count)
        airflow = healer(fake)
        airflow.get_all(pods)
        fake.intercept = lambda asked: Reply(504, b"") if asked.is_list else None
        before = len(fake.lists())
        answers = airflow.get_each(pods)
        slow = len(fake.lists())
        assert slow - before >= SLOWEST
        assert {type(answer) for answer in answers.values()} == {Known}
        airflow.get_each(pods)
        assert len(fake.lists()) == slow, "the next batch does not wait for them once more"
        fake.intercept = lambda _: None
        airflow.start_audit()
        airflow.get_each(pods)
        assert len(fake.lists()) > slow


@pytest.mark.parametrize("count", [20, 100])
def test_a_server_that_hangs_when_what_is_due_is_listed_costs_its_timeouts_once(count: int) -> None:
    with serving() as fake:
        pods = due(fake, count)
        airflow = healer(fake)
        airflow.get_all(pods)
        since = hanging(fake, "lists")
        answers = airflow.get_each(pods)
        assert {type(answer) for answer in answers.values()} == {Unknown}
        assert SLOWEST <= len(since) <= SLOWEST + CONCURRENCY
