"""Notes on task instances: the one thing that is ever written to Airflow, and only where the user wants it.

A note of somebody else's is never touched: it is read first, and written only where there is none or every line is
ours. Airflow has no conditional write, so a note that a user saves between our reading and our writing is lost: a
window of two requests: 40 to 360 ms, measured on a busy machine.
"""

from __future__ import annotations

from enum import StrEnum

from healer.airflow.api.client import AirflowClient
from healer.airflow.api.task_key import TaskKey, is_addressable
from healer.errors import NoAnswerError
from healer.model import TaskInstance

PREFIX = "kpo-healer: "
"""How each line of ours begins."""

MAX_LENGTH = 1000
"""Characters that Airflow allows a note."""

TIMEOUT = 10.0
"""Seconds to wait for each of the two answers."""


class NoteResult(StrEnum):
    """What became of a note."""

    WRITTEN = "written"
    SPARED = "spared"
    """There is a note of a user's."""


def write_note(client: AirflowClient, task: TaskInstance, text: str) -> NoteResult:
    """Write a line on a task instance, below those of ours that are there. Raises NoAnswerError."""
    task_key = TaskKey(task.dag_id, task.run_id, task.task_id)
    if not is_addressable(task_key):
        raise NoAnswerError("its ids can't be part of a URL, so that nothing can be noted on it")
    dialect = client.dialect
    there = client.get_ok(dialect.read_note(task_key, task.map_index).within(TIMEOUT)).value or ""
    if not _is_ours(there):
        return NoteResult.SPARED
    note = _joined(there, f"{PREFIX}{text}")
    client.get_ok(dialect.write_note(task_key, task.map_index, note).within(TIMEOUT))
    return NoteResult.WRITTEN


def may_note(client: AirflowClient, dag: str, nobody: str) -> bool:
    """Whether notes may be written in this DAG, without writing one. Raises NoAnswerError."""
    reply = client.ask(client.dialect.may_note(dag, nobody).within(TIMEOUT))
    if reply.status == 403 and not reply.login_refused:
        return False
    if not reply.missing:
        client.require_ok(reply)
    return True


def _is_ours(note: str) -> bool:
    return all(line.startswith(PREFIX) for line in note.splitlines() if line.strip())


def _joined(there: str, line: str) -> str:
    """Return the lines with the new one below them, without the oldest where they would be too long."""
    lines = [*filter(str.strip, there.splitlines()), " ".join(line.split())[:MAX_LENGTH]]
    while len("\n".join(lines)) > MAX_LENGTH:
        lines.pop(0)
    return "\n".join(lines)
