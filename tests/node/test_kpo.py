"""Real KubernetesPodOperator tasks whose containers really run: they end well, or are lost and ended by kpo-healer.

What ends a container is seen on the machine: its process, and the exit that containerd noted.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.tasks import PATIENCE, RealTask
from tests.lab.airflow import Airflow
from tests.lab.healer import Installation, deletes, other_writes
from tests.lab.processes import say, wait_for
from tests.node.cluster import NodeCluster
from tests.node.pods import base

Json = Any
Install = Callable[..., Installation]

GRACE = 5


@dataclass(frozen=True)
class RunningTask:
    """A task whose container runs: its Pod as it was then, and the process of its work."""

    task: RealTask
    pod: Json
    pid: int

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])


def trigger(cluster: NodeCluster, airflow: Airflow, namespace: str, dag: str, work: str) -> RealTask:
    """Starts a run whose container does the work (see images.py)."""
    run = airflow.trigger(dag, f"{work}.{uuid.uuid4().hex[:8]}", {"namespace": namespace})
    return RealTask(cluster, airflow, namespace, dag, run)


def running(cluster: NodeCluster, task: RealTask) -> RunningTask:
    return RunningTask(task, task.pod(), cluster.node.wait_process(f"RUN={task.run}", timeout=PATIENCE))


@pytest.mark.parametrize(
    ("dag", "work", "state", "code"),
    [
        ("kpo_sync", "lines-3", "success", 0),
        ("kpo_sync", "exit-3", "failed", 3),
        ("kpo_deferrable", "lines-3", "success", 0),
        ("kpo_deferrable", "exit-3", "failed", 3),
    ],
)
def test_a_task_ends_as_its_container_ends(
    cluster: NodeCluster, airflow: Airflow, namespace: str, dag: str, work: str, state: str, code: int
) -> None:
    before = len(cluster.node.exits())
    task = trigger(cluster, airflow, namespace, dag, work)
    task.wait("success", "failed")
    assert airflow.task_instance(dag, task.run, "work")["state"] == state
    assert code in {end.code for end in cluster.node.exits()[before:]}


def test_a_log_arrives_whole(cluster: NodeCluster, airflow: Airflow, namespace: str) -> None:
    task = trigger(cluster, airflow, namespace, "kpo_real", "lines-500")
    task.wait("success", "failed")
    log = airflow.log("kpo_real", task.run, "work")
    assert [line for line in range(1, 501) if f"line {line} of {task.run}" not in log] == []


def test_an_xcom_comes_out_of_a_real_sidecar(cluster: NodeCluster, airflow: Airflow, namespace: str) -> None:
    task = trigger(cluster, airflow, namespace, "kpo_xcom", "rows-42")
    task.wait("success", "failed")
    assert airflow.xcom("kpo_xcom", task.run, "work", "return_value") == {"rows": 42}


@pytest.mark.parametrize(
    ("work", "code"),
    [("polite", 143), ("tidy", 7), ("unaware", 137)],
)
def test_the_container_of_a_killed_task_is_really_ended_and_no_other(
    cluster: NodeCluster, airflow: Airflow, namespace: str, install: Install, work: str, code: int
) -> None:
    lost = running(cluster, trigger(cluster, airflow, namespace, "kpo_sync", work))
    healthy = running(cluster, trigger(cluster, airflow, namespace, "kpo_deferrable", "polite"))
    healthy.task.wait("deferred")
    mark = cluster.audit_mark()
    lost.task.kill()
    lost.task.wait("failed")
    installation = install(airflow, policy={"grace": f"{GRACE}s"})
    with installation.run(mode="report") as healer:
        wait_for(lambda: healer.metric("pods", reason="orphaned") == 1, timeout=PATIENCE, what="an orphan")
        healer.wait_passes(3)
        assert cluster.node.processes(f"RUN={lost.task.run}") == [lost.pid]
    with installation.run(mode="enforce"):
        end = cluster.node.wait_exit(base(lost.pod)["containerID"], timeout=PATIENCE)
        cluster.wait_pod(namespace, lost.name, "gone", timeout=PATIENCE)
    (sent,) = deletes(cluster, mark)
    say(f"{work}: exit {end.code}, {_seconds(sent.received, end.at):.1f} s after the DELETE")
    assert (sent.name, sent.code, end.code) == (lost.name, 200, code)
    assert not cluster.node.processes(f"RUN={lost.task.run}")
    assert cluster.node.processes(f"RUN={healthy.task.run}") == [healthy.pid]
    assert not other_writes(cluster, mark)
    healthy.task.fail()


def _seconds(since: dt.datetime, until: dt.datetime) -> float:
    return (until - since).total_seconds()
