"""pytest fixtures around commands that run in the tests' own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_world import World, undisturbed_logging, world


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Keeps what a command does to logging from the tests after it."""
    with undisturbed_logging():
        yield


@pytest.fixture
def good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    """Both servers, where all is well."""
    with world(tmp_path, capsys) as made:
        yield made
