"""How Airflow 2.10 and 2.11 are asked: the questions of the healer in the words of their REST API, /api/v1.

What differs from Airflow 3 is all here: paths, bodies, the refusals that mean "there is none", what a row holds.
Observed on 2.11.2 and 2.10.5, which answer alike but for a login that is refused (403 and 401).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from healer.airflow.api import pod_names, schema
from healer.airflow.api.dialect import Ask, Missing, XCom
from healer.airflow.api.reply import Problem
from healer.airflow.api.schema import Instant, _ids_alone, _rendered, _seconds, _TaskInstanceIds
from healer.airflow.api.task_key import TaskKey, TaskKeys, body
from healer.airflow.api.transport import AirflowRequest
from healer.model import TaskInstance, intern_bounded

API = "/api/v1"
DAGS = "/api/v1/dags"
DAG = DAGS + "/{dag_id}"
TASKS = DAG + "/tasks"
RUNS = DAG + "/dagRuns"
RUN = RUNS + "/{dag_run_id}"
OF_RUN = RUN + "/taskInstances"
UNMAPPED = OF_RUN + "/{task_id}"
MAPPED = UNMAPPED + "/{map_index}"
LIST = "/api/v1/dags/~/dagRuns/~/taskInstances/list"
XCOM = UNMAPPED + "/xcomEntries/{key}"
VERSION = "/api/v1/version"

LISTS_UNKNOWN = False
"""A list with a DAG that may not be read is refused whole; for a role of single DAGs one that does not exist too."""

RIGHTS = "give its role can_read on DAGs (or on each DAG), DAG Runs, Task Instances and XComs (the role Viewer has all)"
"""What to do about a 403."""

_PROBLEM_JSON = "application/problem+json"
_NOT_FOUND = "#section/Errors/NotFound"
"""How the `type` of each 404 ends that Airflow itself gives for something that does not exist."""


class _Problem(Struct):
    title: str | None = None
    detail: str | None = None
    type: str | None = None


_PROBLEM = msgspec.json.Decoder(_Problem)


def problem(content: bytes, content_type: str) -> Problem:
    """Read a refusal. Whatever is no problem+json of Airflow's is an empty one, so that it proves nothing."""
    if content_type.partition(";")[0].strip().lower() != _PROBLEM_JSON:
        return Problem()
    try:
        said = _PROBLEM.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Problem()
    of_airflow = (said.type or "").endswith(_NOT_FOUND)
    # Cut on display only: a cut text would not equal the one that is expected of a long id.
    return Problem(said.title or "", said.detail or "", of_airflow)


def _no(title: str, detail: str = "") -> Missing:
    """Whether Airflow itself says with these very words that there is none."""
    return lambda status, said: status == 404 and said == Problem(title, detail, of_airflow=True)


def login_refused(status: int, _said: Problem) -> bool:
    """Whether a refusal means the login: 2.10 says 401. What 2.11 says may as well be a missing right (`login2`)."""
    return status == 401


def forbidden(status: int, said: Problem) -> bool:
    """Whether Airflow says that a right is missing."""
    return status == 403 and said.title == "Forbidden"


# --- the questions ---


def version() -> Ask[str]:
    """Ask for the version, which needs no login."""
    return Ask(AirflowRequest("version", VERSION), schema.version)


def dags(limit: int, offset: int = 0) -> Ask[schema.Ids]:
    """List the DAGs that may be read, those whose file is gone included. At most 100 come at a time."""
    query = (
        ("only_active", "false"),
        ("order_by", "dag_id"),
        ("fields", "dag_id"),
        ("limit", limit),
        ("offset", offset),
    )
    return Ask(AirflowRequest("dags", DAGS, query=query), _dag_ids)


def runs(dag_id: str, limit: int, offset: int = 0, prefix: str = "") -> Ask[schema.Ids]:
    """List a DAG's runs, newest first; of a DAG that does not exist there are none. There is no filter by prefix."""
    if prefix:
        raise ValueError("Airflow 2 knows no filter by the beginning of a run id")
    query = (("order_by", "-id"), ("limit", limit), ("offset", offset))
    return Ask(AirflowRequest("runs", RUNS, {"dag_id": dag_id}, query), schema.run_ids)


def tasks(dag_id: str) -> Ask[schema.Ids]:
    """List a DAG's tasks as it is now. "None" is also said of a DAG that exists and whose file was not parsed."""
    return Ask(AirflowRequest("tasks", TASKS, {"dag_id": dag_id}), schema.task_ids, _no("DAG not found"))


