"""Log lines on standard error: JSON for machines, text for people; ours and the libraries' alike."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import msgspec

from healer.config import LogFormat, LogLevel
from healer.log import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_SHARED: tuple[Processor, ...] = (
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def set_up(form: LogFormat, level: LogLevel) -> None:
    """Send every log line of this process through one formatter, from `level` on."""
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[_drop_meta, *_rendered(form)])
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


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
        ]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
