"""Faults between the healer and a real API server: nothing wrong is deleted meanwhile, and afterwards healing goes on.

One healer lives through all of them. Its intervals are a second or two, so that ten minutes of trouble at the default
interval are a dozen seconds here; what it does in each interval is the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.world import RUN
from tests.faults import proxy as faults
from tests.faults.proxy import Asked, Fault
from tests.faults.scene import PATIENCE, THERE, Scene, name
from tests.lab.airflow import Airflow
from tests.lab.healer import ACCOUNT, RIGHTS, Running
from tests.lab.kube import Cluster
from tests.lab.processes import Process, wait_for

PODS = 40


@pytest.fixture(scope="module")
def scene(cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene.open(cluster, airflow_api, tmp_path_factory.mktemp("kubernetes"), pods=PODS) as made:
        yield made


@pytest.fixture(scope="module")
def running(scene: Scene) -> Iterator[Running]:
    with scene.healer() as healer:
        wait_for(lambda: healer.metric("pods", reason="in-use") == PODS + 2, timeout=PATIENCE, what="all Pods in use")
        yield healer
        assert healer.stop() == 0


@pytest.fixture
def healer(running: Running, scene: Scene) -> Iterator[Running]:
    """The healer of all these tests; the same process before and after each."""
    assert running.running, running.tail()
    yield running
    assert running.running, running.tail()
    scene.check()


def is_look(asked: Asked) -> bool:
    """LIST, WATCH or GET of Pods."""
    return asked.method == "GET" and "/pods" in asked.text.partition("?")[0]


def is_next_page(asked: Asked) -> bool:
    return "continue=" in asked.path


def unreadable(healer: Running, namespace: str) -> None:
    """Waits until the healer knows that it can't read a namespace."""
    wait_for(
        lambda: healer.metric("namespace_readable", watched_namespace=namespace) == 0,
        timeout=PATIENCE,
        what="an unreadable namespace",
    )


def blind(healer: Running, namespace: str) -> None:
    """Waits until the healer can't read a namespace, or has lost its Lease by the same fault and does not try."""
    wait_for(
        lambda: healer.metric("leader") == 0 or healer.metric("namespace_readable", watched_namespace=namespace) == 0,
        timeout=PATIENCE,
        what="an unreadable namespace or a lost Lease",
    )


