"""Leases and rights on the real API server: a lone look takes none, two installations need one each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.healer import ACCOUNT, RIGHTS, USER, Installation
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.cli_world import Server, serving, with_row

PATIENCE = 120.0
PODS = {"apiGroups": [""], "resources": ["pods"]}
LOOK = ({**PODS, "verbs": ["get", "list", "watch"]},)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def airflow() -> Iterator[Server]:
    with serving(partial(with_row, {"end_date": None})) as server:
        yield server


def installed(cluster: Cluster, folder: Path, url: str, space: str, rights: Sequence[Any] = RIGHTS) -> Installation:
    cluster.namespace(space)
    made = Installation.make(folder, cluster, url=url, namespaces=[space])
    cluster.service_account(ACCOUNT, ACCOUNT, list(rights), namespaces=[space])
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=space))
    return made


def test_a_lone_look_needs_only_to_read_pods_and_writes_nothing(
    cluster: Cluster, airflow: Server, tmp_path: Path
) -> None:
    made = installed(cluster, tmp_path, f"http://127.0.0.1:{airflow.port}", "lone-look", LOOK)
    made.config["leaderElection"] = {}
    mark = cluster.audit_mark()
    with made.run(mode="report") as healer:
        healer.wait_passes(2, timeout=PATIENCE)
        assert healer.metric("leader") == 1
    ours = [event for event in cluster.audit(mark, user=USER) if event.verb not in {"get", "list", "watch"}]
    assert [event for event in ours if event.resource != "selfsubjectaccessreviews"] == []
    assert cluster.audit(mark, user=USER, resource="leases") == []


def test_who_stands_by_for_another_installation_says_so(cluster: Cluster, airflow: Server, tmp_path: Path) -> None:
    one = installed(cluster, tmp_path / "a", f"http://127.0.0.1:{airflow.port}", "two-prod")
    two = installed(cluster, tmp_path / "b", f"http://127.0.0.1:{airflow.port}", "two-stage")
    cluster.service_account(ACCOUNT, ACCOUNT, list(RIGHTS), namespaces=["two-prod", "two-stage"])
    two.config["leaderElection"] = {"enabled": True, "namespace": "two-prod"}
    with one.run(mode="report") as leader:
        wait_for(lambda: leader.metric("leader") == 1, timeout=PATIENCE, what="a leader")
        with two.run(mode="report") as other:
            wait_for(lambda: other.metric("lease_conflict") == 1, timeout=PATIENCE, what="a conflict")
            said = [line for line in other.lines() if "standing by for a replica that does not" in line["message"]]
            assert len(said) == 1
            assert "another one" not in str(two.ask("check").out)
            assert "which does not look after demo" in two.ask("check").out
        # The same names and namespaces are no proof: an Airflow at another URL is another one.
        twin = installed(cluster, tmp_path / "c", f"http://localhost:{airflow.port}", "two-prod")
        twin.config["leaderElection"] = dict(two.config["leaderElection"])
        with twin.run(mode="report") as other:
            wait_for(lambda: other.metric("lease_conflict") == 1, timeout=PATIENCE, what="a conflict by the URL")
            assert "which does not look after demo" in twin.ask("check").out
        two.config["leaderElection"]["name"] = "kpo-healer-stage"
        with two.run(mode="report") as other:
            wait_for(lambda: other.metric("leader") == 1, timeout=PATIENCE, what="a leader of its own")
            assert other.metric("lease_conflict") == 0
