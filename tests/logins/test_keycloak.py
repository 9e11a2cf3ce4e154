"""A real Keycloak and a real Airflow with its auth manager: login, renewal in mid-run, revocation, a missing right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from healer.airflow.api.token_life import lifetime
from tests.lab.airflow import Airflow
from tests.lab.keycloak import CLIENT, SECRET, Keycloak
from tests.lab.processes import wait_for
from tests.logins.asking import ALL_GOOD, ask, asker, marks, seed, state, why

DAG = "keycloak"
SHORT = 6
"""Seconds that an access token lives in the tests of its end."""


@pytest.fixture(scope="module", autouse=True)
def _seeded(with_keycloak: Airflow) -> None:
    seed(with_keycloak, DAG)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture
def short_lived(keycloak: Keycloak) -> Iterator[None]:
    keycloak.token_life(SHORT)
    yield
    keycloak.token_life(300)


def client(secret: Path) -> dict[str, str]:
    return {"clientId": CLIENT, "clientSecretFile": str(secret)}


def test_a_service_account_logs_in_and_may_read_what_is_needed(with_keycloak: Airflow, secret: Path) -> None:
    asking = asker(with_keycloak, **client(secret))
    assert state(ask(asking, DAG)) == "failed"
    assert marks(asking) == ALL_GOOD


def test_a_user_of_its_own_logs_in_with_a_password(with_keycloak: Airflow, keycloak: Keycloak) -> None:
    """The way that gives the healer no more than it needs: the client is Airflow's own."""
    keycloak.add_user("kpo-healer", "Viewer")
    asking = asker(with_keycloak, username="kpo-healer", password="kpo-healer")
    assert state(ask(asking, DAG)) == "failed"
    assert marks(asking) == ALL_GOOD


def test_it_is_renewed_before_keycloaks_token_within_it_ends(
    with_keycloak: Airflow, secret: Path, short_lived: None
) -> None:
    """Airflow's own token lives a day, and is refused with 403 from the end of Keycloak's on."""
    body = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
    token = httpx.post(f"{with_keycloak.url}/auth/token", json=body, trust_env=False).json()["access_token"]
    assert lifetime(token) == SHORT
    asking = asker(with_keycloak, **client(secret))
    assert state(ask(asking, DAG)) == "failed"

    def refused() -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{with_keycloak.url}/api/v2/dags", headers=headers, trust_env=False).status_code == 403

    wait_for(refused, timeout=60, what="the end of the token", interval=0.5)
    for _ in range(5):
        assert state(ask(asking, DAG)) == "failed"


def test_a_wrong_secret(with_keycloak: Airflow, secret: Path) -> None:
    secret.write_text("wrong-s3cr3t\n")
    said = why(ask(asker(with_keycloak, **client(secret)), DAG))
    assert f"does not accept client {CLIENT} and its secret" in said
    assert "s3cr3t" not in said


def test_another_client_of_the_realm(with_keycloak: Airflow, secret: Path) -> None:
    said = why(ask(asker(with_keycloak, clientId="account", clientSecretFile=str(secret)), DAG))
    assert "only the client that its own [keycloak_auth_manager] client_id names" in said


def test_a_wrong_password(with_keycloak: Airflow) -> None:
    said = why(ask(asker(with_keycloak, username="kpo-healer", password="wrong"), DAG))
    assert "login refused" in said or "the Keycloak auth manager answers so to a wrong password" in said


def test_a_secret_that_is_changed_in_mid_run(
    with_keycloak: Airflow, keycloak: Keycloak, secret: Path, short_lived: None
) -> None:
    """The old login goes on to its end; then it is refused until the file has the new secret."""
    asking = asker(with_keycloak, **client(secret))
    assert state(ask(asking, DAG)) == "failed"
    keycloak.secret("another-s3cr3t")
    try:
        # Airflow itself has the old secret too, but reads with the token alone.
        refused = wait_for(
            lambda: said if (said := _unknown(asking)) else "", timeout=60, what="the refusal", interval=0.5
        )
        assert "s3cr3t" not in refused
    finally:
        keycloak.secret(SECRET)
    wait_for(lambda: not _unknown(asking), timeout=60, what="the login with the old secret again", interval=0.5)


def test_a_missing_right_is_no_refused_login(with_keycloak: Airflow, keycloak: Keycloak, secret: Path) -> None:
    keycloak.take_role("Viewer")
    try:
        asking = asker(with_keycloak, **client(secret))
        said = why(ask(asking, DAG))
        assert "knows airflow and forbids this (403)" in said
        assert marks(asking)["read DAGs"] == "fail"
    finally:
        keycloak.restore_role("Viewer")


def _unknown(asking: object) -> str:
    answer = ask(asking, DAG)  # type: ignore[arg-type]
    return getattr(answer, "why", "")
