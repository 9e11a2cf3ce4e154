"""The rights that the page on installing names are exactly those that are needed, on the real API server.

Each way of running works with just its own rights; each right that is taken away is told, by `check` and by what runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.install import may
from tests.e2e.world import EAGER
from tests.lab.healer import ACCOUNT, RIGHTS, USER, Installation, Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.cli_world import Server, serving, with_row

PAGE: Final = (Path(__file__).parents[2] / "docs" / "install.md").read_text()
PATIENCE: Final = 120.0

Right = tuple[str, str]
"""Resource and verb."""

pytestmark = pytest.mark.timeout(600)


def named_rights() -> dict[str, list[Right]]:
    """What the page's table says: the rights of each way of running."""
    found = re.search(r"^\| what you run \| (.*) \|\n\| --- .*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None
    resources = [head.strip("`") for head in found[1].split(" | ")]
    ways = {}
    for row in found[2].splitlines():
        way, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        pairs = zip(resources, cells, strict=True)
        ways[way] = [(resource, verb) for resource, cell in pairs for verb in cell.split(", ") if verb]
    return ways


NAMED: Final = named_rights()
SCAN, LONE, REPORT, ENFORCE = NAMED

EVERY: Final = [(resource, verb) for rule in RIGHTS for resource in rule["resources"] for verb in rule["verbs"]]

FIRST: Final = {right: way for way in reversed([LONE, REPORT, ENFORCE]) for right in NAMED[way]}
"""Each right, and the narrowest way of running that needs it."""

SAID: Final = {
    ("pods", "list"): "may not list the Pods",
    ("pods", "get"): "may not read a Pod by its name",
    ("pods", "watch"): "may not watch Pods",
    ("pods", "delete"): "may not delete Pods",
    ("events", "create"): "may not write Events",
    ("events", "patch"): "may not renew Events",
    ("leases", "get"): "may not read its Lease",
    ("leases", "create"): "may not create its Lease",
    ("leases", "update"): "may not renew its Lease",
}


@pytest.fixture
def airflow() -> Iterator[Server]:
    with serving(partial(with_row, {"end_date": None})) as server:
        yield server


@pytest.fixture
def install(cluster: Cluster, airflow: Server, namespace: str, tmp_path: Path) -> Callable[..., Installation]:
    def made(way: str, *, without: Right | None = None) -> Installation:
        rights = {right for right in NAMED[way] if right != without}
        made = Installation.make(
            tmp_path, cluster, url=f"http://127.0.0.1:{airflow.port}", namespaces=[namespace], policy=EAGER
        )
        if way == LONE:
            made.config["leaderElection"] = {}
        if without == ("leases", "create"):
            cluster.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{ACCOUNT}")
        grant(cluster, namespace, rights)
        cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=namespace, name="orphan"))
        return made

    return made


def grant(cluster: Cluster, namespace: str, rights: Set[Right]) -> None:
    """Give the account these rights and no other ones."""
    rules = []
    for rule in RIGHTS:
        verbs = [verb for verb in rule["verbs"] for resource in rule["resources"] if (resource, verb) in rights]
        rules += [{**rule, "verbs": verbs}] if verbs else []
    cluster.service_account(ACCOUNT, ACCOUNT, rules, namespaces=[namespace])
    lacking = [(namespace, resource, verb) for resource, verb in EVERY if (resource, verb) not in rights]
    wait_for(lambda: not any(may(cluster, USER, right) for right in lacking), timeout=PATIENCE, what="fewer rights")


def mode(way: str) -> str:
    return "enforce" if way == ENFORCE else "report"


def refused(cluster: Cluster, namespace: str, mark: int) -> list[Any]:
    events = cluster.audit(mark, user=USER)
    return [(each.verb, each.resource) for each in events if each.namespace == namespace and each.code == 403]


def done(cluster: Cluster, namespace: str, way: str, healer: Running) -> bool:
    """Whether it has done all that this way of running is for."""
    events = cluster.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    reasons = {event["reason"] for event in events if event["source"].get("component") == "kpo-healer"}
    if way == LONE:
        return healer.metric("suspects", reason="orphaned") == 1 and not reasons
    if way == REPORT:
        return "OrphanDetected" in reasons
    return "OrphanDeleted" in reasons and not cluster.pods(namespace)


def test_scan_needs_to_list_pods(cluster: Cluster, namespace: str, install: Any) -> None:
    made, mark = install(SCAN), cluster.audit_mark()
    assert "orphaned" in made.ask("scan", expect=[1]).out
    assert refused(cluster, namespace, mark) == []


def test_scan_says_that_it_may_not_list(namespace: str, install: Any) -> None:
    made = install(SCAN, without=("pods", "list"))
    told = made.ask("scan", expect=[3])
    assert told.err.startswith(f"incomplete: namespace {namespace}: The healer may not list the Pods")
    assert "may not list pods" in made.ask("check", expect=[1]).out


@pytest.mark.parametrize("way", [LONE, REPORT, ENFORCE])
def test_it_works_with_what_the_page_names(way: str, cluster: Cluster, namespace: str, install: Any) -> None:
    made, mark = install(way), cluster.audit_mark()
    said = made.ask("check", "--mode", mode(way), expect=[0]).out
    assert not re.search(r"may not (?!delete pods, and need not)", said)
    with made.run(mode=mode(way)) as healer:
        wait_for(lambda: done(cluster, namespace, way, healer), timeout=PATIENCE, what=f"{way}: all done")
        assert refused(cluster, namespace, mark) == []
        assert not [line for line in healer.lines() if "may not" in str(line)]


@pytest.mark.parametrize(("right", "way"), FIRST.items(), ids=lambda value: "-".join(value) if value in EVERY else "")
def test_what_is_missing_is_told(right: Right, way: str, namespace: str, install: Any) -> None:
    resource, verb = right
    made = install(way, without=right)
    assert f"may not {verb} {resource}" in made.ask("check", "--mode", mode(way), expect=[0, 1]).out
    healer = made.run(mode=mode(way))
    try:
        healer.launch()
        wait_for(lambda: any(SAID[right] in str(line) for line in healer.lines()), timeout=PATIENCE, what=SAID[right])
        assert any(f"--verb={verb}" in str(line) for line in healer.lines()), "it says how to grant it"
    finally:
        healer.stop()
