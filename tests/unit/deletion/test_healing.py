"""Confirm and act: what is asked about before each DELETE, what holds one back, and what follows from its answer."""

from __future__ import annotations

import math
from typing import Any

import pytest

from healer.deletion.executor import BATCH_SIZE, MAX_ERRORS
from healer.errors import ServerBusyError
from healer.model import Answer, DeleteResult, DeleteStatus, Known, Withheld
from tests.unit.fakes import NOT_KNOWN, ORPHANED, PROMPT, RUNNING, UNLIMITED, World, gone
from tests.unit.strategies import BASE, NO_SOURCE, a_done_pod, ended

SUCCEEDED = Known(0.0, ended("success", end_date=None), NO_SOURCE)
AT_ONCE = {**PROMPT, "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"}}
ERROR, DENIED = DeleteResult(DeleteStatus.ERROR, "500"), DeleteResult(DeleteStatus.DENIED, "403")


def prompt(*uids: str, **changes: Any) -> World:
    """Return a world that acts in the pass in which it sees, with these orphans."""
    world = World(**{"policy": AT_ONCE, **changes})
    for uid in uids:
        world.pod(uid)
    return world


def many(count: int, **changes: Any) -> World:
    """Return such a world with orphans p000, p001, …, the oldest first."""
    world = World(**{"policy": AT_ONCE, **changes})
    for number in range(count):
        world.pod(f"p{number:03}", age=100_000 - number)
    return world


def limits(per_minute: int | None = None, **breaker: Any) -> dict[str, Any]:
    return {"deletionsPerMinute": per_minute, "breaker": {"maxShare": 1, **breaker}}


def asks(world: World) -> list[int]:
    return [len(uids) for uids in world.airflow.asked("ask_each")]


# --- confirmation -----------------------------------------------------------------------------------------------------


def test_nobody_is_deleted_without_a_question_of_its_own() -> None:
    world = prompt("a")
    world.audit()
    assert world.journal == [("look", ("a",)), ("ask_each", ("a",)), ("delete", ("a",))]


def test_slices_are_asked_about_and_deleted_one_after_the_other() -> None:
    world = many(45)
    world.audit()
    assert asks(world) == [20, 20, 5]
    steps = [kind for kind, _ in world.journal[1:]]
    assert steps == ["ask_each", *["delete"] * 20, "ask_each", *["delete"] * 20, "ask_each", *["delete"] * 5]
    assert world.deleted == sorted(world.deleted), "oldest first"


def test_what_is_no_longer_the_same_case_is_not_deleted() -> None:
    world = prompt("a", "b", "c", "d")
    fresh: dict[str, Answer] = {
        "a": RUNNING,
        "b": Known(0.0, ended("failed", end_date=None, id="id-2"), NO_SOURCE),
        "c": Known(0.0, ended("success", end_date=None), NO_SOURCE),
    }
    world.airflow.at_ask = lambda _: world.airflow.answers.update(fresh)
    world.audit()
    assert world.deleted == ["d"]
    assert world.metric("deletions_total", reason="orphaned", result="refuted") == 3
    assert world.reason("a") == "in-use"
    assert world.shown("a").action == "keep"


def test_a_refuted_case_starts_its_patience_over() -> None:
    world = prompt("a", policy={**AT_ONCE, "grace": "5m"})
    world.audit()
    world.wait(300)
    world.airflow.at_ask = lambda _: world.airflow.answers.update(
        a=Known(0.0, ended("failed", end_date=None, id="id-2"), NO_SOURCE)
    )
    world.due()
    assert not world.deleted
    world.live(299)
    assert not world.deleted
    world.live(2)
    assert world.deleted == ["a"]


def test_refuted_ones_do_not_starve_the_others() -> None:
    world = many(70, limits=limits(10))
    liars = {f"p{number:03}" for number in range(60)}

    def change_their_case(pods: Any) -> None:
        for pod in pods:
            if pod.uid in liars:
                task = ended("failed", end_date=None, id=f"id-{world.clock()}-{len(world.journal)}")
                world.airflow.answers[pod.uid] = Known(0.0, task, NO_SOURCE)

    world.airflow.at_ask = change_their_case
    world.audit()
    assert sum(asks(world)) == 30, "three times the budget, and no more"
    assert not world.deleted
    world.live(180)
    assert set(world.deleted) == {f"p{number:03}" for number in range(60, 70)}


