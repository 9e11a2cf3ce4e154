"""The DELETE against a real API server: the right Pod or none, once per call, whatever happens to the connection."""

import time

import msgspec
import pytest

from healer.cluster import Cluster, Connection, connect
from healer.deletion.pod_deleter import Evidence, PodDeleter
from healer.model import DeleteStatus, Finding, Reason
from tests.cluster.proxy import proxied
from tests.lab.kube import ANNOTATION
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.fakes import always_leader

TASK = {"dag_id": "etl", "task_id": "load", "run_id": "manual__2026-01-01T12:34:56+00:00"}
READ = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


@pytest.fixture
def api(cluster):
    with connect(cluster.kubeconfig) as connected:
        yield connected


@pytest.fixture
def pod(cluster, namespace, api):
    """A running Pod, as the healer read it; it takes a while to end."""
    return running(cluster, namespace, api)


def running(cluster, namespace, api, name="p", **marks):
    marks = {ANNOTATION + key.replace("_", "-"): value for key, value in marks.items()}
    cluster.create_pod(kpo_pod(**TASK, namespace=namespace, name=name, annotations=marks))
    cluster.wait_pod(namespace, name)
    return api.get_pod(namespace, name)


def fresh(age=0.0):
    return Evidence(Finding(Reason.ORPHANED, "ended"), time.monotonic() - age)


class Audit:
    """The DELETEs of Pods that reached the API server since now, in one namespace."""

    def __init__(self, cluster, namespace):
        self._cluster, self._namespace, self._mark = cluster, namespace, cluster.audit_mark()

    def deletes(self):
        entries = self._cluster.audit(self._mark, verb="delete", resource="pods")
        return [entry for entry in entries if entry.namespace == self._namespace]

    def only(self):
        """The one DELETE; waits until it is written, and lets a second one be written too."""
        wait_for(self.deletes, what="a DELETE in the audit log")
        # Audit lines are written in order: once a later request is there, so is whatever came before it.
        self._cluster.request("GET", f"/api/v1/namespaces/{self._namespace}/pods/none-such", expect=(404,))
        wait_for(lambda: self._seen("none-such"), what="the last line")
        (entry,) = self.deletes()
        return entry

    def none(self):
        """Whether no DELETE came."""
        self._cluster.request("GET", f"/api/v1/namespaces/{self._namespace}/pods/none-such", expect=(404,))
        wait_for(lambda: self._seen("none-such"), what="the last line")
        return self.deletes() == []

    def _seen(self, name):
        return [entry for entry in self._cluster.audit(self._mark, verb="get") if entry.name == name]


@pytest.fixture
def audit(cluster, namespace, pod):
    return Audit(cluster, namespace)


class TestWhichPod:
    def test_the_one_that_was_judged(self, cluster, namespace, api, pod, audit):
        outcome = PodDeleter.of(api).delete_pod(pod, fresh(), always_leader)
        assert outcome.status is DeleteStatus.DELETED
        entry = audit.only()
        assert entry.preconditions == {"uid": pod.uid, "resourceVersion": pod.resource_version}
        assert "gracePeriodSeconds" not in entry.body
        cluster.wait_pod(namespace, "p", "gone")

    def test_its_own_grace_counts(self, cluster, namespace, api):
        pod = running(cluster, namespace, api, hang_terminating="true")
        assert PodDeleter.of(api).delete_pod(pod, fresh(), always_leader).status is DeleteStatus.DELETED
        raw = cluster.get_pod(namespace, "p")
        assert raw["metadata"]["deletionGracePeriodSeconds"] == raw["spec"]["terminationGracePeriodSeconds"] > 0

    def test_not_another_one_of_the_same_name(self, cluster, namespace, api, pod, audit):
        cluster.delete_pod(namespace, "p", grace=0)
        cluster.wait_pod(namespace, "p", "gone")
        again = running(cluster, namespace, api)
        assert again.uid != pod.uid
        mark = Audit(cluster, namespace)
        # Even with the new one's resourceVersion: the uid alone must keep it alive.
        aimed = msgspec.structs.replace(pod, resource_version=again.resource_version)
        assert PodDeleter.of(api).delete_pod(aimed, fresh(), always_leader).status is DeleteStatus.CONFLICT
        assert mark.only().code == 409
        assert api.get_pod(namespace, "p") == again

    def test_not_one_that_changed_since(self, cluster, namespace, api, pod, audit):
        cluster.patch_pod(namespace, "p", {"metadata": {"annotations": {"kpo-healer.io/protect": "true"}}})
        assert PodDeleter.of(api).delete_pod(pod, fresh(), always_leader).status is DeleteStatus.CONFLICT
        assert audit.only().code == 409
        now = api.get_pod(namespace, "p")
        assert now.protected
        assert PodDeleter.of(api).delete_pod(now, fresh(), always_leader).status is DeleteStatus.DELETED

    def test_gone_already(self, cluster, namespace, api, pod, audit):
        cluster.delete_pod(namespace, "p", grace=0)
        cluster.wait_pod(namespace, "p", "gone")
        assert PodDeleter.of(api).delete_pod(pod, fresh(), always_leader).status is DeleteStatus.GONE

    def test_twice(self, cluster, namespace, api):
        pod = running(cluster, namespace, api, hang_terminating="true")
        results = [PodDeleter.of(api).delete_pod(pod, fresh(), always_leader).status for _ in range(2)]
        assert results == [DeleteStatus.DELETED, DeleteStatus.CONFLICT]

    def test_without_the_right(self, cluster, namespace, pod, audit):
        with Cluster(Connection(cluster.service_account(namespace, "healer", [READ]))) as weak:
            outcome = PodDeleter.of(weak).delete_pod(pod, fresh(), always_leader)
        assert outcome.status is DeleteStatus.DENIED
        assert "delete" in outcome.message
        assert f"system:serviceaccount:{namespace}:healer" in outcome.message
        assert audit.only().code == 403
        assert not api_sees_terminating(cluster, namespace)


