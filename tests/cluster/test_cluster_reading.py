"""Listing, reading, telling and asking for rights, on a real API server."""

import pytest

from healer.cluster import Cluster, Connection, EventResult, connect
from healer.decision.labels import believed, parse, safe_label
from healer.errors import AccessDeniedError
from healer.model import ID_ANNOTATIONS, Labels, RawIds
from tests.lab.kube import ANNOTATION
from tests.lab.marks import SELECTED
from tests.lab.pods import SIDECAR, executor_pod, job_pod, kpo_pod, spark_pod
from tests.lab.processes import wait_for

TASK = {"dag_id": "etl", "task_id": "load", "run_id": "manual__2026-01-01T12:34:56+00:00"}
HOSTILE = {
    "honest": "x",
    "nul": "m\0x",
    "emoji": "m\U0001f600",
    "huge": "m" * 200_000,
    "right-to-left": "m\u202egnp",
    "line": "m\nx",
    "escape": "m\x1b[31m",
    "del": "m\x7f",
    "blank": "m ",
    "zero-width": "m\u200b",
}
"""What stands at the end of a raw id, by the name of its Pod."""

READ = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]


@pytest.fixture
def seen():
    return []


@pytest.fixture
def api(cluster, seen):
    with connect(cluster.kubeconfig, observe=lambda *call: seen.append(call)) as connected:
        yield connected


def make(cluster, namespace, name, body=kpo_pod, **more):
    return cluster.create_pod(body(**TASK, namespace=namespace, name=name, **more))


def marked(cluster, namespace):
    """Make a Pod of each row of `SELECTED`, in turn of both kinds by name; return whether the selector finds it."""
    bodies, wanted = [], {}
    for number, (labels, selected) in enumerate(SELECTED):
        body = kpo_pod(**TASK, namespace=namespace, name=f"{number % 7}-row-{number}")
        body["metadata"]["labels"] = dict(labels)
        bodies.append(body)
        wanted[body["metadata"]["name"]] = selected
    cluster.create_pods(bodies)
    return wanted


class TestListing:
    def test_the_selector_leaves_out_what_is_not_kpos(self, cluster, namespace, api):
        make(cluster, namespace, "kpo")
        make(cluster, namespace, "job", job_pod)
        make(cluster, namespace, "executor", executor_pod)
        make(cluster, namespace, "spark", spark_pod)
        mark = {"kubernetes_pod_operator": "True"}
        make(cluster, namespace, "forged-executor", executor_pod, labels=mark)
        make(cluster, namespace, "forged-spark", spark_pod, labels=mark)
        make(cluster, namespace, "no-labels", labels=dict.fromkeys(["dag_id", "task_id", "run_id", "try_number"]))
        pods = {pod.name: pod for pod in api.list_pods(namespace).pods}
        assert sorted(pods) == ["job", "kpo", "no-labels"]
        assert pods["job"].owned
        assert not pods["kpo"].owned
        assert pods["no-labels"].labels == Labels()

    def test_every_page_and_every_read_by_name_keeps_to_the_selector(self, cluster, namespace, api, seen, monkeypatch):
        """Pods of the operator among others, over many pages; whatever charts, hooks and webhooks write on them."""
        monkeypatch.setattr("healer.cluster.client.PAGE_SIZE", 3)
        wanted = marked(cluster, namespace)
        listed = api.list_pods(namespace).pods
        assert {pod.name for pod in listed} == {name for name, selected in wanted.items() if selected}
        assert all(pod.selected for pod in listed)
        assert seen.count(("list", "200")) >= len(listed) / 3
        found = {name: api.get_pod(namespace, name) for name in wanted}
        assert {name: pod.selected for name, pod in found.items() if pod} == wanted

    def test_pages_are_one_whole(self, cluster, namespace, api, seen, monkeypatch):
        monkeypatch.setattr("healer.cluster.client.PAGE_SIZE", 3)
        cluster.create_pods([kpo_pod(**TASK, namespace=namespace, name=f"p{number}") for number in range(10)])
        listing = api.list_pods(namespace)
        assert sorted(pod.name for pod in listing.pods) == [f"p{number}" for number in range(10)]
        assert seen == [("list", "200")] * 4
        assert int(listing.resource_version) >= max(int(pod.resource_version) for pod in listing.pods)

    def test_a_listing_whose_version_is_forgotten_begins_anew(self, cluster, namespace, api, seen, monkeypatch):
        """The API server restarts between two pages, and a Pod vanishes: the result is of one moment, the later one."""
        monkeypatch.setattr("healer.cluster.client.PAGE_SIZE", 2)
        for number in range(4):
            make(cluster, namespace, f"p{number}")
        cluster.wait_pod(namespace, "p3")
        ask, interrupted = Cluster._read, []

        def read(self, request):
            reply = ask(self, request)
            if not interrupted:
                interrupted.append(request)
                cluster.expire_watches(while_down=[(namespace, "p0")])
            return reply

        monkeypatch.setattr(Cluster, "_read", read)
        names = sorted(pod.name for pod in api.list_pods(namespace).pods)
        assert ("list", "410") in seen
        assert names == ["p1", "p2", "p3"]

    def test_an_empty_namespace_and_one_that_does_not_exist(self, namespace, api):
        assert api.list_pods(namespace).pods == []
        assert api.list_pods("there-is-none").pods == []


