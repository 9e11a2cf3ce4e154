"""The round's threads."""

from __future__ import annotations

import threading

from healer.airflow.queries.session import map_concurrently


def _name(_: int) -> str:
    return threading.current_thread().name


def test_the_results_have_the_order_of_the_items() -> None:
    assert map_concurrently(lambda item: -item, range(50)) == [-item for item in range(50)]


def test_one_question_is_asked_where_one_stands() -> None:
    assert map_concurrently(_name, [1]) == [threading.current_thread().name]


def test_the_threads_stay() -> None:
    map_concurrently(_name, range(50))
    before = set(threading.enumerate())
    map_concurrently(_name, range(50))
    assert set(threading.enumerate()) == before
