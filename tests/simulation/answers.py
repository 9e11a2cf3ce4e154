"""The seam to Airflow: three questions, answered from the model as its faults allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from healer.decision.rules import may_prove_itself, needs_identity
from healer.model import (
    Absent,
    Ambiguous,
    Answer,
    DagDeleted,
    Known,
    NamedPods,
    Pod,
    RunDeleted,
    TaskInstance,
    Unknown,
)
from tests.simulation.airflow import ENDED, Snapshot, Task, label_value
from tests.simulation.cluster import Server, Time

REFUSALS = ("login ended", "forbidden", "gate")
"""What an account may meet in mid-run, to whatever it asks: its login has ended, its rights or a gate in front."""

DOWN = frozenset({"down", *REFUSALS})
UNANSWERED = DOWN | {"identity-fails"}

WATERMARK = 600.0
"""Seconds by which the pass query looks back."""


@dataclass
class AirflowFaults:
    """What is wrong with Airflow right now. `lag` and `latency` in seconds.

    `hidden`: sources of the identity that may never be read. What stays wrong in the end too: `poisoned` are the task
    instances whose rows spoil each answer that has them, `refusal` is what a database says to an id with a NUL.
    """

    mode: str = ""
    lag: float = 0.0
    latency: float = 0.05
    hidden: frozenset[str] = frozenset()
    poisoned: set[int] = field(default_factory=set)
    refusal: int = 500


@dataclass(slots=True)
class Note:
    """What one healer has seen of a Pod: how often clearly since it is free; when it last asked, at which lag."""

    looks: int = 0
    asked: float | None = None
    lag: float = 0.0


class Notes:
    """The notes on all Pods, kept for the checks; by uid. Times are the model's."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._notes: dict[str, Note] = {}

    def of(self, uid: str) -> Note:
        """Return the note on a Pod."""
        note = self._notes.get(uid)
        if note is None:
            note = self._notes[uid] = Note()
        return note

    def looked(self, uid: str, read: float) -> None:
        """A clear answer was read from the database at this time."""
        self.of(uid).looks += read >= self._server.facts[uid].free_since

    def asked(self, uid: str, sent: float, lag: float) -> None:
        """A confirmation was asked for."""
        note = self.of(uid)
        note.asked, note.lag = sent, lag


Hook = Callable[[str, Sequence[Pod]], None]


