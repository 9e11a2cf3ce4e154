"""The page about the architecture names files and symbols that exist, contracts in force, and every room."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PICTURE = (ROOT / "docs" / "architecture.svg").read_text()
IMPORTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [name.strip() for layer in IMPORTS[0]["layers"] for name in layer.split("|")]


@pytest.mark.parametrize(("file", "symbol"), sorted(set(re.findall(r"`(?:healer/)?([a-z_/]+\.py)` `([\w.]+)`", PAGE))))
def test_what_the_walk_names_is_there(file: str, symbol: str) -> None:
    text = (ROOT / "healer" / file).read_text()
    assert all(re.search(rf"(class|def) {part}\b", text) for part in symbol.split("."))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(?:healer/)?([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", PAGE))))
def test_what_it_names_is_there(name: str) -> None:
    assert (ROOT / "healer" / name).exists() or (ROOT / name).exists() or (ROOT / "healer" / "airflow" / name).exists()


@pytest.mark.parametrize("contract", re.findall(r'import contract "([^"]+)"', PAGE))
def test_a_contract_that_it_names_is_in_force(contract: str) -> None:
    assert any(each["name"].startswith(contract) for each in IMPORTS)


def test_the_picture_has_the_rooms_in_the_order_of_the_imports() -> None:
    shown = " ".join(re.findall(r'class="room"[^>]*>([^<]+)<', PICTURE))
    rooms = [name for name in re.findall(r"[a-z_]+", shown.partition("log.py")[0]) if name != "py"]
    assert rooms == [name for name in LAYERS if name in rooms]
    assert {"cli", "reconciler", "deletion", "informer", "airflow", "cluster", "decision", "insights"} <= set(rooms)
