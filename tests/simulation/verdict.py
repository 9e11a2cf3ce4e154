"""What the models' truth says of a Pod, independently of the healer's rules: never to be deleted, or to be healed."""

from __future__ import annotations

from collections.abc import Sequence

from healer.config import AirflowConfig
from healer.labels import parse
from healer.model import Action, LabelKey, Pod, Reason
from tests.simulation.airflow import Kpo, Task, Worker, is_over
from tests.simulation.cluster import Server

HELD = frozenset({"running", "deferred"})
TO_COME = frozenset({None, "up_for_retry", "restarting"})


POLICY = "the policy"
"""How a refusal begins that is the user's wish and no use by Airflow."""


class Verdict:
    """The judge who knows the truth."""

    def __init__(self, config: AirflowConfig, tasks: Sequence[Task], server: Server, kpo: Kpo) -> None:
        self._config, self._tasks, self._server, self._kpo = config, tasks, server, kpo

    def _policy(self, reason: Reason) -> str | None:
        allowed = self._config.policy.actions.get(reason) is Action.DELETE
        return None if allowed else f"{POLICY} does not delete what is {reason.value}"

    def never_of_pod(self, pod: Pod) -> str | None:
        """Return why the Pod alone says that it must not be deleted."""
        refusals = (
            (pod.terminating, "it terminates already"),
            (pod.protected, "it is protected"),
            (pod.owned, "a Job owns it"),
            (pod.phase not in {"Pending", "Running", "Succeeded", "Failed"}, "its node is lost"),
            (not isinstance(parse(pod.labels), LabelKey), "its labels are not whole"),
            (pod.stamp not in {None, self._config.name}, "it is another Airflow's"),
            (not pod.selected, "it is no KubernetesPodOperator Pod any more"),
            (pod.namespace not in self._config.namespaces, "its namespace is not ours"),
        )
        return next((why for refused, why in refusals if refused), None)

    def never_of_airflow(self, pod: Pod) -> str | None:
        """Return why Airflow's truth says that it must not be deleted: it is in use, may be, or is not known."""
        number = self._server.facts[pod.uid].task
        key = parse(pod.labels)
        if number is None or not isinstance(key, LabelKey):
            return "no task instance made it"
        task = self._tasks[number]
        if not task.exists:
            return self._never_unknown(task)
        return self._never_known(pod, task, key.try_number)

    def _never_unknown(self, task: Task) -> str | None:
        if task.dag_exists and not task.run_exists:
            return self._policy(Reason.RUN_DELETED)
        return "Airflow does not know its task instance"

    def _never_known(self, pod: Pod, task: Task, label_try: int) -> str | None:
        if task.setup.operator != "KubernetesPodOperator":
            return "a Job may still need it"
        if task.setup.elsewhere:
            return "the task instance runs in another namespace"
        if label_try > task.number:
            return "Airflow has not come to its try"
        used = self._used(pod, task, label_try)
        if used is not None:
            return used
        over = ended_for_good(pod, task)
        if pod.checked and not over:
            return self._policy(Reason.ABANDONED)
        return self._policy(Reason.TASK_REMOVED) if task.state == "removed" and not pod.checked else None

    def _used(self, pod: Pod, task: Task, label_try: int) -> str | None:
        state = task.state
        if task.ended:
            return self._doubtful(pod, task, label_try)
        if state == "removed":
            return None
        if state in TO_COME:
            return None if pod.checked else "the next try may adopt it"
        if state not in HELD | {"scheduled", "queued"}:
            return "its state is not one of an ended task"
        if label_try == task.number:
            return "its task instance is at this try"
        return self._held_by_later(pod, task, task.holder)

    def _doubtful(self, pod: Pod, task: Task, label_try: int) -> str | None:
        """An ended task instance's Pod that looks like a copy of the real one."""
        if pod.checked:
            return None
        if label_try == task.number and not ended_for_good(pod, task) and self._names_another(pod, task):
            return "Airflow names another Pod: this one may be a copy"
        if task.end is not None and (pod.created or 0.0) - task.end > 600:
            return "it was made long after the task instance ended"
        return None

    def _names_another(self, pod: Pod, task: Task) -> bool:
        return bool({name for name in (task.stored, task.xcom) if name}) and not self._named(pod, task)

    def _held_by_later(self, pod: Pod, task: Task, holder: Worker | None) -> str | None:
        if holder is not None and holder.pod == pod.uid and (not pod.checked or holder.stage != "ending"):
            return "a later try has adopted it"
        if pod.checked:
            return None
        if task.state not in HELD:
            return "the try to come may adopt it"
        if holder is not None and holder.stage == "search" and not holder.lost:
            return "the try in progress may adopt it"
        alone = self._kpo.candidates(task) == [pod.uid]
        stranded = holder is None or holder.lost or holder.pod not in self._server.pods
        return "the next try would adopt it" if alone and stranded else None

    # --- what must be healed ------------------------------------------------------------------------------------------

    def expected(self, pod: Pod) -> Reason | None:
        """Return why this Pod must be gone in the end, None if it may stay."""
        number = self._server.facts[pod.uid].task
        key = parse(pod.labels)
        if number is None or not isinstance(key, LabelKey) or self.never_of_pod(pod) or self.never_of_airflow(pod):
            return None
        task = self._tasks[number]
        if not task.exists:
            return Reason.RUN_DELETED
        if task.state == "removed" and not pod.checked:
            return Reason.TASK_REMOVED
        if pod.checked:
            reason = self._expected_checked(pod, task)
        elif task.ended:
            reason = self._expected_ended(pod, task)
        else:
            reason = self._expected_superseded(pod, task, key.try_number)
        return reason if reason and self._config.policy.actions.get(reason) is Action.DELETE else None

    def _expected_checked(self, pod: Pod, task: Task) -> Reason | None:
        over = ended_for_good(pod, task)
        if self._named(pod, task) and task.state in HELD:
            return None
        return Reason.KEPT if over else Reason.ABANDONED

    def _expected_ended(self, pod: Pod, task: Task) -> Reason | None:
        return Reason.FINISHED if ended_for_good(pod, task) else Reason.ORPHANED

    def _expected_superseded(self, pod: Pod, task: Task, label_try: int) -> Reason | None:
        if task.state not in HELD or label_try >= task.number or self._named(pod, task):
            return None
        names = [name for name in (task.stored, task.xcom) if name]
        siblings = [self._server.of_name(task.setup.namespace, name) for name in names]
        living = any(other is not None and self._replaces(other, pod, task, label_try) for other in siblings)
        return Reason.SUPERSEDED if living else None

    def _replaces(self, other: Pod, pod: Pod, task: Task, label_try: int) -> bool:
        key = parse(other.labels)
        alive = not (other.terminating or other.checked or other.owned or other.phase == "Unknown")
        if not alive or not isinstance(key, LabelKey) or not label_try < key.try_number <= task.number:
            return False
        if self._server.facts[other.uid].task != self._server.facts[pod.uid].task:
            return False
        return (other.created or 0.0) - (pod.created or 0.0) >= self._config.policy.grace

    @staticmethod
    def _named(pod: Pod, task: Task) -> bool:
        return pod.name in {task.stored, task.xcom} and pod.namespace == task.setup.namespace


def ended_for_good(pod: Pod, task: Task) -> bool:
    """Whether the Pod's work has ended and no container starts again."""
    return is_over(pod, task.setup.base) and (pod.restart_never or pod.phase in {"Succeeded", "Failed"})
