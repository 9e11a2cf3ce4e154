"""How Airflow 3 is asked: the questions of the healer in the words of its REST API, /api/v2.

A 404 alone proves nothing: a wrong address, a proxy or a DAG that was not parsed gives one too. Only Airflow's own
texts count, with the very ids that were asked for (the same in 3.0 to 3.3, but for the DAG's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from healer.airflow.api import pod_names, schema
from healer.airflow.api.dialect import Ask, Missing, XCom
from healer.airflow.api.reply import Problem
from healer.airflow.api.task_key import TaskKey, TaskKeys, body
from healer.airflow.api.transport import AirflowRequest
from healer.model import TaskInstance

API = "/api/v2"
DAGS = "/api/v2/dags"
DAG = DAGS + "/{dag_id}"
TASKS = DAG + "/tasks"
RUNS = DAG + "/dagRuns"
RUN = RUNS + "/{dag_run_id}"
OF_RUN = RUN + "/taskInstances"
TASK = OF_RUN + "/{task_id}"
TASK_INSTANCE = TASK + "/{map_index}"
LIST = "/api/v2/dags/~/dagRuns/~/taskInstances/list"
STATE = TASK + "/state-store/{key}"
XCOM = TASK + "/xcomEntries/{key}"
VERSION = "/api/v2/version"
LOGIN = "/auth/token"

POD_IDENTIFIER = "pod_identifier"
"""Key of the task state store under which KPO keeps the Pod that the current or next try uses."""

INVALID = "Invalid JWT token"
"""What Airflow says with 403 of a token that it can't verify: revoked, another secret, a skewed clock."""

LISTS_UNKNOWN = True

RIGHTS = "give its role can_read on DAGs, DAG Runs and Task Instances (simple auth manager: role viewer)"


def problem(content: bytes, content_type: str) -> Problem:  # noqa: ARG001 - it is told by its texts
    """Read a refusal. Never raises."""
    detail = schema.detail(content)
    return Problem(detail=detail, of_airflow=detail not in {"", "Not Found"})


def login_refused(status: int, said: Problem) -> bool:
    """Whether a refusal means the login: Airflow 3 says so."""
    return status == 401 or (status == 403 and said.detail == INVALID)


def forbidden(status: int, said: Problem) -> bool:
    """Whether Airflow says that a right is missing."""
    return status == 403 and said.detail == "Forbidden"


def _none(*details: str) -> Missing:
    return lambda status, said: status == 404 and said.detail in details


def version() -> Ask[str]:
    """Ask for the version, which needs no login."""
    return Ask(AirflowRequest("version", VERSION), schema.version)


def log_in(username: str, password: str) -> Ask[str]:
    """Exchange user and password for a token."""
    body = {"username": username, "password": password}
    return Ask(AirflowRequest("login", LOGIN, body=body, method="POST"), schema.access_token)


def log_in_client(client: str, secret: str) -> Ask[str]:
    """Exchange a client and its secret for a token, as the Keycloak auth manager does."""
    body = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
    return Ask(AirflowRequest("login", LOGIN, body=body, method="POST"), schema.access_token)


def dags(limit: int, offset: int = 0) -> Ask[schema.Ids]:
    """List the DAGs that may be read, those whose file is gone included."""
    query = (("exclude_stale", "false"), ("order_by", "dag_id"), ("limit", limit), ("offset", offset))
    return Ask(AirflowRequest("dags", DAGS, query=query), schema.dag_ids)


def runs(dag_id: str, limit: int, offset: int = 0, prefix: str = "") -> Ask[schema.Ids]:
    """List a DAG's runs, newest first."""
    query: tuple[tuple[str, str | int], ...] = (("order_by", "-id"), ("limit", limit), ("offset", offset))
    query = (("run_id_prefix_pattern", prefix), *query) if prefix else query
    return Ask(AirflowRequest("runs", RUNS, {"dag_id": dag_id}, query), schema.run_ids, _no_dag(dag_id))


def tasks(dag_id: str) -> Ask[schema.Ids]:
    """List a DAG's tasks as it is now."""
    return Ask(AirflowRequest("tasks", TASKS, {"dag_id": dag_id}), schema.task_ids, _no_dag(dag_id))


def tasks_of_run(dag_id: str, run_id: str, limit: int, offset: int = 0, *, maps: bool = False) -> Ask[schema.Ids]:
    """List of which tasks a run has instances; with `maps` the first map index stands for all of a mapped task.

    404 where the DAG is not serialized any more.
    """
    query: tuple[tuple[str, str | int], ...] = (("order_by", "map_index"), ("limit", limit), ("offset", offset))
    query = (("map_index", -1), ("map_index", 0), *query) if maps else query
    return Ask(AirflowRequest("list-get", OF_RUN, {"dag_id": dag_id, "dag_run_id": run_id}, query), schema.tasks_of_run)


def tasks_listed(dag_id: str, run_id: str, limit: int) -> Ask[schema.Ids]:
    """List the same by a POST, which leaves a row in Airflow's audit table."""
    body = {"dag_ids": [dag_id], "dag_run_ids": [run_id], "page_limit": limit, "order_by": "map_index"}
    return Ask(AirflowRequest("list", LIST, body=body, method="POST"), schema.tasks_of_run)


def dag(dag_id: str) -> Ask[str]:
    """Ask whether a DAG exists. "None" is also said of one that does and has no parsed form, as after an upgrade."""
    return Ask(AirflowRequest("dag", DAG, {"dag_id": dag_id}), schema.dag_id, _no_dag(dag_id))


def _no_dag(dag_id: str) -> Missing:
    """The words of 3.1 and later, and those of 3.0."""
    return _none(f"The Dag with ID: `{dag_id}` was not found", f"Dag with id {dag_id} was not found")


