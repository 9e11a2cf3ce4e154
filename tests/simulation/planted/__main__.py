"""`python -m tests.simulation.planted`: plants each bug in turn; exit code 1 if the simulation lets one get away."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.simulation.planted import BUGS, SEEDS, known_seeds
from tests.simulation.planted.hunting import Hunt, control, hunts


def table(found: Sequence[Hunt]) -> Table:
    """Return what became of each bug."""
    shown = Table("bug", "what it does", "caught after", "seed", "shortest story", "s", "how", title="planted bugs")
    for each in found:
        caught = f"{each.histories:,}" if each.seed is not None else f"[red]not in {each.histories:,}[/]"
        words = each.violation or each.trouble
        seed, events = ("", "") if each.seed is None else (str(each.seed), f"{each.events} events")
        shown.add_row(each.name, BUGS[each.name].words, caught, seed, events, f"{each.seconds:.1f}", escape(words))
    return shown


def markdown(found: Sequence[Hunt]) -> str:
    """Return the same for the docs."""
    lines = [
        "| bug | what it does | caught after | seed | shortest story | by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        caught = f"{each.histories:,} histories" if each.seed is not None else f"**not in {each.histories:,}**"
        events = f"{each.events} events" if each.seed is not None else ""
        seed = "" if each.seed is None else each.seed
        lines.append(f"| {each.name} | {BUGS[each.name].words} | {caught} | {seed} | {events} | {each.violation} |")
    return "\n".join(lines) + "\n"


def record(found: Sequence[Hunt]) -> None:
    """Keep the seeds that caught a bug."""
    seeds = known_seeds() | {each.name: each.seed for each in found if each.seed is not None}
    SEEDS.write_text(json.dumps({name: seeds[name] for name in BUGS if name in seeds}, indent=2) + "\n")


def main() -> int:
    """Hunt, show the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000, help="histories in which a bug must show")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first history")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", default=[], help="names of bugs")
    parser.add_argument("--report", type=Path, help="write the table to this file too, as Markdown")
    parser.add_argument("--all", action="store_true", help="also those that no history has shown yet")
    parser.add_argument("--record", action="store_true", help="keep the seeds for the quick tests")
    options = parser.parse_args()
    console = Console()
    found = []
    seeds = range(options.seed, options.seed + options.n)
    known = known_seeds()
    names = sorted(
        options.only or (BUGS if options.all else known), key=lambda name: known.get(name, options.n)
    )  # what shows soon is told soon
    for each in hunts(dict.fromkeys(names, seeds), options.processes):
        found.append(each)
        how = f"seed {each.seed}" if each.seed is not None else f"NOT CAUGHT {each.trouble}"
        console.print(
            f"{each.name}: {how}, {each.histories} histories, {each.seconds:.0f} s", style="dim", markup=False
        )
    found.sort(key=lambda each: list(BUGS).index(each.name))
    console.print(table(found))
    escaped = [each.name for each in found if each.seed is None]
    if options.report:
        options.report.write_text(markdown(found))
    if options.record:
        record(found)
    unplanted = control(sorted({each.seed for each in found if each.seed is not None}))
    if unplanted.seed is not None or unplanted.trouble:
        console.print(
            f"[red]without any bug seed {unplanted.seed} fails too: {unplanted.violation}{unplanted.trouble}[/]"
        )
        return 1
    console.print(f"{len(found) - len(escaped)} of {len(found)} caught; without them the same seeds are clean")
    if rare := [name for name in BUGS if name not in names]:
        console.print(f"not hunted, as no history has shown them yet (--all does): {', '.join(rare)}")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
