"""The HTTP server of a running healer: `/metrics`, `/healthz`, `/readyz`, and what else is hung up there."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from threading import Thread
from types import MappingProxyType
from typing import NamedTuple, Protocol

from healer.config import listen_address
from healer.errors import ListenError

_log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""

HealthCheck = Callable[[], tuple[bool, str]]
"""Whether all is well, and a sentence about it."""


class MetricsRenderer(Protocol):
    """What `/metrics` shows."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type, in the format that an Accept header asks for."""


class HttpServer:
    """The HTTP server of one process, in a thread of its own."""

    def __init__(self, sock: socket.socket, quick: Mapping[str, Route], pages: Mapping[str, Route]) -> None:
        """Start answering on a socket that is bound."""
        self.port = int(sock.getsockname()[1])
        """The port it listens on, also where the configuration says 0."""
        self._sock, self._quick, self._pages = sock, quick, pages
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop listening, drop who is connected, and wait for the thread's end. May be called twice."""
        with suppress(RuntimeError):  # the loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception:  # noqa: BLE001 - see below
            # The rim of this thread: whoever finds it dead ends the process, and the log must say why.
            _log.exception("the HTTP server fails")
        finally:
            self._sock.close()
            self._loop.close()

    async def _serve(self) -> None:
        # Imported in this thread: it takes as long as a look at thousands of Pods, and nobody has to wait for it.
        from healer.telemetry.connections import Answering

        answering = Answering(self._quick, self._pages)
        server = await answering.listen(self._sock)
        await self._ending.wait()
        await answering.close(server)


class HttpReply(NamedTuple):
    """What a page answers; more `headers` stand beside the content's own."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = MappingProxyType({})


class HttpRequest(NamedTuple):
    """What is asked of a page: the query, and the headers that a page may want, each empty where it is missing."""

    query: str = ""
    accept: str = ""
    authorization: str = ""
    if_none_match: str = ""


Route = Callable[[HttpRequest], HttpReply]
"""From the request to the answer."""

Guard = Callable[[HttpRequest], "HttpReply | None"]
"""Refuses a request, or returns None where it may be answered."""


def unguarded(_request: HttpRequest) -> HttpReply | None:
    """Refuse nobody."""
    return None


def serve(
    listen: str,
    figures: MetricsRenderer,
    *,
    health: HealthCheck,
    ready: HealthCheck,
    more: Mapping[str, Route] = MappingProxyType({}),
    guard: Guard = unguarded,
) -> HttpServer:
    """Serve `/metrics`, `/healthz`, `/readyz`, and `more` pages by their path, on `host:port`.

    Each of `more` passes the `guard` first, so that none can be added without it; Prometheus and the kubelet need none.

    Raises ListenError when the address is taken or is none of this machine.
    """
    quick: dict[str, Route] = {"/healthz": lambda _: _health(health), "/readyz": lambda _: _health(ready)}
    pages: dict[str, Route] = {path: _guarded(page, guard) for path, page in more.items()}
    pages["/metrics"] = lambda request: HttpReply(HTTPStatus.OK, *figures.render(request.accept))
    paths = " ".join(("/metrics", *quick, *more))
    quick[""] = lambda _: plain(HTTPStatus.NOT_FOUND, f"try {paths}")
    try:
        return HttpServer(_bind(*listen_address(listen)), quick, pages)
    except OSError as error:
        raise ListenError(
            f"can't listen on {listen}: {error.strerror or error}: choose another address with listen (--listen)"
        ) from None


def _guarded(page: Route, guard: Guard) -> Route:
    return lambda request: guard(request) or page(request)


def plain(status: int, text: str) -> HttpReply:
    """Answer with one sentence."""
    return HttpReply(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _health(check: HealthCheck) -> HttpReply:
    good, text = check()
    return plain(200 if good else 503, text)


def _bind(host: str, port: int) -> socket.socket:
    if host:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return _bound(family, host, port)
    try:
        return _bound(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
    return _bound(socket.AF_INET, "", port)  # this machine has no IPv6


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Return a socket that listens: whoever connects from now on is answered as soon as the loop runs."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
