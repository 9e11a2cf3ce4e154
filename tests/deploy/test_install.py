"""The chart on a real API server: its account, with its own token, does all that it is for and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.generate import CHART, MANIFESTS
from tests.deploy.chart import NAMESPACE, named, objects, render, run
from tests.deploy.install import PATIENCE, Installed, installed, send, values
from tests.e2e.world import World
from tests.lab.airflow import Airflow
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.marks import PROTECT, SELECTED
from tests.lab.pods import job_pod
from tests.lab.processes import wait_for

CONFIG = "/etc/kpo-healer/config/config.yaml"


@pytest.fixture
def world(cluster: Cluster, airflow_api: Airflow, tmp_path: Path) -> Iterator[World]:
    """A running task's Pod, one that a later try has left behind, an orphan, a leftover, and one that is reported."""
    with World.open(cluster, airflow_api, tmp_path) as made:
        made.pod("twin", name="old")
        made.wait_second(2)
        made.pod("twin", name="new", try_number=2)
        for task in ("alive", "dead"):
            made.pod(task, name=task)
        made.ended("over", name="over")
        made.pod("left", name="left", checked=True)
        made.seed(
            made.task("alive", "running"),
            made.task("dead", "failed"),
            made.task("over", "success"),
            made.task("left", "success"),
            made.task("twin", "running", try_number=2, max_tries=2, pod="new"),
        )
        yield made


@pytest.fixture
def bare(cluster: Cluster, airflow_api: Airflow, tmp_path: Path) -> Iterator[World]:
    """Two Pods of which no Airflow is ever asked: what is tried with them is between a token and the API server."""
    with World.open(cluster, airflow_api, tmp_path) as made:
        for name in ("alive", "dead"):
            made.pod(name, name=name)
        yield made


GUILTY = {"old", "dead", "over"}
"""What is deleted in enforce mode."""

REST = {"alive", "new", "left"}


# --- report mode ---


def test_a_report_installation(world: World, namespace: str, tmp_path: Path) -> None:
    """It works in full with the rights that it has, needs each of them, and can't delete whatever it is told."""
    with installed(world, namespace, values(world, mode="report"), tmp_path) as made:
        with made.container.start(tmp_path / "run.log") as healer:
            wait_for(lambda: healer.metric("withheld", why="report-mode") == 3, timeout=PATIENCE, what="three withheld")
            wait_for(
                lambda: set(world.events("OrphanDetected")) == {"old", "dead", "left"}, timeout=PATIENCE, what="Events"
            )
            made.container.run("kpo-healer", "check", "--config", CONFIG)
            scan = made.container.run("kpo-healer", "scan", "--config", CONFIG, "-o", "json", expect=(1,))
            assert {finding["pod"] for finding in scan.data()} == GUILTY | {"left"}
            wait_for(lambda: made.asked(allowed=True) >= made.granted(), timeout=PATIENCE, what="each right used")
            assert healer.stop() == 0
        assert made.asked(allowed=True) == made.granted()
        assert made.asked(allowed=False) == set()
        assert world.names() == GUILTY | REST
        refused_by_the_server(made, tmp_path)


def refused_by_the_server(made: Installed, folder: Path) -> None:
    """The same installation, told to enforce: the API server refuses."""
    status, message = made.delete("dead")
    assert (status, "cannot delete resource" in message) == (403, True)
    with made.container.start(folder / "told.log", KPO_HEALER_MODE="enforce") as healer:
        wait_for(lambda: healer.metric("deletions_total", result="denied") >= 3, timeout=PATIENCE, what="denials")
        assert healer.metric("deletions_total", result="deleted") == 0
        assert healer.stop() == 0
    sent = [e for e in made.world.cluster.audit(made.mark, user=made.container.user) if e.verb == "delete"]
    assert {event.code for event in sent} == {403}
    assert made.asked(allowed=False) == {(made.world.namespace, "pods", "delete")}
    assert made.world.names() == GUILTY | REST


