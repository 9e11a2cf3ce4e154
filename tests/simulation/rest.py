"""The seam to Airflow, one floor deeper: the healer's real client, lists, joins and proofs, above a model of the API.

Only the transport is the model's: it takes a request and gives what Airflow would answer, word for word. So what is
sent, what is joined by which label, and what a 404 is taken for, is the healer's own doing.
"""

from __future__ import annotations

import importlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET
from pydantic import SecretStr

from healer.airflow import Airflow
from healer.airflow.round import workers
from healer.airflow.transport import NoAnswerError, Raw, Reach, Request
from healer.clock import steady
from healer.config import AirflowConfig
from healer.model import Answer, Identity, Known, Pod, TaskInstance, Unknown
from tests.simulation.airflow import ENDED, Snapshot, Task
from tests.simulation.answers import AirflowFaults, Seam
from tests.simulation.cluster import NAMESPACES

CONFIG = AirflowConfig(name="prod", namespaces=NAMESPACES, url="http://airflow", token=SecretStr("t"))
MODULES = ("absence", "auth", "client", "harvest", "identity", "pause", "round", "service", "singles", "transport")
"""Modules of the client, of which some read the clock."""

MOST_WAIT = 1.0
"""Seconds from which on Airflow counts as slow: then each request takes that long, else all of a question."""

DOWN = ("refused", "500", "502", "404", "truncated", "403", "no runs")
"""How an Airflow that is down may look."""

Row = dict[str, Any]
Said = tuple[int, Any]
"""A status and a body."""


class _Time:
    """In the place of the module `time`: while a question of a simulation is asked, its healer's clock."""

    def __init__(self) -> None:
        self.asking: RestSeam | None = None

    def monotonic(self) -> float:
        return steady() if self.asking is None else self.asking.clock()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_TIME = _Time()


class _OneByOne:
    """In the place of the pool of threads: one after another, for a history that must replay exactly."""

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1) -> list[Any]:
        return [work(item) for item in items]


def _workers() -> Any:
    return workers() if _TIME.asking is None else _OneByOne()


def _install() -> None:
    for name in MODULES:
        module = importlib.import_module(f"healer.airflow.{name}")
        for clock, ours in (("time", _TIME), ("steady", _TIME.monotonic)):
            if hasattr(module, clock):
                setattr(module, clock, ours)
    importlib.import_module("healer.airflow.round").workers = _workers  # type: ignore[attr-defined]


_install()


