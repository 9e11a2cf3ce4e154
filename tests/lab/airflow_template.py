"""A migrated database with parsed DAGs, made once per version and set of DAGs and copied at each start."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.lab.airflow_env import FULL, Environment
from tests.lab.airflow_settings import DAGS, variables
from tests.lab.assets import cache_folder, locked
from tests.lab.processes import run_shown

NO_PORT: Final = 1
"""Nothing listens while the template is made."""


def database(environment: Environment) -> Path:
    """The SQLite file to copy, made first where it is missing (some ten seconds).

    The example DAGs are in it for the version that can run them. Raises LabError when Airflow's commands fail.
    """
    return made_once(environment, _digest(environment), _make)


def made_once(environment: Environment, digest: str, make: Callable[[Environment, Path], None]) -> Path:
    """The database in the cache that `digest` stands for; `make` makes its folder where it is missing."""
    folder = cache_folder() / f"database-{environment.version}-{digest}"
    ready = folder / "airflow.db"
    if not ready.exists():
        with locked(cache_folder() / f".database-{environment.version}.lock"):
            if not ready.exists():  # else another process has made it meanwhile
                make(environment, folder)
    return ready


def _digest(environment: Environment) -> str:
    """DAG files count with their place too: Airflow notes where it found them. Our settings decide what it parses."""
    digest = hashlib.sha256(f"{environment.root.name} {DAGS}".encode())
    parsed = sorted(DAGS.iterdir()) if environment.version == FULL else []
    for file in (Path(__file__), Path(__file__).with_name("airflow_settings.py"), *parsed):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _make(environment: Environment, folder: Path) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    env = variables(unfinished, NO_PORT)
    title = f"making a database for Airflow {environment.version} (once)"
    airflow: list[str | Path] = [environment.python, "-m", "airflow"]
    run_shown(title, [*airflow, "db", "migrate"], env=env, cwd=unfinished)
    if environment.version == FULL:
        run_shown(f"{title}: parsing DAGs", [*airflow, "dags", "reserialize"], env=env, cwd=unfinished)
    allow_many_readers(unfinished / "airflow.db")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def allow_many_readers(file: Path) -> None:
    """Write-ahead logging: readers don't wait for the one writer, which four processes on SQLite need."""
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
