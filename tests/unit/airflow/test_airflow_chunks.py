"""Chunks: every cell asked about once, limits kept, large tasks kept out; and marks that never skip anything."""

from __future__ import annotations

from datetime import datetime
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healer.airflow.api.task_key import TaskKey, body
from healer.airflow.queries.batching import FULL, LATELY, BatchLimits, batches, halves
from healer.airflow.queries.watermarks import OVERLAP, Watermarks
from healer.model import TaskInstance

names = st.sampled_from(["a", "b", "c", "long" * 20, "ü" * 10])
cells = st.sets(st.builds(TaskKey, names, names, names), min_size=1, max_size=60)
limits = st.builds(
    BatchLimits, dags=st.integers(1, 4), runs=st.integers(1, 4), body=st.integers(300, 2000), rows=st.integers(1, 40)
)


@given(cells, limits, st.integers(0, 12))
def test_every_cell_is_in_exactly_one_chunk(asked: set[TaskKey], limit: BatchLimits, rows: int) -> None:
    found = list(batches(asked, limit, lambda _: rows))
    assert sorted(task_key for chunk in found for task_key in chunk) == sorted(asked)
    assert all(chunk == tuple(sorted(chunk)) for chunk in found)


@given(cells, limits, st.integers(1, 12))
def test_a_chunk_of_more_than_one_cell_keeps_the_limits(asked: set[TaskKey], limit: BatchLimits, rows: int) -> None:
    for chunk in batches(asked, limit, lambda _: rows):
        if len(chunk) > 1:
            sent = body(chunk, {"state": ["failed", "skipped", "success", "upstream_failed"]})
            assert len(sent["dag_ids"]) <= limit.dags  # type: ignore[arg-type]
            assert len(sent["dag_run_ids"]) <= limit.runs  # type: ignore[arg-type]
            assert len(chunk) * rows <= max(limit.rows, rows)


@given(cells, st.sets(st.builds(TaskKey, names, names, names), max_size=4))
def test_no_cross_product_selects_a_large_task(asked: set[TaskKey], large: set[TaskKey]) -> None:
    for chunk in batches(asked - large, FULL, lambda _: 1, large):
        if len(chunk) > 1:
            selected = set(product(*(set(column) for column in zip(*chunk, strict=True))))
            assert not selected & large


@given(cells)
def test_halves_are_two_parts_of_the_whole(asked: set[TaskKey]) -> None:
    chunk = tuple(sorted(asked))
    if len(chunk) > 1:
        first, second = halves(chunk)
        assert first
        assert second
        assert sorted(first + second) == list(chunk)


def test_what_can_not_be_split_or_asked() -> None:
    with pytest.raises(ValueError, match="can't be split"):
        halves((TaskKey("d", "r", "t"),))
    with pytest.raises(ValueError, match="ask for everything"):
        body((), {})


def test_a_dag_is_not_spread_over_two_chunks_without_need() -> None:
    """Scheduled runs share their ids: each DAG's rows would come twice."""
    asked = {TaskKey(f"d{i}", f"r{j}", f"t{k}") for i in range(9) for j in range(10) for k in range(20)}
    found = list(batches(asked, FULL, lambda _: 1))
    assert [len({task_key.dag_id for task_key in chunk}) for chunk in found] == [2, 2, 2, 2, 1]


def test_200_runs_of_200_dags_are_one_question() -> None:
    asked = {TaskKey(f"some_dag_{i}", f"manual__2026-01-01T00:00:00.{i:06}+00:00", f"task_{i}") for i in range(200)}
    assert len(list(batches(asked, LATELY, lambda _: 1))) == 1


# --- watermarks ---

A, B = TaskKey("a", "r", "t"), TaskKey("b", "r", "t")


def at(start: float | None = None, end: float | None = None) -> TaskInstance:
    return TaskInstance("a", "r", "t", -1, start_date=start, end_date=end)


def test_a_chunk_goes_back_to_its_oldest_mark() -> None:
    marks = Watermarks()
    marks.covered([A], 1_000_000.0, first=False)
    marks.covered([B], 2_000_000.0, first=False)
    assert marks.since([A, B]) == "1970-01-12T13:36:40+00:00"
    assert marks.since([B]) == "1970-01-24T03:23:20+00:00"


def test_a_cell_without_a_mark_takes_the_date_off_its_chunk() -> None:
    marks = Watermarks()
    marks.covered([A], 1_000_000.0, first=False)
    assert marks.since([A, B]) is None
    assert marks.since([]) is None


def test_a_look_at_new_pods_does_not_move_the_mark_of_the_others() -> None:
    marks = Watermarks()
    marks.covered([A], 1_000_000.0, first=True)
    before = marks.since([A])
    marks.covered([A], 2_000_000.0, first=True)
    assert marks.since([A]) == before
    marks.covered([A], 2_000_000.0, first=False)
    assert marks.since([A]) != before


@pytest.mark.parametrize("end", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-12:00"])
def test_a_mark_that_no_calendar_has_is_none(end: str) -> None:
    marks = Watermarks()
    marks.covered([A], marks.see([at(end=datetime.fromisoformat(end).timestamp())], None), first=True)
    assert marks.since([A]) is None


def test_the_newest_time_is_airflows_own() -> None:
    marks = Watermarks()
    assert marks.see([at(), at(5.0), at(3.0, 9.0)], None) == 9.0
    assert marks.see([at(4.0)], None) == 4.0
    assert marks.newest == 9.0


def test_a_time_ahead_of_the_server_does_not_count() -> None:
    marks = Watermarks()
    assert marks.see([at(1_000_000.0), at(1_000_050.0)], 1_000_000.0) == 1_000_050.0
    assert marks.see([at(1_000_000.0), at(9_000_000.0)], 1_000_000.0) == 1_000_000.0


def test_after_a_long_silence_the_server_s_clock_takes_over() -> None:
    """Else a burst of ends would be read again with each pass until something else happens."""
    marks = Watermarks()
    assert marks.see([at(end=1_000.0)], 1_000_000.0) == 1_000_000.0 - OVERLAP


def test_marks_of_cells_without_pods_are_forgotten() -> None:
    marks = Watermarks()
    marks.covered([A, B], 1.0, first=False)
    marks.keep_only({B})
    assert (marks.marked(A), marks.marked(B)) == (False, True)
    marks.covered([A], None, first=False)
    assert not marks.marked(A)
