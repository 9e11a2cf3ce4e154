"""Why a Pod was left behind, where the facts allow to say so, and what stops that at the source.

A cause explains a finding and decides nothing: rules, suspects, guard and healing do not know this module. It rests on
the Pod, on Airflow's row and, where somebody has watched, on the row as it was before the task instance ended. Where
several causes leave the same traces, the sentence names them all. Pure: neither I/O nor a clock.

The statements about the provider (apache-airflow-providers-cncf-kubernetes) and Airflow hold from the versions that
they name on; in brackets stand the issues of apache/airflow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from healer.labels import parse
from healer.model import Finding, LabelKey, Pod, Reason, TaskInstance, rfc3339
from healer.rules import ENDED, base_name, base_of, is_done

SKEW = 10.0
"""Seconds by which the clocks of workers and nodes may differ before one event is said to be later than another."""


class Cause(StrEnum):
    """Why a Pod was left behind. Each member says in which cases, for the docs."""

    when: str

    def __new__(cls, value: str, when: str) -> Cause:
        """Make a `str` member that carries its row of the table."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.when = when
        return member

    RUN_DELETED = "run-deleted", "the run was deleted, and its Pod was not"
    TASK_REMOVED = "task-removed", "the task was taken out of its DAG, or its mapped list grew shorter"
    TIMEOUT_KEPT = "timeout-kept", "KPO gave up on a Pod that still worked, and its `on_finish_action` left it"
    KEPT_BY_POLICY = "kept-by-policy", "KPO was through with the Pod and its `on_finish_action` left it"
    SIDECAR = "sidecar", "the base container has ended, and another one runs on"
    NOT_REATTACHED = "not-reattached", "a later try did not take the Pod over"
    CLEARED = "cleared", "the task was cleared while its Pod worked, and did not start again"
    RUN_CUT_SHORT = "run-cut-short", "the run ended first: `dagrun_timeout`, fail-fast, or by hand"
    CREATED_LATE = "created-late", "the Pod was made after its task instance had ended"
    MARKED_WHILE_DEFERRED = "marked-while-deferred", "the task was deferred just before it ended: no worker was there"
    MARKED_SUCCESS = "marked-success", "the task is a success, and its Pod still works"
    WORKER_LOST = "worker-lost", "the task ran just before it failed, and its worker did not clean up"
    NOT_CLEANED_UP = "not-cleaned-up", "the task has ended, and KPO's own clean-up has left no trace"


class Explained(Struct, frozen=True):
    """A cause, what of this Pod speaks for it, and what to do so that it does not come back."""

    cause: Cause
    detail: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        """Return it in the form of the JSON output and of the log."""
        return {"name": self.cause.value, "detail": self.detail, "remedy": self.remedy}


class _Case(Struct, frozen=True):
    """What is known of a Pod that was left behind. `before`: its task instance as last seen before it ended."""

    pod: Pod
    finding: Finding
    before: TaskInstance | None

    @property
    def task(self) -> TaskInstance | None:
        return self.finding.task

    @property
    def state(self) -> object:
        return self.task.state if self.task else None

    @property
    def earlier(self) -> bool:
        """Whether the Pod is of an earlier try than its task instance."""
        key, task_try = parse(self.pod.labels), self.task.try_number if self.task else None
        return isinstance(key, LabelKey) and task_try is not None and key.try_number < task_try

    @property
    def base_end(self) -> float | None:
        base = base_of(self.pod, base_name(self.task))
        return base.finished_at if base is not None and base.terminated else None

    @property
    def worked_on(self) -> bool:
        """Whether the Pod worked when its task instance had ended: it works still, or ended later."""
        if not is_done(self.pod, base_name(self.task)):
            return True
        end, own = self.task.end_date if self.task else None, self.base_end
        return own is not None and end is not None and own - end > SKEW

    @property
    def sidecar(self) -> bool:
        return self.pod.phase == "Running" and is_done(self.pod, base_name(self.task))


def explain(pod: Pod, finding: Finding, before: TaskInstance | None = None) -> Explained | None:
    """Return why a Pod was left behind; None where it was not, or where nothing is known of that.

    `before` is the row of the same task instance and try as it was last seen before it ended, None where nobody looked.
    """
    case = _Case(pod, finding, before if _is_before(before, finding.task) else None)
    for cause, matches, tell in _CAUSES:
        if matches(case):
            return Explained(cause, *tell(case))
    return None


