"""The act in which Pods are deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from healer.airflow.queries.session import NOBODY
from tests.lab.demo import scenarios
from tests.lab.demo.cast import NAMESPACE, Fate, Stage, Task, base_ended
from tests.lab.demo.narrator import Narrator
from tests.lab.demo.scenarios import Plot
from tests.lab.door import Door
from tests.lab.healer import Installation, Running
from tests.lab.processes import LabError, wait_for

T = TypeVar("T")

PATIENCE: Final = 45.0
"""Seconds without any progress after which nothing more is expected to go."""

LAST_PASSES: Final = 14
"""Passes after the last deletion, and then an audit, in which nothing more may go."""


class Enforcement:
    """Lets kpo-healer heal, while tasks go on around it."""

    def __init__(
        self, narrator: Narrator, stage: Stage, plot: Plot, installation: Installation, healer: Running
    ) -> None:
        self._narrator, self._stage, self._plot = narrator, stage, plot
        self._installation, self._healer = installation, healer
        self._heard: dict[str, str] = {}
        self._lines = 0

    def play(self, door: Door) -> None:
        """Until all is healed, and some passes longer. What does not come about is claimed as not true."""
        self._narrator.act(
            "kpo-healer in enforce mode", "it waits 5 s for orphans, 10 s for finished, 15 s for kept Pods"
        )
        run, task = self._plot.renamed.run, self._plot.renamed.task
        # The first question about this very task instance is its second sighting; the next one asks for confirmation,
        # just before the DELETE. Each is a question of its own, or a list of all that is suspected, or due, with it. No
        # audit comes between them, whose lists would take their place.
        single = self._stage.airflow.single_question(run, task)
        door.once(single, self._take_the_name, after=1, listed=(f"{NOBODY}-", run))
        for step in (self._keep_pod, self._let_adopt, self._follow):
            try:
                step()
            except LabError as error:
                self._narrator.claim(str(error).partition("\n")[0], False)
        self._healer.wait_passes(LAST_PASSES, timeout=240)
        audits = self._audits()
        self._wait(lambda: self._audits() > audits, what="an audit")
        self._listen()

    def reasons(self) -> dict[str, str]:
        """The last reason for each uid: at its deletion, else by a scan of now, else what was heard on the way."""
        scanned = {uid: finding["reason"] for uid, finding in self._installation.findings().items()}
        deleted = {line["uid"]: line["reason"] for line in self._healer.deletions()}
        return {**self._heard, **scanned, **deleted}

    def _take_the_name(self) -> None:
        """Called while kpo-healer waits for Airflow's answer about this very Pod."""
        name = self._plot.renamed_role.name
        self._heard[self._plot.renamed_role.uid] = "orphaned"
        scenarios.take_the_name(self._stage, self._plot)
        self._narrator.tell(f"while kpo-healer asks about {name} a human deletes it, and a new Pod takes its name")

    def _keep_pod(self) -> None:
        """A task with keep_pod ends: its Pod goes, but not before its retention is over."""
        task = scenarios.keep_pod(self._stage)
        name = str(self._wait(lambda: self._stage.pod_name(task), what="the Pod of keep_pod"))
        pod = self._stage.cluster.get_pod(NAMESPACE, name)
        role = self._stage.add("kept by keep_pod, until its retention ends", pod, Fate.HEALED, "kept")
        role.began = self._wait(
            lambda: base_ended(self._stage.cluster.get_pod(NAMESPACE, name)), what=f"the end of {name}"
        )
        self._narrator.tell(f"a task told to keep its Pod has ended: {name} stays for its retention of 15 s")

    def _let_adopt(self) -> None:
        """The retry delay is cut short; try 2 takes over the Pod of try 1 and sees its work to the end."""
        stage, task, role = self._stage, self._plot.adopted, self._plot.adopted_role
        mark = stage.cluster.audit_mark()
        stage.airflow.clear(task.dag, task.run, task.task)
        self._wait(lambda: self._reads(mark, role.name) >= 3, what=f"the adoption of {role.name}")
        self._narrator.tell(f"the next try of the killed task begins and adopts {role.name}")
        self._heard[role.uid] = self._installation.findings().get(role.uid, {"reason": "missing"})["reason"]
        stage.end_work(role.name)
        self._wait(lambda: self._state(task) == "success", what=f"the success of {task.dag}")
        self._wait(lambda: role.uid not in stage.uids(), what=f"Airflow's own removal of {role.name}")
        self._narrator.tell(f"its work is done: the task is a success, and Airflow itself removes {role.name}")
        self._narrator.claim("the task whose Pod was adopted succeeded", True)

    def _reads(self, mark: int, name: str) -> int:
        """How often the operator has looked at the Pod: it does so all the time once it has it."""
        reads = self._stage.cluster.audit(mark, user="admin", verb="get", resource="pods")
        return sum(1 for event in reads if event.name == name and event.user_agent != "lab")

    def _audits(self) -> int:
        return sum(line.get("message") == "audit" for line in self._healer.lines())

    def _state(self, task: Task) -> str:
        return str(self._stage.airflow.task_instance(*task.ids)["state"])

    def _follow(self) -> None:
        """Until every Pod that should go is gone, or none of them goes any more."""
        wanted = {role.uid for role in self._stage.cast if role.should is Fate.HEALED}
        left, since = len(wanted), time.monotonic()

        def progressed() -> bool:
            nonlocal left, since
            now_left = len(wanted & self._stage.uids())
            left, since = (now_left, time.monotonic()) if now_left < left else (left, since)
            return not left or time.monotonic() - since > PATIENCE

        self._wait(progressed, what="the healing", timeout=10 * PATIENCE)
        self._narrator.claim(f"all {len(wanted)} Pods that should go are gone ({left} are left)", not left)

    def _wait(self, condition: Callable[[], T], *, what: str, timeout: float = 240) -> T:
        """Waits for something, and tells meanwhile what kpo-healer says."""

        def asked() -> T:
            self._listen()
            return condition()

        return wait_for(asked, what=what, timeout=timeout, interval=0.2)

    def _listen(self) -> None:
        lines = self._healer.lines()
        stories = {role.uid: role.story for role in self._stage.cast}
        for line in lines[self._lines :]:
            self._narrator.hear(line, stories.get(line.get("uid", ""), "unknown"))
        self._lines = len(lines)
