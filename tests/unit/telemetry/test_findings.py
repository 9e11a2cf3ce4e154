"""`/findings` of a running healer: what it serves, to whom, and what `--from` makes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from healer import __version__
from healer.cluster import Lease
from healer.insights.history import History
from healer.leader_election import AlwaysLeader
from healer.model import Absent, Ambiguous, DagDeleted, PassKind, RunDeleted, rfc3339
from healer.telemetry.findings_endpoint import (
    INCOMPLETE_HEADER,
    PODS_HEADER,
    SINCE_HEADER,
    UNDECODABLE_HEADER,
    FindingsEndpoint,
)
from healer.telemetry.http_server import HttpReply, HttpRequest, serve
from tests.unit.cli_world import Answer, Outcome, Seen, Server, kpo_healer, serving, undisturbed_logging
from tests.unit.controller.test_controller import Parts, until
from tests.unit.fakes import NOT_KNOWN, ORPHANED, PROMPT, RUNNING, World
from tests.unit.strategies import DAG_ID, RUN_ID

EPOCH = 0.0


@pytest.fixture
def world() -> World:
    """An orphan and a Pod in use, both looked at."""
    made = World()
    made.pod("dead", ORPHANED)
    made.pod("alive", RUNNING)
    made.audit()
    return made


def board_of(world: World, unreadable: dict[str, str] | None = None) -> FindingsEndpoint:
    board = FindingsEndpoint(AlwaysLeader())
    board.publish([world.reconciler.snapshot()], unreadable or {}, EPOCH)
    return board


def uids(reply: HttpReply) -> list[str]:
    assert reply.status == 200, reply.body
    return [finding["uid"] for finding in json.loads(reply.body)]


class TestBoard:
    def test_tells_the_suspects_as_scan_does_and_since_when(self, world: World) -> None:
        reply = board_of(world).findings(HttpRequest())
        (finding,) = json.loads(reply.body)
        assert finding == next(s for s in world.reconciler.findings() if s.pod.uid == "dead").to_dict()
        assert finding["since"]
        assert finding["due"] > finding["since"]
        about = dict(reply.headers)
        assert about.pop("ETag")
        assert about == {PODS_HEADER: "2", "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}

    def test_tells_all_or_one(self, world: World) -> None:
        board = board_of(world)
        assert sorted(uids(board.findings(HttpRequest("all=true")))) == ["alive", "dead"]
        assert uids(board.findings(HttpRequest("pod=airflow%2Fpod-alive"))) == ["alive"]
        assert uids(board.findings(HttpRequest("pod=airflow/nobody"))) == []

    @pytest.mark.parametrize("query", ["al=true", "all=yes", "x"])
    def test_refuses_what_it_does_not_know(self, world: World, query: str) -> None:
        reply = board_of(world).findings(HttpRequest(query))
        assert reply.status == 400
        assert reply.body.count(b"\n") == 1

    def test_says_what_could_not_be_read(self, world: World) -> None:
        world.airflow.answers["alive"] = NOT_KNOWN
        world.pod("new", RUNNING)
        world.audit()
        world.pod("newer", RUNNING)
        world.due()
        reply = board_of(world, {"batch": "forbidden\r\nX: y"}).findings(HttpRequest())
        assert reply.headers[INCOMPLETE_HEADER] == (
            "namespace batch: forbidden\\r\\nX: y; 1 Pods: Airflow gave no clear answer: 500"
        ), "and nothing of the Pod that nobody was asked about yet"

    def test_what_was_posted_does_not_change_any_more(self, world: World) -> None:
        board = board_of(world)
        world.cluster.pods.clear()
        world.run(PassKind.AUDIT)
        assert sorted(uids(board.findings(HttpRequest("all=true")))) == ["alive", "dead"]

    def test_has_nothing_before_the_first_pass_and_after_a_term(self, world: World) -> None:
        board = FindingsEndpoint(AlwaysLeader())
        assert board.findings(HttpRequest()).status == 503
        board.publish([world.reconciler.snapshot()], {}, EPOCH)
        board.clear()
        assert board.findings(HttpRequest()).body == b"no pass has been made yet: try again in a moment\n"

    def test_posting_never_waits_for_a_reader(self, world: World) -> None:
        board = board_of(world)
        with board._one_at_a_time:
            board.publish([], {}, EPOCH)
            board.clear()
        assert board.findings(HttpRequest("all=true")).status == 503


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> type[Parts]:
    from healer import controller, worker
    from tests.unit.controller.test_controller import FakeWatch, LiveAirflow, LiveCluster

    for name, fake in (("Cluster", LiveCluster), ("Informer", FakeWatch)):
        monkeypatch.setattr(controller, name, fake)
    monkeypatch.setattr(worker, "Airflow", LiveAirflow)
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


class TestUndecodable:
    """A Pod that can't be decoded has no finding: the header names it, so that whoever asks from afar sees it too."""

    @staticmethod
    def told(world: World, names: list[str]) -> HttpReply:
        board = FindingsEndpoint(AlwaysLeader())
        board.publish([world.reconciler.snapshot()], {}, EPOCH, undecodable=names)
        return board.findings(HttpRequest())

    def test_is_named_beside_the_findings(self, world: World) -> None:
        reply = self.told(world, ["a/odd", "a/even", "a/odd"])
        assert uids(reply) == ["dead"]
        assert json.loads(reply.headers[UNDECODABLE_HEADER]) == {"total": 2, "pods": ["a/even", "a/odd"]}
        assert UNDECODABLE_HEADER not in self.told(world, []).headers

    def test_a_flood_of_them_and_hostile_names_stay_a_header(self, world: World) -> None:
        hostile = ["a/\r\nSet-Cookie: x", "a/\N{PILE OF POO}", "a/" + "x" * 200_000, *(f"b/{n}" for n in range(1000))]
        header = self.told(world, hostile).headers[UNDECODABLE_HEADER]
        assert header.isascii()
        assert header.isprintable()
        assert len(header) < 8000
        assert json.loads(header)["total"] == 1003

    @pytest.mark.parametrize("form", ["table", "json"])
    @pytest.mark.parametrize("total", [2, 30])
    def test_scan_from_shows_it(self, capsys: pytest.CaptureFixture[str], form: str, total: int) -> None:
        header = json.dumps({"total": total, "pods": ["a/odd", "a/even"]})
        odd = Answer(200, [FOUND], headers={UNDECODABLE_HEADER: header})
        outcome, _ = told(capsys, "scan", "-o", form, reply=odd)
        more = ", ..." if total > 2 else ""
        said = f"{total} Pods can't be decoded, so that nothing is decided about them: a/even, a/odd{more};"
        assert said in (outcome.out if form == "table" else outcome.err)
        assert outcome.code == 1
        if form == "json":
            assert json.loads(outcome.out) == [FOUND], "what machines read is as ever"

    @pytest.mark.parametrize("header", ["", "x", "[]", "{}", '{"total":1}', '{"total":"a","pods":[]}', "[" * 3000])
    def test_a_header_that_says_nothing_is_none(self, capsys: pytest.CaptureFixture[str], header: str) -> None:
        odd = Answer(200, [FOUND], headers={UNDECODABLE_HEADER: header})
        outcome, _ = told(capsys, "scan", "-o", "json", reply=odd)
        assert (outcome.code, outcome.err, json.loads(outcome.out)) == (1, "", [FOUND])


