"""`ownership: {label, value}`: a label of the site's own says whose a Pod is, as the stamp does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from healer.cluster.pods import decode_page, decode_pod
from healer.config import AirflowConfig, Config, OwnershipLabel
from healer.config.schema import json_schema
from healer.decision.records import has_own_label, owns
from healer.ownership_guard import OwnershipGuard, is_foreign
from tests.unit.strategies import a_pod

KEY, MINE, THEIRS = "acme.io/airflow", "prod", "stage"
OWNERSHIP = {"label": KEY, "value": MINE}


def airflow(ownership: Any = OWNERSHIP, **more: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "namespaces": ["airflow"],
        "url": "http://h",
        "token": "t",
        "mode": "enforce",
        "ownership": ownership,
    } | more


def config(ownership: Any = OWNERSHIP) -> AirflowConfig:
    return AirflowConfig.model_validate(airflow(ownership))


def raw(labels: Any, name: str = "p") -> dict[str, Any]:
    metadata = {"namespace": "airflow", "name": name, "uid": f"uid-{name}", "labels": labels}
    return {"metadata": metadata, "spec": {}, "status": {}}


@pytest.mark.parametrize(
    ("labels", "stamp", "mine"),
    [
        (((KEY, MINE),), None, True),
        (((KEY, MINE),), "a", True),
        (((KEY, MINE),), "another", False),
        (((KEY, THEIRS),), None, False),
        ((), None, False),
        ((), "a", False),
        ((("other", MINE),), None, False),
    ],
)
def test_only_pods_with_the_label_are_this_airflows(labels: Any, stamp: str | None, mine: bool) -> None:
    """One that is stamped for another Airflow is nobody's but that one's."""
    pod = a_pod(owner_labels=labels, owner_label=stamp)
    assert owns(config(), pod) is mine
    assert OwnershipGuard(config()).admits(pod) is mine
    assert not owns(config(), a_pod(owner_labels=labels, owner_label=stamp, namespace="other"))
    assert not owns(config(), a_pod(owner_labels=labels, owner_label=stamp, selected=False))


@pytest.mark.parametrize("labels", [(), ((KEY, THEIRS),)])
def test_another_airflows_pods_refute_nothing(labels: Any) -> None:
    """Nothing was claimed as a whole, so that there is nothing to refute."""
    pod = a_pod(owner_labels=labels, owner_label="another")
    assert not is_foreign(config(), pod)
    guard = OwnershipGuard(config())
    guard.admits(pod)
    assert guard.refuted == {}


def test_the_label_proves_whose_a_pod_is() -> None:
    assert has_own_label(config(), a_pod(owner_labels=((KEY, MINE),)))
    assert not has_own_label(config(), a_pod(owner_labels=((KEY, THEIRS),)))
    assert not has_own_label(config("exclusive"), a_pod(owner_labels=((KEY, MINE),)))


# What is read of a Pod


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ({KEY: MINE, "more": "x"}, ((KEY, MINE),)),
        ({"more": "x"}, ()),
        ({}, ()),
        (None, ()),
        ({KEY: ""}, ((KEY, ""),)),
    ],
)
def test_only_labels_that_are_asked_for_are_kept(labels: Any, kept: Any) -> None:
    body = json.dumps(raw(labels)).encode()
    for source in (body, raw(labels)):
        pod = decode_pod(source, [KEY])
        assert pod is not None
        assert pod.owner_labels == kept
        assert decode_pod(source) == (decode_pod(source, []))
    assert decode_pod(body).owner_labels == ()  # type: ignore[union-attr]


def test_a_listing_keeps_them_too() -> None:
    items = [raw({KEY: MINE}), raw({KEY: THEIRS}, "q"), raw({}, "r"), {"metadata": 1}]
    page = decode_page(json.dumps({"kind": "PodList", "metadata": {}, "items": items}).encode(), [KEY])
    assert [pod.owner_labels for pod in page.pods] == [((KEY, MINE),), ((KEY, THEIRS),), ()]
    assert len(page.skipped) == 1


@pytest.mark.parametrize("value", [1, None, ["x"]])
def test_labels_that_are_none_own_nothing(value: Any) -> None:
    pod = decode_pod(json.dumps(raw({KEY: value})).encode(), [KEY])
    assert pod is None or pod.owner_labels == ()


# The configuration


def test_the_keys_are_gathered() -> None:
    second = airflow({"label": "x", "value": "y"}, name="b", namespaces=["more"])
    both = Config.model_validate({"airflows": [airflow(), second, airflow("stamped", name="c", namespaces=["z"])]})
    assert both.owner_labels == {KEY, "x"}
    assert both.airflows[0].ownership == OwnershipLabel(KEY, MINE)


@pytest.mark.parametrize(
    ("ownership", "says"),
    [
        ("exclusve", "should be 'exclusive' or 'stamped', or {label: KEY, value: VALUE}"),
        (1, "should be 'exclusive' or 'stamped'"),
        ({"label": KEY}, "value is no label's value: put it in quotes"),
        ({"label": KEY, "value": 1}, "value is no label's value: put it in quotes"),
        ({"label": KEY, "value": ""}, "value is no label's value"),
        ({"label": "a b", "value": "x"}, "label is no label's key: write one like acme.io/airflow"),
        ({"label": "/x", "value": "x"}, "label is no label's key"),
        ({"key": KEY, "value": "x"}, "unknown key: use one of label, value"),
    ],
)
def test_what_is_no_ownership(ownership: Any, says: str) -> None:
    with pytest.raises(ValueError, match="ownership") as caught:
        config(ownership)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (OWNERSHIP, {"label": KEY, "value": THEIRS}, ""),
        (OWNERSHIP, "stamped", ""),
        (OWNERSHIP, OWNERSHIP, f"{KEY}={MINE} in namespace airflow is claimed twice"),
        (OWNERSHIP, "exclusive", "or set ownership: stamped or a label of your own on each"),
    ],
)
def test_several_airflows_in_one_namespace(first: Any, second: Any, says: str) -> None:
    entries = {"airflows": [airflow(first), airflow(second, name="b")]}
    if not says:
        assert Config.model_validate(entries)
        return
    with pytest.raises(ValueError, match="claimed") as caught:
        Config.model_validate(entries)
    assert says in str(caught.value)


def test_the_schema_knows_both_forms() -> None:
    schema = json_schema()["properties"]["airflows"]["items"]["properties"]["ownership"]
    names, labelled, null = schema["oneOf"]
    assert names["enum"] == ["exclusive", "stamped"]
    assert labelled["required"] == ["label", "value"]
    assert null == {"type": "null"}
