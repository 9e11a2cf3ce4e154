"""How much is asked in one list: enough that calls are few, little enough that none hurts the server.

A list selects the cross product of its DAGs, runs and tasks. Lists of 1,000 rows block the API server, and with it the
heartbeats of Airflow's workers, for 0.3 s; each body is kept in Airflow's audit table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress, groupby
from operator import itemgetter

from msgspec import Struct

from healer.airflow.resolve import Cell

PAGE_LIMIT = 1000
"""Rows taken in one answer. Twice what is expected, so that a wrong guess rarely costs a second call."""

Chunk = tuple[Cell, ...]
"""Cells that are asked about in one list, sorted."""

Expected = Callable[[Cell], int]
"""How many rows a cell is likely to hold; none for an id that is asked for only because it can't be ruled out."""

Columns = tuple[frozenset[str], frozenset[str], frozenset[str]]
"""Distinct DAGs, runs and tasks."""


class Limits(Struct, frozen=True):
    """What one list may hold: DAGs, runs, bytes of its body, rows expected in the answer."""

    dags: int
    runs: int = 200
    body: int = 30_000
    rows: int = 500


FULL = Limits(dags=20)
"""For lists without a date: each run's rows are all read."""

LATELY = Limits(dags=200, rows=1_000_000)
"""For lists of what has ended lately: hardly any rows, whatever the number of DAGs."""

_OVERHEAD = 300


class _Unit(Struct, frozen=True):
    """Cells of one DAG that go together, and what they add to a list. `counted`: runs and tasks that expect rows."""

    cells: Chunk
    names: Columns
    counted: Columns
    rows: int

    @property
    def dag_id(self) -> str:
        """The DAG of all of them."""
        return self.cells[0].dag_id


def _unit(cells: Chunk, expected: Expected) -> _Unit:
    rows = [expected(cell) for cell in cells]
    counted = cells if all(rows) else tuple(compress(cells, rows))
    names = _columns(cells)
    return _Unit(cells, names, names if counted is cells else _columns(counted), sum(rows))


def _columns(cells: Chunk) -> Columns:
    """Return the distinct DAGs, runs and tasks of some cells."""
    if not cells:
        return frozenset(), frozenset(), frozenset()
    dags, runs, tasks = zip(*cells, strict=True)
    return frozenset(dags), frozenset(runs), frozenset(tasks)


class _Open:
    """A chunk that is being filled."""

    def __init__(self, limits: Limits, avoid: Collection[Cell]) -> None:
        self._limits = limits
        self._avoid = avoid
        self._of_dags: dict[str, tuple[frozenset[str], frozenset[str], int]] = {}
        self._names: tuple[set[str], set[str], set[str]] = (set(), set(), set())
        self._body = _OVERHEAD
        self._rows = 0
        self.cells: list[Cell] = []

    def takes(self, unit: _Unit) -> bool:
        """Whether the unit still fits, whole."""
        return (
            len(self._names[0] | unit.names[0]) <= self._limits.dags
            and len(self._names[1] | unit.names[1]) <= self._limits.runs
            and self._body + self._bytes(unit) <= self._limits.body
            and self._rows - self._expected(unit.dag_id) + _cross(self._with(unit)) <= self._limits.rows
            and not any(self._would_cross(unit, large) for large in self._avoid)
        )

    def add(self, unit: _Unit) -> None:
        """Take the unit in."""
        self._body += self._bytes(unit)
        self._rows -= self._expected(unit.dag_id)
        self._of_dags[unit.dag_id] = self._with(unit)
        self._rows += self._expected(unit.dag_id)
        for mine, its in zip(self._names, unit.names, strict=True):
            mine.update(its)
        self.cells += unit.cells

    def _would_cross(self, unit: _Unit, large: Cell) -> bool:
        """Whether the large cell would come into the cross product, though nobody has put it into the chunk."""
        return large not in unit.cells and all(
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


def chunks(cells: Iterable[Cell], limits: Limits, expected: Expected, avoid: Collection[Cell] = ()) -> Iterator[Chunk]:
    """Yield the cells in chunks. A DAG, or at least a run of it, is kept together where it fits into one.

    Scheduled runs have the same id in many DAGs: a DAG that is spread over two chunks is read twice, whole, by their
    cross products. `avoid` are large cells that no list should select in that way.
    """
    filling = _Open(limits, avoid)
    nothing = _Open(limits, avoid)
    for unit in _units(sorted(cells), 0, lambda cells: _unit(cells, expected), nothing.takes):
        if filling.cells and not filling.takes(unit):
            yield tuple(filling.cells)
            filling = _Open(limits, avoid)
        filling.add(unit)
    if filling.cells:
        yield tuple(filling.cells)


def _units(
    cells: Sequence[Cell], level: int, make: Callable[[Chunk], _Unit], fits: Callable[[_Unit], bool]
) -> Iterator[_Unit]:
    """Yield the largest parts that fit into a chunk of their own: DAGs, else runs, else tasks, fit or not."""
    for _, group in groupby(cells, key=itemgetter(level)):
        unit = make(tuple(group))
        if len(unit.cells) == 1 or fits(unit):
            yield unit
        else:
            yield from _units(unit.cells, level + 1, make, fits)


def halves(chunk: Chunk) -> tuple[Chunk, Chunk]:
    """Split a chunk of at least two cells: between DAGs if there are several, else between runs, else between tasks."""
    for level in range(3):
        groups = [tuple(group) for _, group in groupby(chunk, key=lambda cell: cell[level])]
        if len(groups) > 1:
            middle = len(groups) // 2
            return sum(groups[:middle], ()), sum(groups[middle:], ())
    raise ValueError("a single cell can't be split")


def body(chunk: Chunk, filters: Mapping[str, object]) -> dict[str, object]:
    """Return the body of the list. No list in it is ever empty: Airflow takes that for no filter at all."""
    if not chunk:
        raise ValueError("an empty chunk would ask for everything")
    dags, runs, tasks = (sorted(set(column)) for column in zip(*chunk, strict=True))
    return {
        "dag_ids": dags,
        "dag_run_ids": runs,
        "task_ids": tasks,
        "page_limit": PAGE_LIMIT,
        "order_by": "map_index",
        **filters,
    }
