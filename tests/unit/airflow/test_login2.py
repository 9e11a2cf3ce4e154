"""Logins to Airflow 2: what the form says, how often it is asked, and what a refusal is taken for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping

import pytest

from healer.airflow.api import login2
from healer.airflow.api.credential import Credential, basic, bearer, cookie
from healer.airflow.api.credentials import Given
from healer.airflow.api.login2 import ProvingAsker, Seen, Session, log_in
from healer.airflow.api.reply import AirflowReply
from healer.errors import FailureScope, LoginRefusedError, NoAnswerError

URL = "https://airflow.example.com"
FORM = '<form><input id="csrf_token" name="csrf_token" type="hidden" value="T0&amp;k"><input name="password"></form>'


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(login2, "boottime", lambda: now[0])
    return now


class Site:
    """A login page."""

    def __init__(self, page: Seen, answer: Seen) -> None:
        self.page, self.answer = page, answer
        self.forms: list[tuple[Mapping[str, str], Mapping[str, str]]] = []

    def get(self, path: str) -> Seen:
        assert path == "/login/"
        return self.page

    def post(self, path: str, form: Mapping[str, str], cookies: Mapping[str, str]) -> Seen:
        assert path == "/login/"
        self.forms.append((form, cookies))
        return self.answer


GOOD = Seen(302, location="/home", cookies={"session": "s1"})
PAGE = Seen(200, FORM, cookies={"session": "s0"})


def test_the_form_is_sent_with_its_token_and_cookie() -> None:
    site = Site(PAGE, GOOD)
    assert log_in(site, URL, "u", "u", "p") == Credential("Cookie", "session=s1")
    assert site.forms == [({"username": "u", "password": "p", "csrf_token": "T0&k"}, {"session": "s0"})]


def test_a_form_without_a_token_is_sent_as_it_is() -> None:
    site = Site(Seen(200, "<input name='password' type=password>"), GOOD)
    assert log_in(site, URL, "u", "u", "p").header == "Cookie"
    assert site.forms == [({"username": "u", "password": "p"}, {})]


@pytest.mark.parametrize(
    "page",
    [
        Seen(200, "<a href=/login/google>Sign in with Google</a>"),
        Seen(302, location="https://sso.example.com/authorize"),
        Seen(404),
        Seen(403),
        Seen(405),
        Seen(200, ""),
        Seen(200, " " * login2.LONGEST_PAGE + FORM),
    ],
)
def test_basic_auth_where_there_is_no_form(page: Seen) -> None:
    site = Site(page, GOOD)
    assert log_in(site, URL, "u", "u", "p") == basic("u", "p")
    assert site.forms == []


@pytest.mark.parametrize(
    "answer",
    [
        Seen(302, location="/login/?next=", cookies={"session": "s1"}),
        Seen(302, location=f"{URL}/airflow/login/"),
        Seen(302, location="/login"),
        Seen(200, FORM),
        Seen(401),
        Seen(403),
    ],
)
def test_a_wrong_password(answer: Seen) -> None:
    with pytest.raises(LoginRefusedError, match="does not accept the password of someone") as refused:
        log_in(Site(PAGE, answer), URL, "someone", "someone@x", "hunter2")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("page", "answer", "code"),
    [
        (Seen(500), GOOD, "500"),
        (Seen(503), GOOD, "503"),
        (Seen(429), GOOD, "429"),
        (PAGE, Seen(429), "429"),
        (PAGE, Seen(500), "500"),
        (PAGE, Seen(400), "400"),
        (PAGE, Seen(404), "404"),
        (PAGE, Seen(302, location="/home"), "302"),
    ],
)
def test_what_is_neither_in_nor_out(page: Seen, answer: Seen, code: str) -> None:
    with pytest.raises(NoAnswerError) as failed:
        log_in(Site(page, answer), URL, "u", "u", "hunter2")
    assert not isinstance(failed.value, LoginRefusedError)
    assert (failed.value.code, "hunter2" in str(failed.value)) == (code, False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("session=abc.def-g", "session=abc.def-g"),
        ("abc.def-g", "session=abc.def-g"),
        ("YWJj==", "session=YWJj=="),
        ("YWJj=", "session=YWJj="),
        ("session=YWJj==", "session=YWJj=="),
        ("Cookie: session=a; AWSALB=b", "session=a; AWSALB=b"),
        ("cookie: session=a; AWSALB=b", "session=a; AWSALB=b"),
        ("COOKIE :session=a", "session=a"),
        ("Set-Cookie: session=a.b-c==; Path=/; HttpOnly; SameSite=Lax", "session=a.b-c=="),
        ("a=1; session=b", "a=1; session=b"),
        ("5f3a1c9e-0d2b-4c1e.aBc_D", "session=5f3a1c9e-0d2b-4c1e.aBc_D"),
    ],
)
def test_a_cookie_in_each_form(text: str, value: str) -> None:
    assert cookie(text) == Credential("Cookie", value)


def test_headers() -> None:
    assert basic("user", "pass:word") == Credential("Authorization", "Basic dXNlcjpwYXNzOndvcmQ=")
    assert basic("ü", "p").value == "Basic w7w6cA=="
    assert bearer("t") == Credential("Authorization", "Bearer t")
    assert "pass" not in repr(basic("user", "pass"))


# How often


class Desk:
    """Counts logins."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.logins: list[str] = []

    def __call__(self, user: str, password: str) -> Credential:
        self.logins.append(password)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome
        return Credential("Cookie", f"session={len(self.logins)}")


