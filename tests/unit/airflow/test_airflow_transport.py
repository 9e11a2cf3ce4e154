"""What goes wrong between us and an API server: one sentence says what to do, and no Pod is judged by it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from healer.airflow import Call
from healer.model import Known, Unknown
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, error, healer, pod, row, serving


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        server.rows = [row()]
        yield server


def look(fake: FakeAirflow, calls: list[Call] | None = None, **fields: Any) -> Known | Unknown:
    """Ask about one Pod."""
    one = pod()
    answer = healer(fake, calls, **fields).get_all([one])[one.uid]
    assert isinstance(answer, Known | Unknown)
    return answer


def on_lists(*replies: Reply) -> Any:
    """Answer questions about task instances with these, one after the other, the last for ever."""
    left = list(replies)

    def intercept(asked: Asked) -> Reply | None:
        if "/taskInstances" not in asked.path or not left:
            return None
        return left.pop(0) if len(left) > 1 else left[0]

    return intercept


def once(reply: Reply) -> Any:
    """Answer the first list with this."""
    left = [reply]
    return lambda asked: left.pop() if asked.is_list and left else None


PAGE = Reply(body=b"<html>please log in</html>", headers={"Content-Type": "text/html"})
TRUNCATED = Reply(body=b'{"task_instances": [{"dag_id": "d"')
NO_ZIP = Reply(body=b"this is no gzip", headers={"Content-Encoding": "gzip"})
LOGIN = Reply(302, b"", {"Location": "https://sso.example.com/login?next=secret"})
MOVED = Reply(301, b"", {"Location": "https://other.example.com/api"})

FAULTS = [
    ("html", PAGE, "unreadable", "give the address of Airflow's API server"),
    ("truncated JSON", TRUNCATED, "unreadable", "can't be read"),
    ("another shape", Reply(body={"dags": []}), "unreadable", "can't be read"),
    ("no total", Reply(body={"task_instances": [row()]}), "unreadable", "can't be read"),
    ("null total", Reply(body={"task_instances": [row()], "total_entries": None}), "unreadable", "can't be read"),
    ("broken gzip", NO_ZIP, "unreadable", "compression can't be undone"),
    ("redirect to login", LOGIN, "302", "redirected to a login page (https://sso.example.com/login)"),
    ("moved", MOVED, "301", "redirected (https://other.example.com/api)"),
    ("bug", Reply(500, b"Internal Server Error", {"Content-Type": "text/plain"}), "500", "answered 500"),
    ("database", error(500, {"reason": "Database error", "message": "ID 7"}), "500", "500: Database error ID 7"),
    ("bad gateway", Reply(502, b"<html>", {"Content-Type": "text/html"}), "502", "answered 502"),
    ("busy", error(429, "slow down"), "429", "429: slow down"),
    ("invalid", error(422, [{"loc": ["body"]}]), "422", "answered 422"),
    ("wrong path", error(404, "Not Found"), "404", "has no API of Airflow"),
    ("proxy's 404", Reply(404, b"<html>nginx</html>", {"Content-Type": "text/html"}), "404", "has no API of Airflow"),
    ("odd 404", error(404, "gone fishing"), "404", "404: gone fishing"),
    ("no right", error(403, "Forbidden"), "403", "can_read on DAGs, DAG Runs and Task Instances"),
    ("reset", Reply(fault="reset"), "reset", "broke the connection off"),
    ("cut off", Reply(body={"task_instances": [row()] * 50, "total_entries": 50}, fault="cut"), "reset", "broke"),
    ("empty", Reply(204, b"", {"Content-Length": "0"}), "204", "answered 204"),
]


@pytest.mark.parametrize(("reply", "code", "says"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_a_bad_answer_is_unknown_and_says_what_to_do(fake: FakeAirflow, reply: Reply, code: str, says: str) -> None:
    fake.intercept = on_lists(reply)
    calls: list[Call] = []
    answer = look(fake, calls)
    assert isinstance(answer, Unknown)
    assert says in answer.why
    assert "\n" not in answer.why
    assert calls[-1].call in {"list", "list-get"}
    assert calls[-1].code == code


def test_a_login_pages_query_is_not_repeated(fake: FakeAirflow) -> None:
    fake.intercept = on_lists(LOGIN)
    answer = look(fake)
    assert isinstance(answer, Unknown)
    assert "secret" not in answer.why
    assert len(fake.paths(part="login")) == 0, "a redirect must not be followed"


def test_a_silent_server_is_given_up_after_three_timeouts(fake: FakeAirflow) -> None:
    fake.rows = [row(task=f"t{i}") for i in range(64)]
    fake.intercept = on_lists(Reply(fault="hang"))
    calls: list[Call] = []
    pods = [pod(task=f"t{i}") for i in range(64)]
    answers = healer(fake, calls, timeout="0.2s").get_all(pods)
    assert {type(answer) for answer in answers.values()} == {Unknown}
    assert len(answers) == 64
    assert [call.code for call in calls if call.call == "list"] == ["timeout"] * 3
    assert "no full answer within 0.2 s" in answers[pods[0].uid].why  # type: ignore[attr-defined]


def test_a_server_that_is_silent_from_the_start_costs_one_question(fake: FakeAirflow) -> None:
    fake.intercept = lambda _: Reply(fault="hang")
    calls: list[Call] = []
    answer = look(fake, calls, timeout="0.2s")
    assert isinstance(answer, Unknown)
    assert [(call.call, call.code) for call in calls] == [("version", "timeout")]


def test_a_connection_closed_while_idle_is_tried_once_more(fake: FakeAirflow) -> None:
    fake.intercept = once(Reply(fault="reset"))
    calls: list[Call] = []
    assert isinstance(look(fake, calls), Known)
    assert [call.code for call in calls if call.call == "list"] == ["reset", "200"]


def test_nothing_listens(fake: FakeAirflow) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fake.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        calls: list[Call] = []
        answer = look(fake, calls)
    assert isinstance(answer, Unknown)
    assert "refuses the connection: check url" in answer.why
    assert [(call.call, call.code) for call in calls] == [("version", "refused")]


def test_an_unknown_host(fake: FakeAirflow) -> None:
    fake.url = "http://no-such-host.invalid"
    calls: list[Call] = []
    answer = look(fake, calls)
    assert isinstance(answer, Unknown)
    assert "host name is not known" in answer.why
    assert [call.code for call in calls] == ["refused"]


def test_gzip_is_asked_for_and_undone(fake: FakeAirflow) -> None:
    fake.rows = [row(task=f"t{i}") for i in range(100)]
    calls: list[Call] = []
    pods = [pod(task=f"t{i}") for i in range(100)]
    answers = healer(fake, calls).get_all(pods)
    assert {type(answer) for answer in answers.values()} == {Known}
    listed = next(call for call in calls if call.call == "list")
    assert listed.rows == 100


def test_an_endless_answer_is_not_read_to_its_end(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("healer.airflow.api.transport.MAX_BODY", 1 << 20)
    fake.intercept = on_lists(Reply(body=b" " * (2 << 20)))
    answer = look(fake)
    assert isinstance(answer, Unknown)
    assert "is this Airflow's API server?" in answer.why


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[FakeAirflow]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(context) as server:
        server.rows = [row()]
        yield server


def test_tls_with_the_configured_authority(secure: FakeAirflow, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert isinstance(look(secure, caFile=str(tmp_path / "ca.pem")), Known)


def test_tls_of_an_unknown_authority(secure: FakeAirflow) -> None:
    calls: list[Call] = []
    answer = look(secure, calls)
    assert isinstance(answer, Unknown)
    assert "caFile names the CAs to trust" in answer.why
    assert [call.code for call in calls] == ["tls"]
    assert secure.asked == []


def test_tls_for_another_name(secure: FakeAirflow, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    secure.url = secure.url.replace("127.0.0.1", "localhost")
    answer = look(secure, caFile=str(tmp_path / "ca.pem"))
    assert isinstance(answer, Unknown)
    assert "its certificate is not accepted" in answer.why


def test_https_to_a_server_that_speaks_http(fake: FakeAirflow) -> None:
    fake.url = fake.url.replace("http:", "https:")
    answer = look(fake)
    assert isinstance(answer, Unknown)
    assert "should the URL begin with http:?" in answer.why


def test_a_ca_file_that_is_none(secure: FakeAirflow, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    answer = look(secure, caFile=str(tmp_path / "ca.pem"))
    assert isinstance(answer, Unknown)
    assert "caFile is not a readable PEM file" in answer.why


def test_a_url_below_a_path(fake: FakeAirflow) -> None:
    fake.intercept = lambda asked: Reply(404, b"")
    fake.url += "/airflow/"
    answer = look(fake)
    assert isinstance(answer, Unknown)
    assert "/airflow has no API of Airflow" in answer.why
    assert fake.asked[0].path == "/airflow/api/v2/version"
