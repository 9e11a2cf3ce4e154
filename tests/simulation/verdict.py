"""What the models' truth says of a Pod, independently of the healer's rules: never to be deleted, or to be healed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from healer.decision.rules import DEFAULT_BASE
from healer.model import Pod
from tests.simulation.airflow import RUN_ID, Kpo, Task, Worker, is_over, label_value
from tests.simulation.answers import AirflowFaults
from tests.simulation.cluster import NAMESPACES, Server

HELD = frozenset({"running", "deferred"})
TO_COME = frozenset({None, "up_for_retry", "restarting"})


POLICY = "the policy"
"""How a refusal begins that is the user's wish and no use by Airflow."""


DELETED_BY_DEFAULT = frozenset({"orphaned", "finished", "kept", "superseded"})

NAME = "prod"
"""The name of the one Airflow that the healer looks after."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Read a duration as users write it."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9.]+)([smh])", text))


@dataclass(frozen=True)
class Wishes:
    """What the user asked for, read from what stands in the file and not from what the healer made of it. Seconds."""

    enforce: bool
    deletes: frozenset[str]
    min_age: float
    grace: float
    absent_grace: float
    sightings: int
    retention: Mapping[str, float]
    per_minute: int | None
    max_share: float
    min_count: int
    cool_down: float

    def stay(self, outcome: str, annotation: float | None) -> float:
        """How long a done Pod stays; its annotation may ask for more, and what is below 0 for all there is."""
        longest = self.retention.get("longest", 30 * 86400.0)
        asked = 0.0 if annotation is None else longest if annotation < 0 or annotation > longest else annotation
        return max(asked, self.retention[outcome])


def wishes(airflow: Mapping[str, Any]) -> Wishes:
    """Read one Airflow's part of a configuration."""
    policy, limits = airflow["policy"], airflow["limits"]
    actions, breaker = policy["actions"], limits.get("breaker", {})
    deletes = {reason for reason in DELETED_BY_DEFAULT if actions.get(reason, "delete") == "delete"}
    deletes |= {reason for reason, action in actions.items() if action == "delete"}
    return Wishes(
        enforce=airflow["mode"] == "enforce",
        deletes=frozenset(deletes),
        min_age=seconds(policy["minAge"]),
        grace=seconds(policy["grace"]),
        absent_grace=seconds(policy["absentGrace"]),
        sightings=policy["sightings"],
        retention={what: seconds(text) for what, text in policy["retention"].items()},
        per_minute=limits.get("deletionsPerMinute", 60),
        max_share=breaker.get("maxShare", 0.5),
        min_count=breaker.get("minCount", 5),
        cool_down=seconds(breaker.get("coolDown", "10m")),
    )


