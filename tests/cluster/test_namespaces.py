"""Namespaces that come, go and return, on the real API server: watched, forgotten, watched again."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.world import EAGER, UNLIMITED
from tests.lab.healer import ACCOUNT, RIGHTS, USER, Installation, Running, deletes, other_writes
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.cli_world import ROW, Answer, Seen, Server, answer, good_airflow, serving

PATIENCE: Final = 180.0
RBAC: Final = "rbac.authorization.k8s.io"
LIST_NAMESPACES: Final[Any] = [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list"]}]
ON_PODS: Final = RIGHTS[:2]

DEAD: Final[Any] = ROW | {"end_date": None}
ALIVE: Final[Any] = DEAD | {"id": "0190c0de-0000-7000-8000-000000000002", "task_id": "alive", "state": "running"}

pytestmark = pytest.mark.timeout(900)


def airflow_of_two(seen: Seen) -> Answer:
    """Answer as an Airflow in which the task `t` has failed and the task `alive` runs."""
    path = seen.path.partition("?")[0]
    if path.endswith("/taskInstances/list"):
        rows = [row for row in (DEAD, ALIVE) if row["task_id"] in seen.body.get("task_ids", ["t", "alive"])]
        return answer(200, {"task_instances": rows, "total_entries": len(rows)})
    if path.endswith("/taskInstances/alive/-1"):
        return answer(200, ALIVE)
    return answer(200, DEAD) if path.endswith("/taskInstances/t/-1") else good_airflow(seen)


class Wide:
    """Rights in the whole cluster, by a ClusterRole and its binding, until they are taken away."""

    def __init__(self, cluster: Cluster, name: str, rules: Sequence[Any]) -> None:
        self._cluster, self.name, self._rules = cluster, name, rules

    def grant(self) -> None:
        common = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": self.name}}
        ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": self.name}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT}
        self._cluster.apply({**common, "kind": "ClusterRole", "rules": list(self._rules)})
        self._cluster.apply({**common, "kind": "ClusterRoleBinding", "roleRef": ref, "subjects": [subject]})
        self._wait(True)

    def take(self) -> None:
        for plural in ("clusterrolebindings", "clusterroles"):
            self._cluster.request("DELETE", f"/apis/{RBAC}/v1/{plural}/{self.name}", expect=(200, 404))
        self._wait(False)

    def _wait(self, holds: bool) -> None:
        what = f"{self.name} {'granted' if holds else 'taken away'}"
        wait_for(lambda: all(self._may(rule) is holds for rule in self._rules), timeout=PATIENCE, what=what)

    def _may(self, rule: Any) -> bool:
        asked = {"verb": rule["verbs"][0], "resource": rule["resources"][0], "namespace": ""}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": USER, "resourceAttributes": asked},
        }
        reply = self._cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(reply["status"]["allowed"])


class Tenants:
    """Namespaces of one prefix, which the pattern of the installation stands for."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.prefix = cluster, f"t{uuid.uuid4().hex[:6]}"
        self._there: set[str] = set()

    @property
    def pattern(self) -> str:
        return f"{self.prefix}-*"

    def name(self, short: str) -> str:
        return f"{self.prefix}-{short}"

    def come(self, short: str, *tasks: str) -> str:
        """A namespace with a Pod of each task, called after it: `t` is an orphan, `alive` is in use."""
        name = self.cluster.namespace(self.name(short))
        self._there.add(name)
        for task in tasks:
            self.pod(short, task)
        return name

    def pod(self, short: str, task: str) -> None:
        body = kpo_pod(dag_id="d", task_id=task, run_id="r", namespace=self.name(short), name=task)
        self.cluster.create_pod(body)

    def go(self, short: str) -> None:
        self.cluster.delete_namespace(self.name(short))
        self._there.discard(self.name(short))

    def pods(self, short: str) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.cluster.pods(self.name(short)))

    def wait_pods(self, short: str, *names: str) -> None:
        wait_for(lambda: self.pods(short) == sorted(names), timeout=PATIENCE, what=f"{names} in {short}")

    def close(self) -> None:
        for name in list(self._there):
            self.cluster.delete_namespace(name)


@pytest.fixture
def airflow() -> Iterator[Server]:
    with serving(airflow_of_two) as server:
        yield server


@pytest.fixture
def tenants(cluster: Cluster) -> Iterator[Tenants]:
    made = Tenants(cluster)
    yield made
    made.close()


