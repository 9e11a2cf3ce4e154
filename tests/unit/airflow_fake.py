"""A pretended Airflow API server, for what a real one does only on its bad days: faults, lies and odd versions.

What a healthy Airflow answers is tested against a real one (tests/airflow); this one knows just enough of it to make
the faults meaningful.
"""

from __future__ import annotations

import base64
import gzip
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from healer.airflow import Airflow, Call
from healer.config import AirflowConfig
from healer.decision.labels import safe_label
from healer.model import Labels, Pod
from tests.lab.serving import in_a_thread
from tests.unit.airflow_front2 import Front2

RUN = "scheduled__2026-01-01T00:00:00+00:00"
API = "/api/v2"
START = 1767225610.0
"""2026-01-01T00:00:10Z, a little after the rows' start."""


@dataclass(frozen=True)
class Asked:
    """A request as the server saw it."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    token: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def is_list(self) -> bool:
        return self.path.endswith("/taskInstances/list")


@dataclass
class Reply:
    """What the server answers. `fault`: reset, cut (half the body), or hang (nothing)."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def error(status: int, detail: Any) -> Reply:
    return Reply(status, {"detail": detail})


def row(dag: str = "d", task: str = "t", run: str = RUN, map_index: int = -1, **fields: Any) -> dict[str, Any]:
    """A task instance as Airflow lists it."""
    return {
        "id": f"{dag}-{run}-{task}-{map_index}",
        "dag_id": dag,
        "dag_run_id": run,
        "task_id": task,
        "map_index": map_index,
        "state": "running",
        "try_number": 1,
        "operator": "KubernetesPodOperator",
        "start_date": "2026-01-01T00:00:01.500000Z",
        "end_date": None,
        "rendered_fields": {"namespace": "jobs", "base_container_name": "base"},
        **fields,
    }


def pod(dag: str = "d", task: str = "t", run: str = RUN, map_index: int = -1, **fields: Any) -> Pod:
    """A Pod that KPO would have made for this task instance's first try."""
    index = None if map_index < 0 else str(map_index)
    name = safe_label(f"{dag}-{task}-{run}-{map_index}").lower().replace("_", "-")
    labels = Labels(safe_label(dag), safe_label(task), safe_label(run), index, "1")
    defaults: dict[str, Any] = {
        "namespace": "jobs",
        "name": name,
        "uid": f"uid-{name}",
        "resource_version": "1",
        "created": 1767225602.0,
        "phase": "Running",
        "labels": labels,
    }
    return Pod(**(defaults | fields))


def jwt(lifetime: int, number: int = 0) -> str:
    """A token that says how long it lives, as Airflow's do."""
    claims = base64.urlsafe_b64encode(json.dumps({"iat": 1000, "exp": 1000 + lifetime, "n": number}).encode())
    return f"e30.{claims.decode().rstrip('=')}.sig"