class Verdict:
    """The judge who knows the truth. `hidden`: sources of the identity that the healer's account may never read."""

    def __init__(
        self,
        wanted: Wishes,
        tasks: Sequence[Task],
        server: Server,
        kpo: Kpo,
        faults: AirflowFaults,
        hidden: frozenset[str],
    ) -> None:
        self._wanted, self._tasks, self._server, self._kpo = wanted, tasks, server, kpo
        self._faults, self._hidden = faults, hidden
        self._ours = [task for task in tasks if task.ours]
        self._mates = {
            task.place: [other for other in tasks if not other.ours and other.face == task.face] for task in self._ours
        }

    def _policy(self, reason: str) -> str | None:
        return None if reason in self._wanted.deletes else f"{POLICY} does not delete what is {reason}"

    def never_of_pod(self, pod: Pod) -> str | None:
        """Return why the Pod alone says that it must not be deleted."""
        refusals = (
            (pod.terminating, "it terminates already"),
            (pod.protected, "it is protected"),
            (pod.owned, "a Job owns it"),
            (pod.phase not in {"Pending", "Running", "Succeeded", "Failed"}, "its node is lost"),
            (self._server.facts[pod.uid].key is None, "its labels are not whole"),
            (pod.owner_label not in {None, NAME}, "it is another Airflow's"),
            (not pod.selected, "it is no KubernetesPodOperator Pod any more"),
            (pod.namespace not in NAMESPACES, "its namespace is not ours"),
        )
        return next((why for refused, why in refusals if refused), None)

    def never_of_airflow(self, pod: Pod) -> str | None:
        """Return why Airflow's truth says that it must not be deleted: it is in use, may be, or is not known."""
        number = self._server.facts[pod.uid].task
        if number is not None and not self._tasks[number].exists and self._server.facts[pod.uid].key is not None:
            return self._never_unknown(pod, self._tasks[number])
        return self.never_if_known(pod)

    def never_if_known(self, pod: Pod) -> str | None:
        """Return the same, as if Airflow still had what it lost: a row, a run, a DAG."""
        facts = self._server.facts[pod.uid]
        number, key = facts.task, facts.key
        if number is None or key is None:
            return "no task instance made it"
        task = self._tasks[number]
        if any(other is not task and other.exists and other.face == task.face for other in self._ours):
            return "its labels fit two task instances"
        return self._never_known(pod, task, key.try_number)

    def _never_unknown(self, pod: Pod, task: Task) -> str | None:
        if task.dag_exists and task.run_exists:
            return "Airflow does not know its task instance"
        if is_over(pod, DEFAULT_BASE) and ended_for_good(pod, task):
            return self._policy("purged")
        return self._policy("run-deleted") if task.dag_exists else "Airflow does not know its task instance"

    def never_of_others(self, pod: Pod) -> str | None:
        """Return why another Airflow, which has the same ids in this namespace, says that it is in use or may be."""
        facts = self._server.facts[pod.uid]
        if facts.task is None or facts.key is None:
            return None
        mates = self._mates[facts.task]
        return next((why for mate in mates if (why := self._shared(pod, mate, facts.key.try_number)) is not None), None)

    def _shared(self, pod: Pod, mate: Task, label_try: int) -> str | None:
        if not mate.exists:
            return None
        if self._server.facts[pod.uid].maker == mate.index and not mate.ended and mate.state != "removed":
            used = self._used(pod, mate, label_try)
            return None if used is None else f"another Airflow's: {used}"
        holder = mate.holder
        if holder is not None and holder.pod == pod.uid and mate.state in HELD | {"scheduled", "queued"}:
            return "another Airflow's try holds it"
        waits = mate.state in TO_COME | {"scheduled", "queued"} or (holder is not None and holder.stage == "search")
        if waits and not mate.ended and pod.uid in self._kpo.candidates(mate):
            return "another Airflow's try may adopt it"
        return None

    def proven(self, pod: Pod) -> bool:
        """Whether something says that it is this Airflow's: its stamp, or Airflow which names this very Pod."""
        facts = self._server.facts[pod.uid]
        if pod.owner_label == NAME or facts.task is None or facts.key is None:
            return pod.owner_label == NAME
        return self._named(pod, self._tasks[facts.task])

    def tellable(self, pod: Pod) -> bool:
        """Whether the healer must see that it is this Airflow's: it asks for the name of the very try that ended."""
        facts = self._server.facts[pod.uid]
        if pod.owner_label == NAME or facts.task is None or facts.key is None:
            return pod.owner_label == NAME
        task = self._tasks[facts.task]
        asked = task.ended and facts.key.try_number == task.number and not (pod.checked and ended_for_good(pod, task))
        return task.exists and (asked or task.setup.elsewhere) and self._named(pod, task)

    def _never_known(self, pod: Pod, task: Task, label_try: int) -> str | None:
        if task.setup.operator != "KubernetesPodOperator":
            return "a Job may still need it"
        if task.setup.elsewhere and not self._named(pod, task):
            return "the task instance runs in another namespace"
        if label_try > task.number:
            return "Airflow has not come to its try"
        used = self._used(pod, task, label_try)
        if used is not None:
            return used
        over = ended_for_good(pod, task)
        if pod.checked and not over:
            return self._policy("abandoned")
        return self._policy("task-removed") if task.state == "removed" and not pod.checked else None

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
        if pod.checked and ended_for_good(pod, task):
            return None
        if label_try == task.number and self._names_another(pod, task):
            return "Airflow names another Pod: this one may be a copy"
        if pod.checked:
            return None
        if task.end is not None and (pod.created or 0.0) - task.end > 600:
            return "it was made long after the task instance ended"
        return None

    def contested(self, pod: Pod, task: Task, label_try: int) -> bool:
        """Whether it works at an earlier try while Airflow names another Pod, and bears no stamp: whose is it?"""
        works = task.exists and task.ended and not ended_for_good(pod, task)
        return works and label_try < task.number and pod.owner_label != NAME and self._names_another(pod, task)

    def _names_another(self, pod: Pod, task: Task) -> bool:
        return bool(self._names(task)) and not self._named(pod, task)

    def _names(self, task: Task) -> set[str]:
        """Return what the sources name that the healer may read."""
        stored = None if "store" in self._hidden else task.stored
        return {name for name in (stored, None if "xcom" in self._hidden else task.named_by_xcom) if name}

    def _held_by_later(self, pod: Pod, task: Task, holder: Worker | None) -> str | None:
        given_up = pod.checked and (self._server.facts[pod.uid].marked_by_user or (holder and holder.stage == "ending"))
        if holder is not None and holder.pod == pod.uid and not given_up:
            return "a later try has adopted it"
        if pod.checked:
            return None
        if task.state not in HELD:
            return "the try to come may adopt it"
        found = self._kpo.candidates(task)
        # A search takes the Pod that the state store names, where it is there, and looks at no other.
        if holder is not None and holder.stage == "search" and not holder.lost and pod.uid in found:
            return "the try in progress may adopt it"
        pods = self._server.pods
        alone = [uid for uid in found if not pods[uid].terminating] == [pod.uid]
        other = pods.get(holder.pod or "") if holder is not None and not holder.lost else None
        stranded = other is None or other.terminating or other.checked
        return "the next try would adopt it" if alone and stranded else None

    # --- what must be healed ------------------------------------------------------------------------------------------

    def expected(self, pod: Pod) -> str | None:
        """Return why this Pod must be gone in the end, None if it may stay."""
        facts = self._server.facts[pod.uid]
        number, key = facts.task, facts.key
        if number is None or key is None or self.never_of_pod(pod) or self.never_of_airflow(pod):
            return None
        task = self._tasks[number]
        if facts.maker != number or self.never_of_others(pod) is not None or self._is_spoilt(task):
            return None
        if self.contested(pod, task, key.try_number):
            return None
        if not task.exists:
            return self._expected_unknown(pod, task)
        if task.state == "removed" and not pod.checked:
            return "task-removed"
        if pod.checked:
            reason = self._expected_checked(pod, task)
        elif task.ended:
            reason = None if self._may_remember(task) else self._expected_ended(pod, task)
        else:
            reason = self._expected_superseded(pod, task, key.try_number)
        return reason if reason in self._wanted.deletes else None

    def _is_spoilt(self, task: Task) -> bool:
        """Whether the row is one that spoils each answer which has it."""
        spoilt = (self._tasks[number] for number in self._faults.poisoned)
        return any(one.face == task.face for one in spoilt)

    def _expected_unknown(self, pod: Pod, task: Task) -> str | None:
        # A label that only a list of runs, or of DAGs, can explain says nothing once its run, or its DAG, is no more.
        hashed = label_value(task.dag_id) != task.dag_id
        if hashed if not task.dag_exists else task.run_id != RUN_ID:
            return None
        over = is_over(pod, DEFAULT_BASE)
        if over is not ended_for_good(pod, task):  # what its base container is called is not known any more
            return None
        return "purged" if over else "run-deleted"

    def _expected_checked(self, pod: Pod, task: Task) -> str | None:
        over = ended_for_good(pod, task)
        if self._named(pod, task) and task.state in HELD:
            return None
        if not over and task.ended and self._may_remember(task):
            return None
        return "kept" if over else "abandoned"

    @staticmethod
    def _may_remember(task: Task) -> bool:
        """Whether the healer may go on keeping a copy of what Airflow named when this try had ended before.

        That is safe, until it restarts. So after a restore, and where the task was removed meanwhile.
        """
        return task.ident in task.revived | task.unnamed

    def _expected_ended(self, pod: Pod, task: Task) -> str | None:
        return "finished" if ended_for_good(pod, task) else "orphaned"

    def _expected_superseded(self, pod: Pod, task: Task, label_try: int) -> str | None:
        if task.state not in HELD or label_try >= task.number or self._named(pod, task):
            return None
        names = self._names(task)
        siblings = [self._server.of_name(task.setup.namespace, name) for name in names]
        living = any(other is not None and self._replaces(other, pod, task, label_try) for other in siblings)
        return "superseded" if living else None

    def _replaces(self, other: Pod, pod: Pod, task: Task, label_try: int) -> bool:
        key = self._server.facts[other.uid].key
        alive = not (other.terminating or other.checked or other.owned or other.phase == "Unknown")
        if not alive or key is None or not label_try < key.try_number <= task.number:
            return False
        if self._server.facts[other.uid].task != self._server.facts[pod.uid].task:
            return False
        return (other.created or 0.0) - (pod.created or 0.0) >= self._wanted.grace

    def _named(self, pod: Pod, task: Task) -> bool:
        return pod.name in self._names(task) and pod.namespace == task.setup.namespace


def ended_for_good(pod: Pod, task: Task) -> bool:
    """Whether the Pod's work has ended and no container starts again."""
    return is_over(pod, task.setup.base) and (pod.restart_never or pod.phase in {"Succeeded", "Failed"})


def succeeded(pod: Pod, task: Task) -> bool:
    """How the work ended: by the base container's exit code, else by the phase."""
    base = next((c for c in pod.containers if c.name == task.setup.base and c.terminated), None)
    return base.exit_code == 0 if base is not None and base.exit_code is not None else pod.phase == "Succeeded"
