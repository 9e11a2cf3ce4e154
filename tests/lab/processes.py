"""Child processes of the lab: start them, know when they are ready, freeze them, and never leave one behind.

Three nets, so that nothing survives a test run:

1. `Process.stop` (context managers call it) ends a child with everything it started;
2. an `atexit` hook stops what is still running when Python ends;
3. a guard process ends the rest when Python itself is killed: it holds the read end of a pipe that closes with us.

Each child leads a session of its own (POSIX `setsid`). Grandchildren may change their process group (Airflow's task
processes do), but they stay in the session, so the session is what is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_GUARD: Final = """
import json, os, shutil, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sessions, folders = set(), set()
for line in sys.stdin:
    what = json.loads(line[1:])
    known = sessions if isinstance(what, int) else folders
    (known.add if line[0] == "+" else known.discard)(what)
def members():
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc/self") else []):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if int(stat.read().rpartition(")")[2].split()[3]) in sessions:
                    yield int(pid)
        except OSError:
            pass
for _ in range(3):
    for end, targets in ((os.killpg, sessions), (os.kill, list(members()))):
        for target in targets:
            try:
                end(target, signal.SIGKILL)
            except OSError:
                pass
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


class LabError(Exception):
    """The lab cannot do what was asked; the text is one sentence (plus a log's tail) that says what to do."""


