"""What stands in front of Airflow: headers of its own, certificates of ours; and logins beside user and password."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from healer.airflow import Airflow
from healer.airflow.api.token_life import expiry, lifetime, subject
from healer.config import AirflowConfig, load
from healer.errors import ConfigError
from healer.model import Answer, Known, Unknown
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, error, healer, jwt, pod, put, row, serving

CLIENT = {"clientId": "airflow"}


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        server.rows = [row()]
        yield server


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def ask(airflow: Airflow) -> Answer:
    return only(airflow.get_all([pod()]))


def why(answer: Answer) -> str:
    assert isinstance(answer, Unknown)
    return answer.why


# Further headers


def test_every_request_carries_the_further_headers(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "headers", "CF-Access-Client-Id: abc.access\nProxy-Authorization: Bearer gate\n")
    airflow = healer(fake, headersFile=str(path))
    assert isinstance(ask(airflow), Known)
    assert fake.asked
    for asked in fake.asked:
        assert asked.headers["CF-Access-Client-Id"] == "abc.access"
        assert asked.headers["Proxy-Authorization"] == "Bearer gate"


def test_a_rotated_header_is_sent_without_a_restart(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "headers", "X-Gate: old\n")
    airflow = healer(fake, headersFile=str(path))
    ask(airflow)
    fake.asked.clear()
    put(path, "X-Gate: new\n")
    ask(airflow)
    assert {asked.headers["X-Gate"] for asked in fake.asked} == {"new"}


def test_the_gateways_cookie_goes_with_airflows(fake: FakeAirflow, tmp_path: Path) -> None:
    headers = put(tmp_path / "headers", "Cookie: _oauth2_proxy=gate\n")
    cookie = put(tmp_path / "cookie", "session=abc\n")
    fake.tokens = {"session=abc; _oauth2_proxy=gate"}
    assert isinstance(ask(healer(fake, headersFile=str(headers), cookieFile=str(cookie))), Known)
    fake.tokens = None
    fake.asked.clear()
    ask(healer(fake, headersFile=str(headers)))
    assert {asked.headers["Cookie"] for asked in fake.asked} == {"_oauth2_proxy=gate"}


def test_headers_that_become_unreadable_are_told_by_their_key(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "headers", "X-Gate: a\n")
    airflow = healer(fake, headersFile=str(path))
    put(path, "X-Gate s3cr3t\n")
    assert why(ask(airflow)) == "headersFile: line 1 of the file is no header: write Name: value, in ASCII"


# Mutual TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def gate(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[FakeAirflow]:
    """A server that wants a client's certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[request.param]
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(context) as server:
        server.rows = [row()]
        yield server


def files(folder: Path, authority: trustme.CA, client: trustme.LeafCert) -> dict[str, str]:
    """Our certificate and its key, and the authority of the server."""
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    client.private_key_pem.write_to_path(str(folder / "key.pem"))
    return {f"{name}File": str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}


def test_our_certificate_lets_us_in(gate: FakeAirflow, authority: trustme.CA, tmp_path: Path) -> None:
    assert isinstance(ask(healer(gate, **files(tmp_path, authority, authority.issue_cert("healer")))), Known)


def test_certificate_and_key_in_one_file(gate: FakeAirflow, authority: trustme.CA, tmp_path: Path) -> None:
    client = authority.issue_cert("healer")
    given = files(tmp_path, authority, client)
    client.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    both = {"caFile": given["caFile"], "certFile": str(tmp_path / "both.pem")}
    assert isinstance(ask(healer(gate, **both)), Known)


def test_without_a_certificate_of_ours(gate: FakeAirflow, authority: trustme.CA, tmp_path: Path) -> None:
    given = files(tmp_path, authority, authority.issue_cert("healer"))
    said = why(ask(healer(gate, caFile=given["caFile"])))
    assert "certFile and keyFile name one" in said
    assert gate.asked == []


def test_a_certificate_of_somebody_else(
    gate: FakeAirflow, authority: trustme.CA, stranger: trustme.CA, tmp_path: Path
) -> None:
    said = why(ask(healer(gate, **files(tmp_path, authority, stranger.issue_cert("healer")))))
    # A server that is quick has closed the connection before its reason is read.
    assert "put one into certFile that it accepts" in said or "another certificate of ours than certFile names" in said
    assert gate.asked == []


