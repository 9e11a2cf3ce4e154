"""The label contract of KPO: values that the provider itself wrote, and the way back, which is right or gives up."""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Iterator
from hashlib import md5
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healer.decision import labels
from healer.decision.labels import MAX_LABEL, MAX_PREFIX, invert_run_id, matching, may_be_hashed, parse, safe_label
from healer.model import LabelKey, Labels
from tests.unit.strategies import a_pod

EXAMPLES = {
    "scheduled__2026-01-01T00:00:00+00:00": "scheduled__2026-01-01T0000000000-b36726f5d",
    "manual__2026-01-01T12:34:56.789012+00:00": "manual__2026-01-01T123456.7890120000-7df2fa1e6",
    "manual__2026-01-01T12:34:56.789012+00:00_aBcD1234": "manual__2026-01-01T123456.7890120000_aBcD1234-b8841ec76",
    "asset_triggered__2026-01-01T00:00:00+00:00_X1y2Z3w4": (
        "asset_triggered__2026-01-01T0000000000_X1y2Z3w4-a73c44ae4"
    ),
    "backfill__2026-01-01T00:00:00+00:00": "backfill__2026-01-01T0000000000-e7397dcd2",
    "dataset_triggered__2026-01-01T00:00:00.123456+00:00": "dataset_triggered__2026-01-01T000000.1234560000-098a43950",
    "my-custom_run.1": "my-custom_run.1",
    "rün~2026/01": "rn202601-a13f9c6cf",
    "лента": "-427ba721e",
    "a" * 250: "a" * 53 + "-1bdbdf1c9",
    "group_a.sub.task_1": "group_a.sub.task_1",
    "task_with_trailing_dash-": "task_with_trailing_dash-864b5dc8f",
    "__private__": "private-e3d4839dd",
    "x" * 63: "x" * 63,
    "x" * 64: "x" * 53 + "-c1bb4f81d",
    "etl:load": "etlload-db7bd0c65",
    "etl load": "etlload-15a14d2a7",
    "etl-load": "etl-load",
    "etl.load": "etl.load",
    ".hidden": "hidden-6b96ab441",
    "dag_" + "y" * 58 + "-": "dag_" + "y" * 49 + "-8ddc819e8",
    "": "",
}
"""Ids with the labels that the provider's own function made of them."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aZ09_-.:+ /~\n"), max_size=80)
RUN_TYPES = (
    *("scheduled", "manual", "backfill", "asset_triggered", "dataset_triggered", "operator_triggered"),
    *("asset_materialization", "my-own"),
)
ALPHANUMERIC = string.ascii_letters + string.digits


def some_run_id(rng: random.Random) -> str:
    """Return a run id as one of Airflow's versions makes them."""
    moment = (
        f"{rng.randint(2000, 2099)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randint(0, 23):02}:"
        f"{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    )
    fraction = rng.choice(("", f".{rng.randint(0, 999):03}", f".{rng.randint(0, 999_999):06}"))
    offset = rng.choice(("+00:00", "+00:00", "-05:00", "+05:30", "+14:00", "-00:00", "Z", ""))
    suffix = rng.choice(
        ("", "", "", "_" + "".join(rng.choices(ALPHANUMERIC, k=8)), "__again", "_" + "q" * rng.randint(1, 20))
    )
    return f"{rng.choice(RUN_TYPES)}__{moment}{fraction}{offset}{suffix}"


def stripped_length(raw: str) -> int:
    """Return how much of the id is left without the signs that a label can't hold: `:` and `+`."""
    return len(raw.replace(":", "").replace("+", "").rstrip("-_."))


@pytest.mark.parametrize(("raw", "label"), EXAMPLES.items())
def test_the_label_is_the_one_the_provider_writes(raw: str, label: str) -> None:
    assert safe_label(raw) == label


@given(TEXT)
def test_a_label_fits_into_kubernetes_and_hides_nothing_without_a_hash(raw: str) -> None:
    label = safe_label(raw)
    assert len(label) <= MAX_LABEL
    assert set(label) <= set(ALPHANUMERIC + "_-.")
    assert label == raw or may_be_hashed(label)
    assert matching(label, [raw, raw + "x", raw]) == [raw]


@given(TEXT, TEXT)
def test_ids_that_differ_have_labels_that_differ_unless_one_is_the_others_label(one: str, other: str) -> None:
    """Chance does not find a collision of 36 bits; the only one that can be made at will is shown below."""
    assert (safe_label(one) == safe_label(other)) == (
        one == other or safe_label(one) == other or one == safe_label(other)
    )


@pytest.mark.parametrize("raw", [raw for raw, label in EXAMPLES.items() if raw != label and label[0] != "-"])
def test_the_label_of_one_id_may_itself_be_an_id_so_both_match(raw: str) -> None:
    label = EXAMPLES[raw]
    assert safe_label(label) == label
    assert may_be_hashed(label)
    assert matching(label, ["etl", raw, label]) == [raw, label]


def test_a_label_without_a_hash_is_certain() -> None:
    for label in ("etl-load", "x" * 63, "run-0123456789", "run-01234567", "run-ABCDEF012", "run_012345678", ""):
        assert not may_be_hashed(label)
    for label in ("run-012345678", "-427ba721e", "a-b-abcdefabc"):
        assert may_be_hashed(label)


def test_text_that_is_no_text_has_a_label_too() -> None:
    assert safe_label("\ud800").startswith("-")


def test_the_hash_is_asked_for_as_no_matter_of_security(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that keeps to FIPS has no MD5 for anything else."""

    def fips(data: bytes, *, usedforsecurity: bool = True) -> Any:
        if usedforsecurity:
            raise ValueError("disabled for FIPS")
        return md5(data, usedforsecurity=False)

    monkeypatch.setattr(labels, "md5", fips)
    assert safe_label("etl:load") == "etlload-db7bd0c65"


# --- the way back -----------------------------------------------------------------------------------------------------


def test_airflows_own_run_ids_are_inverted_or_given_up() -> None:
    """All run types, offsets, fractions and suffixes: never wrong, and right wherever at most one sign was cut off."""
    rng, seen, drawn = random.Random(7), Counter[str](), 100 * settings().max_examples
    for _ in range(drawn):
        raw = some_run_id(rng)
        label = safe_label(raw)
        found = invert_run_id(label) if label != raw else raw
        assert found in {raw, None}
        seen["found" if found else "given up"] += 1
        assert found == raw or stripped_length(raw) > MAX_PREFIX + 1
        assert found is None or stripped_length(raw) <= MAX_PREFIX + 1
    assert seen["found"] > drawn / 2
    assert seen["given up"] > drawn / 20


def cut_at(length: int) -> Iterator[str]:
    """Yield run ids that are this long without the signs that a label can't hold."""
    for head in ("scheduled__2026-01-01T00:00:00+00:00_", "manual__2026-01-01T00:00:00.123-05:00_"):
        for last in ALPHANUMERIC:
            yield head + "x" * (length - stripped_length(head + "x")) + last


@pytest.mark.parametrize(("length", "inverted"), [(53, True), (54, True), (55, False)])
def test_one_sign_that_was_cut_off_is_found_again_and_two_are_not(length: int, inverted: bool) -> None:
    for raw in cut_at(length):
        assert stripped_length(raw) == length
        assert invert_run_id(safe_label(raw)) == (raw if inverted else None)


@given(TEXT)
def test_the_way_back_from_any_id_is_right_or_given_up(raw: str) -> None:
    label = safe_label(raw)
    assert label == raw or invert_run_id(label) in {raw, None}


@given(TEXT, st.from_regex(r"[0-9a-f]{9}", fullmatch=True))
def test_what_is_found_is_proven_by_the_hash(text: str, digest: str) -> None:
    for label in (text, f"{text}-{digest}", f"scheduled__2026-01-01T0000000000{text}-{digest}"):
        found = invert_run_id(label)
        assert found is None or safe_label(found) == label


@pytest.mark.parametrize("raw", ["лента", "rün~2026/01", "etl:load", "a" * 250, "__2026-01-01T00:00:00+00:00"])
def test_an_id_that_lost_more_than_the_signs_of_a_time_is_given_up(raw: str) -> None:
    assert invert_run_id(safe_label(raw)) is None


def test_an_id_without_a_hash_is_not_guessed_at() -> None:
    assert invert_run_id("scheduled__2026-01-01T0000000000") is None


def test_what_is_proven_twice_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Weak:
        """A hash that every text has."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def hexdigest(self) -> str:
            return "0" * 32

    monkeypatch.setattr(labels, "md5", Weak)
    assert invert_run_id("scheduled__2026-01-01T0000000000-000000000") is None


# --- labels on a Pod --------------------------------------------------------------------------------------------------


def test_labels_point_at_a_task_instance_and_its_try() -> None:
    pod = a_pod(map_index="12", try_number="3", dag_id="a", task_id="group.b", run_id="c")
    assert parse(pod.labels) == LabelKey("a", "group.b", "c", 12, 3)
    assert parse(a_pod(dag_id="a", task_id="b", run_id="c").labels) == LabelKey("a", "b", "c", -1, 1)


@given(st.builds(Labels, *[st.none() | TEXT | st.sampled_from(("1", "0", "7"))] * 5))
def test_parsing_is_total_and_what_is_parsed_is_what_stands_there(found: Labels) -> None:
    key = parse(found)
    if isinstance(key, str):
        assert key.isprintable()
        return
    assert (key.dag_id, key.task_id, key.run_id) == (found.dag_id, found.task_id, found.run_id)
    assert found.try_number == str(key.try_number)
    assert (found.map_index or "-1") == str(key.map_index)
    assert key.try_number >= 1


@pytest.mark.parametrize("name", ["dag_id", "task_id", "run_id", "try_number", "map_index"])
@pytest.mark.parametrize(
    "value",
    [
        "m\0x", "a b", " a", "a ", "a/b", "a%2Fb", "a\nb", "\x1b[31m", "лента", "m\U0001f600", "m\u202egpj",
        "m\u200b", "m\ud800", "x" * 64, "x" * 200_000,
    ],
)  # fmt: skip
def test_a_label_that_kubernetes_could_not_hold_is_malformed_and_told_in_one_short_line(name: str, value: str) -> None:
    fine = {"dag_id": "d", "task_id": "t", "run_id": "r", "try_number": "1", "map_index": "0"}
    why = parse(Labels(**(fine | {name: value})))
    assert isinstance(why, str)
    assert why.startswith(f"label {name} is ")
    assert why.isprintable()
    assert len(why) < 500
    assert value not in why or value.isascii()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("dag_id", "a b", "label dag_id is 'a b', which no label in Kubernetes can be"),
        ("dag_id", "ä", "label dag_id is '\\xe4', which no label in Kubernetes can be"),
        ("task_id", " " * 63, f"label task_id is '{' ' * 63}', which no label in Kubernetes can be"),
        ("run_id", "x" * 64, f"label run_id is '{'x' * 63}'…, which no label in Kubernetes can be"),
        ("try_number", "0", "label try_number is '0', not a number from 1"),
        ("map_index", "-1", "label map_index is '-1', not a number from 0"),
    ],
)
def test_what_is_wrong_with_a_label_is_told_with_the_beginning_of_its_value(name: str, value: str, told: str) -> None:
    assert parse(a_pod(**{name: value}).labels) == told


@pytest.mark.parametrize("value", ["..", ".", "-", "_a_", "a..b", "-427ba721e", "x" * 63])
def test_an_odd_label_that_kpo_may_write_is_read(value: str) -> None:
    key = parse(Labels(value, value, value, None, "1"))
    assert not isinstance(key, str)
    assert key.run_id == value
