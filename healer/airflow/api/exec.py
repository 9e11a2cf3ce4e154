"""Credentials from a program, as kubectl has them: it prints a token, and is run again before that one ends.

The program gets no shell, no standard input and a session of its own. Whatever it does, it is over within the timeout,
and so is what it has started in its process group: no process, no pipe and no thread is left behind. What it writes to
standard error is never logged; of a failure the last line there is the reason, shortened and scrubbed.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO

import msgspec
from msgspec import Raw, Struct

from healer.airflow.api.token_life import expiry, lifetime
from healer.clock import boottime
from healer.config.secret_files import unprefixed, why_no_token
from healer.errors import FailureScope, LoginRefusedError, NoAnswerError
from healer.model import printable
from healer.redaction import HIDDEN, scrubbed

LONGEST_OUTPUT = 1 << 16
"""Bytes of standard output beyond which the program is stopped: no token is that long."""

LONGEST_REASON = 200
"""Characters of standard error's last line that a message repeats."""

KEPT_STDERR = 2 * LONGEST_OUTPUT
"""Bytes of standard error that are kept, its end: a token there is whole, so that it is known and hidden."""

RENEW_BEFORE = 600.0
"""Seconds before the end of a token at which the program is run again, or a fifth of its life where that is less: time
for several tries, and for an alert, while the old one is still good."""

FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
"""Seconds between two runs of a program that fails: doubled each time, as each run may cost up to its timeout."""

WITHHELD = ("KPO_HEALER_AIRFLOW_PASSWORD", "KPO_HEALER_AIRFLOW_TOKEN")
"""Variables of ours that the program does not get."""

_TICK = 0.02
"""Seconds between two looks whether the program has ended while it keeps its pipes open."""

_REAP = 2.0
"""Seconds within which what was killed must be gone."""


_running: set[int] = set()
_running_lock = threading.RLock()
"""The process groups that are there now. What is in the set is not reaped yet, so that its number is nobody else's.

Whoever holds the lock may be interrupted by a signal's handler that wants it too: the thread has it once more then.
"""


def end_programs() -> None:
    """End every program that runs just now: the process ends, and whoever has started one may not come to it."""
    with _running_lock:
        for group in _running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)


atexit.register(end_programs)


class ExecToken(Struct, frozen=True):
    """What the program has printed: a token, or a cookie where the platform has only a session.

    `expires` are seconds since the epoch, None if the program does not say.
    """

    token: str
    expires: float | None = None
    is_cookie: bool = False

    def __repr__(self) -> str:
        """Never show the token."""
        return f"ExecToken(expires={self.expires})"


class _ExecStatus(Struct):
    token: Raw = Raw(b"null")
    cookie: Raw = Raw(b"null")
    expiration: Raw = msgspec.field(default=Raw(b"null"), name="expirationTimestamp")


class _ExecCredential(Struct):
    """`client.authentication.k8s.io`: what is not used here may be there. `status.cookie` is ours."""

    status: _ExecStatus


_EXEC_CREDENTIAL = msgspec.json.Decoder(_ExecCredential)


class _Ended(Struct, frozen=True):
    """How a program came to its end. `code` is None where it was stopped, `why` then says for what."""

    code: int | None
    out: bytes
    err: bytes
    why: str = ""


def run(command: Sequence[str], timeout: float, now: Callable[[], float] = time.time) -> ExecToken:
    """Run the program once and return what it printed.

    `timeout` in seconds; `now` tells epoch seconds. Raises NoAnswerError with one sentence.
    """
    try:
        ended = _run(command, timeout)
    except FileNotFoundError as error:
        raise _failed(f"there is no program {_name(command)}", error.strerror) from None
    except PermissionError:
        raise _failed(f"the program {_name(command)} may not be run: it must be executable") from None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "its arguments can't be passed on"
        raise _failed(f"the program {_name(command)} can't be run", what) from None
    if ended.code is None:
        raise _failed(f"the program {_name(command)} {ended.why}", _reason(ended))
    if ended.code != 0:
        how = f"ended with {ended.code}" if ended.code > 0 else f"was ended by {_signal(-ended.code)}"
        raise _failed(f"the program {_name(command)} {how}", _reason(ended))
    token = _understood(ended.out, _name(command))
    if token.expires is not None and token.expires <= now():
        raise _failed(
            f"the program {_name(command)} printed a token that has already expired: run it anew by hand, and check "
            "this machine's clock"
        )
    return token


