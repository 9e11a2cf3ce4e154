"""`kpo-healer history`: what a running healer has deleted, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from healer.insights.history import History
from healer.leader_election import AlwaysLeader
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.http_server import HttpServer, serve
from tests.unit.cli_world import Outcome, kpo_healer, undisturbed_logging
from tests.unit.insights.test_history import Clock, healed
from tests.unit.telemetry.test_serving import Figures

HOLDS = {"cpu_cores": 2.0, "memory_bytes": 4.0 * 2**30, "extended": {"nvidia.com/gpu": 1.0}, "since": None}


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    with undisturbed_logging():
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    made = History(clock)
    made.begin(1)
    clock.time += 3 * 86400
    made.record([healed("old", holds=HOLDS)])
    clock.time += 2 * 86400
    made.record([healed("new", dag="sales", holds=HOLDS), healed("other", airflow="other", holds=None)])
    return made


@pytest.fixture
def server(history: History) -> Iterator[HttpServer]:
    good = lambda: (True, "")  # noqa: E731
    pages = FindingsEndpoint(AlwaysLeader(), history=history).pages
    running = serve("127.0.0.1:0", Figures(), health=good, ready=good, more=pages)
    yield running
    running.stop()


Ask = pytest.CaptureFixture[str]


def told(capsys: Ask, server: HttpServer, *words: str) -> Outcome:
    return kpo_healer(capsys, "history", "--from", f"http://127.0.0.1:{server.port}", *words)


def test_the_table_has_the_newest_first_and_what_that_freed(capsys: Ask, server: HttpServer) -> None:
    outcome = told(capsys, server)
    lines = outcome.out.splitlines()
    assert (outcome.code, outcome.err) == (0, "")
    assert lines[0].split() == ["DELETED", "NAMESPACE", "POD", "REASON", "AIRFLOW", "TASK", "CAUSE", "DETAIL"]
    assert [line.split()[2] for line in lines[1:4]] == ["pod-other", "pod-new", "pod-old"]
    assert lines[2].startswith("2027-01-20T08:00:00Z  airflow    pod-new")
    assert "2 deletions freed 4 cores, 8 GiB, 2 GPUs" in lines
    assert lines[-1] == "Complete since 2027-01-15T08:00:00Z; see the metrics for what was before."


def test_json_is_what_the_page_serves(capsys: Ask, server: HttpServer, history: History) -> None:
    outcome = told(capsys, server, "-o", "json")
    assert json.loads(outcome.out) == [json.loads(entry) for entry in history.select()]


@pytest.mark.parametrize(
    ("words", "uids"),
    [
        (("--days", "1"), ["other", "new"]),
        (("--dag", "sales"), ["new"]),
        (("--airflow", "other"), ["other"]),
        (("--airflow", "other", "--dag", "sales"), []),
    ],
)
def test_it_is_narrowed(capsys: Ask, server: HttpServer, words: tuple[str, ...], uids: list[str]) -> None:
    assert [entry["uid"] for entry in json.loads(told(capsys, server, *words, "-o", "json").out)] == uids


def test_nothing_is_told_too(capsys: Ask, server: HttpServer) -> None:
    outcome = told(capsys, server, "--dag", "nobody's")
    assert (outcome.code, outcome.out.splitlines()[0]) == (0, "Nothing was deleted.")


@pytest.mark.parametrize("days", ["0", "15", "x", "-1"])
def test_other_days_are_refused(capsys: Ask, server: HttpServer, days: str) -> None:
    outcome = told(capsys, server, "--days", days)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_it_needs_to_know_which_healer(capsys: Ask) -> None:
    outcome = kpo_healer(capsys, "history")
    assert (outcome.code, "Give its URL with --from" in outcome.err) == (2, True)


def test_a_healer_that_keeps_none_says_how_to(capsys: Ask) -> None:
    good = lambda: (True, "")  # noqa: E731
    server = serve("127.0.0.1:0", Figures(), health=good, ready=good, more=FindingsEndpoint(AlwaysLeader()).pages)
    try:
        outcome = told(capsys, server)
    finally:
        server.stop()
    assert outcome.code == 3
    assert "history other than off" in outcome.err


def test_texts_of_others_steer_no_terminal(capsys: Ask, history: History, server: HttpServer) -> None:
    history.record([healed("evil", detail="\x1b[31m\u202e\nforged")])
    out = told(capsys, server).out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\nforged" not in out
