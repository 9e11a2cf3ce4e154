"""What stands at the repository's door: forms for issues, hooks before a commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_versions_and_for_what_a_command_says(form: Path) -> None:
    document: Any = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= document.keys()
    asked = {part["id"]: part for part in document["body"]}
    assert len(asked) == len(document["body"])
    assert all(part["attributes"]["label"] for part in asked.values())
    assert asked["versions"]["validations"]["required"]
    assert "kpo-healer" in form.read_text()
    assert any(part["validations"]["required"] for part in asked.values() if part["type"] == "textarea")


def test_hooks_are_local_and_run_what_make_lint_runs() -> None:
    document: Any = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in document["repos"]] == ["local"]
    hooks = document["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    programs = [program for program, _ in re.findall(r"\$\(BIN\)/([a-z-]+)( [a-z]+)?", lint)]
    assert [hook["entry"].split()[0] for hook in hooks] == [f".venv/bin/{program}" for program in programs]
