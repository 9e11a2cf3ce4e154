"""`/findings` of a running healer: what it serves, to whom, and what `--from` makes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from healer.board import INCOMPLETE_HEADER, PODS_HEADER, Board
from healer.cluster import Lease
from healer.leader import SoleReplica
from healer.reconcile import Depth
from healer.serving import Reply, serve
from tests.unit.cli_world import Answer, Outcome, Seen, Server, kpo_healer, serving, undisturbed_logging
from tests.unit.fakes import NOT_KNOWN, ORPHANED, RUNNING, World
from tests.unit.test_controller import Parts, until

EPOCH = 0.0


@pytest.fixture
def world() -> World:
    """An orphan and a Pod in use, both looked at."""
    made = World()
    made.pod("dead", ORPHANED)
    made.pod("alive", RUNNING)
    made.audit()
    return made


def board_of(world: World, unreadable: dict[str, str] | None = None) -> Board:
    board = Board(SoleReplica())
    board.post([world.reconciler.view()], unreadable or {}, EPOCH)
    return board


def uids(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.body
    return [finding["uid"] for finding in json.loads(reply.body)]


class TestBoard:
    def test_tells_the_suspects_as_scan_does_and_since_when(self, world: World) -> None:
        reply = board_of(world).findings("", "")
        (finding,) = json.loads(reply.body)
        assert finding == next(s for s in world.reconciler.shown() if s.pod.uid == "dead").to_dict()
        assert finding["since"]
        assert finding["due"] > finding["since"]
        assert reply.headers == {PODS_HEADER: "2", "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}

    def test_tells_all_or_one(self, world: World) -> None:
        board = board_of(world)
        assert sorted(uids(board.findings("", "all=true"))) == ["alive", "dead"]
        assert uids(board.findings("", "pod=airflow%2Fpod-alive")) == ["alive"]
        assert uids(board.findings("", "pod=airflow/nobody")) == []

    @pytest.mark.parametrize("query", ["al=true", "all=yes", "x"])
    def test_refuses_what_it_does_not_know(self, world: World, query: str) -> None:
        reply = board_of(world).findings("", query)
        assert reply.status == 400
        assert reply.body.count(b"\n") == 1

    def test_says_what_could_not_be_read(self, world: World) -> None:
        world.airflow.answers["alive"] = NOT_KNOWN
        world.pod("new", RUNNING)
        world.audit()
        world.pod("newer", RUNNING)
        world.due()
        reply = board_of(world, {"batch": "forbidden\r\nX: y"}).findings("", "")
        assert reply.headers[INCOMPLETE_HEADER] == (
            "namespace batch: forbidden\\r\\nX: y; 1 Pods: Airflow gave no clear answer: 500"
        ), "and nothing of the Pod that nobody was asked about yet"

    def test_what_was_posted_does_not_change_any_more(self, world: World) -> None:
        board = board_of(world)
        world.cluster.pods.clear()
        world.run(Depth.AUDIT)
        assert sorted(uids(board.findings("", "all=true"))) == ["alive", "dead"]

    def test_has_nothing_before_the_first_pass_and_after_a_term(self, world: World) -> None:
        board = Board(SoleReplica())
        assert board.findings("", "").status == 503
        board.post([world.reconciler.view()], {}, EPOCH)
        board.clear()
        assert board.findings("", "").body == b"no pass has been made yet: try again in a moment\n"

    def test_posting_never_waits_for_a_reader(self, world: World) -> None:
        board = board_of(world)
        with board._one_at_a_time:
            board.post([], {}, EPOCH)
        assert uids(board.findings("", "all=true")) == []


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> type[Parts]:
    from healer import controller
    from tests.unit.test_controller import FakeWatch, LiveAirflow, LiveCluster

    for name, fake in (("Cluster", LiveCluster), ("Watch", FakeWatch), ("Airflow", LiveAirflow)):
        monkeypatch.setattr(controller, name, fake)
    return Parts


def read(parts: Parts) -> tuple[int, str]:
    import urllib.error
    import urllib.request

    url = f"http://127.0.0.1:{parts.controller._http.port}/findings?all=true"
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class TestController:
    def test_the_leader_serves_what_it_has_found(self, parts: type[Parts]) -> None:
        made = parts(findings=True, interval="10ms", mode="report", airflow={"mode": "report"})
        made.add("dead")
        made.controller.start()
        try:
            until(lambda: read(made)[0] == 200)
            (finding,) = json.loads(read(made)[1])
            assert (finding["uid"], finding["reason"]) == ("dead", "orphaned")
        finally:
            made.controller.stop()

    def test_others_name_the_leader(self, parts: type[Parts]) -> None:
        made = parts(findings=True, leaderElection={"enabled": True, "namespace": "ops"})
        made.cluster.lease.write(Lease("other-replica", 15.0, 1))
        made.controller.start()
        try:
            until(lambda: "other-replica" in read(made)[1])
            assert read(made) == (
                503,
                "this replica does not lead and has no findings: ask the leader, other-replica\n",
            )
        finally:
            made.controller.stop()

    def test_by_default_there_are_none(self, parts: type[Parts]) -> None:
        made = parts()
        made.controller.start()
        try:
            assert read(made) == (404, "try /metrics /healthz /readyz\n")
        finally:
            made.controller.stop()


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    with undisturbed_logging():
        yield


FOUND: dict[str, Any] = {
    "namespace": "a",
    "pod": "p",
    "uid": "u",
    "airflow": "prod",
    "task": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 3, "try_number": 1, "state": "failed"},
    "labels": {"dag_id": "d"},
    "reason": "orphaned",
    "action": "delete",
    "withheld": "report-mode",
    "detail": "it has ended",
    "since": "2026-01-31T00:12:31Z",
    "due": "2026-01-31T00:14:31Z",
    "cause": {"name": "worker-lost", "detail": "it was lost", "remedy": "a better worker"},
    "of a later version": [1],
}


def told(capture: pytest.CaptureFixture[str], *arguments: str, reply: Answer | None = None) -> tuple[Outcome, Server]:
    """Run a command against a healer that answers so."""

    def script(seen: Seen) -> Answer:
        return Answer(200, []) if seen.path == "/notices" else reply or Answer(200, [FOUND])

    with serving(script) as server:
        return kpo_healer(capture, *arguments, "--from", f"http://127.0.0.1:{server.port}/"), server


class TestFrom:
    def test_scan_shows_what_is_served(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome, server = told(capsys, "scan", "-o", "json")
        assert (outcome.code, outcome.err, json.loads(outcome.out)) == (1, "", [FOUND])
        assert [seen.path for seen in server.seen] == ["/findings", "/notices"]
        outcome, _ = told(capsys, "scan")
        assert outcome.out.splitlines()[1].split()[:6] == ["a", "p", "orphaned", "delete", "report-mode", FOUND["due"]]
        assert "d r t[3]" in outcome.out

    def test_scan_all_asks_for_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        kept = FOUND | {"action": "keep", "reason": "in-use"}
        outcome, server = told(capsys, "scan", "--all", "-o", "json", reply=Answer(200, [kept]))
        assert (outcome.code, json.loads(outcome.out)) == (0, [kept])
        assert [seen.path for seen in server.seen] == ["/findings?all=true", "/notices"]

    def test_explain_asks_for_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome, server = told(capsys, "explain", "a/p")
        assert [seen.path for seen in server.seen] == ["/findings?pod=a%2Fp"]
        assert outcome.code == 0
        for text in (
            "Pod a/p",
            "d r t[3]: state failed",
            "orphaned: it has ended",
            "worker-lost: it was lost.",
            FOUND["since"],
            "report mode",
        ):
            assert text in outcome.out
        outcome, _ = told(capsys, "explain", "a/p", "-o", "json")
        assert json.loads(outcome.out)["finding"] == FOUND

    @pytest.mark.parametrize(
        "changes", [{"action": "keep"}, {"action": "report"}, {"withheld": "rate"}, {"task": None}]
    )
    def test_explain_says_what_happens_next(self, capsys: pytest.CaptureFixture[str], changes: Any) -> None:
        outcome, _ = told(capsys, "explain", "a/p", reply=Answer(200, [FOUND | changes]))
        assert outcome.code == 0
        assert outcome.out.rstrip().endswith(".")

    def test_explain_of_a_pod_that_is_not_known(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome, _ = told(capsys, "explain", "a/q", reply=Answer(200, []))
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)

    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (Answer(503, b"this replica does not lead\n"), "answers 503: this replica does not lead"),
            (Answer(404, b"try /metrics"), "set findings: true"),
            (Answer(200, b"<html>"), "something else than findings"),
            (Answer(200, [{"pod": "p"}]), "something else than findings"),
            (Answer(200, {"pod": "p"}), "something else than findings"),
            (Answer(302, b"", location="http://elsewhere"), "answers 302"),
            (Answer(reset=True), "no healer answers at"),
        ],
    )
    @pytest.mark.parametrize("command", [["scan"], ["explain", "a/p"]])
    def test_what_is_no_answer_is_one_sentence(
        self, capsys: pytest.CaptureFixture[str], command: list[str], reply: Answer, says: str
    ) -> None:
        outcome, _ = told(capsys, *command, reply=reply)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (3, "", 1)
        assert says in outcome.err

    def test_nobody_is_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome = kpo_healer(capsys, "scan", "--from", "http://127.0.0.1:9")
        assert (outcome.code, outcome.err.count("\n")) == (3, 1)
        assert "Connection refused" in outcome.err

    @pytest.mark.parametrize("url", ["localhost:8080", "ftp://h", "http://", "http://h:x", "http://h?x=1", "http://["])
    def test_a_url_that_is_none(self, capsys: pytest.CaptureFixture[str], url: str) -> None:
        outcome = kpo_healer(capsys, "scan", "--from", url)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "http://localhost:8080" in outcome.err

    def test_what_would_do_nothing_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome, server = told(capsys, "scan", "-n", "airflow")
        assert (outcome.code, server.seen) == (2, [])
        assert "leave --namespace away" in outcome.err

    def test_an_incomplete_picture_is_told(self, capsys: pytest.CaptureFixture[str], world: World) -> None:
        from healer.metrics import Metrics

        board = board_of(world, {"batch": "forbidden"})
        metrics: Metrics = world.metrics
        server = serve(
            "127.0.0.1:0",
            metrics,
            health=lambda: (True, ""),
            ready=lambda: (True, ""),
            more={"/findings": board.findings, "/notices": board.notices},
        )
        try:
            outcome = kpo_healer(capsys, "scan", "--from", f"http://127.0.0.1:{server.port}/findings")
        finally:
            server.stop()
        assert (outcome.code, outcome.err) == (3, "incomplete: namespace batch: forbidden\n")
        assert "orphaned" in outcome.out


def test_readers_come_one_at_a_time_and_all_are_served(world: World) -> None:
    board, replies = board_of(world), list[Reply]()
    threads = [threading.Thread(target=lambda: replies.append(board.findings("", ""))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({reply.body for reply in replies}) == 1
    assert len(replies) == 20
