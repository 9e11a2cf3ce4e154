"""A run whose id is the very label of another run: the search for the other one must not stop at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from healer.decision.labels import safe_label
from healer.model import Ambiguous
from tests.unit.airflow_fake import FakeAirflow, healer, pod, row, serving

RUNS = ("nightly load", "operator_triggered__2026-01-01T00:00:00.123456+00:00_aBcD1234")
"""Neither is found by turning its label back; the second one is looked for by the hour in it."""


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        yield server


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("between", [0, 150])
@pytest.mark.parametrize("states", [("running", "failed"), ("failed", "running")])
def test_a_newer_run_called_like_the_label_does_not_hide_the_older_one(
    fake: FakeAirflow, run: str, between: int, states: tuple[str, str]
) -> None:
    older, newer = states
    fake.rows = [row(run=run, state=older), *(row(run=f"other{n}") for n in range(between))]
    fake.rows += [row(run=safe_label(run), state=newer)]
    airflow, one = healer(fake), pod(run=run)
    assert isinstance(airflow.get_all([one])[one.uid], Ambiguous)
    assert isinstance(airflow.get_each([one])[one.uid], Ambiguous)
