"""The model of the Lease: an object with resourceVersions, and one healer's way to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from healer.cluster import Lease
from healer.errors import AccessDeniedError, ClusterError, ServerBusyError, UnreachableError
from tests.simulation.api import Link


class LeaseObject:
    """What the API server keeps."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.version = 0
        self.takeovers = 0

    def write(self, lease: Lease) -> Lease:
        """Store it under a new resourceVersion."""
        self.version += 1
        before = self.lease.holder if self.lease else ""
        self.takeovers += bool(lease.holder) and lease.holder != before
        self.lease = replace(lease, resource_version=str(self.version))
        return self.lease


class LeaseSeam:
    """What the elector takes for its client."""

    def __init__(self, there: LeaseObject, link: Link, patience: float, sleep: Callable[[float], None]) -> None:
        self._there, self._link, self._patience, self._sleep = there, link, patience, sleep
        self.fault = ""
        self.renewed = -math.inf
        """When the last write was sent that made or kept us leader and that we know to have succeeded."""
        self.seen: Counter[str] = Counter()

    def get(self) -> Lease | None:
        """Read it."""
        self._travel("get")
        lease = self._there.lease
        self._lose()
        return lease

    def create(self, lease: Lease) -> Lease:
        """Create it, unless somebody was faster."""
        sent = self._link.server.clock()
        self._travel("create")
        if self._there.lease is not None:
            self._conflict()
        return self._written(lease, sent)

    def replace(self, lease: Lease) -> Lease:
        """Write it, unless somebody was faster."""
        sent = self._link.server.clock()
        self._travel("replace")
        there = self._there.lease
        if there is None:
            raise ClusterError("there is no such Lease", status=404)
        if there.resource_version != lease.resource_version:
            self._conflict()
        return self._written(lease, sent)

    def _written(self, lease: Lease, sent: float) -> Lease:
        if not lease.holder:
            self.renewed = -math.inf
        written = self._there.write(lease)
        self._lose()
        self.renewed = sent if lease.holder else -math.inf
        return written

    def _travel(self, what: str) -> None:
        self.seen[what] += 1
        self._link.reach(self._patience)
        if self.fault == "slow":
            self.seen["slow"] += 1
            self._sleep(0.4 * self._patience)
        elif self.fault == "denied":
            self.seen["denied"] += 1
            raise AccessDeniedError("may not touch the Lease", status=403)
        elif self.fault == "busy":
            self.seen["busy"] += 1
            raise ServerBusyError("the API server answers 429", retry_after=1.0, status=429)
        else:
            self._sleep(0.01)

    def _lose(self) -> None:
        """Let the answer come late, or never, to what has happened."""
        if self.fault == "slow":
            self._sleep(0.4 * self._patience)
        if self.fault == "lost":
            self.seen["lost"] += 1
            self._sleep(self._patience)
            raise UnreachableError("no answer in time")

    def _conflict(self) -> None:
        self.seen["conflict"] += 1
        raise ClusterError("somebody else was faster", status=409)
