"""`kpo-healer delete` on the real API server: what is sent, with which rights, and what happens beside a leader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.healer import ACCOUNT, USER, Installation, deletes
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.cli_world import Server, serving, with_row

PATIENCE: Final = 120.0
POD: Final = "orphan"
LOOK: Final = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
DELETE: Final = {"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}

pytestmark = pytest.mark.timeout(600)

Make = Callable[..., Installation]


@pytest.fixture
def airflow() -> Iterator[Server]:
    with serving(partial(with_row, {"end_date": None})) as server:
        yield server


@pytest.fixture
def made(cluster: Cluster, airflow: Server, namespace: str, tmp_path: Path) -> Make:
    def make(*, rights: Sequence[Any] | None = None, grace: str = "1s", mode: str = "enforce") -> Installation:
        made = Installation.make(
            tmp_path,
            cluster,
            url=f"http://127.0.0.1:{airflow.port}",
            namespaces=[namespace],
            policy={"grace": grace},
            limits={"breaker": {"maxShare": 1.0}},
        )
        made.config["mode"] = mode
        if rights is not None:
            cluster.service_account(ACCOUNT, ACCOUNT, list(rights), namespaces=[namespace])
        for name in (POD, "another"):
            cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, name=name))
            cluster.wait_pod(namespace, name)
        return made

    return make


def test_it_needs_to_read_and_delete_pods_and_nothing_else(cluster: Cluster, namespace: str, made: Make) -> None:
    installation, mark = made(rights=[LOOK, DELETE]), cluster.audit_mark()
    uid = cluster.get_pod(namespace, POD)["metadata"]["uid"]
    told = installation.ask("delete", f"{namespace}/{POD}", "--yes", expect=[0], timeout=PATIENCE)
    assert f"{namespace}/{POD} is deleted: it was orphaned." in told.out
    assert "not known, so no override of the breaker either" in " ".join(told.out.split())
    wait_for(lambda: deletes(cluster, mark), timeout=PATIENCE, what="the DELETE in the audit log")
    (sent,) = deletes(cluster, mark)
    assert (sent.name, sent.code) == (POD, 200)
    assert sent.preconditions is not None
    assert sent.preconditions["uid"] == uid
    assert sent.preconditions["resourceVersion"]
    assert "deletionTimestamp" not in cluster.get_pod(namespace, "another")["metadata"]


def test_without_the_right_to_delete_it_says_who_may_not(cluster: Cluster, namespace: str, made: Make) -> None:
    told = made(rights=[LOOK]).ask("delete", f"{namespace}/{POD}", "--yes", expect=[3], timeout=PATIENCE)
    assert "refuses to delete" in told.err
    assert USER in told.err
    assert f"the verb delete on pods in namespace {namespace}" in told.err
    assert "deletionTimestamp" not in cluster.get_pod(namespace, POD)["metadata"]


SECRET: Final = "hunter2-never-to-be-seen"


def test_the_manifest_of_what_was_deleted_is_told_without_its_secrets(
    cluster: Cluster, namespace: str, made: Make
) -> None:
    installation = made()
    installation.config["airflows"][0]["postMortem"] = {"enabled": True, "logLines": 0, "manifest": True}
    body = kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, name="telling")
    container = body["spec"]["containers"][0]
    container["image"] = "registry.example.com/team/etl:1.2"
    container["env"] = [{"name": "PASSWORD", "value": SECRET}]
    container["envFrom"] = [{"secretRef": {"name": SECRET, "optional": True}}]
    container["command"], container["args"] = ["sh", "-c", f"echo {SECRET}"], ["--password", SECRET]
    container["resources"] = {"requests": {"cpu": "250m", "memory": "64Mi"}}
    container["lifecycle"] = {"preStop": {"exec": {"command": [SECRET]}}}
    body["spec"]["volumes"] = [
        *body["spec"].get("volumes", ()),
        {"name": "login", "secret": {"secretName": SECRET, "optional": True}},
    ]
    body["spec"]["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": [SECRET]}]
    body["metadata"].setdefault("annotations", {})["vault.example.com/password"] = SECRET
    body["metadata"]["labels"]["team-token"] = SECRET
    cluster.create_pod(body)
    cluster.wait_pod(namespace, "telling")
    told = installation.ask("delete", f"{namespace}/telling", "--yes", expect=[0], timeout=PATIENCE)
    lines = [json.loads(line) for line in told.err.splitlines()]
    (line,) = [each for each in lines if each["message"] == "post-mortem"]
    (base, *_) = line["manifest"]["spec"]["containers"]
    assert (base["name"], base["image"]) == ("base", "registry.example.com/team/etl:1.2")
    assert base["resources"]["requests"] == {"cpu": "250m", "memory": "64Mi"}
    assert {"name": "login", "kind": "secret"} in line["manifest"]["spec"]["volumes"]
    assert line["manifest"]["metadata"]["labels"]["dag_id"] == "d"
    assert SECRET not in told.err + told.out


def test_an_annotation_lets_a_done_pod_stay(cluster: Cluster, namespace: str, made: Make) -> None:
    installation = made()
    marks = {"kpo-healer.io/retention": "3d", f"{ANNOTATION}run-for": "1s"}
    cluster.create_pod(
        kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, name="done", annotations=marks)
    )
    cluster.wait_pod(namespace, "done", "Succeeded")
    mark = cluster.audit_mark()
    told = installation.ask("delete", f"{namespace}/done", "--yes", expect=[1], timeout=PATIENCE)
    assert "it is finished and not due yet: it will be in 2d" in told.err or "in 71h" in told.err
    assert deletes(cluster, mark) == []


def test_beside_a_leader_it_deletes_and_takes_no_lease(cluster: Cluster, namespace: str, made: Make) -> None:
    installation = made()
    with installation.run(mode="report") as leader:
        wait_for(lambda: leader.metric("leader") == 1, timeout=PATIENCE, what="a leader")
        told = installation.ask("delete", f"{namespace}/{POD}", "--yes", expect=[0], timeout=PATIENCE)
        assert "as the Lease says; this command acts beside it" in " ".join(told.out.split())
        leader.wait_passes(2, timeout=PATIENCE)
        assert leader.metric("leader") == 1, "nobody took the Lease from it"
        assert leader.deletions() == []


def test_a_mark_that_is_set_meanwhile_keeps_it(cluster: Cluster, namespace: str, made: Make, tmp_path: Path) -> None:
    installation, mark = made(grace="20s"), cluster.audit_mark()
    said = tmp_path / "said"
    with said.open("w") as out:
        command = installation.command("delete", f"{namespace}/{POD}", "--yes")
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: "leader " in said.read_text(), timeout=PATIENCE, what="what would be deleted")
        cluster.patch_pod(namespace, POD, {"metadata": {"annotations": {"kpo-healer.io/protect": "true"}}})
        _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, deletes(cluster, mark)) == (1, []), told
    assert "it is kept as protected" in told


@pytest.mark.parametrize("reason", ["in-use", "report mode"])
def test_without_proof_or_in_report_mode_nothing_is_sent(
    reason: str, cluster: Cluster, namespace: str, made: Make, airflow: Server
) -> None:
    installation = made(mode="report" if reason == "report mode" else "enforce")
    if reason == "in-use":
        airflow.script = partial(with_row, {"state": "running", "end_date": None})
    mark = cluster.audit_mark()
    told = installation.ask("delete", f"{namespace}/{POD}", "--yes", expect=[1], timeout=PATIENCE)
    assert reason in told.err
    assert deletes(cluster, mark) == []
