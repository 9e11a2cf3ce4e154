"""The lab's Airflow does what other tests rely on: rows as Airflow writes them, and orphans as production has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.lab.airflow import Airflow, AirflowError
from tests.lab.airflow_env import FAB, REQUIREMENTS
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import session_members, wait_for

RUN_FOR = f"{ANNOTATION}run-for"
VERSIONS = [version for version in REQUIREMENTS if version != FAB]
"""The environment with further auth managers has tests of its own: tests/logins."""

RUN = "manual__2026-11-22T10:00:00+00:00"


def conf(namespace: str, **annotations: str) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "annotations": {ANNOTATION + key.replace("_", "-"): annotations[key] for key in annotations},
    }


def running(cluster: Cluster, namespace: str, count: int = 1, timeout: float = 60) -> list[Mapping[str, Any]]:
    """Waits until as many Pods run; all of the namespace, oldest first."""

    def pods() -> list[Mapping[str, Any]]:
        found = [pod for pod in cluster.pods(namespace) if pod["status"].get("phase") == "Running"]
        return found if len(found) >= count else []

    found = wait_for(pods, what=f"{count} running Pods", timeout=timeout)
    return sorted(found, key=lambda pod: pod["metadata"]["labels"]["try_number"])


def names(pods: list[Mapping[str, Any]]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


# Rows


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_shows_what_was_seeded(airflow_of: Callable[[str], Airflow], version: str) -> None:
    airflow = airflow_of(version)
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


@pytest.mark.parametrize("version", VERSIONS)
def test_a_task_instance_goes_the_way_that_airflow_goes(airflow_of: Callable[[str], Airflow], version: str) -> None:
    airflow = airflow_of(version)
    airflow.seed([Dag("steps", [Run(RUN, [Task("t", "running")])])])
    first = airflow.task_instance("steps", RUN, "t")["id"]

    retried = airflow.act("steps", RUN, "t", "retry")
    assert (retried["state"], retried["try_number"]) == ("up_for_retry", 1)
    assert retried["id"] != first
    assert airflow.act("steps", RUN, "t", "schedule")["try_number"] == 2
    for event in ("queue", "run", "defer", "resume", "queue", "run"):
        assert airflow.act("steps", RUN, "t", event)["try_number"] == 2
    airflow.clear("steps", RUN, "t")
    assert airflow.task_instance("steps", RUN, "t")["state"] == "restarting"
    assert [(row["try_number"], row["state"]) for row in airflow.tries("steps", RUN, "t")] == [
        (1, "failed"),
        (2, "failed"),
        (2, "restarting"),
    ]
    airflow.erase("steps")


def test_the_state_store_names_a_pod_and_forgets_it(airflow_api: Airflow) -> None:
    airflow_api.seed([Dag("store", [Run(RUN, [Task("m", map_index=0, count=2, pod="pod-{index}")])])])

    assert airflow_api.named_pod("store", RUN, "m", 1) == "pod-1"
    airflow_api.set_pod("store", RUN, "m", None, map_index=1)
    assert airflow_api.named_pod("store", RUN, "m", 1) is None
    assert airflow_api.named_pod("store", RUN, "m", 0) == "pod-0"


def test_thousands_of_rows_are_there(airflow_api: Airflow) -> None:
    runs = [Run(f"manual__{number}", [Task("t")]) for number in range(250)]
    mapped = Run(RUN, [Task("m", "success", map_index=0, count=5000)])
    airflow_api.seed([Dag("many", [*runs, mapped])])

    def count(**query: object) -> object:
        body = {"dag_ids": ["many"], "page_limit": 1, **query}
        return airflow_api.request("POST", "/dags/~/dagRuns/~/taskInstances/list", body)["total_entries"]

    assert (count(), count(state=["running"])) == (5250, 250)
    airflow_api.erase("many")


def test_the_page_limit_is_a_matter_of_the_environment() -> None:
    with Airflow.start(components=("api-server",), env={"AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "10"}) as airflow:
        airflow.seed([Dag("d", [Run(RUN, [Task("m", map_index=0, count=20)])])])
        path = f"/dags/d/dagRuns/{RUN}/taskInstances"
        assert len(airflow.request("GET", path, query={"limit": 20})["task_instances"]) == 10


def test_roles_differ_and_nothing_is_left_after_the_stop(airflow_api: Airflow) -> None:
    with Airflow.start(components=("api-server",)) as other:  # beside the first one
        other.seed([Dag("d", [Run(RUN, [Task("t")])])])
        assert other.request("GET", "/dags/d", user="viewer")["dag_id"] == "d"
        with pytest.raises(AirflowError) as refused:
            other.request("PATCH", "/dags/d", {"is_paused": True}, user="viewer")
        assert refused.value.status == 403
        sessions = [other.api_server.pid]

    assert [member for session in sessions for member in session_members(session)] == []
    assert not other.root.exists()


# Orphans


def test_a_killed_task_without_retries_leaves_its_pod_running(
    airflow: Airflow, cluster: Cluster, namespace: str
) -> None:
    run = airflow.trigger("kpo_sync", conf=conf(namespace))
    before = names(running(cluster, namespace))
    airflow.kill_task("kpo_sync", run, "work")

    airflow.wait_task("kpo_sync", run, "work", "failed", try_number=1)
    assert names(running(cluster, namespace)) == before
    assert airflow.named_pod("kpo_sync", run, "work") == before[0]


def test_the_next_try_adopts_the_pod_of_a_killed_one(airflow: Airflow, cluster: Cluster, namespace: str) -> None:
    run = airflow.trigger("kpo_retries", conf=conf(namespace))
    before = names(running(cluster, namespace))
    airflow.kill_task("kpo_retries", run, "work")
    airflow.wait_task("kpo_retries", run, "work", "up_for_retry", try_number=1)

    airflow.wait_adopted("kpo_retries", run, "work", try_number=2)
    cluster.patch_pod(namespace, before[0], {"metadata": {"annotations": {RUN_FOR: "1s"}}})
    airflow.wait_task("kpo_retries", run, "work", "success", try_number=2)
    cluster.wait_pod(namespace, before[0], phase="gone")
    assert airflow.named_pod("kpo_retries", run, "work") == before[0]


def test_a_lost_triggerer_leaves_the_pod_of_a_marked_task(airflow: Airflow, cluster: Cluster, namespace: str) -> None:
    run = airflow.trigger("kpo_deferrable", conf=conf(namespace))
    airflow.wait_task("kpo_deferrable", run, "work", "deferred")
    before = names(running(cluster, namespace))
    airflow.wait_trigger("kpo_deferrable", run)
    airflow.lose_triggerer()
    airflow.mark("kpo_deferrable", run, "work", "failed")

    # The triggerer that is left goes on: another task's Pod is deleted by it when that task is marked.
    second = airflow.trigger("kpo_deferrable", conf=conf(namespace))
    airflow.wait_task("kpo_deferrable", second, "work", "deferred")
    both = names(running(cluster, namespace, 2))
    airflow.wait_trigger("kpo_deferrable", second)
    airflow.mark("kpo_deferrable", second, "work", "failed")
    cluster.wait_pod(namespace, next(name for name in both if name not in before), phase="gone", timeout=60)
    assert names(running(cluster, namespace)) == before


def test_a_task_that_does_not_reattach_leaves_a_twin(airflow: Airflow, cluster: Cluster, namespace: str) -> None:
    dag = "kpo_twins_deferrable"
    run = airflow.trigger(dag, conf=conf(namespace))
    airflow.wait_task(dag, run, "work", "deferred")
    airflow.wait_trigger(dag, run)
    airflow.lose_triggerer()
    airflow.mark(dag, run, "work", "failed")
    airflow.clear(dag, run, "work")

    airflow.wait_task(dag, run, "work", "deferred", try_number=2)
    old, new = running(cluster, namespace, 2)
    assert [pod["metadata"]["labels"]["try_number"] for pod in (old, new)] == ["1", "2"]
    assert airflow.xcom(dag, run, "work", "pod_name") == new["metadata"]["name"]
    assert airflow.named_pod(dag, run, "work") is None


def test_pods_are_kept_or_given_up_as_the_operator_was_told(airflow: Airflow, cluster: Cluster, namespace: str) -> None:
    kept = airflow.trigger("kpo_keep", conf=conf(namespace, run_for="1s"))
    airflow.wait_task("kpo_keep", kept, "work", "success")
    given_up = airflow.trigger("kpo_gives_up", conf=conf(namespace, stay_pending="true"))
    airflow.wait_task("kpo_gives_up", given_up, "work", "failed")

    found = {pod["metadata"]["labels"]["dag_id"]: pod for pod in cluster.pods(namespace)}
    assert {
        dag: (pod["status"]["phase"], pod["metadata"]["labels"]["already_checked"]) for dag, pod in found.items()
    } == {
        "kpo_keep": ("Succeeded", "True"),
        "kpo_gives_up": ("Pending", "True"),
    }


def test_a_run_can_be_deleted_under_its_pod(airflow: Airflow, cluster: Cluster, namespace: str) -> None:
    run = airflow.trigger("kpo_group", conf=conf(namespace))
    before = names(running(cluster, namespace))
    airflow.kill_task("kpo_group", run, "extract.files.work")
    airflow.wait_run("kpo_group", run, "failed")
    airflow.delete_run("kpo_group", run)

    with pytest.raises(AirflowError) as missing:
        airflow.run("kpo_group", run)
    assert missing.value.status == 404
    assert names(running(cluster, namespace)) == before
