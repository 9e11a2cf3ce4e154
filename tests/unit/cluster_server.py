"""A server under the test's control, for what the real API server can't be made to do at will."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.lab.serving import in_a_thread


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Answer:
    """What to answer. `reset`: break the connection instead. `cut`: end it before the body's end. `wait`: not before
    this is set."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    cut: bool = False
    wait: threading.Event | None = None
    date: float | None = None


Script = Callable[[Seen], Answer]


class Server:
    """Answers as `script` says and remembers what it was asked; use `serving`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.before_handshake: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # A body in a packet of its own would wait for the client's acknowledgement, 40 ms each time.
            disable_nagle_algorithm = True

            def setup(self) -> None:
                if isinstance(self.request, ssl.SSLSocket):
                    outer.before_handshake()
                    self.request.do_handshake()
                super().setup()

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                seen = Seen(self.command, self.path, dict(self.headers), json.loads(raw) if raw else None)
                outer.seen.append(seen)
                self.reply(outer.script(seen))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def reply(self, answer: Answer) -> None:
                if answer.wait is not None:
                    answer.wait.wait(30)
                if answer.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.close_connection = True
                    self.connection.close()
                    return
                raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response_only(answer.status)
                self.send_header("Date", formatdate(answer.date, usegmt=True))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw) + answer.cut))
                self.close_connection = self.close_connection or answer.cut
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                return

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                return  # a client that gave up

        self.http = Listener(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return int(self.http.server_address[1])

    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]


@contextmanager
def serving(script: Script, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(script)
    if tls is not None:
        server.http.socket = tls.wrap_socket(server.http.socket, server_side=True, do_handshake_on_connect=False)
    with in_a_thread(server.http, poll_interval=0.02):
        yield server


def write_kubeconfig(path: Path, server: str, *, ca: Path | None = None, **user: Any) -> Path:
    """Write a kubeconfig with the context `fake`."""
    cluster = {"server": server} | ({"certificate-authority": str(ca)} if ca else {})
    context = {"cluster": "fake", "user": "fake", "namespace": "home"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": cluster}],
        "users": [{"name": "fake", "user": user or {"token": "secret"}}],
        "contexts": [{"name": "fake", "context": context}],
        "current-context": "fake",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def raw_pod(name: str = "p", **metadata: Any) -> dict[str, Any]:
    """A small Pod as the API server writes it."""
    labels = {"kubernetes_pod_operator": "True", "dag_id": "d", "task_id": "t", "run_id": "r", "try_number": "1"}
    made = {"name": name, "namespace": "a", "uid": f"uid-{name}", "resourceVersion": "7", "labels": labels}
    return {
        "metadata": {**made, "creationTimestamp": "2026-01-01T00:00:00Z", **metadata},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "base"}]},
        "status": {"phase": "Running"},
    }


def page(*pods: dict[str, Any], version: str = "100", token: str = "") -> dict[str, Any]:
    return {"kind": "PodList", "metadata": {"resourceVersion": version, "continue": token}, "items": list(pods)}
