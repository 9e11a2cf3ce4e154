"""Every command of the documentation is run, beside a real API server, a real Airflow and a healer that runs.

Names of the pages are replaced by those of the lab: the namespace, a Pod, the Airflow and its address. A fence that
can't be run here names the test that runs it, in a mark before it: `<!-- run by: tests/… -->`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.fences import ROOT, Fence, shown
from tests.e2e.world import World
from tests.lab.airflow import Airflow
from tests.lab.chart_assets import helm
from tests.lab.healer import Installation, Running
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import Process, wait_for

START = "docs/start.md"
INSTALL = "docs/install.md"
MISTAKEN = "kpo-healer check --config config.yaml"
"""The one command that is shown with its errors."""

PATIENCE = 120.0
BIN = ROOT / ".venv" / "bin"

LACKING = {
    "port-forward": "the lab's kubelets forward no ports",
    "docker ": "there is no container engine",
    "uvx ": "not installed here; tests/e2e/test_findings.py has an empty environment into which the wheel goes",
    "pipx ": "not installed here either",
}
"""Commands that nothing here can run, by what they hold."""

pytestmark = pytest.mark.timeout(900)


@dataclass
class Desk:
    """Where a reader sits: a folder, a kubeconfig, and what the variables of the pages stand for."""

    world: World
    folder: Path
    healer: Running
    installation: Installation
    env: dict[str, str] = field(default_factory=dict)
    pod: str = "dead"

    def told(self, command: str) -> str:
        """A command of a page with the lab's names."""
        for pattern, name in self._names():
            command = re.sub(pattern, name, command)
        return command

    def _names(self) -> list[tuple[str, str]]:
        namespace = self.world.namespace
        return [
            (r"airflow/(my-pod-abc|extract-b3k2x9qd)", f"{namespace}/{self.pod}"),
            (r"\bmy-pod-abc\b", self.pod),
            (r"-n airflow\b", f"-n {namespace}"),
            (r"NAMESPACE=airflow\S*", f"NAMESPACE={namespace}"),
            (r"https://airflow\.example\.com", self.world.airflow.url),
            (r"USERNAME=healer", "USERNAME=viewer"),
            (r"PASSWORD=\.\.\.", "PASSWORD=viewer"),
            (r"/etc/kpo-healer/password", str(self.installation.folder / "password")),
            (r"--airflow prod\b", "--airflow default"),
            (r"http://localhost:8080", self.healer.url),
            # What is told to a shell that is not here is at least made.
            (r'eval "\$\((\S+zsh_source kpo-healer)\)"', r"\1"),
            (r"\| source\b", "| cat"),
        ]

    def run(self, *commands: str, folder: Path | None = None, path: str | None = None, timeout: float = 600) -> str:
        """Runs commands one after another in one shell, and returns what they print.

        Each must end with 0; kpo-healer may end with 1, by which it says that it has found something.
        """
        refuse = '|| { echo "exit $code of this line" >&2; exit $code; }'
        steps = (f"{command}\ncode=$?; [ $code -le {may_find(command)} ] {refuse}" for command in commands)
        script = self.told("\n".join(steps))
        env = self.env | {"PATH": path or f"{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder or self.folder, env=env, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout


def may_find(command: str) -> int:
    """The worst good exit status of a command."""
    return int(command.rpartition("| ")[2].startswith("kpo-healer "))


@pytest.fixture(scope="module")
def desk(cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with ExitStack() as stack:
        world = stack.enter_context(World.open(cluster, airflow_api, tmp_path_factory.mktemp("documented")))
        ended = [world.task("dead", "failed", pod="dead"), world.task("lost", "failed")]
        world.seed(world.task("alive", "running"), *ended)
        for name in ("alive", "dead", "lost"):
            world.pod(name, name=name)
        installation = world.installation()
        installation.config["findings"] = True
        installation.config["airflows"][0]["name"] = "default"
        healer = stack.enter_context(installation.run(mode="report"))
        made = Desk(world, folder, healer, installation)
        made.env = environment(made)
        wait_for(lambda: healer.metric("withheld", why="report-mode") == 2, timeout=PATIENCE, what="two Pods withheld")
        shutil.copy(healer.log, folder / "healer.log")
        deployed(stack, made)
        yield made


def environment(desk: Desk) -> dict[str, str]:
    """The healer's configuration by variables, and an admin's kubeconfig that is at home in the namespace."""
    kubeconfig = yaml.safe_load(desk.world.cluster.kubeconfig.read_text())
    kubeconfig["contexts"][0]["context"]["namespace"] = desk.world.namespace
    (desk.folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    foreign = ("KPO_HEALER_", "KUBE", "VIRTUAL_ENV", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
        "KUBECONFIG": str(desk.folder / "kubeconfig"),
        "NO_PROXY": "127.0.0.1,localhost",
        "KPO_HEALER_NAMESPACE": desk.world.namespace,
        "KPO_HEALER_AIRFLOW_URL": desk.world.airflow.url,
        "KPO_HEALER_AIRFLOW_USERNAME": "viewer",
        "KPO_HEALER_AIRFLOW_PASSWORD_FILE": str(desk.installation.folder / "password"),
    }


def deployed(stack: ExitStack, desk: Desk) -> None:
    """A Deployment called kpo-healer with a Pod whose log is the healer's, for `kubectl logs`."""
    cluster, namespace = desk.world.cluster, desk.world.namespace
    labels = {"app.kubernetes.io/name": "kpo-healer"}
    lines = [line for line in desk.healer.log.read_text().splitlines() if "dead" in line]
    template: Any = {
        "metadata": {"labels": labels, "annotations": {f"{ANNOTATION}log": "\n".join(lines[-20:])}},
        "spec": {"containers": [{"name": "kpo-healer", "image": "kpo-healer"}]},
    }
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    spec = {"selector": {"matchLabels": labels}, "template": template}
    cluster.request("POST", path, {"metadata": {"name": "kpo-healer"}, "spec": spec})
    stack.callback(cluster.request, "DELETE", f"{path}/kpo-healer")
    meta = template["metadata"] | {"name": "kpo-healer-0", "namespace": namespace}
    desk.world.make({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})


def ours(fence: Fence) -> bool:
    """Whether its commands are run here one after another; the others have tests of their own below."""
    elsewhere = ("make ", "python3 -m venv", MISTAKEN)
    return fence.page not in (START, INSTALL) and fence.by is None and not fence.commands[0].startswith(elsewhere)


@pytest.mark.parametrize("fence", [fence for fence in shown() if ours(fence)], ids=str)
def test_the_commands_of_a_fence(desk: Desk, fence: Fence) -> None:
    commands = [command for command in fence.commands if not any(word in command for word in LACKING)]
    if commands:
        names = {
            f"{desk.world.namespace}/dead": "airflow/extract-b3k2x9qd",
            f"dag_id={desk.world.namespace} task_id=dead run_id=r": f"dag_id=sales task_id=extract run_id={RUN_LABEL}",
            f"task dead of DAG {desk.world.namespace}, run r:": f"task extract of DAG sales, run {RUN}:",
            "Airflow default": "Airflow prod",
        }
        seen = [as_shown(line, names) for line in desk.run(*commands).splitlines()]
        assert [line for line in promised(fence) if line not in seen] == []


def test_errors_of_the_configuration_are_as_shown(desk: Desk) -> None:
    (fence,) = [f for f in shown() if f.commands[0] == MISTAKEN]
    airflow = {"name": "a", "namespaces": ["a"], "url": "http://h", "token": "t", "policy": {"grac": "1m"}}
    airflow["limits"] = {"breaker": {"maxShare": 1.5}}
    (desk.folder / "config.yaml").write_text(yaml.safe_dump({"airflows": [airflow]}))
    env = {name: value for name, value in desk.env.items() if not name.startswith("KPO_HEALER_")}
    command = [str(BIN / "kpo-healer"), *fence.commands[0].split()[1:]]
    done = subprocess.run(command, cwd=desk.folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [line for line in fence.text.splitlines() if line.startswith("error: ")]


@pytest.mark.timeout(2400)
def test_the_five_minutes(desk: Desk, tmp_path: Path) -> None:
    """A new folder, a new environment, and every command of the page in its order; the last one is the controller."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "healer", tmp_path / "healer", ignore=shutil.ignore_patterns("__pycache__"))
    *before, last = (command for fence in shown() if fence.page == START for command in fence.commands)
    assert last == "kpo-healer run"
    bare = {name: value for name, value in desk.env.items() if not name.startswith("KPO_HEALER_")}
    reader = Desk(desk.world, tmp_path, desk.healer, desk.installation, bare, "lost")
    # Forty packages come from a registry that may take its time over each.
    said = reader.run(*before, path=os.environ["PATH"], timeout=1800)
    seen = [as_shown(line, of_the_start(desk)) for line in said.splitlines()]
    lines = (line for fence in shown() if fence.page == START for line in promised(fence))
    assert [line for line in lines if line not in seen] == []
    exports = [command for command in before if command.startswith("export ")]
    script = "\n".join(
        map(reader.told, [*exports, "export KPO_HEALER_LISTEN=127.0.0.1:0", "exec kpo-healer/bin/" + last])
    )
    with Process("run", ["bash", "-c", script], tmp_path / "run.log", env=bare, cwd=tmp_path) as controller:
        wait_for(lambda: "started" in controller.log.read_text(), timeout=PATIENCE, what="the controller")
        assert controller.stop(timeout=60) == 0


def of_the_start(desk: Desk) -> dict[str, str]:
    """The names of that page by those of the lab."""
    return {
        f"{desk.world.namespace}.lost": "sales.extract",
        "lost  orphaned": "my-pod-abc  orphaned",
        f"task lost of DAG {desk.world.namespace}, run r:": "task extract of DAG sales, run nightly:",
        desk.world.namespace: "airflow",
        " lost ": " my-pod-abc ",
        "airflow/lost": "airflow/my-pod-abc",
        desk.world.airflow.url: "https://airflow.example.com",
        "role viewer": "role Viewer",
        "viewer": "healer",
    }


RUN, RUN_LABEL = "scheduled__2026-01-31T00:00:00+00:00", "scheduled__2026-01-31T0000000000-5ac1f3cbf"
"""As the page about the command line has them."""

VARIES = {
    r"\d{4}-\d\d-\d\dT[\d:]+Z": "TIME",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "UID",
    r"\b\w+ old\b": "AGE old",
    r"orphaned +\w+ +\w+ \w+ +(?=sales\.extract +in \w+$)": "orphaned AGE HOLDS ",
    r"sales\.extract +in \w+$": "sales.extract in SOME TIME",
    r" +": " ",
}


def as_shown(line: str, names: Mapping[str, str]) -> str:
    """A line with the names of the pages in place of the lab's, without times and the width of columns."""
    for ours, theirs in names.items():
        line = line.replace(ours, theirs)
    for pattern, name in VARIES.items():
        line = re.sub(pattern, name, line)
    return line.strip()


def promised(fence: Fence) -> list[str]:
    """The lines of output that a fence shows."""
    lines = (line.strip() for line in fence.text.splitlines())
    return [as_shown(line, {}) for line in lines if line and line != "..." and not line.startswith("$ ")]


def test_the_readme_shows_nothing_but_the_same_five_minutes() -> None:
    """So that each of its commands is run, in its order, by the test of that page."""
    page = [command for fence in shown() if fence.page == START for command in fence.commands]
    readme = [command for fence in shown() if fence.page == "README.md" for command in fence.commands]
    assert readme == [command for command in page if command in readme] != []


@pytest.mark.parametrize("command", sorted({c for f in shown() for c in f.commands if c.startswith("make ")}))
def test_every_target_of_make_exists(command: str) -> None:
    """Only the help is carried out: the others are what runs this test, or take longer than it may."""
    words = command.split() if command == "make help" else [*command.split(), "-n"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installation_by_helm(desk: Desk, tmp_path: Path) -> None:
    """The page's values and its commands, in a namespace of the test's own; nothing here runs what is installed."""
    own = f"{desk.world.namespace}-helm"
    page = (ROOT / INSTALL).read_text()
    (values,) = re.findall(r"```yaml\n(image:.*?)```", page, re.DOTALL)
    (tmp_path / "values.yaml").write_text(values.replace("[airflow]", f"[{own}]"))
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    commands = [c for fence in shown() if fence.page == INSTALL for c in fence.commands if not c.startswith("docker ")]
    own_names = [re.sub(r"(-n |--namespace |namespace )kpo-healer", rf"\g<1>{own}", command) for command in commands]
    path = f"{tmp_path}:{BIN}:{os.environ['PATH']}"
    (tmp_path / "helm").symlink_to(helm())
    try:
        desk.run(*own_names, folder=tmp_path, path=path)
        assert "kpo-healer" in desk.run(f"kubectl -n {own} get deployments -o name", folder=tmp_path, path=path)
    finally:
        desk.run(f"helm uninstall kpo-healer --namespace {own}", folder=tmp_path, path=path)
        desk.world.cluster.delete_namespace(own)


def test_what_a_finding_looks_like_there(desk: Desk) -> None:
    """The address of the pages is the healer's: `--from` reads this one."""
    found = json.loads(desk.run("kpo-healer scan --from http://localhost:8080 -o json"))
    assert "lost" in {finding["pod"] for finding in found}
