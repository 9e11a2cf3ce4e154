"""Single questions: one task instance, and whether a run and its DAG exist at all."""

from __future__ import annotations

import msgspec

from healer.airflow import rows
from healer.airflow.client import Reply
from healer.airflow.missing import is_dag_missing, is_run_missing, is_task_instance_missing
from healer.airflow.resolve import Cell
from healer.airflow.round import Round
from healer.airflow.transport import NoAnswerError, Request
from healer.model import TaskInstance

TASK_INSTANCE = "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}/{map_index}"
RUN = "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}"
DAG = "/api/v2/dags/{dag_id}"


def askable(cell: Cell) -> bool:
    """Whether the ids can be part of a URL: servers undo `%2F` before they look for the path's parts."""
    return not any("/" in part or part in {"", ".", ".."} for part in cell)


def ids_of(cell: Cell) -> dict[str, str | int]:
    """Return the cell as the parts of a path."""
    return {"dag_id": cell.dag_id, "dag_run_id": cell.run_id, "task_id": cell.task_id}


def ask_task_instance(round_: Round, cell: Cell, map_index: int) -> Reply[TaskInstance]:
    """Return one task instance, or a reply without value where Airflow has none. Raises NoAnswerError.

    None proves little: Airflow says the same where the run or the DAG does not exist.
    """
    request = Request("task-instance", TASK_INSTANCE, {**ids_of(cell), "map_index": map_index})
    reply = round_.ask(request, _row)
    if is_task_instance_missing(reply, *cell, map_index):
        return reply
    row = round_.positive(reply).known
    if (row.dag_id, row.run_id, row.task_id, row.map_index) != (*cell, map_index):
        raise NoAnswerError("Airflow answered with another task instance than it was asked for")
    return reply


def run_exists(round_: Round, dag_id: str, run_id: str) -> tuple[bool, float]:
    """Return whether the run exists, and when that was asked. Raises NoAnswerError."""
    reply = round_.ask(Request("run", RUN, {"dag_id": dag_id, "dag_run_id": run_id}), rows.run_id)
    if is_run_missing(reply, dag_id, run_id):
        return False, reply.sent
    if round_.positive(reply).known != run_id:
        raise NoAnswerError("Airflow answered with another run than it was asked for")
    return True, reply.sent


def dag_exists(round_: Round, dag_id: str) -> tuple[bool, float]:
    """Return whether the DAG exists, and when that was asked. Raises NoAnswerError."""
    reply = round_.ask(Request("dag", DAG, {"dag_id": dag_id}), rows.dag_id)
    if is_dag_missing(reply, dag_id):
        return False, reply.sent
    if round_.positive(reply).known != dag_id:
        raise NoAnswerError("Airflow answered with another DAG than it was asked for")
    return True, reply.sent


def _row(body: bytes) -> TaskInstance:
    row = rows.task_instance(body)
    if row is None:
        raise msgspec.ValidationError("the row has no readable ids")
    return row
