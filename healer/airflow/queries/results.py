"""What lists of task instances said, and what that means for one Pod."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from healer.airflow.api.schema import TaskInstancePage
from healer.airflow.api.task_key import TaskKey, TaskKeys
from healer.clock import boottime
from healer.decision.labels import safe_label
from healer.model import Ambiguous, Answer, Known, LabelKey, TaskInstance, Unknown

RawKey = tuple[str, str, str, int]
"""The raw ids of a task instance."""


class QueryResult:
    """Rows by their labels, and which questions were not answered in full."""

    def __init__(self, began: float | None = None) -> None:
        """`began` is when the first question can have been sent, in monotonic seconds; None for now."""
        self._began = boottime() if began is None else began
        self._rows: dict[RawKey, TaskInstance] = {}
        self._contradictory: set[RawKey] = set()
        self._by_label: dict[RawKey, list[RawKey]] = {}
        self._labels: dict[str, str] = {}
        self._sent: dict[TaskKey, float] = {}
        self._of_rows: dict[RawKey, float] = {}
        self._failed: dict[tuple[TaskKey, int | None], str] = {}
        self._malformed: set[TaskKey] = set()

    def add(self, batch: TaskKeys, page: TaskInstancePage, sent: float) -> None:
        """Take in a complete answer. Rows that were not asked for are ignored."""
        task_keys = set(batch)
        asked = [set(column) for column in zip(*batch, strict=True)]
        fresh: set[RawKey] = set()
        for row in page.rows:
            ids = row.dag_id, row.run_id, row.task_id, row.map_index
            if all(name in names for name, names in zip(ids, asked, strict=False)):
                if self._insert(ids, row, again=ids in fresh, ours=TaskKey(*ids[:3]) in task_keys):
                    self._of_rows[ids] = sent
                fresh.add(ids)
        for task_key in batch:
            self._sent[task_key] = min(sent, self._sent.get(task_key, sent))
        if page.malformed:
            self._malformed |= task_keys
        elif self._malformed:
            self._malformed -= task_keys  # asked again in smaller parts: the row without ids is in another one

    def _insert(self, ids: RawKey, row: TaskInstance, *, again: bool, ours: bool) -> bool:
        """Keep a row, unless there is one already and this one came by chance. Return whether it is kept."""
        known = self._rows.get(ids)
        if known is None:
            self._by_label.setdefault(self._label(ids), []).append(ids)
        elif again and known != row:
            # Two rows of one answer, which is one snapshot, that disagree. Rows of two answers may: time has passed.
            self._contradictory.add(ids)
        if known is not None and not ours:
            return False
        self._rows[ids] = row
        return True

    def _asked(self, task_keys: Iterable[TaskKey], found: Iterable[RawKey] = ()) -> float:
        """When the oldest question behind an answer was sent: about any of the task keys, or the one that a row came
        with.

        A row may come with a list that was asked for another cell, long before the one that was asked for its own.
        """
        sent = [self._sent[task_key] for task_key in task_keys if task_key in self._sent]
        return min([*sent, *(self._of_rows[ids] for ids in found)], default=self._began)

    def _label(self, ids: RawKey) -> RawKey:
        dag, run, task, map_index = ids
        return self._safe(dag), self._safe(run), self._safe(task), map_index

    def _safe(self, raw: str) -> str:
        label = self._labels.get(raw)
        if label is None:
            label = self._labels[raw] = safe_label(raw)
        return label

    def fail(self, task_keys: Iterable[TaskKey], why: str, map_index: int | None = None) -> None:
        """Take note that a question was not answered: about whole task keys, or one map index of them."""
        for task_key in task_keys:
            self._failed[task_key, map_index] = why

    def unanswered(self, task_keys: Sequence[TaskKey], map_index: int) -> str | None:
        """Return why one of the task keys is not known."""
        for task_key in task_keys:
            for index in (None, map_index):
                if (task_key, index) in self._failed:
                    return self._failed[task_key, index]
        return None

    def answer(self, key: LabelKey, task_keys: Sequence[TaskKey], *, proven: bool = False) -> Answer | None:
        """Return what is known of the Pod with these labels, None if every list was complete and none had it.

        `proven`: it is known which task instance it is, so that others with the same labels don't matter.
        """
        why = self.unanswered(task_keys, key.map_index)
        if why is not None:
            return Unknown(self._asked(task_keys), why)
        found = self._by_label.get((key.dag_id, key.run_id, key.task_id, key.map_index), [])
        if proven:
            found = [ids for ids in found if TaskKey(*ids[:3]) in task_keys]
        sent = self._asked(task_keys, found)
        if len(found) > 1:
            return Ambiguous(sent, f"{len(found)} task instances have these labels: {_named(found)}")
        if (len(task_keys) > 1 or not found) and not self._malformed.isdisjoint(task_keys):
            return Unknown(sent, "a row of Airflow's answer has no readable ids: it may be this task instance")
        if not found:
            return None
        if found[0] in self._contradictory:
            return Unknown(sent, "Airflow's answer has two rows of this task instance that contradict each other")
        return Known(sent, self._rows[found[0]])

    def is_mentioned(self, places: Iterable[tuple[TaskKey, int]]) -> list[bool]:
        """Say of each task instance whether there is a row of it, or a reason why there may be one."""
        task_keys = {TaskKey(*ids[:3]) for ids in self._rows} | {task_key for task_key, _ in self._failed}
        # Hardly any: most task instances need no closer look.
        return [task_key in task_keys and self._is_mentioned(task_key, map_index) for task_key, map_index in places]

    def _is_mentioned(self, task_key: TaskKey, map_index: int) -> bool:
        return (*task_key, map_index) in self._rows or self.unanswered([task_key], map_index) is not None

    def row(self, task_key: TaskKey, map_index: int) -> Answer | None:
        """Return what is known of one task instance by its raw ids, None if no list had it."""
        ids = (*task_key, map_index)
        if ids not in self._rows:
            return None
        sent = self._asked([task_key], [ids])
        if ids in self._contradictory:
            return Unknown(sent, "Airflow's answer has two rows of this task instance that contradict each other")
        return Known(sent, self._rows[ids])


def _named(found: Sequence[RawKey]) -> str:
    return ", ".join(f"{dag}/{run}/{task}" for dag, run, task, _ in found[:3])
