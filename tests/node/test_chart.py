"""The chart on real controllers and a real kubelet: the image runs in its Pods, and does its work from inside.

One installation by helm for all tests of this module, which go from report to enforce, and lose the leader on the way:
killed, frozen, evicted.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.generate import CHART
from tests.deploy.chart import RELEASE, run
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
ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"


@dataclass
class Installed:
    """The chart in NAMESPACE for an Airflow and the namespace of its Pods."""

    cluster: NodeCluster
    airflow: NodeAirflow
    namespace: str
    folder: Path
    orphan: RunningTask | None = field(default=None)

    def upgrade(self, mode: str, *, tag: str | None = None) -> None:
        """`helm upgrade`, which installs what is not there yet. tag: another one of the image than the real one."""
        values = self.folder / "values.yaml"
        values.write_text(yaml.safe_dump(self._values(mode, tag)))
        run("upgrade", RELEASE, str(CHART), "--install", *self._where, "--values", str(values))

    def rollback(self) -> None:
        """`helm rollback` to the revision before."""
        run("rollback", RELEASE, *self._where)

    def uninstall(self) -> None:
        run("uninstall", RELEASE, *self._where)

    @property
    def _where(self) -> list[str]:
        return ["--namespace", NAMESPACE, "--kubeconfig", str(self.cluster.kubeconfig)]

    def _values(self, mode: str, tag: str | None) -> Json:
        airflow = {
            "name": "demo",
            "namespaces": [self.namespace],
            "ownership": "exclusive",
            "url": self.airflow.pods_url,
            "username": "viewer",
            "passwordFile": "/etc/kpo-healer/secret/password",
            "policy": dict(POLICY),
        }
        repository, _, real = product.NAME.partition(":")
        return {
            "config": {**copy.deepcopy(QUICK), "mode": mode, "airflows": [airflow]},
            "secret": {"data": {"password": "viewer"}},
            "image": {"repository": repository, "tag": tag or real},
            "admissionPolicy": {"delete": {"enabled": True}},
            # A third of the chart's, so that a test does not wait for minutes.
            "livenessProbe": {"periodSeconds": 5},
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

    def wait_leader(self, *, other_than: str | None = None) -> str:
        """Waits until a Pod leads; its name."""

        def found() -> str | None:
            name = self.leader()
            return name if name != other_than else None

        return str(wait_for(found, timeout=PATIENCE, what=f"a leader other than {other_than}", interval=0.2))

    def wait_restarted(self, pod: str, times: int) -> None:
        """Waits until its container has been started anew so often, and is Ready."""

        def restarted() -> bool:
            status = _container(self.cluster.get_pod(NAMESPACE, pod) or {})
            return bool(status["restartCount"] == times and status["ready"])

        wait_for(restarted, timeout=PATIENCE, what=f"{pod}: started anew", interval=0.2)

    def evict(self, pod: str) -> int:
        """As `kubectl drain` does for each Pod of a node; the answer's status."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        answer = self.cluster.client.post(path, json=body)
        return answer.status_code

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
    made.upgrade("report")
    made.wait_ready()
    yield made
    made.uninstall()
    cluster.delete_namespace(NAMESPACE)
    cluster.delete_namespace(jobs)


def _container(pod: Json) -> Json:
    """The status of its one container."""
    (status,) = pod["status"]["containerStatuses"]
    return status


def _is_ready(pod: Json) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def _killed(installed: Installed) -> RunningTask:
    task: RealTask = trigger(installed.cluster, installed.airflow, installed.namespace, "kpo_sync", "polite")
    found = running(installed.cluster, task)
    task.kill()
    task.wait("failed")
    return found


def test_the_probes_let_both_replicas_become_ready(installed: Installed) -> None:
    pods = installed.wait_ready()
    assert [_container(pod)["restartCount"] for pod in pods] == [0, 0]
    installed.wait_leader()


def test_the_kubelet_enforces_what_the_chart_asks_for(installed: Installed) -> None:
    name = installed.pods()[0]["metadata"]["name"]
    code, out = installed.exec(name, "sh", "-c", "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status")
    assert (code, out.split()[0]) == (0, "65532")
    zeros = "0000000000000000"
    assert out.split()[1:] == ["CapEff:", zeros, "CapBnd:", zeros, "NoNewPrivs:", "1", "Seccomp:", "2"]
    code, out = installed.exec(name, "sh", "-c", "touch /tmp/x /opt/x /x; stat -Lc '%a %u:%g' /etc/kpo-healer/secret/*")
    assert out.count("Read-only file system") == 3
    assert "440 0:65532" in out


def test_the_kernel_has_the_limits_that_the_chart_asks_for(installed: Installed) -> None:
    node, container = installed.cluster.node, _container(installed.pods()[0])["containerID"]
    assert node.limit(container, "memory", "memory.limit_in_bytes") == 512 * 1024**2
    assert node.limit(container, "cpu", "cpu.shares") == 50 * 1024 // 1000


