"""From labels back to raw ids: what a Pod's labels may stand for, proven by computing each id's label anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

from msgspec import Struct

from healer.airflow.api.dialect import BEYOND, Ask
from healer.airflow.api.schema import Ids
from healer.airflow.api.task_key import TaskKey
from healer.airflow.queries.session import QuerySession
from healer.airflow.queries.turns import NOT_YET, Turns, ask_in_turn
from healer.decision.labels import believed, invert_run_id, may_be_hashed, safe_label
from healer.errors import FailureScope, NoAnswerError, NoDagError
from healer.model import LabelKey, RawIds

K = TypeVar("K")
T = TypeVar("T")

PAGE = 100
"""Rows asked for at a time: the server's default maximum."""

DAG_PAGES = 200
RUN_PAGES = 5
TASK_PAGES = 10
"""How far lists are read: 20,000 DAGs; of a DAG the 500 newest runs; of a run 1,000 task instances."""

MOST_TASK_LISTS = 200
"""DAGs whose tasks are listed in one question. What is beyond the caps here has its turn in a later pass."""

MOST_RUN_LISTS = 200
"""Lists of the runs of an hour, and as many of the newest runs of a DAG, in one question: 10 s of the server's time."""

MOST_PARTS = 200
"""Further requests in one question for pages that fail: halved down to the row that is to blame, which is left out."""

MOST_REFUSED = 3
"""Lists that fail without a row too, after which it is no row to which a failure is owed."""

MOST_RUNS_READ = 100
"""Runs whose task instances are listed in one question, for tasks that their DAG has no more."""

_ISO_HOUR = re.compile(r"[A-Za-z0-9_.\-]*?[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}")
"""The part of a label that stands before the first colon of an ISO time: nothing was removed from it."""


class TaskLabels(NamedTuple):
    """The labels without the map index and the try: what is resolved together.

    `raw_*` are the ids behind them where the Pod tells them and its labels prove them.
    """

    dag_id: str
    run_id: str
    task_id: str
    raw_dag: str | None = None
    raw_run: str | None = None
    raw_task: str | None = None


class Resolution(Struct, frozen=True):
    """What a spot may be: all its candidates, or why there are none (`failed`: Airflow did not tell).

    `proven`: the one candidate is what the Pod itself tells, whoever else has the same labels. `sent` is when the
    oldest request was sent that had to be made now (monotonic seconds), None where all was known before: which id a
    label stands for does not change. Where not all labels could be resolved (`unresolved` says why), the candidates
    are of the DAG and, if `run_known`, of the run; what stands for the rest are the labels, which prove nothing.
    """

    task_keys: tuple[TaskKey, ...] = ()
    proven: bool = False
    unresolved: str | None = None
    run_known: bool = True
    failed: str | None = None
    sent: float | None = None


def task_labels(key: LabelKey, raw: RawIds | None) -> TaskLabels:
    """Return the labels' spot, with the raw ids that they prove."""
    ids = believed(key, raw)
    return TaskLabels(key.dag_id, key.run_id, key.task_id, ids.dag_id, ids.run_id, ids.task_id)


ResolverScope = str | tuple[str, str]
"""Where a label is looked for: a DAG ("" for the labels of DAGs), or one of its runs."""

Trouble = dict[tuple[ResolverScope, str], str]
"""The labels that could not be looked up, and why."""


class Listed(NamedTuple):
    """The ids that a list has given, whether there are no more, and why not all of its rows could be read."""

    ids: Sequence[str]
    whole: bool = True
    failed: NoAnswerError | None = None


