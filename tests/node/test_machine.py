"""What protects the machine from a node, seen from inside; `python -m tests.node` compares the machine at its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.processes import LabError, wait_for
from tests.node import machine
from tests.node.cluster import CGROUP, NodeCluster
from tests.node.pods import start


def test_the_kubelet_has_written_none_of_the_machines_sysctls(cluster: NodeCluster) -> None:
    """It would have set vm.overcommit_memory and kernel.panic_on_oops; BEFORE holds them as they were."""
    before = dict(line.split("=", 1) for line in os.environ[machine.BEFORE].split(";"))
    assert before == machine.guarded()
    assert "protectKernelDefaults: true" in (cluster.node.folder / "kubelet.yaml").read_text()


def test_the_node_cannot_write_sysctls_but_those_of_its_network(cluster: NodeCluster) -> None:
    assert cluster.node.run("sh", "-c", "echo 1 > /proc/sys/vm/overcommit_memory").returncode
    assert cluster.node.run("sh", "-c", "echo 7 > /proc/sys/kernel/panic").returncode
    assert not cluster.node.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").returncode


def test_containers_are_in_the_group_that_was_made_for_them(cluster: NodeCluster, namespace: str) -> None:
    name = start(cluster, namespace, "polite")
    pid = cluster.node.wait_process(f"RUN=polite.{name}")
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    memory = next(line for line in groups if ":memory:" in line)
    assert memory.partition(":memory:")[2].startswith(f"/{os.environ[CGROUP]}/")


def test_a_missing_image_asks_no_registry(cluster: NodeCluster, namespace: str) -> None:
    name = start(cluster, namespace, "polite", containers=[{"name": "base", "image": "registry.invalid/none:1"}])

    def reason() -> str | None:
        pod = cluster.get_pod(namespace, name) or {"status": {}}
        statuses = pod["status"].get("containerStatuses", ())
        return next((one["state"]["waiting"].get("reason") for one in statuses if "waiting" in one["state"]), None)

    wait_for(lambda: reason() in ("ErrImagePull", "ImagePullBackOff"), timeout=60, what="a pull that fails")


def test_without_its_namespaces_no_node_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CGROUP)
    with pytest.raises(LabError, match="call make node"):
        NodeCluster.start()
