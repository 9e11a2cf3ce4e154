"""The Pods of the demo: what happened to each, and what ought to become of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from tests.lab.airflow import Airflow
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import wait_for

NAMESPACE: Final = "jobs"
PATIENCE: Final = 240.0
"""Seconds that anything may take, on however busy a machine."""

Json = Any


class Fate(StrEnum):
    """What becomes of a Pod; `GOES`: Airflow or a human deletes it."""

    LIVES = "lives"
    HEALED = "deleted"
    GOES = "goes itself"


@dataclass(eq=False)
class Role:
    """One Pod: its story, what should become of it and for which reason.

    reason: kpo-healer's last word on it; "" for a Pod that it must not even look at. began: since when it is what it
    is (epoch seconds), None where that means nothing.
    """

    story: str
    name: str
    uid: str
    should: Fate
    reason: str
    began: float | None = None


@dataclass(frozen=True)
class Task:
    """A task instance by its ids; the DAGs are in tests/lab/dags."""

    dag: str
    run: str
    index: int = -1
    task: str = "work"

    @property
    def ids(self) -> tuple[str, str, str, int]:
        return self.dag, self.run, self.task, self.index

    @property
    def labels(self) -> dict[str, Any]:
        """The arguments for a Pod made by hand that looks like this task's; not for mapped ones."""
        return {"dag_id": self.dag, "run_id": self.run, "task_id": self.task, "namespace": NAMESPACE}


class Stage:
    """The cluster, the Airflow and the cast: everything a scenario needs."""

    def __init__(self, cluster: Cluster, airflow: Airflow) -> None:
        self.cluster = cluster
        self.airflow = airflow
        self.cast: list[Role] = []
        cluster.namespace(NAMESPACE)

    # Tasks

    def trigger(self, dag: str, run: str | None = None, *, annotations: dict[str, str] | None = None) -> Task:
        """Starts a run; its Pods run for ever unless the annotations say otherwise."""
        return Task(dag, self.airflow.trigger(dag, run, {"annotations": annotations} if annotations else None))

    def pod_name(self, task: Task) -> str | None:
        """The Pod that Airflow itself names: in its state store, or for tasks that never re-attach, in an XCom."""
        dag, run, name, index = task.ids
        return self.airflow.named_pod(*task.ids) or self.airflow.xcom(dag, run, name, "pod_name", index)

    def pod(self, task: Task, *, other_than: str | None = None, phase: str = "Running") -> Json:
        """The Pod that Airflow itself names for the task instance, as soon as it has the phase."""

        def named() -> str | None:
            name = self.pod_name(task)
            return name if name != other_than else None

        name = wait_for(named, timeout=PATIENCE, what=f"{task.dag} {task.run}: a Pod", interval=0.2)
        return self.cluster.wait_pod(NAMESPACE, str(name), phase, timeout=PATIENCE)

    def kill(self, task: Task, *, phase: str = "Running") -> Json:
        """SIGKILL for the task's own process, once its Pod has the phase; the Pod."""
        pod = self.pod(task, phase=phase)
        self.airflow.kill_task(*task.ids, timeout=PATIENCE)
        return pod

    def wait(self, task: Task, *states: str, try_number: int | None = None) -> Json:
        """Waits until the task instance is in one of these states; its row."""
        dag, run, name, index = task.ids
        return self.airflow.wait_task(dag, run, name, *states, map_index=index, try_number=try_number, timeout=PATIENCE)

    def wait_adopted(self, task: Task, try_number: int) -> None:
        """Waits until this try has taken over the Pod of an earlier one, and Airflow names it again."""
        self.airflow.wait_adopted(*task.ids[:3], try_number, task.index)
        wait_for(lambda: self.pod_name(task), timeout=PATIENCE, what=f"{task.dag} {task.run}: a name", interval=0.2)

    def ended(self, task: Task) -> float:
        """Waits until the task instance has failed; when that was."""
        return moment(self.wait(task, "failed")["end_date"])

    # Pods

    def add(self, story: str, pod: Json, should: Fate, reason: str, began: float | None = None) -> Role:
        """Puts a Pod into the cast."""
        meta = pod["metadata"]
        role = Role(story, meta["name"], meta["uid"], should, reason, began)
        self.cast.append(role)
        return role

    def make(self, body: Json) -> Json:
        """Creates a Pod by hand and waits until it runs."""
        made = self.cluster.create_pod(body)["metadata"]
        return self.cluster.wait_pod(made["namespace"], made["name"], timeout=PATIENCE)

    def end_work(self, name: str, *, sidecar: bool = False) -> None:
        """Lets a Pod's work end well. sidecar: another container runs on beside it."""
        mark = f"{ANNOTATION}{'base' if sidecar else 'run'}-for"
        self.cluster.patch_pod(NAMESPACE, name, {"metadata": {"annotations": {mark: "1s"}}})

    def now(self) -> float:
        """The API server's time, epoch seconds."""
        return parsedate_to_datetime(self.cluster.client.get("/version").headers["Date"]).timestamp()

    def uids(self) -> set[str]:
        """The Pods that are there now, whoever's they are; those on their way out are not counted."""
        pods = (pod["metadata"] for pod in self.cluster.pods(NAMESPACE))
        return {meta["uid"] for meta in pods if "deletionTimestamp" not in meta}


def base_ended(pod: Json) -> float | None:
    """When the Pod's base container ended, epoch seconds; None while it has not."""
    found = (one for one in pod["status"].get("containerStatuses", ()) if one["name"] == "base")
    base: Json = next(found, {"state": {}})
    end = base["state"].get("terminated", {}).get("finishedAt")
    return moment(end) if end else None


def moment(text: str) -> float:
    """An RFC 3339 time as epoch seconds."""
    return dt.datetime.fromisoformat(text).timestamp()
