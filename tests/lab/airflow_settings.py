"""The environment variables that make an Airflow small, quick and its own."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

USERS: Final = ("admin", "op", "user", "viewer")
"""Users of the SimpleAuthManager: name, role and password are the same word."""

DAGS: Final = Path(__file__).with_name("dags")
PLUGINS: Final = Path(__file__).with_name("inside") / "plugins"
LOCAL_SETTINGS: Final = Path(__file__).with_name("inside") / "settings"
"""Where Airflow finds its `airflow_local_settings`."""

_FOREIGN: Final = ("AIRFLOW", "_AIRFLOW", "PYTHON", "VIRTUAL_ENV", "KUBECONFIG", "KUBERNETES_", "KPO_HEALER_")
"""Variables (by prefix) of the caller that must not reach the Airflow of the lab."""


def variables(home: Path, port: int, *, dags: Path = DAGS) -> dict[str, str]:
    """Everything an Airflow process needs, begun with the caller's own environment; secrets are made up anew."""
    url = f"http://127.0.0.1:{port}"
    config: dict[str, Mapping[str, object]] = {
        "core": {
            "load_examples": False,
            "dags_folder": dags,
            "plugins_folder": PLUGINS,
            "dags_are_paused_at_creation": False,
            "dag_discovery_safe_mode": False,
            "executor": "LocalExecutor",
            "parallelism": 16,
            "fernet_key": fernet_key(),
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_users": ",".join(f"{name}:{name}" for name in USERS),
            "simple_auth_manager_passwords_file": home / "passwords.json",
        },
        "database": {
            "sql_alchemy_conn": f"sqlite:///{home}/airflow.db?timeout=60",
            # A request may need a second connection while it holds its first: at the default 15 they block each other.
            "sql_alchemy_pool_size": 60,
        },
        "api": {"port": port, "host": "127.0.0.1", "workers": 1, "base_url": url, "secret_key": secrets.token_hex(16)},
        "api_auth": {"jwt_secret": secrets.token_hex(32)},
        "logging": {"base_log_folder": home / "logs", "colored_console_log": False},
        **_QUICK,
    }
    own = {"AIRFLOW_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*", "PYTHONPATH": str(LOCAL_SETTINGS)}
    return inherited() | own | as_variables(config)


def fernet_key() -> str:
    """A key for what is encrypted in the database, such as what a trigger was given.

    Where none is configured each process makes one up and writes it into Airflow's folder; several that are started
    together may each use their own, and then can't read what another one wrote.
    """
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


_QUICK: Final[Mapping[str, Mapping[str, object]]] = {
    "scheduler": {
        "job_heartbeat_sec": 2,
        "scheduler_heartbeat_sec": 1,
        "scheduler_idle_sleep_time": 0.25,
        "orphaned_tasks_check_interval": 15,
        "task_instance_heartbeat_timeout": 30,
        "task_instance_heartbeat_timeout_detection_interval": 5,
        "allowed_run_id_pattern": ".*",
    },
    # A triggerer that seems dead for that long loses its triggers, and what it then cancels is killed: not too short.
    "triggerer": {"job_heartbeat_sec": 1, "triggerer_health_check_threshold": 15},
    # The first call to the execution API builds it, which may take long where many things start at once.
    "workers": {"min_heartbeat_interval": 2, "execution_api_timeout": 60},
    "dag_processor": {
        "parsing_processes": 1,
        "min_file_process_interval": 600,
        "stale_dag_threshold": 3600,
        "print_stats_interval": 0,
        "bundle_refresh_check_interval": 60,
    },
    "usage_data_collection": {"enabled": False},
}
"""Shorter than by default, so that what Airflow notices after minutes is noticed after seconds."""


def inherited() -> dict[str, str]:
    """The caller's own environment, without what must not reach an Airflow of the lab."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}


def as_variables(config: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Sections and keys as Airflow reads them from the environment: AIRFLOW__SECTION__KEY."""
    return {
        f"AIRFLOW__{section}__{key}".upper(): str(value)
        for section, keys in config.items()
        for key, value in keys.items()
    }
