"""Questions and answers with one API server: login, status, content type and shape are all seen to here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sized
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from healer.airflow.api import dialect2, dialect3, login2, refusals, schema
from healer.airflow.api.credential import Credential
from healer.airflow.api.credentials import CredentialLife, Credentials, Login, client_secret, given, life, password
from healer.airflow.api.dialect import BEYOND, Ask, Dialect
from healer.airflow.api.dialects import IN_TURN, Version, version_of
from healer.airflow.api.login3 import TokenAsker, token_fault
from healer.airflow.api.reply import AirflowReply, shortened
from healer.airflow.api.retry_after import RetryAfter
from healer.airflow.api.transport import AirflowRequest, AirflowTransport, Call, ObserveCall, RawResponse
from healer.clock import boottime
from healer.config import AirflowConfig
from healer.config.secret_files import is_quoted
from healer.errors import FailureScope, LoginRefusedError, NoAnswerError

T = TypeVar("T")

VERSION_TIMEOUT = 10.0
"""Seconds to wait for the version: it takes a millisecond, so that a silent server is known for one soon."""


class Asker(Protocol):
    """Sends questions with a credential, and finds out what a refusal means."""

    @property
    def credentials(self) -> Credentials:
        """Where the credentials come from."""

    def ask(self, send: Callable[[Credential], AirflowReply[T]]) -> AirflowReply[T]:
        """Return the answer; a 403 that is returned means a right. Raises LoginRefusedError or NoAnswerError."""

    def start_audit(self) -> None:
        """Forget what may have changed."""


class AirflowClient:
    """Asks one API server. Raises NoAnswerError for whatever is no clean answer. Safe to use from several threads."""

    def __init__(self, config: AirflowConfig, observe: ObserveCall) -> None:
        self._transport = AirflowTransport(config)
        self._observe = observe
        self._config = config
        # What follows a colon might be a password that was written there.
        self._user = (config.username or config.client_id or "").partition(":")[0]
        self._retry_after = RetryAfter(config.name)
        self._given = given(config)
        self._askers: dict[Dialect, Asker] = {}
        self._reached = False
        self._logins: dict[Credential | None, int] = {}
        self._latest, self._lock = 0, threading.Lock()
        self.url = self._transport.url
        self.dialect: Dialect = IN_TURN[0]
        """How the server is asked: as its version wanted when it was told last."""

    @property
    def credential(self) -> CredentialLife:
        """What is known of the credential that was used last."""
        with self._lock:
            asker = self._askers.get(self.dialect)
        return CredentialLife() if asker is None else life(asker.credentials)

    @property
    def who(self) -> str:
        """How messages call whose login it is."""
        return self._user or ("the cookie" if self._config.cookie_file else "the token")

    def ask(self, question: Ask[T]) -> AirflowReply[T]:
        """Return the answer: a 200, decoded, or a 403 or 404. Raises NoAnswerError for anything else."""
        dialect = self.dialect
        return self._asker(dialect).ask(lambda credential: self._with_retry(question, dialect, credential))

    def get_ok(self, question: Ask[T]) -> AirflowReply[T]:
        """Return a 200, decoded. Raises NoAnswerError for anything else."""
        return self.require_ok(self.ask(question))

    def require_ok(self, reply: AirflowReply[T]) -> AirflowReply[T]:
        """Return the reply if it is a 200. Raises NoAnswerError otherwise."""
        if reply.login_refused:
            raise LoginRefusedError(f"{token_fault(self.url, reply)}; set a new one", "token")
        if reply.status == 403:
            why = f"{self.url} knows {self.who} and forbids this (403): {self.dialect.RIGHTS}"
            raise NoAnswerError(why, FailureScope.CALL, "403", "right")
        if reply.status == 404:
            raise self._not_there(reply)
        return reply

    def ask_version(self) -> Version:
        """Return the server's version, and ask it as that wants from now on.

        Raises NoAnswerError where it gives none, or one of which nothing is known here.
        """
        told = version_of(self._version_text())
        if isinstance(told, str):
            raise NoAnswerError(f"{self.url} {told}", FailureScope.SERVER, kind="version")
        self.dialect = told.dialect
        return told

    def log_in(self) -> None:
        """Make sure that there is a login and that the server accepts it. Raises LoginRefusedError or NoAnswerError."""
        # Any answer will do, a 403 for a missing right included: a refused login raises.
        self.ask(self.dialect.dags(1, BEYOND))

    def start_audit(self) -> None:
        """Forget what may have changed."""
        for asker in self._askers.values():
            asker.start_audit()

    # --- the version ---

    def _version_text(self) -> str:
        """Ask in each dialect for the version, first in the one that was answered last."""
        failed: NoAnswerError | None = None
        reply: AirflowReply[str] | None = None
        for dialect in sorted(IN_TURN, key=lambda each: each is not self.dialect):
            try:
                told = self.ask_unauthenticated(dialect.version().within(VERSION_TIMEOUT), dialect)
            except NoAnswerError as failure:
                # A gate may let through the paths of one API alone; whatever else fails would fail again.
                if failure.kind not in {"gate", "path"} or isinstance(failure, LoginRefusedError):
                    raise
                failed = failed or failure
                continue
            if told.status == 200:
                return self.require_ok(told).known
            reply = reply or told
        if failed is not None:
            raise failed
        assert reply is not None  # noqa: S101 - each dialect was asked
        return self.require_ok(reply).known

    def ask_unauthenticated(self, question: Ask[T], dialect: Dialect) -> AirflowReply[T]:
        """Ask what needs no login, with a credential only where it is there anyway."""
        credential = None if self._given is None else self._given.current()
        reply = self._with_retry(question, dialect, credential)
        if credential is None and reply.status in (401, 403):
            raise self._closed(reply.status)
        return reply

    def _closed(self, status: int) -> NoAnswerError:
        """Return the failure for a login that is wanted where Airflow wants none."""
        why = f"something in front of {self.url} wants a login of its own ({status}): {refusals.BEHIND}"
        return NoAnswerError(why, FailureScope.SERVER, str(status), "gate")

    # --- the login ---

    def _asker(self, dialect: Dialect) -> Asker:
        """Return what logs in to this kind of Airflow, made when it is first asked."""
        with self._lock:
            if dialect not in self._askers:
                self._askers[dialect] = self._asker_of_2() if dialect is dialect2 else self._asker_of_3()
            return self._askers[dialect]

    def _asker_of_3(self) -> Asker:
        return TokenAsker(self.url, self._given or self._login())

    def _login(self) -> Login:
        if self._config.client_id is not None:
            return Login(self._config.client_id, client_secret(self._config), self._log_in_client)
        return Login(self._username, password(self._config), self._log_in)

    def _asker_of_2(self) -> Asker:
        if self._config.client_id is not None:
            why = f"{self.url} is an Airflow 2, which takes no clientId: set username, or exec"
            raise LoginRefusedError(why)
        credentials: Credentials = self._given or login2.Session(
            self._username,
            password(self._config),
            lambda user, word: login2.log_in(self, self.url, self._user or user, user, word),
        )
        return login2.ProvingAsker(self.url, credentials, self._probe)

    @property
    def _username(self) -> str:
        if self._config.username is None:
            raise ValueError("neither a user nor a token is configured")
        return self._config.username

    def _probe(self, credential: Credential | None) -> int:
        """Ask what each user may ask who may read any DAG, as such a user or as a visitor; return the status."""
        try:
            return self._with_retry(dialect2.dags(1, BEYOND).within(VERSION_TIMEOUT), dialect2, credential).status
        except NoAnswerError as failed:
            if credential is None and failed.kind == "gate":
                return 401
            raise

    def _log_in(self, username: str, word: str) -> str:
        reply = self._ask_token(dialect3.log_in(username, word))
        if reply.status in (401, 403):
            quotes = "; it stands in quotes, which were sent with it" if is_quoted(word) else ""
            raise LoginRefusedError(f"login refused: {self.url} does not accept the password of {self._user}{quotes}")
        return reply.known

    def _log_in_client(self, client: str, secret: str) -> str:
        try:
            reply = self._ask_token(dialect3.log_in_client(client, secret))
        except NoAnswerError as failed:
            if failed.code != "422":
                raise
            why = f"{self.url} takes no clientId: only the Keycloak auth manager does; set username and passwordFile"
            raise LoginRefusedError(why) from None
        if reply.status in (401, 403):
            raise LoginRefusedError(
                f"login refused: {self.url} does not accept client {self._user} and its secret; it takes only the "
                "client that its own [keycloak_auth_manager] client_id names, with service accounts enabled"
            )
        return reply.known

    def _ask_token(self, question: Ask[str]) -> AirflowReply[str]:
        """Ask for a token: it comes, or is refused with 401 or 403. Raises NoAnswerError for anything else."""
        try:
            reply = self._with_retry(question, dialect3, None)
        except NoAnswerError as failed:
            if failed.code == "500":
                why = f"{failed}; the Keycloak auth manager answers so to a wrong password"
                raise NoAnswerError(why, FailureScope.SERVER, "500", "login") from None
            if failed.code != "405" or failed.kind != "path" or not self._reached:
                raise
            reply = AirflowReply(404, boottime())
        if reply.status == 404 and self._reached:
            why = f"{self.url} gives no token for a password: its auth manager has no such login; set tokenFile"
            raise NoAnswerError(why, FailureScope.SERVER, "404", "login")
        if reply.status == 404:
            raise self._not_there(reply)
        return reply

    def get(self, path: str) -> login2.Seen:
        """Ask for a page, as a browser does that follows nothing."""
        return self._page(AirflowRequest("login", path), None)

    def post(self, path: str, form: Mapping[str, str], cookies: Mapping[str, str]) -> login2.Seen:
        """Send a form, as such a browser does."""
        line = "; ".join(f"{name}={value}" for name, value in cookies.items())
        request = AirflowRequest("login", path, form=form, method="POST")
        return self._page(request, Credential("Cookie", line) if line else None)

    def _page(self, request: AirflowRequest, cookies: Credential | None) -> login2.Seen:
        self._retry_after.check()
        started = boottime()
        try:
            raw = self._transport.send(request, cookies)
        except NoAnswerError as failed:
            self._observe(Call(request.call, failed.code, boottime() - started))
            raise
        self._observe(Call(request.call, str(raw.status), boottime() - started, len(raw.body)))
        return login2.Seen(raw.status, raw.body.decode(errors="replace"), raw.location, raw.cookies)

    # --- one exchange ---

    def _with_retry(self, question: Ask[T], dialect: Dialect, credential: Credential | None) -> AirflowReply[T]:
        """Ask; once more if the connection broke: the server may have closed an idle one just then."""
        try:
            return self._attempt(question, dialect, credential)
        except NoAnswerError as failed:
            if failed.code != "reset":
                raise
        return self._attempt(question, dialect, credential)

    def _attempt(self, question: Ask[T], dialect: Dialect, credential: Credential | None) -> AirflowReply[T]:
        self._retry_after.check()
        request = question.request
        started, size = boottime(), 0
        try:
            raw = self._transport.send(request, credential)
            size = len(raw.body)
            reply = self._parse(raw, question, dialect)
        except NoAnswerError as failed:
            self._observe(Call(request.call, failed.code, boottime() - started, size))
            raise
        reply = replace(reply, received=boottime(), login=self._number(credential))
        # A token or a version is a text: that one has a length too makes it no rows.
        self._reached = self._reached or (request.call == "version" and reply.status == 200)
        count = len(reply.value) if isinstance(reply.value, Sized) and not isinstance(reply.value, str) else 0
        proven = credential is not None and request.call != "version" and reply.answers
        self._observe(Call(request.call, str(reply.status), boottime() - started, size, count, proven))
        return reply

    def _number(self, credential: Credential | None) -> int:
        """Return the number of a login; only the last few are told apart, older ones get a new number."""
        with self._lock:
            if credential not in self._logins:
                self._latest += 1
                self._logins = dict([*self._logins.items()][-4:]) | {credential: self._latest}
            return self._logins[credential]

    def _parse(self, raw: RawResponse, question: Ask[T], dialect: Dialect) -> AirflowReply[T]:
        if raw.age > 0 and question.request.call != "version":
            raise refusals.kept(self.url, raw)
        if raw.status in (200, 201):
            return self._decode(raw, question.decode)
        if raw.status in (401, 403, 405) and refusals.is_gates(raw):
            raise refusals.gate(self.url, raw)
        if raw.status in (401, 403, 404):
            said = dialect.problem(raw.body, raw.type)
            return AirflowReply(
                raw.status,
                raw.sent,
                said=said,
                missing=question.missing(raw.status, said),
                forbidden=dialect.forbidden(raw.status, said),
                login_refused=dialect.login_refused(raw.status, said),
            )
        if 300 <= raw.status < 400:
            raise refusals.redirected(self.url, raw)
        if raw.status == 405:
            # What Airflow's web page answers below any path it does not know.
            raise refusals.no_api(self.url, "405")
        raise refusals.wants_tls(self.url, raw) or self._trouble(raw, secret=question.request.call == "login")

    def _trouble(self, raw: RawResponse, *, secret: bool) -> NoAnswerError:
        # A validation error repeats the question, and with it the password.
        said = "" if secret else shortened(schema.detail(raw.body))
        why, code = f"{self.url} answered {raw.status}{f': {said}' if said else ''}", str(raw.status)
        if raw.status in (502, 503, 504) and not said:
            why = refusals.proxy_failed(self.url, raw)
        if raw.status in (429, 503) and raw.retry_after:
            return self._retry_after.begin(why, code, raw.retry_after)
        return NoAnswerError(
            why, {429: FailureScope.SERVER, 504: FailureScope.SLOW}.get(raw.status, FailureScope.CALL), code
        )

    def _decode(self, raw: RawResponse, decode: Callable[[bytes], T]) -> AirflowReply[T]:
        if not raw.json:
            raise refusals.page(self.url, raw)
        try:
            return AirflowReply(raw.status, raw.sent, value=decode(raw.body), date=raw.date)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NoAnswerError(f"{self.url} sent an answer that can't be read: {error}") from None

    def _not_there(self, reply: AirflowReply[Any]) -> NoAnswerError:
        if reply.said.of_airflow:
            return NoAnswerError(f"{self.url} answered 404: {reply.said.text}", FailureScope.CALL, "404")
        return refusals.no_api(self.url)
