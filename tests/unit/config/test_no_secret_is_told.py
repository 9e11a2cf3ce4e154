"""A secret that stands in the wrong place, or that a server or library repeats, is told nowhere.

It is planted in each key, flag and variable in turn, and in what servers answer; whatever comes out, on either stream
and at the most talkative level of the log, must not hold it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from healer.cli.commands import cli
from healer.config import OVERRIDES, load, settings
from healer.errors import ConfigError
from healer.redaction import scrubbed
from tests.unit.cli_world import Answer, Outcome, Script, Seen, World, answer, good_airflow, world
from tests.unit.cluster_server import write_kubeconfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_logging")]

SECRET = "Hunter2_s3cr3t!"
FORMS = {
    "bare": SECRET,
    "with a user": f"admin:{SECRET}@airflow:8080",
    "URL": f"http://admin:{SECRET}@airflow:8080",
    "slash": f"http://admin:{SECRET}/x@airflow:8080",
    "hash": f"http://admin:{SECRET}#1@airflow:8080",
    "question mark": f"http://admin:{SECRET}?1@airflow:8080",
    "port that is none": f"http://admin:{SECRET}",
    "port before a slash": f"http://admin:8080/{SECRET}@airflow",
    "brackets": f"http://[{SECRET}@airflow]:8080",
    "query": f"http://airflow:8080/?token={SECRET}",
    "quoted": f"http://admin%3A{SECRET}%40airflow:8080",
    "backslash": f"http://admin:{SECRET}\\@airflow:8080",
    "no scheme": f"//admin:{SECRET}@airflow:8080",
    "two lines": f"{SECRET}\n{SECRET}",
    "token": f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.c2ln",
}
"""The shapes in which people write a secret where it does not belong."""


def is_silent(outcome: Outcome) -> None:
    said = outcome.out + outcome.err
    assert SECRET not in said, said
    assert "Traceback" not in said


def put(document: Any, path: tuple[str, ...], value: object) -> Any:
    """Return the document with a value at a place; in a list at its first entry."""
    if not path:
        return value
    if isinstance(document, list):
        return [put(document[0] if document else {}, path, value)]
    found = document if isinstance(document, dict) else {}
    return found | {path[0]: put(found.get(path[0], {}), path[1:], value)}


def refusal(file: Path) -> str:
    """What is said of a configuration, nothing where it is taken."""
    try:
        load(file, {}, {})
    except ConfigError as error:
        return str(error)
    return ""


KEYS = [(*setting.parent, setting.key) for setting in settings()]
NAMED = {("airflows", "username"), ("airflows", "policy", "foreignOperators")}
"""What may be any text, and so is not checked; a user's name is told where its login is refused, up to a colon."""


@pytest.mark.parametrize("shape", ["text", "list", "mapping"])
@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_in_a_key_of_the_file(path: tuple[str, ...], shape: str, good: World) -> None:
    for form in FORMS.values():
        value: object = {"text": form, "list": [form], "mapping": {"key": form}}[shape]
        document = put(yaml.safe_load(good.config().read_text()), path, value)
        file = good.folder / "planted.yaml"
        file.write_text(yaml.safe_dump(document))
        said = refusal(file)
        assert SECRET not in said
        assert said or path in NAMED or path[-1] in {"password", "token"}, f"{path} takes {value!r}"


@pytest.mark.parametrize("command", [("check",), ("scan",)], ids=" ".join)
@pytest.mark.parametrize("key", ["password", "token", "username"])
def test_in_a_login_that_is_refused(key: str, command: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    def refusing(seen: Seen) -> Answer:
        return answer(401, {"detail": f"Invalid credentials {seen.body}"})

    login = {"password": None, "username": None} if key == "token" else {}
    value = f"healer:{SECRET}" if key == "username" else SECRET
    with world(tmp_path, capsys, airflow=refusing) as made:
        is_silent(made.run(*command, "--log-level", "debug", config=made.config(**login, **{key: value})))


OPTIONS = [
    (name, option.opts[-1])
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag
]


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[" ".join(each) for each in OPTIONS])
def test_in_a_flag(command: str, option: str, good: World) -> None:
    more = ("--airflow", "prod") if command == "release" else ("--once",) if command == "run" else ()
    for form in (FORMS["bare"], FORMS["slash"], FORMS["token"]):
        for words in ((option, form), (f"{option}={form}",)):
            outcome = good.run(command, *more, *words, *(["a/p"] if command == "explain" else []))
            if option == "--airflow-username" and outcome.code == 0:
                continue
            is_silent(outcome)


