"""The commands that the documentation shows: what stands behind `$ ` in a fence of the kind `console`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE: Final = re.compile(
    r"(?:<!-- run by: (?P<by>\S+) -->\n+)?^(?P<margin> *)```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Fence:
    """One fence of a page. by: the test that runs its commands, where a mark before the fence names one."""

    page: str
    line: int
    kind: str
    text: str
    by: str | None

    @property
    def commands(self) -> tuple[str, ...]:
        """Its commands, without the comments behind them."""
        found = re.findall(r"^ *\$ (.+)$", self.text, re.MULTILINE)
        return tuple(re.sub(r"\s+#.*$", "", command).strip() for command in found)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences() -> Iterator[Fence]:
    """Every fence of README, CONTRIBUTING and the pages, in order."""
    for path in PAGES:
        text = path.read_text()
        for found in _FENCE.finditer(text):
            line = text.count("\n", 0, found.start("kind")) + 1
            page = str(path.relative_to(ROOT))
            yield Fence(page, line, found["kind"], found["text"], found["by"])


def shown() -> list[Fence]:
    """Those with commands in them."""
    return [fence for fence in fences() if fence.kind == "console" and fence.commands]
