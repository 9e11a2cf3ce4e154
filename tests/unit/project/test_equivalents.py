"""The mutants that are explained as equivalent are mutants of the code as it stands, and each is explained once."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LISTED = tomllib.loads((ROOT / "tests" / "mutation" / "equivalent.toml").read_text())["mutant"]


def joined(source: str) -> str:
    """Return a source as the list quotes it: lines without their indentation, in one."""
    return " ".join(line.strip() for line in source.splitlines())


@pytest.mark.parametrize("one", LISTED, ids=lambda one: f"{one['module']}: {one['after'][:40]}")
def test_what_a_mutant_changes_stands_in_its_module(one: dict[str, str]) -> None:
    source = joined((ROOT / "healer" / "decision" / f"{one['module']}.py").read_text())
    assert one["before"] in source, "the code has changed: is the mutant still one, and does it still change nothing?"
    assert one["before"] != one["after"]
    assert len(one["why"].split()) >= 5, "say why nobody could see it"


def test_each_is_explained_once() -> None:
    counts = Counter((one["module"], one["before"], one["after"]) for one in LISTED)
    assert [key for key, count in counts.items() if count > 1] == []


def test_the_page_has_as_many_as_the_list() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text().partition("## Mutation testing")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| (\d+) \|", page, re.MULTILINE)
    counts = Counter(one["module"] for one in LISTED)
    assert {module: int(equivalent) for module, _, _, equivalent in rows} == counts
    for module, *figures in rows:
        mutants, killed, equivalent = (int(figure.replace(",", "")) for figure in figures)
        assert mutants == killed + equivalent, module
