"""One Airflow per version with the plugin in it, a fake healer beside it, and a browser that looks at them.

VERSIONS names the versions, separated by blanks; by default the newest alone. Screenshots go to `tests/ui/shots/`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from kpo_healer_airflow import client
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    expect,
    sync_playwright,
)

from tests.lab.airflow import Airflow
from tests.lab.airflow_env import FULL
from tests.lab.airflow_plugin import python_path
from tests.ui import worlds
from tests.ui.fake_healer import FakeHealer

VERSIONS = os.environ.get("VERSIONS", FULL).split()
WIDE = pytest.mark.skipif("VERSIONS" not in os.environ, reason="only by make ui: its kind is tested by a neighbour")
SHOTS = Path(__file__).with_name("shots")
INSIDE = Path(__file__).with_name("inside")

PATIENCE = 180_000
"""Milliseconds for what should be there soon: Airflow's own pages take long on a busy or slow machine."""

expect.set_options(timeout=PATIENCE)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
"""Those of a browser in a container without a way out; playwright's own come on top."""


@dataclass
class Site:
    """An Airflow with the plugin, and the healer that it asks."""

    airflow: Airflow
    healer: FakeHealer
    url: str
    changed: bool = False

    def overview(self, user: str | None = "admin", **query: Any) -> httpx.Response:
        """What the server part answers this user; None: nobody has logged in."""
        headers = {"Authorization": f"Bearer {self.airflow.token(user)}"} if user else {}
        return httpx.get(
            f"{self.url}/kpo-healer/api/overview", params=query, headers=headers, timeout=180, trust_env=False
        )


def start(version: str, healer: FakeHealer, **more: str) -> Airflow:
    """An Airflow that asks this healer; `more` are variables of it."""
    env = {
        **python_path(INSIDE),
        "AIRFLOW__CORE__AUTH_MANAGER": "lab_auth.NarrowAuthManager",
        "AIRFLOW__KPO_HEALER__URL": healer.url,
        "LAB_FRESH": "0.3",  # so that tests need not wait for what they change; test_healer has the real figure
        **more,
    }
    return Airflow.start(version=version, components=("api-server",), env=env)


@pytest.fixture(scope="session", params=VERSIONS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with FakeHealer(worlds.ordinary()) as healer, start(request.param, healer) as airflow:
        airflow.seed(worlds.DAGS)
        yield Site(airflow, healer, airflow.url)


@pytest.fixture(autouse=True)
def patient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy is not taken for a healer that is down; the lab's Airflow does the same (lab_auth)."""
    monkeypatch.setattr(client, "TIMEOUT", 60.0)
    monkeypatch.setattr(client, "LONGEST", 60.0)


@pytest.fixture(autouse=True)
def ordinary(request: pytest.FixtureRequest) -> None:
    """Each test begins with a healer in good health."""
    site = request.getfixturevalue("site") if "site" in request.fixturenames else None
    if site is not None and site.changed:
        show(site, worlds.ordinary())
        site.changed = False


def show(site: Site, world: Any = None, behaviour: Any = "new") -> None:
    """Lets the healer tell something else, and waits until the server part has asked it."""
    if world is not None:
        site.healer.world = world
    site.healer.behaviour = behaviour
    site.changed = True
    before = site.healer.asked["findings"]
    wait(lambda: site.overview(rows=0) and site.healer.asked["findings"] > before)


def wait(true: Callable[[], object], timeout: float = 180) -> None:
    from tests.lab.processes import wait_for

    wait_for(true, timeout=timeout, what="the page's server part asks the healer", interval=0.2)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install -y chromium fonts-dejavu fonts-liberation")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


Visit = Callable[..., Page]


@pytest.fixture
def visit(site: Site, browser: Browser) -> Iterator[Visit]:
    """Opens a page of Airflow as a user, light or dark; fails when the page has thrown an error or shown a dialog."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_page(
        path: str = "/plugin/orphaned-pods", user: str | None = "admin", dark: bool = False, **options: Any
    ) -> Page:
        context = new_context(browser, site, user, dark, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page, faults)
        page.goto(site.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def new_context(browser: Browser, site: Site, user: str | None, dark: bool = False, **options: Any) -> BrowserContext:
    context = browser.new_context(
        viewport={"width": 1440, "height": 1000}, color_scheme="dark" if dark else "light", **options
    )
    context.set_default_timeout(PATIENCE)
    if user:
        context.add_cookies([{"name": "_token", "value": site.airflow.token(user), "url": site.airflow.url}])
    # Airflow follows its own switch, not the system's.
    context.add_init_script(f"localStorage.setItem('theme', '{'dark' if dark else 'light'}')")
    return context


def watch(page: Page, faults: list[str]) -> None:
    """Notes what must not happen on any page."""

    def threw(error: Error) -> None:
        # Airflow's own code may throw as well: 3.2.2 does so for a request that it has given up.
        if "page.js" in (error.stack or ""):
            faults.append(f"{page.url}: {error}")

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and "page.js" in message.text:
            faults.append(f"{page.url}: {message.text}")

    def asked(dialog: Dialog) -> None:
        faults.append(f"{page.url}: dialog {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", threw)
    page.on("console", said)
    page.on("dialog", asked)


def shot(page: Page, site: Site, name: str) -> None:
    """Keeps a picture as an artefact."""
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{site.airflow.version}-{name}.png")
