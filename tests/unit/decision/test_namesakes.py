"""Two Airflows with the same ids in one namespace: nothing of the other one is deleted, whatever its try and state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from healer.airflow import Status
from healer.cli import check
from healer.config import AirflowConfig, Ownership
from healer.model import (
    Action,
    Answer,
    Container,
    DagDeleted,
    Finding,
    Known,
    NamedPods,
    PassKind,
    Pod,
    Reason,
    RunDeleted,
    Unknown,
    Withheld,
)
from healer.ownership_guard import OwnershipGuard, foreign_stamps, is_foreign
from tests.unit.fakes import PROMPT, UNLIMITED, World
from tests.unit.strategies import DAG_ID, NO_SOURCE, RUN_ID, a_done_pod, a_pod, a_sibling, a_task, ended, known, naming

EVERYTHING = {"abandoned": "delete", "task-removed": "delete", "run-deleted": "delete", "purged": "delete"}
AT_ONCE: dict[str, Any] = {
    **PROMPT,
    "absentGrace": "0s",
    "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s", "purged": "0s"},
    "actions": EVERYTHING,
}
OVER = {"phase": "Succeeded", "containers": a_done_pod().containers}
GONE = NamedPods(frozenset({("airflow", "pod-of-the-healed-airflow")}))
NAMESAKE = known(ended(end_date=None), GONE)
"""This Airflow's task instance has ended, and it names another Pod for it than the one that is here."""


def enforcing(**changes: Any) -> World:
    return World(**{"policy": AT_ONCE, "limits": UNLIMITED, **changes})


def own(world: World, uid: str, answer: Known, **changes: Any) -> Pod:
    """Put a Pod there that Airflow names."""
    pod = world.pod(uid, answer, **changes)
    world.airflow.answers[uid] = replace(answer, identity=naming(pod))
    return pod


# --- what identity can tell apart -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="running"),
        pytest.param({"phase": "Pending"}, id="pending"),
        pytest.param(OVER, id="done: its Airflow has not read its result yet"),
        pytest.param({"checked": True}, id="marked by its own KPO, and it works"),
    ],
)
@pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed"])
def test_a_pod_of_the_same_try_that_airflow_does_not_name_is_kept(state: str, changes: dict[str, Any]) -> None:
    world = enforcing()
    world.pod("theirs", known(ended(state, end_date=None), GONE), **changes)
    world.live(3600)
    assert not world.deleted
    assert world.reason("theirs") == "other-pod"


# --- what it can't: there the claim must hold -------------------------------------------------------------------------

UNPROVEN: dict[str, tuple[Answer, dict[str, Any]]] = {
    "orphaned, an earlier try": (known(ended(try_number=2, end_date=None), NO_SOURCE), {}),
    "orphaned, no source": (known(ended(end_date=None), NO_SOURCE), {}),
    "orphaned, named without a namespace": (
        known(ended(end_date=None), NamedPods(frozenset({(None, "pod-theirs")}))),
        {},
    ),
    "finished, an earlier try": (known(ended(try_number=2, end_date=None)), OVER),
    "finished, no source": (known(ended(end_date=None), NO_SOURCE), OVER),
    "kept": (known(ended(end_date=None)), {**OVER, "checked": True}),
    "abandoned": (known(a_task("up_for_retry")), {"checked": True}),
    "task-removed": (known(a_task("removed")), {}),
    "run-deleted": (RunDeleted(0.0, DAG_ID, RUN_ID), {}),
    "purged": (RunDeleted(0.0, DAG_ID, RUN_ID), OVER),
    "purged, the DAG": (DagDeleted(0.0, DAG_ID), OVER),
}
"""Each reason that acts, where nothing says that the Pod is this Airflow's but the claim to the whole namespace."""


@pytest.mark.parametrize("name", UNPROVEN)
def test_with_the_claim_alone_it_is_deleted_and_with_a_namesake_in_the_namespace_it_is_not(name: str) -> None:
    answer, changes = UNPROVEN[name]
    alone, shared = enforcing(), enforcing()
    alone.pod("theirs", answer, **changes)
    alone.audit()
    assert alone.deleted == ["theirs"]
    shared.pod("theirs", answer, **changes)
    shared.pod("namesake", NAMESAKE)
    shared.audit()
    shared.live(3600)
    assert not shared.deleted
    view = shared.shown("theirs")
    assert (view.action, view.withheld, view.finding.reason) == (
        Action.DELETE,
        Withheld.OWNERSHIP,
        name.partition(",")[0],
    )
    assert shared.metric("withheld", why="ownership") == 1
    assert shared.metric("ownership_refuted") == 1


