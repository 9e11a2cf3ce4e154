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
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from healer.clock import boottime
from healer.cluster import Cluster, Connection, Lease, LeaseClient
from healer.config import AirflowConfig, Config, LeaderElectionConfig, Mode, covers
from healer.errors import ClusterError
from healer.log import get_logger
from healer.model import rfc3339_utc

SERVES = "kpo-healer.io/airflows"
"""The annotation on the Lease by which its holder tells which Airflows it looks after: JSON, by name a list of the
namespaces and, as `url:` and eight hex digits, a hash of the URL: never the URL itself."""

URL_MARK = "url:"
"""What tells a URL's hash from a namespace, which holds no colon."""

DEFAULT_PORTS = {"http": 80, "https": 443}

ATTEMPTS = 3
"""How often a Lease that another client just wrote to is read and written again, where that is worth it."""

log = get_logger(__name__)


class Leases(Protocol):
    """The one Lease, as `healer.cluster.LeaseClient` reads and writes it. All raise ClusterError."""

    def get(self) -> Lease | None:
        """Return it as it is now."""

    def create(self, lease: Lease) -> Lease:
        """Create it if there is none."""

    def replace(self, lease: Lease) -> Lease:
        """Write it if it still has this resourceVersion."""


class Leadership(Protocol):
    """What a replica knows of its leadership."""

    @property
    def term(self) -> int:
        """How often the leadership was gained; what was known in an earlier term may be old."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """The annotations of the Lease as last seen."""

    def is_leader(self) -> bool:
        """Whether this replica may act now. Asks nobody; asked as the last act before each DELETE."""


class AlwaysLeader:
    """Leadership where leader election is off: always ours."""

    term = 1
    annotations: Mapping[str, str] = {}

    def is_leader(self) -> bool:
        """Return True."""
        return True


class LeaderElector:
    """Acquires and renews the Lease, one step at a time. One thread steps; any may ask `is_leader`."""

    def __init__(
        self,
        leases: Leases,
        config: LeaderElectionConfig,
        identity: str,
        *,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        serves: str = "",
    ) -> None:
        """Do nothing yet. `identity` must be no other replica's; `wall` (epoch seconds) is only written for people.

        `serves`: what this replica looks after, as `served` writes it; the Lease says so while we hold it.
        """
        self._leases, self._config, self.identity, self._serves = leases, config, identity, serves
        self._clock, self._wall = clock, wall
        self._until = -math.inf
        self._written: Lease | None = None
        """The Lease as we wrote it, while nothing speaks against its still being so."""
        self._wrote = False
        self._seen: Lease | None = None
        self._since = clock()
        self._transitions: int | None = None
        """The most that were ever seen; None before any Lease was seen."""
        self._last_error: str | None = None
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
    def last_error(self) -> str | None:
        """Why the last step failed; None if it did not."""
        return self._last_error

    @property
    def held_by_other(self) -> str | None:
        """Who else holds the Lease, as far as was seen."""
        holder = self._seen.holder if self._seen else ""
        return holder if holder not in {"", self.identity} else None

    @property
    def unserved(self) -> tuple[str, ...]:
        """Those of our Airflows that another holder of the Lease does not look after, by what the Lease says."""
        return unserved(self._serves, self._seen) if self.held_by_other else ()

    def is_leader(self) -> bool:
        """Whether this replica may act now."""
        return self._clock() < self._until

    def try_acquire_or_renew(self) -> float:
        """Try once to acquire or renew. Never raises ClusterError: a failure is a Lease that was not renewed.

        Return in how many seconds the next step is due.
        """
        for _ in range(2):
            blindly = self._written is not None
            try:
                self._attempt()
            except ClusterError as error:
                self._written = None
                # A leader does not read before it writes. Who was faster may just have overridden a breaker: read now.
                if blindly and error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                    continue
                self._failed(error)
                break
            self._succeeded()
            break
        return self._pause()

    def release(self) -> None:
        """Stop leading at once, and give the Lease away if it is ours, so that nobody has to wait."""
        self._until = -math.inf
        for _ in range(ATTEMPTS if self._wrote else 0):
            try:
                self._release()
            except ClusterError as error:
                self._written = None
                if error.status != HTTPStatus.CONFLICT:
                    log.info("the Lease could not be given away: it runs out by itself", why=str(error))
                    return
            else:
                return

    def _attempt(self) -> None:
        if self._written is not None and self.is_leader():
            self._write(self._written)
            return
        self._written = None
        self._note(self._leases.get())
        if self._is_free():
            self._write(self._seen)
        elif self._seen is None:
            self._note(self._leases.create(Lease(duration=self._config.lease_duration)))

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
        if self.is_leader():
            return True
        if self._seen is None:
            return False
        return self._is_released(self._seen) or self._clock() - self._since >= self._wait()

    def _is_released(self, lease: Lease) -> bool:
        """Whether its holder gave it up.

        One without transitions was just created, and nobody had it. One with fewer than were seen before came out of
        a backup, and so may one that names us: who holds it now, these do not tell.
        """
        return lease.holder == "" and 0 < lease.transitions == self._transitions

    def _wait(self) -> float:
        """How long the Lease must be seen unchanged. Its holder may have been configured otherwise than we are."""
        return max(self._config.lease_duration, self._seen.duration if self._seen else 0.0)

    def _write(self, lease: Lease | None) -> None:
        """Renew or take the Lease. Our time begins before the request is sent."""
        started, now = self._clock(), _micro_time(self._wall())
        ours = self._renewed(lease, now)
        self._wrote = True
        written = self._leases.create(ours) if lease is None else self._leases.replace(ours)
        if not self.is_leader():
            self.term += 1
            log.info("this replica leads", identity=self.identity, transitions=ours.transitions)
        self._until = started + self._config.renew_deadline
        self._written = written
        self._note(written)

    def _renewed(self, lease: Lease | None, now: str) -> Lease:
        held = lease or Lease(transitions=-1)
        known = -1 if self._transitions is None else self._transitions
        keeps = self.is_leader() and held.holder == self.identity
        return replace(
            held,
            holder=self.identity,
            duration=self._config.lease_duration,
            transitions=held.transitions if keeps else max(held.transitions, known) + 1,
            acquired=held.acquired if keeps else now,
            renewed=now,
            annotations={**held.annotations, SERVES: self._serves} if self._serves else held.annotations,
        )

    def _release(self) -> None:
        lease = self._written or self._leases.get()
        if lease is not None and lease.holder == self.identity:
            self._leases.replace(replace(lease, holder="", renewed=_micro_time(self._wall())))
            log.info("the Lease is given away", identity=self.identity)

    def _pause(self) -> float:
        if self.is_leader():
            return self._config.retry_period
        rest = self._since + self._wait() - self._clock()
        return min(rest, self._config.retry_period) if rest > 0 else self._config.retry_period

    def _failed(self, error: ClusterError) -> None:
        """Log once what keeps us from the Lease. That another replica was faster is no trouble."""
        if error.status == HTTPStatus.CONFLICT or str(error) == self._last_error:
            return
        self._last_error = str(error)
        log.warning("the Lease can't be acquired or renewed; without it nothing is done", why=self._last_error)

    def _succeeded(self) -> None:
        if self._last_error is not None:
            log.info("the Lease can be reached again")
        self._last_error = None


class ElectionLoop:
    """Steps an elector in a thread of its own, and releases the Lease at the end."""

    def __init__(
        self,
        elector: LeaderElector,
        *,
        on_step: Callable[[], object] = lambda: None,
        wait_idle: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start nothing yet. `on_step`: called after each step. `wait_idle`: waits until nothing is under way any more.

        What `wait_idle` returns says whether that is so: if not, the Lease is not given away, and runs out by itself.
        """
        self._elector, self._on_step, self._wait_idle = elector, on_step, wait_idle
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Release the Lease, and wait for it for at most `timeout` seconds. May be called before `start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._step())
        if self._wait_idle():
            self._elector.release()

    def _step(self) -> float:
        pause = 1.0
        try:
            pause = self._elector.try_acquire_or_renew()
            self._on_step()
        except Exception:
            # The rim of this thread: a bug is a Lease that was not renewed, and is tried again.
            logging.getLogger(__name__).exception("a step of the leader election failed")
        return pause


def lease_namespace(cluster: Cluster, config: LeaderElectionConfig) -> str:
    """Return where the Lease is.

    Raises ConnectError.
    """
    return config.namespace or cluster.connection.home_namespace()


def lease_client(cluster: Cluster, config: LeaderElectionConfig) -> LeaseClient:
    """Return the client of the Lease.

    Raises ConnectError.
    """
    return cluster.leases(lease_namespace(cluster, config), config.name, timeout=config.retry_period)


def elects(config: Config, connection: Connection) -> bool:
    """Whether a Lease decides who acts: where the user says so, else in a cluster and wherever an Airflow enforces."""
    chosen = config.leader_election.enabled
    return _may_matter(config, connection) if chosen == "auto" else chosen


def only_looks(config: Config, connection: Connection) -> bool:
    """Whether this is somebody's own look from outside the cluster: it writes nothing there, Events neither."""
    return not _may_matter(config, connection) and not elects(config, connection)


def _may_matter(config: Config, connection: Connection) -> bool:
    return connection.in_cluster() or any(airflow.mode is Mode.ENFORCE for airflow in config.airflows)


def served(airflows: Iterable[AirflowConfig]) -> str:
    """Return what the Lease tells of these Airflows."""
    told = {each.name: [*sorted(each.namespaces), URL_MARK + url_hash(each.url)] for each in airflows}
    return msgspec.json.encode(told).decode()


def url_hash(url: str) -> str:
    """Return eight hex digits that are equal for two URLs of one Airflow.

    Equal: what differs by the scheme, by the case or the last dot of the host, by a port that is the scheme's own, by a
    slash at the end or by a login. A port of its own or a path make another one.
    """
    parts = urlsplit(url)
    port = "" if parts.port in {None, DEFAULT_PORTS.get(parts.scheme)} else f":{parts.port}"
    place = f"{(parts.hostname or '').rstrip('.')}{port}{parts.path.rstrip('/')}"
    return sha256(place.encode(errors="surrogatepass")).hexdigest()[:8]


def unserved(ours: str, lease: Lease | None) -> tuple[str, ...]:
    """Name those of `ours` that a Lease's holder does not look after; none where it does not tell, as older ones.

    It looks after one that it has by the same name, in the same namespaces or by a pattern for them, and at the same
    URL; an older one tells no URL, and is believed.
    """
    theirs = _served(lease.annotations.get(SERVES, "") if lease else "")
    if theirs is None:
        return ()
    mine = _served(ours) or {}
    return tuple(sorted(name for name, told in mine.items() if not _includes(theirs.get(name, ()), told)))


def _includes(theirs: Iterable[str], ours: Iterable[str]) -> bool:
    """Whether who tells `theirs` of an Airflow looks after all of `ours`."""
    held = set(theirs)
    wanted = set(ours)
    if not any(each.startswith(URL_MARK) for each in held):
        wanted = {each for each in wanted if not each.startswith(URL_MARK)}
    places = [each for each in held if not each.startswith(URL_MARK)]
    return bool(held) and all(
        each in held or (not each.startswith(URL_MARK) and covers(places, each)) for each in wanted
    )


def _served(text: str) -> dict[str, list[str]] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, list[str]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def identity() -> str:
    """Return a name that no other process has, and that people recognise: the host's and a random tail."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


def _micro_time(seconds: float) -> str:
    """Return epoch seconds as a Lease has them."""
    return rfc3339_utc(datetime.fromtimestamp(seconds, UTC), "microseconds")


class LeadershipCheck(Protocol):
    """Whether we may act now: the leadership."""

    def __call__(self) -> bool:
        """Answer at once, without asking anybody."""
