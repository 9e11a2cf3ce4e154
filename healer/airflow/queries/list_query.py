"""Lists of task instances: asked in chunks, halved when an answer fails or is clamped, by map index where one is huge.

`POST .../list` has no cursor. An answer with fewer rows than it says there are is worth nothing, as what is missing may
be any of them; so its chunk is asked again in halves, down to one task of one run, and that one by its map indices.

A list that fails is halved too, whatever it fails for, as long as the server answers others: one row that can't be
serialized, one id that the database refuses spoils all that it is asked with. What is found is set aside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

from msgspec import Struct

from healer.airflow.api import schema
from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.task_key import PAGE_LIMIT, TaskKey, TaskKeys, is_addressable
from healer.airflow.queries.batching import FULL, LATELY, BatchLimits, batches, halves
from healer.airflow.queries.lookups import ask_task_instance
from healer.airflow.queries.results import QueryResult
from healer.airflow.queries.session import QuerySession, map_concurrently
from healer.airflow.queries.set_aside import Aside
from healer.airflow.queries.turns import AGAIN, NOT_YET, apart, ask_in_turn
from healer.airflow.queries.watermarks import Watermarks, later
from healer.errors import FailureScope, NoAnswerError
from healer.model import TaskInstance

INDICES = 50
"""Map indices asked for in one GET: its answers are clamped to 100 rows, its URL must stay short."""

MIN_PAGE_LIMIT = 20
"""Fewer rows than this are no clamp: a row that came or went between the server's two statements."""

OF_DAG = frozenset({"403", "404"})
"""Statuses that may be owed to a DAG: then a smaller question about the same one gets them too, and one that names none
of its runs and tasks."""

NO_IDS = "a row of Airflow's answer has no readable ids"

MOST_LISTS = 500
"""Lists in one question before any is halved: 10,000 DAGs. What is beyond has its turn in a later pass."""

MOST_HALVED = 200
"""Lists that may fail in one question and be halved: each writes two rows into Airflow's audit table. That finds 10 bad
task instances among 10,000; beyond, each is asked about alone, by a GET that leaves no row."""

MOST_ALONE = 3000
"""GETs in one question about task instances that a failed list is owed to: 20 s of the server's time, once."""

FEW = 3
"""Map indices of a cell that are asked for one by one; more by lists of their own."""

MOST_AGAIN = 200
"""Task keys set aside that are asked about again in one question, as long as they are answered."""

SKEW_DIVISOR = 8
"""A task with more than an eighth of a page's rows is taken out of its chunk, instead of halving down to it."""

WantedIndices = Mapping[TaskKey, Set[int]]
"""Which map indices of which task keys are asked about."""


class SizeHints:
    """How many rows task keys held when they were last seen, and how many the server gives at a time."""

    def __init__(self) -> None:
        self._rows: dict[TaskKey, int] = {}
        self._skewed: set[TaskKey] = set()
        self._page_limit = PAGE_LIMIT
        self.stopped: TaskKeys = ()
        """The last list of a question that had more than `MOST_LISTS`."""
        self.indices = INDICES
        """How many map indices to ask for in one GET: the server's maximum page may be smaller."""

    def record(self, batch: TaskKeys, page: schema.TaskInstancePage) -> None:
        """Take note of a complete answer."""
        counted = _counted(page)
        for task_key in batch:
            self._rows.pop(task_key, None)
            if counted.get(task_key, 0) > 1:
                self._rows[task_key] = counted[task_key]

    def record_short(self, batch: TaskKeys, page: schema.TaskInstancePage, *, whole: bool) -> None:
        """Take note of a clamped answer."""
        if MIN_PAGE_LIMIT <= len(page) < PAGE_LIMIT:
            self._page_limit = min(self._page_limit, len(page))
        if len(batch) > 1:
            return
        if whole:
            self._rows[batch[0]] = page.total
        else:
            self._skewed.add(batch[0])

    def is_large(self, task_key: TaskKey, *, whole: bool) -> bool:
        """Whether one answer can't hold the cell: all of it (`whole`), or what of it has ended lately."""
        if not whole:
            return task_key in self._skewed
        return self._rows.get(task_key, 0) > min(PAGE_LIMIT, self._page_limit)

    def expected(self, task_key: TaskKey, pods: int) -> int:
        """How many rows the cell is likely to hold."""
        return max(self._rows.get(task_key, 1), pods)

    def limits(self, limits: BatchLimits) -> BatchLimits:
        """Return the limits with the server's own."""
        return BatchLimits(limits.dags, limits.runs, limits.body, min(limits.rows, self._page_limit))

    def start_audit(self, task_keys: set[TaskKey]) -> None:
        """Forget other task keys, bursts, and the clamp: settings change."""
        self._rows = {task_key: count for task_key, count in self._rows.items() if task_key in task_keys}
        self._skewed = set()
        self._page_limit, self.indices = PAGE_LIMIT, INDICES


