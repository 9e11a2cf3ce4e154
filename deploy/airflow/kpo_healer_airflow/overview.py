"""What one viewer is shown: the picture, narrowed to their rights and their question, with the totals of all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any, TypeVar

from msgspec import Struct

from kpo_healer_airflow.found import Found, Sums, begun, fate, sums
from kpo_healer_airflow.picture import HISTORY_DAYS, Picture
from kpo_healer_airflow.wire import Finding, Notice, Task

__all__ = ["ROWS", "Query", "Rights", "overview"]

ROWS = 500
"""Rows of a table at most; the totals are of all."""

WEEK = timedelta(days=7)

T = TypeVar("T", Finding, Notice)


class Rights(Struct, frozen=True):
    """What one user may see. everything: also what no DAG id is proven for."""

    dag_ids: frozenset[str]
    everything: bool

    def may_see(self, dag_id: str | None) -> bool:
        """Whether what is found of this DAG may be shown; None where its DAG is not proven."""
        return self.everything or (dag_id is not None and dag_id in self.dag_ids)


class Query(Struct, frozen=True):
    """What is asked for: all that the viewer may see, or one DAG, and of that one run, task or task instance.

    text: to be found in DAG, task, run or Pod. reason: one reason alone. rows: of each table at most.
    """

    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int | None = None
    text: str = ""
    reason: str = ""
    rows: int = ROWS


def overview(picture: Picture, rights: Rights, query: Query, now: datetime, zone: tzinfo) -> dict[str, Any]:
    """Return the answer of `/api/overview`; `zone` decides where a day of the history begins."""
    answer: dict[str, Any] = {"now": now, "configured": picture.configured, "problem": picture.problem}
    if picture.problem:
        return answer
    found = picture.found
    dags = [dag for dag in found.places if rights.may_see(dag) and query.dag_id in {"", dag}]
    places, together = _within(found, dags, query)
    matching = places
    if query.text or query.reason:
        matching = [place for place in places if _matches(found.findings[place], query)]
    notices = _visible(picture.notices, rights, query)
    return answer | {
        "looked": picture.looked,
        "incomplete": _incomplete(picture, rights),
        "mode": picture.status.mode if picture.status else None,
        "trouble": _trouble(picture, rights),
        "totals": _totals(together, dags, len(notices)),
        "reasons": together.reasons,
        "matching": len(matching),
        "findings": [_row(found.findings[place]) for place in matching[: query.rows]],
        "notices": [_notice(n) for n in notices[: query.rows]],
        "notices_total": len(notices),
        "history": _history(picture, rights, query, now, zone),
    }


def _within(found: Found, dags: Sequence[str | None], query: Query) -> tuple[Sequence[int], Sums]:
    """Return where the findings of these DAGs are, as far as they are of the object that is looked at, and their sums.

    Where whole DAGs are asked for, no finding is looked at.
    """
    places = sorted(place for dag in dags for place in found.places[dag])
    is_whole = not query.run_id and not query.task_id and query.map_index is None
    if is_whole or not query.dag_id:
        return places, Sums.of_all(found.sums[dag] for dag in dags)
    places = [place for place in places if _is_within(found.findings[place], query)]
    return places, sums([found.findings[place] for place in places])


def _visible(found: Sequence[T], rights: Rights, query: Query) -> list[T]:
    """Return what this viewer may see of the object of Airflow that is looked at."""
    visible = [item for item in found if rights.may_see(item.dag)]
    return [item for item in visible if _is_within(item, query)] if query.dag_id else visible


def _is_within(found: Finding | Notice, query: Query) -> bool:
    """Whether it belongs to the object of Airflow that is looked at."""
    if found.dag != query.dag_id:
        return False
    task = found.task
    if query.run_id and (task is None or task.run_id != query.run_id):
        return False
    if query.task_id and (task is None or task.task_id != query.task_id):
        return False
    return query.map_index is None or (task is not None and task.map_index == query.map_index)


def _matches(finding: Finding, query: Query) -> bool:
    if query.reason and finding.reason != query.reason:
        return False
    text = query.text.casefold()
    return not text or any(text in part.casefold() for part in _searched(finding))


def _searched(finding: Finding) -> Iterable[str]:
    yield finding.pod
    yield finding.namespace
    if finding.task is not None:
        yield from (finding.task.dag_id, finding.task.task_id, finding.task.run_id)
    else:
        yield from finding.labels.values()
        yield finding.dag_id or ""


def _totals(together: Sums, dags: Sequence[str | None], notices: int) -> dict[str, Any]:
    return {
        "pods": together.pods,
        "dags": len(set(dags) - {None}) if together.pods else 0,
        "oldest": together.oldest,
        "next_due": together.next_due,
        "cpu_cores": together.cpu_cores,
        "memory_bytes": together.memory_bytes,
        "extended": together.extended,
        "notices": notices,
        **{each: together.fates.get(each, 0) for each in ("soon", "paused", "reported")},
    }


def _row(finding: Finding) -> dict[str, Any]:
    return _about(finding) | {
        "uid": finding.uid,
        "reason": finding.reason,
        "fate": fate(finding),
        "withheld": finding.withheld,
        "detail": finding.detail,
        "begun": begun(finding),
        "due": finding.due,
        "deleted": finding.deleted,
        "holds": finding.holds,
        "cause": finding.cause,
        "notices": finding.notices,
    }


def _notice(notice: Notice) -> dict[str, Any]:
    return _about(notice) | {"uid": notice.uid, "notice": notice.notice, "detail": notice.detail}


def _about(found: Finding | Notice) -> dict[str, Any]:
    task: Task | None = found.task
    labels = found.labels if isinstance(found, Finding) and task is None else {}
    try_label = found.labels.get("try_number") if isinstance(found, Finding) else None
    return {
        "namespace": found.namespace,
        "pod": found.pod,
        "dag_id": found.dag,
        "task": task,
        "labels": labels,  # what the Pod says of itself, where Airflow does not know it any more
        "try": try_label,
    }


def _incomplete(picture: Picture, rights: Rights) -> str:
    """Say that Pods are missing. Why, tells of Pods of all DAGs, so not all may read it."""
    if not picture.incomplete:
        return ""
    general = "Not all Pods could be judged in the last pass"
    return f"{general}: {picture.incomplete}" if rights.everything else f"{general}."


def _trouble(picture: Picture, rights: Rights) -> str:
    """Say what keeps the healer from its work. Its own sentence counts Pods of all DAGs, so not all may read it."""
    status = picture.status
    if status is None:
        return ""
    if status.breaker is not None:
        general = "Deletions are paused: unusually many Pods looked orphaned at once."
        return f"{general} {status.breaker.detail}".strip() if rights.everything else general
    if status.problem:
        general = "kpo-healer gets no answers from Airflow, so nothing is deleted."
        return f"{general} {status.problem}" if rights.everything else general
    return ""


def _history(picture: Picture, rights: Rights, query: Query, now: datetime, zone: tzinfo) -> dict[str, Any] | None:
    if picture.history is None:
        return None
    healed = _visible(picture.history, rights, query)
    week = [f for f in healed if f.deleted is not None and f.deleted > now - WEEK]
    return {
        "complete_since": picture.complete_since,
        "week": len(week),
        "week_core_hours": sum(map(_core_hours, week)),
        "days": _days(healed, now, zone),
        "total": len(healed),
        "entries": [_row(f) for f in healed[: min(query.rows, 100)]],
    }


def _core_hours(healed: Finding) -> float:
    """Return what the Pod held between the end of its use and its deletion."""
    holds = healed.holds
    if holds is None or holds.since is None or healed.deleted is None:
        return 0.0
    return holds.cpu_cores * max(0.0, (healed.deleted - holds.since).total_seconds()) / 3600


def _days(healed: Sequence[Finding], now: datetime, zone: tzinfo) -> list[dict[str, Any]]:
    today = now.astimezone(zone).date()
    days: dict[Any, Counter[str]] = {today - timedelta(days=ago): Counter() for ago in reversed(range(HISTORY_DAYS))}
    # Only what can be of these days: the first and the last moment of the calendar are none in every zone.
    begin, end = now - timedelta(days=HISTORY_DAYS + 1), now + timedelta(days=2)
    for finding in healed:
        day = finding.deleted.astimezone(zone).date() if finding.deleted and begin < finding.deleted < end else None
        if day in days:
            days[day][finding.reason] += 1
    return [{"day": day, "reasons": reasons} for day, reasons in days.items()]