@pytest.mark.parametrize("words", [(SECRET,), ("scan", SECRET), ("scan", f"--password={SECRET}"), ("explain", SECRET)])
def test_as_a_word_of_the_command_line(words: tuple[str, ...], good: World) -> None:
    outcome = good.run(*words)
    assert outcome.code == 2
    is_silent(outcome)


VARIABLES = [*(twin.env for twin in OVERRIDES), "KPO_HEALER_PASSWORD", "KUBECONFIG"]
PROXIES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_in_a_variable(variable: str, good: World) -> None:
    base = {
        "KPO_HEALER_NAMESPACE": "a",
        "KPO_HEALER_AIRFLOW_URL": good.airflow_url,
        "KPO_HEALER_AIRFLOW_USERNAME": "healer",
        "KPO_HEALER_AIRFLOW_PASSWORD": "secret",
    }
    for form in (FORMS["bare"], FORMS["hash"], FORMS["token"]):
        env = base | {variable: form}
        if variable.endswith("_FILE"):
            del env["KPO_HEALER_AIRFLOW_PASSWORD"]
        if variable.endswith("TOKEN") or "TOKEN_FILE" in variable:
            env.pop("KPO_HEALER_AIRFLOW_PASSWORD", None)
            del env["KPO_HEALER_AIRFLOW_USERNAME"]
        own = () if variable == "KUBECONFIG" else ("--kubeconfig", str(good.folder / "kubeconfig"))
        outcome = good.run("check", *own, "--log-level", "debug", env=env)
        if variable != "KPO_HEALER_AIRFLOW_USERNAME":
            is_silent(outcome)


@pytest.mark.parametrize("form", ["URL", "slash", "hash", "port that is none", "no scheme", "with a user", "bare"])
@pytest.mark.parametrize("variable", PROXIES)
def test_in_a_proxy(variable: str, form: str, good: World) -> None:
    for command in ("check", "scan"):
        env = {variable: FORMS[form], "KPO_HEALER_MODE": "report"}
        is_silent(good.run(command, "--config", str(good.config()), "--log-level", "debug", env=env))


@pytest.mark.parametrize(
    "text",
    [
        f"password: *{SECRET}",
        f"password: !{SECRET}",
        f"password: &{SECRET} *{SECRET}",
        f'password: "{SECRET}',
        f"password: '{SECRET}",
        f"password: {SECRET}: x",
        f"password: @{SECRET}",
        f"password: %{SECRET}\n\tx",
        f"{{{SECRET}",
        f"? [{SECRET}]\n: x",
        f"mode: report\nmode: {SECRET}",
        f"{SECRET}: a\n{SECRET}: b",
        f"{SECRET}",
        f"- {SECRET}",
        f"password: !!int {SECRET}",
        f"password: !!timestamp {SECRET}",
        f"password: !!binary {SECRET}",
        f"a: 2026-99-99\nb: {SECRET}",
        f"airflows: [{{name: {SECRET} x}}]",
        f"<<: {SECRET}",
    ],
)
def test_in_a_file_that_is_no_yaml(text: str, good: World) -> None:
    file = good.folder / "broken.yaml"
    file.write_text(text)
    outcome = good.run("check", "--config", str(file), "--log-level", "debug")
    assert outcome.code == 2
    is_silent(outcome)


@pytest.mark.parametrize(
    "token", [f"{SECRET}\n{SECRET}", f"{SECRET}\r\nX: y", f"{SECRET}\x00", f"ł{SECRET}"], ids=["LF", "CRLF", "NUL", "ł"]
)
@pytest.mark.parametrize("command", [("check",), ("scan",), ("run", "--once")], ids=" ".join)
def test_in_a_kubeconfigs_token(token: str, command: tuple[str, ...], good: World) -> None:
    document = yaml.safe_load((good.folder / "kubeconfig").read_text())
    document["users"][0]["user"] = {"token": token}
    (good.folder / "kubeconfig").write_text(yaml.safe_dump(document))
    outcome = good.run(*command, "--log-level", "debug")
    assert "\x00" in token or outcome.code in {1, 2, 3}
    is_silent(outcome)