def test_a_token_that_the_kubelet_renews_is_used(installed: Installed) -> None:
    """A kubelet renews it when four fifths of its life are over, and when it has been started anew."""
    cluster, name = installed.cluster, installed.wait_leader()
    process = cluster.node.first_process(_container(cluster.get_pod(NAMESPACE, name) or {})["containerID"])
    before, mark = _token_id(process), cluster.audit_mark()
    cluster.node.kubelet.kill()
    cluster.node.kubelet.start()
    wait_for(lambda: _token_id(process) != before, timeout=PATIENCE, what="another token in the file", interval=0.2)
    after = _token_id(process)

    def used() -> bool:
        with cluster.audit_log.open("rb") as log:
            log.seek(mark)
            return f"JTI={after}".encode() in log.read()

    wait_for(used, timeout=PATIENCE, what="a request with the new token", interval=1)
    assert [_container(pod)["restartCount"] for pod in installed.wait_ready()] == [0, 0]


def _token_id(process: int) -> str:
    """The id in the token that a container has now, by which the API server's audit log calls it."""
    claims = Path(f"/proc/{process}/root{ACCOUNT}/token").read_text().split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"])


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
    installed.upgrade("enforce")
    after = {pod["metadata"]["name"] for pod in installed.wait_ready()}
    assert not before & after
    end = cluster.node.wait_exit(base(orphan.pod)["containerID"], timeout=PATIENCE)
    assert end.code == 143
    cluster.wait_pod(installed.namespace, orphan.name, "gone", timeout=PATIENCE)
    events = cluster.audit(mark, verb="delete", resource="pods")
    (sent,) = [event for event in events if event.name == orphan.name and "serviceaccount" in event.user]
    assert (sent.user, sent.code) == (f"system:serviceaccount:{NAMESPACE}:{RELEASE}", 200)
    assert not deletes(cluster, mark)


def test_a_version_that_does_not_start_leaves_the_old_one_at_work_until_it_is_rolled_back(
    installed: Installed,
) -> None:
    before = {pod["metadata"]["name"] for pod in installed.wait_ready()}
    leader = installed.wait_leader()
    installed.upgrade("enforce", tag="none")

    def stuck() -> bool:
        waiting = (status for pod in installed.pods() for status in pod["status"].get("containerStatuses", ()))
        return any("Image" in one["state"].get("waiting", {}).get("reason", "") for one in waiting)

    wait_for(stuck, timeout=PATIENCE, what="a Pod without an image", interval=0.2)
    ready = {pod["metadata"]["name"] for pod in installed.pods() if _is_ready(pod)}
    assert (ready, installed.wait_leader()) == (before, leader)
    installed.rollback()
    pods = installed.wait_ready()
    assert {pod["metadata"]["name"] for pod in pods} == before
    assert [_container(pod)["restartCount"] for pod in pods] == [0, 0]


def test_a_leader_that_is_killed_is_started_anew_while_another_leads(installed: Installed) -> None:
    cluster, first = installed.cluster, installed.wait_leader()
    status = _container(cluster.get_pod(NAMESPACE, first) or {})
    cluster.node.kill(status["containerID"])
    assert cluster.node.wait_exit(status["containerID"]).code == 137
    installed.wait_restarted(first, status["restartCount"] + 1)
    _heals(installed, "killed")


def test_a_leader_that_hangs_is_ended_by_its_liveness_probe_while_another_leads(installed: Installed) -> None:
    cluster, first = installed.cluster, installed.wait_leader()
    status = _container(cluster.get_pod(NAMESPACE, first) or {})
    os.kill(cluster.node.first_process(status["containerID"]), signal.SIGSTOP)
    installed.wait_leader(other_than=first)
    # The kubelet's SIGTERM does not reach it any more.
    assert cluster.node.wait_exit(status["containerID"], timeout=PATIENCE).code == 137
    installed.wait_restarted(first, status["restartCount"] + 1)
    _heals(installed, "frozen")


def test_a_drained_node_loses_one_replica_at_a_time(installed: Installed) -> None:
    """There is no other node here: what comes instead of an evicted replica comes to the same one."""
    before = [pod["metadata"]["name"] for pod in installed.wait_ready()]
    leader = installed.wait_leader()
    first, second = sorted(before, key=lambda name: name != leader)
    assert installed.evict(first) == 201
    assert installed.evict(second) == 429
    wait_for(lambda: installed.evict(second) == 201, timeout=PATIENCE, what="room for the second", interval=0.2)
    ready = [pod for pod in installed.pods() if pod["metadata"]["name"] != second and _is_ready(pod)]
    assert len(ready) == 1
    assert not {pod["metadata"]["name"] for pod in installed.wait_ready()} & set(before)
    _heals(installed, "drained")


def _heals(installed: Installed, what: str) -> None:
    """Some replica leads and does its work: an orphan that is made now is ended."""
    orphan = _killed(installed)
    end = installed.cluster.node.wait_exit(base(orphan.pod)["containerID"], timeout=PATIENCE)
    say(f"leader {what}: an orphan made afterwards ended with {end.code}")
    assert end.code == 143
