"""The controller: its clockwork, its probes, what it lists when, and that it always comes to an end."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pytest
from msgspec import structs

from healer import controller, worker
from healer.airflow import Call
from healer.airflow.api.credentials import CredentialLife
from healer.clock import boottime
from healer.cluster import Connection, Lease, Listing
from healer.config import Config
from healer.controller import Controller
from healer.decision.limits import with_override
from healer.errors import AccessDeniedError, ClusterError, NoAnswerError, UnreachableError
from healer.informer import PodStore
from healer.informer.resync import Resync
from healer.model import DeleteResult, DeleteStatus, PassKind
from healer.reconciler import Reconciler
from healer.schedule import BETWEEN_PASSES, Heartbeat, Schedule
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.metrics import Metrics
from healer.telemetry.reachability import Reachability
from healer.worker import Worker
from tests.unit.fakes import NOT_KNOWN, ORPHANED, PROMPT, Clock, takes_deletes
from tests.unit.strategies import a_pod

PATIENCE = 60.0
"""Seconds after which a condition that never comes true is a failure."""


def a_config(**changes: Any) -> Config:
    airflow = {
        "name": "default",
        "namespaces": ["airflow", "batch"],
        "ownership": "exclusive",
        "mode": "enforce",
        "url": "http://airflow:8080",
        "token": "t",
        "policy": PROMPT,
        "limits": {"breaker": {"maxShare": 1}},
        **changes.pop("airflow", {}),
    }
    alone = {"enabled": False}
    return Config.model_validate({"listen": "127.0.0.1:0", "leaderElection": alone, "airflows": [airflow], **changes})


class FakeWatch:
    """Tells what a test makes it tell."""

    def __init__(self, *_: Any, on_list: Callable[[str], None], **__: Any) -> None:
        self.on_list, self.restarts, self.stopped = on_list, 0, False
        self.alive, self.blind = True, set[str]()

    def start(self, *, after: threading.Event) -> None:
        self.after = after

    def retarget(self, namespaces: Collection[str]) -> None:
        self.wanted = set(namespaces)

    def stop(self) -> None:
        self.stopped = True

    def supervised(self) -> bool:
        return self.alive

    def watches(self, namespace: str) -> bool:
        return namespace not in self.blind


class LiveLease:
    """A Lease that other replicas, and tests, write to as well."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.annotations: Mapping[str, str] | None = None
        self.failure: ClusterError | None = None
        self.calls = 0

    def get(self) -> Lease | None:
        self._ask()
        return self.lease

    def create(self, lease: Lease) -> Lease:
        self._ask()
        assert self.lease is None
        return self.write(lease)

    def replace(self, lease: Lease) -> Lease:
        self._ask()
        if self.lease is None or lease.resource_version != self.lease.resource_version:
            raise ClusterError("somebody was faster", status=409)
        if self.annotations is not None:
            lease, self.annotations = structs.replace(lease, annotations=self.annotations), None
        return self.write(lease)

    def write(self, lease: Lease) -> Lease:
        self.lease = structs.replace(lease, resource_version=str(self.calls))
        return self.lease

    def by(self, holder: str) -> None:
        """Let somebody else hold it."""
        self.calls += 1
        self.write(Lease(holder, 15.0, (self.lease.transitions if self.lease else 0) + 1))

    def _ask(self) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure


