"""The server part and the real port of a healer, without a fake between them: each answer, and who is asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import msgspec
import pytest
from kpo_healer_airflow import client
from kpo_healer_airflow.overview import Query, Rights, overview
from kpo_healer_airflow.picture import Healer, Picture
from kpo_healer_airflow.settings import Settings
from kpo_healer_airflow.wire import Finding, Notice, Status

from healer.insights.history import History
from healer.leader_election import AlwaysLeader
from healer.model import RunDeleted
from healer.telemetry.bearer_token import BearerToken
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.http_server import serve, unguarded
from tests.ui import worlds
from tests.unit.fakes import EPOCH, ORPHANED, RUNNING, World
from tests.unit.insights.test_notices import TestMissing
from tests.unit.strategies import DAG_ID, RUN_ID


class NoFigures:
    def render(self, accept: str = "") -> tuple[bytes, str]:
        return b"", "text/plain"


class Standby:
    """A replica that does not lead."""

    term = 0
    annotations: Mapping[str, str] = MappingProxyType({})

    def is_leader(self) -> bool:
        return False


@pytest.fixture
def world() -> World:
    """An orphan, a Pod in use, one whose run is gone, and one that has vanished at work."""
    made = World(mode="report")
    made.pod("dead", ORPHANED)
    made.pod("alive", RUNNING)
    made.pod("runless", RunDeleted(0.0, DAG_ID, RUN_ID))
    TestMissing().gone(made, "vanished")
    made.audit()
    return made


@contextmanager
def served(endpoint: FindingsEndpoint, listen: str = "127.0.0.1:0", guard: Any = unguarded) -> Iterator[int]:
    good = lambda: (True, "")  # noqa: E731
    server = serve(listen, NoFigures(), health=good, ready=good, more=endpoint.pages, guard=guard)
    try:
        yield server.port
    finally:
        server.stop()


def endpoint_of(world: World, history: History | None = None) -> FindingsEndpoint:
    made = FindingsEndpoint(AlwaysLeader(), ["default"], history or History(lambda: EPOCH))
    made.publish([world.reconciler.snapshot()], {}, EPOCH)
    return made


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def picture_at(port: int, clock: Clock | None = None, **options: Any) -> Picture:
    return healer_at(port, clock, **options).picture()


def healer_at(port: int, clock: Clock | None = None, **options: Any) -> Healer:
    chosen = Settings(url=f"http://127.0.0.1:{port}", airflow="default", **options)
    return Healer(load=lambda: chosen, clock=clock or Clock())


def test_a_real_finding_is_shown_with_all_that_it_tells(world: World) -> None:
    truth = world.shown("dead").to_dict()
    with served(endpoint_of(world)) as port:
        picture = picture_at(port)
    assert picture.problem == ""
    assert picture.looked is not None
    mine = Rights(frozenset({truth["task"]["dag_id"]}), everything=False)
    answer = msgspec.to_builtins(overview(picture, mine, Query(), worlds.now(), worlds.now().tzinfo), str_keys=True)
    row = next(row for row in answer["findings"] if row["uid"] == "dead")
    for name in ("namespace", "pod", "uid", "reason", "detail", "due", "withheld", "task"):
        assert row[name] == truth[name], name
    assert answer["totals"]["pods"] == 2


def test_each_answer_has_exactly_the_fields_that_the_page_knows(world: World) -> None:
    """A field that is renamed on one side would be missing silently: the page gives each a default."""
    history = History(lambda: EPOCH)
    history.record([world.shown("dead").to_dict()])
    known = {"findings": Finding, "notices": Notice, "history": Finding}
    with served(endpoint_of(world, history)) as port, httpx.Client(trust_env=False) as asked:
        for name, kind in known.items():
            answer = asked.get(f"http://127.0.0.1:{port}/{name}").json()
            assert answer, name
            for entry in answer:
                wanted = {field.encode_name for field in msgspec.structs.fields(kind)}
                assert set(entry) == wanted - (set() if name == "history" else {"deleted"}), name
                msgspec.convert(entry, kind, strict=False)
        status = asked.get(f"http://127.0.0.1:{port}/status").json()
        assert set(status) - {"leader"} == {field.encode_name for field in msgspec.structs.fields(Status)}
        assert msgspec.convert(status, Status).airflows[0].mode == "report"


def test_the_dag_of_a_run_that_is_gone_is_known(world: World) -> None:
    with served(endpoint_of(world)) as port:
        picture = picture_at(port)
    (runless,) = [finding for finding in picture.findings if finding.uid == "runless"]
    assert (runless.task, runless.dag) == (None, DAG_ID)


def test_the_history_is_shown_with_its_beginning(world: World) -> None:
    history = History(lambda: EPOCH)
    history.record([world.shown("dead").to_dict()])
    with served(endpoint_of(world, history)) as port:
        picture = picture_at(port)
    assert [entry.uid for entry in picture.history or ()] == ["dead"]
    assert picture.complete_since is not None
    assert picture.complete_since.timestamp() == EPOCH


def test_a_healer_that_keeps_no_history_is_understood(world: World) -> None:
    endpoint = FindingsEndpoint(AlwaysLeader(), ["default"])
    endpoint.publish([world.reconciler.snapshot()], {}, EPOCH)
    with served(endpoint) as port:
        picture = picture_at(port)
    assert (picture.problem, picture.history) == ("", None)
    assert picture.findings


def test_what_has_not_changed_is_not_sent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = client._body
    monkeypatch.setattr(client, "_body", lambda *told: sizes.append(1) or real(*told))
    endpoint, clock = endpoint_of(world), Clock()
    with served(endpoint) as port:
        asked = healer_at(port, clock)
        first = asked.picture()
        clock.now += 6
        assert asked.picture().findings[0] is first.findings[0]
        assert len(sizes) == 4
        endpoint.publish([world.reconciler.snapshot()], {}, EPOCH)
        clock.now += 6
        assert asked.picture().findings[0] is not first.findings[0]
        assert len(sizes) == 7, "all but the history"


def test_the_leader_is_found_among_real_replicas_and_found_again_after_a_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, standby = endpoint_of(world), FindingsEndpoint(Standby(), ["default"])
    clock = Clock()
    with ExitStack() as stack:
        port = stack.enter_context(served(standby, "127.0.0.2:0"))
        stack.enter_context(served(leader, f"127.0.0.3:{port}"))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (2, 3)]
        real = socket.getaddrinfo

        def resolve(host: Any, *more: Any, **options: Any) -> Any:
            return found if host == "kpo-healer-headless" else real(host, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        chosen = Settings(url=f"http://kpo-healer-headless:{port}", airflow="default")
        asked = Healer(load=lambda: chosen, clock=clock)
        assert (asked.picture().problem, len(asked.picture().findings)) == ("", 2)
        leader._leadership, standby._leadership = Standby(), AlwaysLeader()
        clock.now += 6
        assert "none of its replicas leads" in asked.picture().problem, "the new one has made no pass yet"
        standby.publish([world.reconciler.snapshot()], {}, EPOCH)
        clock.now += 6
        assert (asked.picture().problem, len(asked.picture().findings)) == ("", 2)


def test_the_token_is_the_same_on_both_sides(world: World, tmp_path: Path) -> None:
    ours, theirs, clock = tmp_path / "ours", tmp_path / "theirs", Clock()
    ours.write_text("one\n")
    theirs.write_text("another\n")
    with served(endpoint_of(world), guard=BearerToken(ours)) as port:
        asked = healer_at(port, clock, token_file=str(theirs))
        assert "refuses the token" in asked.picture().problem
        theirs.write_text("one")
        clock.now += 6
        assert asked.picture().problem == ""
        ours.unlink()
        clock.now += 6
        assert "refuses the token" in asked.picture().problem


def test_an_open_breaker_and_a_silent_airflow_are_told(world: World) -> None:
    made = World(limits={"breaker": {"maxShare": 0.5, "minCount": 1}}, policy={"minAge": "0s", "grace": "1h"})
    made.pod("a", ORPHANED)
    made.audit()
    endpoint = FindingsEndpoint(AlwaysLeader(), ["default"])
    everything, some = Rights(frozenset(), everything=True), Rights(frozenset(), everything=False)

    def trouble(rights: Rights) -> str:
        with served(endpoint) as port:
            shown = overview(picture_at(port), rights, Query(), worlds.now(), worlds.now().tzinfo)
        return str(shown["trouble"])

    endpoint.publish([made.reconciler.snapshot()], {}, EPOCH)
    assert "1 of 1 active Pods" in trouble(everything)
    assert trouble(some).startswith("Deletions are paused")
    assert "1 of 1" not in trouble(some)
    endpoint.publish([world.reconciler.snapshot()], {}, EPOCH, problem="Airflow prod is down: 503")
    assert "Airflow prod is down: 503" in trouble(everything)
    assert "503" not in trouble(some)
