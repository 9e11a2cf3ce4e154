"""The line that says what all orphans together hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

Held = Mapping[str, Any]
"""The key `holds` of a finding in JSON."""

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_BYTES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1, "bytes"))
_SHORT = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"), (1, "B"))


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


def freed(deleted: Iterable[Mapping[str, Any]]) -> str | None:
    """Return `37 deletions freed 52 cores, 210 GiB, 2 GPUs`, None where none of these Pods held anything."""
    holdings = [holds for each in deleted if isinstance(holds := each.get("holds"), Mapping)]
    amounts = ", ".join(_amounts(holdings))
    return f"{_number(len(holdings), 'deletion')} freed {amounts}" if amounts else None


def held(holds: Held | None) -> str | None:
    """Return what one Pod holds in few words: `2cpu 4Gi 1gpu`; None where it holds nothing."""
    if not holds:
        return None
    cores, memory = float(holds.get("cpu_cores") or 0), float(holds.get("memory_bytes") or 0)
    words = [f"{cores:g}cpu" if cores >= 1 else f"{cores * 1000:.0f}m"] if cores else []
    if memory:
        size, unit = next((size, unit) for size, unit in _SHORT if memory >= size or size == 1)
        words.append(f"{round(memory / size, 1):g}{unit}")
    for name, amount in sorted((holds.get("extended") or {}).items()):
        words.append(f"{float(amount):g}{name.rpartition('/')[2]}")
    return " ".join(words) or None


def _amounts(holdings: Sequence[Held]) -> Iterable[str]:
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


def _oldest(holdings: Sequence[Held], now: float) -> str:
    begun = [datetime.fromisoformat(since).timestamp() for holding in holdings if (since := holding.get("since"))]
    if not begun:
        return ""
    seconds = max(0.0, now - min(begun))
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size or size == 1)
    return f"; oldest {_number(int(seconds // size), unit)}"


def _number(number: float, word: str) -> str:
    return f"{number:g} {word}{'' if number == 1 else 's'}"
