"""What the healer's port serves, as far as the page needs it.

Unknown fields are ignored and missing ones have a default, so that older and newer healers are understood. Moments are
RFC 3339. The fields are explained in kpo-healer's docs, "A finding in JSON". What comes from JSON has no cycles, so the
garbage collector need not look at 10,000 of them (`gc=False`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

Moment = Annotated[datetime, Meta(tz=True)]


class Task(Struct, frozen=True, gc=False):
    """The task instance of a Pod, as Airflow calls it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 0
    state: str | None = None


class Holds(Struct, frozen=True, gc=False):
    """What the Pod requests, and since when nobody has needed it."""

    cpu_cores: float = 0.0
    memory_bytes: float = 0.0
    extended: dict[str, float] = {}
    since: Moment | None = None


class Cause(Struct, frozen=True, gc=False):
    """How it came about, and what stops that at the source."""

    name: str
    detail: str = ""
    remedy: str = ""


class PodNotice(Struct, frozen=True, gc=False):
    """What else is worth a look about a Pod."""

    name: str
    detail: str = ""


class Finding(Struct, frozen=True, gc=False):
    """One Pod that nobody needs. `deleted` is only set in `/history`."""

    namespace: str
    pod: str
    uid: str
    reason: str
    action: str
    airflow: str = ""
    dag_id: str | None = None
    task: Task | None = None
    labels: dict[str, str] = {}
    withheld: str | None = None
    detail: str = ""
    since: Moment | None = None
    due: Moment | None = None
    created: Moment | None = None
    holds: Holds | None = None
    cause: Cause | None = None
    notices: tuple[PodNotice, ...] = ()
    deleted: Moment | None = None

    @property
    def dag(self) -> str | None:
        """The DAG id as Airflow calls it; None where nothing proves it. Labels prove none: they are cut and hashed."""
        return self.dag_id or (self.task.dag_id if self.task else None)


class Notice(Struct, frozen=True, gc=False):
    """One entry of `/notices`."""

    notice: str
    namespace: str
    pod: str
    uid: str = ""
    airflow: str = ""
    dag_id: str | None = None
    task: Task | None = None
    detail: str = ""

    @property
    def dag(self) -> str | None:
        """As of a finding."""
        return self.dag_id or (self.task.dag_id if self.task else None)


class Breaker(Struct, frozen=True, gc=False):
    """Deletions of one Airflow are paused. `detail` counts Pods of all DAGs."""

    since: Moment | None = None
    detail: str = ""


class AirflowStatus(Struct, frozen=True, gc=False):
    """How the healer treats one Airflow. `problem`: why Airflow's answers are missing, None where they are not."""

    airflow: str
    mode: str = "report"
    since: Moment | None = None
    breaker: Breaker | None = None
    problem: str | None = None


class Status(Struct, frozen=True, gc=False):
    """The answer of `/status`."""

    airflows: list[AirflowStatus] = []
    version: str = ""
