"""A few hundred histories of the random walk, and its own promises."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest

from healer.decision import quarantine
from tests.simulation.walk import Result, replay, shrink, story, walk

pytestmark = pytest.mark.slow

HISTORIES = 600
PATIENCE = 1500
"""Histories in which a bug must show."""


@pytest.fixture(scope="module")
def histories() -> list[Result]:
    return [walk(seed) for seed in range(HISTORIES)]


def test_no_wrong_deletion_and_no_missed_orphan(histories: list[Result]) -> None:
    failed = [result for result in histories if result.violation is not None]
    assert not failed, "\n\n".join(story(shrink(result)) for result in failed[:2])


def test_histories_are_long_and_differ(histories: list[Result]) -> None:
    assert len({result.hash for result in histories}) == HISTORIES
    assert median(result.tally.events for result in histories) >= 30
    assert median(result.pods for result in histories) >= 3


def test_the_walk_reaches_what_matters(histories: list[Result]) -> None:
    counts = sum((result.tally.counts for result in histories), Counter[str]())
    healed = {name for name in counts if name.startswith("healed: ")}
    assert {"healed: orphaned", "healed: finished", "healed: kept"} <= healed
    assert counts["KPO: adopted"] > 0
    assert counts["reason: reattached"] > 0
    assert counts["deletion: refuted"] > 0
    assert counts["take-over"] > 0


def test_a_seed_replays_exactly(histories: list[Result]) -> None:
    for result in histories[:60]:
        again = replay(result)
        assert (again.hash, again.tally.counts) == (result.hash, result.tally.counts)


def test_a_failure_is_shrunk_to_a_short_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_patience_over", lambda _pod, _finding, since, _now, _policy: since)
    caught = next(result for result in map(walk, range(PATIENCE)) if result.violation is not None)
    short = shrink(caught)
    assert short.violation is not None
    assert len(short.events) < len(caught.events) / 2
    assert "gets a DELETE" in story(short)