def test_one_that_airflow_never_answers_for_does_not_block_a_budget_of_one() -> None:
    world = many(3, limits=limits(1))
    silent = {"p000"}
    world.airflow.at_ask = lambda pods: world.airflow.answers.update(
        {pod.uid: NOT_KNOWN for pod in pods if pod.uid in silent}
    )
    world.live(400)
    assert world.deleted == ["p001", "p002"]


def test_when_airflow_knows_nothing_the_pass_stops_acting() -> None:
    world = many(100)
    world.airflow.at_ask = lambda _: setattr(world.airflow, "down", True)
    world.audit()
    assert asks(world) == [20]
    assert not world.deleted
    assert world.metric("deletions_total", reason="orphaned", result="refuted") == 0, "nothing was refuted"


def test_one_unclear_answer_does_not_stop_the_others() -> None:
    world = many(30)
    world.airflow.at_ask = lambda _: world.airflow.answers.update(p003=NOT_KNOWN)
    world.audit()
    assert set(world.deleted) == {f"p{number:03}" for number in range(30)} - {"p003"}
    assert world.shown("p003").action == "keep"
    assert world.reason("p003") == "airflow-unknown"


def test_a_retention_that_grew_meanwhile_is_kept() -> None:
    world = World(policy={**AT_ONCE, "retention": {"succeeded": "0s", "failed": "24h"}}, limits=UNLIMITED)
    world.pod("a", SUCCEEDED, phase="Succeeded", containers=a_done_pod().containers)
    other_base = Known(0.0, ended("success", end_date=None, base_container="main"), NO_SOURCE)

    def lose_the_exit_code(_: Any) -> None:
        world.airflow.answers["a"] = other_base
        world.airflow.at_ask = lambda _: None

    world.cluster.change("a", phase="Failed")
    world.airflow.at_ask = lose_the_exit_code
    world.audit()
    assert not world.deleted
    assert world.reconciler.findings()[0].withheld is Withheld.NOT_DUE


# --- the DELETE's answer ----------------------------------------------------------------------------------------------


def test_a_conflict_is_read_and_judged_again_once_in_the_same_pass() -> None:
    world = prompt("a")
    changed = []

    def change_once(_: Any) -> None:
        if not changed:
            changed.append(world.cluster.change("a"))

    world.cluster.at_delete = change_once
    world.audit()
    kinds = [kind for kind, _ in world.journal]
    assert kinds == ["look", "ask_each", "delete", "get", "ask_each", "delete"]
    assert [pod.resource_version for pod, _ in world.cluster.deletes] == ["1", "2"]
    assert world.metric("deletions_total", reason="orphaned", result="conflict") == 1
    assert world.metric("deletions_total", reason="orphaned", result="deleted") == 1


def test_a_pod_that_changes_all_the_time_gets_two_attempts_a_pass_and_goes_to_the_back() -> None:
    world = many(3, limits=limits(3))
    world.cluster.at_delete = lambda pod: pod.uid == "p000" and world.cluster.change("p000")  # type: ignore[return-value]
    world.audit()
    assert world.deleted == ["p000", "p001", "p002"]
    world.pod("p003", age=1.0)
    world.live(120)
    assert set(world.deleted) == {"p000", "p001", "p002", "p003"}
    assert world.deleted.count("p000") <= 3


WRITES: list[Any] = [
    pytest.param({"protected": True}, "protected", id="protected"),
    pytest.param({"terminating": True}, "terminating", id="deleted by somebody else"),
    pytest.param({"checked": True}, "abandoned", id="checked"),
    pytest.param({"phase": "Unknown"}, "phase-unknown", id="node lost"),
    pytest.param({"owner_label": "another"}, None, id="stamped for another Airflow"),
]


@pytest.mark.parametrize(("fields", "reason"), WRITES)
def test_what_a_conflict_hides_is_respected(fields: dict[str, Any], reason: str | None) -> None:
    world = prompt("a")
    world.cluster.at_delete = lambda pod: world.cluster.change("a", **fields) and None
    world.audit()
    assert world.deleted == ["a"], "the one that was refused"
    world.cluster.at_delete = lambda _: None
    world.live(3600)
    assert world.deleted == ["a"]
    assert "a" in world.cluster.pods
    assert [view.finding.reason.value for view in world.reconciler.findings()] == ([reason] if reason else [])


