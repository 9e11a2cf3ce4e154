"""pytest fixtures of the real node; without the namespaces of `python -m tests.node` everything here is skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.airflow import Airflow
from tests.lab.healer import Installation
from tests.node.airflow import NodeAirflow
from tests.node.cluster import CGROUP, NodeCluster

NAMESPACE = "airflow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CGROUP not in os.environ:
        here = Path(__file__).parent
        reason = "a real node needs namespaces of its own: call make node"
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[NodeCluster]:
    """One cluster with one real node for the whole session."""
    with NodeCluster.start() as running:
        yield running


@pytest.fixture(scope="session")
def airflow(cluster: NodeCluster) -> Iterator[Airflow]:
    """A whole Airflow beside it, whose API Pods can reach too."""
    cluster.namespace(NAMESPACE)
    with NodeAirflow.start(cluster=cluster, namespace=NAMESPACE) as running:
        yield running


@pytest.fixture
def install(cluster: NodeCluster, namespace: str, tmp_path: Path) -> Callable[..., Installation]:
    """Installs kpo-healer, as a process beside the node, for an Airflow and the test's own namespace."""

    def make(airflow: Airflow, **more: object) -> Installation:
        arguments = {"url": airflow.url, "namespaces": [namespace], **more}
        return Installation.make(tmp_path / "healer", cluster, **arguments)  # type: ignore[arg-type]

    return make
