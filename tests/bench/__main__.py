"""`python -m tests.bench [PART …]`: measures, and writes bench.json and the tables of docs/performance.md.

Parts: startup, pass, latency, growth, orphan, steady; all of them by default. `steady` then runs in a world of its own
beside the others: what it measures are its own processor time and memory. `orphan` has Airflows of its own.
"""

from __future__ import annotations

import argparse
import compileall
import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import healer
from tests.bench import contestants, growth, healing, latency, orphan, population, report, startup, steady, tools
from tests.bench.world import World, world
from tests.lab.assets import binaries
from tests.lab.processes import LabError, say

PARTS: Final = ("startup", "pass", "latency", "growth", "orphan", "steady")
PODS: Final = 10_000
"""The figures are of so many; with other numbers they are only printed."""


def main() -> int:
    options = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return _run(options)
    except LabError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures kpo-healer beside others.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; everything by default")
    parser.add_argument(
        "--pods",
        type=int,
        default=PODS,
        help="Pods in the cluster (10000); with another number the figures are only printed",
    )
    parser.add_argument("--largest", type=int, default=100_000, help="Pods at the end of the growth (100000)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each contestant, of which the median counts (5)")
    parser.add_argument("--minutes", type=float, default=60, help="of steady state (60)")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: to see whether it works")
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace) -> int:
    parts = options.parts or list(PARTS)
    if options.quick:
        options.pods, options.largest, options.repeat, options.minutes = 1_000, 3_000, 1, 2
    binaries()
    tools.drivers()
    _compile()
    beside = None
    if "steady" in parts and len(parts) > 1:
        parts = [part for part in parts if part != "steady"]
        beside = _beside(options)
    try:
        if "orphan" in parts:
            parts = [part for part in parts if part != "orphan"]
            _orphan(options)
        if not parts:
            return 0
        with world(pods=_room(options, parts), growth="growth" in parts) as made:
            failed = [part for part in PARTS if part in parts and not _tried(made, part, options)]
        return _waited(beside) or bool(failed)
    finally:
        if beside is not None and beside.poll() is None:
            beside.terminate()
            beside.wait()


def _orphan(options: argparse.Namespace) -> None:
    say("--- orphan")
    result = orphan.measure(repeat=(options.repeat + 1) // 2, orphans=20 if options.quick else 200)
    if options.pods == PODS:
        report.merge("orphan", result)
    else:
        print(json.dumps({"orphan": result}, indent=1))


def _compile() -> None:
    """Compile what runs from its sources, as an installed package is: else each start may be charged with it."""
    for folder in (Path(healer.__file__).parent, tools.janitor()):
        if folder is not None:
            compileall.compile_dir(str(folder), quiet=1)


def _beside(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    say("the steady state is watched beside the rest")
    numbers = [f"--pods={options.pods}", f"--minutes={options.minutes}"]
    return subprocess.Popen([sys.executable, "-m", "tests.bench", "steady", *numbers])


def _waited(beside: subprocess.Popen[bytes] | None) -> int:
    return 0 if beside is None else beside.wait()


def _room(options: argparse.Namespace, parts: list[str]) -> int:
    """Live task instances that are needed."""
    beside = 1_000 if "latency" in parts else 0
    return max(options.pods + beside, options.largest if "growth" in parts else 0)


def _tried(made: World, part: str, options: argparse.Namespace) -> bool:
    """Whether the part could be measured; whatever goes wrong, the others go on."""
    try:
        _measure(made, part, options)
    except Exception:
        say(f"{part} failed:\n{traceback.format_exc()}")
        return False
    return True


def _measure(made: World, part: str, options: argparse.Namespace) -> None:
    say(f"--- {part}")
    orphans = options.pods // 10
    everyone = population.live(options.pods)
    mixed = [*population.live(options.pods - orphans), *population.orphans(orphans)]
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "startup": lambda: startup.measure(made, mixed, repeat=options.repeat),
        "pass": lambda: healing.measure(made, repeat=(options.repeat + 1) // 2, orphans=orphans),
        "latency": lambda: latency.measure(made, orphans=max(60, min(600, options.pods * 6 // 100))),
        "growth": lambda: growth.measure(made, largest=options.largest, repeat=max(1, options.repeat // 2)),
        "steady": lambda: steady.measure(made, minutes=options.minutes),
    }
    if part != "growth":
        made.people(mixed if part in ("startup", "pass") else everyone)
    result = measures[part]()
    if options.pods == PODS:
        report.merge(part, result, contestants.versions(made))
    else:
        print(json.dumps({part: result}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
