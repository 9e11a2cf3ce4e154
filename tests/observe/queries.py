"""The queries of the dashboard and of the alerts, in the form in which Prometheus can be asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

FILES: Final = Path(__file__).parents[2] / "deploy" / "chart" / "files"
DASHBOARD: Final = FILES / "dashboard.json"
ALERTS: Final = FILES / "alerts.yaml"

VARIABLES: Final = {"$airflow": ".+", "$job": ".+", "$namespace": ".*", "$__rate_interval": "5m", "$__range": "5m"}
"""What Grafana puts in place of a variable. The ranges are longer than a test has run."""

FIRING_PATIENCE: Final = 400.0
"""Seconds until an alert fires or ends, on a machine that is busy: two renewals in a row have failed after minutes."""

_COMPARISON: Final = re.compile(r"(?:==|!=|>=|<=|>|<|\band\b|\bor\b|\bunless\b)")
_MATCHING: Final = re.compile(r"\s*(?:bool\s*)?(?:(?:on|ignoring|group_left|group_right)\s*\([^)]*\)\s*)*")


def dashboard() -> Any:
    """The dashboard as decoded JSON."""
    return json.loads(DASHBOARD.read_text())


def annotation_queries() -> dict[str, str]:
    """What marks a moment on the dashboard, by name, as Grafana would send it."""
    return {each["name"]: filled(each["expr"]) for each in dashboard()["annotations"]["list"]}


def panels() -> list[Any]:
    """The panels that show something, rows left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries() -> dict[str, str]:
    """Each query of the dashboard as Grafana would send it, by panel and letter."""
    return {
        f"{panel['id']} {panel['title']} {target['refId']}": filled(target["expr"])
        for panel in panels()
        for target in panel["targets"]
    }


def filled(expression: str, **chosen: str) -> str:
    """A query with Grafana's variables replaced; `chosen`: what a user has picked of them."""
    for name, value in (VARIABLES | {f"${name}": value for name, value in chosen.items()}).items():
        expression = expression.replace(name, value)
    return expression


def rules() -> dict[str, Any]:
    """The alerts by their names."""
    document = yaml.safe_load(ALERTS.read_text())
    return {rule["alert"]: rule for group in document["groups"] for rule in group["rules"]}


def impatient(path: Path) -> Path:
    """The chart's rules as they are, but for how long each waits and how far it looks back."""
    document = yaml.safe_load(ALERTS.read_text())
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        rule["for"] = "3s"
        rule["expr"] = rule["expr"].replace("[10m]", "[10s]")
    path.write_text(yaml.safe_dump(document))
    return path


def alert_queries() -> dict[str, str]:
    """Both sides of every comparison of each alert: an alert as a whole has no data while all is well."""
    return {
        f"{name} {number}": part
        for name, rule in rules().items()
        for number, part in enumerate(part for part in operands(rule["expr"]) if named(part))
    }


def named(expression: str) -> set[str]:
    """The metrics that a query names."""
    return set(re.findall(r"\b(?:kpo_healer|process)_\w+", expression))


def operands(expression: str) -> Iterator[str]:
    """What is compared or joined at the top of an expression; of `absent(x)` it is x."""
    begin = 0
    for at, end in _operators(expression):
        yield _present(expression[begin:at].strip())
        begin = end
    yield _present(expression[begin:].strip())


def _operators(expression: str) -> Iterator[tuple[int, int]]:
    """Where the comparisons outside of brackets and strings are, with their matching clauses."""
    outside = re.sub(r'"[^"]*"', lambda found: "_" * len(found[0]), expression)
    at, depth = 0, 0
    while at < len(outside):
        found = _COMPARISON.match(outside, at) if depth == 0 else None
        if found:
            matching = _MATCHING.match(outside, found.end())
            yield at, (at := matching.end() if matching else found.end())
            continue
        depth += (outside[at] in "([{") - (outside[at] in ")]}")
        at += 1


def _present(expression: str) -> str:
    found = re.fullmatch(r"absent\((.*)\)", expression)
    return found[1] if found else expression
