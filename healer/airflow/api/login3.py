"""What a refusal of Airflow 3 is taken for: it says itself whether it means the token or a right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from healer.airflow.api.credential import Credential
from healer.airflow.api.credentials import Credentials
from healer.airflow.api.dialect3 import INVALID
from healer.airflow.api.reply import AirflowReply
from healer.errors import LoginRefusedError

T = TypeVar("T")

NO_TOKEN = "Not authenticated"  # noqa: S105 - a sentence
"""What Airflow says with 401 where no token has reached it."""


class TokenAsker:
    """Sends questions with a token, and with another one where the first is refused."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self._url, self.credentials = url, credentials

    def start_audit(self) -> None:
        """Nothing is remembered."""

    def ask(self, send: Callable[[Credential], AirflowReply[T]]) -> AirflowReply[T]:
        """Return the answer. Raises LoginRefusedError where no token is accepted.

        Only Airflow's own refusal of the token makes us log in again; a gate's raises before.
        """
        credential = self.credentials.current()
        reply = send(credential)
        if not reply.login_refused:
            return reply
        why = token_fault(self._url, reply)
        reply = send(self.credentials.renewed(credential, why))
        if reply.login_refused and reply.said.detail == NO_TOKEN:
            raise LoginRefusedError(why, "gate")
        if reply.login_refused:
            raise LoginRefusedError(
                f"{self._url} refuses a token that it has just given: all its API servers need the same "
                "[api_auth] jwt_secret and clock",
                "token",
            )
        return reply


def token_fault(url: str, reply: AirflowReply[Any]) -> str:
    """Say what is wrong with a token, by Airflow's own words."""
    if reply.said.detail == NO_TOKEN:
        return f"{url} sees no token: something in front of it takes the Authorization header away"
    if reply.said.detail == INVALID:
        return f"{url} can't verify the token: it was revoked, or another Airflow has made it"
    if reply.said.detail == "Token Expired":
        return f"{url} refuses the token: it has expired"
    return f"{url} refuses the token: it has expired or was revoked"