def api_sees_terminating(cluster, namespace):
    return "deletionTimestamp" in cluster.get_pod(namespace, "p")["metadata"]


class TestNotSent:
    def test_stale_proof(self, api, pod, audit):
        assert PodDeleter.of(api).delete_pod(pod, fresh(age=15.5), always_leader).status is DeleteStatus.STALE
        assert audit.none()

    def test_no_right(self, api, pod, audit):
        assert PodDeleter.of(api).delete_pod(pod, fresh(), lambda: False).status is DeleteStatus.STALE
        assert audit.none()


class TestFaults:
    """One DELETE reaches the API server, or none; never two."""

    def test_reset_after_it_was_sent(self, cluster, namespace, pod, audit):
        with proxied(cluster.url, cluster.kubeconfig) as (proxy, kubeconfig), connect(kubeconfig) as api:
            api.version()
            proxy.reset_when_asked()
            outcome = PodDeleter.of(api).delete_pod(pod, fresh(), always_leader)
        assert outcome.status is DeleteStatus.ERROR
        assert audit.only().code == 200

    def test_reset_of_idle_connections_before_it(self, cluster, namespace, pod, audit):
        with proxied(cluster.url, cluster.kubeconfig) as (proxy, kubeconfig), connect(kubeconfig) as api:
            api.version()
            proxy.reset_all()
            outcome = PodDeleter.of(api).delete_pod(pod, fresh(), always_leader)
        # Whether the connection is seen to be dead before or while sending, it is one DELETE at most.
        if outcome.status is DeleteStatus.DELETED:
            assert audit.only().code == 200
        else:
            assert outcome.status is DeleteStatus.ERROR
            assert audit.none()

    def test_frozen_with_a_connection(self, cluster, namespace, api, pod, audit, monkeypatch):
        monkeypatch.setattr("healer.deletion.pod_deleter.TIMEOUT", 1.0)
        cluster.apiserver.freeze()
        try:
            outcome = PodDeleter.of(api).delete_pod(pod, fresh(), always_leader)
        finally:
            cluster.apiserver.thaw()
        assert outcome.status is DeleteStatus.ERROR
        assert "did not answer" in outcome.message
        # It lay in the server's buffer and is read after the thaw. Whether it is carried out then or dropped, as nobody
        # waits for its answer any more: it is one, and its preconditions still hold.
        entry = audit.only()
        assert entry.preconditions["resourceVersion"] == pod.resource_version
        if entry.code != 200:
            assert not api_sees_terminating(cluster, namespace)

    def test_frozen_without_a_connection(self, cluster, namespace, pod, audit, monkeypatch):
        """The TLS handshake hangs, so nothing is ever sent."""
        monkeypatch.setattr("healer.deletion.pod_deleter.TIMEOUT", 1.0)
        with connect(cluster.kubeconfig) as api:
            cluster.apiserver.freeze()
            try:
                outcome = PodDeleter.of(api).delete_pod(pod, fresh(), always_leader)
            finally:
                cluster.apiserver.thaw()
        assert outcome.status is DeleteStatus.ERROR
        assert audit.none()
        assert not api_sees_terminating(cluster, namespace)

    def test_the_proof_expires_while_connecting(self, cluster, pod, audit):
        """Fresh at the first look at the clock, too old at the one after the TLS handshake."""
        looks = iter([0.0])
        with Cluster(Connection(cluster.kubeconfig), clock=lambda: next(looks, 15.5)) as api:
            outcome = PodDeleter.of(api).delete_pod(
                pod, Evidence(Finding(Reason.ORPHANED, "ended"), 0.0), always_leader
            )
        assert outcome.status is DeleteStatus.STALE
        assert audit.none()

    def test_the_api_server_is_away(self, cluster, namespace, api, pod, audit):
        cluster.apiserver.kill()
        try:
            outcome = PodDeleter.of(api).delete_pod(pod, fresh(), always_leader)
        finally:
            cluster.apiserver.start()
        assert outcome.status is DeleteStatus.ERROR
        assert audit.none()
        assert not api_sees_terminating(cluster, namespace)
        assert api.get_pod(namespace, "p").uid == pod.uid
