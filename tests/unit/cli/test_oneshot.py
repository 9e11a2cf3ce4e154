"""`scan`, `explain` and `run --once`: the same reconciler, asked once or until nothing is due soon."""

from __future__ import annotations

from typing import Any

import pytest

from healer.cli import oneshot
from healer.cli.oneshot import ScanResult, explain, scan
from healer.cli.run_once import heal_once, shortcomings
from healer.decision.quarantine import ABSENT as WAITS_FOR_ABSENT_GRACE
from healer.errors import AccessDeniedError, NoSuchPodError
from healer.model import DeleteResult, DeleteStatus, Reason, RunDeleted
from healer.telemetry.events import EventRecorder
from tests.unit.cli.house import House as OneShotHouse
from tests.unit.cli.house import a_config
from tests.unit.fakes import NOT_KNOWN, RUNNING
from tests.unit.strategies import DAG_ID, NO_SOURCE, RUN_ID, a_done_pod, a_task, ended, known


class House(OneShotHouse):
    """What `scan` and `run --once` find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.trouble: str | None = None
        self.stopped: list[float] = []
        self.airflow.login = lambda: self.trouble  # type: ignore[attr-defined]
        monkeypatch.setattr(oneshot, "Airflow", lambda _config, **_: self.airflow)
        monkeypatch.setattr(EventRecorder, "start", lambda _self: None)
        monkeypatch.setattr(EventRecorder, "stop", lambda _self, timeout: self.stopped.append(timeout))

    def heal(self, **changes: Any) -> ScanResult:
        return heal_once(a_config(**changes), self.cluster, wait=self.wait, clock=self.clock)  # type: ignore[arg-type]

    def scan(self, **changes: Any) -> ScanResult:
        return scan(a_config(**changes), self.cluster)  # type: ignore[arg-type]


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


# --- run --once -------------------------------------------------------------------------------------------------------


def test_it_waits_for_the_grace_heals_and_ends(house: House) -> None:
    house.add("a")
    house.add("b", RUNNING)
    healed = house.heal()
    assert house.waits == [60.0, 60.0], "one more sighting in the middle of the grace, the proof at its end"
    assert [view.pod.uid for view in healed.deleted] == house.deleted == ["a"]
    assert [view.pod.uid for view in healed.findings] == ["b"]
    assert healed.incomplete == ()
    assert house.stopped == [5.0]


def test_a_slow_first_look_takes_nothing_off_the_patience(house: House) -> None:
    house.add("a")
    house.airflow.slow = 200.0
    house.airflow.at_ask = lambda _pods: setattr(house.airflow, "slow", 0.0)
    house.heal()
    assert house.deleted == ["a"]


def test_what_is_due_later_is_listed_and_not_waited_for(house: House) -> None:
    house.add("a", RunDeleted(0.0, DAG_ID, RUN_ID))
    healed = house.heal()
    assert house.waits == []
    assert [view.to_dict()["action"] for view in healed.findings] == ["report"]
    assert healed.incomplete == ()


def test_with_nothing_to_do_it_ends_at_once(house: House) -> None:
    assert house.heal() == ScanResult((), (), ())
    assert house.waits == []


def test_report_mode_deletes_nothing_and_is_complete(house: House) -> None:
    house.add("a")
    healed = house.heal(mode="report")
    assert house.deleted == []
    assert healed.incomplete == ()
    assert [view.withheld and view.withheld.value for view in healed.findings] == ["report-mode"]


def test_a_pod_that_came_meanwhile_is_asked_about_and_makes_nothing_incomplete(house: House) -> None:
    house.add("a")
    house.meanwhile = lambda: house.add("late", RUNNING)
    healed = house.heal()
    assert [view.finding.reason.value for view in healed.findings] == ["in-use"]
    assert healed.incomplete == ()


def test_what_could_not_be_deleted_makes_it_incomplete(house: House) -> None:
    house.add("a")
    house.cluster.results["a"] = [DeleteResult(DeleteStatus.DENIED, "You may not.")]
    healed = house.heal()
    assert healed.deleted == ()
    assert healed.incomplete == ("1 Pods: due and not deleted: You may not.",)


def test_what_could_not_be_asked_makes_it_incomplete(house: House) -> None:
    house.add("a", NOT_KNOWN)
    assert "no clear answer: 500" in house.heal().incomplete[0]
    house.trouble = "it is down"
    assert house.heal().incomplete == ("Airflow default: it is down",)


def test_a_namespace_that_can_not_be_read_makes_it_incomplete(house: House) -> None:
    house.cluster.unreadable["airflow"] = AccessDeniedError("No right.")
    assert house.heal().incomplete == ("namespace airflow: No right.",)


def test_it_waits_for_the_budget_as_long_as_its_time_allows(house: House) -> None:
    for number in range(200):
        house.add(f"p{number:03}")
    healed = house.heal(limits={"deletionsPerMinute": 60, "breaker": {"maxShare": 1}})
    assert 60 <= len(healed.deleted) < 200
    assert sum(house.waits) <= 122
    assert {view.withheld and view.withheld.value for view in healed.findings} == {"rate"}
    assert healed.incomplete == ()


def test_the_herald_is_stopped_whatever_happens(house: House) -> None:
    house.add("a")
    house.airflow.get_all = lambda _pods: 1 / 0  # type: ignore[method-assign, return-value]
    with pytest.raises(ZeroDivisionError):
        house.heal()
    assert house.stopped == [5.0]


# --- scan -------------------------------------------------------------------------------------------------------------


def test_one_look_changes_nothing_and_says_when(house: House) -> None:
    house.add("a")
    seen = house.scan()
    assert house.cluster.deletes == []
    assert [name for name, _ in house.airflow.calls] == ["look"]
    (view,) = seen.findings
    assert (view.since, view.withheld and view.withheld.value) == (None, "not-due")
    assert view.due is not None
    assert seen.incomplete == ()


def test_one_look_without_answers_is_incomplete(house: House) -> None:
    house.add("a", NOT_KNOWN)
    assert len(house.scan().incomplete) == 1


# --- explain ----------------------------------------------------------------------------------------------------------


def test_every_rule_is_told_up_to_the_one_that_matches(house: House) -> None:
    house.add("a")
    told = explain(a_config(), house.cluster, "airflow", "pod-a")  # type: ignore[arg-type]
    assert told.steps[-1].reason.value == told.view.finding.reason.value == "orphaned"
    assert [step.matched for step in told.steps] == [False] * (len(told.steps) - 1) + [True]


@pytest.mark.parametrize(
    ("namespace", "name", "says"),
    [
        ("nowhere", "pod-a", "belongs to no Airflow"),
        ("airflow", "pod-z", "there is no Pod airflow/pod-z"),
        ("airflow", "pod-stamped", "stamped for none of default"),
        ("airflow", "pod-hidden", "does not carry the labels"),
    ],
)
def test_a_pod_that_is_none_of_ours_is_not_explained(house: House, namespace: str, name: str, says: str) -> None:
    house.add("a")
    house.add("stamped", owner_label="another")
    house.add("hidden")
    house.cluster.change("hidden", selected=False)
    with pytest.raises(NoSuchPodError, match=says):
        explain(a_config(), house.cluster, namespace, name)  # type: ignore[arg-type]


# --- what it can't do is said ---------------------------------------------------------------------------------------

ABSENT = {"run-deleted": "delete"}


def test_a_patience_that_no_run_reaches_is_said_before_and_by_its_end(house: House) -> None:
    policy = {"actions": ABSENT}
    config = a_config(policy=policy)
    assert any("policy.absentGrace is longer than run --once waits (122 s)" in text for text in shortcomings(config))
    house.add("a", RunDeleted(0.0, DAG_ID, RUN_ID))
    healed = house.heal(policy=policy)
    assert house.deleted == []
    assert any("run-deleted Pods are never deleted" in why for why in healed.incomplete)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"actions": ABSENT, "absentGrace": "2m"}},
        {"policy": {"actions": {"run-deleted": "report"}}},
        {"policy": {}},
    ],
)
def test_a_policy_that_it_can_carry_out_is_complete(house: House, changes: dict[str, Any]) -> None:
    config = a_config(
        limits={"breaker": {"coolDown": "0s"}}, **{**changes, "policy": {"grace": "2m", **changes["policy"]}}
    )
    assert shortcomings(config) == []
    house.add("a", RunDeleted(0.0, DAG_ID, RUN_ID))
    assert house.heal(**changes).incomplete == ()


@pytest.mark.parametrize("reason", sorted(WAITS_FOR_ABSENT_GRACE))
def test_each_reason_that_waits_for_absent_grace_is_said(house: House, reason: Reason) -> None:
    """Whatever reason the quarantine lets wait so long: no run would ever delete it, in silence."""
    policy = {"actions": {reason.value: "delete"}}
    assert any(f"so that {reason.value} Pods" in text for text in shortcomings(a_config(policy=policy)))
    house.add("a", RunDeleted(0.0, DAG_ID, RUN_ID))
    assert any(f"{reason.value} Pods are never deleted" in why for why in house.heal(policy=policy).incomplete)
    assert house.deleted == []


OVER = {"phase": "Succeeded", "containers": a_done_pod().containers}
FOUND: dict[str, tuple[Any, dict[str, Any]]] = {
    "orphaned": (known(ended(end_date=None), NO_SOURCE), {}),
    "finished": (known(ended(end_date=None), NO_SOURCE), OVER),
    "kept": (known(ended(end_date=None)), {**OVER, "checked": True}),
    "abandoned": (known(a_task("up_for_retry")), {"checked": True}),
    "task-removed": (known(a_task("removed")), {}),
    "run-deleted": (RunDeleted(0.0, DAG_ID, RUN_ID), {}),
    "purged": (RunDeleted(0.0, DAG_ID, RUN_ID), OVER),
}
"""A Pod of each reason that a policy can delete for, but for `superseded`, which takes two."""


@pytest.mark.parametrize("hours", [0, 24 * 8])
@pytest.mark.parametrize("grace", ["0s", "2m", "2h"])
@pytest.mark.parametrize("absent_grace", ["0s", "2m", "3h"])
@pytest.mark.parametrize("reason", FOUND)
def test_no_pair_of_settings_is_left_undone_in_silence(
    house: House, reason: str, absent_grace: str, grace: str, hours: int
) -> None:
    """A Pod that the policy deletes is deleted, or said to be left for a later run, which then can."""
    answer, changes = FOUND[reason]
    policy = {"grace": grace, "absentGrace": absent_grace, "minAge": "0s", "actions": {reason: "delete"}}
    house.add("a", answer, **changes, created=house.clock.server - 3600 * hours - 1)
    healed = house.heal(policy=policy)
    never = any(f"{reason} Pods are never deleted" in why for why in healed.incomplete)
    later = [view.finding.reason.value for view in healed.findings if view.due and view.due > house.clock.server]
    retained = reason in {"finished", "kept", "purged"} and later == [reason]
    assert house.deleted == ["a"] or never or retained
    if house.deleted:
        assert not healed.incomplete


def test_each_reason_that_can_be_deleted_is_among_them() -> None:
    acting = {reason.value for reason, action in a_config().airflows[0].policy.actions.items() if action}
    assert acting - {"superseded"} == set(FOUND)


def test_report_mode_promises_no_deletion(house: House) -> None:
    assert house.heal(mode="report", policy={"actions": ABSENT}).incomplete == ()


def test_a_breaker_that_stays_open_makes_it_incomplete(house: House) -> None:
    for number in range(10):
        house.add(f"p{number}")
    limits: Any = {"breaker": {"maxShare": 0.5}}
    assert any("limits.breaker.coolDown is longer" in text for text in shortcomings(a_config(limits=limits)))
    healed = house.heal(limits=limits)
    assert house.deleted == []
    assert any("its breaker is open and 10 Pods are not deleted" in why for why in healed.incomplete)


def test_a_namespace_that_does_not_exist_makes_it_incomplete(house: House) -> None:
    house.cluster.vacant["airflow"] = "there is no such namespace"
    assert house.heal().incomplete == ("namespace airflow: there is no such namespace: check its name",)