def test_a_pod_that_left_the_selection_is_never_deleted() -> None:
    world = prompt("a")

    def take_it_out(_: Any) -> None:
        world.cluster.change("a", selected=False)

    world.cluster.at_delete = take_it_out
    world.audit()
    world.live(3600)
    assert world.deleted == ["a"], "only the one that was refused"


def test_a_name_that_another_pod_took_over_is_dropped() -> None:
    world = prompt("a")

    def reuse_the_name(pod: Any) -> None:
        world.cluster.at_delete = lambda _: None
        del world.cluster.pods["a"]
        world.pod("b", RUNNING, name="pod-a", resource_version="1")

    world.cluster.at_delete = reuse_the_name
    world.audit()
    world.live(3600)
    assert world.deleted == ["a"]
    assert world.reason("b") == "in-use"


def test_a_pod_that_is_gone_already_is_not_counted_as_deleted() -> None:
    world = prompt("a")
    world.cluster.at_delete = lambda _: world.cluster.pods.clear()
    world.audit()
    assert world.metric("deletions_total", reason="orphaned", result="gone") == 1
    assert world.reconciler.deleted == ()
    assert world.reconciler.findings() == []


def test_evidence_that_grew_old_is_asked_for_again() -> None:
    world = prompt("a")
    first = []

    def dawdle(_: Any) -> None:
        if not first:
            first.append(world.wait(16))

    world.cluster.at_delete = dawdle
    world.audit()
    assert asks(world) == [1, 1]
    assert world.deleted == ["a"]
    assert world.metric("deletions_total", reason="orphaned", result="stale") == 1


def test_evidence_that_always_grows_old_ends_the_attempts_of_a_pass() -> None:
    world = prompt("a")
    world.airflow.slow = 16.0
    world.audit()
    assert asks(world) == [1, 1]
    assert not world.cluster.deletes


def test_what_was_never_sent_costs_no_budget() -> None:
    world = many(3, limits=limits(2))
    stale = ["p000", "p001"]

    def dawdle(pod: Any) -> None:
        if pod.uid in stale:
            stale.remove(pod.uid)
            world.wait(16)

    world.cluster.at_delete = dawdle
    world.audit()
    assert len(world.deleted) == 2


def test_slices_shrink_until_a_slow_airflow_is_fast_enough() -> None:
    """Asking about one Pod takes a second here: twenty at once are never fresh, a few are."""
    world = many(200)
    world.airflow.at_ask = lambda pods: setattr(world.airflow, "slow", float(len(pods)))
    world.live(1800)
    assert len(world.deleted) == 200


def test_a_denied_deletion_waits_for_the_next_audit_and_goes_on_being_shown() -> None:
    world = prompt("a", "b")
    world.cluster.results["a"] = [DENIED, DENIED, DENIED]
    world.audit()
    world.run()
    world.run()
    assert world.deleted == ["a", "b"]
    assert world.shown("a").action == "delete"
    assert world.reconciler.failures() == {"a": "403"}
    assert world.reconciler.next_event() == math.inf
    world.audit()
    assert world.deleted == ["a", "b", "a"]


def test_denied_ones_do_not_use_up_the_budget_of_the_others() -> None:
    world = many(10, limits=limits(5))
    for number in range(5):
        world.cluster.results[f"p{number:03}"] = [DENIED] * 99
    world.live(1300)
    assert set(world.deleted[5:10]) == {f"p{number:03}" for number in range(5, 10)}


def test_after_an_error_the_pod_is_read_before_it_is_tried_again() -> None:
    world = prompt("a")
    world.cluster.results["a"] = [ERROR]
    world.audit()
    world.run()
    assert [kind for kind, _ in world.journal] == ["look", "ask_each", "delete", "get", "ask_each", "delete"]
    assert not world.cluster.pods
    assert not world.cluster.lists, "it did not change: so its labels did not either"


def test_an_error_behind_which_the_pod_was_deleted_is_not_repeated() -> None:
    world = prompt("a")
    world.cluster.results["a"] = [ERROR]
    world.audit()
    world.cluster.change("a", terminating=True)
    world.live(600)
    assert world.deleted == ["a"]


