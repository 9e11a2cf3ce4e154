"""The pages of the platforms: their values render, a real API server accepts them, and the healer starts with them.

What the pages' logins are made of is tried elsewhere, against the real thing where there is one (tests/logins).
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from healer.config import Config
from tests.deploy.chart import named, objects, render
from tests.deploy.container import Container
from tests.deploy.install import template
from tests.docs.fences import ROOT, fences
from tests.lab.healer import QUICK
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import free_ports, wait_for
from tests.unit import airflow_fake as af

PAGES = [fence for fence in fences() if fence.page.startswith("docs/platforms/") and "# values.yaml" in fence.text]
SECRET = "kpo-healer-login"
PATIENCE = 120


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def airflow() -> Iterator[af.FakeAirflow]:
    """A pretended Airflow that takes any of the pages' logins."""
    with af.serving() as server:
        server.intercept = client_credentials
        yield server


def client_credentials(asked: af.Asked) -> af.Reply | None:
    """Answer to a client as Keycloak's auth manager does."""
    if asked.path == "/auth/token" and asked.body.get("grant_type"):
        return af.Reply(201, {"access_token": af.jwt(86400)})
    return None


def secrets(airflow: af.FakeAirflow, authority: trustme.CA) -> dict[str, str]:
    """What the pages put into the Secret."""
    client = authority.issue_cert("healer")
    return {
        "password": airflow.password,
        "token": "of-the-test",
        "client-secret": "of-the-test",
        "headers": "X-Gate: open\n",
        "tls.crt": client.cert_chain_pems[0].bytes().decode(),
        "tls.key": client.private_key_pem.bytes().decode(),
        "ca.crt": authority.cert_pem.bytes().decode(),
    }


def test_there_are_pages() -> None:
    assert len({fence.page for fence in PAGES}) == 7
    assert len(PAGES) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda fence: str(fence).removeprefix("docs/platforms/"))
def test_the_values_of_each_page_are_accepted(
    page: Any, cluster: Cluster, namespace: str, tmp_path: Path, airflow: af.FakeAirflow, authority: trustme.CA
) -> None:
    """As they stand: in a restricted namespace, the Pod included. Then the healer runs as the container says."""
    given = yaml.safe_load(page.text)
    install(cluster, namespace, given, tmp_path, secrets(airflow, authority))

    started = copy.deepcopy(given)
    (entry,) = started["config"]["airflows"]
    jobs = cluster.namespace(f"{namespace}-jobs")
    entry |= {"url": airflow.url, "namespaces": [jobs]}
    (port,) = free_ports(1)
    started["config"] = {**copy.deepcopy(QUICK), **started["config"], "listen": f":{port}"}
    documents = install(cluster, namespace, started, tmp_path, secrets(airflow, authority))
    container = Container(cluster, namespace, template(named(documents, "Deployment")), tmp_path / "root")
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id=af.RUN, namespace=jobs, name="orphan"))
    airflow.rows = [af.row(state="failed", end_date="2026-01-01T00:00:02Z", rendered_fields={"namespace": jobs})]
    with container.start(tmp_path / "run.log", **platform(entry, tmp_path)) as healer:
        wait_for(lambda: healer.metric("airflow_up") == 1, timeout=PATIENCE, what="Airflow to be asked")
        wait_for(lambda: any(asked.is_list for asked in airflow.asked), timeout=PATIENCE, what="a question")
        assert healer.metric("airflow_login_ok") == 1
        assert healer.stop() == 0
    if "headersFile" in entry:
        assert {asked.headers.get("X-Gate") for asked in airflow.asked} == {"open"}


def install(cluster: Cluster, namespace: str, given: Any, folder: Path, data: dict[str, str]) -> list[Any]:
    """Apply what helm renders, with strict fields, and see that the Pod would be admitted."""
    documents = objects(render(given, namespace=namespace, folder=folder))
    config = yaml.safe_load(named(documents, "ConfigMap")["data"]["config.yaml"])
    Config.model_validate(config, by_alias=True, by_name=False)
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.request("PATCH", f"/api/v1/namespaces/{namespace}", restricted)
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    meta = {"name": SECRET, "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": encoded})
    for document in documents:
        space = document["metadata"].get("namespace", namespace)
        if space != namespace:
            cluster.namespace(space)
        cluster.apply(document)
    pod = template(named(documents, "Deployment"))
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "try-", "labels": {}}, "spec": pod["spec"]}
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    cluster.request("POST", f"/api/v1/namespaces/{namespace}/pods", body, query=query)
    return documents


def platform(entry: Any, folder: Path) -> dict[str, str]:
    """A stand-in for `kpo-healer token …`, whose real libraries want a platform: see tests/logins/test_tokens.py."""
    command = entry.get("exec", {}).get("command")
    if command is None:
        return {}
    assert command[:2] == ["kpo-healer", "token"]
    place = folder / "bin"
    place.mkdir()
    (place / "kpo-healer").write_text("#!/bin/sh\necho of-the-test\n")
    (place / "kpo-healer").chmod(0o755)
    return {"PATH": f"{place}:/usr/bin:/bin"}


def test_each_page_says_what_was_tried_and_when() -> None:
    for path in (ROOT / "docs/platforms").glob("*.md"):
        text = path.read_text()
        assert "2026-12-01" in text, path
        assert re.search(r"tried|accepted by a real", text, re.IGNORECASE), path
