"""What the audience sees."""

from __future__ import annotations

import threading
import time
from typing import Final

from rich.console import Console
from rich.text import Text

from tests.lab.demo import verdict
from tests.lab.demo.verdict import Claim, Row
from tests.lab.healer import Json

WIDTH: Final = 132
"""Columns where the output is no terminal."""


class Narrator:
    """Tells the story line by line, and remembers what was claimed; safe for threads."""

    def __init__(self) -> None:
        terminal = Console(highlight=False)
        self._console = terminal if terminal.is_terminal else Console(highlight=False, width=WIDTH)
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self.claims: list[Claim] = []

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begin

    def act(self, title: str, subtitle: str) -> None:
        """Opens a section."""
        self._print()
        self._print(Text.assemble((title, "bold cyan"), (f": {subtitle}", "dim")))

    def tell(self, sentence: str, *, style: str = "") -> None:
        """One line, with the seconds since the beginning."""
        self._print(Text.assemble((f"{self.seconds:6.1f} s  ", "dim"), (sentence, style)))

    def show(self, text: str) -> None:
        """What a command printed, cut at the edge of the screen."""
        for line in text.rstrip().splitlines():
            with self._lock:
                self._console.print(Text(f"          {line}"), no_wrap=True, overflow="ellipsis", crop=True)

    def note(self, text: str) -> None:
        """Plain text that is to be copied: never cut or wrapped."""
        with self._lock:
            self._console.print(Text(text), soft_wrap=True)

    def claim(self, text: str, good: bool) -> None:
        """Notes whether something is as it must be; what is not is told at once."""
        self.claims.append(Claim(text, good))
        if not good:
            self.tell(f"NOT TRUE: {text}", style="bold red")

    def hear(self, line: Json, story: str) -> None:
        """A line of kpo-healer's log, if it matters. `story`: whose Pod it is about."""
        message = line.get("message", "")
        pod = str(line.get("pod", "")).partition("/")[2]
        if message == "delete":
            good = line["result"] == "deleted"
            word = "deleted " if good else f"{line['result']}:"
            self._heard(f"{word} {pod}  ({story})", f"{line['reason']}: {line['detail']}", "red" if good else "yellow")
        elif message == "refuted":
            self._heard(f"spared   {pod}  ({story})", f"was {line['was']}, is {line['now']}: {line['why']}", "green")
        elif line.get("level") in {"warning", "error", "critical", "raw"}:
            self._heard(f"{line['level']}: {message}", "", "yellow")

    def _heard(self, what: str, why: str, style: str) -> None:
        line = Text.assemble((f"{self.seconds:6.1f} s  ", "dim"), (what, style), (f"  {why}", "dim"))
        with self._lock:
            self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)

    def end(self, rows: list[Row]) -> None:
        """The table of every Pod, and all that was claimed."""
        with self._lock:
            self._console.print(verdict.table(rows))
        self._print()
        for claim in self.claims:
            mark = ("ok     ", "green") if claim.good else ("WRONG  ", "bold red")
            self._print(Text.assemble(mark, claim.text))

    def _print(self, text: Text | str = "") -> None:
        with self._lock:
            self._console.print(text)
