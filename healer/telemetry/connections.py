"""The connections of the HTTP server: one event loop, few at a time, each with a deadline for the whole exchange.

aiohttp parses and writes. What it has no bounds for stands here: how many connections there may be, how long one may
take to ask, and how long to take the answer. Who has asked nothing yet is dropped first, so that a probe is answered
however many connections are open. One request per connection: nobody keeps one alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from healer.telemetry.http_server import HttpRequest

ASKING = 256
"""Connections that may be open without a complete request."""

ANSWERING = 512
"""Connections whose answer is being made or written."""

ASK_WITHIN = 5.0
"""Seconds from the connection to the end of its request's headers."""

TAKE_WITHIN = 30.0
"""Seconds from the connection to the end of the answer: Prometheus waits for 10 by default."""

ABOUT_TO_ASK = 1.0
"""Seconds that a new connection may say nothing without being the first to go."""

LONGEST_HEAD = 16 << 10
"""Bytes of a request line with its headers."""

PAGES = 2
"""Pages whose body is in memory at a time: one with all findings may have many megabytes."""

SLOW_TAKER = 2.0
"""Seconds of writing after which a page makes room for one that waits."""

HEADERS = ("Accept", "Authorization", "If-None-Match")
"""What a page is told of a request, in the order of `HttpRequest`."""

LOOK_AGAIN = 0.05
TURNS = 0.05
"""Seconds in which the loop takes many turns."""
UNTIL_SET_UP = 5
"""Turns of the loop from the acceptance of a connection until it is one of the crowd: asyncio takes three."""

CLOSING = 0.5
"""Seconds that connections get to end when the server stops."""

_log = logging.getLogger(__name__)


class HttpAnswer(Protocol):
    """What a page answers."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def body(self) -> bytes:
        """All of it."""

    @property
    def content_type(self) -> str:
        """What it is."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Further headers."""


Page: TypeAlias = Callable[[HttpRequest], HttpAnswer]
"""From the request to the answer."""


class ConnectionLimit:
    """The open connections of one server. Used in its loop only."""

    def __init__(self) -> None:
        """Start with none."""
        self.silent: dict[HttpConnection, None] = {}
        self.talking: dict[HttpConnection, None] = {}
        self.answering: dict[HttpConnection, None] = {}
        self.writing: dict[HttpConnection, float] = {}
        """Since when a page is written, 0 while it is made."""
        self.open: set[HttpConnection] = set()
        """All whose sockets are not closed yet, those that were dropped included."""

    def make_room(self) -> None:
        """Drop whoever has said nothing for a while, else who came first: who has just come may be about to ask."""
        while len(self.silent) + len(self.talking) > ASKING:
            idle, first = next(iter(self.silent), None), next(iter(self.talking), None)
            if idle is not None and (first is None or idle.age() > ABOUT_TO_ASK or idle.began < first.began):
                idle.drop()
            elif first is not None:
                first.drop()
        while len(self.answering) > ANSWERING:
            next(iter(self.answering)).drop()

    def leave(self, connection: HttpConnection) -> None:
        """Forget a connection."""
        for group in (self.silent, self.talking, self.answering, self.writing):
            group.pop(connection, None)


class HttpConnection(RequestHandler):
    """One connection, closed when it takes too long, sends too much, or has to make room."""

    def __init__(self, server: web.Server, crowd: ConnectionLimit, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=0,
            lingering_time=0,
            logger=_log,
            access_log=None,  # type: ignore[arg-type]
        )
        self._crowd, self._received, self.began = crowd, 0, loop.time()
        self._deadline: asyncio.TimerHandle | None = None

    def age(self) -> float:
        """Return the seconds since it was accepted."""
        return self._loop.time() - self.began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for its request."""
        super().connection_made(transport)
        self._crowd.open.add(self)
        self._crowd.silent[self] = None
        self._deadline = self._loop.call_later(ASK_WITHIN, self.drop)
        self._crowd.make_room()

    def data_received(self, data: bytes) -> None:
        """Take a part of the request."""
        if self in self._crowd.silent:
            del self._crowd.silent[self]
            self._crowd.talking[self] = None
        self._received += len(data)
        if self._received > LONGEST_HEAD:
            self.drop()
        else:
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that has asked and will send nothing more."""
        return self._request_count > 0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self._crowd.leave(self)
        self._crowd.open.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def asked(self) -> None:
        """Note that its request is complete: from now on it has time to take the answer."""
        self._crowd.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(TAKE_WITHIN, self.drop)
        self._crowd.answering[self] = None
        self._crowd.make_room()

    def drop(self) -> None:
        """Close it at once; what was not sent yet is lost."""
        self._crowd.leave(self)
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