def _run(command: Sequence[str], timeout: float) -> _Ended:
    """Run it and return how it ended; its process group has ended then, too."""
    process = _start(command)
    try:
        out, err, why = _read(process, boottime() + timeout, timeout)
    finally:
        _end(process)
    return _Ended(None if why else process.returncode, out, err, why)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start it, and know of it at once: who ends all programs meanwhile waits, so that none is left out.

    In a thread of its own. A signal's handler runs in the first one, where it would neither wait nor know of it.
    """
    environment = {name: value for name, value in os.environ.items() if name not in WITHHELD}
    started: list[subprocess.Popen[bytes] | Exception] = []

    def start() -> None:
        with _running_lock:
            try:
                process = subprocess.Popen(  # noqa: S603 - no shell; who sets the command may run code here anyway
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env=environment,
                    bufsize=0,
                )
            except Exception as failed:  # noqa: BLE001 - raised again by whoever waits
                started.append(failed)
            else:
                _running.add(process.pid)
                started.append(process)

    thread = threading.Thread(target=start, name="exec", daemon=True)
    thread.start()
    thread.join()
    if isinstance(started[0], Exception):
        raise started[0]
    return started[0]


def _read(process: subprocess.Popen[bytes], until: float, timeout: float) -> tuple[bytes, bytes, str]:
    """Read both pipes until the program has ended; return them and why it must be stopped, empty if it need not."""
    out, err = bytearray(), bytearray()
    kept = [(pipe, into) for pipe, into in ((process.stdout, out), (process.stderr, err)) if pipe is not None]
    for pipe, _ in kept:
        os.set_blocking(pipe.fileno(), False)
    while True:
        # Asked before the pipes are read: what it wrote before its end is then there.
        ended = _has_ended(process.pid)
        for pipe, into in kept:
            _drain(pipe, into)
        del err[:-KEPT_STDERR]
        if len(out) > LONGEST_OUTPUT:
            return bytes(out), bytes(err), f"printed more than {LONGEST_OUTPUT >> 10} KiB, which is no token"
        if ended:
            return bytes(out), bytes(err), ""
        if boottime() >= until:
            return bytes(out), bytes(err), f"did not end within {timeout:g} s (exec.timeout sets the limit)"
        time.sleep(_TICK)


def _drain(pipe: IO[bytes], into: bytearray) -> None:
    """Read what is there now, of a flood only a part."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(16):
            piece = os.read(pipe.fileno(), 1 << 14)
            if not piece:
                return
            into += piece


def _has_ended(pid: int) -> bool:
    """Whether the program has ended. It is not reaped: as long as it is not, its number is no other process group's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group and reap it, so that no zombie stays where we are a container's first process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with _running_lock:
        _running.discard(process.pid)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    until = boottime() + _REAP
    while boottime() < until:
        try:
            # Children of the program are ours to reap only where we inherit them; else there is none.
            pid, _ = os.waitpid(-process.pid, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(_TICK)


def _understood(out: bytes, name: str) -> ExecToken:
    """Return what was printed: one line, or an ExecCredential. Raises NoAnswerError."""
    try:
        text = out.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise _failed(f"the program {name} printed what is no text in UTF-8") from None
    if not text:
        raise _failed(f"the program {name} printed nothing: it must print a token or an ExecCredential")
    if text.startswith("{"):
        return _credential(text, name)
    if len(text.splitlines()) > 1:
        raise _failed(
            f"the program {name} printed more than one line: it must print a token alone or an ExecCredential"
        )
    token = unprefixed(text)
    _check(token, name)
    return ExecToken(token)


def _credential(text: str, name: str) -> ExecToken:
    try:
        status = _EXEC_CREDENTIAL.decode(text).status
        token, cookie = (msgspec.json.decode(raw, type=str | None) for raw in (status.token, status.cookie))
        expires = msgspec.json.decode(status.expiration, type=datetime | None)
    except (msgspec.MsgspecError, RecursionError):
        raise _failed(
            f"the program {name} printed JSON that is no ExecCredential: it needs status.token as text, and "
            "status.expirationTimestamp as 2030-01-31T12:00:00Z if it is there"
        ) from None
    if expires is not None and expires.tzinfo is None:
        raise _failed(f"the program {name} printed an expirationTimestamp without a time zone: end it with Z")
    end = None if expires is None else expires.timestamp()
    if cookie and not token:
        if not re.fullmatch(r"[\x20-\x7e]+", cookie):
            raise _failed(f"the program {name} printed a cookie with forbidden characters")
        return ExecToken(cookie, end, is_cookie=True)
    if not token:
        raise _failed(f"the program {name} printed an ExecCredential without status.token: certificates alone won't do")
    token = unprefixed(token.strip())
    _check(token, name)
    return ExecToken(token, end)


def _check(token: str, name: str) -> None:
    if why_no_token(token) is not None:
        raise _failed(f"the program {name} printed what can't be a token: it holds spaces, quotes or no ASCII")


def _reason(ended: _Ended) -> str:
    """Return the last line of standard error, without what was printed as a token, in a bounded and printable form."""
    lines = ended.err.decode("utf-8", "replace").strip().splitlines()
    last = lines[-1].strip() if lines else ""
    for word in _words(ended.out.decode("utf-8", "replace")):
        last = last.replace(word, HIDDEN)
    last = printable(scrubbed(last))
    return last if len(last) <= LONGEST_REASON else f"{last[:LONGEST_REASON]}…"


def _words(out: str) -> Sequence[str]:
    """Return what may be a token in what was printed, the longest first: alone, in JSON, or as a cookie's value."""
    whole = out.split()
    strings = [part for word in whole for part in re.split(r"[\"'\\]", word)]
    values = [part.partition("=")[2] for part in strings]
    found = {word.rstrip(";,") for word in (*whole, *strings, *values)}
    return sorted((word for word in found if len(word) > 7), key=len, reverse=True)


