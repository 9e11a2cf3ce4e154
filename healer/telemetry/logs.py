"""Log lines on standard error: JSON for machines, text for people; ours and the libraries' alike."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from healer.config import LogFormat, LogLevel
from healer.log import structlog
from healer.model import printable
from healer.redaction import scrubbed

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_SHARED: tuple[Processor, ...] = (
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


class _StandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is at the moment: a progress line that is shown there moves out of the way."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: object) -> None:
        raise AttributeError("it is always standard error")


AUDIT = ("healer.deletion.audit_log", "healer.insights.diagnostics")
"""Who writes down what is deleted, and why."""


def set_up(form: LogFormat, level: LogLevel, audit: LogLevel | None = None) -> None:
    """Send every log line of this process through one formatter, from `level` on.

    `audit`: from when on the lines of those are written who write down what is deleted; like any other's by default.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[_drop_meta, *_rendered(form)])
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in AUDIT:
        logging.getLogger(name).setLevel(audit.upper() if audit else logging.NOTSET)


_TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""The variables of a frame may be a token."""

_drop_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta


def _lead(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put first what the eye looks for."""
    first = ("timestamp", "level", "message", "logger")
    return {key: event[key] for key in sorted(event, key=lambda key: first.index(key) if key in first else len(first))}


def _plain(value: object) -> object:
    """Return a value as JSON has it: a proof with all its fields, anything else as a text."""
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, order="deterministic", str_keys=True)
    return str(value)


def _rendered(form: LogFormat) -> list[Processor]:
    if form is LogFormat.JSON:
        return [
            structlog.processors.ExceptionRenderer(_TRACEBACKS),
            structlog.processors.EventRenamer("message"),
            _lead,
            structlog.processors.JSONRenderer(default=_plain),
            _scrub,
        ]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    last: list[Processor] = [_fold] if sys.stderr.isatty() else []
    return [structlog.processors.format_exc_info, _for_people, _escape, plain, _scrub, *last]


def _for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave away what only machines read: records, nothings, fractions of a second, the names of our own modules."""
    shown = {key: value for key, value in event.items() if value is not None and not isinstance(value, msgspec.Struct)}
    if str(shown.get("logger", "")).startswith("healer."):
        del shown["logger"]
    shown["timestamp"] = f"{str(event.get('timestamp', ''))[:19]}Z"
    return {key: _in_words(value) for key, value in shown.items()}


def _in_words(value: object) -> object:
    """Write a mapping as `a 1, b 2` and a list as `a, b`: braces and quotes help nobody to read."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(_in_words(inner)) for inner in value)
    return value


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let no field steer a terminal or pass for a line of its own: ids and messages are written by others.

    Texts of several lines keep them, each indented.
    """
    return {printable(key): _escaped(key, value) for key, value in event.items()}


def _escaped(key: str, value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    if key not in _OF_SEVERAL_LINES:
        return printable(text)
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))


def _fold(_logger: WrappedLogger, _method: str, text: Any) -> str:
    """Fold a line at words, as wide as the terminal is now, and colour its level."""
    width = shutil.get_terminal_size().columns
    with suppress(OSError):  # whoever redirects it meanwhile
        width = os.get_terminal_size(sys.stderr.fileno()).columns or width
    lines = [_folded_line(line, max(width, 10)) for line in text.split("\n")]
    return _LEVEL.sub(lambda found: f"\x1b[{_COLOURS.get(found[1], '0')}m{found[0]}\x1b[0m", "\n".join(lines), count=1)


def _folded_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False)


_LEVEL = re.compile(r"\[(\w+) *\]")
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31"}

_OF_SEVERAL_LINES = frozenset({"exception", "stack"})


def _scrub(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Take out of a finished line what a library has put there, and the one control character that JSON leaves."""
    return scrubbed(line).replace("\x7f", r"\u007f")
