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

from healer.clock import steady
from healer.cluster import Cluster, ClusterError, Remains
from healer.config import PostMortem
from healer.log import get_logger
from healer.model import Pod
from healer.rules import base_name, base_of
from healer.suspects import Suspect

AT_A_TIME = 4
PATIENCE = 5.0
"""Seconds that the reading of one slice may take."""

log = get_logger(__name__)


class Report(Struct, frozen=True):
    """What could be read of one Pod, and why something could not."""

    remains: Remains | None = None
    trouble: str | None = None


class Coroner:
    """Examines the Pods of one Airflow, where its configuration wants that."""

    def __init__(
        self,
        airflow: str,
        terms: PostMortem,
        cluster: Cluster,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = steady,
    ) -> None:
        """`patience` is how long one slice may take, in seconds of `clock`."""
        self._airflow, self._terms, self._cluster = airflow, terms, cluster
        self._patience, self._clock = patience, clock
        self._reports: Mapping[str, Report] = {}

    def examine(self, suspects: Sequence[Suspect]) -> None:
        """Read what is left of these Pods; what was read of earlier ones is forgotten. Never raises."""
        self._reports = {}
        if not (self._terms.enabled and suspects):
            return
        deadline = self._clock() + self._patience
        # Left without waiting: the threads are daemons, and whoever is late is not listened to.
        with ThreadPool(min(AT_A_TIME, len(suspects))) as pool:
            waiting = {s.pod.uid: pool.apply_async(self._read, (s,)) for s in suspects}
            self._reports = {uid: _result(each, deadline - self._clock()) for uid, each in waiting.items()}

    def tell(self, pod: Pod) -> None:
        """Write the one line about a Pod that was deleted."""
        report = self._reports.get(pod.uid)
        if report is None:
            return
        remains = to_builtins(report.remains) if report.remains else {}
        log.info("post-mortem", airflow=self._airflow, pod=str(pod), uid=pod.uid, **remains, trouble=report.trouble)

    def _read(self, suspect: Suspect) -> Report:
        try:
            remains = self._cluster.examiner().statuses(suspect.pod)
        except ClusterError as error:
            return Report(trouble=str(error))
        container = base_of(suspect.pod, base_name(suspect.finding.task))
        if not self._terms.log_lines or container is None:
            return Report(remains)
        try:
            said = self._cluster.examiner().log(
                suspect.pod, container.name, lines=self._terms.log_lines, size=self._terms.log_bytes
            )
        except ClusterError as error:
            return Report(remains, str(error))
        return Report(replace(remains, log=said))


def _result(waiting: AsyncResult[Report], patience: float) -> Report:
    try:
        return waiting.get(max(0.0, patience))
    except NotInTimeError:
        return Report(trouble="it could not be read in time")
