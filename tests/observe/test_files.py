"""The dashboard and the alerts by themselves: Grafana's schema, promtool, and each alert's entry in the runbook."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.lab.prometheus_assets import programs
from tests.observe import picture, queries, test_alerts_fire, test_figures_fire, test_scraped, test_upgrade_seen

UNIT_TESTS = Path(__file__).with_name("alerts.yaml")
DOCS = Path(__file__).parents[2] / "docs"


# --- alerts ---


def promtool(*words: str | Path) -> str:
    done = subprocess.run([programs().promtool, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", queries.ALERTS)


def test_each_alert_fires_and_is_silent_as_promtool_is_told() -> None:
    promtool("test", "rules", UNIT_TESTS)


@pytest.mark.parametrize("alert", queries.rules())
def test_each_alert_is_tested_both_ways(alert: str) -> None:
    steps = [step for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for step in test["promql_expr_test"]]
    expected = [bool(step["exp_samples"]) for step in steps if f'"{alert}"' in step["expr"]]
    assert set(expected) == {True, False}


def test_each_alert_fires_at_a_real_prometheus() -> None:
    """Each is in the table of one of the tests that wait for it."""
    faults = set[str]().union(*(alerts for _, alerts in test_alerts_fire.FAULTS.values()))
    figures = set(test_figures_fire.FIGURES) | test_figures_fire.OTHERS
    assert faults | figures | test_scraped.WRONG | {test_upgrade_seen.FIRES} == set(queries.rules())


@pytest.mark.parametrize(("alert", "rule"), queries.rules().items())
def test_each_alert_says_all_that_its_reader_needs(alert: str, rule: Any) -> None:
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
    assert len(rule["annotations"]["summary"]) < 100


@pytest.mark.parametrize(("alert", "rule"), queries.rules().items())
def test_each_alert_links_its_own_entry_of_the_runbook(alert: str, rule: Any) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("/#")
    assert (page.rpartition("/")[2], anchor) == ("runbook", alert.lower())
    headings = re.findall(r"^#+ (.+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert alert in headings


# --- dashboard ---


def test_grafanas_own_models_know_every_field() -> None:
    """Read and written again, nothing is lost: a field that is misspelt or in the wrong place would be."""
    register_default_plugins()
    shown = queries.dashboard()
    for note in shown["annotations"]["list"]:  # the schema leaves these to each data source
        for name in OF_PROMETHEUS:
            note.pop(name)
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(shown)))
    assert list(lost(shown, again)) == []


OF_PROMETHEUS = ("expr", "step", "titleFormat", "textFormat", "tagKeys", "useValueForTime")
"""What Grafana's data source for Prometheus reads of an annotation."""


def lost(before: Any, after: Any, place: str = "") -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key, "missing"), f"{place}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, value in enumerate(before):
            yield from lost(value, after[number], f"{place}[{number}]")
    elif before != after:
        yield f"{place}: {before} -> {after}"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    shown = queries.dashboard()["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in shown:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        taken |= cells


def test_the_data_source_and_the_airflow_can_be_chosen() -> None:
    variables = {variable["name"]: variable for variable in queries.dashboard()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["airflow"]["type"] == "query"
    assert variables["airflow"]["includeAll"]
    for panel in queries.panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("query", [t["expr"] for panel in queries.panels() for t in panel["targets"]])
def test_what_is_told_of_an_airflow_is_told_of_the_chosen_one(query: str) -> None:
    selectors = re.findall(r"(kpo_healer_\w+)(\{[^}]*\})?", query)
    common = ("kpo_healer_leader", "kpo_healer_kubernetes", "kpo_healer_build", "kpo_healer_watch", "kpo_healer_name")
    assert all('airflow=~"$airflow"' in braces for name, braces in selectors if not name.startswith(common))


@pytest.mark.parametrize(
    "query",
    [t["expr"] for panel in queries.panels() for t in panel["targets"]]
    + [each["expr"] for each in queries.dashboard()["annotations"]["list"]],
)
def test_what_is_told_is_told_of_the_chosen_installations(query: str) -> None:
    selectors = re.findall(r"\b(?:kpo_healer|process)_\w+(\{[^}]*\})?", query)
    assert selectors
    assert all('job=~"$job", namespace=~"$namespace"' in braces for braces in selectors)


@pytest.mark.parametrize("query", [t["expr"] for panel in queries.panels() for t in panel["targets"]])
def test_a_counter_is_never_shown_since_a_start(query: str) -> None:
    """A restart would look like a loss: only what a counter has grown by is asked for."""
    for counter in re.finditer(r"\w+_total\b", query):
        assert re.search(r"(increase|rate)\($", query[: counter.start()]), counter[0]


def test_the_picture_is_of_panels_that_there_are() -> None:
    drawn = (DOCS / "dashboard.svg").read_text()
    for kind, titles in (("stat", picture.STATS), ("timeseries", picture.LINES)):
        for title in titles:
            assert picture.panel(title, kind)
            assert f">{title}</text>" in drawn


def test_rows_and_panels_say_what_they_show() -> None:
    for panel in queries.dashboard()["panels"]:
        if panel["type"] == "row":
            assert ": " in panel["title"]
        elif panel["title"] != "Duration of a pass":
            assert panel.get("description"), panel["title"]


def test_links_lead_to_the_runbook_and_to_airflow() -> None:
    links = {link["title"]: link["url"] for link in queries.dashboard()["links"]}
    assert links == {"Runbook": "https://kpo-healer.example/runbook/", "Airflow": "${airflow_url}"}
    assert "airflow_url" in {variable["name"] for variable in queries.dashboard()["templating"]["list"]}
