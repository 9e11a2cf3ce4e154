"""Logins of the second dialect against real servers: the form and its session, basic auth, cookies from outside, and
what a refusal is taken for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from healer.airflow.api import dialect2 as two
from healer.airflow.api import login2
from healer.airflow.api.credential import Credential, basic, bearer, cookie
from healer.airflow.api.credentials import Given
from healer.airflow.api.dialect import Ask
from healer.airflow.api.login2 import ProvingAsker, Session, log_in
from healer.airflow.api.task_key import TaskKey
from healer.errors import LoginRefusedError, NoAnswerError
from tests.airflow.two import Pages, Told, ask
from tests.lab.airflow2 import API, READ, Airflow2
from tests.lab.airflow2_setup import LOGIN_LIMIT
from tests.lab.airflow_env import AIRFLOW_2
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.door import Door

RUN = "scheduled__2026-01-01T00:00:00+00:00"
CELL = TaskKey("etl", RUN, "t")
CONFIRMATION: list[Ask[Any]] = [
    two.listed((CELL,), {}),
    two.task_instance(CELL, -1),
    two.xcom(CELL, -1, "pod_name"),
    two.xcom(CELL, -1, "pod_namespace"),
    two.task_instance(CELL, -1),
]
"""The questions of a confirmation, in turn."""


@pytest.fixture(scope="module", params=list(AIRFLOW_2))
def lab(request: pytest.FixtureRequest, airflow2_of: Callable[[str], Airflow2]) -> Airflow2:
    running = airflow2_of(request.param)
    running.seed([Dag("etl", [Run(RUN, [Task("t", "failed", xcom="pod")])])])
    running.add_user("blind", READ[:3])
    running.add_user("etl-only", [("can_read", "DAG:etl"), *READ[1:]])
    return running


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(login2, "boottime", lambda: now[0])
    return now


def session(pages: Pages, user: str = "viewer", password: str | None = None) -> Session:
    """User and password, as the healer logs in with them."""
    return Session(user, lambda: password or user, lambda name, word: log_in(pages, pages.url, name, name, word))


def asker(url: str, credentials: Any) -> ProvingAsker:
    """The healer's side, which finds out what a refusal means."""
    return ProvingAsker(url, credentials, lambda credential: ask(url, two.dags(1), credential).status)


def put(subject: ProvingAsker, url: str, question: Ask[Any]) -> Told:
    """One question."""
    return subject.ask(lambda credential: ask(url, question, credential))


# The form


def test_the_form_gives_a_session_with_which_everything_is_read(lab: Airflow2) -> None:
    pages = Pages(lab.url)
    given = session(pages).current()
    assert (given.header, given.value.startswith("session=")) == ("Cookie", True)
    assert given.value not in repr(given)
    assert [ask(lab.url, question, given).status for question in CONFIRMATION] == [200] * 5
    assert pages.asked == ["GET /login/", "POST /login/"]


def test_the_cookie_of_a_file_is_taken_in_each_form(lab: Airflow2) -> None:
    value = session(Pages(lab.url)).current().value
    for text in (value, value.removeprefix("session="), f"Cookie: {value}", f"other=1; {value}"):
        assert ask(lab.url, two.dag("etl"), cookie(text)).status == 200


@pytest.mark.parametrize(("user", "password"), [("viewer", "wrong"), ("no such user", "x"), ("viewer", " ")])
def test_a_wrong_password_is_told_from_a_missing_right(lab: Airflow2, user: str, password: str) -> None:
    with pytest.raises(LoginRefusedError, match=f"does not accept the password of {user}") as refused:
        session(Pages(lab.url), user, password).current()
    assert password == " " or password not in str(refused.value).replace("does not accept", "")


def test_a_refused_password_is_not_sent_again_for_a_minute(lab: Airflow2, clock: list[float]) -> None:
    pages = Pages(lab.url)
    login = session(pages, "viewer", "wrong")
    for _ in range(5):
        with pytest.raises(LoginRefusedError):
            login.current()
    assert pages.asked == ["GET /login/", "POST /login/"]
    clock[0] += 61
    with pytest.raises(LoginRefusedError):
        login.current()
    assert len(pages.asked) == 4


def test_basic_auth_where_it_is_switched_on(lab: Airflow2) -> None:
    assert ask(lab.url, two.dag("etl"), basic("viewer", "viewer")).status == 200


def test_a_token_that_nobody_knows_is_a_refused_login(lab: Airflow2) -> None:
    with pytest.raises(LoginRefusedError, match="refuses every question"):
        put(asker(lab.url, Given(lambda: bearer("unknown"), "set a new one")), lab.url, two.dag("etl"))


# A session that ends