def test_the_namespace_may_be_a_restricted_one(bare: World, namespace: str, tmp_path: Path) -> None:
    """By the API server's own Pod Security admission."""
    cluster = bare.cluster
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.request("PATCH", f"/api/v1/namespaces/{namespace}", restricted)
    with installed(bare, namespace, values(bare, mode="report"), tmp_path) as made:
        # The lab's API server mounts no token: without its plugin nobody may ask for one.
        pod = named(made.documents, "Deployment")["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
        pod["metadata"]["name"] = "healer"
        path, dry = f"/api/v1/namespaces/{namespace}/pods", {"dryRun": "All"}
        cluster.request("POST", path, pod, query=dry, expect=(201,))
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        refused = cluster.request("POST", path, pod, query=dry, expect=(403,))
        assert "violates PodSecurity" in refused["message"]


# --- enforce mode, with the API server as the last guard ---


@contextmanager
def guarded(world: World, namespace: str, folder: Path, *, ownership: Any = "exclusive") -> Iterator[Installed]:
    """An enforcing installation whose DELETEs the API server itself watches."""
    given = values(world, mode="enforce", admissionPolicy={"delete": {"enabled": True}})
    given["config"]["airflows"][0] |= {"ownership": ownership, "postMortem": {"enabled": True}}
    with installed(world, namespace, given, folder) as made:
        world.cluster.create_pod(world.body("x", name="probe", labels={"kubernetes_pod_operator": None}))
        wait_for(lambda: dry(made, "probe")[0] == 422, timeout=PATIENCE, what="the policy for DELETEs")
        world.cluster.delete_pod(world.namespace, "probe", grace=0)
        yield made


def test_an_installation_that_looks_after_a_pattern(world: World, namespace: str, tmp_path: Path) -> None:
    """It finds the namespace, heals it, and is refused nothing: not by RBAC, nor by the guard, which knows it too."""
    given = values(world, mode="enforce", admissionPolicy={"delete": {"enabled": True}}, rbac={"clusterWide": True})
    given["config"]["airflows"][0]["namespaces"] = [f"{world.namespace[:-1]}*"]
    with installed(world, namespace, given, tmp_path) as made:
        with made.container.start(tmp_path / "run.log") as healer:
            world.wait_names(REST, timeout=PATIENCE)
            said = made.container.run("kpo-healer", "check", "--config", CONFIG)
            assert "all good in 1" in " ".join(said.out.split())
            assert healer.stop() == 0
        sent = world.cluster.audit(made.mark, user=made.container.user)
        assert [event.uri for event in sent if event.code in (403, 422)] == []
        assert {event.verb for event in sent if event.resource == "namespaces"} == {"list"}


def dry(made: Installed, pod: str, **more: Any) -> tuple[int, str]:
    return made.delete(pod, query={"dryRun": "All"}, **more)


def test_an_enforcing_installation(world: World, namespace: str, tmp_path: Path) -> None:
    """It heals; each right is used, and the guard that the API server keeps is never noticed."""
    with guarded(world, namespace, tmp_path) as made:
        with made.container.start(tmp_path / "run.log") as healer:
            world.wait_names(REST, timeout=PATIENCE)
            made.container.run("kpo-healer", "check", "--config", CONFIG)
            wait_for(lambda: made.asked(allowed=True) >= made.granted(), timeout=PATIENCE, what="each right used")
            assert healer.stop() == 0
        assert made.asked(allowed=True) == made.granted()
        assert made.asked(allowed=False) == set()
        sent = [e for e in world.cluster.audit(made.mark, user=made.container.user, verb="delete") if e.name in GUILTY]
        assert {event.name for event in sent if event.code == 200} == GUILTY
        assert 422 not in {event.code for event in sent}


def test_what_a_stolen_token_may_not_delete(bare: World, namespace: str, tmp_path: Path) -> None:
    bare.pod("dead", name="shielded", annotations={"kpo-healer.io/protect": "true"})
    bare.pod("dead", name="stranger", labels={"kubernetes_pod_operator": None})
    bare.pod("dead", name="worker", labels={"airflow-worker": "42"})
    bare.make(job_pod(dag_id=bare.dag, task_id="dead", run_id="r", namespace=bare.namespace, name="owned"))
    with guarded(bare, namespace, tmp_path) as made:
        both = judged(made, "dead")["preconditions"]
        tried = {
            "this is no Pod of a KubernetesPodOperator": ("stranger", judged(made, "stranger")),
            "no Pod of a KubernetesPodOperator": ("worker", judged(made, "worker")),
            "a controller owns this Pod": ("owned", judged(made, "owned")),
            "this Pod is protected by its annotation": ("shielded", judged(made, "shielded")),
            "a DELETE must name the uid and resourceVersion": ("dead", None),
            "must name the uid and resourceVersion": ("dead", {"preconditions": {"uid": both["uid"]}}),
            "the Pod's own grace period counts": ("dead", {"preconditions": both, "gracePeriodSeconds": 0}),
        }
        for why, (pod, body) in tried.items():
            status, said = made.delete(pod, body=body)
            assert (status, why in said) == (422, True), f"{pod}: {status} {said}"
        assert made.delete("dead", body={"preconditions": both | {"uid": "another"}})[0] == 409
        assert made.delete("dead", body={"preconditions": both})[0] == 200
        bare.wait_names({"alive", "shielded", "stranger", "worker", "owned"})


def test_the_guard_and_the_healer_read_labels_and_marks_alike(bare: World, namespace: str, tmp_path: Path) -> None:
    """Whatever stands there: the same table as `tests/unit/informer/test_cluster_pods.py` holds the healer to."""
    with guarded(bare, namespace, tmp_path) as made:
        for number, (labels, selected) in enumerate(SELECTED):
            name = f"labels-{number}"
            body = bare.body("dead", name=name)
            body["metadata"]["labels"] = labels
            bare.cluster.create_pod(body)
            status, said = refused(made, name)
            assert (status == 200) is selected, f"{labels}: {status} {said}"
            assert selected or "this is no Pod of a KubernetesPodOperator" in said
        for number, (value, protected) in enumerate(PROTECT):
            name = f"mark-{number}"
            bare.cluster.create_pod(bare.body("dead", name=name, annotations={"kpo-healer.io/protect": value}))
            status, said = refused(made, name)
            assert (status == 422) is protected, f"{value!r}: {status} {said}"
            assert not protected or "protected by its annotation" in said


def refused(made: Installed, pod: str) -> tuple[int, str]:
    """Return the answer to a DELETE in the form in which the Pod is: one that starts changes meanwhile."""
    while True:
        status, said = dry(made, pod, body=judged(made, pod))
        if status != 409:
            return status, said


def judged(made: Installed, pod: str) -> Any:
    meta = made.world.cluster.get_pod(made.world.namespace, pod)["metadata"]
    return {"preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}}


def test_the_guard_knows_a_label_of_the_sites_own(bare: World, namespace: str, tmp_path: Path) -> None:
    """With `ownership: {label, value}` the healer and the API server ask for the same label."""
    bare.pod("dead", name="ours", labels={"acme.io/airflow": "prod"})
    bare.pod("dead", name="theirs", labels={"acme.io/airflow": "stage"})
    bare.pod("dead", name="nobodys")
    bare.seed(bare.task("dead", "failed"))
    with guarded(bare, namespace, tmp_path, ownership={"label": "acme.io/airflow", "value": "prod"}) as made:
        for name in ("theirs", "nobodys"):
            status, said = made.delete(name, body=judged(made, name))
            assert (status, "stamped for no Airflow in enforce mode" in said) == (422, True)
        with made.container.start(tmp_path / "run.log") as healer:
            bare.wait_names({"theirs", "nobodys", "alive", "dead"}, timeout=PATIENCE)
            assert healer.stop() == 0


def test_the_guard_knows_namespaces_and_stamps(bare: World, namespace: str, tmp_path: Path) -> None:
    """A right that somebody grants elsewhere is none, nor may a Pod be deleted that is another Airflow's."""
    bare.pod("dead", name="ours", labels={"kpo-healer.io/airflow": "demo"})
    bare.pod("dead", name="theirs", labels={"kpo-healer.io/airflow": "other"})
    with guarded(bare, namespace, tmp_path, ownership="stamped") as made:
        status, said = made.delete("theirs", body=judged(made, "theirs"))
        assert (status, "stamped for no Airflow in enforce mode" in said) == (422, True)
        status, said = delete_elsewhere(made)
        assert (status, "no Airflow of this namespace is in enforce mode" in said) == (422, True)
        assert made.delete("ours", body=judged(made, "ours"))[0] == 200


def delete_elsewhere(made: Installed) -> tuple[int, str]:
    """In a namespace that the configuration does not name, by a right that somebody else has given."""
    cluster, namespace = made.world.cluster, made.namespace
    everywhere = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]
    cluster.service_account(namespace, made.container.spec["serviceAccountName"], everywhere)
    body = made.world.body("dead", name="elsewhere")
    body["metadata"]["namespace"] = namespace
    uid = cluster.create_pod(body)["metadata"]["uid"]
    path = f"/api/v1/namespaces/{namespace}/pods/elsewhere"
    return send(cluster, made.container.token, "DELETE", path, {"preconditions": {"uid": uid}})


# --- only Airflow gives a Pod its labels ---

WRITER = [{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "create", "patch", "update"]}]


