"""Notes on task instances: the one thing that is ever written to Airflow, and only where the user wants it.

A note of somebody else's is never touched: it is read first, and written only where there is none or every line is
ours. Airflow has no conditional write, so a note that a user saves between our reading and our writing is lost: a
window of two requests: 40 to 360 ms, measured on a busy machine.
"""

from __future__ import annotations

from enum import StrEnum

from healer.airflow import rows
from healer.airflow.client import Client
from healer.airflow.resolve import Cell
from healer.airflow.singles import TASK_INSTANCE, askable, ids_of
from healer.airflow.transport import NoAnswerError, Request
from healer.model import TaskInstance

MARK = "kpo-healer: "
"""How each line of ours begins."""

LONGEST = 1000
"""Characters that Airflow allows a note."""

PATIENCE = 10.0
"""Seconds to wait for each of the two answers."""


class Noted(StrEnum):
    """What became of a note."""

    WRITTEN = "written"
    SPARED = "spared"
    """There is a note of a user's."""


def write_note(client: Client, task: TaskInstance, text: str) -> Noted:
    """Write a line on a task instance, below those of ours that are there. Raises NoAnswerError."""
    cell = Cell(task.dag_id, task.run_id, task.task_id)
    if not askable(cell):
        raise NoAnswerError("its ids can't be part of a URL, so that nothing can be noted on it")
    ids: dict[str, str | int] = {**ids_of(cell), "map_index": task.map_index}
    there = client.need(Request("read-note", TASK_INSTANCE, ids, patience=PATIENCE), rows.note).value or ""
    if not _is_ours(there):
        return Noted.SPARED
    body = {"note": _joined(there, f"{MARK}{text}")}
    query = (("update_mask", "note"),)
    client.need(Request("note", TASK_INSTANCE, ids, query, body, "PATCH", PATIENCE), rows.anything)
    return Noted.WRITTEN


def may_note(client: Client, dag: str, nobody: str) -> bool:
    """Whether notes may be written in this DAG: a dry run on a run that does not exist. Raises NoAnswerError."""
    ids: dict[str, str | int] = {"dag_id": dag, "dag_run_id": nobody, "task_id": nobody, "map_index": -1}
    request = Request("note", f"{TASK_INSTANCE}/dry_run", ids, body={"note": ""}, method="PATCH", patience=PATIENCE)
    reply = client.ask(request, rows.anything)
    if reply.status == 403 and not reply.token_refused:
        return False
    if reply.status != 404 or reply.detail in {"", "Not Found"}:
        client.positive(reply)
    return True


def _is_ours(note: str) -> bool:
    return all(line.startswith(MARK) for line in note.splitlines() if line.strip())


def _joined(there: str, line: str) -> str:
    """Return the lines with the new one below them, without the oldest where they would be too long."""
    lines = [*filter(str.strip, there.splitlines()), " ".join(line.split())[:LONGEST]]
    while len("\n".join(lines)) > LONGEST:
        lines.pop(0)
    return "\n".join(lines)
