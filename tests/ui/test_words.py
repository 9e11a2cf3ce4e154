"""The page has plain words for everything that the healer can name, and the docs list them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

import pytest

from healer.insights.notices import Notice
from healer.model import ACTING, Cause
from tests.lab.airflow_plugin import SOURCE

MODULE = (SOURCE / "kpo_healer_airflow" / "static" / "page.js").read_text()
DOCS = (SOURCE.parents[1] / "docs" / "airflow-ui.md").read_text()


def words(table: str) -> dict[str, str]:
    """A table of the module: what it calls each name."""
    _, _, rest = MODULE.partition(f"const {table} = {{\n")
    lines = rest.partition("\n};")[0].splitlines()
    found = (re.fullmatch(r'\s+"?([a-z-]+)"?: \[?"([^"]+)".*', line) for line in lines)
    return {match[1]: match[2] for match in found if match is not None}


@pytest.mark.parametrize(("table", "names"), [("REASONS", ACTING), ("CAUSES", Cause), ("NOTICES", Notice)])
def test_each_name_has_its_words(table: str, names: Iterable[Enum]) -> None:
    assert set(words(table)) == {name.value for name in names}


def test_the_docs_tell_what_each_reason_is_called() -> None:
    listed = re.findall(r"^\| ([^|`]+) \| `([a-z-]+)` \|$", DOCS, re.MULTILINE)
    assert {name: text for text, name in listed} == words("REASONS")