class FakeAirflow:
    """The server's world; tests change its attributes at will.

    rows: its task instances. dags, runs: what exists besides these. intercept: may answer in its stead.
    clamp: rows it gives at a time. clock: what it says the time is, None for nothing.
    named: state store and XCom by (source, task id). pushed: when each XCom was (Airflow 2). A version of 2.x makes it
    speak as Airflow 2 does (`airflow_front2`); what it was asked is kept in the words of Airflow 3.
    """

    def __init__(self) -> None:
        self.version = "3.3.2"
        self.rows: list[dict[str, Any]] = []
        self.dags: set[str] = set()
        self.runs: set[tuple[str, str]] = set()
        self.tasks: dict[str, list[str]] = {}
        self.named: dict[tuple[str, str], Any] = {}
        self.pushed = "2026-01-01T00:00:05.000000+00:00"
        self.clamp = 10**9
        self.clock: float | None = START
        self.password = "secret-password"
        self.tokens: set[str] | None = None
        self.token_lifetime = 86400
        self.logins = 0
        self.asked: list[Asked] = []
        self.intercept: Callable[[Asked], Reply | None] = lambda _: None
        self.url = ""
        self.released = threading.Event()

    def paths(self, *, part: str = "") -> list[str]:
        return [asked.path for asked in self.asked if part in asked.path]

    def lists(self) -> list[Any]:
        return [asked.body for asked in self.asked if asked.is_list]

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        reply = self.intercept(asked)
        if reply is not None:
            return reply
        if asked.path == f"{API}/version":
            return Reply(body={"version": self.version})
        if asked.path == "/auth/token":
            return self._login(asked)
        if self.tokens is not None and asked.token not in self.tokens:
            return error(403, "Invalid JWT token")
        return self._route(asked, [unquote(part) for part in asked.path.removeprefix(f"{API}/").split("/")])

    def _login(self, asked: Asked) -> Reply:
        if asked.body["password"] != self.password:
            return error(401, "Invalid credentials")
        self.logins += 1
        token = jwt(self.token_lifetime, self.logins)
        if self.tokens is not None:
            self.tokens.add(token)
        return Reply(201, {"access_token": token})

    def _route(self, asked: Asked, parts: list[str]) -> Reply:
        if asked.is_list:
            return self._listed(asked.body)
        match parts:
            case ["dags"]:
                return self._page("dags", "dag_id", sorted(self._dags()), asked)
            case ["dags", dag]:
                return Reply(body={"dag_id": dag}) if dag in self._dags() else self._no_dag(dag)
            case ["dags", dag, "tasks"]:
                names = self.tasks.get(dag, sorted({r["task_id"] for r in self.rows if r["dag_id"] == dag}))
                return Reply(body={"tasks": [{"task_id": name} for name in names]})
            case ["dags", dag, "dagRuns"]:
                return self._page("dag_runs", "dag_run_id", [r for d, r in sorted(self._runs()) if d == dag], asked)
            case ["dags", dag, "dagRuns", run]:
                return self._run(dag, run)
            case ["dags", dag, "dagRuns", run, "taskInstances", *rest]:
                return self._below_run(asked, dag, run, rest)
        return error(404, "Not Found")

    def _below_run(self, asked: Asked, dag: str, run: str, rest: list[str]) -> Reply:
        match rest:
            case []:
                return self._of_run(dag, run, asked)
            case [task, "state-store", "pod_identifier"]:
                return self._named("state", task, "Task state store key 'pod_identifier' not found")
            case [task, "xcomEntries", key]:
                return self._named(key, task, f"XCom entry with key: `{key}` not found")
            case [task, index]:
                return self._single(dag, run, task, int(index))
        return error(404, "Not Found")

    def _dags(self) -> set[str]:
        return self.dags | {r["dag_id"] for r in self.rows}

    def _runs(self) -> set[tuple[str, str]]:
        return self.runs | {(r["dag_id"], r["dag_run_id"]) for r in self.rows}

    def _no_dag(self, dag: str) -> Reply:
        return error(404, f"The Dag with ID: `{dag}` was not found")

    def _run(self, dag: str, run: str) -> Reply:
        if (dag, run) in self._runs():
            return Reply(body={"dag_run_id": run})
        return error(404, f"The DagRun with dag_id: `{dag}` and run_id: `{run}` was not found")

    def _listed(self, body: Any) -> Reply:
        columns = {"dag_ids": "dag_id", "dag_run_ids": "dag_run_id", "task_ids": "task_id", "state": "state"}
        found = [r for r in self.rows if all(r.get(c) in body[k] for k, c in columns.items() if body.get(k))]
        since = body.get("end_date_gte")
        if since:
            found = [r for r in found if r["end_date"] and r["end_date"] >= since[:19]]
        return self._rows(found, body["page_limit"])

    def _of_run(self, dag: str, run: str, asked: Asked) -> Reply:
        query = dict(asked.query)
        indices = {int(value) for key, value in asked.query if key == "map_index"}
        wanted = {"dag_id": dag, "dag_run_id": run, "task_id": query.get("task_id", "~")}
        found = [r for r in self.rows if all(value in ("~", r[key]) for key, value in wanted.items())]
        found = [r for r in found if (not indices or r["map_index"] in indices) and "pool" not in query]
        start = int(query.get("offset", 0))
        shown = found[start : start + min(int(query.get("limit", 50)), 100, self.clamp)]
        return Reply(body={"task_instances": shown, "total_entries": len(found)})

    def _rows(self, found: list[dict[str, Any]], limit: int) -> Reply:
        return Reply(body={"task_instances": found[: min(limit, self.clamp)], "total_entries": len(found)})

    def _single(self, dag: str, run: str, task: str, index: int) -> Reply:
        for r in self.rows:
            if (r["dag_id"], r["dag_run_id"], r["task_id"], r["map_index"]) == (dag, run, task, index):
                return Reply(body=r)
        return missing(dag, run, task, index)

    def _named(self, source: str, task: str, otherwise: str) -> Reply:
        value = self.named.get((source, task))
        return error(404, otherwise) if value is None else Reply(body={"key": source, "value": value})

    def _page(self, key: str, column: str, ids: list[str], asked: Asked) -> Reply:
        query = dict(asked.query)
        start, limit = int(query.get("offset", 0)), min(int(query.get("limit", 50)), self.clamp)
        shown = [{column: one} for one in ids[start : start + limit]]
        return Reply(body={key: shown, "total_entries": len(ids)})


