"""Notes in Airflow: written where nobody's are lost, in the background, and only where they are wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from healer.airflow import NoteResult, Status
from healer.airflow.note_writer import NoteWriter
from healer.airflow.notes import MAX_LENGTH, PREFIX
from healer.errors import NoAnswerError
from healer.model import DeleteResult, DeleteStatus, TaskInstance
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, error, healer, row, serving
from tests.unit.fakes import PROMPT, World
from tests.unit.strategies import a_pod, a_task

TASK = TaskInstance("d", "r", "t", 3)
AT_ONCE = {**PROMPT, "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"}}


class Notes:
    """Airflow's notes: one task instance's."""

    def __init__(self, fake: FakeAirflow, there: str | None) -> None:
        self.there, self.written = there, list[Any]()
        self.status = 200
        fake.intercept = self.answer

    def answer(self, asked: Asked) -> Reply | None:
        if asked.path.endswith("/dags/d/dagRuns/r/taskInstances/t/3") and asked.method == "GET":
            return Reply(body={**row(task="t", run="r", map_index=3), "note": self.there})
        if asked.method != "PATCH":
            return None
        if self.status != 200:
            return error(self.status, "Forbidden" if self.status == 403 else "The Task Instance was not found")
        self.written.append(asked.body)
        self.there = asked.body["note"]
        return Reply(body={"task_instances": [], "total_entries": 0})


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        yield server


@pytest.mark.parametrize("there", [None, "", " \n"])
def test_where_there_is_none_it_is_written(fake: FakeAirflow, there: str | None) -> None:
    notes = Notes(fake, there)
    assert healer(fake).write_note(TASK, "Pod a/p was\ndeleted") is NoteResult.WRITTEN
    assert notes.written == [{"note": f"{PREFIX}Pod a/p was deleted"}], "one line, and nothing but the note"
    assert fake.asked[-1].query == (("update_mask", "note"),)


@pytest.mark.parametrize("there", ["look at this!", f"{PREFIX}Pod a/p was deleted\nwhy?", "why?\n" + PREFIX])
def test_a_users_note_stays(fake: FakeAirflow, there: str) -> None:
    notes = Notes(fake, there)
    assert healer(fake).write_note(TASK, "Pod a/p was deleted") is NoteResult.SPARED
    assert notes.written == []


def test_our_lines_are_added_up_and_the_oldest_go_first(fake: FakeAirflow) -> None:
    notes, airflow = Notes(fake, None), healer(fake)
    for number in range(20):
        airflow.write_note(TASK, f"{number} " + "x" * 90)
    lines = str(notes.there).splitlines()
    assert len(str(notes.there)) <= MAX_LENGTH
    assert lines[-1].startswith(f"{PREFIX}19 ")
    assert len(lines) == 9
    airflow.write_note(TASK, "y" * 5000)
    assert len(str(notes.there)) == MAX_LENGTH


@pytest.mark.parametrize("status", [403, 404, 409, 500])
def test_a_refusal_is_an_error_that_says_so(fake: FakeAirflow, status: int) -> None:
    Notes(fake, None).status = status
    with pytest.raises(NoAnswerError, match=str(status)):
        healer(fake).write_note(TASK, "x")


def test_an_answer_without_a_note_proves_nothing(fake: FakeAirflow) -> None:
    fake.intercept = lambda asked: Reply(body=row()) if "taskInstances" in asked.path else None
    with pytest.raises(NoAnswerError):
        healer(fake).write_note(TASK, "x")


@pytest.mark.parametrize(("status", "mark"), [(404, Status.OK), (403, Status.WARN), (500, Status.WARN)])
def test_check_asks_for_the_right_without_writing(fake: FakeAirflow, status: int, mark: Status) -> None:
    fake.rows = [row()]
    notes = Notes(fake, None)
    notes.status = status
    checks = {check.name: check for check in healer(fake, notes=True).probe().checks}
    assert checks["write notes"].status is mark
    patches = [asked for asked in fake.asked if asked.method == "PATCH"]
    assert [asked.path.endswith("/dry_run") for asked in patches] == [True]
    assert "write notes" not in {check.name for check in healer(fake).probe().checks}


# --- when -------------------------------------------------------------------------------------------------------------


def noting(**changes: Any) -> tuple[World, list[tuple[TaskInstance, str]]]:
    """Return a world whose Airflow takes notes, and these."""
    made = World(**{"policy": AT_ONCE, "notes": True, **changes})
    written: list[tuple[TaskInstance, str]] = []
    made.airflow.write_note = lambda task, text: written.append((task, text)) or NoteResult.WRITTEN  # type: ignore[attr-defined]
    made.pod("a")
    return made, written


def settled(world: World) -> None:
    world.reconciler._deps.note_writer.stop(30)


def test_a_deletion_is_noted_on_its_task_instance() -> None:
    world, written = noting()
    world.audit()
    settled(world)
    ((task, text),) = written
    assert (task.dag_id, task.run_id, task.task_id) == ("etl", "scheduled__2026-01-01T00:00:00+00:00", "load")
    assert text.startswith("Pod airflow/pod-a of try 1 was deleted at 1970-01-12T15:10:00Z: orphaned: ")


@pytest.mark.parametrize("changes", [{"notes": False}, {"mode": "report"}])
def test_without_a_deletion_or_a_wish_nothing_is_noted(changes: dict[str, Any]) -> None:
    world, written = noting(**changes)
    world.audit()
    settled(world)
    assert written == []


@pytest.mark.parametrize("result", [DeleteStatus.DENIED, DeleteStatus.GONE, DeleteStatus.ERROR, DeleteStatus.CONFLICT])
def test_only_what_the_api_server_has_confirmed_is_noted(result: DeleteStatus) -> None:
    world, written = noting()
    world.cluster.results["a"] = [DeleteResult(result, "")] * 2
    world.audit()
    settled(world)
    assert written == []


def test_a_note_that_fails_or_hangs_holds_nothing_up() -> None:
    world, _ = noting()
    free = threading.Event()

    def write(_task: TaskInstance, _text: str) -> NoteResult:
        free.wait(60)
        raise NoAnswerError("no right")

    world.airflow.write_note = write  # type: ignore[attr-defined]
    world.pod("b")
    world.audit()
    assert sorted(world.deleted) == ["a", "b"], "while the first note hangs"
    with capture_logs() as logs:
        free.set()
        settled(world)
    assert [entry["why"] for entry in logs if entry["event"] == "a note could not be written"] == ["no right"] * 2


def test_a_mistake_with_one_note_does_not_end_all_others() -> None:
    note_writer, written = NoteWriter(), list[str]()

    def write(_task: TaskInstance, text: str) -> NoteResult:
        if text == "bad":
            raise ZeroDivisionError
        written.append(text)
        return NoteResult.WRITTEN

    for text in ("bad", "good"):
        note_writer.note(write, "default", a_pod(), a_task(), text)
    note_writer.stop(30)
    assert written == ["good"]
