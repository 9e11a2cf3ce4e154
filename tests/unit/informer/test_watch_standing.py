"""What counts as a restart of the watch."""

from __future__ import annotations

import pytest

from healer.informer.status import SERVER_TIMEOUT, WatchStatus


@pytest.mark.parametrize(
    ("begins", "restarts"),
    [
        ([0.0], 0),
        ([0.0, SERVER_TIMEOUT, 2 * SERVER_TIMEOUT], 0),
        ([0.0, 20.0, 40.0, 60.0], 3),
        ([0.0, SERVER_TIMEOUT, SERVER_TIMEOUT + 5.0], 1),
    ],
    ids=["the first", "the server's own end", "a proxy that cuts it off", "once"],
)
def test_a_watch_that_is_cut_off_is_a_restart_and_one_that_ran_its_time_is_none(
    begins: list[float], restarts: int
) -> None:
    status = WatchStatus()
    for now in begins:
        status.begun("jobs", now)
        status.begun("another", 0.0) if now == 0.0 else None
    assert status.restarts == restarts
    assert "jobs" in status.watched


def test_a_death_of_kopf_is_counted_once_by_who_starts_it_again() -> None:
    status = WatchStatus()
    status.begun("jobs", 0.0)
    status.down()
    status.begun("jobs", 1.0)
    assert status.restarts == 0


def test_a_watch_that_begins_late_says_nothing_of_a_namespace_that_was_forgotten() -> None:
    """Else one of the same name that comes later would count as watched before its watch has begun."""
    status = WatchStatus()
    status.wanted = frozenset({"a"})
    status.begun("a", 0.0)
    status.wanted = frozenset()
    status.forget("a")
    status.begun("a", 1.0)
    assert status.watched == set()
    status.wanted = frozenset({"a"})
    status.begun("a", 2.0)
    assert (status.watched, status.restarts) == ({"a"}, 0)