@pytest.mark.parametrize("changes", [{}, {"phase": "Pending"}, {"checked": True}], ids=["works", "pending", "given up"])
@pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed"])
def test_an_earlier_trys_pod_that_works_is_withheld_where_airflow_names_another(
    state: str, changes: dict[str, Any]
) -> None:
    """Stage has ended at try 2 and names its own Pod; prod's living one is of try 1, and nothing else betrays prod."""
    world = enforcing()
    world.pod("theirs", known(ended(state, try_number=2, end_date=None), GONE), **changes)
    world.live(3600)
    assert not world.deleted
    assert world.metric("ownership_refuted") == 0, "it may be a twin of our own: the others are healed"


def test_such_a_pod_is_healed_where_its_stamp_proves_it() -> None:
    world = enforcing()
    world.pod("ours", known(ended(try_number=2, end_date=None), GONE), owner_label=world.config.name)
    world.live(3600)
    assert world.deleted == ["ours"]


def test_a_superseded_twin_is_withheld_too() -> None:
    world = enforcing()
    sibling = a_sibling(created=world.clock.server - 5000)
    world.pod("old", known(a_task("running", 2), naming(sibling)))
    world.cluster.add(sibling)
    world.airflow.answers[sibling.uid] = known(a_task("running", 2))
    world.pod("namesake", NAMESAKE)
    world.audit()
    assert not world.deleted
    assert (world.reason("old"), world.shown("old").withheld) == ("superseded", Withheld.OWNERSHIP)


def test_what_airflow_names_itself_is_healed_all_the_same() -> None:
    world = enforcing()
    world.pod("namesake", NAMESAKE)
    own(world, "active", known(ended(end_date=None)))
    own(world, "done", known(ended(end_date=None)), **OVER)
    world.audit()
    assert sorted(world.deleted) == ["active", "done"]


def test_what_is_stamped_is_healed_all_the_same() -> None:
    world = enforcing()
    world.pod("namesake", NAMESAKE)
    world.pod("ours", known(ended(try_number=2, end_date=None), GONE), owner_label="default")
    world.audit()
    assert world.deleted == ["ours"]


def test_another_namespace_of_the_same_airflow_is_healed_all_the_same() -> None:
    world = enforcing(namespaces=["airflow", "second"])
    world.pod("namesake", NAMESAKE)
    world.pod("there", namespace="second")
    world.audit()
    assert world.deleted == ["there"]


def test_a_pod_that_is_stamped_for_another_airflow_refutes_the_claim() -> None:
    world = enforcing()
    world.pod("other", owner_label="stage")
    world.pod("theirs")
    world.audit()
    assert not world.deleted
    assert world.shown("theirs").withheld is Withheld.OWNERSHIP


def test_the_claim_stays_refuted_when_the_namesake_is_gone() -> None:
    world = enforcing()
    world.pod("namesake", NAMESAKE)
    world.audit()
    world.cluster.pods.pop("namesake")
    world.pod("theirs")
    world.live(7200)
    assert not world.deleted
    assert world.metric("ownership_refuted") == 1


def test_in_the_first_pass_a_namesake_that_is_judged_last_counts_for_those_before_it() -> None:
    world = enforcing(policy={**AT_ONCE, "sightings": 1})
    for number in range(30):
        world.pod(f"a{number:02}", age=100_000 - number)
    world.pod("zzz-namesake", NAMESAKE, age=9_000)
    world.reconciler.reconcile(world.cluster.selected(), PassKind.AUDIT, {})
    assert not world.deleted


def test_a_namesake_that_shows_in_the_confirmation_stops_its_own_slice() -> None:
    world = enforcing()
    world.pod("a", age=90_000)
    world.pod("namesake", known(ended(end_date=None), NO_SOURCE), age=80_000)
    world.airflow.at_ask = lambda _: world.airflow.answers.update(namesake=NAMESAKE)
    world.audit()
    assert not world.deleted
    assert world.shown("a").withheld is Withheld.OWNERSHIP


def test_a_first_look_and_report_mode_tell_it_too() -> None:
    scanned, reporting = enforcing(mode="report"), enforcing(mode="report")
    for world in (scanned, reporting):
        world.pod("namesake", NAMESAKE)
        world.pod("theirs")
    scanned.reconciler.scan_once(scanned.cluster.selected(), {})
    assert scanned.shown("theirs").withheld is Withheld.OWNERSHIP
    reporting.audit()
    assert reporting.shown("theirs").withheld is Withheld.OWNERSHIP


