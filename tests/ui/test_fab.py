"""Rights by the FAB auth manager, which most installations have: a role of one DAG, Viewer, nobody."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.lab.airflow import Airflow
from tests.lab.airflow_env import FAB
from tests.lab.airflow_plugin import python_path
from tests.lab.processes import wait_for
from tests.ui import worlds
from tests.ui.conftest import INSIDE, WIDE, Site, new_context
from tests.ui.fake_healer import FakeHealer
from tests.ui.test_server import PROVEN, SALES

DOCUMENTED = "airflow roles add-perms Viewer -a can_read -r Plugins"
"""The command of docs/airflow-ui.md: without it Viewer and User see no page."""

DOCS = (INSIDE.parents[2] / "docs" / "airflow-ui.md").read_text()


def user(name: str, role: str) -> list[str]:
    names = ["--firstname", name, "--lastname", name, "--email", f"{name}@example.com"]
    return ["users", "create", "--username", name, "--password", name, "--role", role, *names]


def may(role: str, *resources: str) -> list[str]:
    return ["roles", "add-perms", role, "-a", "can_read", "-r", *resources]


ONE_DAG = ("DAG:sales", "DAG Runs", "Task Instances", "Website", "Plugins")
"""What a role of one DAG reads. Without `DAG Runs` Airflow counts the task instances as not readable."""

USERS = [
    ["roles", "create", "Sales", "NoRuns", "NoTasks", "Nothing"],
    user("admin", "Admin"),
    user("viewer", "Viewer"),
    *(user(name.lower(), name) for name in ("Sales", "NoRuns", "NoTasks", "Nothing")),
]
RIGHTS = [
    ["sync-perm", "--include-dags"],  # else there is no resource DAG:sales
    may("Sales", *ONE_DAG),
    may("NoRuns", *(each for each in ONE_DAG if each != "DAG Runs")),
    may("NoTasks", *(each for each in ONE_DAG if each != "Task Instances")),
    may("Nothing", "Website"),
]


class FabAirflow(Airflow):
    """An Airflow whose users are in its database."""

    def _prepare_home(self) -> None:
        super()._prepare_home()
        self.command(*USERS)

    def command(self, *commands: list[str]) -> None:
        script = [self.environment.python, INSIDE / "fab_setup.py", json.dumps(commands)]
        done = subprocess.run(script, env=self.environ, cwd=self.root, capture_output=True, text=True, timeout=900)
        assert done.stdout.endswith("DONE\n"), done.stderr[-3000:]


pytestmark = [WIDE, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def fab() -> Iterator[Site]:
    with FakeHealer(worlds.ordinary()) as healer:
        env = {
            **python_path(INSIDE),
            "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
            "AIRFLOW__KPO_HEALER__URL": healer.url,
        }
        with FabAirflow.start(version=FAB, components=("api-server",), env=env) as airflow:
            airflow.seed(worlds.DAGS)
            airflow.command(*RIGHTS)
            yield Site(airflow, healer, airflow.url)


NOTICES = {"report-1f0amz3k", "books-9", "who-knows-1"}
ALL = (PROVEN | {"unproven-0000aaaa"}, NOTICES)
NONE: tuple[set[str], set[str]] = (set(), set())


@pytest.mark.parametrize(
    ("name", "pods", "notices"),
    [
        ("admin", *ALL),
        ("viewer", *ALL),
        ("sales", SALES, {"report-1f0amz3k"}),
        ("noruns", *NONE),
        ("notasks", *NONE),
        ("nothing", *NONE),
    ],
)
def test_each_role_sees_exactly_its_own(fab: Site, name: str, pods: set[str], notices: set[str]) -> None:
    seen = fab.overview(name)
    answer = seen.json()
    assert {row["pod"] for row in answer["findings"]} == pods
    assert {row["pod"] for row in answer["notices"]} == notices
    assert answer["totals"]["pods"] == answer["matching"] == sum(answer["reasons"].values()) == len(pods)
    assert answer["totals"]["notices"] == answer["notices_total"] == len(notices)
    healed = {row["dag_id"] for row in answer["history"]["entries"]}
    wanted = {"sales", "ml_features", "finance"} if pods > SALES else {"sales"} if pods else set()
    assert healed == wanted
    assert sum(sum(day["reasons"].values()) for day in answer["history"]["days"]) <= answer["history"]["total"]
    assert (answer["totals"]["cpu_cores"] == 0) is (not pods)
    for dag in {"sales", "ml_features", "finance"} - wanted:
        assert dag not in seen.text
        assert fab.overview(name, dag_id=dag).json()["totals"]["pods"] == 0


def test_nobody_sees_anything(fab: Site) -> None:
    answer = fab.overview(None)
    assert answer.status_code == 401
    assert "sales" not in answer.text


def plugins(site: Site, name: str) -> int:
    headers = {"Authorization": f"Bearer {site.airflow.token(name)}"}
    return httpx.get(f"{site.url}/api/v2/plugins", headers=headers, timeout=180, trust_env=False).status_code


def test_a_viewer_sees_the_page_after_the_documented_command(fab: Site, browser: Browser) -> None:
    assert DOCUMENTED in DOCS
    assert plugins(fab, "viewer") == 403, "Airflow grants it by itself: take the command out of the docs"
    assert plugins(fab, "sales") == 200
    assert isinstance(fab.airflow, FabAirflow)
    fab.airflow.command(DOCUMENTED.split()[1:])
    # FAB's auth manager asks for a user's rights again after half a minute.
    wait_for(lambda: plugins(fab, "viewer") == 200, timeout=180, interval=2, what="the right is there")
    for name, count in (("viewer", "7"), ("sales", "3")):
        context = new_context(browser, fab, name)
        page = context.new_page()
        page.goto(f"{fab.url}/plugin/orphaned-pods")
        tile = page.locator(".kpoh-tile", has=page.get_by_text("Orphaned now", exact=True)).locator("strong")
        expect(tile).to_have_text(count)
        context.close()
