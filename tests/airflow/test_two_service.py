"""The healer itself asks real servers of Airflow 2.11 and 2.10, whose login and rights change while it does."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from healer.airflow import Airflow as Healer
from healer.airflow import Call, NoteResult, Status
from healer.airflow.api import login2
from healer.airflow.notes import PREFIX
from healer.config import AirflowConfig
from healer.decision.rules import judge
from healer.errors import LoginRefusedError, NoAnswerError
from healer.model import Absent, DagDeleted, Known, Pod, Reason, RunDeleted, TaskInstance, Unknown
from tests.airflow.test_questions import (  # noqa: F401 - they are asked of other servers here
    only,
    pod,
    state,
    test_every_absence,
    test_every_kind_of_answer,
    test_what_has_ended_lately,
)
from tests.e2e.world import RUN as WORLDS_RUN
from tests.e2e.world import World
from tests.lab.airflow2 import READ, Airflow2
from tests.lab.airflow_env import AIRFLOW_2
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.door import Door
from tests.lab.kube import Cluster

RUN = "scheduled__2026-01-01T00:00:00+00:00"
SECRET = "PLANTED-KUBECONFIG-TOKEN"
DONE = {"phase": "Succeeded"}
_numbers = itertools.count()


@pytest.fixture(scope="module", params=list(AIRFLOW_2))
def lab(request: pytest.FixtureRequest, airflow2_of: Callable[[str], Airflow2]) -> Airflow2:
    running = airflow2_of(request.param)
    running.add_user("no-xcoms", READ[:3])
    return running


@pytest.fixture
def dag(request: pytest.FixtureRequest) -> str:
    """A DAG id of the test's own."""
    return f"s{next(_numbers)}_{request.node.name.partition('[')[0].removeprefix('test_')}"[:50]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(login2, "boottime", lambda: now[0])
    return now


def healer(url: str, user: str = "viewer", calls: list[Call] | None = None, **fields: Any) -> Healer:
    login = {} if {"token", "cookieFile"} & fields.keys() else {"username": user, "password": user}
    config = {"name": "lab", "namespaces": ["airflow"], "url": url, **login, **fields}
    return Healer(AirflowConfig.model_validate(config), observe=(calls if calls is not None else []).append)


def copy(dag_id: str, task: str = "t") -> Pod:
    """A Pod that has all labels of the task instance's and which Airflow does not name."""
    return pod(dag_id, task, name="copy")


# --- logins ---


def test_a_session_costs_one_login_and_check_passes(lab: Airflow2, dag: str) -> None:
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "failed", xcom="p")])])])
    calls: list[Call] = []
    airflow = healer(lab.url, calls=calls)
    for _ in range(3):
        airflow.start_audit()
        assert state(only(airflow.get_all([pod(dag, "t")]))) == "failed"
    assert [(call.call, call.code) for call in calls if call.call == "login"] == [("login", "200"), ("login", "302")]
    probe = airflow.probe()
    assert (probe.version, probe.good) == (lab.version, True), probe
    assert {check.status for check in probe.checks} == {Status.OK}, probe


def test_a_cookie_from_outside_and_basic_auth_where_there_is_no_form(
    lab: Airflow2,
    dag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "failed")])])])
    first = healer(lab.url)
    first.get_all([pod(dag, "t")])
    asker = next(iter(first._client._askers.values()))
    path = tmp_path / "cookie"
    path.write_text(asker.credentials.current().value)
    assert state(only(healer(lab.url, cookieFile=str(path)).get_all([pod(dag, "t")]))) == "failed"
    path.write_text("session=nobody")
    told = only(healer(lab.url, cookieFile=str(path)).get_all([pod(dag, "t")]))
    assert isinstance(told, Unknown)
    assert "put a new one into the file that cookieFile names" in told.why

    monkeypatch.setattr(login2, "LOGIN", "/no-such-page/")
    assert state(only(healer(lab.url).get_all([pod(dag, "t")]))) == "failed"
    told = only(healer(lab.url, password="wrong").get_all([pod(dag, "t")]))
    assert isinstance(told, Unknown)
    assert "refuses every question" in told.why


