"""A real Airflow for tests and the demo: its own virtual environment, SQLite, LocalExecutor, up in some ten seconds.

    with Airflow.start(folder, cluster=cluster, namespace="jobs") as airflow:
        run = airflow.trigger("kpo_sync")
        airflow.wait_task("kpo_sync", run, "work", "running")

The example DAGs are in `dags/`. What Airflow notices after minutes by default it notices here after seconds. For tests
of the REST API alone start only the API server and put rows into its database (`seed`, `act`; see airflow_seed.py).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import quote

import httpx

from tests.lab import airflow_env
from tests.lab.airflow_env import FULL, Environment
from tests.lab.airflow_seed import Backdoor, Dag, Event, as_rows
from tests.lab.airflow_settings import USERS, variables
from tests.lab.airflow_template import database
from tests.lab.processes import (
    LabError,
    Process,
    free_ports,
    new_folder,
    remove_folder,
    session_members,
    wait_for,
)

__all__ = ["COMPONENTS", "Airflow", "AirflowError", "prepare"]

COMPONENTS: Final = ("api-server", "scheduler", "dag-processor", "triggerer")
JOBS: Final = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}
"""How each component calls itself in the database."""

ENDED: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""The states in which a task instance stays."""

INSIDE: Final = Path(__file__).with_name("inside")

_ADOPTED: Final = "Reusing existing pod"
"""What KubernetesPodOperator logs when it takes over a Pod."""

Json = Any
"""A decoded JSON document."""


def prepare(version: str = FULL) -> Environment:
    """Installs this Airflow and makes its database, so that starts are quick; does nothing where both are there.

    Takes about a minute. Raises LabError for a version without pinned requirements, or when a command fails.
    """
    environment = airflow_env.prepare(version)
    database(environment)
    return environment


class HasKubeconfig(Protocol):
    @property
    def kubeconfig(self) -> Path: ...