class TestFrom:
    def test_scan_shows_what_is_served(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome, server = told(capsys, "scan", "-o", "json")
        assert (outcome.code, outcome.err, json.loads(outcome.out)) == (1, "", [FOUND])
        assert [seen.path for seen in server.seen] == ["/findings", "/notices"]
        outcome, _ = told(capsys, "scan")
        assert outcome.out.splitlines()[1].split() == ["p", "orphaned", "-", "-", "d.t[3]", "report"]
        outcome, _ = told(capsys, "scan", "-o", "wide")
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
            *(
                (Answer(200, [FOUND | odd]), "something else than findings")
                for odd in (
                    {"holds": {"cpu_cores": "x", "memory_bytes": 1, "extended": {}, "since": None}},
                    {"holds": {"cpu_cores": 1, "memory_bytes": 1, "extended": "x", "since": None}},
                    {"holds": {"cpu_cores": 1, "memory_bytes": 1, "extended": {}, "since": "yesterday"}},
                    {"cause": "lost"},
                    {"notices": 7},
                    {"created": 1},
                    {"due": "soon"},
                )
            ),
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
        from healer.telemetry.metrics import Metrics

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
    board, replies = board_of(world), list[HttpReply]()
    threads = [threading.Thread(target=lambda: replies.append(board.findings(HttpRequest()))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({reply.body for reply in replies}) == 1
    assert len(replies) == 20


def told_by(page: Any, query: str = "", **headers: str) -> Any:
    reply = page(HttpRequest(query, **headers))
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


class TestDag:
    """The DAG as Airflow calls it: who may see a finding hangs on it, so it must be proven."""

    @pytest.mark.parametrize(
        ("answer", "dag"),
        [
            (ORPHANED, "etl"),
            (RUNNING, "etl"),
            (RunDeleted(0.0, DAG_ID, RUN_ID), DAG_ID),
            (RunDeleted(0.0, DAG_ID, RUN_ID, only_dag=False), None),
            (DagDeleted(0.0, DAG_ID), None),
            (Absent(0.0, "no DAG"), None),
            (Ambiguous(0.0, "two"), None),
            (NOT_KNOWN, None),
        ],
    )
    def test_it_is_told_where_it_is_proven(self, answer: Any, dag: str | None) -> None:
        made = World()
        made.pod("a", answer)
        made.audit()
        (finding,) = told_by(board_of(made).findings, "all=true")
        assert finding["dag_id"] == dag
        assert finding["labels"]["dag_id"] == "etl", "which proves nothing"

    def test_an_unclear_look_does_not_unprove_it(self) -> None:
        made = World()
        made.pod("a", RUNNING)
        made.audit()
        made.airflow.answers["a"] = NOT_KNOWN
        made.audit()
        (finding,) = told_by(board_of(made).findings, "all=true")
        assert (finding["reason"], finding["task"], finding["dag_id"]) == ("airflow-unknown", None, "etl")

    def test_a_deletion_has_it_too(self) -> None:
        made = World(policy={**PROMPT, "actions": {"run-deleted": "delete"}})
        made.pod("a", RunDeleted(0.0, DAG_ID, RUN_ID))
        made.audit()
        (deleted,) = made.reconciler.deleted
        assert (deleted.to_dict()["dag_id"], deleted.to_dict()["task"]) == (DAG_ID, None)
        made.audit()
        assert made.reconciler.deleted == ()


class TestFilters:
    @pytest.fixture
    def board(self) -> FindingsEndpoint:
        """Two Airflows that call a DAG alike."""
        endpoint = FindingsEndpoint(AlwaysLeader(), ["one", "two"])
        for name in ("one", "two"):
            made = World(name=name)
            made.pod(f"{name}-etl", ORPHANED)
            made.pod(f"{name}-sales", replace(ORPHANED, task=replace(ORPHANED.task, dag_id="sales")), dag_id="sales")
            made.audit()
            endpoint.publish([made.reconciler.snapshot()], {}, EPOCH)
        return endpoint

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", {"one-etl", "one-sales", "two-etl", "two-sales"}),
            ("airflow=one", {"one-etl", "one-sales"}),
            ("dag=sales", {"one-sales", "two-sales"}),
            ("airflow=two&dag=etl", {"two-etl"}),
            ("airflow=three", set()),
            ("dag=", set()),
            ("all=true&dag=sales&airflow=one", {"one-sales"}),
            ("pod=airflow/pod-one-etl&dag=sales", set()),
        ],
    )
    def test_findings_are_narrowed(self, board: FindingsEndpoint, query: str, expected: set[str]) -> None:
        assert {finding["uid"] for finding in told_by(board.findings, query)} == expected

    def test_notices_are_narrowed(self) -> None:
        from tests.unit.insights.test_notices import TestMissing

        made = World()
        TestMissing().gone(made, "a")
        made.audit()
        board = board_of(made)
        (notice,) = told_by(board.notices, "airflow=default&dag=etl")
        assert notice["dag_id"] == "etl"
        assert told_by(board.notices, "airflow=other") == told_by(board.notices, "dag=other") == []

    @pytest.mark.parametrize(
        ("page", "query", "usage"),
        [
            ("findings", "dags=x", "all=true or pod=NAMESPACE/NAME or airflow=NAME or dag=DAG_ID"),
            ("notices", "all=true", "airflow=NAME or dag=DAG_ID"),
            ("history", "pod=a/b", "days=N or airflow=NAME or dag=DAG_ID"),
            ("status", "x", "/status takes none"),
            *(
                ("history", f"days={days}", "from 1 to 14")
                for days in ("0", "15", "-1", "x", "1e1", "", "٣", "9" * 5000)
            ),
        ],
    )
    def test_what_is_not_known_is_refused(self, world: World, page: str, query: str, usage: str) -> None:
        reply = getattr(board_of(world), page)(HttpRequest(query))
        assert (reply.status, reply.body.count(b"\n")) == (400, 1)
        assert usage in reply.body.decode()


class TestUnchanged:
    @pytest.mark.parametrize("page", ["findings", "notices", "status", "history"])
    def test_an_answer_that_has_not_changed_is_not_made_again(self, world: World, page: str) -> None:
        board = FindingsEndpoint(AlwaysLeader(), history=History(lambda: 1_000.0))
        board.publish([world.reconciler.snapshot()], {}, EPOCH)
        ask = getattr(board, page)
        tag = ask(HttpRequest()).headers["ETag"]
        again = ask(HttpRequest(if_none_match=tag))
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert ask(HttpRequest(if_none_match='"another"')).status == 200
        board.publish([world.reconciler.snapshot()], {}, EPOCH)
        board._history.record([world.shown("dead").to_dict()])
        assert ask(HttpRequest(if_none_match=tag)).status == 200, "also where it was made within the same second"

    def test_no_other_replicas_tag_fits(self, world: World) -> None:
        one, other = board_of(world), board_of(world)
        assert other.findings(HttpRequest(if_none_match=one.findings(HttpRequest()).headers["ETag"])).status == 200


class TestHistory:
    def test_it_is_served_with_its_beginning(self, world: World) -> None:
        history = History(lambda: 1_000_000.0)
        board = FindingsEndpoint(AlwaysLeader(), history=history)
        history.record([world.shown("dead").to_dict(), world.shown("alive").to_dict()])
        reply = board.history(HttpRequest("days=3&airflow=default&dag=etl"))
        assert [entry["uid"] for entry in json.loads(reply.body)] == ["alive", "dead"]
        assert reply.headers[SINCE_HEADER] == "1970-01-12T13:46:40Z"
        assert told_by(board.history, "dag=other") == told_by(board.history, "airflow=other") == []

    def test_none_is_kept(self, world: World) -> None:
        reply = board_of(world).history(HttpRequest())
        assert (reply.status, reply.body) == (404, b"no history is kept: set history: memory\n")


class TestStatus:
    def test_it_tells_how_each_airflow_is_treated(self) -> None:
        board = FindingsEndpoint(AlwaysLeader(), ["default"], wall=lambda: 60.0)
        board.clear("default")
        made = World(mode="report")
        made.pod("a", RUNNING)
        made.audit()
        board.publish([made.reconciler.snapshot()], {}, 120.0, problem="Airflow is down")
        status = told_by(board.status)
        assert status == {
            "version": __version__,
            "leader": None,
            "airflows": [
                {
                    "airflow": "default",
                    "mode": "report",
                    "since": "1970-01-01T00:01:00Z",
                    "looked": "1970-01-01T00:02:00Z",
                    "breaker": None,
                    "problem": "Airflow is down",
                }
            ],
        }

    def test_an_open_breaker_is_told_with_its_figures_until_it_closes(self) -> None:
        made = World(limits={"breaker": {"maxShare": 0.5, "minCount": 2}}, policy={"minAge": "0s", "grace": "1h"})
        for uid in ("a", "b", "c"):
            made.pod(uid, ORPHANED)
        made.audit()
        since = rfc3339(made.clock.server)
        made.wait(60)
        made.audit()
        (airflow,) = told_by(board_of(made).status)["airflows"]
        assert airflow["breaker"] == {"since": since, "detail": "3 of 3 active Pods are pending deletion at once."}
        made.lifted = True
        made.audit()
        assert told_by(board_of(made).status)["airflows"][0]["breaker"] is None

    def test_a_standby_names_the_leader(self, parts: type[Parts]) -> None:
        made = parts(findings=True, leaderElection={"enabled": True, "namespace": "ops"})
        made.cluster.lease.write(Lease("other-replica", 15.0, 1))
        made.controller.start()
        try:
            until(lambda: "other-replica" in get(made, "/status")[1])
            for page in ("/findings", "/notices", "/history", "/status"):
                assert get(made, page)[0] == 503
        finally:
            made.controller.stop()


def get(parts: Parts, path: str, token: str = "") -> tuple[int, str]:
    import urllib.error
    import urllib.request

    url = f"http://127.0.0.1:{parts.controller._http.port}{path}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class TestWired:
    """The whole controller: what is deleted comes into the history, and into its ConfigMap."""

    def test_what_is_deleted_is_in_the_history(self, parts: type[Parts]) -> None:
        made = parts(findings=True, interval="10ms")
        made.add("dead")
        made.controller.start()
        try:
            until(lambda: made.cluster.deleted)
            made.add()
            until(lambda: "dead" in get(made, "/history")[1])
            (entry,) = json.loads(get(made, "/history?airflow=default")[1])
            assert (entry["uid"], entry["reason"], entry["dag_id"]) == ("dead", "orphaned", "etl")
            assert entry["deleted"]
            status = json.loads(get(made, "/status")[1])
            assert [airflow["mode"] for airflow in status["airflows"]] == ["enforce"]
        finally:
            made.controller.stop()

    def test_off_is_off(self, parts: type[Parts]) -> None:
        made = parts(findings=True, history="off")
        made.controller.start()
        try:
            assert get(made, "/history")[0] == 404
        finally:
            made.controller.stop()

    def test_another_replica_finds_what_this_one_has_saved(self, parts: type[Parts]) -> None:
        from tests.unit.insights.test_history import FakeConfigMap

        saved = FakeConfigMap()

        def one(deletes: str) -> list[str]:
            made = parts(findings=True, interval="10ms", history="configMap", leaderElection=ALONE)
            made.controller._history_store._config_map = saved
            made.add(*filter(None, [deletes]))
            made.controller.start()
            try:
                until(lambda: get(made, "/findings")[0] == 200)
                until(lambda: deletes in get(made, "/history")[1] and (deletes or "first" in get(made, "/history")[1]))
                return [entry["uid"] for entry in json.loads(get(made, "/history")[1])]
            finally:
                made.controller.stop()

        assert one("first") == ["first"]
        assert saved.saved() == ["first"]
        assert one("") == ["first"]

    def test_a_listen_token_guards_it(self, parts: type[Parts], tmp_path: Any) -> None:
        (tmp_path / "token").write_text("t0ken\n")
        made = parts(findings=True, listenTokenFile=str(tmp_path / "token"))
        made.controller.start()
        try:
            assert get(made, "/findings")[0] == 401
            assert get(made, "/metrics")[0] == 200
            until(lambda: get(made, "/findings", "t0ken")[0] == 200)
        finally:
            made.controller.stop()


ALONE = {"enabled": False, "namespace": "ops"}
