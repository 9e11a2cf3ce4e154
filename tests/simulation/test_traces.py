"""The models hold possible what real task instances did (recorded in the chaos runs), and not what none can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.traces import accepts, load

pytestmark = pytest.mark.slow

PLAIN = "none 0, scheduled 1, queued 1, running 1, +a 1, a Running, a Succeeded, a deleted kpo, success 1"
TWINS = (
    "none 0, scheduled 1, queued 1, running 1, +a 1, a Running, up_for_retry 1, a Succeeded, scheduled 2, queued 2, "
    "running 2, +b 2, b Running, a checked, a deleted kpo, b Succeeded, b deleted kpo, success 2"
)
TWIN_HEALED = (
    "none 0, scheduled 1, queued 1, running 1, +a 1, a Running, up_for_retry 1, scheduled 2, queued 2, running 2, "
    "+b 2, b Running, deferred 2, a deleted healer, b Succeeded, scheduled 2, queued 2, running 2, "
    "b deleted kpo, success 2"
)
OVER_BEFORE_DEFERRED = "none 0, scheduled 1, queued 1, running 1, +a 1, a Running, a Succeeded, deferred 1"
TRY = "scheduled {0}, queued {0}, running {0}"
ONE, TWO, THREE = (TRY.format(number) for number in (1, 2, 3))
LATE_TWIN = (
    f"none 0, {ONE}, +a 1, a Running, up_for_retry 1, {TWO}, up_for_retry 2, {THREE}, +c 3, c Running, deferred 3, "
    f"+b 2, b Running, c Succeeded, {THREE}, c deleted kpo, success 3, b deleted healer"
)
LATE_AND_ALONE = (
    f"none 0, {ONE}, +a 1, a Running, deferred 1, a Failed, {ONE}, a deleted kpo, up_for_retry 1, {TWO}, "
    f"up_for_retry 2, {THREE}, +c 3, c Running, deferred 3, c Succeeded, {THREE}, c deleted kpo, success 3, "
    "+b 2, b Running, b deleted healer"
)
OVERTAKEN = (
    f"none 0, {ONE}, +a 1, a Running, deferred 1, a Succeeded, scheduled 1, queued 1, failed 1, running 1, "
    "a deleted kpo, success 1"
)
OVERTAKEN_AT_FIRST = "none 0, scheduled 1, queued 1, failed 1, running 1, +a 1, a Running, a Succeeded, a deleted kpo"
OVERTAKEN_BEFORE_A_RETRY = OVERTAKEN.replace("failed 1", "up_for_retry 1")
RESUMED_AND_GIVEN_UP = (
    f"none 0, {ONE}, +a 1, a Running, deferred 1, a Failed, {ONE}, up_for_retry 1, {TWO}, a checked, "
    "a deleted kpo, +b 2, b Running, deferred 2"
)
ENDED_POD_DELETED_AND_NO_OTHER_MADE = (
    f"none 0, {ONE}, +a 1, a Running, deferred 1, a Failed, scheduled 1, queued 1, none 1, {TWO}, a deleted kpo, "
    f"up_for_retry 2, {THREE}, +c 3, c Running, deferred 3, c Failed, scheduled 3, queued 3, running 3, c deleted kpo"
)
STARTED_BY_AN_OLD_TRY = (
    f"none 0, {ONE}, +a 1, a Running, deferred 1, a Failed, scheduled 1, queued 1, up_for_retry 1, {TWO}, "
    "a deleted kpo, up_for_retry 2, +b 1, b Running, scheduled 3, queued 3, b Failed, running 3, b deleted kpo, +c 3"
)
DELETED_BEFORE_IT_IS_SEEN = (
    f"none 0, {ONE}, +a 1, a Failed, a checked, a deleted kpo, up_for_retry 1, {TWO}, b deleted kpo, +b 2, b Failed, "
    f"b checked, up_for_retry 2, {THREE}, +c 3, c Failed, c checked, c deleted kpo, failed 3"
)
FAILED_WHILE_CREATING = "none 0, scheduled 1, queued 1, running 1, failed 1, +a 1, a Running, a deleted healer"
DEFERRABLE = {"deferrable": True}
NO_REATTACH = {"durable": False}


def history(text: str, **header: Any) -> list[dict[str, Any]]:
    """Write a history out."""
    return [{"kind": "trace", "retries": 2, "on_finish": "delete_pod", **header}, *map(_event, text.split(", "))]


def _event(words: str) -> dict[str, Any]:
    subject, what, *by = words.split()
    if subject.startswith("+"):
        return {"at": 0, "kind": "pod-created", "pod": subject[1:], "try": int(what)}
    if what.isdigit():
        return {"at": 0, "kind": "task-state", "state": None if subject == "none" else subject, "try": int(what)}
    if what == "deleted":
        return {"at": 0, "kind": "pod-deleted", "pod": subject, "by": by[0]}
    if what == "adopted":
        return {"at": 0, "kind": "pod-adopted", "pod": subject, "try": int(by[0])}
    return {"at": 0, "pod": subject} | ({"kind": "pod-checked"} if what == "checked" else _phase(what))


def _phase(what: str) -> dict[str, Any]:
    return {"kind": "pod-phase", "phase": what}


def _possible() -> Iterator[Any]:
    yield pytest.param(history(PLAIN, deferrable=False), id="plain")
    yield pytest.param(history(PLAIN), id="nothing known of the task")
    yield pytest.param(history(TWINS, deferrable=False, **NO_REATTACH), id="a twin marked and deleted")
    yield pytest.param(history(TWIN_HEALED, **DEFERRABLE, **NO_REATTACH), id="a twin healed")
    yield pytest.param(history(OVER_BEFORE_DEFERRED, **DEFERRABLE), id="over before it is deferred")
    yield pytest.param(history(FAILED_WHILE_CREATING, deferrable=False), id="failed while it creates its Pod")
    yield pytest.param(history(LATE_TWIN, **DEFERRABLE, **NO_REATTACH), id="made late, beside a later try's Pod")
    yield pytest.param(history(LATE_AND_ALONE, **DEFERRABLE), id="made late, after a later try's end")
    yield pytest.param(history(OVERTAKEN, **DEFERRABLE, retries=0), id="running again at the same try")
    yield pytest.param(history(OVERTAKEN_AT_FIRST, deferrable=False), id="running after failed, for the first time")
    yield pytest.param(history(OVERTAKEN_BEFORE_A_RETRY, **DEFERRABLE), id="running instead of a retry")
    yield pytest.param(history(RESUMED_AND_GIVEN_UP, **DEFERRABLE), id="cleaned up by a try that was given up")
    yield pytest.param(history(ENDED_POD_DELETED_AND_NO_OTHER_MADE, **DEFERRABLE), id="deleted, and no other made")
    yield pytest.param(history(STARTED_BY_AN_OLD_TRY, **DEFERRABLE), id="started by an old try's process")
    yield pytest.param(history(DELETED_BEFORE_IT_IS_SEEN, **DEFERRABLE), id="deleted before the watch shows it")


@pytest.mark.parametrize("trace", list(_possible()))
def test_what_happened_is_possible(trace: list[dict[str, Any]]) -> None:
    assert accepts(trace) is None


BEGUN = "none 0, scheduled 1, queued 1, running 1, +a 1, a Running"


@pytest.mark.parametrize(
    "text",
    [
        "none 0, running 1",
        "none 0, scheduled 1, +a 1",
        "none 0, scheduled 1, queued 1, running 1, +a 2",
        f"{BEGUN}, success 1, running 1",
        f"{BEGUN}, failed 1, running 1",
        f"{BEGUN}, up_for_retry 1, running 1",
        f"{BEGUN}, failed 1, a Succeeded, +b 2",
        f"{BEGUN}, up_for_retry 1, scheduled 3",
        f"{BEGUN}, up_for_retry 1, scheduled 2, queued 2, a deleted healer, running 2, a adopted 7",
    ],
)
def test_what_can_not_happen_is_refused(text: str) -> None:
    assert accepts(history(text, deferrable=False)) is not None


def test_the_refusal_names_the_event() -> None:
    assert accepts(history("none 0, running 1", deferrable=False)) == (
        'event 2 is not possible: {"kind": "task-state", "state": "running", "try": 1}; '
        "before it the models had none at try 0"
    )


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in history(PLAIN)))
    assert accepts(load(file)) is None
