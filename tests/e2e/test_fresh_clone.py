"""A fresh clone, and the README word by word: how long it takes from `pip install` to the first report of one's own.

Every command of the README's "Try it" is run in one shell, in its order, in a clone of what is committed, beside the
lab's API server and Airflow, by an account that may do what the README says and nothing else. Only names are replaced.
`pytest -s` tells the seconds of each command.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.docs.fences import ROOT, shown
from tests.e2e.world import World
from tests.lab.pods import Json
from tests.lab.processes import say

ASKED: Final = 60.0
"""Seconds from the end of the installation to the first report."""

READER: Final[list[Json]] = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
"""What the README asks for."""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What somebody has who clones the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is nothing to clone")
    folder = tmp_path / "kpo-healer"
    subprocess.run(["git", "clone", "--quiet", "--no-local", ROOT, folder], check=True, timeout=300)
    return folder


def commands() -> list[str]:
    """Those of the README that come before the demo."""
    found = [command for fence in shown() if fence.page == "README.md" for command in fence.commands]
    assert found[0].startswith("python3 -m venv")
    assert [command.split()[1] for command in found if command.startswith("kpo-healer ")] == [
        "check",
        "scan",
        "explain",
    ]
    return found


def test_the_first_report_is_there_within_a_minute(world: World, clone: Path) -> None:
    world.seed(world.task("dead", "failed"))
    world.pod("dead", name="my-pod-abc")
    kubeconfig = world.cluster.service_account(world.namespace, "reader", READER)
    names = {
        "KPO_HEALER_NAMESPACE=airflow": f"KPO_HEALER_NAMESPACE={world.namespace}",
        "https://airflow.example.com": world.airflow.url,
        "USERNAME=healer": "USERNAME=viewer",
        "PASSWORD=...": "PASSWORD=viewer",
        "airflow/my-pod-abc": f"{world.namespace}/my-pod-abc",
    }
    told = [replaced(command, names) for command in commands()]
    assert sum(command != before for command, before in zip(told, commands(), strict=True)) == 3
    # What a machine adds of its own is none of the README.
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("KPO_HEALER_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["bash", "-c", "\n".join(map(timed, told))],
        cwd=clone,
        env=mine | {"KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    seconds = [float(each) for each in re.findall(r"^took ([\d.]+)$", done.stdout, re.MULTILINE)]
    assert len(seconds) == len(told)
    for command, each in zip(told, seconds, strict=True):
        say(f"{each:6.1f} s  {command.partition(' KPO_HEALER_AIRFLOW_PASSWORD')[0]}")
    installed = next(number for number, command in enumerate(told) if "pip install" in command)
    reported = next(number for number, command in enumerate(told) if command == "kpo-healer scan")
    taken = sum(seconds[installed + 1 : reported + 1])
    say(f"from the installation to the first report: {taken:.1f} s")
    assert taken < ASKED
    assert re.search(r"^my-pod-abc +orphaned ", done.stdout, re.MULTILINE)
    assert "It would be deleted as orphaned, but this is report mode" in done.stdout
    assert world.names() == {"my-pod-abc"}


def replaced(command: str, names: dict[str, str]) -> str:
    for pattern, name in names.items():
        command = command.replace(pattern, name)
    return command


def timed(command: str) -> str:
    """The command, which may find something and may not fail, and its seconds."""
    worst = int(command.startswith("kpo-healer "))
    return (
        f"began=$EPOCHREALTIME\n{command}\ncode=$?\n"
        f'[ $code -le {worst} ] || {{ echo "exit $code: {command.partition(" ")[0]}" >&2; exit $code; }}\n'
        'awk "BEGIN {printf \\"took %.3f\\\\n\\", $EPOCHREALTIME - $began}"'
    )
