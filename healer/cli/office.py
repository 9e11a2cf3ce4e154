"""The Lease as commands use it: held while `run --once` works, and the annotation that `release` writes on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from http import HTTPStatus

from healer.clock import steady
from healer.cluster import Busy, Cluster, ClusterError, Malformed, Unreachable
from healer.config import Config, LeaderElection
from healer.leader import (
    ATTEMPTS,
    LEASE,
    Campaign,
    Elector,
    Office,
    SoleReplica,
    identity,
    lease_client,
    lease_namespace,
    released,
)

SLACK = 3
"""Retry periods beyond `leaseDuration` after which a Lease that can't be had is given up."""


class NotLeaderError(Exception):
    """Another replica leads, or the Lease can't be had; the text says what to do."""


class ReleaseError(Exception):
    """The breaker can't be lifted; the text says what to do."""


@contextmanager
def held(config: Config, cluster: Cluster, *, wait: Callable[[float], object] = time.sleep) -> Iterator[Office]:
    """Hold the Lease while the block lasts. `wait` takes seconds.

    Raises NotLeaderError, Refused where the Lease may not be read, or ConnectError.
    """
    terms = config.leader_election
    if not terms.enabled:
        yield SoleReplica()
        return
    leases = lease_client(cluster, terms)
    with suppress(Unreachable, Busy, Malformed):  # these may pass, a missing right does not
        leases.get()
    elector = Elector(leases, terms, identity())
    why = _acquire(elector, terms, wait)
    if why is not None:
        raise NotLeaderError(why)
    campaign = Campaign(elector)
    campaign.start()
    try:
        yield elector
    finally:
        campaign.stop(terms.renew_deadline)


def _acquire(elector: Elector, terms: LeaderElection, wait: Callable[[float], object]) -> str | None:
    """Try until the Lease is ours, or is seen renewed by another. Return why not."""
    first, deadline = None, steady() + terms.lease_duration + SLACK * terms.retry_period
    while True:
        pause = elector.step()
        if elector.leads():
            return None
        seen = elector.seen
        if seen and first and seen.holder and (seen.holder, seen.renewed) != (first.holder, first.renewed):
            return f"another replica leads ({seen.holder}): it heals, so nothing is left for run --once to do"
        first = first or seen
        if steady() >= deadline + (max(0.0, first.duration - terms.lease_duration) if first else 0.0):
            return elector.trouble or "the Lease could not be had in time: try again"
        wait(pause)


def release(config: Config, cluster: Cluster, airflow: str) -> datetime:
    """Lift the breaker of an Airflow for an hour. Return until when.

    Raises ReleaseError or ConnectError.
    """
    names = [each.name for each in config.airflows]
    if airflow not in names:
        raise ReleaseError(f"no Airflow is called {airflow!r}: the configuration has {', '.join(names)}")
    if not config.leader_election.enabled:
        raise ReleaseError("leaderElection.enabled is false, so there is no Lease to write to: set it to true")
    try:
        return _release(cluster, config.leader_election, airflow)
    except ClusterError as error:
        raise ReleaseError(str(error)) from error


def _release(cluster: Cluster, terms: LeaderElection, airflow: str) -> datetime:
    leases = lease_client(cluster, terms)
    for attempt in range(1, ATTEMPTS + 1):
        found = leases.get()
        if found is None:
            raise ReleaseError(
                f"there is no Lease {LEASE} in namespace {lease_namespace(cluster, terms)}, so no healer has led there "
                "yet: name its namespace as the running healer has it, in leaderElection.namespace"
            )
        changed, until = released(found, airflow, cluster.now() or time.time())
        try:
            leases.replace(changed)
        except ClusterError as error:
            # The leader renews all the time: the Lease is read again.
            if error.status != HTTPStatus.CONFLICT or attempt == ATTEMPTS:
                raise
        else:
            return until
    raise AssertionError("unreachable")
