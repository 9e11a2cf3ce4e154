"""Some processes side by side, each of which finds out whether one mutant lives."""

from __future__ import annotations

import enum
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Self, TypeVar

CPU_SECONDS = 120
"""How long a mutant may compute until it counts as hung. No clock on the wall: others use the machine too."""

WALL_SECONDS = 1800.0
"""How long a mutant may do nothing at all."""

_LIVES, _KILLED, _BROKEN = 0, 1, 3


class Fate(enum.Enum):
    """What becomes of a mutant."""

    LIVES = "lives"
    KILLED = "killed"
    HUNG = "hung"


T = TypeVar("T")


class Forks(Generic[T]):
    """Processes forked from this one, at most so many at a time. The end of the block waits for all, or ends them."""

    def __init__(self, most: int, told: Callable[[T, Fate], None]) -> None:
        self._most, self._told = most, told
        self._running: dict[int, tuple[T, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._wait(0)
        for pid in self._running:
            _kill(pid)
            os.waitpid(pid, 0)

    def start(self, what: T, lives: Callable[[], bool]) -> None:
        """Find out in a process of its own, as soon as there is room. `lives` returns whether all tests passed."""
        self._wait(self._most - 1)
        self._running[child(lives)] = what, time.monotonic()

    def _wait(self, most: int) -> None:
        """Wait until no more than so many are running."""
        while len(self._running) > most:
            for pid, (what, started) in list(self._running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del self._running[pid]
                    self._told(what, _fate(os.waitstatus_to_exitcode(status)))
                elif time.monotonic() - started > WALL_SECONDS:
                    _kill(pid)
            time.sleep(0.01)


def _fate(code: int) -> Fate:
    """Return what an exit code says. Raises RuntimeError where it is the trying itself that failed."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Fate.HUNG
    if code not in (_LIVES, _KILLED, -signal.SIGSEGV):
        raise RuntimeError(f"a mutant could not be tried: exit code {code}")
    return Fate.KILLED if code else Fate.LIVES


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def child(lives: Callable[[], bool]) -> int:
    """Fork; return the process id of the child, which ends with what `lives` returns and says nothing."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = _BROKEN
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        code = _LIVES if lives() else _KILLED
    finally:
        os._exit(code)
