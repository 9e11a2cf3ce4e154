"""Hunts one planted bug: walks history after history until a check of the simulation fails."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from msgspec import Struct

from tests.simulation.planted import BUGS
from tests.simulation.planted.sowing import plant

FOREIGN = (
    "airflow_client.client",
    "kubernetes.client",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "structlog",
    "urllib3",
    "yaml",
)
"""What the healer imports of others: loaded once, by the process from which those that hunt are forked."""


class Hunt(Struct, frozen=True):
    """How a hunt ended. `seed` is None if the bug got away; `events` are those of the shortest story."""

    name: str
    histories: int
    seconds: float
    seed: int | None = None
    violation: str = ""
    events: int = 0
    trouble: str = ""


def hunt(name: str, seeds: Iterable[int], *, shrinking: bool = True) -> Hunt:
    """Plant a bug ("" for none) in this process and walk these seeds until it is caught."""
    started = time.monotonic()
    try:
        if name:
            plant(BUGS[name])
        return _walk(name, seeds, started, shrinking)
    except Exception as error:
        return Hunt(name, 0, time.monotonic() - started, trouble=f"{type(error).__name__}: {error}")


def _walk(name: str, seeds: Iterable[int], started: float, shrinking: bool) -> Hunt:
    from tests.simulation.quiet import quieten
    from tests.simulation.walk import shrink, walk

    quieten()
    number = 0
    for seed in seeds:
        number += 1
        result = walk(seed)
        if result.violation is not None:
            seconds = time.monotonic() - started
            short = shrink(result) if shrinking else result
            return Hunt(name, number, seconds, seed, short.violation or result.violation, len(short.events))
    return Hunt(name, number, time.monotonic() - started)


def hunts(seeds: Mapping[str, Sequence[int]], processes: int, *, shrinking: bool = True) -> Iterator[Hunt]:
    """Yield the hunts for these bugs as they end. Each has a process of its own: it imports the healer with its bug."""
    with _processes(processes) as pool:
        jobs = [pool.submit(hunt, name, tried, shrinking=shrinking) for name, tried in seeds.items()]
        for job in as_completed(jobs):
            yield job.result()


def control(seeds: Sequence[int]) -> Hunt:
    """Walk the seeds that caught a bug without any: what fails here too has not shown the bug."""
    with _processes(1) as pool:
        return pool.submit(hunt, "", seeds).result()


def _processes(number: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(FOREIGN))
    return ProcessPoolExecutor(number, mp_context=context, max_tasks_per_child=1)