class LiveCluster:
    """A cluster by the real clock."""

    def __init__(self, connection: Connection, *, observe: Callable[[str, str], None], **_: Any) -> None:
        self.connection, self.observe = connection, observe
        self.listings: dict[str, Any] = {"airflow": Listing([], "1"), "batch": Listing([], "1")}
        self.namespaces: Any = None
        """What a LIST of the namespaces answers; without patterns nobody asks."""
        self.lists: list[str] = []
        takes_deletes(self)
        self.deleted: list[str] = []
        self.lease = LiveLease()
        self.rights: list[tuple[str, str]] = []
        self.denied: set[tuple[str, str]] = set()
        """Verbs on Pods, and the namespaces where they are not granted."""
        self.is_settled = True

    def leases(self, *_: Any, **__: Any) -> LiveLease:
        return self.lease

    def config_map(self, namespace: str, name: str, key: str, **_: Any) -> str:
        return f"{namespace}/{name}"

    def wait_idle(self, _timeout: float) -> bool:
        return self.is_settled

    def all_namespaces(self) -> frozenset[str]:
        if isinstance(self.namespaces, Exception):
            raise self.namespaces
        return frozenset(self.namespaces)

    def can_i(self, verb: str, _resource: str, namespace: str) -> bool:
        self.rights.append((verb, namespace))
        return (verb, namespace) not in self.denied

    def now(self) -> float:
        return time.time()

    def list_pods(self, namespace: str) -> Listing:
        self.lists.append(namespace)
        listing = self.listings[namespace]
        if isinstance(listing, Exception):
            raise listing
        assert isinstance(listing, Listing)
        return listing

    def delete_pod(self, pod: Any, proof: Any, right: Any) -> DeleteResult:
        if not right():
            return DeleteResult(DeleteStatus.STALE, "no right")
        self.deleted.append(pod.uid)
        return DeleteResult(DeleteStatus.DELETED, "deleted")

    def post_event(self, *_: Any, **__: Any) -> None:
        """Say nothing."""


class LiveAirflow:
    """Answers everything alike, or hangs until it is freed."""

    def __init__(
        self,
        _config: Any,
        *,
        observe: Callable[[Call], None],
        failed: Callable[[NoAnswerError], None] = lambda _failure: None,
    ) -> None:
        self.observe, self.failed, self.logins = observe, failed, 0
        self.answer: Any = ORPHANED
        self.free, self.asked = threading.Event(), threading.Event()
        self.free.set()
        self.version: str | None = "3.3.2"
        self.set_aside = 0
        self.credential = CredentialLife()

    def start_audit(self) -> None:
        """Forget nothing."""

    def forget(self, uids: Any) -> None:
        """Forget nothing."""

    def login(self) -> None:
        self.logins += 1

    def get_all(self, pods: Any) -> Any:
        self.asked.set()
        self.free.wait(PATIENCE)
        if isinstance(self.answer, Exception):
            raise self.answer
        from msgspec.structs import replace

        return {pod.uid: replace(self.answer, sent=time.monotonic()) for pod in pods}

    get_each = list_recently_ended = get_all


class Parts:
    """A controller and the fakes it was built of."""

    def __init__(self, **config: Any) -> None:
        self.controller = Controller(a_config(**config), Connection())
        self.cluster: LiveCluster = self.controller._cluster  # type: ignore[assignment]
        self.watch: FakeWatch = self.controller._informer  # type: ignore[assignment]
        if self.controller._leadership.is_leader():
            for each in self.controller.workers:
                each.on_started_leading()

    @property
    def worker(self) -> Worker:
        return self.controller.workers[0]

    @property
    def airflow(self) -> LiveAirflow:
        return self.worker._airflow  # type: ignore[return-value]

    def make_pass(self, kind: PassKind) -> None:
        """Let each Airflow have one."""
        for each in self.controller.workers:
            each.make_pass(kind)

    def add(self, *uids: str) -> None:
        pods = [a_pod(uid=uid, name=uid, created=time.time() - 1000) for uid in uids]
        self.cluster.listings["airflow"] = Listing(pods, "1")

    def get(self, path: str) -> int:
        url = f"http://127.0.0.1:{self.controller._http.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    def metric(self, name: str, **labels: str) -> float | None:
        return self.controller._metrics.registry.get_sample_value(f"kpo_healer_{name}", labels)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "Cluster", LiveCluster)
    monkeypatch.setattr(controller, "Informer", FakeWatch)
    monkeypatch.setattr(worker, "Airflow", LiveAirflow)


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the exit codes of a process that doesn't wait for its threads."""
    codes: list[int] = []
    monkeypatch.setattr(controller, "_exit_now", codes.append)
    return codes


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