def test_errors_in_a_row_end_the_pass_and_do_not_starve_the_others() -> None:
    world = many(30)
    broken = {f"p{number:03}" for number in range(10)}
    for uid in broken:
        world.cluster.results[uid] = [ERROR] * 99
    world.audit()
    assert world.deleted == sorted(broken)[:MAX_ERRORS]
    world.live(600)
    assert {f"p{number:03}" for number in range(10, 30)} <= set(world.deleted)


def test_errors_here_and_there_do_not_end_the_pass() -> None:
    world = many(30)
    for uid in ("p004", "p009", "p014", "p019", "p024"):
        world.cluster.results[uid] = [ERROR]
    world.audit()
    assert len(world.deleted) == 30


def test_a_server_that_asks_to_wait_is_left_alone_for_as_long() -> None:
    world = many(30)
    world.cluster.results["p000"] = [DeleteResult(DeleteStatus.ERROR, "429", retry_after=25.0)]
    world.audit()
    paused = world.clock()
    assert world.deleted == ["p000"]
    assert world.reconciler.next_event() == paused + 25
    world.wait(24)
    world.run()
    assert world.deleted == ["p000"]
    world.wait(1)
    world.due()
    assert len(world.deleted) == 31
    assert asks(world)[1] == 1, "the next round begins gently"


@pytest.mark.parametrize("senseless", [math.inf, 1e12])
def test_a_senseless_wait_does_not_end_all_healing(senseless: float) -> None:
    world = prompt("a")
    world.cluster.results["a"] = [DeleteResult(DeleteStatus.ERROR, "429", retry_after=senseless)]
    world.live(600)
    assert world.deleted == ["a", "a"]


def test_a_pod_that_can_not_be_read_again_is_not_deleted() -> None:
    world = prompt("a")
    world.cluster.results["a"] = [ERROR]
    world.audit()
    world.cluster.unreadable["airflow"] = gone()
    world.run()
    assert world.deleted == ["a"]
    world.cluster.unreadable.clear()
    world.run()
    assert world.deleted == ["a", "a"]


def test_pods_that_can_not_be_read_again_do_not_starve_the_others() -> None:
    world = many(30, limits=limits(30))
    for uid in list(world.cluster.pods)[:6]:
        world.cluster.results[uid] = [ERROR]
    world.audit()
    world.cluster.unreadable["airflow"] = ServerBusyError("503")
    world.live(600)
    assert set(world.deleted) == {f"p{number:03}" for number in range(30)}


def test_a_server_in_trouble_is_not_asked_for_one_pod_after_the_other() -> None:
    world = many(20)
    for uid in world.cluster.pods:
        world.cluster.results[uid] = [DeleteResult(DeleteStatus.CONFLICT, "409")]
    reads = world.cluster.reads

    def fail(pod: Any) -> None:
        world.cluster.unreadable["airflow"] = ServerBusyError("503", retry_after=30.0)

    world.cluster.at_delete = fail
    world.audit()
    assert reads == ["airflow/pod-p000"]
    assert len(world.deleted) == 20
    assert world.reconciler.next_event() == world.clock() + 30


def test_each_delete_has_a_confirmation_of_its_own() -> None:
    world = many(60, limits=limits(30))
    script = [
        ERROR,
        DENIED,
        DeleteResult(DeleteStatus.CONFLICT, "409"),
        DeleteResult(DeleteStatus.ERROR, "429", retry_after=2.0),
    ]
    for number in range(60):
        world.cluster.results[f"p{number:03}"] = script[number % 4 :] + script[: number % 4]
    world.live(7200)
    assert not world.cluster.pods
    proven: set[str] = set()
    for kind, uids in world.journal:
        if kind == "ask_each":
            proven |= set(uids)
        elif kind == "delete":
            assert uids[0] in proven
            proven -= set(uids)


def test_without_the_right_to_act_nobody_is_asked_about_and_nothing_is_sent() -> None:
    world = many(45)
    world.right = False
    world.audit()
    assert asks(world) == []
    assert not world.cluster.deletes


def test_a_right_that_is_lost_in_mid_round_ends_it() -> None:
    world = many(45)
    world.cluster.at_delete = lambda pod: setattr(world, "right", pod.uid < "p005")
    world.audit()
    assert len(world.deleted) == 5
    assert asks(world) == [20]