class IdCache:
    """Ids that hashed labels were found to stand for, within one scope."""

    def __init__(self) -> None:
        self._found: dict[tuple[ResolverScope, str], tuple[str, ...]] = {}

    def unknown(self, scope: ResolverScope, labels: Iterable[str]) -> frozenset[str]:
        """Return the labels that must be looked up."""
        return frozenset(label for label in labels if may_be_hashed(label) and (scope, label) not in self._found)

    def add(self, scope: ResolverScope, labels: Iterable[str], listed: Iterable[str]) -> None:
        """Remember which of the listed ids the labels stand for, none included."""
        by_label = _by_label(listed)
        for label in labels:
            self._found[scope, label] = by_label.get(label, ())

    def ids(self, scope: ResolverScope, label: str) -> tuple[str, ...]:
        """Return what the label may stand for, none if that is not known.

        A label that looks hashed may still be an id of that very text, so it is always among its own candidates.
        """
        found = self.found(scope, label)
        return tuple(dict.fromkeys((label, *found))) if found else ()

    def found(self, scope: ResolverScope, label: str) -> tuple[str, ...]:
        """Return the ids that are known to have this label."""
        return self._found.get((scope, label), ()) if may_be_hashed(label) else (label,)

    def forget(self, keep: Callable[[ResolverScope, str], bool]) -> None:
        """Forget the failures, and what nobody asks for any more."""
        self._found = {key: ids for key, ids in self._found.items() if ids and keep(*key)}