class AirflowError(LabError):
    """Airflow's REST API answered otherwise than expected; `status` is the HTTP code, `body` its text."""

    def __init__(self, status: int, body: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.body = body


@dataclass(eq=False)
class Component(Process):
    """A process of Airflow; remembers since when it runs, for its heartbeat in the database may be an earlier one's."""

    launched: dt.datetime = field(default=dt.datetime.min.replace(tzinfo=dt.UTC), init=False)

    def launch(self) -> Process:
        self.launched = dt.datetime.now(dt.UTC)
        return super().launch()


class Airflow:
    """One running Airflow; `Airflow.start()` makes it, `stop()` or leaving the `with` block ends it.

    url: of the API server. root: folder with the database, logs and settings. namespace: where its Pods go unless the
    run's conf says otherwise. environ: the variables of its processes.
    """

    def __init__(self, environment: Environment, root: Path, *, namespace: str, kubeconfig: Path | None) -> None:
        self.environment = environment
        self.version = environment.version
        self.root = root
        self.namespace = namespace
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self.environ = self._variables()
        self.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = '{"conn_type": "kubernetes"}'
        self.environ["AIRFLOW_VAR_LAB_NAMESPACE"] = namespace
        self.environ["AIRFLOW_VAR_LAB_KUBECONFIG"] = str(kubeconfig or "")
        self.components: dict[str, Component] = {}
        self._client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self._tokens: dict[str, str] = {}
        self._backdoor: Backdoor | None = None
        self._own_root = False

    # Life

    @classmethod
    def start(
        cls,
        root: Path | None = None,
        *,
        version: str = FULL,
        components: Collection[str] = COMPONENTS,
        cluster: HasKubeconfig | None = None,
        namespace: str = "airflow",
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Starts an Airflow; returns when all of it runs but the DAG processor, which nobody has to wait for.

        root: an empty folder that is kept; by default a temporary one that goes with it. version: one of
        airflow_env.REQUIREMENTS; other ones than the newest serve the API only. components: among COMPONENTS, always
        with "api-server". namespace: must exist in the cluster before a task runs. env: more or other variables, e.g.
        `{"AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "10"}`. Raises LabError with a log's tail when a part does not come up.
        """
        environment = cls.prepared(version)
        for attempt in (1, 2, 3):
            airflow = cls._make(environment, root, namespace, cluster, env or {})
            try:
                airflow._bring_up(components)
            except BaseException as error:  # Ctrl-C included: the caller has no handle to stop it with
                airflow.stop()
                # Between the choice of a port and its use another process may take it.
                if attempt < 3 and isinstance(error, LabError) and "address already in use" in str(error):
                    continue
                raise
            return airflow
        raise AssertionError("unreachable")

    @staticmethod
    def prepared(version: str) -> Environment:
        """What `start` needs of this version, made first where it is missing."""
        return prepare(version)

    def _variables(self) -> dict[str, str]:
        return variables(self.root, self._port)

    @classmethod
    def _make(
        cls,
        environment: Environment,
        root: Path | None,
        namespace: str,
        cluster: HasKubeconfig | None,
        env: Mapping[str, str],
    ) -> Self:
        folder = new_folder("kpo-healer-airflow-") if root is None else root.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        kubeconfig = cluster.kubeconfig if cluster is not None else None
        airflow = cls(environment, folder, namespace=namespace, kubeconfig=kubeconfig)
        airflow._own_root = root is None
        airflow.environ |= env
        return airflow

    def _prepare_home(self) -> None:
        shutil.copy(database(self.environment), self.root / "airflow.db")
        (self.root / "passwords.json").write_text(json.dumps({name: name for name in USERS}))

    def _bring_up(self, names: Collection[str]) -> None:
        self._prepare_home()
        for name in names:
            self.components[name] = self._component(name)
        # The DAGs are in the copied database already, so nobody waits until they are parsed again.
        waited_for = [component for name, component in self.components.items() if name != "dag-processor"]
        for component in waited_for:
            component.launch()
        for component in waited_for:
            component.wait_ready()
        if "dag-processor" in self.components:
            self.dag_processor.launch()

    def _component(self, name: str) -> Component:
        python = self.environment.python
        commands: dict[str, list[str | Path]] = {
            "api-server": [python, "-m", "airflow", name, "--host", "127.0.0.1", "--port", str(self._port)],
            # The log servers of these two have fixed ports, which would keep a second Airflow from starting.
            "scheduler": [python, INSIDE / "preloaded.py", name, "--skip-serve-logs"],
            "triggerer": [python, "-m", "airflow", name, "--skip-serve-logs"],
            # Parsing takes all the processor it can get, just when tasks are to start.
            "dag-processor": ["nice", python, "-m", "airflow", name],
        }
        component = Component(
            name=f"airflow {name}",
            args=commands[name],
            log=self.root / f"{name}.log",
            env=self.environ,
            cwd=self.root,
            start_timeout=120,
        )
        component.ready = self._answers if name == "api-server" else lambda: self._has_job(component, JOBS[name])
        return component

    def _answers(self) -> bool:
        """Whether the API answers; asked once, the part that serves tasks is built, which would delay the first one."""
        paths = ["/api/v2/version"] + (["/execution/health"] if "scheduler" in self.components else [])
        return all(self._client.get(path).status_code == 200 for path in paths)

    def _has_job(self, component: Component, job: str) -> bool:
        """Whether this very process has reported itself to the database; an earlier one's report does not count."""
        since = component.launched.strftime("%Y-%m-%d %H:%M:%S.%f")
        query = "select 1 from job where job_type = ? and state = 'running' and start_date > ?"
        return bool(self.sql(query, job, since))

    def scheduler_silence(self) -> float:
        """Seconds since a scheduler has reported itself to the database: one that can't go on waits for its tasks."""
        query = "select strftime('%s', 'now') - strftime('%s', max(latest_heartbeat)) from job where job_type = ?"
        ((seconds,),) = self.sql(query, "SchedulerJob")
        return float(seconds or 0)

    def stop(self) -> None:
        """Ends every process at once, running tasks included, and removes a temporary root."""
        for component in reversed(self.components.values()):
            component.kill()
        if self._backdoor is not None:
            self._backdoor.stop()
        self._client.close()
        if self._own_root:
            remove_folder(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def api_server(self) -> Component:
        return self._running("api-server")

    @property
    def scheduler(self) -> Component:
        return self._running("scheduler")

    @property
    def triggerer(self) -> Component:
        return self._running("triggerer")

    @property
    def dag_processor(self) -> Component:
        return self._running("dag-processor")

    def _running(self, name: str) -> Component:
        if name not in self.components:
            raise LabError(f'this Airflow was started without "{name}": name it in components=')
        return self.components[name]

    # The REST API

    def token(self, user: str = "admin") -> str:
        """A token of this user (password = name), asked for once."""
        if user not in self._tokens:
            answer = self._client.post("/auth/token", json={"username": user, "password": user})
            if answer.status_code != 201:
                raise AirflowError(answer.status_code, answer.text, f"no token for {user}: {answer.text}")
            self._tokens[user] = answer.json()["access_token"]
        return self._tokens[user]

    def request(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        user: str = "admin",
        query: Mapping[str, Any] | None = None,
        expect: Collection[int] = (200, 201, 202, 204),
    ) -> Json:
        """One call below /api/v2 (`path` begins with a slash); the decoded answer, None if it is empty.

        Raises AirflowError when the status is not among `expect`.
        """
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        answer = self._client.request(method, f"/api/v2{path}", json=body, headers=headers, params=query)
        if answer.status_code not in expect:
            text = f"{method} {path}: Airflow answered {answer.status_code}: {answer.text}"
            raise AirflowError(answer.status_code, answer.text, text)
        return answer.json() if answer.content else None

    def unpause(self, dag: str, *, paused: bool = False) -> None:
        self.request("PATCH", f"/dags/{_q(dag)}", {"is_paused": paused})

    def trigger(self, dag: str, run_id: str | None = None, conf: Mapping[str, Any] | None = None) -> str:
        """Starts a run without logical date; its id. `conf`: see dags/_kpo.py (annotations, namespace, by_index)."""
        body = {"logical_date": None, "conf": dict(conf or {})} | ({"dag_run_id": run_id} if run_id else {})
        return str(self.request("POST", f"/dags/{_q(dag)}/dagRuns", body)["dag_run_id"])

    def run(self, dag: str, run: str) -> dict[str, Any]:
        """The run as the API shows it."""
        return dict(self.request("GET", _run(dag, run)))

    def wait_run(self, dag: str, run: str, *states: str, timeout: float = 90) -> dict[str, Any]:
        """Waits until the run is in one of these states; the run."""

        def arrived() -> dict[str, Any] | None:
            found = self.run(dag, run)
            return found if found["state"] in states else None

        return wait_for(arrived, timeout=timeout, what=f"{dag} {run}: {' or '.join(states)}", interval=0.2) or {}

    def task_instance(self, dag: str, run: str, task: str, map_index: int = -1) -> dict[str, Any]:
        """The task instance as the API shows it; AirflowError 404 when there is none."""
        return dict(self.request("GET", _task(dag, run, task, map_index)))

    def task_instances(self, dag: str, run: str) -> list[dict[str, Any]]:
        """All task instances of one run (up to the page limit of 100)."""
        return list(self.request("GET", f"{_run(dag, run)}/taskInstances", query={"limit": 100})["task_instances"])

    def wait_task(
        self,
        dag: str,
        run: str,
        task: str,
        *states: str | None,
        map_index: int = -1,
        try_number: int | None = None,
        timeout: float = 90,
    ) -> dict[str, Any]:
        """Waits until the task instance is in one of these states (None: cleared), and at this try if given.

        Returns the task instance. Raises LabError that names its last state when the time (seconds) is over.
        """
        seen: dict[str, Any] = {}

        def arrived() -> bool:
            answer = self.request("GET", _task(dag, run, task, map_index), expect=(200, 404))
            seen.update(answer)
            return seen.get("state", "absent") in states and try_number in (None, seen["try_number"])

        what = f"{dag} {run} {task} {map_index}: {' or '.join(map(str, states))}"
        try:
            wait_for(arrived, timeout=timeout, what=what, interval=0.1)
        except LabError as error:
            last = f"{seen.get('state', 'absent')}, try {seen.get('try_number')}"
            raise LabError(f"{error} (it is {last}; logs are in {self.root})") from error
        return seen

    def tries(self, dag: str, run: str, task: str, map_index: int = -1) -> list[dict[str, Any]]:
        """All tries of a task instance, the current one included."""
        return list(self.request("GET", f"{_task(dag, run, task, map_index)}/tries")["task_instances"])

    def clear(self, dag: str, run: str, *tasks: str | tuple[str, int]) -> None:
        """Clears tasks, or mapped ones as (task, index), so that the scheduler runs them again.

        A run whose tasks have all ended is awaited first: SQLite has no row locks, so a scheduler that is about to end
        the run would overwrite what the clearing makes of it, and nothing would ever be scheduled.
        """
        if "scheduler" in self.components and all(task["state"] in ENDED for task in self.task_instances(dag, run)):
            self.wait_run(dag, run, "success", "failed")
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run, "task_ids": list(tasks)}
        self.request("POST", f"/dags/{_q(dag)}/clearTaskInstances", body)

    def mark(self, dag: str, run: str, task: str, state: str, map_index: int = -1) -> None:
        """Marks a task instance success, failed or skipped, as the button in the user interface does."""
        self.request("PATCH", _task(dag, run, task, map_index), {"new_state": state})

    def mark_run(self, dag: str, run: str, state: str) -> None:
        """Marks a run success, failed or queued, with its task instances."""
        self.request("PATCH", _run(dag, run), {"state": state})

    def delete_run(self, dag: str, run: str) -> None:
        """Deletes a run; Airflow refuses (409) while it is running."""
        self.request("DELETE", _run(dag, run))

    @staticmethod
    def single_question(run: str, task: str) -> str:
        """How the decoded path of a question about one unmapped task instance ends, and of none below it (Door)."""
        return f"/dagRuns/{run}/taskInstances/{task}/-1 "

    def named_pod(self, dag: str, run: str, task: str, map_index: int = -1) -> str | None:
        """The Pod that Airflow's state store names for this task instance (Airflow 3.3 and later)."""
        path = f"{_run(dag, run)}/taskInstances/{_q(task)}/state-store/pod_identifier"
        answer = self.request("GET", path, query={"map_index": map_index}, expect=(200, 404))
        return answer["value"]["name"] if "value" in answer else None

    def xcom(self, dag: str, run: str, task: str, key: str, map_index: int = -1) -> Json:
        """An XCom of a task instance; None when there is none."""
        path = f"{_run(dag, run)}/taskInstances/{_q(task)}/xcomEntries/{_q(key)}"
        answer = self.request("GET", path, query={"map_index": map_index}, expect=(200, 404))
        return answer.get("value")

    def log(self, dag: str, run: str, task: str, try_number: int = 1, map_index: int = -1) -> str:
        """What a try of a task has logged so far; empty before it began."""
        folder = self.root / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
        file = folder / (f"map_index={map_index}" if map_index >= 0 else "") / f"attempt={try_number}.log"
        return file.read_text() if file.exists() else ""

    def wait_adopted(self, dag: str, run: str, task: str, try_number: int, map_index: int = -1) -> None:
        """Waits until this try has taken over the Pod of an earlier one.

        A task is `running` some time before that. A Pod that ends in between is replaced instead of adopted.
        """
        what = f"{dag} {run} {task}: try {try_number} to adopt a Pod"
        wait_for(lambda: _ADOPTED in self.log(dag, run, task, try_number, map_index), timeout=90, what=what)

    # Processes of tasks

    def task_process(self, dag: str, run: str, task: str, map_index: int = -1) -> int | None:
        """The process id of a running task: a child of the executor's worker, with the task instance's id as title."""
        title = f"airflow worker -- {self.task_instance(dag, run, task, map_index)['id']}"
        return next((pid for pid in session_members(self.scheduler.pid) if _title(pid) == title), None)

    def kill_task(self, dag: str, run: str, task: str, map_index: int = -1, *, timeout: float = 60) -> int:
        """SIGKILL for the task's own process, as the kernel does when memory runs out; its former process id.

        Waits until there is such a process. The worker around it lives on and reports the failure.
        """
        what = f"{dag} {run} {task}: a process"
        pid = wait_for(lambda: self.task_process(dag, run, task, map_index), timeout=timeout, what=what, interval=0.1)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_trigger(self, dag: str, run: str, *, timeout: float = 60) -> None:
        """Waits until the triggerer runs the trigger of a deferred task of this run.

        A second or so passes between deferral and that. Who marks or clears the task meanwhile leaves its Pod behind:
        Airflow forgets the trigger before anything could delete the Pod.
        """
        logs = self.root / "logs" / f"dag_id={dag}" / f"run_id={run}"
        wait_for(lambda: any(logs.rglob("*.trigger.*.log")), timeout=timeout, what=f"a trigger of {dag} {run}")

    def lose_triggerer(self) -> None:
        """SIGKILL for the triggerer with all its triggers, while another one is up already, as where there are several.

        The other one adopts the triggers after 15 s; until then it forgets those whose task instance is marked or
        cleared, and nobody deletes their Pods. (A triggerer that is merely restarted finds them and kills the Pods.)
        """
        lost = self.triggerer
        unassigned = "select 1 from trigger where triggerer_id is null"
        wait_for(lambda: not self.sql(unassigned), what="the triggerer to take its triggers")
        other = self._component("triggerer")
        other.start()
        self.components["triggerer"] = other
        lost.kill()

    # The database

    def python(self, script: str, *args: str, stdin: str = "", timeout: float = 300) -> str:
        """Runs a script of tests/lab/inside with Airflow's interpreter and database; what it printed.

        Raises LabError with its error output when it fails.
        """
        command: Sequence[str | Path] = [self.environment.python, INSIDE / script, *args]
        done = subprocess.run(
            command, env=self.environ, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise LabError(f"{script} failed: {done.stderr[-2000:]}")
        return done.stdout

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Runs one statement on the database, past Airflow."""
        connection = sqlite3.connect(self.root / "airflow.db", timeout=60)
        try:
            with connection:
                return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    @property
    def backdoor(self) -> Backdoor:
        """Writes rows as Airflow itself would, without a scheduler; started at the first use."""
        if self._backdoor is None:
            self._backdoor = Backdoor.start(self.environment, self.root, self.environ)
        return self._backdoor

    def seed(self, dags: Sequence[Dag]) -> None:
        """Inserts DAGs with runs and task instances; see airflow_seed.py."""
        self.backdoor.call("seed", dags=as_rows(dags))

    def act(self, dag: str, run: str, task: str, event: Event, map_index: int = -1) -> dict[str, Any]:
        """Lets a task instance go one step as Airflow would; its id, state and try_number afterwards."""
        return self.backdoor.call("act", dag=dag, run=run, task=task, map_index=map_index, event=event)

    def update(self, dag: str, run: str, task: str, map_index: int = -1, **columns: Any) -> dict[str, Any]:
        """Sets columns of a task instance's row as they are; its id, state and try_number afterwards."""
        return self.backdoor.call("update", dag=dag, run=run, task=task, map_index=map_index, columns=columns)

    def set_pod(
        self, dag: str, run: str, task: str, name: str | None, *, namespace: str = "airflow", map_index: int = -1
    ) -> None:
        """The Pod that the state store names (Airflow 3.3 and later); None takes it away."""
        where = {"dag": dag, "run": run, "task": task, "map_index": map_index, "namespace": namespace}
        self.backdoor.call("set_pod", **where, name=name)

    def set_xcom(self, dag: str, run: str, task: str, key: str, value: Json, *, map_index: int = -1) -> None:
        """An XCom of a task instance; None takes it away."""
        self.backdoor.call("set_xcom", dag=dag, run=run, task=task, map_index=map_index, key=key, value=value)

    def erase(self, dag: str) -> None:
        """Removes a DAG with everything that hangs on it."""
        self.backdoor.call("erase", dag=dag)

    def unserialize(self, dag: str) -> None:
        """Removes the parsed form of a DAG, as after a failed parse; its runs stay."""
        self.backdoor.call("unserialize", dag=dag)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
    except OSError:
        return ""


def _q(part: str) -> str:
    return quote(part, safe="")


def _run(dag: str, run: str) -> str:
    return f"/dags/{_q(dag)}/dagRuns/{_q(run)}"


def _task(dag: str, run: str, task: str, map_index: int) -> str:
    return f"{_run(dag, run)}/taskInstances/{_q(task)}/{map_index}"
