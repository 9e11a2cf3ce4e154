"""Writes into Airflow's database as Airflow itself does, where no scheduler or worker is there to do it.

Runs with Airflow's interpreter: `backdoor.py PORT`. Takes POSTed JSON `{"call": NAME, ...}` on 127.0.0.1:PORT and
answers JSON. It uses Airflow's own tables and types, so that one script serves every version. See ../airflow_seed.py.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

from airflow import settings
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.sdk import DAG, BaseOperator
from airflow.serialization import serialized_objects
from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import delete, insert, select

try:
    from airflow.models.task_state_store import TaskStateStoreModel
except ImportError:  # before 3.3
    TaskStateStoreModel = None

BUNDLE = "dags-folder"
ENDED = {"success", "failed", "skipped", "upstream_failed"}
STARTED = {*ENDED, "running", "deferred", "up_for_retry", "restarting", "up_for_reschedule", "removed"} - {
    "upstream_failed"
}
TRIGGER = "airflow.providers.cncf.kubernetes.triggers.pod.KubernetesPodTrigger"


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def typed(table, values: dict) -> dict:
    """The values that this version's table has a column for, dates decoded."""
    columns = {column.name: column for column in table.columns}
    dates = {name for name, column in columns.items() if isinstance(column.type, UtcDateTime)}
    return {
        name: dt.datetime.fromisoformat(value) if name in dates and isinstance(value, str) else value
        for name, value in values.items()
        if name in columns
    }


# Seeding


def seed(session, dags: list[dict]) -> dict:
    rows = 0
    for spec in dags:
        version = dag_version(session, spec)
        for run in spec["runs"]:
            dag_run(session, spec["dag_id"], run, version)
            rows += task_instances(session, spec["dag_id"], run, version)
    return {"rows": rows}


def dag_version(session, spec: dict):
    """The id of the DAG's version; the DAG is made first where it is missing."""
    dag_id = spec["dag_id"]
    known = session.scalar(select(DagVersion.id).where(DagVersion.dag_id == dag_id))
    if known is not None:
        return known
    if session.get(DagBundleModel, BUNDLE) is None:
        session.execute(insert(DagBundleModel.__table__).values(name=BUNDLE, active=True))
    session.execute(insert(DagModel.__table__).values(**typed(DagModel.__table__, dag_columns(spec))))
    version = DagVersion(dag_id=dag_id, version_number=1, bundle_name=BUNDLE)
    session.add(version)
    session.flush()
    if spec["serialized"]:
        serialized = SerializedDagModel(serialized_objects.LazyDeserializedDAG(data=serialize(spec)))
        serialized.dag_version_id = version.id
        session.add(serialized)
    session.flush()
    return version.id


def dag_columns(spec: dict) -> dict:
    return {
        "dag_id": spec["dag_id"],
        "dag_display_name": spec["dag_id"],
        "bundle_name": BUNDLE,
        "is_paused": spec["paused"],
        "is_stale": False,
        "fileloc": f"/dags/{spec['dag_id']}.py",
        "relative_fileloc": f"{spec['dag_id']}.py",
        "owners": "airflow",
        "timetable_type": "airflow.timetables.simple.NullTimetable",
        "timetable_summary": "None",
        "max_active_tasks": 1000,
        "max_active_runs": 1000,
        "max_consecutive_failed_dag_runs": 0,
        "has_task_concurrency_limits": False,
        "has_import_errors": False,
        "partition_mapper_info": {},
    }


def serialize(spec: dict) -> dict:
    """The DAG as Airflow stores a parsed one; its tasks have the operator class that the rows name."""
    operators = {task["task_id"]: task["operator"] for run in spec["runs"] for task in run["tasks"]}
    with DAG(spec["dag_id"], schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
        for task_id, operator in operators.items():
            type(operator, (BaseOperator,), {})(task_id=task_id)
    # Called SerializedDAG before 3.2; where both are there, only the newer one encodes.
    encoder = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    return encoder.to_dict(dag)


def dag_run(session, dag_id: str, run: dict, version) -> None:
    if session.scalar(select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.run_id == run["run_id"])) is not None:
        return
    moment = now()
    kind = run["run_id"].split("__")[0]
    values = {
        "dag_id": dag_id,
        "run_id": run["run_id"],
        "state": run["state"],
        "run_type": kind if kind in {"scheduled", "backfill", "asset_triggered"} else "manual",
        "logical_date": run["logical_date"],
        "run_after": run["logical_date"] or moment.isoformat(),
        "queued_at": moment,
        "start_date": moment,
        "end_date": moment if run["state"] in {"success", "failed"} else None,
        "created_at": moment,
        "updated_at": moment,
        "triggered_by": "TIMETABLE" if kind == "scheduled" else "REST_API",
        "conf": {},
        "clear_number": 0,
        "context_carrier": {},
        "span_status": "not_started",
        "created_dag_version_id": version,
    }
    session.execute(insert(DagRun.__table__).values(**typed(DagRun.__table__, values)))


