"""What moves on a terminal: the progress of a long look, and a view that renews itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from healer.cli.output import write, write_prose
from healer.model import printable, rfc3339_utc
from healer.redaction import scrubbed

OnProgress = Callable[[str], None]
"""Takes what is being done, a few words."""

ScanAndPrint = Callable[[Callable[[], None]], int]
"""Looks once and prints; calls what it is given just before it prints. Returns the exit code."""

CLEAR, WHOLE_LINES, CUT_LINES = "\x1b[H\x1b[2J\x1b[3J", "\x1b[?7h", "\x1b[?7l"
"""Of a terminal: clear it; fold long lines; cut them at its edge."""


@contextmanager
def progress() -> Iterator[OnProgress]:
    """Show on standard error what is being done, where that is a terminal; elsewhere nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("looking") as status:
        yield lambda text: status.update(printable(text))


def watch(
    look: ScanAndPrint,
    every: float,
    failures: tuple[type[Exception], ...],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Look again and again, `every` so many seconds, until Ctrl-C. A look that fails is told and not the last."""
    terminal = sys.stdout.isatty()
    try:
        if terminal:
            write_raw(CUT_LINES)
        while True:
            _once(look, every, failures, terminal)
            wait(every)
    except KeyboardInterrupt:
        return
    finally:
        if terminal:
            write_raw(WHOLE_LINES)


def keep_due_times(found: Sequence[dict[str, Any]], known: dict[str, tuple[str, str]]) -> None:
    """Let what is due come nearer from look to look: each look alone begins its patience anew.

    `known` is what earlier looks found, by uid: the reason and the earliest due time, forgotten where a Pod is no more
    found for the same.
    """
    seen = {finding["uid"]: finding for finding in found if finding["due"]}
    for uid in known.keys() - seen.keys():
        del known[uid]
    for uid, finding in seen.items():
        reason, due = known.get(uid, ("", ""))
        if reason == finding["reason"] and due < finding["due"]:
            finding["due"] = due
        known[uid] = (finding["reason"], finding["due"])


def _once(look: ScanAndPrint, every: float, failures: tuple[type[Exception], ...], terminal: bool) -> None:
    def begin() -> None:
        if terminal:
            write_raw(CLEAR)
        write_prose(f"{rfc3339_utc(datetime.now(UTC))}, every {every:g} s; Ctrl-C ends it")
        write("")

    try:
        look(begin)
    except failures as error:
        begin()
        write_prose(f"error: {printable(scrubbed(str(error)))}", "  ")
    if not terminal:
        write("")


def write_raw(text: str) -> None:
    """Steer the terminal."""
    sys.stdout.write(text)
    sys.stdout.flush()
