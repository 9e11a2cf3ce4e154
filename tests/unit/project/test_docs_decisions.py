"""Each decision is a short record of the same form, listed in order, with evidence that can be looked up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DECISIONS = Path(__file__).parents[3] / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_why_what_follows_and_what_it_rests_on(record: Path) -> None:
    text = record.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Evidence"]
    assert len(text.splitlines()) < 60
    assert re.search(r"`tests/[\w/]+\.py(::\w+)?", text.partition("## Evidence")[2])


def test_all_records_are_listed_in_order() -> None:
    listed = re.findall(r"^\| (\d+) \| \[.+\]\((.+)\) \|$", (DECISIONS / "index.md").read_text(), re.MULTILINE)
    assert listed == [(str(number), path.name) for number, path in enumerate(RECORDS, 1)]
