"""One pass: what it asks, when nothing is asked, what is shown, counted and forgotten."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from healer.errors import AccessDeniedError, UnreachableError
from healer.model import (
    Absent,
    Action,
    Answer,
    DeleteResult,
    DeleteStatus,
    Known,
    NamedPods,
    PassKind,
    Pod,
    RunDeleted,
    Withheld,
)
from tests.unit.fakes import NOT_KNOWN, ORPHANED, PROMPT, RUNNING, UNLIMITED, World
from tests.unit.strategies import (
    BASE_ENDED,
    DAG_ID,
    NO_SOURCE,
    RUN_ID,
    a_task,
    ended,
    naming,
)

AT_ONCE = {**PROMPT, "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"}}
SUCCEEDED = Known(0.0, ended("success", end_date=None), NamedPods())
RUN_GONE = RunDeleted(0.0, DAG_ID, RUN_ID)


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_a_quiet_pass_asks_who_has_ended_lately_and_nothing_else() -> None:
    world = World()
    for number in range(5):
        world.pod(f"p{number}", RUNNING)
    world.audit()
    world.airflow.calls.clear()
    world.run()
    assert [name for name, _ in world.airflow.calls] == ["ended_lately"]
    assert not world.cluster.reads
    assert not world.cluster.lists


def test_a_due_pass_without_suspects_asks_nothing() -> None:
    world = World()
    world.pod("a", RUNNING)
    world.audit()
    world.airflow.calls.clear()
    world.due()
    assert world.airflow.calls == []


@pytest.mark.parametrize("kind", list(PassKind))
def test_without_pods_nobody_is_asked(kind: PassKind) -> None:
    world = World()
    world.run(kind)
    world.pod("p", protected=True)
    world.run(kind)
    assert world.airflow.calls == []


def test_an_audit_asks_about_everybody_whose_fate_is_airflows_to_tell() -> None:
    world = World()
    world.pod("a", RUNNING)
    world.pod("b", ORPHANED)
    world.pod("protected", protected=True)
    world.pod("elsewhere", namespace="elsewhere")
    world.pod("stamped", owner_label="another")
    world.audit()
    world.audit()
    assert world.airflow.calls == [("look", ["a", "b"])] * 2
    assert world.airflow.audits == 2
    assert sorted(view.pod.uid for view in world.reconciler.findings()) == ["a", "b", "protected"]


def test_new_pods_are_asked_about_in_the_next_full_pass_and_not_before() -> None:
    world = World()
    world.pod("a", RUNNING)
    world.audit()
    world.pod("new", RUNNING)
    world.due()
    assert world.reason("new") == "airflow-unknown"
    world.run()
    assert world.airflow.calls[1:] == [("look", ["new"]), ("ended_lately", ["a"])]
    assert world.reason("new") == "in-use"


def test_a_suspect_is_asked_again_amid_its_patience_and_when_due_and_not_every_pass() -> None:
    world = World(policy={"grace": "10m", "minAge": "0s"})
    world.pod("a")
    world.audit()
    asked = []
    for _ in range(9):
        world.wait(60)
        world.run()
        asked.append(len(world.airflow.calls) - 1)
    assert asked == [0, 0, 0, 0, 1, 1, 1, 1, 1], "one sighting"
    world.wait(60)
    world.due()
    assert [name for name, _ in world.airflow.calls[1:]] == ["ask_each", "ask_each"], "and one confirmation"
    assert world.deleted == ["a"]


def test_an_airflow_that_is_down_is_not_asked_at_each_due_time() -> None:
    world = World(policy={"grace": "2m", "minAge": "0s"})
    for number in range(20):
        world.pod(f"p{number}")
        world.audit()
        world.wait(1)
    world.airflow.down = True
    world.run()
    world.airflow.calls.clear()
    world.due()
    assert world.airflow.calls == []
    world.live(59, audit=1e6)
    assert len(world.airflow.calls) <= 3
    world.airflow.down = False
    world.live(240)
    assert len(set(world.deleted)) == 20


def test_a_pod_over_which_airflow_passes_in_silence_is_unknown() -> None:
    world = World(policy=AT_ONCE)
    world.pod("a")
    world.audit()
    world.airflow.get_all = lambda _pods: {}  # type: ignore[method-assign]
    world.airflow.get_each = lambda _pods: {}  # type: ignore[method-assign]
    world.pod("b")
    world.audit()
    assert world.reason("b") == "airflow-unknown"
    assert world.deleted == ["a"]
    assert world.reconciler.next_event() == math.inf


def test_what_has_ended_between_audits_is_found_and_what_was_cleared_starts_over() -> None:
    world = World(policy={"grace": "2m", "minAge": "0s"})
    world.pod("a", RUNNING)
    world.audit()
    world.airflow.answers["a"] = ORPHANED
    world.run()
    assert world.reason("a") == "orphaned"
    world.wait(60)
    world.airflow.answers["a"] = Known(0.0, a_task(None, 1, id="id-2"))
    world.audit()
    assert world.reason("a") == "adoptable"
    assert world.shown("a").since is None
    world.wait(30)
    world.airflow.answers["a"] = Known(0.0, ended("failed", end_date=None, id="id-2"), NO_SOURCE)
    world.audit()
    again = world.clock()
    world.live(119)
    assert not world.deleted
    world.live(5)
    assert world.deleted == ["a"]
    assert world.clock() >= again + 120


# --- siblings ---------------------------------------------------------------------------------------------------------


def twins(**sibling: Any) -> World:
    """Return a world with a Pod of try 1 whose task instance runs on with another Pod, of try 2."""
    world = World(policy=AT_ONCE)
    later = world.pod("later", RUNNING, **{"age": 90_000.0, "try_number": "2", **sibling})
    world.airflow.answers["later"] = Known(0.0, a_task("running", 2))
    world.pod("early", Known(0.0, a_task("running", 2), naming(later)))
    return world


def test_a_sibling_is_read_and_only_where_it_is_needed() -> None:
    world = twins()
    world.pod("other", ORPHANED)
    world.pod("idle", RUNNING)
    world.audit()
    assert world.cluster.reads == ["airflow/pod-later"] * 2, "for the first look and for the confirmation"
    assert sorted(world.deleted) == ["early", "other"]


@pytest.mark.parametrize("harm", ["gone", "forbidden", "terminating"])
def test_without_a_living_sibling_an_earlier_pod_stays(harm: str) -> None:
    world = twins()
    if harm == "gone":
        picture = world.cluster.selected()
        del world.cluster.pods["later"]
        world.reconciler.reconcile(picture, PassKind.AUDIT, {})
    elif harm == "forbidden":
        world.cluster.unreadable["airflow"] = AccessDeniedError("The healer may not get Pods.")
        world.audit()
    else:
        world.cluster.change("later", terminating=True)
        world.audit()
    assert world.reason("early") == "adoption-unknown"
    assert not world.deleted


@pytest.mark.parametrize("suspected", [False, True])
def test_a_sibling_that_can_not_be_read_just_now_is_read_in_the_next_pass(suspected: bool) -> None:
    world = twins()
    if suspected:
        world.reconciler.scan_once(world.cluster.selected(), {})
    world.cluster.unreadable["airflow"] = UnreachableError("no answer")
    world.audit()
    assert world.reason("early") == "airflow-unknown"
    assert not world.deleted
    world.cluster.unreadable.clear()
    world.reconciler.reconcile(world.cluster.selected(), PassKind.FULL, {})
    assert world.deleted == ["early"]


def test_a_sibling_in_a_foreign_namespace_is_not_read() -> None:
    world = World(policy=AT_ONCE)
    named = NamedPods(frozenset({("kube-system", "pod-later")}))
    world.pod("early", Known(0.0, a_task("running", 2), named))
    world.audit()
    assert not world.cluster.reads
    assert world.reason("early") == "adoption-unknown"


# --- namespaces that can't be read ------------------------------------------------------------------------------------


def test_pods_of_an_unreadable_namespace_are_unknown_and_the_others_go_on() -> None:
    world = World(policy={"grace": "2m", "minAge": "0s"}, namespaces=["airflow", "dark"])
    world.pod("a")
    world.pod("b", namespace="dark")
    world.audit()
    world.unreadable = {"dark": "forbidden"}
    world.live(600)
    assert world.deleted == ["a"]
    assert world.reason("b") == "airflow-unknown"
    assert "forbidden" in world.shown("b").finding.detail
    assert world.shown("b").action is Action.KEEP
    world.unreadable = {}
    world.live(600)
    assert world.deleted == ["a", "b"]


@pytest.mark.parametrize("answer", [RUNNING, Absent(0.0, "no DAG"), RUN_GONE])
def test_what_was_known_is_known_again_in_the_next_full_pass_after_the_namespace_can_be_read(answer: Answer) -> None:
    world = World()
    world.pod("a", answer)
    world.audit()
    before = world.reason("a")
    world.unreadable = {"airflow": "timeout"}
    world.run()
    assert world.reason("a") == "airflow-unknown"
    assert world.live(60) == 1, "nobody is kept busy by it"
    world.unreadable = {}
    world.run()
    assert world.reason("a") == before


# --- Pods that change -------------------------------------------------------------------------------------------------


def test_a_suspect_that_a_user_protects_is_acquitted_without_a_question() -> None:
    world = World(policy={"grace": "2m"})
    world.pod("a")
    world.audit()
    world.cluster.change("a", protected=True)
    world.live(3600)
    assert world.reason("a") == "protected"
    assert world.metric("suspects", reason="orphaned", action="delete") == 0
    assert not world.deleted
    world.cluster.change("a", protected=False)
    world.live(240)
    assert world.deleted == ["a"]


def test_an_orphan_that_ends_gets_its_retention() -> None:
    world = World(policy={"grace": "2m", "minAge": "0s", "retention": {"succeeded": "10m"}})
    world.pod("a", SUCCEEDED)
    world.airflow.answers["a"] = Known(0.0, ended("success", end_date=None), NO_SOURCE)
    world.audit()
    world.wait(110)
    over = world.clock.server
    base = replace(BASE_ENDED, finished_at=over)
    world.cluster.change("a", phase="Succeeded", containers=(base,))
    world.live(585)
    assert not world.deleted
    world.live(30)
    assert world.deleted == ["a"]


def test_a_stamp_for_another_airflow_ends_all_interest() -> None:
    world = World(policy={"grace": "2m"})
    world.pod("a")
    world.audit()
    world.cluster.change("a", owner_label="another")
    world.live(600)
    assert world.reconciler.findings() == []
    assert not world.deleted


# --- events and wake-ups ----------------------------------------------------------------------------------------------


def test_a_due_suspect_is_healed_on_time_and_not_at_the_next_regular_pass() -> None:
    world = World(policy={"grace": "70s", "minAge": "0s"})
    world.pod("a")
    start = world.clock()
    world.audit()
    assert world.reconciler.next_event() == start + 35, "one more sighting"
    world.wait(35)
    world.due()
    assert world.reconciler.next_event() == start + 70
    world.clock.time = start + 70
    world.due()
    assert world.deleted == ["a"]


def test_nothing_is_due_while_the_servers_clock_is_unknown() -> None:
    world = World(policy=AT_ONCE)
    world.cluster.knows_time = False
    world.pod("a", SUCCEEDED, phase="Succeeded", containers=(BASE_ENDED,))
    world.pod("b")
    assert world.live(1800) < 60
    assert not world.deleted
    world.cluster.knows_time = True
    world.live(600)
    assert sorted(world.deleted) == ["a", "b"]


STANDING: list[Any] = [
    pytest.param({"mode": "report"}, {}, {}, id="report mode"),
    pytest.param({}, {"created": None}, {}, id="never due"),
    pytest.param(
        {"limits": {"breaker": {"maxShare": 0.1, "minCount": 0}}}, {}, {}, id="breaker that lets none through"
    ),
    pytest.param({}, {}, {"a": [DeleteResult(DeleteStatus.DENIED, "403")] * 999}, id="denied"),
    pytest.param({}, {}, {"a": [DeleteResult(DeleteStatus.ERROR, "500")] * 999}, id="failing"),
    pytest.param({}, {}, {"a": [DeleteResult(DeleteStatus.CONFLICT, "409")] * 999}, id="changing all the time"),
    pytest.param({"policy": {**AT_ONCE, "actions": {"orphaned": "report"}}}, {}, {}, id="reported only"),
]


@pytest.mark.parametrize(("config", "pod", "results"), STANDING)
def test_whatever_stands_still_keeps_nobody_busy(config: Any, pod: Any, results: Any) -> None:
    world = World(**{"policy": AT_ONCE, **config})
    world.pod("a", **pod)
    world.cluster.results |= results
    world.live(600)
    calls = len(world.airflow.calls)
    assert world.live(3540) <= 62, "one pass a minute, and a few more at most"
    assert len(world.airflow.calls) - calls <= 130
    assert "a" in world.cluster.pods


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_an_orphan_is_announced_once_per_audit_while_it_stands(mode: str) -> None:
    world = World(policy={**PROMPT, "actions": {"orphaned": "report"}}, mode=mode)
    world.pod("a")
    world.live(1795, audit=600)
    assert [what for _, what, _ in world.recorder.told] == ["detected"] * 3


def test_what_is_deleted_in_the_same_pass_is_not_announced_before() -> None:
    world = World(policy=AT_ONCE)
    world.pod("a")
    world.audit()
    assert world.recorder.told == [("a", "deletion", DeleteStatus.DELETED)]


def test_the_announcement_says_what_holds_the_deletion_back() -> None:
    world = World(policy=AT_ONCE, limits={"breaker": {"maxShare": 0.5, "minCount": 1}})
    world.pod("a")
    world.audit()
    assert world.recorder.told == [("a", "detected", Withheld.BREAKER)]


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_it_says_why_the_pod_was_left_behind_where_somebody_had_looked_before(mode: str) -> None:
    world = World(policy=AT_ONCE, mode=mode)
    world.pod("a", RUNNING)
    world.audit()
    world.airflow.answers["a"] = ORPHANED
    with structlog.testing.capture_logs() as logs:
        world.run()
    assert world.recorder.causes == {"a": "worker-lost"}
    assert [line["cause"]["name"] for line in logs if line["event"] == "delete"] == ["worker-lost"] * len(world.deleted)


# --- what is shown and counted ----------------------------------------------------------------------------------------


def test_a_finding_is_shown_with_its_policy_and_its_times() -> None:
    world = World(policy={"grace": "2m", "minAge": "0s"})
    world.pod("a")
    world.audit()
    shown = world.shown("a").to_dict()
    assert list(shown) == [
        *("namespace", "pod", "uid", "airflow", "dag_id", "task", "labels", "reason", "action", "withheld", "detail"),
        *("since", "due", "created", "holds", "cause", "notices"),
    ]
    assert (shown["action"], shown["withheld"]) == ("delete", "not-due")
    assert shown["since"] == "1970-01-12T15:10:00Z"
    assert shown["due"] == "1970-01-12T15:12:00Z"
    first = world.reconciler.findings(first_look=True)[0].to_dict()
    assert (first["since"], first["due"]) == (None, shown["due"])


def test_an_unclear_look_is_shown_as_such_and_not_with_the_old_verdict() -> None:
    world = World()
    world.pod("a")
    world.audit()
    world.airflow.answers["a"] = NOT_KNOWN
    world.audit()
    shown = world.shown("a").to_dict()
    assert (shown["reason"], shown["action"], shown["withheld"], shown["due"]) == (
        "airflow-unknown",
        "keep",
        None,
        None,
    )


def test_reported_reasons_are_shown_as_such() -> None:
    world = World()
    world.pod("a", RUN_GONE)
    world.audit()
    assert (world.shown("a").action, world.shown("a").withheld) == (Action.REPORT, None)


def test_figures_rise_and_fall_again() -> None:
    world = World(policy={"grace": "2m", "minAge": "0s"})
    world.pod("a", cpu_cores=0.5, memory_bytes=1024.0)
    world.pod("b", RUNNING, cpu_cores=4.0)
    world.audit()
    assert world.metric("pods", reason="orphaned") == world.metric("pods", reason="in-use") == 1
    assert world.metric("suspects", reason="orphaned", action="delete") == 1
    assert world.metric("withheld", why="not-due") == 1
    assert (world.metric("held_cpu_cores"), world.metric("held_memory_bytes")) == (0.5, 1024)
    world.live(180)
    assert world.deleted == ["a"]
    assert world.metric("pods", reason="orphaned") == 0
    assert world.metric("suspects", reason="orphaned", action="delete") == 0
    assert world.metric("withheld", why="not-due") == 0
    assert (world.metric("held_cpu_cores"), world.metric("held_memory_bytes")) == (0, 0)


def test_what_a_pass_deleted_is_told_and_forgotten_by_the_next() -> None:
    world = World(policy=AT_ONCE)
    world.pod("a")
    world.audit()
    assert [view.pod.uid for view in world.reconciler.deleted] == ["a"]
    assert world.reconciler.deleted[0].to_dict()["action"] == "delete"
    world.run()
    assert world.reconciler.deleted == ()


def test_what_is_due_and_still_there_is_a_failure_of_enforce_mode_only() -> None:
    for mode, expected in (("enforce", {"a": "403"}), ("report", {})):
        world = World(policy=AT_ONCE, mode=mode)
        world.pod("a")
        world.cluster.results["a"] = [DeleteResult(DeleteStatus.DENIED, "403")]
        world.audit()
        assert world.reconciler.failures() == expected


# --- nothing is kept of those that are gone ---------------------------------------------------------------------------


def memory(world: World) -> dict[str, set[str]]:
    """Return every uid that is remembered somewhere."""
    reconciler = world.reconciler
    kept = {
        "book": reconciler._records._records,
        "wanted": reconciler._records._pending,
        "doubted": reconciler._records._unclear,
        "active": reconciler._records._active,
        "uncounted": reconciler._records._uncounted,
        "looked at": reconciler._notice_tracker._records,
        "alone": set(reconciler._notice_tracker._groups._alone.values()),
        "several": {uid for uids in reconciler._notice_tracker._groups.several.values() for uid in uids},
        "watched": reconciler._notice_tracker._starts_at,
        "kept": reconciler._notice_tracker._kept,
        "quarantine": reconciler._records._suspects,
        "sent": world.store._deleted,
    }
    return {name: set(uids) for name, uids in kept.items()}


@pytest.mark.parametrize("mode", ["report", "enforce"])
@pytest.mark.parametrize("results", [(), ("409",), ("500",), ("403",), ("409", "500", "403")])
def test_nothing_is_kept_of_pods_that_are_gone(mode: str, results: tuple[str, ...]) -> None:
    world = World(policy=AT_ONCE, mode=mode)
    outcome = {
        "409": DeleteResult(DeleteStatus.CONFLICT, "409"),
        "500": DeleteResult(DeleteStatus.ERROR, "500"),
        "403": DeleteResult(DeleteStatus.DENIED, "403"),
    }
    uids = {f"p{number}" for number in range(10)}
    for uid in uids:
        world.pod(uid)
        world.cluster.results[uid] = [outcome[result] for result in results]
    world.live(1300)
    world.cluster.pods.clear()
    world.run()
    world.run()
    assert memory(world) == {name: set() for name in memory(world)}
    assert world.airflow.forgotten >= uids


# --- chance -----------------------------------------------------------------------------------------------------------


class Chance:
    """A world in which anything may happen between any two steps, by one seed."""

    ACTING = ("orphan", "leftover")

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        limits = self.random.choice([UNLIMITED, {"deletionsPerMinute": 6, "breaker": {"maxShare": 0.9, "minCount": 3}}])
        policy = {"minAge": "30s", "grace": "90s", "retention": {"succeeded": "2m", "failed": "2m"}}
        self.world = World(policy=policy, limits=limits, namespaces=["airflow", "dark"])
        self.truth: dict[str, str] = {}
        self.asked: dict[str, tuple[str, Pod | None]] = {}
        self.ids = 0
        self.calm = False
        self.dark: set[str] = set()
        """Namespaces that could not be read when the pass began."""
        self.world.airflow.at_ask = self._note
        self.world.cluster.at_delete = self._before_delete
        for _ in range(8):
            self._new_pod()

    def storm(self, passes: int) -> None:
        for _ in range(passes):
            for _ in range(self.random.randrange(4)):
                self._happen()
            self.world.airflow.slow = self.random.choice([0, 0, 0, 1, 20])
            kind = self.random.choice([PassKind.DUE, PassKind.FULL, PassKind.FULL, PassKind.AUDIT])
            self.dark = set(self.world.unreadable)
            self.world.run(kind)
            self.world.wait(self.random.choice([0.5, 5, 30, 60]))

    def settle(self) -> None:
        self.calm, self.dark = True, set()
        self.world.airflow.slow = 0
        self.world.airflow.down = False
        self.world.unreadable = {}
        self.world.cluster.unreadable.clear()
        self.world.cluster.results.clear()
        for uid in self.world.cluster.pods:
            self._tell(uid)
        self.world.live(3600)

    def _new_pod(self) -> None:
        self.ids += 1
        uid = f"p{self.ids}"
        age = self.random.choice([0, 1000])
        self.world.pod(uid, age=age, namespace=self.random.choice(["airflow", "airflow", "dark"]))
        self.truth[uid] = "running"
        self._tell(uid)

    def _tell(self, uid: str) -> None:
        state = {"running": "running", "cleared": None, "orphan": "failed", "leftover": "success"}[self.truth[uid]]
        task = a_task(state, 1, id=f"id-{self.ids}-{uid}")
        self.world.airflow.answers[uid] = Known(0.0, task, NO_SOURCE)

    def _happen(self) -> None:
        cluster, airflow = self.world.cluster, self.world.airflow
        uid = self.random.choice([*cluster.pods, None])
        event = self.random.randrange(11)
        if event == 0 or uid is None:
            self._new_pod()
        elif event <= 3:
            self._turn(uid)
        elif event == 4:
            cluster.change(uid, protected=not cluster.pods[uid].protected)
        elif event == 5:
            del cluster.pods[uid]
        elif event == 6:
            airflow.down = not airflow.down
        elif event == 7:
            airflow.answers[uid] = NOT_KNOWN
        elif event == 8:
            results = [DeleteStatus.ERROR, DeleteStatus.DENIED, DeleteStatus.CONFLICT]
            cluster.results[uid] = [DeleteResult(self.random.choice(results), "x", self.random.choice([None, 2.0]))]
        elif event == 9:
            self.world.unreadable = {} if self.world.unreadable else {"dark": "forbidden"}
        else:
            cluster.change(uid)

    def _turn(self, uid: str) -> None:
        """Let the task instance or the Pod take another turn."""
        self.ids += 1
        self.truth[uid] = self.random.choice(["running", "cleared", "orphan", "leftover"])
        if self.truth[uid] == "leftover":
            base = replace(BASE_ENDED, finished_at=self.world.clock.server)
            self.world.cluster.change(uid, phase="Succeeded", containers=(base,))
        self._tell(uid)

    def _note(self, pods: Any) -> None:
        if not self.calm and not self.random.randrange(4):
            self._happen()
        self.asked = {pod.uid: (self.truth[pod.uid], pod) for pod in pods}

    def _before_delete(self, pod: Pod) -> None:
        truth, judged = self.asked.pop(pod.uid)
        assert truth in self.ACTING, "deleted though Airflow had just said that it is in use"
        assert judged == pod, "deleted as another than the one that was judged"
        assert not pod.protected
        assert pod.namespace not in self.dark
        if not self.calm and not self.random.randrange(4):
            self._happen()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_nothing_in_use_is_deleted_and_in_the_end_every_orphan_is(seed: int) -> None:
    chance = Chance(seed)
    chance.storm(60)
    chance.settle()
    world = chance.world
    left = {uid for uid, pod in world.cluster.pods.items() if chance.truth[uid] in Chance.ACTING and not pod.protected}
    assert left == set()
    remembered = memory(world)
    assert remembered["book"] == set(world.cluster.pods)
    assert set().union(*remembered.values()) <= set(world.cluster.pods)
    assert world.live(600) <= 11
