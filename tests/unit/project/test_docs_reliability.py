"""The pages that name tests as their evidence name such as exist, down to the case."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("reliability", "security")}
PAGE = PAGES["reliability"]
EVIDENCE = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
NAMED = set(re.findall(r"`(tests/[\w/]+\.py::[^`]+)`", EVIDENCE))


@pytest.mark.slow
def test_every_named_test_exists() -> None:
    """A name without its brackets stands for all cases."""
    files = sorted({name.partition("::")[0] for name in NAMED})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", *files]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    collected = {line for line in told.stdout.splitlines() if "::" in line}
    known = collected | {line.partition("[")[0] for line in collected}
    assert sorted(NAMED - known) == []


def test_every_row_of_faults_names_a_test() -> None:
    tables = re.findall(r"^\| fault \|.*\n\| --- .*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 100
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []


def test_every_threat_has_its_answer_and_its_test() -> None:
    rows = re.findall(r"^\| (T\d+) \|(.*)\|$", PAGES["security"], re.MULTILINE)
    assert [number for number, _ in rows] == [f"T{number}" for number in range(1, 16)]
    assert [number for number, row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []
