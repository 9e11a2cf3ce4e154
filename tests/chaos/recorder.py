"""Writes down what really happened, without asking kpo-healer: Airflow's rows by SQL triggers, Pods by a watch.

The triggers run inside Airflow's own transactions, so that no state is missed, however short, and none is recorded that
was rolled back. The time of a record is that of the statement; it is visible to others from the commit on.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from tests.lab.kube import ADMIN_TOKEN, Cluster

Json = Any

RUN: Final = "chaos.kpo-healer.io/run"
"""The annotation by which a Pod names its run in full; its label may only have a hash of it."""

SELECTOR: Final = "kubernetes_pod_operator=True"

ENDED: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

_NOW: Final = "(julianday('now') - 2440587.5) * 86400.0"
_COLUMNS: Final = "at, kind, dag_id, run_id, task_id, map_index, ti_id, state, try_number, value"


def _record(kind: str, row: str, *, ti: str | None = None, value: str = "null", task: bool = True) -> str:
    task_columns = f"{row}.task_id, {row}.map_index" if task else "'', -1"
    more = f"{row}.{ti}, {row}.state, {row}.try_number" if ti else "null, null, null"
    return (
        f"insert into chaos_record ({_COLUMNS}) values ({_NOW}, '{kind}', {row}.dag_id, {row}.run_id, "
        f"{task_columns}, {more}, {value});"
    )


def schema(*, two: bool) -> str:
    """The triggers. An Airflow 2 has no ids of tries, which their starts tell apart, and no task state store."""
    ti = "start_date" if two else "id"
    changed = " or ".join(f"old.{name} is not new.{name}" for name in ("state", "try_number", ti, "map_index"))
    return f"""
create table chaos_record (
    seq integer primary key, at real, kind text, dag_id text, run_id text, task_id text, map_index integer,
    ti_id text, state text, try_number integer, value text
);
create trigger chaos_ti_new after insert on task_instance begin {_record("ti", "new", ti=ti)} end;
create trigger chaos_ti_moved after update of map_index on task_instance when old.map_index is not new.map_index
    begin {_record("ti-gone", "old", ti=ti)} end;
create trigger chaos_ti after update of state, try_number, {ti}, map_index on task_instance when {changed}
    begin {_record("ti", "new", ti=ti)} end;
create trigger chaos_ti_gone after delete on task_instance begin {_record("ti-gone", "old", ti=ti)} end;
create trigger chaos_xcom_new after insert on xcom when new.key = 'pod_name'
    begin {_record("named", "new", value="new.value")} end;
create trigger chaos_xcom after update of value on xcom when new.key = 'pod_name'
    begin {_record("named", "new", value="new.value")} end;
create trigger chaos_xcom_gone after delete on xcom when old.key = 'pod_name'
    begin {_record("unnamed", "old", value="old.value")} end;
create trigger chaos_run after update of state on dag_run when old.state is not new.state
    begin {_record("run", "new", value="new.state", task=False)} end;
create trigger chaos_run_gone after delete on dag_run begin {_record("run-gone", "old", task=False)} end;
""" + ("" if two else _STORE)


_STORE: Final = f"""
create trigger chaos_store_new after insert on task_state_store when new.key = 'pod_identifier'
    begin {_record("stored", "new", value="new.value")} end;
create trigger chaos_store after update of value on task_state_store when new.key = 'pod_identifier'
    begin {_record("stored", "new", value="new.value")} end;
