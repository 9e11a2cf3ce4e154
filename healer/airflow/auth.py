"""How we prove to Airflow who we are: a login that is renewed, a fixed token, or a token file that is read again.

Airflow 3 knows no refresh of bearer tokens, so an old one is replaced by a new login: ahead of its end (at 80 % of its
life), and when the server refuses it. No password and no token is ever part of a message.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from healer.airflow.transport import AirflowRefused, NoAnswerError, Reach
from healer.clock import steady
from healer.config import AirflowConfig

RENEW_AT = 0.8
"""Share of a token's life after which a new one is fetched."""

FIRST_WAIT = 5.0
LONGEST_WAIT = 300.0
"""Seconds between two logins with a password that was refused: doubled each time, so that no account gets locked."""

RETRY_EARLY = 60.0
"""Seconds until an early renewal that failed is tried again; the old token is still good meanwhile."""


class Credentials(Protocol):
    """Where tokens come from. Safe to use from several threads."""

    needs_version_first: bool
    """Whether the server's version should be asked without a token, before any login."""

    def token(self) -> str:
        """Return a token. Raises AirflowRefused or NoAnswerError."""

    def renew(self, refused: str) -> str:
        """Return another token than the one the server has just refused. Raises AirflowRefused or NoAnswerError."""


def credentials(config: AirflowConfig, log_in: Callable[[str, str], str]) -> Credentials:
    """Return what the configuration asks for. `log_in` turns user and password into a token."""
    if config.token_file is not None:
        return TokenFile(config.token_file)
    if config.token is not None:
        return FixedToken(config.token.get_secret_value())
    if config.username is None:
        raise ValueError("neither a user nor a token is configured")
    fixed = config.password.get_secret_value() if config.password else ""
    path = config.password_file
    return Login(config.username, (lambda: _secret(path, "passwordFile")) if path else (lambda: fixed), log_in)


class FixedToken:
    """A token that stands in the configuration."""

    needs_version_first = False

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        """Return it."""
        return self._token

    def renew(self, refused: str) -> str:  # noqa: ARG002 - there is no other one
        """Say so."""
        raise AirflowRefused("Airflow refuses the token: it has expired or was revoked; set a new one")


class TokenFile:
    """A token file, read for every request: whoever rotates it need not tell us."""

    needs_version_first = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        """Return what the file holds now."""
        return _secret(self._path, "tokenFile")

    def renew(self, refused: str) -> str:
        """Return the file's token if it is another one by now."""
        token = self.token()
        if token == refused:
            raise AirflowRefused(
                f"Airflow refuses the token in {self._path}: it has expired or was revoked; put a new one there"
            )
        return token


class Login:
    """User and password, exchanged for a token. A refusal is remembered, so that nobody's account gets locked."""

    needs_version_first = True

    def __init__(self, username: str, password: Callable[[], str], log_in: Callable[[str, str], str]) -> None:
        self._username, self._password, self._log_in = username, password, log_in
        self._lock = threading.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._refusal: tuple[str, AirflowRefused, float] | None = None
        self._wait = FIRST_WAIT

    def token(self) -> str:
        """Return the token; log in if there is none or it grows old."""
        with self._lock:
            if self._token is None:
                return self._fresh()
            if steady() >= self._renew_at:
                self._renew_early()
            return self._token

    def renew(self, refused: str) -> str:
        """Log in again, unless another thread already has."""
        with self._lock:
            return self._fresh() if self._token in (None, refused) else str(self._token)

    def _renew_early(self) -> None:
        try:
            self._fresh()
        except NoAnswerError:
            # The old token still has a fifth of its life; if it has not, the server will say so.
            self._renew_at = steady() + RETRY_EARLY

    def _fresh(self) -> str:
        password = self._password()
        if self._refusal is not None:
            refused, why, until = self._refusal
            if refused == password and steady() < until:
                raise why
        try:
            token = self._log_in(self._username, password)
        except AirflowRefused as why:
            self._refusal = password, why, steady() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            raise
        self._token, self._refusal, self._wait = token, None, FIRST_WAIT
        self._renew_at = steady() + RENEW_AT * lifetime(token)
        return token


class _Claims(Struct):
    exp: float
    iat: float


def lifetime(token: str) -> float:
    """Return the seconds from a JWT's issue to its end, infinite where it is none or does not say.

    The difference of the server's own two times: our clock need not agree with it.
    """
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)
    except (IndexError, binascii.Error, msgspec.MsgspecError, UnicodeError):
        return float("inf")
    return max(claims.exp - claims.iat, 0.0)


def _secret(path: Path, key: str) -> str:
    """Return the one line of a secret's file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise NoAnswerError(f"can't read {key} {path}: {reason}", Reach.SERVER) from None
    if not text or len(text.splitlines()) != 1:
        raise NoAnswerError(f"{key} {path} must hold one line and nothing else", Reach.SERVER)
    return text
