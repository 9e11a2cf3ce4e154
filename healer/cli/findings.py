"""Showing findings: as a table for people, as the documented JSON for machines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from healer.cli import summary
from healer.cli.oneshot import ScanResult
from healer.cli.output import (
    STYLES,
    Column,
    Shrink,
    Styled,
    age,
    write,
    write_csv,
    write_data,
    write_error,
    write_prose,
    write_table,
)
from healer.model import Action, Withheld, printable
from healer.telemetry.findings import FindingView

NOTICE_HEADERS = ("namespace", "pod", "notice", "airflow", "task", "detail")

FindingJson = dict[str, Any]
"""A finding, or a notice, in the form of the JSON output, whether made here or read from a running healer."""

HISTORY = (
    Column("deleted"),
    Column("namespace", Shrink.END, 10),
    Column("pod", Shrink.MIDDLE, 14),
    Column("reason", Shrink.END, 8),
    Column("airflow", Shrink.END, 4),
    Column("task", Shrink.END, 8),
    Column("cause", Shrink.END, 6),
    Column("detail", Shrink.FOLD, 20),
)

MOST_NAMED = 10
"""How many Pods a sentence names."""

NARROW = (
    Column("pod", Shrink.MIDDLE, 14),
    Column("reason"),
    Column("age"),
    Column("holds", Shrink.END, 8),
    Column("task", Shrink.END, 10),
    Column("due"),
)
"""What fits a terminal of 80 columns. `pod` is `NAMESPACE/POD` where there is more than one namespace."""

NARROW_NOTICES = (
    Column("pod", Shrink.MIDDLE, 14),
    Column("notice"),
    Column("task", Shrink.END, 10),
    Column("detail", Shrink.FOLD, 28),
)
"""What fits a terminal of 80 columns, with room for the longest word of a sentence."""

HEADERS = ("namespace", "pod", "reason", "action", "withheld", "due", "airflow", "task", "cause", "detail")
"""What `-o wide` shows."""

CSV = (*HEADERS[:6], "created", "since", *HEADERS[6:7], "dag", *HEADERS[7:], "cpu_cores", "memory_bytes", "extended")

DATA = ("json", "yaml")


def told(findings: Iterable[FindingView]) -> list[FindingJson]:
    """Return findings in the form of the JSON output."""
    return [view.to_dict() for view in findings]


def suspects(findings: Iterable[FindingJson]) -> list[FindingJson]:
    """Keep those that the policy would act on; what it only reports counts as found too."""
    return [finding for finding in findings if finding["action"] != Action.KEEP]


def show(
    findings: Sequence[FindingJson],
    form: str,
    *,
    looked_at: int | None,
    notices: Sequence[FindingJson] = (),
    now: float | None = None,
) -> None:
    """Print findings in their order, and in a table the notices below them.

    `looked_at` is how many Pods were judged, None where not all could be; `now` is the server's time (epoch seconds).
    """
    moment = time.time() if now is None else now
    if form in DATA:
        write_data(list(findings), form)
    elif form == "csv":
        write_csv(CSV, ([_csv_value(name, finding) for name in CSV] for finding in findings))
    elif form == "name":
        for finding in findings:
            write(printable(f"{finding['namespace']}/{finding['pod']}"))
    elif findings:
        _show_table(findings, form, moment)
        line = summary.summary(suspects(findings), moment)
        if line:
            write_prose(f"\n{line}")
    elif looked_at is not None:
        write_prose(f"Nothing found among {looked_at} Pods of the KubernetesPodOperator.")
    if is_table(form) and notices:
        write_prose("\nWorth a look, though nobody acts on it")
        show_notices(notices, form, looked_at=looked_at)


def is_table(form: str) -> bool:
    """Whether people read this form: sentences may stand beside it."""
    return form in ("table", "wide")


def _show_table(findings: Sequence[FindingJson], form: str, now: float) -> None:
    if form == "wide":
        write_table(HEADERS, map(_row, findings))
        return
    several = len({finding["namespace"] for finding in findings}) > 1
    write_table(NARROW, ([*_narrow(finding, now, several=several)] for finding in findings))


def _narrow(finding: FindingJson, now: float, *, several: bool) -> Iterable[object]:
    yield f"{finding['namespace']}/{finding['pod']}" if several else finding["pod"]
    yield Styled(finding["reason"], STYLES.get(finding["action"], ""))
    created = epoch(finding.get("created"))
    yield age(max(0.0, now - created)) if created is not None else None
    yield summary.held(finding.get("holds"))
    yield task_of(finding)
    yield due_in(finding, now)


def _narrow_notice(notice: FindingJson, *, several: bool) -> Sequence[object]:
    pod = f"{notice['namespace']}/{notice['pod']}" if several else notice["pod"]
    return [pod, notice["notice"], task_of(notice), notice["detail"]]


def due_in(finding: FindingJson, now: float) -> str | None:
    """Say when a Pod may be acted on, as `in 2m`; once that is over what keeps it there, else `now`."""
    due = epoch(finding["due"])
    if finding["action"] == Action.KEEP or due is None:
        return None
    if due > now:
        return f"in {age(due - now)}"
    if finding["action"] == Action.REPORT or finding["withheld"] == Withheld.REPORT_MODE:
        return "report"  # it is told and nothing else, ever
    return finding["withheld"] or "now"


def epoch(moment: str | None) -> float | None:
    """Return epoch seconds of a moment in the JSON output."""
    return datetime.fromisoformat(moment).timestamp() if moment else None


def task_of(finding: FindingJson) -> str | None:
    """Name a task as `DAG.TASK[INDEX]`, by the Pod's labels where Airflow has no task instance for it."""
    known: Mapping[str, Any] = finding["task"] or finding.get("labels") or {}
    if not known.get("dag_id") and not known.get("task_id"):
        return None
    index = str(known.get("map_index") or "-1")
    mapped = f"[{index}]" if index.isdecimal() else ""
    return f"{known.get('dag_id') or '?'}.{known.get('task_id') or '?'}{mapped}"


