"""`python -m tests.simulation --n 10000 --seed 1 [--processes 2]`: walks, and tells rate, coverage and failures."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.quiet import quieten
from tests.simulation.report import Total
from tests.simulation.walk import replay, shrink, story, walk

BATCH = 100
MOST_STORIES = 5
PULSE = 60.0
"""Seconds between two lines that tell how far a long walk has come."""


def _batch(first: int, number: int) -> Total:
    quieten()
    total = Total()
    total.add(walk(seed) for seed in range(first, first + number))
    return total


def _batches(first: int, number: int, processes: int) -> Iterator[Total]:
    starts = range(first, first + number, BATCH)
    sizes = [min(BATCH, first + number - start) for start in starts]
    if processes == 1:
        yield from map(_batch, starts, sizes)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_batch, starts, sizes)


def _walked(first: int, number: int, processes: int) -> Total:
    total, told = Total(), time.monotonic()
    started = told
    for part in _batches(first, number, processes):
        total.merge(part)
        for seed in sorted(part.failed):
            print(f"a violation: replay it with --story --seed {seed}", file=sys.stderr, flush=True)
        now = time.monotonic()
        total.seconds = now - started
        if now - told > PULSE:
            told = now
            print(total.line(), file=sys.stderr, flush=True)
    return total


def _tell(seed: int) -> str:
    """Tell a history that failed, as short as it can be; or one that was asked for, whole."""
    result = walk(seed)
    return story(shrink(result) if replay(result).violation else result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="histories")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first history; the others count up")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="all cores if not given")
    parser.add_argument("--report", type=Path, help="write the figures as Markdown to this file too")
    parser.add_argument("--story", action="store_true", help="only tell the history of this seed")
    return parser.parse_args()


def main() -> int:
    """Walk, report, and return the exit code: 1 after a violation, or if too little was seen for so long a walk."""
    options = _options()
    quieten()
    if options.story:
        print(_tell(options.seed))
        return 0
    total = _walked(options.seed, options.n, options.processes)
    print(total.text())
    stories = [_tell(seed) for seed in sorted(total.failed)[:MOST_STORIES]]
    print("\n\n".join(stories))
    if options.report is not None:
        options.report.write_text(total.markdown(options.seed, options.processes, stories))
    return 1 if total.failed or total.too_little else 0


if __name__ == "__main__":
    sys.exit(main())
