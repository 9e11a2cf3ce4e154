"""The chart where namespaces come and go: rights as wide as is said, and an API server that knows the patterns too."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.generate import CHART
from tests.deploy.chart import RefusedError, objects, render
from tests.deploy.install import PATIENCE, remove, send
from tests.lab.kube import ApiError, Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for

PATTERNS: Any = yaml.safe_load((CHART / "ci/patterns-values.yaml").read_text())
AIRFLOW = {"url": "http://x:1", "username": "u", "passwordFile": "/p", "ownership": "stamped"}


def given(*namespaces: str, mode: str = "report", wide: Any = True, **more: Any) -> Any:
    airflow = {"name": "a", "mode": mode, "namespaces": [*namespaces], **AIRFLOW}
    return {"config": {"airflows": [airflow]}, "rbac": {"clusterWide": wide}, **more}


def rights(documents: list[Any]) -> set[tuple[str, str, str]]:
    """Where (`*`: in the whole cluster, `-`: nowhere yet), on what, which verb."""
    bound = {one["metadata"]["name"] for one in documents if one["kind"] == "ClusterRoleBinding"}
    found = set()
    for role in (one for one in documents if one["kind"] in ("Role", "ClusterRole")):
        where = role["metadata"].get("namespace") or ("*" if role["metadata"]["name"] in bound else "-")
        pairs = [(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]]
        found |= {(where, what, verb) for what, verb in pairs}
    return found


ON_PODS = {("pods", "get"), ("pods", "list"), ("pods", "watch"), ("events", "create"), ("events", "patch")}
ON_NAMESPACES = {("*", "namespaces", "get"), ("*", "namespaces", "list")}


@pytest.mark.parametrize("mode", ["report", "enforce"])
@pytest.mark.parametrize(("wide", "where"), [(True, "*"), ("namespaces", "-")])
def test_rights_are_as_wide_as_is_said(wide: Any, where: str, mode: str, tmp_path: Path) -> None:
    documents = objects(render(given("team-*", "jobs", mode=mode, wide=wide), folder=tmp_path))
    found = {right for right in rights(documents) if right[0] in "*-"}
    on_pods = ON_PODS | ({("pods", "delete")} if mode == "enforce" else set())
    assert found == ON_NAMESPACES | {(where, what, verb) for what, verb in on_pods}
    assert {right[1:] for right in rights(documents) if right[0] == "jobs"} == on_pods


def test_only_an_airflow_that_has_a_pattern_widens_the_rights(tmp_path: Path) -> None:
    both = given("team-*")
    both["config"]["airflows"] += [{"name": "b", "mode": "enforce", "namespaces": ["jobs"], **AIRFLOW}]
    found = rights(objects(render(both, folder=tmp_path)))
    assert ("*", "pods", "delete") not in found
    assert ("jobs", "pods", "delete") in found


def test_a_cron_job_watches_nothing(tmp_path: Path) -> None:
    found = rights(objects(render(given("team-*", cronJob={"enabled": True}), folder=tmp_path)))
    assert not [right for right in found if right[2] == "watch"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (given("team-*", wide=False), "rbac.clusterWide: a pattern among the namespaces needs rights"),
        (given("jobs"), "rbac.clusterWide: nothing needs it"),
        (given("jobs", wide="all"), "clusterWide"),
        (given("team_*"), "namespaces"),
    ],
)
def test_what_does_not_fit_is_refused(values: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=sentence):
        render(values, folder=tmp_path)


def test_who_manages_rights_themselves_needs_no_switch(tmp_path: Path) -> None:
    values = given("team-*")
    values["rbac"] = {"create": False}
    assert rights(objects(render(values, folder=tmp_path))) == set()


@pytest.mark.parametrize(
    ("wide", "named", "lost"),
    [
        ("exclusive", "exclusive", True),
        ("exclusive", "stamped", True),
        ("stamped", "exclusive", True),
        ("stamped", "stamped", False),
    ],
)
def test_the_guard_knows_that_an_exact_name_wins_over_a_pattern(
    wide: str, named: str, lost: bool, tmp_path: Path
) -> None:
    """The Airflow that has the name only reports, so that nothing may be deleted there, whatever the other one does."""
    values = given("team-*", mode="enforce", admissionPolicy={"delete": {"enabled": True}})
    values["config"]["airflows"][0]["ownership"] = wide
    values["config"]["airflows"] += [{**AIRFLOW, "name": "b", "namespaces": ["team-b", "jobs"], "ownership": named}]
    documents = objects(render(values, folder=tmp_path))
    (policy,) = [one for one in documents if one["kind"] == "ValidatingAdmissionPolicy"]
    said = {one["name"]: one["expression"] for one in policy["spec"]["variables"]}
    for name in ("watched", "stamped"):
        assert ('!(request.namespace in ["team-b"])' in said[name]) is lost
        assert "jobs" not in said[name]


# --- on a real API server ---


@contextmanager
def applied(cluster: Cluster, documents: list[Any]) -> Iterator[None]:
    """What the chart makes beside its workload; what is outside of namespaces is removed at the end."""
    wanted = [one for one in documents if one["kind"].startswith(("ClusterRole", "Validating", "ServiceAccount"))]
    try:
        for document in wanted:
            cluster.apply(document)
        yield
    finally:
        for document in wanted:
            if document["kind"] != "ServiceAccount":
                remove(cluster, document)


def token(cluster: Cluster, namespace: str) -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/kpo-healer/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    return str(cluster.request("POST", path, request)["status"]["token"])


def test_the_guard_knows_the_patterns(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """The account may delete Pods everywhere by RBAC; the API server lets it do so where a pattern says, and how."""
    tail = namespace.removeprefix("test-")
    values = copy.deepcopy(PATTERNS)
    prefixes = {"team-*": f"team-{tail}-*", "lab-*": f"lab-{tail}-*", "shared": f"shared-{tail}"}
    for airflow in values["config"]["airflows"]:
        airflow["namespaces"] = [prefixes.get(name, name) for name in airflow["namespaces"]]
    values["admissionPolicy"].pop("labels")
    documents = objects(render(values, namespace=namespace, folder=tmp_path))
    team, lab, shared = f"team-{tail}-a", f"lab-{tail}-a", f"shared-{tail}"
    beyond = [f"x-team-{tail}-a", f"team-{tail}", f"{shared}-2"]
    stamp = {"kpo-healer.io/airflow": "teams"}
    made = [cluster.namespace(name) for name in (team, lab, shared, *beyond)]
    try:
        for name in made:
            for pod, labels in (("plain", {}), ("stamped", stamp)):
                task = {"dag_id": "d", "task_id": "t", "run_id": "r"}
                cluster.create_pod(kpo_pod(**task, namespace=name, name=pod, labels=labels))
        with applied(cluster, documents):
            mine = token(cluster, namespace)

            def delete(place: str, pod: str) -> tuple[int, str]:
                known = cluster.get_pod(place, pod)["metadata"]
                wanted = {"uid": known["uid"], "resourceVersion": known["resourceVersion"]}
                path = f"/api/v1/namespaces/{place}/pods/{pod}"
                return send(cluster, mine, "DELETE", path, {"preconditions": wanted, "dryRun": ["All"]})

            wait_for(lambda: delete(beyond[0], "plain")[0] == 422, timeout=PATIENCE, what="the policy for DELETEs")
            for place in beyond:
                for pod in ("plain", "stamped"):
                    status, said = delete(place, pod)
                    assert (status, "no Airflow of this namespace is in enforce mode" in said) == (422, True), place
            assert delete(lab, "plain")[0] == 200
            for place in (team, shared):
                assert delete(place, "stamped")[0] == 200
                status, said = delete(place, "plain")
                assert (status, "stamped for no Airflow in enforce mode" in said) == (422, True)
            assert send(cluster, mine, "GET", "/api/v1/namespaces")[0] == 200
            assert send(cluster, mine, "GET", "/api/v1/namespaces", None, {"watch": "true"})[0] == 403
            assert send(cluster, mine, "GET", "/api/v1/secrets")[0] == 403
    finally:
        for name in made:
            cluster.delete_namespace(name)


def test_only_airflow_sets_the_labels_where_a_pattern_says(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    tail = namespace.removeprefix("test-")
    inside, outside = f"team-{tail}-a", f"x-{tail}-a"
    labels = {"enabled": True, "users": ["system:serviceaccount:airflow:airflow-worker"]}
    values = given(f"team-{tail}-*", admissionPolicy={"labels": labels})
    documents = objects(render(values, namespace=namespace, folder=tmp_path))
    made = [cluster.namespace(name) for name in (inside, outside)]
    task = {"dag_id": "d", "task_id": "t", "run_id": "r"}
    try:
        with applied(cluster, documents):

            def refused() -> bool:
                try:
                    cluster.create_pod(kpo_pod(**task, namespace=inside))
                except ApiError as error:
                    return "only Airflow may create Pods" in str(error)
                return False

            wait_for(refused, timeout=PATIENCE, what="the policy for labels")
            cluster.create_pod(kpo_pod(**task, namespace=outside))
    finally:
        for name in made:
            cluster.delete_namespace(name)
