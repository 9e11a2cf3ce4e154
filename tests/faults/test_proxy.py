"""The proxy breaks what it is told to break, and only that: a fault that is not injected shows nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from tests.faults import proxy as faults
from tests.faults.proxy import FaultProxy
from tests.lab.serving import in_a_thread


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.heard.append(self.path)
        body = json.dumps({"path": self.path}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def proxy(heard: list[str]) -> Iterator[FaultProxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (_Server,), {"heard": heard}))
    with in_a_thread(server) as url, FaultProxy(url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, trust_env=False, timeout=30) as made:
        yield made


def test_what_is_not_broken_passes(proxy: FaultProxy, client: httpx.Client) -> None:
    with proxy.rule(faults.answer(503), part="/b", times=1, skip=1) as rule:
        codes = [client.get(path).status_code for path in ("/a", "/b", "/b", "/b", "/c")]
    assert codes == [200, 200, 503, 200, 200]
    assert rule.hits == 1
    assert proxy.count(part="/b") == 3
    assert proxy.count(part="/b", status=200) == 2


@pytest.mark.parametrize(
    ("fault", "reaches"),
    [(faults.reset, False), (faults.lost, True), (faults.truncated(), True)],
    ids=["reset", "lost", "truncated"],
)
def test_broken_connections(
    proxy: FaultProxy, client: httpx.Client, heard: list[str], fault: faults.Fault, reaches: bool
) -> None:
    with proxy.rule(fault), pytest.raises(httpx.TransportError):
        client.get("/a")
    assert heard == (["/a"] if reaches else [])
    assert client.get("/b").json() == {"path": "/b"}


@pytest.mark.parametrize(("fault", "reaches"), [(faults.silence, False), (faults.swallowed, True)])
def test_silence(proxy: FaultProxy, client: httpx.Client, heard: list[str], fault: faults.Fault, reaches: bool) -> None:
    with proxy.rule(fault), pytest.raises(httpx.ReadTimeout):
        client.get("/a", timeout=0.3)
    assert heard == (["/a"] if reaches else [])
    assert client.get("/b").status_code == 200


def test_refused_and_back_on_the_same_port(proxy: FaultProxy, client: httpx.Client) -> None:
    assert client.get("/a").status_code == 200
    with proxy.refused():
        with pytest.raises(httpx.TransportError):
            client.get("/a")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port))
    assert client.get("/a").status_code == 200


def test_answers_are_changed(proxy: FaultProxy, client: httpx.Client) -> None:
    with proxy.rule(faults.edit_json(lambda value: {**value, "more": 1})):
        assert client.get("/a").json() == {"path": "/a", "more": 1}
    with proxy.rule(faults.kube_status(429, "TooManyRequests", retry_after=7)):
        refusal = client.get("/a")
    assert (refusal.status_code, refusal.headers["Retry-After"]) == (429, "7")
    assert refusal.json()["reason"] == "TooManyRequests"


def test_streams_are_cut_and_added_to(proxy: FaultProxy, client: httpx.Client) -> None:
    with proxy.rule(faults.injected({"type": "ERROR"})):
        lines = client.get("/a?watch=true").text.splitlines()
    assert [json.loads(line) for line in lines] == [{"type": "ERROR"}, {"path": "/a?watch=true"}]
    with (
        proxy.rule(faults.cut_in_mid_object),
        client.stream("GET", "/a?watch=true") as answer,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        answer.read()
