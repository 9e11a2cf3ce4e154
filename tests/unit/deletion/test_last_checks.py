"""The last line of defence: the selector on every page and before a DELETE, and who waits for one under way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from healer.cluster import Cluster, Connection
from healer.cluster.transport import KubeReply, KubeRequest
from healer.deletion.pod_deleter import Evidence, PodDeleter
from healer.model import POD_SELECTOR, DeleteStatus, Finding, Reason
from tests.unit.cluster_server import Answer, Seen, serving, write_kubeconfig
from tests.unit.strategies import a_pod

PROOF = Evidence(Finding(Reason.ORPHANED, "because"), 0.0)


class Wire:
    """A transport that looks once more, as the real one does once it is connected, and notes what leaves."""

    def __init__(self) -> None:
        self.sent: list[KubeRequest] = []

    def send(self, request: KubeRequest, *, last_check: Callable[[], None] = lambda: None) -> KubeReply:
        last_check()
        self.sent.append(request)
        return KubeReply(200, b"{}")


def a_deleter(wire: Wire) -> PodDeleter:
    return PodDeleter(wire, freshness=15.0, clock=lambda: 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", [Reason.ORPHANED, Reason.FINISHED, Reason.KEPT, Reason.SUPERSEDED])
def test_a_pod_that_the_selector_leaves_out_is_never_sent_a_delete(reason: Reason) -> None:
    wire = Wire()
    proof = Evidence(Finding(reason, "because"), 0.0)
    outcome = a_deleter(wire).delete_pod(a_pod(selected=False), proof, lambda: True)
    assert (outcome.status, wire.sent) == (DeleteStatus.STALE, [])
    assert a_deleter(wire).delete_pod(a_pod(), proof, lambda: True).status is DeleteStatus.DELETED


def test_a_delete_is_under_way_whenever_it_asks_for_the_right() -> None:
    """Else a right that is given away between the question and the request is given away unseen."""
    wire = Wire()
    deleter = a_deleter(wire)
    looks: list[bool] = []

    def right() -> bool:
        looks.append(deleter.under_way.ended(0.0))
        return True

    assert deleter.under_way.ended(0.0)
    assert deleter.delete_pod(a_pod(), PROOF, right).status is DeleteStatus.DELETED
    assert looks == [False, False]
    assert deleter.under_way.ended(0.0)


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_every_page_of_a_list_is_asked_for_with_the_selector(pages: int, tmp_path: Path) -> None:
    asked: list[dict[str, list[str]]] = []

    def script(seen: Seen) -> Answer:
        asked.append(parse_qs(urlsplit(seen.path).query))
        more = {"continue": f"page-{len(asked)}"} if len(asked) < pages else {}
        return Answer(body={"kind": "PodList", "metadata": {"resourceVersion": "7", **more}, "items": []})

    with serving(script) as server:
        path = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{server.port}")
        with Cluster(Connection(path)) as cluster:
            cluster.list_pods("airflow")
    assert [query["labelSelector"] for query in asked] == [[POD_SELECTOR]] * pages