def too_soon(session: Session, refused: Credential) -> None:
    with pytest.raises(LoginRefusedError, match="it was refused; there is at most one login in 60 s"):
        session.renewed(refused, "it was refused")


def test_one_login_serves_all_and_the_next_comes_a_minute_later(clock: list[float]) -> None:
    desk = Desk()
    session = Session("u", lambda: "p", desk)
    first = session.current()
    assert session.current() == first
    too_soon(session, first)
    clock[0] += 59
    too_soon(session, first)
    clock[0] += 1
    second = session.renewed(first, "refused")
    assert second != first
    # Another thread that was refused with the first one is given the second.
    assert session.renewed(first, "refused") == second
    too_soon(session, second)
    assert session.current() == second
    assert desk.logins == ["p", "p"]


@pytest.mark.parametrize("failure", [LoginRefusedError("no"), NoAnswerError("429", FailureScope.SERVER, "429")])
def test_a_login_that_fails_is_not_repeated_for_a_minute(clock: list[float], failure: NoAnswerError) -> None:
    desk = Desk(failure)
    session = Session("u", lambda: "p", desk)
    for _ in range(10):
        with pytest.raises(type(failure)):
            session.current()
    assert len(desk.logins) == 1
    clock[0] += 60
    assert session.current().value == "session=2"


def test_another_password_is_tried_at_once(clock: list[float]) -> None:
    passwords = ["wrong"]
    desk = Desk(LoginRefusedError("no"))
    session = Session("u", lambda: passwords[0], desk)
    with pytest.raises(LoginRefusedError):
        session.current()
    passwords[0] = "right"
    assert session.current().value == "session=2"
    passwords[0] = "changed"
    assert session.renewed(session.current(), "refused") == Credential("Cookie", "session=3")


def test_a_renewal_that_fails_leaves_no_old_session(clock: list[float]) -> None:
    desk = Desk(None, LoginRefusedError("no"))
    session = Session("u", lambda: "p", desk)
    first = session.current()
    clock[0] += 60
    with pytest.raises(LoginRefusedError):
        session.renewed(first, "refused")
    with pytest.raises(LoginRefusedError):
        session.current()
    assert len(desk.logins) == 2