class RestSeam(Seam):
    """It is the healer's client."""

    def __init__(self, *world: Any) -> None:
        super().__init__(*world)
        self._airflow = Airflow(CONFIG)
        self._wire = Wire(self, Api(self.tasks, self.faults, self.seen))
        self._airflow._client._transport = self._wire  # type: ignore[assignment]

    def start_audit(self) -> None:
        self._airflow.start_audit()

    def forget(self, uids: Iterable[str]) -> None:
        self._airflow.forget(uids)

    def look(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(self._airflow.look, pods)

    def ended_lately(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(self._airflow.ended_lately, pods)

    def ask_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        lag, shift = self.faults.lag, self.server_time() - self.clock()
        self._wire.confirming = pods
        answers = self._ask(self._airflow.ask_each, pods)
        self._wire.confirming = ()
        for uid, answer in answers.items():
            self.notes.asked(uid, self._wire.sent_of(answer) + shift, max(lag, self.faults.lag))
        self.hook("answered", pods)
        return answers

    def current(self, cases: Sequence[tuple[Pod, TaskInstance]]) -> dict[str, Identity]:
        _TIME.asking = self
        try:
            return self._airflow.current(cases)
        finally:
            _TIME.asking = None

    def _ask(self, question: Callable[[Sequence[Pod]], dict[str, Answer]], pods: Sequence[Pod]) -> dict[str, Answer]:
        _TIME.asking = self
        self._wire.begin()
        self.seen[self.faults.mode or "clear"] += 1
        try:
            answers = question(pods)
        finally:
            _TIME.asking = None
        for uid, answer in answers.items():
            if not isinstance(answer, Unknown):
                self.notes.looked(uid, self._wire.read_of(answer))
        return answers

    def server_time(self) -> float:
        """Return the model's time."""
        return self.server.clock()

    def wait(self, seconds: float) -> None:
        """Let time pass; other healers may ask their questions meanwhile."""
        self.forward(seconds)
        _TIME.asking = self

    def latency(self) -> float:
        """Return how long one request takes."""
        return self.faults.latency if self.faults.latency >= MOST_WAIT else self.faults.latency / 5


class Wire:
    """In the place of the transport."""

    url = CONFIG.url

    def __init__(self, seam: RestSeam, api: Api) -> None:
        self._seam, self._api = seam, api
        self.confirming: Sequence[Pod] = ()
        self._reads: dict[tuple[str, int], tuple[float, float]] = {}
        self._proof: float | None = None
        self._last = 0.0

    def begin(self) -> None:
        """A question begins: nothing is read yet."""
        self._reads.clear()
        self._proof = None

    def send(self, request: Request, token: str | None) -> Raw:
        """Answer as the transport does, or raise NoAnswerError."""
        seam = self._seam
        sent = seam.clock()
        seam.wait(seam.latency() / 2)
        status, body = self._api.answer(request, seam.server_time())
        self._note(request.call, body, sent, seam.server_time())
        if self.confirming and request.call in {"task-instance", "list"}:
            pods, self.confirming = self.confirming, ()
            seam.hook("asked", pods)
        seam.wait(seam.latency() / 2)
        if status == 0:
            raise NoAnswerError("Airflow can't be reached", Reach.SERVER, "refused")
        return Raw(status, _encoded(body), sent, json=not isinstance(body, str), location="", date=None)

    def _note(self, call: str, body: Any, sent: float, read: float) -> None:
        """Remember of each task instance when it was asked for last, and read."""
        self._last = read
        if call == "dag" and self._proof is None:
            self._proof = sent
        rows = body.get("task_instances", [body]) if isinstance(body, Mapping) else []
        for row in rows:
            if "task_id" in row and "map_index" in row:
                self._reads[row["task_id"], row["map_index"]] = sent, read

    def _of(self, answer: Answer) -> tuple[float, float]:
        nothing = answer.sent if self._proof is None else self._proof, self._last
        if not isinstance(answer, Known):
            return nothing
        return self._reads.get((answer.task.task_id, answer.task.map_index), nothing)

    def sent_of(self, answer: Answer) -> float:
        """Return when the question was sent, whatever the healer says: for an absence, the first of its proofs."""
        return self._of(answer)[0]

    def read_of(self, answer: Answer) -> float:
        """Return when what is answered was read: which Pod a living task instance uses is told by what comes last."""
        if isinstance(answer, Known) and answer.task.state not in ENDED:
            return self._last
        return self._of(answer)[1]


def _encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else msgspec.json.encode(body)


# --- the API ----------------------------------------------------------------------------------------------------------

_PARTS = re.compile(r"\{(\w+)\}")


class Api:
    """Airflow's REST API above the model's task instances, with its faults and its exact words."""

    def __init__(self, tasks: Sequence[Task], faults: AirflowFaults, seen: Counter[str]) -> None:
        self._tasks, self._faults, self._seen = tasks, faults, seen
        self._stores = any(task.setup.store for task in tasks)
        self._then: list[tuple[Task, Snapshot]] = []
        self._mode, self._since = "", 0.0
        self._routes: Mapping[str, Callable[[Request], Said]] = {
            "version": self._version,
            "list": self._list,
            "list-get": self._of_run,
            "task-instance": self._task_instance,
            "run": self._run,
            "dag": self._dag,
            "dags": self._dags,
            "tasks": self._tasks_of,
            "runs": self._runs,
            "state-store": self._state_store,
            "xcom": self._xcom,
        }

    def answer(self, request: Request, now: float) -> Said:
        """Return status and body; status 0 where there is no answer."""
        self._then = [(task, task.at(now - self._faults.lag)) for task in self._tasks]
        if self._faults.mode != self._mode:
            self._mode, self._since = self._faults.mode, now
        if self._mode in {"down", "ambiguous"} and request.call != "version":
            return self._down(request, DOWN[int(self._since * 10) % len(DOWN)] if self._mode == "down" else "no runs")
        if self._faults.mode == "silent" and request.call not in {"version", "dags", "list"}:
            return 403, {"detail": "Forbidden"}
        return self._routes[request.call](request)

    def _down(self, request: Request, how: str) -> Said:
        match how:
            case "refused":
                return 0, {}
            case "500":
                return 500, {"detail": "Internal Server Error"}
            case "502":
                return 502, "<html>Bad Gateway</html>"
            case "404":
                return _not_found("Not Found")
            case "truncated":
                status, body = self._routes[request.call](request)
                return status, msgspec.json.encode(body)[:-3]
            case "403":
                return 403, {"detail": "Forbidden"}
        # A proxy that does not let through what concerns single runs.
        if request.call in {"run", "task-instance"}:
            return _not_found("Not Found")
        if request.call.startswith("list"):
            return 200, {"task_instances": [], "total_entries": 0}
        return self._routes[request.call](request)

    def _version(self, _: Request) -> Said:
        """Without a state store in use it may be any version: they differ in what they can be asked for."""
        older = ("3.0.6", "3.1.8", "3.2.2", "3.3.2")[len(self._tasks) % 4]
        return 200, {"version": "3.3.2" if self._stores else older}

    # --- task instances -----------------------------------------------------------------------------------------------

    def _rows(self) -> list[Row]:
        """Return the rows there are, or those that a faulty Airflow shows."""
        mode, rows = self._faults.mode, []
        for _, then in self._then:
            if then.row is None or mode in {"silent", "unreadable DAG"}:
                continue
            rows.append(self._spoilt(_row(then)))
        return rows

    def _spoilt(self, row: Row) -> Row:
        match self._faults.mode:
            case "no-state":
                row.pop("state", None)
            case "no-try":
                row["try_number"] = None
            case "no-operator":
                row["operator"] = None
            case "other-row":
                row |= {"dag_run_id": "manual-1", "state": "success"}
            case "odd-state":
                row["state"] = "exhausted"
            case "ids alone":
                row["try_number"] = "one"
            case "other Airflow":
                row |= {"id": "other", "state": "success", "try_number": 0}
        return row

    def _list(self, request: Request) -> Said:
        body = dict(request.body or {})
        columns = {"dag_ids": "dag_id", "dag_run_ids": "dag_run_id", "task_ids": "task_id", "state": "state"}
        found = self._rows()
        if self._faults.mode != "other-row":
            found = [r for r in found if all(r.get(c) in body[k] for k, c in columns.items() if body.get(k))]
        since = body.get("end_date_gte")
        if since is not None:
            found = [row for row in found if row["end_date"] and _instant(row["end_date"]) >= _instant(since)]
        return self._page(found)

    def _of_run(self, request: Request) -> Said:
        query = dict(request.query)
        indices = {value for key, value in request.query if key == "map_index"}
        wanted = request.ids["dag_id"], request.ids["dag_run_id"], query.get("task_id")
        found = [r for r in self._rows() if (r["dag_id"], r["dag_run_id"], r["task_id"]) == wanted]
        return self._page([row for row in found if not indices or row["map_index"] in indices])

    def _page(self, rows: list[Row]) -> Said:
        total = len(rows)
        if self._faults.mode == "partial":
            rows = rows[1::2]
        if self._faults.mode == "contradiction":
            rows = [twin for row in rows for twin in (row, row | {"state": "success", "end_date": row["start_date"]})]
            total = len(rows)
        return 200, {"task_instances": rows, "total_entries": total}

    def _task_instance(self, request: Request) -> Said:
        ids = request.ids
        wanted = ids["dag_id"], ids["dag_run_id"], ids["task_id"], ids["map_index"]
        rows = self._rows()
        if self._faults.mode == "other-row" and rows:
            return 200, rows[0]
        for row in rows:
            if (row["dag_id"], row["dag_run_id"], row["task_id"], row["map_index"]) == wanted:
                return 200, row
        return _not_found(
            f"The Mapped Task Instance with dag_id: `{wanted[0]}`, run_id: `{wanted[1]}`, task_id: `{wanted[2]}`, "
            f"and map_index: `{wanted[3]}` was not found"
        )

    # --- what is there at all -----------------------------------------------------------------------------------------

    def _dag_ids(self) -> set[str]:
        there = {task.dag_id for task, then in self._then if then.dag_exists}
        return set() if self._faults.mode in {"silent", "unreadable DAG"} else there

    def _run_ids(self, dag: str) -> set[str]:
        exist = {task.run_id for task, then in self._then if then.dag_exists and then.run_exists and task.dag_id == dag}
        return exist if dag in self._dag_ids() else set()

    def _dag(self, request: Request) -> Said:
        dag = str(request.ids["dag_id"])
        return (200, {"dag_id": dag}) if dag in self._dag_ids() else _no_dag(dag)

    def _run(self, request: Request) -> Said:
        dag, run = str(request.ids["dag_id"]), str(request.ids["dag_run_id"])
        if run in self._run_ids(dag):
            return 200, {"dag_run_id": run}
        return _not_found(f"The DagRun with dag_id: `{dag}` and run_id: `{run}` was not found")

    def _dags(self, _: Request) -> Said:
        there = sorted(self._dag_ids())
        return 200, {"dags": [{"dag_id": dag} for dag in there], "total_entries": len(there)}

    def _tasks_of(self, request: Request) -> Said:
        dag = str(request.ids["dag_id"])
        if dag not in self._dag_ids():
            return _no_dag(dag)
        return 200, {"tasks": [{"task_id": name} for name in sorted({task.task_id for task in self._tasks})]}

    def _runs(self, request: Request) -> Said:
        dag = str(request.ids["dag_id"])
        if dag not in self._dag_ids():
            return _no_dag(dag)
        prefix = str(dict(request.query).get("run_id_prefix_pattern", ""))
        there = sorted(run for run in self._run_ids(dag) if run.startswith(prefix))
        return 200, {"dag_runs": [{"dag_run_id": run} for run in there], "total_entries": len(there)}

    # --- which Pod Airflow names --------------------------------------------------------------------------------------

    def _named(self, request: Request) -> tuple[Task, Snapshot] | None:
        index = int(dict(request.query).get("map_index", -1))
        wanted = request.ids["task_id"], index
        found = ((t, then) for t, then in self._then if (t.task_id, t.setup.map_index) == wanted and then.run_exists)
        return next(found, None)

    def _state_store(self, request: Request) -> Said:
        if self._faults.mode == "identity-fails":
            self._seen["identity failed"] += 1
            return 500, {"detail": "Internal Server Error"}
        found = self._named(request)
        if found is None or found[1].stored is None:
            return _not_found("Task state store key 'pod_identifier' not found")
        self._seen["identity names 1"] += 1
        return 200, {"value": {"name": found[1].stored, "namespace": found[0].setup.namespace}}

    def _xcom(self, request: Request) -> Said:
        if self._faults.mode == "identity-fails":
            self._seen["identity failed"] += 1
            return 500, {"detail": "Internal Server Error"}
        key, found = str(request.ids["key"]), self._named(request)
        if found is None or found[1].xcom is None:
            self._seen["identity names 0"] += 1
            return _not_found(f"XCom entry with key: `{key}` not found")
        return 200, {"key": key, "value": found[1].xcom if key == "pod_name" else found[0].setup.namespace}


def _not_found(detail: str) -> Said:
    return 404, {"detail": detail}


def _no_dag(dag: str) -> Said:
    return _not_found(f"The Dag with ID: `{dag}` was not found")


def _row(then: Snapshot) -> Row:
    row = then.row
    assert row is not None
    state = {} if row.state is UNSET else {"state": row.state}
    return {
        **state,
        "id": row.id,
        "dag_id": row.dag_id,
        "dag_run_id": row.run_id,
        "task_id": row.task_id,
        "map_index": row.map_index,
        "try_number": row.try_number,
        "operator": row.operator,
        "start_date": _text(row.start_date),
        "end_date": _text(row.end_date),
        "rendered_fields": {"namespace": row.namespace, "base_container_name": row.base_container},
    }


def _text(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
