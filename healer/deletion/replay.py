"""Judging a decision record again, offline: the same functions as in a pass, fed with what was written down then."""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from healer.config import Mode, Policy
from healer.decision.quarantine import CLOCK_STEP, Now, due_at
from healer.decision.records import owns, rule_options
from healer.decision.rules import Step, base_name, is_done, judge, trace
from healer.deletion.decision_record import DecisionRecord
from healer.model import ACTING, Action, Answer, Finding, Known, NamedPods, rfc3339


class Condition(Struct, frozen=True):
    """One of the conditions of a deletion: whether it holds by today's code, and a sentence with its figures."""

    name: str
    holds: bool
    why: str


class ReplayResult(Struct, frozen=True):
    """A proof judged again: what today's rules find, each rule that was tried, each further condition."""

    proof: DecisionRecord
    finding: Finding
    steps: tuple[Step, ...]
    checks: tuple[Condition, ...]

    @property
    def agrees(self) -> bool:
        """Whether today's code would decide the same."""
        return all(check.holds for check in self.checks)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        what = "deleting" if self.proof.mode is Mode.ENFORCE else "condemning (report mode)"
        if self.agrees:
            return f"Today's rules agree with {what} {self.proof.pod} as {self.proof.reason}."
        against = "; ".join(check.why for check in self.checks if not check.holds)
        return f"Today's rules disagree with {what} {self.proof.pod} as {self.proof.reason}: {against}."


def replay(record: DecisionRecord) -> ReplayResult:
    """Judge a proof again by today's rules and patience, with the policy of then."""
    policy = record.terms.policy(record.reason)
    options = rule_options(policy)
    answer = _as_asked_then(record)
    finding = judge(record.pod, answer, options)
    return ReplayResult(
        record,
        finding,
        tuple(trace(record.pod, answer, options)),
        (
            _ownership(record),
            _rules(record, finding),
            _action(record),
            *_patience(record, finding, policy),
            _age(record),
        ),
    )


def _as_asked_then(record: DecisionRecord) -> Answer:
    """Return what Airflow said; no names where an earlier version asked for none, of done Pods."""
    answer, pod = record.answer, record.pod
    if isinstance(answer, Known) and answer.identity is None and is_done(pod, base_name(answer.task)):
        return replace(answer, identity=NamedPods())
    return answer


def _ownership(record: DecisionRecord) -> Condition:
    pod, scope = record.pod, record.scope
    stamp = f"stamped for {pod.owner_label}" if pod.owner_label is not None else "not stamped"
    stamp += "".join(f", labelled {key}={value}" for key, value in pod.owner_labels)
    mine = owns(scope, pod) and pod.selected
    whose = "is" if mine else "is not"
    return Condition(
        "ownership", mine, f"the Pod, {stamp}, {whose} Airflow {scope.name}'s ({scope.ownership or 'no'} ownership)"
    )


def _rules(record: DecisionRecord, finding: Finding) -> Condition:
    same = finding.reason is record.reason
    now = "and so is it today" if same else f"today it is {finding.reason} ({finding.detail})"
    return Condition("rules", same, f"it was {record.reason} then, {now}")


def _action(record: DecisionRecord) -> Condition:
    deletes = record.terms.action is Action.DELETE and record.reason in ACTING
    what = "a policy may delete it" if record.reason in ACTING else "it always keeps today"
    return Condition("policy", deletes, f"the policy for {record.reason} was {record.terms.action}, and {what}")


def _patience(record: DecisionRecord, finding: Finding, policy: Policy) -> tuple[Condition, Condition]:
    """Count the patience anew, on a clock of ours that shows 0 at the decision."""
    now = Now(0.0, record.clocks.server)
    due = due_at(record.pod, finding, -record.clocks.suspected, now, policy)
    over = due <= CLOCK_STEP
    if math.isinf(due):
        why = "it can't be told when its patience was over"
    else:
        why = f"its patience was over {abs(due):.0f} s {'after' if due > 0 else 'before'} the decision"
        why += f", at {rfc3339(now.to_server(due))}" if now.server is not None else ""
    seen = record.sightings >= policy.sightings
    return (
        Condition("patience", over, why),
        Condition("sightings", seen, f"it was seen {record.sightings} times, and {policy.sightings} were wanted"),
    )


def _age(record: DecisionRecord) -> Condition:
    age, limit = record.clocks.evidence, record.terms.freshness
    return Condition(
        "freshness", 0 <= age <= limit, f"Airflow's answer was {age:.1f} s old, and {limit:g} s were allowed"
    )