def test_a_renewed_certificate_is_used_without_a_restart(
    gate: FakeAirflow, authority: trustme.CA, stranger: trustme.CA, tmp_path: Path
) -> None:
    airflow = healer(gate, **files(tmp_path, authority, stranger.issue_cert("healer")))
    assert isinstance(ask(airflow), Unknown)
    files(tmp_path, authority, authority.issue_cert("healer"))
    assert isinstance(ask(airflow), Known)


def configured(folder: Path, **fields: Any) -> str:
    """What `load` refuses, empty where it accepts it."""
    login = {"username": "u", "password": "p"} if not {"exec", "clientId"} & fields.keys() else {}
    entry = {"name": "a", "namespaces": ["n"], "url": "https://airflow.example.com", **login, **fields}
    path = put(folder / "config.yaml", json.dumps({"airflows": [entry]}))
    try:
        load(path, {}, {})
    except ConfigError as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("nothing", ""),
        ("no key", "certFile: certFile and keyFile hold no certificate and its key"),
        ("no certificate", "airflows[0]: keyFile needs certFile"),
        ("another key", "certFile: the key does not belong to the certificate"),
        ("a passphrase", "certFile: certFile and keyFile hold no certificate and its key, in PEM and without a pass"),
        ("no PEM", "certFile: certFile and keyFile hold no certificate and its key"),
        ("no file", "certFile: can't read the file that it names: No such file"),
    ],
)
def test_what_is_told_of_our_certificate_before_anything_else(
    change: str, says: str, authority: trustme.CA, tmp_path: Path
) -> None:
    client = authority.issue_cert("healer")
    given = files(tmp_path, authority, client)
    if change == "no key":
        del given["keyFile"]
    if change == "no certificate":
        del given["certFile"]
    if change == "another key":
        authority.issue_cert("other").private_key_pem.write_to_path(given["keyFile"])
    if change == "a passphrase":
        key = load_pem_private_key(client.private_key_pem.bytes(), None)
        sealed = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"phrase"))
        Path(given["keyFile"]).write_bytes(sealed)
    if change == "no PEM":
        put(Path(given["certFile"]), "none")
    if change == "no file":
        Path(given["certFile"]).unlink()
    said = configured(tmp_path, **given)
    assert (says in said) if says else said == ""


# A client and its secret


def keycloak(fake: FakeAirflow, secret: str = "client-s3cr3t") -> None:
    """Answer as the Keycloak auth manager does."""

    def answer(asked: Asked) -> Reply | None:
        if asked.path != "/auth/token":
            return None
        wanted = {"grant_type": "client_credentials", "client_id": "airflow", "client_secret": secret}
        if asked.body != wanted:
            return error(403, "Client credentials authentication failed")
        fake.logins += 1
        return Reply(201, {"access_token": jwt(86400, fake.logins)})

    fake.intercept = answer


def test_a_client_logs_in_with_its_secret(fake: FakeAirflow, tmp_path: Path) -> None:
    keycloak(fake)
    path = put(tmp_path / "secret", "client-s3cr3t\r\n")
    airflow = healer(fake, **CLIENT, clientSecretFile=str(path))
    assert isinstance(ask(airflow), Known)
    assert isinstance(ask(airflow), Known)
    assert fake.logins == 1


def test_a_client_that_is_refused(fake: FakeAirflow, tmp_path: Path) -> None:
    keycloak(fake)
    path = put(tmp_path / "secret", "wr0ng-s3cr3t")
    airflow = healer(fake, **CLIENT, clientSecretFile=str(path))
    said = [why(ask(airflow)) for _ in range(3)]
    assert len(fake.paths(part="/auth/token")) == 1
    assert "does not accept client airflow and its secret" in said[0]
    assert "[keycloak_auth_manager] client_id" in said[0]
    assert "s3cr3t" not in said[0]
    put(path, "client-s3cr3t")
    assert isinstance(ask(airflow), Known), "a corrected file is used at once"


