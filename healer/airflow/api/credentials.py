"""How we prove to Airflow who we are: a login that is renewed, a fixed token, or a file that is read for each request.

Airflow 3 knows no refresh of bearer tokens, so an old one is replaced by a new login: ahead of its end (at 80 % of its
life), and when the server refuses it. No password and no token is ever part of a message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from healer.airflow.api.credential import Credential, bearer, cookie
from healer.airflow.api.exec import ExecToken, Program
from healer.airflow.api.token_life import claims, expiry, lifetime, subject
from healer.clock import boottime
from healer.config import AirflowConfig
from healer.config.secret_files import SecretKind, read_secret
from healer.errors import FailureKind, FailureScope, LoginRefusedError, NoAnswerError

RENEW_AT = 0.8
"""Share of a token's life after which a new one is fetched."""

FIRST_WAIT = 5.0
LONGEST_WAIT = 300.0
"""Seconds between two logins with a password that was refused: doubled each time, so that no account gets locked."""

RETRY_EARLY = 60.0
"""Seconds until an early renewal that failed is tried again; the old token is still good meanwhile."""


class Credentials(Protocol):
    """Where credentials come from. Safe to use from several threads."""

    @property
    def renewed_here(self) -> bool:
        """Whether we get a new one ourselves before it ends; else somebody else has to."""

    @property
    def expires(self) -> float | None:
        """When the newest one ends, in seconds since the epoch; None if that is not known."""

    @property
    def failed_renewals(self) -> int:
        """How often in a row no new one could be had."""

    @property
    def used(self) -> Credential | None:
        """The one that was given out last."""

    def current(self) -> Credential:
        """Return a credential. Raises LoginRefusedError or NoAnswerError."""

    def renewed(self, refused: Credential, why: str) -> Credential:
        """Return another credential than the one the server has just refused, `why` in half a sentence.

        Raises LoginRefusedError, which says `why` and what to do, or NoAnswerError.
        """


class CredentialLife(Struct, frozen=True):
    """What is known of the credential that was used last.

    `expires` is in seconds since the epoch, None if that is not known. `renewable`: we get the next one ourselves, else
    somebody else has to. `failed_renewals`: how often in a row that has failed. `subject` and `role` are what the token
    says of itself, to be shown only.
    """

    expires: float | None = None
    renewable: bool = False
    failed_renewals: int = 0
    subject: str | None = None
    role: str | None = None


def life(credentials: Credentials) -> CredentialLife:
    """Return what is known of the credential that was used last; nothing is asked, read or run for it."""
    used = credentials.used
    token = used.value if used is not None else ""
    return CredentialLife(
        credentials.expires,
        credentials.renewed_here,
        credentials.failed_renewals,
        subject(token),
        claims(token).role,
    )


class Given:
    """A credential that somebody else keeps fresh: read for each request, so that whoever rotates it need not tell."""

    renewed_here = False
    failed_renewals = 0

    def __init__(self, read: Callable[[], Credential], remedy: str) -> None:
        """`remedy` is what to do when it is refused."""
        self._read, self._remedy = read, remedy
        self.used: Credential | None = None

    @property
    def expires(self) -> float | None:
        """When the one that was read last ends."""
        return None if self.used is None else expiry(self.used.value)

    def current(self) -> Credential:
        """Return what is there now."""
        self.used = there = self._read()
        return there

    def renewed(self, refused: Credential, why: str) -> Credential:
        """Return it if it is another one by now."""
        there = self.current()
        if there == refused:
            raise LoginRefusedError(f"{why}; {self._remedy}", "token")
        return there


def given(config: AirflowConfig) -> Credentials | None:
    """Return the credential that the configuration or a file of its holds, None where a user is to log in."""
    if config.token_file is not None:
        token_file = config.token_file
        remedy = "put a new one into the file that tokenFile names"
        return Given(lambda: bearer(_read(token_file, "tokenFile", "token")), remedy)
    if config.cookie_file is not None:
        cookie_file = config.cookie_file
        remedy = "put a new one into the file that cookieFile names"
        return Given(lambda: cookie(_read(cookie_file, "cookieFile", "cookie")), remedy)
    if config.exec is not None:
        return Executed(Program(config.exec.command, config.exec.timeout))
    if config.token is not None:
        token = bearer(config.token.get_secret_value())
        return Given(lambda: token, "set a new one")
    return None


