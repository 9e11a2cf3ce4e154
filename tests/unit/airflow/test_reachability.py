"""What is told of an Airflow that answers, is silent, refuses the login or lacks a right: in metrics and in the log."""

from __future__ import annotations

from typing import Any

import pytest

from healer.airflow import Airflow, Call
from healer.config import Config
from healer.errors import FailureScope, LoginRefusedError, NoAnswerError
from healer.telemetry.metrics import Metrics
from healer.telemetry.reachability import Reachability
from tests.unit import airflow_fake as af

CONFIG: Any = {"airflows": [{"name": "a", "namespaces": ["jobs"], "url": "http://h", "token": "t"}]}

GOOD = Call("list", "200", 0.1, authenticated=True)
VERSION = Call("version", "200", 0.1)
REFUSED = LoginRefusedError("login refused: http://h does not accept the password of u")
SILENT = NoAnswerError("http://h refuses the connection: check url", FailureScope.SERVER, "refused")
GATE = NoAnswerError("http://h answers 302, redirected to a login page", FailureScope.SERVER, "302")
RIGHT = NoAnswerError("http://h refuses u with 403: give its role can_read", FailureScope.CALL, "403", "right")
ROW = NoAnswerError("http://h answered 500", FailureScope.CALL, "500")


class Told:
    """A reachability, its metrics, and what the log has said since the last look."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.metrics = Metrics(Config.model_validate(CONFIG))
        self.reachability = Reachability("a", self.metrics, lambda: 1000.0)
        self._capsys = capsys

    def one_pass(self, *events: Call | NoAnswerError, audit: bool = False) -> list[str]:
        """Make a pass in which this happens. Return the lines of the log."""
        self._capsys.readouterr()
        for event in events:
            if isinstance(event, Call):
                self.reachability.observe(event)
            else:
                self.reachability.failed(event)
        self.reachability.pass_done(audit=audit)
        return self._capsys.readouterr().out.splitlines()

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"kpo_healer_airflow_{name}", {"airflow": "a"})

    @property
    def state(self) -> tuple[float | None, float | None]:
        return self.metric("up"), self.metric("login_ok")


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


TROUBLES = {
    "wrong password": (REFUSED, (0, 0), "Airflow refuses the login"),
    "nobody answers": (SILENT, (0, 1), "Airflow gives no answer that can be used"),
    "a gate in front": (GATE, (0, 1), "Airflow gives no answer that can be used"),
    "a right is missing": (RIGHT, (0, 1), "for lack of a right"),
    "every question fails": (ROW, (0, 1), "Airflow gives no answer that can be used"),
}


@pytest.mark.parametrize(("failure", "state", "line"), TROUBLES.values(), ids=TROUBLES.keys())
@pytest.mark.parametrize("before", [False, True], ids=["at the start", "later"])
def test_each_trouble_is_told_once_with_the_sentence_of_check(
    told: Told, failure: NoAnswerError, state: tuple[int, int], line: str, before: bool
) -> None:
    if before:
        assert "Airflow answers" in told.one_pass(VERSION, GOOD)[0]
        assert told.state == (1, 1)
    (said,) = told.one_pass(VERSION, failure, failure)
    assert line in said
    assert str(failure) in said
    assert told.state == state
    for _ in range(3):
        assert told.one_pass(VERSION, failure) == []
    (said,) = told.one_pass(VERSION, GOOD, audit=True)
    assert "Airflow answers again" in said
    assert told.state == (1, 1)
    assert told.one_pass(GOOD) == []


def test_the_version_is_no_success(told: Told) -> None:
    told.one_pass(VERSION)
    assert told.state == (0, 1)
    assert told.metric("last_success_timestamp_seconds") == 0
    told.one_pass(GOOD)
    assert told.metric("last_success_timestamp_seconds") == 1000


def test_a_row_that_makes_a_question_fail_is_not_the_airflow(told: Told) -> None:
    told.one_pass(GOOD)
    assert told.one_pass(GOOD, ROW) == []
    assert told.state == (1, 1)


def test_an_end_in_the_middle_of_a_pass_is_told_in_this_pass(told: Told) -> None:
    told.one_pass(GOOD)
    (said,) = told.one_pass(GOOD, REFUSED)
    assert "refuses the login" in said
    assert told.state == (0, 0)


def test_a_quick_recovery_in_the_same_pass_is_nothing(told: Told) -> None:
    told.one_pass(GOOD)
    assert told.one_pass(SILENT, GOOD) == []
    assert told.state == (1, 1)


def test_another_trouble_is_told_too_and_alternating_ones_once_each(told: Told) -> None:
    assert len(told.one_pass(SILENT)) == 1
    assert len(told.one_pass(REFUSED)) == 1
    for _ in range(3):
        assert told.one_pass(SILENT) == []
        assert told.one_pass(REFUSED) == []


def test_a_right_that_lacks_for_some_pods_is_told_until_an_audit_misses_nothing(told: Told) -> None:
    told.one_pass(GOOD)
    (said,) = told.one_pass(GOOD, RIGHT)
    assert "lack of a right" in said
    assert told.metric("login_ok") == 1
    assert told.one_pass(GOOD) == [], "a pass that did not ask the question tells nothing"
    assert told.one_pass(GOOD, RIGHT) == []
    assert "answers again" in told.one_pass(GOOD, audit=True)[0]


def test_a_pass_that_asks_nothing_changes_nothing(told: Told) -> None:
    told.one_pass(REFUSED)
    assert told.one_pass() == []
    assert told.state == (0, 0)


def test_the_client_marks_what_needed_the_login_and_tells_what_failed() -> None:
    with af.serving() as fake:
        calls: list[Call] = []
        failures: list[NoAnswerError] = []
        entry = {"name": "a", "namespaces": ["jobs"], "url": fake.url, "username": "h", "password": fake.password}
        fake.rows = [af.row()]
        (config,) = Config.model_validate({"airflows": [entry]}).airflows
        airflow = Airflow(config, observe=calls.append, failed=failures.append)
        airflow.get_all([af.pod()])
        by_call = {call.call: call.authenticated for call in calls}
        assert by_call.pop("version") is False
        assert by_call.pop("login") is False
        assert set(by_call.values()) == {True}
        assert failures == []
        (wrong,) = Config.model_validate({"airflows": [entry | {"password": "wrong"}]}).airflows
        calls.clear()
        Airflow(wrong, observe=calls.append, failed=failures.append).get_all([af.pod()])
        assert not any(call.authenticated for call in calls)
        assert isinstance(failures[-1], LoginRefusedError)
