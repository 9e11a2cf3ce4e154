"""What one viewer is shown, without Airflow: rights, questions, totals, days."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from kpo_healer_airflow.found import Found
from kpo_healer_airflow.overview import Query, Rights, overview
from kpo_healer_airflow.picture import Picture
from kpo_healer_airflow.wire import AirflowStatus, Breaker, Finding, Notice

from tests.ui import worlds

ALL = Rights(frozenset({"sales", "ml_features", "finance"}), everything=True)
SALES = Rights(frozenset({"sales"}), everything=False)
NOBODY = Rights(frozenset(), everything=False)
NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


def picture(**fields: Any) -> Picture:
    made: dict[str, Any] = {
        "findings": [f for f in msgspec.convert(worlds.findings(), list[Finding]) if f.airflow == "default"],
        "notices": msgspec.convert(worlds.notices(), list[Notice]),
        "history": msgspec.convert(worlds.history(), list[Finding]),
        "status": AirflowStatus("default", "enforce"),
    }
    made |= fields
    return Picture(found=Found.of(made.pop("findings")), **made)


def shown(rights: Rights, given: Picture | None = None, zone: dt.tzinfo = dt.UTC, **query: Any) -> dict[str, Any]:
    answer = overview(given or picture(), rights, Query(**query), worlds.now(), zone)
    return dict(msgspec.json.decode(msgspec.json.encode(answer)))


def pods(answer: dict[str, Any]) -> set[str]:
    return {row["pod"] for row in answer["findings"]}


@pytest.mark.parametrize(
    ("rights", "seen", "notices"),
    [
        (ALL, 7, {"report-1f0amz3k", "books-9", "who-knows-1"}),
        (SALES, 3, {"report-1f0amz3k"}),
        (NOBODY, 0, set()),
        # All DAGs one by one are not everything: what no DAG is proven for stays hidden.
        (Rights(ALL.dag_ids, everything=False), 6, {"report-1f0amz3k", "books-9"}),
    ],
)
def test_nothing_of_another_dag_is_in_rows_or_figures(rights: Rights, seen: int, notices: set[str]) -> None:
    answer = shown(rights)
    rows = [*answer["findings"], *answer["notices"], *answer["history"]["entries"]]
    assert all(rights.may_see(row["dag_id"]) for row in rows)
    totals = answer["totals"]
    assert len(answer["findings"]) == answer["matching"] == totals["pods"] == seen
    assert totals["soon"] + totals["reported"] + totals["paused"] == seen
    assert sum(answer["reasons"].values()) == seen
    assert {row["pod"] for row in answer["notices"]} == notices
    assert answer["notices_total"] == totals["notices"] == len(notices)
    days = sum(sum(day["reasons"].values()) for day in answer["history"]["days"])
    mine = [f for f in picture().history or () if rights.may_see(f.dag)]
    assert answer["history"]["total"] == len(mine)
    assert days <= len(mine)
    assert (totals["cpu_cores"] == 0) is (seen == 0)


def test_a_dag_is_none_of_ours_though_a_label_says_so() -> None:
    found = msgspec.convert([worlds.finding("x", None, "run-deleted", labels={"dag_id": "sales"})], list[Finding])
    assert pods(shown(SALES, picture(findings=found))) == set()


def test_sentences_that_count_pods_of_all_dags_are_for_those_who_may_see_all() -> None:
    status = AirflowStatus("default", "enforce", breaker=Breaker(detail="812 of 900 Pods"), problem="secret DAG")
    given = picture(status=status, incomplete="3 Pods: finance is ambiguous")
    everything, narrow = shown(ALL, given), shown(SALES, given)
    assert "812 of 900" in everything["trouble"]
    assert everything["incomplete"] == ("Not all Pods could be judged in the last pass: 3 Pods: finance is ambiguous")
    assert "paused" in narrow["trouble"]
    assert "812" not in narrow["trouble"]
    assert "finance" not in narrow["incomplete"]
    assert narrow["incomplete"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"dag_id": "sales"}, {"train-9x1mmq0a", "extract-b3k2x9qd", "load-ee1ppl0z"}),
        ({"dag_id": "sales", "task_id": "train"}, {"train-9x1mmq0a"}),
        ({"dag_id": "ml_features", "run_id": worlds.RUN}, {"embed-12pqa8vv"}),
        ({"dag_id": "ml_features"}, {"embed-12pqa8vv", "score-77hqk2lp"}),
        ({"dag_id": "ml_features", "task_id": "embed", "map_index": 3}, {"embed-12pqa8vv"}),
        ({"dag_id": "ml_features", "task_id": "embed", "map_index": 2}, set()),
        ({"task_id": "train", "text": "sales", "reason": "superseded"}, {"train-9x1mmq0a"}),  # a task is of a DAG
        ({"text": "SALES", "reason": "superseded"}, {"train-9x1mmq0a"}),
        ({"text": "77hq"}, {"score-77hqk2lp"}),
        ({"text": "5ac1f3cbf"}, {"score-77hqk2lp", "unproven-0000aaaa"}),
        ({"reason": "abandoned"}, {"close-books-5tz0k1mm"}),
        ({"text": "nothing like it"}, set()),
    ],
)
def test_questions_narrow(query: dict[str, Any], expected: set[str]) -> None:
    assert pods(shown(ALL, **query)) == expected


def test_rows_are_capped_and_figures_are_not() -> None:
    many = msgspec.convert(worlds.many(1200).findings, list[Finding])
    answer = shown(Rights(frozenset(f.dag or "" for f in many), everything=False), picture(findings=many))
    assert (len(answer["findings"]), answer["matching"], answer["totals"]["pods"]) == (500, 1200, 1200)
    assert answer["totals"]["cpu_cores"] == 1200
    assert len(shown(ALL, rows=0)["findings"]) == 0


def test_a_day_begins_where_the_viewer_lives() -> None:
    late = NOW.replace(hour=23, minute=30) - dt.timedelta(days=1)
    healed = msgspec.convert(
        [worlds.finding("x", worlds.task("sales", "extract"), "orphaned", deleted=late)], list[Finding]
    )
    given = picture(history=healed)
    for zone, day in ((dt.UTC, "2026-11-29"), (dt.timezone(dt.timedelta(hours=2)), "2026-11-30")):
        answer = msgspec.to_builtins(overview(given, ALL, Query(), NOW, zone))
        assert [d["day"] for d in answer["history"]["days"] if d["reasons"]] == [day]
        assert len(answer["history"]["days"]) == 14


def test_what_was_idle_until_it_was_healed_is_counted_for_a_week() -> None:
    def healed(pod: str, days_ago: float, cpu: float) -> dict[str, Any]:
        end = NOW - dt.timedelta(days=days_ago)
        held = {"cpu_cores": cpu, "since": end - dt.timedelta(hours=3)}
        return worlds.finding(pod, worlds.task("sales", "extract"), "orphaned", deleted=end, holds=held)

    entries = [healed("a", 1, 2), healed("b", 6.9, 1), healed("c", 7.1, 64)]
    given = picture(history=msgspec.convert(entries, list[Finding]))
    history = overview(given, ALL, Query(), NOW, dt.UTC)["history"]
    assert (history["week"], history["week_core_hours"], history["total"]) == (2, 9.0, 3)


def test_a_healer_that_can_not_be_asked_is_one_sentence_and_nothing_else() -> None:
    answer = shown(ALL, Picture(problem="kpo-healer can't be reached."))
    assert set(answer) == {"now", "configured", "problem"}


@pytest.mark.parametrize("deleted", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
@pytest.mark.parametrize("hours", [-12, 14])
def test_a_moment_at_the_end_of_the_calendar_is_of_no_day(deleted: str, hours: int) -> None:
    history = msgspec.convert(worlds.history(), list[Finding])
    odd = msgspec.structs.replace(history[0], deleted=dt.datetime.fromisoformat(deleted))
    zone = dt.timezone(dt.timedelta(hours=hours))
    days = shown(ALL, picture(history=history), zone)["history"]["days"]
    assert shown(ALL, picture(history=[odd, *history]), zone)["history"]["days"] == days
