"""Runs tests that pytest has collected: once to see what they call, and then some of them with a mutant."""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from tests.mutation.forks import child
from tests.mutation.grafting import name_of


class Rehearsed(NamedTuple):
    """What each test calls of a module and how long it takes (seconds of CPU), and how many mutants it killed."""

    calls: Sequence[frozenset[str]]
    seconds: Sequence[float]
    kills: mmap.mmap

    def tests_of(self, names: frozenset[str]) -> list[int]:
        """Return the tests that call one of these functions: those that killed most first, then the quickest."""
        tests = [test for test, called in enumerate(self.calls) if called & names]
        return sorted(tests, key=lambda test: (-self.kills[test], self.seconds[test]))

    def remember(self, test: int) -> None:
        """Count a kill, seen by all processes."""
        self.kills[test] = min(255, self.kills[test] + 1)


def rehearse(session: pytest.Session, path: str) -> Rehearsed:
    """Run all tests in a process of its own and return what they call of this file. Exits if one fails."""
    reading, writing = os.pipe()
    pid = child(lambda: _tell(session, path, writing))
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    if status or not text:
        raise SystemExit(f"without any mutant: {text or 'the tests did not come to an end'}")
    seen = json.loads(text)
    calls, seconds = [frozenset(names) for names, _ in seen], [lasted for _, lasted in seen]
    return Rehearsed(calls, seconds, mmap.mmap(-1, len(seen)))


def _tell(session: pytest.Session, path: str, writing: int) -> bool:
    seen, failed = [], None
    for item in session.items:
        called: set[str] = set()
        started = time.process_time()
        failed = _traced(session, item, path, called)
        seen.append((sorted(called), time.process_time() - started))
        if failed is not None:
            break
    with os.fdopen(writing, "w") as pipe:
        pipe.write(f"{item.nodeid} fails" if failed is not None else json.dumps(seen))
    return failed is None


def _traced(session: pytest.Session, item: pytest.Item, path: str, called: set[str]) -> int | None:
    def note(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code.co_filename == path:
            called.add(name_of(frame.f_code))

    sys.settrace(note)
    threading.settrace(note)
    try:
        return run(session, [item])
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def run(session: pytest.Session, items: Sequence[pytest.Item]) -> int | None:
    """Run tests in this order until one fails; return its place, None if all pass."""
    for place, item in enumerate(items):
        following = items[place + 1] if place + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return place
    return None
