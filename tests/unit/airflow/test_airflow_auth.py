"""Logging in, staying logged in, and being refused. The fake server counts logins; nothing here waits for a clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from healer.airflow import Call
from healer.airflow.api.credentials import lifetime
from healer.errors import LoginRefusedError
from healer.model import Answer, Known, Unknown
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, error, healer, jwt, pod, put, row, serving


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        server.rows = [row()]
        server.tokens = set()
        yield server


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def why(answer: Answer) -> str:
    assert isinstance(answer, Unknown)
    return answer.why


def test_one_login_serves_many_questions(fake: FakeAirflow) -> None:
    airflow = healer(fake)
    for _ in range(3):
        assert isinstance(only(airflow.get_all([pod()])), Known)
    assert fake.logins == 1


@pytest.mark.parametrize("refusal", [error(401, "Token Expired"), error(403, "Invalid JWT token")])
def test_a_token_that_died_is_replaced_at_once(fake: FakeAirflow, refusal: Reply) -> None:
    calls: list[Call] = []
    airflow = healer(fake, calls)
    airflow.get_all([pod()])
    dead = set(fake.tokens or ())
    fake.intercept = lambda asked: refusal if asked.token in dead else None
    calls.clear()
    assert isinstance(only(airflow.get_all([pod()])), Known)
    assert [(call.call, call.code) for call in calls] == [
        ("list", str(refusal.status)),
        ("login", "201"),
        ("list", "200"),
    ]


def test_a_token_is_renewed_before_it_dies(fake: FakeAirflow) -> None:
    fake.token_lifetime = 0
    airflow = healer(fake)
    airflow.get_all([pod()])
    before = fake.logins
    airflow.get_all([pod()])
    assert fake.logins > before
    assert all(asked.token in (None, *fake.tokens) for asked in fake.asked if fake.tokens)


def test_an_early_renewal_that_fails_leaves_the_old_token(fake: FakeAirflow) -> None:
    fake.token_lifetime = 0
    airflow = healer(fake)
    airflow.get_all([pod()])
    fake.intercept = lambda asked: error(500, "tired") if asked.path == "/auth/token" else None
    assert isinstance(only(airflow.get_all([pod()])), Known)


@pytest.mark.parametrize(
    ("token", "seconds"),
    [
        (jwt(3600), 3600.0),
        (jwt(-5), 0.0),
        ("opaque", float("inf")),
        ("a.%%%.c", float("inf")),
        ("a.e30.c", float("inf")),
        ("", float("inf")),
    ],
)
def test_the_life_of_a_token(token: str, seconds: float) -> None:
    assert lifetime(token) == seconds


def test_a_wrong_password_is_said_and_not_tried_again_and_again(fake: FakeAirflow) -> None:
    airflow = healer(fake, password="wrong-password")
    pods = [pod(dag=f"d{i}") for i in range(100)]
    for _ in range(3):
        answers = airflow.get_all(pods)
        assert len(answers) == 100
        assert all(
            "login refused: " in why(answer) and "the password of healer" in why(answer) for answer in answers.values()
        )
    assert len(fake.paths(part="/auth/token")) == 1, "a few more, and the account is locked"
    assert fake.lists() == []
    with pytest.raises(LoginRefusedError, match="login refused"):
        airflow.login()


def test_a_corrected_password_file_is_used_at_once(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "password", "wrong-password\n")
    airflow = healer(fake, passwordFile=str(path))
    assert "login refused" in why(only(airflow.get_all([pod()])))
    put(path, fake.password + "\n")
    assert isinstance(only(airflow.get_all([pod()])), Known)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error(404, "Not Found"), "its auth manager has no such login; set tokenFile"),
        (Reply(200, b"<html>", {"Content-Type": "text/html"}), "not JSON"),
        (Reply(302, b"", {"Location": "/login"}), "redirected to a login page"),
        (error(500, "tired"), "answered 500"),
        (error(422, [{"input": {"password": "secret-password"}}]), "answered 422"),
        (Reply(201, {"token": "x"}), "can't be read"),
    ],
)
def test_a_login_that_fails_otherwise_is_no_refusal(fake: FakeAirflow, reply: Reply, says: str) -> None:
    fake.intercept = lambda asked: reply if asked.path == "/auth/token" else None
    airflow = healer(fake)
    assert says in why(only(airflow.get_all([pod()])))
    airflow.login()


def test_a_fixed_token(fake: FakeAirflow) -> None:
    fake.tokens = {"static"}
    assert isinstance(only(healer(fake, token="static").get_all([pod()])), Known)
    assert fake.paths(part="/auth/token") == []


def test_a_fixed_token_that_is_refused(fake: FakeAirflow) -> None:
    airflow = healer(fake, token="old-token")
    said = why(only(airflow.get_all([pod()])))
    assert "can't verify the token: it was revoked" in said
    assert "old-token" not in said
    with pytest.raises(LoginRefusedError):
        airflow.login()


def test_a_rotated_token_file_needs_no_refusal(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"first", "second"}
    path = put(tmp_path / "token", "first\n")
    airflow = healer(fake, tokenFile=str(path))
    airflow.get_all([pod()])
    put(path, "second\n")
    airflow.get_all([pod()])
    assert [asked.token for asked in fake.asked if asked.is_list] == ["first", "second"]


def test_a_token_file_rotated_just_then_is_read_again(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"second"}
    path = put(tmp_path / "token", "first")

    def rotate(asked: Asked) -> Reply | None:
        if asked.is_list and asked.token == "first":
            put(path, "second")
        return None

    fake.intercept = rotate
    assert isinstance(only(healer(fake, tokenFile=str(path)).get_all([pod()])), Known)


def test_a_token_file_that_is_refused_is_named_by_its_key(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "token", "dead-token")
    said = why(only(healer(fake, tokenFile=str(path)).get_all([pod()])))
    assert "put a new one into the file that tokenFile names" in said
    assert "dead-token" not in said


@pytest.mark.parametrize(
    ("text", "says"), [(None, "can't read tokenFile"), ("\n", "must hold one line"), ("a\nb", "must hold one line")]
)
def test_a_token_file_that_is_none(fake: FakeAirflow, tmp_path: Path, text: str | None, says: str) -> None:
    path = put(tmp_path / "token", "good")
    airflow = healer(fake, tokenFile=str(path))
    path.unlink() if text is None else put(path, text)
    assert says in why(only(airflow.get_all([pod()])))


def test_a_cookie_file_is_read_for_every_request(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"session=first", "session=second"}
    path = put(tmp_path / "cookie", "first\n")
    airflow = healer(fake, cookieFile=str(path))
    airflow.get_all([pod()])
    put(path, "Cookie: session=second\n")
    airflow.get_all([pod()])
    assert [asked.token for asked in fake.asked if asked.is_list] == ["session=first", "session=second"]


def test_a_cookie_that_is_refused_is_not_shown(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "cookie", "dead-cookie")
    said = why(only(healer(fake, cookieFile=str(path)).get_all([pod()])))
    assert "put a new one into the file that cookieFile names" in said
    assert "dead-cookie" not in said


def test_a_token_with_forbidden_characters_is_not_shown(fake: FakeAirflow) -> None:
    said = why(only(healer(fake, token="se\ncret").get_all([pod()])))
    assert "forbidden characters" in said
    assert "cret" not in said


def test_a_server_that_refuses_its_own_tokens(fake: FakeAirflow) -> None:
    fake.intercept = lambda asked: error(403, "Invalid JWT token") if asked.token else None
    calls: list[Call] = []
    answers = healer(fake, calls).get_all([pod(dag=f"d{i}") for i in range(100)])
    assert all("[api_auth] jwt_secret" in why(answer) for answer in answers.values())
    assert len([call for call in calls if call.call == "login"]) == 2


def test_a_gateway_that_wants_the_token_for_everything(fake: FakeAirflow) -> None:
    fake.tokens = {"good"}
    fake.intercept = lambda asked: error(401, "who are you?") if asked.token != "good" else None
    assert isinstance(only(healer(fake, token="good").get_all([pod()])), Known)
    assert "refuses the token" in why(only(healer(fake, token="bad").get_all([pod()])))


def test_missing_rights_are_no_refusal_of_the_login(fake: FakeAirflow) -> None:
    fake.intercept = lambda asked: error(403, "Forbidden") if asked.token else None
    healer(fake).login()
