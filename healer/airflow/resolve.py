"""From labels back to raw ids: what a Pod's labels may stand for, proven by computing each id's label anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

import msgspec
from msgspec import Struct

from healer.airflow import rows
from healer.airflow.missing import is_dag_missing
from healer.airflow.round import Round
from healer.airflow.transport import NoAnswerError, Request
from healer.labels import believed, invert_run_id, may_be_hashed, safe_label
from healer.model import LabelKey, RawIds

PAGE = 100
"""Rows asked for at a time: the server's default maximum."""

DAG_PAGES = 200
RUN_PAGES = 5
"""How far lists are read: 20,000 DAGs; of a DAG the 500 newest runs."""

_ISO_HOUR = re.compile(r"[A-Za-z0-9_.\-]*?[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}")
"""The part of a label that stands before the first colon of an ISO time: nothing was removed from it."""


Query = tuple[tuple[str, str | int], ...]


class Cell(NamedTuple):
    """One task of one run by its raw ids: all map indices of it."""

    dag_id: str
    run_id: str
    task_id: str


class Spot(NamedTuple):
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

    `proven`: the one candidate is what the Pod itself tells, whoever else has the same labels.
    """

    cells: tuple[Cell, ...] = ()
    proven: bool = False
    unresolved: str | None = None
    failed: str | None = None


def spot(key: LabelKey, raw: RawIds | None) -> Spot:
    """Return the labels' spot, with the raw ids that they prove."""
    ids = believed(key, raw)
    return Spot(key.dag_id, key.run_id, key.task_id, ids.dag_id, ids.run_id, ids.task_id)


class Book:
    """Ids that hashed labels were found to stand for, within one DAG (or "" for the labels of DAGs)."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[str, ...]] = {}

    def unknown(self, scope: str, labels: Iterable[str]) -> frozenset[str]:
        """Return the labels that must be looked up."""
        return frozenset(label for label in labels if may_be_hashed(label) and (scope, label) not in self._found)

    def note(self, scope: str, labels: Iterable[str], listed: Iterable[str]) -> None:
        """Remember which of the listed ids the labels stand for, none included."""
        by_label = _by_label(listed)
        for label in labels:
            self._found[scope, label] = by_label.get(label, ())

    def ids(self, scope: str, label: str) -> tuple[str, ...]:
        """Return what the label may stand for, none if that is not known.

        A label that looks hashed may still be an id of that very text, so it is always among its own candidates.
        """
        found = self.found(scope, label)
        return tuple(dict.fromkeys((label, *found))) if found else ()

    def found(self, scope: str, label: str) -> tuple[str, ...]:
        """Return the ids that are known to have this label."""
        return self._found.get((scope, label), ()) if may_be_hashed(label) else (label,)

    def forget(self, keep: Callable[[str, str], bool]) -> None:
        """Forget the failures, and what nobody asks for any more."""
        self._found = {key: ids for key, ids in self._found.items() if ids and keep(*key)}


class Resolver:
    """Remembers which ids labels stand for. What could not be found out is forgotten at each audit."""

    def __init__(self) -> None:
        self._dags, self._tasks, self._runs = Book(), Book(), Book()
        self._asked: set[Spot] = set()

    def start_audit(self) -> None:
        """Let the next round try again what no id was found for, and forget what no Pod asked for since the last."""
        dags = {s.dag_id for s in self._asked}
        runs = {s.run_id for s in self._asked}
        tasks = {s.task_id for s in self._asked}
        self._dags.forget(lambda _, label: label in dags)
        self._runs.forget(lambda _, label: label in runs)
        self._tasks.forget(lambda _, label: label in tasks)
        self._asked = set()

    def resolve(self, round_: Round, spots: Iterable[Spot]) -> dict[Spot, Resolution]:
        """Return what each spot may be, asking Airflow for what is not known yet."""
        wanted = set(spots)
        self._asked |= wanted
        trouble = self._learn(self._dags, "", {s.dag_id for s in wanted if s.raw_dag is None}, lambda _: _dags(round_))
        by_dag: dict[str, set[Spot]] = {}
        for s in wanted:
            for dag in self._found_dags(s):
                by_dag.setdefault(dag, set()).add(s)
        for dag, of_dag in by_dag.items():
            trouble |= self._learn_of(round_, dag, of_dag)
        return {s: self._resolution(s, trouble) for s in wanted}

    def _found_dags(self, s: Spot) -> tuple[str, ...]:
        return self._dags.found("", s.dag_id) if s.raw_dag is None else (s.raw_dag,)

    def _learn_of(self, round_: Round, dag: str, spots: set[Spot]) -> dict[tuple[str, str], str]:
        """Learn the tasks and runs of one DAG; return what Airflow did not tell, and why."""
        tasks = {s.task_id for s in spots if s.raw_task is None}
        runs = {s.run_id for s in spots if s.raw_run is None}
        inverted = {label: run for label in self._runs.unknown(dag, runs) if (run := invert_run_id(label))}
        self._runs.note(dag, inverted, inverted.values())
        return self._learn(self._tasks, dag, tasks, lambda _: _tasks(round_, dag)) | self._learn(
            self._runs, dag, runs, lambda labels: _runs(round_, dag, labels)
        )

    @staticmethod
    def _learn(
        book: Book, scope: str, labels: set[str], listed: Callable[[frozenset[str]], Iterable[str]]
    ) -> dict[tuple[str, str], str]:
        unknown = book.unknown(scope, labels)
        if not unknown:
            return {}
        try:
            book.note(scope, unknown, listed(unknown))
        except NoAnswerError as failed:
            return {(scope, label): str(failed) for label in unknown}
        return {}

    def _resolution(self, s: Spot, trouble: Mapping[tuple[str, str], str]) -> Resolution:
        failed = next((trouble[place] for place in self._places(s) if place in trouble), None)
        if failed is not None:
            return Resolution(failed=failed)
        dags = self._found_dags(s)
        runs = [s.raw_run] if s.raw_run else dict.fromkeys(r for dag in dags for r in self._runs.ids(dag, s.run_id))
        tasks = [s.raw_task] if s.raw_task else dict.fromkeys(t for d in dags for t in self._tasks.ids(d, s.task_id))
        candidates = (s.raw_dag,) if s.raw_dag else self._dags.ids("", s.dag_id)
        cells = tuple(Cell(*ids) for ids in product(candidates, runs, tasks))
        proven = None not in (s.raw_dag, s.raw_run, s.raw_task)
        return Resolution(cells, proven) if cells else Resolution(unresolved=self._why(s, dags))

    def _places(self, s: Spot) -> Iterator[tuple[str, str]]:
        """Yield the labels that had to be looked up, each with the DAG within which."""
        if s.raw_dag is None:
            yield "", s.dag_id
        for dag in self._found_dags(s):
            yield from ((dag, label) for label, raw in ((s.run_id, s.raw_run), (s.task_id, s.raw_task)) if raw is None)

    def _why(self, s: Spot, dags: tuple[str, ...]) -> str:
        if not dags:
            return f"label dag_id={s.dag_id} is hashed, and no DAG that we may read has it"
        if s.raw_task is None and not any(self._tasks.ids(dag, s.task_id) for dag in dags):
            return f"label task_id={s.task_id} is hashed, and no task of the DAG as it is now has it"
        return (
            f"label run_id={s.run_id} is hashed, and neither Airflow's own forms of run ids "
            f"nor the {RUN_PAGES * PAGE} newest runs of the DAG have it"
        )


def _by_label(ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for raw in dict.fromkeys(ids):
        label = safe_label(raw)
        found[label] = (*found.get(label, ()), raw)
    return found


def _dags(round_: Round) -> list[str]:
    """Return the ids of all DAGs that we may read, those whose file is gone included."""
    query = (("exclude_stale", "false"), ("order_by", "dag_id"))
    found = _paged(round_, Request("dags", "/api/v2/dags", query=query), rows.dag_ids, DAG_PAGES)
    return [dag for dag in found if dag is not None]


def _tasks(round_: Round, dag: str) -> tuple[str, ...]:
    """Return the tasks of a DAG as it is now; none if there is no such DAG."""
    reply = round_.ask(Request("tasks", "/api/v2/dags/{dag_id}/tasks", {"dag_id": dag}), rows.task_ids)
    if is_dag_missing(reply, dag):
        return ()
    return round_.positive(reply).known.ids


def _runs(round_: Round, dag: str, labels: frozenset[str]) -> list[str]:
    """Return runs among which those of the labels should be: those of the same hours, then the DAG's newest."""
    found: list[str] = []
    hours = {match[0] for label in labels if (match := _ISO_HOUR.match(label))} if round_.version.prefixes else set()
    for hour in sorted(hours):
        found += _listed_runs(round_, dag, (("run_id_prefix_pattern", hour),), labels)[0]
    if not _missing(labels, found):
        return found
    newest, whole = _listed_runs(round_, dag, (), labels)
    found += newest
    # Behind the last page there may be a run that a label hides: one called like the label is then not proven alone.
    return found if whole else [run for run in found if run not in _missing(labels, found)]


