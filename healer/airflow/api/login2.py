"""How we prove to Airflow 2 who we are, and how a 403 is proven to be a missing right.

User and password: the login form gives a session cookie, which costs the server a tenth of what basic auth does (13
instead of 100 to 127 ms a request, as no password is hashed). Where there is no form, as behind OAuth, basic auth is
tried. A token (Astro, Composer) or a session cookie (MWAA) comes from the configuration or a file.

Airflow 2.11 answers a login that has ended as it answers a missing right: 403, `Forbidden`. Which of the two it is a
second question tells, asked with the same credential right after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from healer.airflow.api.credential import SESSION, Credential, basic
from healer.airflow.api.credentials import Credentials
from healer.airflow.api.dialect2 import RIGHTS
from healer.airflow.api.reply import AirflowReply
from healer.clock import boottime
from healer.errors import FailureScope, LoginRefusedError, NoAnswerError

LOGIN = "/login/"

RENEW_EVERY = 60.0
"""Seconds between two logins, at least: Airflow answers 429 to more than five in 40 s from one address."""

LONGEST_PAGE = 1 << 20
"""Characters of the login page in which the form is looked for."""


class Seen(Struct, frozen=True):
    """What the login page has answered. `cookies` are those that it sets, by name."""

    status: int
    text: str = ""
    location: str = ""
    cookies: Mapping[str, str] = {}


class Browser(Protocol):
    """Asks for pages without following redirects. Raises NoAnswerError where nothing complete comes back."""

    def get(self, path: str) -> Seen:
        """Ask for a page."""

    def post(self, path: str, form: Mapping[str, str], cookies: Mapping[str, str]) -> Seen:
        """Send a form."""


class _Form(HTMLParser):
    """Finds the hidden token and whether the form has a field for a password."""

    def __init__(self) -> None:
        super().__init__()
        self.token: str | None = None
        self.has_password = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of the inputs that matter."""
        if tag != "input":
            return
        given = dict(attrs)
        if given.get("name") == "csrf_token":
            self.token = given.get("value")
        self.has_password |= given.get("name") == "password"


def log_in(browser: Browser, url: str, who: str, username: str, password: str) -> Credential:
    """Log in with the form and return the session; user and password for basic auth where there is no form.

    `who` is how messages call the user.
    Raises AirflowRefused for a wrong password, NoAnswerError for whatever else is no login.
    """
    shown = browser.get(LOGIN)
    form = _Form()
    form.feed(shown.text[:LONGEST_PAGE])
    if shown.status != 200 or not form.has_password:
        if shown.status >= 500 or shown.status == 429:
            raise _no_login(url, shown.status)
        return basic(username, password)
    fields = {"username": username, "password": password}
    if form.token is not None:
        fields["csrf_token"] = form.token
    return _session(browser.post(LOGIN, fields, shown.cookies), url, who)


def _session(answer: Seen, url: str, who: str) -> Credential:
    if answer.status == 429:
        raise NoAnswerError(
            f"{url} answers 429 to a login: too many in a short time, by us or by others behind the same address; "
            "the next one is tried a minute later",
            FailureScope.SERVER,
            "429",
        )
    refused = LoginRefusedError(f"login refused: {url} does not accept the password of {who}")
    if 300 <= answer.status < 400:
        # Back to the form: a wrong password, a user that does not exist or is not active.
        if urlsplit(answer.location).path.rstrip("/").endswith("/login"):
            raise refused
        if SESSION in answer.cookies:
            return Credential("Cookie", f"{SESSION}={answer.cookies[SESSION]}")
    if answer.status in (200, 401, 403):
        raise refused
    raise _no_login(url, answer.status)


def _no_login(url: str, status: int) -> NoAnswerError:
    return NoAnswerError(f"{url} answers {status} to a login: is {url}{LOGIN} Airflow's login page?", code=str(status))


