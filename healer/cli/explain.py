"""Showing all there is to say about one Pod."""

from __future__ import annotations

import re
from typing import Any

from msgspec import UNSET

from healer.cli.findings import FindingJson, task_name
from healer.cli.oneshot import Explanation
from healer.cli.output import age, write, write_data, write_prose, write_table
from healer.config import Mode
from healer.decision.rules import base_name, decided_by_pod, is_done
from healer.model import (
    UNREADABLE,
    Action,
    Answer,
    Container,
    DagDeleted,
    Known,
    LabelKey,
    Pod,
    Reason,
    RunDeleted,
    TaskInstance,
    Unknown,
    Withheld,
    printable,
    rfc3339,
)
from healer.telemetry.findings import FindingView

_NAME = re.compile(r"[a-z]+  +")
"""What a line begins with, so that the rest of its sentence stands below its beginning."""


def missing(finding: FindingJson) -> list[str]:
    """Say why there is no clear answer of Airflow's, where one was needed."""
    if finding["reason"] != Reason.AIRFLOW_UNKNOWN:
        return []
    return [f"Airflow {finding['airflow']}: {finding['detail']}"]


def show_found(finding: FindingJson, form: str) -> None:
    """Print what a running healer has found of one Pod."""
    if form != "table":
        write_data({"finding": finding, "next": _next_found(finding)}, form)
        return
    labels = " ".join(f"{name}={value}" for name, value in finding["labels"].items()) or "none"
    _section(f"Pod {finding['namespace']}/{finding['pod']}", [f"uid         {finding['uid']}", f"labels      {labels}"])
    task = finding["task"]
    about = [f"task        {task_name(task)}: state {task.get('state') or 'none (cleared)'}"] if task else []
    since = [f"since       {finding['since']}"] if finding["since"] else []
    reason = f"reason      {finding['reason']}: {finding['detail']}"
    _section(f"What the healer of Airflow {finding['airflow']} has found", [*about, reason, *since])
    _why(finding)
    _section("What happens next", [_next_found(finding)])


def _why(finding: FindingJson) -> None:
    """Say why the Pod was left behind, where that is known, and what stops it at the source; and what else is odd."""
    cause = finding.get("cause")
    if cause:
        told = [f"{cause['name']}: {cause['detail']}.", f"So that it does not come back: {cause['remedy']}."]
        _section("Why it was left behind", told)
    noted = [f"{notice['name']}: {notice['detail']}." for notice in finding.get("notices") or ()]
    if noted:
        _section("Worth a look, though nobody acts on it", noted)


def _next_found(finding: FindingJson) -> str:
    """Say in one sentence what becomes of a Pod that a running healer knows."""
    reason, why = finding["reason"], finding["withheld"]
    if finding["action"] == Action.KEEP:
        return f"It is kept as {reason}."
    due = f"; due at {finding['due']}" if finding["due"] else ""
    if finding["action"] == Action.REPORT:
        return f"It is reported as {reason} and not deleted: the policy says so{due}."
    if why == Withheld.REPORT_MODE:
        return f"It would have been deleted as {reason}, but this is report mode: nothing is deleted."
    withheld = f"; withheld now: {why}" if why else ""
    return f"It will be deleted as {reason} if every later look finds the same and the mode is enforce{due}{withheld}."


def show(explanation: Explanation, form: str, *, now: float | None, mode: Mode) -> None:
    """Print an explanation. `now` is the API server's time (epoch seconds), `mode` its Airflow's."""
    if form != "table":
        write_data(_data(explanation, now, mode), form)
        return
    pod, answer = explanation.pod, explanation.answer
    _section(f"Pod {pod}", _pod(pod, answer, now))
    _section(f"What Airflow {explanation.view.airflow} says", _answer(explanation))
    write("Rules, in the order in which they are tried")
    write_table(
        ("", "rule", "because"), [("yes" if s.matched else "no", s.reason.value, s.why) for s in explanation.steps]
    )
    write("")
    _why(explanation.view.to_dict())
    _section("What happens next", [next_step(explanation.view, mode)])


def next_step(view: FindingView, mode: Mode) -> str:
    """Say in one sentence what becomes of the Pod."""
    reason = view.finding.reason
    if view.action is Action.KEEP:
        why = "this reason never acts on a Pod" if reason.action is Action.KEEP else "the policy says so"
        return f"It is kept as {reason.value}: {why}."
    due = f"; due at {rfc3339(view.due)} at the earliest" if view.due is not None else ""
    if view.action is Action.REPORT:
        return f"It is reported as {reason.value} and not deleted: the policy says so{due}."
    if mode is Mode.REPORT:
        return f"It would be deleted as {reason.value}, but this is report mode: nothing is deleted{due}."
    return f"It will be deleted as {reason.value} if every later look finds the same{due}."


