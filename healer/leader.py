"""Which of several replicas acts: the one that holds the Lease.

A leader may act until `renewDeadline` after the *start* of its last successful renewal. Another replica takes over when
it has seen the Lease unchanged for `leaseDuration`, which is longer, by its own clock: it saw the Lease after that
renewal had begun, so it begins after the leader has ended. A Lease that is not there may have been deleted under its
leader: it is created without a holder, and waited for like any other. Clocks of two machines are never compared; the
times in the Lease are for people. All writes name the resourceVersion that was read, so that of two only one succeeds.
(The elector of the `kubernetes` library goes on leading when it can't renew, and can't create its Lease.)
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Protocol

from msgspec.structs import replace

from healer.clock import steady
from healer.cluster import Cluster, ClusterError, Lease, LeaseClient
from healer.config import LeaderElection
from healer.log import get_logger
from healer.model import zulu

LEASE = "kpo-healer"
"""The name of the Lease."""

RELEASE = "release.kpo-healer.io/"
"""Prefix of the annotations on the Lease that lift the breaker of one Airflow; the value is until when (RFC 3339)."""

RELEASED_FOR = timedelta(hours=1)

ATTEMPTS = 3
"""How often a Lease that somebody else just wrote to is read and written again, where that is worth it."""

log = get_logger(__name__)


class Leases(Protocol):
    """The one Lease, as `healer.cluster.LeaseClient` reads and writes it. All raise ClusterError."""

    def get(self) -> Lease | None:
        """Return it as it is now."""

    def create(self, lease: Lease) -> Lease:
        """Create it if there is none."""

    def replace(self, lease: Lease) -> Lease:
        """Write it if it still has this resourceVersion."""


class Office(Protocol):
    """What a replica knows of its leadership."""

    @property
    def term(self) -> int:
        """How often the leadership was gained; what was known in an earlier term may be old."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """The annotations of the Lease as last seen."""

    def leads(self) -> bool:
        """Whether this replica may act now. Asks nobody; asked as the last act before each DELETE."""


class SoleReplica:
    """The office where leader election is off: always in it."""

    term = 1
    annotations: Mapping[str, str] = {}

    def leads(self) -> bool:
        """Return True."""
        return True


class Elector:
    """Acquires and renews the Lease, one step at a time. One thread steps; any may ask `leads`."""

    def __init__(
        self,
        leases: Leases,
        terms: LeaderElection,
        identity: str,
        *,
        clock: Callable[[], float] = steady,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Do nothing yet. `identity` must be no other replica's; `wall` (epoch seconds) is only written for people."""
        self._leases, self._terms, self.identity = leases, terms, identity
        self._clock, self._wall = clock, wall
        self._until = -math.inf
        self._written: Lease | None = None
        """The Lease as we wrote it, while nothing speaks against its still being so."""
        self._wrote = False
        self._seen: Lease | None = None
        self._since = clock()
        self._transitions: int | None = None
        """The most that were ever seen; None before any Lease was seen."""
        self._trouble: str | None = None
        self.term = 0

    @property
    def annotations(self) -> Mapping[str, str]:
        """The annotations of the Lease as last seen."""
        return self._seen.annotations if self._seen else {}

    @property
    def seen(self) -> Lease | None:
        """The Lease as last seen."""
        return self._seen

    @property
    def trouble(self) -> str | None:
        """Why the last step failed; None if it did not."""
        return self._trouble

    def leads(self) -> bool:
        """Whether this replica may act now."""
        return self._clock() < self._until

    def step(self) -> float:
        """Try once to acquire or renew. Never raises ClusterError: a failure is a Lease that was not renewed.

        Return in how many seconds the next step is due.
        """
        for _ in range(2):
            blindly = self._written is not None
            try:
                self._attempt()
            except ClusterError as error:
                self._written = None
                # A leader does not read before it writes. Who was faster may just have lifted a breaker: look now.
                if blindly and error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                    continue
                self._failed(error)
                break
            self._succeeded()
            break
        return self._pause()

    def resign(self) -> None:
        """Stop leading at once, and give the Lease away if it is ours, so that nobody has to wait."""
        self._until = -math.inf
        for _ in range(ATTEMPTS if self._wrote else 0):
            try:
                self._give_away()
            except ClusterError as error:
                self._written = None
                if error.status != HTTPStatus.CONFLICT:
                    log.info("the Lease could not be given away: it runs out by itself", why=str(error))
                    return
            else:
                return

    def _attempt(self) -> None:
        if self._written is not None and self.leads():
            self._write(self._written)
            return
        self._written = None
        self._note(self._leases.get())
        if self._is_free():
            self._write(self._seen)
        elif self._seen is None:
            self._note(self._leases.create(Lease(duration=self._terms.lease_duration)))

    def _note(self, lease: Lease | None) -> None:
        """Take a look at the Lease. The clock is read after it: the Lease was not written later than that."""
        if lease != self._seen:
            self._seen, self._since = lease, self._clock()
        if lease is not None:
            self._transitions = max(lease.transitions, self._transitions or 0)
            if lease.holder != self.identity:
                self._until = -math.inf

    def _is_free(self) -> bool:
        """Whether the Lease as last seen may be ours."""
        if self.leads():
            return True
        if self._seen is None:
            return False
        return self._is_given_away(self._seen) or self._clock() - self._since >= self._wait()

    def _is_given_away(self, lease: Lease) -> bool:
        """Whether its holder gave it up.

        One without transitions was just created, and nobody had it. One with fewer than were seen before came out of
        a backup, and so may one that names us: who holds it now, these do not tell.
        """
        return lease.holder == "" and 0 < lease.transitions == self._transitions

    def _wait(self) -> float:
        """How long the Lease must be seen unchanged. Its holder may have been configured otherwise than we are."""
        return max(self._terms.lease_duration, self._seen.duration if self._seen else 0.0)

    def _write(self, lease: Lease | None) -> None:
        """Renew or take the Lease. Our time begins before the request is sent."""
        started, now = self._clock(), _micro_time(self._wall())
        ours = self._renewed(lease, now)
        self._wrote = True
        written = self._leases.create(ours) if lease is None else self._leases.replace(ours)
        if not self.leads():
            self.term += 1
            log.info("this replica leads", identity=self.identity, transitions=ours.transitions)
        self._until = started + self._terms.renew_deadline
        self._written = written
        self._note(written)

    def _renewed(self, lease: Lease | None, now: str) -> Lease:
        held = lease or Lease(transitions=-1)
        known = -1 if self._transitions is None else self._transitions
        keeps = self.leads() and held.holder == self.identity
        return replace(
            held,
            holder=self.identity,
            duration=self._terms.lease_duration,
            transitions=held.transitions if keeps else max(held.transitions, known) + 1,
            acquired=held.acquired if keeps else now,
            renewed=now,
        )

    def _give_away(self) -> None:
        lease = self._written or self._leases.get()
        if lease is not None and lease.holder == self.identity:
            self._leases.replace(replace(lease, holder="", renewed=_micro_time(self._wall())))
            log.info("the Lease is given away", identity=self.identity)

    def _pause(self) -> float:
        if self.leads():
            return self._terms.retry_period
        rest = self._since + self._wait() - self._clock()
        return min(rest, self._terms.retry_period) if rest > 0 else self._terms.retry_period

    def _failed(self, error: ClusterError) -> None:
        """Tell once what keeps us from the Lease. That somebody else was faster is no trouble."""
        if error.status == HTTPStatus.CONFLICT or str(error) == self._trouble:
            return
        self._trouble = str(error)
        log.warning("the Lease can't be acquired or renewed; without it nothing is done", why=self._trouble)

    def _succeeded(self) -> None:
        if self._trouble is not None:
            log.info("the Lease can be reached again")
        self._trouble = None