def task_instances(session, dag_id: str, run: dict, version) -> int:
    rows = [row for task in run["tasks"] for row in task_rows(dag_id, run["run_id"], task, version)]
    if rows:
        session.execute(insert(TaskInstance.__table__), [typed(TaskInstance.__table__, row) for row in rows])
    fields = [
        {"dag_id": dag_id, "run_id": run["run_id"], "task_id": task["task_id"], "map_index": index}
        | {"rendered_fields": filled(task["rendered"], index), "k8s_pod_yaml": None}
        for task in run["tasks"]
        if task["rendered"] is not None
        for index in indices(task)
    ]
    if fields:
        session.execute(insert(RenderedTaskInstanceFields.__table__), fields)
    for task in run["tasks"]:
        for index in indices(task) if task["pod"] or task["xcom"] else ():
            identities(session, {"dag": dag_id, "run": run["run_id"], "task": task["task_id"]}, task, index)
    return len(rows)


def indices(task: dict) -> range:
    return range(task["map_index"], task["map_index"] + task["count"])


def filled(value, index: int):
    """The value with {index} replaced in all its strings."""
    if isinstance(value, dict):
        return {key: filled(item, index) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, index) for item in value]
    return value.replace("{index}", str(index)) if isinstance(value, str) else value


def task_rows(dag_id: str, run_id: str, task: dict, version):
    moment = now()
    state = task["state"]
    start = (moment - dt.timedelta(minutes=1) if state in STARTED else None) if task["start_date"] == "auto" else None
    end = (moment if state in ENDED | {"up_for_retry"} else None) if task["end_date"] == "auto" else None
    for index in indices(task):
        yield {
            "dag_id": dag_id,
            "run_id": run_id,
            "task_id": task["task_id"],
            "map_index": index,
            "state": state,
            "try_number": task["try_number"],
            "max_tries": task["max_tries"],
            "start_date": start if task["start_date"] == "auto" else task["start_date"],
            "end_date": end if task["end_date"] == "auto" else task["end_date"],
            "operator": task["operator"],
            "custom_operator_name": task["operator"],
            "task_display_name": task["task_id"],
            "hostname": "worker-0" if state in STARTED else "",
            "unixname": "airflow",
            "pid": 4242 if state in STARTED else None,
            "pool": "default_pool",
            "pool_slots": 1,
            "queue": "default",
            "priority_weight": 1,
            "queued_dttm": moment,
            "scheduled_dttm": moment,
            "last_heartbeat_at": moment if state == "running" else None,
            "updated_at": moment,
            "executor_config": {},
            "context_carrier": {},
            "span_status": "not_started",
            "dag_version_id": version,
            **task["columns"],
        }


def identities(session, key: dict, task: dict, index: int) -> None:
    if task["pod"]:
        name, namespace = filled(task["pod"], index), task["pod_namespace"]
        set_pod(session, **key, map_index=index, name=name, namespace=namespace)
    if task["xcom"]:
        for name, value in (("pod_name", filled(task["xcom"], index)), ("pod_namespace", task["pod_namespace"])):
            set_xcom(session, **key, map_index=index, key=name, value=value)


# Changing what is there


def find(session, dag: str, run: str, task: str, map_index: int) -> TaskInstance:
    columns = {"dag_id": dag, "run_id": run, "task_id": task, "map_index": map_index}
    return session.scalars(select(TaskInstance).filter_by(**columns)).one()


def update(session, dag: str, run: str, task: str, map_index: int, columns: dict) -> dict:
    row = find(session, dag, run, task, map_index)
    for name, value in typed(TaskInstance.__table__, columns).items():
        setattr(row, name, value)
    session.flush()
    return shown(row)


def shown(row: TaskInstance) -> dict:
    return {"id": str(row.id), "state": row.state, "try_number": row.try_number, "map_index": row.map_index}


def act(session, dag: str, run: str, task: str, map_index: int, event: str) -> dict:
    row = find(session, dag, run, task, map_index)
    EVENTS[event](session, row)
    session.flush()
    return shown(row)


