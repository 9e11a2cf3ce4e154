"""What all tests of the simulation share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.quiet import quieten


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    quieten()
    yield
    structlog.configure(**before)
