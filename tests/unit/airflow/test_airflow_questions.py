"""What one may conclude from answers that are partial, twisted, clamped or refused; and how much is asked for it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from msgspec import UNSET

from healer.airflow import Call
from healer.airflow.service import FEWEST_LISTED
from healer.decision.labels import safe_label
from healer.decision.rules import judge
from healer.model import (
    Absent,
    Ambiguous,
    Answer,
    DagDeleted,
    Known,
    Labels,
    Pod,
    Reason,
    RunDeleted,
    TaskInstance,
    Unknown,
)
from tests.unit.airflow_fake import (
    API,
    RUN,
    Asked,
    FakeAirflow,
    Reply,
    error,
    healer,
    kinds,
    missing,
    pod,
    row,
    serving,
)

TWIN = safe_label(RUN)
"""A run whose id is the label of another run."""


AIRFLOW_3 = pytest.mark.parametrize("fake", ["3.3.2"], indirect=True)
"""What Airflow 2 has not: task instance ids, a state store, filters by map index and by the beginning of a run's id."""


@pytest.fixture(params=["3.3.2", "2.11.2"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeAirflow]:
    with serving(version=request.param) as server:
        yield server


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def why(answer: Answer) -> str:
    assert isinstance(answer, Unknown | Absent | Ambiguous)
    return answer.why


def state(answer: Answer) -> Any:
    assert isinstance(answer, Known)
    return answer.task.state


def page(*rows: Any, total: int | None = None) -> Reply:
    return Reply(body={"task_instances": list(rows), "total_entries": len(rows) if total is None else total})


def always(reply: Reply, part: str) -> Any:
    """Answer requests whose path holds this part with the same thing."""
    return lambda asked: reply if part in asked.path else None


def poisoned(names: Collection[str], reply: Reply | None = None) -> Callable[[Asked], Reply | None]:
    """Fail on whatever holds one of these DAGs or tasks, as a row does that can't be serialized."""

    def intercept(asked: Asked) -> Reply | None:
        told = (
            {*asked.body["dag_ids"], *asked.body.get("task_ids", ())} if asked.is_list else set(asked.path.split("/"))
        )
        there = told & set(names) and ("/taskInstances" in asked.path or asked.is_list)
        return (reply or error(500, "KeyError")) if there else None

    return intercept


# --- what is asked ---


def test_no_pods_no_call(fake: FakeAirflow) -> None:
    airflow = healer(fake)
    assert airflow.get_all([]) == {}
    assert airflow.list_recently_ended([]) == {}
    assert airflow.list_recently_ended([pod()]) == {}, "not looked at yet"
    assert airflow.get_each([]) == {}
    airflow.start_audit()
    assert fake.asked == []


def test_a_pod_with_unreadable_labels_is_not_asked_about(fake: FakeAirflow) -> None:
    assert "try_number is missing" in why(only(healer(fake).get_all([pod(labels=Labels("d", "t", "r"))])))
    assert fake.asked == []


def test_no_list_is_ever_empty_and_no_filter_is_sent_that_was_not_meant(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{i}") for i in range(50)]
    airflow = healer(fake)
    pods = [pod(dag=f"d{i}") for i in range(50)]
    airflow.get_all(pods)
    airflow.list_recently_ended(pods)
    for body in fake.lists():
        assert all(body[key] for key in ("dag_ids", "dag_run_ids", "task_ids"))
        assert body["page_limit"] > 0
        assert set(body) <= {
            "dag_ids", "dag_run_ids", "task_ids", "page_limit", "order_by", "state", "end_date_gte",
        }  # fmt: skip


def test_lists_keep_to_their_limits(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{i}", run=f"r{i}-{j}", task=f"t{i % 7}") for i in range(60) for j in range(20)]
    pods = [pod(dag=f"d{i}", run=f"r{i}-{j}", task=f"t{i % 7}") for i in range(60) for j in range(20)]
    calls: list[Call] = []
    airflow = healer(fake, calls)
    assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}
    for body in fake.lists():
        assert len(body["dag_ids"]) <= 20
        assert len(body["dag_run_ids"]) <= 200
        assert len(str(body)) <= 30_000
    assert max(call.rows for call in calls if call.call == "list") <= 500


def test_a_quiet_pass_over_200_runs_of_200_dags_is_one_call_of_no_rows(fake: FakeAirflow) -> None:
    runs = [f"manual__2026-01-01T00:00:{i % 60:02}.{i:06}+00:00" for i in range(200)]
    fake.rows = [row(dag=f"dag_number_{i}", run=runs[i], task=f"t{j}") for i in range(200) for j in range(3)]
    pods = [pod(dag=f"dag_number_{i}", run=runs[i], task=f"t{j}") for i in range(200) for j in range(3)]
    calls: list[Call] = []
    airflow = healer(fake, calls)
    airflow.get_all(pods)
    calls.clear()
    assert airflow.list_recently_ended(pods) == {}
    assert [(call.call, call.rows) for call in calls] == [("list", 0)]


# --- joining rows to Pods ---


def test_the_row_is_read(fake: FakeAirflow) -> None:
    fake.rows = [row(state="success", end_date="2026-01-01T01:00:00Z", try_number=3)]
    answer = only(healer(fake).get_all([pod()]))
    assert isinstance(answer, Known)
    task = answer.task
    assert (task.dag_id, task.run_id, task.task_id, task.map_index) == ("d", RUN, "t", -1)
    assert (task.state, task.try_number, task.operator) == ("success", 3, "KubernetesPodOperator")
    assert (task.start_date, task.end_date) == (1767225601.5, 1767229200.0)
    assert (task.namespace, task.base_container) == ("jobs", "base")


@pytest.mark.parametrize(
    ("rendered", "expected"),
    [
        ({}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
        ({"namespace": None, "base_container_name": 7}, (None, None)),
        ({"namespace": "***", "base_container_name": "main"}, (None, "main")),
        ({"namespace": "", "base_container_name": "pre-***"}, (None, None)),
    ],
)
def test_rendered_fields_are_optional(fake: FakeAirflow, rendered: Any, expected: tuple[Any, Any]) -> None:
    fake.rows = [row(rendered_fields=rendered)]
    answer = only(healer(fake).get_all([pod()]))
    assert isinstance(answer, Known)
    assert (answer.task.namespace, answer.task.base_container) == expected


def test_two_dags_that_share_a_run_id(fake: FakeAirflow) -> None:
    fake.rows = [row(dag="a", state="success"), row(dag="b", state="running"), row(dag="b", task="other")]
    pods = [pod(dag="a", phase="Succeeded"), pod(dag="b")]
    answers = healer(fake).get_all(pods)
    assert [state(answers[p.uid]) for p in pods] == ["success", "running"]


def test_mapped_and_unmapped(fake: FakeAirflow) -> None:
    fake.rows = [row(), row(map_index=0, state="queued"), row(map_index=1, state="failed")]
    pods = [pod(phase="Failed"), pod(map_index=0), pod(map_index=1, phase="Failed")]
    answers = healer(fake).get_all(pods)
    assert [state(answers[p.uid]) for p in pods] == ["running", "queued", "failed"]


@pytest.mark.parametrize("states", [("success", "running"), ("running", "success"), ("success", "success")])
def test_a_label_of_two_runs_is_ambiguous_whichever_has_ended(fake: FakeAirflow, states: tuple[str, str]) -> None:
    fake.rows = [row(run=RUN, state=states[0]), row(run=TWIN, state=states[1])]
    airflow = healer(fake)
    one = pod()
    for answers in (airflow.get_all([one]), airflow.get_each([one])):
        assert "2 task instances have these labels" in why(only(answers))
    assert airflow.list_recently_ended([one]) == {}


def test_a_label_of_two_dags_or_tasks_is_ambiguous(fake: FakeAirflow) -> None:
    for raw in ("_odd_", safe_label("_odd_")):
        fake.rows += [row(dag=raw), row(dag="d", task=raw)]
    for one in (pod(dag="_odd_"), pod(task="_odd_")):
        assert isinstance(only(healer(fake).get_all([one])), Ambiguous)


def test_hashed_ids_of_all_three_kinds_are_resolved(fake: FakeAirflow) -> None:
    long = "x" * 70
    fake.rows = [row(dag=long, task="_t_", run="free text / with: signs"), row(dag="other"), row(dag=long, task="u")]
    one = pod(dag=long, task="_t_", run="free text / with: signs")
    answer = only(healer(fake).get_all([one]))
    assert isinstance(answer, Known)
    assert (answer.task.dag_id, answer.task.task_id, answer.task.run_id) == (long, "_t_", "free text / with: signs")


def test_an_id_that_only_looks_hashed_is_found(fake: FakeAirflow) -> None:
    for raw in ("release-0123456ab", "release-cdefabcde"):
        fake.rows += [row(dag=raw, task=raw, run=raw)]
    one = pod(dag="release-0123456ab", task="release-0123456ab", run="release-0123456ab")
    answer = only(healer(fake).get_all([one]))
    assert isinstance(answer, Known)
    assert answer.task.run_id == "release-0123456ab"


def test_a_label_that_no_id_has_is_ambiguous_until_the_next_audit(fake: FakeAirflow) -> None:
    fake.rows = [row(run="known")]
    airflow = healer(fake)
    one = pod(run="not: known")
    assert "label run_id=" in why(only(airflow.get_all([one])))
    asked = len(fake.asked)
    assert isinstance(only(airflow.get_all([one])), Ambiguous)
    assert [path.rsplit("/", 1)[1] for path in fake.paths()[asked:]] == ["d"], "no more than whether its DAG exists"
    fake.rows += [row(run="not: known")]
    airflow.start_audit()
    assert isinstance(only(airflow.get_all([one])), Known)


def test_what_was_resolved_is_not_asked_for_again(fake: FakeAirflow) -> None:
    fake.rows = [row(dag="_d_", task="_t_", run="a: b")]
    airflow = healer(fake)
    one = pod(dag="_d_", task="_t_", run="a: b")
    airflow.get_all([one])
    before = len(fake.asked)
    for _ in range(3):
        airflow.start_audit()
        airflow.get_all([one])
    assert [asked.is_list for asked in fake.asked[before:]] == [False, True] * 3, "the version, and one list"


def test_runs_are_looked_for_among_the_newest_500(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    fake.runs = {("d", f"run {i:04}") for i in range(1000)}
    pods = [pod(run="run 0450"), pod(run="run 0990")]
    assert kinds(healer(fake).get_all(pods), pods) == ["Absent", "Ambiguous"]
    pages = [asked for asked in fake.asked if asked.path.endswith("/dagRuns")]
    assert len(pages) == 5
    assert {dict(asked.query)["order_by"] for asked in pages} == {"-id"}


@pytest.mark.parametrize(("others", "kind"), [(50, "Known"), (600, "Ambiguous")])
def test_an_id_that_looks_hashed_is_believed_only_if_all_runs_were_seen(
    fake: FakeAirflow, others: int, kind: str
) -> None:
    """Else the run that the label hides may be an older one, and still in use."""
    fake.rows = [row(run="deploy-0123456ab")]
    fake.runs = {("d", f"run {i:04}") for i in range(others)}
    one = pod(run="deploy-0123456ab")
    assert kinds(healer(fake).get_all([one]), [one]) == [kind]


@pytest.mark.parametrize(("version", "sent"), [("3.0.6", False), ("3.1.8", False), ("3.2.2", True), ("3.3.2", True)])
def test_a_prefix_is_sent_only_to_servers_that_heed_it(fake: FakeAirflow, version: str, sent: bool) -> None:
    fake.version = version
    run = "operator_triggered__2026-01-01T00:00:00.123456+00:00_aBcD1234"
    fake.rows = [row(run=run), row(run="unrelated")]
    assert isinstance(only(healer(fake).get_all([pod(run=run)])), Known)
    prefixes = [value for asked in fake.asked for key, value in asked.query if key == "run_id_prefix_pattern"]
    assert set(prefixes) <= {"operator_triggered__2026-01-01T00"}
    if not sent:
        assert prefixes == []


def test_a_failure_to_resolve_is_unknown_and_not_remembered(fake: FakeAirflow) -> None:
    fake.rows = [row(run="a: b")]
    fake.intercept = lambda asked: error(500, "tired") if asked.path.endswith("/dagRuns") else None
    airflow = healer(fake)
    one = pod(run="a: b")
    assert "answered 500" in why(only(airflow.get_all([one])))
    fake.intercept = lambda _: None
    assert isinstance(only(airflow.get_all([one])), Known)


def test_a_dag_list_that_is_clamped_is_read_to_its_end(fake: FakeAirflow) -> None:
    fake.clamp = 7
    fake.rows = [row(dag="zz_")]
    fake.dags = {f"d{i}" for i in range(100)}
    assert isinstance(only(healer(fake).get_all([pod(dag="zz_")])), Known)


# --- answers that are not whole ---


@pytest.mark.parametrize("clamp", [1, 3, 20, 100])
def test_a_server_that_clamps_its_pages(fake: FakeAirflow, clamp: int) -> None:
    fake.clamp = clamp
    fake.rows = [row(dag=f"d{i % 5}", run=f"r{i % 3}", task=f"t{i}") for i in range(60)]
    pods = [pod(dag=f"d{i % 5}", run=f"r{i % 3}", task=f"t{i}") for i in range(60)]
    answers = healer(fake).get_all(pods)
    assert set(kinds(answers, pods)) == {"Known"}


def test_a_clamp_is_remembered_within_an_audit(fake: FakeAirflow) -> None:
    fake.clamp = 50
    fake.rows = [row(dag="d", run=f"r{i}") for i in range(100)]
    pods = [pod(dag="d", run=f"r{i}") for i in range(100)]
    airflow = healer(fake)
    airflow.get_all(pods)
    first = len(fake.lists())
    airflow.get_all(pods)
    assert len(fake.lists()) - first == 2


@AIRFLOW_3
def test_a_lie_about_the_total_is_unknown(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    fake.intercept = always(page(row(), total=2), "taskInstances/list")
    calls: list[Call] = []
    answer = only(healer(fake, calls).get_all([pod()]))
    assert isinstance(answer, Known), "the single task instance was asked for by its map index"
    assert "list-get" in [call.call for call in calls]


def test_one_bad_row_spoils_only_its_own_task_instance(fake: FakeAirflow) -> None:
    fake.rows = [row(task="good"), row(task="bad", try_number="two", state="success"), row(task="fine")]
    pods = [pod(task=name) for name in ("good", "bad", "fine")]
    answers = healer(fake).get_all(pods)
    assert [state(answers[p.uid]) for p in pods] == ["running", UNSET, "running"]
    assert judge(pods[1], answers[pods[1].uid]).reason is Reason.AIRFLOW_UNKNOWN


@AIRFLOW_3
@pytest.mark.parametrize(
    "field",
    [
        {"state": 7},
        {"id": 7},
        {"id": None},
        {"operator": ["x"]},
        {"start_date": "yesterday"},
        {"end_date": "2026-01-01T00:00:00"},
        {"try_number": 1.5},
    ],
)
def test_a_malformed_field_makes_the_row_lack_everything(fake: FakeAirflow, field: dict[str, Any]) -> None:
    fake.rows = [row(**({"state": "success"} | field))]
    one = pod(phase="Failed")
    answer = only(healer(fake).get_all([one]))
    assert judge(one, answer).reason is Reason.AIRFLOW_UNKNOWN


@AIRFLOW_3
@pytest.mark.parametrize("field", ["state", "try_number", "operator", "id", "end_date"])
def test_a_missing_field_is_unknown(fake: FakeAirflow, field: str) -> None:
    fake.rows = [row(state="success")]
    del fake.rows[0][field]
    one = pod(phase="Failed")
    assert judge(one, only(healer(fake).get_all([one]))).reason is Reason.AIRFLOW_UNKNOWN


def test_null_is_a_state_of_its_own(fake: FakeAirflow) -> None:
    fake.rows = [row(state=None)]
    assert state(only(healer(fake).get_all([pod()]))) is None


@pytest.mark.parametrize("bad", [{"dag_id": "d"}, {}, 7, None, [], {"dag_id": "d", "map_index": "x"}])
def test_a_row_without_ids_may_be_any_that_is_not_there(fake: FakeAirflow, bad: Any) -> None:
    pods = [pod(task="good", run="plain"), pod(task="gone", run="plain")]
    fake.intercept = always(page(row(task="good", run="plain"), bad), "taskInstances/list")
    answers = healer(fake).get_all(pods)
    assert kinds(answers, pods) == ["Known", "Unknown"]


def test_a_row_without_ids_may_be_the_twin_of_a_hashed_label(fake: FakeAirflow) -> None:
    fake.intercept = always(page(row(state="success"), {"dag_id": "d"}), "taskInstances/list")
    assert "no readable ids" in why(only(healer(fake).get_all([pod()])))


def test_the_same_row_twice_is_one(fake: FakeAirflow) -> None:
    fake.intercept = always(page(row(state="success"), row(state="success")), "taskInstances/list")
    assert state(only(healer(fake).get_all([pod(phase="Failed")]))) == "success"


@AIRFLOW_3
@pytest.mark.parametrize("change", [{"state": "running"}, {"id": "another"}, {"try_number": 2}])
def test_rows_that_contradict_each_other_are_unknown(fake: FakeAirflow, change: dict[str, Any]) -> None:
    fake.intercept = always(page(row(state="success"), row(**({"state": "success"} | change))), "taskInstances/list")
    assert "contradict" in why(only(healer(fake).get_all([pod()])))


def test_rows_nobody_asked_for_are_ignored(fake: FakeAirflow) -> None:
    fake.rows = [row(run="plain")]
    stranger = row(dag="stranger", run="plain", state="success")
    fake.intercept = always(page(row(run="plain"), stranger), "taskInstances/list")
    answers = healer(fake).get_all([pod(run="plain")])
    assert state(only(answers)) == "running"


def test_a_chunk_that_fails_is_halved_and_only_the_poison_is_unknown(fake: FakeAirflow) -> None:
    names = [f"t{i:02}" for i in range(40)]
    fake.rows = [row(task=name, run="plain") for name in names]

    fake.intercept = poisoned({"t17"})
    pods = [pod(task=name, run="plain") for name in names]
    answers = healer(fake).get_all(pods)
    assert [name for name, p in zip(names, pods, strict=True) if isinstance(answers[p.uid], Unknown)] == ["t17"]
    assert len(fake.lists()) <= 15


@pytest.mark.parametrize(
    "broken",
    [
        error(500, {"reason": "Database error", "message": "x"}),
        Reply(body=b"{"),
        Reply(503, b"<html>", {"Content-Type": "text/html"}),
    ],
)
def test_a_server_that_is_down_is_given_up(fake: FakeAirflow, broken: Reply) -> None:
    fake.rows = [row(dag=f"d{i}", task=f"t{j}") for i in range(100) for j in range(10)]
    pods = [pod(dag=f"d{i}", task=f"t{j}") for i in range(100) for j in range(10)]
    fake.intercept = always(broken, "/dags")
    answers = healer(fake).get_all(pods)
    assert set(kinds(answers, pods)) == {"Unknown"}
    assert len(fake.asked) <= 25


def test_one_chunk_that_fails_does_not_hold_up_the_others(fake: FakeAirflow) -> None:
    fake.rows = [row(dag=f"d{i:02}") for i in range(60)]
    pods = [pod(dag=f"d{i:02}") for i in range(60)]
    fake.intercept = poisoned({"d05"})
    answers = healer(fake).get_all(pods)
    assert [i for i, p in enumerate(pods) if isinstance(answers[p.uid], Unknown)] == [5]


def test_a_right_that_is_missing_is_not_asked_for_in_halves(fake: FakeAirflow) -> None:
    pods = [pod(dag=f"d{i:02}") for i in range(20)]
    fake.intercept = always(error(403, "Forbidden"), "/taskInstances")
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert set(kinds(answers, pods)) == {"Unknown"}
    assert len(fake.lists()) == 2 * 2, "one of them, and one of nothing"
    assert airflow.set_aside == 0, "it is not owed to any of them"


# --- versions ---


@pytest.mark.parametrize("version", ["3.4.0", "4.0.0", "2.12.0", "2.9.3", "2.1.0", "1.10.15", "banana", "", "3"])
def test_an_unknown_version_is_not_believed(fake: FakeAirflow, version: str) -> None:
    fake.version = version
    fake.rows = [row(state="success")]
    airflow = healer(fake)
    said = why(only(airflow.get_all([pod()])))
    assert version in said
    assert re.search(r"knows (Airflow )?2\.10, 2\.11 and 3\.0 to 3\.3", said)
    assert fake.lists() == []
    assert airflow.version is None
    fake.version = "3.3.0"
    assert isinstance(only(airflow.get_all([pod()])), Known), "an upgrade is noticed at the next question"


@AIRFLOW_3
@pytest.mark.parametrize("version", ["2.9.3", "2.1.0", "1.10.15"])
def test_an_airflow_whose_try_numbers_lie_is_refused_with_the_reason(fake: FakeAirflow, version: str) -> None:
    def old(asked: Asked) -> Reply:
        return Reply(body={"version": version}) if asked.path == "/api/v1/version" else error(404, "Not Found")

    fake.intercept = old
    said = why(only(healer(fake).get_all([pod()])))
    assert f"is Airflow {version}: up to 2.9 the number of a try depends on the state it is read in" in said
    assert "upgrade to 2.10 or later" in said
    assert fake.paths(part="/dags") == []


def test_an_upgrade_that_no_request_noticed_is_seen_at_the_next_audit(fake: FakeAirflow) -> None:
    one = suspect(fake)
    fake.version = "3.2.2"
    airflow = healer(fake)
    airflow.get_all([one])
    fake.version = "3.3.2"
    airflow.start_audit()
    airflow.get_all([one])
    assert airflow.version == "3.3.2"
    fake.version = "4.0.0"
    airflow.start_audit()
    assert judge(one, only(airflow.get_all([one]))).reason is Reason.AIRFLOW_UNKNOWN


@pytest.mark.parametrize("version", ["3.0.0", "3.1.8", "3.2.2", "3.3.2", "3.3.0+astro.1", "3.2.0rc1"])
def test_known_versions(fake: FakeAirflow, version: str) -> None:
    fake.version = version
    fake.rows = [row()]
    airflow = healer(fake)
    assert isinstance(only(airflow.get_all([pod()])), Known)
    assert airflow.version == version


# --- large mapped tasks ---


def mapped(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [row(task="m", map_index=i, **fields) for i in range(count)]


@AIRFLOW_3
def test_a_task_larger_than_a_page_is_asked_by_its_map_indices(fake: FakeAirflow) -> None:
    fake.rows = [row(task="m", run="plain", map_index=i, state="success") for i in range(1500)] + [row(run="plain")]
    pods = [pod(task="m", run="plain", map_index=i, phase="Failed") for i in range(120)] + [pod(run="plain")]
    calls: list[Call] = []
    airflow = healer(fake, calls)
    assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}
    calls.clear()
    airflow.start_audit()
    assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}
    assert [call.call for call in calls if call.rows > 100] == [], "it is remembered as large"
    assert sorted(call.call for call in calls) == ["list", "list-get", "list-get", "list-get", "version"]


def test_a_large_task_on_3_0_is_asked_for_singly(fake: FakeAirflow) -> None:
    fake.version = "3.0.6"
    fake.rows = mapped(1500, state="success")
    pods = [pod(task="m", map_index=i, phase="Failed") for i in (3, 1400)]
    calls: list[Call] = []
    assert kinds(healer(fake, calls).get_all(pods), pods) == ["Known", "Known"]
    assert [call.call for call in calls if call.call != "xcom"][-2:] == ["task-instance", "task-instance"]
    lists = [asked for asked in fake.asked if "/xcomEntries/" not in asked.path]
    assert not any(key == "map_index" for asked in lists for key, _ in asked.query)


def test_a_server_that_ignores_the_map_index_is_asked_singly(fake: FakeAirflow) -> None:
    fake.rows = mapped(1500, state="success")
    whole = page(*fake.rows[:100], total=1500)
    fake.intercept = lambda asked: whole if asked.path.endswith("/taskInstances") else None
    pods = [pod(task="m", map_index=1400, phase="Failed")]
    assert kinds(healer(fake).get_all(pods), pods) == ["Known"]


def test_a_large_task_of_a_dag_that_is_not_serialized(fake: FakeAirflow) -> None:
    fake.rows = mapped(1500, state="success")
    gone = error(404, "The Dag with ID: `d` was not found")
    fake.intercept = lambda asked: gone if asked.path.endswith("/taskInstances") else None
    pods = [pod(task="m", map_index=i, phase="Failed") for i in (0, 1499)]
    assert kinds(healer(fake).get_all(pods), pods) == ["Known", "Known"]


def test_a_large_task_does_not_crowd_the_lists_of_others(fake: FakeAirflow) -> None:
    fake.rows = mapped(3000) + [row(task=f"t{i}", run=f"r{j}") for i in range(10) for j in range(10)]
    pods = [pod(task="m", map_index=0)] + [pod(task=f"t{i}", run=f"r{j}") for i in range(10) for j in range(10)]
    calls: list[Call] = []
    airflow = healer(fake, calls)
    airflow.get_all(pods)
    first = [call.rows for call in calls if call.call == "list"]
    assert first.count(1000) <= 2
    calls.clear()
    airflow.get_all(pods)
    assert max(call.rows for call in calls) <= 100


# --- what has ended lately ---


def ended(index: int, end: str = "2026-01-01T02:00:00Z") -> dict[str, Any]:
    return row(task="m", map_index=index, state="success", end_date=end)


def test_only_what_has_ended_is_told(fake: FakeAirflow) -> None:
    fake.rows = mapped(10)
    pods = [pod(task="m", map_index=i) for i in range(10)]
    airflow = healer(fake)
    airflow.get_all(pods)
    assert airflow.list_recently_ended(pods) == {}
    fake.rows[3] = ended(3)
    answers = airflow.list_recently_ended(pods)
    assert list(answers) == [pods[3].uid]
    assert state(answers[pods[3].uid]) == "success"
    body = fake.lists()[-1]
    assert body["state"] == ["failed", "skipped", "success", "upstream_failed"]


def test_the_date_is_airflows_own_less_ten_minutes(fake: FakeAirflow) -> None:
    fake.clock = None
    fake.rows = [*mapped(3), ended(3, "2026-01-01T05:00:00Z")]
    pods = [pod(task="m", map_index=i) for i in range(3)]
    airflow = healer(fake)
    airflow.get_all(pods)
    airflow.list_recently_ended(pods)
    assert fake.lists()[-1]["end_date_gte"] == "2026-01-01T04:50:00+00:00"


def test_a_chunk_that_failed_is_asked_from_where_it_was(fake: FakeAirflow) -> None:
    fake.clock = None
    fake.rows = [row(dag="a"), row(dag="b", start_date="2026-01-01T03:00:00Z")]
    pods = [pod(dag="a"), pod(dag="b")]
    airflow = healer(fake)
    airflow.get_all(pods)
    fake.intercept = poisoned({"a"})
    for hour in range(4, 8):
        fake.rows[1] = row(dag="b", state="success", end_date=f"2026-01-01T0{hour}:00:00Z")
        answers = airflow.list_recently_ended(pods)
        assert kinds(answers, pods) == ["Unknown", "Known"]
    fake.intercept = lambda _: None
    fake.rows[0] = row(dag="a", state="failed", end_date="2026-01-01T03:30:00Z")
    assert state(airflow.list_recently_ended(pods)[pods[0].uid]) == "failed"


def test_nothing_ever_seen_means_no_date(fake: FakeAirflow) -> None:
    fake.clock = None
    fake.rows = [row(state="queued", start_date=None)]
    airflow = healer(fake)
    airflow.get_all([pod()])
    airflow.list_recently_ended([pod()])
    assert "end_date_gte" not in fake.lists()[-1]


def test_a_worker_whose_clock_runs_ahead_does_not_hide_the_others(fake: FakeAirflow) -> None:
    fake.rows = [row(dag="a", start_date="2099-01-01T00:00:00Z"), row(dag="b")]
    pods = [pod(dag="a"), pod(dag="b")]
    airflow = healer(fake)
    airflow.get_all(pods)
    airflow.list_recently_ended(pods)
    assert fake.lists()[-1]["end_date_gte"] < "2099"


def test_what_ends_without_a_date_is_left_to_the_audit(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    airflow = healer(fake)
    airflow.get_all([pod()])
    fake.rows = [row(state="skipped", end_date=None)]
    assert airflow.list_recently_ended([pod()]) == {}
    assert state(only(airflow.get_all([pod(phase="Failed")]))) == "skipped"


@AIRFLOW_3
def test_a_burst_of_ends_is_asked_by_index_from_then_on(fake: FakeAirflow) -> None:
    fake.rows = [row(task="m", map_index=i) for i in range(1500)]
    pods = [pod(task="m", map_index=i) for i in range(1400, 1450)]
    calls: list[Call] = []
    airflow = healer(fake, calls)
    airflow.get_all(pods)
    fake.rows = [ended(i, "2999-01-01T00:00:00Z") if i < 1400 else r for i, r in enumerate(fake.rows)]
    assert airflow.list_recently_ended(pods) == {}
    calls.clear()
    assert airflow.list_recently_ended(pods) == {}
    assert [(call.call, call.rows) for call in calls] == [("list-get", 50)]


def test_pods_that_are_gone_are_forgotten(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    airflow = healer(fake)
    airflow.get_all([pod()])
    airflow.forget([pod().uid, "never-seen"])
    before = len(fake.asked)
    assert airflow.list_recently_ended([pod()]) == {}
    assert len(fake.asked) == before


# --- single questions ---


@pytest.mark.parametrize(("count", "lists"), [(FEWEST_LISTED - 1, 0), (FEWEST_LISTED, 1), (20, 1), (100, 5)])
def test_what_is_due_is_asked_anew(fake: FakeAirflow, count: int, lists: int) -> None:
    """A few one by one, which leaves no row in Airflow's audit table; more in lists of up to twenty DAGs and runs."""
    done = {"phase": "Succeeded", "checked": True}  # so that nobody asks which Pod Airflow names
    pods = [pod(f"d{i}", **done) for i in range(count)]
    fake.rows = [row(f"d{i}", state="success") for i in range(count)]
    airflow = healer(fake)
    first = airflow.get_all(pods)
    before, fake.rows = len(fake.asked), [row(f"d{i}", state="failed") for i in range(count)]
    answers = airflow.get_each(pods)
    assert {state(answer) for answer in answers.values()} == {"failed"}
    asked = [one.path.endswith("/list") for one in fake.asked[before:]]
    assert asked == ([True] * lists or [False] * count)
    airflow.get_each(pods)
    bodies = [json.dumps(body) for body in fake.lists()]
    assert len(set(bodies)) == len(bodies), "nothing between us and Airflow can have an older answer to a list"
    assert min(answer.sent for answer in answers.values()) > max(answer.sent for answer in first.values())


def test_what_a_list_of_what_is_due_does_not_tell_is_asked_one_by_one(fake: FakeAirflow) -> None:
    """It has fewer rows than there are, it fails, or it leaves one out: nothing follows from that."""
    pods = [pod(task=f"t{i}", phase="Succeeded", checked=True) for i in range(10)]
    fake.rows = [row(task=f"t{i}", state="success") for i in range(10)]
    for spoilt, singles in ((error(500, "tired"), 10), (page(*fake.rows[:4], total=10), 10), (page(*fake.rows[1:]), 1)):
        fake.intercept = lambda _: None
        airflow = healer(fake)
        airflow.get_all(pods)
        fake.intercept = always(spoilt, "taskInstances/list")
        before = len(fake.asked)
        assert all(isinstance(answer, Known) for answer in airflow.get_each(pods).values())
        assert sum(one.path.endswith("/-1") for one in fake.asked[before:]) == singles
        assert len(fake.asked[before:]) == singles + 1
        assert airflow.set_aside == 0


@pytest.mark.parametrize("now", ["running", "up_for_retry", None, "removed"])
def test_what_has_not_ended_any_more_is_asked_one_by_one(fake: FakeAirflow, now: str | None) -> None:
    """A list has what has ended alone: less to read for Airflow, and a clear or a retry is told all the same."""
    pods = [pod(task=f"t{i}", phase="Succeeded", checked=True) for i in range(10)]
    fake.rows = [row(task=f"t{i}", state="success") for i in range(10)]
    airflow = healer(fake)
    airflow.get_all(pods)
    fake.rows[3]["state"] = now
    before = len(fake.asked)
    answers = airflow.get_each(pods)
    assert [state(answers[each.uid]) for each in pods] == ["success"] * 3 + [now] + ["success"] * 6
    assert [one.path.rpartition("/taskInstances/")[2] for one in fake.asked[before:]] == ["list", "t3/-1"]


def test_a_task_with_many_map_indices_is_in_no_list_of_what_is_due(fake: FakeAirflow) -> None:
    fake.rows = mapped(150)
    pods = [pod(task="m", map_index=i) for i in range(10)]
    airflow = healer(fake)
    airflow.get_all(pods)
    lists = len(fake.lists())
    assert all(isinstance(answer, Known) for answer in airflow.get_each(pods).values())
    assert len(fake.lists()) == lists


def test_more_than_a_hundred_are_asked_in_lists(fake: FakeAirflow) -> None:
    fake.rows = mapped(101)
    pods = [pod(task="m", map_index=i) for i in range(101)]
    airflow = healer(fake)
    airflow.get_all(pods)
    singles = len(fake.paths(part="/taskInstances/m/"))
    assert len(airflow.get_each(pods)) == 101
    assert len(fake.paths(part="/taskInstances/m/")) == singles


def test_a_pod_that_was_never_looked_at_is_looked_at(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    assert isinstance(only(healer(fake).get_each([pod()])), Known)


@pytest.mark.parametrize("run", ["with/slash", "..", "."])
def test_ids_that_no_url_can_hold_are_asked_for_in_lists(fake: FakeAirflow, run: str) -> None:
    fake.rows = [row(run=run)]
    one = pod(run=run, labels=Labels("d", "t", safe_label(run), None, "1"))
    airflow = healer(fake)
    assert isinstance(only(airflow.get_all([one])), Known)
    assert isinstance(only(airflow.get_each([one])), Known)
    assert fake.paths(part="slash") == []


@pytest.mark.parametrize("run", ["a?b=c", "a#b", "a%2Fb", "a b+c", "ü", "{task_id}", "a..b"])
def test_hostile_ids_stay_in_their_place(fake: FakeAirflow, run: str) -> None:
    fake.rows = [row(run=run)]
    airflow = healer(fake)
    one = pod(run=run)
    airflow.get_all([one])
    assert isinstance(only(airflow.get_each([one])), Known)
    assert fake.asked[-1].path.count("/") == f"{API}/dags/d/dagRuns/r/taskInstances/t/-1".count("/")


def test_another_task_instance_than_asked_for_is_unknown(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    airflow = healer(fake)
    airflow.get_all([pod()])
    fake.intercept = always(Reply(body=row(task="other", state="success")), "/taskInstances/t/")
    assert "another task instance" in why(only(airflow.get_each([pod()])))


# --- absence ---


def test_a_deleted_run_is_proven_by_two_questions(fake: FakeAirflow) -> None:
    fake.dags = {"d"}
    pods = [pod(task=f"t{i}") for i in range(50)]
    answers = healer(fake).get_all(pods)
    assert set(kinds(answers, pods)) == {"RunDeleted"}
    assert answers[pods[0].uid] == RunDeleted(answers[pods[0].uid].sent, "d", RUN)
    assert len(fake.paths(part="/dagRuns/scheduled")) == 2, "one for each id that the label may stand for"
    assert len([path for path in fake.paths() if path.endswith("/dags/d")]) == 2, "before and after the run"


def test_whose_a_deleted_run_was_is_proven_only_where_no_other_dag_fits(fake: FakeAirflow) -> None:
    """Somebody may call a DAG like the label of another team's: who may see the Pod must not hang on it."""
    dag = "a DAG with blanks"
    fake.dags = {dag}
    answer = only(healer(fake).get_all([pod(dag=dag)]))
    assert isinstance(answer, RunDeleted)
    assert (answer.dag_id, answer.only_dag) == (dag, True)
    fake.dags = {dag, safe_label(dag)}
    answer = only(healer(fake).get_all([pod(dag=dag)]))
    assert isinstance(answer, RunDeleted)
    assert answer.only_dag is False


def test_a_deleted_run_is_confirmed_anew(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    airflow = healer(fake)
    airflow.get_all([pod()])
    fake.rows, fake.dags = [], {"d"}
    assert isinstance(only(airflow.get_each([pod()])), RunDeleted)


def test_a_dag_deleted_meanwhile_is_no_deleted_run(fake: FakeAirflow) -> None:
    fake.dags = {"d"}

    def delete(asked: Asked) -> Reply | None:
        if "/dagRuns/" in asked.path and not asked.is_list:
            fake.dags = set()
        return None

    fake.intercept = delete
    assert isinstance(only(healer(fake).get_all([pod()])), DagDeleted)


HASHED: list[tuple[str, Any]] = [
    ("task", pod(task="a task with blanks")),
    ("task and run of Airflow's own form", pod(task="a task with blanks", run="manual__2026-01-01T00:00:00+00:00")),
    ("task and run of another form", pod(task="a task with blanks", run="a run with blanks")),
    ("run of another form", pod(run="a run with blanks")),
]


@pytest.mark.parametrize(("what", "one"), HASHED, ids=[what for what, _ in HASHED])
def test_what_a_hashed_label_stands_for_is_gone_with_its_dag(fake: FakeAirflow, what: str, one: Pod) -> None:
    fake.dags = {"other"}
    airflow = healer(fake)
    for answer in (only(airflow.get_all([one])), only(airflow.get_each([one]))):
        assert isinstance(answer, DagDeleted)
        assert answer.dag_id == "d"


@pytest.mark.parametrize(("what", "one"), HASHED, ids=[what for what, _ in HASHED])
def test_what_a_hashed_task_label_stands_for_is_gone_with_its_run(fake: FakeAirflow, what: str, one: Pod) -> None:
    """A run that can't be found by its label is not known to be gone: it may be behind what the list shows."""
    fake.dags = {"d"}
    answer = only(healer(fake).get_all([one]))
    assert isinstance(answer, Ambiguous if what.endswith("another form") else RunDeleted)


@pytest.mark.parametrize("refused", [error(403, "Forbidden"), error(404, "Not Found"), error(500, "bug")])
@pytest.mark.parametrize(("what", "one"), HASHED, ids=[what for what, _ in HASHED])
def test_what_a_hashed_label_stands_for_is_unknown_while_its_dag_can_not_be_asked_for(
    fake: FakeAirflow, what: str, one: Pod, refused: Reply
) -> None:
    fake.dags = {"d"}
    fake.intercept = lambda asked: refused if asked.path.endswith("/dags/d") else None
    assert isinstance(only(healer(fake).get_all([one])), Unknown)


def not_parsed(asked: Asked) -> Reply | None:
    """Airflow 3 says of a DAG without its parsed form what it says of one that it does not have."""
    gone = asked.path.startswith(f"{API}/dags/d") and asked.path.removeprefix(f"{API}/dags/d") in OF_PARSED
    return error(404, "The Dag with ID: `d` was not found") if gone else None


OF_PARSED = {"", "/tasks", "/dagRuns"}


@AIRFLOW_3
@pytest.mark.parametrize("state", ["deferred", "up_for_retry", "failed"])
def test_what_a_hashed_label_stands_for_is_not_gone_with_a_dag_that_was_only_not_parsed(
    fake: FakeAirflow, state: str
) -> None:
    """After an upgrade from 2 no DAG has a parsed form until its file is parsed, which may fail for days."""
    run = "a run with blanks"
    fake.rows = [row(run=run, state=state)]
    fake.intercept = not_parsed
    airflow = healer(fake)
    for answer in (only(airflow.get_all([pod(run=run)])), only(airflow.get_each([pod(run=run)]))):
        assert isinstance(answer, Ambiguous)


@AIRFLOW_3
@pytest.mark.parametrize("refused", [error(403, "Forbidden"), error(500, "bug"), Reply(body={"task_instances": []})])
def test_what_a_hashed_label_stands_for_is_unknown_where_its_dag_can_not_be_listed(
    fake: FakeAirflow, refused: Reply
) -> None:
    fake.intercept = lambda asked: refused if asked.is_list else not_parsed(asked)
    assert isinstance(only(healer(fake).get_all([pod(run="a run with blanks")])), Unknown)


def test_a_missing_dag_is_asked_for_once(fake: FakeAirflow) -> None:
    pods = [pod(run=f"r{i}") for i in range(50)]
    answers = healer(fake).get_all(pods)
    assert answers[pods[0].uid] == DagDeleted(answers[pods[0].uid].sent, "d")
    assert set(kinds(answers, pods)) == {"DagDeleted"}
    assert [asked.path for asked in fake.asked if not asked.is_list][2:] == [f"{API}/dags/d"]


def test_a_missing_task_instance_of_a_run_that_exists(fake: FakeAirflow) -> None:
    fake.runs, fake.dags = {("d", RUN)}, {"d"}
    assert "has no such task instance" in why(only(healer(fake).get_all([pod()])))


def test_a_task_instance_that_the_list_omitted_is_found_singly(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    fake.intercept = always(page(), "taskInstances/list")
    assert state(only(healer(fake).get_all([pod()]))) == "running"


def test_a_hashed_run_of_which_one_reading_exists_is_not_deleted(fake: FakeAirflow) -> None:
    fake.runs, fake.dags = {("d", TWIN)}, {"d"}
    assert isinstance(only(healer(fake).get_all([pod()])), Absent)


NOT_PROOF = [
    ("forbidden", error(403, "Forbidden")),
    ("wrong path", error(404, "Not Found")),
    ("other words", error(404, "DagRun was not found")),
    ("another run", error(404, "The DagRun with dag_id: `d` and run_id: `x` was not found")),
    ("a list", error(404, ["The DagRun with dag_id: `d` and run_id: `r` was not found"])),
    ("html", Reply(404, b"<html>", {"Content-Type": "text/html"})),
    ("bug", error(500, "bug")),
    ("gone", error(410, "gone")),
    ("redirect", Reply(302, b"", {"Location": "/login"})),
    ("another id", Reply(body={"dag_run_id": "x", "dag_id": "x"})),
    ("nonsense", Reply(body=[])),
]


@pytest.mark.parametrize("place", ["run", "dag", "task instance"])
@pytest.mark.parametrize("reply", [case[1] for case in NOT_PROOF], ids=[case[0] for case in NOT_PROOF])
def test_only_the_exact_words_prove_absence(fake: FakeAirflow, place: str, reply: Reply) -> None:
    fake.dags = {"d"}
    fake.runs = {("d", "r")} if place == "task instance" else set()
    ending = {"run": "/dagRuns/r", "dag": "/dags/d", "task instance": "/taskInstances/t/-1"}[place]
    fake.intercept = lambda asked: reply if asked.path.endswith(ending) else None
    answer = only(healer(fake).get_all([pod(run="r")]))
    assert isinstance(answer, Unknown)


@pytest.mark.parametrize("reply", [case[1] for case in NOT_PROOF], ids=[case[0] for case in NOT_PROOF])
def test_a_second_look_at_the_dag_that_fails_proves_nothing(fake: FakeAirflow, reply: Reply) -> None:
    fake.dags = {"d"}
    seen: list[str] = []

    def second(asked: Asked) -> Reply | None:
        if asked.path != f"{API}/dags/d":
            return None
        seen.append(asked.path)
        return reply if len(seen) == 2 else None

    fake.intercept = second
    assert isinstance(only(healer(fake).get_all([pod(run="r")])), Unknown)
    assert len(seen) == 2


def test_the_words_of_3_0(fake: FakeAirflow) -> None:
    fake.version = "3.0.6"
    fake.intercept = lambda asked: error(404, "Dag with id d was not found") if asked.path == f"{API}/dags/d" else None
    assert isinstance(only(healer(fake).get_all([pod(run="r")])), DagDeleted)


def test_absence_of_a_thousand_runs_is_bounded(fake: FakeAirflow) -> None:
    fake.dags = {"d"}
    pods = [pod(run=f"r{i}") for i in range(700)]
    answers = healer(fake).get_all(pods)
    assert kinds(answers, pods).count("RunDeleted") == 500
    assert kinds(answers, pods).count("Unknown") == 200


def test_absence_of_many_task_instances_is_bounded(fake: FakeAirflow) -> None:
    fake.dags, fake.runs = {"d"}, {("d", "r")}
    pods = [pod(run="r", task=f"t{i}") for i in range(300)]
    answers = healer(fake).get_all(pods)
    assert Counter(kinds(answers, pods)) == {"Absent": 200, "Unknown": 100}, "nobody has asked about the others"
    assert len(fake.paths(part="/taskInstances/t")) == 200


# --- identity ---


def suspect(fake: FakeAirflow, **named: Any) -> Pod:
    """A running Pod whose task instance has ended; `named` is what each source holds."""
    fake.rows = [row(state="success", end_date="2026-01-01T01:00:00Z")]
    fake.named = {(source, "t"): value for source, value in named.items()}
    return pod(name="mine")


def identity(fake: FakeAirflow, one: Pod) -> Any:
    answer = only(healer(fake).get_all([one]))
    assert isinstance(answer, Known)
    return answer.identity


def test_a_pod_in_use_needs_no_identity(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    assert identity(fake, pod()) is None
    assert fake.paths(part="state-store") == []


@AIRFLOW_3
def test_the_state_store_names_this_pod(fake: FakeAirflow) -> None:
    one = suspect(fake, state={"name": "mine", "namespace": "jobs"}, pod_name="other")
    found = identity(fake, one)
    assert found.names(one)
    assert fake.paths(part="xcom") == [], "no need to ask on"


@AIRFLOW_3
def test_sources_add_up(fake: FakeAirflow) -> None:
    one = suspect(fake, state={"name": "other", "namespace": "jobs"}, pod_name="mine", pod_namespace="jobs")
    found = identity(fake, one)
    assert found.named == {("jobs", "other"), ("jobs", "mine")}
    assert not found.names_another(one)


@AIRFLOW_3
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, set()),
        ({"pod_name": "other"}, {(None, "other")}),
        ({"pod_name": '"other"', "pod_namespace": '"jobs"'}, {("jobs", "other")}),
        ({"pod_namespace": "jobs"}, set()),
        ({"state": '{"name": "other", "namespace": "jobs"}'}, {("jobs", "other")}),
    ],
)
def test_what_sources_say(fake: FakeAirflow, named: dict[str, Any], expected: set[Any]) -> None:
    found = identity(fake, suspect(fake, **named))
    assert (found.named, found.failed) == (expected, None)


SOURCES = ["state-store/pod_identifier", "xcomEntries/pod_name", "xcomEntries/pod_namespace"]


@AIRFLOW_3
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "reply",
    [
        error(500, "bug"),
        error(404, "Not Found"),
        missing("d", RUN, "t"),
        Reply(body={}),
        Reply(302, b""),
        error(403, ""),
    ],
    ids=["bug", "path", "task instance", "shape", "redirect", "odd 403"],
)
def test_a_source_that_fails_makes_the_answer_unknown(fake: FakeAirflow, source: str, reply: Reply) -> None:
    one = suspect(fake, pod_name="mine", pod_namespace="jobs")
    fake.intercept = always(reply, source)
    answer = only(healer(fake).get_all([one]))
    assert judge(one, answer).reason is Reason.AIRFLOW_UNKNOWN


@pytest.mark.parametrize("source", SOURCES[:2])
def test_a_source_that_we_may_not_read_is_none(fake: FakeAirflow, source: str) -> None:
    one = suspect(fake)
    fake.intercept = always(error(403, "Forbidden"), source)
    found = identity(fake, one)
    assert (found.named, found.failed) == (frozenset(), None)
    assert judge(one, only(healer(fake).get_all([one]))).reason is Reason.ORPHANED


@AIRFLOW_3
@pytest.mark.parametrize("source", SOURCES[:2])
def test_a_source_that_we_may_not_read_any_more_makes_the_answer_unknown(fake: FakeAirflow, source: str) -> None:
    """It has answered before, and what it said may be a reason to keep."""
    one = suspect(fake)
    airflow = healer(fake)
    assert judge(one, only(airflow.get_all([one]))).reason is Reason.ORPHANED
    fake.intercept = always(error(403, "Forbidden"), source)
    assert judge(one, only(airflow.get_each([one]))).reason is Reason.AIRFLOW_UNKNOWN
    fake.intercept = lambda _: None
    assert judge(one, only(airflow.get_each([one]))).reason is Reason.ORPHANED


@pytest.mark.parametrize(("version", "asked"), [("3.0.6", 0), ("3.2.2", 0), ("3.3.0", 1)])
def test_the_state_store_is_asked_from_3_3_on(fake: FakeAirflow, version: str, asked: int) -> None:
    fake.version = version
    identity(fake, suspect(fake, pod_name="mine"))
    assert len(fake.paths(part="state-store")) == asked


def test_identity_is_asked_once_and_freshly_when_it_matters(fake: FakeAirflow) -> None:
    one = suspect(fake, pod_name="mine")
    airflow = healer(fake)
    airflow.get_all([one])
    airflow.get_all([one])
    airflow.start_audit()
    airflow.list_recently_ended([one])
    assert len([path for path in fake.paths() if path.endswith("/pod_name")]) == 1
    fake.named["pod_name", "t"] = "other"
    answer = only(airflow.get_each([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert answer.identity.names_another(one)


@AIRFLOW_3
def test_a_new_try_has_a_new_identity(fake: FakeAirflow) -> None:
    one = suspect(fake, pod_name="mine")
    airflow = healer(fake)
    airflow.get_all([one])
    fake.rows[0]["id"] = "after a clear"
    fake.named["pod_name", "t"] = "other"
    answer = only(airflow.get_all([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert answer.identity.names_another(one)


def test_an_identity_that_may_still_change_is_asked_again_at_an_audit(fake: FakeAirflow) -> None:
    one = suspect(fake, pod_name="other")
    fake.rows = [row(try_number=2)]
    airflow = healer(fake)
    airflow.get_all([one])
    airflow.start_audit()
    fake.named["pod_name", "t"] = "mine"
    answer = only(airflow.get_all([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert not answer.identity.names_another(one)


@AIRFLOW_3
def test_which_pod_an_ended_try_has_used_stays_true_when_airflow_forgets_its_name(fake: FakeAirflow) -> None:
    one = suspect(fake, state={"name": "other", "namespace": "jobs"})
    airflow = healer(fake)
    assert judge(one, only(airflow.get_all([one]))).reason is Reason.OTHER_POD
    fake.named.clear()
    for _ in range(3):
        airflow.start_audit()
        assert judge(one, only(airflow.get_all([one]))).reason is Reason.OTHER_POD
    fake.rows[0]["id"] = "after a clear"
    assert judge(one, only(airflow.get_all([one]))).reason is Reason.ORPHANED


MINE: dict[str, Any] = {"state": {"name": "mine", "namespace": "jobs"}}


def sources(fake: FakeAirflow) -> int:
    return len(fake.paths(part="state-store")) + len(fake.paths(part="xcomEntries"))


@AIRFLOW_3
def test_that_an_ended_try_has_used_this_very_pod_is_heard_once(fake: FakeAirflow) -> None:
    """The row is asked for anew, and tells whether the try has ended still; the name can't become another one."""
    one = suspect(fake, **MINE)
    airflow = healer(fake)
    first = only(airflow.get_all([one]))
    assert isinstance(first, Known)
    assert first.heard is None
    fake.named.clear()
    before = sources(fake)
    for _ in range(2):
        answer = only(airflow.get_each([one]))
        assert isinstance(answer, Known)
        assert answer.identity == first.identity
        assert answer.heard is not None
        assert answer.heard <= first.sent < answer.sent
    assert sources(fake) == before


@AIRFLOW_3
@pytest.mark.parametrize(
    "change",
    [
        {"id": "after a clear"},
        {"try_number": 2},
        {"state": "failed"},
        {"end_date": "2026-01-01T02:00:00Z"},
        {"end_date": None},
    ],
    ids=str,
)
def test_another_end_may_have_used_another_pod(fake: FakeAirflow, change: dict[str, Any]) -> None:
    """Of an id that comes again out of a backup too."""
    one = suspect(fake, **MINE)
    airflow = healer(fake)
    airflow.get_all([one])
    fake.rows[0] |= change
    before = sources(fake)
    answer = only(airflow.get_each([one]))
    assert isinstance(answer, Known)
    assert answer.heard is None
    assert sources(fake) > before


@AIRFLOW_3
@pytest.mark.parametrize(
    "named",
    [
        {},
        {"pod_name": "mine"},
        {"pod_name": "other", "pod_namespace": "jobs"},
        {"state": {"name": "other", "namespace": "jobs"}},
        {"state": {"name": "mine", "namespace": "elsewhere"}},
    ],
    ids=str,
)
def test_any_other_name_is_heard_anew_where_a_pod_is_confirmed(fake: FakeAirflow, named: dict[str, Any]) -> None:
    one = suspect(fake, **named)
    airflow = healer(fake)
    airflow.get_all([one])
    before = sources(fake)
    answer = only(airflow.get_each([one]))
    assert isinstance(answer, Known)
    assert answer.heard is None
    assert sources(fake) > before


def test_the_name_of_a_try_that_goes_on_is_heard_anew(fake: FakeAirflow) -> None:
    """It may adopt a Pod without a trace in the row."""
    one = suspect(fake, pod_name="mine", pod_namespace="jobs")
    fake.rows = [row(try_number=2)]
    airflow = healer(fake)
    airflow.get_all([one])
    before = sources(fake)
    airflow.get_each([one])
    assert sources(fake) > before


# --- which Pod the latest try has named ---


def current(fake: FakeAirflow, one: Pod) -> Any:
    airflow = healer(fake)
    answer = only(airflow.get_all([one]))
    assert isinstance(answer, Known)
    return airflow.get_current_pods([(one, answer.task)])[one.uid]


def test_the_latest_try_names_its_pod_by_the_xcom_and_not_by_what_the_state_store_has_kept(fake: FakeAirflow) -> None:
    one = suspect(fake, state={"name": "old", "namespace": "jobs"}, pod_name="mine", pod_namespace="jobs")
    assert current(fake, one).named == {("jobs", "mine")}
    one = suspect(fake, state={"name": "mine", "namespace": "jobs"})
    assert current(fake, one).named == frozenset()


@AIRFLOW_3
def test_where_xcoms_may_not_be_read_the_state_store_says_which_pod_is_the_latest(fake: FakeAirflow) -> None:
    one = suspect(fake, state={"name": "mine", "namespace": "jobs"}, pod_name="other")
    fake.intercept = always(error(403, "Forbidden"), "xcomEntries")
    assert current(fake, one).named == {("jobs", "mine")}


def test_which_pod_is_the_latest_is_not_known_where_airflow_does_not_answer(fake: FakeAirflow) -> None:
    one = suspect(fake, pod_name="mine")
    fake.intercept = always(error(500, "bug"), "xcomEntries")
    assert current(fake, one).failed
    airflow = healer(fake)
    fake.intercept = always(error(503, "away"), "")
    found = airflow.get_current_pods([(one, TaskInstance("d", RUN, "t", -1))])
    assert found[one.uid].failed


def test_ids_that_fit_into_no_url_leave_the_latest_pod_unknown(fake: FakeAirflow) -> None:
    found = healer(fake).get_current_pods([(pod(), TaskInstance("d", "a/b", "t", -1))])
    assert "URL" in str(found[pod().uid].failed)


# --- check ---


@AIRFLOW_3
def test_a_healthy_airflow_passes_every_check(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    found = healer(fake).probe()
    assert found.good
    assert found.version == "3.3.2"
    assert [check.status for check in found.checks] == ["ok"] * 7


@AIRFLOW_3
@pytest.mark.parametrize(
    ("part", "name", "mark"),
    [
        ("/dags", "read DAGs", "fail"),
        ("/dagRuns", "read dag runs", "fail"),
        ("/list", "read task instances", "fail"),
        ("/state-store/pod_identifier", "read state store", "warn"),
        ("/xcomEntries/pod_name", "read XComs", "warn"),
    ],
)
def test_each_missing_right_is_named(fake: FakeAirflow, part: str, name: str, mark: str) -> None:
    fake.rows = [row()]
    fake.intercept = lambda asked: error(403, "Forbidden") if asked.path.endswith(part) else None
    found = healer(fake).probe()
    check = next(check for check in found.checks if check.name == name)
    assert check.status == mark
    assert "can_read on" in check.text
    assert found.good is (mark != "fail")


@AIRFLOW_3
def test_check_says_that_the_login_is_refused(fake: FakeAirflow) -> None:
    found = healer(fake, password="wrong-password").probe()
    assert (found.good, found.refused, found.version) == (False, True, "3.3.2")
    assert "login refused" in found.checks[-1].text


def test_check_says_that_no_dag_can_be_read(fake: FakeAirflow) -> None:
    found = healer(fake).probe()
    assert found.good
    assert [check.status for check in found.checks if check.name == "read DAGs"] == ["warn"]


def test_check_names_an_unknown_version(fake: FakeAirflow) -> None:
    fake.version = "9.9.9"
    found = healer(fake).probe()
    assert not found.good
    assert "Airflow 9.9.9" in found.checks[0].text