def test_a_wrong_password(lab: Airflow2) -> None:
    with pytest.raises(LoginRefusedError, match="does not accept the password of viewer"):
        healer(lab.url, password="wrong").login()


# --- a session that ends, at each request of a confirmation in turn ---


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("user", ["viewer", "no-xcoms"])
def test_a_session_that_ends_in_mid_run_never_hides_whose_pod_it_is(
    lab: Airflow2,
    dag: str,
    clock: list[float],
    at: int,
    user: str,
) -> None:
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "failed", xcom="another-pod")])])])
    one = copy(dag)
    with Door(lab.url) as door:
        airflow = healer(door.url, user)
        answer = only(airflow.get_all([one]))
        first = judge(one, answer).reason
        assert first is (Reason.OTHER_POD if user == "viewer" else Reason.ORPHANED), answer
        door.once("/api/v1/dags", lab.end_sessions, after=at)
        for soon in (True, False):
            clock[0] += 0 if soon else 61
            told = only(airflow.get_each([one]))
            found = judge(one, told).reason
            # Of what may not be read nothing is known; a viewer's Pod is never judged without its XCom.
            assert found in {first, Reason.AIRFLOW_UNKNOWN}, told
        assert found is first, told


# --- rights ---


def test_roles_for_single_dags(lab: Airflow2, dag: str) -> None:
    dags = [f"{dag}_{n}" for n in range(6)]
    long = f"{dag}_" + "x" * 80
    lab.seed([Dag(each, [Run(RUN, [Task("t", "failed", xcom="p")])]) for each in [*dags, long]])
    user = f"only-{next(_numbers)}"
    lab.add_user(user, [*(("can_read", f"DAG:{each}") for each in [*dags[:4], long]), *READ[1:]])
    pods = [pod(each, "t") for each in [*dags, long, f"{dag}_unknown"]]
    calls: list[Call] = []
    airflow = healer(lab.url, user, calls)
    for number in range(2):
        calls.clear()
        answers = airflow.get_all(pods)
        readable = [isinstance(answers[one.uid], Known) for one in pods]
        assert readable == [True] * 4 + [False, False, True, False]
        assert all(isinstance(answers[one.uid], Unknown) for one, read in zip(pods, readable, strict=True) if not read)
        lists = [call for call in calls if call.call == "list"]
        assert len(lists) <= (12 if number == 0 else 1), "halved once, and what is refused is in no list any more"
    assert len([call for call in calls if call.call == "login"]) == 0
    assert all(isinstance(answer, Known) for answer in airflow.get_each([*pods[:4], pods[6]]).values())


def test_unknown_dags_in_a_batch_cost_a_role_for_all_nothing(lab: Airflow2, dag: str) -> None:
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "failed")])])])
    there, gone = pod(dag, "t"), pod(f"{dag}_unknown", "t")
    answers = healer(lab.url).get_all([there, gone])
    assert (type(answers[there.uid]), type(answers[gone.uid])) == (Known, DagDeleted)


def test_a_copy_whose_xcom_may_not_be_read_is_judged_without_and_check_says_so(lab: Airflow2, dag: str) -> None:
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "failed", xcom="another-pod")])])])
    airflow = healer(lab.url, "no-xcoms")
    told = only(airflow.get_all([copy(dag)]))
    assert isinstance(told, Known)
    assert told.identity is not None
    assert told.identity.failed is None
    assert {check.name: check.status for check in airflow.probe().checks}["read XComs"] is Status.WARN


# --- rows ---


def test_mapped_removed_and_purged(lab: Airflow2, dag: str) -> None:
    tasks = [Task("m", "failed", map_index=0, count=3), Task("removed", "removed"), Task("t", "failed", xcom="p")]
    lab.seed([Dag(dag, [Run(RUN, tasks), Run("purged", [Task("t", "failed")])])])
    pods = {
        "mapped": pod(dag, "m", map_index=2),
        "no index": pod(dag, "m", map_index=9),
        "unmapped": pod(dag, "m"),
        "removed": pod(dag, "removed"),
        "purged": pod(dag, "t", "purged"),
    }
    airflow = healer(lab.url)
    airflow.get_all(list(pods.values()))
    lab.erase_run(dag, "purged")
    for ask in (airflow.get_all, airflow.get_each):
        answers = ask(list(pods.values()))
        found = {name: type(answers[one.uid]) for name, one in pods.items()}
        assert found == {
            "mapped": Known,
            "no index": Absent,
            "unmapped": Absent,
            "removed": Known,
            "purged": RunDeleted,
        }
    lab.erase(dag)
    assert isinstance(only(airflow.get_each([pods["removed"]])), DagDeleted)