class Writer:
    """Somebody who may write Pods in the world's namespace, as far as RBAC goes."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        kubeconfig = world.cluster.service_account(world.namespace, name, WRITER)
        self.token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
        self.path = f"/api/v1/namespaces/{world.namespace}/pods"

    def create(self, body: Any) -> int:
        return send(self.world.cluster, self.token, "POST", self.path, body)[0]

    def patch(self, pod: str, metadata: Any, *, status: bool = False, dry: bool = False) -> int:
        path, query = f"{self.path}/{pod}" + ("/status" if status else ""), {"dryRun": "All"} if dry else None
        return send(self.world.cluster, self.token, "PATCH", path, {"metadata": metadata}, query)[0]


@pytest.fixture
def labelled(bare: World, namespace: str, tmp_path: Path) -> Iterator[tuple[Writer, Writer]]:
    """A stranger, and Airflow's worker, under the policy for labels; the Pods are older than it."""
    stranger, worker = Writer(bare, "stranger"), Writer(bare, "worker")
    users = [f"system:serviceaccount:{bare.namespace}:worker", "admin"]
    given = values(bare, mode="report", admissionPolicy={"labels": {"enabled": True, "users": users}})
    with installed(bare, namespace, given, tmp_path):
        forged = {"labels": {"kpo-healer.io/airflow": "forged"}}
        wait_for(
            lambda: stranger.patch("dead", forged, dry=True) == 422, timeout=PATIENCE, what="the policy for labels"
        )
        yield stranger, worker


