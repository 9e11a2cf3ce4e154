"""Why a Pod was left behind, where the facts allow to say so, and what stops that at the source.

A cause explains a finding and decides nothing: rules, suspects, guard and healing do not know this module. It rests on
the Pod, on Airflow's row and, where somebody has watched, on the row as it was before the task instance ended. Where
several causes leave the same traces, the sentence names them all. Pure: neither I/O nor a clock.

The statements about the provider (apache-airflow-providers-cncf-kubernetes) and Airflow hold from the versions that
they name on; in brackets stand the issues of apache/airflow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from healer.decision.labels import parse
from healer.decision.rules import ENDED, base_name, base_of, is_done
from healer.model import Cause, CauseFinding, Finding, LabelKey, Pod, Reason, TaskInstance, rfc3339

SKEW = 10.0
"""Seconds by which the clocks of workers and nodes may differ before one event is said to be later than another."""


class _CauseInput(Struct, frozen=True):
    """What is known of a Pod that was left behind. `before`: its task instance as last seen before it ended."""

    pod: Pod
    finding: Finding
    last_active_task: TaskInstance | None

    @property
    def task(self) -> TaskInstance | None:
        return self.finding.task

    @property
    def state(self) -> object:
        return self.task.state if self.task else None

    @property
    def earlier(self) -> bool:
        """Whether the Pod is of an earlier try than its task instance."""
        task_try = self.task.try_number if self.task else None
        if task_try is None or task_try <= 1:  # none is earlier, whatever the labels say
            return False
        key = parse(self.pod.labels)
        return isinstance(key, LabelKey) and key.try_number < task_try

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


def explain(pod: Pod, finding: Finding, last_active_task: TaskInstance | None = None) -> CauseFinding | None:
    """Return why a Pod was left behind; None where it was not, or where nothing is known of that.

    `before` is the row of the same task instance and try as it was last seen before it ended, None where nobody looked.
    """
    case = _CauseInput(pod, finding, last_active_task if _is_before(last_active_task, finding.task) else None)
    found = _find(case)
    return CauseFinding(found[0], *found[1](case)) if found is not None else None


def _find(case: _CauseInput) -> tuple[Cause, Tell] | None:
    """Return the cause, and what tells of it. Of ten thousand Pods most are in use, so the reason is asked first."""
    reason = case.finding.reason
    if reason not in {Reason.ORPHANED, Reason.FINISHED}:
        return _CAUSE_OF.get(reason)
    if reason is Reason.FINISHED and case.sidecar:
        return Cause.SIDECAR, _sidecar
    if case.worked_on:  # the task instance ended while its Pod worked
        for cause, matches, tell in _CAUSES:
            if matches(case):
                return cause, tell
    return (Cause.NOT_CLEANED_UP, _leftover) if reason is Reason.FINISHED else None


def cause_table() -> str:
    """Return the table of all causes in Markdown, as the docs show it."""
    return "\n".join(["| cause | when |", "| --- | --- |", *(f"| `{cause}` | {cause.when} |" for cause in Cause)])


def _is_before(before: TaskInstance | None, task: TaskInstance | None) -> bool:
    return before is not None and task is not None and before.try_number == task.try_number


def _core(pod: Pod) -> tuple[int, int] | None:
    """Return the version of Airflow that made the Pod, as far as it matters here: (3, 1)."""
    found = re.match(r"(\d+)\.(\d+)", pod.airflow_version or "")
    return (int(found[1]), int(found[2])) if found else None


ExplanationText = tuple[str, str]
"""What speaks for a cause, and the remedy."""

Tell = Callable[[_CauseInput], ExplanationText]


def _run_deleted(_case: _CauseInput) -> ExplanationText:
    return (
        "its run is gone while its DAG exists: whoever deletes a run does not delete its Pods",
        (
            "let a run end, or mark it failed and wait for its Pods, before it is deleted; Airflow 3.3 with provider "
            "10.17 ends the Pod of a deferred task whose run is deleted"
        ),
    )


def _purged(_case: _CauseInput) -> ExplanationText:
    return (
        "its work is over, and Airflow has no record of its run any more: `airflow db clean`, or somebody, removed it",
        "keep Pods for a shorter time than runs: on_finish_action=delete_pod, or retention.kept below what is cleaned",
    )


def _task_removed(_case: _CauseInput) -> ExplanationText:
    return (
        "its task instance is `removed`: the DAG has been deployed without this task, or with fewer mapped indices",
        "let a task's runs end before the DAG is deployed without it",
    )


def _timeout_kept(case: _CauseInput) -> ExplanationText:
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


def _kept(case: _CauseInput) -> ExplanationText:
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


def _sidecar(case: _CauseInput) -> ExplanationText:
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


def _not_reattached(_case: _CauseInput) -> ExplanationText:
    return (
        (
            "a later try has not taken it over: reattach_on_restart is off, the labels of the two differ, or the "
            "earlier Pod was found too late"
        ),
        "leave reattach_on_restart (durable) on, and labels free of what changes from try to try",
    )


def _cleared(_case: _CauseInput) -> ExplanationText:
    return (
        (
            "its task instance is `upstream_failed` though it has run: it was cleared while the Pod worked, and what "
            "comes before it failed then"
        ),
        "mark a task failed and wait for its Pod before it is cleared",
    )


def _run_cut_short(_case: _CauseInput) -> ExplanationText:
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


def _created_late(case: _CauseInput) -> ExplanationText:
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


def _marked_while_deferred(case: _CauseInput) -> ExplanationText:
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


def _marked_success(case: _CauseInput) -> ExplanationText:
    core = _core(case.pod)
    also = "" if core is not None and core < (3, 3) else ", or its worker was told to stop (Airflow 3.3 [#73006])"
    return (
        f"its task instance is a success, and KPO succeeds only after its Pod: somebody has marked it{also}",
        (
            "KPO ends the Pod of a marked task: within 5 s by its worker, or by its trigger from provider 10.15 on "
            "[#37263 #62398]; look why that failed there"
        ),
    )


def _not_cleaned(case: _CauseInput) -> ExplanationText:
    seen = "it was running when last seen" if case.last_active_task else "KPO has neither deleted nor marked it"
    core = _core(case.pod)
    deferred = (
        "" if case.last_active_task else ", or the task was deferred and provider 8.0 to 10.14 left its Pod [#62398]"
    )
    remedy = "more memory and a longer terminationGracePeriodSeconds for workers; the right to delete Pods for them"
    if core is not None and core < (3, 3):
        remedy += "; Airflow 3.3, whose workers hand a SIGTERM on to the task [#58936]"
    return (
        (
            f"{seen}: its worker was killed or lost (out of memory, eviction, a node), or could not reach the cluster "
            f"within the 5 s that it has when a task is marked [#37263]{deferred}"
        ),
        remedy if case.last_active_task else f"{remedy}; provider 10.15 or later for deferrable tasks",
    )


def _leftover(_case: _CauseInput) -> ExplanationText:
    return (
        (
            "its work was over when its task ended, and KPO has neither deleted nor marked it: its worker was lost "
            "after the work, or its DELETE was refused"
        ),
        "let the workers' account delete Pods; provider 10.11 or later repeats what was refused for a moment",
    )


def _was_in_state(case: _CauseInput, state: str) -> bool:
    return case.last_active_task is not None and case.last_active_task.state == state


def _late(case: _CauseInput) -> bool:
    end = case.task.end_date if case.task else None
    return end is not None and case.pod.created is not None and case.pod.created - end > SKEW


_CAUSE_OF: Mapping[Reason, tuple[Cause, Tell]] = {
    Reason.RUN_DELETED: (Cause.RUN_DELETED, _run_deleted),
    Reason.PURGED: (Cause.PURGED, _purged),
    Reason.TASK_REMOVED: (Cause.TASK_REMOVED, _task_removed),
    Reason.ABANDONED: (Cause.TIMEOUT_KEPT, _timeout_kept),
    Reason.KEPT: (Cause.KEPT_BY_POLICY, _kept),
    Reason.SUPERSEDED: (Cause.NOT_REATTACHED, _not_reattached),
}
"""Where the reason alone says it."""

_CAUSES: tuple[tuple[Cause, Callable[[_CauseInput], bool], Tell], ...] = (
    (Cause.CLEARED, lambda case: case.state == "upstream_failed", _cleared),
    (Cause.NOT_REATTACHED, lambda case: case.earlier, _not_reattached),
    (Cause.CREATED_LATE, _late, _created_late),
    (Cause.MARKED_WHILE_DEFERRED, lambda case: _was_in_state(case, "deferred"), _marked_while_deferred),
    (
        Cause.RUN_CUT_SHORT,
        lambda case: case.state == "skipped" and case.task is not None and not case.task.end_date,
        _run_cut_short,
    ),
    (Cause.MARKED_SUCCESS, lambda case: case.state == "success", _marked_success),
    (Cause.WORKER_LOST, lambda case: case.state == "failed" and _was_in_state(case, "running"), _not_cleaned),
    (Cause.NOT_CLEANED_UP, lambda case: case.state in ENDED, _not_cleaned),
)
"""Why a Pod worked on when its task instance had ended, in the order in which they are tried: what is certain first."""