class Resolver:
    """Remembers which ids labels stand for. What could not be found out is forgotten at each audit."""

    def __init__(self) -> None:
        self._dags, self._tasks, self._runs, self._tasks_of_runs = IdCache(), IdCache(), IdCache(), IdCache()
        self._asked: set[TaskLabels] = set()
        self.turns_of_dags: Turns[str] = Turns("the list of DAGs", lambda _: "")
        self.turns_of_tasks: Turns[str] = Turns("lists of tasks", lambda dag: dag)
        self.turns_of_runs: Turns[tuple[str, str]] = Turns("lists of runs", lambda place: place[0])
        self.turns_of_a_run: Turns[tuple[str, str]] = Turns("task instances of a run", lambda run: run[0])

    def start_audit(self) -> None:
        """Let the next round try again what no id was found for, and forget what no Pod asked for since the last."""
        dags = {s.dag_id for s in self._asked}
        runs = {s.run_id for s in self._asked}
        tasks = {s.task_id for s in self._asked}
        self._dags.forget(lambda _, label: label in dags)
        self._runs.forget(lambda _, label: label in runs)
        self._tasks.forget(lambda _, label: label in tasks)
        self._tasks_of_runs.forget(lambda _, label: label in tasks)
        self._asked = set()

    def resolve(self, session: QuerySession, resolved: Iterable[TaskLabels]) -> dict[TaskLabels, Resolution]:
        """Return what each spot may be, asking Airflow for what is not known yet."""
        wanted, asking = set(resolved), _ResolverPass(session)
        self._asked |= wanted
        trouble = self._learn_dags(asking, {s.dag_id for s in wanted if s.raw_dag is None})
        by_dag: dict[str, set[TaskLabels]] = {}
        for s in wanted:
            for dag in self._found_dags(s):
                by_dag.setdefault(dag, set()).add(s)
        trouble |= self._learn_tasks(asking, by_dag)
        trouble |= self._learn_runs(asking, by_dag)
        trouble |= self._learn_old_tasks(asking, by_dag, trouble)
        return {s: self._resolution(s, trouble, asking) for s in wanted}

    def _found_dags(self, s: TaskLabels) -> tuple[str, ...]:
        return self._dags.found("", s.dag_id) if s.raw_dag is None else (s.raw_dag,)

    def _learn_dags(self, asking: _ResolverPass, labels: set[str]) -> Trouble:
        """Learn the DAGs behind labels; return what Airflow did not tell, and why."""
        unknown = self._dags.unknown("", labels)
        told = asking.ask(self.turns_of_dags, [""] if unknown else [], 1, lambda _: _dags(asking)).get("", Listed(()))
        return asking.tell(self.turns_of_dags, "", told, _noted(self._dags, "", unknown, told))

    def _learn_tasks(self, asking: _ResolverPass, by_dag: Mapping[str, set[TaskLabels]]) -> Trouble:
        """Learn the tasks that DAGs have now."""
        wanted = {
            dag: unknown
            for dag, resolved in by_dag.items()
            if (unknown := self._tasks.unknown(dag, {s.task_id for s in resolved if s.raw_task is None}))
        }
        told = asking.ask(self.turns_of_tasks, wanted, MOST_TASK_LISTS, lambda dag: _tasks(asking.round_, dag))
        trouble: Trouble = {}
        for dag, labels in wanted.items():
            trouble |= _noted(self._tasks, dag, labels, told[dag])
        return trouble

    def _learn_runs(self, asking: _ResolverPass, by_dag: Mapping[str, set[TaskLabels]]) -> Trouble:
        """Learn the runs of DAGs: those of the same hours as the labels, and where it is none of them, the newest."""
        session, trouble = asking.round_, Trouble()
        of_hours: dict[tuple[str, str], set[str]] = {}
        newest: dict[tuple[str, str], dict[str, Sequence[str]]] = {}
        for dag, resolved in by_dag.items():
            for label in self._unknown_runs(dag, {s.run_id for s in resolved if s.raw_run is None}):
                found = _ISO_HOUR.match(label) if session.version.prefixes else None
                if found is None:
                    newest.setdefault((dag, ""), {})[label] = []
                else:
                    of_hours.setdefault((dag, found[0]), set()).add(label)

        def listed(place: tuple[str, str]) -> Listed:
            dag, hour = place
            labels = of_hours[place] if hour else newest[place].keys()
            return _listed_runs(asking, dag, hour, labels)

        for place, answer in asking.ask(self.turns_of_runs, of_hours, MOST_RUN_LISTS, listed).items():
            dag, labels = place[0], of_hours[place]
            if isinstance(answer, NoAnswerError):
                trouble |= _noted(self._runs, dag, labels, answer)
                continue
            left = _missing(labels, answer.ids)
            self._runs.add(dag, labels - left, answer.ids)
            for label in left:
                newest.setdefault((dag, ""), {})[label] = answer.ids
        for place, answer in asking.ask(self.turns_of_runs, newest, MOST_RUN_LISTS, listed).items():
            for label, before in newest[place].items():
                told = answer if isinstance(answer, NoAnswerError) else _surely(before, answer, label)
                missed = _noted(self._runs, place[0], {label}, told)
                trouble |= asking.tell(self.turns_of_runs, place, told, missed)
        return trouble

    def _unknown_runs(self, dag: str, labels: set[str]) -> frozenset[str]:
        """Return the labels whose runs must be asked for: some tell by themselves."""
        inverted = {label: run for label in self._runs.unknown(dag, labels) if (run := invert_run_id(label))}
        self._runs.add(dag, inverted, inverted.values())
        return self._runs.unknown(dag, labels)

    def _learn_old_tasks(
        self, asking: _ResolverPass, by_dag: Mapping[str, set[TaskLabels]], trouble: Trouble
    ) -> Trouble:
        """Learn tasks that their DAG has no more, renamed or removed since, from the task instances of the runs.

        Likewise those of a DAG whose tasks can't be listed, as one of them can't be told.
        """
        wanted: dict[tuple[str, str], set[str]] = {}
        for dag, resolved in by_dag.items():
            for s in resolved:
                waits = trouble.get((dag, s.task_id)) == NOT_YET
                if s.raw_task is None and not waits and not self._tasks.found(dag, s.task_id):
                    for run in self._run_ids(dag, s):
                        wanted.setdefault((dag, run), set()).add(s.task_id)
        wanted = {run: new for run, labels in wanted.items() if (new := set(self._tasks_of_runs.unknown(run, labels)))}
        told = asking.ask(self.turns_of_a_run, wanted, MOST_RUNS_READ, lambda run: _tasks_of_run(asking, *run))
        missed: Trouble = {}
        for place, labels in wanted.items():
            left = _noted(self._tasks_of_runs, place, labels, told[place])
            missed |= asking.tell(self.turns_of_a_run, place, told[place], left)
        return missed

    def _run_ids(self, dag: str, s: TaskLabels) -> tuple[str, ...]:
        return self._runs.ids(dag, s.run_id) if s.raw_run is None else (s.raw_run,)

    def _task_ids(self, dag: str, s: TaskLabels) -> tuple[str, ...]:
        """Return what the label of a task may stand for: a task of the DAG, else one that its run had."""
        if s.raw_task is not None:
            return (s.raw_task,)
        runs = self._run_ids(dag, s)
        return self._tasks.ids(dag, s.task_id) or tuple(
            dict.fromkeys(task for run in runs for task in self._tasks_of_runs.ids((dag, run), s.task_id))
        )

    def _resolution(self, s: TaskLabels, trouble: Trouble, asking: _ResolverPass) -> Resolution:
        sent = asking.since
        failed = next((trouble[place] for place in self._places(s) if place in trouble), None)
        if failed is not None:
            return Resolution(failed=failed, sent=sent)
        dags = self._found_dags(s)
        runs = dict.fromkeys(run for dag in dags for run in self._run_ids(dag, s))
        tasks = dict.fromkeys(task for dag in dags for task in self._task_ids(dag, s))
        # A DAG that is called like the label itself is asked about too, unless that would make the whole list refused
        # where there is none. Then it counts if it is among the DAGs that we may read, as in every list of Airflow 3.
        own_text = asking.round_.dialect.LISTS_UNKNOWN
        candidates = (s.raw_dag,) if s.raw_dag else self._dags.ids("", s.dag_id) if own_text else dags
        unresolved = None if dags and runs and tasks else self._why(s, dags)
        task_keys = tuple(TaskKey(*ids) for ids in product(candidates, runs or (s.run_id,), tasks or (s.task_id,)))
        proven = None not in (s.raw_dag, s.raw_run, s.raw_task)
        return Resolution(task_keys, proven, unresolved, bool(runs), sent=sent)

    def _places(self, s: TaskLabels) -> Iterator[tuple[ResolverScope, str]]:
        """Yield the labels that had to be looked up, each with where."""
        if s.raw_dag is None:
            yield "", s.dag_id
        for dag in self._found_dags(s):
            if s.raw_run is None:
                yield dag, s.run_id
            if s.raw_task is None:
                runs = self._run_ids(dag, s)
                if not any(self._tasks_of_runs.found((dag, run), s.task_id) for run in runs):
                    yield dag, s.task_id
                if not self._tasks.found(dag, s.task_id):
                    yield from (((dag, run), s.task_id) for run in runs)

    def _why(self, s: TaskLabels, dags: tuple[str, ...]) -> str:
        if not dags:
            return f"label dag_id={s.dag_id} is hashed, and no DAG that we may read has it"
        if s.raw_run is None and not any(self._runs.ids(dag, s.run_id) for dag in dags):
            return (
                f"label run_id={s.run_id} is hashed, and neither Airflow's own forms of run ids "
                f"nor the {RUN_PAGES * PAGE} newest runs of the DAG have it"
            )
        return (
            f"label task_id={s.task_id} is hashed, and neither a task of the DAG as it is now nor a task instance "
            "of the run has it"
        )


