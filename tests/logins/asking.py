"""The healer's side of a real Airflow: it asks about one Pod, and checks what works."""

from __future__ import annotations

from typing import Any

from healer.airflow import Airflow as Asker
from healer.config import AirflowConfig
from healer.model import Answer, Known, Unknown
from tests.airflow.test_questions import RUN, pod
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task


def seed(lab: Airflow, dag: str) -> None:
    """Make a DAG with one failed task instance whose Pod Airflow names."""
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "failed", pod="some", xcom="some")])])])


def asker(lab: Airflow, **login: Any) -> Asker:
    """The healer's side, with this login (YAML keys)."""
    config = {"name": "lab", "namespaces": ["airflow"], "url": lab.url, **login}
    return Asker(AirflowConfig.model_validate(config))


def ask(asking: Asker, dag: str) -> Answer:
    """What Airflow says of the Pod of the task instance."""
    (answer,) = asking.get_all([pod(dag, "t", name="some")]).values()
    return answer


def state(answer: Answer) -> Any:
    """The task instance's state, as Airflow says it."""
    assert isinstance(answer, Known), answer
    return answer.task.state


def why(answer: Answer) -> str:
    """Why there is no answer."""
    assert isinstance(answer, Unknown), answer
    return answer.why


def checked(asking: Asker) -> dict[str, tuple[str, str]]:
    """What `check` says, by what it is about."""
    return {check.name: (check.status.value, check.text) for check in asking.probe().checks}


def marks(asking: Asker) -> dict[str, str]:
    """How each check came out."""
    return {name: status for name, (status, _) in checked(asking).items() if name != "Pod names"}


ALL_GOOD = {
    "version": "ok",
    "login": "ok",
    "read DAGs": "ok",
    "read dag runs": "ok",
    "read task instances": "ok",
    "read state store": "ok",
    "read XComs": "ok",
}
