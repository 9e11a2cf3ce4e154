"""README and pages say what the code does: tables are generated, examples are loaded, commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from healer.cli import cli
from healer.config import AirflowConfig, Config, load
from healer.decision.rules import rule_table
from healer.model import Reason
from healer.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
RULES = (ROOT / "docs" / "rules.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()
PICTURE = (ROOT / "docs" / "scan.svg").read_text()


def section(page: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_rule_page_holds_the_generated_table_and_no_other_page_a_second_one() -> None:
    shown = RULES.partition("<!-- rules: begin -->")[2].partition("<!-- rules: end -->")[0].strip()
    assert shown == rule_table(), "print(healer.decision.rules.rule_table()) and put it between the marks"
    pages = (README, *(path.read_text() for path in (ROOT / "docs").rglob("*.md")))
    assert [rule_table().splitlines()[0] in page for page in pages].count(True) == 1


def test_every_reason_rests_on_rows_that_the_rule_page_explains() -> None:
    explained = set(re.findall(r"^\| (D\d+) ", RULES, re.MULTILINE))
    assert explained == {f"D{number}" for number in range(1, 27)}
    assert {source for reason in Reason for source in reason.sources} <= explained


def test_the_configuration_that_is_shown_is_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    found = re.search(r"```yaml\n(.*?)```", section(CONFIGURATION, "A whole file"), re.DOTALL)
    assert found is not None
    text = found[1].replace("/etc/kpo-healer/password", str(tmp_path / "password"))
    (tmp_path / "config.yaml").write_text(text)
    config = load(tmp_path / "config.yaml", {}, {})
    entry = yaml.safe_load(text)["airflows"][0]
    chosen = ("name", "namespaces", "ownership", "url", "username", "passwordFile")
    bare = AirflowConfig.model_validate({key: entry[key] for key in chosen})
    assert config == Config(airflows=(bare,))
    assert yaml.safe_load(text).keys() == {*Config.model_json_schema()["properties"]}


def test_the_metrics_to_watch_exist(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    flags = {"namespace": ("airflow",), "airflow_url": "http://h", "airflow_token_file": str(tmp_path / "token")}
    exposition = Metrics(load(None, flags, {})).render()[0].decode()
    names = re.findall(r"`([a-z_]+)\{", section(METRICS, "The ones to watch"))
    assert len(names) > 8
    for name in names:
        assert f"kpo_healer_{name}" in exposition


@pytest.mark.parametrize("words", sorted(set(re.findall(r"^\$ kpo-healer ([a-z]+)", README, re.MULTILINE))))
def test_the_commands_of_the_readme_exist(words: str) -> None:
    assert words in cli.commands


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_what_the_readme_links_is_there(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert 500 < len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) < 800


def test_the_picture_is_of_a_scan_and_fetches_nothing() -> None:
    """`make picture` draws it anew, from the demo's own `scan`."""
    shown = re.sub(r"<[^>]+>|&#160;|\s", "", PICTURE)
    assert all(word in shown for word in ("kpo-healerscan", "POD", "REASON", "orphaned", "superseded", "orphanshold"))
    assert re.findall(r"@import|@font-face|url\((?!#)|href=|<image|<script", PICTURE) == []


@pytest.mark.parametrize("picture", ["scan.svg", "architecture.svg"])
def test_a_picture_tells_nothing_of_the_machine_that_made_it(picture: str) -> None:
    text = (ROOT / "docs" / picture).read_text()
    assert re.findall(r"127\.0\.0\.1|localhost|/(?:tmp|home|root|work|var)/", text) == []
