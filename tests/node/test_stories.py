"""What Pods of ended tasks look like on a real node, what kpo-healer says of each, and that their work really ends.

The fate of each is written down before; one look in report mode must say it, and enforce mode must bring it about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.tasks import PATIENCE
from tests.e2e.world import World
from tests.lab.airflow import Airflow
from tests.lab.processes import wait_for
from tests.node.cluster import NodeCluster
from tests.node.images import WORK
from tests.node.pods import base, container, reason_of

Json = Any

MISSING: Final = "registry.invalid/none:1"
FOREVER: Final = "polite"


def _pod(*containers: Json, **spec: Json) -> Json:
    return {"containers": list(containers), "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, **spec}


def _sidecar(image: str = WORK, **more: Json) -> Json:
    return container(FOREVER, name="proxy", image=image, **more)


MEMORY: Final = {"limits": {"memory": "24Mi"}}
DISK: Final = {"limits": {"ephemeral-storage": "8Mi"}}
NO_SECRET: Final = [{"secretRef": {"name": "missing"}}]

PODS: Final[Mapping[str, Json]] = {
    "runs": _pod(container(FOREVER)),
    "sidecar-left": _pod(container("exit-0"), _sidecar()),
    "native-sidecar": _pod(container("exit-0"), initContainers=[_sidecar(restartPolicy="Always")]),
    "oom": _pod(container("hungry", resources=MEMORY)),
    "no-program": _pod(container(FOREVER, command=["/bin/none"])),
    "no-image": _pod(container(FOREVER, image=MISSING)),
    "no-secret": _pod(container(FOREVER, envFrom=NO_SECRET)),
    "init-failed": _pod(container(FOREVER), initContainers=[container("exit-4", name="prepare")]),
    "too-late": _pod(container(FOREVER), activeDeadlineSeconds=3),
    "no-room": _pod(container(FOREVER, resources={"requests": {"cpu": "1000"}})),
    "pending-but-ended": _pod(container("exit-0"), _sidecar(MISSING)),
    "evicted": _pod(container("full", resources=DISK)),
}

DONE: Final = "finished"
FATES: Final[Mapping[str, tuple[str, str, str, int | None]]] = {
    # kpo-healer's reason, the phase, the reason of the Pod or of its base container, the base container's exit code
    "runs": ("orphaned", "Running", "", None),
    "sidecar-left": (DONE, "Running", "Completed", 0),
    "native-sidecar": (DONE, "Succeeded", "Completed", 0),
    "oom": (DONE, "Failed", "OOMKilled", 137),
    "no-program": (DONE, "Failed", "StartError", 128),
    "no-image": ("orphaned", "Pending", "ImagePullBackOff", None),
    "no-secret": ("orphaned", "Pending", "CreateContainerConfigError", None),
    "init-failed": (DONE, "Failed", "PodInitializing", None),
    "too-late": (DONE, "Failed", "DeadlineExceeded", 143),
    "no-room": (DONE, "Failed", "OutOfcpu", None),
    "pending-but-ended": (DONE, "Pending", "Completed", 0),
    "evicted": (DONE, "Failed", "Evicted", 137),
}


@pytest.fixture(scope="module")
def world(cluster: NodeCluster, airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Each Pod in the state in which it stays, and its task failed."""
    with World.open(cluster, airflow, Path(tmp_path_factory.mktemp("stories"))) as made:
        for name, spec in PODS.items():
            body = made.body(name, name=name)
            body["spec"] = spec
            cluster.create_pod(body)
        made.seed(*(made.task(name, "failed") for name in PODS))
        yield made


def _seen(pod: Json) -> tuple[str, str, int | None]:
    """Phase, the reason that says most, and the base container's exit code."""
    ended = base(pod).get("state", {}).get("terminated", {})
    return pod["status"]["phase"], reason_of(pod), ended.get("exitCode")


@pytest.mark.parametrize("name", PODS)
def test_the_state_of_a_pod_is_as_predicted(cluster: NodeCluster, world: World, name: str) -> None:
    seen: list[object] = [None]

    def arrived() -> bool:
        seen[0] = _seen(cluster.get_pod(world.namespace, name) or {"status": {"phase": "gone"}})
        return seen[0] == FATES[name][1:]

    try:
        wait_for(arrived, timeout=PATIENCE, what=name, interval=0.2)
    finally:
        print(f"{name}: {seen[0]}")


def test_a_container_that_never_started_did_so_in_1970(cluster: NodeCluster, world: World) -> None:
    pod = cluster.get_pod(world.namespace, "no-program")
    assert base(pod or {})["state"]["terminated"]["startedAt"] == "1970-01-01T00:00:00Z"


def test_one_look_says_the_fate_of_each(world: World) -> None:
    installation = world.installation()
    reasons: dict[str, str] = {}

    def all_said() -> bool:
        reasons.update({one["pod"]: one["reason"] for one in installation.findings().values()})
        return reasons == {name: fate[0] for name, fate in FATES.items()}

    try:
        wait_for(all_said, timeout=60, what="the fates", interval=1)
    finally:
        print(reasons)


def test_enforce_mode_removes_each_and_no_work_goes_on(cluster: NodeCluster, world: World) -> None:
    ids = _running(cluster, world)
    assert set(ids) == {"runs", "sidecar-left"}
    with world.installation().run(mode="enforce"):
        world.wait_names(set(), timeout=PATIENCE)
        codes = {name: cluster.node.wait_exit(container_id).code for name, container_id in ids.items()}
    assert codes == {"runs": 143, "sidecar-left": 143}
    assert {event.name for event in world.deletes(200)} == set(PODS)


def _running(cluster: NodeCluster, world: World) -> dict[str, str]:
    """The running container of each Pod that has one."""
    return {
        pod["metadata"]["name"]: status["containerID"]
        for pod in cluster.pods(world.namespace)
        for status in pod["status"].get("containerStatuses", ())
        if "running" in status["state"]
    }


def test_a_lost_nodes_pods_stay_running_and_are_deleted_when_it_is_back(
    cluster: NodeCluster, airflow: Airflow, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with World.open(cluster, airflow, tmp_path) as world:
        body = world.body("lost", name="lost")
        body["spec"] = _pod(container(FOREVER))
        world.make(body)
        world.seed(world.task("lost", "failed"))
        container_id = _running(cluster, world)["lost"]
        cluster.node.kubelet.kill()
        request.addfinalizer(_once_more(cluster))
        wait_for(lambda: cluster.node_is("Unknown"), timeout=PATIENCE, what="the node: lost")
        pod = cluster.get_pod(world.namespace, "lost") or {}
        assert pod["status"]["phase"] == "Running"
        assert {one["reason"] for one in world.installation().findings().values()} == {"orphaned"}
        with world.installation().run(mode="enforce"):
            world.wait(lambda: world.deletes(200), "the DELETE")
            assert cluster.get_pod(world.namespace, "lost") is not None
            assert container_id.rpartition("/")[2] not in {end.container for end in cluster.node.exits()}
            cluster.node.kubelet.start()
            assert cluster.node.wait_exit(container_id).code == 143
            cluster.wait_pod(world.namespace, "lost", "gone", timeout=PATIENCE)
        assert len(world.deletes()) == 1
    wait_for(lambda: cluster.node_is("True"), timeout=PATIENCE, what="the node: Ready")


def _once_more(cluster: NodeCluster) -> Callable[[], None]:
    """Starts the kubelet for the tests to come, should this one have failed before."""

    def start() -> None:
        if not cluster.node.kubelet.running:
            cluster.node.kubelet.start()

    return start