class _ResolverPass:
    """Asks what has to be looked up now. `since` is when the first of it can have been sent, None for nothing."""

    def __init__(self, session: QuerySession) -> None:
        self.round_ = session
        self.since: float | None = None
        self._parts = self._refused = 0

    def ask(
        self, turns: Turns[K], wanted: Collection[K], most: int, ask: Callable[[K], T]
    ) -> dict[K, T | NoAnswerError]:
        """Ask about those whose turn it is, and say of the others that it is not known."""
        if wanted:
            self.since = self.round_.began
        return ask_in_turn(self.round_, turns, wanted, most, ask)

    def tell(self, turns: Turns[K], key: K, told: Listed | NoAnswerError, trouble: Trouble) -> Trouble:
        """Note that a list was answered but for rows to which some labels may be owed."""
        if trouble and isinstance(told, Listed):
            self.round_.trouble(turns, key, str(told.failed))
        return trouble

    def may_split(self, failed: NoAnswerError, nothing: Ask[Ids] | None) -> bool:
        """Whether a page that has failed is asked in smaller parts: its list can be had, as one of `nothing` shows."""
        self._parts += 1
        spent = self._parts > MOST_PARTS or self._refused >= MOST_REFUSED
        if spent or failed.scope is not FailureScope.CALL or self.round_.aborted is not None:
            return False
        if nothing is None:
            return True
        try:
            return self.round_.ask(nothing).status == 200
        except NoAnswerError:
            self._refused += 1
            return False


def _noted(records: IdCache, scope: ResolverScope, labels: Collection[str], told: Listed | NoAnswerError) -> Trouble:
    """Note which of the ids that were told the labels stand for; return what was not told.

    Where a row could not be read a label is told only by an id of another text: the row may be the one that it hides.
    """
    if isinstance(told, NoAnswerError):
        return {(scope, label): str(told) for label in labels}
    left = set[str]() if told.failed is None else _missing(labels, told.ids)
    records.add(scope, set(labels) - left, told.ids)
    return {(scope, label): str(told.failed) for label in left}


