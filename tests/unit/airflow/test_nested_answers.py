"""JSON that is nested deeper than a decoder goes: a value of its own, and never the end of a pass or of a command."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from healer.airflow.api import pod_names, schema
from healer.airflow.api.credentials import lifetime
from healer.cluster import Lease
from healer.cluster.pods import decode_page, decode_pod
from healer.cluster.transport import KubeReply
from healer.deletion.decision_record import parse_line
from healer.errors import InvalidRecordError, InvalidResponseError
from healer.leader_election import SERVES, unserved
from healer.model import Known, Unknown
from tests.unit.airflow_fake import Asked, Reply, healer, pod, row, serving

DEEP = 100_000
LISTS, OBJECTS = "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP
END = "2026-01-01T00:01:00Z"


@pytest.mark.parametrize(
    "text", [LISTS, OBJECTS, "[" * DEEP, f'"{"[" * 2000}"'], ids=["lists", "objects", "open", "str"]
)
@pytest.mark.parametrize("key", ["pod_name", "pod_namespace", "state"])
def test_a_nested_value_where_a_pods_name_should_be_names_nobody_and_stops_nobody(text: str, key: str) -> None:
    with serving() as fake:
        fake.rows = [row(task=name, state="success", end_date=END) for name in ("bad", "good")]
        fake.named[key, "bad"] = text
        fake.named["pod_name", "good"] = "a-pod"
        airflow, pods = healer(fake), [pod(task="bad"), pod(task="good")]
        for answers in (airflow.get_all(pods), airflow.get_each(pods)):
            bad, good = (answers[each.uid] for each in pods)
            assert isinstance(bad, Known)
            assert bad.identity is not None
            assert not bad.identity.named
            assert isinstance(good, Known)
            assert good.identity is not None
            assert good.identity.named == {(None, "a-pod")}


def test_a_row_that_is_nested_too_deep_is_set_aside_like_any_other_bad_row() -> None:
    with serving() as fake:
        fake.rows = [row(task=name) for name in ("bad", "good")]

        def nested(asked: Asked) -> Reply | None:
            if "bad" not in json.dumps([asked.path, asked.body]):
                return None
            found: Any = [{**each, "rendered_fields": "HERE"} for each in fake.rows]
            body = {"task_instances": found, "total_entries": 2} if asked.is_list else found[0]
            return Reply(body=json.dumps(body).replace('"HERE"', OBJECTS).encode())

        fake.intercept = nested
        airflow, pods = healer(fake), [pod(task="bad"), pod(task="good")]
        answers = airflow.get_all(pods)
        assert [type(answers[each.uid]) for each in pods] == [Unknown, Known]
        assert airflow.set_aside


READERS: dict[str, Callable[[], object]] = {
    "a refusal": lambda: schema.detail(f'{{"detail":{LISTS}}}'.encode()) == "",
    "an XCom": lambda: pod_names.xcom(json.dumps({"value": LISTS}).encode()).odd,
    "a Pod": lambda: decode_pod(f'{{"metadata":{OBJECTS}}}'.encode()) is None,
    "a refusal of the API server": lambda: KubeReply(500, LISTS.encode()).message,
    "what a Lease tells": lambda: unserved('{"a":["x"]}', Lease(holder="b", annotations={SERVES: OBJECTS})) == (),
    "a token": lambda: lifetime(f"e30.{b64encode(OBJECTS.encode()).decode()}.x") > 0,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_whatever_reads_it_goes_on(read: Callable[[], object]) -> None:
    assert read()


def test_a_listing_of_it_is_no_list_of_pods() -> None:
    with pytest.raises(InvalidResponseError):
        decode_page(f'{{"kind":"PodList","metadata":{{}},"items":[{OBJECTS}]}}'.encode())


def test_a_line_of_it_is_no_proof() -> None:
    with pytest.raises(InvalidRecordError):
        parse_line(f'{{"message": "decision", "proof":{OBJECTS}}}')
    assert parse_line(OBJECTS) is None
