"""The record of a decision to delete: all it rests on, in one structure that can be judged again weeks later.

It holds what the rules and the patience looked at and nothing else: no env, args or volumes, which are never read, and
of the annotations only what the rules make of them. Ids, names and times are all it holds of anybody's work.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from healer import __version__
from healer.config import AirflowConfig, Mode, Ownership, OwnershipLabel, Policy, Retention
from healer.decision.quarantine import Now
from healer.deletion.steps import Confirmed
from healer.errors import InvalidRecordError
from healer.model import Action, Answer, DagDeleted, Known, NamedPods, Pod, Reason, RunDeleted, TaskInstance

SCHEMA = 1
"""Version of the structure. A new optional field leaves it; one that is renamed, goes or means something else does not.
"""

CONTROLLER = "controller"
"""Who wants a deletion, where nobody has asked for this very Pod."""


class Versions(Struct, frozen=True):
    """Who decided, and whom it asked."""

    healer: str
    airflow: str | None


class Scope(Struct, frozen=True):
    """Whose Pods the Airflow's are, as it was configured."""

    name: str
    namespaces: tuple[str, ...]
    ownership: Ownership | OwnershipLabel | None


class PolicySnapshot(Struct, frozen=True):
    """The policy that counted. Durations are seconds; `retention_*` those of each outcome.

    `retention_longest` bounds what the Pod's annotation asks for; records of before it was read have none.
    """

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
    retention_purged: float = 7 * 86400.0
    retention_longest: float = 0.0

    def policy(self, reason: Reason) -> Policy:
        """Return the policy as the rules and the patience take it. Raises ValueError for values that none has."""
        return Policy(
            min_age=self.min_age,
            grace=self.grace,
            absent_grace=self.absent_grace,
            sightings=self.sightings,
            retention=Retention(
                succeeded=self.retention_succeeded,
                failed=self.retention_failed,
                kept=self.retention_kept,
                purged=self.retention_purged,
                longest=self.retention_longest,
            ),
            foreign_operators=self.foreign_operators,
            actions={reason: self.action} if reason.action is not Action.KEEP else {},
        )


class TaskEvidence(Struct, frozen=True, tag="task-instance"):
    """Airflow's row, which Pods it names, and how those looked that it named instead."""

    task: TaskInstance
    identity: NamedPods | None = None
    siblings: tuple[Pod, ...] = ()


class RunEvidence(Struct, frozen=True, tag="run-deleted"):
    """Airflow has the DAG and not the run."""

    dag_id: str
    run_id: str


class NoDag(Struct, frozen=True, tag="dag-deleted"):
    """Airflow does not have the DAG."""

    dag_id: str


class Timing(Struct, frozen=True):
    """When it was decided.

    `server` is the API server's clock (epoch seconds); `suspected` and `evidence` are seconds by the healer's monotonic
    clock: since the first sight of the case, and since the oldest Airflow request behind the answer was sent. `named`:
    since Airflow was asked which Pod it names, where that was before, as of an ended try which has used this very Pod.
    """

    server: float | None
    suspected: float
    evidence: float
    named: float | None = None


class DecisionRecord(Struct, frozen=True):
    """One decision to delete a Pod, or in report mode one that would have been made. `by`: who wanted it."""

    schema: int
    mode: Mode
    versions: Versions
    scope: Scope
    terms: PolicySnapshot
    pod: Pod
    reason: Reason
    detail: str
    airflow_said: TaskEvidence | RunEvidence | NoDag
    clocks: Timing
    sightings: int
    by: str = CONTROLLER

    @property
    def answer(self) -> Answer:
        """What Airflow said, as the rules take it, on a clock that shows 0 at the decision."""
        sent = -self.clocks.evidence
        if isinstance(self.airflow_said, RunEvidence):
            return RunDeleted(sent, self.airflow_said.dag_id, self.airflow_said.run_id)
        if isinstance(self.airflow_said, NoDag):
            return DagDeleted(sent, self.airflow_said.dag_id)
        return Known(sent, self.airflow_said.task, self.airflow_said.identity, self.airflow_said.siblings)


