"""What is worth a look: each notice, its thresholds, what must be remembered for it, and that nobody acts on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healer.cli.remote import RemoteFindings
from healer.cluster import decode_pod
from healer.decision.quarantine import Now
from healer.decision.records import Record
from healer.decision.rules import RuleOptions, judge
from healer.insights.notice_tracker import MAX_QUERIED, NoticeTracker
from healer.insights.notices import UNCERTAIN, WAITED_FOR, Notice, NoticeInput, Thresholds, notices
from healer.leader_election import AlwaysLeader
from healer.model import UNREADABLE, Absent, Known, PassKind, Pod, Reason
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.http_server import HttpRequest
from tests.unit.cli_world import Answer, Seen, kpo_healer, kubernetes, serving, undisturbed_logging, with_row, world
from tests.unit.cluster_server import page, raw_pod
from tests.unit.fakes import NOT_KNOWN, ORPHANED, PROMPT, RUNNING, World, an_airflow
from tests.unit.strategies import CREATED, SIDECAR, a_pod, a_task

LIMITS = Thresholds(
    pending=600, terminating=600, deferred=86400, uncertain=86400, gone=600, settled=120, retention=2_592_000
)
DEFERRED = Known(0.0, a_task("deferred"))
PENDING = a_pod(phase="Pending", waiting="no node")


def told(pod: Pod, reason: Reason, answer: Any = RUNNING, *, age: float = 1e6, **more: Any) -> dict[str, str]:
    """The notices on a Pod of this age."""
    sight = NoticeInput(pod, reason, answer, None if pod.created is None else CREATED + age, **more)
    return {noted.notice.value: noted.detail for noted in notices(sight, LIMITS)}


class TestNotices:
    @pytest.mark.parametrize("reason", sorted(WAITED_FOR))
    def test_pending_while_its_task_instance_waits(self, reason: Reason) -> None:
        assert told(PENDING, reason, age=599) == {}
        assert told(PENDING, reason, age=600) == {"stuck-pending": "Pending for 10 minutes: no node"}

    def test_nobody_waits_for_an_orphan(self) -> None:
        assert told(PENDING, Reason.ORPHANED) == {}
        assert told(a_pod(), Reason.IN_USE) == {}

    def test_terminating_for_too_long(self) -> None:
        pod = a_pod(terminating=True, ends=CREATED + 1000)
        assert told(pod, Reason.TERMINATING, age=1599) == {}
        assert list(told(pod, Reason.TERMINATING, age=1600)) == ["stuck-terminating"]
        assert told(a_pod(terminating=True), Reason.TERMINATING) == {}

    def test_deferred_for_too_long(self) -> None:
        assert told(a_pod(), Reason.IN_USE, DEFERRED, age=86399) == {}
        assert list(told(a_pod(), Reason.IN_USE, DEFERRED, age=86400)) == ["deferred-long"]
        assert told(a_pod(), Reason.IN_USE, RUNNING) == {}

    def test_uncertain_for_too_long(self) -> None:
        for reason in Reason:
            found = told(a_pod(), reason, kept_for=86400)
            assert found.keys() == ({"uncertain-long"} if reason in UNCERTAIN else set()), reason
            assert told(a_pod(), reason, kept_for=86399) == {}

    def test_twins(self) -> None:
        assert list(told(a_pod(), Reason.IN_USE, duplicates=1)) == ["duplicate"]
        assert told(a_pod(), Reason.IN_USE, duplicates=1, age=119) == {}
        assert told(a_pod(checked=True), Reason.IN_USE, duplicates=1) == {}
        assert told(a_pod(), Reason.ORPHANED, duplicates=1) == {}

    def test_an_annotation_that_can_not_be_followed_as_it_stands(self) -> None:
        for wish in (None, 0.0, 259_200.0, 2_592_000.0):
            assert told(a_pod(retention=wish), Reason.FINISHED) == {}
        odd = told(a_pod(retention=UNREADABLE), Reason.FINISHED)
        assert odd == {
            "retention-bounded": "its annotation kpo-healer.io/retention holds no duration such as 3d: it stays for as "
            "long as policy.retention.longest allows"
        }
        assert "asks for 31 days: " in told(a_pod(retention=31 * 86400.0), Reason.IN_USE)["retention-bounded"]

    def test_without_a_clock_nothing_is_old(self) -> None:
        assert told(a_pod(phase="Pending", created=None), Reason.IN_USE, DEFERRED) == {}

    def test_no_notice_is_a_reason(self) -> None:
        assert not {*Notice} & {*Reason}


class TestWaiting:
    @pytest.mark.parametrize(
        ("status", "why"),
        [
            ({}, None),
            (
                {"containerStatuses": [{"name": "base", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
                "its image can't be pulled (ImagePullBackOff, container base)",
            ),
            (
                {"initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CreateContainerError"}}}]},
                "its container can't be started (CreateContainerError, container i)",
            ),
            ({"containerStatuses": [{"name": "base", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, None),
            ({"containerStatuses": [{"name": "base", "state": {}}, {"name": "b"}]}, None),
        ],
    )
    def test_what_a_pending_pod_waits_for(self, status: dict[str, Any], why: str | None) -> None:
        bound = raw_pod()["spec"] | {"nodeName": "n"}
        pod = decode_pod(raw_pod() | {"spec": bound, "status": {"phase": "Pending", **status}})
        assert pod is not None
        assert pod.waiting == why
        running = decode_pod(raw_pod() | {"status": {"phase": "Running", **status}})
        assert running is not None
        assert running.waiting is None

    def test_without_a_node(self) -> None:
        pod = decode_pod(raw_pod() | {"status": {"phase": "Pending"}})
        assert pod is not None
        assert pod.waiting == "no node has been found for it (unschedulable, or gated)"

    def test_when_a_terminating_pod_should_have_ended(self) -> None:
        raw = raw_pod()
        raw["metadata"]["deletionTimestamp"] = "1970-01-01T00:01:00Z"
        pod = decode_pod(raw)
        assert pod is not None
        assert (pod.terminating, pod.ends) == (True, 60.0)


PICTURES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(
        st.sampled_from(["t-1", "t-2"]),
        st.sampled_from(
            [
                {},
                {"phase": "Pending"},
                {"phase": "Pending", "created": None},
                {"phase": "Succeeded"},
                {"terminating": True},
                {"terminating": True, "ends": CREATED + 30},
            ]
        ).map(lambda some: tuple(some.items())),
        st.sampled_from([RUNNING, DEFERRED, ORPHANED, NOT_KNOWN, Absent(0.0, "no DAG")]),
    ),
)


def a_record(uid: str, task: str, how: tuple[tuple[str, Any], ...], answer: Any) -> Record:
    pod = a_pod(uid=uid, task_id=task, **dict(how))
    return Record(pod, judge(pod, answer, RuleOptions()), answer)


def sight(record: Record, now: Now) -> NoticeInput:
    return NoticeInput(record.pod, record.finding.reason, record.answer, now.server)


def noted(world: World) -> dict[str, list[str]]:
    """The notices by Pod uid."""
    found: dict[str, list[str]] = {}
    for notable in world.reconciler.snapshot().notices():
        found.setdefault(notable.pod.uid, []).append(notable.active.notice.value)
    return found


class TestLookout:
    def test_twins_are_counted_where_they_work_unmarked(self) -> None:
        world = World()
        world.pod("a", RUNNING, try_number="1")
        world.pod("b", RUNNING, try_number="1", containers=(SIDECAR,))
        world.pod("marked", RUNNING, checked=True)
        world.pod("young", RUNNING, age=1.0)
        world.pod("elsewhere", RUNNING, task_id="other")
        world.audit()
        assert noted(world) == {"a": ["duplicate"], "b": ["duplicate"]}
        assert world.metric("notices", notice="duplicate") == 2
        world.cluster.pods.pop("b")
        world.run()
        assert noted(world) == {}
        assert world.metric("notices", notice="duplicate") == 0

    def test_the_same_uncertain_reason_for_a_day(self) -> None:
        world = World()
        world.pod("a", Absent(0.0, "no DAG"))
        world.audit()
        world.wait(80_000)
        world.airflow.answers["a"] = NOT_KNOWN
        world.audit()
        world.airflow.answers["a"] = Absent(0.0, "no DAG")
        world.audit()
        assert noted(world) == {}
        world.wait(6_500)
        world.audit()
        assert noted(world) == {"a": ["uncertain-long"]}, "an answer that failed does not start it over"
        world.airflow.answers["a"] = RUNNING
        world.audit()
        world.airflow.answers["a"] = Absent(0.0, "no DAG")
        world.audit()
        assert noted(world) == {}, "another reason does"

    def test_nothing_is_done_about_it(self) -> None:
        world = World(policy=PROMPT)
        world.pod("a", Known(0.0, a_task("deferred")), age=1e6, phase="Pending")
        world.pod("b", Absent(0.0, "no DAG"))
        world.live(200_000, interval=3600, audit=3600)
        assert noted(world) == {"a": ["stuck-pending", "deferred-long"], "b": ["uncertain-long"]}
        assert world.deleted == []
        assert world.metric("suspects", reason="orphaned", action="delete") == 0

    @given(st.lists(PICTURES, min_size=1, max_size=6))
    def test_what_has_changed_since_the_last_look_is_all_that_must_be_sorted(self, pictures: list[Any]) -> None:
        """Looking again and again finds what a first look finds."""
        config, kept = an_airflow(notices={"uncertain": "0s"}), dict[Any, Record]()
        tracker = NoticeTracker(config)
        for number, picture in enumerate(pictures):
            records = {uid: kept.setdefault((uid, how), a_record(uid, *how)) for uid, how in picture.items()}
            now = Now(0.0, None if number == 3 else CREATED + 600.0 * 12**number)
            tracker.refresh(records, now)
            first = NoticeTracker(config)
            first.refresh(records, now)
            assert tracker.snapshot == first.snapshot
            alone = {uid for uid, record in records.items() if notices(sight(record, now), first._limits)}
            assert alone <= tracker.snapshot.active.keys()


class TestMissing:
    def gone(self, world: World, *uids: str) -> None:
        for uid in uids:
            world.pod(uid, Known(0.0, a_task(task_id=f"t-{uid}")), task_id=f"t-{uid}")
        world.audit()
        for uid in uids:
            del world.cluster.pods[uid]
        world.run()
        world.wait(600)

    def test_an_audit_asks_and_nobody_else_does(self) -> None:
        world = World()
        self.gone(world, "a")
        world.airflow.calls.clear()
        world.run()
        world.due()
        assert world.airflow.calls == []
        assert noted(world) == {}, "nobody has asked yet"
        world.audit()
        assert world.airflow.calls == [("look", ["a"])]
        assert noted(world) == {"a": ["pod-gone"]}
        assert world.metric("notices", notice="pod-gone") == 1
        assert "a" in world.airflow.forgotten

    @pytest.mark.parametrize(
        "answer", [ORPHANED, Absent(0.0, "no run"), Known(0.0, a_task("running", 2)), Known(0.0, a_task(None))]
    )
    def test_whose_task_instance_went_on_is_not_missed(self, answer: Any) -> None:
        world = World()
        self.gone(world, "a")
        world.airflow.answers["a"] = answer
        world.audit()
        assert noted(world) == {}
        world.airflow.calls.clear()
        world.audit()
        assert world.airflow.calls == []

    def test_it_is_missed_until_its_task_instance_goes_on(self) -> None:
        world = World()
        self.gone(world, "a")
        world.audit()
        world.airflow.answers["a"] = NOT_KNOWN
        world.audit()
        assert noted(world) == {"a": ["pod-gone"]}
        world.airflow.answers["a"] = ORPHANED
        world.audit()
        assert noted(world) == {}

    def test_a_pod_that_takes_its_place_ends_it(self) -> None:
        world = World()
        self.gone(world, "a")
        world.audit()
        world.pod("b", Known(0.0, a_task(task_id="t-a")), task_id="t-a")
        world.run()
        assert noted(world) == {}

    def test_few_are_asked_about_at_a_time_and_all_in_turn(self) -> None:
        world = World()
        self.gone(world, *(f"p{number:03}" for number in range(MAX_QUERIED + 20)))
        world.airflow.calls.clear()
        world.audit()
        world.audit()
        asked = world.airflow.asked("look")
        assert [len(uids) for uids in asked] == [MAX_QUERIED, MAX_QUERIED]
        assert len({uid for uids in asked for uid in uids}) == MAX_QUERIED + 20

    def test_what_was_no_ones_or_is_deleted_by_us_is_not_missed(self) -> None:
        world = World(policy=PROMPT)
        world.pod("done", RUNNING, phase="Succeeded")
        world.pod("leaving", RUNNING, terminating=True)
        world.pod("orphan", ORPHANED)
        world.audit()
        assert world.deleted == ["orphan"]
        world.cluster.pods.clear()
        world.run()
        world.wait(1e5)
        world.airflow.calls.clear()
        world.run(PassKind.AUDIT)
        assert world.airflow.calls == []


class TestShown:
    @pytest.fixture(autouse=True)
    def _logging(self) -> Any:
        with undisturbed_logging():
            yield

    def test_scan_shows_them_below_and_they_are_no_finding(self, tmp_path: Path, capsys: Any) -> None:
        running = {"state": "running", "end_date": None}
        raw = raw_pod() | {"status": {"phase": "Pending"}}

        def cluster(seen: Seen) -> Answer:
            pods = seen.path.partition("?")[0].endswith("/namespaces/a/pods")
            return Answer(200, page(raw)) if pods else kubernetes(seen)

        with world(tmp_path, capsys, airflow=lambda seen: with_row(running, seen), cluster=cluster) as made:
            outcome = made.run("scan")
            assert (outcome.code, outcome.err) == (0, "")
            assert "Nothing found among 1 Pods" in outcome.out
            assert outcome.out.splitlines()[2:][0] == "Worth a look, though nobody acts on it"
            assert "stuck-pending" in outcome.out
            assert json.loads(made.run("scan", "-o", "json").out) == []
            (finding,) = json.loads(made.run("scan", "--all", "-o", "json").out)
            assert [notice["name"] for notice in finding["notices"]] == ["stuck-pending"]
            outcome = made.run("scan", "--notices", "-o", "json")
            (notice,) = json.loads(outcome.out)
            assert outcome.code == 1
            assert list(notice) == ["notice", "namespace", "pod", "uid", "airflow", "dag_id", "task", "detail"]

    def test_a_running_healer_serves_them(self, capsys: Any) -> None:
        made = World()
        TestMissing().gone(made, "a")
        made.audit()
        board = FindingsEndpoint(AlwaysLeader())
        board.publish([made.reconciler.snapshot()], {}, 0.0)

        def script(seen: Seen) -> Answer:
            page = board.notices if seen.path == "/notices" else board.findings
            reply = page(HttpRequest(seen.path.partition("?")[2]))
            return Answer(reply.status, reply.body)

        with serving(script) as server:
            outcome = kpo_healer(capsys, "scan", "--notices", "-o", "json", "--from", f"http://127.0.0.1:{server.port}")
        (notice,) = json.loads(outcome.out)
        assert (outcome.code, notice["notice"], notice["pod"]) == (1, "pod-gone", "pod-a")
        assert notice["task"]["state"] == "running"

    def test_nothing_worth_a_look(self, tmp_path: Path, capsys: Any) -> None:
        with world(tmp_path, capsys) as made:
            outcome = made.run("scan", "--notices")
        assert (outcome.code, outcome.out) == (0, "Nothing worth a look among 1 Pods of the KubernetesPodOperator.\n")


def test_findings_have_no_notices_by_themselves() -> None:
    assert RemoteFindings([], None, ()).notices == ()
