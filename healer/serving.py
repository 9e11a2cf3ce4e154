"""The HTTP server of a running healer: `/metrics`, `/healthz`, `/readyz`, and what else is hung up there."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Thread
from types import MappingProxyType
from typing import NamedTuple, Protocol

from healer.config import listen_address

_log = logging.getLogger(__name__)

SLOWEST_CLIENT = 10.0
"""Seconds after which a client that sends or takes nothing is dropped."""

Check = Callable[[], tuple[bool, str]]
"""Whether all is well, and a sentence about it."""


class ListenError(Exception):
    """The address can't be listened on; the text says what to do."""


class Figures(Protocol):
    """What `/metrics` shows."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type, in the format that an Accept header asks for."""


class Server:
    """The HTTP server of one process, in threads of its own."""

    def __init__(self, http: ThreadingHTTPServer) -> None:
        """Start answering."""
        self._http = http
        self._thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.5}, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on, also where the configuration says 0."""
        return int(self._http.server_address[1])

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop listening and wait for the thread's end."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Reply(NamedTuple):
    """What a page answers; more `headers` stand beside the content's own."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = MappingProxyType({})


Page = Callable[[str, str], Reply]
"""From the Accept header and the query to the answer."""


def serve(
    listen: str, figures: Figures, *, health: Check, ready: Check, more: Mapping[str, Page] = MappingProxyType({})
) -> Server:
    """Serve `/metrics`, `/healthz`, `/readyz`, and `more` pages by their path, on `host:port`.

    Raises ListenError when the address is taken or is none of this machine.
    """
    routes: dict[str, Page] = {
        "/metrics": lambda accept, _query: Reply(200, *figures.render(accept)),
        "/healthz": lambda *_: _verdict(health),
        "/readyz": lambda *_: _verdict(ready),
        **more,
    }
    try:
        return Server(_bind(*listen_address(listen), routes))
    except OSError as error:
        raise ListenError(
            f"can't listen on {listen}: {error.strerror or error}: choose another address with listen (--listen)"
        ) from None


def plain(status: int, text: str) -> Reply:
    """Answer with one sentence."""
    return Reply(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _verdict(check: Check) -> Reply:
    good, text = check()
    return plain(200 if good else 503, text)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = SLOWEST_CLIENT

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        page = self.server.routes.get(path)
        accept = self.headers.get("Accept", "")
        reply = page(accept, query) if page else plain(404, f"try {' '.join(self.server.routes)}")
        self.send_response(reply.status)
        about = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}
        for name, value in (about | dict(reply.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class calls it so
        """Say nothing: probes and scrapes would drown the log."""


class _Http(ThreadingHTTPServer):
    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], routes: Mapping[str, Page]) -> None:
        self.address_family = family
        self.routes = routes
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the base class's look-up of our own name, which waits for a DNS server."""
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 as the base class has it
        """Say nothing about clients that hang up."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("a page could not be served")


def _bind(host: str, port: int, routes: Mapping[str, Page]) -> _Http:
    if host:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return _Http(family, (host, port), routes)
    try:
        return _Http(socket.AF_INET6, ("::", port), routes)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
    return _Http(socket.AF_INET, ("", port), routes)  # this machine has no IPv6