def left_of(dag_id: str) -> Ask[schema.Ids] | None:
    """List a task instance of a DAG: that needs no parsed form of it."""
    body = {"dag_ids": [dag_id], "page_limit": 1}
    return Ask(AirflowRequest("list", LIST, body=body, method="POST"), schema.tasks_of_run)


def run(dag_id: str, run_id: str) -> Ask[str]:
    """Ask whether a run exists. "None" is also said where the DAG does not."""
    missing = _none(f"The DagRun with dag_id: `{dag_id}` and run_id: `{run_id}` was not found")
    return Ask(AirflowRequest("run", RUN, {"dag_id": dag_id, "dag_run_id": run_id}), schema.run_id, missing)


def task_instance(task_key: TaskKey, map_index: int) -> Ask[TaskInstance]:
    """Ask for one task instance. "None" is said too where the task, the run or the DAG does not exist."""
    missing = _none(
        f"The Mapped Task Instance with dag_id: `{task_key.dag_id}`, run_id: `{task_key.run_id}`, "
        f"task_id: `{task_key.task_id}`, and map_index: `{map_index}` was not found"
    )
    return Ask(AirflowRequest("task-instance", TASK_INSTANCE, _place(task_key, map_index)), _row, missing)


def listed(chunk: TaskKeys, filters: Mapping[str, object]) -> Ask[schema.TaskInstancePage]:
    """List the task instances of a chunk."""
    return Ask(
        AirflowRequest("list", LIST, body=body(chunk, {"order_by": "map_index", **filters}), method="POST"), schema.page
    )


def may_list(nobody: str, dag_id: str = "~") -> Ask[bool]:
    """Ask for none of all task instances, or of a DAG's: whether any may be read."""
    query = (("pool", nobody), ("limit", 1))
    return Ask(AirflowRequest("list-get", OF_RUN, {"dag_id": dag_id, "dag_run_id": "~"}, query), schema.anything)


def recent(operators: Sequence[str], limit: int, since: float | None) -> Ask[schema.TaskInstancePage]:  # noqa: ARG001
    """List the newest task instances of these operators (3.0 ignores that filter)."""
    query: tuple[tuple[str, str | int], ...] = (("limit", limit), ("order_by", "-start_date"))
    query += tuple(("operator", each) for each in operators)
    return Ask(AirflowRequest("list-get", OF_RUN, {"dag_id": "~", "dag_run_id": "~"}, query), schema.page)


def indices(task_key: TaskKey, indices: Sequence[int], limit: int) -> Ask[schema.TaskInstancePage] | None:
    """List some map indices of one task (3.1 and later: 3.0 ignores the filter)."""
    wanted = tuple(("map_index", index) for index in indices)
    query: tuple[tuple[str, str | int], ...] = (("task_id", task_key.task_id), *wanted, ("limit", limit))
    ids = {"dag_id": task_key.dag_id, "dag_run_id": task_key.run_id}
    return Ask(AirflowRequest("list-get", OF_RUN, ids, query), schema.page)


def state_store(task_key: TaskKey, map_index: int) -> Ask[pod_names.Value] | None:
    """Ask the task state store for the Pod (3.3 and later)."""
    request = AirflowRequest(
        "state-store", STATE, {**_ids(task_key), "key": POD_IDENTIFIER}, (("map_index", map_index),)
    )
    return Ask(request, pod_names.pod_identifier, _none(f"Task state store key {POD_IDENTIFIER!r} not found"))


def xcom(task_key: TaskKey, map_index: int, key: str) -> Ask[XCom]:
    """Ask for an XCom."""
    request = AirflowRequest("xcom", XCOM, {**_ids(task_key), "key": key}, (("map_index", map_index),))
    return Ask(request, _xcom, _none(f"XCom entry with key: `{key}` not found"))


def counts(_task: TaskInstance, _found: XCom) -> bool:
    """Airflow 3 removes the XComs of the try before in the same step in which a task starts."""
    return True


def read_note(task_key: TaskKey, map_index: int) -> Ask[str | None]:
    """Ask what is noted on a task instance."""
    return Ask(AirflowRequest("read-note", TASK_INSTANCE, _place(task_key, map_index)), schema.note)


def write_note(task_key: TaskKey, map_index: int, text: str) -> Ask[bool]:
    """Write a note and leave the state as it is."""
    query, note = (("update_mask", "note"),), {"note": text}
    return Ask(
        AirflowRequest("note", TASK_INSTANCE, _place(task_key, map_index), query, note, "PATCH"),
        schema.anything,
    )


def may_note(dag_id: str, nobody: str) -> Ask[bool]:
    """Ask whether notes may be written: a dry run on a run that does not exist."""
    place = _place(TaskKey(dag_id, nobody, nobody), -1)
    request = AirflowRequest("note", f"{TASK_INSTANCE}/dry_run", place, body={"note": ""}, method="PATCH")
    return Ask(request, schema.anything, lambda status, said: status == 404 and said.of_airflow)


def _place(task_key: TaskKey, map_index: int) -> dict[str, str | int]:
    return {**_ids(task_key), "map_index": map_index}


def _ids(task_key: TaskKey) -> dict[str, str | int]:
    return {"dag_id": task_key.dag_id, "dag_run_id": task_key.run_id, "task_id": task_key.task_id}


def _xcom(content: bytes) -> XCom:
    return XCom(pod_names.xcom(content))


def _row(content: bytes) -> TaskInstance:
    row = schema.task_instance(content)
    if row is None:
        raise msgspec.ValidationError("the row has no readable ids")
    return row
