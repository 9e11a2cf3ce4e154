"""What the log tells of each decision: the proof before the DELETE, what became of it after."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from healer.clock import steady
from healer.cluster import Cluster, Outcome
from healer.config import AirflowConfig, Mode
from healer.model import Answer, Finding, Known, Pod
from healer.reconcile.proof import as_data, prove
from healer.suspects import Now, Suspect

log = structlog.get_logger(__name__)


class Chronicle:
    """Writes the log lines about the decisions on one Airflow's Pods."""

    def __init__(
        self,
        airflow: AirflowConfig,
        cluster: Cluster,
        *,
        version: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = steady,
    ) -> None:
        """`version` tells Airflow's, `clock` monotonic seconds."""
        self._airflow, self._cluster, self._version, self._clock = airflow, cluster, version, clock

    def decision(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding) -> None:
        """Tell that a Pod is about to be deleted, or would be, with all that this rests on.

        Before the DELETE, so that none is sent whose proof is not written; the age of the evidence counts on.
        """
        proof = prove(
            self._airflow,
            version=self._version(),
            freshness=self._cluster.freshness,
            suspect=suspect,
            pod=pod,
            answer=answer,
            finding=finding,
            now=Now(self._clock(), self._cluster.now()),
        )
        log.info(
            "decision",
            airflow=self._airflow.name,
            pod=str(pod),
            uid=pod.uid,
            reason=finding.reason.value,
            act="delete" if self._airflow.mode is Mode.ENFORCE else "would delete",
            proof=as_data(proof),
        )

    def deletion(self, suspect: Suspect, pod: Pod, answer: Answer, finding: Finding, deletion: Outcome) -> None:
        """Tell what became of a DELETE."""
        task = answer.task if isinstance(answer, Known) else None
        log.info(
            "delete",
            airflow=self._airflow.name,
            pod=str(pod),
            uid=pod.uid,
            resource_version=pod.resource_version,
            reason=finding.reason.value,
            detail=finding.detail,
            result=deletion.result.value,
            said=deletion.message or None,
            task=msgspec.to_builtins(task) if task else None,
            sightings=suspect.sightings,
            suspected_seconds=round(self._clock() - suspect.since, 3),
            evidence_age_seconds=round(self._clock() - answer.sent, 3),
        )