def test_five_thousand_indices(lab: Airflow2, dag: str) -> None:
    lab.seed([Dag(dag, [Run("r", [Task("m", "success", map_index=0, count=5000), Task("t", "failed")])])])
    pods = [pod(dag, "m", "r", map_index=n, **DONE) for n in range(0, 5000, 100)] + [pod(dag, "t", "r")]
    calls: list[Call] = []
    airflow = healer(lab.url, calls=calls)
    assert {type(answer) for answer in airflow.get_all(pods).values()} == {Known}
    calls.clear()
    airflow.start_audit()
    assert {type(answer) for answer in airflow.get_all(pods).values()} == {Known}
    used = {name: sum(call.call == name for call in calls) for name in {call.call for call in calls}}
    assert (used["list"], used["task-instance"]) == (1, 50), used
    assert sum(call.rows for call in calls) <= 60, "no page of rows that nobody wants"
    calls.clear()
    assert airflow.list_recently_ended(pods) is not None
    lab.erase(dag)


def test_an_xcom_of_the_try_before_names_nobody(lab: Airflow2, dag: str) -> None:
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "running", xcom="pod-1")])])])
    airflow, one = healer(lab.url), pod(dag, "t", name="pod-1")

    def named() -> Any:
        lab_task = only(airflow.get_all([one]))
        assert isinstance(lab_task, Known)
        return airflow.get_current_pods([(one, lab_task.task)])[one.uid].named

    assert named() == {("airflow", "pod-1")}
    for event in ("retry", "schedule", "queue", "run"):
        lab.act(dag, RUN, "t", event)
    assert named() == frozenset(), "the runner has not yet removed it"
    lab.set_xcom(dag, RUN, "t", "pod_name", "pod-2")
    assert {name for _, name in named()} == {"pod-2"}


def test_notes(lab: Airflow2, dag: str) -> None:
    lab.seed(
        [Dag(dag, [Run(RUN, [Task("one", "failed", try_number=2), Task("many", "success", map_index=0, count=2)])])]
    )
    airflow = healer(lab.url, "user", notes=True)
    for task, index in (("one", -1), ("many", 1)):
        before = lab.task_instance(dag, RUN, task, index)
        for text in ("first", "second"):
            assert airflow.write_note(TaskInstance(dag, RUN, task, index), text) is NoteResult.WRITTEN
        after = lab.task_instance(dag, RUN, task, index)
        assert after["note"] == f"{PREFIX}first\n{PREFIX}second"
        assert {**after, "note": None} == {**before, "note": None}
    assert {check.name: check.status for check in airflow.probe().checks}["write notes"] is Status.OK
    viewer = healer(lab.url, notes=True)
    assert {check.name: check.status for check in viewer.probe().checks}["write notes"] is Status.WARN
    with pytest.raises(NoAnswerError, match="403"):
        viewer.write_note(TaskInstance(dag, RUN, "one", -1), "third")


# --- secrets ---


