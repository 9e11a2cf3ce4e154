"""A small healer for tests of the page: serves what the contract says (docs/airflow-ui.md), and as much as is wanted.

`FakeHealer.start(world)`; replace `world` or `behaviour` at any time. Counts what is asked.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Behaviour = Literal["new", "old", "standby", "error", "garbage", "off"]
"""new: as the contract says. old: neither history, status nor filters. off: findings are not served."""


@dataclass
class World:
    """What the healer tells. history None: it keeps none."""

    findings: list[dict[str, Any]] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] | None = None
    status: dict[str, Any] = field(default_factory=lambda: {"airflows": [{"airflow": "default", "mode": "enforce"}]})
    looked: str = "Mon, 30 Nov 2026 12:00:00 GMT"
    complete_since: str = "2026-11-01T00:00:00Z"
    incomplete: str = ""

    def __post_init__(self) -> None:
        self.written = {name: json.dumps(getattr(self, name)).encode() for name in ("findings", "notices", "status")}
        self.written["history"] = json.dumps(self.history).encode()


class FakeHealer:
    """An HTTP server in a thread."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.behaviour: Behaviour = "new"
        self.token = ""
        self.asked: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> FakeHealer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reply(self, target: str, headers: Any) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        name = parts.path.strip("/")
        self.asked[name] += 1
        if self.token and headers["Authorization"] != f"Bearer {self.token}":
            return 401, b"a token is needed\n", {}
        if self.behaviour in {"standby", "error", "garbage"}:
            return {
                "standby": (503, b"ask the leader\n", {}),
                "error": (500, b"", {}),
                "garbage": (200, b"<html>", {}),
            }[self.behaviour]
        return self._page(name, query, headers)

    def _page(self, name: str, query: dict[str, str], headers: Any) -> tuple[int, bytes, dict[str, str]]:
        world, old = self.world, self.behaviour == "old"
        missing = self.behaviour == "off" or (old and name in {"history", "status"})
        if missing or name not in world.written or (name == "history" and world.history is None):
            return 404, b"try /metrics\n", {}
        if old and name == "findings" and query.keys() - {"all", "pod"}:
            return 400, b"unknown parameter\n", {}
        about = {"Last-Modified": world.looked}
        if not old:
            about["ETag"] = f'"{world.looked}"'
        if headers["If-None-Match"] == about.get("ETag", ""):
            self.asked["not-modified"] += 1
            return 304, b"", about
        if name == "history":
            about["Kpo-Healer-Since"] = world.complete_since
        if name == "findings" and world.incomplete:
            about["Kpo-Healer-Incomplete"] = world.incomplete
        return 200, world.written[name], about


def _handler(healer: FakeHealer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = healer.reply(self.path, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
