"""A real kubelet runs Pods: what a Pod's end is, in the API and on the machine."""

from __future__ import annotations

import pytest

from tests.lab.processes import wait_for
from tests.node.cluster import NodeCluster
from tests.node.pods import base, start, terminated


@pytest.mark.parametrize(
    ("work", "phase", "code", "reason"), [("lines-3", "Succeeded", 0, "Completed"), ("exit-3", "Failed", 3, "Error")]
)
def test_a_container_that_ends_gives_its_pod_its_exit_code(
    cluster: NodeCluster, namespace: str, work: str, phase: str, code: int, reason: str
) -> None:
    pod = start(cluster, namespace, work)
    ended = cluster.wait_pod(namespace, pod, phase, timeout=60)
    assert (terminated(ended)["exitCode"], terminated(ended)["reason"]) == (code, reason)
    assert cluster.node.wait_exit(base(ended)["containerID"]).code == code


@pytest.mark.parametrize(
    ("work", "grace", "code"), [("polite", 30, 143), ("tidy", 30, 7), ("deaf", 3, 137), ("unaware", 3, 137)]
)
def test_a_delete_ends_the_process_of_the_container(
    cluster: NodeCluster, namespace: str, work: str, grace: int, code: int
) -> None:
    name = start(cluster, namespace, work, grace=grace)
    pid = cluster.node.wait_process(f"RUN={work}.{name}")
    running = cluster.wait_pod(namespace, name)
    cluster.delete_pod(namespace, name)
    end = cluster.node.wait_exit(base(running)["containerID"])
    assert end.code == code
    wait_for(lambda: pid not in cluster.node.processes(f"RUN={work}.{name}"), what=f"the end of process {pid}")
    cluster.wait_pod(namespace, name, "gone", timeout=60)


def test_a_pod_deleted_without_grace_is_gone_while_its_process_still_runs(cluster: NodeCluster, namespace: str) -> None:
    name = start(cluster, namespace, "deaf", grace=2)
    cluster.node.wait_process(f"RUN=deaf.{name}")
    running = cluster.wait_pod(namespace, name)
    cluster.delete_pod(namespace, name, grace=0)
    assert cluster.get_pod(namespace, name) is None
    assert cluster.node.processes(f"RUN=deaf.{name}")
    assert cluster.node.wait_exit(base(running)["containerID"]).code == 137
