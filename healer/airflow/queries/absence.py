"""What it means that no list has a Pod's task instance. A list proves nothing: it omits what the token may not read.

Absence is proven by single questions and Airflow's exact words, once per DAG and per run and never per Pod: is there
the DAG? is there the run? is the DAG *still* there (a DAG that is being deleted loses its runs too)? Of a Pod whose
labels don't tell its task instance no list was asked for that: is there any of the DAG, which Airflow 3 denies too
where it has only no parsed form?
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from healer.airflow.api.task_key import TaskKey, is_addressable
from healer.airflow.queries.lookups import anything_left, ask_task_instance, dag_exists, run_exists
from healer.airflow.queries.session import QuerySession
from healer.airflow.queries.turns import Turns, ask_in_turn
from healer.errors import NoAnswerError
from healer.model import Absent, Ambiguous, Answer, DagDeleted, Known, RunDeleted, Unknown

MOST_DAGS = 500
MAX_RUNS = 500
MAX_TASK_INSTANCES = 200
"""How much is asked singly in one question: 10 s of the server's time. What is beyond is not known, and has its turn in
a later pass."""

Existence = tuple[bool, float] | NoAnswerError
"""Whether something exists and when that was asked, or why it is not known."""


class UnlistedPod(Struct, frozen=True):
    """A Pod that no list had: its candidates, and its map index. `asked`: its task instance was asked for singly.

    `unresolved`: why its labels don't tell its task instance. All the same its run, if `run_known`, or its DAG may be
    absent, and with it whatever task instance it was.
    """

    uid: str
    task_keys: tuple[TaskKey, ...]
    map_index: int
    asked: bool = False
    unresolved: str | None = None
    run_known: bool = True


class AbsenceTurns:
    """Whose turn it is to be asked for singly; kept from question to question."""

    def __init__(self) -> None:
        self.dags: Turns[str] = Turns("DAGs", lambda dag: dag)
        self.runs: Turns[tuple[str, str]] = Turns("runs", lambda run: run[0])
        self.pods: Turns[tuple[str, str]] = Turns("single task instances", lambda pod: pod[0])


class Absence:
    """Proves what is absent, for many Pods together.

    All that it says is dated by the begin of its round: no request behind it can be older.
    """

    def __init__(self, session: QuerySession, turns: AbsenceTurns | None = None) -> None:
        self._session = session
        self._turns = turns or AbsenceTurns()
        self._dags: dict[str, Existence] = {}
        self._runs: dict[tuple[str, str], Existence] = {}
        self._still: dict[str, Existence] = {}
        self._left: dict[str, Existence] = {}
        self._since = session.began

    def explain(self, missing: Sequence[UnlistedPod]) -> dict[str, Answer]:
        """Return an answer for every one of them, by uid."""
        turns = self._turns
        task_keys = {task_key for pod in missing for task_key in pod.task_keys if is_addressable(task_key)}

        def has_dag(dag: str) -> tuple[bool, float]:
            return dag_exists(self._session, dag)

        self._dags = ask_in_turn(
            self._session, turns.dags, {task_key.dag_id for task_key in task_keys}, MOST_DAGS, has_dag
        )
        unresolved = {task_key.dag_id for pod in missing if pod.unresolved is not None for task_key in pod.task_keys}
        denied = {dag for dag in unresolved if _no(self._dags.get(dag))}
        self._go_on()
        self._left = ask_in_turn(
            self._session, turns.dags, denied, MOST_DAGS, lambda dag: anything_left(self._session, dag)
        )
        known = {task_key for pod in missing if pod.run_known for task_key in pod.task_keys} & task_keys
        runs = {(task_key.dag_id, task_key.run_id) for task_key in known if _yes(self._dags[task_key.dag_id])}
        self._go_on()
        self._runs = ask_in_turn(self._session, turns.runs, runs, MAX_RUNS, lambda run: run_exists(self._session, *run))
        gone = {dag for (dag, _), told in self._runs.items() if _no(told)}
        self._go_on()
        self._still = ask_in_turn(self._session, turns.dags, gone, MOST_DAGS, has_dag)
        self._go_on()
        singly = self._ask_singly(missing)
        self._session.settle()
        return {pod.uid: singly.get(pod.uid) or self._concluded(pod) for pod in missing}

    def _go_on(self) -> None:
        """Begin a step: that some questions of the one before were slow is no reason to leave out those of this one."""
        if self._session.is_only_slow():
            self._session = self._session.apart()

    def _ask_singly(self, missing: Sequence[UnlistedPod]) -> dict[str, Answer]:
        """Ask for the task instances whose runs exist; return what is known of each that is not proven absent.

        Where it is not known of all candidates whether their runs exist, one that is found need not be the only one.
        """
        doubtful = {
            (pod.task_keys[0].dag_id, pod.uid): pod
            for pod in missing
            if not pod.asked
            and pod.unresolved is None
            and any(self._run_is_there(task_key) for task_key in pod.task_keys)
            and not any(isinstance(self._existence_of(task_key, pod), NoAnswerError) for task_key in pod.task_keys)
        }
        told = ask_in_turn(
            self._session, self._turns.pods, doubtful.keys(), MAX_TASK_INSTANCES, lambda key: self._ask(doubtful[key])
        )
        return {
            uid: Unknown(self._since, str(answer)) if isinstance(answer, NoAnswerError) else answer
            for (_, uid), answer in told.items()
            if answer is not None
        }

    def _run_is_there(self, task_key: TaskKey) -> bool:
        return _yes(self._runs.get((task_key.dag_id, task_key.run_id)))

    def _ask(self, pod: UnlistedPod) -> Answer | None:
        """Ask for the task instance in the runs that exist; None if there really is none. Raises NoAnswerError."""
        found = []
        for task_key in (task_key for task_key in pod.task_keys if self._run_is_there(task_key)):
            reply = ask_task_instance(self._session, task_key, pod.map_index)
            if reply.value is not None:
                found.append(reply.value)
        if len(found) > 1:
            return Ambiguous(self._since, f"{len(found)} task instances have these labels")
        return Known(self._since, found[0]) if found else None

    def _concluded(self, pod: UnlistedPod) -> Answer:
        """Return what the Pod's candidates prove: the run or the DAG is gone only if every one of them is."""
        told = [self._existence_of(task_key, pod) for task_key in pod.task_keys]
        why = next((str(t) for t in told if isinstance(t, NoAnswerError)), None)
        if why is not None:
            return Unknown(self._since, why)
        if pod.unresolved is not None and any(_yes(existence) for existence in told):
            return Ambiguous(self._since, pod.unresolved)
        there = next((task_key for task_key in pod.task_keys if self._run_is_there(task_key)), None)
        if there is not None:
            return Absent(self._since, f"run {there.run_id!r} exists, and has no such task instance")
        deleted = [task_key for task_key in pod.task_keys if _yes(self._still.get(task_key.dag_id))]
        if not deleted:
            return DagDeleted(self._since, pod.task_keys[-1].dag_id)
        only_dag = len({task_key.dag_id for task_key in deleted}) == 1
        return RunDeleted(self._since, deleted[-1].dag_id, deleted[-1].run_id, only_dag)

    def _existence_of(self, task_key: TaskKey, pod: UnlistedPod) -> Existence:
        """Return whether the run (its DAG, where no run is known) exists; a NoAnswerError if that is not known."""
        if not is_addressable(task_key):
            return NoAnswerError("its ids can't be part of a URL, so that its absence can't be proven")
        dag = self._dags[task_key.dag_id]
        if pod.unresolved is not None and _no(dag):
            return self._left[task_key.dag_id]
        if not _yes(dag) or not pod.run_known:
            return dag
        run = self._runs[task_key.dag_id, task_key.run_id]
        still = self._still.get(task_key.dag_id)
        return still if _no(run) and isinstance(still, NoAnswerError) else run


def _yes(told: Existence | None) -> bool:
    return isinstance(told, tuple) and told[0]


def _no(told: Existence | None) -> bool:
    return isinstance(told, tuple) and not told[0]
