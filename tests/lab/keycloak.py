"""A real Keycloak for Airflow's Keycloak auth manager: Maven's distribution on the machine's Java, its data in memory.

with Keycloak.start(folder) as keycloak:
    with Airflow.start(version=LOGINS, components=("api-server",), env=keycloak.airflow()) as airflow:
        keycloak.grant(airflow)
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx

from tests.lab.airflow import Airflow
from tests.lab.assets import cache_folder, locked
from tests.lab.processes import LabError, Process, free_ports, run_shown

VERSION: Final = "26.7.3"
ARTIFACT: Final = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
CHECKSUM: Final = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
OLDEST_JAVA: Final = 17

REALM: Final = "airflow"
CLIENT: Final = "airflow"
SECRET: Final = "client-secret-of-the-lab"
ADMIN: Final = "admin"

ROLES: Final = ("Viewer", "User", "Op", "Admin", "SuperAdmin")
"""Roles of the client, to which `airflow keycloak-auth-manager create-all` ties its permissions; they must be there."""

Json = Any
"""A decoded JSON document."""


class LacksError(LabError):
    """Keycloak can't be had on this machine; the text says what it lacks."""


def distribution() -> Path:
    """The folder of the distribution, fetched by Maven and built for our options first where it is missing.

    Raises LacksError where there is no Java 17, no Maven, or no such artifact to be had.
    """
    _check_java()
    folder = cache_folder() / f"keycloak-{VERSION}"
    if not folder.exists():
        with locked(cache_folder() / ".keycloak.lock"):
            if not folder.exists():  # else another process has made it meanwhile
                _make(folder)
    return folder


def _check_java() -> None:
    java = shutil.which("java")
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr if java else ""
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise LacksError(f"Keycloak {VERSION} needs Java {OLDEST_JAVA} or newer: install openjdk-17-jre-headless")


def _make(folder: Path) -> None:
    if not shutil.which("mvn"):
        raise LacksError("Keycloak is fetched by Maven: install maven")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    get = ["mvn", "-q", "-B", f"-Dmaven.repo.local={unfinished / 'repository'}", "dependency:get"]
    try:
        run_shown(f"fetching Keycloak {VERSION} (once)", [*get, f"-Dartifact={ARTIFACT}", "-Dtransitive=false"])
    except LabError as error:
        raise LacksError(f"Keycloak {VERSION} can't be had from Maven: {str(error).splitlines()[0]}") from None
    (archive,) = unfinished.rglob(f"keycloak-quarkus-dist-{VERSION}.zip")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != CHECKSUM:
        raise LabError(f"{ARTIFACT} is not the one that is pinned: check CHECKSUM")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(unfinished)
    home = unfinished / f"keycloak-{VERSION}"
    script = home / "bin/kc.sh"
    script.chmod(0o755)
    run_shown(f"building Keycloak {VERSION} (once)", [script, "build", "--db=dev-mem", "--cache=local"])
    home.rename(folder)
    shutil.rmtree(unfinished)


