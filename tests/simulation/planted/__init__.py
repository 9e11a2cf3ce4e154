"""Bugs planted into the healer's source, each a small and realistic change: the simulation must catch every one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.simulation.planted import acting, airflow, leader, neighbours, patience, rules
from tests.simulation.planted.bugs import Bug

BUGS: Mapping[str, Bug] = {
    bug.name: bug for room in (rules, neighbours, patience, acting, airflow, leader) for bug in room.BUGS
}

SEEDS = Path(__file__).with_name("seeds.json")


def known_seeds() -> dict[str, int]:
    """Return the seeds that caught each bug when they were last recorded; the walk may have changed since."""
    return json.loads(SEEDS.read_text()) if SEEDS.exists() else {}
