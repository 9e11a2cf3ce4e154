"""The HTTP server under slow, silent, many, huge and half open connections: probes are answered all the same."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from healer.telemetry import connections
from healer.telemetry.http_server import HttpReply, HttpRequest, HttpServer, serve

PATIENCE = 60.0
"""Seconds after which a condition that never comes true is a failure."""

BIG = 8 << 20
"""Bytes of a page that no socket's buffers hold."""


class Figures:
    """What a test shows at /metrics."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        return b"a 1\n", accept or "text/plain"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    running = serve(
        "127.0.0.1:0",
        Figures(),
        health=lambda: (True, "fine"),
        ready=lambda: (True, "ready"),
        more={"/findings": lambda _request: HttpReply(200, b"x" * BIG, "application/json")},
    )
    assert ask(running, "/healthz")[0] == 200, "its thread has imported what it needs"
    yield running
    running.stop()
    running.stop()


def ask(server: HttpServer, path: str, method: str = "GET") -> tuple[int, bytes, float]:
    """Return status, body, and how long it took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request(method, path)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, body, time.monotonic() - began


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1 << 16) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def drip(client: socket.socket, stop: threading.Event, piece: bytes) -> None:
    while not stop.wait(0.2):
        try:
            client.sendall(piece)
        except OSError:
            return


SLOW = {
    "silent": b"",
    "in the request line": b"GET /he",
    "in the headers": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A",
    "in the body": b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    "after an answer": b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
}


@pytest.mark.parametrize("begun", SLOW.values(), ids=SLOW.keys())
def test_a_probe_is_answered_beside_a_thousand_slow_connections(server: HttpServer, begun: bytes) -> None:
    threads = threading.active_count()
    with ExitStack() as stack:
        for _ in range(1000):
            client = stack.enter_context(connect(server))
            if begun:
                client.sendall(begun)
            client.setblocking(False)
        ask(server, "/healthz")  # what was asked completely before it is answered by then
        times = [ask(server, path) for path in ("/healthz", "/readyz", "/metrics") for _ in range(5)]
        assert {status for status, _, _ in times} == {200}
        assert sorted(seconds for *_, seconds in times)[len(times) // 2] < 1.0, "on a machine that has much else to do"
        assert threading.active_count() <= threads + connections.PAGES, "a connection is no thread"


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"], ids=["silent", "dripping"])
def test_a_request_has_a_deadline_however_often_a_byte_comes(
    server: HttpServer, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ASK_WITHIN", 0.5)
    stop = threading.Event()
    with connect(server) as client:
        client.sendall(begun)
        if begun:
            threading.Thread(target=drip, args=(client, stop, b"X-A: b\r\n"), daemon=True).start()
        try:
            assert is_closed(client)
        finally:
            stop.set()


def test_huge_headers_end_the_connection(server: HttpServer) -> None:
    for head in (b"X-A: " + b"b" * 20_000 + b"\r\n", b"X-A: b\r\n" * 4000):
        with connect(server) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
            try:
                client.sendall(head * 4)
            except OSError:
                continue
            assert is_closed(client) or b" 400 " in client.recv(4096)
    assert ask(server, "/healthz")[0] == 200


def test_who_takes_no_answer_makes_room_for_the_next(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SLOW_TAKER", 0.2)
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(connect(server))
            client.sendall(b"GET /findings HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ask(server, "/healthz")[2] < 1.0
        status, body, _ = ask(server, "/metrics")
        assert (status, body) == (200, b"a 1\n")


def test_an_answer_has_a_deadline(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TAKE_WITHIN", 0.3)
    with connect(server) as client:
        client.sendall(b"GET /findings HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1.0)  # a client that takes nothing: there is nothing to wait for
        taken = 0
        try:
            while piece := client.recv(1 << 20):
                taken += len(piece)
        except OSError:
            pass
        assert taken < BIG


def test_who_has_asked_may_close_its_half(server: HttpServer) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        said = b""
        while piece := client.recv(4096):
            said += piece
        assert said.endswith(b"fine\n")


@pytest.mark.parametrize("rubbish", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n"])
def test_what_is_no_request_ends_its_connection_only(server: HttpServer, rubbish: bytes) -> None:
    with connect(server) as client:
        client.sendall(rubbish)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert ask(server, "/healthz")[0] == 200


def test_only_get_is_answered(server: HttpServer) -> None:
    assert ask(server, "/healthz", "POST")[0] == ask(server, "/metrics", "DELETE")[0] == 405


def test_a_page_that_takes_long_holds_up_no_probe() -> None:
    go_on, began = threading.Event(), threading.Event()

    def page(_request: HttpRequest) -> HttpReply:
        began.set()
        go_on.wait(PATIENCE)
        return HttpReply(200, b"", "text/plain")

    made = serve(
        "127.0.0.1:0", Figures(), health=lambda: (True, ""), ready=lambda: (True, ""), more={"/findings": page}
    )
    stack = ExitStack()
    try:
        reader = stack.enter_context(connect(made))
        reader.sendall(b"GET /findings HTTP/1.1\r\nHost: a\r\n\r\n")
        assert began.wait(PATIENCE)
        assert ask(made, "/healthz")[2] < 1.0
    finally:
        go_on.set()
        stack.close()
        made.stop()


def test_a_stop_waits_for_no_connection(server: HttpServer) -> None:
    with connect(server) as client:
        client.sendall(b"GET /he")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1.0
        assert is_closed(client)
    assert not server.alive()


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_is_just_accepted_at_the_stop_is_closed(turns: int) -> None:
    """However far its acceptance is: in the kernel's queue, accepted, made a connection, or one of the crowd."""

    async def serve_and_stop() -> bool:
        answering = connections.Answering({}, {})
        sock = socket.create_server(("127.0.0.1", 0))
        server = await answering.listen(sock)
        with socket.create_connection(sock.getsockname(), timeout=PATIENCE) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await answering.close(server)
            client.settimeout(1.0)
            return is_closed(client)

    assert asyncio.run(serve_and_stop())
