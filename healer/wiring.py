"""The one place that makes a reconciler, for the controller, for `run --once` and for `delete` alike."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from healer.airflow import Airflow
from healer.airflow.note_writer import NoteWriter
from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import AirflowConfig, Config
from healer.decision.limits import is_overridden
from healer.decision.quarantine import Signature, Suspect
from healer.informer import PodStore
from healer.informer.resync import Resync
from healer.leader_election import Leadership, LeadershipCheck
from healer.reconciler import Dependencies, Reconciler
from healer.telemetry.events import EventRecorder
from healer.telemetry.metrics import Metrics


class Shared(Struct, frozen=True):
    """What all Airflows of a process share. Safe to use from several threads."""

    config: Config
    cluster: Cluster
    store: PodStore
    resync: Resync
    leadership: Leadership
    recorder: EventRecorder
    metrics: Metrics

    def is_overridden(self, airflow: str) -> bool:
        """Whether the breaker of an Airflow is overridden, by the annotations of the Lease."""
        return is_overridden(self.leadership.annotations, airflow, self.cluster.now())


class DeleteRequest:
    """Somebody wants one Pod deleted. Until the very case is approved, this covers nothing."""

    def __init__(self, by: str) -> None:
        """`by`: who asks, for the decision record and the log."""
        self.by = by
        self._approved: tuple[str, Signature] | None = None

    def approve(self, suspect: Suspect) -> None:
        """Let this Pod be deleted as long as it is this very case: see `Suspect.signature`."""
        self._approved = suspect.pod.uid, suspect.signature

    def covers(self, suspect: Suspect) -> bool:
        """Whether it is the case that was approved."""
        return (suspect.pod.uid, suspect.signature) == self._approved


def build(
    config: AirflowConfig,
    airflow: Airflow,
    shared: Shared,
    is_leader: LeadershipCheck,
    note_writer: NoteWriter,
    clock: Callable[[], float] = boottime,
    request: DeleteRequest | None = None,
) -> Reconciler:
    """Return a reconciler that knows nothing yet. `is_leader` is asked as the last act before each DELETE.

    `request`: it deletes nothing but what somebody asks for.
    """
    deps = Dependencies(
        shared.cluster,
        shared.recorder,
        shared.metrics,
        is_leader,
        clock,
        overridden=shared.is_overridden,
        freshness=shared.config.freshness,
        note_writer=note_writer,
        store=shared.store,
    )
    if request is not None:
        deps = replace(deps, chosen=request.covers, by=request.by)
    return Reconciler(config, airflow, deps)
