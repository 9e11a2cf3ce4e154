"""The generated parts of the pages are what the code makes of them now."""

from __future__ import annotations

import pytest

from tests.docs.generated import PARTS, ROOT, between


@pytest.mark.parametrize(("page", "name"), PARTS)
def test_a_generated_part_is_up_to_date(page: str, name: str) -> None:
    assert between((ROOT / page).read_text(), name) == PARTS[page, name](), "call make docs"
