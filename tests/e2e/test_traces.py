"""What a deletion leaves behind: its proof, a post-mortem, a note, and no secrets; and whose Pods it may be about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.tasks import PATIENCE, RealTask
from tests.e2e.world import EAGER, RUN, World
from tests.lab.airflow import Airflow
from tests.lab.healer import Installation
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import wait_for

SECRET = "hunter2-never-to-be-seen"
LAST_WORDS = "it went well until it did not"


def configure(installation: Installation, **airflow: Any) -> Installation:
    """Change the configuration of its one Airflow; it enforces."""
    installation.config["mode"] = "enforce"
    installation.config["airflows"][0] |= airflow
    return installation


def as_user(installation: Installation) -> Installation:
    """Log in as a user who may edit task instances."""
    password = installation.folder / "password-of-user"
    password.write_text("user\n")
    return configure(installation, username="user", passwordFile=str(password))


def with_secrets(body: Any) -> Any:
    """Plant a secret wherever a Pod's author might put one."""
    container = body["spec"]["containers"][0]
    container["env"] = [*container.get("env", ()), {"name": "PASSWORD", "value": SECRET}]
    container["args"] = ["--password", SECRET]
    container["image"] = f"registry.example.com/{SECRET}:1"
    body["metadata"].setdefault("annotations", {})["vault.example.com/password"] = SECRET
    body["metadata"]["labels"]["team-token"] = SECRET
    return body


def test_a_deletion_leaves_a_proof_a_post_mortem_and_a_note_and_no_secrets(world: World) -> None:
    world.seed(world.task("dead", "failed"), world.task("noted", "failed", map_index=0))
    note = f"/dags/{world.dag}/dagRuns/{RUN}/taskInstances"
    world.airflow.request("PATCH", f"{note}/noted/0", {"note": "mine"}, query={"update_mask": "note"})
    marks = {f"{ANNOTATION}log": f"a line\n{LAST_WORDS}"}
    dead = world.make(with_secrets(world.body("dead", annotations=marks)))
    noted = world.make(with_secrets(world.body("noted", map_index=0)))
    logs = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
    installation = as_user(world.installation(more_rights=[logs]))
    configure(installation, notes=True, postMortem={"enabled": True, "logLines": 1})
    installation.config["log"]["level"] = "debug"
    checked = installation.ask("check", "-o", "json").data()
    assert {line["status"] for line in checked if "notes" in line["detail"] or "pods/log" in line["detail"]} == {"ok"}

    with installation.run(mode="enforce") as running:
        world.wait_names(set())
        world.wait(lambda: len(told(running.lines(), "note")) == 2, "both notes")
        world.wait(lambda: len(world.events("OrphanDeleted")) == 2, "both Events")
    lines = running.lines()
    log = running.log.read_text()

    proofs = {line["pod"]: line["proof"] for line in told(lines, "decision")}
    assert {name: proof["reason"] for name, proof in proofs.items()} == {
        f"{world.namespace}/{name}": "orphaned" for name in (dead, noted)
    }
    post_mortems = {line["pod"]: line for line in told(lines, "post-mortem")}
    last = post_mortems[f"{world.namespace}/{dead}"]
    assert (last["log"], last["trouble"]) == ([LAST_WORDS], None)
    assert [(each["name"], each["what"]) for each in last["containers"]] == [("base", "running")]
    assert last["node"]

    task = world.airflow.task_instance(world.dag, RUN, "dead")
    assert task["note"].startswith(f"kpo-healer: Pod {world.namespace}/{dead} of try 1 was deleted at 20")
    assert task["state"] == "failed"
    assert world.airflow.task_instance(world.dag, RUN, "noted", 0)["note"] == "mine"
    assert {line["pod"]: line["result"] for line in told(lines, "note")} == {
        f"{world.namespace}/{dead}": "written",
        f"{world.namespace}/{noted}": "spared",
    }
    assert SECRET not in log
    assert SECRET not in json.dumps(world.cluster.request("GET", f"/api/v1/namespaces/{world.namespace}/events"))
    assert SECRET not in task["note"]

    replay(installation, running.log, f"{world.namespace}/{dead}")


