"""What is peculiar to Airflow 2: its logins, its 403, its XComs that outlive a try, its roles for single DAGs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from healer.airflow import Airflow, Call, NoteResult, Status
from healer.airflow.api import client as client_module
from healer.airflow.api import login2
from healer.decision.labels import safe_label
from healer.decision.quarantine import signature
from healer.decision.rules import judge
from healer.errors import LoginRefusedError
from healer.model import Absent, Answer, DagDeleted, Known, Labels, Pod, Reason, RunDeleted, Unknown
from tests.unit.airflow_fake import API, Asked, FakeAirflow, Reply, error, healer, kinds, pod, row, serving
from tests.unit.airflow_front2 import SECRET

END = "2026-01-01T01:00:00Z"
HEALER = Path(login2.__file__).parents[2]


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving(version="2.11.2") as server:
        yield server


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(login2, "boottime", lambda: now[0])
    return now


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


def why(answer: Answer) -> str:
    assert isinstance(answer, Unknown), answer
    return answer.why


def reason(one: Pod, answer: Answer) -> Reason:
    return judge(one, answer).reason


# --- the login ---


def test_the_form_is_filled_in_once_and_its_session_serves_all_questions(fake: FakeAirflow) -> None:
    fake.tokens = set()
    fake.rows = [row()]
    calls: list[Call] = []
    airflow = healer(fake, calls)
    for _ in range(3):
        airflow.start_audit()
        assert isinstance(only(airflow.get_all([pod()])), Known)
    assert airflow.version == "2.11.2"
    assert fake.logins == 1
    assert [(call.call, call.code) for call in calls if call.call == "login"] == [("login", "200"), ("login", "302")]
    assert any(call.authenticated for call in calls)


@pytest.mark.parametrize("dead", [401, 403])
def test_a_session_that_has_ended_is_renewed_at_most_once_a_minute(
    fake: FakeAirflow, clock: list[float], dead: int
) -> None:
    fake.tokens = set()
    fake.rows = [row()]
    airflow = healer(fake)
    airflow.get_all([pod()])

    def end() -> None:
        ended = set(fake.tokens or ())
        fake.intercept = lambda asked: error(dead, "Forbidden") if asked.token in ended else None

    end()
    assert "there is at most one login in 60 s" in why(only(airflow.get_all([pod()])))
    clock[0] += 61
    assert isinstance(only(airflow.get_all([pod()])), Known)
    assert fake.logins == 2
    end()
    with pytest.raises(LoginRefusedError):
        airflow.login()
    assert fake.logins == 2


def test_a_wrong_password_is_told_from_a_missing_right_and_not_sent_again(fake: FakeAirflow) -> None:
    airflow = healer(fake, password="wrong-password")
    for _ in range(3):
        assert "does not accept the password of healer" in why(only(airflow.get_all([pod()])))
    assert len(fake.paths(part="/auth/token")) == 1
    assert fake.lists() == []


@pytest.mark.parametrize("kind", ["token", "tokenFile", "cookieFile"])
def test_tokens_and_cookies_from_outside(fake: FakeAirflow, tmp_path: Path, kind: str) -> None:
    fake.tokens, fake.rows = {"good"}, [row()]
    path = tmp_path / "given"
    path.write_text("good")
    value = "good" if kind == "token" else str(path)
    assert isinstance(only(healer(fake, **{kind: value}).get_all([pod()])), Known)
    path.write_text("bad")
    value = "bad" if kind == "token" else str(path)
    said = why(only(healer(fake, **{kind: value}).get_all([pod()])))
    assert "refuses every question with 403" in said
    assert "a new one" in said


def test_the_paths_of_airflow_3_may_be_behind_a_gate(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an ingress lets /api/v1 through and sends everything else to a login."""
    fake.rows = [row()]
    front = client_module.AirflowTransport.send

    def send(self: Any, request: Any, credential: Any) -> Any:
        if request.path.startswith("/api/v2"):
            from healer.airflow.api import refusals
            from healer.airflow.api.transport import RawResponse

            raise refusals.redirected(self.url, RawResponse(302, b"", 0.0, False, "https://sso/login", None))
        return front(self, request, credential)

    monkeypatch.setattr(client_module.AirflowTransport, "send", send)
    assert isinstance(only(healer(fake).get_all([pod()])), Known)


def test_an_upgrade_to_airflow_3_is_noticed_and_the_login_is_another_one(fake: FakeAirflow) -> None:
    fake.tokens, fake.rows = set(), [row()]
    airflow = healer(fake)
    airflow.get_all([pod()])
    fake.version, fake.tokens = "3.0.6", set()
    answers = [only(airflow.get_all([pod()])) for _ in range(2)]
    assert [type(answer).__name__ for answer in answers] == ["Unknown", "Known"]
    assert airflow.version == "3.0.6"


