"""A scripted proxy between kpo-healer and a real server: it passes everything on, but for what a test has broken.

with FaultProxy(airflow.url) as proxy:                     # or FaultProxy(cluster.url, ca=cluster.ca), with TLS
    with proxy.rule(answer(503), method="DELETE") as rule:  # while the block lasts
        rule.wait(3)                                       # hit three times
    proxy.rule(edit_json(forget_rows), part="/taskInstances/list", times=1)
    with proxy.refused(): ...                              # nobody listens on its port
    proxy.target = another.url                             # from the next request on

A fault is a function of an `Exchange`. Each request reaches the server once or never: it has a connection of its own,
and nothing is repeated.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import trustme
import yaml

from tests.lab.processes import wait_for

Json = Any

OF_THE_HOP: Final = {"connection", "transfer-encoding", "content-length", "keep-alive"}

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST."""

PATIENCE: Final = 120.0
"""Seconds to wait for the server, and for what a test expects."""


@dataclass(frozen=True)
class Asked:
    """A request as it came. `path` is raw, with its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def text(self) -> str:
        """The path and its query, decoded: to look for words in."""
        return unquote(self.path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query))

    @property
    def watches(self) -> bool:
        """Whether this is a WATCH: answered line by line, without an end."""
        return self.query.get("watch") in {"true", "1"}

    @property
    def json(self) -> Json:
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Reply:
    """An answer with its whole body; length and connection headers are the proxy's own business."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    def with_json(self, value: Json) -> Reply:
        return replace(self, body=json.dumps(value).encode())


@dataclass
class Passed:
    """One request in the log, there as soon as it has come.

    status: what the server answered; None while it was not asked or has not answered.
    """

    asked: Asked
    status: int | None = None


class _ResetError(Exception):
    """The connection to the client ends with RST."""


class _HangUpError(Exception):
    """The connection to the client ends in the usual way."""


@dataclass
class Rule:
    """A fault and the requests it concerns. As a context manager it is lifted at the end of the block."""

    fault: Fault
    when: Callable[[Asked], bool]
    skip: int = 0
    times: int | None = None
    hits: int = 0
    lifted: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def takes(self, asked: Asked) -> bool:
        """Whether this request is one of those, and counts it."""
        with self._lock:
            if self.lifted.is_set() or self.times == self.hits or not self.when(asked):
                return False
            if self.skip:
                self.skip -= 1
                return False
            self.hits += 1
            return True

    def lift(self) -> None:
        """From now on requests pass; those that are held are let go of."""
        self.lifted.set()

    def wait(self, hits: int = 1, *, timeout: float = PATIENCE) -> None:
        """Waits until it was hit that often."""
        wait_for(lambda: self.hits >= hits, timeout=timeout, what=f"{hits} hits of {self.fault}, not {self.hits}")

    def __enter__(self) -> Rule:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()