def cause_table() -> str:
    """Return the table of all causes in Markdown, as the docs show it."""
    return "\n".join(["| cause | when |", "| --- | --- |", *(f"| `{cause}` | {cause.when} |" for cause in Cause)])


def _is_before(before: TaskInstance | None, task: TaskInstance | None) -> bool:
    return before is not None and task is not None and before.try_number == task.try_number


def _core(pod: Pod) -> tuple[int, int] | None:
    """Return the version of Airflow that made the Pod, as far as it matters here: (3, 1)."""
    found = re.match(r"(\d+)\.(\d+)", pod.airflow_version or "")
    return (int(found[1]), int(found[2])) if found else None


def _orphaned(case: _Case) -> bool:
    """Whether the task instance ended while its Pod worked."""
    return case.finding.reason in {Reason.ORPHANED, Reason.FINISHED} and case.worked_on


def _of(reason: Reason) -> Callable[[_Case], bool]:
    return lambda case: case.finding.reason is reason


Told = tuple[str, str]
"""What speaks for a cause, and the remedy."""


def _run_deleted(_case: _Case) -> Told:
    return (
        "its run is gone while its DAG exists: whoever deletes a run does not delete its Pods",
        (
            "let a run end, or mark it failed and wait for its Pods, before it is deleted; Airflow 3.3 with provider "
            "10.17 ends the Pod of a deferred task whose run is deleted"
        ),
    )


def _task_removed(_case: _Case) -> Told:
    return (
        "its task instance is `removed`: the DAG has been deployed without this task, or with fewer mapped indices",
        "let a task's runs end before the DAG is deployed without it",
    )


def _timeout_kept(case: _Case) -> Told:
    what = "never started" if case.pod.phase == "Pending" else "still works"
    return (
        (
            f"KPO has marked it with already_checked and left it, though it {what}: so do on_finish_action keep_pod "
            "and delete_succeeded_pod after a startup or execution timeout [#49466 #59083], any other when its "
            "DELETE was refused"
        ),
        (
            "set on_finish_action to delete_active_pod (provider 10.12) or delete_pod, and let the workers' account "
            "delete Pods"
        ),
    )


def _kept(case: _Case) -> Told:
    base = base_of(case.pod, base_name(case.task))
    succeeded = case.pod.phase == "Succeeded" or (base is not None and base.exit_code == 0)
    if succeeded:
        which = "so do only on_finish_action keep_pod and delete_active_pod where the Pod has succeeded"
    else:
        which = "so does any on_finish_action but delete_pod where the Pod has failed, and that one if its DELETE fails"
    return (
        f"KPO has marked it with already_checked and left it: {which}",
        "set on_finish_action to delete_pod, or leave it to retention.kept",
    )


def _sidecar(case: _Case) -> Told:
    others = [c.name for c in case.pod.containers if not c.terminated and c.name != base_name(case.task)]
    return (
        (
            f"its base container has ended and {', '.join(others) or 'another'} runs on: KPO ends its own sidecar "
            "when it has read the result, and nobody ends others [#22318 #36218 #39693]"
        ),
        (
            "make sidecars init containers with restartPolicy Always: they end with the Pod; KPO's own is left by a "
            "worker that was lost before it had read the result"
        ),
    )


def _not_reattached(_case: _Case) -> Told:
    return (
        (
            "a later try has not taken it over: reattach_on_restart is off, the labels of the two differ, or the "
            "earlier Pod was found too late"
        ),
        "leave reattach_on_restart (durable) on, and labels free of what changes from try to try",
    )


def _cleared(_case: _Case) -> Told:
    return (
        (
            "its task instance is `upstream_failed` though it has run: it was cleared while the Pod worked, and what "
            "comes before it failed then"
        ),
        "mark a task failed and wait for its Pod before it is cleared",
    )


def _run_cut_short(_case: _Case) -> Told:
    return (
        (
            "its task instance is `skipped` without an end of its own: dagrun_timeout and fail-fast skip what still "
            "runs, whether or not its Pod is told"
        ),
        (
            "give the task an execution_timeout that is shorter than the dagrun_timeout; deferrable tasks: provider "
            "10.15 or later"
        ),
    )


def _created_late(case: _Case) -> Told:
    end = rfc3339(case.task.end_date if case.task else None)
    return (
        (
            f"it was made {rfc3339(case.pod.created)}, after its task instance had ended {end}: its worker went on "
            "though Airflow had given it up, or its create call was repeated"
        ),
        (
            "look why the worker was given up: an overloaded one, too short a task_instance_heartbeat_timeout, or a "
            "slow Kubernetes API"
        ),
    )


