"""Real logins: Keycloak and FAB beside real Airflows. What can't be had on a machine is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.airflow import Airflow
from tests.lab.airflow_env import LOGINS
from tests.lab.fab import FabAirflow
from tests.lab.keycloak import Keycloak, LacksError


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """A Keycloak with the realm of an Airflow."""
    try:
        running = Keycloak.start(tmp_path_factory.mktemp("keycloak"))
    except LacksError as lacks:
        pytest.skip(str(lacks))
    with running:
        yield running


@pytest.fixture(scope="session")
def with_keycloak(keycloak: Keycloak) -> Iterator[Airflow]:
    """An Airflow whose auth manager is Keycloak's, with the permissions that it makes itself."""
    with Airflow.start(version=LOGINS, components=("api-server",), env=keycloak.airflow()) as airflow:
        keycloak.grant(airflow)
        yield airflow


@pytest.fixture(scope="session")
def with_fab() -> Iterator[FabAirflow]:
    """An Airflow whose auth manager is FAB's, with its own database of users."""
    with FabAirflow.start(version=LOGINS, components=("api-server",)) as airflow:
        yield airflow


@pytest.fixture(scope="session")
def with_oauth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabAirflow]:
    """The same, where people log in by OAuth (AUTH_OAUTH)."""
    root = tmp_path_factory.mktemp("oauth")
    (root / "webserver_config.py").write_text(OAUTH)
    with FabAirflow.start(root, version=LOGINS, components=("api-server",)) as airflow:
        yield airflow


OAUTH = """
AUTH_TYPE = 4
AUTH_RATE_LIMITED = False
OAUTH_PROVIDERS = [
    {
        "name": "sso",
        "icon": "fa-key",
        "token_key": "access_token",
        "remote_app": {
            "client_id": "airflow",
            "client_secret": "none",
            "api_base_url": "http://127.0.0.1:9/",
            "access_token_url": "http://127.0.0.1:9/token",
            "authorize_url": "http://127.0.0.1:9/authorize",
        },
    }
]
"""
