"""The exact words with which Airflow says that something does not exist.

A 404 alone proves nothing: a wrong address, a proxy or a DAG that was not parsed gives one too. Only these texts count,
with the very ids that were asked for (the same in 3.0 to 3.3, but for the DAG's).
"""

from __future__ import annotations

from typing import Any

from healer.airflow.client import Reply

POD_IDENTIFIER = "pod_identifier"
"""Key of the task state store under which KPO keeps the Pod that the current or next try uses."""


def is_dag_missing(reply: Reply[Any], dag_id: str) -> bool:
    """Whether Airflow says that it has no such DAG (3.1 and later; 3.0)."""
    said = (f"The Dag with ID: `{dag_id}` was not found", f"Dag with id {dag_id} was not found")
    return reply.status == 404 and reply.detail in said


def is_run_missing(reply: Reply[Any], dag_id: str, run_id: str) -> bool:
    """Whether Airflow says that the run does not exist. It says so too where the DAG does not."""
    return (
        reply.status == 404
        and reply.detail == f"The DagRun with dag_id: `{dag_id}` and run_id: `{run_id}` was not found"
    )


def is_task_instance_missing(reply: Reply[Any], dag_id: str, run_id: str, task_id: str, map_index: int) -> bool:
    """Whether Airflow says that the task instance does not exist: also where its task, run or DAG does not."""
    return reply.status == 404 and reply.detail == (
        f"The Mapped Task Instance with dag_id: `{dag_id}`, run_id: `{run_id}`, task_id: `{task_id}`, "
        f"and map_index: `{map_index}` was not found"
    )


def is_state_missing(reply: Reply[Any]) -> bool:
    """Whether Airflow says that the task state store has no Pod for the task instance."""
    return reply.status == 404 and reply.detail == f"Task state store key {POD_IDENTIFIER!r} not found"


def is_xcom_missing(reply: Reply[Any], key: str) -> bool:
    """Whether Airflow says that there is no such XCom."""
    return reply.status == 404 and reply.detail == f"XCom entry with key: `{key}` not found"
