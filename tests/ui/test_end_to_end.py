"""Everything real: a cluster, an Airflow with the page, a healer that enforces, and a browser that looks at it.

An orphan is made, the page shows it with its countdown, the healer deletes it, history and chart show that, and they
still do when the healer was restarted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.world import RUN, World
from tests.lab.airflow import Airflow
from tests.lab.airflow_plugin import python_path
from tests.lab.healer import Installation, Running
from tests.lab.kube import Cluster
from tests.lab.processes import free_ports, wait_for
from tests.ui.conftest import SHOTS, VERSIONS, new_context, watch

TOKEN = "the-token-of-the-end-to-end-test"
PATIENCE = 300.0
HISTORY_RIGHTS = (
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["kpo-healer-history"],
        "verbs": ["get", "update"],
    },
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
)
pytestmark = pytest.mark.timeout(1800)


@dataclass
class Real:
    """An Airflow, its orphans, and the healer that it asks at a port of its own, whether it runs or not."""

    world: World
    installation: Installation
    port: int
    browser: Browser
    faults: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def airflow(self) -> Airflow:
        return self.world.airflow

    @contextmanager
    def healer(self, grace: str) -> Iterator[Running]:
        """The healer, running, and as patient with orphans."""
        self.runs += 1
        self.installation.config["airflows"][0]["policy"]["grace"] = grace
        path = self.installation.config_file
        words = self.installation.command("run", config=path)
        with Running(words, self.installation.folder / f"run-{self.runs}.log", self.port) as running:
            yield running

    @contextmanager
    def page(self, path: str = "/plugin/orphaned-pods", user: str = "admin", **options: Any) -> Iterator[Page]:
        context = new_context(self.browser, self, user, **options)  # type: ignore[arg-type]
        page = context.new_page()
        watch(page, self.faults)
        page.goto(self.airflow.url + path)
        yield page
        context.close()
        assert not self.faults

    def overview(self, user: str | None = "admin", **query: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.airflow.token(user)}"} if user else {}
        url = f"{self.airflow.url}/kpo-healer/api/overview"
        return httpx.get(url, params=query, headers=headers, timeout=180, trust_env=False)

    def wait_answer(self, what: str, good: Any) -> dict[str, Any]:
        """The page's own answer, as soon as it is as it should be."""
        seen: list[dict[str, Any]] = []

        def answered() -> bool:
            seen.append(self.overview().json())
            return bool(good(seen[-1]))

        wait_for(answered, timeout=PATIENCE, what=what, interval=0.5)
        return seen[-1]


@pytest.fixture(scope="module", params=VERSIONS)
def real(
    request: pytest.FixtureRequest, cluster: Cluster, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Real]:
    folder: Path = tmp_path_factory.mktemp("end-to-end")
    (folder / "listen-token").write_text(f"{TOKEN}\n")
    (port,) = free_ports(1)
    env = {
        **python_path(),
        "AIRFLOW__KPO_HEALER__URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__KPO_HEALER__AIRFLOW": "demo",
        "AIRFLOW__KPO_HEALER__TOKEN_FILE": str(folder / "listen-token"),
    }
    with (
        Airflow.start(version=request.param, components=("api-server",), env=env) as airflow,
        World.open(cluster, airflow, folder) as world,
    ):
        made = world.installation(policy={"minAge": "0s"}, more_rights=HISTORY_RIGHTS)
        made.config |= {
            "mode": "enforce",
            "listen": f"127.0.0.1:{port}",
            "findings": True,
            "history": "configMap",
            "listenTokenFile": str(folder / "listen-token"),
        }
        yield Real(world, made, port, browser)


def test_from_the_orphan_to_the_history(real: Real) -> None:
    world = real.world
    world.seed(world.task("dead", "failed"), world.task("alive", "running"))
    world.pod("alive", name="alive")
    assert "can't be reached" in real.overview().json()["problem"]
    world.pod("dead", name="dead")
    with real.page() as page:
        table = orphan_is_shown(real, page)
        with real.healer("1s"):
            world.wait_names({"alive"}, timeout=PATIENCE)
            # It asks by itself, every 15 s: nobody reloads.
            expect(table).to_have_count(0, timeout=1000 * PATIENCE)
            healed_is_shown(page)
            keep(page, real, "after")
            task = f"/dags/{world.dag}/runs/{RUN}/tasks/dead/plugin/orphaned-pods-task-instance"
            with real.page(task) as tab:
                expect(tab.get_by_role("table", name="Healed").get_by_text("dead", exact=True)).to_be_visible()
            before = history(real)
            assert (before["total"], before["week"]) == (1, 1)
            assert before["entries"][0]["task"]["task_id"] == "dead"
    real.wait_answer("that the healer is gone", lambda answer: "reached" in answer["problem"])
    with real.healer("1s") as healer:
        assert history(real) == before
        with real.page() as page:
            healed_is_shown(page)
        assert [line for line in healer.lines() if "history was read" in str(line)]
        assert_the_port_wants_its_token(real)
    assert len(world.deletes()) == 1


def history(real: Real) -> dict[str, Any]:
    answer = real.wait_answer("a history with the deletion", lambda answer: (answer.get("history") or {}).get("total"))
    told = dict(answer["history"])
    del told["days"]  # another one may begin meanwhile
    return told


def orphan_is_shown(real: Real, page: Page) -> Locator:
    """A healer that is too patient to delete it while we look."""
    with real.healer("30m"):
        (row,) = real.wait_answer("the orphan on the page", lambda answer: answer.get("findings"))["findings"]
        assert (row["pod"], row["dag_id"], row["fate"], row["reason"]) == ("dead", real.world.dag, "soon", "orphaned")
        table = page.get_by_role("table", name="Orphaned now")
        expect(table.get_by_text(re.compile(r"^Deleted in \d+ min"))).to_be_visible()
        expect(table.get_by_text("alive", exact=True)).to_have_count(0)
        page.get_by_role("button", name="Details of Pod dead").click()
        expect(page.get_by_text("unless something in Airflow needs it by then")).to_be_visible()
        keep(page, real, "before")
    return table


def healed_is_shown(page: Page) -> None:
    healed = page.get_by_role("table", name="Healed")
    expect(healed.get_by_text("dead", exact=True)).to_be_visible(timeout=1000 * PATIENCE)
    tile = page.locator(".kpoh-tile", has=page.get_by_text("Healed in 7 days", exact=True)).locator("strong")
    expect(tile).to_have_text("1")
    days = page.get_by_role("list", name="Healed Pods by day").get_by_role("listitem")
    expect(days).to_have_count(14)
    expect(days.filter(has_text="1 Task ended, Pod works on")).to_have_count(1)


def assert_the_port_wants_its_token(real: Real) -> None:
    for path in ("/findings", "/notices", "/history", "/status"):
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {TOKEN}"}, 200)):
            answer = httpx.get(f"http://127.0.0.1:{real.port}{path}", headers=headers, timeout=180, trust_env=False)
            assert answer.status_code == status, path
    assert httpx.get(f"http://127.0.0.1:{real.port}/metrics", timeout=180, trust_env=False).status_code == 200
    assert real.overview(None).status_code == 401


def keep(page: Page, real: Real, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{real.airflow.version}-real-{name}.png")