def test_many_threads_log_in_once(clock: list[float]) -> None:
    desk = Desk()
    session = Session("u", lambda: "p", desk)
    seen: list[Credential] = []
    threads = [threading.Thread(target=lambda: seen.append(session.current())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(set(seen)), len(seen), len(desk.logins)) == (1, 8, 1)


def test_what_somebody_else_keeps_fresh_is_read_each_time() -> None:
    texts = ["a"]
    given = Given(lambda: bearer(texts[0]), "set a new one")
    first = given.current()
    with pytest.raises(LoginRefusedError, match="it was refused; set a new one"):
        given.renewed(first, "it was refused")
    texts[0] = "b"
    assert given.renewed(first, "it was refused") == given.current() == bearer("b")


# What a refusal is taken for


def replied(status: int) -> AirflowReply[None]:
    return AirflowReply(status, 0.0)


class Server:
    """An Airflow whose logins end before the requests of these numbers; every right but one may be there."""

    def __init__(self, ends: set[int], *, right: bool, dead: int, public: bool = False) -> None:
        self.ends, self.right, self.dead, self.public = ends, right, dead, public
        self.count = 0
        self.live: Credential | None = None

    def login(self, _user: str, _password: str) -> Credential:
        self.live = Credential("Cookie", f"session={self.count}")
        return self.live

    def _is_in(self, credential: Credential | None) -> bool:
        self.count += 1
        if self.count in self.ends:
            self.live = None
        return credential is not None and credential == self.live

    def question(self, credential: Credential) -> AirflowReply[None]:
        if self._is_in(credential):
            return replied(200 if self.right else 403)
        return replied(403 if self.public else self.dead)

    def probe(self, credential: Credential | None) -> int:
        return 200 if self._is_in(credential) or self.public else self.dead


ENDS: list[set[int]] = [
    set(),
    *({n} for n in range(1, 8)),
    *({n, m} for n, m in itertools.combinations(range(1, 8), 2)),
]


@pytest.mark.parametrize("dead", [401, 403])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("soon", [False, True])
def test_a_403_is_only_believed_where_a_right_is_missing(
    clock: list[float], dead: int, right: bool, public: bool, soon: bool
) -> None:
    outcomes: set[int | str] = set()
    for ends in ENDS:
        server = Server(ends, right=right, dead=dead, public=public)
        session = Session("u", lambda: "p", server.login)
        asker = ProvingAsker(URL, session, server.probe)
        for _ in range(4):
            try:
                outcomes.add(asker.ask(server.question).status)
            except LoginRefusedError:
                outcomes.add("login")
            except NoAnswerError as failed:
                outcomes.add(failed.code)
            clock[0] += 0 if soon else 61
    believed = {200} if right else set() if public else {403}
    assert outcomes - {"login"} == believed | ({"403"} if public else set())


@pytest.mark.parametrize("dead", [401, 403])
def test_a_revoked_token_is_refused_and_a_new_one_is_taken(dead: int) -> None:
    texts = ["old"]
    given = Given(lambda: bearer(texts[0]), "set a new one")
    asker = ProvingAsker(URL, given, lambda c: 200 if c == bearer("new") else dead)

    def send(credential: Credential) -> AirflowReply[None]:
        return replied(200 if credential == bearer("new") else dead)

    with pytest.raises(LoginRefusedError, match=f"refuses every question with {dead}"):
        asker.ask(send)
    texts[0] = "new"
    assert asker.ask(send).status == 200


@pytest.mark.parametrize("status", [200, 404, 400, 500])
def test_any_other_answer_costs_no_second_question(status: int) -> None:
    asked: list[object] = []
    asker = ProvingAsker(URL, Given(lambda: bearer("t"), "set a new one"), lambda c: asked.append(c) or 200)  # type: ignore[func-returns-value]
    assert asker.ask(lambda _: replied(status)).status == status
    assert asked == []


def test_whether_visitors_may_read_is_asked_once_per_audit() -> None:
    asked: list[Credential | None] = []

    def probe(credential: Credential | None) -> int:
        asked.append(credential)
        return 200 if credential else 403

    asker = ProvingAsker(URL, Given(lambda: bearer("t"), "set a new one"), probe)
    send: Callable[[Credential], AirflowReply[None]] = lambda _: replied(403)  # noqa: E731
    for _ in range(3):
        assert asker.ask(send).status == 403
    assert [one is None for one in asked] == [False, True, False, False]
    asker.start_audit()
    asker.ask(send)
    assert asked.count(None) == 2
