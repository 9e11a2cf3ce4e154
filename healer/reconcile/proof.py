"""The proof of a decision to delete: all it rests on, in one structure that can be judged again weeks later.

It holds what the rules and the patience looked at and nothing else: no env, args or volumes, which are never read, and
of the annotations only what the rules make of them. Ids, names and times are all it tells of anybody's work.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from healer import __version__
from healer.config import AirflowConfig, Mode, Ownership, Policy, Retention
from healer.model import Action, Answer, Finding, Identity, Known, Pod, Reason, RunDeleted, TaskInstance
from healer.suspects import Now, Suspect

SCHEMA = 1
"""Version of the structure. A new optional field leaves it; one that is renamed, goes or means something else does not.
"""


class UnusableProofError(Exception):
    """This text is no proof that can be judged; `str()` says why, in one sentence."""


class Versions(Struct, frozen=True):
    """Who decided, and whom it asked."""

    healer: str
    airflow: str | None


class Scope(Struct, frozen=True):
    """Whose Pods the Airflow's are, as it was configured."""

    name: str
    namespaces: tuple[str, ...]
    ownership: Ownership | None


class Terms(Struct, frozen=True):
    """The policy that counted. Durations are seconds; `retention_*` those of each outcome."""

    action: Action
    sightings: int
    min_age: float
    grace: float
    absent_grace: float
    retention_succeeded: float
    retention_failed: float
    retention_kept: float
    foreign_operators: tuple[str, ...]
    freshness: float

    def policy(self, reason: Reason) -> Policy:
        """Return the policy as the rules and the patience take it. Raises ValueError for values that none has."""
        return Policy(
            min_age=self.min_age,
            grace=self.grace,
            absent_grace=self.absent_grace,
            sightings=self.sightings,
            retention=Retention(
                succeeded=self.retention_succeeded, failed=self.retention_failed, kept=self.retention_kept
            ),
            foreign_operators=self.foreign_operators,
            actions={reason: self.action} if reason.action is not Action.KEEP else {},
        )


class Row(Struct, frozen=True, tag="task-instance"):
    """Airflow's row, which Pods it names, and how those looked that it named instead."""

    task: TaskInstance
    identity: Identity | None = None
    siblings: tuple[Pod, ...] = ()


class NoRun(Struct, frozen=True, tag="run-deleted"):
    """Airflow has the DAG and not the run."""

    dag_id: str
    run_id: str


class Clocks(Struct, frozen=True):
    """When it was decided.

    `server` is the API server's clock (epoch seconds); `suspected` and `evidence` are seconds by the healer's monotonic
    clock: since the first sight of the case, and since the oldest Airflow request behind the answer was sent.
    """

    server: float | None
    suspected: float
    evidence: float


class Proof(Struct, frozen=True):
    """One decision to delete a Pod, or in report mode one that would have been made."""

    schema: int
    mode: Mode
    versions: Versions
    scope: Scope
    terms: Terms
    pod: Pod
    reason: Reason
    detail: str
    airflow_said: Row | NoRun
    clocks: Clocks
    sightings: int

    @property
    def answer(self) -> Answer:
        """What Airflow said, as the rules take it, on a clock that shows 0 at the decision."""
        sent = -self.clocks.evidence
        if isinstance(self.airflow_said, NoRun):
            return RunDeleted(sent, self.airflow_said.dag_id, self.airflow_said.run_id)
        return Known(sent, self.airflow_said.task, self.airflow_said.identity, self.airflow_said.siblings)


def prove(
    airflow: AirflowConfig,
    *,
    version: str | None,
    freshness: float,
    suspect: Suspect,
    pod: Pod,
    answer: Answer,
    finding: Finding,
    now: Now,
) -> Proof:
    """Write down what a decision rests on. `version` is Airflow's, `freshness` the greatest age of evidence, in s."""
    return Proof(
        schema=SCHEMA,
        mode=airflow.mode,
        versions=Versions(__version__, version),
        scope=Scope(airflow.name, airflow.namespaces, airflow.ownership),
        terms=_terms(airflow.policy, suspect.action, freshness),
        pod=pod,
        reason=finding.reason,
        detail=finding.detail,
        airflow_said=_said(answer),
        clocks=Clocks(now.server, round(now.ours - suspect.since, 3), round(now.ours - answer.sent, 3)),
        sightings=suspect.sightings,
    )


def _terms(policy: Policy, action: Action, freshness: float) -> Terms:
    return Terms(
        action=action,
        sightings=policy.sightings,
        min_age=policy.min_age,
        grace=policy.grace,
        absent_grace=policy.absent_grace,
        retention_succeeded=policy.retention.succeeded,
        retention_failed=policy.retention.failed,
        retention_kept=policy.retention.kept,
        foreign_operators=policy.foreign_operators,
        freshness=freshness,
    )


def _said(answer: Answer) -> Row | NoRun:
    if isinstance(answer, RunDeleted):
        return NoRun(answer.dag_id, answer.run_id)
    if isinstance(answer, Known):
        return Row(answer.task, answer.identity, answer.siblings)
    raise AssertionError("nothing acts on an answer that knows nothing")


def as_data(proof: Proof) -> dict[str, Any]:
    """Return the proof as plain JSON values, always in the same order."""
    data: dict[str, Any] = msgspec.to_builtins(proof, str_keys=True, order="deterministic")
    return data


class _Line(Struct, frozen=True):
    proof: Raw | UnsetType = UNSET
    schema: Raw | UnsetType = UNSET


class _Versions(Struct, frozen=True):
    healer: str = "unknown"


class _Head(Struct, frozen=True):
    schema: int
    versions: _Versions = _Versions()


def of_line(text: str) -> Proof | None:
    """Return the proof in a line of a log (whatever stands before its JSON), or that is this line; None if none is.

    Raises UnusableProofError for one that can't be judged: cut off, of an unknown schema, or altered.
    """
    body = text[text.find("{") :] if "{" in text else ""
    try:
        line = msgspec.json.decode(body, type=_Line)
    except (msgspec.DecodeError, UnicodeError):
        if _looks_like_one(body):
            raise UnusableProofError("the line is cut off or damaged: it is no whole JSON object") from None
        return None
    if line.proof is not UNSET:
        return _decoded(bytes(line.proof))
    return None if line.schema is UNSET else _decoded(body.encode())


def _looks_like_one(text: str) -> bool:
    return '"message": "decision"' in text or '"proof":' in text or '"airflow_said":' in text


def _decoded(raw: bytes) -> Proof:
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.schema != SCHEMA:
            raise UnusableProofError(
                f"this proof has schema {head.schema} and this kpo-healer knows schema {SCHEMA}: "
                f"use the version that wrote it ({head.versions.healer})"
            )
        proof = msgspec.json.decode(raw, type=Proof)
        proof.terms.policy(proof.reason)
    except (msgspec.DecodeError, UnicodeError, ValueError) as error:
        what = str(error).partition("\n")[0]
        raise UnusableProofError(f"this is no proof that kpo-healer wrote ({what})") from None
    return proof