class TestReading:
    def test_a_running_pod(self, cluster, namespace, api):
        body = make(cluster, namespace, "p", map_index=3, try_number=2, requests={"cpu": "500m", "memory": "1Gi"})
        cluster.wait_pod(namespace, "p")
        pod = api.get_pod(namespace, "p")
        assert pod.uid == body["metadata"]["uid"]
        assert (pod.labels.dag_id, pod.labels.map_index, pod.labels.try_number) == ("etl", "3", "2")
        assert (pod.phase, pod.cpu_cores, pod.memory_bytes) == ("Running", 0.5, 2.0**30)
        assert pod.restart_never
        assert api.list_pods(namespace).pods == [pod]

    def test_none(self, namespace, api):
        assert api.get_pod(namespace, "nope") is None

    def test_base_ended_beside_a_sidecar(self, cluster, namespace, api):
        marks = {f"{ANNOTATION}base-for": "0s", f"{ANNOTATION}exit-code": "3"}
        make(cluster, namespace, "p", containers=("base", SIDECAR), annotations=marks)

        def ended():
            pod = api.get_pod(namespace, "p")
            return pod if pod.containers[0].terminated else None

        pod = wait_for(ended, what="the end of base")
        assert (pod.phase, pod.containers[0].exit_code, pod.containers[1].terminated) == ("Running", 3, False)
        assert pod.created <= pod.containers[0].finished_at <= api.now() + 1

    def test_marks(self, cluster, namespace, api):
        make(cluster, namespace, "p", checked=True, annotations={"kpo-healer.io/protect": "true"})
        cluster.patch_pod(namespace, "p", {"metadata": {"labels": {"kpo-healer.io/airflow": "prod"}}})
        pod = api.get_pod(namespace, "p")
        assert (pod.checked, pod.protected, pod.owner_label, pod.terminating) == (True, True, "prod", False)

    def test_terminating(self, cluster, namespace, api):
        make(cluster, namespace, "p", annotations={f"{ANNOTATION}hang-terminating": "true"})
        cluster.wait_pod(namespace, "p")
        cluster.delete_pod(namespace, "p")
        assert api.get_pod(namespace, "p").terminating

    def test_the_servers_clock(self, cluster, namespace, api):
        assert api.now() is None
        created = make(cluster, namespace, "p")["metadata"]["creationTimestamp"]
        assert created
        pod = api.get_pod(namespace, "p")
        assert pod.created <= api.now() + 1

    def test_version(self, api):
        assert api.version().startswith("v1.")


class TestRawIds:
    """An API server takes nearly anything as an annotation, and its label proves that it was written on purpose."""

    @pytest.mark.parametrize("place", ["dag_id", "task_id", "run_id"])
    def test_what_no_airflow_could_have_is_not_believed(self, cluster, namespace, api, place):
        raws = {name: f"{'x' * 70} {raw}" if place == "run_id" else f"{'x' * 70}{raw}" for name, raw in HOSTILE.items()}
        for name, raw in raws.items():
            make(cluster, namespace, name, labels={place: safe_label(raw)}, annotations={ID_ANNOTATIONS[place]: raw})
        pods = {pod.name: pod for pod in api.list_pods(namespace).pods}
        assert pods.keys() == HOSTILE.keys()
        believing = {name for name, pod in pods.items() if believed(parse(pod.labels), pod.raw) != RawIds()}
        assert believing == {"honest"}
        assert getattr(believed(parse(pods["honest"].labels), pods["honest"].raw), place) == raws["honest"]


