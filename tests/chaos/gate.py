"""A gate between one kpo-healer and a server: everything passes, until it is told to fail in one of the usual ways.

Plain TCP for Airflow, with TLS ended and begun anew for the API server, so that faults can be told in HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

FAULTS: Final = ("refused", "reset", "stall", "500", "502", "truncated")
"""No listener; connections torn; nothing passes and nothing is closed; answers of a server in trouble; half answers."""

_TOLD: Final = {
    "500": (b"500 Internal Server Error", b"application/json", b'{"detail":"chaos"}'),
    "502": (b"502 Bad Gateway", b"text/html", b"<html><body>Bad Gateway</body></html>"),
}


class Gate:
    """Listens on a free port of 127.0.0.1; a context manager. `url` is what the client is told."""

    def __init__(self, target: str, *, tls: tuple[Path, Path, Path] | None = None) -> None:
        """`tls`: certificate and key to show to the client, and the authority that the server is checked against."""
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._scheme, self._inner, self._outer = parts.scheme, None, None
        if tls is not None:
            certificate, key, authority = tls
            self._inner = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._inner.load_cert_chain(certificate, key)
            self._outer = ssl.create_default_context(cafile=str(authority))
        self.fault: str | None = None
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._port}"

    def __enter__(self) -> Gate:
        self._thread.start()
        self._call(self._set(None))
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, fault: str | None) -> None:
        """One of FAULTS from now on, None for none."""
        self._call(self._set(fault))

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    async def _set(self, fault: str | None) -> None:
        self.fault = fault
        self._flowing.clear() if fault == "stall" else self._flowing.set()
        if fault == "refused":
            await self._close()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._inner)
            self._port = self._server.sockets[0].getsockname()[1]
        if fault in {"refused", "reset"}:
            self._tear()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end(self) -> None:
        await self._close()
        self._tear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tear(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):  # asyncio would print a cancelled connection's traceback
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target
        theirs, ours = await asyncio.open_connection(host, port, ssl=self._outer)
        self._writers.add(ours)
        ways = [
            asyncio.ensure_future(self._ask(reader, ours, writer)),
            asyncio.ensure_future(self._tell(theirs, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            ours.transport.abort()
            self._writers.discard(ours)

    async def _ask(self, reader: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """From the client to the server."""
        while data := await reader.read(65536):
            await self._flowing.wait()
            if self.fault == "stall" or reader.at_eof() or reader.exception() is not None:
                return  # whoever asked has given up: a question that is delivered now would be a ghost's
            if self.fault == "reset":
                return
            if told := _TOLD.get(self.fault or ""):
                await _answer(back, *told)
                return
            sink.write(data)
            await sink.drain()

    async def _tell(self, reader: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """From the server to the client."""
        while data := await reader.read(65536):
            await self._flowing.wait()
            if self.fault == "truncated":
                sink.write(data[: len(data) // 2])
                await sink.drain()
                return
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof() if sink.can_write_eof() else None


async def _answer(writer: asyncio.StreamWriter, status: bytes, kind: bytes, body: bytes) -> None:
    length = str(len(body)).encode()
    writer.write(
        b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\nContent-Length: " + length
        + b"\r\nConnection: close\r\n\r\n" + body
    )  # fmt: skip
    await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
