"""A real Airflow 2 for tests and the demo, with the same methods as the Airflow 3 of airflow.py.

    with Airflow2.start(version="2.11.2", cluster=cluster, namespace="jobs") as airflow:
        run = airflow.trigger("kpo_sync")

What differs: the REST API is /api/v1 of the web server, the users are those of the FAB auth manager, the DAG processor
is a part of the scheduler, a task's process id stands in its row, and there is no task state store.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.lab import airflow_env
from tests.lab.airflow import INSIDE, Airflow, AirflowError, Component, HasKubeconfig, Json, _q, _run, _title
from tests.lab.airflow2_setup import database, prepare_home, variables
from tests.lab.airflow_env import AIRFLOW_2, Environment
from tests.lab.airflow_seed import Backdoor
from tests.lab.processes import LabError, session_members, wait_for

COMPONENTS: Final = ("webserver", "scheduler", "triggerer")
API: Final = ("webserver",)
"""For tests of the REST API alone: rows are put into its database."""

NEWEST: Final = next(iter(AIRFLOW_2))

Right = tuple[str, str]
"""An action and what it is done to, as FAB calls them: ("can_read", "DAG:etl")."""

READ: Final[Sequence[Right]] = [
    ("can_read", "DAGs"),
    ("can_read", "DAG Runs"),
    ("can_read", "Task Instances"),
    ("can_read", "XComs"),
]
"""All that the healer wants to read."""


def prepare(version: str = NEWEST) -> Environment:
    """Installs this Airflow and makes its database, so that starts are quick; does nothing where both are there."""
    environment = airflow_env.prepare(version)
    database(environment)
    return environment


def start(
    version: str, root: Path | None, cluster: HasKubeconfig, namespace: str, env: Mapping[str, str] | None = None
) -> Airflow:
    """Starts a whole Airflow, of the kind that the version is."""
    if version in AIRFLOW_2:
        return Airflow2.start(root, version=version, cluster=cluster, namespace=namespace, env=env)
    return Airflow.start(root, version=version, cluster=cluster, namespace=namespace, env=env)


class Airflow2(Airflow):
    """One running Airflow 2; `Airflow2.start()` makes it, `stop()` or leaving the `with` block ends it."""

    @classmethod
    def start(
        cls,
        root: Path | None = None,
        *,
        version: str = NEWEST,
        components: Collection[str] = COMPONENTS,
        cluster: HasKubeconfig | None = None,
        namespace: str = "airflow",
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Starts it, as `Airflow.start` does. version: one of airflow_env.AIRFLOW_2; each runs tasks."""
        return super().start(
            root, version=version, components=components, cluster=cluster, namespace=namespace, env=env
        )

    @staticmethod
    def prepared(version: str) -> Environment:
        return prepare(version)

    def _variables(self) -> dict[str, str]:
        return variables(self.root, self._port)

    def _prepare_home(self) -> None:
        prepare_home(self.environment, self.root)

    def _component(self, name: str) -> Component:
        python = self.environment.python
        commands: dict[str, list[str | Path]] = {
            "webserver": [python, "-m", "airflow", name],
            "scheduler": [python, INSIDE / "preloaded.py", name, "--skip-serve-logs"],
            "triggerer": [python, "-m", "airflow", name, "--skip-serve-logs"],
        }
        component = Component(
            name=f"airflow {name}",
            args=commands[name],
            log=self.root / f"{name}.log",
            env=self.environ,
            cwd=self.root,
            start_timeout=180,
        )
        jobs = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob"}
        component.ready = self._answers if name == "webserver" else lambda: self._has_job(component, jobs[name])
        return component

    def _answers(self) -> bool:
        return self._client.get("/api/v1/version").status_code == 200

    @property
    def api_server(self) -> Component:
        return self._running("webserver")

    # The REST API

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
        """One call below /api/v1 with basic auth; otherwise as of Airflow 3."""
        answer = self._client.request(method, f"/api/v1{path}", json=body, auth=(user, user), params=query)
        if answer.status_code not in expect:
            text = f"{method} {path}: Airflow answered {answer.status_code}: {answer.text}"
            raise AirflowError(answer.status_code, answer.text, text)
        return answer.json() if answer.content else None

    def token(self, user: str = "admin") -> str:
        raise LabError("Airflow 2 has no tokens of its own")

    def trigger(self, dag: str, run_id: str | None = None, conf: Mapping[str, Any] | None = None) -> str:
        body = {"conf": dict(conf or {})} | ({"dag_run_id": run_id} if run_id else {})
        return str(self.request("POST", f"/dags/{_q(dag)}/dagRuns", body)["dag_run_id"])

    def task_instance(self, dag: str, run: str, task: str, map_index: int = -1) -> dict[str, Any]:
        return dict(self.request("GET", _task(dag, run, task, map_index)))

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
        seen: dict[str, Any] = {}

        def arrived() -> bool:
            seen.clear()
            seen.update(self.request("GET", _task(dag, run, task, map_index), expect=(200, 404)))
            return seen.get("state", "absent") in states and try_number in (None, seen.get("try_number"))

        what = f"{dag} {run} {task} {map_index}: {' or '.join(map(str, states))}"
        try:
            wait_for(arrived, timeout=timeout, what=what, interval=0.1)
        except LabError as error:
            last = f"{seen.get('state', 'absent')}, try {seen.get('try_number')}"
            raise LabError(f"{error} (it is {last}; logs are in {self.root})") from error
        return seen

    def tries(self, dag: str, run: str, task: str, map_index: int = -1) -> list[dict[str, Any]]:
        return list(self.request("GET", f"{_task(dag, run, task, map_index)}/tries")["task_instances"])

    def clear(self, dag: str, run: str, *tasks: str | tuple[str, int]) -> None:
        """Clears tasks so that the scheduler runs them again. A mapped task is cleared whole: the API can't do less."""
        if any(not isinstance(task, str) for task in tasks):
            raise LabError("the API of Airflow 2 clears all map indices of a task, and no single one")
        body = {
            "dry_run": False,
            "only_failed": False,
            "reset_dag_runs": True,  # else a run that has ended stays ended, and the task is never scheduled
            "dag_run_id": run,
            "task_ids": list(tasks),
        }
        self.request("POST", f"/dags/{_q(dag)}/clearTaskInstances", body)

    def mark(self, dag: str, run: str, task: str, state: str, map_index: int = -1) -> None:
        self.request("PATCH", _task(dag, run, task, map_index), {"dry_run": False, "new_state": state})

    def delete_run(self, dag: str, run: str) -> None:
        """Deletes a run, also while it is running."""
        self.request("DELETE", _run(dag, run))

    def delete_dag(self, dag: str) -> None:
        """Deletes a DAG with all its runs; Airflow refuses (409) while a task of it is running."""
        self.request("DELETE", f"/dags/{_q(dag)}")

    @staticmethod
    def single_question(run: str, task: str) -> str:
        return f"/dagRuns/{run}/taskInstances/{task} "

    def named_pod(self, dag: str, run: str, task: str, map_index: int = -1) -> str | None:
        """None: there is no task state store."""
        return None

    # Processes of tasks

    def task_process(self, dag: str, run: str, task: str, map_index: int = -1) -> int | None:
        """The process id of a running task. The row has it; for some seconds after the start that of the try before."""
        where = "dag_id = ? and run_id = ? and task_id = ? and map_index = ? and state = 'running'"
        found = self.sql(f"select pid from task_instance where {where}", dag, run, task, map_index)
        ((pid,),) = found or [(None,)]
        if pid is None or not _title(pid).startswith(f"airflow task runner: {dag} {task} {run}"):
            return None
        return int(pid) if pid in session_members(self.scheduler.pid) else None

    def force(self, dag: str, run: str, task: str) -> Component:
        """`airflow tasks run --force`, which runs the try once more that the row has; the started process."""
        python = self.environment.python
        args: list[str | Path] = [python, "-m", "airflow", "tasks", "run", dag, task, run, "--local", "--force"]
        log = self.root / f"force-{dt.datetime.now(dt.UTC):%H%M%S%f}.log"
        process = Component(name="airflow tasks run", args=args, log=log, env=self.environ, cwd=self.root)
        process.launch()
        return process

    def kill_supervisor(self, dag: str, run: str, task: str, map_index: int = -1) -> None:
        """SIGKILL for a task's process and the one that reports for it: Airflow notices after half a minute."""
        what = f"{dag} {run} {task}: a process"
        runner = wait_for(lambda: self.task_process(dag, run, task, map_index), timeout=60, what=what, interval=0.1)
        assert runner is not None
        supervisor = _parent(runner)
        os.kill(supervisor, signal.SIGKILL)
        os.kill(runner, signal.SIGKILL)

    # The database

    @property
    def backdoor(self) -> Backdoor:
        if self._backdoor is None:
            self._backdoor = Backdoor.start(self.environment, self.root, self.environ, INSIDE / "backdoor2.py")
        return self._backdoor

    def set_pod(
        self, dag: str, run: str, task: str, name: str | None, *, namespace: str = "airflow", map_index: int = -1
    ) -> None:
        raise LabError("Airflow 2 has no task state store")

    def set_xcom(
        self,
        dag: str,
        run: str,
        task: str,
        key: str,
        value: Json,
        *,
        map_index: int = -1,
        timestamp: dt.datetime | None = None,
    ) -> None:
        """An XCom of a task instance, pushed now or at `timestamp`; None takes it away."""
        where = {"dag": dag, "run": run, "task": task, "map_index": map_index, "key": key}
        self.backdoor.call("set_xcom", **where, value=value, timestamp=timestamp)

    def erase_run(self, dag: str, run: str) -> None:
        """Removes a run with everything that hangs on it."""
        self.backdoor.call("erase_run", dag=dag, run=run)

    # Who may do what

    def add_user(self, name: str, rights: Sequence[Right]) -> None:
        """A user whose password is the name, with a role that has just these rights."""
        self.backdoor.call("add_user", name=name, permissions=[list(right) for right in rights])

    def set_password(self, name: str, password: str) -> None:
        """Gives a user another password; sessions live on, as where a user changes it himself."""
        self.backdoor.call("set_password", name=name, password=password)

    def end_sessions(self) -> None:
        """Ends every login: as where the table of sessions is cleaned, or an administrator resets a password."""
        self.sql("delete from session")


def _task(dag: str, run: str, task: str, map_index: int) -> str:
    """An unmapped task instance has no index in its path; -1 is refused there."""
    return f"{_run(dag, run)}/taskInstances/{_q(task)}" + (f"/{map_index}" if map_index >= 0 else "")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
