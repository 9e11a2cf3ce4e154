"""What proves to Airflow who we are: one header, sent with each request and never shown."""

from __future__ import annotations

import base64
import re

from msgspec import Struct

SESSION = "session"
"""Airflow 2's name of the cookie that a login gives."""


class Credential(Struct, frozen=True):
    """What is sent with each request: one header."""

    header: str
    value: str

    def __repr__(self) -> str:
        """Never show the value."""
        return f"Credential({self.header})"


def bearer(token: str) -> Credential:
    """Return a token as a header."""
    return Credential("Authorization", f"Bearer {token}")


def basic(username: str, password: str) -> Credential:
    """Return user and password as a header."""
    return Credential("Authorization", "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode())


_HEADER = re.compile(r"^cookie\s*:", re.IGNORECASE)
_SET_COOKIE = re.compile(r"^set-cookie\s*:", re.IGNORECASE)
_PAIR = re.compile(r"[!#$%&'*+.^_`|~\w-]+=[^=;\s]\S*.*", re.ASCII)


def cookie(text: str) -> Credential:
    """Return the line of a cookie file as a header: `session=…`, a whole Cookie header, or the session's value alone.

    A value may end in `=`, but has none before other text. A browser shows the header in small letters, and what a
    login has set as `Set-Cookie`: of that only the cookie itself is sent back.
    """
    if given := _SET_COOKIE.match(text):
        text = text[given.end() :].partition(";")[0]
    text = _HEADER.sub("", text).strip()
    return Credential("Cookie", text if _PAIR.fullmatch(text) else f"{SESSION}={text}")
