"""Real KubernetesPodOperator tasks, lost as production loses them, beside those that only look lost.

One story for all tests of this module: first kpo-healer runs in report mode, then in enforce mode, while Airflow works
on. The tests look at what became of each Pod, by the API server's own record.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.e2e.tasks import PATIENCE, Json, RealTask, base_end
from tests.e2e.world import UNLIMITED, World
from tests.lab import healer as lab
from tests.lab.airflow import Airflow
from tests.lab.audit import AuditEvent
from tests.lab.healer import Installation, Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import LabError, wait_for

GRACE = 4
RETENTION = {"succeeded": 6, "failed": 9, "kept": 12}
"""Seconds; all different, so that one taken for another shows."""

POLICY = {
    "minAge": "0s",
    "grace": f"{GRACE}s",
    "absentGrace": f"{GRACE}s",
    "retention": {outcome: f"{seconds}s" for outcome, seconds in RETENTION.items()},
}

ORPHANS = {
    "killed": "orphaned",
    "stuck": "orphaned",
    "twin": "superseded",
    "doomed": "run-deleted",
}
"""Pods that report mode must withhold and enforce mode delete, and why."""

LEFTOVERS = {
    "succeeded": "finished",
    "failed": "finished",
    "xcom": "finished",
    "base-xcom": "finished",
    "kept": "kept",
}
"""Pods that are deleted after their retention, and why."""

SURVIVORS = {
    "forgotten": "run-deleted",
    "abandoned": "abandoned",
    "copy": "other-pod",
    "used-twin": "in-use",
}
"""Pods that are there at the end, and what kpo-healer says of them."""

CAUSES = {
    "killed": "not-cleaned-up",
    "stuck": "not-cleaned-up",
    "twin": "not-reattached",
    "doomed": "run-deleted",
    "forgotten": "run-deleted",
    "abandoned": "timeout-kept",
}
"""What one look says of why they were left behind."""

OWN = ("adopted", "waiting", "copied")
"""Pods that Airflow itself removes after their task's success; kpo-healer must not touch them."""

DAGS = {
    "killed": "kpo_sync",
    "forgotten": "kpo_sync",
    "succeeded": "kpo_sync",
    "failed": "kpo_sync",
    "copied": "kpo_sync",
    "xcom": "kpo_xcom",
    "base-xcom": "kpo_base_xcom",
    "adopted": "kpo_retries_late",
    "stuck": "kpo_deferrable",
    "waiting": "kpo_deferrable",
    "twin": "kpo_twins_deferrable",
    "abandoned": "kpo_gives_up",
}


@dataclass
class Story:
    """The tasks and Pods by the name of their role, and what was seen on the way."""

    cluster: Cluster
    airflow: Airflow
    world: World
    doomed: World
    tasks: dict[str, RealTask] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)
    after_report: set[str] = field(default_factory=set)
    reported: dict[str, str] = field(default_factory=dict)
    report_writes: list[AuditEvent] = field(default_factory=list)
    lines: list[Json] = field(default_factory=list)
    scanned: dict[str, Json] = field(default_factory=dict)
    findings: dict[str, Json] = field(default_factory=dict)

    def trigger(self, role: str, dag: str, world: World | None = None) -> RealTask:
        namespace = (world or self.world).namespace
        self.tasks[role] = RealTask.trigger(self.cluster, self.airflow, namespace, dag)
        return self.tasks[role]

    def names(self) -> set[str]:
        return self.world.names() | self.doomed.names()

    def name(self, role: str) -> str:
        return str(self.pods[role]["metadata"]["name"])

    def uid(self, role: str) -> str:
        return str(self.pods[role]["metadata"]["uid"])

    def deletes(self) -> list[AuditEvent]:
        return [*self.world.deletes(), *self.doomed.deletes()]

    def deleted(self, role: str) -> AuditEvent | None:
        """The DELETE of a role's Pod that the API server carried out."""
        good = (event for event in self.deletes() if event.code == 200)
        return next((event for event in good if event.preconditions.get("uid") == self.uid(role)), None)

    def events(self, reason: str) -> dict[str, str]:
        return {**self.world.events(reason), **self.doomed.events(reason)}


# --- the story ---


def set_up(story: Story) -> None:
    """Triggers all at once, then loses one after another."""
    tasks = story.tasks
    for role, dag in DAGS.items():
        story.trigger(role, dag)
    story.trigger("doomed", "kpo_sync", story.doomed)
    for role in tasks.keys() - {"abandoned"}:
        story.pods[role] = tasks[role].pod()
    for role in ("killed", "forgotten", "doomed", "adopted"):
        tasks[role].kill()
    tasks["adopted"].wait("up_for_retry")
    lose_the_triggerer(story)
    for role in ("forgotten", "doomed"):
        tasks[role].delete_run()
    for role in ("killed", "stuck", "abandoned"):
        tasks[role].wait("failed")
    (given_up,) = story.cluster.pods(story.world.namespace, "dag_id=kpo_gives_up")
    story.pods["abandoned"] = given_up
    labels = story.pods["copied"]["metadata"]["labels"]
    task = {"dag_id": "kpo_sync", "task_id": "work", "run_id": tasks["copied"].run}
    made = story.world.make(kpo_pod(**task, namespace=story.world.namespace, labels=labels))
    story.pods["copy"] = story.cluster.get_pod(story.world.namespace, made)


