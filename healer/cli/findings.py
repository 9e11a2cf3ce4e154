"""Showing findings: as a table for people, as the documented JSON for machines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from healer.cli import waste
from healer.cli.output import write, write_data, write_table
from healer.model import Action
from healer.reconcile import Scan
from healer.report import Shown

NOTICE_HEADERS = ("namespace", "pod", "notice", "airflow", "task", "detail")

Finding = dict[str, Any]
"""A finding, or a notice, in the form of the JSON output, whether made here or read from a running healer."""

HEADERS = ("namespace", "pod", "reason", "action", "withheld", "due", "airflow", "task", "cause", "detail")


def told(findings: Iterable[Shown]) -> list[Finding]:
    """Return findings in the form of the JSON output."""
    return [shown.to_dict() for shown in findings]


def suspects(findings: Iterable[Finding]) -> list[Finding]:
    """Keep those that the policy would act on; what it only reports counts as found too."""
    return [finding for finding in findings if finding["action"] != Action.KEEP]


def show(findings: Sequence[Finding], form: str, *, looked_at: int | None, notices: Sequence[Finding] = ()) -> None:
    """Print findings, and in a table the notices below them. `looked_at` is how many Pods were judged, None where not
    all could be."""
    if form != "table":
        write_data(list(findings), form)
    elif findings:
        write_table(HEADERS, map(_row, _ordered(findings)))
        summary = waste.summary(suspects(findings), time.time())
        if summary:
            write(f"\n{summary}")
    elif looked_at is not None:
        write(f"Nothing found among {looked_at} Pods of the KubernetesPodOperator.")
    if form == "table" and notices:
        write("\nWorth a look, though nobody acts on it")
        show_notices(notices, form, looked_at=looked_at)


def show_notices(notices: Sequence[Finding], form: str, *, looked_at: int | None) -> None:
    """Print notices; `looked_at` as above."""
    if form != "table":
        write_data(list(notices), form)
    elif notices:
        write_table(NOTICE_HEADERS, ([_cell(name, notice) for name in NOTICE_HEADERS] for notice in _ordered(notices)))
    elif looked_at is not None:
        write(f"Nothing worth a look among {looked_at} Pods of the KubernetesPodOperator.")


def show_healed(healed: Scan, form: str) -> None:
    """Print what `run --once` deleted, and what is left for later."""
    deleted, left = told(healed.deleted), suspects(told(healed.findings))
    if form != "table":
        write_data({"deleted": deleted, "left": left}, form)
        return
    for title, some in (("Deleted", deleted), ("Left for later", left)):
        write(f"{title}: {len(some)}")
        if some:
            write_table(HEADERS, map(_row, _ordered(some)))


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (finding["namespace"], finding["pod"]))


def _row(finding: Finding) -> Sequence[object]:
    return [_cell(name, finding) for name in HEADERS]


def _cell(name: str, finding: Finding) -> object:
    if name == "task":
        return task_name(finding["task"])
    return (finding.get("cause") or {}).get("name") if name == "cause" else finding[name]


def task_name(task: dict[str, Any] | None) -> str | None:
    """Name a task instance in a table: DAG, run, task and map index."""
    if task is None:
        return None
    map_index = task.get("map_index")
    mapped = f"[{map_index}]" if isinstance(map_index, int) and map_index >= 0 else ""
    return f"{task.get('dag_id')} {task.get('run_id')} {task.get('task_id')}{mapped}"
