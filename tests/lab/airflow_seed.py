"""Rows in Airflow's database for tests of its REST API: made up in bulk, or changed as Airflow itself would.

For an Airflow without scheduler (`Airflow.start(components=("api-server",))`), which would act on them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from tests.lab.airflow_env import Environment
from tests.lab.processes import LabError, Process, free_ports

SCRIPT: Final = Path(__file__).with_name("inside") / "backdoor.py"

Auto = Literal["auto"]
Event = Literal[
    "schedule",
    "queue",
    "run",
    "begin",
    "force",
    "defer",
    "resume",
    "succeed",
    "fail",
    "skip",
    "upstream-fail",
    "retry",
    "remove",
]
"""What happens to a task instance; see `EVENTS` in inside/backdoor.py for how Airflow does each.

Of Airflow 2 alone (inside/backdoor2.py): `begin`, when the task's own process takes away the XComs of the try before,
and `force`, `airflow tasks run --force`, which runs the same try once more.
"""

RENDERED: Final = {"namespace": "airflow", "base_container_name": "base", "image": "registry.example.com/etl:1"}
"""The rendered fields that the healer reads, and one that it does not."""


@dataclass(frozen=True)
class Task:
    """One task instance, or `count` mapped ones from `map_index` on.

    `{index}` stands for the map index in pod, xcom and rendered. start_date and end_date: "auto" fits the state.
    rendered: None leaves no rendered fields. pod: the name in the state store (3.3 and later); xcom: the name in XCom.
    columns: further columns of the row as they are.
    """

    task_id: str
    state: str | None = "running"
    map_index: int = -1
    count: int = 1
    try_number: int = 1
    max_tries: int = 1
    operator: str = "KubernetesPodOperator"
    start_date: dt.datetime | Auto | None = "auto"
    end_date: dt.datetime | Auto | None = "auto"
    rendered: Mapping[str, Any] | None = field(default_factory=lambda: RENDERED)
    pod: str | None = None
    xcom: str | None = None
    pod_namespace: str = "airflow"
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run; where it exists already, the tasks are added to it. The run id's prefix decides its type."""

    run_id: str
    tasks: Sequence[Task] = ()
    state: str = "running"
    logical_date: dt.datetime | None = None


@dataclass(frozen=True)
class Dag:
    """One DAG; where it exists already, the runs are added to it. serialized: whether Airflow has its parsed form."""

    dag_id: str
    runs: Sequence[Run] = ()
    serialized: bool = True
    paused: bool = False


class Backdoor:
    """A process with Airflow's interpreter that writes rows on request."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False)

    @classmethod
    def start(cls, environment: Environment, root: Path, environ: Mapping[str, str], script: Path = SCRIPT) -> Backdoor:
        """Starts it (some three seconds); LabError with its log when it does not come up."""
        (port,) = free_ports(1)
        args: list[str | Path] = [environment.python, script, str(port)]
        process = Process("airflow backdoor", args, root / "backdoor.log", env=environ, cwd=root)
        backdoor = cls(process, port)
        process.ready = lambda: backdoor._client.get("/").status_code == 200
        process.start()
        return backdoor

    def stop(self) -> None:
        self._process.kill()
        self._client.close()

    def call(self, function: str, /, **arguments: Any) -> dict[str, Any]:
        """Runs a function of inside/backdoor.py; LabError with its traceback when it fails."""
        answer = self._client.post("/", content=_json({"call": function, **arguments}))
        decoded = dict(answer.json())
        if answer.status_code != 200:
            raise LabError(f"{function}: {decoded['error']}")
        return decoded


def as_rows(dags: Sequence[Dag]) -> list[dict[str, Any]]:
    """The specification as JSON objects."""
    return [dataclasses.asdict(dag) for dag in dags]


def _json(value: object) -> bytes:
    return json.dumps(value, default=lambda date: date.isoformat()).encode()
