"""Real tasks of a real Airflow whose Pods live in a namespace of the test's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tests.lab.airflow import Airflow
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import wait_for

Json = Any

PATIENCE = 180.0
"""Seconds that a step may take, on however busy a machine."""


@dataclass(frozen=True)
class RealTask:
    """The one task instance of a run, and where its Pods are."""

    cluster: Cluster
    airflow: Airflow
    namespace: str
    dag: str
    run: str

    @classmethod
    def trigger(cls, cluster: Cluster, airflow: Airflow, namespace: str, dag: str, **marks: str) -> RealTask:
        """Starts a run of an example DAG; its Pod runs for ever unless `marks` (`run_for="5s"`) say otherwise."""
        conf: Json = {"namespace": namespace} | ({"annotations": _annotations(marks)} if marks else {})
        return cls(cluster, airflow, namespace, dag, airflow.trigger(dag, conf=conf))

    @property
    def _ids(self) -> tuple[str, str, str]:
        return self.dag, self.run, "work"

    def pod(self, *, but: Collection[str] = ()) -> Json:
        """The running Pod that Airflow names for it, as soon as there is one that is none of `but`."""

        def named() -> str | None:
            name = self.airflow.named_pod(*self._ids) or self.airflow.xcom(*self._ids, "pod_name")
            return None if name in but else name

        name = wait_for(named, timeout=PATIENCE, what=f"{self.dag} {self.run}: a Pod", interval=0.2)
        return self.cluster.wait_pod(self.namespace, str(name), timeout=PATIENCE)

    def mark_pod(self, pod: Json, **marks: str) -> None:
        """Tells the kubelet's stand-in what becomes of a Pod from now on, such as `run_for="1s"`."""
        patch = {"metadata": {"annotations": _annotations(marks)}}
        self.cluster.patch_pod(self.namespace, pod["metadata"]["name"], patch)

    def wait(self, *states: str, try_number: int | None = None) -> Json:
        return self.airflow.wait_task(*self._ids, *states, try_number=try_number, timeout=PATIENCE)

    def kill(self) -> None:
        """SIGKILL for the task's own process."""
        self.airflow.kill_task(*self._ids, timeout=PATIENCE)

    def clear(self) -> None:
        self.airflow.clear(*self._ids)

    def fail(self) -> None:
        """As a user who marks it failed."""
        self.airflow.mark(*self._ids, "failed")

    def delete_run(self) -> None:
        self.airflow.wait_run(self.dag, self.run, "failed", timeout=PATIENCE)
        self.airflow.delete_run(self.dag, self.run)

    def stop(self) -> int:
        """Keeps the task's own process from seeing anything; the process id."""

        def process() -> int | None:
            return self.airflow.task_process(*self._ids)

        pid = wait_for(process, timeout=PATIENCE, what=f"a process of {self.dag} {self.run}", interval=0.1)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        return pid

    def die_after_the_work(self, pod: Json, **marks: str) -> Json:
        """The task's process is killed just after its Pod's work has ended, before it could see that; the Pod then."""
        pid = self.stop()
        self.mark_pod(pod, **marks)
        name = pod["metadata"]["name"]
        wait_for(lambda: base_end(self.cluster.get_pod(self.namespace, name)), timeout=PATIENCE, what=f"end of {name}")
        os.kill(pid, signal.SIGKILL)
        return self.cluster.get_pod(self.namespace, name)


def base_end(pod: Json) -> str | None:
    """When the first container ended (RFC 3339); None while it has not, or there is no Pod."""
    statuses = (pod or {}).get("status", {}).get("containerStatuses", ())
    wanted = pod["spec"]["containers"][0]["name"] if pod else None
    ends = (one["state"].get("terminated", {}).get("finishedAt") for one in statuses if one["name"] == wanted)
    return next(ends, None)


def _annotations(marks: dict[str, str]) -> dict[str, str]:
    return {f"{ANNOTATION}{name.replace('_', '-')}": value for name, value in marks.items()}
