"""Single questions: one task instance, and whether a run and its DAG exist at all."""

from __future__ import annotations

from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.task_key import TaskKey
from healer.airflow.queries.session import QuerySession
from healer.errors import NoAnswerError
from healer.model import TaskInstance


def ask_task_instance(session: QuerySession, task_key: TaskKey, map_index: int) -> AirflowReply[TaskInstance]:
    """Return one task instance, or a reply without value where Airflow has none. Raises NoAnswerError.

    None proves little: Airflow says the same where the run or the DAG does not exist.
    """
    reply = session.ask(session.dialect.task_instance(task_key, map_index))
    if reply.missing:
        return reply
    row = session.require_ok(reply).known
    if (row.dag_id, row.run_id, row.task_id, row.map_index) != (*task_key, map_index):
        raise NoAnswerError("Airflow answered with another task instance than it was asked for")
    return reply


def anything_left(session: QuerySession, dag_id: str) -> tuple[bool, float]:
    """Return whether Airflow has task instances of a DAG that it says it does not have, and when that was asked.

    Raises NoAnswerError.
    """
    question = session.dialect.left_of(dag_id)
    if question is None:
        return False, session.began
    reply = session.get_ok(question)
    return reply.known.total > 0 or len(reply.known) > 0, reply.sent


def run_exists(session: QuerySession, dag_id: str, run_id: str) -> tuple[bool, float]:
    """Return whether the run exists, and when that was asked. Raises NoAnswerError."""
    reply = session.ask(session.dialect.run(dag_id, run_id))
    if reply.missing:
        return False, reply.sent
    if session.require_ok(reply).known != run_id:
        raise NoAnswerError("Airflow answered with another run than it was asked for")
    return True, reply.sent


def dag_exists(session: QuerySession, dag_id: str) -> tuple[bool, float]:
    """Return whether the DAG exists, and when that was asked. Raises NoAnswerError."""
    reply = session.ask(session.dialect.dag(dag_id))
    if reply.missing:
        return False, reply.sent
    if session.require_ok(reply).known != dag_id:
        raise NoAnswerError("Airflow answered with another DAG than it was asked for")
    return True, reply.sent
