"""The lab's Airflow 2 does what other tests rely on: rows as Airflow writes them, orphans as production has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from tests.airflow.test_lab_airflow import conf, names, running
from tests.lab.airflow2 import NEWEST, Airflow2
from tests.lab.airflow_env import AIRFLOW_2
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.kube import Cluster
from tests.lab.processes import wait_for

RUN = "manual__2026-11-22T10:00:00+00:00"
NAMED = ("pod_name", "pod_namespace")
PATIENCE = 180
"""Seconds for what takes some: a task starts in a process of its own, which on a busy machine takes a while."""


@pytest.fixture(scope="module", params=sorted(AIRFLOW_2))
def version(request: pytest.FixtureRequest) -> str:
    """Both, the newest last: one whole Airflow 2 runs at a time."""
    return str(request.param)


@pytest.fixture
def each(version: str, airflow2_whole: Callable[[str], Airflow2]) -> Airflow2:
    """Both versions, for what their providers and schedulers do otherwise."""
    return airflow2_whole(version)


@pytest.fixture
def airflow(airflow2_whole: Callable[[str], Airflow2]) -> Airflow2:
    return airflow2_whole(NEWEST)


def adopted(airflow: Airflow2, name: str, dag: str, run: str, task: str, try_number: int) -> None:
    """Waits until this try itself names the Pod of the try before: it has taken it over.

    For some seconds after its start the XCom of the try before is still there.
    """
    path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/xcomEntries/pod_name"

    def named() -> bool:
        row, found = airflow.task_instance(dag, run, task), airflow.request("GET", path, expect=(200, 404))
        ours = row["try_number"] == try_number and row["state"] in {"running", "deferred"}
        return ours and found.get("value") == name and found["timestamp"] >= row["start_date"]

    wait_for(named, what=f"try {try_number} to name {name}", timeout=PATIENCE)


def pods(cluster: Cluster, namespace: str, count: int = 1) -> list[str]:
    """Waits until as many Pods run; their names, oldest try first."""
    return names(running(cluster, namespace, count, timeout=PATIENCE))


def forgotten(airflow: Airflow2) -> None:
    """Waits until no trigger is left: whoever had one to clean up behind has done so, or never will."""
    wait_for(lambda: not airflow.sql("select 1 from trigger"), what="the triggers to be forgotten", timeout=PATIENCE)


# Rows


def test_every_version_shows_what_was_seeded(airflow2_of: Callable[[str], Airflow2], version: str) -> None:
    airflow = airflow2_of(version)
    tasks = [
        Task("t", xcom="pod-t"),
        Task("gone", "failed", try_number=2),
        Task("cleared", None),
        Task("m", map_index=0, count=3),
    ]
    airflow.seed([Dag("seeded", [Run(RUN, tasks)])])

    assert airflow.request("GET", "/version")["version"] == version
    assert airflow.task_instance("seeded", RUN, "t")["operator"] == "KubernetesPodOperator"
    assert airflow.task_instance("seeded", RUN, "t")["rendered_fields"]["base_container_name"] == "base"
    assert airflow.task_instance("seeded", RUN, "gone")["end_date"] is not None
    assert airflow.task_instance("seeded", RUN, "cleared")["state"] is None
    assert airflow.xcom("seeded", RUN, "t", "pod_name") == "pod-t"
    query = {"dag_ids": ["seeded"], "task_ids": ["m"]}
    assert airflow.request("POST", "/dags/~/dagRuns/~/taskInstances/list", query)["total_entries"] == 3
    airflow.erase("seeded")


def test_a_task_instance_goes_the_way_that_airflow_goes(airflow2_of: Callable[[str], Airflow2], version: str) -> None:
    airflow = airflow2_of(version)
    airflow.seed([Dag("steps", [Run(RUN, [Task("t", "running")])])])

    retried = airflow.act("steps", RUN, "t", "retry")
    assert (retried["state"], retried["try_number"]) == ("up_for_retry", 1)
    assert airflow.act("steps", RUN, "t", "schedule")["try_number"] == 2
    for event in ("queue", "run", "defer", "resume", "queue", "run"):
        assert airflow.act("steps", RUN, "t", event)["try_number"] == 2  # type: ignore[arg-type]
    # Cleared while it runs, by the API: it stays running, and only the history says that it was cleared.
    airflow.clear("steps", RUN, "t")
    assert airflow.task_instance("steps", RUN, "t")["state"] == "running"
    tries = [(row["try_number"], row["state"]) for row in airflow.tries("steps", RUN, "t")]
    assert tries == [(1, "failed"), (2, "failed"), (2, "running")]
    airflow.erase("steps")


# Orphans


def test_a_killed_task_without_retries_leaves_its_pod_running(each: Airflow2, cluster: Cluster, namespace: str) -> None:
    run = each.trigger("kpo_sync", conf=conf(namespace))
    before = pods(cluster, namespace)
    each.wait_task("kpo_sync", run, "work", "running", timeout=PATIENCE)
    each.kill_task("kpo_sync", run, "work")

    each.wait_task("kpo_sync", run, "work", "failed", try_number=1, timeout=PATIENCE)
    assert pods(cluster, namespace) == before
    assert [each.xcom("kpo_sync", run, "work", key) for key in NAMED] == [before[0], namespace]


def test_the_next_try_adopts_the_pod_of_a_killed_one(each: Airflow2, cluster: Cluster, namespace: str) -> None:
    run = each.trigger("kpo_retries", conf=conf(namespace))
    before = pods(cluster, namespace)
    each.kill_task("kpo_retries", run, "work")
    each.wait_task("kpo_retries", run, "work", "up_for_retry", try_number=1, timeout=PATIENCE)

    adopted(each, before[0], "kpo_retries", run, "work", 2)
    assert pods(cluster, namespace) == before
    each.mark("kpo_retries", run, "work", "success")
    cluster.wait_pod(namespace, before[0], phase="gone", timeout=PATIENCE)


def test_a_run_can_be_deleted_while_its_task_is_deferred(each: Airflow2, cluster: Cluster, namespace: str) -> None:
    run = each.trigger("kpo_deferrable", conf=conf(namespace))
    each.wait_task("kpo_deferrable", run, "work", "deferred", timeout=PATIENCE)
    before = pods(cluster, namespace)
    each.wait_trigger("kpo_deferrable", run)
    each.delete_run("kpo_deferrable", run)

    assert "DAGRun with DAG ID" in each.request("GET", f"/dags/kpo_deferrable/dagRuns/{run}", expect=(404,))["detail"]
    forgotten(each)
    assert pods(cluster, namespace) == before


def test_a_task_whose_supervisor_died_too_fails_half_a_minute_later(
    airflow: Airflow2, cluster: Cluster, namespace: str
) -> None:
    run = airflow.trigger("kpo_sync", conf=conf(namespace))
    before = pods(cluster, namespace)
    airflow.kill_supervisor("kpo_sync", run, "work")

    airflow.wait_task("kpo_sync", run, "work", "failed", try_number=1, timeout=PATIENCE)
    assert pods(cluster, namespace) == before


def test_the_same_try_runs_again_by_force_and_takes_its_pod_over(
    airflow: Airflow2, cluster: Cluster, namespace: str
) -> None:
    run = airflow.trigger("kpo_sync", conf=conf(namespace))
    before = pods(cluster, namespace)
    airflow.kill_task("kpo_sync", run, "work")
    failed = airflow.wait_task("kpo_sync", run, "work", "failed", try_number=1, timeout=PATIENCE)
    forced = airflow.force("kpo_sync", run, "work")
    again = airflow.wait_task("kpo_sync", run, "work", "running", try_number=1, timeout=PATIENCE)
    assert again["start_date"] > failed["start_date"]
    adopted(airflow, before[0], "kpo_sync", run, "work", 1)
    assert pods(cluster, namespace) == before
    forced.kill()


def test_a_lost_triggerer_leaves_the_pod_of_a_marked_task(airflow: Airflow2, cluster: Cluster, namespace: str) -> None:
    run = airflow.trigger("kpo_deferrable", conf=conf(namespace))
    airflow.wait_task("kpo_deferrable", run, "work", "deferred", timeout=PATIENCE)
    before = pods(cluster, namespace)
    airflow.wait_trigger("kpo_deferrable", run)
    airflow.lose_triggerer()
    airflow.mark("kpo_deferrable", run, "work", "failed")

    forgotten(airflow)
    assert pods(cluster, namespace) == before


def test_a_task_that_does_not_reattach_leaves_a_twin(airflow: Airflow2, cluster: Cluster, namespace: str) -> None:
    dag = "kpo_twins_deferrable"
    run = airflow.trigger(dag, conf=conf(namespace))
    airflow.wait_task(dag, run, "work", "deferred", timeout=PATIENCE)
    airflow.wait_trigger(dag, run)
    airflow.lose_triggerer()
    airflow.mark(dag, run, "work", "failed")
    airflow.clear(dag, run, "work")

    airflow.wait_task(dag, run, "work", "deferred", try_number=2, timeout=PATIENCE)
    old, new = running(cluster, namespace, 2, timeout=PATIENCE)
    assert [pod["metadata"]["labels"]["try_number"] for pod in (old, new)] == ["1", "2"]
    assert airflow.xcom(dag, run, "work", "pod_name") == new["metadata"]["name"]


def test_pods_are_kept_or_given_up_as_the_operator_was_told(
    airflow: Airflow2, cluster: Cluster, namespace: str
) -> None:
    kept = airflow.trigger("kpo_keep", conf=conf(namespace, run_for="1s"))
    airflow.wait_task("kpo_keep", kept, "work", "success", timeout=PATIENCE)
    given_up = airflow.trigger("kpo_gives_up", conf=conf(namespace, stay_pending="true"))
    airflow.wait_task("kpo_gives_up", given_up, "work", "failed", timeout=PATIENCE)

    def state(pod: Mapping[str, Any]) -> tuple[str, str]:
        return pod["status"]["phase"], pod["metadata"]["labels"]["already_checked"]

    found = {pod["metadata"]["labels"]["dag_id"]: state(pod) for pod in cluster.pods(namespace)}
    assert found == {"kpo_keep": ("Succeeded", "True"), "kpo_gives_up": ("Pending", "True")}
