"""pytest fixtures around a whole kpo-healer: its own account, configuration and process beside the lab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.lab.airflow import Airflow
from tests.lab.healer import Installation
from tests.lab.kube import Cluster

Install = Callable[..., Installation]


@pytest.fixture
def install(cluster: Cluster, namespace: str, tmp_path: Path) -> Install:
    """Installs kpo-healer for an Airflow and the test's own namespace; more arguments as `Installation.make` has."""

    def make(airflow: Airflow, **more: object) -> Installation:
        arguments = {"url": airflow.url, "namespaces": [namespace], **more}
        return Installation.make(tmp_path / "healer", cluster, **arguments)  # type: ignore[arg-type]

    return make


@pytest.fixture
def world(cluster: Cluster, airflow_api: Airflow, tmp_path: Path) -> Iterator[World]:
    """A namespace of the test's own, beside a seeded Airflow."""
    with World.open(cluster, airflow_api, tmp_path) as made:
        yield made
