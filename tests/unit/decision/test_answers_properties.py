"""The same invariant one level up: whatever is missing from Airflow's answers, no Pod that was kept is acted on.

A small world of task instances and their Pods is asked about through the real client, resolver, lists and joins; only
the wire is replaced. Then the same questions are asked with something taken out of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr

from healer.airflow import Airflow
from healer.airflow.api import client
from healer.airflow.api.credential import Credential
from healer.airflow.api.transport import AirflowRequest, RawResponse
from healer.airflow.queries import session as round_
from healer.config import AirflowConfig
from healer.decision.rules import judge, needs_siblings
from healer.model import ACTING, Action, Answer, Finding, Known, Labels, Pod, Reason
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, error
from tests.unit.strategies import RUN_ID, RUN_LABEL

LONG, LONG_LABEL = "x" * 64, "x" * 53 + "-c1bb4f81d"
CREATED, ENDED = 1_767_225_602.0, "2026-01-01T00:05:00Z"

Row = dict[str, Any]
Ids = tuple[str, str, str, int]


def ids_of(row: Row) -> Ids:
    """Return the ids of a row."""
    return row["dag_id"], row["dag_run_id"], row["task_id"], row["map_index"]


@dataclass(frozen=True)
class World:
    """What Airflow has, and the Pods there are. `names`: which Pod Airflow names for a task instance."""

    rows: tuple[Row, ...]
    pods: tuple[Pod, ...]
    names: Mapping[Ids, str]
    runs: frozenset[tuple[str, str]] = frozenset({("etl", "manual-2")})


@dataclass
class Wire:
    """Stands in for the network: answers from a world, each answer altered by the fault."""

    world: World
    fault: Callable[[AirflowRequest, Any], Any] = field(default=lambda _, reply: reply)
    clamp: int = 10**9
    url: str = "http://airflow"

    def __post_init__(self) -> None:
        self.fake = FakeAirflow()
        self.fake.rows, self.fake.clamp = [dict(row) for row in self.world.rows], self.clamp
        self.fake.dags, self.fake.runs = {"etl", LONG}, set(self.world.runs)
        self.fake.intercept = self._named

    def send(self, request: AirflowRequest, credential: Credential | None) -> RawResponse:
        """Answer as the transport does."""
        path = request.path.format(**{name: quote(str(one), safe="") for name, one in request.ids.items()})
        query = tuple((name, str(value)) for name, value in request.query)
        reply = self.fault(
            request,
            self.fake.answer(
                Asked(
                    request.method, path, query, request.body, credential and credential.value.removeprefix("Bearer ")
                )
            ),
        )
        return RawResponse(reply.status, reply.encoded(), sent=0.0, json=True, location="", date=None)

    def _named(self, asked: Asked) -> Reply | None:
        """Answer for the state store, or for the XComs where the state store has nothing."""
        if "/state-store/" not in asked.path and "/xcomEntries/" not in asked.path:
            return None
        *_, dag, _, run, _, task, _, key = asked.path.split("/")
        index = int(dict(asked.query)["map_index"])
        name = next(
            (n for ids, n in self.world.names.items() if (*map(quote_all, ids[:3]), ids[3]) == (dag, run, task, index)),
            None,
        )
        in_store = name is not None and index == -1
        if key == "pod_identifier":
            missing = error(404, "Task state store key 'pod_identifier' not found")
            return Reply(body={"value": {"name": name, "namespace": "airflow"}}) if in_store else missing
        value = {"pod_name": name, "pod_namespace": "airflow"}.get(key) if name else None
        return error(404, f"XCom entry with key: `{key}` not found") if value is None else Reply(body={"value": value})


def quote_all(text: str) -> str:
    return quote(text, safe="")


class OneByOne:
    """Stands in for the pool of threads."""

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1) -> list[Any]:
        return [work(item) for item in items]


CONFIG = AirflowConfig(name="default", namespaces=("airflow",), url="http://airflow", token=SecretStr("t"))


class Asking:
    """One Airflow that can be asked about the same Pods in three ways."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self._monkeypatch = monkeypatch

    def findings(
        self, how: str, fault: Callable[[AirflowRequest, Any], Any] | None = None, clamp: int = 10**9
    ) -> dict[str, Finding]:
        """Return the finding for every Pod. All but the last question go well."""
        wire = Wire(self.world)
        self._monkeypatch.setattr(client, "AirflowTransport", lambda *_: wire)
        self._monkeypatch.setattr(round_, "workers", OneByOne)
        airflow = Airflow(CONFIG)
        pods = self.world.pods
        before = {} if how == "get_all" else airflow.get_all(pods)
        wire.fake.clamp = clamp
        if fault is not None:
            wire.fault = fault
        answers = before | getattr(airflow, how)(pods)
        return {pod.uid: judge(pod, self._with_siblings(pod, answers[pod.uid])) for pod in pods}

    def _with_siblings(self, pod: Pod, answer: Answer) -> Answer:
        """Read the Pods that Airflow names, as a pass does."""
        if not isinstance(answer, Known) or not needs_siblings(pod, answer):
            return answer
        assert answer.identity is not None
        identity = answer.identity
        return replace(answer, siblings=tuple(other for other in self.world.pods if identity.names(other)))


