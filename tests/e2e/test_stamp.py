"""Real tasks of an Airflow in which kpo-healer-airflow is installed: their Pods carry its stamp."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.airflow import Airflow
from tests.lab.airflow_plugin import python_path
from tests.lab.kube import Cluster
from tests.lab.processes import wait_for

OWN = """
def pod_mutation_hook(pod):
    pod.metadata.labels = {**(pod.metadata.labels or {}), "team": "data"}
"""


pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("own_hook", [False, True], ids=["alone", "beside-their-own-hook"])
def test_real_pods_carry_the_name_and_the_raw_ids(
    cluster: Cluster, namespace: str, tmp_path: Path, own_hook: bool
) -> None:
    with Airflow.start(cluster=cluster, namespace=namespace, env=installed(tmp_path, own_hook)) as airflow:
        assert_stamped(airflow, cluster, namespace, team="data" if own_hook else None)


def installed(folder: Path, own_hook: bool) -> dict[str, str]:
    """The environment of an Airflow in which the wheel is installed, beside a hook of their own if they have one."""
    if own_hook:
        (folder / "airflow_local_settings.py").write_text(OWN)
    return python_path(folder, local_settings=False) | {"AIRFLOW__KPO_HEALER__AIRFLOW": "prod"}


def assert_stamped(airflow: Airflow, cluster: Cluster, namespace: str, *, team: str | None) -> None:
    """A plain task and a mapped one are run; each Pod says whose it is. team: what a hook of their own has set."""
    runs = {dag: airflow.trigger(dag, f"manual__2026-11-30T04:00:00+00:00_{dag}") for dag in ("kpo_sync", "kpo_mapped")}
    wait_for(lambda: len(cluster.pods(namespace)) == 4, timeout=600, what="four Pods of two runs")
    for pod in cluster.pods(namespace):
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert labels["kpo-healer.io/airflow"] == "prod"
        assert labels.get("team") == team
        dag = annotations["kpo-healer.io/dag-id"]
        assert annotations["kpo-healer.io/run-id"] == runs[dag]
        assert annotations["kpo-healer.io/task-id"] == "work"
        assert annotations["kpo-healer.io/map-index"] == labels.get("map_index", "-1")
