"""`python -m tests.faults.hasty CLOCK run --config …`: kpo-healer with short timeouts and a wall clock that jumps.

What takes half a minute in production takes two seconds here; what is done then is the same. CLOCK is a file with the
seconds by which the wall clock is wrong; only this process sees them, and no monotonic clock does.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from itertools import repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

_CLOCK: Final = Path(sys.argv[1]) if __name__ == "__main__" else Path("/nonexistent")
_TIME, _TIME_NS = time.time, time.time_ns


def jump() -> float:
    """How wrong the wall clock is, in seconds."""
    try:
        return float(_CLOCK.read_text() or 0)
    except OSError:
        return 0.0


class Jumping(dt.datetime):
    """Tells the wrong time in the same way; what it makes are plain datetimes."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return dt.datetime.now(tz) + dt.timedelta(seconds=jump())

    @classmethod
    def utcnow(cls) -> Any:
        return dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=jump())


def move_the_clock() -> None:
    """Before anything else is imported: a default argument keeps the function it was given."""
    time.time = lambda: _TIME() + jump()
    time.time_ns = lambda: _TIME_NS() + int(jump() * 1e9)


def move_the_dates() -> None:
    """After everything is imported, in those modules that ask for the time of day."""
    for name, module in list(sys.modules.items()):
        if name == "healer.informer.kopf_watcher" or name.partition(".")[0] in {"kopf", "kubernetes", "structlog"}:
            _move(module)


def _move(module: ModuleType) -> None:
    here = vars(module).get("datetime")
    if here is dt.datetime:
        vars(module)["datetime"] = Jumping
    elif here is dt:
        vars(module)["datetime"] = SimpleNamespace(**{**vars(dt), "datetime": Jumping})


def hurry() -> None:
    """Shorten what the healer waits for, and its pages, all of it constants; a DELETE has the time it always has."""
    from healer.cluster import client
    from healer.informer import backoff, settings

    for where, name, value in (
        (client, "LIST_TIMEOUT", 2.0),
        (client, "READ_TIMEOUT", 2.0),
        (client, "PAGE_SIZE", 16),
        (settings, "REQUEST_TIMEOUT", 2.0),
        (settings, "CONNECT_TIMEOUT", 2.0),
        (backoff, "MAX_BACKOFF", 1.0),
        (backoff, "RESET_AFTER", 5.0),
        (backoff.ApiBackoff, "__iter__", lambda _self: repeat(0.5)),
    ):
        if not hasattr(where, name):
            raise AttributeError(f"{where.__name__}.{name} has gone: nothing is shortened")
        setattr(where, name, value)


def main() -> None:
    move_the_clock()
    import kopf
    import kubernetes.config
    import structlog

    import healer.controller
    import healer.informer.kopf_watcher
    from healer.cli import main as cli

    assert all((kopf, kubernetes.config, structlog, healer.controller, healer.informer.kopf_watcher))
    move_the_dates()
    hurry()
    cli(sys.argv[2:])


if __name__ == "__main__":
    main()
