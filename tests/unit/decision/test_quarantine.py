"""Quarantine: when patience begins, when it is over, and what starts it over."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from healer.config import Policy
from healer.decision import quarantine
from healer.decision.quarantine import (
    ContainerResult,
    Now,
    Suspect,
    container_result,
    due_at,
    end_of_work,
    signature,
)
from healer.decision.records import RecordStore
from healer.model import ACTING, UNREADABLE, Action, Container, Finding, Pod, Reason
from tests.unit.fakes import EPOCH, Clock
from tests.unit.strategies import SIDECAR, a_done_pod, a_pod, ended

CREATED = EPOCH - 100_000
MINUTE, HOUR = 60.0, 3600.0


def a_finding(reason: Reason = Reason.ORPHANED, **changes: Any) -> Finding:
    return Finding(reason, "because", ended("failed", **changes))


def a_policy(**changes: Any) -> Policy:
    return Policy.model_validate(changes)


def the_pod(**changes: Any) -> Pod:
    return a_pod(**{"created": CREATED, **changes})


class Quarantine:
    """Who is suspected, by Pod uid, as the records keep it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.suspects: dict[str, Suspect] = {}

    def observe(self, pod: Pod, finding: Finding, now: Now) -> None:
        self._put(pod, quarantine.observe(self.suspects.get(pod.uid), pod, finding, now, self.policy))

    def update_pod(self, pod: Pod, finding: Finding, now: Now) -> None:
        known = self.suspects.get(pod.uid)
        if known is not None:
            self._put(pod, quarantine.update_pod(known, pod, finding, now, self.policy))

    def _put(self, pod: Pod, suspect: Suspect | None) -> None:
        self.suspects.pop(pod.uid, None)
        if suspect is not None:
            self.suspects[pod.uid] = suspect

    def requeue(self, uid: str) -> None:
        self.suspects[uid] = quarantine.requeued(self.suspects[uid])

    def due(self, now: Now) -> list[Suspect]:
        return quarantine.due(self.suspects.values(), now, self.policy)

    def awaiting_sighting(self, now: Now, *, stale: bool) -> list[Suspect]:
        return quarantine.awaiting_sighting(self.suspects.values(), now, stale=stale)

    def next_event(self, now: Now) -> float:
        return quarantine.next_event(self.suspects.values(), now)


class Watched:
    """A quarantine and the one Pod that is looked at."""

    def __init__(self, **policy: Any) -> None:
        self.clock = Clock()
        self.quarantine = Quarantine(a_policy(**policy))
        self.pod = the_pod()

    def look(self, finding: Finding | None = None, after: float = 0.0, pod: Pod | None = None) -> None:
        self.clock.forward(after)
        self.pod = pod or self.pod
        self.quarantine.observe(self.pod, finding or a_finding(), self.clock.now())

    @property
    def suspect(self) -> Any:
        return self.quarantine.suspects.get(self.pod.uid)

    @property
    def ripe(self) -> bool:
        return bool(self.quarantine.due(self.clock.now()))


# --- patience ---------------------------------------------------------------------------------------------------------


def test_nobody_is_ripe_at_first_sight_even_without_any_patience() -> None:
    watched = Watched(grace="0s", minAge="0s")
    watched.look()
    assert not watched.ripe
    watched.look()
    assert watched.ripe


def test_grace_and_sightings_are_both_needed() -> None:
    watched = Watched(grace="2m")
    watched.look()
    watched.look(after=119)
    assert not watched.ripe
    watched.clock.forward(1)
    assert watched.ripe
    unseen = Watched(grace="2m")
    unseen.look()
    unseen.clock.forward(HOUR)
    assert not unseen.ripe, "seen once only"


@pytest.mark.parametrize("sightings", [1, 2, 3, 5])
def test_sightings_are_spread_over_the_patience_and_leave_its_end_to_the_confirmation(sightings: int) -> None:
    watched = Watched(grace="2m", minAge="0s", sightings=sightings)
    watched.look()
    looks = [0.0]
    start = watched.clock()
    while watched.suspect.next_look < math.inf:
        watched.look(after=watched.suspect.next_look - watched.clock())
        looks.append(watched.clock() - start)
    assert looks == pytest.approx([120.0 * n / sightings for n in range(sightings)])
    watched.clock.time = start + 120
    assert watched.ripe


