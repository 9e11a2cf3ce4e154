"""A real Airflow 3 with the FAB auth manager, the official chart's default: users, roles, and what is missing without
one of the rights; beside people who log in by OAuth; and the simple auth manager without logins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.airflow import Airflow
from tests.lab.airflow_env import FULL
from tests.lab.fab import READ, FabAirflow
from tests.lab.processes import wait_for
from tests.logins.asking import ALL_GOOD, ask, asker, checked, marks, seed, state, why

DAG = "fab"


@pytest.fixture(scope="module", autouse=True)
def _seeded(with_fab: FabAirflow) -> None:
    seed(with_fab, DAG)


def user(name: str) -> dict[str, Any]:
    return {"username": name, "password": name}


def test_a_viewer_may_read_all_that_is_needed(with_fab: FabAirflow) -> None:
    """`airflow users create --role Viewer`, as the page of the official chart says."""
    with_fab.add_user("healer", "Viewer")
    asking = asker(with_fab, **user("healer"))
    assert state(ask(asking, DAG)) == "failed"
    assert marks(asking) == ALL_GOOD


def test_a_role_with_the_three_rights(with_fab: FabAirflow) -> None:
    """Without XComs it works; `check` says what is lost, and the state store still names the Pod."""
    with_fab.add_role("Healer", READ)
    with_fab.add_user("three", "Healer")
    asking = asker(with_fab, **user("three"))
    answer = ask(asking, DAG)
    assert state(answer) == "failed"
    found = checked(asking)
    assert {name: status for name, (status, _) in found.items() if name != "Pod names"} == ALL_GOOD | {
        "read XComs": "warn"
    }
    assert "a superseded twin or a copy of a Pod can't be told" in found["read XComs"][1]
    assert "grant can_read on XComs" in found["read XComs"][1]


@pytest.mark.parametrize("missing", READ)
def test_without_one_of_the_three_rights_it_is_told(missing: str, with_fab: FabAirflow) -> None:
    name = missing.replace(" ", "").lower()
    with_fab.add_role(f"Without{name}", [right for right in READ if right != missing])
    with_fab.add_user(f"no{name}", f"Without{name}")
    asking = asker(with_fab, **user(f"no{name}"))
    assert "fail" in marks(asking).values()
    said = [text for status, text in checked(asking).values() if status == "fail"]
    assert any("give its role can_read on DAGs, DAG Runs and Task Instances" in text for text in said), said


def test_a_wrong_password(with_fab: FabAirflow) -> None:
    said = why(ask(asker(with_fab, username="healer", password="wr0ng"), DAG))
    assert "login refused" in said
    assert "wr0ng" not in said


def test_a_user_that_is_deactivated_in_mid_run(with_fab: FabAirflow) -> None:
    """FAB remembers a user for half a minute (`[fab] cache_ttl`); then its token is refused, and so is a new login."""
    with_fab.add_user("leaver", "Viewer")
    asking = asker(with_fab, **user("leaver"))
    assert state(ask(asking, DAG)) == "failed"
    with_fab.command("users", "delete", "--username", "leaver")

    def refused() -> bool:
        return "login refused" in getattr(ask(asking, DAG), "why", "")

    wait_for(refused, timeout=120, what="the login of a user that is gone to be refused", interval=1)


def test_a_user_of_the_database_beside_oauth(with_oauth: FabAirflow) -> None:
    """People log in by OAuth; the healer's user stands in Airflow's database and logs in with its password."""
    seed(with_oauth, DAG)
    with_oauth.add_user("healer", "Viewer")
    asking = asker(with_oauth, **user("healer"))
    assert state(ask(asking, DAG)) == "failed"
    assert marks(asking) == ALL_GOOD


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Airflow]:
    """The simple auth manager where everybody is an admin, as `airflow standalone` users set it."""
    env = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True"}
    with Airflow.start(version=FULL, components=("api-server",), env=env) as airflow:
        yield airflow


LOGS_IN = """
import json, sys, urllib.request
body = json.dumps({"username": "robot", "password": "robot"}).encode()
ask = urllib.request.Request(sys.argv[1] + "/auth/token", body, {"Content-Type": "application/json"})
token = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask))["access_token"]
print(json.dumps({"kind": "ExecCredential", "status": {"token": token, "extra": 1}, "more": []}))
"""


def test_a_program_that_logs_in_by_itself(open_to_all: Airflow, tmp_path: Path) -> None:
    """`exec` at a real Airflow: the token that the program prints is taken, and `check` knows until when."""
    program = tmp_path / "program.py"
    program.write_text(LOGS_IN)
    asking = asker(open_to_all, exec={"command": [sys.executable, str(program), open_to_all.url]})
    status, text = checked(asking)["login"]
    assert status == "ok"
    assert "it is renewed before" in text
    assert asking.credential.renewable


def test_the_simple_auth_manager_where_all_are_admins(open_to_all: Airflow) -> None:
    """Any user and password will do there."""
    open_to_all.seed([])
    asking = asker(open_to_all, username="healer", password="any")
    assert marks(asking)["login"] == "ok", checked(asking)
