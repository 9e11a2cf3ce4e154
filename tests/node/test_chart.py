"""The chart on real controllers and a real kubelet: the image runs in its Pods, and does its work from inside.

One installation for all tests of this module, which go from report to enforce, and lose the leader on the way.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import RELEASE, objects, render
from tests.e2e.tasks import PATIENCE, RealTask
from tests.lab.healer import PATIENCE as POLICY
from tests.lab.healer import QUICK, deletes
from tests.lab.processes import say, wait_for
from tests.node import product
from tests.node.airflow import NodeAirflow
from tests.node.cluster import NodeCluster
from tests.node.exec import execute
from tests.node.pods import base
from tests.node.test_kpo import RunningTask, running, trigger

Json = Any

NAMESPACE = "healer-system"
CONFIG = "/etc/kpo-healer/config/config.yaml"


@dataclass
class Installed:
    """The chart in NAMESPACE for an Airflow and the namespace of its Pods."""

    cluster: NodeCluster
    airflow: NodeAirflow
    namespace: str
    folder: Path
    orphan: RunningTask | None = field(default=None)

    def apply(self, mode: str) -> None:
        """As `helm upgrade` does with other values."""
        for document in objects(render(self._values(mode), namespace=NAMESPACE, folder=self.folder)):
            self.cluster.apply(document)

    def _values(self, mode: str) -> Json:
        airflow = {
            "name": "demo",
            "namespaces": [self.namespace],
            "ownership": "exclusive",
            "url": self.airflow.pods_url,
            "username": "viewer",
            "passwordFile": "/etc/kpo-healer/secret/password",
            "policy": dict(POLICY),
        }
        return {
            "config": {**copy.deepcopy(QUICK), "mode": mode, "airflows": [airflow]},
            "secret": {"data": {"password": "viewer"}},
            "image": {"repository": product.NAME.partition(":")[0], "tag": product.NAME.partition(":")[2]},
            "admissionPolicy": {"delete": {"enabled": True}},
        }

    def pods(self) -> list[Json]:
        """Those of the Deployment that are not being deleted."""
        found = self.cluster.pods(NAMESPACE, f"app.kubernetes.io/instance={RELEASE}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait_ready(self, replicas: int = 2) -> list[Json]:
        """Waits until the rollout is over: as many Pods as wanted, all of this version and Ready."""

        def ready() -> list[Json] | None:
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}"
            deployment = self.cluster.request("GET", path)
            status = deployment.get("status", {})
            done = status.get("observedGeneration") == deployment["metadata"]["generation"]
            counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
            pods = self.pods()
            return pods if done and counts == [replicas] * 3 and len(pods) == replicas else None

        found = wait_for(ready, timeout=PATIENCE, what="the chart's replicas: Ready", interval=0.2)
        assert found is not None
        return found

    def leader(self) -> str | None:
        """The name of the Pod that holds the Lease."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{RELEASE}"
        lease = self.cluster.request("GET", path, expect=(200, 404))
        holder = lease.get("spec", {}).get("holderIdentity") or ""
        return next((pod["metadata"]["name"] for pod in self.pods() if pod["metadata"]["name"] in holder), None)

    def exec(self, pod: str, *command: str) -> tuple[int, str]:
        return execute(self.cluster, NAMESPACE, pod, *command)


@pytest.fixture(scope="module")
def installed(
    cluster: NodeCluster, airflow: NodeAirflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """In report mode, Ready, beside one task that was killed."""
    cluster.node.load(product.image())
    jobs = cluster.namespace("chart-jobs")
    cluster.namespace(NAMESPACE)
    made = Installed(cluster, airflow, jobs, tmp_path_factory.mktemp("chart"))
    made.orphan = _killed(made)
    made.apply("report")
    made.wait_ready()
    yield made
    cluster.delete_namespace(NAMESPACE)
    cluster.delete_namespace(jobs)


def _killed(installed: Installed) -> RunningTask:
    task: RealTask = trigger(installed.cluster, installed.airflow, installed.namespace, "kpo_sync", "polite")
    found = running(installed.cluster, task)
    task.kill()
    task.wait("failed")
    return found


def test_the_probes_let_both_replicas_become_ready(installed: Installed) -> None:
    pods = installed.wait_ready()
    assert [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]] == [0, 0]
    wait_for(installed.leader, timeout=PATIENCE, what="a leader")