# --- worlds -----------------------------------------------------------------------------------------------------------

LABELS = {"etl": "etl", LONG: LONG_LABEL, RUN_ID: RUN_LABEL, RUN_LABEL: RUN_LABEL, "manual-1": "manual-1"}
TRIES = ((1, 2), (2,), (1,), (), (1, 2, 3), (1, 1))
"""The tries of the Pods of one task instance."""

STATES = ("running", "success", "failed", "running", "deferred", "queued", "up_for_retry", None, "removed", "skipped")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw up to five task instances, some with the same labels, with up to two Pods each, and Pods without any."""
    mapped = draw(st.booleans())  # a task is either mapped or not
    places = st.tuples(
        st.sampled_from(("etl", LONG)),
        st.sampled_from((RUN_ID, RUN_LABEL, "manual-1")),
        st.sampled_from(("load", LONG)),
        st.sampled_from((0, 1, 5) if mapped else (-1,)),
    )
    rows: list[Row] = []
    pods: list[Pod] = []
    names: dict[Ids, str] = {}
    for ids in draw(st.lists(places, min_size=1, max_size=5, unique=True)):
        state, at_try = draw(st.sampled_from(STATES)), draw(st.sampled_from((2, 2, 1, 3)))
        rows.append(a_row(ids, state, at_try))
        own = [_drawn(draw, ids, len(pods) + n, try_) for n, try_ in enumerate(draw(st.sampled_from(TRIES)))]
        pods += own
        named = draw(st.sampled_from((*(pod.name for pod in own[::-1]), None, "gone")))
        if named is not None:
            names[ids] = named
    elsewhere = draw(st.sampled_from(("manual-2", "manual-3")))  # one exists without task instances, one does not
    pods.append(_drawn(draw, ("etl", elsewhere, "load", -1), len(pods), 1))
    return World(tuple(rows), tuple(pods), names)


def a_row(ids: Ids, state: str | None, try_number: int) -> Row:
    """A task instance as Airflow lists it."""
    dag, run, task, index = ids
    return {
        "id": "/".join(map(str, ids)),
        "dag_id": dag,
        "dag_run_id": run,
        "task_id": task,
        "map_index": index,
        "state": state,
        "try_number": try_number,
        "operator": "KubernetesPodOperator",
        "start_date": "2026-01-01T00:00:01Z",
        "end_date": ENDED if state in ("success", "failed") else None,
        "rendered_fields": {"namespace": "airflow"},
    }


def made(ids: Ids, number: int, label_try: int, **changes: Any) -> Pod:
    """Return a running Pod as KPO makes it for a try of the task instance."""
    dag, run, task, index = ids
    map_index = None if index < 0 else str(index)
    labels = Labels(LABELS.get(dag, dag), LABELS.get(task, task), LABELS.get(run, run), map_index, str(label_try))
    created = CREATED + 200.0 * label_try
    return replace(Pod("airflow", f"pod-{number}", f"uid-{number}", "1", created, "Running", labels), **changes)


def _drawn(draw: st.DrawFn, ids: Ids, number: int, label_try: int) -> Pod:
    phase = draw(st.sampled_from(("Running", "Running", "Succeeded")))
    return made(ids, number, label_try, phase=phase, checked=draw(st.integers(0, 3)) == 0)


# --- what can be missing ----------------------------------------------------------------------------------------------

Fault = Callable[[AirflowRequest, Reply], Reply]

CALLS = ("version", "dags", "tasks", "runs", "list", "task-instance", "run", "dag", "state-store", "xcom")
WRECKS: dict[str, Callable[[Reply], Reply]] = {
    "fails": lambda _: error(500, "Internal Server Error"),
    "is overloaded": lambda _: error(503, "no"),
    "is cut off": lambda reply: replace_body(reply, reply.encoded()[: len(reply.encoded()) // 2]),
    "is not what it should be": lambda reply: replace_body(reply, b'{"detail": null}'),
    "is a null": lambda reply: replace_body(reply, b"null"),
    "is not there": lambda _: error(404, "Not Found"),
    "says it is not there, in other words": lambda _: error(404, "Nothing was found"),
}


def replace_body(reply: Reply, body: bytes) -> Reply:
    return Reply(200, body) if reply.status == 200 else error(502, "Bad Gateway")


def wrecked(call: str, how: Callable[[Reply], Reply], skip: int) -> Fault:
    """All answers to one kind of question are spoiled, but the first `skip`."""
    seen = 0

    def fault(request: AirflowRequest, reply: Reply) -> Reply:
        nonlocal seen
        if request.call != call:
            return reply
        seen += 1
        return how(reply) if seen > skip else reply

    return fault


ROW_CHANGES: dict[str, Callable[[Row], Row | None]] = {
    "without state": lambda row: {k: v for k, v in row.items() if k != "state"},
    "with a state that is a number": lambda row: row | {"state": 7},
    "without try": lambda row: {k: v for k, v in row.items() if k != "try_number"},
    "with a null try": lambda row: row | {"try_number": None},
    "with a try that is a text": lambda row: row | {"try_number": "two"},
    "without operator": lambda row: {k: v for k, v in row.items() if k != "operator"},
    "with an empty operator": lambda row: row | {"operator": ""},
    "without DAG": lambda row: row | {"dag_id": None},
    "without run": lambda row: {k: v for k, v in row.items() if k != "dag_run_id"},
    "without map index": lambda row: {k: v for k, v in row.items() if k != "map_index"},
    "that is no object": lambda row: [],  # type: ignore[return-value, dict-item]
    "that did not come, though it was counted": lambda row: None,
}


def without(ids: Ids, change: Callable[[Row], Row | None]) -> Fault:
    """One row is spoiled or left out wherever it comes; the count of rows stays."""

    def fault(request: AirflowRequest, reply: Reply) -> Reply:
        if reply.status != 200 or request.call not in {"list", "list-get", "task-instance"}:
            return reply
        if request.call == "task-instance":
            return Reply(body=change(reply.body)) if ids_of(reply.body) == ids else reply
        rows = [change(row) if ids_of(row) == ids else row for row in reply.body["task_instances"]]
        return Reply(body=reply.body | {"task_instances": [row for row in rows if row is not None]})

    return fault


def breaking(ids: Ids) -> Fault:
    """One row makes every answer that holds it a failure, as a state that Airflow itself can't read does."""

    def fault(request: AirflowRequest, reply: Reply) -> Reply:
        if reply.status != 200 or request.call not in {"list", "list-get", "task-instance"}:
            return reply
        rows = [reply.body] if request.call == "task-instance" else reply.body["task_instances"]
        return error(500, "Internal Server Error") if ids in map(ids_of, rows) else reply

    return fault


