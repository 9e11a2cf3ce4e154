"""Questions and answers with one API server: token, status, content type and shape are all seen to here."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from healer.airflow import rows
from healer.airflow.auth import credentials
from healer.airflow.pause import Pause
from healer.airflow.transport import AirflowRefused, Call, NoAnswerError, Observe, Raw, Reach, Request, Transport
from healer.clock import steady
from healer.config import AirflowConfig

T = TypeVar("T")

RIGHTS = "give its role can_read on DAGs, DAG Runs and Task Instances (simple auth manager: role viewer)"


class Reply(Struct, Generic[T], frozen=True):
    """An answer that was understood: `value` of a 200, or status 401, 403 or 404 with Airflow's own `detail`.

    `sent` is when it was asked (monotonic seconds), `date` the server's clock (seconds since the epoch).
    """

    status: int
    sent: float
    value: T | None = None
    detail: str = ""
    date: float | None = None

    @property
    def known(self) -> T:
        """The value, where the status is known to be 200."""
        if self.value is None:
            raise NoAnswerError("Airflow's answer is empty")
        return self.value

    @property
    def token_refused(self) -> bool:
        """401, or the 403 that Airflow gives for a token it can't verify (revoked, other secret, skewed clock)."""
        return self.status == 401 or (self.status == 403 and self.detail == "Invalid JWT token")


class Client:
    """Asks one API server. Raises NoAnswerError for whatever is no clean answer. Safe to use from several threads."""

    def __init__(self, config: AirflowConfig, observe: Observe) -> None:
        self._transport = Transport(config.url, config.ca_file, config.timeout)
        self._observe = observe
        self._user = config.username
        self._pause = Pause(config.name)
        self._credentials = credentials(config, self._log_in)
        self.url = self._transport.url

    def ask(self, request: Request, decode: Callable[[bytes], T]) -> Reply[T]:
        """Return the answer: a 200, decoded, or a 403 or 404. Raises NoAnswerError for anything else."""
        token = self._credentials.token()
        reply = self._steadily(request, decode, token)
        if not reply.token_refused:
            return reply
        reply = self._steadily(request, decode, self._credentials.renew(token))
        if reply.token_refused:
            raise AirflowRefused(
                f"{self.url} refuses a token that it has just given: all its API servers need the same "
                "[api_auth] jwt_secret and clock"
            )
        return reply

    def need(self, request: Request, decode: Callable[[bytes], T]) -> Reply[T]:
        """Return a 200, decoded. Raises NoAnswerError for anything else."""
        return self.positive(self.ask(request, decode))

    def positive(self, reply: Reply[T]) -> Reply[T]:
        """Return the reply if it is a 200. Raises NoAnswerError otherwise."""
        if reply.token_refused:
            raise AirflowRefused(f"{self.url} refuses the token: it has expired or was revoked; set a new one")
        if reply.status == 403:
            raise NoAnswerError(f"{self.url} refuses {self._user or 'the token'} with 403: {RIGHTS}", Reach.CALL, "403")
        if reply.status == 404:
            raise self._not_there(reply.detail)
        return reply

    def open(self, request: Request, decode: Callable[[bytes], T]) -> Reply[T]:
        """Ask what needs no login, with a token only where none has to be fetched first."""
        token = None if self._credentials.needs_version_first else self._credentials.token()
        return self._steadily(request, decode, token)

    def log_in(self) -> None:
        """Make sure that there is a token and that the server accepts it. Raises AirflowRefused or NoAnswerError."""
        # Any answer will do, a 403 for a missing right included: a refused token raises.
        self.ask(Request("dags", "/api/v2/dags", query=(("limit", 1),)), rows.dag_ids)

    def _log_in(self, username: str, password: str) -> str:
        body = {"username": username, "password": password}
        request = Request("login", "/auth/token", body=body, method="POST")
        reply = self._steadily(request, rows.access_token, None)
        if reply.status in (401, 403):
            raise AirflowRefused(f"login refused: {self.url} does not accept the password of {username}")
        if reply.status == 404:
            raise self._not_there(reply.detail)
        return reply.known

    def _steadily(self, request: Request, decode: Callable[[bytes], T], token: str | None) -> Reply[T]:
        """Ask; once more if the connection broke: the server may have closed an idle one just then."""
        try:
            return self._attempt(request, decode, token)
        except NoAnswerError as failed:
            if failed.code != "reset":
                raise
        return self._attempt(request, decode, token)

    def _attempt(self, request: Request, decode: Callable[[bytes], T], token: str | None) -> Reply[T]:
        self._pause.check()
        started, size = steady(), 0
        try:
            raw = self._transport.send(request, token)
            size = len(raw.body)
            reply = self._understood(raw, decode, secret=request.call == "login")
        except NoAnswerError as failed:
            self._observe(Call(request.call, failed.code, steady() - started, size))
            raise
        # A token or a version is a text: that one has a length too makes it no rows.
        count = len(reply.value) if isinstance(reply.value, Sized) and not isinstance(reply.value, str) else 0
        self._observe(Call(request.call, str(reply.status), steady() - started, size, count))
        return reply

    def _understood(self, raw: Raw, decode: Callable[[bytes], T], *, secret: bool) -> Reply[T]:
        if raw.status in (200, 201):
            return self._decoded(raw, decode)
        if raw.status in (401, 403, 404):
            return Reply(raw.status, raw.sent, detail=rows.detail(raw.body))
        if 300 <= raw.status < 400:
            raise self._redirected(raw)
        if raw.status == 405:
            # What Airflow's web page answers below any path it does not know.
            raise self._not_there("", "405")
        # A validation error repeats the question, and with it the password.
        said = "" if secret else rows.detail(raw.body)
        why, code = f"{self.url} answered {raw.status}{f': {said}' if said else ''}", str(raw.status)
        if raw.status in (429, 503) and raw.retry_after:
            raise self._pause.begin(why, code, raw.retry_after)
        raise NoAnswerError(why, {429: Reach.SERVER, 504: Reach.SLOW}.get(raw.status, Reach.CALL), code)

    def _decoded(self, raw: Raw, decode: Callable[[bytes], T]) -> Reply[T]:
        if not raw.json:
            raise NoAnswerError(
                f"{self.url} answered with a page that is not JSON: give the address of Airflow's API server, "
                "as in a browser but without /api/v2 or a proxy's login",
                Reach.SERVER,
            )
        try:
            return Reply(raw.status, raw.sent, value=decode(raw.body), date=raw.date)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NoAnswerError(f"{self.url} sent an answer that can't be read: {error}") from None

    def _redirected(self, raw: Raw) -> NoAnswerError:
        target = raw.location.partition("?")[0] or "another place"
        what = "redirected to a login page" if "login" in target or "auth" in target else "redirected"
        return NoAnswerError(
            f"{self.url} answers {raw.status}, {what} ({target}): give the address of the API server itself",
            Reach.SERVER,
            str(raw.status),
        )

    def _not_there(self, detail: str, code: str = "404") -> NoAnswerError:
        if detail and detail != "Not Found":
            return NoAnswerError(f"{self.url} answered 404: {detail}", Reach.CALL, "404")
        return NoAnswerError(
            f"{self.url} has no Airflow 3 API: give the address of the API server, as in a browser but without /api/v2",
            Reach.SERVER,
            code,
        )