def test_the_picture_may_show_a_deleted_pod_for_a_while() -> None:
    world = prompt("a")
    pod = world.cluster.pods["a"]
    world.audit()
    world.reconciler.reconcile(world.listed([pod]), world_full(), {})
    assert world.reconciler.findings() == []
    assert world.deleted == ["a"]
    from msgspec.structs import replace

    going = replace(pod, resource_version="2", terminating=True)
    world.reconciler.reconcile(world.listed([going]), world_full(), {})
    assert world.reason("a") == "terminating"
    assert len(world.airflow.calls) == 2, "nobody asked about it again"


def world_full() -> Any:
    from healer.model import PassKind

    return PassKind.FULL


# --- budget and breaker -----------------------------------------------------------------------------------------------


def test_the_budget_is_kept_over_time_and_what_waits_is_told() -> None:
    world = many(100, limits=limits(30))
    world.audit()
    assert len(world.deleted) == 30
    assert world.metric("withheld", why="rate") == 70
    assert world.shown("p099").withheld is Withheld.RATE
    start = world.clock()
    assert world.reconciler.next_event() == pytest.approx(start + 2 * BATCH_SIZE)
    world.live(165)
    assert len(world.deleted) == 100
    assert world.metric("withheld", why="rate") == 0


def test_an_unlimited_budget_takes_all_in_one_pass() -> None:
    world = many(300)
    world.audit()
    assert len(world.deleted) == 300


def test_the_breaker_stops_what_is_active_and_lets_leftovers_pass() -> None:
    world = World(policy=AT_ONCE, limits=limits(None, maxShare=0.5, minCount=5, coolDown="10m"))
    for number in range(40):
        world.pod(f"a{number:02}", ORPHANED if number < 30 else RUNNING)
    for number in range(50):
        world.pod(f"f{number:02}", SUCCEEDED, phase="Succeeded", containers=a_done_pod().containers)
    world.audit()
    assert {uid[0] for uid in world.deleted} == {"f"}
    assert len(world.deleted) == 50
    assert world.metric("breaker_open") == 1
    assert world.metric("withheld", why="breaker") == 30
    assert world.shown("a00").withheld is Withheld.BREAKER
    assert world.reconciler.next_event() == world.clock() + 600
    for opened in (5, 10, 15):
        passes = world.live(600 if opened > 5 else 660)
        assert len(world.deleted) == 50 + opened
        assert passes < 20
    world.live(720)
    assert len(world.deleted) == 80, "10 of 20 are not more than half: it closed"
    assert world.metric("breaker_open") == 0


def test_the_breaker_counts_what_is_not_ripe_yet() -> None:
    world = World(policy={**AT_ONCE, "grace": "5m"}, limits=limits(None, maxShare=0.5, minCount=2))
    world.pod("early", ORPHANED)
    world.pod("alive", RUNNING)
    world.audit()
    world.wait(290)
    world.pod("late", ORPHANED)
    world.pod("later", ORPHANED)
    world.run()
    world.wait(10)
    world.due()
    assert not world.deleted
    assert world.shown("early").withheld is Withheld.BREAKER
    assert world.shown("late").withheld is Withheld.NOT_DUE


def test_only_what_the_policy_deletes_is_counted_as_condemned() -> None:
    world = World(policy={**AT_ONCE, "actions": {"orphaned": "report"}}, limits=limits(None, maxShare=0.1, minCount=0))
    world.pod("a")
    world.audit()
    assert world.metric("breaker_open") == 0


def test_half_open_refuted_ones_do_not_use_up_what_is_let_through() -> None:
    world = World(policy=AT_ONCE, limits=limits(None, maxShare=0.1, minCount=2, coolDown="10m"))
    for number in range(10):
        world.pod(f"a{number}", age=1000.0 - number)
    world.audit()
    world.wait(600)
    world.airflow.at_ask = lambda _: world.airflow.answers.update(a0=RUNNING, a1=RUNNING)
    world.due()
    assert world.deleted == ["a2", "a3"]


# --- report mode ------------------------------------------------------------------------------------------------------


def test_report_mode_walks_the_same_path_and_sends_nothing() -> None:
    world = many(100, mode="report", limits=limits(30))
    world.audit()
    assert asks(world) == [20, 10]
    assert not world.cluster.deletes
    assert world.metric("withheld", why="report-mode") == 30
    assert world.metric("withheld", why="rate") == 70
    world.live(200)
    assert world.metric("withheld", why="report-mode") == 100