CHANGES = [
    pytest.param(a_finding(Reason.ABANDONED), id="reason"),
    pytest.param(a_finding(id="id-2"), id="task instance id"),
    pytest.param(a_finding(try_number=2), id="try"),
    pytest.param(Finding(Reason.ORPHANED, "because", ended("success")), id="state"),
    pytest.param(a_finding(end_date=1.0), id="end, after a backup was restored"),
    pytest.param(Finding(Reason.RUN_DELETED, "gone", None), id="no row any more"),
]


@pytest.mark.parametrize("other", CHANGES)
def test_any_change_of_the_case_starts_the_patience_over(other: Finding) -> None:
    watched = Watched(grace="2m", absentGrace="2m")
    watched.look()
    watched.look(other, after=119)
    watched.look(other, after=60)
    assert watched.suspect.since == watched.clock() - 60
    assert watched.suspect.sightings == 2
    assert not watched.ripe


def test_another_uid_is_another_suspect() -> None:
    watched = Watched(grace="0s", minAge="0s")
    watched.look()
    watched.look(pod=the_pod(uid="uid-9"))
    assert watched.suspect.sightings == 1


def test_what_only_the_detail_says_changes_nothing() -> None:
    watched = Watched()
    watched.look(Finding(Reason.ORPHANED, "one", ended("failed")))
    watched.look(Finding(Reason.ORPHANED, "two", ended("failed", namespace="airflow")), after=30)
    assert watched.suspect.sightings == 2
    assert watched.suspect.finding.detail == "two"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.action is Action.KEEP])
def test_a_clear_keep_is_an_acquittal(reason: Reason) -> None:
    watched = Watched()
    watched.look()
    watched.look(a_finding(reason))
    assert (watched.suspect is None) == (reason is not Reason.AIRFLOW_UNKNOWN)


def test_an_answer_that_knows_nothing_is_no_sighting_and_no_change() -> None:
    watched = Watched(grace="2m")
    watched.look()
    since = watched.clock()
    for _ in range(5):
        watched.look(a_finding(Reason.AIRFLOW_UNKNOWN), after=60)
    assert (watched.suspect.since, watched.suspect.sightings) == (since, 1)
    assert not watched.ripe
    watched.look()
    assert watched.ripe


def test_a_ripe_suspect_that_can_not_be_seen_is_not_ripe_until_it_is_seen_again() -> None:
    watched = Watched(grace="1m")
    watched.look()
    watched.look(after=60)
    assert watched.ripe
    watched.look(a_finding(Reason.AIRFLOW_UNKNOWN))
    assert not watched.ripe
    watched.look()
    assert watched.ripe


@pytest.mark.parametrize("reason", ACTING)
@pytest.mark.parametrize("action", list(Action))
def test_the_policy_says_what_becomes_of_each_reason(reason: Reason, action: Action) -> None:
    watched = Watched(actions={reason.value: action.value})
    watched.look(a_finding(reason))
    if action is Action.KEEP:
        assert watched.suspect is None
    else:
        assert watched.suspect.action is action


# --- when it is over --------------------------------------------------------------------------------------------------

NOW = Now(1000.0, EPOCH)
POLICY = a_policy(
    grace="2m",
    absentGrace="30m",
    minAge="2m",
    retention={"succeeded": "10m", "failed": "24h", "kept": "48h", "purged": "7d"},
)


def done(exit_code: int | None, finished: float | None, **changes: Any) -> Pod:
    base = Container("base", terminated=True, exit_code=exit_code, finished_at=finished)
    return a_done_pod(**{"containers": (base,), "created": CREATED, **changes})


