"""Breaker and budget on the real cluster, by the times of the API server's audit log."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import RUN, World
from tests.lab.airflow import Airflow
from tests.lab.audit import AuditEvent
from tests.lab.door import Door
from tests.lab.kube import ANNOTATION, Cluster

PATIENCE = 180.0


@pytest.fixture
def world(cluster: Cluster, airflow_api: Airflow, tmp_path: Path) -> Iterator[World]:
    with World.open(cluster, airflow_api, tmp_path) as made:
        yield made


def times(events: Sequence[AuditEvent]) -> list[float]:
    return sorted(event.received.timestamp() for event in events)


def mapped_pods(world: World, task: str, count: int, **more: Any) -> list[str]:
    """Pods of the first `count` indices of a mapped task, in their order."""
    bodies = [world.body(task, map_index=index, name=f"{task}-{index}", **more) for index in range(count)]
    return [pod["metadata"]["name"] for pod in world.cluster.create_pods(bodies)]


def wait_phase(world: World, phase: str, count: int) -> None:
    def reached() -> bool:
        pods = world.cluster.pods(world.namespace)
        return sum(pod["status"].get("phase") == phase for pod in pods) == count

    world.wait(reached, f"{count} Pods: {phase}")


def test_breaker_and_rate(world: World) -> None:
    """30 of 40 active Pods are pending deletion at once, beside 200 leftovers.

    The leftovers go at the set rate. Of the orphans five go per cool-down, until the share has fallen to one half.
    """
    cool_down, few, per_minute = 4, 5, 150
    world.seed(world.task("alive", "running", map_index=0, count=10))
    world.seed(
        world.task("dead", "failed", map_index=0, count=30), world.task("over", "success", map_index=0, count=200)
    )
    alive = mapped_pods(world, "alive", 10)
    dead = set(mapped_pods(world, "dead", 30))
    over = set(mapped_pods(world, "over", 200, annotations={f"{ANNOTATION}run-for": "0s"}))
    wait_phase(world, "Succeeded", 200)
    wait_phase(world, "Running", 40)
    limits = {
        "deletionsPerMinute": per_minute,
        "breaker": {"maxShare": 0.5, "minCount": few, "coolDown": f"{cool_down}s"},
    }
    installation = world.installation(limits=limits)
    with installation.run(mode="enforce") as healer:
        world.wait(
            lambda: (
                healer.metric("breaker_open") == 1
                and healer.metric("withheld", why="breaker") > 0
                and healer.metric("pods", reason="orphaned") > 10
            ),
            "the open breaker, Pods that it withholds, and what goes on being reported",
        )
        world.wait(lambda: world.names() <= {*alive, *dead}, "the end of all leftovers", timeout=PATIENCE)
        world.wait_names(set(alive), timeout=PATIENCE)
        world.wait(lambda: healer.metric("breaker_open") == 0, "the closed breaker")
        assert healer.stop() == 0
    deleted = [event for event in world.deletes() if event.code == 200]
    orphans, leftovers = (times([e for e in deleted if e.name in some]) for some in (dead, over))
    assert (len(orphans), len(leftovers), len(world.deletes())) == (30, 200, 230), "each DELETE was sent once"
    slow = orphans[: 4 * few]
    starts = slow[::few]
    assert all(later - earlier >= cool_down for earlier, later in itertools.pairwise(starts)), starts
    assert is_within_rate(times(deleted), per_minute)


def is_within_rate(moments: Sequence[float], per_minute: int) -> bool:
    """Whether between any two moments lie no more deletions than a full bucket and what flows in meanwhile."""
    return all(
        last - first + 1 <= per_minute + (moments[last] - moments[first]) * per_minute / 60 + 1
        for first, last in itertools.combinations(range(len(moments)), 2)
    )


def test_report_mode_previews_the_breaker(world: World) -> None:
    world.seed(world.task("dead", "failed", map_index=0, count=6))
    mapped_pods(world, "dead", 6)
    wait_phase(world, "Running", 6)
    installation = world.installation(limits={"breaker": {"coolDown": "1h"}})
    with installation.run(mode="report") as healer:
        world.wait(lambda: healer.metric("withheld", why="breaker") == 6, "six Pods withheld by the breaker")
        assert healer.metric("breaker_open") == 1
        world.wait(lambda: len(world.events("OrphanDetected")) == 6, "an Event of each")
        assert healer.stop() == 0
    said = [text.partition("; left behind: ")[0] for text in world.events().values()]
    assert all(text.endswith("not deleted: breaker") for text in said)
    assert len(world.names()) == 6
    assert world.deletes() == []


def test_refuted_candidates_do_not_starve_the_others(world: World) -> None:
    """Ten that were cleared just before their DELETE, all older than the two that are real orphans."""
    refuted, per_minute = 10, 2
    world.seed(world.task("cleared", "failed", map_index=0, count=refuted))
    world.seed(world.task("dead", "failed", map_index=0, count=per_minute))
    spared = set(mapped_pods(world, "cleared", refuted))
    wait_phase(world, "Running", refuted)
    world.wait_second(2)
    dead = set(mapped_pods(world, "dead", per_minute))
    wait_phase(world, "Running", refuted + per_minute)
    limits = {"deletionsPerMinute": per_minute, "breaker": {"maxShare": 1.0}}
    installation = world.installation(limits=limits)
    installation.config["auditInterval"] = "1h"  # its lists would take the place of single questions
    with Door(world.airflow.url) as door:
        for index in range(refuted):
            clear_before_the_delete(world, door, index)
        with installation.run(mode="enforce", url=door.url) as healer:
            world.wait_names(spared)
            world.wait(lambda: healer.metric("pods", reason="in-use") == refuted, "the others being known as in use")
            counted = healer.metric("deletions_total", result="refuted")
            healer.wait_passes(3)
            assert healer.stop() == 0
    assert counted == refuted, "more than three times what may be deleted"
    assert {event.name for event in world.deletes()} == dead


def clear_before_the_delete(world: World, door: Door, index: int) -> None:
    """The second sighting of all twelve is one list; the first single question asks for confirmation."""
    part = f"/dagRuns/{RUN}/taskInstances/cleared/{index}"

    def clear() -> None:
        world.airflow.update(world.dag, RUN, "cleared", map_index=index, state="running", end_date=None)

    door.once(part, clear)
