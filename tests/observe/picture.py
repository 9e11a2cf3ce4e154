"""`python -m tests.observe.picture docs/dashboard.svg`: some panels of the dashboard, drawn from real data.

A real healer in enforce mode beside the lab's API server and Airflow, tasks that die one after another, and a real
Prometheus, which is asked the dashboard's own queries. Grafana itself is not there: only what it shows is drawn.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any, Final

from tests.e2e.world import EAGER, RUN, UNLIMITED, World, ago
from tests.lab.airflow import Airflow
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, say, wait_for
from tests.lab.prometheus import Prometheus, Series
from tests.observe import queries

DYING: Final = 12
"""How many tasks die, one after another."""

LEFT: Final = 3
"""How many of their Pods are still there when the picture is drawn."""

SECONDS: Final = 60.0
"""How far the picture looks back."""

STATS: Final = ("Suspects", "Held CPU", "Held memory", "Deleted", "Breaker", "Mode", "Leader")
LINES: Final = ("Pods by rule", "Why they are still there", "Deleted by reason", "Held CPU")
"""Titles of the dashboard's panels of both kinds, in the order in which they are drawn."""

WIDTH, TILE, CHART, GAP = 1120, 84, 190, 12
COLOURS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9")
GROUND, PANEL, TEXT, FAINT = "#111217", "#1a1c22", "#ccccdc", "#3a3d45"


def main(target: Path) -> None:
    """Play, ask, draw. Raises LabError when a panel has no data."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpo-healer-dashboard-")))
        cluster = stack.enter_context(Cluster.start())
        airflow = stack.enter_context(Airflow.start(components=("api-server",)))
        world = stack.enter_context(World.open(cluster, airflow, root / "world"))
        installation = world.installation(policy=EAGER | {"grace": "12s"}, limits=UNLIMITED)
        healer = stack.enter_context(installation.run(mode="enforce"))
        labels = {healer.url: {"namespace": "kpo-healer"}}
        made = stack.enter_context(Prometheus.start_with(root / "prometheus", labels, rules=queries.ALERTS))
        wait_for(lambda: made.query("kpo_healer_leader == 1"), timeout=120, what="a leader")
        play(world)
        target.write_text(drawn(made))
    say(f"{target} is written")


def play(world: World) -> None:
    """Tasks that run, and others that die while their Pods run on; in the end some of those are left."""
    living, dying = [f"load-{n}" for n in range(6)], [f"train-{n}" for n in range(DYING)]
    world.seed(*(world.task(name, "running") for name in (*living, *dying)))
    for name in (*living, *dying):
        world.pod(name, name=name, requests={"cpu": "2", "memory": "4Gi"})
    for name in dying:
        world.airflow.update(world.dag, RUN, name, state="failed", end_date=ago().isoformat())
        world.wait_second(3)
    world.wait(lambda: len(world.names()) <= len(living) + LEFT, "most of them gone", timeout=300)
    world.wait_second(2)


def panel(title: str, kind: str) -> Any:
    """The dashboard's panel of this title and kind."""
    return next(each for each in queries.panels() if (each["title"], each["type"]) == (title, kind))


def asked(made: Prometheus, shown: Any) -> list[Series]:
    """The history of its first query. Raises LabError where there is none."""
    ranges = {"$__rate_interval": "20s", "$__range": f"{SECONDS:.0f}s"}
    expression = shown["targets"][0]["expr"]
    for name, value in ranges.items():
        expression = expression.replace(name, value)
    found = made.history(queries.filled(expression), SECONDS)
    if not found:
        raise LabError(f"the panel {shown['title']} has no data: {expression}")
    return found


def drawn(made: Prometheus) -> str:
    """All of it as SVG."""
    height = TILE + 2 * CHART + 4 * GAP
    parts = [*tiles(made), *charts(made)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="{GROUND}"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])


def tiles(made: Prometheus) -> Iterator[str]:
    """What is so now."""
    wide = (WIDTH - GAP * (len(STATS) + 1)) / len(STATS)
    for number, title in enumerate(STATS):
        x = GAP + number * (wide + GAP)
        yield box(x, GAP, wide, TILE, title)
        series = asked(made, panel(title, "stat"))
        yield label(x + wide / 2, GAP + 62, worded(title, series), size=26, colour=COLOURS[0], anchor="middle")


def worded(title: str, series: Sequence[Series]) -> str:
    """The latest value, as the panel words it."""
    latest = series[0].points[-1][1]
    if title == "Mode":
        return str(next(each.labels["mode"] for each in series if each.points[-1][1] == 1))
    if title == "Breaker":
        return "open" if latest else "closed"
    return f"{latest / 2**30:.0f} GiB" if title == "Held memory" else f"{latest:.0f}"


def charts(made: Prometheus) -> Iterator[str]:
    """What has become of it."""
    wide = (WIDTH - 3 * GAP) / 2
    for number, title in enumerate(LINES):
        x, y = GAP + number % 2 * (wide + GAP), TILE + 2 * GAP + number // 2 * (CHART + GAP)
        yield box(x, y, wide, CHART, title)
        series = [each for each in asked(made, panel(title, "timeseries")) if any(value for _, value in each.points)]
        yield from curves(series, x + 40, y + 32, wide - 56, CHART - 66)


def curves(series: Sequence[Series], x: float, y: float, wide: float, high: float) -> Iterator[str]:
    """Lines with their names below, over the last `SECONDS`."""
    most = max(value for each in series for _, value in each.points)
    end = max(at for each in series for at, _ in each.points)
    for share in (0.0, 0.5, 1.0):
        level = y + high * (1 - share)
        yield f'<line x1="{x:.0f}" y1="{level:.1f}" x2="{x + wide:.0f}" y2="{level:.1f}" stroke="{FAINT}"/>'
        yield label(x - 6, level + 4, f"{most * share:g}"[:4], size=11, anchor="end")
    for number, each in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{x + wide * (1 - (end - at) / SECONDS):.1f},{y + high * (1 - value / most):.1f}"
            for at, value in each.points
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        name = " ".join(value for key, value in each.labels.items() if key not in ("job", "namespace"))
        yield label(x + number * 118, y + high + 24, name, size=12, colour=colour)


def box(x: float, y: float, wide: float, high: float, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high}" rx="4" fill="{PANEL}"/>'
        f"{label(x + 10, y + 20, title, size=13)}"
    )


def label(x: float, y: float, text: str, *, size: int, colour: str = TEXT, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
