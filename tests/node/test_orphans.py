"""Real tasks that lose their process, and what becomes of their containers: by themselves, then by kpo-healer.

All stories are played side by side. Each fate is written down before: what state the Pod comes to, what kpo-healer says
of it, and how each container ends that still runs when its Pod is deleted.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.e2e.tasks import PATIENCE, RealTask
from tests.e2e.world import EAGER, UNLIMITED
from tests.lab.airflow import Airflow
from tests.lab.healer import Installation, deletes, other_writes
from tests.lab.processes import say, wait_for
from tests.node.cluster import NodeCluster
from tests.node.pods import container, reason_of

Json = Any

GRACE: Final = 5
MISSING: Final = "registry.invalid/none:1"
SIDECAR: Final = "airflow-xcom-sidecar"
DONE: Final = "finished"


@dataclass(frozen=True)
class Story:
    """A task whose process is killed while its Pod works, or waits.

    work: of the base container (see images.py). state: phase, reason and exit code that it comes to afterwards.
    says: kpo-healer's reason then. ends: what a DELETE makes of each container that runs until then. prepare: the work
    of an init container.
    """

    work: str
    state: tuple[str, str, int | None]
    says: str
    ends: Mapping[str, int] = field(default_factory=dict)
    prepare: str | None = None
    dag: str = "kpo_real"
    image: str = ""
    spec: Json = field(default_factory=dict)
    base: Json = field(default_factory=dict)


PROXY: Final = container("polite", name="proxy")
MEMORY: Final = {"resources": {"limits": {"memory": "24Mi"}}}
DISK: Final = {"resources": {"limits": {"ephemeral-storage": "8Mi"}}}

STORIES: Final[Mapping[str, Story]] = {
    # First those of which KPO itself would soon give up to wait for a start.
    "pulls": Story("polite", ("Pending", "ImagePullBackOff", None), "orphaned", image=MISSING),
    "prepares": Story("polite", ("Pending", "PodInitializing", None), "orphaned", {"prepare": 143}, prepare="polite"),
    "unprepared": Story("polite", ("Failed", "PodInitializing", None), DONE, prepare="after-exit-4"),
    "works": Story("polite", ("Running", "", None), "orphaned", {"base": 143}),
    "tidies": Story("tidy", ("Running", "", None), "orphaned", {"base": 7}),
    "deaf": Story("deaf", ("Running", "", None), "orphaned", {"base": 137}),
    "unaware": Story("unaware", ("Running", "", None), "orphaned", {"base": 137}),
    "memory": Story("after-hungry", ("Failed", "OOMKilled", 137), DONE, base=MEMORY),
    "disk": Story("after-full", ("Failed", "Evicted", 137), DONE, base=DISK),
    "fails": Story("after-exit-3", ("Failed", "Error", 3), DONE),
    "sidecar": Story("after-exit-0", ("Running", "Completed", 0), DONE, {"proxy": 143}, spec={"containers": [PROXY]}),
    "native": Story(
        "after-exit-0",
        ("Succeeded", "Completed", 0),
        DONE,
        spec={"initContainers": [{**PROXY, "restartPolicy": "Always"}]},
    ),
    "xcom": Story("after-exit-0", ("Running", "Completed", 0), DONE, {SIDECAR: 137}, dag="kpo_xcom"),
}


@dataclass
class Orphan:
    """One story's task. watched: the environment of the process that is waited for, None where there is none."""

    story: Story
    task: RealTask
    watched: str | None
    name: str = ""
    running: dict[str, str] = field(default_factory=dict)


@dataclass
class Cast:
    """All of them, and the kpo-healer that looks after their namespace."""

    cluster: NodeCluster
    airflow: Airflow
    namespace: str
    installation: Installation
    orphans: Mapping[str, Orphan]

    def pod(self, orphan: Orphan) -> Json:
        return self.cluster.get_pod(self.namespace, orphan.name) or {"status": {"phase": "gone"}}


@pytest.fixture(scope="module")
def cast(cluster: NodeCluster, airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    """Each task without its process, and failed; those that wait for USR1 have got it."""
    namespace = cluster.namespace(f"orphans-{uuid.uuid4().hex[:8]}")
    installation = Installation.make(
        tmp_path_factory.mktemp("orphans"),
        cluster,
        url=airflow.url,
        namespaces=[namespace],
        policy=EAGER,
        limits=UNLIMITED,
    )
    orphans = {name: _triggered(cluster, airflow, namespace, story) for name, story in STORIES.items()}
    made = Cast(cluster, airflow, namespace, installation, orphans)
    for orphan in orphans.values():
        _await_work(made, orphan)
        orphan.task.kill()
    for orphan in orphans.values():
        orphan.task.wait("failed")
        if orphan.watched and ".after-" in f".{orphan.watched.partition('=')[2]}":
            os.kill(cluster.node.wait_process(orphan.watched), signal.SIGUSR1)
    yield made
    cluster.delete_namespace(namespace)


def _triggered(cluster: NodeCluster, airflow: Airflow, namespace: str, story: Story) -> Orphan:
    mark = uuid.uuid4().hex[:8]
    run, watched = f"{story.work}.{mark}", None if story.image else f"RUN={story.work}.{mark}"
    spec = {"terminationGracePeriodSeconds": GRACE, **story.spec}
    if story.prepare:
        watched = f"RUN={story.prepare}.{mark}"
        spec["initContainers"] = [container(story.prepare, name="prepare", run=f"{story.prepare}.{mark}")]
    spec["containers"] = [{"name": "base", **story.base}, *spec.get("containers", ())]
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "template"}, "spec": spec}
    conf = {"namespace": namespace, "image": story.image, "template": template}
    if story.dag != "kpo_real":
        conf = {"namespace": namespace}
    return Orphan(
        story, RealTask(cluster, airflow, namespace, story.dag, airflow.trigger(story.dag, run, conf)), watched
    )


