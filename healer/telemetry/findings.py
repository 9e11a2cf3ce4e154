"""Findings and notices as users see them, and their form in JSON."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from healer.insights.causes import explain
from healer.insights.notices import ActiveNotice
from healer.insights.resource_usage import holds, idle_since
from healer.model import (
    Action,
    Answer,
    CauseFinding,
    Finding,
    Known,
    Pod,
    RunDeleted,
    TaskInstance,
    Withheld,
    rfc3339,
)


class FindingView(Struct, frozen=True, gc=False):
    """One finding as users see it. `since` and `due` are epoch seconds in the API server's time.

    `last_active_task` is the task instance as last seen before it ended, where somebody has looked. `dag_id` is the
    Pod's DAG as Airflow calls it, where that is proven though no task instance is known (see `proven_dag`).
    """

    pod: Pod
    airflow: str
    finding: Finding
    action: Action
    withheld: Withheld | None = None
    since: float | None = None
    due: float | None = None
    last_active_task: TaskInstance | None = None
    notices: tuple[ActiveNotice, ...] = ()
    dag_id: str | None = None

    @property
    def cause(self) -> CauseFinding | None:
        """Why the Pod was left behind, where that is known."""
        return explain(self.pod, self.finding, self.last_active_task)

    @property
    def dag(self) -> str | None:
        """The DAG id as Airflow calls it: who may see the finding hangs on it. None where nothing proves it."""
        return self.finding.task.dag_id if self.finding.task is not None else self.dag_id

    def to_dict(self) -> dict[str, Any]:
        """Return the finding in the form of the JSON output."""
        return {
            "namespace": self.pod.namespace,
            "pod": self.pod.name,
            "uid": self.pod.uid,
            "airflow": self.airflow,
            "dag_id": self.dag,
            "task": _task(self.finding.task),
            "labels": _labels(self.pod),
            "reason": self.finding.reason.value,
            "action": self.action.value,
            "withheld": self.withheld.value if self.withheld else None,
            "detail": self.finding.detail,
            "since": rfc3339(self.since),
            "due": rfc3339(self.due),
            "created": rfc3339(self.pod.created),
            "holds": _holds(self.pod, self.finding.task),
            "cause": known.to_dict() if (known := self.cause) else None,
            "notices": [{"name": noted.notice.value, "detail": noted.detail} for noted in self.notices],
        }


class NoticeView(Struct, frozen=True):
    """One notice as users see it."""

    pod: Pod
    airflow: str
    active: ActiveNotice
    task: TaskInstance | None = None
    dag_id: str | None = None

    @property
    def dag(self) -> str | None:
        """As of a finding."""
        return self.task.dag_id if self.task is not None else self.dag_id

    def to_dict(self) -> dict[str, Any]:
        """Return the notice in the form of the JSON output."""
        return {
            "notice": self.active.notice.value,
            "namespace": self.pod.namespace,
            "pod": self.pod.name,
            "uid": self.pod.uid,
            "airflow": self.airflow,
            "dag_id": self.dag,
            "task": _task(self.task),
            "detail": self.active.detail,
        }


def proven_dag(answer: Answer | None) -> str | None:
    """Return the DAG id that Airflow's last clear answer proves for a Pod; its labels prove none, cut and hashed.

    A DAG that Airflow does not have is nobody's to see, and its label may be another one's hash: None.
    """
    if isinstance(answer, Known):
        return answer.task.dag_id
    return answer.dag_id if isinstance(answer, RunDeleted) and answer.only_dag else None


def _task(task: TaskInstance | None) -> dict[str, Any] | None:
    if task is None:
        return None
    return {
        "dag_id": task.dag_id,
        "run_id": task.run_id,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "try_number": task.try_number,
        "state": None if task.state is UNSET else task.state,
    }


def _holds(pod: Pod, task: TaskInstance | None) -> dict[str, Any] | None:
    """What a Pod occupies, and since when nobody has needed that; None where it occupies nothing any more."""
    if not holds(pod):
        return None
    return {
        "cpu_cores": pod.cpu_cores,
        "memory_bytes": pod.memory_bytes,
        "extended": dict(pod.extended),
        "since": rfc3339(idle_since(pod, task)),
    }


def _labels(pod: Pod) -> dict[str, str]:
    labels = pod.labels
    found = {name: getattr(labels, name) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")}
    return {name: value for name, value in found.items() if value is not None}


def subject(finding: Finding) -> str:
    """Name the task instance of a finding for a sentence."""
    task = finding.task
    if task is None:
        return "its task instance"
    mapped = f" [{task.map_index}]" if task.map_index >= 0 else ""
    return f"task {task.task_id}{mapped} of DAG {task.dag_id}, run {task.run_id}"