PATIENCE = [
    pytest.param(Reason.ORPHANED, the_pod(), 2 * MINUTE, id="grace"),
    pytest.param(Reason.SUPERSEDED, the_pod(), 2 * MINUTE, id="grace of a superseded one"),
    pytest.param(Reason.ABANDONED, the_pod(), 2 * MINUTE, id="grace of an abandoned one"),
    pytest.param(Reason.TASK_REMOVED, the_pod(), 30 * MINUTE, id="removed: absent grace"),
    pytest.param(Reason.RUN_DELETED, done(0, EPOCH), 30 * MINUTE, id="deleted run: absent grace, though done"),
    pytest.param(Reason.FINISHED, done(0, EPOCH - 60), 9 * MINUTE, id="success: from the end of the container"),
    pytest.param(Reason.FINISHED, done(0, EPOCH - HOUR), 2 * MINUTE, id="long over: still the grace"),
    pytest.param(Reason.FINISHED, done(1, EPOCH - HOUR), 23 * HOUR, id="failure by exit code"),
    pytest.param(Reason.FINISHED, done(1, EPOCH - HOUR, phase="Succeeded"), 23 * HOUR, id="the code beats the phase"),
    pytest.param(Reason.FINISHED, done(0, EPOCH - 60, phase="Running"), 9 * MINUTE, id="sidecar still running"),
    pytest.param(Reason.FINISHED, done(None, EPOCH - 60, phase="Succeeded"), 9 * MINUTE, id="no code: the phase"),
    pytest.param(Reason.FINISHED, done(0, None), 10 * MINUTE, id="no end: from the first sight"),
    pytest.param(
        Reason.FINISHED, the_pod(phase="Failed", containers=()), 24 * HOUR, id="evicted without status: a failure"
    ),
    pytest.param(Reason.FINISHED, the_pod(phase="Failed"), 24 * HOUR, id="evicted, base without end: a failure"),
    pytest.param(Reason.FINISHED, the_pod(phase="Succeeded", containers=(SIDECAR,)), 10 * MINUTE, id="no base: phase"),
    pytest.param(Reason.KEPT, done(0, EPOCH - HOUR), 47 * HOUR, id="kept, however it ended"),
    pytest.param(Reason.KEPT, done(1, EPOCH - HOUR), 47 * HOUR, id="kept and failed"),
    pytest.param(Reason.PURGED, done(0, EPOCH - HOUR), 167 * HOUR, id="purged: a week from the end of its work"),
    pytest.param(Reason.PURGED, done(0, EPOCH - 24 * HOUR), 144 * HOUR, id="purged a day ago"),
    pytest.param(Reason.PURGED, done(0, EPOCH - 700 * HOUR, created=0.0), 30 * MINUTE, id="long purged: absent grace"),
    pytest.param(Reason.ORPHANED, the_pod(created=EPOCH - 10), 2 * MINUTE, id="young, but the grace is longer"),
    pytest.param(Reason.ORPHANED, the_pod(created=EPOCH + 60), 3 * MINUTE, id="too young by the server's clock"),
    pytest.param(Reason.ORPHANED, the_pod(created=None), math.inf, id="age not known: never"),
]


@pytest.mark.parametrize(("reason", "pod", "wait"), PATIENCE)
def test_when_patience_is_over(reason: Reason, pod: Pod, wait: float) -> None:
    assert due_at(pod, a_finding(reason), NOW.ours, NOW, POLICY) == pytest.approx(NOW.ours + wait)


LONGEST_IS_NONE = a_policy(retention={"longest": "0s"})
BOUNDED = POLICY.model_copy(update={"retention": POLICY.retention.model_copy(update={"longest": 240 * HOUR})})


@pytest.mark.parametrize(
    ("reason", "wish", "longer"),
    [
        (Reason.FINISHED, None, False),
        (Reason.FINISHED, 24 * HOUR, False),
        (Reason.FINISHED, 25 * HOUR, True),
        (Reason.FINISHED, UNREADABLE, True),
        (Reason.KEPT, 25 * HOUR, False),
        (Reason.ORPHANED, UNREADABLE, False),
    ],
)
def test_whether_the_annotation_is_what_keeps_a_pod(reason: Reason, wish: float | None, longer: bool) -> None:
    assert (
        quarantine.is_kept_longer(replace(done(1, EPOCH - HOUR), retention=wish), a_finding(reason), BOUNDED) is longer
    )
    assert not quarantine.is_kept_longer(
        replace(done(1, EPOCH - HOUR), retention=wish), a_finding(reason), LONGEST_IS_NONE
    )