def tasks_of_run(
    dag_id: str,
    run_id: str,
    limit: int,
    offset: int = 0,
    *,
    maps: bool = False,  # noqa: ARG001 - no list can be filtered by them
) -> Ask[schema.Ids]:
    """List of which tasks a run has instances, in no order. Of a run that does not exist there are none."""
    query = (("limit", limit), ("offset", offset))
    return Ask(AirflowRequest("list-get", OF_RUN, {"dag_id": dag_id, "dag_run_id": run_id}, query), schema.tasks_of_run)


def tasks_listed(dag_id: str, run_id: str, limit: int) -> Ask[schema.Ids]:
    """List the same by a question whose URL holds no id."""
    body = {"dag_ids": [dag_id], "dag_run_ids": [run_id], "page_limit": limit}
    return Ask(AirflowRequest("list", LIST, body=body, method="POST"), schema.tasks_of_run)


def dag(dag_id: str) -> Ask[str]:
    """Ask whether a DAG exists."""
    missing = _no("DAG not found", f"The DAG with dag_id: {dag_id} was not found")
    return Ask(AirflowRequest("dag", DAG, {"dag_id": dag_id}), schema.dag_id, missing)


def left_of(_dag_id: str) -> Ask[schema.Ids] | None:
    """A DAG that is there is told, whether it was parsed or not."""
    return None


def run(dag_id: str, run_id: str) -> Ask[str]:
    """Ask whether a run exists. "None" is also said where the DAG does not."""
    missing = _no("DAGRun not found", f"DAGRun with DAG ID: '{dag_id}' and DagRun ID: '{run_id}' not found")
    return Ask(AirflowRequest("run", RUN, {"dag_id": dag_id, "dag_run_id": run_id}), schema.run_id, missing)


_IS_MAPPED = "Task instance is mapped, add the map_index value to the URL"


def task_instance(task_key: TaskKey, map_index: int) -> Ask[TaskInstance]:
    """Ask for one task instance.

    "None" repeats no id, and is said too where the task, the run or the DAG does not exist: it leads to a keep only.
    """
    none = _no("Task instance not found")
    mapped = _no("Task instance not found", _IS_MAPPED)

    def missing(status: int, said: Problem) -> bool:
        return none(status, said) or (map_index < 0 and mapped(status, said))

    return Ask(AirflowRequest("task-instance", *_place(task_key, map_index)), one_row, missing)


def listed(chunk: TaskKeys, filters: Mapping[str, object]) -> Ask[schema.TaskInstancePage]:
    """List the task instances of a chunk, in no order. Refused whole with 403 if one DAG may not be read."""
    return Ask(AirflowRequest("list", LIST, body=body(chunk, filters), method="POST"), page)


def may_list(nobody: str, dag_id: str = "~") -> Ask[bool]:
    """Ask for none of all task instances, or of a DAG's: whether any may be read."""
    query = (("pool", nobody), ("limit", 1))
    return Ask(AirflowRequest("list-get", OF_RUN, {"dag_id": dag_id, "dag_run_id": "~"}, query), schema.anything)


RECENT = 86_400.0
"""Seconds back from `since` in which a task instance counts as recent: Airflow 2 can't sort a list of all DAGs."""


def recent(_operators: Sequence[str], limit: int, since: float | None) -> Ask[schema.TaskInstancePage]:
    """List some task instances that have started within the last day. There is no filter by operator."""
    asked: dict[str, object] = {"page_limit": limit}
    if since is not None:
        asked["start_date_gte"] = datetime.fromtimestamp(since - RECENT, UTC).isoformat()
    return Ask(AirflowRequest("list", LIST, body=asked, method="POST"), page)


def indices(_cell: TaskKey, _indices: Sequence[int], _limit: int) -> Ask[schema.TaskInstancePage] | None:
    """No list can be filtered by map index."""
    return None


def state_store(_cell: TaskKey, _map_index: int) -> Ask[pod_names.Value] | None:
    """There is no task state store."""
    return None


def xcom(task_key: TaskKey, map_index: int, key: str) -> Ask[XCom]:
    """Ask for an XCom. "None" repeats no id. Raises msgspec.ValidationError for one of another task instance."""

    def decode(content: bytes) -> XCom:
        entry = _XCOM.decode(content)
        if (entry.dag_id, entry.task_id, entry.map_index, entry.key) != (
            task_key.dag_id,
            task_key.task_id,
            map_index,
            key,
        ):
            raise msgspec.ValidationError("it is an XCom of another task instance")
        return XCom(pod_names.value(entry.value), entry.timestamp.timestamp())

    query = (("map_index", map_index),) if map_index >= 0 else ()
    request = AirflowRequest("xcom", XCOM, {**_path_ids(task_key), "key": key}, query)
    return Ask(request, decode, _no("XCom entry not found"))


def read_note(task_key: TaskKey, map_index: int) -> Ask[str | None]:
    """Ask what is noted on a task instance."""
    return Ask(AirflowRequest("read-note", *_place(task_key, map_index)), schema.note)