def test_only_airflow_sets_and_alters_the_labels(bare: World, labelled: tuple[Writer, Writer]) -> None:
    stranger, worker = labelled
    plain = {"kubernetes_pod_operator": None}
    assert stranger.create(bare.body("dead", name="forged")) == 422
    assert stranger.create(bare.body("x", name="stamped", labels=plain | {"kpo-healer.io/airflow": "demo"})) == 422
    assert stranger.create(bare.body("dead", name="innocent", labels=plain)) == 201
    assert stranger.patch("innocent", {"labels": {"kubernetes_pod_operator": "True"}}) == 422
    assert stranger.patch("innocent", {"labels": {"kubernetes_pod_operator": "True"}}, status=True) == 422
    assert stranger.patch("innocent", {"labels": {"dag_id": "its-own", "colour": "red"}}) == 200
    assert worker.create(bare.body("later", name="later")) == 201
    assert worker.patch("later", {"labels": {"already_checked": "True"}}) == 200
    the_pods_from_before_stay_as_they_are(bare, stranger, worker)
    pods_of_jobs_are_let_through(bare, stranger)


def the_pods_from_before_stay_as_they_are(bare: World, stranger: Writer, worker: Writer) -> None:
    for labels in ({"try_number": "2"}, {"already_checked": "True"}, {"dag_id": None}, {"kpo-healer.io/airflow": "x"}):
        assert stranger.patch("alive", {"labels": labels}) == 422
    assert stranger.patch("alive", {"labels": {"kubernetes_pod_operator": None}}) == 422
    assert stranger.patch("alive", {"annotations": {"kpo-healer.io/run-id": "forged"}}) == 422
    assert stranger.patch("alive", {"annotations": {"kpo-healer.io/protect": "true", "note": "mine"}}) == 200
    assert stranger.patch("alive", {"labels": {"colour": "red"}}) == 200
    assert worker.patch("alive", {"labels": {"kpo-healer.io/airflow": "demo"}}) == 200
    # The kubelet goes on writing their status.
    bare.cluster.patch_pod(bare.namespace, "alive", {"metadata": {"annotations": {f"{ANNOTATION}run-for": "0s"}}})
    bare.cluster.wait_pod(bare.namespace, "alive", "Succeeded", timeout=PATIENCE)


