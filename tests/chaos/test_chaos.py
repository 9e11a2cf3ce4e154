"""A small run of the chaos; `make chaos RUNS=1000` is the large one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.director import Plan
from tests.chaos.report import markdown
from tests.chaos.run import chaos


@pytest.mark.timeout(1500)
def test_nothing_in_use_is_deleted_and_no_orphan_is_missed(tmp_path: Path) -> None:
    """A lab of its own: the shared one would not survive it unharmed."""
    outcome = chaos(Plan(runs=30, seed=30, at_once=8), tmp_path)
    assert outcome.failures == [], markdown(outcome)
