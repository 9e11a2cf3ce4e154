"""`delete`: one Pod, with the same proof as the controller's or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from healer.cli import oneshot
from healer.cli.delete import Deleted, Plan, PodDeletion
from healer.cli.kept import REMEDIES
from healer.cli.lease import Beside
from healer.config import Config
from healer.decision.limits import OVERRIDE
from healer.errors import AccessDeniedError, ClusterError, HealerError, KeptError, NoSuchPodError, NotDeletedError
from healer.model import (
    ACTING,
    UNREADABLE,
    Absent,
    Ambiguous,
    Answer,
    DeleteResult,
    DeleteStatus,
    Reason,
    RunDeleted,
    rfc3339_utc,
)
from healer.telemetry.events import EventRecorder
from tests.unit.cli.house import House as OneShotHouse
from tests.unit.cli.house import a_config
from tests.unit.fakes import NOT_KNOWN, ORPHANED, RUNNING, FakeAirflow, FakeCluster, an_airflow
from tests.unit.strategies import (
    DAG_ID,
    NO_SOURCE,
    RUN_ID,
    a_done_pod,
    a_pod,
    a_task,
    ended,
    known,
    naming,
)

NOBODY = Beside("nobody")
DAY = 86400.0
RETAINED = ("succeeded", "failed", "kept", "purged")


class House(OneShotHouse):
    """What the command finds; Pod `a` is what it is about."""

    AGE = 10 * DAY

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.plan: Plan | None = None
        self.thinks = 0.0
        self.airflow.login = lambda: None  # type: ignore[attr-defined]
        monkeypatch.setattr(oneshot, "Airflow", self._connect)
        monkeypatch.setattr(EventRecorder, "start", lambda _self: None)
        monkeypatch.setattr(EventRecorder, "stop", lambda _self, timeout: None)
        self.events: list[str] = []
        monkeypatch.setattr(
            EventRecorder, "_enqueue", lambda _self, pod, reason, _m, **_: self.events.append(f"{pod.uid} {reason}")
        )

    def _connect(self, config: Any, **_: Any) -> FakeAirflow:
        self.asked.append(config.name)
        return self.airflow

    def delete(
        self,
        uid: str = "a",
        *,
        patience: float | None = None,
        leadership: Beside = NOBODY,
        config: Config | None = None,
        **changes: Any,
    ) -> Deleted:
        deletion = PodDeletion(
            config or a_config(**changes),
            self.cluster,  # type: ignore[arg-type]
            leadership,
            "airflow",
            f"pod-{uid}",
            patience=patience,
            wait=self.wait,
            clock=self.clock,
        )
        self.plan = deletion.look()
        assert self.cluster.deletes == [], "nothing goes before somebody has approved it"
        self.clock.forward(self.thinks)
        self.meanwhile()
        return deletion.carry_out()

    def refused(self, kind: type[HealerError] = KeptError, **given: Any) -> str:
        """Return the sentence with which it is not deleted."""
        with pytest.raises(kind) as refused:
            self.delete(**given)
        assert type(refused.value) is kind
        return str(refused.value)


def acting_on(reason: Reason, action: str = "delete", **policy: Any) -> dict[str, Any]:
    """Return the changes for an Airflow that acts on a reason after two minutes, whatever the reason."""
    prompt = {"grace": "2m", "absentGrace": "2m", "minAge": "0s", "retention": dict.fromkeys(RETAINED, "0s")}
    return {"policy": {**prompt, "actions": {reason.value: action}, **policy}}


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


# --- each reason of the table -----------------------------------------------------------------------------------------

OVER = {"phase": "Succeeded", "containers": a_done_pod().containers}
NEXT = a_pod(uid="b", name="pod-b", try_number="2")

CASES: dict[Reason, tuple[Answer, dict[str, Any]]] = {
    Reason.NOT_SELECTED: (ORPHANED, {"selected": False}),
    Reason.TERMINATING: (ORPHANED, {"terminating": True}),
    Reason.PROTECTED: (ORPHANED, {"protected": True}),
    Reason.OWNED: (ORPHANED, {"owned": True}),
    Reason.LABELS_MISSING: (ORPHANED, {"dag_id": None}),
    Reason.PHASE_UNKNOWN: (ORPHANED, {"phase": "Unknown"}),
    Reason.AIRFLOW_UNKNOWN: (NOT_KNOWN, {}),
    Reason.PURGED: (RunDeleted(0.0, DAG_ID, RUN_ID), OVER),
    Reason.RUN_DELETED: (RunDeleted(0.0, DAG_ID, RUN_ID), {}),
    Reason.ABSENT: (Absent(0.0, "no such DAG"), {}),
    Reason.LABELS_AMBIGUOUS: (Ambiguous(0.0, "two fit"), {}),
    Reason.FOREIGN_OPERATOR: (known(ended(end_date=None, operator="KubernetesJobOperator"), NO_SOURCE), {}),
    Reason.ELSEWHERE: (known(ended(end_date=None, namespace="other"), NO_SOURCE), {}),
    Reason.UNEXPECTED_STATE: (known(a_task("up_for_reschedule")), {}),
    Reason.TRY_AHEAD: (RUNNING, {"try_number": "2"}),
    Reason.IN_USE: (RUNNING, {}),
    Reason.REATTACHED: (known(a_task("running", 2), naming(a_pod(name="pod-a"))), {}),
    Reason.KEPT: (known(ended(end_date=None)), {**OVER, "checked": True}),
    Reason.ABANDONED: (known(a_task("up_for_retry")), {"checked": True}),
    Reason.ADOPTABLE: (known(a_task("up_for_retry")), {}),
    Reason.SUPERSEDED: (known(a_task("running", 2), naming(NEXT)), {}),
    Reason.ADOPTION_UNKNOWN: (known(a_task("running", 2), NO_SOURCE), {}),
    Reason.TASK_REMOVED: (known(a_task("removed")), {}),
    Reason.OTHER_POD: (known(ended(end_date=None), naming(a_pod(name="another"))), {}),
    Reason.POSTDATES: (known(ended(end_date=10.0), NO_SOURCE), {}),
    Reason.ORPHANED: (ORPHANED, {}),
    Reason.FINISHED: (ORPHANED, OVER),
}


def test_each_reason_is_among_them() -> None:
    assert set(CASES) == set(Reason)
    assert set(REMEDIES) == set(Reason) - set(ACTING)


def put(house: House, reason: Reason) -> None:
    answer, changes = CASES[reason]
    house.add("a", answer, **changes)
    if reason is Reason.SUPERSEDED:
        house.add("b", RUNNING, try_number="2", created=house.clock.server - DAY)


@pytest.mark.parametrize("reason", ACTING)
def test_a_reason_that_acts_is_deleted(house: House, reason: Reason) -> None:
    put(house, reason)
    done = house.delete(**acting_on(reason))
    assert house.plan is not None
    assert house.plan.view.finding.reason is done.view.finding.reason is reason
    assert (house.deleted, done.by_us) == (["a"], True)
    assert sum(house.waits) == pytest.approx(120, abs=2), "the grace, as the controller waits"
    assert len(house.airflow.calls) > len(house.waits), "the look, each sighting, and the confirmation"


@pytest.mark.parametrize("reason", [each for each in Reason if each not in ACTING])
def test_a_reason_that_keeps_is_refused_with_its_rule_and_what_would_have_to_change(
    house: House, reason: Reason
) -> None:
    put(house, reason)
    kind = {Reason.AIRFLOW_UNKNOWN: NotDeletedError, Reason.NOT_SELECTED: NoSuchPodError}.get(reason, KeptError)
    said = house.refused(kind)
    if reason is Reason.NOT_SELECTED:
        assert "does not carry the labels of KubernetesPodOperator" in said
    else:
        assert said.startswith("airflow/pod-a is not deleted: ")
        assert said.endswith(REMEDIES[reason])
        assert f"it is kept as {reason}: " in said or reason is Reason.AIRFLOW_UNKNOWN
    assert house.deleted == []


@pytest.mark.parametrize("action", ["report", "keep"])
@pytest.mark.parametrize("reason", ACTING)
def test_what_the_policy_only_reports_or_keeps_is_refused(house: House, reason: Reason, action: str) -> None:
    put(house, reason)
    said = house.refused(**acting_on(reason, action))
    assert f"the policy says {action}: set policy.actions.{reason}: delete for Airflow default" in said
    assert house.deleted == []


# --- this Pod and no other --------------------------------------------------------------------------------------------


def test_no_other_pod_is_touched_though_it_is_due(house: House) -> None:
    for uid in "abc":
        house.add(uid)
    house.thinks = 600.0
    house.delete()
    assert house.deleted == ["a"]
    assert house.events == ["a OrphanDeleted"]


def test_what_was_approved_is_this_case_and_no_other(house: House) -> None:
    """A later try ends likewise: it would be deleted in its own time, and nobody has seen it."""
    house.add("a")
    house.meanwhile = lambda: house.airflow.answers.update(a=known(ended("failed", 2, end_date=None), NO_SOURCE))
    said = house.refused(**acting_on(Reason.ORPHANED, sightings=1, grace="0s"))
    assert "it is another case now: orphaned" in said
    assert house.deleted == []


@pytest.mark.parametrize("same", [True, False])
def test_of_two_airflows_only_its_own_is_asked(house: House, same: bool) -> None:
    spaces = ["airflow"] if same else ["other"]
    one = an_airflow(name="one", ownership="stamped", policy={"minAge": "0s"}, limits={"breaker": {"maxShare": 1}})
    two = an_airflow(name="two", ownership="stamped", namespaces=spaces)
    house.add("a", owner_label="one")
    house.delete(config=Config(airflows=(two, one)))
    assert house.asked == ["one"]
    assert set(house.cluster.lists) == {"airflow"}
    assert house.deleted == ["a"]


@pytest.mark.parametrize(
    ("namespaces", "stamp", "says"),
    [
        (["elsewhere"], None, "belongs to no Airflow of the configuration"),
        (["airflow"], "another", "stamped for none of default"),
    ],
)
def test_a_pod_that_is_nobodys_is_left_alone(house: House, namespaces: list[str], stamp: str, says: str) -> None:
    house.add("a", owner_label=stamp)
    assert says in house.refused(NoSuchPodError, namespaces=namespaces)
    assert house.deleted == house.asked == []


def test_a_pod_that_does_not_exist(house: House) -> None:
    assert "there is no Pod airflow/pod-a" in house.refused(NoSuchPodError)


# --- when -------------------------------------------------------------------------------------------------------------


def test_in_report_mode_nothing_is_deleted_and_nobody_asked(house: House) -> None:
    house.add("a")
    assert "Airflow default is in report mode, in which nothing is" in house.refused(mode="report")
    assert house.asked == house.deleted == []


def test_retention_is_told_and_not_skipped(house: House) -> None:
    house.add("a", **OVER, created=house.clock.server - 3600)
    changes = acting_on(Reason.FINISHED, retention={"succeeded": "24h"})
    said = house.refused(**changes)
    assert "it is finished and not due yet: it will be in 23h59m" in said or "in 24h00m" in said
    assert said.endswith("ask again then, or wait for it with --wait 1440m")
    assert house.deleted == []
    house.delete(patience=1440 * 60.0, **changes)
    assert house.deleted == ["a"]


@pytest.mark.parametrize("wish", [3 * DAY, UNREADABLE])
def test_that_its_own_annotation_keeps_it_is_told(house: House, wish: float) -> None:
    house.add("a", **OVER, created=house.clock.server - 3600, retention=wish)
    changes = acting_on(Reason.FINISHED)
    said = house.refused(**changes)
    assert said.endswith("its annotation kpo-healer.io/retention says so: take that off it, if whoever set it agrees")
    house.cluster.change("a", retention=60.0)
    assert "annotation" not in house.refused(**acting_on(Reason.FINISHED, retention={"succeeded": "24h"}))
    assert house.deleted == []


def test_a_patience_that_begins_with_each_call_can_be_waited_for(house: House) -> None:
    house.add("a", RunDeleted(0.0, DAG_ID, RUN_ID))
    changes = acting_on(Reason.RUN_DELETED, absentGrace="30m")
    assert house.refused(**changes).endswith(
        "policy.absentGrace begins with each call anew: wait for it with --wait 30m"
    )
    assert house.deleted == []
    house.delete(patience=1800.0, **changes)
    assert house.deleted == ["a"]
    assert sum(house.waits) == pytest.approx(1800, abs=2)


def test_a_young_pod_is_not_due(house: House) -> None:
    house.add("a", created=house.clock.server - 60)
    assert "ask again then" in house.refused(policy={"minAge": "1h"})
    assert house.deleted == []


def test_a_pod_whose_age_is_not_known_is_never_due(house: House) -> None:
    house.add("a", created=None)
    assert "can't be told, as its age is not known" in house.refused(patience=1e9)
    assert house.deleted == []


def test_who_thinks_for_long_does_not_wait_once_more(house: House) -> None:
    house.add("a")
    house.thinks = 900.0
    house.delete()
    assert house.waits == [0.0]
    assert house.airflow.asked("ask_each") == [["a"], ["a"]], "one more sighting, and the confirmation"
    assert house.deleted == ["a"]


@pytest.mark.parametrize("patience", [None, 600.0])
def test_with_no_patience_at_all_it_is_still_confirmed(house: House, patience: float | None) -> None:
    house.add("a")
    house.delete(patience=patience, **acting_on(Reason.ORPHANED, grace="0s", sightings=1))
    assert house.airflow.asked("ask_each") == [["a"]]
    assert house.deleted == ["a"]


# --- what changes in between ------------------------------------------------------------------------------------------


def test_a_mark_in_between_keeps_it(house: House) -> None:
    house.add("a")
    house.meanwhile = lambda: house.cluster.change("a", protected=True)
    assert "it is kept as protected" in house.refused()
    assert house.deleted == []


def test_a_task_that_runs_again_keeps_it(house: House) -> None:
    house.add("a")
    house.meanwhile = lambda: house.airflow.answers.update(a=RUNNING)
    assert "it is kept as in-use" in house.refused()
    assert house.deleted == []


def test_a_task_that_runs_again_just_before_the_delete_keeps_it(house: House) -> None:
    house.add("a")
    asked: list[int] = []

    def at_ask(_pods: object) -> None:
        asked.append(1)
        if len(asked) == 2:
            house.airflow.answers["a"] = RUNNING

    house.airflow.at_ask = at_ask
    assert "it is kept as in-use" in house.refused()
    assert house.deleted == []


def test_a_pod_that_changed_since_it_was_judged_is_read_and_judged_again(house: House) -> None:
    house.add("a")
    house.cluster.at_delete = lambda _pod: house.cluster.deletes or house.cluster.change("a")
    assert house.delete().by_us
    assert house.deleted == ["a", "a"], "the first one met a 409"


def test_a_pod_that_is_protected_just_before_the_delete_is_kept(house: House) -> None:
    house.add("a")
    house.cluster.at_delete = lambda _pod: house.cluster.change("a", protected=True)
    assert "it is kept as protected" in house.refused()
    assert "a" in house.cluster.pods


def test_a_pod_that_keeps_changing_is_told(house: House) -> None:
    house.add("a")
    house.cluster.at_delete = lambda _pod: house.cluster.change("a")
    assert house.refused(NotDeletedError) == "changed"
    assert "a" in house.cluster.pods


@pytest.mark.parametrize("when", ["meanwhile", "at the delete"])
def test_a_pod_that_is_gone_meanwhile(house: House, when: str) -> None:
    house.add("a")
    if when == "meanwhile":
        house.meanwhile = lambda: house.cluster.pods.pop("a", None)
    else:
        house.cluster.at_delete = lambda _pod: house.cluster.pods.pop("a", None) and None
    done = house.delete()
    assert (done.by_us, done.said) == (False, "airflow/pod-a is gone already, and not by this command")


def test_another_pod_of_the_same_name_is_not_the_one(house: House) -> None:
    house.add("a")

    def replaced() -> None:
        house.cluster.pods.pop("a", None)
        house.add("z", name="pod-a")

    house.meanwhile = replaced
    assert not house.delete().by_us
    assert house.deleted == []


# --- what withholds it ------------------------------------------------------------------------------------------------


def test_an_open_breaker_keeps_it_until_somebody_lifts_it(house: House) -> None:
    for uid in "abcdefgh":
        house.add(uid)
    limits = {"limits": {"breaker": {"maxShare": 0.5, "minCount": 5}}}
    said = house.refused(**limits)
    assert "the breaker of Airflow default is open. 8 of 8 active Pods" in said
    assert "kpo-healer release --airflow default lifts it" in said
    assert house.deleted == []
    until = rfc3339_utc(datetime.fromtimestamp(house.clock.server, UTC) + timedelta(hours=1))
    house.delete(leadership=Beside("another", {f"{OVERRIDE}default": until}), **limits)
    assert house.deleted == ["a"]


def test_a_breaker_that_opens_meanwhile_keeps_it(house: House) -> None:
    house.add("a")
    for uid in "uvwxyz":
        house.add(uid, RUNNING)
    house.meanwhile = lambda: [house.airflow.answers.update({uid: ORPHANED}) for uid in "uvwxyz"] and None
    assert "the breaker of Airflow default is open" in house.refused(limits={"breaker": {"maxShare": 0.5}})
    assert house.deleted == []


@pytest.mark.parametrize("theirs", [["theirs"], ["*s"]], ids=["theirs by name", "contested"])
def test_another_airflows_pods_do_not_lend_the_breaker_their_numbers(
    house: House, monkeypatch: pytest.MonkeyPatch, theirs: list[str]
) -> None:
    """A namespace that a pattern stands for too is the other Airflow's, or nobody's, as it is for the controller."""
    monkeypatch.setattr(FakeCluster, "all_namespaces", lambda _self: frozenset({"airflow", "theirs"}), raising=False)
    for uid in "abcdef":
        house.add(uid)
    for n in range(20):
        house.add(f"t{n}", RUNNING, namespace="theirs")
    mine = an_airflow(
        name="one", namespaces=["airflow", "t*"], policy={"minAge": "0s"}, limits={"breaker": {"maxShare": 0.5}}
    )
    config = Config(airflows=(mine, an_airflow(name="two", namespaces=theirs)))
    assert "6 of 6 active Pods" in house.refused(config=config)
    assert set(house.cluster.lists) == {"airflow"}
    assert house.deleted == []


def test_a_refuted_claim_keeps_what_nothing_proves_to_be_ours(house: House) -> None:
    house.add("a")
    house.add("b", known(ended(end_date=None), naming(a_pod(name="another"))))
    said = house.refused()
    assert "nothing proves that it is Airflow default's" in said
    assert "set ownership: stamped" in said
    assert house.deleted == []


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result", [DeleteResult(DeleteStatus.DENIED, "You may not."), DeleteResult(DeleteStatus.ERROR, "Who knows.")]
)
def test_what_the_api_server_says_is_told(house: House, result: DeleteResult) -> None:
    house.add("a")
    house.cluster.results["a"] = [result]
    assert house.refused(NotDeletedError) == result.message
    assert house.deleted == ["a"], "sent once"


def test_an_airflow_that_is_down_at_first(house: House) -> None:
    house.add("a")
    house.airflow.down = True
    assert "Airflow is down" in house.refused(NotDeletedError)


def test_an_airflow_that_goes_down_meanwhile(house: House) -> None:
    house.add("a")
    house.meanwhile = lambda: setattr(house.airflow, "down", True)
    assert "Airflow is down" in house.refused(NotDeletedError)
    assert house.deleted == []


def test_an_airflow_that_is_too_slow_to_be_believed(house: House) -> None:
    house.add("a")
    house.airflow.slow = 20.0
    assert house.refused(NotDeletedError) == "nothing was sent"
    assert house.deleted == []


def test_a_namespace_that_can_not_be_listed(house: House) -> None:
    house.add("a")
    house.meanwhile = lambda: house.cluster.unreadable.update(airflow=AccessDeniedError("No right."))
    assert house.refused(NotDeletedError) == "airflow/pod-a is not deleted: namespace airflow: No right."
    with pytest.raises(ClusterError, match="No right"):
        house.delete()
    assert house.deleted == []


# --- what is written down ---------------------------------------------------------------------------------------------


def test_the_record_says_who_asked(house: House) -> None:
    house.add("a")
    with capture_logs() as lines:
        house.delete()
    told = {line["event"]: line for line in lines if line["event"] in {"decision", "delete"}}
    assert {line["by"] for line in told.values()} == {"command"}
    assert told["decision"]["proof"].by == "command"
    assert told["decision"]["act"] == "delete"
    assert told["delete"]["result"] == "deleted"


def test_the_plan_tells_what_it_is_about(house: House) -> None:
    house.add("a", cpu_cores=2.0, memory_bytes=4.0 * 2**30, extended=(("nvidia.com/gpu", 1.0),))
    house.delete(leadership=Beside("healer-7d9"))
    assert house.plan is not None
    said = "\n".join(house.plan.lines())
    for part in ("Pod airflow/pod-a", f"{DAG_ID} {RUN_ID}", "orphaned: task instance is"):
        assert part in said
    assert "holds     2cpu 4Gi 1gpu" in said
    assert "leader    healer-7d9" in said
    assert house.plan.question.startswith("Delete it? It is looked at again, and deleted in 2m if")


def test_the_breaker_counts_no_pod_of_a_namespace_that_another_airflow_has_by_its_name(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern fits it too, and does not win: what works there says nothing about this Airflow."""
    monkeypatch.setattr(FakeCluster, "all_namespaces", lambda _self: frozenset({"airflow", "airfoil"}), raising=False)
    for uid in "abcdefgh":
        house.add(uid)
    for number in range(20):
        house.add(f"other{number}", RUNNING, namespace="airfoil")
    one = an_airflow(namespaces=["air*"], policy={"minAge": "0s"}, limits={"breaker": {"maxShare": 0.5}})
    two = an_airflow(name="two", namespaces=["airfoil"])
    said = house.refused(config=Config(airflows=(one, two)))
    assert "the breaker of Airflow default is open. 8 of 8 active Pods" in said
    assert set(house.cluster.lists) == {"airflow"}
    assert house.deleted == []


def test_what_could_not_be_seen_of_its_airflow_is_told_before_somebody_approves(house: House) -> None:
    """Breaker and ownership are told without it, as the account of who is on call may see less than the healer's."""
    house.add("a")
    house.cluster.unreadable["other"] = AccessDeniedError("You may not list Pods there.", status=403)
    house.delete(namespaces=["airflow", "other"])
    assert house.plan is not None
    (told,) = [line for line in house.plan.lines() if line.startswith("  unseen ")]
    assert "namespace other, so that breaker and ownership are told without the Pods there: You may not list" in told


def test_where_all_was_seen_nothing_is_said_of_it(house: House) -> None:
    house.add("a")
    house.delete()
    assert house.plan is not None
    assert not [line for line in house.plan.lines() if line.startswith("  unseen ")]