def pods_of_jobs_are_let_through(bare: World, stranger: Writer) -> None:
    """A controller owns them, so that the healer keeps them; and nobody takes them away from it."""
    job = job_pod(dag_id=bare.dag, task_id="dead", run_id="r", namespace=bare.namespace, name="of-a-job")
    assert stranger.create(job) == 201
    assert stranger.patch("of-a-job", {"ownerReferences": None}) == 422


# --- the other ways to install it ---


def test_the_cron_job_heals_once(world: World, namespace: str, tmp_path: Path) -> None:
    with installed(world, namespace, values(world, mode="enforce", cronJob={"enabled": True}), tmp_path) as made:
        made.container.run()
        world.wait_names(REST, timeout=PATIENCE)
        made.container.run()  # which renews the Event on what is only reported
        assert made.asked(allowed=True) == made.granted()
        assert made.asked(allowed=False) == set()


@pytest.mark.parametrize("name", ["report", "enforce", "cronjob"])
def test_the_api_server_knows_every_field_of_the_plain_manifests(cluster: Cluster, name: str) -> None:
    for namespace in ("airflow", "kpo-healer"):
        cluster.namespace(namespace)
    documents = objects((MANIFESTS / f"{name}.yaml").read_text())
    assert len(documents) > 5
    taken_strictly(cluster, documents)


def test_the_api_server_knows_every_field_of_all_that_the_chart_has(cluster: Cluster) -> None:
    """But for Prometheus' own kinds, which are none of Kubernetes: their schema is kubeconform's to know."""
    documents = objects(render(CHART / "ci/everything-values.yaml"))
    for namespace in {document["metadata"].get("namespace", NAMESPACE) for document in documents}:
        cluster.namespace(namespace)
    own = [document for document in documents if document["apiVersion"] != "monitoring.coreos.com/v1"]
    assert {"NetworkPolicy", "PodDisruptionBudget"} <= {document["kind"] for document in own}
    taken_strictly(cluster, own)


def taken_strictly(cluster: Cluster, documents: list[Any]) -> None:
    """The API server itself would take each of them, and knows each of their fields."""
    for document in documents:
        dry = {"dryRun": "All", "fieldManager": "test", "fieldValidation": "Strict"}
        cluster.request("PATCH", path_of(document), document, query=dry, content_type="application/apply-patch+yaml")


def path_of(document: Any) -> str:
    """Where the API server has an object of this kind."""
    meta, version, kind = document["metadata"], document["apiVersion"], document["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    space = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{base}{space}/{plural}/{meta['name']}"


def test_helm_itself_installs_upgrades_and_removes_it(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """With the least values; rights come and go with the mode, and each change of it rolls the Deployment."""
    given = yaml.safe_load((CHART / "ci/report-values.yaml").read_text())
    given["config"]["airflows"][0] |= {"namespaces": [namespace], "ownership": "exclusive"}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given))
    where = ["--namespace", namespace, "--kubeconfig", str(cluster.kubeconfig)]
    chart = ["kpo-healer", str(CHART), *where, "--values", str(tmp_path / "values.yaml")]
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/kpo-healer"

    def is_as(before: Any) -> bool:
        return bool(cluster.request("GET", deployment)["spec"]["template"] == before)

    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/kpo-healer"
    status = f"kubectl -n {namespace} rollout status deploy/kpo-healer"
    try:
        said = run("install", *chart)
        assert (f"default: report mode, namespaces {namespace}" in said, status in said) == (True, False)
        assert "delete" not in cluster.request("GET", role)["rules"][0]["verbs"]
        reporting = cluster.request("GET", deployment)["spec"]["template"]
        said = run("upgrade", *chart, "--set", "config.mode=enforce")
        assert ("default: enforce mode" in said, status in said) == (True, True)
        assert "delete" in cluster.request("GET", role)["rules"][0]["verbs"]
        assert not is_as(reporting)
        run("rollback", "kpo-healer", "1", *where)
        assert "delete" not in cluster.request("GET", role)["rules"][0]["verbs"]
        assert is_as(reporting)
    finally:
        run("uninstall", "kpo-healer", *where)
    cluster.request("GET", role, expect=(404,))