def dag_of(finding: FindingJson) -> str | None:
    """Return the DAG of a finding or notice: as Airflow calls it, else as the Pod's label has it."""
    for known in (finding.get("task"), finding, finding.get("labels")):
        if known and known.get("dag_id"):
            return str(known["dag_id"])
    return None


def show_notices(notices: Sequence[FindingJson], form: str, *, looked_at: int | None) -> None:
    """Print notices; `looked_at` as above."""
    rows = ([_cell(name, notice) for name in NOTICE_HEADERS] for notice in _ordered(notices))
    if form in DATA:
        write_data(list(notices), form)
    elif form == "csv":
        write_csv(NOTICE_HEADERS, rows)
    elif form == "name":
        for notice in _ordered(notices):
            write(printable(f"{notice['namespace']}/{notice['pod']}"))
    elif notices and form == "wide":
        write_table(NOTICE_HEADERS, rows)
    elif notices:
        several = len({notice["namespace"] for notice in notices}) > 1
        write_table(NARROW_NOTICES, (_narrow_notice(notice, several=several) for notice in _ordered(notices)))
    elif looked_at is not None:
        write_prose(f"Nothing worth a look among {looked_at} Pods of the KubernetesPodOperator.")


def show_healed(healed: ScanResult, form: str) -> None:
    """Print what `run --once` deleted, and what is left for later."""
    deleted, left = told(healed.deleted), suspects(told(healed.findings))
    if form != "table":
        write_data({"deleted": deleted, "left": left, "undecodable": [str(odd) for odd in healed.undecodable]}, form)
        return
    for title, some in (("Deleted", deleted), ("Left for later", left)):
        write(f"{title}: {len(some)}")
        if some:
            _show_table(_ordered(some), form, time.time())
    show_undecodable([str(odd) for odd in healed.undecodable], form)


def show_history(deleted: Sequence[FindingJson], form: str, *, since: str | None) -> None:
    """Print what was deleted, in the order given; `since` when the history is complete (RFC 3339)."""
    if form != "table":
        write_data(list(deleted), form)
        return
    if deleted:
        write_table(HISTORY, ([_cell(column.title, each) for column in HISTORY] for each in deleted))
        held = summary.freed(deleted)
        write_prose(f"\n{held}" if held else "")
    else:
        write_prose("Nothing was deleted.")
    if since is not None:
        write_prose(f"Complete since {printable(since)}; see the metrics for what was before.")


def show_undecodable(names: Sequence[str], form: str, *, total: int = 0) -> None:
    """Name the Pods that nothing could be found out about: below a table, else on standard error.

    `total`: how many there are, if that is more than are named.
    """
    if not names:
        return
    text = undecodable(names, total)
    if is_table(form):
        write_prose(f"\n{printable(text)}")
    else:
        write_error(f"warning: {printable(text)}")


def undecodable(names: Sequence[str], total: int = 0) -> str:
    """Say of some Pods, by their names, that they can't be decoded; `total` as above."""
    count = max(len(names), total)
    shown = ", ".join(sorted(names)[:MOST_NAMED]) + (", ..." if count > min(len(names), MOST_NAMED) else "")
    what = "Pods can't be decoded, so that nothing is decided about them"
    return f"{count} {what}: {shown}; look with kubectl get pod -o yaml"


def _ordered(findings: Iterable[FindingJson]) -> list[FindingJson]:
    return sorted(findings, key=lambda finding: (finding["namespace"], finding["pod"]))


def _row(finding: FindingJson) -> Sequence[object]:
    return [_cell(name, finding) for name in HEADERS]


def _cell(name: str, finding: FindingJson) -> object:
    if name == "task":
        return task_name(finding["task"]) or (task_of(finding) if "labels" in finding else None)
    return (finding.get("cause") or {}).get("name") if name == "cause" else finding.get(name)


def _csv_value(name: str, finding: FindingJson) -> object:
    holds = finding.get("holds") or {}
    if name == "dag":
        return dag_of(finding)
    if name == "extended":
        return " ".join(f"{resource}={amount:g}" for resource, amount in sorted((holds.get(name) or {}).items()))
    return holds.get(name) if name in ("cpu_cores", "memory_bytes") else _cell(name, finding)


def task_name(task: dict[str, Any] | None) -> str | None:
    """Name a task instance in a table: DAG, run, task and map index."""
    if task is None:
        return None
    map_index = task.get("map_index")
    mapped = f"[{map_index}]" if isinstance(map_index, int) and map_index >= 0 else ""
    return f"{task.get('dag_id')} {task.get('run_id')} {task.get('task_id')}{mapped}"