# --- a 403 is a missing right or a login that has ended ---


def ended(**fields: Any) -> dict[str, Any]:
    return row(state="failed", end_date=END, **fields)


def steps(fake: FakeAirflow, airflow: Airflow, one: Pod) -> int:
    """How many requests a confirmation takes."""
    fake.asked.clear()
    airflow.get_each([one])
    return len(fake.asked)


@pytest.mark.parametrize("dead", [401, 403])
@pytest.mark.parametrize("at", range(8))
def test_a_session_that_ends_at_any_request_of_a_confirmation_never_hides_whose_pod_it_is(
    fake: FakeAirflow, clock: list[float], dead: int, at: int
) -> None:
    """The Pod is another Airflow's copy: `other-pod`, as the XCom names another one. Without the XCom it would go."""
    fake.tokens, fake.rows = set(), [ended()]
    fake.named = {("pod_name", "t"): "another-pod", ("pod_namespace", "t"): "jobs"}
    one = pod(name="copy")
    airflow = healer(fake)
    assert reason(one, only(airflow.get_all([one]))) is Reason.OTHER_POD
    assert at >= steps(fake, airflow, one) or at < 4
    fake.asked.clear()
    gone: set[str] = set()

    def end(asked: Asked) -> Reply | None:
        if len(fake.asked) == at + 1:
            gone.update(fake.tokens or ())
        return error(dead, "Forbidden") if asked.token in gone else None

    fake.intercept = end
    for soon in (True, False):
        clock[0] += 0 if soon else 61
        found = reason(one, only(airflow.get_each([one])))
        assert found in {Reason.OTHER_POD, Reason.AIRFLOW_UNKNOWN}
    assert found is Reason.OTHER_POD


