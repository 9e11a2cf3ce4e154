"""`kpo-healer delete` as somebody calls it: what it asks, what it says, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from healer.deletion.decision_record import parse_line
from healer.deletion.replay import replay
from tests.unit.cli_world import (
    GIVEN_AWAY,
    Answer,
    Script,
    Seen,
    World,
    answer,
    good_airflow,
    kpo_healer,
    kubernetes,
    with_row,
    world,
)
from tests.unit.cluster_server import page, raw_pod

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_logging")]

LOST = partial(with_row, {"end_date": None})
"""An Airflow that has lost when the task instance ended, so that no Pod postdates it."""


def test_yes_deletes_it_and_says_so(tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys) as made:
        outcome = made.run("delete", "a/p", "--yes")
        assert outcome.code == 0
        assert "Pod a/p\n" in outcome.out
        assert "orphaned: task instance is failed at try 1" in outcome.out
        assert outcome.out.endswith("a/p is deleted: it was orphaned.\n")
        (sent,) = [seen.body for seen in made.cluster.seen if seen.method == "DELETE"]
        assert sent["preconditions"] == {"uid": "uid-p", "resourceVersion": "7"}


def test_the_decision_is_written_down_and_can_be_judged_again(good: World) -> None:
    lines = [json.loads(line) for line in good.run("delete", "a/p", "--yes").err.splitlines()]
    assert [(line["message"], line["by"]) for line in lines] == [("decision", "command"), ("delete", "command")]
    record = parse_line(json.dumps(lines[0]))
    assert record is not None
    assert record.by == "command"
    assert replay(record).agrees


def test_other_log_lines_are_as_quiet_as_with_any_command(good: World) -> None:
    assert good.run("delete", "a/p", "--yes", "--log-level", "error").err == ""


def test_as_json(good: World) -> None:
    outcome = good.run("delete", "a/p", "--yes", "-o", "json")
    told = json.loads(outcome.out)
    assert (told["deleted"], told["said"]) == (True, "a/p is deleted: it was orphaned")
    assert told["finding"]["reason"] == "orphaned"
    assert "Pod a/p" in outcome.err


def test_without_a_terminal_it_wants_yes(good: World) -> None:
    outcome = good.run("delete", "a/p")
    assert (outcome.code, outcome.out) == (2, "")
    assert "there is no terminal to ask on: look with kpo-healer explain, then give --yes" in outcome.err
    assert good.cluster.seen == [], "nobody was asked anything"


def refused(made: World, *words: str, **settings: Any) -> tuple[int, str]:
    """Return with which code and sentence it is not deleted."""
    outcome = made.run("delete", "a/p", "--yes", *words, config=made.config(**settings))
    assert made.deletions == 0 or outcome.code == 3
    assert outcome.out == "" or outcome.code == 3
    return outcome.code, " ".join(outcome.err.split())


def test_a_configuration_that_reports_refuses(good: World) -> None:
    assert refused(good, mode="report")[0] == 1
    code, said = refused(good, "--mode", "report")
    assert code == 1
    assert "error: a/p is not deleted: Airflow prod is in report mode" in said


def test_what_a_rule_keeps_is_refused_with_1(tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys, partial(with_row, {"state": "running", "end_date": None})) as made:
        code, said = refused(made)
        assert code == 1
        assert "error: a/p is not deleted: it is kept as in-use: " in said
        assert "mark the task instance failed or success there" in said


@pytest.mark.parametrize(
    ("airflow", "code", "says"),
    [
        (lambda _seen: Answer(500, {"detail": "no"}), 3, "kpo-healer check says what is wrong"),
        (lambda _seen: Answer(reset=True), 3, "kpo-healer check says what is wrong"),
        (lambda seen: answer(401, {"detail": "no"}) if "token" in seen.path else good_airflow(seen), 2, "login"),
    ],
)
def test_an_airflow_that_does_not_answer(airflow: Script, code: int, says: str, tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys, airflow) as made:
        outcome = made.run("delete", "a/p", "--yes")
        assert (outcome.code, made.deletions) == (code, 0)
        assert says in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, 3, "grant the healer the verb delete on pods in namespace a"),
        (422, 3, "by an admission policy"),
        (409, 3, "changed since it was judged"),
        (404, 0, "a/p is gone already, and not by this command"),
        (500, 3, "was answered with 500"),
    ],
)
def test_what_the_api_server_answers_is_told(status: int, code: int, says: str, tmp_path: Path, capsys: Any) -> None:
    def script(seen: Seen) -> Answer:
        if seen.method == "DELETE":
            return answer(status, {"kind": "Status", "message": "no"})
        return kubernetes(seen)

    with world(tmp_path, capsys, LOST, script) as made:
        outcome = made.run("delete", "a/p", "--yes")
        assert (outcome.code, says in " ".join(f"{outcome.out} {outcome.err}".split())) == (code, True), outcome
        assert made.deletions == (2 if status == 409 else 1), "a 409 is judged anew once, all else is sent once"


@pytest.mark.parametrize(
    ("pod", "code", "says"),
    [
        ("a/missing", 2, "there is no Pod a/missing"),
        ("elsewhere/p", 2, "belongs to no Airflow"),
        ("a/b/c", 2, "write NAMESPACE/POD"),
        ("A_B", 2, "write NAMESPACE/POD"),
    ],
)
def test_a_pod_that_is_not_there(good: World, pod: str, code: int, says: str) -> None:
    outcome = good.run("delete", pod, "--yes")
    assert (outcome.code, outcome.out, good.deletions) == (code, "", 0)
    assert says in outcome.err


def test_the_namespace_may_be_left_away_where_there_is_but_one(good: World) -> None:
    outcome = good.run("delete", "p", "--yes", config=good.config(namespaces=["a", "b"]))
    assert (outcome.code, good.deletions) == (2, 0)
    assert "several namespaces are configured: write NAMESPACE/POD" in outcome.err
    assert good.run("delete", "p", "--yes").code == 0


def test_a_wait_that_is_no_duration(good: World) -> None:
    outcome = good.run("delete", "a/p", "--yes", "--wait", "soon")
    assert outcome.code == 2
    assert "--wait: " in outcome.err


def test_a_pod_that_is_not_due_is_told_when(good: World) -> None:
    code, said = refused(good, policy={"grace": "0s", "minAge": "50000h"})
    assert code == 1
    assert "it is orphaned and not due yet: it will be in " in said


# --- who leads --------------------------------------------------------------------------------------------------------


def led_by(holder: str | None, status: int, seen: Seen) -> Answer:
    if "/leases" not in seen.path:
        return kubernetes(seen)
    if status != 200:
        return answer(status, {"kind": "Status", "message": "no"})
    return answer(200, GIVEN_AWAY | {"spec": {**GIVEN_AWAY["spec"], "holderIdentity": holder}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("holder", "status", "says"),
    [
        ("healer-7d9", 200, "healer-7d9, as the Lease says; this command acts beside it"),
        (None, 200, "nobody holds the Lease kpo-healer now"),
        (None, 404, "nobody holds the Lease kpo-healer now"),
        (None, 403, "not known, so no override of the breaker either: "),
    ],
)
def test_it_acts_beside_whoever_leads_and_writes_no_lease(
    holder: str | None, status: int, says: str, tmp_path: Path, capsys: Any
) -> None:
    with world(tmp_path, capsys, cluster=partial(led_by, holder, status)) as made:
        outcome = made.run("delete", "a/p", "--yes")
        assert (outcome.code, made.deletions) == (0, 1)
        assert says in " ".join(outcome.out.split())
        assert [seen.method for seen in made.cluster.seen if "/leases" in seen.path] == ["GET"]


# --- the question -----------------------------------------------------------------------------------------------------


def on_a_terminal(made: World, typed: str, *words: str) -> tuple[int, str]:
    """Type an answer once the question stands there. Return the exit code and what stood on the terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "healer", "delete", "a/p", "--config", str(made.config()), *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("KPO_")}
    process = subprocess.Popen(
        [*command, "--kubeconfig", str(made.folder / "kubeconfig")], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    said, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            said += os.read(ours, 1 << 16)
        except OSError:  # how Linux tells the end of a terminal
            break
        if typed and b"[y/N]" in said:
            os.write(ours, typed.encode())
            typed = ""
    os.close(ours)
    return process.wait(60), said.decode()


@pytest.mark.parametrize(("typed", "code", "deletions"), [("y\n", 0, 1), ("\n", 1, 0), ("n\n", 1, 0), ("\x04", 130, 0)])
def test_the_question_is_answered_on_the_terminal(good: World, typed: str, code: int, deletions: int) -> None:
    ended, said = on_a_terminal(good, typed)
    told = " ".join(said.split())
    assert (ended, good.deletions) == (code, deletions), said
    assert told.index("reason orphaned") < told.index("Delete it? It is looked at again")
    assert ("the answer was no" in told) == (code == 1)


def test_on_a_terminal_yes_asks_nothing(good: World) -> None:
    code, said = on_a_terminal(good, "", "--yes")
    assert (code, good.deletions) == (0, 1)
    assert "Delete it?" not in said


def test_who_it_is_about_is_shown_escaped(tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys, partial(with_row, {"task_id": "t", "note": "\x1b[31m"})) as made:
        assert "\x1b" not in made.run("delete", "a/p", "--yes").out


def test_its_help_says_how(capsys: Any) -> None:
    outcome = kpo_healer(capsys, "delete", "--help")
    assert outcome.code == 0
    assert "--wait DURATION" in outcome.out
    assert "--freshness" in outcome.out
    assert "--listen" not in outcome.out


def test_it_deletes_no_other_pod(tmp_path: Path, capsys: Any) -> None:
    def script(seen: Seen) -> Answer:
        if seen.path.partition("?")[0].endswith("/namespaces/a/pods"):
            return answer(200, page(raw_pod(), raw_pod("q"), raw_pod("r")))
        return kubernetes(seen)

    with world(tmp_path, capsys, LOST, script) as made:
        assert made.run("delete", "a/p", "--yes", config=made.config(limits={"breaker": {"maxShare": 1}})).code == 0
        assert [seen.path for seen in made.cluster.seen if seen.method == "DELETE"] == ["/api/v1/namespaces/a/pods/p"]
