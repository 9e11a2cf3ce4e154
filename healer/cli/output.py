"""Writing answers: tables for people, JSON and YAML for machines, on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 100_000
"""Columns of a line: none is ever folded, so that ids stay whole for grep and for copying."""

STYLES: Mapping[str, str] = {
    "delete": "bold red",
    "report": "yellow",
    "keep": "green",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "yes": "bold",
    "no": "dim",
}


class NoReaderError(Exception):
    """Whoever read our output has gone, as `head` does."""


def write(text: str) -> None:
    """Write to standard output at once."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise NoReaderError from None


def write_data(data: object, form: str) -> None:
    """Write as JSON or YAML."""
    if form == "json":
        write(json.dumps(data, indent=2))
    else:
        write(yaml.safe_dump(data, sort_keys=False, default_flow_style=False, width=WIDTH))


def write_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write aligned columns; in colour on a terminal."""
    from rich.console import Console  # by whoever draws a table: the controller draws none, and it starts sooner
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header.upper(), no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(table)
    write("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _cell(value: object) -> Text:
    from rich.text import Text

    text = "-" if value is None or value == "" else printable(str(value))
    return Text(text, style=STYLES.get(text, ""))


def printable(text: str) -> str:
    """Escape control characters: ids and messages are written by others and must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def age(seconds: float) -> str:
    """A time span as kubectl shows it: `45s`, `12m`, `3h20m`, `4d`."""
    minutes = int(seconds // 60)
    if seconds < 0:
        return f"-{age(-seconds)}"
    if minutes < 2:
        return f"{int(seconds)}s"
    if minutes < 120:
        return f"{minutes}m"
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes < 48 * 60 else f"{minutes // 1440}d"
