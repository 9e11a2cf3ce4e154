"""Who may read what was found: whoever sends the token of `listenTokenFile`."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from pathlib import Path

from healer.config.secret_files import read_secret, unprefixed
from healer.log import get_logger
from healer.telemetry.http_server import HttpReply, HttpRequest, plain

log = get_logger(__name__)

SCHEME = "bearer"

LONGEST = 4096
"""Bytes of a token at most: it has to fit into one header."""


class BearerToken:
    """Refuses requests without the token. The file is read for each of them, so that the token can be rotated.

    Called from the threads of the HTTP server. A file that can't be read, or is empty, opens nothing: all are refused.
    """

    def __init__(self, file: Path) -> None:
        """Read nothing yet."""
        self._file = file
        self._told: str | None = None

    def __call__(self, request: HttpRequest) -> HttpReply | None:
        """Return the refusal, None for the right token."""
        token = self._read()
        if not token:
            return _refused("no token is accepted, since the file of listenTokenFile holds none: see the healer's log")
        scheme, _, given = request.authorization.partition(" ")
        # As its file is read: who asks may have made the header of a file with `Bearer` or quotes in it.
        bare = unprefixed(given.strip()).encode(errors="surrogateescape")
        # In constant time: how long a wrong token is compared must not tell how much of it is right.
        if scheme.lower() == SCHEME and hmac.compare_digest(bare, token):
            return None
        return _refused("a token is needed: send the header Authorization: Bearer with what listenTokenFile holds")

    def _read(self) -> bytes | None:
        try:
            token = read_secret(self._file, "token").encode()
        except ValueError as error:
            self._tell(str(error))
            return None
        if len(token) > LONGEST:
            self._tell(f"it holds more than {LONGEST} bytes")
            return None
        if self._told is not None:
            self._told = None
            log.info("findings are served again: the file of listenTokenFile holds a token")
        return token

    def _tell(self, trouble: str) -> None:
        """Say it once, not for each request."""
        if trouble != self._told:
            self._told = trouble
            log.warning("findings are refused to everybody: the file of listenTokenFile holds no token", why=trouble)


def _refused(sentence: str) -> HttpReply:
    return plain(HTTPStatus.UNAUTHORIZED, sentence)._replace(headers={"WWW-Authenticate": "Bearer"})
