"""Real tasks of a real Airflow 2.11, lost as production loses them: the story of Airflow 3, and what 2 does otherwise.

Part of `make airflow2`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.e2e.tasks import PATIENCE, Json, RealTask
from tests.e2e.test_real_tasks import (  # noqa: F401 - they are asked of an Airflow 2 here
    story,
    test_a_leftover_goes_only_after_its_retention,
    test_a_task_whose_pod_is_in_use_succeeds,
    test_it_is_deleted_for_its_reason,
    test_it_lives_for_its_reason,
    test_nothing_else_is_deleted,
    test_report_mode_deletes_nothing,
    test_report_mode_tells_of_nobody_else,
)
from tests.e2e.world import UNLIMITED, World
from tests.lab.airflow2 import READ, Airflow2
from tests.lab.airflow_env import full_version
from tests.lab.audit import AuditEvent
from tests.lab.healer import Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def airflow(airflow2_whole: Callable[[str], Airflow2]) -> Airflow2:
    return airflow2_whole(full_version("2.11"))


# --- what an Airflow 2 does otherwise ---

GRACE = 90
"""Seconds; long enough for a task to be cleared, to run again and to end again meanwhile."""

DAGS = {
    "orphan": "kpo_sync",
    "forced": "kpo_sync",
    "ended-again": "kpo_sync",
    "marked-again": "kpo_base",
    "gone-run": "kpo_deferrable",
    "gone-dag": "chaos_retries_deferrable",
}
"""The last one is of a DAG that no other test asks this Airflow for."""

KILLED = ("orphan", "forced", "ended-again", "marked-again")
GOING = ("orphan", "ended-again", "marked-again")


@dataclass
class Again:
    """What became of each role's Pod, and of two more: a copy of another Airflow's, and one that it has stamped.

    rows: the task instances at the moments that matter.
    """

    world: World
    airflow: Airflow2
    tasks: dict[str, RealTask] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    rows: dict[str, Json] = field(default_factory=dict)
    blind: dict[str, Json] = field(default_factory=dict)
    blind_withheld: int = 0
    blind_deletes: list[AuditEvent] = field(default_factory=list)
    blind_check: str = ""
    findings: dict[str, Json] = field(default_factory=dict)
    lines: list[Json] = field(default_factory=list)

    def uid(self, role: str) -> str:
        return str(self.pods[role]["metadata"]["uid"])

    def add(self, role: str, labels: Json | None = None) -> None:
        """A Pod made by hand with the labels of the orphan, and some more."""
        task = {"dag_id": "kpo_sync", "task_id": "work", "run_id": self.tasks["orphan"].run}
        wanted = self.pods["orphan"]["metadata"]["labels"] | (labels or {})
        made = self.world.make(kpo_pod(**task, namespace=self.world.namespace, labels=wanted))
        self.pods[role] = self.world.cluster.get_pod(self.world.namespace, made)

    def deleted(self, role: str) -> AuditEvent | None:
        """The DELETE of a role's Pod that the API server carried out."""
        good = self.world.deletes(200)
        return next((event for event in good if event.preconditions.get("uid") == self.uid(role)), None)


@pytest.fixture(scope="module")
def again(cluster: Cluster, airflow: Airflow2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Again]:
    with World.open(cluster, airflow, tmp_path_factory.mktemp("again")) as world:
        made = Again(world, airflow)
        lose(made)
        look_without_a_right(made)
        heal(made)
        yield made


def lose(again: Again) -> None:
    """Tasks are killed; the run of one that is deferred is deleted, and the whole DAG of another."""
    tasks, world = again.tasks, again.world
    for role, dag in DAGS.items():
        tasks[role] = RealTask.trigger(world.cluster, world.airflow, world.namespace, dag)
    for role in DAGS:
        again.pods[role] = tasks[role].pod()
    for role in KILLED:
        tasks[role].kill()
        again.rows[role] = tasks[role].wait("failed")
    for role in ("gone-run", "gone-dag"):
        tasks[role].wait("deferred")
        again.airflow.wait_trigger(tasks[role].dag, tasks[role].run, timeout=PATIENCE)
    again.airflow.delete_run(tasks["gone-run"].dag, tasks["gone-run"].run)
    again.airflow.delete_dag(tasks["gone-dag"].dag)
    again.add("copy")


def look_without_a_right(again: Again) -> None:
    """Enforce mode with a login that may not read XComs, beside a Pod that another Airflow has stamped."""
    again.add("stamped", {"kpo-healer.io/airflow": "another"})
    again.airflow.add_user("no-xcoms", READ[:3])
    installation = again.world.installation(policy={"minAge": "0s", "grace": "1s"}, limits=UNLIMITED)
    password = again.world.folder / "no-xcoms"
    password.write_text("no-xcoms")
    installation.config["airflows"][0] |= {"username": "no-xcoms", "passwordFile": str(password)}
    with installation.run(mode="enforce") as healer:
        wait_for(lambda: not_ours(healer) > 0, timeout=PATIENCE, what="Pods withheld", interval=0.2)
        healer.wait_passes(8, timeout=PATIENCE)
        again.blind_withheld = not_ours(healer)
        assert healer.stop() == 0
    again.blind_deletes = again.world.deletes()
    again.blind = installation.findings()
    again.blind_check = installation.ask("check", expect=(0, 1, 2, 3)).out


