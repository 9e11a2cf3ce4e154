"""Who refuses, before a real Airflow: itself, or a small real proxy in front that behaves as people's gates do."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from healer.airflow import Airflow as Healer
from healer.config import AirflowConfig
from tests.lab.airflow import Airflow
from tests.lab.serving import in_a_thread


def signed(airflow: Airflow, *, role: str | None = "viewer", life: int = 3600, forged: bool = False) -> str:
    """A token as this Airflow would have made it, or as another one would."""
    said = airflow.python("sign_token.py", stdin=json.dumps({"role": role, "life": life, "forged": forged}))
    return next(line.partition(" ")[2] for line in said.splitlines() if line.startswith("TOKEN "))


Gate = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes] | None]
"""Answers in Airflow's stead, or lets a request through."""


@contextmanager
def in_front(airflow: Airflow, gate: Gate, *, base: str = "", drop: str = "") -> Iterator[str]:
    """A reverse proxy: publishes Airflow below `base`, and takes the header `drop` away."""
    behind = urlsplit(airflow.url)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = gate(self)
            if answer is None and not self.path.startswith(base):
                answer = 404, {"Content-Type": "text/html"}, b"<h1>404 Not Found</h1>"
            status, headers, sent = answer or self._forward(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=60)
            kept = {n: v for n, v in self.headers.items() if n.lower() not in ("host", "connection", drop.lower())}
            with closing(connection):
                connection.request(self.command, self.path.removeprefix(base), body or None, kept)
                reply = connection.getresponse()
                sent = reply.read()
            wanted = ("content-type", "content-encoding", "location")
            return reply.status, {n: v for n, v in reply.getheaders() if n.lower() in wanted}, sent

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads, server.block_on_close = True, False
    with in_a_thread(server) as url:
        yield url


def said(url: str, **login: str) -> tuple[bool, str]:
    """Whether `check` says that the login is refused, and the sentence of what failed first."""
    config = {"name": "a", "namespaces": ["n"], "url": url, **(login or {"username": "viewer", "password": "viewer"})}
    found = Healer(AirflowConfig.model_validate(config)).probe()
    return found.refused, next((check.text for check in found.checks if check.status == "fail"), "all is well")


@pytest.mark.parametrize(
    ("token", "refused", "sentence"),
    [
        ({}, False, "all is well"),
        ({"life": -60}, True, "refuses the token: it has expired; set a new one"),
        ({"forged": True}, True, "can't verify the token: it was revoked, or another Airflow has made it"),
        ({"role": None}, False, "forbids this (403): give its role can_read"),
    ],
    ids=["good", "expired", "of another Airflow", "without rights"],
)
def test_tokens(airflow_api: Airflow, token: dict[str, Any], refused: bool, sentence: str) -> None:
    found = said(airflow_api.url, token=signed(airflow_api, **token))
    assert (found[0], sentence in found[1]) == (refused, True), found


def test_a_wrong_password(airflow_api: Airflow) -> None:
    refused, text = said(airflow_api.url, username="viewer", password="wrong")
    assert refused
    assert "does not accept the password of viewer" in text


PASS: Gate = lambda _: None  # noqa: E731 - a type alias needs a name, not a def


@pytest.mark.parametrize(
    ("base", "asked", "sentence"),
    [
        ("", "", "all is well"),
        ("/airflow", "/airflow", "all is well"),
        ("/airflow", "", "has no API of Airflow"),
        ("", "/airflow", ""),
        ("/airflow", "/airflow/home", ""),
    ],
)
def test_the_path(airflow_api: Airflow, base: str, asked: str, sentence: str) -> None:
    with in_front(airflow_api, PASS, base=base) as url:
        refused, text = said(url + asked)
    assert not refused
    assert sentence in text
    if not sentence:
        assert "give the address of" in text or "give the URL under which" in text, text


HTML = {"Content-Type": "text/html"}


def answering(status: int, headers: dict[str, str], body: bytes, *, only: str = "") -> Gate:
    return lambda request: (status, headers, body) if only in request.path else None


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        (answering(302, {"Location": "https://sso.example.com/oauth2/start?rd=x"}, b""), "a gate in front of Airflow"),
        (answering(401, {**HTML, "WWW-Authenticate": "Basic realm=x"}, b"<h1>401</h1>"), "in front of"),
        (answering(401, {**HTML, "x-goog-iap-generated-response": "true"}, b"Invalid IAP"), "Identity-Aware Proxy"),
        (answering(403, {**HTML, "cf-ray": "1"}, b"<h1>blocked</h1>"), "Cloudflare in front of"),
        (answering(405, HTML, b"<h1>405</h1>", only="/auth/token"), "refuses with 405 Method Not Allowed"),
        (answering(502, HTML, b"<h1>502</h1>", only="/dags"), "does the API server behind it run?"),
    ],
    ids=["oauth2-proxy", "basic auth", "IAP", "WAF", "no POST", "dead backend"],
)
def test_a_gate(airflow_api: Airflow, gate: Gate, sentence: str) -> None:
    with in_front(airflow_api, gate) as url:
        refused, text = said(url)
    assert not refused, "nobody has looked at the password"
    assert sentence in text


def test_a_proxy_that_takes_the_token_away(airflow_api: Airflow) -> None:
    with in_front(airflow_api, PASS, drop="Authorization") as url:
        _, text = said(url)
    assert "takes the Authorization header away" in text
