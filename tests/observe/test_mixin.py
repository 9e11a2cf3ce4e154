"""The monitoring mixin: the very files of the chart, evaluated by jsonnet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _jsonnet
import yaml

from tests.observe import queries

MIXIN = Path(__file__).parents[2] / "deploy" / "mixin" / "mixin.libsonnet"


def evaluated(field: str, config: str = "{}") -> Any:
    snippet = f"((import '{MIXIN}') + {{ _config+:: {config} }}).{field}"
    return json.loads(_jsonnet.evaluate_snippet("test", snippet))


def test_it_is_the_charts_dashboard_and_the_charts_alerts() -> None:
    assert evaluated("grafanaDashboards") == {"kpo-healer.json": queries.dashboard()}
    assert evaluated("prometheusAlerts") == yaml.safe_load(queries.ALERTS.read_text())
    assert evaluated("prometheusRules") == {"groups": []}


def test_links_severities_and_alerts_can_be_changed() -> None:
    config = "{ docsUrl: 'https://docs.test', severities: { KpoHealerDown: 'page' }, disabled: ['KpoHealerRegrets'] }"
    alerts = {
        rule["alert"]: rule for group in evaluated("prometheusAlerts", config)["groups"] for rule in group["rules"]
    }
    assert alerts.keys() == queries.rules().keys() - {"KpoHealerRegrets"}
    assert alerts["KpoHealerDown"]["labels"] == {"severity": "page"}
    assert alerts["KpoHealerDown"]["annotations"]["runbook_url"] == "https://docs.test/runbook/#kpohealerdown"
    dashboard = evaluated("grafanaDashboards", config)["kpo-healer.json"]
    assert dashboard["links"][0]["url"] == "https://docs.test/runbook/"
