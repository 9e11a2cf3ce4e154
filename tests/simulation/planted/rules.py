# ruff: noqa: ISC004 - code is quoted as it stands, line by line
"""Bugs in the rules: what is taken for nobody's though it is used, and the other way round."""

from __future__ import annotations

from tests.simulation.planted.bugs import WITHOUT_PROOF, bug

_ENDED = 'ENDED = frozenset({"success", "failed", "skipped", "upstream_failed"})'
_IN_STATE = "return self.known.task.state in ENDED and self.label_try <= self.task_try"
_OTHER_POD = "(Reason.OTHER_POD, lambda case: case.namesake, _identity)"

BUGS = (
    bug(
        "retry counts as ended",
        "a task instance that waits for its next try is taken for ended",
        ("decision.rules", _ENDED, _ENDED.replace('"failed",', '"failed", "up_for_retry",')),
        ("decision.rules", 'BETWEEN = frozenset({"up_for_retry", ', "BETWEEN = frozenset({"),
    ),
    bug(
        "cleared counts as ended",
        "a cleared task instance (state none) is taken for ended",
        ("decision.rules", _IN_STATE, _IN_STATE.replace("in ENDED", "in ENDED | {None}")),
        ("decision.rules", "return state in BETWEEN or", "return state in BETWEEN - {None} or"),
    ),
    bug(
        "deferred counts as ended",
        "a deferred task instance has no worker, so its Pod is taken for nobody's",
        ("decision.rules", 'HELD = frozenset({"running", "deferred"})', 'HELD = frozenset({"running"})'),
        ("decision.rules", _ENDED, _ENDED.replace('"failed",', '"failed", "deferred",')),
    ),
    bug(
        "hand-over counts as ended",
        "a task instance that is scheduled to resume with its Pod (same try) is taken for ended",
        (
            "decision.rules",
            _IN_STATE,
            "return self.known.task.state in ENDED | WAITING and self.label_try <= self.task_try",
        ),
        ("decision.rules", "case.known.task.state in HELD | WAITING", "case.known.task.state in HELD"),
    ),
    bug(
        "anything else counts as ended",
        "a state that is not known is taken for an end",
        ("decision.rules", _IN_STATE, "return self.known.task.state not in HELD | WAITING | BETWEEN | {REMOVED}"),
        ("decision.rules", "not in ENDED | HELD | WAITING | BETWEEN | {REMOVED}", "is UNSET"),
    ),
    bug(
        "removed counts as ended",
        "a task instance whose task was removed from its DAG is taken for ended, though it may be restored",
        ("decision.rules", _ENDED, _ENDED.replace('"failed",', '"failed", "removed",')),
        ("decision.rules", "case.known.task.state == REMOVED, _tries_and_work", "False, _tries_and_work"),
    ),
    bug(
        "older try kills",
        "a Pod of an earlier try is superseded, whoever holds it",
        ("decision.rules", "case.held and _names_this(case), _identity", "False, _identity"),
        (
            "decision.rules",
            "return case.held and _names_another(case) and any(replaces(sibling, case) "
            "for sibling in case.known.siblings)",
            "return case.held",
        ),
    ),
    bug(
        "queued try supersedes",
        "a Pod of an earlier try is superseded as soon as the next try is scheduled, before it could adopt it",
        (
            "decision.rules",
            "self.known.task.state in HELD and self",
            "self.known.task.state in HELD | WAITING and self",
        ),
        ("decision.rules", "return state in BETWEEN or (state in WAITING", "return state in BETWEEN or (state in {}"),
        ("decision.rules", " and any(replaces(sibling, case) for sibling in case.known.siblings)", ""),
    ),
    bug(
        "any name supersedes",
        "another Pod's name in Airflow is enough to be superseded, whether that Pod lives or not",
        ("decision.rules", " and any(replaces(sibling, case) for sibling in case.known.siblings)", ""),
    ),
    bug(
        "terminating sibling counts",
        "a Pod is superseded by a sibling that is being deleted itself",
        ("decision.rules", "if sibling.terminating or sibling.checked", "if sibling.checked"),
    ),
    bug(
        "checked sibling counts",
        "a Pod is superseded by a sibling that KPO is through with",
        ("decision.rules", "if sibling.terminating or sibling.checked or", "if sibling.terminating or"),
    ),
    bug(
        "older sibling counts",
        "a Pod is superseded by a sibling of any try, an earlier one too",
        ("decision.rules", "key.try_number < other.try_number <= case.task_try", "other.try_number <= case.task_try"),
        ("decision.rules", "if not sibling.created - pod.created >= case.options.grace:", "if False:"),
    ),
    bug(
        "failed identity is none",
        "an identity source that failed is taken for one that has nothing to say",
        ("decision.rules", "        return identity.failed\n", "        return None\n"),
    ),
    bug(
        "identity never asked",
        "Airflow is not asked which Pod it uses where an ended task instance may have a copy of it",
        (
            "decision.rules",
            "return task.state in ENDED and key.try_number == task.try_number and not",
            "return False and not",
        ),
    ),
    bug(
        "copies are orphans",
        "a Pod that only looks like the task instance's own (a debug copy) is orphaned with it",
        ("decision.rules", _OTHER_POD, _OTHER_POD.replace("case.namesake", "False")),
    ),
    bug(
        "postdating Pods are orphans",
        "a Pod made long after its task instance's end is taken for its Pod",
        ("decision.rules", "not created - end <= POSTDATE_TOLERANCE", "created - end > math.inf"),
        (
            "decision.rules",
            "from collections.abc import Callable, Iterator",
            "import math\nfrom collections.abc import Callable, Iterator",
        ),
    ),
    bug(
        "try ahead is an orphan",
        "a Pod of a try that Airflow has not come to (its run was created again) is judged by the state before",
        ("decision.rules", "case.label_try > case.task_try, _tries", "False, _tries"),
        ("decision.rules", _IN_STATE, "return self.known.task.state in ENDED"),
    ),
    bug(
        "sidecar decides",
        "a Pod is done only when all its containers have ended: a sidecar hides the end of the work",
        (
            "decision.rules",
            "return container is not None and container.terminated and pod.restart_never",
            "return all(one.terminated for one in pod.containers) and pod.restart_never",
        ),
    ),
    bug(
        "restart forgotten",
        "a container that ended counts as done though its Pod restarts it",
        ("decision.rules", "container.terminated and pod.restart_never", "container.terminated"),
    ),
    bug(
        "base container by habit",
        "the base container is taken to be called base, whatever the task calls it",
        ("decision.rules", "return (task.base_container if task else None) or DEFAULT_BASE", "return DEFAULT_BASE"),
    ),
    bug(
        "done is done",
        "what has done its work is deleted though KPO has not read its exit code, logs and result yet",
        ("decision.rules", "case.pod.checked and case.done", "case.done"),
        (
            "decision.rules",
            "case.label_try == case.task_try and case.known",
            "not case.done and case.label_try == case.task_try and case.known",
        ),
    ),
    bug(
        "checked overlooked",
        "the label already_checked is ignored: what KPO is through with stays as long as its task instance goes on",
        ("decision.rules", "case.pod.checked and case.done, _tries", "False, _tries"),
        ("decision.rules", "case.pod.checked and not case.done and not case.namesake", "False"),
    ),
    bug(
        "protection ignored",
        "the mark to protect a Pod has no effect",
        ("decision.rules", "lambda case: case.pod.protected,", "lambda case: False,"),
    ),
    bug(
        "owners ignored",
        "a Pod that belongs to a Job is judged like any other",
        ("decision.rules", "lambda case: case.pod.owned,", "lambda case: False,"),
        (
            "decision.rules",
            "return case.known.task.operator in JOB_OPERATORS | case.options.foreign_operators",
            "return False",
        ),
    ),
    bug(
        "foreign operators ignored",
        "an operator that the policy calls foreign is judged like KubernetesPodOperator",
        ("decision.rules", "JOB_OPERATORS | case.options.foreign_operators", "JOB_OPERATORS"),
    ),
    bug(
        "no operator needed",
        "a row that lacks its operator is believed: it may be that of a Job",
        ("decision.rules", "task.try_number is None or not task.operator", "task.try_number is None"),
    ),
    bug(
        "namespace ignored",
        "a Pod is judged by a task instance that runs in another namespace",
        ("decision.rules", 'not in {None, "", pod.namespace}', "is UNSET"),
    ),
    bug(
        "lost node ignored",
        "a Pod on a lost node is judged by what was last seen of it",
        ("decision.rules", "lambda case: case.pod.phase not in PHASES,", "lambda case: False,"),
    ),
    bug(
        "terminating ignored",
        "a Pod that terminates already is deleted once more",
        ("decision.rules", "lambda case: case.pod.terminating,", "lambda case: False,"),
    ),
    bug(
        "no news is a deleted run",
        "whatever Airflow does not know counts as a deleted run",
        (
            "decision.rules",
            "isinstance(case.answer, RunDeleted), _absence",
            "isinstance(case.answer, RunDeleted | Absent), _absence",
        ),
        WITHOUT_PROOF,
    ),
    bug(
        "ambiguous takes the first",
        "labels that fit several task instances count as a deleted run of one of them",
        (
            "decision.rules",
            "isinstance(case.answer, RunDeleted), _absence",
            "isinstance(case.answer, RunDeleted | Ambiguous), _absence",
        ),
        WITHOUT_PROOF,
    ),
)
