"""A healer whose passes are made by hand, one after another, so that they can be counted.

Its client of Airflow reaches a real API server through a fault proxy, its client of Kubernetes a real API server. What
a pass does is the healer's own; only who calls for it is the test's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from healer.airflow import Airflow as Client
from healer.cluster import Cluster as Kubernetes
from healer.cluster import connect
from healer.config import AirflowConfig, Config
from healer.model import PassKind
from healer.reconciler import Dependencies, Reconciler
from healer.telemetry.metrics import Metrics
from tests.e2e.world import EAGER, RUN, UNLIMITED
from tests.faults.proxy import FaultProxy
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.unit.fakes import FakeRecorder

Json = Any

SIDES: Final = ("a", "z")
"""DAGs on both sides of a bad neighbour, whatever order they are asked about in."""

ORPHANS: Final = 3
MOST: Final = 8
"""Passes in which whatever is to be healed is healed."""


@dataclass
class Bench:
    """Orphans and Pods in use in two DAGs, and room for bad neighbours in a third one between them."""

    cluster: Cluster
    airflow: Airflow
    namespace: str
    proxy: FaultProxy
    settings: Mapping[str, Json] = field(default_factory=dict)
    costs: list[int] = field(default_factory=list)
    """How many requests Airflow got in each pass."""

    def dag(self, side: str) -> str:
        return f"{side}-{self.namespace}"

    def seed(self) -> None:
        """Make rows and Pods."""
        rendered = {"namespace": self.namespace, "base_container_name": "base"}
        tasks = [Task(f"orphan-{n}", "failed", rendered=rendered) for n in range(ORPHANS)]
        tasks.append(Task("used", "running", rendered=rendered))
        self.airflow.seed([Dag(self.dag(side), runs=[Run(RUN, tasks=tasks)]) for side in SIDES])
        self.make(
            self.body(self.dag(side), task.task_id, name=f"{side}-{task.task_id}") for side in SIDES for task in tasks
        )

    def body(self, dag: str, task: str, *, run: str = RUN, **more: Any) -> Json:
        """A Pod that no node ever starts: what it does matters to nobody here."""
        return kpo_pod(dag_id=dag, task_id=task, run_id=run, namespace=self.namespace, node="nowhere", **more)

    def make(self, bodies: Iterator[Json] | Sequence[Json]) -> None:
        self.cluster.create_pods(bodies, connections=8)

    @property
    def orphans(self) -> set[str]:
        return {f"{side}-orphan-{n}" for side in SIDES for n in range(ORPHANS)}

    @property
    def used(self) -> set[str]:
        return {f"{side}-used" for side in SIDES}

    def names(self) -> set[str]:
        """The Pods that nobody has deleted."""
        metas = (pod["metadata"] for pod in self.cluster.pods(self.namespace))
        return {meta["name"] for meta in metas if "deletionTimestamp" not in meta}

    @contextmanager
    def healer(self) -> Iterator[Healer]:
        """One in enforce mode that knows nothing yet."""
        config = AirflowConfig.model_validate(
            {
                "name": "prod",
                "namespaces": [self.namespace],
                "url": self.proxy.url,
                "username": "viewer",
                "password": "viewer",
                "ownership": "exclusive",
                "mode": "enforce",
                "policy": {**EAGER, "grace": "0s", "absentGrace": "0s"},
                "limits": UNLIMITED,
                **self.settings,
            }
        )
        with connect(self.cluster.kubeconfig) as kubernetes:
            yield Healer(self, config, kubernetes)


class Healer:
    """A healer for one Airflow."""

    def __init__(self, bench: Bench, config: AirflowConfig, kubernetes: Kubernetes) -> None:
        self._bench, self._kubernetes = bench, kubernetes
        metrics = Metrics(Config(airflows=(config,)))
        tools = Dependencies(kubernetes, FakeRecorder(), metrics, lambda: True)  # type: ignore[arg-type]
        self.reconciler = Reconciler(config, Client(config), tools)
        self.passes = 0

    def one_pass(self) -> set[str]:
        """Make one pass, each third an audit; return the Pods that nobody has deleted."""
        bench = self._bench
        before = len(bench.proxy.passed)
        pods = self._kubernetes.list_pods(bench.namespace).pods
        self.reconciler.reconcile(pods, PassKind.AUDIT if self.passes % 3 == 0 else PassKind.FULL, {})
        self.passes += 1
        bench.costs.append(len(bench.proxy.passed) - before)
        return bench.names()

    def until_healed(self) -> dict[str, int]:
        """Make passes until no orphan is left; return in which pass each one went."""
        bench, gone = self._bench, dict[str, int]()
        while self.passes < MOST and len(gone) < len(bench.orphans):
            left = self.one_pass()
            gone |= dict.fromkeys(bench.orphans - left - gone.keys(), self.passes)
        return gone
