"""Lists of task instances: asked in chunks, halved when an answer fails or is clamped, by map index where one is huge.

`POST .../list` has no cursor. An answer with fewer rows than it says there are is worth nothing, as what is missing may
be any of them; so its chunk is asked again in halves, down to one task of one run, and that one by its map indices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

from msgspec import Struct

from healer.airflow import rows
from healer.airflow.chunks import FULL, LATELY, PAGE_LIMIT, Chunk, Limits, body, chunks, halves
from healer.airflow.client import Reply
from healer.airflow.harvest import Harvest
from healer.airflow.resolve import Cell, Query
from healer.airflow.round import Round, side_by_side
from healer.airflow.singles import ask_task_instance, askable
from healer.airflow.transport import NoAnswerError, Request
from healer.airflow.watermarks import Watermarks, later
from healer.model import TaskInstance

LIST = "/api/v2/dags/~/dagRuns/~/taskInstances/list"
OF_RUN = "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances"

INDICES = 50
"""Map indices asked for in one GET: its answers are clamped to 100 rows, its URL must stay short."""

LEAST_CLAMP = 20
"""Fewer rows than this are no clamp: a row that came or went between the server's two statements."""

FINAL = frozenset({"401", "403", "404", "422"})
"""Statuses that a smaller question would get too."""

CROWD = 8
"""A task with more than an eighth of a page's rows is taken out of its chunk, instead of halving down to it."""

Wanted = Mapping[Cell, Set[int]]
"""Which map indices of which cells are asked about."""


class Sizes:
    """How many rows cells held when they were last seen, and how many the server gives at a time."""

    def __init__(self) -> None:
        self._rows: dict[Cell, int] = {}
        self._crowded: set[Cell] = set()
        self._clamp = PAGE_LIMIT
        self.indices = INDICES
        """How many map indices to ask for in one GET: the server's maximum page may be smaller."""

    def note(self, chunk: Chunk, page: rows.Page) -> None:
        """Take note of a complete answer."""
        counted = _counted(page)
        for cell in chunk:
            self._rows.pop(cell, None)
            if counted.get(cell, 0) > 1:
                self._rows[cell] = counted[cell]

    def short(self, chunk: Chunk, page: rows.Page, *, whole: bool) -> None:
        """Take note of a clamped answer."""
        if LEAST_CLAMP <= len(page) < PAGE_LIMIT:
            self._clamp = min(self._clamp, len(page))
        if len(chunk) > 1:
            return
        if whole:
            self._rows[chunk[0]] = page.total
        else:
            self._crowded.add(chunk[0])

    def is_large(self, cell: Cell, *, whole: bool) -> bool:
        """Whether one answer can't hold the cell: all of it (`whole`), or what of it has ended lately."""
        if not whole:
            return cell in self._crowded
        return self._rows.get(cell, 0) > min(PAGE_LIMIT, self._clamp)

    def expected(self, cell: Cell, pods: int) -> int:
        """How many rows the cell is likely to hold."""
        return max(self._rows.get(cell, 1), pods)

    def limits(self, limits: Limits) -> Limits:
        """Return the limits with the server's own."""
        return Limits(limits.dags, limits.runs, limits.body, min(limits.rows, self._clamp))

    def start_audit(self, cells: set[Cell]) -> None:
        """Forget other cells, bursts, and the clamp: settings change."""
        self._rows = {cell: count for cell, count in self._rows.items() if cell in cells}
        self._crowded = set()
        self._clamp, self.indices = PAGE_LIMIT, INDICES


class Question(Struct, frozen=True):
    """What distinguishes the two kinds of lists: `filters` by state and date, or none at all (`whole`)."""

    filters: Callable[[Chunk], Mapping[str, object]]
    whole: bool