class FaultProxy:
    """An HTTP(S) proxy for one server; a context manager. With `ca` it speaks TLS on both sides.

    url: where it listens. target: where it passes requests on to; may be changed. passed: its log.
    """

    def __init__(self, target: str, *, ca: Path | None = None) -> None:
        self.target = target
        self.passed: list[Passed] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._upstream = None if ca is None else ssl.create_default_context(cafile=str(ca))
        self._authority = None if ca is None else trustme.CA()
        self._own = _own_certificate(self._authority) if self._authority else None
        self._server = _Server(0, self)
        self.port = self._server.server_port
        self.url = f"{'https' if ca else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self._server.open()
        return self

    def __exit__(self, *_: object) -> None:
        for rule in self._rules:
            rule.lift()
        self._server.close()

    # What a test says

    def rule(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        part: str = "",
        when: Callable[[Asked], bool] = lambda _: True,
        skip: int = 0,
        times: int | None = None,
    ) -> Rule:
        """Breaks requests of this method whose decoded path and query hold `part`; of two rules the newer one counts.

        skip: how many pass before. times: how often; for ever by default.
        """

        def concerned(asked: Asked) -> bool:
            return method in (None, asked.method) and part in asked.text and when(asked)

        made = Rule(fault, concerned, skip, times)
        with self._lock:
            self._rules.insert(0, made)
        return made

    def kubeconfig(self, original: Path) -> Path:
        """A copy of a kubeconfig that goes through this proxy and trusts it."""
        document = yaml.safe_load(original.read_text())
        for cluster in document["clusters"]:
            cluster["cluster"]["server"] = self.url
            if self._authority is not None:
                data = base64.b64encode(self._authority.cert_pem.bytes()).decode()
                cluster["cluster"]["certificate-authority-data"] = data
        through = original.with_name(f"{original.stem}-{self.port}.kubeconfig")
        through.write_text(yaml.safe_dump(document))
        through.chmod(0o600)
        return through

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Nobody listens on the port, and what was connected is reset."""
        self._server.close()
        try:
            yield
        finally:
            self._server = _Server(self.port, self)
            self._server.open()

    def reset_all(self) -> None:
        """Breaks every connection now."""
        self._server.reset_all()

    def count(self, *, method: str | None = None, part: str = "", status: int | None = None) -> int:
        """How many such requests came so far."""
        return sum(
            method in (None, each.asked.method) and part in each.asked.text and status in (None, each.status)
            for each in list(self.passed)
        )

    # What the connections ask

    def tls(self) -> ssl.SSLContext | None:
        return self._own

    def rule_for(self, asked: Asked) -> Rule | None:
        with self._lock:
            return next((rule for rule in self._rules if rule.takes(asked)), None)

    def connect(self) -> HTTPConnection:
        parts = urlsplit(self.target)
        host, port = parts.hostname or "127.0.0.1", parts.port
        if parts.scheme == "https":
            return HTTPSConnection(host, port, timeout=PATIENCE, context=self._upstream)
        return HTTPConnection(host, port, timeout=PATIENCE)


class Exchange:
    """One request and what becomes of it."""

    def __init__(self, proxy: FaultProxy, handler: _Handler, passed: Passed, rule: Rule | None) -> None:
        self.asked, self.rule = passed.asked, rule
        self._proxy, self._handler, self._passed = proxy, handler, passed

    def pass_on(self, *, plain: bool = False) -> Reply:
        """Asks the server and returns its whole answer, its body as it came; not compressed if `plain`."""
        with self._sent(plain=plain) as answer:
            return Reply(answer.status, _headers(answer), answer.read())

    def reply(self, reply: Reply, *, length: int | None = None) -> None:
        """Answers the client; `length` claims another length of the body than it has."""
        self._handler.begin(reply.status, reply.headers, {"Content-Length": str(length or len(reply.body))})
        if self.asked.method != "HEAD":
            self._handler.wfile.write(reply.body)
        self._handler.wfile.flush()

    def stream(self, lines: Callable[[Iterator[bytes]], Iterator[bytes]] = lambda lines: lines) -> None:
        """Passes an answer on as it comes; `lines` may change the lines of its body."""
        with self._sent(plain=True) as answer:
            self._handler.begin(answer.status, _headers(answer), {"Transfer-Encoding": "chunked"})
            self._handler.wfile.flush()
            for line in lines(iter(answer.readline, b"")):
                self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self._handler.wfile.flush()
            self._handler.wfile.write(b"0\r\n\r\n")
            self._handler.wfile.flush()

    def through(self) -> None:
        """Passes request and answer on."""
        if self.asked.watches:
            self.stream()
        else:
            self.reply(self.pass_on())

    def reset(self) -> None:
        """Ends the client's connection with RST."""
        raise _ResetError

    def hang_up(self) -> None:
        """Ends the client's connection in the usual way."""
        raise _HangUpError

    def hold(self) -> None:
        """Stays silent until the rule is lifted."""
        if self.rule is not None:
            self.rule.lifted.wait()

    @contextmanager
    def _sent(self, *, plain: bool) -> Iterator[HTTPResponse]:
        upstream = self._proxy.connect()
        dropped = OF_THE_HOP | {"host"} | ({"accept-encoding"} if plain else set())
        headers = {name: value for name, value in self.asked.headers.items() if name.lower() not in dropped}
        try:
            if self.asked.watches:
                upstream.timeout = None
            upstream.connect()
            self._handler.server.holds(upstream.sock)
            upstream.request(self.asked.method, self.asked.path, self.asked.body or None, headers)
            answer = upstream.getresponse()
            self._passed.status = answer.status
            yield answer
        except (HTTPException, OSError) as error:
            raise _ResetError from error
        finally:
            upstream.close()


Fault: TypeAlias = Callable[[Exchange], None]


# --- faults ---------------------------------------------------------------------------------------------------------


def reset(exchange: Exchange) -> None:
    """The connection breaks before the server hears of the request."""
    exchange.reset()


def silence(exchange: Exchange) -> None:
    """Nothing comes, for as long as the rule holds; the server hears nothing of it."""
    exchange.hold()
    exchange.reset()


def lost(exchange: Exchange) -> None:
    """The server does what it was asked, and its answer reaches nobody: the connection breaks."""
    exchange.pass_on()
    exchange.reset()


def swallowed(exchange: Exchange) -> None:
    """The server does what it was asked, and its answer reaches nobody: nothing comes."""
    exchange.pass_on()
    exchange.hold()
    exchange.reset()


