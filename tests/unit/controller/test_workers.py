"""Airflows don't wait for each other: one hangs, one is dead, one is slow, one is well, over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from healer import controller
from healer.cluster import Connection, Listing
from healer.config import Config
from healer.controller import Controller
from healer.model import Container, rfc3339
from tests.lab.processes import free_ports
from tests.unit import airflow_fake as af
from tests.unit.controller.test_controller import FakeWatch, LiveCluster
from tests.unit.fakes import PROMPT

PATIENCE = 60.0
SLOW = 3.0
"""Seconds that the slow one takes for each answer."""

NAMES = ("hangs", "dead", "slow", "well")


class Four:
    """A controller over four Airflows, each with one orphan of its own in a namespace of its own."""

    def __init__(self, stack: ExitStack, **config: Any) -> None:
        self.free = threading.Event()
        stack.callback(self.free.set)
        (port,) = free_ports(1)
        self.fakes = {name: stack.enter_context(af.serving()) for name in NAMES if name != "dead"}
        urls = {name: fake.url for name, fake in self.fakes.items()} | {"dead": f"http://127.0.0.1:{port}"}
        for name, fake in self.fakes.items():
            times = {"start_date": rfc3339(time.time() - 1001), "end_date": rfc3339(time.time() - 500)}
            fake.rows = [af.row(state="failed", rendered_fields={"namespace": name}, **times)]
        self.fakes["hangs"].intercept = lambda _asked: (self.free.wait(PATIENCE), None)[1]
        self.fakes["slow"].intercept = lambda _asked: (self.free.wait(SLOW), None)[1]
        airflows = [
            {
                "name": name,
                "namespaces": [name],
                "url": urls[name],
                "username": "h",
                "password": next(iter(self.fakes.values())).password,
                "ownership": "exclusive",
                "mode": "enforce",
                "timeout": "60s",
                "policy": PROMPT,
                "limits": {"breaker": {"maxShare": 1}},
            }
            for name in NAMES
        ]
        base = {"listen": "127.0.0.1:0", "interval": "200ms", "leaderElection": {"enabled": False}}
        self.controller = Controller(Config.model_validate({**base, "airflows": airflows, **config}), Connection())
        self.cluster: LiveCluster = self.controller._cluster  # type: ignore[assignment]
        self.cluster.listings = {name: Listing([self.orphan(name)], "1") for name in NAMES}

    @staticmethod
    def orphan(name: str, uid: str | None = None) -> Any:
        created = time.time() - 1000
        return af.pod(uid=uid or name, namespace=name, created=created, containers=(Container("base"),))

    def metric(self, name: str, airflow: str) -> float | None:
        return self.controller._metrics.registry.get_sample_value(f"kpo_healer_{name}", {"airflow": airflow})


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience, "it never came true"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Iterator[Four]:
    monkeypatch.setattr(controller, "Cluster", LiveCluster)
    monkeypatch.setattr(controller, "Informer", FakeWatch)
    monkeypatch.setattr(controller, "_exit_now", lambda _code: None)
    with ExitStack() as stack:
        made = Four(stack)
        stack.callback(made.controller.stop)
        made.controller.start()
        yield made


def test_the_well_one_heals_while_others_hang_are_dead_or_slow(four: Four) -> None:
    until(lambda: "well" in four.cluster.deleted)
    assert "slow" not in four.cluster.deleted, "it did not wait for the slow one either"
    passes = four.metric("pass_duration_seconds_count", "well") or 0
    until(lambda: (four.metric("pass_duration_seconds_count", "well") or 0) >= passes + 10)
    assert four.metric("pass_duration_seconds_count", "hangs") == 0
    until(lambda: "slow" in four.cluster.deleted)
    assert sorted(four.cluster.deleted) == ["slow", "well"]
    assert [four.metric("airflow_up", name) for name in ("well", "dead")] == [1, 0]


def test_there_is_one_thread_of_passes_per_airflow_and_no_more_come(four: Four) -> None:
    until(lambda: "well" in four.cluster.deleted)

    def ours() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("airflow-"))

    assert ours() == sorted(f"airflow-{name}" for name in NAMES)
    count = threading.active_count()
    passes = four.metric("pass_duration_seconds_count", "well") or 0
    until(lambda: (four.metric("pass_duration_seconds_count", "well") or 0) >= passes + 20)
    assert ours() == sorted(f"airflow-{name}" for name in NAMES)
    assert threading.active_count() <= count + 2, "the pages of the HTTP server may have begun"


def test_one_that_hangs_is_told_and_is_no_reason_to_restart(
    four: Four, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until(lambda: "well" in four.cluster.deleted)
    hanging = next(worker for worker in four.controller.workers if worker.name == "hangs")
    monkeypatch.setattr(hanging.heartbeat, "_patience", -1.0)
    healthy, why = four.controller._is_healthy()
    assert healthy
    assert "Airflow hangs: the last step ended" in why
    four.controller.hanging()
    assert capsys.readouterr().out.count("a pass hangs") == 1, "once, not at each look"
    for worker in four.controller.workers:
        monkeypatch.setattr(worker.heartbeat, "_patience", -1.0)
    assert not four.controller._is_healthy()[0], "nobody makes steps: a restart may help"


def test_a_dead_thread_is_a_reason_to_restart(four: Four, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: "well" in four.cluster.deleted)
    monkeypatch.setattr(four.controller.workers[3], "died", lambda: True)
    assert four.controller._is_healthy() == (False, "the thread of Airflow well has died")


def test_a_stop_takes_no_longer_while_one_hangs(four: Four) -> None:
    until(lambda: "well" in four.cluster.deleted)
    began = time.monotonic()
    assert four.controller.stop() == 0
    assert time.monotonic() - began < controller.STOP_TIMEOUT + 1.0
    four.free.set()
    for worker in four.controller.workers:
        worker.thread.join(PATIENCE)
    assert "hangs" not in four.cluster.deleted, "nothing is deleted after the stop"


def test_a_pass_that_outlives_its_term_has_no_right_in_the_next(four: Four) -> None:
    until(lambda: "well" in four.cluster.deleted)
    well = four.controller.workers[3]
    assert well._leadership_check(1)()
    assert not well._leadership_check(0)()
