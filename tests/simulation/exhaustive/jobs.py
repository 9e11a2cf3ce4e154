"""One walk, by the names of where it begins and what may happen: what a process of its own can be told to make."""

from __future__ import annotations

import logging

import structlog

from tests.simulation.exhaustive.scenes import scene_of
from tests.simulation.exhaustive.walk import Report, Terms, Walk, theme_of

Job = tuple[str, str, int, float]
"""Names of a scene and a theme, the depth, and the seconds it may take."""


def quieten() -> None:
    """Leave out the healer's log, which costs more than its decisions."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def run(job: Job) -> Report:
    """Make one walk."""
    quieten()
    scene, theme, depth, seconds = job
    walk, start = Walk(), scene_of(scene)
    terms = Terms(theme_of(theme), seconds)
    return walk.explore(walk.after(walk.begin(start.setup), start.before), depth, terms)