# --- the clockwork ----------------------------------------------------------------------------------------------------


def test_passes_come_at_their_interval_and_audits_at_theirs() -> None:
    schedule, now, made = Schedule(a_config(interval="60s", auditInterval="3m"), 0.0), 0.0, []
    while now < 420:
        made.append((now, schedule.next(now)))
        now += schedule.pause(now, float("inf"))
    audits = {0, 180, 360}
    assert made == [(t, PassKind.AUDIT if t in audits else PassKind.FULL) for t in range(0, 420, 60)]


def test_a_due_time_is_met_between_two_passes_and_delays_none() -> None:
    schedule = Schedule(a_config(interval="60s"), 0.0)
    schedule.next(0.0)
    assert schedule.pause(0.0, 25.0) == 25
    assert schedule.next(25.0) is PassKind.DUE
    assert schedule.pause(25.0, float("inf")) == 35
    assert schedule.next(60.0) is PassKind.FULL


@pytest.mark.parametrize("event", [-1e9, 0.0, 100.0, 100.1])
def test_there_is_always_a_pause(event: float) -> None:
    schedule = Schedule(a_config(), 0.0)
    schedule.next(100.0)
    assert schedule.pause(100.0, event) == BETWEEN_PASSES


def test_an_audit_interval_below_the_interval_counts() -> None:
    schedule = Schedule(a_config(interval="10m", auditInterval="1m"), 0.0)
    schedule.next(0.0)
    assert schedule.pause(0.0, float("inf")) == 60
    assert schedule.next(60.0) is PassKind.AUDIT


def test_a_pass_that_took_long_is_not_made_up_for() -> None:
    schedule = Schedule(a_config(interval="60s", auditInterval="1h"), 0.0)
    schedule.next(0.0)
    assert schedule.pause(300.0, float("inf")) == BETWEEN_PASSES
    assert schedule.next(300.5) is PassKind.FULL
    assert schedule.pause(300.5, float("inf")) == 60


# --- the probes -------------------------------------------------------------------------------------------------------


def test_the_pulse_is_good_while_steps_are_made() -> None:
    clock = Clock()
    pulse = Heartbeat(180.0, clock)
    clock.forward(180)
    assert pulse.check()[0]
    clock.forward(1)
    good, why = pulse.check()
    assert not good
    assert "181 s" in why
    pulse.beat()
    assert pulse.check()[0]


@pytest.mark.parametrize(
    ("interval", "timeout", "patience"), [("60s", "60s", 180.0), ("10s", "60s", 120.0), ("1s", "1s", 3.0)]
)
def test_its_patience_is_three_intervals_or_two_timeouts(interval: str, timeout: str, patience: float) -> None:
    parts = Parts(interval=interval, airflow={"timeout": timeout})
    assert parts.worker.heartbeat._patience == patience


def test_every_request_that_ends_is_a_step_whatever_its_answer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr(parts.worker.heartbeat, "beat", lambda: beats.append(1))
    for code in ("200", "500", "timeout"):
        parts.airflow.observe(Call("look", code, 60.0, 0, 0))
    assert len(beats) == 3
    assert parts.metric("airflow_requests_total", airflow="default", call="look", code="timeout") == 1
    parts.cluster.observe("list", "200")
    assert len(beats) == 3, "what other threads ask for says nothing about the deciding one"
    parts.controller._heartbeats[threading.current_thread()] = parts.worker.heartbeat
    parts.cluster.observe("list", "200")
    assert len(beats) == 4


def test_only_good_answers_date_airflows_last_success(parts: Parts) -> None:
    parts.airflow.observe(Call("look", "500", 1.0, 0, 0))
    assert parts.metric("airflow_last_success_timestamp_seconds", airflow="default") == 0
    parts.airflow.observe(Call("version", "200", 1.0, 0, 0))
    assert parts.metric("airflow_last_success_timestamp_seconds", airflow="default") == 0
    parts.airflow.observe(Call("look", "200", 1.0, 0, 0, authenticated=True))
    assert parts.metric("airflow_last_success_timestamp_seconds", airflow="default") > 0  # type: ignore[operator]


