"""What a healed orphan costs Airflow's own server, in processor time: an Airflow 2.11 beside the newest.

Both have one worker and SQLite, and are asked by a whole kpo-healer in enforce mode, from its start to its last DELETE:
login, lists, sightings and confirmations, divided by the Pods that went.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.measure import cpu_of
from tests.bench.steady import Meter
from tests.faults.proxy import FaultProxy
from tests.lab.airflow import Airflow
from tests.lab.airflow2 import API, Airflow2
from tests.lab.airflow_env import FULL, full_version
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.healer import Installation
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import new_folder, remove_folder, say, session_members, wait_for

DAGS: Final = 20
PATIENCE: Final = 600.0
EAGER: Final = {"minAge": "0s", "grace": "5s"}
UNLIMITED: Final = {"deletionsPerMinute": None, "breaker": {"minCount": 100_000}}


def measure(*, repeat: int, orphans: int = 200) -> dict[str, Any]:
    """The part's figures and its table."""
    folder = new_folder("kpo-healer-bench-orphan-")
    versions = (FULL, full_version("2.11"))
    costs: dict[str, list[dict[str, float]]] = {version: [] for version in versions}
    try:
        with Cluster.start(folder / "cluster") as cluster:
            for number in range(repeat):  # in turns, so that what else the machine does hits both
                for version in versions:
                    with _airflow(version, folder / f"airflow-{version}-{number}") as airflow:
                        cost = _heal(cluster, airflow, folder / f"healer-{version}-{number}", orphans)
                    costs[version].append(cost)
                    say(f"Airflow {version} {number + 1}/{repeat}: {cost}")
    finally:
        remove_folder(folder)
    rows = {
        version: {name: round(median(one[name] for one in of_one), 1) for name in of_one[0]}
        for version, of_one in costs.items()
    }
    return {"figures": {"two_orphan_cpu_ms": rows[versions[1]]["cpu_ms"]}, "orphans": orphans, "airflows": rows}


@contextmanager
def _airflow(version: str, root: Path) -> Iterator[Airflow]:
    if version == FULL:
        with Airflow.start(root, components=("api-server",)) as running:
            yield running
    else:
        with Airflow2.start(root, version=version, components=API) as running_2:
            yield running_2


def _heal(cluster: Cluster, airflow: Airflow, folder: Path, orphans: int) -> dict[str, float]:
    """One healer's life; what each of the orphans has cost."""
    namespace = cluster.namespace(folder.name.replace(".", "-"))
    _orphan(cluster, airflow, namespace, orphans)
    meter = Meter()
    with FaultProxy(airflow.url) as proxy:
        proxy.rule(meter.fault)
        made = Installation.make(folder, cluster, url=proxy.url, namespaces=[namespace], policy=EAGER, limits=UNLIMITED)
        made.config |= {"interval": "10s", "auditInterval": "1h"}
        before = _cpu(airflow)
        with made.run(mode="enforce") as healer:
            wait_for(
                lambda: healer.metric("deletions_total", result="deleted") >= orphans,
                timeout=PATIENCE,
                what="all deletions",
                interval=0.5,
            )
            spent = _cpu(airflow) - before
            calls, rows, size = meter.now()
    cluster.delete_namespace(namespace)
    return {
        "cpu_ms": 1000 * spent / orphans,
        "calls": calls / orphans,
        "rows": rows / orphans,
        "kb": size / 1000 / orphans,
    }


def _orphan(cluster: Cluster, airflow: Airflow, namespace: str, orphans: int) -> None:
    """Pods that work on although their tasks have failed; Airflow names each of them."""
    rendered = {"namespace": namespace, "base_container_name": "base"}
    bodies = []
    for number in range(DAGS):
        dag, each = f"{namespace}-{number}", orphans // DAGS
        names = [f"{dag}-{index}" for index in range(each)]
        tasks = [
            Task(f"t{index}", "failed", rendered=rendered, pod=name, xcom=name, pod_namespace=namespace)
            for index, name in enumerate(names)
        ]
        airflow.seed([Dag(dag, [Run("r", tasks)])])
        bodies += [
            kpo_pod(dag_id=dag, run_id="r", task_id=f"t{index}", namespace=namespace, name=name)
            for index, name in enumerate(names)
        ]
    cluster.create_pods(bodies)


def _cpu(airflow: Airflow) -> float:
    return sum(map(cpu_of, session_members(airflow.api_server.pid)))