def missing(dag: str, run: str, task: str, index: int = -1) -> Reply:
    return error(
        404,
        f"The Mapped Task Instance with dag_id: `{dag}`, run_id: `{run}`, task_id: `{task}`, "
        f"and map_index: `{index}` was not found",
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A body in a packet of its own would wait for the client's acknowledgement, 40 ms each time.
    disable_nagle_algorithm = True

    def date_time_string(self, timestamp: float | None = None) -> str:
        clock: float | None = self.server.fake.clock  # type: ignore[attr-defined]
        return "" if clock is None else super().date_time_string(int(clock))

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def do_PATCH(self) -> None:
        self._do("PATCH")

    def _do(self, method: str) -> None:
        fake: FakeAirflow = self.server.fake  # type: ignore[attr-defined]
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        if fake.version.startswith("2."):
            reply = Front2(fake).answer(method, parts.path, parts.query, raw, dict(self.headers))
        else:
            body = json.loads(raw) if raw else None
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or self.headers.get("Cookie")
            reply = fake.answer(
                Asked(method, parts.path, tuple(parse_qsl(parts.query)), body, token, dict(self.headers))
            )
        if reply.fault == "hang":
            fake.released.wait()
        if reply.fault in ("hang", "reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self._send(reply, fake)

    def _send(self, reply: Reply, fake: FakeAirflow) -> None:
        body = reply.encoded()
        if "gzip" in self.headers.get("Accept-Encoding", "") and reply.headers.get("Content-Encoding") is None:
            body = gzip.compress(body, 1)
            self._head(reply, len(body), {"Content-Encoding": "gzip"})
        else:
            self._head(reply, len(body), {})
        if reply.fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _head(self, reply: Reply, size: int, more: dict[str, str]) -> None:
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(size), **more, **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def serving(tls: SSLContext | None = None, version: str = "3.3.2") -> Iterator[FakeAirflow]:
    """A fake server on a free port, stopped at the end."""
    fake = FakeAirflow()
    fake.version = version
    server = _Server(("127.0.0.1", 0), _Handler)
    server.fake = fake  # type: ignore[attr-defined]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    with in_a_thread(server, poll_interval=0.01):
        try:
            yield fake
        finally:
            fake.released.set()


def config(fake: FakeAirflow, **fields: Any) -> AirflowConfig:
    """A configuration that fits the server; `fields` by their YAML keys."""
    login = {} if {"token", "tokenFile", "cookieFile", "exec", "clientId"} & fields.keys() else {"username": "healer"}
    if login and "passwordFile" not in fields:
        login["password"] = fake.password
    return AirflowConfig.model_validate({"name": "a", "namespaces": ["jobs"], "url": fake.url, **login, **fields})


def healer(fake: FakeAirflow, calls: list[Call] | None = None, **fields: Any) -> Airflow:
    """An Airflow of the healer's that asks this server."""
    return Airflow(config(fake, **fields), observe=(calls if calls is not None else []).append)


def kinds(answers: dict[str, Any], pods: Iterable[Pod]) -> list[str]:
    """The class of each Pod's answer."""
    return [type(answers[p.uid]).__name__ for p in pods]


def put(path: Path, text: str) -> Path:
    """Write a file anew, as whoever rotates secrets does."""
    path.write_text(text)
    return path