@pytest.fixture
def install(cluster: Cluster, airflow: Server, namespace: str, tmp_path: Path, tenants: Tenants) -> Installation:
    made = Installation.make(
        tmp_path,
        cluster,
        url=f"http://127.0.0.1:{airflow.port}",
        namespaces=[namespace],
        policy=EAGER,
        limits=UNLIMITED,
    )
    made.config["airflows"][0]["namespaces"] = [tenants.pattern]
    return made


@pytest.fixture
def wide(cluster: Cluster) -> Iterator[Callable[[Sequence[Any]], Wide]]:
    made: list[Wide] = []

    def grant(rules: Sequence[Any]) -> Wide:
        made.append(Wide(cluster, f"lab-wide-{uuid.uuid4().hex[:6]}", rules))
        made[-1].grant()
        return made[-1]

    yield grant
    for each in made:
        each.take()


def series(healer: Running) -> dict[str, float]:
    """Whether each namespace and pattern can be read, by the metric."""
    text = healer._client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("kpo_healer_namespace_readable{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


def watched(cluster: Cluster, mark: int, namespace: str) -> int:
    events = cluster.audit(mark, user=USER, verb="watch", resource="pods")
    return sum(event.namespace == namespace for event in events)


def ended(cluster: Cluster, mark: int, namespaces: Sequence[str]) -> bool:
    """Whether every watch of these has ended."""
    events = cluster.audit(mark, user=USER, verb="watch", resource="pods")
    stages = [event.stage for event in events if event.namespace in namespaces and event.code == 200]
    return stages.count("ResponseStarted") == stages.count("ResponseComplete") > 0


def said(healer: Running, what: str) -> list[Any]:
    return [line for line in healer.lines() if what in str(line)]


def test_they_come_go_and_return(cluster: Cluster, tenants: Tenants, install: Installation, wide: Any) -> None:
    wide([*LIST_NAMESPACES, *ON_PODS])
    tenants.come("a", "t", "alive")
    outside = cluster.namespace(f"x-{tenants.prefix}-a")
    try:
        cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=outside, name="t"))
        mark = cluster.audit_mark()
        with install.run(mode="enforce") as healer:
            tenants.wait_pods("a", "alive")
            wait_for(lambda: watched(cluster, mark, tenants.name("a")), timeout=PATIENCE, what="a watch")
            tenants.come("b", "t", "alive")
            tenants.wait_pods("b", "alive")
            wait_for(lambda: watched(cluster, mark, tenants.name("b")), timeout=PATIENCE, what="a watch of the new one")
            assert series(healer) == dict.fromkeys((tenants.pattern, tenants.name("a"), tenants.name("b")), 1)
            tenants.go("a")
            wait_for(lambda: tenants.name("a") not in series(healer), timeout=PATIENCE, what="it is forgotten")
            wait_for(lambda: ended(cluster, mark, [tenants.name("a")]), timeout=PATIENCE, what="its watch ends")
            assert not ended(cluster, mark, [tenants.name("b")])
            again = cluster.audit_mark()
            tenants.come("a", "t", "alive")
            tenants.wait_pods("a", "alive")
            wait_for(
                lambda: watched(cluster, again, tenants.name("a")), timeout=PATIENCE, what="a watch of the same name"
            )
            assert healer.metric("watch_restarts_total") == 0
        assert [pod["metadata"]["name"] for pod in cluster.pods(outside)] == ["t"]
        assert {event.name for event in deletes(cluster, mark)} == {"t"}
        assert other_writes(cluster, mark) == []
    finally:
        cluster.delete_namespace(outside)


def test_many_that_come_go_and_return_at_once(
    cluster: Cluster, tenants: Tenants, install: Installation, wide: Any
) -> None:
    """Orphans are healed wherever they are; a Pod in use is left alone, whatever its namespace has been through."""
    wide([*LIST_NAMESPACES, *ON_PODS])
    names = [str(number) for number in range(24)]
    mark = cluster.audit_mark()

    def lead_a_life(short: str) -> None:
        chance = random.Random(short)
        for _ in range(4):
            tenants.come(short, *chance.sample(["t", "alive"], chance.randint(0, 2)))
            if chance.random() < 0.5:
                wait_for(lambda: "t" not in tenants.pods(short), timeout=PATIENCE, what="its orphan is healed")
            tenants.go(short)
        tenants.come(short, "t", "alive")

    with install.run(mode="enforce") as healer:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lead_a_life, names))
        for short in names:
            tenants.wait_pods(short, "alive")
        expected = {tenants.pattern, *map(tenants.name, names)}
        wait_for(lambda: series(healer) == dict.fromkeys(expected, 1), timeout=PATIENCE, what="all of them readable")
        assert healer.metric("watch_restarts_total") == 0
        for short in names:
            tenants.go(short)
        wait_for(lambda: set(series(healer)) == {tenants.pattern}, timeout=PATIENCE, what="all of them forgotten")
        wait_for(lambda: ended(cluster, mark, [*map(tenants.name, names)]), timeout=PATIENCE, what="no watch is left")
        assert not said(healer, "a pass failed")
    assert {event.name for event in deletes(cluster, mark)} == {"t"}
    assert other_writes(cluster, mark) == []