def password(config: AirflowConfig) -> Callable[[], str]:
    """Return what gives the user's password; it raises NoAnswerError where its file can't be read."""
    path = config.password_file
    fixed = config.password.get_secret_value() if config.password else ""
    return (lambda: _read(path, "passwordFile", "password")) if path else (lambda: fixed)


def client_secret(config: AirflowConfig) -> Callable[[], str]:
    """Return what reads the client's secret; it raises NoAnswerError where its file can't be read."""
    path = config.client_secret_file or Path()
    return lambda: _read(path, "clientSecretFile", "password")


class Login:
    """User and password, exchanged for a token. A refusal is remembered, so that nobody's account gets locked."""

    renewed_here = True

    def __init__(self, username: str, password: Callable[[], str], exchange: Callable[[str, str], str]) -> None:
        """`exchange` turns user and password into a token."""
        self._username, self._password, self._exchange = username, password, exchange
        self._lock = threading.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._refusal: tuple[str, NoAnswerError, float] | None = None
        self._wait = FIRST_WAIT
        self.failed_renewals = 0

    @property
    def expires(self) -> float | None:
        """When the token ends."""
        return None if self._token is None else expiry(self._token)

    @property
    def used(self) -> Credential | None:
        """The token."""
        return None if self._token is None else bearer(self._token)

    def current(self) -> Credential:
        """Return the token; log in if there is none or it grows old."""
        with self._lock:
            if self._token is None:
                self._fresh()
            elif boottime() >= self._renew_at:
                self._renew_early()
            return bearer(str(self._token))

    def renewed(self, refused: Credential, why: str) -> Credential:  # noqa: ARG002 - a new login makes up for whatever it was
        """Log in again, unless another thread already has."""
        with self._lock:
            if self._token is None or bearer(self._token) == refused:
                self._fresh()
            return bearer(str(self._token))

    def _renew_early(self) -> None:
        try:
            self._fresh()
        except NoAnswerError:
            # The old token still has a fifth of its life; if it has not, the server will say so.
            self._renew_at = boottime() + RETRY_EARLY  # also after a refusal that is only remembered

    def _fresh(self) -> None:
        password = self._password()
        if self._refusal is not None:
            refused, why, until = self._refusal
            if refused == password and boottime() < until:
                raise why
        try:
            token = self._exchange(self._username, password)
        except NoAnswerError as why:
            self.failed_renewals += 1
            self._renew_at = boottime() + RETRY_EARLY  # also where the old token is accepted again by then
            if isinstance(why, LoginRefusedError) or why.code == "500":  # Keycloak's word for a wrong password
                self._refusal = password, why, boottime() + self._wait
                self._wait = min(2 * self._wait, LONGEST_WAIT)
            raise
        self._token, self._refusal, self._wait, self.failed_renewals = token, None, FIRST_WAIT, 0
        self._renew_at = boottime() + RENEW_AT * lifetime(token)


class Executed:
    """What a program prints, which is run again before that ends and when it is refused."""

    renewed_here = True

    def __init__(self, program: Program) -> None:
        self._program = program

    @property
    def expires(self) -> float | None:
        """When what the program has printed ends."""
        return self._program.expires

    @property
    def failed_renewals(self) -> int:
        """How often in a row the program has failed."""
        return self._program.failures

    @property
    def used(self) -> Credential | None:
        """What it has printed last."""
        token = self._program.token
        return None if token is None else _printed(token)

    def current(self) -> Credential:
        """Return what the program has printed."""
        return _printed(self._program.current())

    def renewed(self, refused: Credential, why: str) -> Credential:
        """Run the program again, unless another thread already has."""
        return _printed(self._program.renewed(lambda token: _printed(token) == refused, why))


def _printed(token: ExecToken) -> Credential:
    return cookie(token.token) if token.is_cookie else bearer(token.token)


def _read(path: Path, key: str, kind: SecretKind) -> str:
    """Return the one line of a secret's file. The path is not told: it may be the secret, given in the wrong key."""
    failure: FailureKind = "login" if kind == "password" else "token"
    try:
        return read_secret(path, kind)
    except ValueError as error:
        unread = str(error).startswith("can't read")
        why = str(error).replace("can't read", f"can't read {key},", 1) if unread else f"{key}: {error}"
        raise NoAnswerError(why, FailureScope.SERVER, kind=failure) from None