def lose_the_triggerer(story: Story) -> None:
    """One of its tasks is marked failed, one is cleared and starts a twin, one waits on."""
    tasks = story.tasks
    for role in ("stuck", "waiting", "twin"):
        tasks[role].wait("deferred")
        story.airflow.wait_trigger(tasks[role].dag, tasks[role].run, timeout=PATIENCE)
    born = moment(story.pods["twin"]["metadata"]["creationTimestamp"])
    wait_for(lambda: story.world.now() > born + GRACE + 1, what="the age of the first twin", interval=0.2)
    story.airflow.lose_triggerer()
    tasks["stuck"].fail()
    tasks["twin"].clear()
    tasks["twin"].wait("deferred", try_number=2)
    story.pods["used-twin"] = tasks["twin"].pod(but={story.name("twin")})


def report(story: Story, installation: Installation) -> None:
    story.before = story.names()
    mark = story.cluster.audit_mark()
    with installation.run(mode="report") as healer:
        with suppress(LabError):  # the tests tell what is missing
            wait_for(lambda: withheld(healer) == len(ORPHANS), timeout=PATIENCE, what="Pods withheld", interval=0.2)
        healer.wait_passes(5, timeout=PATIENCE)
        assert healer.stop() == 0
    story.scanned = installation.findings()
    story.after_report = story.names()
    story.reported = story.events("OrphanDetected")
    story.report_writes = [*lab.deletes(story.cluster, mark), *lab.other_writes(story.cluster, mark)]


def withheld(healer: Running) -> int:
    return int(healer.metric("withheld", why="report-mode"))


def enforce(story: Story, installation: Installation) -> None:
    with installation.run(mode="enforce") as healer:
        work_on(story, healer)
        goal = {*ORPHANS, *LEFTOVERS}
        with suppress(LabError):
            wait_for(lambda: all(map(story.deleted, goal)), timeout=PATIENCE, what="the healing", interval=0.5)
        healer.wait_passes(6, timeout=PATIENCE)
        story.findings = installation.findings()
        assert healer.stop() == 0
        story.lines = healer.deletions()


def work_on(story: Story, healer: Running) -> None:
    """What Airflow does while kpo-healer deletes."""
    tasks, pods = story.tasks, story.pods
    kept = story.trigger("kept", "kpo_keep")
    tasks["adopted"].clear()
    pods["succeeded"] = tasks["succeeded"].die_after_the_work(pods["succeeded"], run_for="1s")
    pods["failed"] = tasks["failed"].die_after_the_work(pods["failed"], run_for="1s", exit_code="3")
    pods["xcom"] = tasks["xcom"].die_after_the_work(pods["xcom"], base_for="1s")
    pods["base-xcom"] = tasks["base-xcom"].die_after_the_work(pods["base-xcom"], base_for="1s")
    tasks["waiting"].mark_pod(pods["waiting"], run_for="1s")
    tasks["copied"].mark_pod(pods["copied"], run_for="1s")
    kept.wait("success")
    (pods["kept"],) = story.cluster.pods(story.world.namespace, "dag_id=kpo_keep")
    tasks["adopted"].wait("running", try_number=2)
    wait_for(lambda: healer.metric("pods", reason="reattached") == 1, timeout=PATIENCE, what="a reattached Pod")
    healer.wait_passes(5, timeout=PATIENCE)
    tasks["adopted"].mark_pod(pods["adopted"], run_for="1s")
    for role in OWN:
        story.states[role] = tasks[role].wait("success", "failed")["state"]


def moment(text: str) -> float:
    """An RFC 3339 time as epoch seconds."""
    return dt.datetime.fromisoformat(text).timestamp()


def install(story: Story) -> Installation:
    """Two namespaces of one Airflow; in the second one the policy is to delete where the run was deleted."""
    installation = Installation.make(
        story.world.folder,
        story.cluster,
        url=story.airflow.url,
        namespaces=[story.world.namespace, story.doomed.namespace],
        policy=POLICY,
        limits=UNLIMITED,
    )
    (first,) = installation.config["airflows"]
    second = copy.deepcopy(first) | {"name": "doomed", "namespaces": [story.doomed.namespace]}
    second["policy"]["actions"] = {"run-deleted": "delete"}
    first["namespaces"] = [story.world.namespace]
    installation.config["airflows"].append(second)
    return installation