def unlisted(ids: Ids) -> Fault:
    """One row is silently left out of all lists, uncounted; asked for by itself it is there."""

    def fault(request: AirflowRequest, reply: Reply) -> Reply:
        if request.call not in {"list", "list-get"}:
            return reply
        rows = [row for row in reply.body["task_instances"] if ids_of(row) != ids]
        gone = len(reply.body["task_instances"]) - len(rows)
        total = reply.body["total_entries"] - gone
        return Reply(body={"task_instances": rows, "total_entries": total})

    return fault


@st.composite
def faults(draw: st.DrawFn, world: World) -> tuple[str, Fault]:
    """Draw something that is missing from the answers, and what to call it."""
    if draw(st.booleans()):
        call, how, skip = draw(st.sampled_from(CALLS)), draw(st.sampled_from(sorted(WRECKS))), draw(st.integers(0, 1))
        return f"{call} {how}", wrecked(call, WRECKS[how], skip)
    row = draw(st.sampled_from(world.rows))
    if draw(st.integers(0, 5)) == 0 and not has_twin(world, row):
        return f"{ids_of(row)} unlisted", unlisted(ids_of(row))
    if draw(st.integers(0, 5)) == 0:
        return f"{ids_of(row)} breaks every answer", breaking(ids_of(row))
    change = draw(st.sampled_from(sorted(ROW_CHANGES)))
    return f"{ids_of(row)} {change}", without(ids_of(row), ROW_CHANGES[change])