def _by_label(ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for raw in dict.fromkeys(ids):
        label = safe_label(raw)
        found[label] = (*found.get(label, ()), raw)
    return found


def _dags(asking: _ResolverPass) -> Listed:
    """Return the ids of all DAGs that we may read, those whose file is gone included."""
    return _read(_paged(asking, asking.round_.dialect.dags, DAG_PAGES))


def _tasks(session: QuerySession, dag: str) -> Listed:
    """Return the tasks of a DAG as it is now; none if there is no such DAG."""
    reply = session.ask(session.dialect.tasks(dag))
    return Listed(() if reply.missing else session.require_ok(reply).known.ids)


def _tasks_of_run(asking: _ResolverPass, dag: str, run: str) -> Listed:
    """Return the tasks of a run's task instances, those that the DAG has lost since included.

    The GET leaves no row in Airflow's audit table; where it fails the list has the run's first 1,000 task instances.
    """
    session = asking.round_
    maps = session.version.maps

    def page(limit: int, offset: int) -> Ask[Ids]:
        return session.dialect.tasks_of_run(dag, run, limit, offset, maps=maps)

    if "/" not in dag + run and not {dag, run} & {"", ".", ".."}:
        try:
            return _read(_paged(asking, page, TASK_PAGES))
        except NoAnswerError:
            if session.aborted is not None:
                raise
    return Listed(session.get_ok(session.dialect.tasks_listed(dag, run, TASK_PAGES * PAGE)).known.ids)


def _surely(before: Sequence[str], newest: Listed, label: str) -> Listed:
    """Return the runs that may be believed: behind the last page there may be one that the label hides, and one called
    like the label itself is then not proven alone."""
    found = [*before, *newest.ids]
    unsure = set[str]() if newest.whole else _missing({label}, found)
    return newest._replace(ids=[run for run in found if run not in unsure])


def _missing(labels: Collection[str], found: Iterable[str]) -> set[str]:
    """Return the labels that were not found for an id of another text.

    A run whose id is the label itself must not end the search: the Pod may as well belong to the run behind the label.
    """
    return set(labels) - {safe_label(run) for run in found if run not in labels}


def _listed_runs(asking: _ResolverPass, dag: str, prefix: str, labels: Collection[str]) -> Listed:
    """Return a DAG's runs, newest first, until all labels are found (see `_missing`); none if there is no such DAG."""
    dialect, missing = asking.round_.dialect, set(labels)

    def wanted() -> Iterator[str | NoAnswerError | None]:
        for run in _paged(asking, lambda limit, offset: dialect.runs(dag, limit, offset, prefix), RUN_PAGES):
            yield run
            if isinstance(run, str):
                missing.difference_update({safe_label(run)} - {run})
                if not missing:
                    return

    try:
        return _read(wanted())
    except NoDagError:
        return Listed(())


def _read(rows: Iterable[str | NoAnswerError | None]) -> Listed:
    """Return what a list has given: see `_paged`."""
    ids, failed, whole = list[str](), None, True
    for row in rows:
        if isinstance(row, str):
            ids.append(row)
        else:
            whole, failed = False, row or failed
    return Listed(ids, whole, failed)


def _paged(
    asking: _ResolverPass, page_at: Callable[[int, int], Ask[Ids]], pages: int
) -> Iterator[str | NoAnswerError | None]:
    """Yield the ids of a list, page by page: a failure for each row that can't be read, and a None if there are more
    than came in so many pages.

    The server may give less at a time than it was asked for.
    """
    session, offset, limit, read = asking.round_, 0, PAGE, 0
    while read < pages:
        try:
            reply = session.ask(page_at(limit, offset))
            if reply.missing:
                raise NoDagError("Airflow has no such DAG")
            page = session.require_ok(reply).known
        except NoDagError:
            raise
        except NoAnswerError as failed:
            if not asking.may_split(failed, page_at(1, BEYOND) if limit == PAGE else None):
                raise
            if limit > 1:
                limit //= 2
                continue
            yield failed
            offset += 1
            continue
        yield from page.ids
        offset += len(page)
        if offset >= page.total:
            return
        if not page.ids:
            break
        read += limit == PAGE
        limit = min(PAGE, 2 * limit)
    yield None
