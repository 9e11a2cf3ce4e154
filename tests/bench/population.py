"""Who lives in the bench's world: DAGs, runs and task instances in Airflow, and the Pods that belong to them.

200 DAGs with one live run each. The task instances of the live runs come in tiers, so that 1,000 Pods are the first
tier of each run, 10,000 the first three, and so on. Beside them a fan-out of 5,000 mapped task instances of which 4,900
have ended, 24 ended runs per DAG, and orphans of every kind that is deleted by default.
"""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from tests.lab.airflow_seed import RENDERED, Dag, Run, Task

Kind = Literal["running", "succeeded", "failed", "kept"]
"""How a Pod looks: `kept` is a succeeded one with `already_checked`."""

NAMESPACE: Final = "airflow"
DAGS: Final = 200
OLD_RUNS: Final = 24
FAN_OUT: Final = 5_000
FAN_OUT_LIVE: Final = 100
TIERS: Final = {"plain": 5, "small": 10, "middle": 35, "wide": 100, "huge": 350}
"""Live task instances per run: 1,000, 3,000, 10,000, 30,000 and 100,000 in 200 runs, when added up."""

GONE: Final = {"gone_1": 10, "gone_2": 15, "gone_3": 25}
"""More ended ones per live run, only for the growth with the share of orphans: 2,000, 5,000 and 10,000 added up."""

SMALL_RUNS: Final = 2_000
"""Live runs of five task instances each in DAGs of their own, only for the growth with the runs."""


@dataclass(frozen=True)
class Seat:
    """A Pod's place: its task instance and how the Pod looks. `orphan`: why the healer may delete it."""

    dag: str
    run: str
    task: str
    map_index: int | None
    kind: Kind = "running"
    try_number: int = 1
    orphan: str | None = None

    @property
    def shape(self) -> tuple[str, bool, str, int, int, int]:
        """Pods of one shape differ in nothing but texts of equal length."""
        width = 0 if self.map_index is None else len(str(self.map_index))
        return self.kind, self.orphan is not None, self.run.partition("__")[0], width, len(self.dag), len(self.task)

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        return self.dag, self.run, self.task, self.map_index


def pod_name(seat: Seat) -> str:
    """Of the same length for all Pods of one shape; `{index}` in Airflow's rows is replaced likewise."""
    digest = uuid.uuid5(uuid.NAMESPACE_URL, f"{seat.dag} {seat.run} {seat.task} {seat.try_number}").hex[:16]
    return f"kpo-{digest}-{seat.map_index if seat.map_index is not None else 'x'}"


def pod_uid(seat: Seat) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, repr((*seat.key, seat.try_number, seat.kind))))


# --- runs -----------------------------------------------------------------------------------------------------------


def dag_id(number: int) -> str:
    return f"bench_dag_{number:03d}"


def live_run(number: int) -> str:
    """Half are scheduled, with ids that DAGs share, half were triggered by hand."""
    if number % 2 == 0:
        return f"scheduled__2026-01-05T{number % 24:02d}:00:00+00:00"
    return f"manual__2026-01-05T09:{number % 60:02d}:{number // 60:02d}.123456+00:00"


def old_run(number: int) -> str:
    return f"scheduled__2026-01-04T{number:02d}:00:00+00:00"


def small_dag(number: int) -> str:
    return f"small_dag_{number % DAGS:03d}"


def small_run(number: int) -> str:
    return f"manual__2026-01-06T{number // DAGS:02d}:{number % 60:02d}:00.654321+00:00"


# --- Airflow's side -------------------------------------------------------------------------------------------------


def dags(pods: int, *, growth: bool = False) -> Iterator[Dag]:
    """What Airflow knows, enough for this many Pods; `growth`: with what only those parts need."""
    tiers = list(tiers_for(pods))
    for number in range(DAGS):
        live = Run(live_run(number), _live_tasks(number, tiers, growth=growth))
        old = [Run(old_run(hour), _old_tasks(number, hour), state="success") for hour in range(OLD_RUNS)]
        yield Dag(dag_id(number), [live, *old])
    if growth:
        for number in range(DAGS):
            runs = [Run(small_run(n), _plain()) for n in range(number, SMALL_RUNS, DAGS)]
            yield Dag(small_dag(number), runs)


def tiers_for(pods: int) -> Iterator[str]:
    """The tiers that together have room for so many Pods in all live runs; three at least."""
    room = 0
    for number, (tier, size) in enumerate(TIERS.items()):
        if number < 3 or room < pods:
            yield tier
        room += size * DAGS


def _plain() -> list[Task]:
    return [Task(f"plain_{n}", "deferred" if n > 3 else "running") for n in range(TIERS["plain"])]


def _live_tasks(number: int, tiers: list[str], *, growth: bool) -> list[Task]:
    tasks = _plain()
    for tier in tiers[1:]:
        tasks.append(Task(tier, "deferred" if tier == "small" else "running", map_index=100, count=TIERS[tier]))
    tasks += [
        _named(number, "done_1", "success"),
        _named(number, "done_2", "success"),
        _named(number, "done_3", "failed"),
    ]
    if number % 4 == 0:
        superseded = Seat(dag_id(number), live_run(number), "again", 100, try_number=2)
        tasks.append(Task("again", "running", map_index=100, try_number=2, pod=pod_name(superseded)))
    if number == 0:
        ended = FAN_OUT - FAN_OUT_LIVE
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=3)
        tasks.append(Task("fan_out", "success", map_index=1000, count=ended, start_date=long_ago, end_date=long_ago))
        tasks.append(Task("fan_out", "running", map_index=1000 + ended, count=FAN_OUT_LIVE))
    if growth:
        tasks += [Task(name, "success", map_index=100, count=count) for name, count in GONE.items()]
    return tasks


