"""A small world of one test: a namespace, DAGs of its own in a seeded Airflow, and kpo-healer beside them.

with World.open(cluster, airflow_api, tmp_path) as world:
    world.seed(world.task("dead", "failed"))
    world.pod("dead")
    healer = world.installation(policy={"grace": "1s"})
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from tests.lab import healer as lab
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.audit import AuditEvent
from tests.lab.healer import Installation
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for

Json = Any

RUN = "r"
"""The run of a task unless another one is named."""

EAGER: Mapping[str, Json] = {
    "minAge": "0s",
    "grace": "1s",
    "absentGrace": "1s",
    "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"},
}
"""A policy for tests that are about something else than patience."""

UNLIMITED: Mapping[str, Json] = {"deletionsPerMinute": None, "breaker": {"maxShare": 1.0}}
"""Limits for tests that are about something else than limits; a small cast opens the breaker soon."""


@dataclass
class World:
    """One namespace and one DAG called like it."""

    cluster: Cluster
    airflow: Airflow
    namespace: str
    folder: Path
    mark: int = 0
    _installations: list[Installation] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, cluster: Cluster, airflow: Airflow, folder: Path) -> Iterator[World]:
        """A fresh one; its namespace is removed at the end."""
        name = cluster.namespace(f"world-{uuid.uuid4().hex[:8]}")
        try:
            yield cls(cluster, airflow, name, folder, cluster.audit_mark())
        finally:
            cluster.delete_namespace(name)

    @property
    def dag(self) -> str:
        return self.namespace

    # Airflow

    def task(self, task_id: str, state: str | None, **more: Any) -> Task:
        """A task instance whose Pod belongs into this namespace."""
        rendered = {"namespace": more.pop("rendered_namespace", self.namespace), "base_container_name": "base"}
        return Task(task_id, state, rendered=rendered, pod_namespace=self.namespace, **more)

    def seed(self, *tasks: Task, run: str = RUN, state: str = "running") -> None:
        """Puts task instances into a run of this world's DAG."""
        self.airflow.seed([Dag(self.dag, runs=[Run(run, tasks=tasks, state=state)])])

    # Pods

    def body(self, task_id: str, *, run: str = RUN, **more: Any) -> Json:
        """The body of the Pod of a task's first try."""
        return kpo_pod(dag_id=self.dag, task_id=task_id, run_id=run, namespace=self.namespace, **more)

    def pod(self, task_id: str, *, phase: str = "Running", **more: Any) -> str:
        """Makes the Pod of a task, waits until it is in that phase and returns its name."""
        return self.make(self.body(task_id, **more), phase=phase)

    def make(self, body: Json, *, phase: str = "Running") -> str:
        name = str(self.cluster.create_pod(body)["metadata"]["name"])
        self.cluster.wait_pod(self.namespace, name, phase, timeout=120)
        return name

    def ended(self, task_id: str, **more: Any) -> str:
        """The same, of a Pod that succeeds at once."""
        return self.pod(task_id, phase="Succeeded", annotations={f"{ANNOTATION}run-for": "0s"}, **more)

    def names(self) -> set[str]:
        """The Pods that are there and not on their way out."""
        metas = (pod["metadata"] for pod in self.cluster.pods(self.namespace))
        return {meta["name"] for meta in metas if "deletionTimestamp" not in meta}

    def wait_names(self, names: set[str], *, timeout: float = 120) -> None:
        """Waits until exactly these Pods are there."""
        wait_for(lambda: self.names() == names, timeout=timeout, what=f"{sorted(names)} only", interval=0.2)

    def wait(self, condition: Callable[[], object], what: str, *, timeout: float = 120) -> None:
        wait_for(condition, timeout=timeout, what=what, interval=0.2)

    # kpo-healer

    def installation(self, *, more_namespaces: Sequence[str] = (), **more: Any) -> Installation:
        """kpo-healer with its account in this namespace; arguments as `Installation.make` has."""
        arguments: dict[str, Any] = {"url": self.airflow.url, "policy": EAGER, "limits": UNLIMITED, **more}
        folder = self.folder / f"healer-{len(self._installations)}"
        namespaces = [self.namespace, *more_namespaces]
        made = Installation.make(folder, self.cluster, namespaces=namespaces, **arguments)
        self._installations.append(made)
        return made

    def deletes(self, code: int | None = None) -> list[AuditEvent]:
        """kpo-healer's DELETEs here, those that were answered with `code` if it is given."""
        sent = (event for event in lab.deletes(self.cluster, self.mark) if event.namespace == self.namespace)
        return [event for event in sent if code in (None, event.code)]

    def events(self, reason: str | None = None) -> dict[str, str]:
        """The messages of kpo-healer's Events by the name of their Pod; those of one reason if it is given."""
        found = self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        mine = (event for event in found if event["source"].get("component") == "kpo-healer")
        return {e["involvedObject"]["name"]: e["message"] for e in mine if reason in (None, e["reason"])}

    def now(self) -> float:
        """The API server's time, epoch seconds."""
        return parsedate_to_datetime(self.cluster.client.get("/version").headers["Date"]).timestamp()

    def wait_second(self, seconds: int = 1) -> None:
        """Until a Pod made from now on is younger by as many of Kubernetes' whole seconds."""
        goal = self.now() + seconds
        wait_for(lambda: self.now() >= goal, what="the next second of the API server", interval=0.1)


def ago(**duration: float) -> dt.datetime:
    """A moment of the past: `ago(minutes=20)`."""
    return dt.datetime.now(dt.UTC) - dt.timedelta(**duration)
