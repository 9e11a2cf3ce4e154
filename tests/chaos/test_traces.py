"""What was recorded becomes a history in the order in which it happened, and a refused one is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.chaos import traces
from tests.chaos.audit_tail import Deletion
from tests.chaos.director import in_words
from tests.chaos.recorder import RUN, Key, Picture, Record
from tests.chaos.report import refusal_told
from tests.simulation.traces import accepts, load

KEY = Key("kpo_sync", "r", "work")


def recorded(*, seen: float, states: tuple[tuple[float, str | None, int], ...]) -> Picture:
    """A task instance with one Pod of try 1, made in second 3 and first seen when the watch was there again."""
    picture = Picture()
    picture.add([Record(n, at, at, "ti", KEY, "id", state, tried) for n, (at, state, tried) in enumerate(states)])
    labels = {"dag_id": KEY.dag, "task_id": KEY.task, "run_id": "r", "try_number": "1"}
    meta = {"uid": "u", "name": "p", "labels": labels, "annotations": {RUN: KEY.run}}
    body = {
        "metadata": meta | {"creationTimestamp": "1970-01-01T00:00:03Z"},
        "spec": {"containers": [{"name": "base"}]},
        "status": {"phase": "Pending"},
    }
    picture.see(body, seen)
    return picture


def audit(*deletions: Deletion) -> Any:
    return SimpleNamespace(deletions=deletions)


STATES = ((0.0, None, 0), (1.0, "scheduled", 1), (1.5, "queued", 1), (2.0, "running", 1), (6.0, "failed", 1))


def test_a_pod_is_made_when_the_api_server_made_it_and_not_when_the_watch_showed_it() -> None:
    picture = recorded(seen=9.0, states=STATES)
    kinds = [event["kind"] for event in traces.trace(picture, audit(), KEY)]
    assert kinds.index("pod-created") == len(kinds) - 2


def test_a_pod_that_is_seen_at_once_keeps_its_time() -> None:
    events = traces.trace(recorded(seen=3.2, states=STATES), audit(), KEY)
    assert next(event["at"] for event in events if event["kind"] == "pod-created") == 3.2


def test_a_delete_that_comes_before_the_pod_is_seen_is_a_possible_history() -> None:
    picture = recorded(seen=9.0, states=STATES)
    events = traces.trace(picture, audit(Deletion(3.5, "kpo", "airflow", "p", 200, None, None)), KEY)
    kinds = [event["kind"] for event in events]
    assert kinds.index("pod-deleted") < kinds.index("pod-created")
    assert accepts(events) is None


@pytest.fixture
def refusals(tmp_path: Path) -> list[traces.Refusal]:
    picture = recorded(seen=3.2, states=(*STATES, (8.0, "running", 7)))
    files = traces.write(picture, audit(), tmp_path / "all")
    why = {file: traces.ask(file) for file in files}
    return [traces.Refusal(key, why[file] or "", file.name, file.read_text()) for file, key in files.items()]


def test_a_refused_history_is_kept_and_can_be_followed_again(refusals: list[traces.Refusal], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    traces.keep(refusals, folder)
    (file,) = folder.iterdir()
    assert "not possible" in refusals[0].why
    assert accepts(load(file)) == refusals[0].why


def test_what_an_earlier_run_kept_goes(refusals: list[traces.Refusal], tmp_path: Path) -> None:
    traces.keep(refusals, tmp_path / "kept")
    traces.keep([], tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_the_report_holds_the_history_itself(refusals: list[traces.Refusal]) -> None:
    told = refusal_told(refusals[0])
    assert refusals[0].why in told
    assert refusals[0].lines.rstrip() in told


def test_trouble_names_the_request() -> None:
    request = httpx.Request("PATCH", "https://cluster/api/v1/pods/p")
    error = httpx.RemoteProtocolError("Server disconnected", request=request)
    assert in_words(error) == "PATCH https://cluster/api/v1/pods/p: RemoteProtocolError: Server disconnected"
    assert in_words(httpx.ConnectError("refused")) == "ConnectError: refused"