class Lister:
    """Asks one question about many cells."""

    def __init__(
        self, round_: Round, wanted: Wanted, sizes: Sizes, marks: Watermarks, unlikely: Collection[Cell] = ()
    ) -> None:
        """`unlikely` cells are asked about only to rule them out."""
        self._round, self._wanted, self._sizes, self._marks = round_, wanted, sizes, marks
        self._unlikely = unlikely
        self._harvest = Harvest()

    def collect(self, question: Question) -> Harvest:
        """Ask about all cells and return what came. Never raises: what fails is noted in the harvest."""
        large = [cell for cell in self._wanted if self._sizes.is_large(cell, whole=question.whole)]
        others = set(self._wanted).difference(large)
        pending = list(self._chunked(others, question, large))
        while pending:
            pending += self._ask(pending.pop(), question, large)
        for cell in large:
            before = self._marks.newest
            if self._ask_by_index(cell, sorted(self._wanted[cell])):
                self._marks.covered([cell], later(before, self._marks.newest), first=question.whole)
        return self._harvest

    def _chunked(self, cells: Iterable[Cell], question: Question, large: Sequence[Cell]) -> Iterable[Chunk]:
        """Chunks of like cells: one without a mark would take the date off a whole chunk."""
        cells = set(cells)
        marked = {cell for cell in cells if not question.whole and self._marks.marked(cell)}
        yield from chunks(marked, LATELY, _one, large)
        yield from chunks(cells - marked, self._sizes.limits(FULL), self._expected, large)

    def _expected(self, cell: Cell) -> int:
        return 0 if cell in self._unlikely else self._sizes.expected(cell, len(self._wanted[cell]))

    def _ask(self, chunk: Chunk, question: Question, large: list[Cell]) -> Sequence[Chunk]:
        """Ask one list; return the parts that must be asked again. A single cell that is too much goes to `large`."""
        before = self._marks.newest
        try:
            reply = self._round.need(
                Request("list", LIST, body=body(chunk, question.filters(chunk)), method="POST"), rows.page
            )
        except NoAnswerError as failed:
            if len(chunk) > 1 and failed.code not in FINAL and not self._round.given_up:
                return halves(chunk)
            self._harvest.fail(chunk, str(failed))
            return ()
        if reply.known.short:
            self._sizes.short(chunk, reply.known, whole=question.whole)
            if len(chunk) > 1:
                return self._apart(chunk, reply.known, question)
            large.append(chunk[0])
            return ()
        self._complete(chunk, reply, question, before)
        return ()

    def _apart(self, chunk: Chunk, page: rows.Page, question: Question) -> Sequence[Chunk]:
        """Split a chunk that had too many rows: the tasks that crowd the page each apart, else in halves."""
        heavy = {cell for cell, count in _counted(page).items() if count >= CROWD and count * CROWD > len(page)}
        if not heavy:
            return halves(chunk)
        light = [cell for cell in chunk if cell not in heavy]
        parts = [(cell,) for cell in chunk if cell in heavy] + list(self._chunked(light, question, tuple(heavy)))
        # A single part would be the same question again: the crowd is of rows that were not asked for.
        return parts if len(parts) > 1 else halves(chunk)

    def _complete(self, chunk: Chunk, reply: Reply[rows.Page], question: Question, before: float | None) -> None:
        page = reply.known
        self._harvest.add(chunk, page, reply.sent)
        until = later(before, self._marks.see(page.rows, reply.date))
        if question.whole:
            self._sizes.note(chunk, page)
        if not page.spoiled:
            self._marks.covered(chunk, until, first=question.whole)

    def _ask_by_index(self, cell: Cell, indices: list[int]) -> bool:
        """Ask about single map indices of a task that is too large for one answer; return whether all were told."""
        if not askable(cell):
            self._harvest.fail([cell], "the task has too many map indices, and its ids can't be part of a URL")
            return False
        if not self._round.version.maps:
            return self._ask_singly(cell, indices)
        told, left = True, list(indices)
        while left:
            some, left = left[: self._sizes.indices], left[self._sizes.indices :]
            told = self._ask_some(cell, some) and told
        return told

    def _ask_some(self, cell: Cell, indices: list[int]) -> bool:
        wanted: Query = tuple(("map_index", index) for index in indices)
        query = (("task_id", cell.task_id), *wanted, ("limit", 2 * INDICES))
        ids = {"dag_id": cell.dag_id, "dag_run_id": cell.run_id}
        try:
            reply = self._round.need(Request("list-get", OF_RUN, ids, query), rows.page)
        except NoAnswerError:
            # As where the DAG is not serialized: this list then gives 404, a single task instance does not.
            return self._ask_singly(cell, indices)
        page = reply.known
        if page.short or any(row.map_index not in indices for row in page.rows):
            self._sizes.indices = max(1, min(self._sizes.indices, len(page)))
            return self._ask_singly(cell, indices)
        self._marks.see(page.rows, reply.date)
        self._harvest.add((cell,), page, reply.sent)
        return page.spoiled == 0

    def _ask_singly(self, cell: Cell, indices: list[int]) -> bool:
        whole = True
        for index, answer in zip(indices, side_by_side(lambda i: self._single(cell, i), indices), strict=True):
            if isinstance(answer, NoAnswerError):
                self._harvest.fail([cell], str(answer), index)
                whole = False
                continue
            found = () if answer.value is None else (answer.value,)
            self._marks.see(found, answer.date)
            self._harvest.add((cell,), rows.Page(found, 0, len(found)), answer.sent)
        return whole

    def _single(self, cell: Cell, index: int) -> Reply[TaskInstance] | NoAnswerError:
        try:
            return ask_task_instance(self._round, cell, index)
        except NoAnswerError as failed:
            return failed


def _counted(page: rows.Page) -> dict[Cell, int]:
    counted: dict[Cell, int] = {}
    for row in page.rows:
        cell = Cell(row.dag_id, row.run_id, row.task_id)
        counted[cell] = counted.get(cell, 0) + 1
    return counted


def _one(_: Cell) -> int:
    return 1