@pytest.mark.parametrize(
    ("reason", "pod", "wish", "wait"),
    [
        pytest.param(Reason.FINISHED, done(0, EPOCH - HOUR), 72 * HOUR, 71 * HOUR, id="longer than the policy says"),
        pytest.param(Reason.FINISHED, done(1, EPOCH - HOUR), 12 * HOUR, 23 * HOUR, id="never shorter"),
        pytest.param(Reason.FINISHED, done(1, EPOCH - HOUR), 0.0, 23 * HOUR, id="not even with nothing"),
        pytest.param(Reason.FINISHED, done(0, EPOCH - HOUR), 9000 * HOUR, 239 * HOUR, id="no longer than its bound"),
        pytest.param(Reason.FINISHED, done(0, EPOCH - HOUR), UNREADABLE, 239 * HOUR, id="no duration: its bound"),
        pytest.param(Reason.FINISHED, done(0, None), 72 * HOUR, 72 * HOUR, id="no end: from the first sight"),
        pytest.param(Reason.KEPT, done(0, EPOCH - HOUR), 72 * HOUR, 71 * HOUR, id="kept"),
        pytest.param(Reason.PURGED, done(0, EPOCH - HOUR), 200 * HOUR, 199 * HOUR, id="purged"),
        pytest.param(Reason.ORPHANED, the_pod(), 72 * HOUR, 2 * MINUTE, id="what works is no leftover"),
        pytest.param(Reason.RUN_DELETED, the_pod(), UNREADABLE, 30 * MINUTE, id="nor is that of a deleted run"),
        pytest.param(Reason.SUPERSEDED, the_pod(), UNREADABLE, 2 * MINUTE, id="nor a superseded one"),
    ],
)
def test_an_annotation_lengthens_a_retention(reason: Reason, pod: Pod, wish: float, wait: float) -> None:
    asked = replace(pod, retention=wish)
    assert due_at(asked, a_finding(reason), NOW.ours, NOW, BOUNDED) == pytest.approx(NOW.ours + wait)


@given(wish=st.floats(-1, 1e9), longest=st.floats(0, 3e8), failed=st.floats(0, 3e8))
def test_whatever_the_annotation_says_it_never_shortens_and_stays_within_its_bound(
    wish: float, longest: float, failed: float
) -> None:
    policy = a_policy(grace="0s", minAge="0s", retention={"failed": failed, "longest": longest})
    pod, finding = done(1, EPOCH - HOUR), a_finding(Reason.FINISHED)
    without = due_at(pod, finding, NOW.ours, NOW, policy)
    asked = due_at(replace(pod, retention=wish), finding, NOW.ours, NOW, policy)
    assert without <= asked <= max(without, NOW.to_ours(EPOCH - HOUR + longest))


def test_an_annotation_on_a_suspect_puts_its_due_time_off_and_without_it_that_comes_back() -> None:
    watched = Watched(grace="0s", minAge="0s", retention={"failed": "1h"})
    pod, finding = done(1, EPOCH), a_finding(Reason.FINISHED)
    watched.look(finding, pod=pod)
    before, now = watched.suspect.due, watched.clock.now()
    watched.quarantine.update_pod(replace(pod, retention=72 * HOUR), finding, now)
    assert watched.suspect.due == pytest.approx(EPOCH + 72 * HOUR - now.server + now.ours)
    watched.quarantine.update_pod(pod, finding, now)
    assert watched.suspect.due == pytest.approx(before)


def evicted(ended: float | None, **changes: Any) -> Pod:
    """A Pod whose phase is over and whose container tells nothing, with what its conditions tell."""
    return the_pod(**{"phase": "Failed", "containers": (Container("base"),), "ended": ended, **changes})


LATE = CREATED + 50_000
"""An end that is believed."""

