"""Answers of real Airflow 2 servers, for tests that have none: `python -m tests.unit.recorded` records them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from healer.airflow.api import dialect2 as two
from healer.airflow.api.dialect import Ask
from healer.airflow.api.task_key import TaskKey

FOLDER: Final = Path(__file__).parent
VERSIONS: Final = ("2.11.2", "2.10.5")
RUN: Final = "scheduled__2026-01-01T00:00:00+00:00"
SECRET: Final = "PLANTED-KUBECONFIG-TOKEN"
"""What the lab puts into the kwargs of each trigger, as KubernetesPodOperator puts the kubeconfig there."""


def cell(task: str, dag: str = "a", run: str = RUN) -> TaskKey:
    """A task of the recorded DAG."""
    return TaskKey(dag, run, task)


class Answer(Struct, frozen=True):
    """What a server has sent."""

    status: int
    type: str
    body: str


QUESTIONS: Final[dict[str, tuple[str, Ask[Any]]]] = {
    "version": ("", two.version()),
    "dags": ("viewer", two.dags(2)),
    "runs": ("viewer", two.runs("a", 2)),
    "tasks": ("viewer", two.tasks("a")),
    "tasks of a run": ("viewer", two.tasks_of_run("a", RUN, 100)),
    "may list": ("viewer", two.may_list("nothing")),
    "dag": ("viewer", two.dag("a")),
    "run": ("viewer", two.run("a", RUN)),
    "running": ("viewer", two.task_instance(cell("run"), -1)),
    "deferred": ("viewer", two.task_instance(cell("later"), -1)),
    "failed": ("viewer", two.task_instance(cell("failed"), -1)),
    "cleared": ("viewer", two.task_instance(cell("cleared"), -1)),
    "skipped": ("viewer", two.task_instance(cell("skipped"), -1)),
    "mapped": ("viewer", two.task_instance(cell("m"), 1)),
    "list": ("viewer", two.listed((cell("failed"), cell("later"), cell("m")), {})),
    "xcom": ("viewer", two.xcom(cell("run"), -1, "pod_name")),
    "xcom of a mapped task": ("viewer", two.xcom(cell("m"), 1, "pod_name")),
    "note": ("viewer", two.read_note(cell("run"), -1)),
    "no task": ("viewer", two.task_instance(cell("nothing"), -1)),
    "no index": ("viewer", two.task_instance(cell("m"), 9)),
    "is mapped": ("viewer", two.task_instance(cell("m"), -1)),
    "no run": ("viewer", two.run("a", "nothing")),
    "no DAG": ("viewer", two.dag("nothing")),
    "no tasks": ("viewer", two.tasks("nothing")),
    "no XCom": ("viewer", two.xcom(cell("failed"), -1, "pod_name")),
    "no run to note on": ("user", two.may_note("a", "nothing")),
    "no right": ("nobody", two.dag("a")),
    "no right to note": ("viewer", two.may_note("a", "nothing")),
    "no login": ("", two.dag("a")),
    "another DAG in the list": ("only-a", two.listed((cell("run"), cell("t", "b")), {})),
    "bad filter": ("viewer", two.listed((cell("run"),), {"state": ["nonsense"]})),
}
"""By name: who asks (password = name), and what."""


def answers(version: str) -> dict[str, Answer]:
    """What this version has answered."""
    return msgspec.json.decode((FOLDER / f"airflow-{version}.json").read_bytes(), type=dict[str, Answer])
