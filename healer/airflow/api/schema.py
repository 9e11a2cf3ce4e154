"""What Airflow's JSON says, as a typed subset: only what the rules need, states as plain strings, no unknown fields.

A task instance is read row by row. One bad row spoils its own task instance and nothing else: if its ids can be read it
becomes a row that lacks everything else, so that the rules call it unknown.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from healer.model import TaskInstance, intern_bounded

MASK = "***"
"""What Airflow's secrets masker puts in the place of a value: it tells nothing."""

Instant = Annotated[datetime, Meta(tz=True)]


class _TaskInstanceIds(Struct):
    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int


class _TaskInstanceRow(_TaskInstanceIds, kw_only=True):
    """`id` tells a try from the one after a clear, and the end tells that a Pod was made after it: both are needed."""

    id: str
    end_date: Instant | None
    state: str | UnsetType | None = UNSET
    try_number: int | None = None
    operator: str | None = None
    start_date: Instant | None = None
    rendered_fields: Raw = Raw(b"{}")


class _Rendered(Struct):
    namespace: Raw = Raw(b"null")
    base_container_name: Raw = Raw(b"null")


class _TaskInstanceList(Struct):
    task_instances: list[Raw]
    total_entries: int


class TaskInstancePage(Struct, frozen=True):
    """A list of task instances. `malformed` rows have no readable ids; `total` is how many Airflow says there are."""

    rows: tuple[TaskInstance, ...]
    malformed: int
    total: int

    def __len__(self) -> int:
        """How many rows came, readable or not."""
        return len(self.rows) + self.malformed

    @property
    def short(self) -> bool:
        """Whether there are more than came: the server clamps its pages."""
        return len(self) < self.total


def page(body: bytes) -> TaskInstancePage:
    """Read a list of task instances. Raises msgspec.MsgspecError if the list as a whole can't be read."""
    listed = _TASK_INSTANCE_LIST.decode(body)
    found = [task_instance(raw) for raw in listed.task_instances]
    readable = tuple(row for row in found if row is not None)
    return TaskInstancePage(readable, len(found) - len(readable), listed.total_entries)


def task_instance(raw: Raw | bytes) -> TaskInstance | None:
    """Read one row: whole, or its ids alone, or None if not even those."""
    try:
        row = _ROW.decode(raw)
    except msgspec.MsgspecError:
        return _ids_alone(raw)
    namespace, base = _rendered(row.rendered_fields)
    return TaskInstance(
        dag_id=intern_bounded(row.dag_id),
        run_id=intern_bounded(row.dag_run_id),
        task_id=intern_bounded(row.task_id),
        map_index=row.map_index,
        id=row.id,
        state=row.state,
        try_number=row.try_number,
        operator=row.operator,
        start_date=_seconds(row.start_date),
        end_date=_seconds(row.end_date),
        base_container=base,
        namespace=namespace,
    )


def _ids_alone(raw: Raw | bytes) -> TaskInstance | None:
    try:
        row = _IDS.decode(raw)
    except msgspec.MsgspecError:
        return None
    return TaskInstance(row.dag_id, row.dag_run_id, row.task_id, row.map_index)


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _rendered(fields: Raw) -> tuple[str | None, str | None]:
    """Return the rendered namespace and base container name. Optional: Airflow drops them after 30 runs of a task."""
    try:
        found = _RENDERED.decode(fields)
    except msgspec.MsgspecError:
        return None, None
    return _text(found.namespace), _text(found.base_container_name)


def _text(raw: Raw) -> str | None:
    try:
        text = _STRING.decode(raw)
    except msgspec.MsgspecError:
        return None
    return text if text and MASK not in text else None


class _Dag(Struct):
    dag_id: str


class _Dags(Struct):
    dags: list[_Dag]
    total_entries: int


class _Run(Struct):
    dag_run_id: str


class _Runs(Struct):
    dag_runs: list[_Run]
    total_entries: int


class _Task(Struct):
    task_id: str


class _Tasks(Struct):
    tasks: list[_Task]


class _OfTask(Struct):
    task_id: str


class _Of(Struct):
    task_instances: list[_OfTask]
    total_entries: int


class Ids(Struct, frozen=True):
    """A page of ids, and how many Airflow says there are."""

    ids: tuple[str, ...]
    total: int

    def __len__(self) -> int:
        """How many came."""
        return len(self.ids)


def dag_ids(body: bytes) -> Ids:
    """Read a list of DAGs."""
    listed = _DAGS.decode(body)
    return Ids(tuple(dag.dag_id for dag in listed.dags), listed.total_entries)


def run_ids(body: bytes) -> Ids:
    """Read a list of dag runs."""
    listed = _RUNS.decode(body)
    return Ids(tuple(run.dag_run_id for run in listed.dag_runs), listed.total_entries)


def task_ids(body: bytes) -> Ids:
    """Read a DAG's tasks: always all of them."""
    listed = tuple(task.task_id for task in _TASKS.decode(body).tasks)
    return Ids(listed, len(listed))


def tasks_of_run(body: bytes) -> Ids:
    """Read of a list of task instances whose tasks they are, once for each row."""
    listed = _OF.decode(body)
    return Ids(tuple(each.task_id for each in listed.task_instances), listed.total_entries)


def dag_id(body: bytes) -> str:
    """Read the id of one DAG."""
    return _DAG.decode(body).dag_id


def run_id(body: bytes) -> str:
    """Read the id of one dag run."""
    return _RUN.decode(body).dag_run_id


class _Token(Struct):
    access_token: str


class _VersionInfo(Struct):
    version: str


class _Detail(Struct):
    detail: Raw = Raw(b"null")


class _StatusReason(Struct):
    reason: str = ""
    message: str = ""


def access_token(body: bytes) -> str:
    """Read the answer to a login."""
    return _TOKEN.decode(body).access_token


def version(body: bytes) -> str:
    """Read the server's version."""
    return _VERSION.decode(body).version


def detail(body: bytes) -> str:
    """Return what Airflow says of a refusal, "" where it says nothing that can be read.

    A text comes whole: it is compared with the one that is expected of an id.
    """
    try:
        raw = _DETAIL.decode(body).detail
        try:
            return _STRING.decode(raw)
        except msgspec.MsgspecError:
            said = _REASON.decode(raw)
            return f"{said.reason} {said.message}".strip()[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


class _NoteRow(Struct):
    note: str | None


def note(body: bytes) -> str | None:
    """Read what is noted on a task instance."""
    return _NOTED.decode(body).note


def anything(_body: bytes) -> bool:
    """Read nothing: that the server has accepted what it was sent is all."""
    return True


_ROW = msgspec.json.Decoder(_TaskInstanceRow)
_IDS = msgspec.json.Decoder(_TaskInstanceIds)
_TASK_INSTANCE_LIST = msgspec.json.Decoder(_TaskInstanceList)
_RENDERED = msgspec.json.Decoder(_Rendered)
_STRING = msgspec.json.Decoder(str)
_DAG = msgspec.json.Decoder(_Dag)
_DAGS = msgspec.json.Decoder(_Dags)
_RUN = msgspec.json.Decoder(_Run)
_RUNS = msgspec.json.Decoder(_Runs)
_OF = msgspec.json.Decoder(_Of)
_TASKS = msgspec.json.Decoder(_Tasks)
_TOKEN = msgspec.json.Decoder(_Token)
_VERSION = msgspec.json.Decoder(_VersionInfo)
_DETAIL = msgspec.json.Decoder(_Detail)
_REASON = msgspec.json.Decoder(_StatusReason)
_NOTED = msgspec.json.Decoder(_NoteRow)