class Question(Struct, frozen=True):
    """What distinguishes the two kinds of lists: `filters` by state and date, or none at all (`whole`)."""

    filters: Callable[[TaskKeys], Mapping[str, object]]
    whole: bool


class ListQuery:
    """Asks one question about many task keys."""

    def __init__(
        self,
        session: QuerySession,
        wanted: WantedIndices,
        sizes: SizeHints,
        marks: Watermarks,
        aside: Aside,
        speculative: Collection[TaskKey] = (),
    ) -> None:
        """`speculative` task keys are asked about only to rule them out."""
        self._session, self._wanted, self._size_hints, self._watermarks, self._aside = (
            session,
            wanted,
            sizes,
            marks,
            aside,
        )
        self._speculative = speculative
        self._result = QueryResult(session.began)
        self._halved = self._singles = 0
        self._suspects: dict[TaskKey, str] = {}
        self._refused: NoAnswerError | None = None
        self._can_list: bool | None = None
        self._refused_dags: dict[str, bool] = {}

    def collect(self, question: Question) -> QueryResult:
        """Ask about all task keys and return what came. Never raises: what fails is noted in the result.

        Breadth first: whatever a part of one list fails for, all other lists have been asked by then. What is set aside
        comes last.
        """
        large = [task_key for task_key in self._wanted if self._size_hints.is_large(task_key, whole=question.whole)]
        alone, late = self._aside.kept_out(self._wanted)
        large = [task_key for task_key in large if task_key not in alone]
        others = set(self._wanted).difference(large, alone, late)
        for task_keys in (others, *self._aside.by_patience(late.difference(large))):
            pending = deque(self._some(sorted(self._batches(task_keys, question, large))))
            while pending:
                pending += self._ask(pending.popleft(), question, large)
        for task_key in large:
            before = self._watermarks.newest
            if self._ask_by_index(task_key, sorted(self._wanted[task_key])):
                self._watermarks.covered([task_key], later(before, self._watermarks.newest), first=question.whole)
        self._ask_alone(alone, question)
        return self._result

    def _some(self, parts: list[TaskKeys]) -> list[TaskKeys]:
        """Return as many lists as may be asked, going on where the last question stopped."""
        if len(parts) <= MOST_LISTS:
            return parts
        begin = bisect_right(parts, self._size_hints.stopped) % len(parts)
        turned = parts[begin:] + parts[:begin]
        self._size_hints.stopped = turned[MOST_LISTS - 1]
        for batch in turned[MOST_LISTS:]:
            self._result.fail(batch, NOT_YET)
        return turned[:MOST_LISTS]

    def _batches(
        self, task_keys: Iterable[TaskKey], question: Question, large: Sequence[TaskKey]
    ) -> Iterable[TaskKeys]:
        """Chunks of like task keys: one without a mark would take the date off a whole chunk."""
        task_keys = set(task_keys)
        marked = {task_key for task_key in task_keys if not question.whole and self._watermarks.marked(task_key)}
        yield from batches(marked, LATELY, _one, large)
        yield from batches(task_keys - marked, self._size_hints.limits(FULL), self._expected, large)

    def _expected(self, task_key: TaskKey) -> int:
        return 0 if task_key in self._speculative else self._size_hints.expected(task_key, len(self._wanted[task_key]))

    def _ask(self, batch: TaskKeys, question: Question, large: list[TaskKey]) -> Sequence[TaskKeys]:
        """Ask one list; return the parts that must be asked again. A single cell that is too much goes to `large`."""
        stopped = self._session.aborted or self._refused
        if stopped is not None:
            self._result.fail(batch, str(stopped))
            return ()
        try:
            parts = self._listed(batch, question)
        except NoAnswerError as failed:
            return self._failed(batch, failed)
        if parts is None:
            large.append(batch[0])
            return ()
        return parts

    def _listed(self, batch: TaskKeys, question: Question) -> Sequence[TaskKeys] | None:
        """Ask one list. Return the parts of one that was too much, None where it has no parts. Raises NoAnswerError."""
        before = self._watermarks.newest
        reply = self._session.get_ok(self._session.dialect.listed(batch, question.filters(batch)))
        self._can_list = True
        self._aside.listed(batch)
        if reply.known.short:
            self._size_hints.record_short(batch, reply.known, whole=question.whole)
            return self._split_skewed(batch, reply.known, question) if len(batch) > 1 else None
        self._complete(batch, reply, question, before)
        return self._spoiled(batch) if reply.known.malformed else ()

    def _spoiled(self, batch: TaskKeys) -> Sequence[TaskKeys]:
        """Return the halves of a list with a row that may be any of its task keys', and note the cell that has it."""
        self._halved += 1
        if len(batch) > 1:
            if self._halved <= MOST_HALVED:
                return halves(batch)
            self._suspects |= dict.fromkeys(batch, NO_IDS)
            return ()
        self._aside.proven(batch[0])
        self._session.trouble(self._aside.turns, batch[0], NO_IDS)
        return ()

    def _failed(self, batch: TaskKeys, failed: NoAnswerError) -> Sequence[TaskKeys]:
        """Return the halves of a list that has failed, and note the cell to which that is owed."""
        if failed.scope is FailureScope.SLOW:
            self._aside.postpone(batch, slow=True)
        self._aside.pause(batch, failed)
        if self._session.aborted is not None or not self._is_owed_to_cells(failed):
            self._result.fail(batch, str(failed))
            return ()
        if failed.code in OF_DAG and self._is_owed_to_dag(batch):
            for task_key in batch:
                self._set_aside(task_key, str(failed))
            return ()
        self._halved += 1
        if len(batch) > 1 and self._halved <= MOST_HALVED:
            return halves(batch)
        if len(batch) == 1:
            self._aside.proven(batch[0])
        self._suspects |= dict.fromkeys(batch, str(failed))
        return ()

    def _is_owed_to_cells(self, failed: NoAnswerError) -> bool:
        """Whether a list has failed for what it is about. Where none can be had at all, no further one is asked."""
        if failed.scope is FailureScope.SLOW:
            return True
        if self._can_list is None:
            self._can_list = self._session.can_list()
            self._refused = None if self._can_list else failed
        return self._can_list

    def _is_owed_to_dag(self, batch: TaskKeys) -> bool:
        """Whether no task instance of the chunk's only DAG may be listed: asked once, by a GET that names none."""
        dag = batch[0].dag_id
        if dag != batch[-1].dag_id:
            return False
        if dag not in self._refused_dags:
            self._refused_dags[dag] = not is_addressable(batch[0]) or not self._session.may_list(dag)
        return self._refused_dags[dag]

    def _set_aside(self, task_key: TaskKey, why: str) -> None:
        self._result.fail([task_key], apart(why))
        self._session.trouble(self._aside.turns, task_key, why)

    def _ask_alone(self, kept_out: set[TaskKey], question: Question) -> None:
        """Ask about single task keys: those that a failed list may be owed to, then those set aside.

        Of the latter a few, and more as long as all are answered.
        """
        new = sorted({*self._suspects, *(self._aside.unasked & kept_out)})
        now = self._aside.turns.in_turn(new, MOST_ALONE)
        self._each(now, question)
        left = set(new).difference(now)
        self._aside.leave(left)
        self._result.fail(left, NOT_YET)
        waiting, asked = kept_out.difference(new), 0
        while waiting and asked < MOST_AGAIN:
            some = self._aside.turns.take(waiting, 0)
            waiting, asked = waiting.difference(some), asked + len(some)
            if not some or not self._each(some, question):
                break
        for task_key in waiting:
            self._result.fail([task_key], str(self._aside.turns.waits(task_key)))

    def _each(self, task_keys: Sequence[TaskKey], question: Question) -> bool:
        """Ask about each cell alone; return whether all were told."""
        single = [
            (task_key, index)
            for task_key in task_keys
            if self._is_small(task_key)
            for index in sorted(self._wanted[task_key])
        ]
        for place, answer in zip(single, map_concurrently(lambda place: self._single(*place), single), strict=True):
            self._take_single(*place, answer)
        for task_key in task_keys:
            if not is_addressable(task_key):
                self._ask_by_list(task_key, question)
            elif not self._is_small(task_key):
                self._ask_by_index(task_key, sorted(self._wanted[task_key]))
        told = [self._is_told(task_key) for task_key in task_keys]
        return all(told)

    def _is_small(self, task_key: TaskKey) -> bool:
        return is_addressable(task_key) and len(self._wanted[task_key]) <= FEW

    def _ask_by_list(self, task_key: TaskKey, question: Question) -> None:
        """Ask about a cell whose ids fit into no URL: by a list of its own, unless that has failed just now."""
        why = self._suspects.get(task_key)
        if why is None or not self._aside.is_proven(task_key):
            self._halved += 1
            try:
                if self._halved > MOST_HALVED + AGAIN:
                    raise NoAnswerError(NOT_YET)
                if self._listed((task_key,), question) is not None:
                    return
                why = "the task has too many map indices, and its ids can't be part of a URL"
            except NoAnswerError as failed:
                why = str(failed)
        self._result.fail([task_key], why)

    def _is_told(self, task_key: TaskKey) -> bool:
        """Whether the questions about a cell alone were answered; see to what becomes of it."""
        whys = [self._result.unanswered([task_key], index) for index in self._wanted[task_key]]
        why = next((why for why in whys if why is not None), None)
        if self._session.aborted is not None:
            return False
        self._aside.unasked.discard(task_key)
        if why is not None:
            self._session.trouble(self._aside.turns, task_key, why)
            if None not in whys:
                self._result.fail([task_key], apart(why))
        elif not self._aside.answered(task_key) and task_key in self._suspects:
            self._session.trouble(self._aside.turns, task_key, self._suspects[task_key])
        return why is None

    def _split_skewed(self, batch: TaskKeys, page: schema.TaskInstancePage, question: Question) -> Sequence[TaskKeys]:
        """Split a chunk that had too many rows: the tasks that crowd the page each apart, else in halves."""
        heavy = {
            task_key
            for task_key, count in _counted(page).items()
            if count >= SKEW_DIVISOR and count * SKEW_DIVISOR > len(page)
        }
        if not heavy:
            return halves(batch)
        light = [task_key for task_key in batch if task_key not in heavy]
        parts = [(task_key,) for task_key in batch if task_key in heavy] + list(
            self._batches(light, question, tuple(heavy))
        )
        # A single part would be the same question again: the crowd is of rows that were not asked for.
        return parts if len(parts) > 1 else halves(batch)

    def _complete(
        self, batch: TaskKeys, reply: AirflowReply[schema.TaskInstancePage], question: Question, before: float | None
    ) -> None:
        page = reply.known
        self._result.add(batch, page, reply.sent)
        until = later(before, self._watermarks.see(page.rows, reply.date))
        if question.whole:
            self._size_hints.record(batch, page)
        if not page.malformed:
            self._watermarks.covered(batch, until, first=question.whole)

    def _ask_by_index(self, task_key: TaskKey, indices: list[int]) -> bool:
        """Ask about single map indices of a task that is too large for one answer; return whether all were told.

        Those about which a question has failed come last, and each alone.
        """
        if not is_addressable(task_key):
            self._result.fail([task_key], "the task has too many map indices, and its ids can't be part of a URL")
            return False
        failed = self._aside.indices.failed
        good, again = indices, []
        if failed:
            good = [index for index in indices if (task_key, index) not in failed]
            again = [index for index in indices if (task_key, index) in failed]
        told, left = True, list(good)
        while left and self._session.version.maps:
            some, left = left[: self._size_hints.indices], left[self._size_hints.indices :]
            told = self._ask_some(task_key, some) and told
        return self._ask_singly(task_key, left + again) and told

    def _ask_some(self, task_key: TaskKey, indices: list[int]) -> bool:
        listing = self._session.dialect.indices(task_key, indices, 2 * INDICES)
        if listing is None:
            return self._ask_singly(task_key, indices)
        try:
            reply = self._session.get_ok(listing)
        except NoAnswerError as failed:
            self._aside.pause([task_key], failed)
            # As where the DAG is not serialized: this list then gives 404, a single task instance does not.
            return self._ask_singly(task_key, indices)
        page = reply.known
        if page.short or any(row.map_index not in indices for row in page.rows):
            self._size_hints.indices = max(1, min(self._size_hints.indices, len(page)))
            return self._ask_singly(task_key, indices)
        self._watermarks.see(page.rows, reply.date)
        self._result.add((task_key,), page, reply.sent)
        return page.malformed == 0

    def _ask_singly(self, task_key: TaskKey, indices: list[int]) -> bool:
        if not indices:
            return True
        turns = self._aside.indices
        told = ask_in_turn(
            self._session,
            turns,
            [(task_key, index) for index in indices],
            max(0, MOST_ALONE - self._singles),
            lambda place: ask_task_instance(self._session, *place),
        )
        self._singles += len(told)
        for (_, index), answer in told.items():
            self._take_single(task_key, index, answer)
        return not any(isinstance(answer, NoAnswerError) for answer in told.values())

    def _take_single(self, task_key: TaskKey, index: int, answer: AirflowReply[TaskInstance] | NoAnswerError) -> None:
        if isinstance(answer, NoAnswerError):
            self._result.fail([task_key], str(answer), index)
            return
        found = () if answer.value is None else (answer.value,)
        self._watermarks.see(found, answer.date)
        self._result.add((task_key,), schema.TaskInstancePage(found, 0, len(found)), answer.sent)

    def _single(self, task_key: TaskKey, index: int) -> AirflowReply[TaskInstance] | NoAnswerError:
        try:
            return ask_task_instance(self._session, task_key, index)
        except NoAnswerError as failed:
            self._aside.pause([task_key], failed)
            return failed


def _counted(page: schema.TaskInstancePage) -> dict[TaskKey, int]:
    counted: dict[TaskKey, int] = {}
    for row in page.rows:
        task_key = TaskKey(row.dag_id, row.run_id, row.task_id)
        counted[task_key] = counted.get(task_key, 0) + 1
    return counted


def _one(_: TaskKey) -> int:
    return 1
