"""The commands against a real Airflow and a real API server: what a first user does, with a viewer's rights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.unit.cli_world import Outcome, kpo_healer

pytestmark = pytest.mark.usefixtures("own_logging")

DAG = "commands"


@pytest.fixture
def run(airflow_api: Airflow, cluster: Cluster, namespace: str, tmp_path: Path, capsys: Any) -> Any:
    def command(*arguments: str, **changes: Any) -> Outcome:
        login = {"username": "viewer", "password": "viewer"}
        settings = {"name": "prod", "namespaces": [namespace], "ownership": "exclusive", "url": airflow_api.url}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"airflows": [settings | (changes or login)]}))
        return kpo_healer(capsys, *arguments, "--config", str(path), "--kubeconfig", str(cluster.kubeconfig))

    return command


def test_check_is_content_with_a_viewer(run: Any, airflow_api: Airflow, cluster: Cluster, namespace: str) -> None:
    cluster.create_pod(kpo_pod(dag_id="check", task_id="t", run_id="r", namespace=namespace, name="some"))
    airflow_api.seed([Dag("check", runs=[Run("r", tasks=[Task("t", state="success")])])])
    outcome = run("check", "-o", "json")
    assert outcome.code == 0
    said = {
        line["detail"].partition(":")[0]: line["status"]
        for line in json.loads(outcome.out)
        if "airflow" in line["what"]
    }
    said.pop("Pod names", None)  # looks at what other tests of this Airflow left in it
    assert said == {
        "version": "ok",
        "login": "ok",
        "read DAGs": "ok",
        "read dag runs": "ok",
        "read task instances": "ok",
        "read state store": "ok",
        "read XComs": "ok",
    }
    assert airflow_api.version in outcome.out


def test_a_token_will_do(run: Any, airflow_api: Airflow, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.create_pod(kpo_pod(dag_id="token", task_id="t", run_id="r", namespace=namespace, name="some"))
    (tmp_path / "token").write_text(airflow_api.token("viewer") + "\n")
    assert run("check", tokenFile=str(tmp_path / "token")).code == 0


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"username": "viewer", "password": "wrong"}, 2, "login refused"),
        ({"username": "nobody", "password": "viewer"}, 2, "login refused"),
        ({"token": "no.real.token"}, 2, "the token"),
    ],
    ids=["password", "user", "token"],
)
def test_a_refused_login(run: Any, changes: dict[str, str], code: int, words: str) -> None:
    outcome = run("scan", **changes)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (code, "", 1), outcome
    assert words in outcome.err
    checked = run("check", **changes)
    assert checked.code == 1
    assert words in checked.out


def test_a_path_below_the_url_is_no_airflow(run: Any, airflow_api: Airflow) -> None:
    outcome = run("scan", url=f"{airflow_api.url}/nowhere", username="viewer", password="viewer")
    assert outcome.code == 3
    assert outcome.err.startswith(f"incomplete: Airflow prod: {airflow_api.url}/nowhere ")


def test_scan_and_explain_a_failed_and_a_running_task(
    run: Any, airflow_api: Airflow, cluster: Cluster, namespace: str
) -> None:
    place = {"rendered": {"namespace": namespace}, "pod_namespace": namespace}
    tasks = [Task("dead", state="failed", pod="dead", **place), Task("alive", state="running", pod="alive", **place)]
    airflow_api.seed([Dag(DAG, runs=[Run("manual__1", tasks=tasks)])])
    for task in ("dead", "alive"):
        cluster.create_pod(kpo_pod(dag_id=DAG, task_id=task, run_id="manual__1", namespace=namespace, name=task))
        cluster.wait_pod(namespace, task)
    outcome = run("scan", "--all", "-o", "json")
    assert outcome.code == 1
    found = {finding["pod"]: finding for finding in json.loads(outcome.out)}
    assert {name: finding["reason"] for name, finding in found.items()} == {"dead": "orphaned", "alive": "in-use"}
    assert found["dead"]["task"] == {
        "dag_id": DAG,
        "run_id": "manual__1",
        "task_id": "dead",
        "map_index": -1,
        "try_number": 1,
        "state": "failed",
    }
    explained = run("explain", f"{namespace}/alive")
    assert explained.code == 0
    assert "yes  in-use" in explained.out
    assert "state running, try 1, operator KubernetesPodOperator" in explained.out
    assert "this is report mode" in run("explain", f"{namespace}/dead").out
