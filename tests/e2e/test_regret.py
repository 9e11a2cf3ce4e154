"""Regret on real parts: in report mode, real tasks come back to Pods that would have been deleted.

One story for all tests of this module. First a quiet time, in which Pods end, are deleted and replaced, and kpo-healer
is started anew; then each way in which Airflow can use a would-be victim.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.e2e.tasks import PATIENCE, Json, RealTask
from tests.e2e.world import World
from tests.faults.proxy import Fault, FaultProxy, Rule, answer, edit_json
from tests.lab.airflow import Airflow
from tests.lab.healer import Running, deletes, other_writes
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, wait_for

USED = {
    "adopted": ("orphaned", "adopted"),
    "through": ("orphaned", "adopted"),
    "remade": ("run-deleted", "same-try"),
    "restored": ("orphaned", "same-try"),
    "outcome": ("finished", "result"),
}
"""Would-be victims that Airflow uses again: why they would have been deleted, and how they are used."""

NOT_USED = ("over", "replaced")
"""Would-be victims that nobody uses again."""

LOST = ("adopted", "through", "remade", *NOT_USED)
"""Whose task is killed while its Pod works."""


@dataclass
class Story:
    """The tasks and Pods by the name of their role, and what kpo-healer said."""

    cluster: Cluster
    airflow: Airflow
    world: World
    tasks: dict[str, RealTask] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    quiet: list[float] = field(default_factory=list)
    counted: dict[str, float] = field(default_factory=dict)
    lines: list[Json] = field(default_factory=list)

    def trigger(self, role: str, dag: str, **marks: str) -> RealTask:
        self.tasks[role] = RealTask.trigger(self.cluster, self.airflow, self.world.namespace, dag, **marks)
        return self.tasks[role]

    def name(self, role: str) -> str:
        return str(self.pods[role]["metadata"]["name"])

    def uid(self, role: str) -> str:
        return str(self.pods[role]["metadata"]["uid"])

    def stories(self) -> list[Json]:
        return [line for line in self.lines if str(line["message"]).startswith("regret")]


def set_up(story: Story) -> None:
    tasks = story.tasks
    for role in (*LOST, "restored"):
        story.trigger(role, "kpo_sync")
    story.trigger("outcome", "kpo_keep", run_for="1h")
    for role, task in tasks.items():
        story.pods[role] = task.pod()
    for role in LOST:
        tasks[role].kill()
    story.pods["outcome"] = tasks["outcome"].die_after_the_work(story.pods["outcome"], run_for="1s")
    for role in (*LOST, "outcome"):
        tasks[role].wait("failed")
    tasks["remade"].delete_run()


def fail(run: str) -> Fault:
    """An answer of yesterday's database: this run's tasks have failed, once."""
    ended = dt.datetime.now(dt.UTC).isoformat()

    def change(body: Json) -> None:
        for row in body.get("task_instances", [body]):
            if row.get("dag_run_id") == run and "state" in row:
                row |= {"state": "failed", "end_date": ended}

    return edit_json(change)


def condemned(story: Story, healer: Running, *roles: str) -> None:
    """Waits until kpo-healer says of each that it would delete it."""
    wanted = {story.uid(role) for role in roles}

    def said() -> bool:
        return wanted <= {line.get("uid") for line in healer.lines() if line["message"] == "would delete"}

    wait_for(said, timeout=PATIENCE, what=f"would-be deletions of {', '.join(roles)}", interval=0.2)


def audits(story: Story, healer: Running, count: int = 2) -> None:
    """Waits for as many audits: only these list the Pods."""

    def listed() -> float:
        return healer.metric("kubernetes_requests_total", verb="list")

    goal = listed() + count
    wait_for(lambda: listed() >= goal, timeout=PATIENCE, what=f"{count} audits", interval=0.2)


def quiet_time(story: Story, healer: Running) -> None:
    """Pods end, tasks finish, users delete Pods and runs, and start again."""
    tasks, world = story.tasks, story.world
    mapped = story.airflow.trigger("kpo_mapped", conf={"namespace": world.namespace, "annotations": ENDS_SOON})
    condemned(story, healer, *LOST, "outcome", "restored")
    story.cluster.delete_pod(world.namespace, story.name("replaced"), grace=0)
    tasks["replaced"].clear()
    tasks["over"].mark_pod(story.pods["over"], run_for="1s")
    again = tasks["replaced"].pod(but={story.name("replaced")})
    tasks["replaced"].mark_pod(again, run_for="1s")
    tasks["replaced"].wait("success", try_number=2)
    tasks["over"].delete_run()
    story.airflow.wait_run("kpo_mapped", mapped, "success", timeout=PATIENCE)
    audits(story, healer)
    story.quiet.append(healer.metric("regrets_total"))


ENDS_SOON = {"lab.kpo-healer.io/run-for": "1s"}


def uses(story: Story, healer: Running, proxy: FaultProxy, stale: Rule) -> None:
    tasks = story.tasks
    condemned(story, healer, *USED)
    story.quiet.append(healer.metric("regrets_total"))
    stale.lift()
    tasks["adopted"].clear()
    tasks["outcome"].clear()
    story.airflow.trigger("kpo_sync", tasks["remade"].run, conf={"namespace": story.world.namespace})
    tasks["remade"].wait("running")
    tasks["outcome"].wait("success", try_number=2)
    wait_for(lambda: healer.metric("regrets_total") >= 4, timeout=PATIENCE, what="four regrets", interval=0.2)
    unseen(story, proxy)
    wait_for(lambda: healer.metric("regrets_total") >= 5, timeout=PATIENCE, what="five regrets", interval=0.2)
    audits(story, healer)


def unseen(story: Story, proxy: FaultProxy) -> None:
    """Adopted, ended and gone while Airflow tells kpo-healer nothing."""
    task = story.tasks["through"]
    with proxy.rule(answer(503)):
        task.clear()
        story.airflow.wait_adopted(task.dag, task.run, "work", 2)
        task.mark_pod(story.pods["through"], run_for="1s")
        task.wait("success", try_number=2)


@pytest.fixture(scope="module")
def story(cluster: Cluster, airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with World.open(cluster, airflow, tmp_path_factory.mktemp("regret")) as world, FaultProxy(airflow.url) as proxy:
        made = Story(cluster, airflow, world)
        set_up(made)
        installation = world.installation(url=proxy.url)
        with proxy.rule(fail(made.tasks["restored"].run), part="/taskInstances") as stale:
            with installation.run(mode="report") as first:
                quiet_time(made, first)
                assert first.stop() == 0
            with installation.run(mode="report") as second:
                with suppress(LabError):  # the tests tell what is missing
                    uses(made, second, proxy, stale)
                made.counted = {reason: second.metric("regrets_total", reason=reason) for reason in REASONS}
                made.lines = second.lines()
                assert second.stop() == 0
        yield made


REASONS = ("orphaned", "finished", "kept", "superseded", "abandoned", "task-removed", "run-deleted")

pytestmark = pytest.mark.timeout(900)


def test_a_quiet_time_counts_none(story: Story) -> None:
    """Tasks that finish, Pods that end or are deleted, a run that is deleted, a new Pod, a restart."""
    assert story.quiet == [0, 0]


@pytest.mark.parametrize(("role", "reason", "way"), [(role, *told) for role, told in USED.items()])
def test_each_use_of_a_would_be_victim_is_told(story: Story, role: str, reason: str, way: str) -> None:
    (line,) = [line for line in story.stories() if line["uid"] == story.uid(role)]
    assert (line["reason"], line["way"]) == (reason, way)
    assert line["pod"] == f"{story.world.namespace}/{story.name(role)}"
    assert line["task"] == f"task work of DAG {story.tasks[role].dag}, run {story.tasks[role].run}"
    assert line["would_be_deleted"]


def test_each_is_counted_by_its_reason_and_nobody_else_is(story: Story) -> None:
    expected = dict.fromkeys(REASONS, 0.0)
    for reason, _ in USED.values():
        expected[reason] += 1
    assert story.counted == expected
    assert len(story.stories()) == len(USED)


def test_nothing_was_written(story: Story) -> None:
    mine = [*deletes(story.cluster, story.world.mark), *other_writes(story.cluster, story.world.mark)]
    assert [event for event in mine if event.namespace == story.world.namespace] == []
