"""Namespaces that come and go: listed, watched, forgotten, and nothing decided on what an old list says.

The API server here is a table: what a real one does with the same is in tests/cluster/test_namespaces.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from healer.cluster import Listing, Undecodable
from healer.config import Config
from healer.errors import AccessDeniedError, ClusterError
from healer.informer import PodStore
from healer.informer.namespaces import NOT_LISTED
from healer.informer.resync import Resync
from healer.model import PassKind, Pod
from healer.telemetry.metrics import Metrics
from tests.unit.fakes import a_pod

FULL, AUDIT, DUE = PassKind.FULL, PassKind.AUDIT, PassKind.DUE


class FakeCluster:
    """Namespaces, and the Pods in them by name; `broken` says what fails, and how."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Pod]] = {}
        self.broken: dict[str, ClusterError] = {}
        self.asked: list[str] = []
        self.version = 100
        self.meanwhile: Callable[[], None] = lambda: None

    def add(self, namespace: str, *pods: str) -> None:
        self.there.setdefault(namespace, {})
        for name in pods:
            self.version += 1
            uid, version = f"{namespace}-{name}-{self.version}", str(self.version)
            self.there[namespace][name] = a_pod(uid=uid, namespace=namespace, name=name, resource_version=version)

    def remove(self, namespace: str) -> dict[str, Pod]:
        self.version += 1
        return self.there.pop(namespace)

    def all_namespaces(self) -> frozenset[str]:
        self._ask("*")
        return frozenset(self.there)

    def list_pods(self, namespace: str) -> Listing:
        """A namespace that is not there holds no Pod: so says a real API server too."""
        self._ask(namespace)
        listing = Listing(list(self.there.get(namespace, {}).values()), str(self.version))
        self.meanwhile()
        return listing

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.broken:
            raise self.broken[what]


class FakeWatch:
    """Watches what it is told to; its events are the tests' own."""

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.started, self.restarts = False, 0

    def retarget(self, namespaces: Any) -> None:
        self.wanted = frozenset(namespaces)

    def start(self, *, after: threading.Event) -> None:
        self.started = True

    def watches(self, namespace: str) -> bool:
        return self.started and namespace in self.wanted


def entry(name: str, *namespaces: str, ownership: str = "exclusive") -> dict[str, Any]:
    return {"name": name, "namespaces": [*namespaces], "ownership": ownership, "url": "http://x", "token": "t"}


class Scene:
    """All that a replica knows of Pods and namespaces."""

    def __init__(self, *airflows: dict[str, Any]) -> None:
        self.config = Config.model_validate({"airflows": list(airflows) or [entry("a", "team-*")]})
        self.cluster, self.watch = FakeCluster(), FakeWatch()
        self.store = PodStore(listed_only=bool(self.config.patterns))
        self.metrics = Metrics(self.config)
        self.resync = Resync(self.cluster, self.store, self.watch, self.config, self.metrics)  # type: ignore[arg-type]

    def run(self, kind: PassKind = FULL, airflow: int = 0) -> None:
        self.cluster.asked.clear()
        self.resync.refresh([self.config.airflows[airflow]], kind)

    def names(self, airflow: int = 0) -> list[str]:
        """The Pods that may be judged now."""
        mine = self.config.airflows[airflow]
        bad = self.resync.unreadable([mine])
        return sorted(str(pod) for pod in self.resync.pods(mine) if pod.namespace not in bad)

    def readable(self, namespace: str) -> float | None:
        return self.metrics.registry.get_sample_value("kpo_healer_namespace_readable", {"watched_namespace": namespace})

    def unreadable(self, airflow: int = 0) -> dict[str, str]:
        return dict(self.resync.unreadable([self.config.airflows[airflow]]))


def denied(what: str) -> AccessDeniedError:
    return AccessDeniedError(f"The healer may not list {what}.", status=403)


# --- they come and go ---


