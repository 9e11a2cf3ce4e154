"""One walk, by the names of where it begins and what may happen: what a process of its own can be told to make."""

from __future__ import annotations

from tests.simulation.exhaustive.scenes import scene_of
from tests.simulation.exhaustive.walk import Report, Terms, Walk, theme_of
from tests.simulation.quiet import quieten

Job = tuple[str, str, int, float]
"""Names of a scene and a theme, the depth, and the seconds it may take."""


def run(job: Job) -> Report:
    """Make one walk."""
    quieten()
    scene, theme, depth, seconds = job
    walk, start = Walk(), scene_of(scene)
    terms = Terms(theme_of(theme), seconds)
    return walk.explore(walk.after(walk.begin(start.setup), start.before), depth, terms)
