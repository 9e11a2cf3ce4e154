"""From the end of a task instance to the DELETE of its Pod, beyond grace: row 9 of the goals.

10,000 Pods of live task instances, and beside them 600 whose task instances end, one by one, at random moments over
several intervals. Their ends are Airflow's `end_date`, the DELETEs are the API server's audit log.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from tests.bench import population
from tests.bench.measure import percentile
from tests.bench.population import Seat, pod_name
from tests.bench.world import World
from tests.lab.healer import deletes
from tests.lab.processes import say, wait_for

INTERVAL: Final = 30
GRACE: Final = 30
"""Seconds: shorter than by default, so that it takes minutes; the figure is what comes on top of both."""

INTERVALS: Final = 6
"""Over how many intervals the ends are spread."""


def measure(world: World, *, orphans: int) -> dict[str, Any]:
    """The part's figures: percentiles of the seconds beyond grace."""
    everyone = population.live(world.pods + orphans)
    others, chosen = everyone[: world.pods], everyone[world.pods :]
    world.people(everyone)
    installation = world.install("latency", mode="enforce", interval=f"{INTERVAL}s")
    airflow = installation.config["airflows"][0]
    airflow["policy"] = {"minAge": "0s", "grace": f"{GRACE}s"}
    airflow["limits"] = {"deletionsPerMinute": None}
    mark = world.cluster.audit_mark()
    with installation.run(mode="enforce") as healer:
        wait_for(lambda: healer.metric("pass_duration_seconds_count") >= 1, timeout=300, what="the first pass")
        ends = _end(world, chosen)
        wait_for(lambda: len(deletes(world.cluster, mark)) >= orphans, timeout=600, interval=2, what="all DELETEs")
    sent = {event.name: event.received for event in deletes(world.cluster, mark) if event.code == 200}
    world.people(others)
    beyond = sorted((sent[name] - end).total_seconds() - GRACE for name, end in ends.items())
    say(f"latency beyond grace: median {beyond[len(beyond) // 2]:.1f} s, worst {beyond[-1]:.1f} s")
    return {
        "figures": {"latency_p99_over_interval_seconds": round(percentile(beyond, 99) - INTERVAL, 2)},
        "orphans": orphans,
        "others": len(others),
        "interval_seconds": INTERVAL,
        "grace_seconds": GRACE,
        "beyond_grace_seconds": {f"p{q}": round(percentile(beyond, q), 2) for q in (1, 10, 25, 50, 75, 90, 99, 100)},
        "wrong": len(sent.keys() - ends.keys()),
    }


def _end(world: World, seats: Sequence[Seat]) -> dict[str, dt.datetime]:
    """Ends these task instances at random moments; by name of the Pod, when Airflow says they ended."""
    assert world.airflow is not None
    begin, chance = time.monotonic(), random.Random(1)
    moments = sorted(chance.uniform(0, INTERVALS * INTERVAL) for _ in seats)
    for at, seat in zip(moments, seats, strict=True):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        index = -1 if seat.map_index is None else seat.map_index
        world.airflow.act(seat.dag, seat.run, seat.task, chance.choice(("succeed", "fail")), map_index=index)
    return {pod_name(seat): _end_date(world, seat) for seat in seats}


def _end_date(world: World, seat: Seat) -> dt.datetime:
    assert world.airflow is not None
    index = -1 if seat.map_index is None else seat.map_index
    return dt.datetime.fromisoformat(world.airflow.task_instance(seat.dag, seat.run, seat.task, index)["end_date"])
