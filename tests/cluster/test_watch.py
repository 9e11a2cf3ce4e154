"""The watch on a real API server: it sees what comes and goes, outlives what kopf does not, and never writes."""

import gc
import threading

import pytest
import yaml

from healer.cluster import Cluster, Connection
from healer.errors import ClusterError
from healer.informer import Informer, PodStore
from tests.lab.pods import executor_pod, job_pod, kpo_pod, spark_pod
from tests.lab.processes import wait_for

TASK = {"dag_id": "etl", "task_id": "load", "run_id": "manual__2026-01-01T12:34:56+00:00"}
RIGHTS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


class Picture:
    """A watch and the store it hints into; a full LIST when it asks for one, as the controller does it."""

    def __init__(self, kubeconfig, *namespaces, listing=True):
        self.api = Cluster(Connection(kubeconfig))
        self.store = PodStore()
        self.calls = []
        self._listing = listing
        self.asked, self._asked = [], []
        self._wanted = threading.Condition()
        self._over = False
        self.watch = Informer(
            self.api.connection,
            namespaces,
            self.store,
            on_list=self._ask,
            observe=lambda *call: self.calls.append(call),
        )
        self._resync = threading.Thread(target=self._resync_when_asked)

    def __enter__(self):
        self._resync.start()
        self.watch.start()
        return self

    def __exit__(self, *_):
        self.watch.stop()
        with self._wanted:
            self._over = True
            self._wanted.notify()
        self._resync.join()
        self.api.close()

    def _ask(self, namespace):
        with self._wanted:
            self.asked.append(namespace)
            self._asked.append(namespace)
            self._wanted.notify()

    def _resync_when_asked(self):
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._over or self._asked)
                if self._over:
                    return
                namespace = self._asked.pop(0)
            if self._listing:
                self.list(namespace)

    def list(self, namespace):
        started = self.store.generation()
        try:
            self.store.replace(namespace, self.api.list_pods(namespace), started)
        except ClusterError as error:
            self.store.mark_unavailable(namespace, str(error))

    def names(self):
        return sorted(pod.name for pod in self.store.list_pods())

    def wait(self, *names):
        wait_for(lambda: self.names() == sorted(names), what=f"{names}, not {self.names()}")

    def phase(self, name):
        return next((pod.phase for pod in self.store.list_pods() if pod.name == name), None)


@pytest.fixture
def kubeconfig(cluster, namespace):
    return cluster.service_account(namespace, "healer", RIGHTS)


def make(cluster, namespace, name, body=kpo_pod, **more):
    return cluster.create_pod(body(**TASK, namespace=namespace, name=name, **more))


def vanish(cluster, namespace, name):
    cluster.delete_pod(namespace, name, grace=0)
    cluster.wait_pod(namespace, name, "gone")


class TestHints:
    def test_pods_come_change_and_go(self, cluster, namespace, kubeconfig):
        with Picture(kubeconfig, namespace, listing=False) as picture:
            wait_for(lambda: picture.watch.watches(namespace), what="a watch")
            make(cluster, namespace, "before")
            make(cluster, namespace, "after")
            picture.wait("after", "before")
            wait_for(lambda: picture.phase("after") == "Running", what="Running")
            cluster.patch_pod(namespace, "after", {"metadata": {"labels": {"already_checked": "True"}}})
            wait_for(lambda: any(pod.checked for pod in picture.store.list_pods()), what="the mark")
            vanish(cluster, namespace, "before")
            picture.wait("after")
            assert picture.watch.alive()
            assert picture.store.why_unavailable(namespace) is not None

    def test_what_happens_between_our_list_and_the_watch_is_seen(self, cluster, namespace, kubeconfig):
        """The watch begins where our LIST ended: nothing is listed twice, by nobody, and nothing is missed."""
        for name in ("stays", "vanishes"):
            make(cluster, namespace, name)
        picture = Picture(kubeconfig, namespace)
        picture.list(namespace)
        listed = {pod.name: pod.resource_version for pod in picture.store.list_pods()}
        vanish(cluster, namespace, "vanishes")
        make(cluster, namespace, "new")
        since = cluster.audit_mark()
        with picture:
            picture.wait("new", "stays")
            wait_for(lambda: picture.phase("new") == "Running", what="Running")
        assert sorted(listed) == ["stays", "vanishes"]
        assert picture.asked == []
        user = f"system:serviceaccount:{namespace}:healer"
        assert wait_for(lambda: cluster.audit(since, user=user, verb="list"), what="kopf's list in the audit log")
        assert all("fieldSelector=metadata.name" in event.uri for event in cluster.audit(since, user=user, verb="list"))

    def test_the_selector(self, cluster, namespace, kubeconfig):
        with Picture(kubeconfig, namespace) as picture:
            make(cluster, namespace, "executor", executor_pod)
            make(cluster, namespace, "spark", spark_pod)
            make(cluster, namespace, "job", job_pod)
            make(cluster, namespace, "kpo")
            make(cluster, namespace, "told-apart", labels={"kubernetes_executor": "False"})
            picture.wait("job", "kpo", "told-apart")
            for mark in ({"airflow-worker": "1"}, {"kubernetes_executor": "True"}):
                cluster.patch_pod(namespace, "kpo", {"metadata": {"labels": mark}})
                picture.wait("job", "told-apart")
                cluster.patch_pod(namespace, "kpo", {"metadata": {"labels": dict.fromkeys(mark)}})
                picture.wait("job", "kpo", "told-apart")
            assert all(pod.selected for pod in picture.store.list_pods())

    def test_requests_are_told(self, cluster, namespace, kubeconfig):
        with Picture(kubeconfig, namespace) as picture:
            wait_for(lambda: ("watch", "200") in picture.calls, what="a watch")
            assert ("list", "200") in picture.calls

    def test_the_name_of_the_certificate(self, cluster, namespace, kubeconfig):
        """A kubeconfig may name the server otherwise than its address does."""
        document = yaml.safe_load(kubeconfig.read_text())
        document["clusters"][0]["cluster"]["tls-server-name"] = "kubernetes.default.svc"
        named = kubeconfig.with_name(f"{kubeconfig.name}-named")
        named.write_text(yaml.safe_dump(document))
        make(cluster, namespace, "p")
        with Picture(named, namespace) as picture:
            picture.wait("p")
            wait_for(lambda: picture.store.why_unavailable(namespace) is None, what="a listing")


