"""The reference pages say what the code does: keys, options, fields, metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from healer.config import AirflowConfig, Config, settings_table
from healer.insights.regrets import UseKind
from healer.model import Finding, Labels, Pod, Reason, TaskInstance, Withheld
from healer.telemetry.findings import FindingView
from healer.telemetry.findings_endpoint import PARAMETERS
from healer.telemetry.http_server import HttpRequest
from healer.telemetry.metrics import RESULTS
from tests.docs.generated import leaf_commands
from tests.unit.fakes import ORPHANED, World
from tests.unit.telemetry.test_findings import board_of
from tests.unit.telemetry.test_metrics import CONTRACT

DOCS = Path(__file__).parents[3] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text()
CLI = (DOCS / "cli.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()
REGRETS = (DOCS / "regrets.md").read_text()
FINDINGS = (DOCS / "findings.md").read_text()


def test_the_configuration_page_holds_the_generated_table() -> None:
    shown = CONFIGURATION.partition("<!-- settings: begin -->")[2].partition("<!-- settings: end -->")[0].strip()
    assert shown == settings_table(), "print(healer.config.settings_table()) and put it between the marks"


@pytest.mark.parametrize("command", sorted(dict(leaf_commands())))
def test_every_command_and_option_is_described(command: str) -> None:
    assert f"`{command}" in CLI
    for parameter in dict(leaf_commands())[command].params:
        for option in parameter.opts:
            if option.startswith("-"):
                assert f"`{option}" in CLI, option


def test_every_option_of_the_page_exists() -> None:
    known = {option for _, command in leaf_commands() for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", CLI + CONFIGURATION)) <= known


def test_a_finding_has_the_fields_of_the_page() -> None:
    found = re.search(r"```json\n(.*?)```", CLI, re.DOTALL)
    assert found is not None
    told = json.loads(found[1])
    pod = Pod("airflow", "p", "u", "1", 0.0, "Running", Labels("sales"))
    task = TaskInstance("sales", "r", "extract", -1)
    made = FindingView(pod, "prod", Finding(Reason.ORPHANED, "", task), Reason.ORPHANED.action).to_dict()
    assert list(told) == list(made)
    assert list(told["task"]) == list(made["task"])


def test_every_way_of_withholding_is_described() -> None:
    assert all(f"`{why.value}`" in CLI and f"`{why.value}`" in METRICS for why in Withheld)


def test_the_metrics_page_is_the_contract() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]*)\| (?:gauge|counter|histogram) \|", METRICS, re.MULTILINE)
    assert {name: set(re.findall(r"`([a-z_]+)`", labels)) for name, labels in rows} == CONTRACT


def test_every_result_is_described() -> None:
    assert re.findall(r"^\| `([a-z]+)` \| (?!`)", METRICS.partition("| `result` |")[2], re.MULTILINE)[
        : len(RESULTS)
    ] == [*RESULTS]


def test_every_way_of_use_is_described() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \| ", REGRETS, re.MULTILINE)[1:] == [*UseKind], "after the table's head"


def test_a_duration_of_each_kind_is_accepted_as_written() -> None:
    for text in re.findall(r"`(\d+\w+)`", CONFIGURATION.partition("## Keys")[0]):
        airflow = AirflowConfig.model_validate({"name": "a", "namespaces": ["a"], "url": "http://h", "token": "t"})
        assert Config.model_validate({"interval": text, "airflows": [airflow]}).interval > 0


def test_the_status_has_the_fields_of_the_page() -> None:
    found = re.search(r"### Status\n\n```json\n(.*?)```", FINDINGS, re.DOTALL)
    assert found is not None
    told = json.loads(found[1])
    world = World(limits={"breaker": {"maxShare": 0.5, "minCount": 1}}, policy={"grace": "1h"})
    world.pod("a", ORPHANED)
    world.audit()
    made = json.loads(board_of(world).status(HttpRequest()).body)
    assert list(told) == list(made)
    assert list(told["airflows"][0]) == list(made["airflows"][0])
    assert list(told["airflows"][0]["breaker"]) == list(made["airflows"][0]["breaker"])


def test_every_page_of_the_port_and_what_it_takes_is_told() -> None:
    for path, known in PARAMETERS.items():
        assert f"`{path}" in FINDINGS
        assert all(f"{parameter}=" in FINDINGS for parameter in known)