def _marked_while_deferred(case: _Case) -> Told:
    core = _core(case.pod)
    version = "10.17" if core is not None and core >= (3, 3) else "10.15"
    return (
        (
            f"it was deferred when last seen and is {case.state} now, so its trigger had to end the Pod: triggers of "
            "provider 8.0 to 10.14 end none [#44014 #62398], later ones none with on_kill_action keep_pod or while "
            "no triggerer runs"
        ),
        f"provider {version} or later" + ("" if core is not None else " (10.17 on Airflow 3.3)"),
    )


def _marked_success(case: _Case) -> Told:
    core = _core(case.pod)
    also = "" if core is not None and core < (3, 3) else ", or its worker was told to stop (Airflow 3.3 [#73006])"
    return (
        f"its task instance is a success, and KPO succeeds only after its Pod: somebody has marked it{also}",
        (
            "KPO ends the Pod of a marked task: within 5 s by its worker, or by its trigger from provider 10.15 on "
            "[#37263 #62398]; look why that failed there"
        ),
    )


def _not_cleaned(case: _Case) -> Told:
    seen = "it was running when last seen" if case.before else "KPO has neither deleted nor marked it"
    core = _core(case.pod)
    deferred = "" if case.before else ", or the task was deferred and provider 8.0 to 10.14 left its Pod [#62398]"
    remedy = "more memory and a longer terminationGracePeriodSeconds for workers; the right to delete Pods for them"
    if core is not None and core < (3, 3):
        remedy += "; Airflow 3.3, whose workers hand a SIGTERM on to the task [#58936]"
    return (
        (
            f"{seen}: its worker was killed or lost (out of memory, eviction, a node), or could not reach the cluster "
            f"within the 5 s that it has when a task is marked [#37263]{deferred}"
        ),
        remedy if case.before else f"{remedy}; provider 10.15 or later for deferrable tasks",
    )


def _leftover(_case: _Case) -> Told:
    return (
        (
            "its work was over when its task ended, and KPO has neither deleted nor marked it: its worker was lost "
            "after the work, or its DELETE was refused"
        ),
        "let the workers' account delete Pods; provider 10.11 or later repeats what was refused for a moment",
    )


def _was(case: _Case, state: str) -> bool:
    return case.before is not None and case.before.state == state


def _late(case: _Case) -> bool:
    end = case.task.end_date if case.task else None
    return end is not None and case.pod.created is not None and case.pod.created - end > SKEW


_CAUSES: tuple[tuple[Cause, Callable[[_Case], bool], Callable[[_Case], Told]], ...] = (
    (Cause.RUN_DELETED, _of(Reason.RUN_DELETED), _run_deleted),
    (Cause.TASK_REMOVED, _of(Reason.TASK_REMOVED), _task_removed),
    (Cause.TIMEOUT_KEPT, _of(Reason.ABANDONED), _timeout_kept),
    (Cause.KEPT_BY_POLICY, _of(Reason.KEPT), _kept),
    (Cause.NOT_REATTACHED, _of(Reason.SUPERSEDED), _not_reattached),
    (Cause.SIDECAR, lambda case: case.finding.reason is Reason.FINISHED and case.sidecar, _sidecar),
    (Cause.CLEARED, lambda case: _orphaned(case) and case.state == "upstream_failed", _cleared),
    (Cause.NOT_REATTACHED, lambda case: _orphaned(case) and case.earlier, _not_reattached),
    (Cause.CREATED_LATE, lambda case: _orphaned(case) and _late(case), _created_late),
    (Cause.MARKED_WHILE_DEFERRED, lambda case: _orphaned(case) and _was(case, "deferred"), _marked_while_deferred),
    (
        Cause.RUN_CUT_SHORT,
        lambda case: _orphaned(case) and case.state == "skipped" and case.task is not None and not case.task.end_date,
        _run_cut_short,
    ),
    (Cause.MARKED_SUCCESS, lambda case: _orphaned(case) and case.state == "success", _marked_success),
    (
        Cause.WORKER_LOST,
        lambda case: _orphaned(case) and case.state == "failed" and _was(case, "running"),
        _not_cleaned,
    ),
    (Cause.NOT_CLEANED_UP, lambda case: _orphaned(case) and case.state in ENDED, _not_cleaned),
    (Cause.NOT_CLEANED_UP, _of(Reason.FINISHED), _leftover),
)
"""All causes in the order in which they are tried: what is certain first."""
