"""A door between kpo-healer and Airflow: everything passes, and the lab can act while a request waits in it.

What happens between a judgement and the DELETE that follows from it is otherwise a matter of luck.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import unquote

import httpx

_OF_THE_HOP: Final = {"connection", "transfer-encoding", "content-length", "host", "keep-alive", "date", "server"}


@dataclass
class _Watcher:
    part: str
    listed: Sequence[str]
    act: Callable[[], object]
    left: int

    def is_met(self, path: str, body: bytes) -> bool:
        is_listed = bool(self.listed) and all(text.encode() in body for text in self.listed)
        return is_listed or self.part in f"{unquote(path)} "


class Door:
    """An HTTP proxy for one server; a context manager."""

    def __init__(self, target: str) -> None:
        self._client = httpx.Client(base_url=target, timeout=120, trust_env=False)
        self._watchers: list[_Watcher] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Door:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._client.close()

    def once(self, part: str, act: Callable[[], object], *, after: int = 0, listed: Sequence[str] = ()) -> None:
        """Calls `act` when a request comes whose decoded path holds `part`, before it is passed on.

        The first time, or `after` so many others. A blank at the end of `part` stands for the end of the path.
        listed: a request counts too whose body holds all of these.
        """
        with self._lock:
            self._watchers.append(_Watcher(part, listed, act, after))

    def _due(self, path: str, body: bytes) -> list[_Watcher]:
        with self._lock:
            met = [watcher for watcher in self._watchers if watcher.is_met(path, body)]
            due = [watcher for watcher in met if watcher.left == 0]
            for watcher in met:
                watcher.left -= 1
            self._watchers = [watcher for watcher in self._watchers if watcher not in due]
        return due

    def pass_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[httpx.Response, bytes]:
        """The server's answer and its body, compressed or not as it came."""
        for watcher in self._due(path, body):
            watcher.act()
        self._client.cookies.clear()  # a session is its owner's alone
        with self._client.stream(method, path, headers=headers, content=body) as answer:
            return answer, b"".join(answer.iter_raw())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_THE_HOP}
                answer, content = door.pass_on(self.command, self.path, headers, body)
                self.send_response_only(answer.status_code)
                for name, value in answer.headers.multi_items():
                    if name.lower() not in _OF_THE_HOP - {"date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = _pass  # noqa: N815 - names that http.server looks for

            def log_message(self, *_: object) -> None:
                pass

        return Handler