def _failed(what: str, reason: str | None = None) -> NoAnswerError:
    why = f"exec: {what}{f': {reason}' if reason else ''}"
    return NoAnswerError(why, FailureScope.SERVER, "exec", "token")


def _name(command: Sequence[str]) -> str:
    """How a message calls the program: by its file's name, as arguments may be secrets."""
    return printable(scrubbed(command[0].rpartition("/")[2][:80]))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Program:
    """A program that prints tokens: run for the first question, shortly before its token ends, and after a refusal.

    Safe to use from several threads; one of them runs it, the others wait for what it prints.
    """

    def __init__(
        self,
        command: Sequence[str],
        timeout: float,
        run: Callable[[Sequence[str], float], ExecToken] = run,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._command, self._timeout, self._run, self._now = tuple(command), timeout, run, now
        self._lock = threading.Lock()
        self._token: ExecToken | None = None
        self._renew_at = self._ends_at = math.inf
        self._failure: tuple[NoAnswerError, float] | None = None
        self._failure_wait = self._refusal_wait = FIRST_WAIT
        self._renewed_at = -math.inf
        self._failures = 0

    @property
    def expires(self) -> float | None:
        """When the token ends, in seconds since the epoch; None if that is not known."""
        return None if self._token is None else self._token.expires or expiry(self._token.token)

    def current(self) -> ExecToken:
        """Return the token; run the program if there is none or it ends soon. Raises NoAnswerError."""
        with self._lock:
            if self._token is None:
                return self._fresh()
            # A run that has failed after a refusal is made up for, also where the old token is accepted again by now.
            if boottime() < self._renew_at and self._failure is None:
                return self._token
            try:
                return self._fresh()
            except NoAnswerError:
                if boottime() >= self._ends_at:
                    raise
                return self._token

    @property
    def token(self) -> ExecToken | None:
        """What was printed last."""
        return self._token

    @property
    def failures(self) -> int:
        """How often in a row the program has failed."""
        return self._failures

    def renewed(self, is_refused: Callable[[ExecToken], bool], why: str) -> ExecToken:
        """Return another token than was refused, `why` in half a sentence: the program is run again, once.

        Raises LoginRefusedError if it prints the same one or was run for a refusal just before, else NoAnswerError.
        """
        with self._lock:
            if self._token is not None and not is_refused(self._token):
                return self._token
            since = boottime() - self._renewed_at
            if since < self._refusal_wait:
                raise LoginRefusedError(
                    f"{why}; the program of exec printed it, and is run again in {self._refusal_wait - since:.0f} s",
                    "token",
                )
            self._refusal_wait = FIRST_WAIT if since > LONGEST_WAIT else min(2 * self._refusal_wait, LONGEST_WAIT)
            self._renewed_at = boottime()
            token = self._fresh()
        if is_refused(token):
            raise LoginRefusedError(f"{why}; the program of exec prints the same one again", "token")
        return token

    def _fresh(self) -> ExecToken:
        if self._failure is not None and boottime() < self._failure[1]:
            raise self._failure[0]
        try:
            token = self._run(self._command, self._timeout)
        except NoAnswerError as failure:
            self._failures += 1
            self._failure = failure, boottime() + self._failure_wait
            self._failure_wait = min(2 * self._failure_wait, LONGEST_WAIT)
            raise
        self._token, self._failure, self._failure_wait, self._failures = token, None, FIRST_WAIT, 0
        left = lifetime(token.token) if token.expires is None else max(token.expires - self._now(), 0.0)
        self._ends_at = boottime() + left
        self._renew_at = self._ends_at - min(RENEW_BEFORE, left / 5)
        return token