def told(lines: list[Any], message: str) -> list[Any]:
    return [line for line in lines if line["message"] == message]


def replay(installation: Installation, log: Path, pod: str) -> None:
    """A recorded proof is judged again without any server, and an altered one is not agreed with."""
    command = [sys.executable, "-m", "healer", "explain", "--proof"]
    done = subprocess.run([*command, str(log)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Today's rules agree with 2 of 2 decisions." in done.stdout
    done = subprocess.run([*command, str(log), "--pod", pod], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert f"Today's rules agree with deleting {pod} as orphaned." in done.stdout
    altered = log.with_suffix(".altered")
    altered.write_text(log.read_text().replace('"state": "failed"', '"state": "running"'))
    done = subprocess.run([*command, str(altered), "--pod", pod], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "today it is in-use" in done.stdout


def test_each_of_two_airflows_in_one_namespace_touches_only_its_own(world: World) -> None:
    """Both ask the same Airflow, which calls every one of the Pods an orphan: only the stamp tells them apart."""
    world.seed(world.task("dead", "failed"))
    pods = {stamp: world.pod("dead", name=f"of-{stamp}", labels=labels(stamp)) for stamp in ("red", "blue", "nobody")}
    for left in ({"blue", "nobody"}, {"nobody"}):
        name = "red" if "blue" in left else "blue"
        installation = configure(world.installation(), name=name, ownership="stamped")
        done = installation.ask("run", "--once", "-o", "json", expect=(0,)).data()
        assert [finding["pod"] for finding in done["deleted"]] == [pods[name]]
        world.wait_names({pods[stamp] for stamp in left})
    assert {event.name for event in world.deletes()} == {"of-red", "of-blue"}
    exclusive = configure(world.installation(), name="green", ownership="exclusive")
    assert [
        finding["pod"] for finding in exclusive.ask("run", "--once", "-o", "json", expect=(0,)).data()["deleted"]
    ] == ["of-nobody"]


def labels(stamp: str) -> dict[str, str]:
    return {} if stamp == "nobody" else {"kpo-healer.io/airflow": stamp}


LONG = "a_very_long_name_that_somebody_generated_from_a_table_of_contents"


@pytest.mark.parametrize(("dag", "task"), [(f"kpo_{LONG}", f"load_{LONG}"), ("_kpo.signs-", "__work.of-today__")])
def test_the_hook_stamps_the_pods_of_a_real_airflow(
    cluster: Cluster, airflow: Airflow, namespace: str, install: Install, dag: str, task: str
) -> None:
    marks = {f"{ANNOTATION}stamp": "prod"}
    run = airflow.trigger(dag, conf={"namespace": namespace, "annotations": marks})

    def made() -> Any:
        return next(iter(cluster.pods(namespace)), None)

    pod = wait_for(made, timeout=PATIENCE, what=f"a Pod of {dag}", interval=0.2)
    meta = pod["metadata"]
    assert meta["labels"]["kpo-healer.io/airflow"] == "prod"
    assert meta["labels"]["task_id"] != task, "which the label can't hold"
    raw = {name: value for name, value in meta["annotations"].items() if name.startswith("kpo-healer.io/")}
    assert raw == {
        "kpo-healer.io/dag-id": dag,
        "kpo-healer.io/task-id": task,
        "kpo-healer.io/run-id": run,
        "kpo-healer.io/map-index": "-1",
    }
    installation = configure(install(airflow, policy=EAGER), name="prod", ownership="stamped")
    (finding,) = installation.ask("scan", "--all", "-o", "json").data()
    assert finding["reason"] == "in-use"
    assert (finding["task"]["dag_id"], finding["task"]["task_id"], finding["task"]["run_id"]) == (dag, task, run)
    airflow.mark(dag, run, task, "failed")


def test_a_real_pod_without_the_wish_is_not_stamped(cluster: Cluster, airflow: Airflow, namespace: str) -> None:
    real = RealTask.trigger(cluster, airflow, namespace, "kpo_sync", run_for="1s")
    assert "kpo-healer.io/airflow" not in real.pod()["metadata"]["labels"]
