"""What is logged of each decision: the evidence before the DELETE; what became of it after, also where people look."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from healer.airflow import Airflow
from healer.airflow.note_writer import NoteWriter
from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import AirflowConfig, Mode
from healer.decision.quarantine import Now
from healer.deletion.decision_record import CONTROLLER, build
from healer.deletion.steps import Confirmed
from healer.log import get_logger
from healer.model import DeleteResult, DeleteStatus, rfc3339
from healer.telemetry.events import EventRecorder

log = get_logger(__name__)

MAX_NOTE_REASON = 300
"""Characters of the reason in a note: several notes may stand on one task instance."""


class AuditLog:
    """Writes the log lines, Events and notes about the decisions on one Airflow's Pods."""

    def __init__(
        self,
        config: AirflowConfig,
        airflow: Airflow,
        *,
        cluster: Cluster,
        recorder: EventRecorder,
        note_writer: NoteWriter,
        freshness: float,
        clock: Callable[[], float] = boottime,
        by: str = CONTROLLER,
    ) -> None:
        """`freshness` is how old evidence may be, in seconds; `clock` tells monotonic seconds; `by`: who wants it."""
        self._config, self._airflow, self._cluster = config, airflow, cluster
        self._recorder, self._note_writer = recorder, note_writer
        self._freshness, self._clock, self._by = freshness, clock, by

    def log_decision(self, case: Confirmed) -> None:
        """Log that a Pod is about to be deleted, or would be, with all that this rests on.

        Before the DELETE, so that none is sent whose evidence is not written; the age of the evidence counts on.
        """
        now = Now(self._clock(), self._cluster.now())
        log.info(
            "decision",
            airflow=self._config.name,
            pod=str(case.pod),
            uid=case.pod.uid,
            reason=case.finding.reason.value,
            by=self._by,
            act="delete" if self._config.mode is Mode.ENFORCE else "would delete",
            proof=build(
                self._config, case, version=self._airflow.version, freshness=self._freshness, now=now, by=self._by
            ),
        )

    def log_result(self, case: Confirmed, result: DeleteResult) -> None:
        """Log what became of a DELETE, write the Event, and note it on the task instance where that is wanted."""
        pod, finding, task = case.pod, case.finding, case.task
        self._recorder.record_deletion(pod, finding, result, case.cause)
        log.info(
            "delete",
            airflow=self._config.name,
            pod=str(pod),
            uid=pod.uid,
            by=self._by,
            resource_version=pod.resource_version,
            reason=finding.reason.value,
            detail=finding.detail,
            cause=case.cause.to_dict() if case.cause else None,
            result=result.status.value,
            said=result.message or None,
            task=msgspec.to_builtins(task) if task else None,
            sightings=case.suspect.sightings,
            suspected_seconds=round(self._clock() - case.suspect.since, 3),
            evidence_age_seconds=round(self._clock() - case.answer.sent, 3),
        )
        if task is not None and self._config.notes and result.status is DeleteStatus.DELETED:
            why = f"{finding.reason}: {finding.detail}"[:MAX_NOTE_REASON]
            when = rfc3339(self._cluster.now())
            text = f"Pod {pod} of try {pod.labels.try_number} was deleted at {when}: {why}"
            self._note_writer.note(self._airflow.write_note, self._config.name, pod, task, text)
