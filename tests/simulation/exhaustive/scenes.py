"""Where the walks begin: what a task's author chose, and the events that have happened already."""

from __future__ import annotations

from msgspec import Struct

from tests.simulation.exhaustive.model import Setup

LEADER = ("A_lease", "B_lease")
WORKING = ("schedule", "start", "search", "pod_1_starts", "persist")


class Scene(Struct, frozen=True):
    """A beginning: its name, what it is in words, the choices of the task's author, and what has happened."""

    name: str
    words: str
    setup: Setup
    before: tuple[str, ...]


SCENES: tuple[Scene, ...] = (
    Scene("nothing", "nothing has happened yet", Setup(), ()),
    Scene("working", "a task works, and replica A leads and knows its Pod", Setup(), (*LEADER, *WORKING, "A_pass")),
    Scene(
        "orphan",
        "a task that was marked failed has left its Pod; replica A has seen it for longer than the grace",
        Setup(retries=0),
        (*LEADER, *WORKING, "marked_failed", "zombie_dies", "A_pass", "calm"),
    ),
    Scene(
        "waiting",
        "a worker was killed and its Pod works on; the next try may adopt it",
        Setup(),
        (*LEADER, *WORKING, "worker_killed", "A_pass", "calm"),
    ),
    Scene(
        "adopted",
        "the second try has adopted the Pod of the first one, whose worker was killed",
        Setup(),
        (*LEADER, *WORKING, "worker_killed", "schedule", "start", "search", "persist", "A_pass", "calm"),
    ),
    Scene(
        "twins",
        "the second try has a Pod of its own beside the first one's, which is due",
        Setup(reattach=False, deferrable=True),
        (
            *(*LEADER, *WORKING, "worker_killed", "calm", "schedule", "start", "search", "pod_2_starts", "persist"),
            *("A_pass", "calm"),
        ),
    ),
    Scene(
        "deferred",
        "a deferred task's Pod works",
        Setup(deferrable=True),
        (*LEADER, *WORKING, "defer", "A_pass", "calm"),
    ),
    Scene(
        "kept",
        "a task has succeeded, its Pod is done, marked and kept, and due",
        Setup(on_finish="keep_pod"),
        (*LEADER, *WORKING, "pod_1_succeeds", "clean_up", "end", "A_pass", "calm"),
    ),
)


def scene_of(name: str) -> Scene:
    """Return the scene of this name."""
    return next(scene for scene in SCENES if scene.name == name)