def test_a_pass_with_an_airflow_that_is_down_is_a_step_and_one_that_fails_is_not(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []
    monkeypatch.setattr(parts.worker.heartbeat, "beat", lambda: beats.append(1))
    parts.add("a")
    parts.airflow.answer = NOT_KNOWN
    parts.make_pass(PassKind.AUDIT)
    assert len(beats) == 1
    parts.airflow.answer = RuntimeError("a bug")
    parts.make_pass(PassKind.AUDIT)
    assert len(beats) == 1


def test_it_is_ready_once_a_namespace_was_listed(parts: Parts) -> None:
    refused = AccessDeniedError("no right")
    parts.cluster.listings = {"airflow": refused, "batch": refused}
    parts.make_pass(PassKind.AUDIT)
    assert not parts.controller._is_ready()[0]
    parts.cluster.listings["batch"] = Listing([], "1")
    parts.make_pass(PassKind.FULL)
    assert parts.controller._is_ready()[0]
    parts.cluster.listings["batch"] = refused
    parts.make_pass(PassKind.AUDIT)
    assert parts.controller._is_ready()[0], "once is enough: what fails later has its own metric"


# --- listings ---------------------------------------------------------------------------------------------------------


def lists_of(parts: Parts, kind: PassKind) -> list[str]:
    parts.cluster.lists.clear()
    parts.make_pass(kind)
    return parts.cluster.lists


def test_pods_are_listed_at_audits_only(parts: Parts) -> None:
    assert lists_of(parts, PassKind.AUDIT) == ["airflow", "batch"]
    assert lists_of(parts, PassKind.FULL) == []
    assert lists_of(parts, PassKind.DUE) == []


def test_a_watch_that_began_anew_has_its_namespace_listed_once(parts: Parts) -> None:
    parts.make_pass(PassKind.AUDIT)
    parts.watch.on_list("airflow")
    parts.watch.on_list("airflow")
    assert lists_of(parts, PassKind.DUE) == ["airflow"]
    assert lists_of(parts, PassKind.FULL) == []


def test_a_namespace_that_can_not_be_read_is_tried_in_every_full_pass(parts: Parts) -> None:
    parts.add("a")
    good = parts.cluster.listings["airflow"]
    parts.cluster.listings["airflow"] = AccessDeniedError("no right")
    parts.make_pass(PassKind.AUDIT)
    assert parts.metric("namespace_readable", watched_namespace="airflow") == 0
    assert parts.metric("namespace_readable", watched_namespace="batch") == 1
    assert lists_of(parts, PassKind.DUE) == []
    assert lists_of(parts, PassKind.FULL) == ["airflow"]
    parts.cluster.listings["airflow"] = good
    assert lists_of(parts, PassKind.FULL) == ["airflow"]
    assert parts.metric("namespace_readable", watched_namespace="airflow") == 1
    assert lists_of(parts, PassKind.FULL) == []


def test_pods_of_a_namespace_that_can_not_be_read_any_more_are_not_deleted(parts: Parts) -> None:
    parts.add("a")
    parts.airflow.answer = NOT_KNOWN
    parts.make_pass(PassKind.AUDIT)
    parts.airflow.answer = ORPHANED
    parts.cluster.listings["airflow"] = AccessDeniedError("no right")
    parts.make_pass(PassKind.AUDIT)
    assert parts.cluster.deleted == []
    parts.add("a")
    parts.make_pass(PassKind.AUDIT)
    assert parts.cluster.deleted == ["a"]


def test_a_namespace_that_is_not_watched_is_listed_in_every_full_pass(parts: Parts) -> None:
    parts.make_pass(PassKind.AUDIT)
    parts.watch.blind = {"airflow"}
    assert lists_of(parts, PassKind.DUE) == []
    assert lists_of(parts, PassKind.FULL) == ["airflow"]
    parts.watch.blind = set()
    assert lists_of(parts, PassKind.FULL) == []


class TestPatterns:
    """Nothing is deleted on an old list: neither of the namespaces nor of the Pods in them."""

    @pytest.fixture
    def parts(self) -> Parts:
        made = Parts(airflow={"namespaces": ["air*"]})
        made.cluster.namespaces = {"airflow", "other"}
        return made

    def suspected(self, parts: Parts) -> None:
        """Make an orphan that falls due with the next look."""
        parts.add("a")
        parts.airflow.answer = NOT_KNOWN
        parts.make_pass(PassKind.AUDIT)
        parts.airflow.answer = ORPHANED

    def test_an_orphan_is_deleted(self, parts: Parts) -> None:
        self.suspected(parts)
        parts.make_pass(PassKind.AUDIT)
        assert parts.cluster.deleted == ["a"]
        assert parts.watch.wanted == {"airflow"}

    @pytest.mark.parametrize("kind", PassKind)
    def test_not_while_the_namespaces_cant_be_listed(self, parts: Parts, kind: PassKind) -> None:
        self.suspected(parts)
        parts.cluster.namespaces = AccessDeniedError("The healer may not list the namespaces.")
        parts.make_pass(PassKind.FULL)
        parts.make_pass(kind)
        assert parts.cluster.deleted == []
        assert parts.metric("namespace_readable", watched_namespace="air*") == 0
        assert parts.metric("pods", airflow="default", reason="airflow-unknown") == 1
        parts.cluster.namespaces = {"airflow"}
        parts.make_pass(PassKind.FULL)
        parts.make_pass(PassKind.AUDIT)
        assert parts.cluster.deleted == ["a"]

    @pytest.mark.parametrize("kind", [PassKind.FULL, PassKind.AUDIT])
    def test_not_once_the_namespace_has_vanished(self, parts: Parts, kind: PassKind) -> None:
        self.suspected(parts)
        parts.cluster.namespaces = {"other"}
        parts.make_pass(kind)
        assert parts.cluster.deleted == []
        assert parts.metric("pods", airflow="default", reason="airflow-unknown") == 0
        assert parts.metric("namespace_readable", watched_namespace="airflow") is None

    def test_one_that_returns_begins_anew(self, parts: Parts) -> None:
        self.suspected(parts)
        parts.cluster.namespaces = {"other"}
        parts.make_pass(PassKind.FULL)
        parts.cluster.namespaces = {"airflow"}
        parts.cluster.listings["airflow"] = UnreachableError("no answer")
        parts.make_pass(PassKind.FULL)
        assert parts.cluster.deleted == []
        parts.cluster.listings["airflow"] = Listing([], "2")
        parts.make_pass(PassKind.FULL)
        assert parts.cluster.deleted == []

    def test_rights_are_asked_for_where_they_are_not_had_everywhere(
        self, parts: Parts, capsys: pytest.CaptureFixture[str]
    ) -> None:
        parts.make_pass(PassKind.FULL)
        assert {namespace for _, namespace in parts.cluster.rights} == {""}
        parts.cluster.rights.clear()
        parts.make_pass(PassKind.FULL)
        assert parts.cluster.rights == []
        parts.cluster.namespaces = {"airflow", "air-2"}
        parts.cluster.listings["air-2"] = Listing([], "1")
        parts.cluster.denied = {("get", ""), ("watch", "air-2")}
        parts.make_pass(PassKind.FULL)
        told = capsys.readouterr().out
        assert told.count("may not") == 1
        assert "may not watch Pods here" in told
        assert "namespace=air-2" in told


def test_nothing_is_decided_on_a_picture_that_got_stale(parts: Parts) -> None:
    """The watch is down, and so is the API server: what Airflow says of Pods as they were once is no reason."""
    parts.add("a")
    parts.airflow.answer = NOT_KNOWN
    parts.make_pass(PassKind.AUDIT)
    parts.airflow.answer = ORPHANED
    parts.watch.blind = {"airflow"}
    parts.cluster.listings["airflow"] = UnreachableError("no answer")
    parts.make_pass(PassKind.FULL)
    assert parts.cluster.deleted == []
    assert parts.metric("namespace_readable", watched_namespace="airflow") == 0
    assert parts.metric("pods", airflow="default", reason="airflow-unknown") == 1
    parts.add("a")
    parts.make_pass(PassKind.FULL)
    parts.make_pass(PassKind.AUDIT)
    assert parts.cluster.deleted == ["a"], "the watch need not be back: a LIST is as good"


# --- leading and following --------------------------------------------------------------------------------------------


@pytest.fixture
def many() -> Iterator[Parts]:
    """One of several replicas, started; the Lease is held by another as long as a test does not change that."""
    made = Parts(leaderElection={"enabled": True, "retryPeriod": "20ms"}, interval="100ms")
    made.cluster.lease.by("another")
    made.add("a")
    made.controller.start()
    yield made
    made.controller.stop()


def airflows(parts: Parts) -> set[str]:
    """The names of the series about Airflows that are exposed."""
    lines = parts.controller._metrics.render()[0].decode().splitlines()
    return {line.partition("{")[0] for line in lines if 'airflow="' in line}


def test_a_follower_keeps_warm_is_healthy_and_asks_airflow_nothing(many: Parts) -> None:
    until(lambda: len(many.controller._store) == 1)
    calls = many.cluster.lease.calls
    until(lambda: many.cluster.lease.calls > calls + 5)
    assert (many.get("/healthz"), many.get("/readyz")) == (200, 200)
    assert many.controller.workers[0].reconciler is None
    assert many.cluster.deleted == []
    assert airflows(many) == set()
    assert many.metric("leader") == 0
    assert many.cluster.lists == ["airflow", "batch"], "the watch tells what changes"


def test_who_gains_the_lease_begins_anew_and_who_loses_it_forgets(many: Parts) -> None:
    until(lambda: len(many.controller._store) == 1)
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a"])
    assert many.metric("leader") == 1
    assert "kpo_healer_deletions_total" in airflows(many)
    term, reconciler = many.controller._leadership.term, many.worker.reconciler
    many.cluster.lease.by("another")
    until(lambda: many.controller.workers[0].reconciler is None)
    assert airflows(many) == set()
    many.cluster.lists.clear()
    many.add("b")
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a", "b"])
    assert many.controller._leadership.term == term + 1
    assert many.worker.reconciler is not reconciler
    assert many.cluster.lists[:2] == ["airflow", "batch"], "an audit at once"


def test_all_is_built_once_and_not_before_the_first_term(many: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: many.controller._resync.ready)
    built: list[str] = []

    class Counted(LiveAirflow):
        def __init__(self, config: Any, **more: Any) -> None:
            built.append(config.name)
            super().__init__(config, **more)

    monkeypatch.setattr(worker, "Airflow", Counted)
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a"])
    assert built == ["default"]


def test_a_leader_that_can_not_renew_stops_acting(many: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a"])
    many.cluster.lease.failure = AccessDeniedError("The healer may not renew its Lease.")
    now = boottime() + 11.0
    monkeypatch.setattr(many.controller._leadership, "_clock", lambda: now)
    many.add("b")
    until(lambda: many.controller.workers[0].reconciler is None)
    assert many.cluster.deleted == ["a"]
    assert many.get("/healthz") == 200


def test_a_stop_gives_the_lease_away_once_nothing_is_under_way(many: Parts) -> None:
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted)
    assert many.controller.stop() == 0
    assert many.cluster.lease.lease is not None
    assert many.cluster.lease.lease.holder == ""


def test_a_stop_keeps_the_lease_while_a_delete_is_under_way(many: Parts) -> None:
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted)
    many.cluster.is_settled = False
    many.controller.stop()
    assert many.cluster.lease.lease is not None
    assert many.cluster.lease.lease.holder != "", "it runs out by itself"


