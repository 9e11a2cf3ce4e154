"""The post-mortem: what is read of Pods just before they are confirmed, and told of those that were deleted.

It is for people. It comes before the question to Airflow, so that no proof grows old by it; it has a few seconds for a
whole slice; and whatever goes wrong with it is told and holds nothing up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing import TimeoutError as NotInTimeError
from multiprocessing.pool import AsyncResult, ThreadPool

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from healer.clock import boottime
from healer.cluster import Cluster, PodDiagnostics
from healer.config import DiagnosticsConfig
from healer.decision.quarantine import Suspect
from healer.decision.rules import base_name, base_of
from healer.errors import ClusterError
from healer.log import get_logger
from healer.model import Pod

CONCURRENCY = 4
TIMEOUT = 5.0
"""Seconds that the reading of one slice may take."""

log = get_logger(__name__)


class Collected(Struct, frozen=True):
    """What could be read of one Pod, and why something could not."""

    diagnostics: PodDiagnostics | None = None
    error: str | None = None


class DiagnosticsCollector:
    """Examines the Pods of one Airflow, where its configuration wants that."""

    def __init__(
        self,
        airflow: str,
        terms: DiagnosticsConfig,
        cluster: Cluster,
        *,
        patience: float = TIMEOUT,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`patience` is how long one slice may take, in seconds of `clock`."""
        self._airflow, self._config, self._cluster = airflow, terms, cluster
        self._timeout, self._clock = patience, clock
        self._collected: Mapping[str, Collected] = {}

    def collect(self, suspects: Sequence[Suspect]) -> None:
        """Read what is left of these Pods; what was read of earlier ones is forgotten. Never raises."""
        self._collected = {}
        if not (self._config.enabled and suspects):
            return
        deadline = self._clock() + self._timeout
        # Left without waiting: the threads are daemons, and whoever is late is not listened to.
        with ThreadPool(min(CONCURRENCY, len(suspects))) as pool:
            waiting = {s.pod.uid: pool.apply_async(self._read, (s,)) for s in suspects}
            self._collected = {uid: _result(each, deadline - self._clock()) for uid, each in waiting.items()}

    def log(self, pod: Pod) -> None:
        """Write the one line about a Pod that was deleted."""
        report = self._collected.get(pod.uid)
        if report is None:
            return
        remains = to_builtins(report.diagnostics) if report.diagnostics else {}
        log.info("post-mortem", airflow=self._airflow, pod=str(pod), uid=pod.uid, **remains, trouble=report.error)

    def _read(self, suspect: Suspect) -> Collected:
        try:
            remains = self._cluster.diagnostics_reader().statuses(suspect.pod, manifest=self._config.manifest)
        except ClusterError as error:
            return Collected(error=str(error))
        container = base_of(suspect.pod, base_name(suspect.finding.task))
        if not self._config.log_lines or container is None:
            return Collected(remains)
        try:
            said = self._cluster.diagnostics_reader().log(
                suspect.pod, container.name, lines=self._config.log_lines, size=self._config.log_bytes
            )
        except ClusterError as error:
            return Collected(remains, str(error))
        return Collected(replace(remains, log=said))


def _result(waiting: AsyncResult[Collected], patience: float) -> Collected:
    try:
        return waiting.get(max(0.0, patience))
    except NotInTimeError:
        return Collected(error="it could not be read in time")