def write_note(task_key: TaskKey, map_index: int, text: str) -> Ask[bool]:
    """Write a note."""
    path, ids = _place(task_key, map_index)
    request = AirflowRequest("note", path + "/setNote", ids, body={"note": text}, method="PATCH")
    return Ask(request, schema.anything)


def may_note(dag_id: str, nobody: str) -> Ask[bool]:
    """Ask whether notes may be written: there is no dry run, but a run that does not exist can't be noted on."""

    def missing(status: int, said: Problem) -> bool:
        return status == 404 and said.of_airflow and said.title.startswith("Task Instance not found for dag_id=")

    note = write_note(TaskKey(dag_id, nobody, nobody), -1, "")
    return msgspec.structs.replace(note, missing=missing)


def _place(task_key: TaskKey, map_index: int) -> tuple[str, dict[str, str | int]]:
    """Return path and ids of a task instance: an unmapped one has no index in its path, -1 is no number there."""
    return (
        (MAPPED, _path_ids(task_key) | {"map_index": map_index}) if map_index >= 0 else (UNMAPPED, _path_ids(task_key))
    )


def _path_ids(task_key: TaskKey) -> dict[str, str | int]:
    return {"dag_id": task_key.dag_id, "dag_run_id": task_key.run_id, "task_id": task_key.task_id}


# --- the evidence ---


def counts(task: TaskInstance, found: XCom) -> bool:
    """Whether an XCom is of the try that runs now.

    For up to 5 s after a try has started the XComs of the one before are still there. What has ended keeps its own.
    """
    if task.state not in {"running", "deferred"}:
        return True
    if task.start_date is None or found.pushed is None:
        return False
    return found.pushed >= task.start_date


# --- rows ---


class _Row(_TaskInstanceIds, kw_only=True):
    """A row. `trigger` is not among the fields: its kwargs hold the cluster's credentials, so nobody reads them."""

    start_date: Instant | None
    end_date: Instant | None
    max_tries: int
    try_number: int | None = None
    state: str | UnsetType | None = UNSET
    operator: str | None = None
    rendered_fields: Raw = Raw(b"{}")


class _Page(Struct):
    task_instances: list[Raw]
    total_entries: int


class _Dag(Struct):
    dag_id: str


class _Dags(Struct):
    dags: list[_Dag]
    total_entries: int


class _Entry(Struct):
    dag_id: str
    task_id: str
    map_index: int
    key: str
    timestamp: Instant
    value: Raw


_ROW = msgspec.json.Decoder(_Row)
_PAGE = msgspec.json.Decoder(_Page)
_XCOM = msgspec.json.Decoder(_Entry)
_DAGS = msgspec.json.Decoder(_Dags)


def row(content: Raw | bytes) -> TaskInstance | None:
    """Read one row: whole, or its ids alone, or None if not even those."""
    try:
        found = _ROW.decode(content)
    except msgspec.MsgspecError:
        return _ids_alone(content)
    namespace, base = _rendered(found.rendered_fields)
    return TaskInstance(
        dag_id=intern_bounded(found.dag_id),
        run_id=intern_bounded(found.dag_run_id),
        task_id=intern_bounded(found.task_id),
        map_index=found.map_index,
        id=_name_of_try(found),
        state=found.state,
        try_number=found.try_number,
        operator=found.operator,
        start_date=_seconds(found.start_date),
        end_date=_seconds(found.end_date),
        base_container=base,
        namespace=namespace,
    )


def _name_of_try(found: _Row) -> str:
    """Return what tells one try from another, as there is no id.

    The number alone does not: `airflow tasks run --force` runs the same one again, with a new start. A clear raises
    `max_tries` before it raises the number.
    """
    started = found.start_date.isoformat() if found.start_date else "never"
    return f"{found.try_number}/{found.max_tries}@{started}"


def one_row(content: bytes) -> TaskInstance:
    """Read one task instance. Raises msgspec.MsgspecError where not even its ids can be read."""
    found = row(content)
    if found is None:
        raise msgspec.ValidationError("the row has no readable ids")
    return found


def page(content: bytes) -> schema.TaskInstancePage:
    """Read a list of task instances. Raises msgspec.MsgspecError if the list as a whole can't be read."""
    listed = _PAGE.decode(content)
    found: Sequence[TaskInstance | None] = [row(raw) for raw in listed.task_instances]
    readable = tuple(one for one in found if one is not None)
    return schema.TaskInstancePage(readable, len(found) - len(readable), listed.total_entries)


def _dag_ids(content: bytes) -> schema.Ids:
    found = _DAGS.decode(content)
    return schema.Ids(tuple(dag.dag_id for dag in found.dags), found.total_entries)
