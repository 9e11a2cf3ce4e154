"""The seam to Airflow: three questions, answered from the model as its faults allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from msgspec import UNSET
from msgspec.structs import replace

from healer.labels import parse
from healer.model import Absent, Ambiguous, Answer, Identity, Known, LabelKey, Pod, RunDeleted, TaskInstance, Unknown
from healer.rules import ENDED, needs_identity
from tests.simulation.airflow import Snapshot, Task
from tests.simulation.cluster import Server, Time

WATERMARK = 600.0
"""Seconds by which the pass query looks back."""


@dataclass
class AirflowFaults:
    """What is wrong with Airflow right now. `lag` and `latency` in seconds."""

    mode: str = ""
    lag: float = 0.0
    latency: float = 0.05


Hook = Callable[[str, Sequence[Pod]], None]


class AirflowSeam:
    """What the healer takes for its Airflow client. `forward` lets time pass while a request is under way."""

    def __init__(
        self,
        tasks: Sequence[Task],
        server: Server,
        faults: AirflowFaults,
        clock: Time,
        forward: Callable[[float], None],
    ) -> None:
        self._tasks, self._server, self._clock, self._forward = tasks, server, clock, forward
        self.faults = faults
        self.hook: Hook = lambda _name, _pods: None
        self.seen: dict[str, int] = {}
        self._resolved: set[str] = set()
        self._kept: dict[str, tuple[str | None, bool, Identity]] = {}
        self._asked_lately = -1.0

    def start_audit(self) -> None:
        """Forget identities that may have changed, as the client does."""
        self._kept = {uid: kept for uid, kept in self._kept.items() if kept[1]}

    def forget(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._resolved.discard(uid)
            self._kept.pop(uid, None)

    def look(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(pods, fresh=False)

    def ask_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        lag = self.faults.lag
        answers = self._ask(pods, fresh=True)
        for pod in pods:
            if pod.uid in answers:
                facts = self._server.facts[pod.uid]
                facts.asked, facts.lag = answers[pod.uid].sent, lag
        self.hook("answered", pods)
        return answers

    def ended_lately(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        known = [pod for pod in pods if pod.uid in self._resolved]
        since, self._asked_lately = self._asked_lately, self._clock()
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

    # --- one question -------------------------------------------------------------------------------------------------

    def _ask(self, pods: Sequence[Pod], *, fresh: bool) -> dict[str, Answer]:
        sent, faults = self._clock(), self.faults
        self._count(faults.mode or "clear")
        if faults.mode == "down":
            self._forward(faults.latency)
            return {pod.uid: Unknown(sent, "Airflow is down") for pod in pods}
        self._forward(faults.latency / 3)
        read = self._clock()
        rows = {pod.uid: self._read(pod, sent) for number, pod in enumerate(pods) if not self._omits(number)}
        if fresh:
            self.hook("asked", pods)
        self._forward(faults.latency / 3)
        answers = {p.uid: self._identified(p, rows[p.uid], sent, fresh=fresh) for p in pods if p.uid in rows}
        self._note(pods, answers, read)
        self._forward(faults.latency / 3)
        return answers

    def _omits(self, number: int) -> bool:
        return self.faults.mode == "silent" and number % 2 == 0

    def _note(self, pods: Sequence[Pod], answers: dict[str, Answer], read: float) -> None:
        for pod in pods:
            answer = answers.get(pod.uid)
            if answer is None or isinstance(answer, Unknown):
                continue
            self._server.facts[pod.uid].looks += read >= self._server.facts[pod.uid].free_since
            if isinstance(answer, Known):
                self._resolved.add(pod.uid)
            else:
                self._resolved.discard(pod.uid)

    def _task_of(self, pod: Pod) -> Task | None:
        key = parse(pod.labels)
        if not isinstance(key, LabelKey):
            return None
        for task in self._tasks:
            if (task.task_id, task.setup.map_index) == (key.task_id, key.map_index):
                return task
        return None

    def _read(self, pod: Pod, sent: float) -> Answer:
        task = self._task_of(pod)
        mode = self.faults.mode
        if task is None:
            return Unknown(sent, "no task of these labels")
        if mode == "partial" and task.index % 2 == 0:
            return Unknown(sent, "fewer rows than there are")
        if mode == "ambiguous":
            return Ambiguous(sent, "two runs have this label")
        return self._known(task.at(self._clock() - self.faults.lag), sent)

    def _known(self, then: Snapshot, sent: float) -> Answer:
        if not then.dag_exists:
            return Absent(sent, "no such DAG")
        if not then.run_exists:
            return RunDeleted(sent, "etl", "scheduled__2026-01-01T00:00:00+00:00")
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
        return row

    def _identified(self, pod: Pod, answer: Answer, sent: float, *, fresh: bool) -> Answer:
        other = self.faults.mode == "other-row"  # the client never asks more about a row that it did not ask for
        if other or not isinstance(answer, Known) or not needs_identity(pod, answer.task):
            return answer
        kept = self._kept.get(pod.uid)
        ended = answer.task.state in ENDED
        if not fresh and kept is not None and kept[:2] == (answer.task.id, ended):
            return replace(answer, identity=kept[2])
        identity = self._identity(pod)
        self._kept.pop(pod.uid, None)
        if identity.failed is None:
            self._kept[pod.uid] = answer.task.id, ended, identity
        return replace(answer, identity=identity)

    def _identity(self, pod: Pod) -> Identity:
        if self.faults.mode == "identity-fails":
            self._count("identity failed")
            return Identity(failed="the state store answers 500")
        task = self._task_of(pod)
        then = task.at(self._clock() - self.faults.lag) if task else None
        if task is None or then is None:
            return Identity()
        named = {(task.setup.namespace, name) for name in (then.stored, then.xcom) if name is not None}
        self._count(f"identity names {len(named)}")
        return Identity(frozenset(named))

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1
