"""The page, the tabs and the card, by click and key in a real browser, in a real Airflow."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.lab.airflow_plugin import SOURCE
from tests.ui import worlds
from tests.ui.conftest import WIDE, Site, Visit, shot, show

pytestmark = pytest.mark.timeout(1800)  # the first one starts an Airflow

MODULE = SOURCE / "kpo_healer_airflow" / "static" / "page.js"
RUN = quote(worlds.RUN, safe="")
TRAIN = f"/dags/sales/runs/{RUN}/tasks/train"


def rows(page: Page) -> list[str]:
    """The Pods in the table of what is orphaned now."""
    return page.get_by_role("table", name="Orphaned now").locator("tr.kpoh-row td:last-child").all_inner_texts()


def tile(page: Page, name: str) -> str:
    value = page.locator(".kpoh-tile", has=page.get_by_text(name, exact=True)).locator("strong")
    expect(value).to_be_visible()
    return value.inner_text()


def test_from_the_login_through_the_menu_to_a_task_without_loading_another_document(site: Site, visit: Visit) -> None:
    page = visit("/", user=None)
    page.get_by_label(re.compile("username", re.IGNORECASE)).fill("admin")
    page.locator('input[type="password"]').fill("admin")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Orphaned Pods").click()
    expect(page.get_by_role("heading", name="Orphaned Pods", level=1)).to_be_visible()
    page.evaluate("window.sameDocument = true")
    page.get_by_role("link", name="sales › train").click()
    expect(page).to_have_url(re.compile("/dags/sales/runs/.*/tasks/train"))
    page.get_by_role("link", name="Pods", exact=True).or_(
        page.get_by_role("tab", name="Pods", exact=True)
    ).first.click()
    expect(page.get_by_text("train-9x1mmq0a", exact=True)).to_be_visible()
    assert page.evaluate("window.sameDocument") is True


def test_the_page_tells_what_is_orphaned_why_and_what_happens(site: Site, visit: Visit) -> None:
    page = visit()
    tiles = {name: tile(page, name) for name in ("Orphaned now", "They hold", "Deleted soon", "Need a look")}
    assert tiles == {"Orphaned now": "7", "They hold": "16.5 cores", "Deleted soon": "3", "Need a look": "7"}
    assert int(tile(page, "Healed in 7 days")) > 0
    assert rows(page)[:2] == ["train-9x1mmq0a", "extract-b3k2x9qd"]  # what is due first comes first
    for text in ("A later try took over", "Its run was deleted", "Given up by its operator", "Paused", "Only reported"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    for text in ("superseded", "withheld", "breaker", "elsewhere-1111bbbb"):
        expect(page.get_by_text(text)).to_have_count(0)
    expect(page.get_by_text("Does not start", exact=True)).to_be_visible()
    expect(page.get_by_role("list", name="Healed Pods by day").get_by_role("listitem")).to_have_count(14)
    shot(page, site, "page")


def test_a_row_opens_by_key_and_tells_the_rest(site: Site, visit: Visit) -> None:
    page = visit()
    button = page.get_by_role("button", name="Details of Pod train-9x1mmq0a")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    details = page.locator(f"[id='{button.get_attribute('aria-controls')}']")
    expect(details).to_contain_text("try 2 did not take the Pod over: reattach_on_restart is off")
    expect(details).to_contain_text("reattach_on_restart=True")
    expect(details).to_contain_text("this one is of try 1, active")
    expect(details).to_contain_text("unless something in Airflow needs it by then")
    expect(details).to_contain_text("jobs/train-9x1mmq0a")
    page.keyboard.press("Enter")
    expect(details).to_be_hidden()


def test_filters_narrow_the_table_and_not_the_figures(site: Site, visit: Visit) -> None:
    page = visit()
    reasons = page.get_by_label("Filter by reason").locator("option")
    expect(reasons).to_have_count(6)
    assert reasons.all_inner_texts()[:3] == ["All reasons", "Task ended, Pod works on (2)", "A later try took over (1)"]
    page.get_by_label("Filter by DAG, task, run or Pod").fill("ML_feat")
    expect(page.locator("tr.kpoh-row").filter(has_text="extract-b3k2x9qd")).to_have_count(0)
    assert set(rows(page)) == {"score-77hqk2lp", "embed-12pqa8vv"}
    page.get_by_label("Filter by reason").select_option("orphaned")
    expect(page.get_by_text("score-77hqk2lp", exact=True)).to_have_count(0)
    assert rows(page) == ["embed-12pqa8vv"]
    assert tile(page, "Orphaned now") == "7"
    page.get_by_label("Filter by DAG, task, run or Pod").fill("no such thing")
    expect(page.get_by_text("No Pod fits this filter.")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "path", "pods"),
    [
        ("dag", "/dags/sales/plugin/orphaned-pods-dag", ["train-9x1mmq0a", "extract-b3k2x9qd", "load-ee1ppl0z"]),
        pytest.param(
            "run", f"/dags/ml_features/runs/{RUN}/plugin/orphaned-pods-dag-run", ["embed-12pqa8vv"], marks=WIDE
        ),
        pytest.param("task", "/dags/sales/tasks/extract/plugin/orphaned-pods-task", ["extract-b3k2x9qd"], marks=WIDE),
        ("instance", f"{TRAIN}/plugin/orphaned-pods-task-instance", ["train-9x1mmq0a"]),
        (
            "mapped",
            f"/dags/ml_features/runs/{RUN}/tasks/embed/mapped/3/plugin/orphaned-pods-task-instance",
            ["embed-12pqa8vv"],
        ),
    ],
)
def test_tabs_tell_of_their_own_object_alone(site: Site, visit: Visit, name: str, path: str, pods: list[str]) -> None:
    page = visit(path)
    expect(page.get_by_role("table", name="Orphaned now")).to_be_visible()
    assert rows(page) == pods
    shot(page, site, f"tab-{name}")


@WIDE
def test_a_tab_without_pods_says_so(site: Site, visit: Visit) -> None:
    page = visit(f"/dags/ml_features/runs/{RUN}/tasks/embed/mapped/2/plugin/orphaned-pods-task-instance")
    expect(page.get_by_text("This task instance has left no Pod behind.")).to_be_visible()
    page = visit("/dags/quiet/plugin/orphaned-pods-dag")
    expect(page.get_by_text("This DAG has left no Pod behind.")).to_be_visible()


def test_the_card_on_the_home_page_leads_to_the_page_and_is_absent_when_all_is_clean(site: Site, visit: Visit) -> None:
    page = visit("/")
    expect(page.locator(".kpoh-card")).to_contain_text("orphaned Pods of 3 DAGs hold 16.5 cores, 89 GiB, 2 GPUs")
    shot(page, site, "home")
    page.get_by_role("link", name="Show orphaned Pods").click()
    expect(page.get_by_role("heading", name="Orphaned Pods", level=1)).to_be_visible()
    show(site, worlds.World())
    with page.expect_response("**/kpo-healer/api/overview?rows=0") as answered:
        page.goto(site.url)
    assert answered.value.json()["totals"]["pods"] == 0
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    expect(page.locator(".kpoh-card")).to_have_count(0)


def test_hostile_texts_are_shown_as_text(site: Site, visit: Visit) -> None:
    show(site, worlds.hostile())
    page = visit()
    expect(page.get_by_text(worlds.HOSTILE).first).to_be_visible()
    for button in page.get_by_role("button", name="Details of Pod").all():
        button.click()
    assert page.locator(".kpoh img").count() == 0
    assert page.locator(".kpoh b").filter(has_text="x").count() == 0
    assert "owned" not in page.title()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "a long id makes the whole page scroll sideways"
    assert page.evaluate(OVERLAPS) == []
    expect(page.get_by_text("Out of date", exact=True)).to_be_visible()  # this healer looked long ago
    shot(page, site, "hostile")


OVERLAPS = """() => [...document.querySelectorAll(".kpoh-notices li > div")]
    .filter((cell) => cell.scrollWidth > cell.clientWidth).map((cell) => cell.textContent)"""
"""Cells of the notices whose text lies over the next one's."""


