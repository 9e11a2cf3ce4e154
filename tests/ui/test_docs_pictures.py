"""The two pictures of docs/airflow-ui.md, taken from the newest Airflow; copy them from the artefacts."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.lab.airflow_env import FULL
from tests.ui import worlds
from tests.ui.conftest import SHOTS, WIDE, Site, Visit, show

pytestmark = pytest.mark.timeout(1800)  # the first one starts an Airflow


@WIDE
def test_pictures_for_the_docs(site: Site, visit: Visit) -> None:
    show(site, worlds.ordinary())
    page = visit()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("button", name="Details of Pod train-9x1mmq0a").click()
    expect(page.get_by_text("unless something in Airflow needs it by then")).to_be_visible()
    tab = visit(
        f"/dags/sales/runs/{quote(worlds.RUN, safe='')}/tasks/extract/plugin/orphaned-pods-task-instance", dark=True
    )
    tab.set_viewport_size({"width": 1280, "height": 720})
    expect(tab.get_by_text("unless something in Airflow needs it by then")).to_be_visible()
    expect(tab.get_by_text("Healed in the last 14 days")).to_be_visible()
    if site.airflow.version == FULL:
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / "airflow-ui-page.png")
        tab.screenshot(path=SHOTS / "airflow-ui-task-instance.png")
