"""Command lines of everything that is measured, each a process of its own on the same cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench import population, tools
from tests.bench.population import NAMESPACE, Seat
from tests.bench.world import World

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Contestant:
    """A command. `env`: added to ours. `expect`: exit codes that mean success."""

    name: str
    args: Sequence[str | Path]
    env: dict[str, str] = field(default_factory=dict)
    expect: Sequence[int] = (0,)


@dataclass(frozen=True)
class Watched:
    """Calls to Airflow by kind, and the age of the evidence at each DELETE in seconds, sorted."""

    calls: dict[str, int]
    ages: list[float]


def floor(world: World) -> Contestant:
    script = HERE / "floor_kubernetes.py"
    where = [world.cluster.url, str(world.cluster.ca), world.token, NAMESPACE]
    return Contestant("floor", [sys.executable, script, *where])


def floor_of_both(world: World, seats: Sequence[Seat]) -> Contestant:
    """The floor with Airflow's side, for the Pods of these seats."""
    file = world.folder / "chunks.json"
    file.write_text(json.dumps(population.chunks(list(seats))))
    where = [world.cluster.url, str(world.cluster.ca), world.token, NAMESPACE]
    script = HERE / "floor_airflow.py"
    return Contestant("floor of both", [sys.executable, script, *where, world.url, "viewer", "viewer", file])


def scan(world: World) -> Contestant:
    """kpo-healer looks once at everything and shows what it found."""
    installation = world.install("scan")
    return Contestant("kpo-healer scan", installation.command("scan", "-o", "json"), expect=(0, 1))


def heal(world: World) -> Contestant:
    """kpo-healer heals what is there now, each deletion proven, without waiting; `watched(world)` tells how."""
    installation = world.install("heal", mode="enforce")
    airflow = installation.config["airflows"][0]
    airflow["policy"] = {
        "minAge": "0s",
        "grace": "0s",
        "sightings": 1,
        "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"},
    }
    airflow["limits"] = {"deletionsPerMinute": None, "breaker": {"maxShare": 1.0, "minCount": 1_000_000}}
    file = _watched(world)
    file.unlink(missing_ok=True)
    command = installation.command("run", "--once", "-o", "json")
    return Contestant("kpo-healer", [sys.executable, "-m", "tests.bench.watched_pass", file, *command[3:]])


def _watched(world: World) -> Path:
    return world.folder / "watched.json"


def watched(world: World) -> Watched:
    """What kpo-healer's last healing pass has asked Airflow, and how old its evidence was at each DELETE."""
    return Watched(**json.loads(_watched(world).read_text()))


def plain_kopf(world: World) -> Contestant:
    env = {"KUBECONFIG": str(world.cluster.kubeconfig)}
    return Contestant("plain kopf", [sys.executable, HERE / "plain_kopf.py", str(world.pods), NAMESPACE], env)


def kube_janitor(world: World) -> Contestant | None:
    """Deletes by the age that an annotation allows, once; None where its source can't be had."""
    source = tools.janitor()
    if source is None:
        return None
    paths = f"{source}{os.pathsep}{tools.packages('janitor')}"
    env = {"PYTHONPATH": paths, "KUBECONFIG": str(world.cluster.kubeconfig)}
    options = ["--once", "--include-resources=pods", f"--include-namespaces={NAMESPACE}"]
    return Contestant("kube-janitor", [sys.executable, "-m", "kube_janitor", *options], env)


def cleanup_pods(world: World) -> Contestant:
    """Airflow's own command: deletes done Pods of any age."""
    assert world.airflow is not None
    kubernetes = {"IN_CLUSTER": "False", "CONFIG_FILE": str(world.cluster.kubeconfig)}
    env = world.airflow.environ | {f"AIRFLOW__KUBERNETES_EXECUTOR__{key}": value for key, value in kubernetes.items()}
    args = [world.airflow.environment.python, "-m", "airflow", "kubernetes", "cleanup-pods", "--namespace", NAMESPACE]
    return Contestant("airflow cleanup-pods", args, env)


def kubectl_script(world: World) -> Contestant:
    """What stands in many a CronJob: list the done Pods, delete them by name."""
    program = f"{tools.kubectl()} --kubeconfig {world.cluster.kubeconfig} -n {NAMESPACE}"
    script = (
        "for phase in Succeeded Failed; do "
        f"{program} get pods -l kubernetes_pod_operator=True --field-selector=status.phase=$phase -o name; "
        f"done | xargs -r -n 100 {program} delete --wait=false"
    )
    return Contestant("kubectl", ["bash", "-euo", "pipefail", "-c", script])


def versions(world: World) -> dict[str, str]:
    """Of everything that takes part."""
    from importlib.metadata import version

    from healer import __version__

    ours = {name: version(name) for name in ("kopf", "kubernetes", "apache-airflow-client", "msgspec", "aiohttp")}
    source = tools.janitor()
    server = world.cluster.request("GET", "/version")["gitVersion"]
    etcd = _said([str(world.cluster.etcd.args[0]), "--version"], r"etcd Version: (\S+)")
    kubectl = _said([str(tools.kubectl()), "version", "--client"], r"v[\d.]+")
    made = {"kpo-healer": __version__, **ours, "python": sys.version.split()[0], "kube-apiserver": server, "etcd": etcd}
    made |= {"kubectl": kubectl, "kube-janitor": f"20.10.0 ({tools.revision(source)})" if source else "left out"}
    if world.airflow is not None and world.postgres is not None:
        made |= {"airflow": world.airflow.version, "postgresql": world.postgres.version()}
        packages = world.airflow.environment.packages
        found = next(packages.glob("apache_airflow_providers_cncf_kubernetes-*.dist-info"), None)
        made["provider"] = found.name.split("-")[1].removesuffix(".dist") if found else "unknown"
    return made


def _said(command: Sequence[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout)
    return found[found.lastindex or 0] if found else "unknown"
