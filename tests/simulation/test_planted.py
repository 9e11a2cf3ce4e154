"""Planted bugs: each still fits the healer's source, and is caught by the simulation's own checks."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

import healer
from tests.simulation.planted import BUGS, known_seeds
from tests.simulation.planted.hunting import hunts
from tests.simulation.planted.tested import TESTED, ByTests, caught

SOURCE = Path(healer.__file__).parent

MOST = 2000
"""Histories in which a bug must show where the recorded seed does not show it any more."""

QUICK = (
    "retry counts as ended",
    "older try kills",
    "deferred counts as ended",
    "hand-over counts as ended",
    "sidecar decides",
    "protection ignored",
    "no grace",
    "clear forgiven",
    "minimum age ignored",
    "breaker never opens",
    "half-open is open to all",
    "budget never spent",
    "no preconditions",
    "no resourceVersion",
    "DELETE repeated",
    "evidence from the answer",
    "fresh finding ignored",
    "report mode deletes",
    "denied for ever",
    "404 taken as proof",
    "label without hash",
    "twin hidden by the state filter",
    "leadership never ends",
    "impatient successor",
    "Lease checked once per pass",
)
"""Those that are looked for in each test run; `make planted` looks for all."""


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_fits_the_source(name: str) -> None:
    """Each edit's text stands there once; what comes in its place compiles."""
    sources: dict[str, str] = {}
    for edit in BUGS[name].edits:
        source = sources.get(edit.module) or (SOURCE / f"{edit.module.replace('.', '/')}.py").read_text()
        assert source.count(edit.old) == 1, f"{edit.module} has {source.count(edit.old)} times: {edit.old}"
        sources[edit.module] = source.replace(edit.old, edit.new)
    for module, source in sources.items():
        compile(source, module, "exec")


@pytest.mark.parametrize("one", TESTED, ids=lambda one: one.bug.name)
def test_a_bug_for_named_tests_fits_the_source(one: ByTests) -> None:
    for edit in one.bug.edits:
        source = (SOURCE / f"{edit.module.replace('.', '/')}.py").read_text()
        assert source.count(edit.old) == 1, f"{edit.module} has {source.count(edit.old)} times: {edit.old}"


@pytest.mark.slow
def test_bugs_are_caught_by_the_tests_that_are_named() -> None:
    escaped = [one.bug.name for one in TESTED if not caught(one)]
    assert not escaped


@pytest.mark.slow
def test_planted_bugs_are_caught() -> None:
    known = known_seeds()
    seeds = {name: list(chain([known[name]] if name in known else [], range(MOST))) for name in QUICK}
    found = list(hunts(seeds, 2, shrinking=False))
    escaped = [f"{each.name}: {BUGS[each.name].words} {each.trouble}" for each in found if each.seed is None]
    assert not escaped, "the simulation did not catch:\n" + "\n".join(escaped)