@pytest.mark.parametrize("width", [420, 760, 1440])
def test_what_a_row_tells_is_read_without_scrolling_sideways(site: Site, visit: Visit, width: int) -> None:
    """The table itself may be wider than a narrow window."""
    page = visit()
    page.set_viewport_size({"width": width, "height": 1000})
    page.get_by_role("button", name="Details of Pod score-77hqk2lp").click()
    told = page.get_by_text("It stays until somebody deletes it.")
    expect(told).to_be_visible()
    box = told.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    shot(page, site, f"width-{width}")


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ("standby", "none of its replicas leads"),
        pytest.param("error", "HTTP 500", marks=WIDE),
        pytest.param("garbage", "is not understood", marks=WIDE),
        pytest.param("off", "set findings: true", marks=WIDE),
    ],
)
def test_a_healer_that_has_nothing_to_show_is_one_sentence(site: Site, visit: Visit, behaviour: str, text: str) -> None:
    show(site, behaviour=behaviour)
    page = visit()
    expect(page.get_by_role("status")).to_contain_text(text)
    expect(page.locator(".kpoh table")).to_have_count(0)
    shot(page, site, f"healer-{behaviour}")


def test_an_older_healer_has_no_history_and_the_page_does_without(site: Site, visit: Visit) -> None:
    show(site, behaviour="old")
    page = visit()
    assert tile(page, "Orphaned now") == "7"
    expect(page.get_by_text("Healed in")).to_have_count(0)
    assert len(rows(page)) == 7


