"""What is told of each decision: the proof before the DELETE; what became of it after, also where people look."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from healer.causes import Explained
from healer.clock import steady
from healer.cluster import Outcome, Result
from healer.config import AirflowConfig, Mode
from healer.log import get_logger
from healer.model import Answer, Finding, Known, Pod, TaskInstance, rfc3339
from healer.reconcile.proof import prove
from healer.report import Herald
from healer.suspects import Now, Suspect

log = get_logger(__name__)


class Chronicle:
    """Writes the log lines and Events about the decisions on one Airflow's Pods."""

    def __init__(
        self,
        airflow: AirflowConfig,
        *,
        version: Callable[[], str | None],
        server_time: Callable[[], float | None],
        freshness: float,
        herald: Herald,
        cause: Callable[[Pod, Finding], Explained | None],
        note: Callable[[Pod, TaskInstance, str], None],
        clock: Callable[[], float] = steady,
    ) -> None:
        """Take what a proof needs beside the case.

        `version` tells Airflow's, `server_time` the API server's clock (epoch seconds), `clock` monotonic seconds;
        `freshness` is how old evidence may be, in seconds; `cause` knows why a Pod was left behind; `note` notes a line
        on a task instance some time soon.
        """
        self._herald, self._cause = herald, cause
        self._airflow, self._version, self._freshness = airflow, version, freshness
        self._server_time, self._note, self._clock = server_time, note, clock

    def decision(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding) -> None:
        """Tell that a Pod is about to be deleted, or would be, with all that this rests on.

        Before the DELETE, so that none is sent whose proof is not written; the age of the evidence counts on.
        """
        proof = prove(
            self._airflow,
            version=self._version(),
            freshness=self._freshness,
            suspect=suspect,
            pod=pod,
            answer=answer,
            finding=finding,
            now=Now(self._clock(), self._server_time()),
        )
        log.info(
            "decision",
            airflow=self._airflow.name,
            pod=str(pod),
            uid=pod.uid,
            reason=finding.reason.value,
            act="delete" if self._airflow.mode is Mode.ENFORCE else "would delete",
            proof=proof,
        )

    def deletion(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding, deletion: Outcome) -> None:
        """Tell what became of a DELETE."""
        task = answer.task if isinstance(answer, Known) else None
        cause = self._cause(pod, finding)
        self._herald.deletion(pod, finding, deletion, cause)
        log.info(
            "delete",
            airflow=self._airflow.name,
            pod=str(pod),
            uid=pod.uid,
            resource_version=pod.resource_version,
            reason=finding.reason.value,
            detail=finding.detail,
            cause=cause.to_dict() if cause else None,
            result=deletion.result.value,
            said=deletion.message or None,
            task=msgspec.to_builtins(task) if task else None,
            sightings=suspect.sightings,
            suspected_seconds=round(self._clock() - suspect.since, 3),
            evidence_age_seconds=round(self._clock() - answer.sent, 3),
        )
        if task is not None and self._airflow.notes and deletion.result is Result.DELETED:
            when = rfc3339(self._server_time())
            self._note(pod, task, f"Pod {pod} of try {pod.labels.try_number} was deleted at {when}: {_why(finding)}")


def _why(finding: Finding) -> str:
    """Say why in what a note has room for: several of them may stand there."""
    return f"{finding.reason}: {finding.detail}"[:300]
