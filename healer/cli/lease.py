"""The Lease as commands use it: held while `run --once` works, and the annotation that `release` writes on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from http import HTTPStatus
from types import MappingProxyType

from msgspec.structs import replace

from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import Config, LeaderElectionConfig
from healer.decision.limits import with_override
from healer.errors import (
    ClusterError,
    InvalidResponseError,
    NotLeaderError,
    OverrideError,
    ServerBusyError,
    UnreachableError,
)
from healer.leader_election import (
    ATTEMPTS,
    AlwaysLeader,
    ElectionLoop,
    LeaderElector,
    Leadership,
    elects,
    identity,
    lease_client,
    lease_namespace,
    served,
)
from healer.log import get_logger

log = get_logger(__name__)

SLACK = 3
"""Retry periods beyond `leaseDuration` after which a Lease that can't be had is given up."""


@contextmanager
def held(config: Config, cluster: Cluster, *, wait: Callable[[float], object] = time.sleep) -> Iterator[Leadership]:
    """Hold the Lease while the block lasts. `wait` takes seconds.

    Raises NotLeaderError, Refused where the Lease may not be read, or ConnectError.
    """
    terms = config.leader_election
    if not elects(config, cluster.connection):
        yield AlwaysLeader()
        return
    leases = lease_client(cluster, terms)
    with suppress(UnreachableError, ServerBusyError, InvalidResponseError):  # these may pass, a missing right does not
        leases.get()
    elector = LeaderElector(leases, terms, identity(), serves=served(config.airflows))
    why = _acquire(elector, terms, wait)
    if why is not None:
        raise NotLeaderError(why)
    election_loop = ElectionLoop(elector)
    election_loop.start()
    try:
        yield elector
    finally:
        election_loop.stop(terms.renew_deadline)


def _acquire(elector: LeaderElector, config: LeaderElectionConfig, wait: Callable[[float], object]) -> str | None:
    """Try until the Lease is ours, or is seen renewed by another. Return why not."""
    first, deadline = None, boottime() + config.lease_duration + SLACK * config.retry_period
    while True:
        pause = elector.try_acquire_or_renew()
        if elector.is_leader():
            return None
        seen = elector.seen
        if seen and first and seen.holder and (seen.holder, seen.renewed) != (first.holder, first.renewed):
            return _led(seen.holder, elector.unserved, config)
        first = first or seen
        if boottime() >= deadline + (max(0.0, first.duration - config.lease_duration) if first else 0.0):
            return elector.last_error or "the Lease could not be had in time: try again"
        wait(pause)


def _led(holder: str, unserved: Sequence[str], config: LeaderElectionConfig) -> str:
    if unserved:
        return (
            f"the Lease {config.name} is held by {holder}, which looks after other Airflows and not after "
            f"{', '.join(unserved)}: give each installation a Lease of its own with leaderElection.name"
        )
    return f"another replica leads ({holder}): it heals, so nothing is left for run --once to do"


class Beside:
    """The leadership of a command that deletes one Pod beside whoever leads.

    It takes the Lease from nobody. Two that delete the same Pod do no harm: each DELETE names the uid and the
    resourceVersion of what was judged. Whether the breaker is overridden it reads from the Lease like any leader.
    """

    term = 1

    def __init__(self, sentence: str, annotations: Mapping[str, str] = MappingProxyType({})) -> None:
        """Take the Lease's annotations, and a `sentence` on who leads."""
        self.sentence, self.annotations = sentence, annotations

    def is_leader(self) -> bool:
        """Return True: somebody has chosen this Pod."""
        return True


def beside(config: Config, cluster: Cluster) -> Beside:
    """Return who leads, by what the Lease says; that it can't be read is told, and keeps nobody from one Pod."""
    terms = config.leader_election
    if not elects(config, cluster.connection):
        return Beside("leaderElection.enabled is false: nobody has to")
    try:
        lease = lease_client(cluster, terms).get()
    except ClusterError as error:
        return Beside(f"not known, so no override of the breaker either: {error}")
    if lease is None or not lease.holder:
        return Beside(f"nobody holds the Lease {terms.name} now", lease.annotations if lease else {})
    return Beside(f"{lease.holder}, as the Lease says; this command acts beside it", lease.annotations)


def override_breaker(config: Config, cluster: Cluster, airflow: str) -> datetime:
    """Lift the breaker of an Airflow for an hour. Return until when.

    Raises ReleaseError or ConnectError.
    """
    names = [each.name for each in config.airflows]
    if airflow not in names:
        raise OverrideError(f"no Airflow is called so: the configuration has {', '.join(names)}")
    if config.leader_election.enabled is False:
        raise OverrideError("leaderElection.enabled is false, so there is no Lease to write to: set it to true")
    try:
        return _override(cluster, config.leader_election, airflow)
    except ClusterError as error:
        raise OverrideError(str(error)) from error


def _override(cluster: Cluster, config: LeaderElectionConfig, airflow: str) -> datetime:
    leases = lease_client(cluster, config)
    for attempt in range(1, ATTEMPTS + 1):
        found = leases.get()
        if found is None:
            raise OverrideError(
                f"there is no Lease {config.name} in namespace {lease_namespace(cluster, config)}, so no healer has "
                "led there yet: name both as the running healer has them, in leaderElection.name and .namespace"
            )
        if not found.holder:
            log.warning("nobody holds the Lease now: the breaker is lifted for whoever takes it within the hour")
        annotations, until = with_override(found.annotations, airflow, cluster.now() or time.time())
        try:
            leases.replace(replace(found, annotations=annotations))
        except ClusterError as error:
            # The leader renews all the time: the Lease is read again.
            if error.status != HTTPStatus.CONFLICT or attempt == ATTEMPTS:
                raise
        else:
            return until
    raise AssertionError("unreachable")
