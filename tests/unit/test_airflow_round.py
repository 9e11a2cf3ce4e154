"""The round's threads."""

from __future__ import annotations

import threading

from healer.airflow.round import side_by_side


def _name(_: int) -> str:
    return threading.current_thread().name


def test_the_results_have_the_order_of_the_items() -> None:
    assert side_by_side(lambda item: -item, range(50)) == [-item for item in range(50)]


def test_one_question_is_asked_where_one_stands() -> None:
    assert side_by_side(_name, [1]) == [threading.current_thread().name]


def test_the_threads_stay() -> None:
    side_by_side(_name, range(50))
    before = set(threading.enumerate())
    side_by_side(_name, range(50))
    assert set(threading.enumerate()) == before
