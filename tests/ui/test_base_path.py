"""Airflow below a path, behind a proxy that lets nothing else through; an Airflow without a healer, or a wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.lab.airflow import Airflow
from tests.lab.airflow_plugin import python_path
from tests.lab.processes import free_ports
from tests.lab.serving import in_a_thread
from tests.ui import worlds
from tests.ui.conftest import INSIDE, VERSIONS, WIDE, Site, new_context, start, watch
from tests.ui.fake_healer import FakeHealer

BASE = "/air/flow"
HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "keep-alive", "date", "server"}

pytestmark = [WIDE, pytest.mark.timeout(1800)]


class Proxy(ThreadingHTTPServer):
    """Hands on what is below BASE, as it came, and remembers what else was asked for."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.refused: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_any(self) -> None:
        if not self.path.startswith(BASE):
            self.server.refused.append(self.path)
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        with httpx.Client(trust_env=False, timeout=180) as client:
            answer = client.request(self.command, self.server.target + self.path, content=body, headers=headers)
        self.send_response(answer.status_code)
        for name, value in answer.headers.multi_items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = do_any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    server = Proxy(target)
    with in_a_thread(server):
        yield server


@pytest.mark.parametrize("version", VERSIONS)
def test_the_page_works_below_a_path_behind_a_proxy(version: str, browser: Browser) -> None:
    faults: list[str] = []
    (port,) = free_ports(1)
    with FakeHealer(worlds.ordinary()) as healer, proxy(f"http://127.0.0.1:{port}") as front:
        more = {"AIRFLOW__API__BASE_URL": f"{front.url}{BASE}", "AIRFLOW__API__PORT": str(port)}
        with start(version, healer, **more) as airflow:
            front.target = airflow.url
            airflow.seed(worlds.DAGS)
            site = Site(airflow, healer, front.url)
            context = new_context(browser, site, None)
            page = context.new_page()
            watch(page, faults)
            page.goto(f"{front.url}{BASE}/")
            page.get_by_label(re.compile("username", re.IGNORECASE)).fill("admin")
            page.locator('input[type="password"]').fill("admin")
            page.keyboard.press("Enter")
            page.get_by_role("button", name="Browse").click()
            page.get_by_role("menuitem", name="Orphaned Pods").click()
            expect(page.get_by_role("heading", name="Orphaned Pods", level=1)).to_be_visible()
            expect(page.get_by_text("train-9x1mmq0a", exact=True)).to_be_visible()
            page.evaluate("window.sameDocument = true")
            page.get_by_role("link", name="sales › train").click()
            expect(page).to_have_url(re.compile(f"{BASE}/dags/sales/runs/.*/tasks/train"))
            assert page.evaluate("window.sameDocument") is True
            page.goto(f"{front.url}{BASE}/")
            expect(page.locator(".kpoh-card")).to_contain_text("orphaned Pods of 3 DAGs")
            page.get_by_role("link", name="Show orphaned Pods").click()
            expect(page.get_by_role("heading", name="Orphaned Pods", level=1)).to_be_visible()
            context.close()
        ours = [path for path in front.refused if "kpo-healer" in path or "orphaned" in path]
        assert ours == [], "asked for beside the base path"
    assert faults == []


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "Set [kpo_healer] url to kpo-healer's address"),
        ("kpo-healer:8080", "[kpo_healer] url must look like http://kpo-healer:8080."),
        ("http://127.0.0.1:9", "kpo-healer can't be reached at the address in [kpo_healer] url."),
        ("http://kpo-healer.invalid:8080", "The host in [kpo_healer] url has no address"),
    ],
    ids=["not-configured", "no-address", "down", "no-host"],
)
@pytest.mark.parametrize("version", VERSIONS[-1:])
def test_a_healer_that_is_not_there_is_one_sentence(version: str, url: str, text: str, browser: Browser) -> None:
    faults: list[str] = []
    env = {**python_path(INSIDE), "AIRFLOW__KPO_HEALER__URL": url}
    with Airflow.start(version=version, components=("api-server",), env=env) as airflow:
        site = Site(airflow, None, airflow.url)  # type: ignore[arg-type]
        context = new_context(browser, site, "admin")
        page = context.new_page()
        watch(page, faults)
        page.goto(f"{airflow.url}/plugin/orphaned-pods")
        expect(page.get_by_role("status").filter(has_text=text)).to_be_visible()
        expect(page.locator(".kpoh table")).to_have_count(0)
        page.goto(airflow.url)
        expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
        expect(page.locator(".kpoh-card")).to_have_count(0)
        context.close()
    assert faults == []
