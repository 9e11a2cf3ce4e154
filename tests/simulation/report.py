"""What many histories came to: as text for the terminal, as Markdown for the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.simulation.coverage import ENOUGH, PARTS, missing
from tests.simulation.walk import Result

HEAD = (
    "# Random histories",
    "",
    "Of the real code between models of Airflow, of KubernetesPodOperator and of the cluster that know the truth. The",
    "checks hold that no Pod is deleted which is or may still be used, that each orphan is healed within its bound",
    "once the faults end, and that never two replicas act. A seed replays its history exactly.",
    "",
)

APART = {
    "window": "deleted though Airflow changed its mind after it was asked: the documented window",
    "stale replica": "deleted because Airflow answered from a database replica that lagged: ask the primary",
    "restored to the same row": "right deletions of Pods whose row was restored to one that was seen before",
    "cleared and ended again without a try": "right deletions by the patience of before: in Airflow 2 the row is what"
    " it was, and no try has begun",
    "namesake": "deleted though another Airflow with the same ids used it: none of its Pods had been seen there,"
    " and `ownership: exclusive` was not true",
    "sent after the leadership was lost": "DELETEs of a healer that was stopped after its last check: one at most each",
}
"""What is no violation and no success either."""


class Total:
    """The figures of many histories."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.hashes: set[bytes] = set()
        self.events: Counter[int] = Counter()
        self.pods: Counter[int] = Counter()
        self.failed: list[int] = []
        self.number = 0
        self.seconds = 0.0

    def add(self, results: Iterable[Result]) -> None:
        """Take in some histories."""
        for result in results:
            self.number += 1
            self.counts.update(result.tally.counts)
            self.hashes.add(result.hash)
            self.events[result.tally.events] += 1
            self.pods[result.pods] += 1
            if result.violation is not None:
                self.failed.append(result.seed)

    def merge(self, other: Total) -> None:
        """Take in what another process found."""
        self.number += other.number
        self.counts.update(other.counts)
        self.hashes |= other.hashes
        self.events.update(other.events)
        self.pods.update(other.pods)
        self.failed += other.failed

    @property
    def missing(self) -> list[str]:
        """What was never seen and should have been."""
        return missing(self.counts)

    @property
    def too_little(self) -> bool:
        """Whether a walk of this length must have seen more."""
        return self.number >= ENOUGH and bool(self.missing)

    def line(self) -> str:
        """Return how far the walk has come."""
        return f"{self.number:,} histories, {self._rate():.0f} per second, {len(self.failed)} violations"

    def _rate(self) -> float:
        return self.number / max(self.seconds, 1e-9)

    def figures(self) -> list[tuple[str, str]]:
        """Return the figures that matter, each with its name."""
        deleted = sum(self.counts[f"healed: {name}"] for name in _reasons())
        return [
            ("histories", f"{self.number:,}"),
            ("distinct (by hash)", f"{len(self.hashes):,}"),
            ("violations", f"{len(self.failed):,}"),
            ("right deletions", f"{deleted:,}"),
            ("median of events", str(_median(self.events))),
            ("median of Pods", str(_median(self.pods))),
            ("seconds", f"{self.seconds:,.0f}"),
            ("histories per second", f"{self._rate():,.0f}"),
            ("never seen", ", ".join(self.missing) or "nothing"),
        ]

    def text(self) -> str:
        """Return the figures for a terminal."""
        covered = [f"{self.counts[name]:>11,}  {name}" for name in sorted({*self.counts, *self.missing})]
        return "\n".join((*covered, "", *(f"{name}: {figure}" for name, figure in self.figures())))

    def markdown(self, seed: int, processes: int, stories: Sequence[str]) -> str:
        """Return the figures for the docs."""
        lines = [*HEAD, "| figure | |", "| --- | --- |", f"| seeds | {seed} to {seed + self.number - 1} |"]
        lines += [f"| processes | {processes} |", *(f"| {name} | {figure} |" for name, figure in self.figures())]
        lines += ["", "Counted apart:", "", "| times | what |", "| --- | --- |"]
        lines += [f"| {self.counts[name]:,} | {words} |" for name, words in APART.items()]
        for part in PARTS:
            lines += ["", f"### {part.title}", "", "| | times |", "| --- | --- |"]
            lines += [f"| {name.partition(': ')[2] or name} | {self.counts[name]:,} |" for name in part.names]
        for story in stories:
            lines += ["", "```text", story, "```"]
        return "\n".join(lines) + "\n"


def _reasons() -> list[str]:
    healed = next(part for part in PARTS if part.names[0].startswith("healed: "))
    return [name.partition(": ")[2] for name in healed.names]


def _median(counted: Counter[int]) -> int:
    middle, seen = (counted.total() + 1) // 2, 0
    for value in sorted(counted):
        seen += counted[value]
        if seen >= middle:
            return value
    return 0