def test_a_release_on_the_lease_wakes_the_leader(many: Parts) -> None:
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted)
    lease = many.cluster.lease.lease
    assert lease is not None
    assert not many.worker._shared.is_overridden("default")
    many.cluster.lease.annotations = with_override(lease.annotations, "default", time.time())[0]
    until(lambda: many.worker._shared.is_overridden("default"))
    assert not many.worker._shared.is_overridden("other")


def test_an_elector_that_makes_no_steps_is_not_healthy(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Parts(leaderElection={})
    assert many.controller._is_healthy()[0]
    monkeypatch.setattr(many.controller._election_heartbeat, "_patience", -1.0)
    good, why = many.controller._is_healthy()
    assert not good
    assert why.startswith("leader election: ")
    monkeypatch.setattr(parts.controller._election_heartbeat, "_patience", -1.0)
    assert parts.controller._is_healthy()[0], "a sole replica has none"


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("get", "may not read a Pod by its name"),
        ("watch", "may not watch Pods here"),
        ("delete", "may not delete Pods here"),
    ],
)
def test_what_will_be_missed_is_said_at_the_start(
    parts: Parts, verb: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.cluster.denied = {(verb, "batch")}
    parts.worker._log_missing_rights(parts.worker.config.namespaces)
    out = capsys.readouterr().out
    assert out.count(said) == out.count("may not") == 1
    assert "namespace=batch" in out
    assert f"kubectl create role kpo-healer-{verb}-pods" in out


def test_report_mode_needs_no_right_to_delete(capsys: pytest.CaptureFixture[str]) -> None:
    parts = Parts(airflow={"mode": "report"})
    parts.cluster.denied = {("delete", "airflow"), ("delete", "batch")}
    parts.worker._log_missing_rights(parts.worker.config.namespaces)
    assert "may not" not in capsys.readouterr().out


# --- trouble ----------------------------------------------------------------------------------------------------------


def two_airflows() -> Parts:
    other = {"name": "other", "namespaces": ["batch"], "url": "http://b:1", "token": "t"}
    first = {"name": "default", "namespaces": ["airflow"], "url": "http://a:1", "token": "t", "policy": PROMPT}
    return Parts(airflows=[first, other])


def test_a_bug_with_one_airflow_does_not_stop_the_other_nor_keep_anybody_busy() -> None:
    parts = two_airflows()
    parts.add("a")
    parts.cluster.listings["batch"] = Listing([a_pod(uid="b", namespace="batch", created=1.0)], "1")
    parts.airflow.answer = RuntimeError("a bug")
    parts.make_pass(PassKind.AUDIT)
    first, other = parts.controller.workers
    assert first.reconciler is not None
    assert other.reconciler is not None
    assert [view.finding.reason.value for view in other.reconciler.findings()] == ["orphaned"]
    first.reconciler.next_event = lambda: 0.0  # type: ignore[method-assign]
    assert first.next_event() == float("inf")
    assert other.next_event() > time.monotonic()
    parts.airflow.answer = ORPHANED
    parts.make_pass(PassKind.AUDIT)
    assert first.next_event() == 0.0


def test_restarts_of_the_watch_are_counted(parts: Parts) -> None:
    parts.watch.restarts = 3
    parts.make_pass(PassKind.FULL)
    assert parts.metric("watch_restarts_total") == 3


# --- from start to end ------------------------------------------------------------------------------------------------


def test_it_serves_heals_and_stops(parts: Parts) -> None:
    parts.add("a")
    parts.controller.start()
    try:
        until(lambda: parts.cluster.deleted == ["a"])
        until(lambda: parts.get("/readyz") == 200)
        assert parts.get("/healthz") == 200
        assert parts.get("/metrics") == 200
    finally:
        code = parts.controller.stop()
    assert code == 0
    assert parts.watch.stopped
    assert parts.controller.failed_thread() == "Airflow default"


def test_a_signal_ends_it_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    started = threading.Event()
    monkeypatch.setattr(FakeWatch, "start", lambda _self, **_: started.set())

    def terminate() -> None:
        started.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert controller.run(a_config(), Connection()) == 0
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_death_of_an_airflows_thread_ends_it_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Worker, "run_leader", die)
    assert controller.run(a_config(), Connection()) == 1