class TestFaults:
    def test_pods_that_vanish_while_the_watch_expires(self, cluster, namespace, kubeconfig):
        for name in ("stays", "vanishes"):
            make(cluster, namespace, name)
        with Picture(kubeconfig, namespace) as picture:
            picture.wait("stays", "vanishes")
            cluster.expire_watches(while_down=[(namespace, "vanishes")])
            picture.wait("stays")
            make(cluster, namespace, "new")
            picture.wait("new", "stays")

    def test_all_pods_vanish_while_the_watch_expires(self, cluster, namespace, kubeconfig):
        """An empty relist gives kopf no Pod to tell of; it must ask for a full LIST all the same."""
        make(cluster, namespace, "vanishes")
        with Picture(kubeconfig, namespace) as picture:
            picture.wait("vanishes")
            cluster.expire_watches(while_down=[(namespace, "vanishes")])
            picture.wait()

    def test_a_dead_kopf_is_started_again(self, cluster, namespace, kubeconfig, monkeypatch):
        monkeypatch.setattr("healer.informer.informer.FIRST_BACKOFF", 0.1)
        make(cluster, namespace, "vanishes")
        make(cluster, namespace, "stays")
        with Picture(kubeconfig, namespace) as picture:
            picture.wait("stays", "vanishes")
            picture.watch._watcher.stop()  # it ends as it does for a bug of its own, and nobody asked it to
            vanish(cluster, namespace, "vanishes")
            wait_for(lambda: picture.watch.restarts == 1 and picture.watch.alive(), what="the second kopf")
            picture.wait("stays")
            make(cluster, namespace, "new")
            picture.wait("new", "stays")

    def test_one_namespace_is_forbidden(self, cluster, namespace, kubeconfig):
        other = cluster.namespace(f"{namespace}-x")
        try:
            make(cluster, namespace, "p")
            make(cluster, other, "unseen")
            with Picture(kubeconfig, namespace, other) as picture:
                picture.list(other)
                picture.wait("p")
                assert "may not list" in picture.store.why_unavailable(other)
                wait_for(lambda: picture.store.why_unavailable(namespace) is None, what="a listing")
                wait_for(lambda: ("list", "403") in picture.calls, what="kopf's own refusal")
                make(cluster, namespace, "q")
                picture.wait("p", "q")
                assert picture.watch.restarts == 0
                cluster.service_account(namespace, "healer", RIGHTS, namespaces=[other])
                picture.wait("p", "q", "unseen")
                assert picture.watch.restarts == 0
        finally:
            cluster.delete_namespace(other)

    def test_a_server_that_is_away_for_a_while(self, cluster, namespace, kubeconfig):
        make(cluster, namespace, "p")
        with Picture(kubeconfig, namespace) as picture:
            picture.wait("p")
            cluster.apiserver.kill()
            wait_for(lambda: ("watch", "unreachable") in picture.calls, what="a refused watch")
            cluster.apiserver.start()
            make(cluster, namespace, "q")
            picture.wait("p", "q")


class TestHarmlessness:
    def test_nothing_is_ever_written(self, cluster, namespace, kubeconfig):
        """Not even with all rights, and not to a Pod that another kopf operator has marked."""
        mark = cluster.audit_mark()
        strong = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        kubeconfig = cluster.service_account(namespace, "strong", strong)
        make(cluster, namespace, "p")
        finalizer = {"metadata": {"finalizers": ["kopf.zalando.org/KopfFinalizerMarker"]}}
        cluster.patch_pod(namespace, "p", finalizer)
        with Picture(kubeconfig, namespace) as picture:
            picture.wait("p")
            for number in range(5):
                cluster.patch_pod(namespace, "p", {"metadata": {"annotations": {"n": str(number)}}})
            make(cluster, namespace, "q")
            picture.wait("p", "q")
            vanish(cluster, namespace, "q")
            picture.wait("p")
        assert cluster.get_pod(namespace, "p")["metadata"]["finalizers"] == finalizer["metadata"]["finalizers"]
        cluster.patch_pod(namespace, "p", {"metadata": {"finalizers": None}})
        done = [each for each in cluster.audit(mark) if each.user.endswith(":strong")]
        assert {each.verb for each in done} >= {"list", "watch"}
        assert [each for each in done if each.verb in WRITES] == []

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_it_stops_while_the_server_is_frozen(self, cluster, namespace, kubeconfig):
        """Its TLS connections can't be closed politely then; Python complains about them when it collects them."""
        make(cluster, namespace, "p")
        with Picture(kubeconfig, namespace) as picture:
            picture.wait("p")
            cluster.apiserver.freeze()
            try:
                picture.watch.stop()
                assert [each for each in threading.enumerate() if each.name == "watch"] == []
            finally:
                cluster.apiserver.thaw()
        gc.collect()