def _missing(labels: frozenset[str], found: Iterable[str]) -> set[str]:
    """Return the labels that were not found for an id of another text.

    A run whose id is the label itself must not end the search: the Pod may as well belong to the run behind the label.
    """
    return set(labels) - {safe_label(run) for run in found if run not in labels}


def _listed_runs(round_: Round, dag: str, query: Query, labels: frozenset[str]) -> tuple[list[str], bool]:
    """Return a DAG's runs, newest first, until all labels are found (see `_missing`), and whether there are no more.

    None if there is no such DAG.
    """
    request = Request("runs", "/api/v2/dags/{dag_id}/dagRuns", {"dag_id": dag}, (*query, ("order_by", "-id")))
    found: list[str] = []
    missing = set(labels)
    try:
        for run in _paged(round_, request, rows.run_ids, RUN_PAGES):
            if run is None:
                return found, False
            found.append(run)
            missing -= {safe_label(run)} - {run}
            if not missing:
                break
    except NoDagError:
        pass
    return found, True


class NoDagError(NoAnswerError):
    """A list within a DAG that Airflow does not have."""


def _paged(round_: Round, request: Request, decode: Callable[[bytes], rows.Ids], pages: int) -> Iterator[str | None]:
    """Yield the ids of a list, page by page, and a None if there are more than came in so many pages.

    The server may give less at a time than it was asked for.
    """
    offset = 0
    for _ in range(pages):
        query = (*request.query, ("limit", PAGE), ("offset", offset))
        reply = round_.ask(msgspec.structs.replace(request, query=query), decode)
        if is_dag_missing(reply, str(request.ids.get("dag_id", ""))):
            raise NoDagError("Airflow has no such DAG")
        page = round_.positive(reply).known
        yield from page.ids
        offset += len(page)
        if offset >= page.total:
            return
        if not page.ids:
            break
    yield None
