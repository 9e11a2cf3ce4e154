"""The documentation as a site in a browser, on a phone and on a desk: words, links and tables are whole.

Screenshots of the pages that have tables go to `tests/ui/shots/`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.docs.fences import PAGES, ROOT, shown
from tests.lab.serving import in_a_thread
from tests.ui.conftest import SHOTS

REPOSITORY: Final = "https://git.example.com/team/kpo-healer"

WIDTHS: Final = (390, 1440)

LOOKED_AT: Final = ("index", "start", "configuration", "performance", "rules", "alerts")
"""Pages of which a picture is kept."""

DOCS: Final = [path for path in PAGES if path.is_relative_to(ROOT / "docs")]

MEASURE: Final = (Path(__file__).parent / "inside" / "measure.js").read_text()


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "REPOSITORY_URL": REPOSITORY}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)
    with in_a_thread(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))) as url:
        yield url


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module", params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, docs: str) -> Iterator[Page]:
    """A page of a site whose clipboard may be read."""
    context = browser.new_context(
        viewport={"width": request.param, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    opened = context.new_page()
    yield opened
    context.close()


def address(docs: str, path: Path) -> str:
    name = str(path.relative_to(ROOT / "docs").with_suffix("")).removesuffix("index")
    return f"{docs}/{name}" + ("/" if name and not name.endswith("/") else "")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT / "docs").with_suffix("")))
def test_nothing_is_cut_broken_or_out_of_reach(page: Page, docs: str, path: Path) -> None:
    page.goto(address(docs, path))
    found = page.evaluate(MEASURE)
    assert found["scrolls"] <= 0, f"the page is {found['scrolls']} pixels wider than its window"
    assert found["broken"] == [], "words of tables that stand on two lines"
    assert found["outside"] == [], "links and prose that reach out of the window"
    assert found["pictures"] == [], "pictures that can't be seen, or have no text in their place"
    name = str(path.relative_to(ROOT / "docs").with_suffix(""))
    if name in LOOKED_AT:
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"docs-{name}-{page.viewport_size['width']}.png")  # type: ignore[index]


def test_a_broken_word_would_be_noticed(browser: Browser, docs: str) -> None:
    """On a phone words break without the site's own sheet."""
    phone = browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
    phone.route("**/stylesheets/site.css", lambda route: route.abort())
    phone.goto(f"{docs}/metrics/")
    broken = phone.evaluate(MEASURE)["broken"]
    phone.close()
    assert broken


def test_a_copy_button_copies_commands_and_nothing_else(page: Page, docs: str) -> None:
    """Of each fence of the pages with an answer below its commands."""
    for fence in (fence for fence in shown() if fence.page == "docs/start.md"):
        page.goto(address(docs, ROOT / fence.page))
        first = fence.commands[0]
        block = page.locator(".language-console", has_text=first.partition(" && ")[0]).first
        block.hover()
        block.locator("button.md-clipboard, button.md-code__button").first.click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert [line.partition("    #")[0].strip() for line in copied.splitlines()] == list(fence.commands)


def test_previous_and_next_and_the_repository_are_at_hand(page: Page, docs: str) -> None:
    page.goto(f"{docs}/install/")
    expect(page.locator(".md-footer__link--prev")).to_have_attribute("href", "../start/")
    expect(page.locator(".md-footer__link--next")).to_have_attribute("href", "../platforms/")
    file = page.get_by_role("link", name="deploy/Dockerfile").first
    expect(file).to_have_attribute("href", f"{REPOSITORY}/blob/main/deploy/Dockerfile")
    assert page.locator(f'a[href="{REPOSITORY}"]').count() > 0
