"""The lab's cluster does what its documentation says; the other tests build on that."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from kubernetes import client, config
from kubernetes.stream import stream

from tests.lab.kube import ANNOTATION, REPOSITORY, Cluster
from tests.lab.pods import SIDECAR, executor_pod, job_pod, kpo_pod, spark_pod
from tests.lab.processes import LabError, Process, free_ports, wait_for

TASK = {"dag_id": "etl", "task_id": "load", "run_id": "manual__2026-01-01T12:34:56+00:00"}
READ_PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]}]
SELECTOR = "kubernetes_pod_operator=True,!airflow-worker,kubernetes_executor!=True,!spark_kubernetes_operator"


def make(cluster, namespace, name="a", containers=("base",), **annotations):
    marks = {ANNOTATION + key.replace("_", "-"): value for key, value in annotations.items()}
    return cluster.create_pod(
        kpo_pod(**TASK, namespace=namespace, name=name, containers=containers, annotations=marks)
    )["metadata"]["name"]


@contextlib.contextmanager
def core_api(kubeconfig):
    with config.new_client_from_config(str(kubeconfig)) as api:
        yield client.CoreV1Api(api)
        api.rest_client.pool_manager.clear()  # the client itself leaves its sockets open


@contextlib.contextmanager
def websocket(answer):
    yield answer
    answer.sock.shutdown()


def states(pod):
    return {one["name"]: next(iter(one["state"])) for one in pod["status"].get("containerStatuses", [])}


class TestPods:
    def test_without_annotations_a_pod_runs(self, cluster, namespace):
        pod = cluster.wait_pod(namespace, make(cluster, namespace))
        assert states(pod) == {"base": "running"}

    @pytest.mark.parametrize(("code", "phase"), [("0", "Succeeded"), ("7", "Failed")])
    def test_run_for_ends_all_containers(self, cluster, namespace, code, phase):
        name = make(cluster, namespace, containers=("side", "main"), run_for="1s", exit_code=code, base="main")
        pod = cluster.wait_pod(namespace, name, phase)
        ends = {one["name"]: one["state"]["terminated"]["exitCode"] for one in pod["status"]["containerStatuses"]}
        assert ends == {"side": 0, "main": int(code)}

    def test_base_for_ends_the_base_container_alone(self, cluster, namespace):
        name = make(cluster, namespace, containers=("base", "mesh"), base_for="1s", exit_code="3")
        wait_for(lambda: states(cluster.get_pod(namespace, name)).get("base") == "terminated", what="base ended")
        pod = cluster.get_pod(namespace, name)
        assert states(pod) == {"base": "terminated", "mesh": "running"}
        assert pod["status"]["phase"] == "Running"
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3

    def test_base_for_and_run_for_end_one_after_the_other(self, cluster, namespace):
        name = make(cluster, namespace, containers=("base", "mesh"), base_for="1s", run_for="3s", exit_code="3")
        pod = cluster.wait_pod(namespace, name, "Failed")
        base, mesh = (one["state"]["terminated"] for one in pod["status"]["containerStatuses"])
        assert base["finishedAt"] < mesh["finishedAt"]

    def test_containers_of_evicted_pods_were_killed(self, cluster, namespace):
        pod = cluster.wait_pod(namespace, make(cluster, namespace, evict_after="1s"), "Failed")
        assert pod["status"]["reason"] == "Evicted"
        assert [one["state"]["terminated"]["exitCode"] for one in pod["status"]["containerStatuses"]] == [137]

    def test_stay_pending_leaves_a_pod_without_a_node(self, cluster, namespace):
        stays, runs = make(cluster, namespace, "stays", stay_pending="true"), make(cluster, namespace, "runs")
        cluster.wait_pod(namespace, runs)
        assert "nodeName" not in cluster.wait_pod(namespace, stays, "Pending")["spec"]

    def test_a_deleted_pod_goes_unless_it_hangs(self, cluster, namespace):
        hangs, goes = make(cluster, namespace, "hangs", hang_terminating="true"), make(cluster, namespace, "goes")
        for name in (hangs, goes):
            cluster.wait_pod(namespace, name)
            cluster.delete_pod(namespace, name)
        cluster.wait_pod(namespace, goes, "gone")
        assert "deletionTimestamp" in cluster.get_pod(namespace, hangs)["metadata"]
        cluster.delete_pod(namespace, hangs, grace=0)
        assert cluster.get_pod(namespace, hangs) is None

    def test_bodies_are_like_those_in_the_field(self, cluster, namespace):
        task = {**TASK, "namespace": namespace}
        own = cluster.create_pods([kpo_pod(**task), kpo_pod(**task, map_index=3, containers=("base", SIDECAR))])
        job = cluster.create_pod(job_pod(**task))
        cluster.create_pods([executor_pod(**task), spark_pod(**task)])
        for pod in own:
            cluster.wait_pod(namespace, pod["metadata"]["name"])
        listed = cluster.pods(namespace, SELECTOR)
        assert {one["metadata"]["uid"] for one in listed} == {one["metadata"]["uid"] for one in (*own, job)}
        assert 5_000 < len(json.dumps(cluster.get_pod(namespace, own[0]["metadata"]["name"]))) < 8_000
        assert job["metadata"]["ownerReferences"][0]["controller"] is True
        assert own[1]["metadata"]["labels"]["map_index"] == "3"
        assert own[0]["metadata"]["labels"]["run_id"].startswith("manual__2026-01-01T1234560000-")


class TestKubelet:
    """What KPO asks a kubelet for, asked with the client that KPO uses."""

    @pytest.fixture
    def core(self, cluster):
        with core_api(cluster.kubeconfig) as core:
            yield core

    def test_xcom_is_read_and_the_sidecar_ends_when_killed(self, cluster, namespace, core):
        name = make(cluster, namespace, containers=("base", SIDECAR), base_for="1s", xcom='{"rows": 3}')
        wait_for(lambda: states(cluster.get_pod(namespace, name)).get("base") == "terminated", what="base ended")
        shell = {"container": SIDECAR, "stdout": True, "stderr": True, "tty": False, "_preload_content": False}
        read = ["/bin/sh", "-c", "if [ -s /airflow/xcom/return.json ]; then cat /airflow/xcom/return.json; fi"]
        with websocket(
            stream(core.connect_get_namespaced_pod_exec, name, namespace, command=read, stdin=False, **shell)
        ) as answer:
            answer.run_forever(timeout=20)
            assert json.loads(answer.read_all()) == {"rows": 3}
        with websocket(
            stream(core.connect_get_namespaced_pod_exec, name, namespace, command=["/bin/sh"], stdin=True, **shell)
        ) as answer:
            answer.write_stdin("kill -2 $(pgrep -u $(id -u) -f 'sh')\n")
            answer.run_forever(timeout=20)
            assert not answer.peek_stderr()
        cluster.wait_pod(namespace, name, "Succeeded")

    def test_a_followed_log_ends_with_the_container(self, cluster, namespace, core):
        name = make(cluster, namespace, run_for="1s", log="one\ntwo")
        cluster.wait_pod(namespace, name)
        answer = core.read_namespaced_pod_log(name, namespace, container="base", follow=True, timestamps=True)
        assert [line.split(" ", 1)[1] for line in answer.splitlines()] == ["one", "two"]
        assert states(cluster.get_pod(namespace, name)) == {"base": "terminated"}


class TestRights:
    def test_a_service_account_may_what_its_rules_say_where_they_hold(self, cluster, namespace):
        with core_api(cluster.service_account(namespace, "reader", READ_PODS)) as core:
            assert core.list_namespaced_pod(namespace).items == []
            with pytest.raises(client.ApiException) as refused:
                core.list_namespaced_pod("default")
            assert refused.value.status == 403
            cluster.revoke(namespace, "reader")
            wait_for(lambda: not _may_list(core, namespace), what="the right to be gone")

    def test_a_user_has_a_certificate(self, cluster, namespace):
        with core_api(cluster.user("ann", READ_PODS, namespaces=[namespace])) as core:
            assert core.list_namespaced_pod(namespace).items == []


def _may_list(core, namespace):
    try:
        core.list_namespaced_pod(namespace)
    except client.ApiException as error:
        return error.status != 403
    return True


class TestAudit:
    def test_every_request_is_there_with_its_code_and_preconditions(self, cluster, namespace):
        mark = cluster.audit_mark()
        pod = cluster.create_pod(kpo_pod(**TASK, namespace=namespace, name="a"))
        path = f"/api/v1/namespaces/{namespace}/pods/a"
        wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
        right = {"preconditions": {"uid": pod["metadata"]["uid"]}}
        cluster.request("DELETE", path, wrong, expect=[409])
        cluster.request("DELETE", path, right)

        def deletes():
            events = cluster.audit(mark, user="admin", verb="delete", resource="pods")
            return [event for event in events if event.namespace == namespace]

        wait_for(lambda: len(deletes()) == 2, what="both deletes in the audit log")
        assert [(one.code, one.preconditions) for one in deletes()] == [
            (409, wrong["preconditions"]),
            (200, right["preconditions"]),
        ]
        assert not [one for one in cluster.audit(mark) if one.user == "kwok"]

    def test_a_watch_has_a_beginning_and_an_end(self, cluster, namespace):
        mark = cluster.audit_mark()
        query = {"watch": "true", "timeoutSeconds": "1"}
        cluster.client.get(f"/api/v1/namespaces/{namespace}/pods", params=query)

        def stages():
            return [one.stage for one in cluster.audit(mark, verb="watch") if one.namespace == namespace]

        wait_for(lambda: stages() == ["ResponseStarted", "ResponseComplete"], what="both stages of the watch")


@pytest.fixture(scope="module")
def own():
    """Restarted and frozen here, which no other test should see."""
    with Cluster.start(kwok=False) as running:
        yield running


class TestTrouble:
    def test_a_frozen_server_answers_after_the_thaw(self, own):
        own.apiserver.freeze()
        with pytest.raises(httpx.TimeoutException):
            own.client.get("/version", timeout=0.5)
        own.apiserver.thaw()
        assert own.request("GET", "/version")["major"] == "1"

    def test_no_watch_goes_on_after_its_history_has_expired(self, own):
        own.namespace("airflow")
        for name in ("stays", "vanishes"):
            own.create_pod(kpo_pod(**TASK, namespace="airflow", name=name))
        path = "/api/v1/namespaces/airflow/pods"
        version = own.request("GET", path)["metadata"]["resourceVersion"]
        own.expire_watches(while_down=[("airflow", "vanishes")])
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": 5}
        answer = json.loads(own.client.get(path, params=query).text.splitlines()[0])
        assert (answer["type"], answer["object"]["code"]) == ("ERROR", 410)
        assert [pod["metadata"]["name"] for pod in own.pods("airflow")] == ["stays"]

    def test_clusters_run_side_by_side(self, own, cluster):
        assert own.url != cluster.url
        own.namespace("only-here")
        assert "only-here" not in json.dumps(cluster.request("GET", "/api/v1/namespaces"))


class TestProcesses:
    STUBBORN = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '600'], process_group=0); print(child.pid, flush=True); time.sleep(600)"
    )

    def stubborn(self, folder: Path) -> tuple[Process, int]:
        process = Process("stubborn", [sys.executable, "-c", self.STUBBORN], folder / "log").launch()
        return process, int(wait_for(lambda: (folder / "log").read_text().strip(), what="its child"))

    def test_stop_ends_grandchildren_in_groups_of_their_own(self, tmp_path):
        process, child = self.stubborn(tmp_path)
        assert process.stop(timeout=0.2) == -signal.SIGKILL
        assert not _alive(child)

    def test_a_frozen_child_can_be_stopped(self, tmp_path):
        process = Process("sleep", ["sleep", "600"], tmp_path / "log").launch()
        process.freeze()
        assert process.stop() == -signal.SIGTERM

    def test_a_child_that_ends_early_shows_its_log(self, tmp_path):
        process = Process("short", ["sh", "-c", "echo no disk; exit 3"], tmp_path / "log", ready=lambda: False)
        with pytest.raises(LabError, match=r"short ended with 3(?s:.*)no disk"):
            process.start()

    def test_a_program_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(LabError, match="ghost cannot be started"):
            Process("ghost", [tmp_path / "ghost"], tmp_path / "log").start()

    def test_nothing_outlives_a_killed_parent(self, tmp_path):
        code = (
            "import pathlib, sys, time; from tests.cluster.test_lab_cluster import TestProcesses;"
            "process, child = TestProcesses().stubborn(pathlib.Path(sys.argv[1]));"
            "print(process.pid, child, flush=True); time.sleep(600)"
        )
        args = [sys.executable, "-c", code, tmp_path]
        with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert all(map(_alive, pids))
            parent.kill()
        wait_for(lambda: not any(map(_alive, pids)), what="the end of the killed parent's children")

    def test_free_ports_differ(self):
        assert len(set(free_ports(20))) == 20


class TestCommand:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_the_whole_cluster(self, tmp_path, number):
        args = [sys.executable, "-m", "tests.lab", "cluster", "--root", tmp_path]
        with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as command:
            try:
                line = command.stdout.readline()
                assert line.startswith("export KUBECONFIG=")
                parts = _users_of(tmp_path, but=command.pid)
                assert len(parts) == 4
            finally:
                command.send_signal(number)
            assert command.wait(timeout=60) == 0
        assert not _users_of(tmp_path, but=command.pid)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _users_of(folder: Path, *, but: int) -> list[int]:
    """Processes that name the folder on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in {but, os.getpid()}:
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