def test_a_right_that_lacks_in_one_stops_no_other(
    cluster: Cluster, tenants: Tenants, install: Installation, wide: Any
) -> None:
    """The rights on Pods by a RoleBinding in each namespace: least rights, and one that somebody forgot."""
    wide(LIST_NAMESPACES)
    for short in "abc":
        tenants.come(short, "t", "alive")
    granted = [tenants.name(short) for short in "ac"]
    cluster.service_account(ACCOUNT, ACCOUNT, ON_PODS, namespaces=granted)
    mark, lacking = cluster.audit_mark(), tenants.name("b")
    with install.run(mode="enforce") as healer:
        for short in "ac":
            tenants.wait_pods(short, "alive")
        wait_for(lambda: series(healer).get(lacking) == 0, timeout=PATIENCE, what="it is counted")
        told = said(healer, "a namespace can't be read")
        assert [(line["namespace"], "may not list the Pods" in line["why"]) for line in told] == [(lacking, True)]
        assert said(healer, "may not delete Pods here")[0]["namespace"] == lacking
        healer.wait_passes(3)
        assert len(said(healer, "a namespace can't be read")) == 1
        assert tenants.pods("b") == ["alive", "t"]
        cluster.service_account(ACCOUNT, ACCOUNT, ON_PODS, namespaces=[lacking])
        tenants.wait_pods("b", "alive")
        assert healer.metric("watch_restarts_total") == 0
    assert {event.name for event in deletes(cluster, mark)} == {"t"}


def test_nothing_is_decided_while_the_namespaces_cant_be_listed(
    cluster: Cluster, tenants: Tenants, install: Installation, wide: Any
) -> None:
    lists = wide(LIST_NAMESPACES)
    wide(ON_PODS)
    tenants.come("a", "t", "alive")
    with install.run(mode="enforce") as healer:
        tenants.wait_pods("a", "alive")
        lists.take()
        wait_for(lambda: series(healer)[tenants.pattern] == 0, timeout=PATIENCE, what="it is counted")
        assert "may not list the namespaces" in said(healer, "namespaces can't be listed")[0]["why"]
        mark = cluster.audit_mark()
        tenants.pod("a", "t")
        healer.wait_passes(6)
        assert (tenants.pods("a"), deletes(cluster, mark)) == (["alive", "t"], [])
        told = install.ask("scan", expect=[3])
        assert "may not list the namespaces" in told.err
        assert "kind: ClusterRole" in install.ask("check", expect=[1]).out
        lists.grant()
        tenants.wait_pods("a", "alive")


def test_all_commands_know_patterns(cluster: Cluster, tenants: Tenants, install: Installation, wide: Any) -> None:
    wide([*LIST_NAMESPACES, *ON_PODS])
    install.config["leaderElection"] = {}
    told = install.ask("scan", expect=[3])
    assert "no namespace matches this pattern yet" in " ".join(told.err.split())
    assert "no namespace matches this pattern yet" in " ".join(install.ask("check", expect=[0]).out.split())
    tenants.come("a", "t", "alive")
    tenants.come("empty")
    found = {finding["pod"]: finding["reason"] for finding in install.ask("scan", "--all", "-o", "json").data()}
    assert found["t"] == "orphaned"
    assert set(found) == {"t", "alive"}
    assert "orphaned" in install.ask("explain", f"{tenants.name('a')}/t").out
    assert "belongs to no Airflow" in install.ask("explain", "kube-system/t", expect=[2, 3, 4]).err
    assert "all good in 2" in " ".join(install.ask("check", expect=[0]).out.split())
    install.ask("run", "--once", "--mode", "report", expect=[0, 1])
    assert tenants.pods("a") == ["alive", "t"]