@pytest.fixture(scope="module")
def story(cluster: Cluster, airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    with World.open(cluster, airflow, folder) as world, World.open(cluster, airflow, folder) as doomed:
        made = Story(cluster, airflow, world, doomed)
        set_up(made)
        installation = install(made)
        report(made, installation)
        enforce(made, installation)
        yield made


pytestmark = pytest.mark.timeout(900)


# --- report mode ---


def test_report_mode_deletes_nothing(story: Story) -> None:
    assert story.before == story.after_report
    assert story.report_writes == []


@pytest.mark.parametrize(("role", "reason"), [*ORPHANS.items(), ("forgotten", "run-deleted"), ("abandoned",) * 2])
def test_report_mode_tells_of_each_orphan(story: Story, role: str, reason: str) -> None:
    message = story.reported[story.name(role)]
    assert message.startswith(f"{reason}: ")
    policy = "not deleted: report-mode" if role in ORPHANS else "policy: report"
    assert message.partition("; left behind: ")[0].endswith(policy)


def test_report_mode_tells_of_nobody_else(story: Story) -> None:
    roles = {*ORPHANS, "forgotten", "abandoned"}
    assert story.reported.keys() == {story.name(role) for role in roles}


@pytest.mark.parametrize(("role", "cause"), CAUSES.items())
def test_a_look_says_why_it_was_left_behind(story: Story, role: str, cause: str) -> None:
    assert story.scanned[story.uid(role)]["cause"]["name"] == cause


# --- enforce mode ---


@pytest.mark.parametrize(("role", "reason"), [*ORPHANS.items(), *LEFTOVERS.items()])
def test_it_is_deleted_for_its_reason(story: Story, role: str, reason: str) -> None:
    event = story.deleted(role)
    assert event is not None
    assert event.preconditions.keys() == {"uid", "resourceVersion"}
    (line,) = [line for line in story.lines if line["uid"] == story.uid(role) and line["result"] == "deleted"]
    assert line["reason"] == reason
    assert line["evidence_age_seconds"] < 15
    assert line["sightings"] >= 2


@pytest.mark.parametrize(("role", "reason"), [*ORPHANS.items(), *LEFTOVERS.items()])
def test_an_event_names_reason_task_and_proof(story: Story, role: str, reason: str) -> None:
    message = story.events("LeftoverDeleted" if role in LEFTOVERS else "OrphanDeleted")[story.name(role)]
    assert message.startswith(f"{reason}: ")
    task = story.tasks[role]
    proof = repr(task.run) if reason == "run-deleted" else f"task work of DAG {task.dag}, run {task.run}: "
    assert proof in message


def test_nothing_else_is_deleted(story: Story) -> None:
    deleted = {event.preconditions["uid"] for event in story.deletes()}
    assert deleted == {story.uid(role) for role in (*ORPHANS, *LEFTOVERS)}


@pytest.mark.parametrize(("role", "reason"), SURVIVORS.items())
def test_it_lives_for_its_reason(story: Story, role: str, reason: str) -> None:
    assert story.name(role) in story.names()
    assert story.findings[story.uid(role)]["reason"] == reason


@pytest.mark.parametrize("role", OWN)
def test_a_task_whose_pod_is_in_use_succeeds(story: Story, role: str) -> None:
    """Adopted by the next try; waited for in the triggerer; copied by somebody."""
    assert story.states[role] == "success"
    assert story.deleted(role) is None


@pytest.mark.parametrize(
    ("role", "outcome"),
    [
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("xcom", "succeeded"),
        ("base-xcom", "succeeded"),
        ("kept", "kept"),
    ],
)
def test_a_leftover_goes_only_after_its_retention(story: Story, role: str, outcome: str) -> None:
    event, ended = story.deleted(role), base_end(story.pods[role])
    assert event is not None
    assert ended is not None
    waited = event.received.timestamp() - moment(ended)
    # Kubernetes writes whole seconds, and the API server tells its own time in whole seconds.
    assert waited > RETENTION[outcome] - 2


@pytest.mark.parametrize("role", ["xcom", "base-xcom"])
def test_a_sidecar_that_runs_on_does_not_hide_the_end_of_the_work(story: Story, role: str) -> None:
    pod = story.pods[role]
    running = {one["name"] for one in pod["status"]["containerStatuses"] if "running" in one["state"]}
    assert (pod["status"]["phase"], running) == ("Running", {"airflow-xcom-sidecar"})


def test_it_writes_nothing_else_to_pods(story: Story) -> None:
    namespaces: Mapping[str, World] = {world.namespace: world for world in (story.world, story.doomed)}
    writes = lab.other_writes(story.cluster, story.world.mark)
    assert [event for event in writes if event.namespace in namespaces] == []
