"""What it means that no list has a Pod's task instance. A list proves nothing: it omits what the token may not read.

Absence is proven by single questions and Airflow's exact words, once per DAG and per run and never per Pod: is there
the DAG? is there the run? is the DAG *still* there (a DAG that is being deleted loses its runs too)?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

from healer.airflow.resolve import Cell
from healer.airflow.round import Round, side_by_side
from healer.airflow.singles import ask_task_instance, askable, dag_exists, run_exists
from healer.airflow.transport import NoAnswerError
from healer.clock import steady
from healer.model import Absent, Ambiguous, Answer, Known, RunDeleted, Unknown

T = TypeVar("T")

MOST_RUNS = 500
MOST_TASK_INSTANCES = 200
"""How much is asked singly in one round: 7 s of the server's time. What is beyond stays unknown, and is kept."""

Told = tuple[bool, float] | NoAnswerError
"""Whether something exists and when that was asked, or why it is not known."""


class Missing(Struct, frozen=True):
    """A Pod that no list had: its candidates, and its map index. `asked`: its task instance was asked for singly."""

    uid: str
    cells: tuple[Cell, ...]
    map_index: int
    asked: bool = False


class Absence:
    """Proves what is absent, for many Pods together."""

    def __init__(self, round_: Round) -> None:
        self._round = round_
        self._dags: dict[str, Told] = {}
        self._runs: dict[tuple[str, str], Told] = {}
        self._still: dict[str, Told] = {}
        self._since = steady()

    def explain(self, missing: Sequence[Missing]) -> dict[str, Answer]:
        """Return an answer for every one of them, by uid."""
        cells = {cell for pod in missing for cell in pod.cells if askable(cell)}
        self._dags = self._told({cell.dag_id for cell in cells}, lambda dag: dag_exists(self._round, dag))
        runs = sorted({(c.dag_id, c.run_id) for c in cells if _yes(self._dags[c.dag_id])})
        self._runs = self._told(runs[:MOST_RUNS], lambda run: run_exists(self._round, *run))
        gone = {dag for (dag, _), told in self._runs.items() if _no(told)}
        self._still = self._told(gone, lambda dag: dag_exists(self._round, dag))
        doubtful = [pod for pod in missing if not pod.asked and any(self._run_is_there(c) for c in pod.cells)]
        answers = side_by_side(self._ask, doubtful[:MOST_TASK_INSTANCES])
        singly = {pod.uid: answer for pod, answer in zip(doubtful, answers, strict=False)}
        return {pod.uid: singly.get(pod.uid) or self._concluded(pod) for pod in missing}

    def _told(self, what: Iterable[T], exists: Callable[[T], tuple[bool, float]]) -> dict[T, Told]:
        def ask(one: T) -> Told:
            try:
                return exists(one)
            except NoAnswerError as failed:
                return failed

        ordered = list(what)
        return dict(zip(ordered, side_by_side(ask, ordered), strict=True))

    def _run_is_there(self, cell: Cell) -> bool:
        return _yes(self._runs.get((cell.dag_id, cell.run_id)))

    def _ask(self, pod: Missing) -> Answer | None:
        """Ask for the task instance itself in the runs that exist; None if there really is none."""
        sent, found = steady(), []
        try:
            for cell in (cell for cell in pod.cells if self._run_is_there(cell)):
                reply = ask_task_instance(self._round, cell, pod.map_index)
                if reply.value is not None:
                    found.append(reply.value)
        except NoAnswerError as failed:
            return Unknown(sent, str(failed))
        if len(found) > 1:
            return Ambiguous(sent, f"{len(found)} task instances have these labels")
        return Known(sent, found[0]) if found else None

    def _concluded(self, pod: Missing) -> Answer:
        """Return what the Pod's candidates prove: the run is deleted only if that holds for every one of them."""
        told = [self._told_of(cell) for cell in pod.cells]
        why = next((str(t) for t in told if isinstance(t, NoAnswerError)), None)
        if why is not None:
            return Unknown(self._since, why)
        there = next((cell for cell in pod.cells if self._run_is_there(cell)), None)
        if there is not None:
            return Absent(self._since, f"run {there.run_id!r} exists, and has no such task instance")
        deleted = [cell for cell in pod.cells if _yes(self._still.get(cell.dag_id))]
        if not deleted:
            return Absent(self._since, f"Airflow has no DAG {pod.cells[-1].dag_id!r}")
        return RunDeleted(self._since, deleted[-1].dag_id, deleted[-1].run_id)

    def _told_of(self, cell: Cell) -> Told:
        """Return whether the cell's run exists; a NoAnswerError if that could not be found out."""
        if not askable(cell):
            return NoAnswerError("its ids can't be part of a URL, so that its absence can't be proven")
        dag = self._dags[cell.dag_id]
        if not _yes(dag):
            return dag
        run = self._runs.get((cell.dag_id, cell.run_id))
        if run is None:
            return NoAnswerError("too many runs are missing to ask about each")
        still = self._still.get(cell.dag_id)
        return still if _no(run) and isinstance(still, NoAnswerError) else run


def _yes(told: Told | None) -> bool:
    return isinstance(told, tuple) and told[0]


def _no(told: Told | None) -> bool:
    return isinstance(told, tuple) and not told[0]
