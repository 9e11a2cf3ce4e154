"""A small world for the command line: a Pod whose task has failed, an API server and an Airflow that know of it.

Both are only as real as their answers; what they are good for is to be wrong in ways real ones can't be made to be.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from healer.cli import main
from healer.telemetry.logs import AUDIT
from tests.lab.serving import in_a_thread
from tests.unit.cluster_server import page, raw_pod, write_kubeconfig

JSON = "application/json"

ROW = {
    "id": "0190c0de-0000-7000-8000-000000000001",
    "dag_id": "d",
    "dag_run_id": "r",
    "task_id": "t",
    "map_index": -1,
    "state": "failed",
    "try_number": 1,
    "operator": "KubernetesPodOperator",
    "start_date": "2026-01-01T00:00:00Z",
    "end_date": "2026-01-01T00:00:05Z",
    "rendered_fields": {},
}


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    body: Any


@dataclass(frozen=True)
class Answer:
    """What to answer; `reset` breaks the connection off instead."""

    status: int = 200
    body: Any = b""
    kind: str = JSON
    location: str | None = None
    reset: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


Script = Callable[[Seen], Answer]


class Server(ThreadingHTTPServer):
    """Answers as its script says and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script, self.seen = script, list[Seen]()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about clients that give up: that is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # A body in a packet of its own would wait for the client's acknowledgement, 40 ms each time.
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(self.command, self.path, json.loads(raw) if raw else None)
        self.server.seen.append(seen)
        reply = self.server.script(seen)
        if reply.reset:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.location:
            self.send_header("Location", reply.location)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def serving(script: Script, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server while the block lasts."""
    server = Server(script)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    with in_a_thread(server, poll_interval=0.02):
        yield server


def answer(status: int, body: object) -> Answer:
    return Answer(status, body)


def missing(detail: str) -> Answer:
    return answer(404, {"detail": detail})


def good_airflow(seen: Seen) -> Answer:
    """Answer as an Airflow 3.3 that knows the one task instance."""
    path = seen.path.partition("?")[0]
    if path == "/auth/token":
        return answer(201, {"access_token": "a.b.c"})
    if path.endswith("/version"):
        return answer(200, {"version": "3.3.2"})
    if path.endswith("/taskInstances/list"):
        rows = [ROW] if "d" in (seen.body or {}).get("dag_ids", []) else []
        return answer(200, {"task_instances": rows, "total_entries": len(rows)})
    if path.endswith("/dags"):
        return answer(200, {"dags": [{"dag_id": "d"}], "total_entries": 1})
    if path.endswith("/dagRuns"):
        return answer(200, {"dag_runs": [{"dag_run_id": "r", "dag_id": "d"}], "total_entries": 1})
    if "/state-store/" in path:
        return missing("Task state store key 'pod_identifier' not found")
    if "/xcomEntries/" in path:
        return missing(f"XCom entry with key: `{path.rpartition('/')[2]}` not found")
    return answer(200, ROW)


def with_row(changes: dict[str, Any], seen: Seen) -> Answer:
    """Answer as the good Airflow does, but with another task instance."""
    reply = good_airflow(seen)
    if isinstance(reply.body, dict) and reply.body.get("task_instances"):
        return answer(200, reply.body | {"task_instances": [ROW | changes]})
    return answer(200, ROW | changes) if reply.body == ROW else reply


def written(lease: Any) -> Any:
    """Return a Lease as the API server would have written it."""
    version = str(int(lease["metadata"].get("resourceVersion", 0)) + 1)
    return lease | {"metadata": lease["metadata"] | {"resourceVersion": version}}


GIVEN_AWAY = {
    "metadata": {"name": "kpo-healer", "resourceVersion": "7"},
    "spec": {"holderIdentity": None, "leaseDurationSeconds": 15, "leaseTransitions": 1},
}
"""The Lease as the last leader left it."""


def kubernetes(seen: Seen) -> Answer:
    """Answer as an API server with the one Pod, where everything is allowed."""
    path = seen.path.partition("?")[0]
    if path == "/version":
        return answer(200, {"gitVersion": "v1.36.3"})
    if path.endswith("/selfsubjectaccessreviews"):
        return answer(201, {"status": {"allowed": True}})
    if path.endswith("/selfsubjectreviews"):
        return answer(201, {"status": {"userInfo": {"username": "system:serviceaccount:ops:healer"}}})
    if "/leases" in path:
        return answer(200, GIVEN_AWAY if seen.method == "GET" else written(seen.body))
    if path.endswith(("/namespaces/a", "/namespaces/b")):
        return answer(200, {"kind": "Namespace"})
    if path.endswith("/pods") and "labelSelector" not in seen.path:
        return answer(200, page(raw_pod()))
    if path.endswith("/pods"):
        return answer(200, page(raw_pod()) if "/namespaces/a/" in path else page())
    if path.endswith("/pods/p"):
        return answer(200, raw_pod())
    return missing("not found") if seen.method == "GET" else answer(200, {})


@dataclass
class Outcome:
    """What a command answered."""

    code: int
    out: str
    err: str


@dataclass
class World:
    """The servers, and how to run a command against them."""

    folder: Path
    cluster: Server
    airflow_url: str
    capture: pytest.CaptureFixture[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def config(self, **changes: Any) -> Path:
        """Write a configuration that acts at once in enforce mode, so that a mistake would show as a DELETE."""
        airflow = {
            "name": "prod",
            "namespaces": ["a"],
            "ownership": "exclusive",
            "url": self.airflow_url,
            "username": "healer",
            "password": "secret",
            "timeout": "400ms",
            "policy": {"minAge": "0s", "grace": "0s", "sightings": 1},
        }
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump({"mode": "enforce", "airflows": [airflow | self.settings | changes]}))
        return path

    def run(self, *arguments: str, config: Path | None = None, env: Mapping[str, str] | None = None) -> Outcome:
        """Run a command in this process, with a configuration unless it brings its own."""
        chosen = () if "--config" in arguments or env else ("--config", str(config or self.config()))
        kubeconfig = () if "--kubeconfig" in arguments else ("--kubeconfig", str(self.folder / "kubeconfig"))
        return kpo_healer(self.capture, *arguments, *chosen, *kubeconfig, env=env)

    @property
    def deletions(self) -> int:
        """How many DELETEs the API server was sent."""
        return self.cluster.methods().count("DELETE")


def kpo_healer(capture: pytest.CaptureFixture[str], *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
    """Run the command line in this process."""
    capture.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("KPO_HEALER_")]:
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    out, err = capture.readouterr()
    return Outcome(int(ended.value.code or 0), out, err)


@contextmanager
def world(
    folder: Path, capture: pytest.CaptureFixture[str], airflow: Script = good_airflow, cluster: Script = kubernetes
) -> Iterator[World]:
    """Bring up both servers."""
    with serving(cluster) as api, serving(airflow) as web:
        write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{api.port}")
        yield World(folder, api, f"http://127.0.0.1:{web.port}", capture)


@contextmanager
def undisturbed_logging() -> Iterator[None]:
    """Undo what a command does to this process's logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in AUDIT}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        structlog.reset_defaults()
