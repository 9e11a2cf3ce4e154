"""What a running healer says of real Pods: findings with their causes, notices, read with nothing but a URL.

And a scan by a program that was installed from its wheel a moment ago, with an account that may only list Pods.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from healer.insights.notices import Notice
from tests.e2e.world import Json, World
from tests.lab.airflow import Airflow
from tests.lab.healer import Running, Told
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import wait_for

ROOT = Path(__file__).parents[2]

EAGER_NOTICES = {"pending": "0s", "terminating": "1s", "deferred": "0s", "uncertain": "1s", "gone": "1s"}


def kpo_healer(*words: str, program: str | Path | None = None, expect: tuple[int, ...] = (0, 1)) -> Told:
    """Run a command that has no configuration of its own."""
    command = [str(program)] if program else [sys.executable, "-m", "healer"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KPO_HEALER_", "KUBE"))}
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, env=env, cwd=ROOT)
    assert done.returncode in expect, done.stderr
    return Told(done.returncode, done.stdout, done.stderr)


@dataclass
class Story:
    """A healer in report mode that has seen tasks before and after their end, and Pods worth a look."""

    world: World
    healer: Running

    def findings(self) -> dict[str, Json]:
        told = kpo_healer("scan", "--all", "-o", "json", "--from", self.healer.url, expect=(0, 1, 3))
        return {finding["pod"]: finding for finding in told.data()}

    def notices(self) -> dict[str, set[str]]:
        """The notices by the name of the Pod."""
        told = kpo_healer("scan", "--notices", "-o", "json", "--from", self.healer.url, expect=(0, 1, 3))
        found: dict[str, set[str]] = {}
        for notice in told.data():
            found.setdefault(notice["pod"], set()).add(notice["notice"])
        return found


WATCHED = {"deferred": "deferred", "running": "running", "alive": "running", "vanishing": "running"}


@pytest.fixture(scope="module")
def story(cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with World.open(cluster, airflow_api, tmp_path_factory.mktemp("findings")) as world:
        states = {**WATCHED, "pulls": "running", "unbound": "queued", "twin": "up_for_retry", "leaving": "failed"}
        world.seed(*(world.task(name, state) for name, state in states.items()))
        for name in (*WATCHED, "twin"):
            world.pod(name, name=name)
        world.pod("twin", name="twin-2")
        world.pod("nobody", name="nobody")
        world.pod("leaving", name="leaving", annotations={f"{ANNOTATION}hang-terminating": "true"})
        cluster.delete_pod(world.namespace, "leaving", grace=1)
        cluster.create_pod(world.body("pulls", name="pulls", node="no-such-node"))
        cluster.create_pod(world.body("unbound", name="unbound", annotations={f"{ANNOTATION}stay-pending": "true"}))
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        cluster.set_status(
            world.namespace,
            "pulls",
            containerStatuses=[
                {"name": "base", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
            ],
        )
        installation = world.installation()
        installation.config["findings"] = True
        installation.config["airflows"][0]["notices"] = EAGER_NOTICES
        with installation.run(mode="report") as healer:
            healer.wait_passes(2, timeout=180)
            for name in ("deferred", "running"):
                airflow_api.act(world.dag, "r", name, "fail")
            cluster.delete_pod(world.namespace, "vanishing", grace=0)
            yield Story(world, healer)


def test_a_healer_that_watched_knows_the_cause(story: Story) -> None:
    causes = {"deferred": "marked-while-deferred", "running": "worker-lost", "alive": None}

    def told() -> dict[str, str | None]:
        found = story.findings()
        return {name: (found[name]["cause"] or {}).get("name") for name in causes if name in found}

    wait_for(lambda: told() == causes, timeout=180, what=f"the causes {causes}", interval=1)
    found = story.findings()["deferred"]
    assert found["reason"] == "orphaned"
    assert found["since"]
    assert found["due"] >= found["since"]
    assert found["holds"]["cpu_cores"] > 0
    shown = kpo_healer("explain", f"{story.world.namespace}/deferred", "--from", story.healer.url).out
    assert "marked-while-deferred: it was deferred when last seen" in shown


WANTED = {
    "pulls": Notice.STUCK_PENDING,
    "unbound": Notice.STUCK_PENDING,
    "leaving": Notice.STUCK_TERMINATING,
    "twin": Notice.DUPLICATE,
    "twin-2": Notice.DUPLICATE,
    "nobody": Notice.UNCERTAIN_LONG,
    "vanishing": Notice.POD_GONE,
}


def test_each_notice_is_told(story: Story) -> None:
    def missing() -> dict[str, Notice]:
        told = story.notices()
        return {pod: notice for pod, notice in WANTED.items() if notice not in told.get(pod, ())}

    wait_for(lambda: not missing(), timeout=240, what=f"the notices {WANTED}", interval=1)
    for notice in set(WANTED.values()):
        assert story.healer.metric("notices", notice=notice) >= 1, notice
    details = {
        notice["pod"]: notice["detail"]
        for notice in kpo_healer("scan", "--notices", "-o", "json", "--from", story.healer.url, expect=(1, 3)).data()
    }
    assert "ImagePullBackOff" in details["pulls"]
    assert "unschedulable" in details["unbound"]
    assert story.world.deletes() == []


def test_an_old_pod_of_a_deferred_task_is_told(story: Story) -> None:
    world = story.world
    world.seed(world.task("sleeper", "deferred"))
    world.pod("sleeper", name="sleeper")

    def told() -> bool:
        return Notice.DEFERRED_LONG in story.notices().get("sleeper", set())

    wait_for(told, timeout=180, what="the notice on a deferred task's Pod", interval=1)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment that has our wheel; what it needs is lent by ours."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("kpo_healer-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=120)
    target = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (target / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [*pip, "--python", folder / "venv" / "bin" / "python", "install", "--no-deps", wheel], check=True, timeout=300
    )
    return folder / "venv" / "bin"


@pytest.mark.parametrize("name", ["kpo-healer", "kubectl-kpo_healer"])
def test_a_scan_needs_no_more_than_to_list(story: Story, installed: Path, tmp_path: Path, name: str) -> None:
    world = story.world
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    kubeconfig = world.cluster.service_account(world.namespace, "reader", rules, namespaces=[world.namespace])
    (tmp_path / "password").write_text("viewer\n")
    told = kpo_healer(
        "scan",
        "--all",
        *("-o", "json", "--kubeconfig", str(kubeconfig), "-n", world.namespace),
        *("--airflow-url", world.airflow.url, "--airflow-username", "viewer"),
        *("--airflow-password-file", str(tmp_path / "password")),
        program=installed / name,
    )
    found = {finding["pod"]: finding["reason"] for finding in told.data()}
    assert found["alive"] == "in-use"
    assert found["deferred"] == "orphaned"
    where = kpo_healer("--version", program=installed / name).out
    assert where.startswith("kpo-healer ")


def test_kubectl_completes(installed: Path) -> None:
    told = kpo_healer("sc", program=installed / "kubectl_complete-kpo_healer").out
    assert [line.partition("\t")[0] for line in told.splitlines()] == ["scan", ":4"]