def test_standing_suspects_are_confirmed_once_and_cost_no_calls_afterwards() -> None:
    world = many(50, mode="report")
    world.live(599)
    assert asks(world) == [20, 20, 10]
    world.live(3600)
    assert asks(world) == [20, 20, 10]
    assert world.airflow.asked("ended_lately") == []


def test_a_new_case_of_the_same_pod_is_confirmed_anew() -> None:
    world = prompt("a", mode="report")
    world.audit()
    world.airflow.answers["a"] = Known(0.0, ended("failed", end_date=None, id="id-2"), NO_SOURCE)
    world.audit()
    assert asks(world) == [1, 1]


def test_the_breaker_is_part_of_the_preview() -> None:
    world = many(10, mode="report", limits=limits(None, maxShare=0.5, minCount=5))
    world.audit()
    assert world.metric("withheld", why="breaker") == 10
    assert asks(world) == []
    world.wait(600)
    world.due()
    assert world.metric("withheld", why="breaker") == 5
    assert world.metric("withheld", why="report-mode") == 5
    assert asks(world) == [5], "half-open, a few would be deleted"
    assert world.live(599) < 15, "nor does waiting for it keep anybody busy"


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_one_look_says_what_would_be_withheld(mode: str) -> None:
    world = many(10, mode=mode, limits=limits(4))
    world.pod("young", age=0.0, containers=(BASE,))
    world.reconciler.scan_once(world.cluster.selected(), {})
    withheld = [world.shown(f"p{number:03}").withheld for number in range(10)]
    would = Withheld.REPORT_MODE if mode == "report" else None
    assert withheld == [would] * 4 + [Withheld.RATE] * 6
    assert not world.cluster.deletes
    assert asks(world) == []
    assert all(view.since is None for view in world.reconciler.findings(first_look=True))


def test_one_look_counts_the_breaker_but_not_for_leftovers() -> None:
    world = many(10, limits=limits(None, maxShare=0.5, minCount=5))
    world.pod("f", SUCCEEDED, phase="Succeeded", containers=a_done_pod().containers)
    world.reconciler.scan_once(world.cluster.selected(), {})
    assert world.shown("p000").withheld is Withheld.BREAKER
    assert world.shown("f").withheld is None


def test_the_delay_is_counted_from_due_to_deleted() -> None:
    world = World(policy={**AT_ONCE, "grace": "2m"})
    world.pod("a")
    world.audit()
    world.wait(150)
    world.due()
    assert world.deleted == ["a"]
    assert world.metric("healing_delay_seconds_sum") == pytest.approx(30)
    assert world.metric("healing_delay_seconds_count") == 1


# --- leadership and release -------------------------------------------------------------------------------------------


def test_what_a_leader_could_not_delete_any_more_is_withheld_as_such() -> None:
    world = many(30, limits=UNLIMITED)
    world.cluster.at_delete = lambda _pod: setattr(world, "right", len(world.cluster.deletes) < 3)
    world.audit()
    assert len(world.deleted) in {3, 4}
    assert world.metric("withheld", why="not-leader") == 30 - len(world.deleted)
    asked = len(asks(world))
    world.due()
    assert len(asks(world)) == asked, "nor is Airflow asked for what can't be done"


def test_a_release_lets_all_that_is_condemned_go_and_ends_by_itself() -> None:
    world = many(10, limits=limits(None, maxShare=0.5, minCount=5, coolDown="10m"))
    world.audit()
    assert (world.deleted, world.metric("breaker_open")) == ([], 1)
    world.lifted = True
    world.due()
    assert (len(world.deleted), world.metric("breaker_open")) == (10, 0)
    world.lifted = False
    for number in range(10):
        world.pod(f"new-{number}")
    world.audit()
    assert (len(world.deleted), world.metric("breaker_open")) == (10, 1)


def test_a_release_is_told_once_and_the_budget_still_counts(capsys: pytest.CaptureFixture[str]) -> None:
    world = many(10, limits=limits(4, maxShare=0.5, minCount=5, coolDown="10m"))
    world.lifted = True
    world.audit()
    world.due()
    assert len(world.deleted) == 4
    assert world.metric("withheld", why="rate") == 6
    assert capsys.readouterr().out.count("the breaker is lifted by hand") == 1
