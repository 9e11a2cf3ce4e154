"""Who may read what was found: the bearer token, on each page that tells something; and none of metrics and probes."""

from __future__ import annotations

import hmac
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from healer.config import load
from healer.errors import ConfigError
from healer.leader_election import AlwaysLeader
from healer.telemetry import bearer_token
from healer.telemetry.bearer_token import LONGEST, BearerToken
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.http_server import HttpRequest, HttpServer, serve
from tests.unit.cli_world import kpo_healer, undisturbed_logging
from tests.unit.telemetry.test_serving import Figures

OPEN = {"/metrics", "/healthz", "/readyz", "/nothing"}
PAGES = sorted(FindingsEndpoint(AlwaysLeader()).pages)
TOKEN = "s3cret-of-the-page"
WRONG = [
    (),
    *((header,) for header in ("", "Bearer", "Bearer ", "Bearer wrong", "Bearer \xfc", f"Basic {TOKEN}", TOKEN)),
    *((f"Bearer {token}",) for token in (f"{TOKEN}x", TOKEN[:-1])),
]
"""The headers of a request, none or one."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text(f"{TOKEN}\n")
    return made


@pytest.fixture
def server(file: Path) -> Iterator[HttpServer]:
    good = lambda: (True, "fine")  # noqa: E731
    pages = FindingsEndpoint(AlwaysLeader()).pages
    running = serve("127.0.0.1:0", Figures(), health=good, ready=good, more=pages, guard=BearerToken(file))
    yield running
    running.stop()


def ask(server: HttpServer, path: str, *tokens: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("GET", path)
    for token in tokens:
        connection.putheader("Authorization", token)
    connection.endheaders()
    reply = connection.getresponse()
    body = reply.read().decode()
    connection.close()
    return reply.status, body, dict(reply.getheaders())


def test_these_pages_tell_something() -> None:
    assert PAGES == ["/findings", "/history", "/notices", "/status"], (
        "a new page: it is guarded too, and say so in docs"
    )


@pytest.mark.parametrize("path", PAGES)
def test_each_page_wants_the_token(server: HttpServer, path: str) -> None:
    for wrong in WRONG:
        status, body, headers = ask(server, path, *wrong)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), wrong
        assert body.count("\n") == 1
        assert TOKEN not in body
    assert ask(server, path, f"Bearer {TOKEN}")[0] != 401
    assert ask(server, path, f"bearer  {TOKEN}")[0] != 401


@pytest.mark.parametrize("path", sorted(OPEN))
def test_metrics_and_probes_want_none(server: HttpServer, path: str) -> None:
    assert ask(server, path)[0] == (404 if path == "/nothing" else 200)


def test_the_file_is_read_for_each_request(server: HttpServer, file: Path) -> None:
    assert ask(server, "/status", f"Bearer {TOKEN}")[0] == 503
    file.write_text("another")
    assert ask(server, "/status", f"Bearer {TOKEN}")[0] == 401
    assert ask(server, "/status", "Bearer another")[0] == 503


@pytest.mark.parametrize(
    "text", [f"\ufeff{TOKEN}\r\n", f"Bearer {TOKEN}\n", f'"{TOKEN}"', f"Authorization: Bearer {TOKEN}"]
)
def test_the_file_is_read_as_people_make_it(server: HttpServer, file: Path, text: str) -> None:
    file.write_text(text)
    for given in (TOKEN, f"Bearer {TOKEN}", f'"{TOKEN}"'):
        assert ask(server, "/status", f"Bearer {given}")[0] == 503, given
    assert ask(server, "/status", "Bearer wrong")[0] == 401


@pytest.mark.parametrize("trouble", ["missing", "empty", "blank", "folder", "huge"])
def test_a_file_without_a_token_opens_nothing_and_says_so_once(
    server: HttpServer, file: Path, trouble: str, tmp_path: Path
) -> None:
    file.unlink()
    content = {"empty": "", "blank": " \n\n", "huge": "x" * (LONGEST + 1)}
    if trouble in content:
        file.write_text(content[trouble])
    elif trouble == "folder":
        file.mkdir()
    with structlog.testing.capture_logs() as said:
        for token in ((), ("Bearer ",), ("Bearer x",), (f"Bearer {'x' * (LONGEST + 1)}",), ("Bearer \n x",)):
            status, body, _ = ask(server, "/findings", *(t for t in token if "\n" not in t))
            assert (status, body.count("\n")) == (401, 1)
            assert "listenTokenFile" in body
            assert str(tmp_path) not in body
        warnings = [line for line in said if line["log_level"] == "warning"]
        assert len(warnings) == 1
        file.rmdir() if trouble == "folder" else file.unlink(missing_ok=True)
        file.write_text(TOKEN)
        assert ask(server, "/findings", f"Bearer {TOKEN}")[0] == 503
    assert [line["log_level"] for line in said] == ["warning", "info"]


def test_it_is_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(bearer_token.hmac, "compare_digest", compare)
    assert BearerToken(file)(HttpRequest(authorization="Bearer nearly")) is not None
    assert compared == [(b"nearly", TOKEN.encode())]


CONFIG = """
listenTokenFile: {file}
airflows: [{{name: a, namespaces: [n], url: "http://a", token: t}}]
"""


@pytest.mark.parametrize("content", [None, "", " \n", "one\ntwo\n", '{"token": "x"}', "a token"])
def test_a_healer_does_not_start_with_such_a_file(tmp_path: Path, content: str | None) -> None:
    file, config = tmp_path / "token", tmp_path / "config.yaml"
    config.write_text(CONFIG.format(file=file))
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="listenTokenFile: "):
        load(config, {}, {})
    file.write_text(TOKEN)
    assert load(config, {}, {}).listen_token_file == file
    assert load(None, {"namespace": ["n"], "airflow_url": "http://a"}, {"KPO_HEALER_AIRFLOW_TOKEN": "t",
           "KPO_HEALER_LISTEN_TOKEN_FILE": str(file)}).listen_token_file == file  # fmt: skip


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    with undisturbed_logging():
        yield


class TestCommandLine:
    @pytest.mark.parametrize("command", [("scan",), ("history",), ("explain", "airflow/pod")])
    def test_from_sends_the_token(
        self, server: HttpServer, file: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
    ) -> None:
        words = (*command, "--from", f"http://127.0.0.1:{server.port}")
        refused = kpo_healer(capsys, *words)
        assert refused.code == 3
        assert "give --listen-token-file with what its listenTokenFile holds" in refused.err
        told = kpo_healer(capsys, *words, "--listen-token-file", str(file))
        assert told.code == 3
        assert "no pass has been made yet" in told.err or "history" in words[0]
        assert TOKEN not in refused.err + told.err + told.out

    @pytest.mark.parametrize("content", [None, "", "two\nlines", "\xfcmlaut"])
    def test_a_file_that_holds_none_is_one_sentence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
    ) -> None:
        file = tmp_path / "token"
        if content is not None:
            file.write_text(content)
        told = kpo_healer(capsys, "scan", "--from", "http://127.0.0.1:1", "--listen-token-file", str(file))
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert "--listen-token-file" in told.err
        assert str(tmp_path) not in told.err
