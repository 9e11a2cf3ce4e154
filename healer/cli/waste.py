"""The line that says what all orphans together hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

Holding = Mapping[str, Any]
"""The key `holds` of a finding in JSON."""

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_BYTES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1, "bytes"))


def summary(suspects: Iterable[Mapping[str, Any]], now: float) -> str | None:
    """Return `37 orphans hold 52 cores, 210 GiB, 2 GPUs; oldest 3 days`, None where none holds anything.

    `now` is epoch seconds; the age is counted since the task's end, else the Pod's creation.
    """
    holdings = [holds for suspect in suspects if isinstance(holds := suspect.get("holds"), Mapping)]
    if not holdings:
        return None
    amounts = [*_amounts(holdings)]
    what = f"{_number(len(holdings), 'orphan')} {'hold' if len(holdings) > 1 else 'holds'}"
    return f"{what} {', '.join(amounts) or 'nothing that it asked for'}{_oldest(holdings, now)}"


def _amounts(holdings: Sequence[Holding]) -> Iterable[str]:
    cores = sum(float(holding.get("cpu_cores") or 0) for holding in holdings)
    if cores:
        yield _number(round(cores, 2), "core")
    memory = sum(float(holding.get("memory_bytes") or 0) for holding in holdings)
    if memory:
        yield _memory(memory)
    extended: dict[str, float] = {}
    for holding in holdings:
        for name, amount in (holding.get("extended") or {}).items():
            extended[name] = extended.get(name, 0.0) + float(amount)
    gpus = sum(extended.pop(name) for name in list(extended) if name.endswith("/gpu"))
    if gpus:
        yield _number(gpus, "GPU")
    yield from (f"{amount:g} {name}" for name, amount in sorted(extended.items()))


def _memory(amount: float) -> str:
    size, unit = next((size, unit) for size, unit in _BYTES if amount >= size or size == 1)
    return f"{round(amount / size, 1):g} {unit}"


def _oldest(holdings: Sequence[Holding], now: float) -> str:
    begun = [datetime.fromisoformat(since).timestamp() for holding in holdings if (since := holding.get("since"))]
    if not begun:
        return ""
    seconds = max(0.0, now - min(begun))
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size or size == 1)
    return f"; oldest {_number(int(seconds // size), unit)}"


def _number(number: float, word: str) -> str:
    return f"{number:g} {word}{'' if number == 1 else 's'}"
