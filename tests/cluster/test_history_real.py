"""The history on the real API server: it survives restarts with the chart's rights, and healing goes on without it."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.generate import CHART
from tests.deploy.chart import objects, render
from tests.e2e.world import EAGER
from tests.lab.healer import ACCOUNT, RIGHTS, USER, Installation, Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.cli_world import Server, serving, with_row

PATIENCE = 120.0
NAME = "kpo-healer-history"
KEY = "history.json.gz"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def airflow() -> Iterator[Server]:
    with serving(partial(with_row, {"end_date": None})) as server:
        yield server


def rights(folder: Path) -> list[Any]:
    """What the chart grants for it."""
    values = yaml.safe_load((CHART / "ci/report-values.yaml").read_text())
    values["config"]["history"] = "configMap"
    roles = [each for each in objects(render(values, folder=folder)) if each["kind"] == "Role"]
    (role,) = (each for each in roles if each["metadata"]["name"].endswith("-history"))
    return list(role["rules"])


Install = Callable[..., Installation]


@pytest.fixture
def install(cluster: Cluster, airflow: Server, namespace: str, tmp_path: Path) -> Install:
    def made(*, granted: bool = True) -> Installation:
        url = f"http://127.0.0.1:{airflow.port}"
        made = Installation.make(tmp_path / "healer", cluster, url=url, namespaces=[namespace], policy=EAGER)
        rules = [*RIGHTS, *(rights(tmp_path) if granted else [])]
        cluster.service_account(ACCOUNT, ACCOUNT, rules, namespaces=[namespace])
        made.config |= {"findings": True, "history": "configMap"}
        made.config["airflows"][0]["limits"] = {"breaker": {"maxShare": 1.0}}
        return made

    return made


def orphan(cluster: Cluster, namespace: str, name: str) -> None:
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, name=name))


def history(healer: Running) -> list[dict[str, Any]]:
    reply = httpx.get(f"{healer.url}/history", trust_env=False, timeout=30)
    return list(reply.json()) if reply.status_code == 200 else []


def names(healer: Running) -> list[str]:
    return [entry["pod"] for entry in history(healer)]


def path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{NAME}"


def saved(cluster: Cluster, namespace: str) -> list[str]:
    found = cluster.request("GET", path(namespace), expect=(200, 404))
    data = found.get("binaryData", {}).get(KEY)
    return [e["pod"] for e in json.loads(gzip.decompress(base64.b64decode(data)))["entries"]] if data else []


def warned(healer: Running) -> list[dict[str, Any]]:
    return [line for line in healer.lines() if "history" in str(line.get("event", line.get("message")))
            and line.get("level") == "warning"]  # fmt: skip


def test_it_survives_a_restart_with_what_the_chart_grants(cluster: Cluster, namespace: str, install: Install) -> None:
    made, mark = install(), cluster.audit_mark()
    assert f"may be kept in the ConfigMap {NAME}" in made.ask("check", "--mode", "enforce", expect=(0, 1)).out
    orphan(cluster, namespace, "first")
    with made.run(mode="enforce") as healer:
        wait_for(lambda: names(healer) == ["first"], timeout=PATIENCE, what="the deletion in the history")
        wait_for(lambda: saved(cluster, namespace) == ["first"], timeout=PATIENCE, what="the first write")
        orphan(cluster, namespace, "second")
        wait_for(lambda: names(healer) == ["second", "first"], timeout=PATIENCE, what="another deletion")
        before = history(healer)
        assert saved(cluster, namespace) == ["first"], "not more than one write a minute"
        assert warned(healer) == []
    assert saved(cluster, namespace) == ["first", "second"], "what is new is written at the end"
    with made.run(mode="enforce") as healer:
        wait_for(lambda: history(healer) == before, timeout=PATIENCE, what="the history of before")
    asked = {(e.verb, e.code) for e in cluster.audit(mark, user=USER, resource="configmaps")}
    assert {verb for verb, _ in asked} == {"get", "create", "update"}
    assert {code for _, code in asked} <= {200, 201, 404}


def test_without_the_right_it_is_one_sentence_and_healing_goes_on(
    cluster: Cluster, namespace: str, install: Install
) -> None:
    made = install(granted=False)
    told = made.ask("check", "--mode", "enforce", expect=(0, 1)).out
    for verb in ("get", "create", "update"):
        assert f"may not {verb} configmaps in namespace {namespace}: the history is lost at each restart" in told
    assert f"resourceNames: [{NAME}]" in told
    orphan(cluster, namespace, "first")
    with made.run(mode="enforce") as healer:
        wait_for(lambda: names(healer) == ["first"], timeout=PATIENCE, what="the deletion, in memory")
        wait_for(lambda: warned(healer), timeout=PATIENCE, what="a sentence about the right")
        healer.wait_passes(3)
        (line,) = warned(healer)
        assert "kubectl create role" in line["why"]
        assert line["config_map"] == f"{namespace}/{NAME}"


@pytest.mark.parametrize("data", [{"binaryData": {KEY: base64.b64encode(b"garbage").decode()}}, {"data": {"a": "b"}}])
def test_garbage_in_it_is_one_sentence_and_healing_goes_on(
    cluster: Cluster, namespace: str, install: Install, data: Any
) -> None:
    made = install()
    labels = {"labels": {"team": "data"}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, **labels}, **data}
    cluster.request("POST", path(namespace).rpartition("/")[0], body, expect=(201,))
    orphan(cluster, namespace, "first")
    with made.run(mode="enforce") as healer:
        wait_for(lambda: saved_well(cluster, namespace) == ["first"], timeout=PATIENCE, what="a new history")
        assert names(healer) == ["first"]
        assert len(warned(healer)) == 1
    assert cluster.request("GET", path(namespace))["metadata"]["labels"] == labels["labels"]


def saved_well(cluster: Cluster, namespace: str) -> list[str]:
    try:
        return saved(cluster, namespace)
    except (OSError, EOFError):
        return []
