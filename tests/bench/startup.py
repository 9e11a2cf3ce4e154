"""From the start of the process until all Pods are judged once: rows 3, 4 and 10 of the goals."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from tests.bench import contestants
from tests.bench.contestants import Contestant
from tests.bench.measure import Cost, calls, middle, rss_of, run, summary, wait_still
from tests.bench.population import Seat
from tests.bench.world import World
from tests.lab.healer import Running
from tests.lab.processes import say, wait_for


@dataclass(frozen=True)
class Start:
    """How a controller starts. Seconds, bytes; `judged` and `established` are CPU."""

    ready: float
    judged: float
    established: float
    rss: int


def measure(world: World, seats: Sequence[Seat], *, repeat: int) -> dict[str, Any]:
    """The part's figures and tables. `seats`: of the Pods that are there."""
    floors = _repeated(world, contestants.floor(world), repeat)
    both = _repeated(world, contestants.floor_of_both(world, seats), repeat)
    scans = _repeated(world, contestants.scan(world), repeat)
    kopfs = _repeated(world, contestants.plain_kopf(world), max(1, repeat - 2))
    starts = [start(world, number) for number in range(repeat)]
    floor_cpu, floor_wall = middle(floors, "cpu"), middle(floors, "wall")
    judged, established = (median(getattr(s, name) for s in starts) for name in ("judged", "established"))
    return {
        "figures": {
            "startup_cpu_ratio": round(judged / floor_cpu, 2),
            "watch_established_cpu_ratio": round(established / floor_cpu, 2),
            "startup_with_airflow_cpu_ratio": round(middle(scans, "cpu") / middle(both, "cpu"), 2),
            "ready_over_floor_seconds": round(median(s.ready for s in starts) - floor_wall, 2),
        },
        "pods": world.pods,
        "contestants": {
            "floor": summary(floors),
            "floor of both": summary(both),
            "kpo-healer scan": summary(scans),
            "plain kopf": summary(kopfs),
        },
        "controller": {
            "judged_cpu_seconds": [round(s.judged, 2) for s in starts],
            "established_cpu_seconds": [round(s.established, 2) for s in starts],
            "ready_seconds": [round(s.ready, 2) for s in starts],
            "rss_mb": [round(s.rss / 1e6, 1) for s in starts],
        },
    }


def _repeated(world: World, contestant: Contestant, repeat: int) -> list[Cost]:
    costs = []
    for number in range(repeat):
        costs.append(run(world, contestant.args, env=contestant.env, expect=contestant.expect))
        cost = costs[-1]
        say(
            f"{contestant.name} {number + 1}/{repeat}: {cost.wall:.1f} s, CPU {cost.cpu:.2f} s, {cost.rss / 1e6:.0f} MB"
        )
    return costs


def start(world: World, number: int) -> Start:
    """One start of the controller without Airflow's share; its account is as small as in production."""
    file = world.folder / f"judged-{number}"
    file.unlink(missing_ok=True)
    installation = world.install("startup")
    healer = installation.run(mode="report")
    healer.args = [sys.executable, "-m", "tests.bench.without_airflow", str(file), *healer.args[3:]]
    mark = world.cluster.audit_mark()
    begin = time.perf_counter()
    try:
        healer.launch()
        wait_for(lambda: _ready(healer), timeout=300, interval=0.02, what="the healer to be ready")
        ready = time.perf_counter() - begin
        judged = float(wait_for(lambda: _text(file), timeout=300, what="all Pods to be judged once"))
        watches = _watches(world, mark)
        wait_for(watches, timeout=300, what="the watch to be established", interval=0.2)
        made = Start(ready, judged, wait_still(healer.pid), rss_of(healer.pid))
    finally:
        healer.stop()
    say(f"start {number + 1}: ready {made.ready:.1f} s, judged CPU {made.judged:.2f} s, all {made.established:.2f} s")
    return made


def _ready(healer: Running) -> bool:
    if not healer.running:
        healer.wait_ready()  # says with which words it has ended
    try:
        return httpx.get(f"{healer.url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _text(file: Any) -> str:
    return file.read_text() if file.exists() else ""


def _watches(world: World, mark: int) -> Callable[[], bool]:
    return lambda: calls(world, mark)["watch pods"] > 0
