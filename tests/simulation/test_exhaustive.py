"""Every order of a few events, the soundness of the digest, and the planted bugs that the walk alone must find."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.simulation.exhaustive.planted import PLANTED, planted
from tests.simulation.exhaustive.replica import Photo
from tests.simulation.exhaustive.report import Made, markdown, story
from tests.simulation.exhaustive.scenes import SCENES, Scene, scene_of
from tests.simulation.exhaustive.walk import Terms, Walk, World, theme_of

pytestmark = pytest.mark.slow

SAMPLE = 40
"""Pairs of worlds of equal digest whose futures are compared."""


def _begun(walk: Walk, scene: Scene) -> World:
    return walk.after(walk.begin(scene.setup), scene.before)


def _walked(scene: str, theme: str, depth: int, every: int = 50) -> Made:
    walk, start = Walk(), scene_of(scene)
    kind = theme_of(theme)
    return Made(start, kind, walk.explore(_begun(walk, start), depth, Terms(kind, every=every)))


@pytest.mark.parametrize("scene", [scene.name for scene in SCENES])
def test_no_order_of_two_events_does_harm(scene: str) -> None:
    made = _walked(scene, "everything", 2)
    assert made.report.violation is None, story(made)
    assert made.report.depth == 2
    assert made.report.states > 100


@pytest.mark.parametrize(("scene", "theme"), [("orphan", "tries"), ("adopted", "tries"), ("orphan", "leadership")])
def test_no_order_of_three_events_does_harm(scene: str, theme: str) -> None:
    made = _walked(scene, theme, 3)
    assert made.report.violation is None, story(made)
    assert made.report.deletions["healed"] > 0 or theme == "tries"


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name) as bug:
        made = _walked(bug.scene, bug.theme, bug.depth, bug.every)
    assert made.report.violation is not None, f"not found: {bug.plant.__doc__}"
    assert "VIOLATION" in story(made)


def _pairs(walk: Walk, start: World) -> Iterator[tuple[World, World]]:
    """Yield worlds that were reached in different ways and have the same digest."""
    first: dict[bytes, World] = {walk.digest(start): start}
    layer = [start]
    while True:
        further = []
        for world in layer:
            for each in walk.nexts(world):
                known = first.setdefault(walk.digest(each.world), each.world)
                if known is each.world:
                    further.append(each.world)
                elif known != each.world:
                    yield known, each.world
        layer = further


@pytest.mark.parametrize("scene", ["working", "orphan", "twins"])
def test_equal_digests_have_equal_futures(scene: str) -> None:
    walk = Walk()
    pairs = list(islice(_pairs(walk, _begun(walk, scene_of(scene))), 0, SAMPLE * 20, 20))
    assert len(pairs) == SAMPLE
    for one, other in pairs:
        assert _futures(walk, one) == _futures(walk, other)


def _futures(walk: Walk, world: World) -> list[tuple[str, bytes, bool]]:
    return [(each.name, walk.digest(each.world), each.violation is None) for each in walk.nexts(world)]


def test_a_pass_that_was_overtaken_by_nothing_is_the_pass() -> None:
    walk = Walk()
    start = _begun(walk, scene_of("orphan"))
    whole = walk.digest(walk.after(start, ["A_pass"]))
    stops = [each.name for each in walk.nexts(start) if each.name.startswith("A_pass_")]
    assert len(stops) >= 4
    assert {walk.digest(walk.after(start, [stop, "A_pass"])) for stop in stops} == {whole}


def test_what_cannot_be_copied_must_not_change() -> None:
    class Thing:
        def __init__(self) -> None:
            self.known = {1: 2}
            self.helper = object()

    thing = Thing()
    photo = Photo(thing)
    taken = photo.take()
    thing.known[3] = 4
    photo.bring_back(taken)
    assert thing.known == {1: 2}
    thing.helper = object()
    with pytest.raises(TypeError, match=r"Thing\.helper changes"):
        photo.take()


def test_the_figures_are_told() -> None:
    made = _walked("orphan", "leadership", 2)
    text = markdown([made])
    assert "violations: 0" in text
    assert "| orphan | leadership |" in text
    assert "| healed |" in text
