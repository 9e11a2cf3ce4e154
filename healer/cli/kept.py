"""Why a Pod is not deleted though somebody asks for it, and what would have to change, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from healer.cli.output import age
from healer.config import AirflowConfig
from healer.decision.quarantine import ABSENT, CLOCK_STEP, Now, Suspect, is_kept_longer
from healer.model import ACTING, RETENTION_ANNOTATION, Action, Finding, Reason, Withheld, rfc3339

AGAIN = 60.0
"""Seconds to which a proposed --wait is rounded up."""

REMEDIES: Mapping[Reason, str] = {
    Reason.NOT_SELECTED: "kpo-healer never deletes such a Pod: whoever made it has to",
    Reason.TERMINATING: "it is on its way out already: its node and its finalizers decide how long that takes",
    Reason.PROTECTED: "take the annotation kpo-healer.io/protect off it, if whoever set it agrees",
    Reason.OWNED: "delete its owner instead, which would only make another one",
    Reason.LABELS_MISSING: "without them nothing tells whose it is: look yourself, and delete it with kubectl",
    Reason.PHASE_UNKNOWN: "its node must come back, or be removed from the cluster",
    Reason.AIRFLOW_UNKNOWN: "Airflow must give a clear answer: kpo-healer check says what is wrong",
    Reason.ABSENT: "that Airflow does not list it proves nothing: look yourself whether it is another Airflow's",
    Reason.LABELS_AMBIGUOUS: "nothing tells which task instance it belongs to: look yourself",
    Reason.FOREIGN_OPERATOR: "its operator looks after it itself: see policy.foreignOperators",
    Reason.ELSEWHERE: "it is no Pod of that task instance as far as Airflow tells: look yourself whose it is",
    Reason.UNEXPECTED_STATE: "the task instance must end: mark it failed or success in Airflow",
    Reason.TRY_AHEAD: "Airflow must come to the Pod's try and end it",
    Reason.IN_USE: "Airflow uses it: mark the task instance failed or success there, and its operator deletes the Pod",
    Reason.REATTACHED: "Airflow uses it: mark the task instance failed or success there, and its operator deletes it",
    Reason.ADOPTABLE: "the next try takes it over: let that begin, or mark the task instance failed or success",
    Reason.ADOPTION_UNKNOWN: "Airflow must name the Pod that it uses, or the task instance must end",
    Reason.OTHER_POD: "it may be another Airflow's, with the same ids: look yourself whose it is",
    Reason.POSTDATES: "it was made after that task instance had ended, so it may be another one's: look yourself",
}
"""What would have to change for a Pod that a rule always keeps."""


def by_rule(airflow: AirflowConfig, finding: Finding) -> str | None:
    """Say why no deletion follows from a finding, and what would have to change; None where one does."""
    reason = finding.reason
    if reason not in ACTING:
        return f"it is kept as {reason}: {finding.detail}; {REMEDIES[reason]}"
    action = airflow.policy.actions.get(reason, Action.KEEP)
    if action is Action.DELETE:
        return None
    return (
        f"it is {reason} ({finding.detail}), and the policy says {action}: "
        f"set policy.actions.{reason}: delete for Airflow {airflow.name}"
    )


def by_withheld(airflow: AirflowConfig, why: Withheld, suspect: Suspect, *, refuted: str | None, breaker: str) -> str:
    """Say what withholds a Pod that the policy would delete. `refuted`: what speaks against the claim to its Pods."""
    found = f"it is {suspect.finding.reason}, and withheld"
    match why:
        case Withheld.OWNERSHIP:
            against = refuted or "Airflow names another Pod for its task instance"
            return (
                f"{found}: nothing proves that it is Airflow {airflow.name}'s, as {against}; "
                "stamp the Pods of each Airflow and set ownership: stamped"
            )
        case Withheld.BREAKER:
            return (
                f"{found}: the breaker of Airflow {airflow.name} is open. {breaker} Look with kpo-healer scan, "
                f"then kpo-healer release --airflow {airflow.name} lifts it"
            )
        case _:
            return f"{found} now: {why}; try again in a minute"


def by_patience(airflow: AirflowConfig, suspect: Suspect, now: Now, started: float) -> str:
    """Say when a Pod is due that this call does not wait for; `started` is its first look (monotonic seconds)."""
    found = f"it is {suspect.finding.reason} and not due yet"
    if math.isinf(suspect.due):
        return f"{found}: when it is can't be told, as its age is not known"
    left = suspect.due - now.ours
    wait = f"--wait {math.ceil((suspect.due - started) / AGAIN):.0f}m"
    at = rfc3339(now.to_server(suspect.due))
    when = f"{found}: it will be in {age(left)}{f', at {at}' if at else ''}"
    policy = airflow.policy
    if is_kept_longer(suspect.pod, suspect.finding, policy):
        return f"{when}; its annotation {RETENTION_ANNOTATION} says so: take that off it, if whoever set it agrees"
    patience = policy.absent_grace if suspect.finding.reason in ABSENT else policy.grace
    if abs(suspect.due - suspect.since - patience) <= CLOCK_STEP:
        name = "absentGrace" if suspect.finding.reason in ABSENT else "grace"
        return f"{when}; policy.{name} begins with each call anew: wait for it with {wait}"
    return f"{when}; ask again then, or wait for it with {wait}"
