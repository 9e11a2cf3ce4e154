"""Writing answers: tables for people, JSON, YAML and CSV for machines, on standard output.

On a terminal nothing is left to its own folding: tables fit its width, what is cut there ends with `…`, sentences are
folded at words. Elsewhere lines are whole, however long, so that `grep` and copying find ids as they are.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

import yaml
from msgspec import Struct

from healer.errors import NoReaderError
from healer.model import printable

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 100_000
"""Columns of a line where there is no terminal: more than any."""

FALLBACK_WIDTH = 80
"""Columns of a terminal that does not tell."""

CUT = "…"
GAP = 2
TAIL = 9
"""What is kept of a Pod's end: `-` and the eight characters that the operator adds."""
LEAST_PROSE = 20
"""Columns below which a sentence in a table is not folded any narrower."""


class Shrink(Enum):
    """What a column does where the terminal is too narrow for all of them."""

    NEVER = 1
    END = 2
    """It is cut at its end."""
    MIDDLE = 3
    """It is cut in its middle: a Pod's name ends with what tells it from its neighbours."""
    FOLD = 4
    """It is a sentence: it goes on in the next line."""


class Styled(Struct, frozen=True):
    """A value of a table and how it looks on a terminal, in the terms of rich."""

    value: object
    style: str


class Column(Struct, frozen=True):
    """A column of a table, and down to how many columns of the terminal it may shrink."""

    title: str
    shrink: Shrink = Shrink.NEVER
    least: int = 8


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


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return how many columns the terminal behind a stream (standard output) has, None where it is none."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    if not os.environ.get("COLUMNS", "").isdecimal():  # which a user sets where the terminal's own figure is wrong
        with suppress(OSError):  # a stream of another kind, as in tests
            return os.get_terminal_size(stream.fileno()).columns or FALLBACK_WIDTH
    return shutil.get_terminal_size((FALLBACK_WIDTH, 24)).columns


def write(text: str) -> None:
    """Write to standard output at once."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise NoReaderError from None


def write_prose(text: str, indent: str = "") -> None:
    """Write sentences; on a terminal they are folded at words, further lines begin with `indent`."""
    write(folded(text, terminal_width(), indent))


def can_ask(form: str) -> bool:
    """Whether somebody can be asked: on standard output, or beside an answer in another form than a table."""
    return sys.stdin.isatty() and (sys.stdout if form == "table" else sys.stderr).isatty()


def write_error(text: str, indent: str = "  ") -> None:
    """Write a line to standard error, folded as above."""
    width = terminal_width(sys.stderr)
    sys.stderr.write(folded(text, width, indent) + "\n")
    sys.stderr.flush()


def folded(text: str, width: int | None, indent: str = "") -> str:
    """Return lines that are no wider than that; a word that is, as a URL may be, is broken."""
    if width is None:
        return text
    return "\n".join(_fold(line, width, indent) for line in text.split("\n"))


def _fold(line: str, width: int, indent: str) -> str:
    spread = line if line.isascii() else _spread(line)
    if len(spread) <= width:
        return line
    begin = line[: len(line) - len(line.lstrip())]
    # A character of two columns may be parted from its filler: then the next line begins with one that counts once.
    room = max(width - (spread is not line), len(begin + indent) + 1)
    return textwrap.fill(
        spread.strip(), room, initial_indent=begin, subsequent_indent=begin + indent, break_on_hyphens=False
    ).replace(_FILLER, "")


_FILLER = "\0"
"""Stands before a character of two columns while a line is folded. Texts hold none: control characters are escaped."""


def _spread(line: str) -> str:
    """Return a line in which each character counts as many times as it has columns on a terminal."""
    from rich.cells import get_character_cell_size

    return "".join(_FILLER + each if get_character_cell_size(each) > 1 else each for each in line)


def write_data(data: object, form: str) -> None:
    """Write as JSON or YAML."""
    if form == "json":
        write(json.dumps(data, indent=2))
    else:
        write(yaml.safe_dump(data, sort_keys=False, default_flow_style=False, width=WIDTH))


def write_csv(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write comma-separated values (RFC 4180), a line with the names first.

    A text that a spreadsheet would take for a formula, as others may have called a DAG, begins with an apostrophe.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(headers)
    lines.writerows([_csv_cell(value) for value in row] for row in rows)
    write(text.getvalue())


_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""With which a formula begins; the wide ones in spreadsheets of East Asia."""


