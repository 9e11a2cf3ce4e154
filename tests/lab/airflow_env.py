"""Airflow's own virtual environments, installed once from pinned requirements into the user's cache.

Airflow cannot share an environment with the healer: it pins other versions of the same libraries.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.assets import cache_folder, locked
from tests.lab.processes import LabError, run_shown

FULL: Final = "3.3.2"
"""The version that runs KubernetesPodOperator tasks; every other one serves its REST API only."""

FAB: Final = f"{FULL}-fab"
"""The same with the FAB auth manager, whose provider wants other versions of some libraries."""

REQUIREMENTS: Final = {
    FULL: Path(__file__).with_name("airflow-requirements.txt"),
    **{v: Path(__file__).with_name(f"airflow-requirements-{v}.txt") for v in ("3.2.2", "3.1.8", "3.0.6", FAB)},
}
"""Resolved with `uv pip compile --universal --python-version 3.11`: the full one from apache-airflow and the provider,
the others from apache-airflow-core with `--exclude-newer` some weeks after their release, for they break with newer
libraries.
"""

AIRFLOW_2: Final = {v: Path(__file__).with_name(f"airflow-requirements-{v}.txt") for v in ("2.11.2", "2.10.5")}
"""Airflow 2, whole (see airflow2.py): resolved alike, from apache-airflow and the newest provider it takes."""

LOGINS: Final = f"{FULL}-logins"
"""The full version without its provider, with the auth managers of the providers fab and keycloak: REST API only."""

WITH_LOGINS: Final = {LOGINS: Path(__file__).with_name("airflow-requirements-logins.txt")}


def full_version(text: str | None) -> str:
    """Return the version that runs tasks and begins so, as `2.11`; the newest one for None. Raises LabError."""
    known = (FULL, *AIRFLOW_2)
    found = [version for version in known if text is None or f"{version}.".startswith(f"{text}.")]
    if not found:
        raise LabError(f"the lab runs no tasks with Airflow {text}: choose one of {', '.join(known)}")
    return found[0]


@dataclass(frozen=True)
class Environment:
    """An installed Airflow."""

    version: str
    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def packages(self) -> Path:
        """The folder with all installed packages."""
        return next((self.root / "lib").glob("python*/site-packages"))

    @property
    def complete(self) -> Path:
        """The mark that says that the installation came to its end."""
        return self.root / ".complete"


def prepare(version: str = FULL) -> Environment:
    """The environment of this Airflow version, installed first where it is missing (half a minute to a minute).

    Raises LabError for a version without pinned requirements, or when pip fails.
    """
    known = {**REQUIREMENTS, **AIRFLOW_2, **WITH_LOGINS}
    if version not in known:
        raise LabError(f"the lab has no Airflow {version}: choose one of {', '.join(known)}")
    environment = Environment(version, cache_folder() / f"airflow-{version}-{_digest(known[version])}")
    if not environment.complete.exists():
        with locked(cache_folder() / f".airflow-{version}.lock"):
            if not environment.complete.exists():  # else another process has installed it meanwhile
                _install(environment, known[version])
    return environment


def _digest(requirements: Path) -> str:
    """Names what the environment is made of: the pins and the Python below ours, which every clone shares."""
    python = f"{sys.base_prefix} {sys.version}"
    return hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()[:12]


def _install(environment: Environment, requirements: Path) -> None:
    """Installs in place, for an environment cannot be moved; the mark is set last, so half of one is made anew."""
    title = f"installing Airflow {environment.version} (once)"
    pip: list[str | Path] = [environment.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    shutil.rmtree(environment.root, ignore_errors=True)
    run_shown(f"{title}: environment", [sys.executable, "-m", "venv", environment.root], env=_plain())
    # The pins are complete, so pip has nothing to resolve; all cores compile afterwards, pip would use one.
    run_shown(f"{title}: packages", [*pip, "--no-deps", "--no-compile", "-r", requirements], env=_plain())
    run_shown(f"{title}: bytecode", [environment.python, "-m", "compileall", "-q", "-j", "0", environment.packages])
    environment.complete.touch()


def _plain() -> Mapping[str, str]:
    """Our variables without those that would tie the new environment to the one we run in."""
    return {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