def test_one_that_appears_is_listed_and_watched_and_one_that_vanishes_is_forgotten() -> None:
    scene = Scene()
    scene.cluster.add("team-a", "p")
    scene.cluster.add("other", "q")
    scene.run()
    assert (scene.names(), scene.watch.wanted, scene.cluster.asked) == (["team-a/p"], {"team-a"}, ["*", "team-a"])
    scene.cluster.add("team-b", "r")
    scene.run()
    assert scene.names() == ["team-a/p", "team-b/r"]
    assert scene.watch.wanted == {"team-a", "team-b"}
    assert scene.cluster.asked == ["*", "team-b"]
    scene.cluster.remove("team-a")
    scene.run()
    assert (scene.names(), scene.watch.wanted) == (["team-b/r"], {"team-b"})
    assert (scene.readable("team-a"), scene.readable("team-b"), scene.readable("team-*")) == (None, 1, 1)
    assert scene.store.listed_at("team-a") is None
    assert len(scene.store) == 1


def test_one_that_returns_is_another_one() -> None:
    scene = Scene()
    scene.cluster.add("team-a", "p")
    scene.run()
    (before,) = scene.store.list_pods()
    scene.cluster.remove("team-a")
    scene.run()
    scene.cluster.add("team-a")
    scene.run(DUE)
    assert scene.cluster.asked == []
    scene.run()
    assert scene.names() == []
    scene.cluster.add("team-a", "p")
    scene.run(AUDIT)
    (after,) = scene.store.list_pods()
    assert (before.name, before.uid != after.uid) == (after.name, True)


def test_a_pattern_that_matches_nothing_yet_is_told_and_the_replica_is_ready(capsys: Any) -> None:
    scene = Scene(entry("a", "team-*", "x-*"))
    scene.cluster.add("team-a")
    scene.run()
    scene.run()
    told = capsys.readouterr().out
    assert told.count("no namespace matches this pattern yet") == 1
    assert "pattern=x-*" in told
    assert scene.unreadable() == {}
    empty = Scene()
    empty.run()
    assert empty.resync.ready
    assert empty.watch.started
    assert empty.watch.wanted == frozenset()


def test_exact_names_beside_a_pattern_are_always_looked_after() -> None:
    scene = Scene(entry("a", "team-*", "jobs"))
    scene.cluster.broken["*"] = denied("the namespaces")
    scene.cluster.add("jobs", "p")
    scene.run()
    assert scene.names() == ["jobs/p"]
    assert scene.watch.wanted == {"jobs"}
    assert scene.unreadable() == {"team-*": "The healer may not list the namespaces."}


def test_reserved_namespaces_are_not_found_by_a_star() -> None:
    scene = Scene(entry("a", "*"))
    for namespace in ("kube-system", "openshift-etcd", "default"):
        scene.cluster.add(namespace, "p")
    scene.run()
    assert scene.cluster.asked == ["*", "default"]


# --- nothing is decided on an old list ---


def test_while_namespaces_cant_be_listed_nothing_is_decided_where_only_a_pattern_stands_for_one(capsys: Any) -> None:
    scene = Scene(entry("a", "team-*", "jobs"))
    scene.cluster.add("team-a", "p")
    scene.cluster.add("jobs", "q")
    scene.run()
    assert scene.names() == ["jobs/q", "team-a/p"]
    scene.cluster.broken["*"] = denied("the namespaces")
    for kind in (FULL, DUE, AUDIT):
        scene.run(kind)
        assert scene.names() == ["jobs/q"]
    assert scene.unreadable() == dict.fromkeys(("team-a", "team-*"), "The healer may not list the namespaces.")
    assert (scene.readable("team-*"), scene.readable("jobs")) == (0, 1)
    del scene.cluster.broken["*"]
    scene.run()
    assert scene.names() == ["jobs/q", "team-a/p"]
    scene.run()
    told = capsys.readouterr().out
    assert (told.count("namespaces can't be listed"), told.count("namespaces can be listed again")) == (1, 1)


def test_nothing_is_known_before_the_first_list() -> None:
    scene = Scene()
    assert scene.unreadable() == {"team-*": NOT_LISTED}
    assert scene.names() == []


