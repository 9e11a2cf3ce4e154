"""A real Airflow 3 with the FAB auth manager, as the official chart has it; users and roles by its own commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.lab.airflow import Airflow
from tests.lab.airflow_env import LOGINS
from tests.lab.processes import run_shown

MANAGER: Final = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"

READ: Final[Sequence[str]] = ("DAGs", "DAG Runs", "Task Instances")
"""What the healer cannot do without."""


class FabAirflow(Airflow):
    """Its users are those of its database; `add_user` and `add_role` make them."""

    def _variables(self) -> dict[str, str]:
        config = self.root / "webserver_config.py"
        fab = {"CONFIG_FILE": str(config), "AUTH_RATE_LIMITED": "False"}
        own = {f"AIRFLOW__FAB__{key}": value for key, value in fab.items()}
        return super()._variables() | own | {"AIRFLOW__CORE__AUTH_MANAGER": MANAGER}

    def _prepare_home(self) -> None:
        super()._prepare_home()
        if not (self.root / "webserver_config.py").exists():
            (self.root / "webserver_config.py").write_text("AUTH_TYPE = 1\nAUTH_RATE_LIMITED = False\n")
        self.command("db", "migrate")

    def command(self, *words: str) -> None:
        """Runs `airflow …`; LabError with its output when it fails."""
        command: list[str | Path] = [self.environment.python, "-m", "airflow", *words]
        run_shown(f"airflow {words[0]} {words[1]}", command, env=self.environ, cwd=self.root)

    def add_user(self, name: str, role: str) -> None:
        """Adds a user whose password is its name."""
        person = ("--firstname", name, "--lastname", name, "--email", f"{name}@example.com")
        self.command("users", "create", "--username", name, "--password", name, "--role", role, *person)

    def add_role(self, name: str, resources: Sequence[str] = READ) -> None:
        """Adds a role that may read these."""
        self.command("roles", "create", name)
        self.command("roles", "add-perms", name, "-a", "can_read", "-r", *resources)


__all__ = ["LOGINS", "MANAGER", "READ", "FabAirflow"]