def test_a_client_where_the_auth_manager_knows_none(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.intercept = lambda asked: (
        error(422, [{"loc": ["body", "username"], "input": asked.body}]) if asked.path == "/auth/token" else None
    )
    path = put(tmp_path / "secret", "client-s3cr3t")
    said = why(ask(healer(fake, **CLIENT, clientSecretFile=str(path))))
    assert "takes no clientId: only the Keycloak auth manager does; set username and passwordFile" in said


def test_a_wrong_password_that_is_answered_with_500_is_not_tried_again_and_again(fake: FakeAirflow) -> None:
    """The Keycloak auth manager answers so (provider 0.11.2), and Keycloak may lock the account."""
    fake.intercept = lambda asked: Reply(500, b"Internal Server Error") if asked.path == "/auth/token" else None
    airflow = healer(fake)
    said = [why(ask(airflow)) for _ in range(3)]
    assert "the Keycloak auth manager answers so to a wrong password" in said[0]
    assert len(fake.paths(part="/auth/token")) == 1


def test_a_password_in_quotes_is_named_when_it_is_refused(fake: FakeAirflow, tmp_path: Path) -> None:
    path = put(tmp_path / "password", f'"{fake.password}"')
    said = why(ask(healer(fake, passwordFile=str(path))))
    assert "it stands in quotes, which were sent with it" in said


# A program


def printing(tmp_path: Path, *tokens: str) -> dict[str, Any]:
    """A program that prints one token after the other."""
    (tmp_path / "tokens").write_text("\n".join(tokens))
    script = tmp_path / "program.py"
    script.write_text(
        f"import pathlib; p = pathlib.Path({str(tmp_path / 'tokens')!r}); first, *rest = p.read_text().split('\\n')\n"
        "p.write_text('\\n'.join(rest or [first])); print(first)"
    )
    return {"exec": {"command": [sys.executable, str(script)]}}


def test_what_a_program_prints_is_sent(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"first"}
    assert isinstance(ask(healer(fake, **printing(tmp_path, "first"))), Known)
    assert fake.paths(part="/auth/token") == []


def test_a_cookie_that_a_program_prints_is_sent_as_one(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"session=abc"}
    printed = json.dumps({"status": {"cookie": "session=abc"}})
    assert isinstance(ask(healer(fake, **printing(tmp_path, printed))), Known)


def test_after_a_refusal_in_mid_run_the_program_is_run_again(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"first"}
    airflow = healer(fake, **printing(tmp_path, "first", "second", "third"))
    ask(airflow)
    fake.tokens = {"second"}
    assert isinstance(ask(airflow), Known)
    fake.tokens = {"fourth"}
    assert "is run again in" in why(ask(airflow))
    assert (tmp_path / "tokens").read_text() == "third"


def test_a_program_that_prints_what_was_refused(fake: FakeAirflow, tmp_path: Path) -> None:
    fake.tokens = {"other"}
    said = why(ask(healer(fake, **printing(tmp_path, "first"))))
    assert said.endswith("the program of exec prints the same one again")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"command": []}, "airflows[0].exec.command: is empty: name at least one"),
        ({"command": "kpo-healer token google"}, "airflows[0].exec.command: must be a list, as [one, two]"),
        ({"command": ["x"], "timeout": 30}, "airflows[0].exec.timeout: is not a duration: it has no unit"),
        ({"command": ["x"], "env": []}, "airflows[0].exec.env: unknown key: use one of command, timeout"),
        ({"command": ["a\0b"]}, "airflows[0].exec.command[0]: holds a NUL character"),
        ({"command": ["x", 1]}, "airflows[0].exec.command[1]: must be text: put it in quotes"),
        ({}, "airflows[0].exec.command: is missing: set it"),
    ],
)
def test_a_program_that_is_none(entry: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert says in configured(tmp_path, exec=entry)


WAYS: dict[str, Any] = {
    "token": "t",
    "tokenFile": "/t",
    "cookieFile": "/c",
    "exec": {"command": ["x"]},
    "username": "u",
    "clientId": "c",
}


@pytest.mark.parametrize("one", WAYS)
@pytest.mark.parametrize("two", WAYS)
def test_there_is_exactly_one_login(one: str, two: str) -> None:
    entry = {"name": "a", "namespaces": ["n"], "url": "https://airflow.example.com"}
    pairs = {"username": {"password": "p"}, "clientId": {"clientSecretFile": "/s"}}
    entry |= {key: WAYS[key] for key in (one, two)} | pairs.get(one, {}) | pairs.get(two, {})
    if one == two:
        assert AirflowConfig.model_validate(entry)
        return
    with pytest.raises(ValueError, match="give exactly one login"):
        AirflowConfig.model_validate(entry)


# A token within a token


def test_a_token_within_airflows_own_ends_first() -> None:
    """The Keycloak auth manager refuses every question once that has ended, 23 hours and 55 minutes early."""
    inner = jwt(300)
    assert lifetime(jwt(86400)) == 86400
    assert lifetime(wrapped(inner)) == 300
    assert expiry(wrapped(inner)) == expiry(inner)
    assert subject(wrapped(inner)) == "service-account-airflow"


def wrapped(inner: str) -> str:
    import base64

    payload = {"exp": 1767312000, "iat": 1767225600, "name": "service-account-airflow", "access_token": inner}
    return f"x.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.y"


# What is known of the credential


def token(**claims: Any) -> str:
    import base64

    return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.y"


def login(airflow: Airflow, now: float = 1767225600.0) -> tuple[str, str]:
    """What `check` says of the login: how it came out, and the sentence."""
    from healer.airflow.check import probe

    checks = probe(airflow._client, airflow._config, lambda: now).checks
    (found,) = (check for check in checks if check.name == "login")
    return found.status.value, found.text


DAY = 86400


@pytest.mark.parametrize(
    ("claims", "status", "says"),
    [
        ({}, "ok", "Airflow accepts the token"),
        ({"sub": "ann", "role": "viewer"}, "ok", "Airflow accepts the token (ann), role viewer"),
        ({"exp": 1767225600 + 2 * DAY}, "ok", "until 2026-01-03T00:00:00Z, and nobody here renews it"),
        ({"exp": 1767225600 + DAY / 2}, "warn", "until 2026-01-01T12:00:00Z, and nobody here renews it"),
        ({"sub": "x\u001b[2J\u202e"}, "ok", r"Airflow accepts the token (x\x1b[2J\u202e)"),
        ({"sub": "x" * 5000}, "ok", "x" * 100 + ")"),
    ],
)
def test_check_says_who_we_are_and_until_when(
    claims: dict[str, Any], status: str, says: str, fake: FakeAirflow
) -> None:
    came_out, text = login(healer(fake, token=token(**claims)))
    assert came_out == status
    assert text.endswith(says) if says.startswith("until") else says in text
    assert len(text) < 300


def test_check_says_of_a_login_that_it_is_renewed(fake: FakeAirflow) -> None:
    assert login(healer(fake)) == (
        "ok",
        "Airflow accepts healer, until 1970-01-02T00:16:40Z; it is renewed before",
    )


def test_a_bad_token_within_a_token_does_no_harm(fake: FakeAirflow) -> None:
    for odd in ({"access_token": 1}, {"exp": "soon"}, {"exp": 1e400}, {"access_token": "a.b"}, {"exp": -1e300}):
        assert login(healer(fake, token=token(**odd)))[0] in ("ok", "warn")


def test_the_credentials_life_is_known_after_a_question(fake: FakeAirflow, tmp_path: Path) -> None:
    airflow = healer(fake, **printing(tmp_path, token(exp=5000, sub="robot")))
    assert airflow.credential.expires is None
    ask(airflow)
    known = airflow.credential
    assert (known.expires, known.renewable, known.failed_renewals, known.subject) == (5000, True, 0, "robot")
    given = healer(fake, token=token(exp=5000))
    ask(given)
    assert (given.credential.expires, given.credential.renewable) == (5000, False)


def test_failed_logins_are_counted_until_one_is_good(fake: FakeAirflow) -> None:
    fake.token_lifetime = 0
    airflow = healer(fake)
    ask(airflow)
    fake.intercept = lambda asked: error(502, "tired") if asked.path == "/auth/token" else None
    ask(airflow)
    assert airflow.credential.failed_renewals == 1
    fake.intercept = lambda _: None


# Airflow 2


def test_a_session_that_a_program_prints_is_taken_by_airflow_2_and_fetched_anew(tmp_path: Path) -> None:
    with serving() as server:
        server.version = "2.11.2"
        server.rows = [row()]
        server.tokens = {"first"}
        printed = [json.dumps({"status": {"cookie": f"session={name}"}}) for name in ("first", "second")]
        airflow = healer(server, **printing(tmp_path, *printed))
        assert isinstance(ask(airflow), Known)
        server.tokens = {"second"}
        assert isinstance(ask(airflow), Known)


def test_a_client_is_nothing_for_airflow_2(tmp_path: Path) -> None:
    path = put(tmp_path / "secret", "client-s3cr3t")
    with serving() as server:
        server.version = "2.11.2"
        said = why(ask(healer(server, **CLIENT, clientSecretFile=str(path))))
    assert "is an Airflow 2, which takes no clientId: set username, or exec" in said
