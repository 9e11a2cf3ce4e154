"""Keeps small what the C allocator holds, and what looking for garbage costs, in a process that runs for months."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_ARENA_MAX = -8

ARENAS = 2
"""Two suffice for a few threads that mostly wait."""


def limit_arenas() -> None:
    """Let all threads share a few arenas; does nothing where the C library has none.

    glibc gives each new thread an arena of its own, up to eight per core, and hardly ever returns what lies in one:
    short-lived threads that parse answers let the resident size creep up though nothing is kept.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Return to the system what lies free between what is in use; takes milliseconds.

    What a pass needs for a moment (answers, tracebacks, TLS) leaves holes that glibc returns only from the heap's end.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


GC_THRESHOLD = 20_000
"""New objects between two looks for cyclic garbage; with Python's own 700 it looks, while the picture of the Pods is
built, through all of it again and again."""


def tune_gc() -> None:
    """Look for cyclic garbage less often: what a pass makes has no cycles, and goes when nothing refers to it."""
    gc.set_threshold(GC_THRESHOLD, 20, 20)