def _csv_cell(value: object) -> str:
    text = "" if value is None else printable(str(value))
    return f"'{text}" if text.startswith(_FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdigit()


def write_table(columns: Sequence[Column | str], rows: Iterable[Sequence[Any]]) -> None:
    """Write aligned columns; in colour on a terminal, and no wider than it.

    Of columns given by their titles alone the last is a sentence, the others are cut at their ends.
    """
    from rich.console import Console  # by whoever draws a table: the controller draws none, and it starts sooner
    from rich.table import Table

    made = [_column(each, last=number == len(columns) - 1) for number, each in enumerate(columns)]
    cells = [[value if isinstance(value, Styled) else _styled(value) for value in row] for row in rows]
    room = terminal_width()
    widths = _fitted(made, _natural(made, cells), room)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for column, width in zip(made, widths, strict=True):
        no_wrap = column.shrink is not Shrink.FOLD
        table.add_column(cut(column.title.upper(), width), width=width, no_wrap=no_wrap, overflow="fold")
    for row in cells:
        table.add_row(*(_cell(*each) for each in zip(row, made, widths, strict=True)))
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(table)
    write("\n".join(_line(line.rstrip(), room) for line in captured.get().splitlines()))


def _column(given: Column | str, *, last: bool) -> Column:
    if isinstance(given, Column):
        return given
    return Column(given, Shrink.FOLD, LEAST_PROSE) if last else Column(given, Shrink.END)


def _natural(columns: Sequence[Column], rows: Sequence[Sequence[Styled]]) -> list[int]:
    """Return how wide each column is where it loses nothing."""
    from rich.cells import cell_len

    return [
        max(cell_len(column.title), 1, *(cell_len(_text(row[number].value)) for row in rows))
        for number, column in enumerate(columns)
    ]


def _fitted(columns: Sequence[Column], natural: Sequence[int], room: int | None) -> list[int]:
    """Return the widths with which a line fits: sentences shrink first, then whichever column is widest."""
    widths = list(natural)
    if room is None:
        return widths
    over = sum(widths) + GAP * (len(widths) - 1) - room
    for kinds in ((Shrink.FOLD,), (Shrink.END, Shrink.MIDDLE)):
        may = [number for number, column in enumerate(columns) if column.shrink in kinds]
        while over > 0 and (wide := [n for n in may if widths[n] > columns[n].least]):
            widths[max(wide, key=lambda n: widths[n])] -= 1
            over -= 1
    return widths


def cut(text: str, width: int, shrink: Shrink = Shrink.END) -> str:
    """Return a text that is no wider than that; `…` stands where something is missing."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    if shrink is not Shrink.MIDDLE or width < 4:
        return set_cell_size(text, max(0, width - 1)).rstrip() + CUT
    tail = text[-min(TAIL, width // 2) :]
    while cell_len(tail) > width // 2:  # a character may be two columns wide
        tail = tail[1:]
    return set_cell_size(text, width - 1 - cell_len(tail)).rstrip() + CUT + tail


def _text(value: object) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def _styled(value: object) -> Styled:
    return Styled(value, STYLES.get(_text(value), ""))


def _cell(cell: Styled, column: Column, width: int) -> Text:
    from rich.text import Text

    text = _text(cell.value)
    return Text(text if column.shrink is Shrink.FOLD else cut(text, width, column.shrink), style=cell.style)


def _line(line: str, room: int | None) -> str:
    """Return a line that fits also where the least that its columns need does not."""
    from rich.ansi import AnsiDecoder
    from rich.cells import cell_len
    from rich.console import Console

    if room is None:
        return line
    text = AnsiDecoder().decode_line(line)
    if cell_len(text.plain) <= room:
        return line
    text.truncate(room, overflow="ellipsis")
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(text, end="")
    return captured.get()


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