def not_ours(healer: Running) -> int:
    """How many Pods are due, and withheld because nothing proves that they are of this Airflow."""
    return int(healer.metric("withheld", why="ownership"))


def heal(again: Again) -> None:
    """During the grace one try is run again by force, one task is cleared and killed again, one is marked again."""
    tasks, airflow = again.tasks, again.airflow
    installation = again.world.installation(policy={"minAge": "0s", "grace": f"{GRACE}s"}, limits=UNLIMITED)
    with installation.run(mode="enforce") as healer:
        suspected = len(KILLED)
        wait_for(lambda: healer.metric("pods", reason="orphaned") == suspected, timeout=PATIENCE, what="the orphans")
        forced = airflow.force("kpo_sync", tasks["forced"].run, "work")
        mark_again(again)
        tasks["ended-again"].clear()
        airflow.wait_adopted("kpo_sync", tasks["ended-again"].run, "work", 2)
        tasks["ended-again"].pod()  # named anew: killed before that, it would leave nothing that says whose the Pod is
        tasks["ended-again"].kill()
        again.rows["ended-again"] = tasks["ended-again"].wait("failed", try_number=2)
        airflow.wait_adopted("kpo_sync", tasks["forced"].run, "work", 1)
        patience = GRACE + PATIENCE
        wait_for(lambda: all(map(again.deleted, GOING)), timeout=patience, what="the healing", interval=0.5)
        healer.wait_passes(6, timeout=PATIENCE)
        again.rows["forced-again"] = tasks["forced"].wait("running")
        again.findings = installation.findings()
        assert healer.stop() == 0
        again.lines = healer.deletions()
    forced.kill()
    tasks["forced"].fail()


def mark_again(again: Again) -> None:
    """Cleared and marked failed while the DAG is paused: nothing has run in between."""
    task, airflow = again.tasks["marked-again"], again.airflow
    airflow.unpause(task.dag, paused=True)
    task.clear()
    airflow.wait_task(task.dag, task.run, "work", None, timeout=PATIENCE)
    task.fail()
    again.rows["marked-again-later"] = task.wait("failed")
    airflow.unpause(task.dag)


def test_without_the_right_to_read_xcoms_a_copy_looks_like_an_orphan_and_check_says_so(again: Again) -> None:
    assert again.blind[again.uid("copy")]["reason"] == "orphaned"
    assert "read XComs" in again.blind_check


def test_and_where_another_airflow_is_at_home_nothing_is_deleted_then(again: Again) -> None:
    """Neither the copy nor the Pods of this Airflow: nothing tells them apart."""
    assert again.blind_withheld == len(KILLED) + 1
    assert again.blind_deletes == []


def test_a_copy_that_airflow_does_not_name_lives(again: Again) -> None:
    assert again.deleted("copy") is None
    assert again.findings[again.uid("copy")]["reason"] == "other-pod"


def test_a_try_that_is_run_again_by_force_during_the_grace_keeps_its_pod(again: Again) -> None:
    assert again.deleted("forced") is None
    assert again.findings[again.uid("forced")]["reason"] == "in-use"
    before, now = again.rows["forced"], again.rows["forced-again"]
    assert before["try_number"] == now["try_number"] == 1
    assert before["start_date"] < now["start_date"]


@pytest.mark.parametrize("role", GOING)
def test_an_orphan_that_airflow_names_is_deleted(again: Again, role: str) -> None:
    assert again.deleted(role) is not None
    (line,) = [line for line in again.lines if line["uid"] == again.uid(role) and line["result"] == "deleted"]
    assert line["reason"] == "orphaned"


def test_patience_begins_anew_where_a_task_was_cleared_and_has_ended_again(again: Again) -> None:
    event = again.deleted("ended-again")
    assert event is not None
    ended = dt.datetime.fromisoformat(again.rows["ended-again"]["end_date"])
    assert (event.received - ended).total_seconds() >= GRACE


def test_a_task_that_was_cleared_and_marked_again_is_the_same_case(again: Again) -> None:
    """Nobody can have adopted its Pod: no try has begun."""
    what = ("try_number", "start_date", "end_date", "state")
    before, after = again.rows["marked-again"], again.rows["marked-again-later"]
    assert [before[each] for each in what] == [after[each] for each in what]


@pytest.mark.parametrize(("role", "reason"), [("gone-run", "run-deleted"), ("gone-dag", "absent")])
def test_what_was_deleted_while_deferred_is_told_and_its_pod_lives(again: Again, role: str, reason: str) -> None:
    assert again.deleted(role) is None
    assert again.blind[again.uid(role)]["reason"] == reason


def test_nobody_else_goes(again: Again) -> None:
    deleted = {event.preconditions["uid"] for event in again.world.deletes()}
    assert deleted == {again.uid(role) for role in GOING}
