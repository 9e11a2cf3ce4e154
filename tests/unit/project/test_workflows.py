"""The workflows: pinned by commit, with no more rights than they use, and of commands that the Makefile has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def test_there_are_some() -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "codeql", "docs", "release", "scorecard"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text())
    assert uses
    for each in uses:
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_may_do_what_it_says_and_no_more(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["permissions"] == {}
    assert "pull_request_target" not in path.read_text()
    for name, job in jobs(path).items():
        assert job["permissions"], name
        assert job["timeout-minutes"] <= 120
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        served = {"contents"} if (path.stem, name) == ("release", "docs") else set()
        assert writes <= {"id-token", "attestations", "packages", "security-events"} | served
        assert not writes or path.stem in {"release", "codeql", "scorecard"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_calls_targets_that_exist_and_says_what_is_not_proven(path: Path) -> None:
    text, makefile = path.read_text(), (ROOT / "Makefile").read_text()
    assert text.startswith("# Prepared, not proven")
    for line in re.findall(r"run: make (.*)", text):
        for target in re.findall(r"[a-z-]+(?![a-z=])(?<!=python)", line.partition(" PYTHON")[0]):
            assert f"\n{target}: " in makefile, target