STEPS = [
    (Resync, "refresh"),
    (Resync, "unreadable"),
    (PodStore, "list_pods"),
    (Reconciler, "reconcile"),
    (Reconciler, "snapshot"),
    (Reachability, "pass_done"),
    (FindingsEndpoint, "publish"),
    (Metrics, "watch_restarts"),
    (Worker, "on_started_leading"),
    (Worker, "_log_missing_rights"),
    (Worker, "_log_audit"),
    (Worker, "_try_login"),
]
"""All that a pass does, each of which may have a bug."""


@pytest.mark.parametrize(("kind", "step"), STEPS, ids=lambda each: getattr(each, "__name__", each))
def test_a_bug_in_any_step_of_a_pass_ends_neither_the_thread_nor_the_process(
    kind: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, fails = Parts(interval="1s", auditInterval="1s", findings=True), threading.Event()

    def fail(*_: Any, **__: Any) -> None:
        fails.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(kind, step, fail)
        parts.worker.reconciler = None
        parts.controller.start()
        until(fails.is_set)
    parts.add("a")
    parts.controller._on_relist("airflow")
    until(lambda: parts.cluster.deleted == ["a"])
    assert parts.controller.failed_thread() is None
    assert parts.controller.stop() == 0


@pytest.mark.parametrize("step", [(Resync, "refresh"), (Metrics, "watch_restarts")], ids=lambda each: each[1])
def test_nor_does_one_while_another_replica_leads(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(*step, fail)
    parts = Parts()
    assert parts.worker._run_follower() == parts.controller._config.interval


@pytest.mark.parametrize(
    ("part", "name"),
    [("_informer", "watch"), ("_recorder", "Events"), ("_http", "HTTP"), ("_election_loop", "leader election")],
)
def test_the_death_of_any_other_thread_ends_it_too(
    part: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Controller.start

    def start(self: Controller) -> None:
        real(self)
        asked = "supervised" if part == "_informer" else "alive"
        monkeypatch.setattr(getattr(self, part), asked, lambda: False)

    monkeypatch.setattr(Controller, "start", start)
    assert controller.run(a_config(leaderElection={}), Connection()) == 1
    said = " ".join(capsys.readouterr().out.replace("'", "").split())
    assert f"a thread has died: the process ends thread={name}" in said


def test_it_does_not_wait_for_an_answer_that_hangs(
    parts: Parts, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "STOP_TIMEOUT", 0.1)
    parts.add("a")
    parts.airflow.free.clear()
    parts.controller.start()
    try:
        assert parts.airflow.asked.wait(PATIENCE)
        assert parts.controller.stop() == 0
        assert exits == [0]
    finally:
        parts.airflow.free.set()
    parts.worker.thread.join(PATIENCE)
    assert parts.cluster.deleted == [], "nothing is deleted after the stop"


def test_no_part_can_hold_up_the_stop(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "STOP_TIMEOUT", 0.1)
    hang = threading.Event()
    monkeypatch.setattr(parts.watch, "stop", lambda: hang.wait(PATIENCE))
    parts.controller.start()
    try:
        assert parts.controller.stop() == 0
    finally:
        hang.set()


def test_all_parts_together_get_less_than_five_seconds() -> None:
    assert controller.STOP_TIMEOUT + 0.5 < 5
    assert controller.EVENT_DRAIN_TIMEOUT <= controller.STOP_TIMEOUT