ENDS = [
    pytest.param(LATE, done(1, LATE, ended=LATE - 9), LATE - 99, id="the base container tells it best"),
    pytest.param(LATE, evicted(LATE), LATE - 99, id="evicted: the conditions"),
    pytest.param(LATE, evicted(None), LATE, id="no conditions: the task instance's end"),
    pytest.param(LATE, done(1, None), LATE, id="a container without an end: the task instance's"),
    pytest.param(LATE, done(1, None, ended=LATE), LATE + 9, id="a container without an end: the conditions"),
    pytest.param(None, evicted(None), None, id="nothing tells it"),
    pytest.param(LATE, done(1, 0.0), LATE, id="1970 in the container's status"),
    pytest.param(LATE, done(1, -62135596800.0), LATE, id="the year 1 in the container's status"),
    pytest.param(None, done(1, EPOCH + 4000), LATE, id="the future in the container's status"),
    pytest.param(EPOCH + 3600, done(1, EPOCH + 3600), LATE, id="a node's clock that is an hour ahead"),
    pytest.param(None, done(1, EPOCH + 3601), LATE, id="and one that is more than that ahead"),
    pytest.param(LATE, done(1, CREATED - 1, ended=LATE), None, id="before the Pod was made"),
    pytest.param(CREATED, done(1, CREATED), LATE, id="in the second in which it was made"),
    pytest.param(LATE, evicted(0.0), LATE, id="1970 in the conditions"),
    pytest.param(None, evicted(1e18), LATE, id="the far future in the conditions"),
    pytest.param(LATE, done(1, float("nan"), ended=float("nan")), LATE, id="no number"),
    pytest.param(None, evicted(None), 0.0, id="1970 in Airflow's row"),
    pytest.param(None, evicted(None), 1e18, id="the far future in Airflow's row"),
    pytest.param(LATE, evicted(LATE, created=None), None, id="the Pod's age is not known"),
]


def test_a_due_time_may_differ_by_the_second_in_which_the_api_server_tells_its_time() -> None:
    assert quarantine.CLOCK_STEP == 1.0


@pytest.mark.parametrize(("end", "pod", "end_date"), ENDS)
def test_when_the_work_of_a_pod_was_over(end: float | None, pod: Pod, end_date: float | None) -> None:
    finding = a_finding(Reason.FINISHED, end_date=end_date)
    assert end_of_work(pod, finding, NOW) == end
    if pod.created is not None:
        over = NOW.ours + 24 * HOUR if end is None else NOW.to_ours(end + 24 * HOUR)
        assert due_at(pod, finding, NOW.ours, NOW, POLICY) == max(over, NOW.ours + 2 * MINUTE)


def test_without_a_row_and_without_the_servers_clock_an_end_is_told_all_the_same() -> None:
    assert end_of_work(evicted(LATE), Finding(Reason.PURGED, "gone"), Now(0.0, None)) == LATE
    assert due_at(evicted(LATE), Finding(Reason.PURGED, "gone"), 0.0, Now(0.0, None), POLICY) == math.inf


@pytest.mark.parametrize("reason", ACTING)
def test_nothing_is_due_while_the_servers_clock_is_not_known(reason: Reason) -> None:
    assert due_at(done(0, 1.0), a_finding(reason), 0.0, Now(1e9, None), POLICY) == math.inf


def test_the_base_container_of_the_row_decides_about_the_outcome() -> None:
    main = Container("main", terminated=True, exit_code=1, finished_at=5.0)
    base = Container("base", terminated=True, exit_code=0, finished_at=9.0)
    assert container_result(the_pod(containers=(base, main)), "main") == ContainerResult(False, 5.0)
    assert container_result(the_pod(containers=(base, main)), "base") == ContainerResult(True, 9.0)
    assert container_result(the_pod(containers=(main,), phase="Failed"), "base") == ContainerResult(False, None)


def test_patience_counts_from_the_end_of_the_base_container_of_the_row() -> None:
    main = Container("main", terminated=True, exit_code=0, finished_at=EPOCH - 60)
    pod = done(1, EPOCH - HOUR)
    pod = replace(pod, containers=(*pod.containers, main))
    finding = a_finding(Reason.FINISHED, base_container="main")
    assert due_at(pod, finding, NOW.ours, NOW, POLICY) == pytest.approx(NOW.ours + 9 * MINUTE)