def labels_of(row: Row) -> Ids:
    """Return the labels of a row's Pods."""
    dag, run, task, index = ids_of(row)
    return LABELS.get(dag, dag), LABELS.get(run, run), LABELS.get(task, task), index


def has_twin(world: World, row: Row) -> bool:
    """Whether another row has the same labels.

    Of two runs with the same label, a list never leaves out one alone: what may be read is decided by the DAG.
    """
    return sum(labels_of(other) == labels_of(row) for other in world.rows) > 1


# --- the invariant ----------------------------------------------------------------------------------------------------

QUESTIONS = ("get_all", "get_each", "list_recently_ended")

pytestmark = pytest.mark.slow

fewer = settings(max_examples=settings.default.max_examples // 2)
"""Each example asks a whole Airflow several times."""


def assert_nothing_new_is_acted_on(before: Mapping[str, Finding], after: Mapping[str, Finding], told: str) -> None:
    for uid, was in before.items():
        now = after[uid]
        assert was.reason in ACTING or now.reason not in ACTING, f"{told}: {uid} {was.reason} became {now}"
        assert was.reason.action is Action.DELETE or now.reason.action is not Action.DELETE, f"{told}: {uid} {now}"


@fewer
@given(worlds(), st.sampled_from(QUESTIONS), st.data())
def test_what_is_missing_from_the_answers_never_turns_a_keep_into_a_deletion(
    world: World, how: str, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        asking = Asking(world, monkeypatch)
        before = asking.findings(how)
        for _ in range(3):
            told, fault = data.draw(faults(world))
            assert_nothing_new_is_acted_on(before, asking.findings(how, fault), f"{how}, {told}")


def a_rich_world() -> World:
    """Every kind of keep, side by side with the orphans that they resemble."""
    rows, pods, names = [], [], {}
    cases: tuple[tuple[Ids, str | None, int, tuple[int, ...], int | None], ...] = (
        (("etl", "manual-1", "ended", -1), "success", 2, (1, 2, 3), None),
        (("etl", "manual-1", "copied", -1), "failed", 1, (1, 1), 0),
        (("etl", "manual-1", "going", -1), "running", 1, (1,), None),
        (("etl", "manual-1", "going", 0), "deferred", 1, (1,), None),
        (("etl", "manual-1", "adopting", -1), "running", 2, (1,), 0),
        (("etl", "manual-1", "replacing", 1), "running", 2, (1, 2), 1),
        (("etl", "manual-1", "silent", -1), "running", 2, (1,), None),
        (("etl", "manual-1", "waiting", -1), "queued", 2, (1,), None),
        (("etl", "manual-1", "between", -1), "up_for_retry", 1, (1,), None),
        (("etl", RUN_ID, "load", -1), "success", 1, (1,), None),
        (("etl", RUN_LABEL, "load", -1), "running", 1, (), None),
        ((LONG, "manual-1", LONG, 0), "success", 1, (1,), None),
        ((LONG, "manual-1", LONG, 1), "running", 1, (1,), None),
    )
    for ids, state, at_try, tries, named in cases:
        rows.append(a_row(ids, state, at_try))
        own = [made(ids, len(pods) + n, label_try) for n, label_try in enumerate(tries)]
        pods += own
        if named is not None:
            names[ids] = own[named].name
    gone: tuple[Ids, ...] = (
        ("etl", "manual-2", "load", -1),
        ("etl", "manual-3", "load", -1),
        (LONG, RUN_ID, "load", -1),
    )
    pods += [made(ids, len(pods) + n, 1) for n, ids in enumerate((*gone, ("gone", "manual-1", "load", -1)))]
    return World(tuple(rows), tuple(pods), names, frozenset({("etl", "manual-2"), (LONG, RUN_ID)}))


def every_fault(world: World) -> Iterator[tuple[str, Fault]]:
    """Yield all that can be missing, one at a time."""
    for call in CALLS:
        for name, how in WRECKS.items():
            yield from ((f"{call} {name}, but for {skip}", wrecked(call, how, skip)) for skip in range(4))
    for row in world.rows:
        yield from ((f"{ids_of(row)} {name}", without(ids_of(row), change)) for name, change in ROW_CHANGES.items())
        yield f"{ids_of(row)} breaks every answer", breaking(ids_of(row))
        if not has_twin(world, row):
            yield f"{ids_of(row)} unlisted", unlisted(ids_of(row))


@pytest.mark.parametrize("how", QUESTIONS)
def test_whatever_is_missing_in_turn_never_turns_a_keep_into_a_deletion(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_rich_world()
    asking = Asking(world, monkeypatch)
    before = asking.findings(how)
    kept = {finding.reason for finding in before.values()} - set(ACTING)
    expected = "try-ahead in-use reattached adoptable adoption-unknown labels-ambiguous absent other-pod"
    assert set(expected.split()) <= kept
    for told, fault in every_fault(world):
        assert_nothing_new_is_acted_on(before, asking.findings(how, fault), f"{how}, {told}")


@fewer
@given(worlds(), st.sampled_from(QUESTIONS), st.integers(1, 3))
def test_pages_that_are_clamped_never_turn_a_keep_into_a_deletion(world: World, how: str, clamp: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        asking = Asking(world, monkeypatch)
        assert_nothing_new_is_acted_on(asking.findings(how), asking.findings(how, clamp=clamp), f"{how}, {clamp} rows")


LABELS_LESS = [(name, value) for name in Labels.__struct_fields__ for value in (None, "")]


@fewer
@given(worlds(), st.sampled_from(LABELS_LESS), st.integers(0, 20))
def test_a_label_that_is_missing_never_turns_a_keep_into_a_deletion(
    world: World, less: tuple[str, str | None], choice: int
) -> None:
    name, value = less
    number = choice % len(world.pods)
    pod = world.pods[number]
    poorer = replace(pod, labels=replace(pod.labels, **{name: value}))
    pods = (*world.pods[:number], poorer, *world.pods[number + 1 :])
    with pytest.MonkeyPatch.context() as monkeypatch:
        before = Asking(world, monkeypatch).findings("get_all")
        after = Asking(replace_pods(world, pods), monkeypatch).findings("get_all")
    assert_nothing_new_is_acted_on(before, after, f"{pod.uid} without label {name} ({value!r})")


def replace_pods(world: World, pods: tuple[Pod, ...]) -> World:
    return World(world.rows, pods, world.names, world.runs)


@fewer
@given(worlds(), st.sampled_from(QUESTIONS))
def test_a_healthy_airflow_answers_for_the_task_instance_that_the_labels_are_those_of(world: World, how: str) -> None:
    """Exactly one row fits: that one. More than one: ambiguous, also when only one of them has ended. None: absent."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        findings = Asking(world, monkeypatch).findings(how)
    for pod in world.pods:
        index = -1 if pod.labels.map_index is None else int(pod.labels.map_index)
        wanted = (pod.labels.dag_id, pod.labels.run_id, pod.labels.task_id, index)
        fitting = [ids_of(row) for row in world.rows if labels_of(row) == wanted]
        finding = findings[pod.uid]
        if len(fitting) == 1:
            assert finding.task is not None
            task = finding.task
            assert (task.dag_id, task.run_id, task.task_id, task.map_index) == fitting[0]
        elif fitting:
            assert finding.reason == Reason.LABELS_AMBIGUOUS
        else:
            assert finding.reason in {Reason.ABSENT, Reason.RUN_DELETED, Reason.PURGED}


@pytest.mark.parametrize("how", QUESTIONS)
@pytest.mark.parametrize("other", ["running", "success", None])
def test_a_label_that_is_also_another_runs_label_stays_ambiguous(
    how: str, other: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may be called as another one's label is written: a trap that can be laid, and so must not spring."""
    rows = tuple(a_row(("etl", run, "load", -1), state, 1) for run, state in ((RUN_ID, "success"), (RUN_LABEL, other)))
    labels = Labels("etl", "load", RUN_LABEL, None, "1")
    pod = Pod("airflow", "pod", "uid", "1", CREATED, "Running", labels)
    alone = Asking(World(rows[:1], (pod,), {}), monkeypatch).findings(how)
    both = Asking(World(rows, (pod,), {}), monkeypatch).findings(how)
    assert alone["uid"].reason == Reason.ORPHANED
    assert both["uid"].reason == Reason.LABELS_AMBIGUOUS


def test_the_worlds_reach_the_reasons_that_matter() -> None:
    """Else the properties above would say little."""
    reached: set[Reason] = set()

    @given(worlds())
    def collect(world: World) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            reached.update(finding.reason for finding in Asking(world, monkeypatch).findings("get_all").values())

    collect()
    expected = {*ACTING, Reason.IN_USE, Reason.REATTACHED, Reason.ADOPTABLE, Reason.ADOPTION_UNKNOWN, Reason.OTHER_POD}
    assert expected | {Reason.TRY_AHEAD, Reason.ABSENT, Reason.LABELS_AMBIGUOUS} <= reached