def build(
    airflow: AirflowConfig,
    case: Confirmed,
    *,
    version: str | None,
    freshness: float,
    now: Now,
    by: str = CONTROLLER,
) -> DecisionRecord:
    """Write down what a decision rests on.

    `version` is Airflow's, `freshness` the greatest age of evidence in seconds, `by` who wants the deletion.
    """
    return DecisionRecord(
        schema=SCHEMA,
        mode=airflow.mode,
        versions=Versions(__version__, version),
        scope=Scope(airflow.name, airflow.namespaces, airflow.ownership),
        terms=_policy_snapshot(airflow.policy, case.suspect.action, freshness),
        pod=case.pod,
        reason=case.finding.reason,
        detail=case.finding.detail,
        airflow_said=_evidence(case.answer),
        clocks=_timing(case, now),
        sightings=case.suspect.sightings,
        by=by,
    )


def _timing(case: Confirmed, now: Now) -> Timing:
    heard = case.answer.heard if isinstance(case.answer, Known) else None
    return Timing(
        now.server,
        suspected=round(now.ours - case.suspect.since, 3),
        evidence=round(now.ours - case.answer.sent, 3),
        named=None if heard is None else round(now.ours - heard, 3),
    )


def _policy_snapshot(policy: Policy, action: Action, freshness: float) -> PolicySnapshot:
    return PolicySnapshot(
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
        retention_purged=policy.retention.purged,
        retention_longest=policy.retention.longest,
    )


def _evidence(answer: Answer) -> TaskEvidence | RunEvidence | NoDag:
    if isinstance(answer, RunDeleted):
        return RunEvidence(answer.dag_id, answer.run_id)
    if isinstance(answer, DagDeleted):
        return NoDag(answer.dag_id)
    if isinstance(answer, Known):
        return TaskEvidence(answer.task, answer.identity, answer.siblings)
    raise AssertionError("nothing acts on an answer that knows nothing")


def as_data(record: DecisionRecord) -> dict[str, Any]:
    """Return the record as plain JSON values, always in the same order."""
    data: dict[str, Any] = msgspec.to_builtins(record, str_keys=True, order="deterministic")
    return data


class _LogLine(Struct, frozen=True):
    proof: Raw | UnsetType = UNSET
    schema: Raw | UnsetType = UNSET


class _HeadVersions(Struct, frozen=True):
    healer: str = "unknown"


class _RecordHead(Struct, frozen=True):
    schema: int
    versions: _HeadVersions = _HeadVersions()


_LOG_LINE, _RECORD_HEAD = msgspec.json.Decoder(_LogLine), msgspec.json.Decoder(_RecordHead)
_RECORD = msgspec.json.Decoder(DecisionRecord)


def parse_line(text: str) -> DecisionRecord | None:
    """Return the record in a line of a log (whatever stands before its JSON), or that is this line; None if none is.

    Raises InvalidRecordError for one that can't be judged: cut off, of an unknown schema, or altered.
    """
    body = text[text.find("{") :] if "{" in text else ""
    try:
        line = _LOG_LINE.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        if any(mark in body for mark in ('"message": "decision"', '"proof":', '"airflow_said":')):
            raise InvalidRecordError("the line is cut off or damaged: it is no whole JSON object") from None
        return None
    if line.proof is not UNSET:
        return _decoded(bytes(line.proof))
    return None if line.schema is UNSET else _decoded(body.encode())


def _decoded(raw: bytes) -> DecisionRecord:
    try:
        head = _RECORD_HEAD.decode(raw)
        if head.schema != SCHEMA:
            raise InvalidRecordError(
                f"this proof has schema {head.schema} and this kpo-healer knows schema {SCHEMA}: "
                f"use the version that wrote it ({head.versions.healer})"
            )
        record = _RECORD.decode(raw)
        record.terms.policy(record.reason)
    except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError) as error:
        what = str(error).partition("\n")[0]
        raise InvalidRecordError(f"this is no proof that kpo-healer wrote ({what})") from None
    return record
