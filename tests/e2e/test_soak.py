"""kpo-healer beside a busy Airflow: tasks come, go and die, and it must hurt none of those that live.

KPO_HEALER_SOAK: seconds of activity, 40 unless it is set.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.tasks import PATIENCE
from tests.e2e.world import EAGER, UNLIMITED, World
from tests.lab.airflow import Airflow
from tests.lab.healer import USER, Running
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import wait_for

DURATION: Final = float(os.environ.get("KPO_HEALER_SOAK", "40"))
AT_ONCE: Final = 5
"""Runs that go on side by side."""

POLICY: Final = EAGER | {"grace": "3s", "retention": {"succeeded": "2s", "failed": "2s", "kept": "3s"}}


@dataclass(frozen=True)
class Kind:
    """What happens to a run. `marks`: of its Pods; `dies`: the task's process is killed; `ends`: the run's state."""

    dag: str
    marks: dict[str, str] = field(default_factory=dict)
    dies: bool = False
    ends: str = "success"
    leaves: bool = False
    """Whether a Pod is left behind for kpo-healer."""


SOON: Final = {"run-for": "3s"}
KINDS: Final = (
    Kind("kpo_sync", SOON),
    Kind("kpo_sync", dies=True, ends="failed", leaves=True),
    Kind("kpo_deferrable", SOON),
    Kind("kpo_retries", {"run-for": "25s"}, dies=True),
    Kind("kpo_mapped", SOON),
    Kind("kpo_keep", SOON, leaves=True),
    Kind("kpo_xcom", {"base-for": "3s"}),
    Kind("kpo_base_xcom", dies=True, ends="failed", leaves=True),
)


@dataclass
class Crowd:
    """The runs of all kinds in turn, a few at a time."""

    world: World
    kinds: Iterator[Kind] = field(default_factory=lambda: itertools.cycle(KINDS))
    going: dict[str, Kind] = field(default_factory=dict)
    ended: dict[str, Kind] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def step(self, *, more: bool) -> None:
        """Starts what there is room for, kills what should die, takes note of what has ended."""
        if more and len(self.going) < AT_ONCE:
            self._start(next(self.kinds))
        for run, kind in list(self.going.items()):
            if run in self.alive and self._has_pod(run, kind):
                self.world.airflow.kill_task(kind.dag, run, "work", timeout=PATIENCE)
                self.alive.discard(run)
            state = self.world.airflow.run(kind.dag, run)["state"]
            if state in {"success", "failed"}:
                self._end(run, kind, state)

    def _start(self, kind: Kind) -> None:
        marks = {f"{ANNOTATION}{name}": value for name, value in kind.marks.items()}
        conf = {"namespace": self.world.namespace, "annotations": marks}
        run = self.world.airflow.trigger(kind.dag, conf=conf)
        self.going[run] = kind
        if kind.dies:
            self.alive.add(run)

    def _has_pod(self, run: str, kind: Kind) -> bool:
        name = self.world.airflow.named_pod(kind.dag, run, "work")
        pod = self.world.cluster.get_pod(self.world.namespace, name) if name else None
        return pod is not None and pod["status"].get("phase") == "Running"

    def _end(self, run: str, kind: Kind, state: str) -> None:
        del self.going[run]
        self.ended[run] = kind
        if state != kind.ends:
            self.wrong.append(f"{kind.dag} {run} ended as {state}")


@pytest.mark.timeout(DURATION + 500)
def test_beside_a_busy_airflow(cluster: Cluster, airflow: Airflow, tmp_path: Path) -> None:
    with World.open(cluster, airflow, tmp_path) as world:
        crowd = Crowd(world)
        installation = world.installation(policy=POLICY, limits=UNLIMITED)
        with installation.run(mode="enforce") as healer:
            end = time.monotonic() + DURATION
            while crowd.going or time.monotonic() < end:
                crowd.step(more=time.monotonic() < end)
                time.sleep(0.2)
            wait_for(lambda: not world.names(), timeout=PATIENCE, what="the end of all Pods", interval=0.5)
            figures = tell(crowd, healer)
            assert healer.stop(timeout=5) == 0
        print(figures)
        assert crowd.wrong == []
        deleted = {line["task"]["run_id"] for line in healer.deletions() if line["result"] == "deleted"}
        assert deleted == {run for run, kind in crowd.ended.items() if kind.leaves}
        asked = [event for event in cluster.audit(world.mark, user=USER) if event.namespace == world.namespace]
        assert {event.verb for event in asked if event.resource == "pods"} <= {"get", "list", "watch", "delete"}
        assert {event.resource for event in asked} == {"pods", "events", "leases"}
        assert [line for line in healer.lines() if line["level"] in {"error", "critical"}] == []


def tell(crowd: Crowd, healer: Running) -> str:
    """What one wants to know of a long run."""
    status = Path(f"/proc/{healer.pid}/status").read_text()
    rss = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")), "0")
    figures = {
        "runs": len(crowd.ended),
        "deleted": healer.metric("deletions_total", result="deleted"),
        "other attempts": healer.metric("deletions_total") - healer.metric("deletions_total", result="deleted"),
        "passes": healer.metric("pass_duration_seconds_count"),
        "requests to Airflow": healer.metric("airflow_requests_total"),
        "requests to Kubernetes": healer.metric("kubernetes_requests_total"),
        "CPU seconds": cpu_seconds(healer.pid),
        "MB": int(rss) // 1024,
    }
    return ", ".join(f"{name}: {value:.0f}" for name, value in figures.items())


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