def _section(title: str, lines: list[str]) -> None:
    write_prose(title)
    for line in lines:
        name = _NAME.match(line)
        write_prose(f"  {printable(line)}", " " * name.end() if name else "")
    write("")


def _pod(pod: Pod, answer: Answer, now: float | None) -> list[str]:
    task = answer.task if isinstance(answer, Known) else None
    work = "done" if is_done(pod, base_name(task)) else "active"
    old = f", {age(now - pod.created)} old" if now is not None and pod.created is not None else ""
    marks = [name for name in ("terminating", "protected", "owned", "checked") if getattr(pod, name)]
    return [
        f"uid         {pod.uid}",
        f"phase       {pod.phase or 'missing'}, {work}{old}",
        f"labels      {_labels(pod)}",
        *(f"container   {_container(container)}" for container in pod.containers),
        *([f"marks       {', '.join(marks)}"] if marks else []),
        *([f"retention   {_retention(pod.retention)}"] if pod.retention is not None else []),
    ]


def _retention(wish: float) -> str:
    asks = "holds no duration: as long as" if wish == UNREADABLE else f"asks for {age(wish)}: at most what"
    return f"its annotation {asks} policy.retention.longest allows, once its work is over"


def _labels(pod: Pod) -> str:
    return " ".join(f"{name}={value}" for name, value in labels_of(pod).items()) or "none"


def labels_of(pod: Pod) -> dict[str, str]:
    """Return the operator's labels that the Pod has."""
    found = {name: getattr(pod.labels, name) for name in LabelKey.__struct_fields__}
    return {name: value for name, value in found.items() if value is not None}


def _container(container: Container) -> str:
    if not container.terminated:
        return f"{container.name}: not ended"
    ended = rfc3339(container.finished_at) or "a time not known"
    return f"{container.name}: ended with exit code {container.exit_code} at {ended}"


def _answer(explanation: Explanation) -> list[str]:
    answer = explanation.answer
    if decided_by_pod(explanation.pod):
        return ["It need not be asked: the Pod alone decides."]
    if isinstance(answer, Known):
        return [_row(answer.task), *_identity(answer)]
    if isinstance(answer, RunDeleted):
        return [f"DAG {answer.dag_id} exists, its run {answer.run_id} does not."]
    if isinstance(answer, DagDeleted):
        return [f"DAG {answer.dag_id} does not exist."]
    if isinstance(answer, Unknown):
        return [f"No clear answer: {answer.why}"]
    return [str(getattr(answer, "why", "nothing"))]


def _row(task: TaskInstance) -> str:
    mapped = f" [{task.map_index}]" if task.map_index >= 0 else ""
    state = "missing" if task.state is UNSET else task.state or "none (cleared)"
    ended = f", ended {rfc3339(task.end_date)}" if task.end_date is not None else ""
    return (
        f"task {task.task_id}{mapped} of DAG {task.dag_id}, run {task.run_id}: "
        f"state {state}, try {task.try_number}, operator {task.operator}{ended}"
    )


def _identity(answer: Known) -> list[str]:
    identity = answer.identity
    if identity is None:
        return ["It was not asked which Pod it uses: no rule needs that here."]
    if identity.failed:
        return [f"It could not be read which Pod it uses: {identity.failed}"]
    names = sorted(f"{namespace or '*'}/{name}" for namespace, name in identity.named)
    return [f"The Pod it names as the one in use: {', '.join(names) or 'none'}"]


def _data(explanation: Explanation, now: float | None, mode: Mode) -> dict[str, Any]:
    pod = explanation.pod
    return {
        "finding": explanation.view.to_dict(),
        "pod": {
            "phase": pod.phase,
            "created": rfc3339(pod.created),
            "age_seconds": round(now - pod.created) if now is not None and pod.created is not None else None,
            "containers": [
                {
                    "name": container.name,
                    "terminated": container.terminated,
                    "exit_code": container.exit_code,
                    "finished": rfc3339(container.finished_at),
                }
                for container in pod.containers
            ],
        },
        "airflow_says": _answer(explanation),
        "rules": [{"reason": s.reason.value, "matched": s.matched, "why": s.why} for s in explanation.steps],
        "next": next_step(explanation.view, mode),
    }