def test_a_right_that_is_missing_is_believed_when_the_login_is_alive(fake: FakeAirflow) -> None:
    fake.rows = [ended()]
    fake.named = {("pod_name", "t"): "another-pod"}
    fake.intercept = lambda asked: error(403, "Forbidden") if "xcomEntries" in asked.path else None
    one = pod()
    airflow = healer(fake)
    answer = only(airflow.get_each([one]) if airflow.get_all([one]) is None else airflow.get_all([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert answer.identity.failed is None
    assert fake.logins == 1, "and costs no new login"


def test_where_visitors_may_read_no_403_is_believed(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.rows = [ended()]
    fake.intercept = lambda asked: error(403, "Forbidden") if "xcomEntries" in asked.path else None
    monkeypatch.setattr("tests.unit.airflow_front2._token", lambda _headers: "visitor")
    one = pod()
    answer = only(healer(fake).get_all([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert "AUTH_ROLE_PUBLIC" in str(answer.identity.failed)


# --- which Pod Airflow names ---


@pytest.mark.parametrize("state", ["running", "deferred"])
@pytest.mark.parametrize(
    ("pushed", "expected"),
    [
        ("2026-01-01T00:00:01.400000+00:00", Reason.ADOPTION_UNKNOWN),
        ("2026-01-01T00:00:01.500000+00:00", Reason.SUPERSEDED),
        ("2026-01-01T00:00:05+00:00", Reason.SUPERSEDED),
    ],
)
def test_an_xcom_of_the_try_before_names_nobody(fake: FakeAirflow, state: str, pushed: str, expected: Reason) -> None:
    fake.rows = [row(state=state, try_number=2)]
    fake.named = {("pod_name", "t"): "pod-of-try-2", ("pod_namespace", "t"): "jobs"}
    fake.pushed = pushed
    one, two = pod(name="pod-of-try-1", uid="1"), pod(name="pod-of-try-2", uid="2", created=1767225700.0)
    two = Pod(**{**{f: getattr(two, f) for f in two.__struct_fields__}, "labels": Labels(*_labels(two)[:4], "2")})
    airflow = healer(fake)
    answers = airflow.get_all([one, two])
    answer = answers[one.uid]
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert answer.identity.named == (frozenset() if expected is Reason.ADOPTION_UNKNOWN else {("jobs", "pod-of-try-2")})


def _labels(one: Pod) -> tuple[str | None, ...]:
    labels = one.labels
    return labels.dag_id, labels.task_id, labels.run_id, labels.map_index, labels.try_number


def test_an_xcom_of_a_try_that_has_ended_counts_whenever_it_was_pushed(fake: FakeAirflow) -> None:
    fake.rows = [ended()]
    fake.named = {("pod_name", "t"): "another-pod"}
    fake.pushed = "2025-01-01T00:00:00+00:00"
    one = pod()
    assert reason(one, only(healer(fake).get_all([one]))) is Reason.OTHER_POD


def test_an_xcom_of_another_task_instance_is_no_answer(fake: FakeAirflow) -> None:
    fake.rows = [ended()]
    fake.intercept = lambda asked: (
        Reply(body={"key": "pod_name", "dag_id": "other", "value": "p"}) if "xcomEntries" in asked.path else None
    )
    one = pod()
    answer = only(healer(fake).get_all([one]))
    assert isinstance(answer, Known)
    assert answer.identity is not None
    assert "another task instance" in str(answer.identity.failed)


@pytest.mark.parametrize(
    "change",
    [
        {"try_number": 2},
        {"max_tries": 5},
        {"start_date": "2026-01-01T00:00:02Z"},
        {"end_date": "2026-01-01T01:00:01Z"},
        {"state": "success"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_what_identifies_a_try_begins_the_patience_anew(fake: FakeAirflow, change: dict[str, Any]) -> None:
    one, airflow, seen = pod(), healer(fake), []
    for fields in ({}, {}, change):
        fake.rows = [ended() | fields]
        seen.append(signature(judge(one, only(airflow.get_all([one])))))
    assert seen[0] == seen[1] != seen[2]


def test_tries_are_never_asked_for(fake: FakeAirflow) -> None:
    """After a clear of a running task they list one and the same try twice, failed and running."""
    sources = "".join(path.read_text() for path in HEALER.rglob("*.py"))
    assert not re.search(r"/tries\b", sources)


# --- what is not there ---


def test_absence_is_proven_by_run_and_dag_alone(fake: FakeAirflow) -> None:
    fake.dags, fake.runs = {"d", "there"}, {("there", "r")}
    pods = [pod(), pod(dag="there", run="r"), pod(dag="gone")]
    answers = [type(answer) for answer in healer(fake).get_all(pods).values()]
    assert answers == [RunDeleted, Absent, DagDeleted]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, {"detail": None, "status": 404, "title": "DAGRun not found", "type": "about:blank"}),
        Reply(404, {"title": "DAGRun not found", "detail": "DAGRun with DAG ID: 'd' and DagRun ID: 'x' not found"}),
        Reply(404, b"<title>Airflow 404</title>", {"Content-Type": "text/html"}),
        Reply(404, b""),
    ],
    ids=["no ids", "other run", "page", "nothing"],
)
def test_a_404_without_the_ids_proves_no_run_deleted(fake: FakeAirflow, reply: Reply) -> None:
    fake.dags = {"d"}
    reply.headers.setdefault("Content-Type", "application/problem+json")
    fake.intercept = lambda asked: reply if re.search(r"/dagRuns/[^/]+$", asked.path) else None
    assert isinstance(only(healer(fake).get_all([pod()])), Unknown)


# --- roles for single DAGs ---


def for_dags(fake: FakeAirflow, *readable: str) -> None:
    """Let the role read these DAGs alone: a list with any other one is refused whole, one that is not there too."""

    def intercept(asked: Asked) -> Reply | None:
        if asked.is_list:
            return None if set(asked.body.get("dag_ids", readable)) <= set(readable) else error(403, "Forbidden")
        parts = asked.path.removeprefix(f"{API}/dags").split("/")
        if not asked.path.startswith(f"{API}/dags"):
            return None
        if len(parts) > 1 and parts[1] not in (*readable, "~"):
            return error(403, "Forbidden")
        if asked.path == f"{API}/dags":
            found = [{"dag_id": dag} for dag in readable]
            return Reply(body={"dags": found, "total_entries": len(found)})
        return None

    fake.intercept = intercept


def test_a_list_that_is_refused_is_split_and_readable_dags_are_answered(fake: FakeAirflow) -> None:
    dags = [f"d{n:02}" for n in range(20)]
    fake.rows = [row(dag=dag) for dag in dags]
    pods = [pod(dag=dag) for dag in [*dags, "unknown"]]
    for_dags(fake, *dags[:17])
    airflow = healer(fake)
    for _ in range(2):
        answers = airflow.get_all(pods)
        assert kinds(answers, pods) == ["Known"] * 17 + ["Unknown"] * 4
    assert len(fake.lists()) <= 1 + 1 + 2 * 4 * 6
    assert fake.logins == 1
    fake.asked.clear()
    airflow.get_all(pods)
    assert [len(body["dag_ids"]) for body in fake.lists()] == [17], "what is refused is in no list any more"


def test_a_dag_whose_id_is_hashed_is_found_by_a_role_for_it_alone(fake: FakeAirflow) -> None:
    """No DAG is called like the label; to ask about one would be refused."""
    long = "dag" * 30
    fake.rows = [row(dag=long, run="r")]
    for_dags(fake, long)
    one = pod(dag=long, run="r")
    assert one.labels.dag_id == safe_label(long) != long
    assert isinstance(only(healer(fake).get_all([one])), Known)
    assert all(body["dag_ids"] == [long] for body in fake.lists())


# --- mapped tasks ---


def test_a_large_mapped_task_is_asked_by_its_indices_one_by_one_and_bounded(fake: FakeAirflow) -> None:
    fake.rows = [row(task="m", run="r", map_index=n) for n in range(1500)]
    pods = [pod(task="m", run="r", map_index=n) for n in range(60)]
    airflow = healer(fake)
    assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}
    fake.asked.clear()
    assert set(kinds(airflow.get_all(pods), pods)) == {"Known"}
    assert (len(fake.lists()), len(fake.asked)) == (0, 60)


# --- secrets ---


def everything_told(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], *values: object) -> str:
    out = capsys.readouterr()
    return "\n".join([out.out, out.err, caplog.text, *(f"{value!r} {value}" for value in values)])


@pytest.mark.parametrize("broken", ["nothing", "shape", "cut off", "500", "ids", "trigger"])
def test_the_clusters_credentials_in_a_trigger_are_told_nowhere(
    fake: FakeAirflow, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.rows = [ended(trigger={"kwargs": SECRET})]
    secret = {"kwargs": f"{{'token': '{SECRET}'}}"}
    spoilt: dict[str, Callable[[], Reply]] = {
        "shape": lambda: Reply(body={"task_instances": [{**row(), "try_number": secret, "trigger": secret}]}),
        "cut off": lambda: Reply(body=json.dumps({"task_instances": [{"trigger": secret}]}).encode()[:-4]),
        "500": lambda: Reply(500, {"title": "Internal Server Error", "trigger": secret}),
        "ids": lambda: Reply(body={"task_instances": [{"trigger": secret}], "total_entries": 1}),
        "trigger": lambda: Reply(
            body={"task_instances": [{**row(), "trigger": [secret]}], "total_entries": 1, "trigger": secret}
        ),
    }
    if broken in spoilt:
        fake.intercept = lambda asked: spoilt[broken]() if "/taskInstances" in asked.path else None
    one, calls = pod(), list[Call]()
    airflow = healer(fake, calls)
    answers = [airflow.get_all([one]), airflow.get_each([one]), airflow.list_recently_ended([one])]
    findings = [judge(one, answer) for told in answers for answer in told.values()]
    told = everything_told(caplog, capsys, answers, findings, calls, airflow.troubles(), vars(airflow))
    assert SECRET not in told
    assert fake.password not in told


# --- check and notes ---


def checks(fake: FakeAirflow, **fields: Any) -> dict[str, tuple[Status, str]]:
    return {each.name: (each.status, each.text) for each in healer(fake, **fields).probe().checks}


def test_check_says_which_airflow_it_is_and_what_lacks(fake: FakeAirflow) -> None:
    fake.rows = [row()]
    fake.named = {("pod_name", "t"): "p"}
    told = checks(fake)
    assert told["version"] == (Status.OK, f"Airflow 2.11.2 (asked by /api/v1) at {fake.url}")
    assert {status for status, _ in told.values()} == {Status.OK}
    assert told["read state store"][1] == "Airflow 2.11.2 has no task state store (3.3 brings it)"
    assert told["read XComs"][1] == "XComs can be read: the only source for the Pod that Airflow uses"
    assert "is a Pod's name" in told["Pod names"][1]
    fake.intercept = lambda asked: error(403, "Forbidden") if "xcomEntries" in asked.path else None
    assert checks(fake)["read XComs"][0] is Status.WARN
    fake.intercept = lambda asked: error(403, "Forbidden") if "taskInstances" in asked.path else None
    told = checks(fake)
    assert told["read task instances"][0] is Status.FAIL
    assert "the role Viewer has all" in told["read task instances"][1]


def test_a_note_is_written_below_ours_alone(fake: FakeAirflow) -> None:
    fake.rows = [ended(note=None)]
    sent: list[Any] = []

    def intercept(asked: Asked) -> Reply | None:
        if asked.method == "PATCH":
            sent.append(asked.body)
            return Reply(body={})
        return None

    fake.intercept = intercept
    airflow = healer(fake, notes=True)
    answer = only(airflow.get_all([pod()]))
    assert isinstance(answer, Known)
    assert airflow.write_note(answer.task, "deleted") is NoteResult.WRITTEN
    assert sent == [{"note": "kpo-healer: deleted"}]
    fake.rows[0]["note"] = "a user's"
    assert airflow.write_note(answer.task, "deleted") is NoteResult.SPARED


# --- nothing else knows which Airflow it is ---


def test_nothing_outside_the_api_names_a_path_of_airflow() -> None:
    inside = HEALER / "airflow" / "api"
    named = [
        str(path.relative_to(HEALER))
        for path in HEALER.rglob("*.py")
        if inside not in path.parents and re.search(r"[\"'`/]api/v[12]\b|/auth/token|dialect[23]", path.read_text())
    ]
    assert named == []