def schedule(session, row) -> None:
    """DagRun.schedule_tis: a new try, unless the task only waited to be scheduled again."""
    row.try_number += row.state != "up_for_reschedule"
    row.state, row.scheduled_dttm = "scheduled", now()


def queue(session, row) -> None:
    row.state, row.queued_dttm = "queued", now()


def run_(session, row) -> None:
    """ti_run of the execution API: the start date stays when the task resumes from deferral."""
    row.start_date = row.start_date if row.next_method else now()
    row.end_date, row.last_heartbeat_at = None, now()
    row.state, row.hostname, row.pid = "running", "worker-0", 4242


def defer(session, row) -> None:
    trigger = Trigger(classpath=TRIGGER, kwargs={})
    session.add(trigger)
    session.flush()
    row.state, row.trigger_id, row.next_method = "deferred", trigger.id, "trigger_reentry"
    row.next_kwargs = {}


def resume(session, row) -> None:
    """Trigger.submit_event: scheduled again, the same try."""
    row.state, row.trigger_id, row.scheduled_dttm = "scheduled", None, now()


def end(state: str):
    def apply(session, row) -> None:
        row.start_date = row.start_date or now()
        row.end_date = now()
        row.set_duration()
        row.state, row.trigger_id, row.next_method, row.next_kwargs = state, None, None, None

    return apply


def retry(session, row) -> None:
    """A failed try with more to come: archived, the task instance gets a new id and keeps the number of the old try."""
    row.end_date = now()
    row.set_duration()
    row.prepare_db_for_next_try(session)
    row.state, row.trigger_id, row.next_method, row.next_kwargs = "up_for_retry", None, None, None


def remove(session, row) -> None:
    row.state = "removed"


EVENTS = {
    "schedule": schedule,
    "queue": queue,
    "run": run_,
    "defer": defer,
    "resume": resume,
    "succeed": end("success"),
    "fail": end("failed"),
    "skip": end("skipped"),
    "upstream-fail": end("upstream_failed"),
    "retry": retry,
    "remove": remove,
}


def set_pod(session, dag: str, run: str, task: str, map_index: int, name: str | None, namespace: str) -> dict:
    """What KubernetesPodOperator notes in the task state store (3.3 and later)."""
    if TaskStateStoreModel is None:
        raise ValueError("this Airflow has no task state store: it came with 3.3")
    scope = {"dag_id": dag, "run_id": run, "task_id": task, "map_index": map_index, "key": "pod_identifier"}
    session.execute(delete(TaskStateStoreModel).filter_by(**scope))
    if name is not None:
        value = json.dumps({"name": name, "namespace": namespace})
        session.add(TaskStateStoreModel(**scope, dag_run_id=run_key(session, dag, run), value=value, updated_at=now()))
    return {}


def set_xcom(session, dag: str, run: str, task: str, map_index: int, key: str, value) -> dict:
    scope = {"dag_id": dag, "run_id": run, "task_id": task, "map_index": map_index}
    session.execute(delete(XComModel).filter_by(**scope, key=key))
    if value is not None:
        # Stored as it is, as the execution API stores what a worker sends.
        session.add(XComModel(**scope, key=key, value=value, dag_run_id=run_key(session, dag, run)))
    return {}


def run_key(session, dag: str, run: str) -> int:
    return session.scalars(select(DagRun.id).where(DagRun.dag_id == dag, DagRun.run_id == run)).one()


def erase(session, dag: str) -> dict:
    """The DAG with everything that hangs on it."""
    for model in (TaskInstance, DagRun, SerializedDagModel, DagVersion, DagModel):
        session.execute(delete(model).where(model.dag_id == dag).execution_options(synchronize_session=False))
    return {}


def unserialize(session, dag: str) -> dict:
    """The DAG without its serialized form, as after a failed parse."""
    session.execute(delete(SerializedDagModel).where(SerializedDagModel.dag_id == dag))
    return {}


CALLS = {f.__name__: f for f in (seed, act, update, set_pod, set_xcom, erase, unserialize)}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, {})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session = settings.Session()
        try:
            result = CALLS[request.pop("call")](session, **request)
            session.commit()
        except Exception:
            session.rollback()
            self.answer(500, {"error": traceback.format_exc()})
        else:
            self.answer(200, result)
        finally:
            settings.Session.remove()

    def answer(self, status: int, body: dict) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body, default=str).encode())

    def log_message(self, *_: object) -> None:
        """Nothing to say about a request that went well."""


if __name__ == "__main__":
    settings.configure_orm()
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
