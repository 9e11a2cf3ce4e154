"""How the cost grows: with the Pods, the live runs, the share of orphans, and the suspects that only stand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Final

from tests.bench import contestants, population, startup
from tests.bench.measure import Cost, calls, cpu_of, rss_of, run
from tests.bench.population import Seat
from tests.bench.steady import metered
from tests.bench.world import World
from tests.lab.processes import say, wait_for

SIZES: Final = (1_000, 3_000, 10_000, 30_000, 100_000)
RUNS: Final = (20, 200, population.SMALL_RUNS)
SHARES: Final = (0, 25, 50, 100)
"""Percent of 10,000 Pods that are orphans."""

SUSPECTS: Final = 2_000
QUIET_PASSES: Final = 20

Row = dict[str, float]


def measure(world: World, *, largest: int, repeat: int) -> dict[str, Any]:
    """The part's figures and curves, up to `largest` Pods."""
    sizes = [size for size in SIZES if size <= largest]
    base = min(10_000, sizes[-1])
    pods = [_of_size(world, size, 1 if size > 10_000 else repeat) for size in sizes]
    runs = [_point("runs", n, _looked(world, population.in_runs(base, n), repeat)) for n in RUNS]
    shares = [_point("percent", share, _looked(world, _mix(base, share), 1)) for share in SHARES]
    return {
        "figures": _tenfold(pods),
        "slopes": {key: _slope(pods, "pods", key) for key in ("cpu", "rss", "judged", "floor_cpu")},
        "pods": pods,
        "runs": runs,
        "orphans": shares,
        "standing": [_standing(world, base, suspects) for suspects in (0, SUSPECTS)],
    }


def _of_size(world: World, size: int, repeat: int) -> Row:
    """A scan with everything, a start without Airflow's share, and the floor."""
    row = _point("pods", size, _looked(world, population.live(size), repeat))
    floor = run(world, contestants.floor(world).args)
    start = startup.start(world, size)
    return row | {
        "floor_cpu": round(floor.cpu, 2),
        "floor_rss": round(floor.rss / 1e6, 1),
        "judged": round(start.judged, 2),
        "established": round(start.established, 2),
        "controller_rss": round(start.rss / 1e6, 1),
        "ready": round(start.ready, 2),
    }


def _looked(world: World, seats: Sequence[Seat], repeat: int) -> Cost:
    """The median of several scans, by CPU."""
    world.people(seats)
    scan = contestants.scan(world)
    costs = sorted((run(world, scan.args, expect=scan.expect) for _ in range(repeat)), key=lambda cost: cost.cpu)
    return costs[len(costs) // 2]


def _point(name: str, value: float, cost: Cost) -> Row:
    row = {
        name: value,
        "wall": round(cost.wall, 2),
        "cpu": round(cost.cpu, 2),
        "rss": round(cost.rss / 1e6, 1),
        "kubernetes_calls": cost.requests,
        "airflow_posts": cost.audit_rows,
        "airflow_cpu": cost.servers["airflow"],
    }
    say(f"growth: {row}")
    return row


def _mix(pods: int, percent: int) -> list[Seat]:
    ended = pods * percent // 100
    return [*population.live(pods - ended), *population.ended_while_live(ended)]


def _standing(world: World, pods: int, suspects: int) -> Row:
    """What a quiet pass costs in report mode while so many suspects stand: passes each second, between two audits.

    Each was confirmed once, as if it were to be deleted. The limits are off, else that alone would take an hour.
    """
    world.people([*population.live(pods - suspects), *population.ended_while_live(suspects)])
    installation = world.install("standing", interval="2s", auditInterval="24h")
    installation.config["airflows"][0] |= {
        "policy": {"minAge": "0s", "grace": "2s"},
        "limits": {"deletionsPerMinute": None, "breaker": {"maxShare": 1}},
    }
    with metered(world) as (url, meter), installation.run(mode="report", url=url) as healer:

        def passes() -> float:
            return healer.metric("pass_duration_seconds_count")

        def stand() -> bool:
            return healer.metric("withheld", why="report-mode") >= suspects

        wait_for(lambda: passes() >= 5 and stand(), timeout=600, interval=1, what=f"{suspects} suspects to stand")
        _wait_told(world)
        begin, cpu, before = passes(), cpu_of(healer.pid), meter.now()
        wait_for(lambda: passes() >= begin + QUIET_PASSES, timeout=600, interval=1, what="quiet passes")
        made = passes() - begin
        after, used = meter.now(), cpu_of(healer.pid) - cpu
        return {
            "suspects": suspects,
            "calls_each": round((after[0] - before[0]) / made, 2),
            "rows_each": round((after[1] - before[1]) / made, 2),
            "cpu_ms_each": round(used / made * 1000, 1),
            "rss": round(rss_of(healer.pid) / 1e6, 1),
        }


def _wait_told(world: World) -> None:
    """Waits until every suspect's Event is written: five each second."""

    def silent() -> bool:
        mark = world.cluster.audit_mark()
        time.sleep(5)
        return not any("events" in call for call in calls(world, mark))

    wait_for(silent, timeout=1200, what="all Events to be written")


def _tenfold(rows: Sequence[Row]) -> dict[str, float | None]:
    """What the largest size costs against a tenth of it."""
    last = rows[-1]
    tenth = next((row for row in rows if row["pods"] * 10 == last["pods"]), None)
    if tenth is None:
        return {"growth_cpu_10x": None, "growth_rss_10x": None}
    return {
        "growth_cpu_10x": round(max(last[key] / tenth[key] for key in ("cpu", "established")), 2),
        "growth_rss_10x": round(max(last[key] / tenth[key] for key in ("rss", "controller_rss")), 2),
    }


def _slope(rows: Sequence[Row], x: str, y: str) -> float | None:
    """The exponent of a power law through the points: 1 is linear. Least squares on logarithms."""
    if len(rows) < 2:
        return None
    points = [(math.log(row[x]), math.log(row[y])) for row in rows]
    mid_x, mid_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    over = sum((px - mid_x) * (py - mid_y) for px, py in points)
    return round(over / sum((px - mid_x) ** 2 for px, _ in points), 2)
