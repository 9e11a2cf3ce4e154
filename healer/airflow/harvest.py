"""What lists of task instances said, and what that means for one Pod."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from healer.airflow.chunks import Chunk
from healer.airflow.resolve import Cell
from healer.airflow.rows import Page
from healer.clock import steady
from healer.labels import safe_label
from healer.model import Ambiguous, Answer, Known, LabelKey, TaskInstance, Unknown

Ids = tuple[str, str, str, int]
"""The raw ids of a task instance."""


class Harvest:
    """Rows by their labels, and which questions were not answered in full."""

    def __init__(self) -> None:
        self._rows: dict[Ids, TaskInstance] = {}
        self._twisted: set[Ids] = set()
        self._by_label: dict[Ids, list[Ids]] = {}
        self._labels: dict[str, str] = {}
        self._sent: dict[Cell, float] = {}
        self._failed: dict[tuple[Cell, int | None], str] = {}
        self._spoiled: set[Cell] = set()

    def add(self, chunk: Chunk, page: Page, sent: float) -> None:
        """Take in a complete answer. Rows that were not asked for are ignored."""
        cells = set(chunk)
        asked = [set(column) for column in zip(*chunk, strict=True)]
        fresh: set[Ids] = set()
        for row in page.rows:
            ids = row.dag_id, row.run_id, row.task_id, row.map_index
            if all(name in names for name, names in zip(ids, asked, strict=False)):
                self._take(ids, row, again=ids in fresh, ours=Cell(*ids[:3]) in cells)
                fresh.add(ids)
        for cell in chunk:
            self._sent[cell] = min(sent, self._sent.get(cell, sent))
        if page.spoiled:
            self._spoiled |= cells

    def _take(self, ids: Ids, row: TaskInstance, *, again: bool, ours: bool) -> None:
        known = self._rows.get(ids)
        if known is None:
            self._by_label.setdefault(self._label(ids), []).append(ids)
        elif again and known != row:
            # Two rows of one answer, which is one snapshot, that disagree. Rows of two answers may: time has passed.
            self._twisted.add(ids)
        if known is None or ours:
            self._rows[ids] = row

    def _label(self, ids: Ids) -> Ids:
        dag, run, task, map_index = ids
        return self._safe(dag), self._safe(run), self._safe(task), map_index

    def _safe(self, raw: str) -> str:
        label = self._labels.get(raw)
        if label is None:
            label = self._labels[raw] = safe_label(raw)
        return label

    def fail(self, cells: Iterable[Cell], why: str, map_index: int | None = None) -> None:
        """Take note that a question was not answered: about whole cells, or one map index of them."""
        for cell in cells:
            self._failed[cell, map_index] = why

    def unanswered(self, cells: Sequence[Cell], map_index: int) -> str | None:
        """Return why one of the cells is not known."""
        for cell in cells:
            for index in (None, map_index):
                if (cell, index) in self._failed:
                    return self._failed[cell, index]
        return None

    def answer(self, key: LabelKey, cells: Sequence[Cell], *, proven: bool = False) -> Answer | None:
        """Return what is known of the Pod with these labels, None if every list was complete and none had it.

        `proven`: it is known which task instance it is, so that others with the same labels don't matter.
        """
        sent = min((self._sent[cell] for cell in cells if cell in self._sent), default=steady())
        why = self.unanswered(cells, key.map_index)
        if why is not None:
            return Unknown(sent, why)
        found = self._by_label.get((key.dag_id, key.run_id, key.task_id, key.map_index), [])
        if proven:
            found = [ids for ids in found if Cell(*ids[:3]) in cells]
        if len(found) > 1:
            return Ambiguous(sent, f"{len(found)} task instances have these labels: {_named(found)}")
        if (len(cells) > 1 or not found) and not self._spoiled.isdisjoint(cells):
            return Unknown(sent, "a row of Airflow's answer has no readable ids: it may be this task instance")
        if not found:
            return None
        if found[0] in self._twisted:
            return Unknown(sent, "Airflow's answer has two rows of this task instance that contradict each other")
        return Known(sent, self._rows[found[0]])

    def tells(self, places: Iterable[tuple[Cell, int]]) -> list[bool]:
        """Say of each task instance whether there is a row of it, or a reason why there may be one."""
        cells = {Cell(*ids[:3]) for ids in self._rows} | {cell for cell, _ in self._failed}
        # Hardly any: most task instances need no closer look.
        return [cell in cells and self._tells(cell, map_index) for cell, map_index in places]

    def _tells(self, cell: Cell, map_index: int) -> bool:
        return (*cell, map_index) in self._rows or self.unanswered([cell], map_index) is not None

    def row(self, cell: Cell, map_index: int) -> Answer | None:
        """Return what is known of one task instance by its raw ids, None if no list had it."""
        ids = (*cell, map_index)
        if ids not in self._rows:
            return None
        sent = self._sent.get(cell, steady())
        if ids in self._twisted:
            return Unknown(sent, "Airflow's answer has two rows of this task instance that contradict each other")
        return Known(sent, self._rows[ids])


def _named(found: Sequence[Ids]) -> str:
    return ", ".join(f"{dag}/{run}/{task}" for dag, run, task, _ in found[:3])
