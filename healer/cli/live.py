"""What moves on a terminal: the progress of a long look, and a view that renews itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from healer.cli.output import printable, write
from healer.model import zulu

Tell = Callable[[str], None]
"""Takes what is being done, a few words."""

Look = Callable[[Callable[[], None]], int]
"""Looks once and prints; calls what it is given just before it prints. Returns the exit code."""

CLEAR, WHOLE_LINES, CUT_LINES = "\x1b[H\x1b[2J\x1b[3J", "\x1b[?7h", "\x1b[?7l"
"""Of a terminal: clear it; fold long lines; cut them at its edge."""


@contextmanager
def progress() -> Iterator[Tell]:
    """Show on standard error what is being done, where that is a terminal; elsewhere nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("looking") as status:
        yield lambda text: status.update(printable(text))


def watch(
    look: Look, every: float, failures: tuple[type[Exception], ...], wait: Callable[[float], object] = time.sleep
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


def _once(look: Look, every: float, failures: tuple[type[Exception], ...], terminal: bool) -> None:
    def begin() -> None:
        if terminal:
            write_raw(CLEAR)
        write(f"{zulu(datetime.now(UTC))}, every {every:g} s; Ctrl-C ends it\n")

    try:
        look(begin)
    except failures as error:
        begin()
        write(f"error: {printable(str(error))}")
    if not terminal:
        write("")


def write_raw(text: str) -> None:
    """Steer the terminal."""
    sys.stdout.write(text)
    sys.stdout.flush()
