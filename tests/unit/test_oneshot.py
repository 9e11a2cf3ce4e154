"""`scan`, `explain` and `run --once`: the same reconciler, asked once or until nothing is due soon."""

from __future__ import annotations

from typing import Any

import pytest

from healer.cluster import Outcome, Refused, Result
from healer.config import Config
from healer.model import RunDeleted
from healer.reconcile import NoSuchPodError, Scan, explain, heal_once, oneshot, scan
from healer.report import Herald
from tests.unit.fakes import NOT_KNOWN, ORPHANED, RUNNING, Clock, FakeAirflow, FakeCluster, an_airflow
from tests.unit.strategies import DAG_ID, RUN_ID, a_pod


class House:
    """What a one-shot command finds: a cluster, an Airflow and a clock that waiting moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.cluster, self.airflow = FakeCluster(self.clock), FakeAirflow(self.clock)
        self.trouble: str | None = None
        self.waits: list[float] = []
        self.meanwhile: Any = lambda: None
        self.stopped: list[float] = []
        self.airflow.login = lambda: self.trouble  # type: ignore[attr-defined]
        monkeypatch.setattr(oneshot, "Airflow", lambda _config, **_: self.airflow)
        monkeypatch.setattr(Herald, "start", lambda _self: None)
        monkeypatch.setattr(Herald, "stop", lambda _self, timeout: self.stopped.append(timeout))

    def add(self, uid: str, answer: Any = ORPHANED, **changes: Any) -> None:
        pod = a_pod(**{"uid": uid, "name": f"pod-{uid}", "created": self.clock.server - 10_000, **changes})
        self.cluster.add(pod)
        self.airflow.answers[uid] = answer

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.forward(seconds)
        self.meanwhile()

    def heal(self, **changes: Any) -> Scan:
        return heal_once(a_config(**changes), self.cluster, wait=self.wait, clock=self.clock)  # type: ignore[arg-type]

    def scan(self, **changes: Any) -> Scan:
        return scan(a_config(**changes), self.cluster)  # type: ignore[arg-type]

    @property
    def deleted(self) -> list[str]:
        return [pod.uid for pod, _ in self.cluster.deletes]


def a_config(**changes: Any) -> Config:
    basics = {"limits": {"breaker": {"maxShare": 1}}, "policy": {"grace": "2m", "minAge": "0s"}}
    return Config(airflows=(an_airflow(**{**basics, **changes}),))


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


# --- run --once -------------------------------------------------------------------------------------------------------


def test_it_waits_for_the_grace_heals_and_ends(house: House) -> None:
    house.add("a")
    house.add("b", RUNNING)
    healed = house.heal()
    assert house.waits == [60.0, 60.0], "one more sighting in the middle of the grace, the proof at its end"
    assert [shown.pod.uid for shown in healed.deleted] == house.deleted == ["a"]
    assert [shown.pod.uid for shown in healed.findings] == ["b"]
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
    assert [shown.to_dict()["action"] for shown in healed.findings] == ["report"]
    assert healed.incomplete == ()


def test_with_nothing_to_do_it_ends_at_once(house: House) -> None:
    assert house.heal() == Scan((), (), ())
    assert house.waits == []


def test_report_mode_deletes_nothing_and_is_complete(house: House) -> None:
    house.add("a")
    healed = house.heal(mode="report")
    assert house.deleted == []
    assert healed.incomplete == ()
    assert [shown.withheld and shown.withheld.value for shown in healed.findings] == ["report-mode"]


def test_a_pod_that_came_meanwhile_is_asked_about_and_makes_nothing_incomplete(house: House) -> None:
    house.add("a")
    house.meanwhile = lambda: house.add("late", RUNNING)
    healed = house.heal()
    assert [shown.finding.reason.value for shown in healed.findings] == ["in-use"]
    assert healed.incomplete == ()


def test_what_could_not_be_deleted_makes_it_incomplete(house: House) -> None:
    house.add("a")
    house.cluster.results["a"] = [Outcome(Result.DENIED, "You may not.")]
    healed = house.heal()
    assert healed.deleted == ()
    assert healed.incomplete == ("1 Pods: due and not deleted: You may not.",)


def test_what_could_not_be_asked_makes_it_incomplete(house: House) -> None:
    house.add("a", NOT_KNOWN)
    assert "no clear answer: 500" in house.heal().incomplete[0]
    house.trouble = "it is down"
    assert house.heal().incomplete == ("Airflow default: it is down",)


def test_a_namespace_that_can_not_be_read_makes_it_incomplete(house: House) -> None:
    house.cluster.unreadable["airflow"] = Refused("No right.")
    assert house.heal().incomplete == ("namespace airflow: No right.",)


def test_it_waits_for_the_budget_as_long_as_its_time_allows(house: House) -> None:
    for number in range(200):
        house.add(f"p{number:03}")
    healed = house.heal(limits={"deletionsPerMinute": 60, "breaker": {"maxShare": 1}})
    assert 60 <= len(healed.deleted) < 200
    assert sum(house.waits) <= 122
    assert {shown.withheld and shown.withheld.value for shown in healed.findings} == {"rate"}
    assert healed.incomplete == ()


def test_the_herald_is_stopped_whatever_happens(house: House) -> None:
    house.add("a")
    house.airflow.look = lambda _pods: 1 / 0  # type: ignore[method-assign, return-value]
    with pytest.raises(ZeroDivisionError):
        house.heal()
    assert house.stopped == [5.0]


# --- scan -------------------------------------------------------------------------------------------------------------


def test_one_look_changes_nothing_and_says_when(house: House) -> None:
    house.add("a")
    seen = house.scan()
    assert house.cluster.deletes == []
    assert [name for name, _ in house.airflow.calls] == ["look"]
    (shown,) = seen.findings
    assert (shown.since, shown.withheld and shown.withheld.value) == (None, "not-due")
    assert shown.due is not None
    assert seen.incomplete == ()


def test_one_look_without_answers_is_incomplete(house: House) -> None:
    house.add("a", NOT_KNOWN)
    assert len(house.scan().incomplete) == 1


# --- explain ----------------------------------------------------------------------------------------------------------


def test_every_rule_is_told_up_to_the_one_that_matches(house: House) -> None:
    house.add("a")
    told = explain(a_config(), house.cluster, "airflow", "pod-a")  # type: ignore[arg-type]
    assert told.steps[-1].reason.value == told.shown.finding.reason.value == "orphaned"
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
    house.add("stamped", stamp="another")
    house.add("hidden")
    house.cluster.change("hidden", selected=False)
    with pytest.raises(NoSuchPodError, match=says):
        explain(a_config(), house.cluster, namespace, name)  # type: ignore[arg-type]