def test_the_kubelet_enforces_what_the_chart_asks_for(installed: Installed) -> None:
    name = installed.pods()[0]["metadata"]["name"]
    code, out = installed.exec(name, "sh", "-c", "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status")
    assert (code, out.split()[0]) == (0, "65532")
    zeros = "0000000000000000"
    assert out.split()[1:] == ["CapEff:", zeros, "CapBnd:", zeros, "NoNewPrivs:", "1", "Seccomp:", "2"]
    code, out = installed.exec(name, "sh", "-c", "touch /tmp/x /opt/x /x; stat -Lc '%a %u:%g' /etc/kpo-healer/secret/*")
    assert out.count("Read-only file system") == 3
    assert "440 0:65532" in out


def test_check_says_inside_of_the_pod_that_all_is_well(installed: Installed) -> None:
    code, out = installed.exec(installed.pods()[0]["metadata"]["name"], "kpo-healer", "check", "--config", CONFIG)
    assert code == 0, out


def test_scan_finds_the_orphan_inside_of_the_pod(installed: Installed) -> None:
    orphan = installed.orphan
    assert orphan is not None
    name = installed.pods()[0]["metadata"]["name"]
    words = ("kpo-healer", "scan", "--config", CONFIG, "-o", "json")

    def orphaned() -> bool:
        _, out = installed.exec(name, *words)
        findings, _ = json.JSONDecoder().raw_decode(out) if out.startswith("[") else ([], 0)
        return any(one["pod"] == orphan.name and one["reason"] == "orphaned" for one in findings)

    wait_for(orphaned, timeout=PATIENCE, what="the orphan in `scan`", interval=1)


def test_from_report_to_enforce_the_orphan_is_really_ended(installed: Installed) -> None:
    cluster, orphan = installed.cluster, installed.orphan
    assert orphan is not None
    assert cluster.node.processes(f"RUN={orphan.task.run}") == [orphan.pid]
    mark = cluster.audit_mark()
    before = {pod["metadata"]["name"] for pod in installed.pods()}
    installed.apply("enforce")
    after = {pod["metadata"]["name"] for pod in installed.wait_ready()}
    assert not before & after
    end = cluster.node.wait_exit(base(orphan.pod)["containerID"], timeout=PATIENCE)
    assert end.code == 143
    cluster.wait_pod(installed.namespace, orphan.name, "gone", timeout=PATIENCE)
    events = cluster.audit(mark, verb="delete", resource="pods")
    (sent,) = [event for event in events if event.name == orphan.name and "serviceaccount" in event.user]
    assert (sent.user, sent.code) == (f"system:serviceaccount:{NAMESPACE}:{RELEASE}", 200)
    assert not deletes(cluster, mark)


def test_a_leader_that_is_killed_is_started_anew_while_another_leads(installed: Installed) -> None:
    cluster = installed.cluster
    first = wait_for(installed.leader, timeout=PATIENCE, what="a leader")
    assert first is not None
    pod = cluster.get_pod(NAMESPACE, first) or {}
    container = pod["status"]["containerStatuses"][0]["containerID"]
    cluster.node.kill(container)
    end = cluster.node.wait_exit(container)
    assert end.code == 137

    def restarted() -> bool:
        statuses = (cluster.get_pod(NAMESPACE, first) or {})["status"]["containerStatuses"]
        return bool(statuses[0]["restartCount"] == 1 and statuses[0]["ready"])

    wait_for(restarted, timeout=PATIENCE, what="the killed leader: Ready again", interval=0.2)
    wait_for(installed.leader, timeout=PATIENCE, what="a leader")
    orphan = _killed(installed)
    end = cluster.node.wait_exit(base(orphan.pod)["containerID"], timeout=PATIENCE)
    say(f"leader killed: an orphan made afterwards ended with {end.code}")
    assert end.code == 143
