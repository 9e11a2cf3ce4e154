"""How much is asked in one list: enough that calls are few, little enough that none hurts the server.

A list selects the cross product of its DAGs, runs and tasks. Lists of 1,000 rows block the API server, and with it the
heartbeats of Airflow's workers, for 0.3 s; each body is kept in Airflow's audit table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import compress, groupby
from operator import itemgetter

from msgspec import Struct

from healer.airflow.api.task_key import TaskKey, TaskKeys

Expected = Callable[[TaskKey], int]
"""How many rows a cell is likely to hold; none for an id that is asked for only because it can't be ruled out."""

Columns = tuple[frozenset[str], frozenset[str], frozenset[str]]
"""Distinct DAGs, runs and tasks."""


class BatchLimits(Struct, frozen=True):
    """What one list may hold: DAGs, runs, bytes of its body, rows expected in the answer."""

    dags: int
    runs: int = 200
    body: int = 30_000
    rows: int = 500


FULL = BatchLimits(dags=20)
"""For lists without a date: each run's rows are all read."""

LATELY = BatchLimits(dags=200, rows=1_000_000)
"""For lists of what has ended lately: hardly any rows, whatever the number of DAGs."""

_OVERHEAD = 300


class _Unit(Struct, frozen=True):
    """Task keys of one DAG that go together, and what they add to a list. `counted`: runs and tasks that expect
    rows."""

    task_keys: TaskKeys
    names: Columns
    counted: Columns
    rows: int

    @property
    def dag_id(self) -> str:
        """The DAG of all of them."""
        return self.task_keys[0].dag_id


def _unit(task_keys: TaskKeys, expected: Expected) -> _Unit:
    rows = [expected(task_key) for task_key in task_keys]
    counted = task_keys if all(rows) else tuple(compress(task_keys, rows))
    names = _columns(task_keys)
    return _Unit(task_keys, names, names if counted is task_keys else _columns(counted), sum(rows))


def _columns(task_keys: TaskKeys) -> Columns:
    """Return the distinct DAGs, runs and tasks of some task keys."""
    if not task_keys:
        return frozenset(), frozenset(), frozenset()
    dags, runs, tasks = zip(*task_keys, strict=True)
    return frozenset(dags), frozenset(runs), frozenset(tasks)


class _OpenBatch:
    """A chunk that is being filled."""

    def __init__(self, limits: BatchLimits, oversized: Collection[TaskKey]) -> None:
        self._limits = limits
        self._oversized = oversized
        self._of_dags: dict[str, tuple[frozenset[str], frozenset[str], int]] = {}
        self._names: tuple[set[str], set[str], set[str]] = (set(), set(), set())
        self._body = _OVERHEAD
        self._rows = 0
        self.task_keys: list[TaskKey] = []

    def takes(self, unit: _Unit) -> bool:
        """Whether the unit still fits, whole."""
        return (
            len(self._names[0] | unit.names[0]) <= self._limits.dags
            and len(self._names[1] | unit.names[1]) <= self._limits.runs
            and self._body + self._bytes(unit) <= self._limits.body
            and self._rows - self._expected(unit.dag_id) + _cross(self._with(unit)) <= self._limits.rows
            and not any(self._would_cross(unit, large) for large in self._oversized)
        )

    def add(self, unit: _Unit) -> None:
        """Take the unit in."""
        self._body += self._bytes(unit)
        self._rows -= self._expected(unit.dag_id)
        self._of_dags[unit.dag_id] = self._with(unit)
        self._rows += self._expected(unit.dag_id)
        for mine, its in zip(self._names, unit.names, strict=True):
            mine.update(its)
        self.task_keys += unit.task_keys

    def _would_cross(self, unit: _Unit, large: TaskKey) -> bool:
        """Whether the large cell would come into the cross product, though nobody has put it into the chunk."""
        return large not in unit.task_keys and all(
            part in mine or part in its for part, mine, its in zip(large, self._names, unit.names, strict=True)
        )

    def _with(self, unit: _Unit) -> tuple[frozenset[str], frozenset[str], int]:
        runs, tasks, rows = self._of_dags.get(unit.dag_id, (frozenset(), frozenset(), 0))
        return runs | unit.counted[1], tasks | unit.counted[2], rows + unit.rows

    def _expected(self, dag: str) -> int:
        return _cross(self._of_dags[dag]) if dag in self._of_dags else 0

    def _bytes(self, unit: _Unit) -> int:
        return sum(_size(name) for mine, its in zip(self._names, unit.names, strict=True) for name in its - mine)


def _cross(of_dag: tuple[frozenset[str], frozenset[str], int]) -> int:
    runs, tasks, known = of_dag
    return max(len(runs) * len(tasks), known)


def _size(name: str) -> int:
    """Bytes of an id in JSON: quotes, comma, blank; six for a character that is not ASCII."""
    return (len(name) if name.isascii() else 6 * len(name)) + 4


def batches(
    task_keys: Iterable[TaskKey], limits: BatchLimits, expected: Expected, oversized: Collection[TaskKey] = ()
) -> Iterator[TaskKeys]:
    """Yield the task keys in chunks. A DAG, or at least a run of it, is kept together where it fits into one.

    Scheduled runs have the same id in many DAGs: a DAG that is spread over two chunks is read twice, whole, by their
    cross products. `oversized` are large ones that no list should select in that way.
    """
    filling = _OpenBatch(limits, oversized)
    nothing = _OpenBatch(limits, oversized)
    for unit in _units(sorted(task_keys), 0, lambda task_keys: _unit(task_keys, expected), nothing.takes):
        if filling.task_keys and not filling.takes(unit):
            yield tuple(filling.task_keys)
            filling = _OpenBatch(limits, oversized)
        filling.add(unit)
    if filling.task_keys:
        yield tuple(filling.task_keys)


def _units(
    task_keys: Sequence[TaskKey], level: int, make: Callable[[TaskKeys], _Unit], fits: Callable[[_Unit], bool]
) -> Iterator[_Unit]:
    """Yield the largest parts that fit into a chunk of their own: DAGs, else runs, else tasks, fit or not."""
    for _, group in groupby(task_keys, key=itemgetter(level)):
        unit = make(tuple(group))
        if len(unit.task_keys) == 1 or fits(unit):
            yield unit
        else:
            yield from _units(unit.task_keys, level + 1, make, fits)


def halves(batch: TaskKeys) -> tuple[TaskKeys, TaskKeys]:
    """Split a chunk of at least two task keys: between DAGs if there are several, else between runs, else between
    tasks."""
    for level in range(3):
        groups = [tuple(group) for _, group in groupby(batch, key=lambda cell: cell[level])]
        if len(groups) > 1:
            middle = len(groups) // 2
            return sum(groups[:middle], ()), sum(groups[middle:], ())
    raise ValueError("a single cell can't be split")
