"""The README and the rule page say what the code does: tables are generated, examples are loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from healer.cli import cli
from healer.config import AirflowConfig, load
from healer.metrics import Metrics
from healer.model import Reason
from healer.rules import rule_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RULES = (ROOT / "docs" / "rules.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_readme_holds_the_generated_rule_table() -> None:
    shown = README.partition("<!-- rules: begin -->")[2].partition("<!-- rules: end -->")[0].strip()
    assert shown == rule_table(), "print(healer.rules.rule_table()) and put it between the marks"


def test_every_reason_rests_on_rows_that_the_rule_page_explains() -> None:
    explained = set(re.findall(r"^\| (D\d+) ", RULES, re.MULTILINE))
    assert explained == {f"D{number}" for number in range(1, 25)}
    assert {source for reason in Reason for source in reason.sources} <= explained


def test_the_configuration_of_the_readme_is_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    text = block("yaml").replace("/etc/kpo-healer/password", str(tmp_path / "password"))
    (tmp_path / "config.yaml").write_text(text)
    config = load(tmp_path / "config.yaml", {}, {})
    entry = yaml.safe_load(text)["airflows"][0]
    chosen = ("name", "namespaces", "ownership", "url", "username", "passwordFile")
    bare = AirflowConfig.model_validate({key: entry[key] for key in chosen})
    assert config.airflows == (bare,)


@pytest.mark.parametrize("command", ["run", "scan", "explain", "check", "release"])
def test_the_readme_names_every_command(command: str) -> None:
    assert command in cli.commands
    assert f"`{command}" in README


def test_the_metrics_of_the_readme_exist(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    flags = {"namespace": ("airflow",), "airflow_url": "http://h", "airflow_token_file": str(tmp_path / "token")}
    exposition = Metrics(load(None, flags, {})).render()[0].decode()
    section = README.partition("## Metrics")[2].partition("## Licence")[0]
    for name in re.findall(r"`([a-z_]+)\{", section):
        assert f"kpo_healer_{name}" in exposition
