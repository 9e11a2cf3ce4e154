"""The same as backdoor.py, of Airflow 2: it writes rows as Airflow itself does, and users and roles of its own login.

Runs with Airflow's interpreter: `backdoor2.py PORT`. Takes POSTed JSON `{"call": NAME, ...}` on 127.0.0.1:PORT and
answers JSON. See ../airflow_seed.py.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sys
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

from airflow import settings
from airflow.models import DagModel, DagRun, RenderedTaskInstanceFields, TaskInstance, Trigger, XCom
from airflow.models.baseoperator import BaseOperator
from airflow.models.dag import DAG
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.providers.fab.auth_manager.models import Action, Permission, Resource, Role, User
from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import delete, insert, select, text
from werkzeug.security import generate_password_hash

ENDED = {"success", "failed", "skipped", "upstream_failed"}
STARTED = {*ENDED, "running", "deferred", "up_for_retry", "restarting", "up_for_reschedule", "removed"} - {
    "upstream_failed"
}
TRIGGER = "airflow.providers.cncf.kubernetes.triggers.pod.KubernetesPodTrigger"
CHEAP = "pbkdf2:sha256:1000"
_DISTINCT = itertools.count()


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
        make_dag(session, spec)
        for run in spec["runs"]:
            make_run(session, spec["dag_id"], run)
            rows += task_instances(session, spec["dag_id"], run)
    return {"rows": rows}


def make_dag(session, spec: dict) -> None:
    if session.get(DagModel, spec["dag_id"]) is not None:
        return
    session.execute(insert(DagModel.__table__).values(**typed(DagModel.__table__, dag_columns(spec))))
    session.flush()
    if spec["serialized"]:
        session.add(SerializedDagModel(parsed(spec)))
        session.flush()


def dag_columns(spec: dict) -> dict:
    return {
        "dag_id": spec["dag_id"],
        "dag_display_name": spec["dag_id"],
        "is_paused": spec["paused"],
        "is_subdag": False,
        "is_active": True,
        "last_parsed_time": now(),
        "fileloc": f"/dags/{spec['dag_id']}.py",
        "processor_subdir": "/dags",
        "owners": "airflow",
        "default_view": "grid",
        "schedule_interval": None,
        "timetable_description": "Never, external triggers only",
        "max_active_tasks": 1000,
        "max_active_runs": 1000,
        "max_consecutive_failed_dag_runs": 0,
        "has_task_concurrency_limits": False,
        "has_import_errors": False,
    }


def parsed(spec: dict) -> DAG:
    """The DAG; its tasks have the operator class that the rows name."""
    operators = {task["task_id"]: task["operator"] for run in spec["runs"] for task in run["tasks"]}
    with DAG(spec["dag_id"], schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
        for task_id, operator in operators.items():
            type(operator, (BaseOperator,), {})(task_id=task_id)
    dag.fileloc = f"/dags/{spec['dag_id']}.py"
    return dag


def make_run(session, dag_id: str, run: dict) -> None:
    if session.scalar(select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.run_id == run["run_id"])) is not None:
        return
    moment = now()
    kind = run["run_id"].split("__")[0]
    values = {
        "dag_id": dag_id,
        "run_id": run["run_id"],
        "state": run["state"],
        "run_type": kind if kind in {"scheduled", "backfill", "dataset_triggered"} else "manual",
        # Each run of a DAG has another date, down to the microsecond.
        "execution_date": run["logical_date"] or moment + dt.timedelta(microseconds=next(_DISTINCT)),
        "queued_at": moment,
        "start_date": moment,
        "end_date": moment if run["state"] in {"success", "failed"} else None,
        "updated_at": moment,
        "external_trigger": kind == "manual",
        "conf": {},
        "clear_number": 0,
    }
    session.execute(insert(DagRun.__table__).values(**typed(DagRun.__table__, values)))


def task_instances(session, dag_id: str, run: dict) -> int:
    rows = [row for task in run["tasks"] for row in task_rows(dag_id, run["run_id"], task)]
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
        key = {"dag": dag_id, "run": run["run_id"], "task": task["task_id"]}
        for index in indices(task) if task["xcom"] else ():
            set_xcom(session, **key, map_index=index, key="pod_name", value=filled(task["xcom"], index))
            set_xcom(session, **key, map_index=index, key="pod_namespace", value=task["pod_namespace"])
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


def task_rows(dag_id: str, run_id: str, task: dict):
    moment = now()
    state = task["state"]
    start = moment - dt.timedelta(minutes=1) if state in STARTED else None
    end = moment if state in ENDED | {"up_for_retry"} else None
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
            "updated_at": moment,
            "executor_config": {},
            **task["columns"],
        }


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
    return {"state": row.state, "try_number": row.try_number, "map_index": row.map_index}


def act(session, dag: str, run: str, task: str, map_index: int, event: str) -> dict:
    row = find(session, dag, run, task, map_index)
    EVENTS[event](session, row)
    session.flush()
    return shown(row)


def schedule(session, row) -> None:
    """DagRun.schedule_tis: a new try, unless the task only waited to be scheduled again."""
    row.try_number += row.state != "up_for_reschedule" and row.next_method is None
    row.state = "scheduled"


def queue(session, row) -> None:
    row.state, row.queued_dttm = "queued", now()


def run_(session, row) -> None:
    """TaskInstance._check_and_change_state_before_execution: the start date stays when it resumes from deferral."""
    row.start_date = row.start_date if row.next_method else now()
    row.end_date, row.state, row.hostname, row.pid = None, "running", "worker-0", 4242


def begin(session, row) -> None:
    """TaskInstance.clear_xcom_data, up to 5 s after the row says running."""
    ids = {"dag_id": row.dag_id, "run_id": row.run_id, "task_id": row.task_id, "map_index": row.map_index}
    session.execute(delete(XCom).filter_by(**ids).execution_options(synchronize_session=False))


def force(session, row) -> None:
    """`airflow tasks run --force`: the same try runs once more."""
    row.next_method = None
    run_(session, row)


def defer(session, row) -> None:
    trigger = Trigger(classpath=TRIGGER, kwargs={"pod_name": "p", "config_dict": {"token": "PLANTED-KUBECONFIG-TOKEN"}})
    session.add(trigger)
    session.flush()
    row.state, row.trigger_id, row.next_method, row.next_kwargs = "deferred", trigger.id, "trigger_reentry", {}


def resume(session, row) -> None:
    """Trigger.submit_event: scheduled again, the same try."""
    row.state, row.trigger_id = "scheduled", None


def end(state: str):
    def apply(session, row) -> None:
        row.start_date = row.start_date or now()
        row.end_date = now()
        row.set_duration()
        row.state, row.next_method, row.next_kwargs = state, None, None

    return apply


def retry(session, row) -> None:
    """A failed try with more to come: archived, and the row keeps the number of the old try."""
    row.end_date = now()
    row.set_duration()
    TaskInstanceHistory.record_ti(row, session)
    row.state, row.trigger_id, row.next_method, row.next_kwargs = "up_for_retry", None, None, None


def remove(session, row) -> None:
    row.state = "removed"


EVENTS = {
    "schedule": schedule,
    "queue": queue,
    "run": run_,
    "begin": begin,
    "force": force,
    "defer": defer,
    "resume": resume,
    "succeed": end("success"),
    "fail": end("failed"),
    "skip": end("skipped"),
    "upstream-fail": end("upstream_failed"),
    "retry": retry,
    "remove": remove,
}


def set_xcom(session, dag: str, run: str, task: str, map_index: int, key: str, value, timestamp=None) -> dict:
    scope = {"dag_id": dag, "run_id": run, "task_id": task, "map_index": map_index}
    session.execute(delete(XCom).filter_by(**scope, key=key).execution_options(synchronize_session=False))
    if value is not None:
        number = session.scalars(select(DagRun.id).where(DagRun.dag_id == dag, DagRun.run_id == run)).one()
        row = {**scope, "key": key, "dag_run_id": number, "value": XCom.serialize_value(value)}
        session.execute(insert(XCom.__table__).values(**typed(XCom.__table__, row | {"timestamp": timestamp or now()})))
    return {}


def erase_run(session, dag: str, run: str) -> dict:
    """A run with everything that hangs on it."""
    session.execute(text("PRAGMA foreign_keys=ON"))
    for table in (XCom, RenderedTaskInstanceFields, TaskInstance, DagRun):
        scope = {"dag_id": dag, "run_id": run}
        session.execute(delete(table).filter_by(**scope).execution_options(synchronize_session=False))
    return {}


def erase(session, dag: str) -> dict:
    """The DAG with everything that hangs on it."""
    for model in (XCom, RenderedTaskInstanceFields, TaskInstance, DagRun, SerializedDagModel, DagModel):
        session.execute(delete(model).where(model.dag_id == dag).execution_options(synchronize_session=False))
    return {}


def unserialize(session, dag: str) -> dict:
    """The DAG without its serialized form, as after a failed parse."""
    session.execute(delete(SerializedDagModel).where(SerializedDagModel.dag_id == dag))
    return {}


# Who may do what


def add_user(session, name: str, permissions: list[list[str]]) -> dict:
    """A user (password = name) with a role of the same name and these rights, as (action, resource)."""
    role = the(session, Role, name)
    role.permissions = [permission(session, *one) for one in permissions]
    user = User(username=name, first_name=name, last_name="Lab", email=f"{name}@example.com", active=True)
    user.password, user.roles = generate_password_hash(name, method=CHEAP), [role]
    session.add(user)
    return {}


def permission(session, action: str, resource: str) -> Permission:
    parts = {"action": the(session, Action, action), "resource": the(session, Resource, resource)}
    session.flush()
    ids = {"action_id": parts["action"].id, "resource_id": parts["resource"].id}
    found = session.scalars(select(Permission).filter_by(**ids)).unique().one_or_none()
    if found is None:
        found = Permission(**parts)
        session.add(found)
    return found


def the(session, model, name: str):
    found = session.scalars(select(model).filter_by(name=name)).unique().one_or_none()
    if found is None:
        found = model(name=name)
        session.add(found)
    return found


def set_password(session, name: str, password: str) -> dict:
    user = session.scalars(select(User).filter_by(username=name)).unique().one()
    user.password = generate_password_hash(password, method=CHEAP)
    return {}


CALLS = {f.__name__: f for f in (seed, act, update, set_xcom, erase, erase_run, unserialize, add_user, set_password)}


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
