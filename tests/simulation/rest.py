"""The seam to Airflow, one floor deeper: the healer's real client, lists, joins and proofs, above a model of the API.

Only the transport is the model's: it takes a request and gives what Airflow would answer, word for word. So what is
sent, what is joined by which label, and what a 404 is taken for, is the healer's own doing.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET
from pydantic import SecretStr

import healer.airflow
from healer.airflow import Airflow
from healer.airflow.api.credential import Credential
from healer.airflow.api.transport import AirflowRequest, RawResponse
from healer.airflow.queries.session import workers
from healer.clock import boottime
from healer.config import AirflowConfig
from healer.errors import FailureScope, NoAnswerError
from healer.model import Answer, Known, NamedPods, Pod, TaskInstance, Unknown
from tests.simulation.airflow import ENDED, Snapshot, Task
from tests.simulation.answers import REFUSALS, AirflowFaults, Seam
from tests.simulation.cluster import NAMESPACES
from tests.unit.airflow_front2 import SECRET, problem

CONFIG = AirflowConfig(name="prod", namespaces=NAMESPACES, url="http://airflow", token=SecretStr("t"))
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
        return boottime() if self.asking is None else self.asking.clock()

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
    for found in pkgutil.walk_packages(healer.airflow.__path__, "healer.airflow."):
        module = importlib.import_module(found.name)
        for clock, ours in (("time", _TIME), ("boottime", _TIME.monotonic)):
            if hasattr(module, clock):
                setattr(module, clock, ours)
    importlib.import_module("healer.airflow.queries.session").workers = _workers  # type: ignore[attr-defined]
    # A history has a few task instances: a list of two is walked as one of twenty would be.
    importlib.import_module("healer.airflow.service").FEWEST_LISTED = 2  # type: ignore[attr-defined]


_install()


class RestSeam(Seam):
    """It is the healer's client."""

    def __init__(self, *world: Any) -> None:
        super().__init__(*world)
        self._airflow = Airflow(CONFIG)
        kind = Api2 if any(task.two for task in self.tasks) else Api
        self._wire = Wire(self, kind(self.tasks, self.faults, self.seen))
        self._airflow._client._transport = self._wire  # type: ignore[assignment]

    @property
    def set_aside(self) -> int:
        """How many are asked last and alone."""
        return self._airflow.set_aside

    def troubles(self) -> dict[str, str]:
        """Why they are set aside."""
        return self._airflow.troubles()

    def start_audit(self) -> None:
        self._airflow.start_audit()

    def forget(self, uids: Iterable[str]) -> None:
        self._airflow.forget(uids)

    def get_all(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(self._airflow.get_all, pods)

    def list_recently_ended(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(self._airflow.list_recently_ended, pods)

    def get_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        lag, shift = self.faults.lag, self.server_time() - self.clock()
        self._wire.confirming = pods
        answers = self._ask(self._airflow.get_each, pods)
        self._wire.confirming = ()
        for uid, answer in answers.items():
            self.notes.asked(uid, self._wire.sent_of(answer) + shift, max(lag, self.faults.lag))
        self.hook("answered", pods)
        return answers

    def get_current_pods(self, cases: Sequence[tuple[Pod, TaskInstance]]) -> dict[str, NamedPods]:
        _TIME.asking = self
        try:
            return self._airflow.get_current_pods(cases)
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
            if _is_clear(answer):
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

    def send(self, request: AirflowRequest, credential: Credential | None) -> RawResponse:
        """Answer as the transport does, or raise NoAnswerError."""
        seam = self._seam
        sent = seam.clock()
        seam.wait(seam.latency() / 2)
        status, body = self._api.answer(request, seam.server_time(), credential)
        self._note(request.call, body, sent, seam.server_time())
        if self.confirming and request.call in {"task-instance", "list"}:
            pods, self.confirming = self.confirming, ()
            seam.hook("asked", pods)
        seam.wait(seam.latency() / 2)
        if status == 0:
            raise NoAnswerError("Airflow can't be reached", FailureScope.SERVER, "refused")
        kind = "text/html" if isinstance(body, str) else self._api.kind(status)
        return RawResponse(status, _encoded(body), sent, json="json" in kind, location="", date=None, type=kind)

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


def _is_clear(answer: Answer) -> bool:
    """Whether it is a full one: from half a row nothing is concluded."""
    if not isinstance(answer, Known):
        return not isinstance(answer, Unknown)
    task = answer.task
    whole = task.state is not UNSET and task.try_number is not None and task.operator is not None
    return whole and (answer.identity is None or answer.identity.failed is None)


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
        self._routes: Mapping[str, Callable[[AirflowRequest], Said]] = {
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

    def kind(self, _status: int) -> str:
        """Return the content type."""
        return "application/json"

    def answer(self, request: AirflowRequest, now: float, _credential: Credential | None = None) -> Said:
        """Return status and body; status 0 where there is no answer."""
        self._then = [(task, task.at(now - self._faults.lag)) for task in self._tasks]
        if self._faults.mode != self._mode:
            self._mode, self._since = self._faults.mode, now
        if self._mode in REFUSALS and request.call != "version":
            return _refused(self._mode)
        if self._mode in {"down", "ambiguous"} and request.call != "version":
            return self._down(request, DOWN[int(self._since * 10) % len(DOWN)] if self._mode == "down" else "no runs")
        if self._faults.mode == "silent" and request.call not in {"version", "dags", "list"}:
            return 403, {"detail": "Forbidden"}
        if _is_hostile(request):
            return self._faults.refusal, {"detail": "Internal Server Error" if self._faults.refusal == 500 else "NUL"}
        return self._routes[request.call](request)

    def _down(self, request: AirflowRequest, how: str) -> Said:
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

    def _version(self, _: AirflowRequest) -> Said:
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
            rows.append(self._spoilt(self._row(then)))
        return rows

    def _row(self, then: Snapshot) -> Row:
        return _row(then)

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

    def _list(self, request: AirflowRequest) -> Said:
        body = dict(request.body or {})
        columns = {"dag_ids": "dag_id", "dag_run_ids": "dag_run_id", "task_ids": "task_id", "state": "state"}
        found = self._rows()
        if self._faults.mode != "other-row":
            found = [r for r in found if all(r.get(c) in body[k] for k, c in columns.items() if body.get(k))]
        since = body.get("end_date_gte")
        if since is not None:
            found = [row for row in found if row["end_date"] and _instant(row["end_date"]) >= _instant(since)]
        return self._page(found)

    def _of_run(self, request: AirflowRequest) -> Said:
        query = dict(request.query)
        indices = {value for key, value in request.query if key == "map_index"}
        wanted = request.ids["dag_id"], request.ids["dag_run_id"], query.get("task_id")
        found = [r for r in self._rows() if (r["dag_id"], r["dag_run_id"], r["task_id"]) == wanted]
        return self._page([row for row in found if not indices or row["map_index"] in indices])

    def _page(self, rows: list[Row]) -> Said:
        if any(self._spoils(row) for row in rows):
            return _CRASH
        total = len(rows)
        if self._faults.mode == "partial":
            rows = rows[1::2]
        if self._faults.mode == "contradiction":
            rows = [twin for row in rows for twin in (row, row | {"state": "success", "end_date": row["start_date"]})]
            total = len(rows)
        return 200, {"task_instances": rows, "total_entries": total}

    def _task_instance(self, request: AirflowRequest) -> Said:
        if self._faults.mode == "unreadable DAG":
            return _FORBIDDEN
        ids = request.ids
        wanted = ids["dag_id"], ids["dag_run_id"], ids["task_id"], ids.get("map_index", -1)
        rows = self._rows()
        if self._faults.mode == "other-row" and rows:
            return 200, rows[0]
        for row in rows:
            if (row["dag_id"], row["dag_run_id"], row["task_id"], row["map_index"]) == wanted:
                return _CRASH if self._spoils(row) else (200, row)
        return _not_found(
            f"The Mapped Task Instance with dag_id: `{wanted[0]}`, run_id: `{wanted[1]}`, task_id: `{wanted[2]}`, "
            f"and map_index: `{wanted[3]}` was not found"
        )

    def _spoils(self, row: Row) -> bool:
        poisoned = self._faults.poisoned
        return bool(poisoned) and any(
            (task.task_id, task.setup.map_index) == (row["task_id"], row["map_index"])
            for task in self._tasks
            if task.index in poisoned
        )

    # --- what is there at all -----------------------------------------------------------------------------------------

    def _dag_ids(self) -> set[str]:
        there = {task.dag_id for task, then in self._then if then.dag_exists}
        return set() if self._faults.mode in {"silent", "unreadable DAG"} else there

    def _run_ids(self, dag: str) -> set[str]:
        exist = {task.run_id for task, then in self._then if then.dag_exists and then.run_exists and task.dag_id == dag}
        return exist if dag in self._dag_ids() else set()

    def _dag(self, request: AirflowRequest) -> Said:
        dag = str(request.ids["dag_id"])
        if self._faults.mode == "unreadable DAG":
            return _FORBIDDEN
        return (200, {"dag_id": dag}) if dag in self._dag_ids() else _no_dag(dag)

    def _run(self, request: AirflowRequest) -> Said:
        dag, run = str(request.ids["dag_id"]), str(request.ids["dag_run_id"])
        if self._faults.mode == "unreadable DAG":
            return _FORBIDDEN
        if run in self._run_ids(dag):
            return 200, {"dag_run_id": run}
        return _not_found(f"The DagRun with dag_id: `{dag}` and run_id: `{run}` was not found")

    def _dags(self, _: AirflowRequest) -> Said:
        there = sorted(self._dag_ids())
        return 200, {"dags": [{"dag_id": dag} for dag in there], "total_entries": len(there)}

    def _tasks_of(self, request: AirflowRequest) -> Said:
        dag = str(request.ids["dag_id"])
        if dag not in self._dag_ids():
            return _no_dag(dag)
        return 200, {"tasks": [{"task_id": name} for name in sorted({task.task_id for task in self._tasks})]}

    def _runs(self, request: AirflowRequest) -> Said:
        dag = str(request.ids["dag_id"])
        if dag not in self._dag_ids():
            return _no_dag(dag)
        prefix = str(dict(request.query).get("run_id_prefix_pattern", ""))
        there = sorted(run for run in self._run_ids(dag) if run.startswith(prefix))
        return 200, {"dag_runs": [{"dag_run_id": run} for run in there], "total_entries": len(there)}

    # --- which Pod Airflow names --------------------------------------------------------------------------------------

    def _named(self, request: AirflowRequest) -> tuple[Task, Snapshot] | None:
        index = int(dict(request.query).get("map_index", -1))
        wanted = request.ids["task_id"], index
        found = ((t, then) for t, then in self._then if (t.task_id, t.setup.map_index) == wanted and then.run_exists)
        return next(found, None)

    def _state_store(self, request: AirflowRequest) -> Said:
        if self._faults.mode == "identity-fails":
            self._seen["identity failed"] += 1
            return 500, {"detail": "Internal Server Error"}
        if "store" in self._faults.hidden:
            return _FORBIDDEN
        found = self._named(request)
        if found is None or found[1].stored is None:
            return _not_found("Task state store key 'pod_identifier' not found")
        self._seen["identity names 1"] += 1
        return 200, {"value": {"name": found[1].stored, "namespace": found[0].setup.namespace}}

    def _xcom(self, request: AirflowRequest) -> Said:
        if self._faults.mode == "identity-fails":
            self._seen["identity failed"] += 1
            return 500, {"detail": "Internal Server Error"}
        if "xcom" in self._faults.hidden:
            return _FORBIDDEN
        key, found = str(request.ids["key"]), self._named(request)
        if found is None or found[1].xcom is None:
            self._seen["identity names 0"] += 1
            return _not_found(f"XCom entry with key: `{key}` not found")
        return 200, {"key": key, "value": found[1].xcom if key == "pod_name" else found[0].setup.namespace}


class Api2(Api):
    """The same above /api/v1, as Airflow 2.10 and 2.11 answer: no ids, refusals without them, one 403 for all."""

    def kind(self, status: int) -> str:
        return "application/json" if status < 400 else "application/problem+json"

    def answer(self, request: AirflowRequest, now: float, credential: Credential | None = None) -> Said:
        if not request.path.startswith("/api/v1/"):
            return 404, "<title>Airflow 404</title>"
        if credential is None and request.call != "version":
            return self._dead, problem(self._dead, "Forbidden")
        status, body = super().answer(request, now)
        if status in (401, 403) and isinstance(body, dict):
            lost = status == 401 or self._faults.mode in REFUSALS
            return (self._dead, problem(self._dead, "Forbidden")) if lost else (403, problem(403, "Forbidden"))
        if status >= 400 and isinstance(body, dict) and isinstance(body.get("detail"), str):
            told = problem(status, body["detail"])
            return status, (told | {"detail": None}) if request.call == "tasks" else told
        return status, body

    @property
    def _dead(self) -> int:
        """How a login that is not accepted is answered: 2.11 says what it says of a missing right."""
        return 403 if self._newer else 401

    @property
    def _newer(self) -> bool:
        return len(self._tasks) % 2 == 0

    def _version(self, _: AirflowRequest) -> Said:
        return 200, {"version": "2.11.2" if self._newer else "2.10.5"}

    def _runs(self, request: AirflowRequest) -> Said:
        """Of a DAG that there is not there are none: the list says so by being empty."""
        known = request.ids["dag_id"] in self._dag_ids()
        return super()._runs(request) if known else (200, {"dag_runs": [], "total_entries": 0})

    def _row(self, then: Snapshot) -> Row:
        row = _row(then)
        del row["id"]
        return row | {"max_tries": then.max_tries, "trigger": {"kwargs": SECRET}}

    def _xcom(self, request: AirflowRequest) -> Said:
        status, body = super()._xcom(request)
        found = self._named(request)
        if status != 200 or found is None:
            return status, body
        task, then = found
        ids = {"dag_id": task.dag_id, "task_id": task.task_id, "map_index": task.setup.map_index}
        return status, {**ids, **body, "timestamp": _text(then.pushed)}


_CRASH: Said = 500, "Internal Server Error"
_FORBIDDEN: Said = 403, {"detail": "Forbidden"}


def _refused(how: str) -> Said:
    if how == "gate":
        return 401, "<html>Sign in</html>"
    return (401, {"detail": "Token Expired"}) if how == "login ended" else _FORBIDDEN


def _is_hostile(request: AirflowRequest) -> bool:
    """Whether a database refuses what is asked for: PostgreSQL knows no NUL."""
    lists = [value for value in (request.body or {}).values() if isinstance(value, list)]
    texts = [str(value) for value in (*request.ids.values(), *(text for _, text in request.query))]
    return any("\0" in str(text) for text in (*texts, *(item for one in lists for item in one)))


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