class Seam:
    """What the healer takes for its Airflow client. `forward` lets time pass while a request is under way.

    `clock` is the healer's own; the database's past is kept by the server's.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        server: Server,
        faults: AirflowFaults,
        clock: Time,
        forward: Callable[[float], None],
    ) -> None:
        self.tasks, self.server, self.clock, self.forward = tasks, server, clock, forward
        self.faults = faults
        self.version: str | None = "3.3.2"
        self.hook: Hook = lambda _name, _pods: None
        self.seen: Counter[str] = Counter()
        self.notes = Notes(server)


class AirflowSeam(Seam):
    """Its questions are answered from the model at once: there is no client."""

    def __init__(self, *world: Any) -> None:
        super().__init__(*world)
        self.set_aside = 0
        self._resolved: set[str] = set()
        self._kept: dict[str, tuple[TaskInstance, NamedPods]] = {}
        self._asked_lately = -1.0
        self._by_labels = {(label_value(task.task_id), task.setup.map_index): task for task in reversed(self.tasks)}

    def troubles(self) -> dict[str, str]:
        """None: what is spoilt is not set aside here."""
        return {}

    def start_audit(self) -> None:
        """Forget identities that may have changed, as the client does."""
        self._kept = {uid: kept for uid, kept in self._kept.items() if kept[0].state in ENDED}

    def forget(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._resolved.discard(uid)
            self._kept.pop(uid, None)

    def get_all(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(pods, fresh=False)

    def get_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        lag = self.faults.lag
        shift = self.server.clock() - self.clock()
        answers = self._ask(pods, fresh=True)
        for pod in pods:
            if pod.uid in answers:
                self.notes.asked(pod.uid, answers[pod.uid].sent + shift, max(lag, self.faults.lag))
        self.hook("answered", pods)
        return answers

    def list_recently_ended(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        known = [pod for pod in pods if pod.uid in self._resolved]
        since, self._asked_lately = self._asked_lately, self.server.clock()
        answers = self._ask(known, fresh=False) if known else {}
        return {uid: answer for uid, answer in answers.items() if self._is_news(answer, since)}

    @staticmethod
    def _is_news(answer: Answer, since: float) -> bool:
        if isinstance(answer, Unknown):
            return True
        if not isinstance(answer, Known) or answer.task.state not in ENDED:
            return False
        end = answer.task.end_date
        return since < 0 or (end is not None and end >= since - WATERMARK)

    def get_current_pods(self, cases: Sequence[tuple[Pod, TaskInstance]]) -> dict[str, NamedPods]:
        """Return which Pod the latest try itself has named: the XCom alone tells."""
        return {pod.uid: self._current(pod) for pod, _ in cases}

    def _current(self, pod: Pod) -> NamedPods:
        task = self._task_of(pod)
        if self.faults.mode in UNANSWERED:
            return NamedPods(failed="no answer")
        xcom = self._then(task).xcom if task and "xcom" not in self.faults.hidden else None
        return NamedPods(frozenset({(task.setup.namespace, xcom)})) if task and xcom else NamedPods()

    # --- one question -------------------------------------------------------------------------------------------------

    def _ask(self, pods: Sequence[Pod], *, fresh: bool) -> dict[str, Answer]:
        sent, faults = self.clock(), self.faults
        self.seen[faults.mode or "clear"] += 1
        if faults.mode in DOWN:
            self.forward(faults.latency)
            return {pod.uid: Unknown(sent, "Airflow is down") for pod in pods}
        self.forward(faults.latency / 3)
        read = self.server.clock()
        rows = {pod.uid: self._read(pod, sent) for number, pod in enumerate(pods) if not self._omits(number)}
        if fresh:
            self.hook("asked", pods)
        self.forward(faults.latency / 3)
        named = self.server.clock()
        answers = {p.uid: self._identified(p, rows[p.uid], sent, fresh=fresh) for p in pods if p.uid in rows}
        self._note(pods, answers, read, named)
        self.forward(faults.latency / 3)
        return answers

    def _omits(self, number: int) -> bool:
        return self.faults.mode == "silent" and number % 2 == 0

    def _note(self, pods: Sequence[Pod], answers: dict[str, Answer], read: float, named: float) -> None:
        """Note clear answers. Which Pod a living task instance uses is told by what is read last, at `named`."""
        for pod in pods:
            answer = answers.get(pod.uid)
            if answer is None or isinstance(answer, Unknown):
                continue
            lives = isinstance(answer, Known) and answer.task.state not in ENDED
            self.notes.looked(pod.uid, named if lives else read)
            if isinstance(answer, Known):
                self._resolved.add(pod.uid)
            else:
                self._resolved.discard(pod.uid)

    def _task_of(self, pod: Pod) -> Task | None:
        key = self.server.facts[pod.uid].key
        labels = pod.labels
        if key is None or labels.task_id is None:
            return None
        return self._by_labels.get((labels.task_id, key.map_index))

    def _has_twin(self, task: Task) -> bool:
        there = (t for t in self.tasks if t is not task and t.face == task.face)
        return any(self._then(twin).row is not None for twin in there)

    def _then(self, task: Task) -> Snapshot:
        return task.at(self.server.clock() - self.faults.lag)

    def _read(self, pod: Pod, sent: float) -> Answer:
        task = self._task_of(pod)
        mode = self.faults.mode
        if task is None:
            return Unknown(sent, "no task of these labels")
        if task.index in self.faults.poisoned:
            return Unknown(sent, "this row spoils the answer")
        if (mode == "partial" and task.index % 2 == 0) or mode == "contradiction":
            return Unknown(sent, "fewer rows than there are, or two that contradict each other")
        if mode == "ambiguous" or self._has_twin(task):
            return Ambiguous(sent, "two runs have this label")
        if mode == "unreadable DAG":
            return Unknown(sent, "Airflow answers 403")
        return self._known(task, self._then(task), sent)

    def _known(self, task: Task, then: Snapshot, sent: float) -> Answer:
        if not then.dag_exists:
            return DagDeleted(sent, task.dag_id)
        if not then.run_exists:
            return RunDeleted(sent, task.dag_id, task.run_id)
        if then.row is None:
            return Absent(sent, "the run has no such task instance")
        return Known(sent, self._spoilt(then.row))

    def _spoilt(self, row: TaskInstance) -> TaskInstance:
        match self.faults.mode:
            case "no-state":
                return replace(row, state=UNSET)
            case "no-try":
                return replace(row, try_number=None)
            case "no-operator":
                return replace(row, operator=None)
            case "other-row":
                return replace(row, run_id="manual-1", state="success")
            case "odd-state":
                return replace(row, state="exhausted")
            case "ids alone":
                return TaskInstance(row.dag_id, row.run_id, row.task_id, row.map_index)
            case "other Airflow":
                return replace(row, id="other", state="success", try_number=0)
        return row

    def _identified(self, pod: Pod, answer: Answer, sent: float, *, fresh: bool) -> Answer:
        other = self.faults.mode == "other-row"  # the client never asks more about a row that it did not ask for
        if other or not isinstance(answer, Known):
            return answer
        refuted = pod.namespace in getattr(self, "refuted", ())
        if not needs_identity(pod, answer.task) and not may_prove_itself(pod, answer.task, refuted=refuted):
            return answer
        kept = self._kept.get(pod.uid)
        if kept is not None and (_is_own(pod, answer.task, *kept) if fresh else _is_same(answer.task, kept[0])):
            self.seen["identity remembered at a confirmation"] += fresh
            return replace(answer, identity=kept[1])
        identity = self._identity(pod)
        self._kept.pop(pod.uid, None)
        if identity.failed is None:
            self._kept[pod.uid] = answer.task, identity
        return replace(answer, identity=identity)

    def _identity(self, pod: Pod) -> NamedPods:
        if self.faults.mode in UNANSWERED:  # it may have begun since the row was read
            self.seen["identity failed"] += 1
            return NamedPods(failed="the state store answers 500")
        task = self._task_of(pod)
        if task is None:
            return NamedPods()
        then = self._then(task)
        sources, hidden = {"store": then.stored, "xcom": then.xcom}, self.faults.hidden
        named = {(task.setup.namespace, name) for what, name in sources.items() if name and what not in hidden}
        self.seen[f"identity names {len(named)}"] += 1
        return NamedPods(frozenset(named))


def _is_same(task: TaskInstance, before: TaskInstance) -> bool:
    return (task.id, task.state in ENDED) == (before.id, before.state in ENDED)


def _is_own(pod: Pod, task: TaskInstance, before: TaskInstance, named: NamedPods) -> bool:
    """Whether this is the end of a try that was heard to have used this very Pod: that stays true."""
    same = (task.id, task.try_number, task.state) == (before.id, before.try_number, before.state)
    once = task.end_date is not None and task.end_date == before.end_date
    return same and once and task.state in ENDED and named.names_with_namespace(pod)