def test_each_viewer_sees_their_own_dags_in_rows_and_figures(site: Site, visit: Visit) -> None:
    page = visit(user="viewer")
    assert tile(page, "Orphaned now") == "3"
    assert tile(page, "They hold") == "10 cores"
    assert tile(page, "Need a look") == "1"
    assert rows(page) == ["train-9x1mmq0a", "extract-b3k2x9qd", "load-ee1ppl0z"]
    expect(page.get_by_text("finance")).to_have_count(0)
    page = visit("/dags/finance/plugin/orphaned-pods-dag", user="viewer")
    expect(page.get_by_text("close-books-5tz0k1mm")).to_have_count(0)


def test_ten_thousand_findings_stay_quick(site: Site, visit: Visit) -> None:
    show(site, worlds.many())
    page = visit()
    assert tile(page, "Orphaned now") == "10,000"
    expect(page.get_by_text(re.compile("500 of 10,000 shown"))).to_be_visible()
    assert len(rows(page)) == 500
    page.get_by_label("Filter by DAG, task, run or Pod").fill("bulk-09999")
    expect(page.get_by_role("table", name="Orphaned now").locator("tr.kpoh-row")).to_have_count(1)
    shot(page, site, "many")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_colour_is_one_of_airflows_own_and_readable(site: Site, visit: Visit, dark: bool) -> None:
    page = visit(dark=dark)
    expect(page.get_by_role("table", name="Orphaned now")).to_be_visible()
    names = set(re.findall(r"var\((--chakra-colors-[a-z-]+)", page.evaluate(SHEET)))
    assert len(names) > 15
    unknown = [name for name in names if not page.evaluate(VALUE, name)]
    assert unknown == []
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(", MODULE.read_text()) == []
    assert page.evaluate(CONTRAST) == []
    shot(page, site, "dark" if dark else "light")


SHEET = "document.adoptedStyleSheets.map(s => [...s.cssRules].map(r => r.cssText).join('')).join('')"
VALUE = "name => getComputedStyle(document.documentElement).getPropertyValue(name)"
CONTRAST = (Path(__file__).parent / "inside" / "contrast.js").read_text()
"""Texts whose contrast with what lies behind them is less than WCAG's 4.5."""
