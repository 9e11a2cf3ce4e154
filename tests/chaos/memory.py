"""Memory and threads of the replicas over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tests.chaos.replicas import Replica, Sample

WARM_UP = 600.0
"""Seconds of a life that are left out, or a quarter of it where it is shorter than four times that."""


@dataclass(frozen=True)
class Trend:
    """One life of one replica. slope: MB per hour after the warm-up; None when the life was too short to tell.

    late: the same over the second half of the life, where what fills for an hour (bounded memories of ids) is full.
    """

    replica: str
    life: int
    minutes: float
    first: float
    last: float
    peak: float
    slope: float | None
    late: float | None
    threads: tuple[int, int]


def trends(replicas: Sequence[Replica]) -> list[Trend]:
    """Each life of at least two minutes."""
    found = []
    for replica in replicas:
        for life, group in groupby(replica.samples, key=lambda sample: sample.life):
            samples = list(group)
            if samples[-1].at - samples[0].at >= 120:
                found.append(_trend(replica.name, life, samples))
    return found


def _trend(name: str, life: int, samples: Sequence[Sample]) -> Trend:
    length = samples[-1].at - samples[0].at
    begin = samples[0].at + min(WARM_UP, length / 4)
    warm = [sample for sample in samples if sample.at >= begin]
    half = [sample for sample in samples if sample.at >= samples[0].at + length / 2]
    threads = [sample.threads for sample in warm]
    slope = _slope(warm) * 3600 if length >= 300 else None
    late = _slope(half) * 3600 if length >= 1800 else None
    peak = max(sample.rss for sample in samples)
    return Trend(name, life, length / 60, warm[0].rss, warm[-1].rss, peak, slope, late, (min(threads), max(threads)))


def _slope(samples: Sequence[Sample]) -> float:
    """MB per second, by least squares."""
    n = len(samples)
    mean_at, mean_rss = sum(s.at for s in samples) / n, sum(s.rss for s in samples) / n
    spread = sum((s.at - mean_at) ** 2 for s in samples)
    return sum((s.at - mean_at) * (s.rss - mean_rss) for s in samples) / spread if spread else 0.0