def wait_for(
    condition: Callable[[], T], *, timeout: float = 30, what: str = "the condition", interval: float = 0.05
) -> T:
    """Waits until `condition()` is truthy and returns that value.

    `timeout` and `interval` are seconds. Raises LabError naming `what` when the time is over. What `condition` raises
    goes through: a condition that expects errors handles them.
    """
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise LabError(f"{what} did not come true within {timeout:g} s")
        time.sleep(interval)


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listens on, all different.

    They lie below the range from which the kernel takes the local ports of outgoing connections: a client that keeps
    knocking while a server restarts would otherwise be given the server's own port.
    """
    with contextlib.ExitStack() as held:
        return [_hold_port(held) for _ in range(count)]


def _hold_port(held: contextlib.ExitStack) -> int:
    for port in (*(random.randrange(12000, _first_ephemeral()) for _ in range(50)), 0):
        sock = socket.socket()
        held.callback(sock.close)
        with contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return int(sock.getsockname()[1])
    raise LabError("no free port on 127.0.0.1: stop other labs that still run")


@functools.cache
def _first_ephemeral() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        first = 32768
    return first if first > 13000 else 32768


class _Guard:
    """Knows the sessions and folders we made; outlives us just long enough to end and remove them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[int, Process] = {}
        self._stopping = False
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        atexit.register(self.close)

    def add(self, process: Process) -> None:
        with self._lock:
            if self._stopping:
                process.kill_unseen()
                raise LabError(f"{process.name} was not started: the lab is being stopped")
            self._live[process.pid] = process
            self.tell("+", process.pid)

    def discard(self, pid: int) -> None:
        with self._lock:
            self._live.pop(pid, None)
            self.tell("-", pid)

    def tell(self, sign: str, what: int | str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # the guard may be gone when Python ends
            self._guard.stdin.write(f"{sign}{json.dumps(what)}\n")

    def stop_all(self) -> None:
        with self._lock:
            self._stopping = True
            live = list(self._live.values())
        for process in live:
            process.stop(timeout=5)

    def close(self) -> None:
        self.stop_all()
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        self._guard.wait()


_ONE_GUARD: Final = threading.Lock()


def _guard() -> _Guard:
    with _ONE_GUARD:  # a cache alone would let two threads make one each
        return _make_guard()


@functools.cache
def _make_guard() -> _Guard:
    return _Guard()


def new_folder(prefix: str) -> Path:
    """A temporary folder that is removed even if we are killed; `remove_folder` does it in the usual case."""
    folder = tempfile.mkdtemp(prefix=prefix)
    _guard().tell("+", folder)
    return Path(folder)


def remove_folder(folder: Path) -> None:
    """Removes what `new_folder` made."""
    shutil.rmtree(folder, ignore_errors=True)
    _guard().tell("-", str(folder))


def stop_all() -> None:
    """Ends every child, whichever thread started it, and lets no new one start: for the way out after Ctrl-C."""
    _guard().stop_all()


def session_members(session: int) -> list[int]:
    """The processes of one session, zombies left out; on a system without /proc the leader only."""
    if not Path("/proc/self").exists():
        return [session]
    return [pid for pid, sid in _sessions() if sid == session]


def _sessions() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in brackets may hold anything; state, ppid, pgrp and session follow it.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX":
                    yield int(entry.name), int(session)


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass(eq=False)
class Process:
    """One child process with its log file.

    `ready` is asked until it is truthy; an OSError ("connection refused") or an httpx error counts as "not yet".
    `start_timeout` is in seconds. The log is appended to, so that a restart keeps the earlier lines.
    """

    name: str
    args: Sequence[str | Path]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    ready: Callable[[], object] | None = None
    start_timeout: float = 180
    _popen: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int:
        """Process id, which is the session id of everything it starts; LabError when it was never started."""
        if self._popen is None:
            raise LabError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._popen is None else self._popen.poll()

    def launch(self) -> Process:
        """Starts the child and returns at once; `start` also waits until it is ready."""
        if self.running:
            raise LabError(f"{self.name} is already running")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            try:
                self._popen = subprocess.Popen(
                    [str(arg) for arg in self.args],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=None if self.env is None else dict(self.env),
                    cwd=self.cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(f"{self.name} cannot be started: {error}") from error
        _guard().add(self)
        return self

    def start(self) -> Process:
        """Starts the child and waits until it is ready; a child that ends or takes too long is a LabError."""
        self.launch()
        try:
            self.wait_ready()
        except BaseException:  # Ctrl-C included: whoever called us has no handle to stop it with
            self.stop(timeout=0)
            raise
        return self

    def wait_ready(self) -> None:
        """Waits for `ready`; LabError with the log's tail when the child ends first or the time is over."""
        try:
            wait_for(self._is_ready, timeout=self.start_timeout, what=f"{self.name}: ready")
        except LabError as error:
            raise LabError(f"{error}; its log ends with:\n{self.tail()}") from error

    def _is_ready(self) -> object:
        if not self.running:
            raise LabError(f"{self.name} ended with {self.exit_code} before it was ready")
        try:
            return self.ready is None or self.ready()
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
                return False
            raise

    def wait(self, timeout: float = 60) -> int:
        """Waits for the end and returns the exit code; LabError when it takes longer than `timeout` seconds."""
        assert self._popen is not None
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name} still runs after {timeout:g} s; its log ends with:\n{self.tail()}") from error
        self._bury()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the child alone; nothing happens when it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP for the child and all it started: connections stay open, nothing is answered."""
        _signal_all(session_members(self.pid), signal.SIGSTOP)

    def thaw(self) -> None:
        """Takes `freeze` back."""
        _signal_all(session_members(self.pid), signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL for the child and all it started."""
        self.stop(timeout=0)

    def stop(self, timeout: float = 10) -> int | None:
        """SIGTERM, after `timeout` seconds SIGKILL (0: at once), for the child and all it started; its exit code."""
        if self._popen is None:
            return None
        if timeout > 0 and self.running:
            os.kill(self.pid, signal.SIGTERM)
            self.thaw()  # a stopped process does not see SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self._bury()
        return self._popen.wait()

    def kill_unseen(self) -> None:
        """Takes the start back before anyone knows of it."""
        assert self._popen is not None
        _signal_all(session_members(self.pid), signal.SIGKILL)
        self._popen.wait()

    def _bury(self) -> None:
        while members := session_members(self.pid) if self.running or Path("/proc/self").exists() else []:
            _signal_all(members, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self._popen is not None
                self._popen.wait(0.02)
        _guard().discard(self.pid)

    def restart(self, timeout: float = 0) -> Process:
        """Stops the child (`timeout` as for `stop`) and starts it with the same arguments and ports."""
        self.stop(timeout)
        return self.start()

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def __enter__(self) -> Process:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def run_shown(
    title: str,
    args: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    every: float = 15,
) -> None:
    """Runs a command that takes minutes: a line when it begins, one every `every` seconds, one at the end (stderr).

    LabError with the end of the command's output when it fails. Ended with us, like every child here.
    """
    begin = time.monotonic()
    say(f"{title} …")
    folder = new_folder("kpo-healer-run-")
    process = Process(title, args, folder / "log", env=env, cwd=cwd)
    try:
        process.launch()
        while process.running:
            with contextlib.suppress(LabError):
                wait_for(lambda: not process.running, timeout=every, what=title)
            if process.running:
                say(f"{title}: {time.monotonic() - begin:.0f} s so far")
        if process.exit_code:
            raise LabError(f"{title} failed with exit code {process.exit_code}:\n{process.tail(30)}")
    finally:
        process.stop(timeout=5)
        remove_folder(folder)
    say(f"{title}: done in {time.monotonic() - begin:.0f} s")


def say(text: str) -> None:
    """One line of progress on stderr; whole lines only, because several may run side by side."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
