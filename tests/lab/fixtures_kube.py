"""pytest fixtures around the cluster."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.lab.kube import Cluster


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="session", autouse=True)
def terminate_cleanly() -> Iterator[None]:
    """SIGTERM ends pytest as Ctrl-C does, so that fixtures stop what they started."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One cluster for the whole session; tests keep to namespaces of their own."""
    with Cluster.start() as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, removed with all in it."""
    name = cluster.namespace(f"test-{uuid.uuid4().hex[:8]}")
    yield name
    cluster.delete_namespace(name)
