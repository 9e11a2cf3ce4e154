"""What every Airflow process gets: the hook and the plugin, found by their entry points."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import airflow
from tests.lab.airflow_plugin import SOURCE, python_path
from tests.lab.airflow_settings import variables
from tests.ui.conftest import INSIDE, VERSIONS

RAW = ("dag-id", "task-id", "run-id", "map-index")


def run(version: str, tmp_path: Path, script: list[Any], **more: str) -> str:
    environment = airflow.prepare(version)
    env = variables(tmp_path, 1) | python_path(local_settings=False) | more
    done = subprocess.run(
        [environment.python, *script], env=env, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def stamped(version: str, tmp_path: Path, *arguments: str, **more: str) -> dict[str, Any]:
    out = run(version, tmp_path, [INSIDE / "stamping.py", *arguments], **more)
    (line,) = [line for line in out.splitlines() if line.startswith("RESULT")]
    return dict(json.loads(line.removeprefix("RESULT")))


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_are_stamped_and_others_left_alone(version: str, tmp_path: Path) -> None:
    seen = stamped(version, tmp_path, AIRFLOW__KPO_HEALER__AIRFLOW="prod")
    assert seen["kpo"]["labels"]["kpo-healer.io/airflow"] == "prod"
    assert seen["kpo"]["labels"]["dag_id"] == "sales"
    for other in ("executor", "other", "unlabelled"):
        assert "kpo-healer.io" not in json.dumps(seen[other])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_hook_works_beside_the_users_own_and_another_packages(version: str, tmp_path: Path) -> None:
    own = tmp_path / "settings"
    own.mkdir()
    # Their own hook has other ideas about labels; it is named as Airflow allows.
    text = "def pod_mutation_hook(p):\n    p.metadata.labels = {**(p.metadata.labels or {}), 'team': 'data'}\n"
    (own / "airflow_local_settings.py").write_text(text)
    path = python_path(own, local_settings=False)
    seen = stamped(version, tmp_path, "another", KPO_HEALER_AIRFLOW="staging", **path)
    labels = seen["kpo"]["labels"]
    assert (labels["team"], labels["another"], labels["kpo-healer.io/airflow"]) == ("data", "yes", "staging")
    assert seen["other"]["labels"] == {"app": "web", "team": "data", "another": "yes"}


def test_a_name_that_can_not_be_a_label_stamps_nothing_and_fails_no_task(tmp_path: Path) -> None:
    seen = stamped(VERSIONS[-1], tmp_path, KPO_HEALER_AIRFLOW="my airflow!")
    assert seen["kpo"]["labels"] == {"kubernetes_pod_operator": "True", "dag_id": "sales"}
    assert stamped(VERSIONS[-1], tmp_path)["kpo"]["labels"]["kpo-healer.io/airflow"] == "default"


def test_a_configuration_that_airflow_can_not_read_fails_no_task_and_is_one_sentence(tmp_path: Path) -> None:
    config = tmp_path / "odd.cfg"
    config.write_text("[kpo_healer]\nairflow = 50%\nurl = http://h:1\ntoken = s3cr%t\n")
    seen = stamped(VERSIONS[-1], tmp_path, AIRFLOW_CONFIG=str(config))
    assert seen["kpo"]["labels"] == {"kubernetes_pod_operator": "True", "dag_id": "sales"}
    load = "from kpo_healer_airflow import settings as s\ntry: s.load()\nexcept s.SettingsError as e: print('TOLD', e)"
    for text, option in ((config.read_text(), "airflow"), (config.read_text().replace("50%", "prod"), "token")):
        config.write_text(text)
        out = run(VERSIONS[-1], tmp_path, ["-c", load], AIRFLOW_CONFIG=str(config))
        assert f"TOLD [kpo_healer] {option} can't be read: in airflow.cfg write a % as %%" in out
        assert "s3cr" not in out


@pytest.mark.parametrize("module", ["__init__", "stamp", "plugin"])
def test_what_every_process_imports_is_written_for_the_oldest_python(module: str) -> None:
    """Airflow 2.10 runs on Python 3.8."""
    ast.parse((SOURCE / "kpo_healer_airflow" / f"{module}.py").read_text(), feature_version=(3, 8))


COST = """
import airflow.settings, airflow.plugins_manager, sys, time
from importlib.metadata import entry_points
for module in [m for m in sys.modules if m.startswith("kpo_healer_airflow")]:
    del sys.modules[module]
found = [*entry_points(group="airflow.policy"), *entry_points(group="airflow.plugins")]
ours = [entry for entry in found if entry.name == "kpo-healer"]
started = time.process_time()
loaded = [entry.load() for entry in ours]
took = time.process_time() - started
print("COST", len(loaded), took, *(m for m in sys.modules if m.startswith("kpo_healer_airflow.")))
"""
"""Seconds of CPU: the machine may be busy with other things."""


@pytest.mark.parametrize("version", VERSIONS)
def test_other_processes_hardly_notice(version: str, tmp_path: Path) -> None:
    (line,) = [part for part in run(version, tmp_path, ["-c", COST]).splitlines() if part.startswith("COST")]
    _, loaded, seconds, *modules = line.split()
    print(f"{version}: {float(seconds) * 1000:.1f} ms")
    assert loaded == "2"
    assert float(seconds) < 0.05
    assert set(modules) == {"kpo_healer_airflow.stamp", "kpo_healer_airflow.plugin"}


PLUGIN = """
import airflow.plugins_manager as manager
from kpo_healer_airflow.plugin import OrphanedPods, is_supported, react_apps
assert not any(map(is_supported, ("2.10.5", "2.11.2", "3.0.6", "3.1.0", "x")))
assert all(map(is_supported, ("3.1.1", "3.1.8", "3.2.0rc1", "3.10.0", "4.0.0")))
apps = react_apps("https://example.com/air/flow/")
assert {a["bundle_url"] for a in apps} == {"/air/flow/kpo-healer/static/page.js"}
assert len({a["url_route"] for a in apps}) == len(apps) == 6
assert react_apps("")[0]["bundle_url"] == "/kpo-healer/static/page.js"
print("SHOWN", len(getattr(OrphanedPods(), "react_apps", [])), len(OrphanedPods().fastapi_apps or []))
"""


@pytest.mark.parametrize(("version", "shown"), [*((v, "6 1") for v in VERSIONS), ("3.0.6", "0 0")])
def test_the_page_is_there_from_the_first_version_that_can_show_it(version: str, shown: str, tmp_path: Path) -> None:
    if version == "3.0.6" and len(VERSIONS) == 1:
        pytest.skip("only beside all other versions: make ui VERSIONS=…")
    assert f"SHOWN {shown}" in run(version, tmp_path, ["-c", PLUGIN])
