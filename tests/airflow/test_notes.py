"""Notes on task instances of real Airflows, in every known version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from healer.airflow import Airflow as Asker
from healer.airflow import Call, NoteResult, Status
from healer.airflow.notes import PREFIX
from healer.config import AirflowConfig
from healer.errors import NoAnswerError
from healer.model import TaskInstance
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task

RUN = "manual__2026-01-01T00:00:00+00:00"


def asker(lab: Airflow, user: str, calls: list[Call] | None = None) -> Asker:
    login = {"username": user, "password": user, "notes": True}
    config = AirflowConfig.model_validate({"name": "lab", "namespaces": ["airflow"], "url": lab.url, **login})
    return Asker(config, observe=(calls if calls is not None else []).append)


def mark(airflow: Asker) -> Any:
    return next(check.status for check in airflow.probe().checks if check.name == "write notes")


@pytest.mark.parametrize("version", ["3.0.6", "3.1.8", "3.2.2", "3.3.2"])
def test_a_note_is_written_and_nothing_else_changes(airflow_of: Callable[[str], Airflow], version: str) -> None:
    lab, dag = airflow_of(version), f"notes-{version}"
    lab.seed(
        [
            Dag(
                dag,
                runs=[
                    Run(RUN, tasks=[Task("one", "failed", try_number=2), Task("many", "success", map_index=0, count=2)])
                ],
            )
        ]
    )
    calls: list[Call] = []
    airflow = asker(lab, "user", calls)
    for task, index in (("one", -1), ("many", 0), ("many", 1)):
        before = lab.task_instance(dag, RUN, task, index)
        assert airflow.write_note(TaskInstance(dag, RUN, task, index), f"first {index}") is NoteResult.WRITTEN
        assert airflow.write_note(TaskInstance(dag, RUN, task, index), "second") is NoteResult.WRITTEN
        after = lab.task_instance(dag, RUN, task, index)
        assert after["note"] == f"{PREFIX}first {index}\n{PREFIX}second"
        assert {**after, "note": None} == {**before, "note": None}
    print(f"Airflow {version}:", ", ".join(f"{call.call} {1000 * call.seconds:.0f} ms" for call in calls))

    path = f"/dags/{dag}/dagRuns/{RUN}/taskInstances/many/0"
    lab.request("PATCH", path, {"note": "mine"})
    assert airflow.write_note(TaskInstance(dag, RUN, "many", 0), "third") is NoteResult.SPARED
    assert lab.task_instance(dag, RUN, "many", 0)["note"] == "mine"

    rows = lab.sql("SELECT count(*) FROM log WHERE dag_id = ?", dag)
    assert (mark(airflow), mark(asker(lab, "viewer"))) == (Status.OK, Status.WARN)
    assert lab.sql("SELECT count(*) FROM log WHERE dag_id = ?", dag) == rows, "the check leaves no trace"
    with pytest.raises(NoAnswerError, match="403"):
        asker(lab, "viewer").write_note(TaskInstance(dag, RUN, "one", -1), "fourth")
    with pytest.raises(NoAnswerError, match="404"):
        airflow.write_note(TaskInstance(dag, "no-such-run", "one", -1), "fifth")
