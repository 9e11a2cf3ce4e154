"""Showing findings: as a table for people, as the documented JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from healer.cli.output import write, write_data, write_table
from healer.model import Action, TaskInstance, rfc3339
from healer.reconcile import Scan
from healer.report import Shown

HEADERS = ("namespace", "pod", "reason", "action", "withheld", "due", "airflow", "task", "detail")


def suspects(findings: Iterable[Shown]) -> list[Shown]:
    """Keep those that the policy would act on; what it only reports counts as found too."""
    return [shown for shown in findings if shown.action is not Action.KEEP]


def show(findings: Sequence[Shown], form: str, *, looked_at: int | None) -> None:
    """Print findings. `looked_at` is how many Pods were judged, None where not all could be."""
    if form != "table":
        write_data([shown.to_dict() for shown in findings], form)
    elif findings:
        write_table(HEADERS, map(_row, _ordered(findings)))
    elif looked_at is not None:
        write(f"Nothing found among {looked_at} Pods of the KubernetesPodOperator.")


def show_healed(healed: Scan, form: str) -> None:
    """Print what `run --once` deleted, and what is left for later."""
    left = suspects(healed.findings)
    if form != "table":
        deleted = [shown.to_dict() for shown in healed.deleted]
        write_data({"deleted": deleted, "left": [shown.to_dict() for shown in left]}, form)
        return
    for title, some in (("Deleted", healed.deleted), ("Left for later", left)):
        write(f"{title}: {len(some)}")
        if some:
            write_table(HEADERS, map(_row, _ordered(some)))


def _ordered(findings: Iterable[Shown]) -> list[Shown]:
    return sorted(findings, key=lambda shown: (shown.pod.namespace, shown.pod.name))


def _row(shown: Shown) -> Sequence[object]:
    return (
        shown.pod.namespace,
        shown.pod.name,
        shown.finding.reason.value,
        shown.action.value,
        shown.withheld and shown.withheld.value,
        rfc3339(shown.due),
        shown.airflow,
        _task(shown.finding.task),
        shown.finding.detail,
    )


def _task(task: TaskInstance | None) -> str | None:
    if task is None:
        return None
    mapped = f"[{task.map_index}]" if task.map_index >= 0 else ""
    return f"{task.dag_id} {task.run_id} {task.task_id}{mapped}"