def test_the_base_container_of_the_row_decides_whether_it_still_works() -> None:
    """The breaker counts those that do."""
    main, base = Container("main", terminated=True, exit_code=0), Container("base")
    for pod, active in ((the_pod(containers=(main, base)), False), (the_pod(containers=(base,)), True)):
        suspect = Suspect(pod, a_finding(base_container="main"), Action.DELETE, 0.0, 0.0)
        assert suspect.active is active


def test_our_wall_clock_has_no_say() -> None:
    ten_years_off = Now(1000.0, EPOCH - 10 * 365 * 24 * HOUR)
    pod = done(0, ten_years_off.server - 60, created=ten_years_off.server - HOUR)  # type: ignore[operator]
    assert due_at(pod, a_finding(Reason.FINISHED), 1000.0, ten_years_off, POLICY) == pytest.approx(1000 + 9 * MINUTE)


def test_the_signature_of_a_finding_without_a_row_is_its_reason() -> None:
    assert signature(Finding(Reason.RUN_DELETED, "x")) == signature(Finding(Reason.RUN_DELETED, "y"))
    assert signature(Finding(Reason.RUN_DELETED, "x")) != signature(Finding(Reason.TASK_REMOVED, "x"))


def test_both_clocks_are_told_in_both_directions() -> None:
    assert NOW.to_server(NOW.to_ours(EPOCH + 7)) == EPOCH + 7
    assert NOW.to_server(math.inf) is None
    assert Now(1.0, None).to_server(5.0) is None


@pytest.mark.parametrize("kind", [Now, ContainerResult, Suspect])
def test_what_was_handed_out_is_never_changed(kind: Any) -> None:
    """Reports and metrics read suspects while the next pass makes new ones."""
    assert kind.__struct_config__.frozen


def test_a_suspect_of_whom_nothing_else_is_said_was_seen_once_and_never_refuted() -> None:
    suspect = Suspect(the_pod(), a_finding(), Action.DELETE, 0.0, 0.0)
    assert (suspect.sightings, suspect.next_look, suspect.requeues) == (1, math.inf, 0)


# --- a Pod that changes -----------------------------------------------------------------------------------------------


def test_a_pod_that_changes_within_the_same_case_brings_a_new_due_time_and_no_sighting() -> None:
    watched = Watched(retention={"failed": "1h"})
    watched.look(a_finding(Reason.FINISHED), pod=done(1, watched.clock.server))
    due = watched.suspect.due
    later = replace(done(1, watched.clock.server + 600), resource_version="2")
    finding = a_finding(Reason.FINISHED)
    watched.quarantine.update_pod(later, finding, watched.clock.now())
    assert watched.suspect.due == due + 600
    assert watched.suspect.next_look == (watched.suspect.since + watched.suspect.due) / 2, "the last sighting"
    assert watched.suspect.sightings == 1
    assert watched.suspect.pod is later
    assert watched.suspect.finding is finding


@pytest.mark.parametrize("reason", [Reason.PROTECTED, Reason.TERMINATING, Reason.OWNED, Reason.PHASE_UNKNOWN])
def test_a_pod_that_is_protected_or_going_is_no_suspect_any_more(reason: Reason) -> None:
    watched = Watched()
    watched.look()
    watched.quarantine.update_pod(watched.pod, Finding(reason, "by the Pod alone"), watched.clock.now())
    assert watched.suspect is None


def test_a_pod_that_became_another_case_waits_until_it_is_seen_as_that() -> None:
    watched = Watched(grace="0s", minAge="0s", retention={"failed": "0s"})
    watched.look()
    watched.look()
    assert watched.ripe
    watched.quarantine.update_pod(done(1, CREATED), a_finding(Reason.FINISHED), watched.clock.now())
    assert not watched.ripe
    assert not watched.suspect.active
    watched.look(a_finding(Reason.FINISHED), pod=done(1, CREATED))
    assert watched.suspect.sightings == 1


def test_following_a_pod_does_not_make_a_blurred_suspect_clear() -> None:
    watched = Watched(grace="0s", minAge="0s", sightings=1)
    watched.look()
    watched.look(a_finding(Reason.AIRFLOW_UNKNOWN))
    watched.quarantine.update_pod(watched.pod, a_finding(), watched.clock.now())
    assert not watched.ripe


