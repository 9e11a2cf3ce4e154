"""The controller: its clockwork, its probes, what it lists when, and that it always comes to an end."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from msgspec import structs

from healer import controller
from healer.airflow import Call
from healer.clock import steady
from healer.clockwork import BETWEEN_PASSES, Pulse, Schedule
from healer.cluster import ClusterError, Connection, Lease, Listing, Outcome, Refused, Result, Unreachable
from healer.config import Config
from healer.controller import Controller
from healer.leader import released
from healer.reconcile import Depth
from tests.unit.fakes import NOT_KNOWN, ORPHANED, PROMPT, Clock
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
        self.lists: list[str] = []
        self.deleted: list[str] = []
        self.lease = LiveLease()
        self.denied: set[str] = set()
        self.is_settled = True

    def leases(self, *_: Any, **__: Any) -> LiveLease:
        return self.lease

    def settled(self, _timeout: float) -> bool:
        return self.is_settled

    def can_i(self, _verb: str, _resource: str, namespace: str) -> bool:
        return namespace not in self.denied

    def now(self) -> float:
        return time.time()

    def list_pods(self, namespace: str) -> Listing:
        self.lists.append(namespace)
        listing = self.listings[namespace]
        if isinstance(listing, Exception):
            raise listing
        assert isinstance(listing, Listing)
        return listing

    def delete_pod(self, pod: Any, proof: Any, right: Any) -> Outcome:
        if not right():
            return Outcome(Result.STALE, "no right")
        self.deleted.append(pod.uid)
        return Outcome(Result.DELETED, "deleted")

    def post_event(self, *_: Any, **__: Any) -> None:
        """Say nothing."""


class LiveAirflow:
    """Answers everything alike, or hangs until it is freed."""

    def __init__(self, _config: Any, *, observe: Callable[[Call], None]) -> None:
        self.observe = observe
        self.answer: Any = ORPHANED
        self.free, self.asked = threading.Event(), threading.Event()
        self.free.set()
        self.version: str | None = "3.3.2"

    def start_audit(self) -> None:
        """Forget nothing."""

    def forget(self, uids: Any) -> None:
        """Forget nothing."""

    def look(self, pods: Any) -> Any:
        self.asked.set()
        self.free.wait(PATIENCE)
        if isinstance(self.answer, Exception):
            raise self.answer
        from msgspec.structs import replace

        return {pod.uid: replace(self.answer, sent=time.monotonic()) for pod in pods}

    ask_each = ended_lately = look


class Parts:
    """A controller and the fakes it was built of."""

    def __init__(self, **config: Any) -> None:
        self.controller = Controller(a_config(**config), Connection())
        self.cluster: LiveCluster = self.controller._cluster  # type: ignore[assignment]
        self.watch: FakeWatch = self.controller._watch  # type: ignore[assignment]
        if self.controller._office.leads():
            self.controller._begin_term()

    @property
    def airflow(self) -> LiveAirflow:
        return self.controller._reconcilers[0]._airflow  # type: ignore[return-value]

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
    monkeypatch.setattr(controller, "Watch", FakeWatch)
    monkeypatch.setattr(controller, "Airflow", LiveAirflow)


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
    assert made == [(t, Depth.AUDIT if t in audits else Depth.FULL) for t in range(0, 420, 60)]


def test_a_due_time_is_met_between_two_passes_and_delays_none() -> None:
    schedule = Schedule(a_config(interval="60s"), 0.0)
    schedule.next(0.0)
    assert schedule.pause(0.0, 25.0) == 25
    assert schedule.next(25.0) is Depth.DUE
    assert schedule.pause(25.0, float("inf")) == 35
    assert schedule.next(60.0) is Depth.FULL


@pytest.mark.parametrize("event", [-1e9, 0.0, 100.0, 100.1])
def test_there_is_always_a_pause(event: float) -> None:
    schedule = Schedule(a_config(), 0.0)
    schedule.next(100.0)
    assert schedule.pause(100.0, event) == BETWEEN_PASSES


def test_an_audit_interval_below_the_interval_counts() -> None:
    schedule = Schedule(a_config(interval="10m", auditInterval="1m"), 0.0)
    schedule.next(0.0)
    assert schedule.pause(0.0, float("inf")) == 60
    assert schedule.next(60.0) is Depth.AUDIT


def test_a_pass_that_took_long_is_not_made_up_for() -> None:
    schedule = Schedule(a_config(interval="60s", auditInterval="1h"), 0.0)
    schedule.next(0.0)
    assert schedule.pause(300.0, float("inf")) == BETWEEN_PASSES
    assert schedule.next(300.5) is Depth.FULL
    assert schedule.pause(300.5, float("inf")) == 60


# --- the probes -------------------------------------------------------------------------------------------------------


def test_the_pulse_is_good_while_steps_are_made() -> None:
    clock = Clock()
    pulse = Pulse(180.0, clock)
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
    assert parts.controller._pulse._patience == patience


def test_every_request_that_ends_is_a_step_whatever_its_answer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr(parts.controller._pulse, "beat", lambda: beats.append(1))
    for code in ("200", "500", "timeout"):
        parts.airflow.observe(Call("look", code, 60.0, 0, 0))
    assert len(beats) == 3
    assert parts.metric("airflow_requests_total", airflow="default", call="look", code="timeout") == 1
    parts.cluster.observe("list", "200")
    assert len(beats) == 3, "what other threads ask for says nothing about the deciding one"
    decider = threading.Thread(target=parts.cluster.observe, args=("list", "200"), name=controller.DECIDER)
    decider.start()
    decider.join()
    assert len(beats) == 4


def test_only_good_answers_date_airflows_last_success(parts: Parts) -> None:
    parts.airflow.observe(Call("look", "500", 1.0, 0, 0))
    assert parts.metric("airflow_last_success_timestamp_seconds", airflow="default") == 0
    parts.airflow.observe(Call("look", "200", 1.0, 0, 0))
    assert parts.metric("airflow_last_success_timestamp_seconds", airflow="default") > 0  # type: ignore[operator]


def test_a_pass_with_an_airflow_that_is_down_is_a_step_and_one_that_fails_is_not(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []
    monkeypatch.setattr(parts.controller._pulse, "beat", lambda: beats.append(1))
    parts.add("a")
    parts.airflow.answer = NOT_KNOWN
    parts.controller._pass(Depth.AUDIT)
    assert len(beats) == 1
    parts.airflow.answer = RuntimeError("a bug")
    parts.controller._pass(Depth.AUDIT)
    assert len(beats) == 1


def test_it_is_ready_once_a_namespace_was_listed(parts: Parts) -> None:
    refused = Refused("no right")
    parts.cluster.listings = {"airflow": refused, "batch": refused}
    parts.controller._pass(Depth.AUDIT)
    assert not parts.controller._is_ready()[0]
    parts.cluster.listings["batch"] = Listing([], "1")
    parts.controller._pass(Depth.FULL)
    assert parts.controller._is_ready()[0]
    parts.cluster.listings["batch"] = refused
    parts.controller._pass(Depth.AUDIT)
    assert parts.controller._is_ready()[0], "once is enough: what fails later has its own metric"


# --- listings ---------------------------------------------------------------------------------------------------------


def lists_of(parts: Parts, depth: Depth) -> list[str]:
    parts.cluster.lists.clear()
    parts.controller._pass(depth)
    return parts.cluster.lists


def test_pods_are_listed_at_audits_only(parts: Parts) -> None:
    assert lists_of(parts, Depth.AUDIT) == ["airflow", "batch"]
    assert lists_of(parts, Depth.FULL) == []
    assert lists_of(parts, Depth.DUE) == []


def test_a_watch_that_began_anew_has_its_namespace_listed_once(parts: Parts) -> None:
    parts.controller._pass(Depth.AUDIT)
    parts.watch.on_list("airflow")
    parts.watch.on_list("airflow")
    assert lists_of(parts, Depth.DUE) == ["airflow"]
    assert lists_of(parts, Depth.FULL) == []


def test_a_namespace_that_can_not_be_read_is_tried_in_every_full_pass(parts: Parts) -> None:
    parts.add("a")
    good = parts.cluster.listings["airflow"]
    parts.cluster.listings["airflow"] = Refused("no right")
    parts.controller._pass(Depth.AUDIT)
    assert parts.metric("namespace_readable", namespace="airflow") == 0
    assert parts.metric("namespace_readable", namespace="batch") == 1
    assert lists_of(parts, Depth.DUE) == []
    assert lists_of(parts, Depth.FULL) == ["airflow"]
    parts.cluster.listings["airflow"] = good
    assert lists_of(parts, Depth.FULL) == ["airflow"]
    assert parts.metric("namespace_readable", namespace="airflow") == 1
    assert lists_of(parts, Depth.FULL) == []


def test_pods_of_a_namespace_that_can_not_be_read_any_more_are_not_deleted(parts: Parts) -> None:
    parts.add("a")
    parts.airflow.answer = NOT_KNOWN
    parts.controller._pass(Depth.AUDIT)
    parts.airflow.answer = ORPHANED
    parts.cluster.listings["airflow"] = Refused("no right")
    parts.controller._pass(Depth.AUDIT)
    assert parts.cluster.deleted == []
    parts.add("a")
    parts.controller._pass(Depth.AUDIT)
    assert parts.cluster.deleted == ["a"]


def test_a_namespace_that_is_not_watched_is_listed_in_every_full_pass(parts: Parts) -> None:
    parts.controller._pass(Depth.AUDIT)
    parts.watch.blind = {"airflow"}
    assert lists_of(parts, Depth.DUE) == []
    assert lists_of(parts, Depth.FULL) == ["airflow"]
    parts.watch.blind = set()
    assert lists_of(parts, Depth.FULL) == []


def test_nothing_is_decided_on_a_picture_that_got_stale(parts: Parts) -> None:
    """The watch is down, and so is the API server: what Airflow says of Pods as they were once is no reason."""
    parts.add("a")
    parts.airflow.answer = NOT_KNOWN
    parts.controller._pass(Depth.AUDIT)
    parts.airflow.answer = ORPHANED
    parts.watch.blind = {"airflow"}
    parts.cluster.listings["airflow"] = Unreachable("no answer")
    parts.controller._pass(Depth.FULL)
    assert parts.cluster.deleted == []
    assert parts.metric("namespace_readable", namespace="airflow") == 0
    assert parts.metric("pods", airflow="default", reason="airflow-unknown") == 1
    parts.add("a")
    parts.controller._pass(Depth.FULL)
    parts.controller._pass(Depth.AUDIT)
    assert parts.cluster.deleted == ["a"], "the watch need not be back: a LIST is as good"


# --- leading and following --------------------------------------------------------------------------------------------


@pytest.fixture
def many() -> Iterator[Parts]:
    """One of several replicas, started; the Lease is held by another as long as a test does not change that."""
    made = Parts(leaderElection={"retryPeriod": "20ms"}, interval="100ms")
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
    assert many.controller._reconcilers == []
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
    term, reconcilers = many.controller._office.term, many.controller._reconcilers
    many.cluster.lease.by("another")
    until(lambda: many.controller._reconcilers == [])
    assert airflows(many) == set()
    many.cluster.lists.clear()
    many.add("b")
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a", "b"])
    assert many.controller._office.term == term + 1
    assert many.controller._reconcilers[0] is not reconcilers[0]
    assert many.cluster.lists[:2] == ["airflow", "batch"], "an audit at once"


def test_all_is_built_once_and_not_before_the_first_term(many: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: many.controller._ready)
    built: list[str] = []

    class Counted(LiveAirflow):
        def __init__(self, config: Any, **more: Any) -> None:
            built.append(config.name)
            super().__init__(config, **more)

    monkeypatch.setattr(controller, "Airflow", Counted)
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a"])
    assert built == ["default"]


def test_a_leader_that_can_not_renew_stops_acting(many: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    many.cluster.lease.by("")
    until(lambda: many.cluster.deleted == ["a"])
    many.cluster.lease.failure = Refused("The healer may not renew its Lease.")
    now = steady() + 11.0
    monkeypatch.setattr(many.controller._office, "_clock", lambda: now)
    many.add("b")
    until(lambda: many.controller._reconcilers == [])
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
    assert not many.controller._is_lifted("default")
    many.cluster.lease.annotations = released(lease, "default", time.time())[0].annotations
    until(lambda: many.controller._is_lifted("default"))
    assert not many.controller._is_lifted("other")


def test_an_elector_that_makes_no_steps_is_not_healthy(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Parts(leaderElection={})
    assert many.controller._is_healthy()[0]
    monkeypatch.setattr(many.controller._elector_pulse, "_patience", -1.0)
    good, why = many.controller._is_healthy()
    assert not good
    assert why.startswith("leader election: ")
    monkeypatch.setattr(parts.controller._elector_pulse, "_patience", -1.0)
    assert parts.controller._is_healthy()[0], "a sole replica has none"


def test_what_enforce_mode_will_fail_at_is_said_at_the_start(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    parts.cluster.denied = {"batch"}
    parts.controller._tell_missing_rights()
    out = capsys.readouterr().out
    assert out.count("may not delete Pods here") == 1
    assert "namespace=batch" in out
    assert "kubectl create role" in out


def test_report_mode_needs_no_right_to_delete(capsys: pytest.CaptureFixture[str]) -> None:
    parts = Parts(airflow={"mode": "report"})
    parts.cluster.denied = {"airflow", "batch"}
    parts.controller._tell_missing_rights()
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
    parts.controller._pass(Depth.AUDIT)
    other = parts.controller._reconcilers[1]
    assert [shown.finding.reason.value for shown in other.shown()] == ["orphaned"]
    parts.controller._reconcilers[0].next_event = lambda: 0.0  # type: ignore[method-assign]
    assert parts.controller._next_event() == other.next_event() > time.monotonic()
    parts.airflow.answer = ORPHANED
    parts.controller._pass(Depth.AUDIT)
    assert parts.controller._next_event() == 0.0


def test_restarts_of_the_watch_are_counted(parts: Parts) -> None:
    parts.watch.restarts = 3
    parts.controller._pass(Depth.FULL)
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
    assert parts.controller.dead() == "deciding"


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


def test_the_death_of_the_deciding_thread_ends_it_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Controller, "_resync", die)
    assert controller.run(a_config(), Connection()) == 1


@pytest.mark.parametrize(
    ("part", "name"),
    [("_watch", "watch"), ("_herald", "Events"), ("_http", "HTTP"), ("_campaign", "leader election")],
)
def test_the_death_of_any_other_thread_ends_it_too(
    part: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Controller.start

    def start(self: Controller) -> None:
        real(self)
        asked = "supervised" if part == "_watch" else "alive"
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
    parts.controller._decider.join(PATIENCE)
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
    assert controller.LAST_WORDS <= controller.STOP_TIMEOUT