def test_the_clusters_credentials_in_a_trigger_are_told_nowhere(
    lab: Airflow2,
    dag: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    lab.seed([Dag(dag, [Run(RUN, [Task("t", "running", xcom="p")])])])
    lab.act(dag, RUN, "t", "defer")
    assert SECRET in str(lab.task_instance(dag, RUN, "t")), "Airflow itself tells it"
    airflow, one = healer(lab.url), pod(dag, "t")
    told = [airflow.get_all([one]), airflow.get_each([one]), airflow.list_recently_ended([one])]
    findings = [judge(one, answer) for answers in told for answer in answers.values()]
    out = capsys.readouterr()
    assert SECRET not in f"{told!r}{findings!r}{vars(airflow)!r}{caplog.text}{out.out}{out.err}"


def test_the_clusters_credentials_are_in_nothing_that_is_written_down(
    lab: Airflow2, cluster: Cluster, tmp_path: Path
) -> None:
    """A whole kpo-healer deletes the Pod of a task that has ended and one of a task that is deferred."""
    with World.open(cluster, lab, tmp_path) as world:
        stamp = {"kpo-healer.io/airflow": "demo"}
        orphan, first = world.pod("lost"), world.pod("twin", labels=stamp)
        world.wait_second(2)  # what takes another Pod's place is younger by the grace
        second = world.pod("twin", labels=stamp, try_number=2)
        world.seed(world.task("lost", "running", xcom=orphan), world.task("twin", "running", try_number=2, xcom=second))
        for task in ("lost", "twin"):
            lab.act(world.dag, WORLDS_RUN, task, "defer")
        lab.act(world.dag, WORLDS_RUN, "lost", "fail")
        for task in ("lost", "twin"):
            assert SECRET in str(lab.task_instance(world.dag, WORLDS_RUN, task)), "Airflow itself tells it"
        installation = world.installation()
        installation.config |= {"findings": True, "log": {"format": "json", "level": "debug"}}
        commands = [("scan", "--all", "-o", "json"), ("check",)]
        commands += [("explain", f"{world.namespace}/{name}", "-o", "json") for name in (orphan, first, second)]
        asked = [installation.ask(*words, expect=(0, 1, 2, 3)) for words in commands]
        with installation.run(mode="enforce") as running:
            world.wait(lambda: running.metric("pods", reason="in-use") >= 1, "a first pass")
            served = [httpx.get(f"{running.url}/{path}", trust_env=False).text for path in ("findings", "metrics")]
            world.wait_names({second})
            running.wait_passes(2)
            assert running.stop() == 0
        decisions = [line for line in running.lines() if line["message"] == "decision"]
        assert {(line["pod"].partition("/")[2], line["reason"]) for line in decisions} == {
            (orphan, "orphaned"),
            (first, "superseded"),
        }
        assert {line["proof"]["airflow_said"]["task"]["state"] for line in decisions} == {"failed", "deferred"}
        replay = [sys.executable, "-m", "healer", "explain", "--proof", str(running.log)]
        replayed = subprocess.run(replay, capture_output=True, text=True, check=True)
        written = [running.log.read_text(), *served, *world.events().values(), replayed.stdout, replayed.stderr]
        written += [text for told in asked for text in (told.out, told.err)]
        assert [text for text in written if "PLANTED" in text] == []


# --- what it costs ---


def test_what_a_pass_and_a_healed_orphan_cost(lab: Airflow2, dag: str) -> None:
    lab.seed([Dag(dag, [Run("r", [Task(f"t{n}", "running", xcom=f"pod-{n}") for n in range(50)])])])
    pods = [pod(dag, f"t{n}", "r", name=f"pod-{n}") for n in range(50)]
    calls: list[Call] = []
    airflow = healer(lab.url, calls=calls)

    def spent(what: str, ask: Callable[[], Any], *, rows: int, most: int) -> list[str]:
        """The calls; `rows` are read by lists, and at most so many bytes by all of them."""
        calls.clear()
        ask()
        read, size = sum(call.rows for call in calls), sum(call.bytes for call in calls)
        print(f"Airflow {lab.version}, {what}: {len(calls)} calls, {read} rows, {size} bytes")
        assert read == rows
        assert size <= most
        return sorted(call.call for call in calls)

    assert "list" in spent("the first look", lambda: airflow.get_all(pods), rows=50, most=150_000)
    assert spent("a quiet pass", lambda: airflow.list_recently_ended(pods), rows=0, most=200) == ["list"]
    airflow.start_audit()
    assert spent("an audit", lambda: airflow.get_all(pods), rows=50, most=100_000) == ["list", "version"]
    lab.act(dag, "r", "t7", "fail")
    identity = ["xcom", "xcom"]
    found = spent("an orphan is found", lambda: airflow.list_recently_ended(pods), rows=1, most=4_000)
    assert found == ["list", *identity]
    confirmed = spent("and confirmed", lambda: airflow.get_each([pods[7]]), rows=0, most=4_000)
    assert confirmed == ["task-instance"], "its own name stays true"
    assert judge(pods[7], only(airflow.get_each([pods[7]]))).reason is Reason.ORPHANED