class Answering:
    """Answers requests by their path: what is quick in the loop, pages in threads of their own."""

    def __init__(self, quick: Mapping[str, Page], pages: Mapping[str, Page]) -> None:
        """Take what is answered at once whatever else goes on, and what takes longer."""
        self._quick, self._pages = quick, pages
        self._crowd = ConnectionLimit()
        self._makers = ThreadPoolExecutor(PAGES, "http-page")

    async def listen(self, sock: Any) -> asyncio.Server:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        server = web.Server(self._answer)
        return await loop.create_server(lambda: HttpConnection(server, self._crowd, loop), sock=sock, backlog=1024)

    async def close(self, server: asyncio.Server) -> None:
        """Stop listening, drop all connections, and wait for a moment for their ends."""
        # A connection that is accepted and not set up when asyncio's server closes is lost, and its client waits in
        # vain (its `_attach` fails, unheard). So no more are accepted first, and those that are become connections.
        for sock in server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for _ in range(UNTIL_SET_UP):
            await asyncio.sleep(0)
        server.close()
        for connection in list(self._crowd.open):
            connection.drop()
        self._makers.shutdown(wait=False, cancel_futures=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSING)
        until = asyncio.get_running_loop().time() + CLOSING
        while self._crowd.open and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(TURNS)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, HttpConnection)  # noqa: S101 - for the type checker: `listen` makes no others
        connection.asked()
        try:
            return await self._sent(request, connection)
        finally:
            self._crowd.writing.pop(connection, None)

    async def _sent(self, request: web.BaseRequest, connection: HttpConnection) -> web.StreamResponse:
        """Make the answer and write it, so that a page counts as open until it is taken."""
        status, body, about = await self._made(request, connection)
        response = web.Response(status=status, body=body, headers={"Server": "kpo-healer", **about})
        response.force_close()
        if connection in self._crowd.writing:
            self._crowd.writing[connection] = asyncio.get_running_loop().time()
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _made(self, request: web.BaseRequest, connection: HttpConnection) -> tuple[int, bytes, dict[str, str]]:
        if request.method != "GET":
            return 405, b"only GET is answered here\n", {"Content-Type": "text/plain; charset=utf-8", "Allow": "GET"}
        try:
            reply = await self._reply(request, connection)
        except Exception:  # noqa: BLE001 - see below
            # The rim of the server: a page with a bug must not cost the others theirs.
            _log.exception("a page could not be served")
            return 500, b"this page can't be served: the log says why\n", {"Content-Type": "text/plain; charset=utf-8"}
        return reply.status, reply.body, {"Content-Type": reply.content_type, **reply.headers}

    async def _reply(self, request: web.BaseRequest, connection: HttpConnection) -> HttpAnswer:
        asked = HttpRequest(request.rel_url.raw_query_string, *(request.headers.get(name, "") for name in HEADERS))
        page = self._pages.get(request.path)
        if page is None:
            return self._quick.get(request.path, self._quick[""])(asked)
        await self._turn(connection)
        return await asyncio.get_running_loop().run_in_executor(self._makers, page, asked)

    async def _turn(self, connection: HttpConnection) -> None:
        """Wait until few enough pages are in memory; who takes a page too slowly makes room."""
        writing, loop = self._crowd.writing, asyncio.get_running_loop()
        while len(writing) >= PAGES:
            slow = next((c for c, since in writing.items() if since and loop.time() - since > SLOW_TAKER), None)
            if slow is not None:
                slow.drop()
            else:
                await asyncio.sleep(LOOK_AGAIN)
        writing[connection] = 0.0