@pytest.mark.parametrize("at", range(len(CONFIRMATION)))
@pytest.mark.parametrize("user", ["viewer", "blind", "etl-only"])
def test_a_session_that_ends_before_any_question_is_renewed(
    lab: Airflow2, clock: list[float], at: int, user: str
) -> None:
    pages = Pages(lab.url)
    subject = asker(lab.url, session(pages, user))
    expected = [200, 200, 403, 403, 200] if user == "blind" else [200] * 5
    seen = []
    for number, question in enumerate(CONFIRMATION):
        if number == at:
            clock[0] += 61
            lab.end_sessions()
        seen.append(put(subject, lab.url, question).status)
    assert seen == expected
    assert pages.asked.count("POST /login/") == (1 if at == 0 else 2)


@pytest.mark.parametrize("at", range(1, len(CONFIRMATION)))
def test_a_session_that_ends_twice_in_a_minute_is_no_missing_right(lab: Airflow2, clock: list[float], at: int) -> None:
    subject = asker(lab.url, session(Pages(lab.url), "blind"))
    for question in CONFIRMATION[:at]:
        put(subject, lab.url, question)
    lab.end_sessions()
    with pytest.raises(LoginRefusedError, match="refuses every question"):
        put(subject, lab.url, CONFIRMATION[at])
    clock[0] += 61
    assert put(subject, lab.url, CONFIRMATION[at]).status in (200, 403)


def test_a_session_that_ends_between_a_refusal_and_its_proof_is_no_missing_right(
    lab: Airflow2, clock: list[float]
) -> None:
    with Door(lab.url) as door:
        subject = asker(door.url, session(Pages(lab.url), "blind"))
        put(subject, door.url, two.dag("etl"))
        door.once("/api/v1/dags?", lab.end_sessions)
        with pytest.raises(LoginRefusedError):
            put(subject, door.url, two.xcom(CELL, -1, "pod_name"))
        clock[0] += 61
        told = put(subject, door.url, two.xcom(CELL, -1, "pod_name"))
        assert (told.status, told.none) == (403, False)


def test_a_missing_right_costs_no_new_login(lab: Airflow2) -> None:
    pages = Pages(lab.url)
    subject = asker(lab.url, session(pages, "etl-only"))
    asked = [two.dag("nothing"), two.run("b", RUN), two.listed((CELL, TaskKey("nothing", RUN, "t")), {})]
    for question in [*asked, *asked]:
        assert put(subject, lab.url, question).status == 403
    assert pages.asked == ["GET /login/", "POST /login/"]


def test_a_role_that_may_read_no_dag_at_all_is_told_what_it_needs(lab: Airflow2) -> None:
    with pytest.raises(LoginRefusedError, match="can_read on DAGs"):
        put(asker(lab.url, session(Pages(lab.url), "nobody")), lab.url, two.dag("etl"))


def test_basic_auth_whose_password_changes_is_refused_and_no_missing_right(lab: Airflow2) -> None:
    lab.add_user("changed", READ[:3])
    subject = asker(lab.url, Given(lambda: basic("changed", "changed"), "set a new one"))
    assert put(subject, lab.url, CONFIRMATION[2]).status == 403
    lab.set_password("changed", "another")
    with pytest.raises(LoginRefusedError):
        put(subject, lab.url, CONFIRMATION[2])


# Sites that are set up otherwise


def test_as_airflow_comes_the_session_gets_in_and_basic_auth_does_not() -> None:
    env = {"AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.session", LOGIN_LIMIT: "1"}
    with Airflow2.start(components=API, env=env) as lab:
        lab.seed([Dag("etl", [Run(RUN, [Task("t", "failed")])])])
        assert ask(lab.url, two.dag("etl"), session(Pages(lab.url)).current()).status == 200
        assert ask(lab.url, two.dag("etl"), basic("viewer", "viewer")).status == 403

        # More than five logins in 40 s, and Airflow says so: the healer waits, and does not call it a wrong password.
        failures = []
        for _ in range(8):
            try:
                session(Pages(lab.url)).current()
            except NoAnswerError as failed:
                failures.append(failed)
        assert failures
        assert all(failed.code == "429" and not isinstance(failed, LoginRefusedError) for failed in failures)


def test_where_visitors_may_read_a_403_proves_nothing(tmp_path: Any) -> None:
    config = tmp_path / "webserver_config.py"
    config.write_text('AUTH_TYPE = 1\nAUTH_RATE_LIMITED = False\nAUTH_ROLE_PUBLIC = "blind"\n')
    env = {"AIRFLOW__WEBSERVER__CONFIG_FILE": str(config)}
    with Airflow2.start(components=API, env=env) as lab:
        lab.seed([Dag("etl", [Run(RUN, [Task("t", "failed", xcom="pod")])])])
        lab.add_user("blind", READ[:3])
        subject = asker(lab.url, session(Pages(lab.url), "blind"))
        assert put(subject, lab.url, CONFIRMATION[1]).status == 200
        with pytest.raises(NoAnswerError, match="AUTH_ROLE_PUBLIC"):
            put(subject, lab.url, CONFIRMATION[2])


def test_a_credential_is_never_shown() -> None:
    for one in (basic("u", "secret"), bearer("secret"), cookie("secret")):
        assert isinstance(one, Credential)
        assert "secret" not in f"{one!r} {one}"
