"""Which Pod Airflow names: what counts as a name, and when a 403 says that a source may not be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from healer.airflow import Airflow, Call
from healer.airflow.api.pod_names import is_pod_name, pod_identifier, xcom
from healer.decision.rules import judge
from healer.model import Action, Answer, Known, Pod, Reason
from tests.unit.airflow_fake import Asked, FakeAirflow, Reply, error, healer, pod, row, serving


@pytest.fixture
def fake() -> Iterator[FakeAirflow]:
    with serving() as server:
        yield server


def body(value: object) -> bytes:
    return json.dumps({"key": "pod_name", "value": value}).encode()


# --- what is a name -----------------------------------------------------------------------------------------------

NO_NAMES: dict[str, object] = {
    "null": None,
    "empty": "",
    "blank": "  ",
    "number": 7,
    "float": 1.5,
    "true": True,
    "list": ["other"],
    "list in a text": '["other"]',
    "object": {"name": None},
    "reference": "s3://xcom/d/r/t/pod_name.json",
    "path of object storage": "xcom/d/r/t/1b2c.json",
    "file": "file:///tmp/xcom/1b2c",
    "serialized class": {"__classname__": "airflow.sdk.io.path.ObjectStoragePath", "__version__": 2, "__data__": "x"},
    "masked": "***",
    "upper case": "Other",
    "underscore": "my_pod",
    "sentence": "Not A Name",
    "too long": "p" * 254,
    "dash at the end": "other-",
    "dot at the end": "other.",
    "two dots": "a..b",
    "line break": "other\n-x",
    "NUL": "other\x00",
    "other script": "pöd",
    "quote only": '"',
    "namespace/name": "jobs/other",
    "bytes as text": "b'other'",
}


@pytest.mark.parametrize("value", NO_NAMES.values(), ids=NO_NAMES)
def test_what_is_no_pods_name_is_no_name(value: object) -> None:
    found = xcom(body(value))
    assert found.place is None
    assert found.odd
    stored = pod_identifier(body({"name": value, "namespace": "jobs"}))
    assert stored.place is None
    assert stored.odd


@pytest.mark.parametrize("value", ["other", '"other"', " other ".strip(), "'other'", '"\\"other\\""', "7", "a.b-c.7"])
def test_a_name_in_the_forms_of_older_versions(value: str) -> None:
    assert is_pod_name(xcom(body(value)).text)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"name": "other", "namespace": "jobs"}, ("jobs", "other")),
        ({"name": "other", "namespace": "jobs", "uid": "x"}, ("jobs", "other")),
        ('{"name": "other", "namespace": "jobs"}', ("jobs", "other")),
        ({"name": "other"}, (None, "other")),
        ({"name": "other", "namespace": None}, (None, "other")),
        ({"name": "other", "namespace": ["jobs"]}, (None, "other")),
        ({"name": "other", "namespace": "Jobs!"}, (None, "other")),
        ("other", (None, "other")),
        ({"namespace": "jobs"}, None),
        ({}, None),
        ("s3://bucket/key", None),
        ({"__classname__": "x", "__data__": {"name": "other"}}, None),
    ],
)
def test_what_the_state_store_names(value: object, place: tuple[str | None, str] | None) -> None:
    assert pod_identifier(body(value)).place == place


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_no_value_is_more_than_a_name_or_odd_and_none_is_repeated(value: object) -> None:
    for found in (xcom(body(value)), pod_identifier(body(value))):
        assert (found.place is None) is (found.odd is not None)
        assert found.text is None or is_pod_name(found.text)


@pytest.mark.parametrize("answer", [b"", b'{"value": "oth', b"null", b"[]", b"{}", b'{"key": "pod_name"}', b"\xff"])
def test_an_answer_that_is_not_well_formed_is_a_failure_and_no_value(answer: bytes) -> None:
    for read in (xcom, pod_identifier):
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            read(answer)


# --- what follows from it -----------------------------------------------------------------------------------------


def suspect(fake: FakeAirflow, now: str, **named: Any) -> Pod:
    """A running Pod of try 1 whose task instance is in this state: at try 1 where it has ended, else at try 2."""
    ended = now in ("success", "failed")
    fake.rows = [row(state=now, try_number=1 if ended else 2, end_date="2026-01-01T01:00:00Z" if ended else None)]
    fake.named = {(source, "t"): value for source, value in named.items()}
    return pod(name="mine")


def reason(one: Pod, answer: Answer) -> Reason:
    """Judge as a pass does, where the Pods that Airflow names are living ones of the second try."""
    if isinstance(answer, Known) and answer.identity is not None:
        younger = replace(one.labels, try_number="2")
        created = (one.created or 0.0) + 1000.0
        named = sorted((namespace or "jobs", name) for namespace, name in answer.identity.named if name != one.name)
        siblings = [replace(one, namespace=n, name=p, uid=p, labels=younger, created=created) for n, p in named]
        answer = replace(answer, siblings=tuple(siblings))
    return judge(one, answer).reason


def only(answers: dict[str, Answer]) -> Answer:
    (answer,) = answers.values()
    return answer


@pytest.mark.parametrize("value", [*NO_NAMES.values()][1:], ids=[*NO_NAMES][1:])
def test_a_value_that_is_no_name_keeps_no_orphan_for_ever(fake: FakeAirflow, value: object) -> None:
    one = suspect(fake, "failed", state={"name": value, "namespace": "jobs"}, pod_name=value)
    assert reason(one, only(healer(fake).get_all([one]))) is Reason.ORPHANED


def test_a_name_in_an_odd_namespace_names_the_pod_wherever_it_is(fake: FakeAirflow) -> None:
    one = suspect(fake, "running", pod_name="mine", pod_namespace=["elsewhere"])
    assert reason(one, only(healer(fake).get_all([one]))) is Reason.REATTACHED


VALUES: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "this": ({"name": "mine", "namespace": "jobs"}, "mine"),
    "another": ({"name": "other", "namespace": "jobs"}, "other"),
    "a reference": ("s3://bucket/key", "s3://bucket/key"),
}


def judged(fake: FakeAirflow, state: str, store: str, xcoms: str) -> Reason:
    named = {"state": VALUES[store][0], "pod_name": VALUES[xcoms][1]}
    one = suspect(fake, state, **{source: value for source, value in named.items() if value is not None})
    return reason(one, only(healer(fake).get_all([one])))


@pytest.mark.parametrize(("store", "xcoms"), list(product(VALUES, VALUES)))
def test_a_value_that_can_not_be_read_never_lets_the_other_source_rule_a_pod_out(
    fake: FakeAirflow, store: str, xcoms: str
) -> None:
    """Garbled, what names the Pod may not be read any more: where it was kept for that, it is kept still."""
    before = judged(fake, "running", store, xcoms)
    for garbled in (("a reference", xcoms), (store, "a reference"), ("a reference", "a reference")):
        after = judged(fake, "running", *garbled)
        assert before.action is not Action.KEEP or after.action is Action.KEEP, (before, after, garbled)
    if "a reference" in (store, xcoms):
        assert before in (Reason.REATTACHED, Reason.ADOPTION_UNKNOWN)


def test_the_other_source_still_keeps_a_copy(fake: FakeAirflow) -> None:
    assert judged(fake, "failed", "a reference", "another") is Reason.OTHER_POD
    assert judged(fake, "failed", "another", "a reference") is Reason.OTHER_POD


# --- a 403 is believed of a living login only ---------------------------------------------------------------------

FORBIDDEN = error(403, "Forbidden")
ENDS = {
    "forbidden": FORBIDDEN,
    "expired": error(401, "Token Expired"),
    "revoked": error(403, "Invalid JWT token"),
    "a gate": Reply(403, b"<html>no</html>", {"Content-Type": "text/html"}),
}


def copies(fake: FakeAirflow, number: int) -> tuple[list[Pod], dict[str, Pod]]:
    """Pods whose names Airflow does not know: each task has ended, and Airflow names another Pod for it."""
    fake.rows = [row(task=f"t{i}", state="failed", end_date="2026-01-01T01:00:00Z") for i in range(number)]
    fake.named = {("state", f"t{i}"): {"name": f"real-{i}", "namespace": "jobs"} for i in range(number)}
    pods = [pod(task=f"t{i}", name=f"copy-{i}") for i in range(number)]
    return pods, {one.uid: one for one in pods}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("number", [1, 3])
def test_a_login_that_ends_at_any_request_of_a_confirmation_deletes_nothing(
    fake: FakeAirflow, end: Reply, number: int
) -> None:
    pods, by_uid = copies(fake, number)
    for living in range(6 * number + 4):
        fresh = healer(fake, token="a-token")  # it has seen no source answer yet
        left = living

        def intercept(asked: Asked) -> Reply | None:
            nonlocal left
            left -= 1
            return None if left >= 0 else end

        fake.intercept = intercept
        for uid, answer in fresh.get_all(pods).items():
            found = judge(by_uid[uid], answer).reason
            assert found in (Reason.OTHER_POD, Reason.AIRFLOW_UNKNOWN), f"after {living} requests: {found}"
        fake.intercept = lambda _: None


def no_identity(asked: Asked) -> Reply | None:
    return FORBIDDEN if "/state-store/" in asked.path or "/xcomEntries/" in asked.path else None


def test_one_proof_serves_all_refusals_before_it(fake: FakeAirflow) -> None:
    pods, by_uid = copies(fake, 8)
    fake.intercept = no_identity
    calls: list[Call] = []
    answers = healer(fake, calls).get_all(pods)
    assert {judge(by_uid[uid], answer).reason for uid, answer in answers.items()} == {Reason.ORPHANED}
    proofs = [at for at, asked in enumerate(fake.asked) if asked.path.endswith("/-1")]
    refused = [at for at, asked in enumerate(fake.asked) if no_identity(asked)]
    assert len(proofs) == 1
    assert proofs[0] > max(refused), "a proof says nothing of a refusal that came after it"


def test_a_task_instance_that_is_gone_or_broken_does_not_keep_the_others_from_their_proof(fake: FakeAirflow) -> None:
    pods, by_uid = copies(fake, 3)

    def intercept(asked: Asked) -> Reply | None:
        if asked.path.endswith("/t0/-1"):
            return error(500, "a broken row")
        return no_identity(asked)

    fake.intercept = intercept
    answers = healer(fake).get_all(pods)
    assert {judge(by_uid[uid], answer).reason for uid, answer in answers.items()} == {Reason.ORPHANED}


def test_a_proof_by_another_login_proves_nothing(fake: FakeAirflow) -> None:
    """The old login has lost its rights and then its life; what the new one may read says nothing of it."""
    pods, by_uid = copies(fake, 1)
    fake.tokens = set()
    airflow = healer(fake)

    def intercept(asked: Asked) -> Reply | None:
        if no_identity(asked):
            return FORBIDDEN
        if asked.path.endswith("/-1") and fake.logins == 1:
            return error(401, "Token Expired")
        return None

    fake.intercept = intercept
    assert {judge(by_uid[uid], a).reason for uid, a in airflow.get_all(pods).items()} == {Reason.AIRFLOW_UNKNOWN}
    assert {judge(by_uid[uid], a).reason for uid, a in airflow.get_all(pods).items()} == {Reason.ORPHANED}


def test_where_everything_is_readable_no_proof_is_asked(fake: FakeAirflow) -> None:
    pods, _ = copies(fake, 4)
    healer(fake).get_all(pods)
    assert not [asked for asked in fake.asked if asked.path.endswith("/-1")]


# --- check ------------------------------------------------------------------------------------------------------------


def names(airflow: Airflow) -> list[tuple[str, str]]:
    return [(check.status.value, check.text) for check in airflow.probe().checks if check.name == "Pod names"]


def test_check_looks_at_a_real_value(fake: FakeAirflow) -> None:
    suspect(fake, "success", state={"name": "mine", "namespace": "jobs"}, pod_name="mine")
    assert [mark for mark, _ in names(healer(fake))] == ["ok", "ok"]
    suspect(fake, "success", pod_name="s3://bucket/hunter2")
    ((mark, text),) = names(healer(fake))
    assert mark == "warn"
    assert "XCom pod_name of task t of DAG d holds a reference (s3://…) and no Pod's name" in text
    assert "hunter2" not in text


def test_check_says_nothing_of_values_where_there_are_none(fake: FakeAirflow) -> None:
    suspect(fake, "success")
    assert names(healer(fake)) == []
    fake.rows[0]["operator"] = "PythonOperator"
    fake.named = {("pod_name", "t"): 7}
    assert names(healer(fake)) == []
