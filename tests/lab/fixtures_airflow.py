"""pytest fixtures around Airflow."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from tests.lab.airflow import Airflow
from tests.lab.airflow2 import API, Airflow2
from tests.lab.airflow_env import FULL
from tests.lab.kube import Cluster

NAMESPACE = "airflow"
"""Where the full Airflow's Pods go unless a run's conf names another namespace."""


@pytest.fixture(scope="session")
def airflow(cluster: Cluster) -> Iterator[Airflow]:
    """A whole Airflow beside the cluster; tests give their own namespace in the run's conf."""
    cluster.namespace(NAMESPACE)
    with Airflow.start(cluster=cluster, namespace=NAMESPACE) as running:
        yield running


@pytest.fixture(scope="session")
def airflow_of() -> Iterator[Callable[[str], Airflow]]:
    """Starts the REST API of a version (see airflow_env.REQUIREMENTS) once per session."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(version: str) -> Airflow:
            return stack.enter_context(Airflow.start(version=version, components=("api-server",)))

        yield start


@pytest.fixture(scope="session")
def airflow_api(airflow_of: Callable[[str], Airflow]) -> Airflow:
    """Airflow's REST API alone, to be seeded; tests keep to DAG ids of their own."""
    return airflow_of(FULL)


@pytest.fixture(scope="session")
def airflow2_of() -> Iterator[Callable[[str], Airflow2]]:
    """Starts the REST API of an Airflow 2 (see airflow_env.AIRFLOW_2) once per session."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(version: str) -> Airflow2:
            return stack.enter_context(Airflow2.start(version=version, components=API))

        yield start


@pytest.fixture(scope="session")
def airflow2_whole(cluster: Cluster) -> Iterator[Callable[[str], Airflow2]]:
    """A whole Airflow 2 beside the cluster, one at a time: it ends when another version is asked for.

    Tests name their namespace in the run's conf.
    """
    cluster.namespace(NAMESPACE)
    with contextlib.ExitStack() as stack:
        running: dict[str, Airflow2] = {}

        def start(version: str) -> Airflow2:
            if version not in running:
                stack.close()
                running.clear()
                started = Airflow2.start(version=version, cluster=cluster, namespace=NAMESPACE)
                running[version] = stack.enter_context(started)
            return running[version]

        yield start