"""


@dataclass(frozen=True, order=True)
class Key:
    """One task instance."""

    dag: str
    run: str
    task: str
    index: int = -1

    def __str__(self) -> str:
        return "/".join((self.dag, self.run, self.task)) + (f"/{self.index}" if self.index >= 0 else "")


@dataclass(frozen=True)
class Record:
    """One change in Airflow's database. `at`, `seen`: epoch seconds of the statement, and of our reading of it.

    ti: what tells this try from others: its id, in Airflow 2 its start.

    kind: ti (state, try), ti-gone, named (XCom `pod_name`; value is the Pod), unnamed, stored (state store; value is
    the Pod), run (value is its state), run-gone.
    """

    seq: int
    at: float
    seen: float
    kind: str
    key: Key
    ti: str | None = None
    state: str | None = None
    tried: int = 0
    value: str | None = None

    def __str__(self) -> str:
        told = {
            "ti": f"Airflow: {self.state or 'none (cleared)'}, try {self.tried}",
            "ti-gone": "Airflow: the task instance is gone",
            "named": f"XCom names {self.value}",
            "unnamed": f"XCom no longer names {self.value}",
            "stored": f"the state store names {self.value}",
            "run": f"Airflow: the run is {self.value}",
            "run-gone": "Airflow: the run is deleted",
        }
        return told[self.kind]


@dataclass(frozen=True)
class Sight:
    """How a Pod looked from `at` (epoch seconds) on."""

    at: float
    phase: str
    base_ended: bool
    exit_code: int | None
    checked: bool
    terminating: bool

    @property
    def done(self) -> bool:
        return self.base_ended or self.phase in {"Succeeded", "Failed"}

    @property
    def look(self) -> tuple[object, ...]:
        return self.phase, self.base_ended, self.exit_code, self.checked, self.terminating

    def __str__(self) -> str:
        more = [f"base container ended with {self.exit_code}"] if self.base_ended else []
        more += ["already_checked"] * self.checked + ["terminating"] * self.terminating
        return ", ".join([f"phase {self.phase}", *more])


@dataclass
class PodStory:
    """One Pod from its first to its last sight. created, gone: epoch seconds (whole ones; our own clock)."""

    uid: str
    name: str
    key: Key | None
    tried: int
    created: float
    sights: list[Sight] = field(default_factory=list)
    gone: float | None = None

    @property
    def last(self) -> Sight:
        return self.sights[-1]

    def at(self, moment: float) -> Sight:
        """How it looked then; how it looked first if that is later."""
        return next((sight for sight in reversed(self.sights) if sight.at <= moment), self.sights[0])

    @property
    def alive(self) -> bool:
        return self.gone is None and not self.last.terminating


class Picture:
    """All that was recorded so far; threads may wait for what they want to see in it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.records: list[Record] = []
        self.tasks: dict[Key, list[Record]] = {}
        self.runs: dict[tuple[str, str], list[Record]] = {}
        self._keys: dict[tuple[str, str], set[Key]] = {}
        self.pods: dict[str, PodStory] = {}
        self.pods_of: dict[Key, list[PodStory]] = {}

    # Writing

    def add(self, records: list[Record]) -> None:
        with self.changed:
            for record in records:
                self.records.append(record)
                if record.kind.startswith("run"):
                    self.runs.setdefault((record.key.dag, record.key.run), []).append(record)
                else:
                    self.tasks.setdefault(record.key, []).append(record)
                    self._keys.setdefault((record.key.dag, record.key.run), set()).add(record.key)
            self.changed.notify_all()

    def see(self, body: Json, at: float, *, gone: bool = False) -> None:
        """Takes note of a Pod's present look."""
        meta, sight = body["metadata"], _sight(body, at)
        with self.changed:
            pod = self.pods.get(meta["uid"])
            if pod is None:
                pod = self.pods[meta["uid"]] = _pod_story(body)
                if pod.key is not None:
                    self.pods_of.setdefault(pod.key, []).append(pod)
            if not pod.sights or pod.last.look != sight.look:
                pod.sights.append(sight)
            if gone and pod.gone is None:
                pod.gone = at
            self.changed.notify_all()

    def lost(self, present: set[str], at: float) -> None:
        """Marks as gone what a LIST no longer has."""
        with self.changed:
            for pod in self.pods.values():
                if pod.gone is None and pod.uid not in present:
                    pod.gone = at
            self.changed.notify_all()

    # Reading

    def wait(self, condition: Callable[[], Any], timeout: float) -> Any:
        """Waits until the condition, which reads this picture, is truthy; its last value when the time is over."""
        with self.changed:
            return self.changed.wait_for(condition, timeout)

    def now(self, key: Key) -> Record | None:
        """The last state of a task instance; None when there is none (any more)."""
        return self.state_at(key, float("inf"))

    def state_at(self, key: Key, moment: float) -> Record | None:
        states = (r for r in reversed(self.tasks.get(key, ())) if r.kind in {"ti", "ti-gone"} and r.at <= moment)
        last = next(states, None)
        return last if last is not None and last.kind == "ti" else None

    def keys(self, dag: str, run: str) -> list[Key]:
        """The task instances of a run that are there."""
        with self.changed:
            return [key for key in sorted(self._keys.get((dag, run), ())) if self.now(key) is not None]

    def run_state(self, dag: str, run: str) -> str | None:
        """The state of a run, `deleted` once it is gone, None before its first change."""
        records = self.runs.get((dag, run), ())
        if not records:
            return None
        return "deleted" if records[-1].kind == "run-gone" else records[-1].value


def _pod_story(body: Json) -> PodStory:
    meta = body["metadata"]
    labels, run = meta.get("labels", {}), meta.get("annotations", {}).get(RUN)
    key = Key(labels["dag_id"], run, labels["task_id"], int(labels.get("map_index", -1))) if run else None
    created = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()
    return PodStory(meta["uid"], meta["name"], key, int(labels.get("try_number", 0)), created)