class Campaign:
    """Steps an elector in a thread of its own, and resigns at the end."""

    def __init__(
        self,
        elector: Elector,
        *,
        on_step: Callable[[], object] = lambda: None,
        settle: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start nothing yet. `on_step`: called after each step. `settle`: waits until nothing is under way any more.

        What `settle` returns says whether it is: if not, the Lease is not given away, and runs out by itself.
        """
        self._elector, self._on_step, self._settle = elector, on_step, settle
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Resign, and wait for it for at most `timeout` seconds. May be called before `start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._step())
        if self._settle():
            self._elector.resign()

    def _step(self) -> float:
        pause = 1.0
        try:
            pause = self._elector.step()
            self._on_step()
        except Exception:
            # The rim of this thread: a bug is a Lease that was not renewed, and is tried again.
            logging.getLogger(__name__).exception("a step of the leader election failed")
        return pause


def lease_namespace(cluster: Cluster, terms: LeaderElection) -> str:
    """Return where the Lease is.

    Raises ConnectError.
    """
    return terms.namespace or cluster.connection.home_namespace()


def lease_client(cluster: Cluster, terms: LeaderElection) -> LeaseClient:
    """Return the client of the Lease.

    Raises ConnectError.
    """
    return cluster.leases(lease_namespace(cluster, terms), LEASE, timeout=terms.retry_period)


def identity() -> str:
    """Return a name that no other process has, and that people recognise: the host's and a random tail."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


def is_released(annotations: Mapping[str, str], airflow: str, now: float | None) -> bool:
    """Whether the breaker of an Airflow is lifted; `now` is the API server's time (epoch seconds), if it is known."""
    until = _seconds(annotations.get(RELEASE + airflow))
    return until is not None and now is not None and now < until


def released(lease: Lease, airflow: str, now: float) -> tuple[Lease, datetime]:
    """Return the Lease with the breaker of an Airflow lifted for an hour from `now` on (epoch seconds), and till when.

    What ended earlier is taken away.
    """
    until = datetime.fromtimestamp(int(now), UTC) + RELEASED_FOR
    kept = {
        name: value
        for name, value in lease.annotations.items()
        if not name.startswith(RELEASE) or is_released(lease.annotations, name.removeprefix(RELEASE), now)
    }
    return replace(lease, annotations={**kept, RELEASE + airflow: zulu(until)}), until


def _seconds(text: str | None) -> float | None:
    """Return an RFC 3339 time as epoch seconds; None where it is missing, malformed or has no zone."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


def _micro_time(seconds: float) -> str:
    """Return epoch seconds as a Lease has them."""
    return zulu(datetime.fromtimestamp(seconds, UTC), "microseconds")