def _named(number: int, task: str, state: str, *, run: str | None = None) -> Task:
    """An ended plain task whose Pod Airflow names in its state store."""
    seat = Seat(dag_id(number), run or live_run(number), task, None)
    return Task(task, state, pod=pod_name(seat))


def _old_tasks(number: int, hour: int) -> list[Task]:
    run = old_run(hour)
    named = [_named(number, f"plain_{n}", "success", run=run) for n in range(5)]
    plain = named if hour == OLD_RUNS - 1 else [replace(task, pod=None) for task in named]
    return [*plain, Task("small", "success", map_index=100, count=13, rendered=RENDERED if hour > 20 else None)]


# --- the cluster's side ---------------------------------------------------------------------------------------------


def live(pods: int) -> list[Seat]:
    """Pods whose task instances are alive, tier after tier over all live runs; the fan-out's and the retried first."""
    first = [Seat(dag_id(0), live_run(0), "fan_out", 5900 + n) for n in range(FAN_OUT_LIVE if pods >= 5_000 else 0)]
    first += [Seat(dag_id(n), live_run(n), "again", 100, try_number=2) for n in range(0, DAGS, 4)]
    tiers = (_tier(tier) for tier in TIERS)
    return list(itertools.islice(itertools.chain(first, *tiers), pods))


def _tier(tier: str) -> Iterator[Seat]:
    for number in range(DAGS):
        for place in range(TIERS[tier]):
            run = live_run(number)
            yield (
                Seat(dag_id(number), run, f"plain_{place}", None)
                if tier == "plain"
                else Seat(dag_id(number), run, tier, 100 + place)
            )


def orphans(count: int = 1_000) -> list[Seat]:
    """Orphans of every kind that is deleted by default, up to 1,000; the mix is the same for any number."""
    kinds = [list(_superseded()), list(_in_live_runs("done_1", "running", "orphaned"))]
    kinds += [
        list(_in_live_runs("done_2", "succeeded", "finished")),
        list(_in_live_runs("done_3", "failed", "finished")),
    ]
    kinds += [list(_in_old_runs(range(3), "running", "orphaned")), list(_in_old_runs(range(3, 5), "kept", "kept"))]
    total = sum(map(len, kinds))
    chosen = [seat for kind in kinds for seat in kind[: -(-len(kind) * count // total)]]
    return chosen[:count]


def _superseded() -> Iterator[Seat]:
    for number in range(0, DAGS, 4):
        yield Seat(dag_id(number), live_run(number), "again", 100, orphan="superseded")


def ended_orphans(count: int = 1_000) -> list[Seat]:
    """The same orphans, but all of them done: for those who look at the phase only."""
    return [replace(seat, kind="succeeded") if seat.kind == "running" else seat for seat in orphans(count)]


def _in_live_runs(task: str, kind: Kind, reason: str) -> Iterator[Seat]:
    for number in range(DAGS):
        yield Seat(dag_id(number), live_run(number), task, None, kind, orphan=reason)


def _in_old_runs(places: range, kind: Kind, reason: str) -> Iterator[Seat]:
    for number in range(70):
        for place in places:
            yield Seat(dag_id(number), old_run(OLD_RUNS - 1), f"plain_{place}", None, kind, orphan=reason)


def ended_while_live(count: int) -> list[Seat]:
    """Running Pods of ended task instances in live runs, up to 10,000: for the growth with the share of orphans."""
    seats = (
        Seat(dag_id(number), live_run(number), task, 100 + place, orphan="orphaned")
        for task, size in GONE.items()
        for number in range(DAGS)
        for place in range(size)
    )
    return list(itertools.islice(seats, count))


def in_runs(pods: int, runs: int) -> list[Seat]:
    """Live Pods spread evenly over so many runs: 20 (up to 500 each), 200 (the usual ones), or 2,000 (five each)."""
    if runs == SMALL_RUNS:
        seats = (
            Seat(small_dag(n), small_run(n), f"plain_{place}", None)
            for place in range(TIERS["plain"])
            for n in range(SMALL_RUNS)
        )
        return list(itertools.islice(seats, pods))
    allowed = {dag_id(number) for number in range(runs)}
    seats = (seat for tier in TIERS for seat in _tier(tier) if seat.dag in allowed)
    return list(itertools.islice(seats, pods))


def chunks(seats: list[Seat]) -> list[dict[str, list[str]]]:
    """The bodies of the fewest sensible POSTs that read all task instances of these Pods: 20 DAGs each."""
    by_dag: dict[str, list[Seat]] = {}
    for seat in seats:
        by_dag.setdefault(seat.dag, []).append(seat)
    names = sorted(by_dag)
    groups = [names[start : start + 20] for start in range(0, len(names), 20)]
    return [_chunk([seat for name in group for seat in by_dag[name]]) for group in groups]


def _chunk(seats: list[Seat]) -> dict[str, list[str]]:
    return {
        "dag_ids": sorted({seat.dag for seat in seats}),
        "dag_run_ids": sorted({seat.run for seat in seats}),
        "task_ids": sorted({seat.task for seat in seats}),
    }
