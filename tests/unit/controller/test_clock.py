"""The one clock by which evidence and leadership are dated."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from healer.clock import boottime

PACKAGE = Path(__file__).parents[3] / "healer"


def test_it_never_goes_back() -> None:
    looks = [boottime() for _ in range(1000)]
    assert looks == sorted(looks)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux counts the time that a machine slept")
def test_it_counts_the_time_that_the_machine_slept() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_no_part_goes_by_another_one() -> None:
    """Two of them side by side would differ by all that the machine has slept."""
    others = re.compile(r"\btime\.(monotonic|perf_counter|clock_gettime)\b")
    assert [path.name for path in PACKAGE.rglob("*.py") if others.search(_code(path))] == ["clock.py"]


def _code(path: Path) -> str:
    return re.sub(r'"""(.|\n)*?"""', "", path.read_text())
