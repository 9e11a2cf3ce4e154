"""Task keys that lists can't be asked about together with others: what of them is remembered from question to
question."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from healer.airflow.api.task_key import TaskKey
from healer.airflow.queries.turns import Turns
from healer.errors import LeftAloneError, NoAnswerError

MOST_LATE = 1000
"""More task keys than any list has."""


class Aside:
    """Which task keys are kept out of the lists of all others.

    `turns`: a cell whose own list has failed, or a question about its task instances. `indices`: of a mapped task, the
    map indices about which that was so. `late`: task keys in lists apart, after all others, to see whether they may
    come back; how often a list with each has taken too long, and how many task keys the next one may have. `unasked`: a
    list with them has failed, and it was too much to ask about each.
    """

    def __init__(self) -> None:
        self.turns: Turns[TaskKey] = Turns("task instances", lambda cell: cell.dag_id)
        self.indices: Turns[tuple[TaskKey, int]] = Turns("map indices", lambda place: place[0].dag_id)
        self.late: dict[TaskKey, tuple[int, int]] = {}
        self.unasked: set[TaskKey] = set()
        self._proven: set[TaskKey] = set()
        self._wanted: set[TaskKey] = set()

    def __len__(self) -> int:
        """How many task keys are set aside now."""
        return len({*self.turns.failed, *self.unasked, *(task_key for task_key, _ in self.indices.failed)})

    def kept_out(self, task_keys: Collection[TaskKey]) -> tuple[set[TaskKey], set[TaskKey]]:
        """Return those that must be asked about alone, and those to be listed apart."""
        if not (self.turns.failed or self.unasked or self.late):
            return set(), set()
        alone = {task_key for task_key in task_keys if task_key in self.turns.failed or task_key in self.unasked}
        late = {task_key for task_key in task_keys if task_key in self.late} - alone
        self._wanted |= alone | late
        return alone, late

    def postpone(self, task_keys: Collection[TaskKey], *, slow: bool = False) -> None:
        """List these after all others the next time; where a list of them took too long, in shorter ones.

        A few that take too long end a question: else the same long list would begin it each time.
        """
        for task_key in task_keys:
            times, most = self.late.get(task_key, (0, MOST_LATE))
            self.late[task_key] = (times + 1, max(1, min(most, len(task_keys)) // 2)) if slow else (times, most)
        self._wanted.update(task_keys)

    def pause(self, task_keys: Collection[TaskKey], failed: NoAnswerError) -> None:
        """Where the server wanted to be left alone for this question, ask it last the next time: see `Turns.pause`.

        A list is made shorter, until it is known which cell that is owed to.
        """
        if not isinstance(failed, LeftAloneError):
            return
        if len(task_keys) > 1:
            self.postpone(task_keys, slow=True)
            return
        for task_key in task_keys:
            if task_key in self.late:  # not the first list with it for which that was said
                self.turns.slow(task_key)
            self.postpone([task_key])
            self.turns.pause(task_key, str(failed))
            if task_key in self.turns.resting:
                self.unasked.discard(task_key)

    def by_patience(self, late: Collection[TaskKey]) -> list[list[TaskKey]]:
        """Return those to be listed apart by the lists that they may share: those that were slow least often first."""
        groups: dict[tuple[int, int], list[TaskKey]] = {}
        for task_key in sorted(late):
            times, most = self.late[task_key]
            groups.setdefault((times, -most), []).append(task_key)
        return [
            task_keys[start : start - most]
            for (_, most), task_keys in sorted(groups.items())
            for start in range(0, len(task_keys), -most)
        ]

    def leave(self, task_keys: Iterable[TaskKey]) -> None:
        """Ask about each of these alone the next time: a list with them has failed, and it was too much to do now."""
        self.unasked.update(task_keys)
        self._wanted.update(task_keys)

    def listed(self, task_keys: Iterable[TaskKey]) -> None:
        """A list with these task keys has come."""
        if self.late:
            for task_key in task_keys:
                self.late.pop(task_key, None)

    def proven(self, task_key: TaskKey) -> None:
        """A list with this cell alone has failed: until the next audit it is in no list."""
        self._proven.add(task_key)

    def is_proven(self, task_key: TaskKey) -> bool:
        """Whether a list with this cell alone has failed since the last audit."""
        return task_key in self._proven

    def answered(self, task_key: TaskKey) -> bool:
        """Say that its task instances were asked about alone and told; return whether a list will be tried again."""
        if task_key in self._proven:
            return False
        self.turns.good(task_key)
        self.postpone([task_key])
        return True

    def start_audit(self) -> None:
        """Let a list be tried again with those that are told alone, and forget task keys that nobody asks about."""
        self._proven.clear()
        self.turns.start_audit()
        self.indices.start_audit()
        self.unasked &= self._wanted
        self.late = {task_key: how for task_key, how in self.late.items() if task_key in self._wanted}
        self._wanted = set()
