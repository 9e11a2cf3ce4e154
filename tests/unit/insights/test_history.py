"""What was healed lately: the ring, how it is packed, and how it survives in a ConfigMap, whatever happens to that."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import structlog

from healer.cluster import ConfigMap
from healer.errors import AccessDeniedError, ClusterError, UnreachableError
from healer.insights import history as module
from healer.insights.history import MAX_AGE, MAX_ENTRIES, MAX_PACKED, History, InvalidHistoryError
from healer.insights.history_store import HistoryStore
from healer.model import Action, Finding, Reason
from healer.telemetry.findings import FindingView
from tests.unit.strategies import a_pod, a_task

NOW = 1_800_000_000.0
PATIENCE = 60.0


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def healed(uid: str, dag: str = "etl", airflow: str = "default", **fields: Any) -> dict[str, Any]:
    """A finding in the form of the JSON output."""
    pod = a_pod(uid=uid, name=f"pod-{uid}", phase="Running")
    view = FindingView(pod, airflow, Finding(Reason.ORPHANED, "the proof", a_task("failed", dag_id=dag)), Action.DELETE)
    return view.to_dict() | fields


def uids(history: History, **query: Any) -> list[str]:
    return [json.loads(entry)["uid"] for entry in history.select(**query)]


def filled(clock: Clock, count: int) -> History:
    made = History(clock)
    made.begin(1)
    for number in range(count):
        clock.time += 1
        made.record([healed(f"u{number}")])
    return made


class TestRing:
    def test_an_entry_is_the_finding_with_the_moment_of_its_deletion(self, clock: Clock) -> None:
        made = History(clock)
        made.record([healed("a")])
        assert json.loads(made.select()[0]) == healed("a") | {"deleted": "2027-01-15T08:00:00Z"}

    def test_the_newest_come_first_and_the_oldest_go(self, clock: Clock) -> None:
        made = filled(clock, MAX_ENTRIES + 10)
        told = uids(made)
        assert (len(told), told[0], told[-1]) == (MAX_ENTRIES, f"u{MAX_ENTRIES + 9}", "u10")
        assert made.since == NOW + 10, "it says from when on it is complete"

    def test_what_is_older_than_two_weeks_is_told_no_more(self, clock: Clock) -> None:
        made = filled(clock, 2)
        clock.time += MAX_AGE - 0.5
        assert made.since >= clock.time - MAX_AGE
        made.record([healed("new")])
        assert uids(made) == ["new", "u1"]

    def test_one_pod_is_one_entry(self, clock: Clock) -> None:
        made = filled(clock, 1)
        clock.time += 60
        made.record([healed("u0")])
        assert uids(made) == ["u0"]
        assert json.loads(made.select()[0])["deleted"] == "2027-01-15T08:00:01Z"

    def test_it_is_narrowed_to_days_an_airflow_or_a_dag(self, clock: Clock) -> None:
        made = History(clock)
        made.record([healed("old")])
        clock.time += 2 * 86400
        made.record([healed("a"), healed("b", dag="sales"), healed("c", airflow="other")])
        assert uids(made, days=1.0) == ["c", "b", "a"]
        assert uids(made, airflow="other") == ["c"]
        assert uids(made, dag_id="sales") == ["b"]
        assert uids(made, dag_id="nobody") == []

    def test_the_tag_changes_with_what_it_tells_and_is_no_other_histories(self, clock: Clock) -> None:
        made = filled(clock, 1)
        before = made.tag
        assert made.tag == before != filled(clock, 1).tag
        made.record([healed("x")])
        assert made.tag != before

    def test_a_term_begins_knowing_only_what_this_replica_has_deleted(self, clock: Clock) -> None:
        made = filled(clock, 1)
        clock.time += 100
        made.begin(1)
        assert made.since == NOW, "another thread of the same term"
        made.begin(2)
        assert made.since == clock.time
        assert uids(made) == ["u0"]


class TestPacked:
    def test_what_is_packed_is_read_again(self, clock: Clock) -> None:
        made, later = filled(clock, 5), History(clock)
        clock.time += 50
        later.begin(1)
        later.record([healed("mine"), healed("u3")])
        assert later.merge(made.pack()) == 4
        assert uids(later) == ["u3", "mine", "u4", "u2", "u1", "u0"]
        assert later.since == NOW

    def test_gunzip_reads_it_and_its_form_is_that_of_the_docs(self, clock: Clock) -> None:
        told = json.loads(gzip.decompress(filled(clock, 1).pack()))
        assert list(told) == ["format", "since", "entries"]
        assert told["entries"] == [healed("u0") | {"deleted": "2027-01-15T08:00:01Z"}]

    def test_two_thousand_are_far_below_what_a_config_map_holds(self, clock: Clock) -> None:
        made = filled(clock, MAX_ENTRIES)
        assert len(made.pack()) < MAX_PACKED / 3

    def test_what_does_not_compress_loses_its_oldest_and_says_so(self, clock: Clock) -> None:
        dice = random.Random(1)
        made = History(clock)
        for number in range(600):
            clock.time += 1
            made.record([healed(f"u{number}", detail=dice.randbytes(2000).hex())])
        packed = made.pack()
        assert len(packed) <= MAX_PACKED
        assert len(uids(made)) == 600, "in memory all of them stay"
        later = History(clock)
        later.begin(1)
        kept = later.merge(packed)
        assert 100 < kept < 600
        assert uids(later)[0] == "u599"
        assert later.since == NOW + 600 - kept

    @pytest.mark.parametrize(
        "garbage",
        [
            b"",
            b"no gzip",
            gzip.compress(b"")[:-3],
            gzip.compress(b"[]"),
            gzip.compress(b"{}"),
            gzip.compress(b"[" * 200_000),
            gzip.compress(b'{"format":1,"since":"2026-01-01T00:00:00Z","entries":7}'),
            gzip.compress(b'{"format":1,"since":"yesterday","entries":[]}'),
            gzip.compress(b'{"format":1,"since":"2026-01-01T00:00:00","entries":[]}'),
            gzip.compress(b'{"format":2,"since":"2026-01-01T00:00:00Z","entries":[]}'),
            gzip.compress(b"\xff\xfe"),
        ],
        ids=range(11),
    )
    def test_garbage_is_one_sentence_and_changes_nothing(self, clock: Clock, garbage: bytes) -> None:
        made = filled(clock, 1)
        with pytest.raises(InvalidHistoryError) as error:
            made.merge(garbage)
        assert str(error.value).startswith("it ")
        assert "\n" not in str(error.value)
        assert (uids(made), made.since) == (["u0"], NOW)

    def test_a_bomb_is_not_unpacked(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_UNPACKED", 1 << 20)
        with pytest.raises(InvalidHistoryError, match="too long"):
            History(clock).merge(gzip.compress(b" " * (50 << 20)))

    @pytest.mark.parametrize(
        "change",
        [
            {"deleted": None},
            {"deleted": "2199-01-01T00:00:00Z"},
            {"deleted": "2026-01-01T00:00:00"},
            {"uid": 7},
            {"task": {"dag_id": "etl"}},
            {"task": "etl"},
            {"labels": None},
            {"labels": {"dag_id": 1}},
            {"holds": 7},
            {"holds": {"cpu_cores": "1"}},
            {"cause": {"name": "x"}},
            {"notices": [1]},
            {"dag_id": ["etl"]},
            {"since": "yesterday"},
        ],
    )
    def test_an_entry_of_another_form_is_left_out_and_the_others_stay(
        self, clock: Clock, change: dict[str, Any]
    ) -> None:
        good, bad = ({**healed(uid), "deleted": "2027-01-15T08:00:00Z"} for uid in ("good", "bad"))
        text = json.dumps({"format": 1, "since": "2027-01-01T00:00:00Z", "entries": [bad | change, good, 7, None]})
        made = History(clock)
        assert made.merge(gzip.compress(text.encode())) == 1
        assert uids(made) == ["good"]

    @pytest.mark.parametrize("odd", [b'"\xff\xfe"', b"1e999999", b'"<script>"'])
    def test_what_no_finding_has_is_not_served(self, clock: Clock, odd: bytes) -> None:
        """No reader could decode the first two, and so none of the others."""
        entry = json.dumps({**healed("a"), "deleted": "2027-01-15T08:00:00Z"}).encode()
        text = b'{"format":1,"since":"2027-01-01T00:00:00Z","entries":[%s,"more":%s}]}' % (entry[:-1], odd)
        made = History(clock)
        assert made.merge(gzip.compress(text)) == 1
        assert made.select() == [msgspec.json.encode(json.loads(entry))]

    def test_whatever_is_served_has_the_form_of_a_finding(self, clock: Clock) -> None:
        """So that what is saved by an older or newer version, or by hand, breaks no reader."""
        assert set(module._Told.__struct_fields__) == {*healed("a"), "deleted"}


class FakeConfigMap:
    """A ConfigMap that others may write to, and that fails on demand."""

    def __init__(self) -> None:
        self.stored: ConfigMap | None = None
        self.failures: list[ClusterError] = []
        self.calls: list[str] = []
        self.at_write: Callable[[], None] = lambda: None
        self.number = 0

    def __str__(self) -> str:
        return "ops/kpo-healer-history"

    def get(self) -> ConfigMap | None:
        self._call("get")
        return self.stored

    def create(self, data: bytes) -> ConfigMap:
        self._call("create")
        if self.stored is not None:
            raise ClusterError("there is one", status=409)
        return self.put(data)

    def replace(self, seen: ConfigMap, data: bytes) -> ConfigMap:
        self._call("replace")
        self.at_write()
        if self.stored is None:
            raise ClusterError("gone", status=404)
        if seen.resource_version != self.stored.resource_version:
            raise ClusterError("somebody was faster", status=409)
        return self.put(data)

    def put(self, data: bytes | None) -> ConfigMap:
        self.number += 1
        self.stored = ConfigMap(data, str(self.number), {"resourceVersion": str(self.number)})
        return self.stored

    def saved(self) -> list[str]:
        if self.stored is None or self.stored.data is None:
            return []
        return [entry["uid"] for entry in json.loads(gzip.decompress(self.stored.data))["entries"]]

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failures:
            raise self.failures.pop(0)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@pytest.fixture
def config_map() -> FakeConfigMap:
    return FakeConfigMap()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(clock)


@pytest.fixture
def keep(history: History, config_map: FakeConfigMap) -> Iterator[Callable[..., HistoryStore]]:
    made: list[HistoryStore] = []

    def start(interval: float = 0.01) -> HistoryStore:
        store = HistoryStore(history, config_map, interval=interval)
        made.append(store)
        store.start()
        return store

    yield start
    for store in made:
        store.stop(PATIENCE)
        assert not store.alive()


Keep = Callable[..., HistoryStore]


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


class TestStore:
    def test_it_is_read_when_leading_begins(self, clock: Clock, history: History, config_map: Any, keep: Keep) -> None:
        config_map.put(filled(clock, 3).pack())
        keep()
        time.sleep(0.05)
        assert config_map.calls == [], "nobody leads yet"
        history.begin(1)
        until(lambda: uids(history) == ["u2", "u1", "u0"])
        assert config_map.calls == ["get"]

    def test_what_is_new_is_written_and_nothing_else(self, history: History, config_map: Any, keep: Keep) -> None:
        keep()
        history.begin(1)
        history.record([healed("a")])
        until(lambda: config_map.saved() == ["a"])
        history.record([healed("a")])
        history.record([healed("b")])
        until(lambda: config_map.saved() == ["a", "b"])
        count = len(config_map.calls)
        time.sleep(0.1)
        assert len(config_map.calls) == count

    def test_at_most_one_write_in_an_interval_and_one_at_the_end(
        self, history: History, config_map: Any, keep: Keep
    ) -> None:
        store = keep(interval=3600.0)
        history.begin(1)
        history.record([healed("first")])
        until(lambda: config_map.saved() == ["first"])
        for number in range(50):
            history.record([healed(f"u{number}")])
        time.sleep(0.05)
        assert config_map.saved() == ["first"]
        store.stop(PATIENCE)
        assert len(config_map.saved()) == 51
        assert config_map.calls.count("replace") == 1

    def test_two_replicas_that_write_lose_nothing_of_each_other(
        self, clock: Clock, history: History, config_map: Any, keep: Keep
    ) -> None:
        keep()
        history.begin(1)
        history.record([healed("mine")])
        until(lambda: config_map.saved() == ["mine"])
        config_map.put(filled(clock, 2).pack())
        history.record([healed("mine-too")])
        until(lambda: set(config_map.saved()) == {"mine", "mine-too", "u0", "u1"})
        assert set(uids(history)) == {"mine", "mine-too", "u0", "u1"}

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (
                AccessDeniedError("The healer may not read a ConfigMap: bind its account.", status=403),
                "bind its account",
            ),
            (UnreachableError("Nobody answers."), "Nobody answers"),
            (ClusterError("The request is too large.", status=413), "too large"),
        ],
    )
    def test_a_failure_is_one_sentence_and_tried_again(
        self, history: History, config_map: Any, keep: Keep, said: Any, failure: ClusterError, text: str
    ) -> None:
        config_map.failures = [failure] * 5
        keep()
        history.begin(1)
        history.record([healed("a")])
        until(lambda: config_map.saved() == ["a"])
        told = [line for line in said if line["log_level"] == "warning"]
        assert len(told) == 1
        assert text in told[0]["why"]
        assert told[0]["config_map"] == "ops/kpo-healer-history"
        until(lambda: any("kept again" in line["event"] for line in said))

    @pytest.mark.parametrize("data", [b"garbage", b"", None])
    def test_garbage_in_it_is_told_and_replaced(
        self, history: History, config_map: Any, keep: Keep, said: Any, data: bytes | None
    ) -> None:
        config_map.put(data)
        keep()
        history.begin(1)
        history.record([healed("a")])
        until(lambda: config_map.stored.data not in {b"garbage", b"", None} and config_map.saved() == ["a"])
        assert [line["event"] for line in said if line["log_level"] == "warning"] == [
            "the saved history is left aside, a new one begins"
        ]

    def test_one_that_is_deleted_meanwhile_is_made_anew(self, history: History, config_map: Any, keep: Keep) -> None:
        keep()
        history.begin(1)
        history.record([healed("a")])
        until(lambda: config_map.saved() == ["a"])
        config_map.stored = None
        history.record([healed("b")])
        until(lambda: config_map.saved() == ["a", "b"])

    def test_endless_conflicts_end(self, history: History, config_map: Any, keep: Keep, said: Any) -> None:
        config_map.at_write = lambda: config_map.put(None)
        keep(interval=3600.0)
        config_map.put(None)
        history.begin(1)
        history.record([healed("a")])
        until(lambda: any(line["log_level"] == "warning" and "faster" in line.get("why", "") for line in said))
        assert config_map.calls.count("replace") == 3

    def test_a_bug_ends_neither_the_thread_nor_the_healer(
        self, history: History, config_map: Any, keep: Keep, monkeypatch: pytest.MonkeyPatch, said: Any
    ) -> None:
        broken = threading.Event()

        def pack() -> bytes:
            broken.set()
            raise RuntimeError("a bug")

        monkeypatch.setattr(history, "pack", pack)
        store = keep()
        history.begin(1)
        history.record([healed("a")])
        assert broken.wait(PATIENCE)
        assert store.alive()
        monkeypatch.undo()
        until(lambda: config_map.saved() == ["a"])

    def test_a_hanging_api_server_holds_up_no_end(self, history: History, config_map: Any) -> None:
        gate = threading.Event()
        config_map.at_write = lambda: gate.wait(PATIENCE)
        config_map.put(None)
        store = HistoryStore(history, config_map, interval=0.01)
        store.start()
        history.begin(1)
        history.record([healed("a")])
        until(lambda: "replace" in config_map.calls)
        began = time.monotonic()
        store.stop(0.05)
        assert time.monotonic() - began < 5
        gate.set()
        store.stop(PATIENCE)
