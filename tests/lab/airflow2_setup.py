"""What an Airflow 2 needs before it can be started: environment variables, and a database to copy."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.lab.airflow_env import Environment
from tests.lab.airflow_settings import DAGS, LOCAL_SETTINGS, as_variables, fernet_key, inherited
from tests.lab.airflow_template import NO_PORT, allow_many_readers, made_once
from tests.lab.processes import run_shown

INSIDE: Final = Path(__file__).with_name("inside")

USERS: Final = {"admin": "Admin", "op": "Op", "user": "User", "viewer": "Viewer", "nobody": "Public"}
"""Users of the FAB auth manager and their roles; the password is the user's name."""

LOGIN_LIMIT: Final = "LAB_LOGIN_LIMIT"
"""Variable that brings back Airflow's own limit: five logins in 40 s from one address. Tests log in more often."""

_WEBSERVER: Final = f"""
import os

AUTH_TYPE = 1
AUTH_RATE_LIMITED = bool(os.environ.get({LOGIN_LIMIT!r}))
"""


def variables(home: Path, port: int) -> dict[str, str]:
    """Everything a process of Airflow 2 needs, begun with the caller's own environment; secrets are made up anew."""
    config: dict[str, Mapping[str, object]] = {
        "core": {
            "load_examples": False,
            "dags_folder": DAGS,
            "plugins_folder": home / "plugins",
            "dags_are_paused_at_creation": False,
            "dag_discovery_safe_mode": False,
            "executor": "LocalExecutor",
            "parallelism": 16,
            "fernet_key": fernet_key(),
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home}/airflow.db?timeout=60"},
        "webserver": {
            "web_server_port": port,
            "web_server_host": "127.0.0.1",
            "workers": 1,
            "base_url": f"http://127.0.0.1:{port}",
            "secret_key": secrets.token_hex(16),
            "config_file": home / "webserver_config.py",
        },
        # By default there is the session alone: basic auth is what a site has to switch on.
        "api": {"auth_backends": "airflow.api.auth.backend.basic_auth,airflow.api.auth.backend.session"},
        "logging": {"base_log_folder": home / "logs", "colored_console_log": False},
        **_QUICK,
    }
    own = {"AIRFLOW_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*", "PYTHONPATH": str(LOCAL_SETTINGS)}
    # Tasks write to the database themselves: with write-ahead logging SQLite takes it.
    own["_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK"] = "1"
    return inherited() | own | as_variables(config)


_QUICK: Final[Mapping[str, Mapping[str, object]]] = {
    "scheduler": {
        "job_heartbeat_sec": 2,
        # A task whose heartbeat comes later than this kills itself: on a busy machine many start at once.
        "local_task_job_heartbeat_sec": 50,
        "scheduler_heartbeat_sec": 1,
        "scheduler_idle_sleep_time": 0.25,
        "orphaned_tasks_check_interval": 15,
        "scheduler_zombie_task_threshold": 120,
        "zombie_detection_interval": 5,
        "allowed_run_id_pattern": ".*",
        "parsing_processes": 1,
        "min_file_process_interval": 600,
        "dag_dir_list_interval": 600,
    },
    # A triggerer that seems dead for that long loses its triggers, and what it then cancels is killed: not too short.
    "triggerer": {"job_heartbeat_sec": 1, "triggerer_health_check_threshold": 15},
    "usage_data_collection": {"enabled": False},
}
"""Shorter than by default, so that what Airflow notices after minutes is noticed after seconds."""


def prepare_home(environment: Environment, home: Path) -> None:
    """Puts a database and the settings of the web server into the folder."""
    shutil.copy(database(environment), home / "airflow.db")
    (home / "webserver_config.py").write_text(_WEBSERVER)


def database(environment: Environment) -> Path:
    """The SQLite file to copy, with parsed DAGs, roles and users; made first where it is missing (some 40 s).

    Raises LabError when Airflow's commands fail.
    """
    return made_once(environment, _digest(environment), _make)


def _digest(environment: Environment) -> str:
    """DAG files count with their place too: Airflow notes where it found them. Our settings decide what it parses."""
    digest = hashlib.sha256(f"{environment.root.name} {DAGS}".encode())
    for file in (Path(__file__), INSIDE / "users2.py", *sorted(DAGS.iterdir())):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _make(environment: Environment, folder: Path) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    (unfinished / "webserver_config.py").write_text(_WEBSERVER)
    env = variables(unfinished, NO_PORT)
    title = f"making a database for Airflow {environment.version} (once)"
    airflow: list[str | Path] = [environment.python, "-m", "airflow"]
    run_shown(title, [*airflow, "db", "migrate"], env=env, cwd=unfinished)
    allow_many_readers(unfinished / "airflow.db")
    run_shown(f"{title}: parsing DAGs", [*airflow, "dags", "reserialize"], env=env, cwd=unfinished)
    users: list[str | Path] = [environment.python, INSIDE / "users2.py", json.dumps(list(USERS.items()))]
    run_shown(f"{title}: users", users, env=env, cwd=unfinished)
    allow_many_readers(unfinished / "airflow.db")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