def test_it_is_logged_once() -> None:
    world = enforcing()
    world.pod("namesake", NAMESAKE)
    world.pod("other", owner_label="stage")
    with capture_logs() as told:
        world.audit()
        world.live(3600)
    said = [one for one in told if "ownership is refuted" in one["event"]]
    assert [(one["log_level"], one["namespace"]) for one in said] == [("warning", "airflow")]
    assert "pod-" in said[0]["why"]


# --- the guard itself -------------------------------------------------------------------------------------------------


def config(ownership: str | None = "exclusive") -> AirflowConfig:
    given: dict[str, Any] = {"name": "a", "namespaces": ["airflow"], "url": "http://h", "token": "t"}
    return AirflowConfig.model_validate(given | ({"ownership": ownership} if ownership else {}))


@pytest.mark.parametrize(
    ("foreign", "ownership", "pod"),
    [
        (True, "exclusive", a_pod(owner_label="b")),
        (True, None, a_pod(owner_label="b")),
        (True, "exclusive", a_pod(owner_label="")),
        (False, "stamped", a_pod(owner_label="b")),
        (False, "exclusive", a_pod(owner_label="a")),
        (False, "exclusive", a_pod()),
        (False, "exclusive", a_pod(owner_label="b", namespace="other")),
        (False, "exclusive", a_pod(owner_label="b", selected=False)),
    ],
)
def test_whose_stamp_speaks_against_a_claim(foreign: bool, ownership: str | None, pod: Pod) -> None:
    assert is_foreign(config(ownership), pod) is foreign
    assert foreign_stamps(config(ownership), [pod, pod]) == ([pod.owner_label] if foreign else [])
    guard = OwnershipGuard(config(ownership))
    guard.admits(pod)
    assert ("airflow" in guard.refuted) is foreign


def test_a_pod_that_the_selector_leaves_out_is_nobodys() -> None:
    assert not OwnershipGuard(config()).admits(a_pod(selected=False))
    assert not OwnershipGuard(config("stamped")).admits(a_pod(owner_label="a", selected=False))
    assert OwnershipGuard(config("stamped")).admits(a_pod(owner_label="a"))


def test_check_warns_of_it() -> None:
    world = enforcing()
    world.pod("ours")
    assert [line.status for line in check._count(world.cluster, "airflow", [world.config])] == [Status.OK]  # type: ignore[arg-type]
    world.pod("other", owner_label="stage")
    _, warning = check._count(world.cluster, "airflow", [world.config])  # type: ignore[arg-type]
    assert warning.status is Status.WARN
    assert "stamped for stage" in warning.detail
    assert "set ownership: stamped" in warning.detail


NAMESPACES = ("airflow", "second")
SEEN = st.lists(
    st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(list(Reason)), st.sampled_from((None, "a", "b"))), max_size=6
)


@settings(max_examples=300)
@given(SEEN, SEEN, st.sampled_from(NAMESPACES), st.sampled_from((None, "a")), st.booleans())
def test_who_has_seen_less_withholds_no_more_and_who_proves_more_is_withheld_no_more(
    seen: list[Any], more: list[Any], namespace: str, stamp: str | None, named: bool
) -> None:
    """Both ways: what is seen only adds to what is withheld; less proof of a Pod never frees it."""
    less_seen, more_seen = OwnershipGuard(config()), OwnershipGuard(config())
    for guard, all_seen in ((less_seen, seen), (more_seen, seen + more)):
        for where, reason, whose in all_seen:
            guard.admits(a_pod(namespace=where, owner_label=whose))
            guard.see(a_pod(namespace=where), Finding(reason, "seen"))
    pod, finding = a_pod(namespace=namespace, owner_label=stamp), Finding(Reason.ORPHANED, "x", named=named)
    assert less_seen.withholds(pod, finding) <= more_seen.withholds(pod, finding)
    unproven = replace(pod, owner_label=None), replace(finding, named=False)
    assert more_seen.withholds(pod, finding) <= more_seen.withholds(*unproven)
    assert len(more_seen.refuted) <= len(NAMESPACES)


@pytest.mark.parametrize("ownership", [each.value for each in Ownership])
def test_an_answer_that_knows_nothing_frees_nobody(ownership: str) -> None:
    """What was seen stays seen, however much Airflow tells later."""
    world = enforcing(ownership=ownership)
    stamp = "default" if ownership == "stamped" else None
    world.pod("namesake", NAMESAKE, owner_label=stamp)
    world.audit()
    world.airflow.answers["namesake"] = Unknown(0.0, "500")
    world.pod("theirs", owner_label=stamp, containers=(Container("base"),))
    world.live(3600)
    assert world.deleted == (["theirs"] if ownership == "stamped" else [])
