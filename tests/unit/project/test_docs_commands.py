"""Commands in the pages are written so that a test finds and runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.utils.yaml import yaml_load

from tests.docs.fences import PAGES, ROOT, fences, shown

SHELLS = {"sh", "bash", "shell", "zsh", ""}


def test_commands_stand_in_fences_of_the_kind_console() -> None:
    assert [str(fence) for fence in fences() if fence.kind in SHELLS and "--8<--" not in fence.text] == []


def test_every_console_shows_a_command() -> None:
    assert [str(fence) for fence in fences() if fence.kind == "console" and not fence.commands] == []


def test_a_test_that_is_named_instead_exists() -> None:
    for fence in shown():
        if fence.by:
            path, _, name = fence.by.partition("::")
            assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(), fence


def test_every_page_is_in_the_navigation() -> None:
    named = list(pages(yaml_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    docs = sorted(str(path.relative_to(ROOT / "docs")) for path in PAGES if path.parent != ROOT)
    assert sorted(named) == docs, "put each page of docs/ into the nav of mkdocs.yml"


def pages(entry: Any) -> Iterator[str]:
    """The files of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from pages(each)
