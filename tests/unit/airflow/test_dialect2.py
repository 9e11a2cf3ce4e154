"""The second dialect, on what real Airflow 2 servers have answered and on answers that are not quite like it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from healer.airflow.api import dialect2, dialect3
from healer.airflow.api import dialect2 as two
from healer.airflow.api.dialect import XCom
from healer.airflow.api.dialects import version_of
from healer.airflow.api.pod_names import Value
from healer.airflow.api.reply import Problem
from healer.airflow.api.schema import Ids
from healer.model import TaskInstance
from tests.unit.recorded import QUESTIONS, RUN, SECRET, VERSIONS, Answer, answers, cell

BOTH = pytest.mark.parametrize("version", VERSIONS)
NONE = ["no task", "no index", "is mapped", "no run", "no DAG", "no tasks", "no XCom", "no run to note on"]
REFUSED = ["no right", "no right to note", "no login", "another DAG in the list", "bad filter"]


def value(version: str, name: str) -> Any:
    answer = answers(version)[name]
    assert answer.status == 200
    return QUESTIONS[name][1].decode(answer.body.encode())


def is_none(name: str, answer: Answer) -> bool:
    return QUESTIONS[name][1].missing(answer.status, two.problem(answer.body.encode(), answer.type))


def row(version: str, name: str = "failed") -> dict[str, Any]:
    return dict(json.loads(answers(version)[name].body))


# Answers


@BOTH
def test_lists_of_ids(version: str) -> None:
    assert value(version, "version") == version
    assert value(version, "dags").ids == ("_kpo.signs-", "a")
    assert value(version, "runs") == Ids((RUN,), 1)
    assert set(value(version, "tasks").ids) == {"run", "later", "failed", "cleared", "skipped", "m"}
    assert sorted(value(version, "tasks of a run").ids).count("m") == 3
    assert value(version, "may list")
    assert (value(version, "dag"), value(version, "run")) == ("a", RUN)


@BOTH
@pytest.mark.parametrize(
    ("name", "task", "index", "state", "ended"),
    [
        ("running", "run", -1, "running", False),
        ("deferred", "later", -1, "deferred", False),
        ("failed", "failed", -1, "failed", True),
        ("cleared", "cleared", -1, None, False),
        ("skipped", "skipped", -1, "skipped", False),
        ("mapped", "m", 1, "success", True),
    ],
)
def test_a_row(version: str, name: str, task: str, index: int, state: str | None, ended: bool) -> None:
    found: TaskInstance = value(version, name)
    assert (found.dag_id, found.run_id, found.task_id, found.map_index) == ("a", RUN, task, index)
    assert (found.state, found.operator, found.namespace) == (state, "KubernetesPodOperator", "airflow")
    assert found.try_number == (2 if name == "failed" else 1)
    assert (found.end_date is not None) == ended
    assert found.id is not None


@BOTH
def test_a_list(version: str) -> None:
    page = value(version, "list")
    assert (len(page), page.total, page.malformed) == (5, 5, 0)
    assert value(version, "failed") in page.rows
    body = QUESTIONS["list"][1].request.body or {}
    assert set(body) == {"dag_ids", "dag_run_ids", "task_ids", "page_limit"}


@BOTH
def test_an_xcom(version: str) -> None:
    found: XCom = value(version, "xcom")
    assert (found.value.text, found.pushed > value(version, "running").start_date) == ("pod-run", True)
    assert value(version, "xcom of a mapped task").value.text == "pod-1"
    for name, other in (("xcom", "xcom of a mapped task"), ("xcom of a mapped task", "xcom")):
        with pytest.raises(msgspec.ValidationError, match="another task instance"):
            QUESTIONS[name][1].decode(answers(version)[other].body.encode())


@BOTH
def test_a_note(version: str) -> None:
    assert value(version, "note") is None


# What is not there


@BOTH
@pytest.mark.parametrize("name", NONE)
def test_airflow_says_that_there_is_none(version: str, name: str) -> None:
    assert answers(version)[name].status == 404
    assert is_none(name, answers(version)[name])


@BOTH
def test_each_word_is_for_its_own_question_only(version: str) -> None:
    told = answers(version)
    found = {name: {other for other in NONE + REFUSED if is_none(name, told[other])} for name in NONE}
    # Where a word repeats no id it can't be told from which question it came.
    task = {"no task", "no index"}
    assert found == {
        "no task": {*task, "is mapped"},
        "no index": task,
        "is mapped": {*task, "is mapped"},
        "no run": {"no run"},
        "no DAG": {"no DAG"},
        "no tasks": {"no tasks"},
        "no XCom": {"no XCom"},
        "no run to note on": {"no run to note on"},
    }


@BOTH
@pytest.mark.parametrize("name", NONE)
def test_what_is_not_quite_that_proves_nothing(version: str, name: str) -> None:
    real = answers(version)[name]
    said = json.loads(real.body)
    replace = msgspec.structs.replace
    spoilt = [
        replace(real, type="text/html"),
        replace(real, type="application/json"),
        replace(real, body=real.body[:-20]),
        replace(real, body="[]"),
        replace(real, body='"Not Found"'),
        replace(real, body=""),
        replace(real, body="\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
    ]
    spoilt += [replace(real, status=status) for status in (200, 400, 401, 403, 405, 410, 500)]
    spoilt += [
        replace(real, body=json.dumps({**said, **other}))
        for other in (
            {"title": "Not Found"},
            {"title": None},
            {"title": 1},
            {"detail": "something else"},
            {"type": "about:blank"},
            {"type": None},
            {"type": said["type"].replace("NotFound", "Unauthenticated")},
        )
    ]
    assert [answer for answer in spoilt if is_none(name, answer) and name != "no run to note on"] == []


@BOTH
@pytest.mark.parametrize("name", ["no run", "no DAG"])
def test_the_ids_are_those_that_were_asked_for(version: str, name: str) -> None:
    answer = answers(version)[name]
    told = two.problem(answer.body.encode(), answer.type)
    for question in (two.run("a", "nothin"), two.run("b", "nothing"), two.dag("nothin"), two.dag("")):
        assert not question.missing(404, told)


@BOTH
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_no_absence(version: str, name: str) -> None:
    answer = answers(version)[name]
    assert answer.status in {400, 401, 403}
    assert not any(is_none(question, answer) for question in QUESTIONS)


def test_a_login_that_is_refused_looks_like_a_missing_right_on_211_and_not_on_210() -> None:
    told = {version: answers(version) for version in VERSIONS}
    assert told["2.11.2"]["no login"].status == told["2.11.2"]["no right"].status == 403
    assert told["2.11.2"]["no login"].body == told["2.11.2"]["no right"].body
    assert told["2.10.5"]["no login"].status == 401


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[1]", b'{"title": 3}', b"\xff\xfe", b"<html>"])
def test_a_refusal_that_can_not_be_read_is_an_empty_one(content: bytes) -> None:
    assert two.problem(content, "application/problem+json") == Problem()


# Rows that are not quite one


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"start_date": 5},
        {"start_date": "2026-01-01T00:00:00"},
        {"end_date": "yesterday"},
        {"max_tries": None},
        {"try_number": "2"},
        {"state": 1},
        {"operator": 1},
        {"start_date": ...},
        {"end_date": ...},
        {"max_tries": ...},
    ],
)
def test_a_bad_row_spoils_only_its_own_task_instance(version: str, change: dict[str, Any]) -> None:
    bad = {**row(version), **change}
    bad = {key: item for key, item in bad.items() if item is not ...}
    listed = {"task_instances": [bad, row(version, "mapped")], "total_entries": 2}
    page = two.page(json.dumps(listed).encode())
    (spoilt, good) = page.rows
    assert spoilt == TaskInstance("a", RUN, "failed", -1)
    assert (spoilt.state, spoilt.id, spoilt.try_number) == (UNSET, None, None)
    assert good == value(version, "mapped")


@BOTH
@pytest.mark.parametrize("lacking", ["dag_id", "dag_run_id", "task_id", "map_index"])
def test_a_row_without_ids_is_counted(version: str, lacking: str) -> None:
    bad = {key: item for key, item in row(version).items() if key != lacking}
    page = two.page(json.dumps({"task_instances": [bad, 7, row(version)], "total_entries": 3}).encode())
    assert (len(page.rows), page.malformed, len(page)) == (1, 2, 3)
    with pytest.raises(msgspec.ValidationError):
        two.one_row(json.dumps(bad).encode())


@pytest.mark.parametrize("lacking", ["state", "try_number", "operator"])
def test_what_a_row_lacks_is_not_known(lacking: str) -> None:
    found = two.one_row(json.dumps({k: v for k, v in row(VERSIONS[0]).items() if k != lacking}).encode())
    assert getattr(found, lacking) is (UNSET if lacking == "state" else None)


@pytest.mark.parametrize("fields", [None, [], "", {"namespace": "***", "base_container_name": 1}, {}])
def test_rendered_fields_are_optional(fields: object) -> None:
    found = two.one_row(json.dumps({**row(VERSIONS[0]), "rendered_fields": fields}).encode())
    assert (found.namespace, found.base_container, found.state) == (None, None, "failed")


# What tells one try from another


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"state": "scheduled"}, True),
        ({"pid": 7, "queued_when": None, "hostname": "w", "trigger": None, "note": "x"}, True),
        ({"try_number": 3}, False),
        ({"max_tries": 4}, False),
        ({"start_date": "2027-01-01T00:00:00+00:00"}, False),
        ({"start_date": None}, False),
    ],
)
def test_the_name_of_a_try(change: dict[str, Any], same: bool) -> None:
    before = two.one_row(json.dumps(row(VERSIONS[0])).encode())
    after = two.one_row(json.dumps({**row(VERSIONS[0]), **change}).encode())
    assert (before.id == after.id) == same


@pytest.mark.parametrize("state", ["running", "deferred", "queued", "scheduled", None, "up_for_retry", "failed"])
@pytest.mark.parametrize(("start", "pushed"), [(100.0, 99.9), (100.0, 100.0), (100.0, 100.1), (None, 100.0)])
def test_an_xcom_counts_if_the_try_that_runs_has_pushed_it(
    state: str | None, start: float | None, pushed: float
) -> None:
    task = TaskInstance("a", RUN, "t", -1, state=state, start_date=start)
    runs = state in {"running", "deferred"}
    assert two.counts(task, XCom(Value((None, "p")), pushed)) == (not runs or (start is not None and pushed >= start))


# Secrets


@BOTH
def test_a_triggers_kwargs_are_kept_by_nothing(version: str) -> None:
    assert SECRET in answers(version)["deferred"].body
    assert SECRET not in repr(value(version, "deferred")) + repr(value(version, "list"))


SPOILERS: list[dict[str, Any]] = [
    {"max_tries": SECRET},
    {"map_index": SECRET},
    {"start_date": SECRET},
    {"dag_id": None},
    {"trigger": SECRET},
    {"trigger": {"kwargs": 5}},
]


def said(decode: Callable[[bytes], Any], content: bytes) -> str:
    """What is read, or the error."""
    try:
        return repr(decode(content))
    except msgspec.MsgspecError as error:
        return f"{error!r} {error}"


@BOTH
@pytest.mark.parametrize("change", SPOILERS)
def test_no_error_repeats_what_was_sent(version: str, change: dict[str, Any]) -> None:
    bad = json.dumps({**row(version, "deferred"), **change})
    for decode, content in ((two.one_row, bad), (two.page, bad), (two.page, f'{{"task_instances": {bad}}}')):
        assert SECRET not in said(decode, content.encode())


# What is sent


def test_an_unmapped_task_instance_has_no_index_in_its_path() -> None:
    for make in (
        lambda index: two.task_instance(cell("t"), index),
        lambda index: two.read_note(cell("t"), index),
        lambda index: two.write_note(cell("t"), index, "x"),
    ):
        assert "map_index" not in make(-1).request.path + str(make(-1).request.ids)
        assert make(0).request.ids["map_index"] == 0
        assert "{map_index}" in make(0).request.path
    assert two.xcom(cell("t"), -1, "k").request.query == ()
    assert two.xcom(cell("t"), 0, "k").request.query == (("map_index", 0),)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("2.10.0", dialect2),
        ("2.11.2+composer", dialect2),
        ("3.0.6", dialect3),
        ("3.3.2", dialect3),
        ("2.9.3", "up to 2.9"),
        ("2.0.0", "up to 2.9"),
        ("1.10.15", "up to 2.9"),
        ("2.12.0", "knows nothing"),
        ("3.4.0", "knows nothing"),
        ("4.0.0", "knows nothing"),
        ("nonsense", "knows nothing"),
        ("", "knows nothing"),
    ],
)
def test_which_airflows_are_known(text: str, known: Any) -> None:
    found = version_of(text)
    if isinstance(found, str):
        assert known in found
        assert "2.10" in found
    else:
        assert found.dialect is known


def test_no_list_is_empty() -> None:
    with pytest.raises(ValueError, match="would ask for everything"):
        two.listed((), {})
