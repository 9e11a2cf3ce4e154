"""Judging a proof again, offline: the same functions as in a pass, fed with what was written down then."""

from __future__ import annotations

import math

from msgspec import Struct

from healer.config import Mode, Policy
from healer.model import ACTING, Action, Finding, rfc3339
from healer.reconcile.casebook import owns
from healer.reconcile.healing import CLOCK_STEP
from healer.reconcile.proof import Proof
from healer.rules import Step, Terms, judge, trace
from healer.suspects import Now, due_at


class Check(Struct, frozen=True):
    """One of the conditions of a deletion: whether it holds by today's code, and a sentence with its figures."""

    name: str
    holds: bool
    why: str


class Verdict(Struct, frozen=True):
    """A proof judged again: what today's rules find, each rule that was tried, each further condition."""

    proof: Proof
    finding: Finding
    steps: tuple[Step, ...]
    checks: tuple[Check, ...]

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


def replay(proof: Proof) -> Verdict:
    """Judge a proof again by today's rules and patience, with the policy of then."""
    policy = proof.terms.policy(proof.reason)
    terms = Terms(frozenset(policy.foreign_operators), policy.grace)
    finding = judge(proof.pod, proof.answer, terms)
    return Verdict(
        proof,
        finding,
        tuple(trace(proof.pod, proof.answer, terms)),
        (_ownership(proof), _rules(proof, finding), _action(proof), *_patience(proof, finding, policy), _age(proof)),
    )


def _ownership(proof: Proof) -> Check:
    pod, scope = proof.pod, proof.scope
    stamp = f"stamped for {pod.stamp}" if pod.stamp is not None else "not stamped"
    mine = owns(scope, pod) and pod.selected
    whose = "is" if mine else "is not"
    return Check(
        "ownership", mine, f"the Pod, {stamp}, {whose} Airflow {scope.name}'s ({scope.ownership or 'no'} ownership)"
    )


def _rules(proof: Proof, finding: Finding) -> Check:
    same = finding.reason is proof.reason
    now = "and so is it today" if same else f"today it is {finding.reason} ({finding.detail})"
    return Check("rules", same, f"it was {proof.reason} then, {now}")


def _action(proof: Proof) -> Check:
    deletes = proof.terms.action is Action.DELETE and proof.reason in ACTING
    what = "a policy may delete it" if proof.reason in ACTING else "it always keeps today"
    return Check("policy", deletes, f"the policy for {proof.reason} was {proof.terms.action}, and {what}")


def _patience(proof: Proof, finding: Finding, policy: Policy) -> tuple[Check, Check]:
    """Count the patience anew, on a clock of ours that shows 0 at the decision."""
    now = Now(0.0, proof.clocks.server)
    due = due_at(proof.pod, finding, -proof.clocks.suspected, now, policy)
    over = due <= CLOCK_STEP
    if math.isinf(due):
        told = "it can't be told when its patience was over"
    else:
        told = f"its patience was over {abs(due):.0f} s {'after' if due > 0 else 'before'} the decision"
        told += f", at {rfc3339(now.to_server(due))}" if now.server is not None else ""
    seen = proof.sightings >= policy.sightings
    return (
        Check("patience", over, told),
        Check("sightings", seen, f"it was seen {proof.sightings} times, and {policy.sightings} were wanted"),
    )


def _age(proof: Proof) -> Check:
    age, limit = proof.clocks.evidence, proof.terms.freshness
    return Check("freshness", 0 <= age <= limit, f"Airflow's answer was {age:.1f} s old, and {limit:g} s were allowed")
