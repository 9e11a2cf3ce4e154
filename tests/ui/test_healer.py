"""How the server part asks the healer: rarely, the right replica, and prepared for any answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kpo_healer_airflow import client
from kpo_healer_airflow.picture import FRESH, Healer, Picture
from kpo_healer_airflow.settings import Settings, SettingsError, address

from tests.ui import worlds
from tests.ui.fake_healer import FakeHealer, World


@pytest.fixture
def fake() -> Iterator[FakeHealer]:
    with FakeHealer(worlds.ordinary()) as running:
        yield running


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def healer(fake: FakeHealer, clock: Any = None, **options: Any) -> Healer:
    chosen = Settings(url=fake.url, airflow="default", **options)
    return Healer(load=lambda: chosen, clock=clock or Clock())


def test_one_question_in_five_seconds_whatever_the_number_of_viewers(fake: FakeHealer) -> None:
    clock = Clock()
    asked = healer(fake, clock)
    assert FRESH == 5.0
    for round_number in range(1, 4):
        with ThreadPoolExecutor(20) as viewers:
            pictures = list(viewers.map(lambda _: asked.picture(), range(60)))
        assert all(len(seen.findings) == 7 for seen in pictures)
        assert {fake.asked[name] for name in ("findings", "notices", "history", "status")} == {round_number}
        clock.now += 4.9
        asked.picture()
        clock.now += 0.2


def test_a_slow_healer_keeps_no_second_viewer_waiting(fake: FakeHealer) -> None:
    clock, gate, entered = Clock(), threading.Event(), threading.Event()
    asked = healer(fake, clock)
    before = asked.picture()
    clock.now += 6
    reply = fake.reply

    def slowly(*arguments: Any) -> Any:
        entered.set()
        gate.wait(60)
        return reply(*arguments)

    fake.reply = slowly  # type: ignore[method-assign]
    first = threading.Thread(target=asked.picture)
    first.start()
    assert entered.wait(60)
    assert asked.picture() is before
    gate.set()
    first.join()
    assert asked.picture() is not before


def test_an_unchanged_answer_is_neither_sent_nor_read_again(fake: FakeHealer) -> None:
    clock = Clock()
    asked = healer(fake, clock)
    first = asked.picture()
    clock.now += 6
    second = asked.picture()
    assert fake.asked["not-modified"] == 4
    assert second.findings[0] is first.findings[0]


def test_findings_of_another_airflow_are_not_ours(fake: FakeHealer) -> None:
    assert "elsewhere-1111bbbb" not in {f.pod for f in healer(fake).picture().findings}


def test_an_older_healer_is_understood(fake: FakeHealer) -> None:
    fake.behaviour = "old"
    for name in ("findings", "notices"):  # it has no `dag_id` beside the task
        for entry in getattr(fake.world, name):
            del entry["dag_id"]
    fake.world = World(fake.world.findings, fake.world.notices, [])
    seen = healer(fake).picture()
    assert (seen.problem, seen.history, seen.status) == ("", None, None)
    assert {f.dag for f in seen.findings} == {"sales", "ml_features", "finance", None}


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ("standby", "none of its replicas leads"),
        ("error", "HTTP 500"),
        ("garbage", "is not understood"),
        ("off", "set findings: true"),
    ],
)
def test_each_answer_without_findings_is_one_sentence(fake: FakeHealer, behaviour: Any, text: str) -> None:
    fake.behaviour = behaviour
    seen = healer(fake).picture()
    assert text in seen.problem
    assert not seen.findings


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"{}",
        b"[1]",
        b'[{"pod": 1}]',
        b"[" * 100_000,
        b'[{"namespace":"n"}]',
        b"\xff\xfe",
        b'[{"namespace": "\xff\xfe"}]',
        b'{"airflows": [{"airflow": "\xff\xfe"}]}',
        b'[{"x": ' + b"[" * 100_000,
        b'{"x": ' + b"[" * 100_000,
        b'{"airflows": 7}',
    ],
)
@pytest.mark.parametrize("name", ["findings", "notices", "history", "status"])
def test_no_answer_is_an_error_of_airflow(fake: FakeHealer, name: str, answer: bytes) -> None:
    fake.world.written[name] = answer
    seen = healer(fake).picture()
    assert isinstance(seen, Picture)
    assert seen.problem == "" or "is not understood" in seen.problem


@pytest.mark.parametrize("moment", ["Thu, 01 Jan 99999999999 00:00:00 GMT", "1 Jan 1 1:1:1 +99999999999999999999", "x"])
def test_a_moment_that_is_none_is_not_shown(fake: FakeHealer, moment: str) -> None:
    fake.world.looked = fake.world.complete_since = moment
    seen = healer(fake).picture()
    assert (seen.problem, seen.looked, seen.complete_since) == ("", None, None)


def test_an_answer_without_end_is_given_up(fake: FakeHealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST", 1000)
    assert "too large" in healer(fake).picture().problem


def test_a_healer_that_is_gone_is_asked_again_after_a_while_only(fake: FakeHealer) -> None:
    clock = Clock()
    asked = healer(fake, clock)
    fake.stop()
    assert "can't be reached" in asked.picture().problem
    assert asked.picture() is asked.picture()


@pytest.mark.parametrize("host", ["kpo-healer.invalid", "kpo..healer", "k" * 64, "\u202e"])
def test_a_name_without_address_is_one_sentence(host: str) -> None:
    chosen = Settings(url=f"http://{host}:8080", airflow="default")
    assert "has no address" in Healer(load=lambda: chosen).picture().problem


def test_the_token_is_read_anew_and_never_told(fake: FakeHealer, tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "token"
    asked = healer(fake, clock, token_file=str(file))
    fake.token = "first"
    assert "token_file can't be read" in asked.picture().problem
    for token in ("wrong", "first"):
        clock.now += 6
        file.write_text(token + "\n")
        seen = asked.picture()
        assert ("refuses the token" in seen.problem) is (token == "wrong")
        assert "wrong" not in seen.problem
    for token in ("two\nlines", "ümlaut"):
        clock.now += 6
        file.write_text(token)
        assert "token" in asked.picture().problem


def test_the_leader_is_found_among_the_addresses_of_a_headless_service(
    fake: FakeHealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(fake.url.rsplit(":", 1)[1])
    replicas = ["127.0.0.3", "127.0.0.2", "127.0.0.1"]  # nobody answers at the first two
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in replicas]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    chosen = Settings(url=f"http://kpo-healer-headless:{port}", airflow="default")
    seen = Healer(load=lambda: chosen).picture()
    assert seen.problem == ""
    assert len(seen.findings) == 7


@pytest.mark.parametrize(
    ("url", "text"),
    [("", "Set [kpo_healer] url"), ("kpo-healer:8080", "must look like"), ("http://", "must look like"),
     ("http://u:secret@h", "must look like"), ("ftp://h", "must look like"), ("http://h:99999", "must look like"),
     ("http://[::1", "must look like"), ("http://h/\x01", "must look like"), ("http://h\nx", "must look like")],
)  # fmt: skip
def test_a_wrong_address_is_one_sentence(url: str, text: str) -> None:
    with pytest.raises(SettingsError) as error:
        address(url)
    assert text in str(error.value)
    assert "secret" not in str(error.value)