def test_a_right_that_lacks_in_one_is_told_and_stops_no_other(capsys: Any) -> None:
    scene = Scene()
    for namespace in ("team-a", "team-b", "team-c"):
        scene.cluster.add(namespace, "p")
    scene.cluster.broken["team-b"] = denied("the Pods")
    scene.run()
    scene.run()
    assert scene.names() == ["team-a/p", "team-c/p"]
    assert scene.unreadable() == {"team-b": "The healer may not list the Pods."}
    assert (scene.readable("team-a"), scene.readable("team-b")) == (1, 0)
    assert scene.watch.wanted == {"team-a", "team-c"}
    assert capsys.readouterr().out.count("a namespace can't be read") == 1
    del scene.cluster.broken["team-b"]
    scene.run()
    assert scene.names() == ["team-a/p", "team-b/p", "team-c/p"]
    assert scene.watch.wanted == {"team-a", "team-b", "team-c"}


def test_the_answer_to_a_list_that_comes_after_the_namespace_has_gone_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another Airflow's thread finds that it is gone, while this one's LIST of it is under way."""
    monkeypatch.setattr("healer.informer.resync.JUST_NOW", float("-inf"))
    scene = Scene(entry("a", "team-*"), entry("b", "x-*"))
    scene.cluster.add("team-a", "p")

    def it_goes() -> None:
        scene.cluster.meanwhile = lambda: None
        scene.cluster.remove("team-a")
        other = threading.Thread(target=scene.resync.refresh, args=([scene.config.airflows[1]], FULL))
        other.start()
        other.join()

    scene.cluster.meanwhile = it_goes
    scene.run()
    assert scene.store.list_pods() == []
    assert scene.store.listed_at("team-a") is None
    assert scene.readable("team-a") is None


class TestEvents:
    """The watch of a namespace that was forgotten may still have something to tell."""

    def test_of_one_that_is_not_listed_none_counts(self) -> None:
        scene = Scene()
        scene.cluster.add("team-a", "p")
        scene.run()
        (pod,) = scene.store.list_pods()
        scene.cluster.remove("team-a")
        scene.run()
        scene.store.upsert(pod)
        scene.store.spoil(Undecodable("u", "team-a", "x"), "999")
        scene.store.delete(pod.uid, "team-a", "999")
        assert scene.store.list_pods() == []
        assert scene.store.undecodable("team-a") == []

    def test_of_before_its_return_none_counts(self) -> None:
        scene = Scene()
        scene.cluster.add("team-a", "p")
        scene.run()
        (old,) = scene.store.list_pods()
        scene.cluster.remove("team-a")
        scene.run()
        scene.cluster.add("team-a")
        scene.run()
        scene.store.upsert(old)
        assert scene.names() == []

    def test_after_the_list_each_counts(self) -> None:
        scene = Scene()
        scene.cluster.add("team-a")
        scene.run()
        scene.cluster.add("team-a", "p")
        pod = scene.cluster.there["team-a"]["p"]
        scene.store.upsert(pod)
        assert scene.names() == ["team-a/p"]
        scene.store.delete(pod.uid, "team-a", "999")
        scene.store.upsert(pod)
        assert scene.names() == []

    def test_where_all_names_are_exact_they_count_as_ever(self) -> None:
        store = PodStore()
        store.upsert(a_pod(namespace="x", resource_version="5"))
        assert len(store) == 1


# --- whose they are ---


def test_one_that_patterns_of_two_claim_is_not_even_listed(capsys: Any) -> None:
    scene = Scene(entry("a", "team-*"), entry("b", "*-prod"))
    for namespace in ("team-x", "team-x-prod", "y-prod"):
        scene.cluster.add(namespace, "p")
    for airflow in (0, 1):
        scene.run(airflow=airflow)
        assert "team-x-prod" not in scene.cluster.asked
        assert "is claimed by a and b" in scene.unreadable(airflow)["team-x-prod"]
    assert (scene.names(0), scene.names(1)) == (["team-x/p"], ["y-prod/p"])
    assert scene.readable("team-x-prod") == 0
    assert capsys.readouterr().out.count("nothing is decided in a namespace") == 1
    scene.cluster.remove("team-x-prod")
    scene.run()
    scene.run(airflow=1)
    assert (scene.unreadable(0), scene.unreadable(1), scene.readable("team-x-prod")) == ({}, {}, None)


def test_an_exact_name_wins_over_a_pattern() -> None:
    scene = Scene(entry("a", "team-*"), entry("b", "team-b"))
    for namespace in ("team-a", "team-b"):
        scene.cluster.add(namespace, "p")
    scene.run(airflow=0)
    scene.run(airflow=1)
    assert (scene.names(0), scene.names(1)) == (["team-a/p"], ["team-b/p"])
    scene.cluster.broken["*"] = denied("the namespaces")
    scene.run(airflow=0)
    assert (scene.names(0), scene.names(1)) == ([], ["team-b/p"])


def test_what_both_may_share_both_look_after() -> None:
    scene = Scene(entry("a", "team-*", ownership="stamped"), entry("b", "team-b", ownership="stamped"))
    scene.cluster.add("team-b", "p")
    scene.run(airflow=0)
    scene.run(airflow=1)
    assert scene.names(0) == scene.names(1) == ["team-b/p"]


# --- exact names alone are as they ever were ---


@pytest.mark.parametrize("kind", [FULL, DUE, AUDIT])
def test_exact_names_alone_cost_no_request_more(kind: PassKind) -> None:
    scene = Scene(entry("a", "x", "y"))
    scene.cluster.broken["*"] = denied("the namespaces")
    scene.run(kind)
    assert scene.cluster.asked == ([] if kind is DUE else ["x", "y"])
    assert scene.watch.wanted == frozenset()  # never told: kopf takes those that are configured
    assert set(scene.unreadable()) == ({"x", "y"} if kind is DUE else set())


# --- whatever comes in whatever order ---


class ComingAndGoing(RuleBasedStateMachine):
    """Namespaces and Pods come, go and return; LISTs fail; events come late. What may be judged was there lately."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(entry("a", "team-*", "jobs"))
        self.late: list[Pod] = []
        self.listed: frozenset[str] | None = None
        """The namespaces by the last LIST, None where that failed."""
        self.told: dict[str, set[str]] = {}
        """By namespace the uids of the Pods that its last LIST had, and of those that came after it."""

    @rule(namespace=st.sampled_from(["team-a", "team-b", "jobs", "other"]), pod=st.sampled_from(["p", "q"]))
    def come(self, namespace: str, pod: str) -> None:
        self.scene.cluster.add(namespace, pod)
        made = self.scene.cluster.there[namespace][pod]
        self.late.append(made)
        self.told.setdefault(namespace, set()).add(made.uid)

    @rule(namespace=st.sampled_from(["team-a", "team-b", "other"]))
    def go(self, namespace: str) -> None:
        if namespace in self.scene.cluster.there:
            self.scene.cluster.remove(namespace)

    @rule(what=st.sampled_from(["*", "team-a", "team-b", "jobs"]))
    def fail(self, what: str) -> None:
        self.scene.cluster.broken[what] = denied(what)

    @rule()
    def mend(self) -> None:
        self.scene.cluster.broken.clear()

    @rule(number=st.integers(0, 20))
    def tell_late(self, number: int) -> None:
        if self.late:
            self.scene.store.upsert(self.late[number % len(self.late)])

    @rule(kind=st.sampled_from([FULL, AUDIT, DUE]))
    def look(self, kind: PassKind) -> None:
        self.scene.run(kind)
        if kind is not DUE:
            cluster = self.scene.cluster
            self.listed = None if "*" in cluster.broken else frozenset(cluster.there)
        for namespace in self.scene.cluster.asked:
            if namespace not in self.scene.cluster.broken:
                self.told[namespace] = {pod.uid for pod in self.scene.cluster.there.get(namespace, {}).values()}

    @invariant()
    def only_what_is_there_by_the_last_list_may_be_judged(self) -> None:
        for name in self.scene.names():
            namespace = name.partition("/")[0]
            assert namespace == "jobs" or (self.listed is not None and namespace in self.listed)

    @invariant()
    def no_namesake_from_before_may_be_judged(self) -> None:
        mine = self.scene.config.airflows[0]
        bad = self.scene.resync.unreadable([mine])
        for pod in self.scene.resync.pods(mine):
            assert pod.namespace in bad or pod.uid in self.told[pod.namespace]

    @invariant()
    def what_is_gone_leaves_nothing_behind(self) -> None:
        if self.listed is not None:
            held = {pod.namespace for pod in self.scene.store.list_pods()}
            assert held <= self.listed | {"jobs"}
            assert self.scene.watch.wanted <= self.listed | {"jobs"}


TestComingAndGoing = ComingAndGoing.TestCase
TestComingAndGoing.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