def through(exchange: Exchange) -> None:
    """No fault: to count requests."""
    exchange.through()


def answer(status: int, body: Json = None, headers: Mapping[str, str] | None = None) -> Fault:
    """The server hears nothing; this is answered. `body`: bytes, or what becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {} if isinstance(body, bytes) else {"Content-Type": "application/json"}
    reply = Reply(status, tuple({**kind, **(headers or {})}.items()), raw)
    return lambda exchange: exchange.reply(reply)


def status_object(code: int, reason: str) -> Json:
    """A refusal in the words of an API server."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**status, "reason": reason, "code": code, "message": f"injected {reason}"}


def kube_status(code: int, reason: str, *, retry_after: int | None = None) -> Fault:
    """Such a refusal as the answer."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return answer(code, status_object(code, reason), headers)


def edit(change: Callable[[Reply], Reply]) -> Fault:
    """The server's answer, changed; its body is not compressed."""
    return lambda exchange: exchange.reply(change(exchange.pass_on(plain=True)))


def edit_json(change: Callable[[Json], Json]) -> Fault:
    """The server's JSON, changed: in place, or by what `change` returns; refusals pass as they are."""

    def changed(reply: Reply) -> Reply:
        if reply.status >= 300:
            return reply
        value = reply.json
        result = change(value)
        return reply.with_json(value if result is None else result)

    return edit(changed)


def truncated(share: float = 0.5) -> Fault:
    """The answer says how long it is, and ends before that."""

    def cut(exchange: Exchange) -> None:
        reply = exchange.pass_on()
        part = reply.body[: int(len(reply.body) * share)]
        exchange.reply(replace(reply, body=part), length=len(reply.body))
        exchange.hang_up()

    return cut


def after(act: Callable[[], object], then: Fault = through) -> Fault:
    """Something happens while the request waits; then it is passed on, or meets another fault."""

    def wait(exchange: Exchange) -> None:
        act()
        then(exchange)

    return wait


def before_the_answer(act: Callable[[], object]) -> Fault:
    """The server has done what it was asked; something happens; then its answer is passed on."""

    def hold_back(exchange: Exchange) -> None:
        reply = exchange.pass_on()
        act()
        exchange.reply(reply)

    return hold_back


def slow(seconds: float) -> Fault:
    """The answer comes late, or at once when the rule is lifted."""

    def late(exchange: Exchange) -> None:
        assert exchange.rule is not None
        exchange.rule.lifted.wait(seconds)
        exchange.through()

    return late


def injected(line: Json) -> Fault:
    """A WATCH in whose stream this line (bytes, or what becomes JSON) comes first; then it goes on."""
    first = (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"

    def lines(rest: Iterator[bytes]) -> Iterator[bytes]:
        yield first
        yield from rest

    return lambda exchange: exchange.stream(lines)


def ended_at_once(exchange: Exchange) -> None:
    """A WATCH that ends as soon as it has begun."""
    exchange.stream(lambda _lines: iter(()))


def cut_in_mid_object(exchange: Exchange) -> None:
    """A WATCH that ends in the middle of its next line."""

    def lines(rest: Iterator[bytes]) -> Iterator[bytes]:
        line = next(rest, b"")
        yield line[: len(line) // 2]
        raise _HangUpError

    exchange.stream(lines)


# --- the server -----------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, port: int, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.proxy = proxy
        self._held: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        self.reset_all()

    def holds(self, connection: socket.socket) -> None:
        with self._lock:
            self._held.add(connection)

    def reset_all(self) -> None:
        with self._lock:
            held, self._held = self._held, set()
        for connection in held:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                # Not through ssl: its own shutdown would wait for the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        tls = self.proxy.tls()
        if tls is not None:
            # The handshake comes with the first read, in the connection's own thread.
            connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.holds(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._held.discard(request)
        with suppress(OSError):
            lingers = request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(RESET)) != RESET
            if lingers:
                socket.socket.shutdown(request, socket.SHUT_WR)
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body leave together
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        proxy = self.server.proxy
        passed = Passed(asked)
        proxy.passed.append(passed)
        rule = proxy.rule_for(asked)
        exchange = Exchange(proxy, self, passed, rule)
        try:
            (rule.fault if rule else through)(exchange)
        except _ResetError:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except _HangUpError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815 - names that http.server looks for

    def begin(self, status: int, headers: Sequence[tuple[str, str]], own: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in (*headers, *own.items()):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _headers(answer: HTTPResponse) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.getheaders() if name.lower() not in OF_THE_HOP]


def _own_certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context
