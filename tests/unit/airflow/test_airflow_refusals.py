"""Who refuses is named rightly: Airflow, a gate or proxy in front of it, a wrong path, a missing right, a login."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from healer.airflow.api import dialect3
from healer.airflow.api.client import AirflowClient
from healer.airflow.api.transport import Call
from healer.errors import FailureKind, NoAnswerError
from tests.unit.airflow_fake import API, Asked, FakeAirflow, Reply, config, error, row, serving

HTML = {"Content-Type": "text/html; charset=utf-8"}
LOGIN_FORM = b"<html><form action='/login'><input name=u><input type='password' name=p></form></html>"


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        server.rows = [row()]
        yield server


def failure(fake: FakeAirflow, calls: list[Call] | None = None, **fields: Any) -> NoAnswerError:
    """Ask as a pass begins: for the version, then for something that needs a login."""
    client = AirflowClient(config(fake, **fields), (calls if calls is not None else []).append)
    try:
        client.ask_version()
        client.log_in()
        client.get_ok(dialect3.dags(1))
    except NoAnswerError as failed:
        return failed
    raise AssertionError("all was answered")


IAP = {**HTML, "x-goog-iap-generated-response": "true"}
ACCESS = "https://acme.cloudflareaccess.com/cdn-cgi/access/login/airflow.acme.com?kid=secret"
GATES: list[tuple[str, Reply, str, str]] = [
    (
        "oauth2-proxy",
        Reply(302, b"", {"Location": "https://sso.acme.com/oauth2/start?a=secret"}),
        "gate",
        "login page",
    ),
    ("Cloudflare Access", Reply(302, b"", {"Location": ACCESS}), "gate", "cloudflareaccess.com"),
    ("oauth2-proxy for JSON", Reply(401, b"{}"), "gate", "a gate or proxy"),
    ("oauth2-proxy's page", Reply(403, LOGIN_FORM, HTML), "gate", "403 Forbidden"),
    ("IAP", Reply(401, b"Invalid IAP credentials: empty token", IAP), "gate", "Google's Identity-Aware Proxy"),
    ("IAP in JSON", Reply(401, {"detail": "no"}, {"x-goog-iap-generated-response": "true"}), "gate", "Identity-Aware"),
    ("nginx's basic auth", Reply(401, b"<h1>401</h1>", {**HTML, "WWW-Authenticate": "Basic realm=x"}), "gate", "login"),
    ("WAF", Reply(403, b"<h1>Request blocked</h1>", {**HTML, "Server": "cloudflare"}), "gate", "Cloudflare"),
    ("Istio", Reply(403, b"RBAC: access denied", {"Content-Type": "text/plain"}), "gate", "403 Forbidden"),
    ("API gateway", Reply(403, {"message": "Forbidden"}), "gate", "403 Forbidden"),
    ("gate without POST", Reply(405, b"<h1>405</h1>", HTML), "gate", "405 Method Not Allowed"),
    ("login page with 200", Reply(200, LOGIN_FORM, HTML), "gate", "login page"),
    ("nginx 502", Reply(502, b"<h1>Bad Gateway</h1>", HTML), "server", "does the API server behind it run?"),
    ("nginx 504", Reply(504, b"<h1>Gateway Time-out</h1>", HTML), "server", "does the API server behind it run?"),
    ("Airflow's web page", Reply(200, b"<html><title>Airflow</title>", HTML), "path", "Airflow's own web page"),
    ("another web page", Reply(200, b"<html><title>Grafana</title>", HTML), "path", "not JSON"),
    ("ingress", Reply(404, b"default backend - 404", {"Content-Type": "text/plain"}), "path", "has no API of Airflow"),
    ("FastAPI", error(404, "Not Found"), "path", "has no API of Airflow"),
    ("FastAPI's 405", error(405, "Method Not Allowed"), "path", "has no API of Airflow"),
    ("moved", Reply(301, b"", {"Location": "/airflow/api/v2/version"}), "path", "give that address as url"),
    ("https wanted", Reply(400, b"The plain HTTP request was sent to HTTPS port", HTML), "tls", "write the URL with"),
    ("other service", Reply(200, {"status": "ok"}), "server", "can't be read"),
]
"""What stands in front of Airflow, or in its place, and how it answers any question."""


@pytest.mark.parametrize(("reply", "kind", "says"), [case[1:] for case in GATES], ids=[case[0] for case in GATES])
@pytest.mark.parametrize("login", ["password", "token"])
@pytest.mark.parametrize("first", ["from the start", "after the login"])
def test_who_stands_in_front_is_named_and_no_login_is_tried(
    fake: FakeAirflow, reply: Reply, kind: str, says: str, login: str, first: str
) -> None:
    def intercept(asked: Asked) -> Reply | None:
        return None if first == "after the login" and asked.path in (f"{API}/version", "/auth/token") else reply

    fake.intercept = intercept
    calls: list[Call] = []
    failed = failure(fake, calls, **({"token": "a-token"} if login == "token" else {}))
    assert (failed.kind, says in str(failed)) == (kind, True), str(failed)
    assert "secret" not in str(failed)
    assert "password of" not in str(failed)
    assert "\n" not in str(failed)
    logins = sum(call.call == "login" for call in calls)
    assert logins == (1 if first == "after the login" and login == "password" else 0), "its 401 is no reason for one"


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (error(401, "Token Expired"), "token", "it has expired"),
        (error(403, "Invalid JWT token"), "token", "it was revoked, or another Airflow has made it"),
        (error(401, "Not authenticated"), "token", "takes the Authorization header away"),
        (error(403, "Forbidden"), "right", "can_read on DAGs"),
    ],
)
def test_what_airflow_itself_refuses(fake: FakeAirflow, reply: Reply, kind: str, says: str) -> None:
    fake.intercept = lambda asked: reply if asked.path == f"{API}/dags" else None
    failed = failure(fake, token="a-token")
    assert (failed.kind, says in str(failed)) == (kind, True), str(failed)
    failed = failure(fake)
    assert failed.kind == ("gate" if "Authorization" in says else kind)


def test_a_wrong_password_is_a_login(fake: FakeAirflow) -> None:
    failed = failure(fake, password="wrong")
    assert failed.kind == "login"
    assert "does not accept the password of healer" in str(failed)


@pytest.mark.parametrize("status", [404, 405])
def test_an_auth_manager_without_tokens_for_passwords(fake: FakeAirflow, status: int) -> None:
    fake.intercept = lambda asked: error(status, "Not Found") if asked.path == "/auth/token" else None
    failed = failure(fake)
    assert failed.kind == "login"
    assert "set tokenFile" in str(failed)


def test_an_airflow_2_behind_the_url(fake: FakeAirflow) -> None:
    def intercept(asked: Asked) -> Reply | None:
        if asked.path == "/api/v1/version":
            return Reply(body={"version": "2.9.3"})
        return Reply(404, b"<html>Airflow 404</html>", HTML)

    fake.intercept = intercept
    assert "Airflow 2.9.3" in str(failure(fake))


def test_a_path_that_is_missing_or_too_much(fake: FakeAirflow) -> None:
    fake.url += "/airflow"
    assert failure(fake).kind == "path"


def test_nobody_there(fake: FakeAirflow) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fake.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert failure(fake).kind == "network"
    fake.url = "http://no-such-host.invalid"
    assert failure(fake).kind == "network"


def test_https_where_http_is_spoken_and_the_reverse(fake: FakeAirflow) -> None:
    fake.url = fake.url.replace("http:", "https:")
    assert failure(fake).kind == "tls"
    with socket.create_server(("127.0.0.1", 0)) as alert:  # what a TLS server sends to who speaks no TLS

        def answer() -> None:
            for _ in range(2):
                connection, _address = alert.accept()
                connection.recv(4096)
                connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        fake.url = f"http://127.0.0.1:{alert.getsockname()[1]}"
        failed = failure(fake)
        thread.join(5)
    assert failed.kind == "network"
    assert "Does it speak https: only?" in str(failed)


def test_a_firewall_that_refuses_one_question_ends_no_other(fake: FakeAirflow) -> None:
    fake.intercept = lambda asked: Reply(403, b"blocked", HTML) if asked.path == f"{API}/dags" else None
    client = AirflowClient(config(fake), lambda _: None)
    for _ in range(2):
        with pytest.raises(NoAnswerError) as failed:
            client.get_ok(dialect3.dags(1))
        assert failed.value.scope.name == "CALL"
    assert client.ask_version().text == "3.3.2"


def test_each_failure_has_a_kind_that_is_known() -> None:
    assert {case[2] for case in GATES} <= set(get_args(FailureKind))
