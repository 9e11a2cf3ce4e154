"""The commands against a real API server: rights as RBAC sees them; what `check` prints grants what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.kube import Cluster
from tests.lab.pods import executor_pod, job_pod, kpo_pod
from tests.unit.cli_world import Outcome, Server, kpo_healer, serving, with_row

pytestmark = pytest.mark.usefixtures("own_logging")

PODS = {"apiGroups": [""], "resources": ["pods"]}
EVENTS = {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}
LEASES = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
ALL = [PODS | {"verbs": ["get", "list", "watch", "delete"]}, EVENTS, LEASES]


@pytest.fixture
def airflow() -> Iterator[Server]:
    with serving(partial(with_row, {"end_date": None})) as server:
        yield server


@pytest.fixture(autouse=True)
def _inhabited(cluster: Cluster, namespace: str) -> None:
    """A namespace without any Pod is told by `check` as a fault of its own."""
    cluster.create_pod(executor_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace))


@pytest.fixture
def config(tmp_path: Path, namespace: str, airflow: Server) -> Path:
    settings = {
        "name": "prod",
        "namespaces": [namespace],
        "ownership": "exclusive",
        "url": f"http://127.0.0.1:{airflow.port}",
        "token": "a.b.c",
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"mode": "enforce", "airflows": [settings]}))
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(kubeconfig: Path, *arguments: str) -> Outcome:
        return kpo_healer(capsys, *arguments, "--config", str(config), "--kubeconfig", str(kubeconfig))

    return command


def failed(outcome: Outcome) -> list[str]:
    return [line["detail"] for line in json.loads(outcome.out) if line["status"] == "fail"]


def test_all_rights(cluster: Cluster, namespace: str, run: Any) -> None:
    outcome = run(cluster.service_account(namespace, "healer", ALL), "check", "-o", "json")
    assert (outcome.code, failed(outcome)) == (0, [])
    assert f"as system:serviceaccount:{namespace}:healer" in outcome.out
    assert "Kubernetes v1." in outcome.out


@pytest.mark.parametrize("verb", ["get", "list", "watch", "delete"])
def test_a_missing_right_is_named(verb: str, cluster: Cluster, namespace: str, run: Any) -> None:
    rules = [PODS | {"verbs": [each for each in ALL[0]["verbs"] if each != verb]}, EVENTS, LEASES]
    outcome = run(cluster.service_account(namespace, "healer", rules), "check", "-o", "json")
    assert outcome.code == 1
    assert failed(outcome) == [f"may not {verb} pods: grant it as shown below"]


def test_what_it_prints_grants_what_is_missing(cluster: Cluster, namespace: str, run: Any) -> None:
    kubeconfig = cluster.service_account(namespace, "healer", [])
    outcome = run(kubeconfig, "check", "-o", "json")
    assert outcome.code == 1
    lease = "may not {} leases in namespace " + namespace + ", without which it does nothing: grant it as shown below"
    assert failed(outcome) == [
        *(lease.format(verb) for verb in LEASES["verbs"]),
        *(f"may not {verb} pods: grant it as shown below" for verb in ALL[0]["verbs"]),
    ]
    fixes = {line["fix"] for line in json.loads(outcome.out) if line["fix"]}
    assert len(fixes) == 2
    for fix in fixes:
        for document in yaml.safe_load_all(fix[fix.index("---") :]):
            cluster.apply(document)
    assert run(kubeconfig, "check").code == 0


def test_report_mode_needs_no_right_to_delete(cluster: Cluster, namespace: str, run: Any) -> None:
    kubeconfig = cluster.service_account(namespace, "healer", [PODS | {"verbs": ["get", "list", "watch"]}, LEASES])
    outcome = run(kubeconfig, "check", "--mode", "report")
    assert outcome.code == 0
    assert "create events" not in outcome.out, "a lone look writes nothing"


def test_a_namespace_that_may_not_be_read_is_incomplete(cluster: Cluster, namespace: str, run: Any) -> None:
    outcome = run(cluster.service_account(namespace, "healer", []), "scan")
    assert outcome.code == 3
    assert outcome.err.startswith(f"incomplete: namespace {namespace}: ")
    assert "kubectl create role" in outcome.err


def test_scan_and_explain_see_what_is_there(cluster: Cluster, namespace: str, run: Any) -> None:
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, name="orphan"))
    cluster.create_pod(job_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, job="batch"))
    cluster.wait_pod(namespace, "orphan")
    mark = cluster.audit_mark()
    outcome = run(cluster.kubeconfig, "scan", "--all", "-o", "json")
    assert outcome.code == 1
    reasons = {finding["pod"]: finding["reason"] for finding in json.loads(outcome.out)}
    assert sorted(reasons.values()) == ["orphaned", "owned"]
    assert reasons["orphan"] == "orphaned"
    assert run(cluster.kubeconfig, "explain", f"{namespace}/orphan").code == 0
    assert run(cluster.kubeconfig, "explain", f"{namespace}/nobody").code == 2
    assert [event.verb for event in cluster.audit(mark, verb="delete", resource="pods")] == []