def _await_work(cast: Cast, orphan: Orphan) -> None:
    """Waits until Airflow names the Pod, and its work runs, or waits as it ever will."""

    def named() -> str | None:
        return cast.airflow.named_pod(orphan.task.dag, orphan.task.run, "work")

    orphan.name = str(wait_for(named, timeout=PATIENCE, what=f"{orphan.task.run}: a Pod", interval=0.2))
    if orphan.watched:
        cast.cluster.node.wait_process(orphan.watched, timeout=PATIENCE)
    else:
        wait_for(lambda: reason_of(cast.pod(orphan)), timeout=PATIENCE, what=f"{orphan.name}: a pull that fails")


@pytest.mark.parametrize("name", STORIES)
def test_it_comes_to_the_state_that_was_predicted(cast: Cast, name: str) -> None:
    orphan = cast.orphans[name]
    seen: list[object] = [None]

    def arrived() -> bool:
        pod = cast.pod(orphan)
        seen[0] = pod["status"]["phase"], reason_of(pod), _code(pod)
        orphan.running = _running(pod)
        return seen[0] == orphan.story.state and orphan.running.keys() == orphan.story.ends.keys()

    try:
        wait_for(arrived, timeout=PATIENCE, what=name, interval=0.2)
    finally:
        say(f"{name}: {seen[0]}, running: {sorted(orphan.running)}")


def test_containers_stand_in_the_status_by_their_names(cast: Cast) -> None:
    """And not as in the spec: whoever takes the first for the base container takes KPO's sidecar."""
    pod = cast.pod(cast.orphans["xcom"])
    assert [one["name"] for one in pod["spec"]["containers"]] == ["base", SIDECAR]
    assert [one["name"] for one in pod["status"]["containerStatuses"]] == [SIDECAR, "base"]


def _code(pod: Json) -> int | None:
    statuses = pod["status"].get("containerStatuses", ())
    ends = (one["state"].get("terminated", {}) for one in statuses if one["name"] == "base")
    return next((end.get("exitCode") for end in ends), None)


def _running(pod: Json) -> dict[str, str]:
    """The ids of the containers that run, by name."""
    status = pod["status"]
    statuses = [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]
    return {one["name"]: one["containerID"] for one in statuses if "running" in one["state"]}


def test_kpo_healer_says_what_was_predicted_of_each(cast: Cast) -> None:
    said: dict[str, str] = {}
    wanted = {orphan.name: orphan.story.says for orphan in cast.orphans.values()}

    def all_said() -> bool:
        said.update({one["pod"]: one["reason"] for one in cast.installation.findings().values()})
        return said == wanted

    wait_for(all_said, timeout=PATIENCE, what=f"{wanted}", interval=1)


def test_each_is_deleted_and_its_containers_end_as_predicted(cast: Cast) -> None:
    cluster, mark = cast.cluster, cast.cluster.audit_mark()
    uids = {cast.pod(orphan)["metadata"]["uid"] for orphan in cast.orphans.values()}
    ends: dict[str, dict[str, int]] = {}
    with cast.installation.run(mode="enforce"):
        for orphan in cast.orphans.values():
            cluster.wait_pod(cast.namespace, orphan.name, "gone", timeout=PATIENCE)
    sent = {event.name: event for event in deletes(cluster, mark)}
    for name, orphan in cast.orphans.items():
        found = {part: cluster.node.wait_exit(identity) for part, identity in orphan.running.items()}
        ends[name] = {part: end.code for part, end in found.items()}
        for part, end in found.items():
            seconds = (end.at - sent[orphan.name].received).total_seconds()
            say(f"{name}: {part} ended with {end.code}, {seconds:.1f} s after the DELETE")
    assert ends == {name: dict(story.ends) for name, story in STORIES.items()}
    assert {event.code for event in sent.values()} == {200}
    assert sent.keys() == {orphan.name for orphan in cast.orphans.values()}
    assert not other_writes(cluster, mark)
    wait_for(lambda: not uids & cluster.node.pods_at_work(), timeout=PATIENCE, what="the end of all processes")
