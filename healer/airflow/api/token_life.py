"""What a token says of its own life, where it is a JSON Web Token; nothing is believed of it but times."""

from __future__ import annotations

import base64
import binascii
import math

import msgspec
from msgspec import Struct


class Claims(Struct, frozen=True):
    """Times in seconds since the epoch and who it is, as far as the token tells."""

    exp: float | None = None
    iat: float | None = None
    sub: str | None = None
    role: str | None = None
    name: str | None = None
    preferred_username: str | None = None
    access_token: str | None = None
    """The Keycloak token within Airflow's own, without which Airflow refuses every question."""


_CLAIMS = msgspec.json.Decoder(Claims)


def claims(token: str) -> Claims:
    """Return what a JWT says, an empty one where it is none. The signature is for the server to check."""
    try:
        payload = token.split(".")[1]
        return _CLAIMS.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, binascii.Error, msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return Claims()


def lifetime(token: str) -> float:
    """Return the seconds from a JWT's issue to its end, infinite where it is none or does not say.

    The difference of the server's own two times: our clock need not agree with it. A token within it counts, too: the
    Keycloak auth manager wraps one that lives five minutes into Airflow's own that lives a day (measured: provider
    0.11.2, Keycloak 26.7.3).
    """
    return min(
        (max(told.exp - told.iat, 0.0) for told in _both(token) if told.exp is not None and told.iat is not None),
        default=math.inf,
    )


def expiry(token: str) -> float | None:
    """Return when a JWT ends, or one within it, in seconds since the epoch; None where it does not say."""
    return min((told.exp for told in _both(token) if told.exp is not None), default=None)


def subject(token: str) -> str | None:
    """Return whose token it is, as far as it says; to be shown only."""
    told = claims(token)
    return told.preferred_username or told.name or told.sub


def _both(token: str) -> tuple[Claims, Claims]:
    outer = claims(token)
    return outer, claims(outer.access_token or "")