class Keycloak:
    """One running Keycloak with the realm of an Airflow; `start()` makes it, leaving the `with` block ends it."""

    def __init__(self, process: Process, url: str) -> None:
        self._process = process
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Starts it (half a minute to two) and makes the realm. Raises LacksError where it can't be had here."""
        home = distribution()
        (port,) = free_ports(1)
        flags = ["--optimized", "--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1"]
        process = Process(
            "keycloak",
            [home / "bin/kc.sh", "start", *flags, f"--http-port={port}"],
            folder / "keycloak.log",
            env=_environment(),
            cwd=folder,
            start_timeout=300,
        )
        keycloak = cls(process, f"http://127.0.0.1:{port}")
        process.ready = lambda: keycloak._client.get("/realms/master").status_code == 200
        process.start()
        try:
            keycloak._admin("POST", "/admin/realms", _realm())
            for role in ROLES:
                keycloak._admin("POST", f"{keycloak._of_client()}/roles", {"name": role})
            keycloak.give_role(keycloak._service_account(), "Viewer")
        except BaseException:
            keycloak.stop()
            raise
        return keycloak

    def stop(self) -> None:
        self._process.kill()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def airflow(self) -> dict[str, str]:
        """The variables of an Airflow that uses it."""
        manager = "airflow.providers.keycloak.auth_manager.keycloak_auth_manager.KeycloakAuthManager"
        section = {"CLIENT_ID": CLIENT, "CLIENT_SECRET": SECRET, "REALM": REALM, "SERVER_URL": self.url}
        own = {f"AIRFLOW__KEYCLOAK_AUTH_MANAGER__{key}": value for key, value in section.items()}
        return own | {"AIRFLOW__CORE__AUTH_MANAGER": manager}

    def grant(self, airflow: Airflow) -> None:
        """Makes scopes, resources and permissions, as Airflow's documentation says."""
        words = ["keycloak-auth-manager", "create-all", "--username", ADMIN, "--password", ADMIN]
        command: list[str | Path] = [airflow.environment.python, "-m", "airflow", *words, "--user-realm", "master"]
        run_shown("Keycloak: permissions of Airflow", command, env=airflow.environ, cwd=airflow.root)

    def token_life(self, seconds: int) -> None:
        """Sets how long the access tokens of the realm live from now on."""
        self._admin("PUT", f"/admin/realms/{REALM}", {"accessTokenLifespan": seconds})

    def give_role(self, user: str, role: str) -> None:
        """Gives a user (by its id) a role of the client."""
        self._admin("POST", f"{self._mappings(user)}", [self._role(role)])

    def take_role(self, role: str) -> None:
        """Takes a role from the client's service account."""
        self._admin("DELETE", self._mappings(self._service_account()), [self._role(role)])

    def restore_role(self, role: str) -> None:
        """Gives it back."""
        self.give_role(self._service_account(), role)

    def secret(self, value: str) -> None:
        """Sets the client's secret."""
        found = self._admin("GET", self._of_client())
        self._admin("PUT", self._of_client(), found | {"secret": value})

    def add_user(self, name: str, role: str) -> None:
        """Adds a user whose password is its name."""
        credentials = [{"type": "password", "value": name, "temporary": False}]
        named = {"firstName": name, "lastName": name, "email": f"{name}@example.com", "emailVerified": True}
        body = {"username": name, "enabled": True, "credentials": credentials, **named}
        self._admin("POST", f"/admin/realms/{REALM}/users", body)
        (user,) = self._admin("GET", f"/admin/realms/{REALM}/users?username={name}&exact=true")
        self.give_role(user["id"], role)

    def _mappings(self, user: str) -> str:
        client = self._of_client().rpartition("/")[2]
        return f"/admin/realms/{REALM}/users/{user}/role-mappings/clients/{client}"

    def _role(self, role: str) -> Json:
        return self._admin("GET", f"{self._of_client()}/roles/{role}")

    def _service_account(self) -> str:
        return str(self._admin("GET", f"{self._of_client()}/service-account-user")["id"])

    def _of_client(self) -> str:
        (found,) = self._admin("GET", f"/admin/realms/{REALM}/clients?clientId={CLIENT}")
        return f"/admin/realms/{REALM}/clients/{found['id']}"

    def _admin(self, method: str, path: str, body: Json = None) -> Json:
        """One call of the admin API; each with a token of its own, as these live a minute."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN, "password": ADMIN}
        token = self._client.post("/realms/master/protocol/openid-connect/token", data=form).json()["access_token"]
        answer = self._client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
        if answer.status_code >= 300:
            raise LabError(f"Keycloak: {method} {path}: {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else None


def _realm() -> Json:
    client = {
        "clientId": CLIENT,
        "secret": SECRET,
        "publicClient": False,
        "serviceAccountsEnabled": True,
        "directAccessGrantsEnabled": True,
        "authorizationServicesEnabled": True,
        "standardFlowEnabled": True,
        "redirectUris": ["*"],
        # By default unanimous: then each of Airflow's permissions must grant what only one of them is about.
        "authorizationSettings": {"policyEnforcementMode": "ENFORCING", "decisionStrategy": "AFFIRMATIVE"},
    }
    return {"realm": REALM, "enabled": True, "sslRequired": "none", "clients": [client]}


def _environment() -> Mapping[str, str]:
    own = {
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN,
        "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("KC_")} | own
