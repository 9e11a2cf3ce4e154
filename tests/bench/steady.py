"""The controller at its default settings, for an hour: memory, quiet passes, Airflow's audit table (rows 3, 5 and 8).

10,000 Pods of live task instances in 200 live runs. Each minute a few task instances end and their Pods go, as in a
cluster where all is well; none of them is an orphan. What goes to Airflow passes a proxy that counts it.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import linear_regression, median
from typing import Any, Final

from tests.bench import population
from tests.bench.measure import calls, cpu_of, rss_of
from tests.bench.population import Seat
from tests.bench.world import World
from tests.faults.proxy import Exchange, FaultProxy
from tests.lab.healer import USER, Installation
from tests.lab.processes import say, wait_for

INTERVAL: Final = 60.0
AUDIT: Final = 600.0
"""Seconds: the defaults, which are stated here because the windows depend on them."""

ENDING: Final = 5
"""Task instances that end each minute."""


@dataclass
class Meter:
    """Counts what passes to Airflow: calls, rows of task instances, bytes of the answers on the wire."""

    calls: int = 0
    rows: int = 0
    size: int = 0
    by_path: Counter[str] = field(default_factory=Counter)

    def fault(self, exchange: Exchange) -> None:
        reply = exchange.pass_on()
        self.calls += 1
        self.size += len(reply.body)
        self.by_path[f"{exchange.asked.method} {exchange.asked.text.partition('?')[0].rpartition('/')[2]}"] += 1
        if "taskInstances" in exchange.asked.text and reply.status == 200:
            self.rows += _rows(reply.body)
        exchange.reply(reply)

    def now(self) -> tuple[int, int, int]:
        return self.calls, self.rows, self.size


def _rows(body: bytes) -> int:
    answer = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
    return len(answer["task_instances"]) if "task_instances" in answer else 1


@dataclass(frozen=True)
class Window:
    """One minute: CPU in seconds, LISTs and all requests to the API server, and what went to Airflow."""

    cpu: float
    lists: int
    requests: int
    calls: int
    rows: int
    size: int
    audit_rows: int
    audit_bytes: int
    ended: int
    rss: int


@contextmanager
def metered(world: World) -> Iterator[tuple[str, Meter]]:
    """A way to Airflow that counts."""
    meter = Meter()
    with FaultProxy(world.url) as proxy:
        proxy.rule(meter.fault)
        yield proxy.url, meter


def measure(world: World, *, minutes: float) -> dict[str, Any]:
    """Runs the controller for so many minutes after its first pass; the part's figures."""
    installation = world.install("steady", interval="60s", auditInterval="10m")
    with metered(world) as (url, meter):
        file = world.folder / "passes"
        windows, peak = _watched(world, installation, url, meter, minutes)
    quiet = [window for number, window in enumerate(windows) if not _may_audit(number)]
    audits = [window for number, window in enumerate(windows) if _may_audit(number)]
    passes = [line.split() for line in file.read_text().splitlines()]
    per_pass = [float(cpu) for depth, cpu in passes if depth == "FULL"]
    return {
        "figures": {
            "rss_mb": round(peak / 1e6, 1),
            "rss_mb_per_hour": _growth([window.rss for window in windows]),
            "quiet_airflow_calls": max(window.calls for window in quiet),
            "quiet_kubernetes_lists": max(window.lists for window in quiet),
            "quiet_cpu_ms": round(median(per_pass), 1),
        },
        "steady_minutes": minutes,
        "pods": world.pods,
        "live_runs": population.DAGS,
        "quiet_cpu_ms_each": per_pass,
        "quiet_minute_cpu_ms": round(median(window.cpu for window in quiet) * 1000),
        "quiet_rows": max(window.rows for window in quiet),
        "ended_each_minute": ENDING,
        "quiet_airflow_kb": round(median(window.size for window in quiet) / 1e3, 1),
        "quiet_kubernetes_requests": round(median(window.requests for window in quiet)),
        "rss_mb_each_minute": [round(window.rss / 1e6, 1) for window in windows],
        "audit_calls": max((window.calls for window in audits), default=None),
        "audit_rows": max((window.rows for window in audits), default=None),
        "audit_cpu_ms": round(max((window.cpu for window in audits), default=0) * 1000),
        "audit_table_per_day": _per_day(quiet, audits),
    }


def _growth(rss: Sequence[int]) -> float | None:
    """How fast memory grows in the second half, in MB an hour: the slope of a line through it; None of too few."""
    half = [held / 1e6 for held in rss[len(rss) // 2 :]]
    if len(half) < 5:
        return None
    return round(linear_regression(range(len(half)), half).slope * 3600 / INTERVAL, 2)


def _per_day(quiet: Sequence[Window], audits: Sequence[Window]) -> dict[str, Any]:
    """Rows and bytes that a day adds to Airflow's audit table: 1,296 quiet minutes and 144 with an audit."""
    share = {"rows": "audit_rows", "bytes": "audit_bytes"}
    made = {}
    for name, column in share.items():
        calm = sum(getattr(window, column) for window in quiet) / max(1, len(quiet))
        busy = sum(getattr(window, column) for window in audits) / max(1, len(audits)) if audits else calm
        made[name] = round(calm * 1296 + busy * 144)
    return made


def _may_audit(number: int) -> bool:
    """Whether an audit falls into this minute, counted from the middle between the first pass and the second."""
    return (number + 1) % round(AUDIT / INTERVAL) == 0


def _watched(
    world: World, installation: Installation, url: str, meter: Meter, minutes: float
) -> tuple[list[Window], int]:
    healer = installation.run(mode="report", url=url)
    healer.args = [sys.executable, "-m", "tests.bench.timed_passes", str(world.folder / "passes"), *healer.args[3:]]
    windows: list[Window] = []
    ending = iter(population.live(world.pods)[::-1])
    with healer:
        wait_for(lambda: healer.metric("pass_duration_seconds_count") >= 1, timeout=300, what="the first pass")
        time.sleep(INTERVAL / 2)  # so that each window has one whole pass in its middle
        begin = time.monotonic()
        while time.monotonic() - begin < minutes * 60 - 1:
            windows.append(_window(world, healer.pid, meter, [next(ending) for _ in range(ENDING)]))
            say(f"steady, minute {len(windows)}: {windows[-1]}")
            if len(windows) * INTERVAL >= minutes * 60:
                break
        peak = rss_of(healer.pid)
    world.people(population.live(world.pods))
    return windows, peak


def _window(world: World, pid: int, meter: Meter, ending: Sequence[Seat]) -> Window:
    assert world.airflow is not None
    begin = time.monotonic()
    cpu, mark, passed, table = cpu_of(pid), world.cluster.audit_mark(), meter.now(), world.airflow_log()
    for seat in ending:
        index = -1 if seat.map_index is None else seat.map_index
        world.airflow.act(seat.dag, seat.run, seat.task, "succeed", map_index=index)
    world.stamp.remove(ending)
    time.sleep(max(0.0, begin + INTERVAL - time.monotonic()))
    requests = calls(world, mark, user=USER)
    now, log = meter.now(), world.airflow_log()
    return Window(
        cpu=cpu_of(pid) - cpu,
        lists=requests["list pods"],
        requests=sum(requests.values()),
        calls=now[0] - passed[0],
        rows=now[1] - passed[1],
        size=now[2] - passed[2],
        audit_rows=log[0] - table[0],
        audit_bytes=log[1] - table[1],
        ended=len(ending),
        rss=rss_of(pid, "VmRSS"),
    )