def _sight(body: Json, at: float) -> Sight:
    meta, status = body["metadata"], body.get("status", {})
    annotations = meta.get("annotations", {})
    base = annotations.get("lab.kpo-healer.io/base") or body["spec"]["containers"][0]["name"]
    states = (one["state"] for one in status.get("containerStatuses") or () if one["name"] == base)
    ended = next((state["terminated"] for state in states if "terminated" in state), None)
    return Sight(
        at=at,
        phase=status.get("phase", "Pending"),
        base_ended=ended is not None,
        exit_code=ended["exitCode"] if ended else None,
        checked=meta.get("labels", {}).get("already_checked") == "True",
        terminating="deletionTimestamp" in meta,
    )


class Recorder:
    """Fills a Picture from one Airflow's database and one namespace; a context manager."""

    def __init__(self, database: Path, cluster: Cluster, namespace: str, *, two: bool = False) -> None:
        self.picture = Picture()
        self._schema = schema(two=two)
        self._database, self._cluster, self._namespace = database, cluster, namespace
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, name="rows", daemon=True),
            threading.Thread(target=self._watch, name="pods", daemon=True),
        ]
        self.errors: list[str] = []

    def __enter__(self) -> Recorder:
        with contextlib.closing(sqlite3.connect(self._database, timeout=60)) as connection:
            connection.executescript(self._schema)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    # Airflow

    def _read(self) -> None:
        with contextlib.closing(sqlite3.connect(self._database, timeout=60)) as connection:
            last = 0
            while not self._stop.wait(0.1):
                try:
                    records = [of_row(row) for row in connection.execute(_NEWS, (last,))]
                except sqlite3.OperationalError as error:  # locked for once: what is new stays new
                    self.errors.append(f"reading Airflow's database: {error}")
                    continue
                if records:
                    last = records[-1].seq
                    self.picture.add(records)

    # The cluster

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                with self._client() as client:
                    self._follow(client, self._list(client))
            except (httpx.HTTPError, ValueError, KeyError):
                self._stop.wait(0.3)  # the API server is being restarted

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self._cluster.url,
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "User-Agent": "lab"},
            verify=ssl.create_default_context(cafile=str(self._cluster.ca)),
            trust_env=False,
            timeout=httpx.Timeout(10, read=60),
        )

    def _list(self, client: httpx.Client) -> str:
        answer = client.get(self._path, params={"labelSelector": SELECTOR}).raise_for_status().json()
        now = time.time()
        for body in answer["items"]:
            self.picture.see(body, now)
        self.picture.lost({body["metadata"]["uid"] for body in answer["items"]}, now)
        return str(answer["metadata"]["resourceVersion"])

    def _follow(self, client: httpx.Client, version: str) -> None:
        query: dict[str, str | int] = {
            "watch": "true",
            "labelSelector": SELECTOR,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            # So that the thread looks up now and then, and sees that it is to stop.
            "timeoutSeconds": 20,
        }
        while not self._stop.is_set():
            with client.stream("GET", self._path, params=query) as answer:
                answer.raise_for_status()
                for event in _events(answer):
                    if event["type"] == "ERROR":
                        return
                    query["resourceVersion"] = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self.picture.see(event["object"], time.time(), gone=event["type"] == "DELETED")
                    if self._stop.is_set():
                        return

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods"


_NEWS: Final = f"select seq, {_COLUMNS} from chaos_record where seq > ? order by seq limit 2000"


def _events(answer: httpx.Response) -> Iterator[Json]:
    for line in answer.iter_lines():
        if line:
            yield json.loads(line)


def of_row(row: tuple[Any, ...]) -> Record:
    """What stands in a row of the triggers' table."""
    seq, at, kind, dag, run, task, index, ti, state, tried, value = row
    return Record(seq, at, time.time(), kind, Key(dag, run, task, index), ti, state, tried or 0, _value(kind, value))


def _value(kind: str, value: str | bytes | None) -> str | None:
    """The Pod's name, out of the JSON in which it is kept: text, or bytes in Airflow 2."""
    value = value.decode() if isinstance(value, bytes) else value
    if kind not in {"named", "unnamed", "stored"} or value is None:
        return value
    with contextlib.suppress(ValueError):
        found = json.loads(value)
        found = json.loads(found) if isinstance(found, str) and found[:1] in '"{' else found
        return str(found["name"]) if isinstance(found, dict) else str(found)
    return value
