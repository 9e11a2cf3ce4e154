"""How much is asked in one list: enough that calls are few, little enough that none hurts the server.

A list selects the cross product of its DAGs, runs and tasks. Lists of 1,000 rows block the API server, and with it the
heartbeats of Airflow's workers, for 0.3 s; each body is kept in Airflow's audit table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from msgspec import Struct

from healer.airflow.resolve import Cell

PAGE_LIMIT = 1000
"""Rows taken in one answer. Twice what is expected, so that a wrong guess rarely costs a second call."""

Chunk = tuple[Cell, ...]
"""Cells that are asked about in one list, sorted."""


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


class _Open:
    """A chunk that is being filled."""

    def __init__(self, limits: Limits, avoid: Collection[Cell]) -> None:
        self._limits = limits
        self._avoid = avoid
        self._dags: dict[str, tuple[frozenset[str], frozenset[str], int]] = {}
        self._names: tuple[set[str], set[str], set[str]] = (set(), set(), set())
        self._body = _OVERHEAD
        self._rows = 0
        self.cells: list[Cell] = []

    def takes(self, cell: Cell, rows: int) -> bool:
        """Whether the cell still fits. The first one always does."""
        if not self.cells:
            return True
        return (
            len(self._names[0] | {cell.dag_id}) <= self._limits.dags
            and len(self._names[1] | {cell.run_id}) <= self._limits.runs
            and self._body + self._bytes(cell) <= self._limits.body
            and not any(self._would_cross(cell, large) for large in self._avoid)
            and self._rows - self._expected(cell.dag_id) + self._cross(self._with(cell, rows)) <= self._limits.rows
        )

    def _would_cross(self, cell: Cell, large: Cell) -> bool:
        """Whether the large cell would come into the cross product, though nobody has put it into the chunk."""
        return cell != large and all(
            part in names or part == new for part, names, new in zip(large, self._names, cell, strict=True)
        )

    def add(self, cell: Cell, rows: int) -> None:
        """Take the cell in."""
        self._body += self._bytes(cell)
        self._rows -= self._expected(cell.dag_id)
        self._dags[cell.dag_id] = self._with(cell, rows)
        self._rows += self._expected(cell.dag_id)
        for names, name in zip(self._names, cell, strict=True):
            names.add(name)
        self.cells.append(cell)

    def _with(self, cell: Cell, rows: int) -> tuple[frozenset[str], frozenset[str], int]:
        runs, tasks, known = self._dags.get(cell.dag_id, (frozenset(), frozenset(), 0))
        if rows == 0:
            return runs, tasks, known
        return runs | {cell.run_id}, tasks | {cell.task_id}, known + rows

    def _expected(self, dag: str) -> int:
        return self._cross(self._dags[dag]) if dag in self._dags else 0

    @staticmethod
    def _cross(of_dag: tuple[frozenset[str], frozenset[str], int]) -> int:
        runs, tasks, known = of_dag
        return max(len(runs) * len(tasks), known)

    def _bytes(self, cell: Cell) -> int:
        return sum(_size(name) for names, name in zip(self._names, cell, strict=True) if name not in names)


def _size(name: str) -> int:
    """Bytes of an id in JSON: quotes, comma, blank; six for a character that is not ASCII."""
    return (len(name) if name.isascii() else 6 * len(name)) + 4


Expected = Callable[[Cell], int]
"""How many rows a cell is likely to hold; none for an id that is asked for only because it can't be ruled out."""


def chunks(cells: Iterable[Cell], limits: Limits, expected: Expected, avoid: Collection[Cell] = ()) -> Iterator[Chunk]:
    """Yield the cells in chunks. A DAG, or at least a run of it, is kept together where it fits into one.

    Scheduled runs have the same id in many DAGs: a DAG that is spread over two chunks is read twice, whole, by their
    cross products. `avoid` are large cells that no list should select in that way.
    """
    filling = _Open(limits, avoid)
    for unit in _units(sorted(cells), 0, lambda unit: _fill(_Open(limits, avoid), unit, expected)):
        kept = tuple(filling.cells)
        if not _fill(filling, unit, expected):
            if kept:
                yield kept
            filling = _Open(limits, avoid)
            _fill(filling, unit, expected)
    if filling.cells:
        yield tuple(filling.cells)


def _units(cells: Sequence[Cell], level: int, fits: Callable[[Chunk], bool]) -> Iterator[Chunk]:
    """Yield the largest parts that fit into a chunk of their own: DAGs, else runs, else tasks."""
    for _, group in groupby(cells, key=lambda cell: cell[level]):
        unit = tuple(group)
        if len(unit) == 1 or fits(unit):
            yield unit
        else:
            yield from _units(unit, level + 1, fits)


def _fill(filling: _Open, unit: Chunk, expected: Expected) -> bool:
    """Add the unit to a chunk; False, and the chunk is of no more use, if it does not fit whole."""
    for cell in unit:
        rows = expected(cell)
        if not filling.takes(cell, rows):
            return False
        filling.add(cell, rows)
    return True


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