class Session:
    """User and password, exchanged for a credential.

    A refused password is remembered until it is another one, so that nobody's account gets locked; and there is never
    more than one login in a minute, whatever the server says to the one we have.
    """

    renewed_here = True
    expires = None
    """A session does not say when it ends."""

    def __init__(self, username: str, password: Callable[[], str], exchange: Callable[[str, str], Credential]) -> None:
        """`exchange` logs in."""
        self._username, self._password, self._exchange = username, password, exchange
        self._lock = threading.Lock()
        self._credential: Credential | None = None
        self._tried: float | None = None
        self._with = ""
        self._failed: NoAnswerError | None = None
        self.failed_renewals = 0

    @property
    def used(self) -> Credential | None:
        """The session, or the user and password of basic auth."""
        return self._credential

    def current(self) -> Credential:
        """Return the credential; log in if there is none. Raises AirflowRefused or NoAnswerError."""
        with self._lock:
            return self._credential or self._fresh()

    def renewed(self, refused: Credential, why: str) -> Credential:
        """Return another credential than the one that was refused.

        Raises LoginRefusedError as long as there may be no other login, or what the login fails with.
        """
        with self._lock:
            if self._credential is not None and self._credential != refused:
                return self._credential
            if self._too_soon(self._password()):
                raise LoginRefusedError(f"{why}; there is at most one login in {RENEW_EVERY:g} s")
            self._credential = None
            return self._fresh()

    def _too_soon(self, password: str) -> bool:
        return self._tried is not None and password == self._with and boottime() < self._tried + RENEW_EVERY

    def _fresh(self) -> Credential:
        password = self._password()
        if self._failed is not None and self._too_soon(password):
            raise self._failed
        self._tried, self._with, self._failed = boottime(), password, None
        try:
            self._credential = self._exchange(self._username, password)
        except NoAnswerError as failed:
            self._failed = failed
            self.failed_renewals += 1
            raise
        self.failed_renewals = 0
        return self._credential


T = TypeVar("T")

DEAD = (
    "{url} refuses every question with {status}: the login has ended or was revoked, or its role may read no DAG (then "
    + RIGHTS
    + ")"
)
OPEN = (
    "{url} answers 403, and visitors without a login may read there (AUTH_ROLE_PUBLIC), so that a missing right can't "
    "be told from a login that has ended: " + RIGHTS
)


class ProvingAsker:
    """Sends questions with a credential, and finds out what a refusal means."""

    def __init__(self, url: str, credentials: Credentials, probe: Callable[[Credential | None], int]) -> None:
        """`probe` asks what each user may ask who may read any DAG, or a visitor (None), and returns the status."""
        self._url, self.credentials, self._probe = url, credentials, probe
        self._open: bool | None = None

    def start_audit(self) -> None:
        """Forget whether visitors may read: settings change."""
        self._open = None

    def ask(self, send: Callable[[Credential], AirflowReply[T]]) -> AirflowReply[T]:
        """Return the answer. A 403 is returned only if it is proven to be a missing right.

        Raises AirflowRefused for a login that is not accepted and can't be renewed now, NoAnswerError for a 403 that
        may mean either.
        """
        credential = self.credentials.current()
        answer = send(credential)
        if self._is_settled(answer, credential):
            return answer
        other = self.credentials.renewed(credential, DEAD.format(url=self._url, status=answer.status))
        answer = send(other)
        if not self._is_settled(answer, other):
            raise LoginRefusedError(DEAD.format(url=self._url, status=answer.status))
        return answer

    def _is_settled(self, answer: AirflowReply[T], credential: Credential) -> bool:
        """Whether the answer stands as it is: after a 403 the same credential has got a positive answer.

        Only one that a visitor would not get proves that the login is alive.
        """
        if answer.status == 401:
            return False
        if answer.status != 403:
            return True
        if self._probe(credential) != 200:
            return False
        if self._open is None:
            self._open = self._probe(None) == 200
        if self._open:
            raise NoAnswerError(OPEN.format(url=self._url), FailureScope.CALL, "403")
        return True
