"""The Lease's client: what it sends, what it understands, and what it makes of refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from healer.cluster import Lease, LeaseClient
from healer.errors import AccessDeniedError, ClusterError, InvalidResponseError, ServerBusyError, UnreachableError
from tests.unit.cluster_server import Answer
from tests.unit.deletion.test_cluster_deletes import against, answers

RAW: dict[str, Any] = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {
        "name": "kpo-healer",
        "namespace": "ops",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"team": "data"},
        "annotations": {"a": "b"},
    },
    "spec": {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 3,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:01:00.000000Z",
        "strategy": "OldestEmulationVersion",
    },
}
PATH = "/apis/coordination.k8s.io/v1/namespaces/ops/leases"


def client(cluster: Any) -> LeaseClient:
    made = cluster.leases("ops", "kpo-healer", timeout=30.0)
    assert isinstance(made, LeaseClient)
    return made


def test_reads_what_is_there(tmp_path: Path) -> None:
    with against(answers(Answer(200, RAW)), tmp_path) as (server, cluster):
        lease = client(cluster).get()
    assert lease is not None
    assert (lease.holder, lease.duration, lease.transitions, lease.resource_version) == ("one", 15.0, 3, "7")
    assert lease.annotations == {"a": "b"}
    assert (server.seen[0].method, server.seen[0].path) == ("GET", f"{PATH}/kpo-healer")
    assert server.observed == [("get", "200")]


def test_reads_what_is_not_there(tmp_path: Path) -> None:
    with against(answers(Answer(404, {})), tmp_path) as (_, cluster):
        assert client(cluster).get() is None


def test_a_lease_without_anything_is_held_by_nobody(tmp_path: Path) -> None:
    with against(answers(Answer(200, {"metadata": {}, "spec": None})), tmp_path) as (_, cluster):
        lease = client(cluster).get()
    assert lease is not None
    assert (lease.holder, lease.duration, lease.transitions) == ("", 0.0, 0)


@pytest.mark.parametrize("odd", [b"<html>", {"spec": [1]}, {"spec": {"leaseDurationSeconds": "15"}}, [1], b""])
def test_what_is_no_lease_is_an_error(odd: Any, tmp_path: Path) -> None:
    with against(answers(Answer(200, odd)), tmp_path) as (_, cluster), pytest.raises(InvalidResponseError):
        client(cluster).get()


def test_replaces_with_its_version_and_loses_nothing(tmp_path: Path) -> None:
    with against(answers(Answer(200, RAW), Answer(200, RAW)), tmp_path) as (server, cluster):
        leases = client(cluster)
        lease = leases.get()
        assert lease is not None
        leases.replace(replace(lease, holder="two", annotations={"c": "d"}, duration=30.0))
    sent = server.seen[1]
    assert (sent.method, sent.path) == ("PUT", f"{PATH}/kpo-healer")
    assert sent.body["metadata"] == RAW["metadata"] | {"annotations": {"c": "d"}}
    assert sent.body["spec"] == RAW["spec"] | {"holderIdentity": "two", "leaseDurationSeconds": 30}


def test_creates_one_that_nobody_holds(tmp_path: Path) -> None:
    with against(answers(Answer(201, RAW)), tmp_path) as (server, cluster):
        client(cluster).create(Lease(duration=15.0))
    assert (server.seen[0].method, server.seen[0].path) == ("POST", PATH)
    assert server.seen[0].body["spec"]["holderIdentity"] is None
    assert "resourceVersion" not in server.seen[0].body["metadata"]


def test_is_never_replaced_blindly(tmp_path: Path) -> None:
    with against(answers(), tmp_path) as (server, cluster), pytest.raises(ValueError, match="resourceVersion"):
        client(cluster).replace(Lease("one", 15.0))
    assert server.seen == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (404, ClusterError),
        (409, ClusterError),
        (503, ServerBusyError),
    ],
)
def test_refusals_have_their_status(status: int, kind: type[ClusterError], tmp_path: Path) -> None:
    refused = answers(Answer(status, {"message": "because"}))
    with against(refused, tmp_path) as (_, cluster), pytest.raises(kind) as caught:
        client(cluster).replace(Lease("one", 15.0, resource_version="7"))
    assert caught.value.status == status
    assert "because" in str(caught.value)


def test_a_missing_right_says_how_to_grant_it(tmp_path: Path) -> None:
    with (
        against(answers(Answer(403, {"message": "no"})), tmp_path) as (_, cluster),
        pytest.raises(AccessDeniedError) as caught,
    ):
        client(cluster).create(Lease("one", 15.0))
    assert "may not create its Lease in namespace ops" in str(caught.value)
    assert "--verb=create --resource=leases -n ops" in str(caught.value)


def test_nothing_is_sent_twice(tmp_path: Path) -> None:
    script = answers(Answer(200, reset=True), Answer(200, RAW))
    with against(script, tmp_path) as (server, cluster), pytest.raises(UnreachableError):
        client(cluster).replace(Lease("one", 15.0, resource_version="7"))
    assert len(server.seen) == 1