def test_following_or_refuting_a_stranger_suspects_nobody() -> None:
    watched = Watched()
    records = RecordStore(a_policy())
    records.sync([watched.pod], watched.clock.now())
    records.sync([replace(watched.pod, resource_version="2")], watched.clock.now())
    records.requeue(watched.pod.uid)
    records.requeue("nobody")
    assert records.suspects() == []


# --- order and events -------------------------------------------------------------------------------------------------


def test_those_never_refuted_come_first_then_the_longest_due_then_the_oldest_pod() -> None:
    clock, watched = Clock(), Quarantine(a_policy(grace="10s", minAge="0s", sightings=1))
    for uid, created in (("young", 30), ("old", 10), ("refuted", 1)):
        watched.observe(the_pod(uid=uid, created=CREATED + created), a_finding(), clock.now())
    clock.forward(-1)
    watched.observe(the_pod(uid="due-first", created=CREATED + 99), a_finding(), clock.now())
    watched.requeue("refuted")
    clock.forward(60)
    assert [s.pod.uid for s in watched.due(clock.now())] == ["due-first", "old", "young", "refuted"]


def test_a_refutation_is_remembered_while_the_case_stays_the_same() -> None:
    watched = Watched()
    watched.look()
    watched.quarantine.requeue(watched.pod.uid)
    watched.look()
    assert watched.suspect.requeues == 1
    watched.look(a_finding(id="id-2"))
    assert watched.suspect.requeues == 0


def test_the_next_event_is_the_next_look_then_the_due_time_then_nothing() -> None:
    watched = Watched(grace="1m", minAge="0s", sightings=3)
    start = watched.clock()
    watched.look()
    assert watched.quarantine.next_event(watched.clock.now()) == start + 20
    watched.look(after=10)
    assert watched.quarantine.next_event(watched.clock.now()) == start + 40
    watched.look(after=10)
    assert watched.quarantine.next_event(watched.clock.now()) == start + 60
    watched.clock.time = start + 60
    assert watched.ripe
    assert watched.quarantine.next_event(watched.clock.now()) == math.inf


@pytest.mark.parametrize("unclear", [True, False])
def test_neither_a_blurred_suspect_nor_one_that_is_never_due_wakes_anybody(unclear: bool) -> None:
    watched = Watched(sightings=1)
    watched.look(pod=None if unclear else the_pod(created=None))
    if unclear:
        watched.look(a_finding(Reason.AIRFLOW_UNKNOWN))
    assert watched.quarantine.next_event(watched.clock.now()) == math.inf


def test_one_whose_age_is_not_known_is_looked_at_again_after_the_grace() -> None:
    watched = Watched(grace="2m")
    watched.look(pod=the_pod(created=None))
    assert watched.suspect.next_look == watched.clock() + 120
    assert watched.quarantine.awaiting_sighting(watched.clock.now(), stale=True) == []
    watched.clock.forward(120)
    assert watched.quarantine.awaiting_sighting(watched.clock.now(), stale=False) == [watched.suspect]


def test_blurred_suspects_are_looked_at_in_regular_passes_only() -> None:
    watched = Watched()
    watched.look()
    watched.look(a_finding(Reason.AIRFLOW_UNKNOWN))
    assert watched.quarantine.awaiting_sighting(watched.clock.now(), stale=False) == []
    assert [s.pod.uid for s in watched.quarantine.awaiting_sighting(watched.clock.now(), stale=True)] == [
        watched.pod.uid
    ]


def test_suspects_are_counted_by_reason_and_action() -> None:
    clock, watched = Clock(), Quarantine(a_policy())
    for uid, reason in (("a", Reason.ORPHANED), ("b", Reason.ORPHANED), ("c", Reason.ABANDONED)):
        watched.observe(the_pod(uid=uid), a_finding(reason), clock.now())
    expected = {(Reason.ORPHANED, Action.DELETE): 2, (Reason.ABANDONED, Action.REPORT): 1}
    assert quarantine.counts(watched.suspects.values()) == expected