LOOKS: dict[str, Fault] = {
    "reset": faults.reset,
    "silent": faults.silence,
    "401": faults.kube_status(401, "Unauthorized"),
    "404": faults.kube_status(404, "NotFound"),
    "410": faults.kube_status(410, "Expired"),
    "429": faults.kube_status(429, "TooManyRequests", retry_after=1),
    "500": faults.kube_status(500, "InternalError"),
    "truncated": faults.truncated(),
    "html": faults.answer(200, b"<html>a proxy's own page</html>", {"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("fault", LOOKS.values(), ids=LOOKS)
def test_pods_that_cannot_be_seen(scene: Scene, healer: Running, fault: Fault) -> None:
    """LIST, WATCH and GET fail while DELETE would work: what is not seen is not judged."""
    with scene.proxy.rule(fault, when=is_look) as rule:
        scene.proxy.reset_all()
        unreadable(healer, scene.world.namespace)
        orphan = scene.end()
        healer.wait_passes(4, timeout=PATIENCE)  # a careless one would need two or three
        rule.wait(2)
        orphan.kept()
    orphan.wait_deleted(healer)


def test_a_page_token_that_always_expires(scene: Scene, healer: Running) -> None:
    """The first page alone is no picture: what is missing from it might be anything."""
    with scene.proxy.rule(faults.kube_status(410, "Expired"), when=is_next_page) as rule:
        unreadable(healer, scene.world.namespace)
        orphan = scene.end()
        healer.wait_passes(4, timeout=PATIENCE)  # a careless one would need two or three
        rule.wait(2)
        orphan.kept()
    orphan.wait_deleted(healer)


STREAMS: dict[str, Fault] = {
    "error": faults.injected({"type": "ERROR", "object": faults.status_object(500, "InternalError")}),
    "expired": faults.injected({"type": "ERROR", "object": faults.status_object(410, "Expired")}),
    "garbage": faults.injected(b"{no JSON"),
    "closed": faults.ended_at_once,
    "mid-object": faults.cut_in_mid_object,
}


@pytest.mark.parametrize("fault", STREAMS.values(), ids=STREAMS)
def test_a_broken_stream(scene: Scene, healer: Running, fault: Fault) -> None:
    """Whatever comes in a WATCH, the picture is mended and another WATCH begins."""
    watch = f"/namespaces/{scene.world.namespace}/pods?watch=true"
    before = scene.proxy.count(part=watch, status=200)
    with scene.proxy.rule(fault, part=watch, times=1) as rule:
        scene.proxy.reset_all()
        rule.wait()
        touch(scene, name(scene.pods - 1))  # an event, for what is cut in the middle of one
        orphan = scene.end()
        orphan.wait_deleted(healer)
    wait_for(
        lambda: scene.proxy.count(part=watch, status=200) >= before + 2,
        timeout=PATIENCE,
        what="another WATCH after the broken one",
    )


def touch(scene: Scene, pod: str) -> None:
    """Changes a Pod in a way that means nothing."""
    patch = {"metadata": {"annotations": {"example.com/touched": str(time.monotonic())}}}
    scene.world.cluster.patch_pod(scene.world.namespace, pod, patch)


REFUSALS: dict[str, Fault] = {
    "reset": faults.reset,
    "silent": faults.silence,
    "401": faults.kube_status(401, "Unauthorized"),
    "429": faults.kube_status(429, "TooManyRequests", retry_after=2),
    "500": faults.kube_status(500, "InternalError"),
    "503": faults.kube_status(503, "ServiceUnavailable"),
}


@pytest.mark.parametrize("fault", REFUSALS.values(), ids=REFUSALS)
def test_a_delete_that_does_not_arrive(scene: Scene, healer: Running, fault: Fault) -> None:
    """It is not repeated: a second one comes from a second proof, and is the only one the API server hears of."""
    with scene.proxy.rule(fault, method="DELETE", times=1):
        orphan = scene.end()
        orphan.wait_healed()
    orphan.wait_decided(healer, "error", "deleted")
    assert orphan.codes() == [200]


@pytest.mark.parametrize("fault", [faults.lost, faults.swallowed], ids=["reset", "silent"])
def test_a_delete_whose_answer_is_lost(scene: Scene, healer: Running, fault: Fault) -> None:
    """The Pod is terminating then, for long; nobody deletes it once more."""
    with scene.proxy.rule(fault, method="DELETE", times=1):
        orphan = scene.end()
        orphan.wait_healed()
        orphan.wait_decided(healer, "error")
        healer.wait_passes(5, timeout=PATIENCE)
    orphan.wait_decided(healer, "error")
    assert orphan.codes() == [200]


def test_a_pod_that_changes_before_its_delete(scene: Scene, healer: Running) -> None:
    """409: it is read and judged anew."""
    orphan = scene.end_later()
    with scene.proxy.rule(faults.after(lambda: touch(scene, orphan.name)), method="DELETE", times=1):
        scene.end_now(orphan)
        orphan.wait_healed()
    orphan.wait_decided(healer, "conflict", "deleted")
    assert orphan.codes() == [409, 200]


def test_a_pod_that_is_gone_before_its_delete(scene: Scene, healer: Running) -> None:
    """404: nothing is left to do."""
    cluster, namespace = scene.world.cluster, scene.world.namespace
    orphan = scene.end_later()
    with scene.proxy.rule(
        faults.after(lambda: cluster.delete_pod(namespace, orphan.name, grace=0)), method="DELETE", times=1
    ):
        scene.end_now(orphan)
        orphan.wait_healed(404)
    orphan.wait_decided(healer, "gone")
    assert orphan.codes() == [404]


# --- what the API server itself refuses -------------------------------------------------------------------------------


def test_one_namespace_forbidden(scene: Scene, healer: Running) -> None:
    """403: nothing is decided there, the other namespace goes on; when the right is back, so is the healing."""
    cluster, world, there = scene.world.cluster, scene.world, scene.neighbour
    cluster.revoke(there, ACCOUNT)
    try:
        unreadable(healer, there)
        world.airflow.act(world.dag, RUN, THERE, "fail", 0)
        here = scene.end()
        here.wait_healed()
        healer.wait_passes(4, timeout=PATIENCE)
        assert len(cluster.pods(there)) == 2
    finally:
        cluster.service_account(ACCOUNT, ACCOUNT, RIGHTS, namespaces=[there])
    cluster.wait_pod(there, f"{THERE}-0", "gone", timeout=PATIENCE)
    here.wait_decided(healer, "deleted")
    (sent,) = (path for path in scene.sent() if f"/{there}/" in path)
    assert sent.endswith(f"/pods/{THERE}-0")


def test_an_admission_policy_that_forbids(scene: Scene, healer: Running) -> None:
    """422: counted as denied, tried once per audit, and no hindrance for the others."""
    forbidden = scene.end_later()
    with no_delete(scene, forbidden.name):
        scene.end_now(forbidden)
        wait_for(lambda: forbidden.codes()[:2] == [422, 422], timeout=PATIENCE, what="two refusals")
        other = scene.end()
        other.wait_healed()
        assert forbidden.there()
        assert healer.metric("deletions_total", result="denied") >= 2
    forbidden.wait_healed()
    other.wait_decided(healer, "deleted")
    *refused, last = forbidden.codes()
    assert {*refused} == {422}
    forbidden.wait_decided(healer, *["denied"] * len(refused), "deleted")
    assert last == 200


@contextmanager
def no_delete(scene: Scene, pod: str) -> Iterator[None]:
    """A policy of the API server that refuses to delete one Pod; in force while the block lasts."""
    cluster, namespace = scene.world.cluster, scene.world.namespace
    group = "/apis/admissionregistration.k8s.io/v1"
    paths = [
        f"{group}/validatingadmissionpolicies/{namespace}",
        f"{group}/validatingadmissionpolicybindings/{namespace}",
    ]
    for document in policy(namespace, pod):
        cluster.apply(document)
    try:
        wait_for(lambda: dry_delete(scene, pod) == 422, timeout=PATIENCE, what="the policy")
        yield
    finally:
        for path in paths:
            cluster.request("DELETE", path, expect=(200, 404))
    wait_for(lambda: dry_delete(scene, pod) == 200, timeout=PATIENCE, what="the end of the policy")


def policy(namespace: str, pod: str) -> list[Any]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["DELETE"]}
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    spec = {
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here},
        "validations": [{"expression": f"oldObject.metadata.name != '{pod}'"}],
    }
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    version, meta = "admissionregistration.k8s.io/v1", {"name": namespace}
    return [
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": meta, "spec": spec},
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": meta, "spec": binding},
    ]


def dry_delete(scene: Scene, pod: str) -> int:
    path = f"/api/v1/namespaces/{scene.world.namespace}/pods/{pod}"
    return scene.world.cluster.client.request("DELETE", path, params={"dryRun": "All"}).status_code


# --- the API server as a whole ----------------------------------------------------------------------------------------


def unreachable(healer: Running) -> float:
    return healer.metric("kubernetes_requests_total", code="unreachable")


def test_connections_refused(scene: Scene, healer: Running) -> None:
    with scene.proxy.refused():
        goal = unreachable(healer) + 3
        wait_for(lambda: unreachable(healer) >= goal, timeout=PATIENCE, what="refused connections")
        orphan = scene.end()
        goal = unreachable(healer) + 5
        wait_for(lambda: unreachable(healer) >= goal, timeout=PATIENCE, what="more of them")
        orphan.kept()
    orphan.wait_deleted(healer)


def test_errors_for_ten_minutes(scene: Scene, healer: Running) -> None:
    """As many failures in a row as ten intervals bring, of every request there is, in turns 500 and 503."""
    turns = itertools.cycle([faults.kube_status(500, "InternalError"), faults.kube_status(503, "ServiceUnavailable")])
    with scene.proxy.rule(lambda exchange: next(turns)(exchange)) as rule:
        scene.proxy.reset_all()
        rule.wait(5)
        orphan = scene.end()
        rule.wait(40)
        orphan.kept()
    orphan.wait_deleted(healer)


@contextmanager
def killed(process: Process) -> Iterator[None]:
    """A part of the cluster is away while the block lasts."""
    process.kill()
    try:
        yield
    finally:
        process.start()


def test_the_api_server_restarts(scene: Scene, healer: Running) -> None:
    cluster = scene.world.cluster
    with killed(cluster.apiserver):
        goal = unreachable(healer) + 5
        orphan = scene.end()
        wait_for(lambda: unreachable(healer) >= goal, timeout=PATIENCE, what="an API server that is away")
        orphan.unsent()
    orphan.wait_deleted(healer)


def test_etcd_restarts(scene: Scene, healer: Running) -> None:
    """The API server is there, and can't read or write anything."""
    cluster = scene.world.cluster
    with killed(cluster.etcd):
        blind(healer, scene.world.namespace)
        orphan = scene.end()
        goal = len(scene.proxy.passed) + 5
        wait_for(lambda: len(scene.proxy.passed) >= goal, timeout=PATIENCE, what="requests without an answer")
        orphan.unsent()
    wait_for(lambda: answers(cluster), timeout=PATIENCE, what="an API server that works again")
    orphan.wait_deleted(healer)


def answers(cluster: Cluster) -> bool:
    return cluster.client.get("/readyz").status_code == 200


def test_the_token_is_rotated(scene: Scene, healer: Running) -> None:
    """The old one ends at once: after a 401 the new one is read from its file, by all who ask."""
    scene.rotate_token()
    wait_for(lambda: scene.proxy.count(status=401) > 0, timeout=PATIENCE, what="a 401")
    scene.proxy.reset_all()  # the watch too has to show its token again
    orphan = scene.end()
    orphan.wait_deleted(healer)


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["forward", "back"])
def test_the_wall_clock_jumps(scene: Scene, healer: Running, seconds: int) -> None:
    """The healer's own: it decides nothing."""
    scene.set_clock(seconds)
    try:
        healer.wait_passes(3, timeout=PATIENCE)
        scene.check()
        orphan = scene.end()
        orphan.wait_healed()
    finally:
        scene.set_clock(0)
    orphan.wait_decided(healer, "deleted")