@pytest.mark.parametrize(
    "text", [f"token: *{SECRET}", f"{SECRET}", f"[{SECRET}", f"users: {SECRET}", f"current-context: {SECRET}"]
)
def test_in_a_broken_kubeconfig(text: str, good: World) -> None:
    broken = good.folder / "broken"
    broken.write_text(text)
    is_silent(good.run("check", "--kubeconfig", str(broken), "--log-level", "debug"))


@pytest.mark.parametrize("key", ["client-certificate", "client-key", "tokenFile", "client-key-data", "exec"])
def test_in_a_kubeconfigs_user(key: str, good: World) -> None:
    path = write_kubeconfig(good.folder / "odd", "https://127.0.0.1:1")
    document = yaml.safe_load(path.read_text())
    odd: object = {"command": "/bin/false", "args": [SECRET], "apiVersion": "x"} if key == "exec" else SECRET
    document["users"][0]["user"] = {key: odd}
    path.write_text(yaml.safe_dump(document))
    is_silent(good.run("check", "--kubeconfig", str(path), "--log-level", "debug"))


def echo(status: int, kind: str = "application/json") -> Script:
    """Answer with all that was sent, as a debugging proxy does, and with a login in headers and URLs."""

    def script(seen: Seen) -> Answer:
        if seen.path.endswith("/version"):
            return good_airflow(seen)
        said = f"you sent Bearer {SECRET} to http://healer:{SECRET}@airflow/x?token={SECRET} {seen.body}"
        body = json.dumps({"detail": said, "reason": said}).encode() if "json" in kind else said.encode()
        return Answer(status, body, kind, location=f"https://u:{SECRET}@sso.example.com/login?code={SECRET}")

    return script


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/plain"])
@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 403, 404, 405, 422, 429, 500, 502, 503, 504])
def test_in_what_a_server_repeats(status: int, kind: str, tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys, airflow=echo(status, kind)) as made:
        for login in ({"password": SECRET}, {"username": None, "password": None, "token": SECRET}):
            for command in (("check",), ("explain", "a/p")):
                is_silent(made.run(*command, "--log-level", "debug", config=made.config(**login)))


@given(
    st.sampled_from(["http", "https", "socks5"]),
    st.text("ab:/?#[]@%\\ .0", max_size=12),
    st.text("ab:/?#[]@", max_size=6),
)
def test_no_url_of_any_shape_is_repeated(scheme: str, before: str, after: str) -> None:
    url = f"{scheme}://{before}{SECRET}{after}@airflow:8080"
    flags = {"namespace": ("a",), "airflow_url": url, "airflow_username": "u"}
    with pytest.raises(ConfigError) as error:
        load(None, flags, {"KPO_HEALER_AIRFLOW_PASSWORD": "p"})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("proxy http://u:hunter2@proxy:3128 fails", "proxy http://***@proxy:3128 fails"),
        ("Authorization: Bearer hunter2.x", "Authorization: Bearer ***"),
        ("b'Basic aHVudGVyMg=='", "b'Basic ***'"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "got ***"),
        ("https://x/y?a=1&access_token=hunter2&b=2", "https://x/y?a=1&access_token=***&b=2"),
        ("Pod airflow/extract-1 of run manual__2026-01-01T00:00:00+00:00", None),
        ("write to ops@example.com", None),
    ],
)
def test_the_net_under_all_texts(text: str, left: str | None) -> None:
    assert scrubbed(text) == (left or text)


def test_the_log_is_scrubbed_at_any_level(good: World, capsys: pytest.CaptureFixture[str]) -> None:
    good.run("check", "--log-level", "debug")
    for logger in ("healer", "urllib3", "kopf"):
        try:
            raise ValueError(f"Invalid header value b'Bearer {SECRET}'")
        except ValueError:
            logging.getLogger(logger).exception("at http://u:%s@proxy", SECRET)
    assert SECRET not in capsys.readouterr().err
