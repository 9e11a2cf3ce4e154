"""A server that says how long it wants to be left alone is left alone for so long, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from healer.airflow import Airflow, Call
from healer.airflow.api import retry_after
from healer.airflow.api.retry_after import MAX_RETRY_AFTER
from healer.model import Known, Unknown
from tests.unit.airflow_fake import FakeAirflow, Reply, healer, pod, row, serving


class Clock:
    """Moved by the tests."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        server.rows = [row()]
        yield server


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry_after, "boottime", clock)
    return clock


def busy(status: int, retry_after: str) -> Reply:
    return Reply(status, {"detail": "slow down"}, {"Retry-After": retry_after})


def refused(fake: FakeAirflow, reply: Reply, calls: list[Call]) -> Airflow:
    """Let one list be answered with this; from then on the server answers well."""
    left = [reply]
    fake.intercept = lambda asked: left.pop() if asked.is_list and left else None
    airflow = healer(fake, calls)
    assert isinstance(ask(airflow), Unknown)
    calls.clear()
    return airflow


def ask(airflow: Airflow) -> Any:
    one = pod()
    return airflow.get_all([one])[one.uid]


@pytest.mark.parametrize("status", [429, 503])
def test_nothing_is_asked_before_retry_after_is_over(fake: FakeAirflow, clock: Clock, status: int) -> None:
    calls: list[Call] = []
    airflow = refused(fake, busy(status, "30"), calls)
    asked = len(fake.paths())
    clock.now += 29.9
    answer = ask(airflow)
    assert isinstance(answer, Unknown)
    assert f"answered {status}: slow down; it is asked again 30 s later" in answer.why
    assert airflow.login() == answer.why
    assert len(fake.paths()) == asked
    assert calls == [], "what was not asked is not counted"
    clock.now += 0.1
    assert isinstance(ask(airflow), Known)


def test_a_senseless_figure_is_bounded(fake: FakeAirflow, clock: Clock) -> None:
    airflow = refused(fake, busy(429, "1e9"), [])
    clock.now += MAX_RETRY_AFTER - 1
    assert isinstance(ask(airflow), Unknown)
    clock.now += 1
    assert isinstance(ask(airflow), Known)


def test_a_date_is_one_of_the_servers_own_clock(fake: FakeAirflow, clock: Clock) -> None:
    fake.clock = 1_000_000_000.0
    airflow = refused(fake, busy(429, formatdate(fake.clock + 20, usegmt=True)), [])
    clock.now += 19
    assert isinstance(ask(airflow), Unknown)
    clock.now += 1
    assert isinstance(ask(airflow), Known)


@pytest.mark.parametrize("nothing", ["0", "-5", "soon", "", "nan", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_what_asks_for_no_time_is_none(fake: FakeAirflow, clock: Clock, nothing: str) -> None:
    left = [busy(429, nothing)]
    fake.intercept = lambda asked: left.pop() if asked.is_list and left else None
    assert isinstance(ask(healer(fake)), Known), "it depends on the question: asked otherwise at once"


def test_an_error_of_the_server_itself_asks_for_nothing(fake: FakeAirflow, clock: Clock) -> None:
    left = [busy(500, "30")]
    fake.intercept = lambda asked: left.pop() if asked.is_list and left else None
    assert isinstance(ask(healer(fake)), Known), "asked otherwise at once"


def test_it_is_told_once_in_the_log(fake: FakeAirflow, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    airflow = refused(fake, busy(429, "30"), [])
    ask(airflow)
    assert capsys.readouterr().out.count("wants to be left alone") == 1
