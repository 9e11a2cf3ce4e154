"""`python -m tests.simulation --n 10000 --seed 1 [--processes 2]`: walks, and tells rate, coverage and failures."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import structlog

from tests.simulation.coverage import EXPECTED
from tests.simulation.walk import Result, replay, shrink, story, walk

BATCH = 50
MOST_STORIES = 5


class Total:
    """What many histories came to."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.hashes: set[bytes] = set()
        self.events: list[int] = []
        self.pods: list[int] = []
        self.failed: list[int] = []

    def add(self, results: Iterable[Result]) -> None:
        """Take in some histories."""
        for result in results:
            self.counts.update(result.tally.counts)
            self.hashes.add(result.hash)
            self.events.append(result.tally.events)
            self.pods.append(result.pods)
            if result.violation is not None:
                self.failed.append(result.seed)

    def merge(self, other: Total) -> None:
        """Take in what another process found."""
        self.counts.update(other.counts)
        self.hashes |= other.hashes
        self.events += other.events
        self.pods += other.pods
        self.failed += other.failed

    def report(self, seconds: float) -> str:
        """Return the figures as text."""
        names = sorted({*EXPECTED, *self.counts})
        never = [name for name in EXPECTED if not self.counts[name]]
        number = len(self.events)
        figures = (
            f"{number} histories in {seconds:.1f} s, {number / seconds:.0f} per second",
            f"{len(self.hashes)} distinct; median {median(self.events):.0f} events and {median(self.pods):.0f} Pods",
            f"deleted in the documented window: {self.counts['window']}",
            f"deleted because a replica lagged: {self.counts['stale replica']}",
            f"violations: {len(self.failed)}",
        )
        covered = (f"{self.counts[name]:>9}  {name}" for name in names)
        return "\n".join((*covered, f"never seen: {', '.join(never) or 'nothing'}", *figures))


def _batch(first: int, number: int) -> Total:
    quieten()
    total = Total()
    total.add(walk(seed) for seed in range(first, first + number))
    return total


def quieten() -> None:
    """Leave out the healer's log, which costs more than its decisions."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _batches(first: int, number: int, processes: int) -> Iterator[Total]:
    starts = range(first, first + number, BATCH)
    sizes = [min(BATCH, first + number - start) for start in starts]
    if processes == 1:
        yield from map(_batch, starts, sizes)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_batch, starts, sizes)


def _tell(seed: int) -> None:
    """Tell a history that failed, as short as it can be; or one that was asked for, whole."""
    result = walk(seed)
    print()
    print(story(shrink(result) if replay(result).violation else result))


def main() -> int:
    """Walk, report, and return the exit code: 1 after a violation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="histories")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first history; the others count up")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--story", action="store_true", help="only tell the history of this seed")
    options = parser.parse_args()
    quieten()
    if options.story:
        _tell(options.seed)
        return 0
    started, total = time.monotonic(), Total()
    for part in _batches(options.seed, options.n, options.processes):
        total.merge(part)
    print(total.report(time.monotonic() - started))
    for seed in total.failed[:MOST_STORIES]:
        _tell(seed)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