class TestRights:
    def test_one_namespace_is_forbidden_and_the_others_go_on(self, cluster, namespace):
        other = cluster.namespace(f"{namespace}-x")
        make(cluster, namespace, "p")
        try:
            kubeconfig = cluster.service_account(namespace, "healer", READ)
            with Cluster(Connection(kubeconfig)) as api:
                assert len(api.list_pods(namespace).pods) == 1
                with pytest.raises(AccessDeniedError) as caught:
                    api.list_pods(other)
                assert api.whoami() == f"system:serviceaccount:{namespace}:healer"
        finally:
            cluster.delete_namespace(other)
        sentence = str(caught.value)
        assert f"system:serviceaccount:{namespace}:healer" in sentence
        assert f"kubectl create role kpo-healer-list-pods --verb=list --resource=pods -n {other}" in sentence

    def test_can_i(self, cluster, namespace):
        with Cluster(Connection(cluster.service_account(namespace, "healer", READ))) as api:
            rights = {verb: api.can_i(verb, "pods", namespace) for verb in ("get", "list", "watch", "delete")}
            assert rights == {"get": True, "list": True, "watch": False, "delete": False}
            assert not api.can_i("list", "pods", "default")
            assert not api.can_i("get", "leases", namespace, group="coordination.k8s.io")

    def test_rights_that_are_taken_away(self, cluster, namespace):
        with Cluster(Connection(cluster.service_account(namespace, "healer", READ))) as api:
            api.list_pods(namespace)
            cluster.revoke(namespace, "healer")

            def refused():
                try:
                    api.list_pods(namespace)
                except AccessDeniedError:
                    return True
                return False

            wait_for(refused, what="the refusal")

    def test_a_client_certificate(self, cluster, namespace):
        with Cluster(Connection(cluster.user("jane", READ, namespaces=[namespace]))) as api:
            assert api.whoami() == "jane"
            assert api.list_pods(namespace).pods == []


class TestEvents:
    def events(self, cluster, namespace):
        return cluster.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]

    def test_one_event_is_renewed(self, cluster, namespace, api):
        make(cluster, namespace, "p")
        pod = api.get_pod(namespace, "p")
        posted = [api.post_event(pod, "OrphanDetected", f"look {look}", warning=True) for look in range(3)]
        assert posted == [EventResult.NEW, EventResult.RENEWED, EventResult.RENEWED]
        (event,) = self.events(cluster, namespace)
        assert (event["count"], event["message"], event["type"]) == (3, "look 2", "Warning")
        assert event["involvedObject"]["uid"] == pod.uid
        assert event["firstTimestamp"] <= event["lastTimestamp"]

    def test_several_are_several(self, cluster, namespace, api):
        make(cluster, namespace, "p")
        pod = api.get_pod(namespace, "p")
        for reason, suffix in [("OrphanDetected", ""), ("OrphanDeleted", ""), ("OrphanDetected", "2")]:
            assert api.post_event(pod, reason, "x", suffix=suffix) is EventResult.NEW
        assert len(self.events(cluster, namespace)) == 3

    def test_without_the_right(self, cluster, namespace):
        make(cluster, namespace, "p")
        with Cluster(Connection(cluster.service_account(namespace, "healer", READ))) as api:
            pod = api.get_pod(namespace, "p")
            assert api.post_event(pod, "OrphanDetected", "x") is EventResult.DENIED
        assert self.events(cluster, namespace) == []

    def test_with_create_but_without_patch(self, cluster, namespace):
        make(cluster, namespace, "p")
        rules = [*READ, {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
        with Cluster(Connection(cluster.service_account(namespace, "healer", rules))) as api:
            pod = api.get_pod(namespace, "p")
            posted = [api.post_event(pod, "OrphanDetected", "x") for _ in range(2)]
        assert posted == [EventResult.NEW, EventResult.DENIED]
