"""The controller: wires the parts together, runs them until SIGTERM, and stops them in order.

One thread per Airflow decides, by passes, while this replica leads; else it only keeps the store up to date.
Others around them: kopf's thread brings events into the store, one holds the Lease, one writes Events, one answers
HTTP. The main thread only waits for the end: so a stop takes no longer than a few seconds, even while an Airflow is
silent. No thread dies unseen: each survives its own mistakes, and if one is gone all the same, the process
ends and says so.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from healer import __version__
from healer.airflow import end_programs
from healer.clock import boottime
from healer.cluster import Cluster, Connection
from healer.config import Config, HistoryMode, covers
from healer.informer import Informer, PodStore
from healer.informer.resync import Resync
from healer.insights.history import History
from healer.insights.history_store import HistoryStore, config_map_client
from healer.leader_election import (
    AlwaysLeader,
    ElectionLoop,
    LeaderElector,
    Leadership,
    elects,
    identity,
    lease_client,
    only_looks,
    served,
)
from healer.log import get_logger
from healer.reconciler import wait_idle
from healer.schedule import Heartbeat
from healer.telemetry.bearer_token import BearerToken
from healer.telemetry.events import EventRecorder, Silence
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.http_server import serve, unguarded
from healer.telemetry.metrics import Metrics
from healer.wiring import Shared
from healer.worker import Worker

log = get_logger(__name__)

STOP_TIMEOUT = 3.0
"""Seconds that all parts together get to stop."""

EVENT_DRAIN_TIMEOUT = 2.0
"""Seconds of these for the Events that are still waiting."""

HISTORY_TIMEOUT = 1.0
"""Seconds on top of these for the history that is not saved yet."""

WAIT_IDLE_TIMEOUT = 2.0
"""Seconds of these for a DELETE that is under way; if it takes longer, the Lease is left to run out by itself."""

MIN_ELECTION_TIMEOUT = 30.0
"""Seconds without a step of the elector that are never too many, however short the Lease is."""


def run(config: Config, connection: Connection) -> int:
    """Run until SIGTERM or SIGINT. Return the exit code.

    Raises ConnectError or ListenError when it can't even start.
    """
    controller = Controller(config, connection)
    stop = threading.Event()
    previous = {number: signal.signal(number, _setter(stop)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        controller.start()
        failed = None
        while not stop.wait(1.0) and failed is None:
            failed = controller.failed_thread()
            controller.hanging()
        return controller.stop(failed=None if stop.is_set() else failed)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _setter(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    return handle


class Controller:
    """All parts of a running healer."""

    def __init__(self, config: Config, connection: Connection) -> None:
        """Prepare everything; nothing is asked or listened to before `start`."""
        self._config, self._stopping = config, threading.Event()
        self._cluster = Cluster(
            connection,
            freshness=config.freshness,
            observe=self._kubernetes_call,
            owner_labels=config.owner_labels,
        )
        self._namespaces = config.namespaces
        self._elector: LeaderElector | None = None
        self._election_loop: ElectionLoop | None = None
        self._leadership = self._leader_election(connection)
        self._election_heartbeat = Heartbeat(max(3 * config.leader_election.lease_duration, MIN_ELECTION_TIMEOUT))
        self._metrics = Metrics(config, is_leader=self._leadership.is_leader)
        self._history = None if config.history is HistoryMode.OFF else History(self._server_time)
        self._history_store = self._keep_history(connection)
        names = [airflow.name for airflow in config.airflows]
        self._endpoint = FindingsEndpoint(self._leadership, names, self._history)
        self._recorder = Silence(self._cluster) if only_looks(config, connection) else EventRecorder(self._cluster)
        self._store = PodStore(listed_only=bool(config.patterns))
        self._informer = Informer(
            connection,
            self._namespaces,
            self._store,
            on_list=self._on_relist,
            observe=self._metrics.kubernetes_call,
            owner_labels=config.owner_labels,
        )
        self._resync = Resync(self._cluster, self._store, self._informer, config, self._metrics)
        self._last_seen: object = None
        self._last_said: object = None
        shared = Shared(
            config, self._cluster, self._store, self._resync, self._leadership, self._recorder, self._metrics
        )
        self.workers = [
            Worker(airflow, shared, self._endpoint, self._stopping, self._history) for airflow in config.airflows
        ]
        self._heartbeats = {worker.thread: worker.heartbeat for worker in self.workers}

    def start(self) -> None:
        """Start all parts."""
        for airflow in self._config.airflows:
            self._metrics.mode(airflow.name, airflow.mode)
        token_file = self._config.listen_token_file
        self._http = serve(
            self._config.listen,
            self._metrics,
            health=self._is_healthy,
            ready=self._is_ready,
            more=self._endpoint.pages if self._config.findings else {},
            guard=BearerToken(token_file) if token_file else unguarded,
        )
        modes = {airflow.name: airflow.mode.value for airflow in self._config.airflows}
        log.info("started", version=__version__, port=self._http.port, airflows=modes, namespaces=self._namespaces)
        self._recorder.start()
        if self._history_store is not None:
            self._history_store.start()
        if self._election_loop is not None:
            self._election_loop.start()
        for worker in self.workers:
            worker.start()

    def failed_thread(self) -> str | None:
        """Name a thread that should run and does not, None if all run."""
        threads = {
            **{f"Airflow {worker.name}": worker.alive() for worker in self.workers},
            "leader election": self._election_loop is None or self._election_loop.alive(),
            "watch": self._informer.supervised(),
            "Events": self._recorder.alive(),
            "history": self._history_store is None or self._history_store.alive(),
            "HTTP": self._http.alive(),
        }
        return next((name for name, alive in threads.items() if not alive), None)

    def stop(self, *, failed: str | None = None) -> int:
        """Stop all parts; from now on nothing is deleted. Return 0, or 1 where a thread that is dead is the reason."""
        self._stopping.set()
        self._wake_all()
        end_programs()  # of exec: a worker that waits for one would outlast the end of this process
        log.error("a thread has died: the process ends", thread=failed) if failed else log.info("stopping")
        ends: list[Callable[[], object]] = [
            self._informer.stop,
            self._http.stop,
            lambda: self._recorder.stop(EVENT_DRAIN_TIMEOUT),
        ]
        ends += [partial(worker.note_writer.stop, EVENT_DRAIN_TIMEOUT) for worker in self.workers]
        if self._election_loop is not None:
            ends.append(partial(self._election_loop.stop, STOP_TIMEOUT))
        threads = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        deadline = boottime() + STOP_TIMEOUT
        for thread in (*threads, *(worker.thread for worker in self.workers)):
            thread.join(max(0.0, deadline - boottime()))
        if self._history_store is not None:  # after the last pass, whose deletions belong to it
            self._history_store.stop(HISTORY_TIMEOUT)
        log.info("stopped")
        code = 1 if failed else 0
        if any(worker.alive() for worker in self.workers):
            # It waits for an answer of Airflow, and so would the interpreter at its exit.
            _exit_now(code)
        return code

    def _server_time(self) -> float:
        return self._cluster.now() or time.time()

    def _keep_history(self, connection: Connection) -> HistoryStore | None:
        if self._config.history is not HistoryMode.CONFIG_MAP or self._history is None:
            return None
        if only_looks(self._config, connection):  # which writes nothing to the cluster
            return None
        return HistoryStore(self._history, config_map_client(self._cluster, self._config.leader_election))

    def hanging(self) -> list[str]:
        """Say of each Airflow whose passes make no steps any more that they don't."""
        return [why for worker in self.workers if (why := worker.overdue()) is not None]

    # --- leading and following ----------------------------------------------------------------------------------------

    def _leader_election(self, connection: Connection) -> Leadership:
        config = self._config.leader_election
        if not elects(self._config, connection):
            return AlwaysLeader()
        leases = lease_client(self._cluster, config)
        self._elector = LeaderElector(leases, config, identity(), serves=served(self._config.airflows))
        self._election_loop = ElectionLoop(self._elector, on_step=self._on_election_step, wait_idle=self._wait_idle)
        return self._elector

    def _wait_idle(self) -> bool:
        return wait_idle(self._cluster, WAIT_IDLE_TIMEOUT)

    def _on_election_step(self) -> None:
        """Note a step of the elector, and wake the others where there is something new to do."""
        self._election_heartbeat.beat()
        self._log_standing()
        known = self._leadership.is_leader(), self._leadership.term, dict(self._leadership.annotations)
        if known != self._last_seen:
            self._last_seen = known
            self._wake_all()

    def _log_standing(self) -> None:
        """Say who leads, and where that one looks after other Airflows: once on each change."""
        elector = self._elector
        if elector is None:
            return
        leads, holder, unserved = elector.is_leader(), elector.held_by_other, elector.unserved
        self._metrics.lease_conflict(bool(unserved))
        if (leads, holder, unserved) == self._last_said:
            return
        self._last_said = leads, holder, unserved
        lease = self._config.leader_election.name
        if leads:
            return  # the elector has said so
        if holder is None:
            log.info("waiting for the Lease", lease=lease)
        elif unserved:
            log.warning(
                "standing by for a replica that does not look after all of these Airflows: they are not healed",
                lease=lease,
                leader=holder,
                airflows=list(unserved),
                fix="give each installation a Lease of its own: leaderElection.name",
            )
        else:
            log.info("standing by", lease=lease, leader=holder)

    # --- what the other threads call ----------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        for worker in self.workers:
            worker.wake()

    def _on_relist(self, namespace: str) -> None:
        """Note that the watch starts over elsewhere than where our LIST ended: Pods may have vanished unseen."""
        self._resync.relist(namespace)
        for worker in self.workers:
            if covers(worker.config.namespaces, namespace):
                worker.wake()

    def _is_healthy(self) -> tuple[bool, str]:
        """Whether a restart would help: a thread is dead, or no Airflow makes steps. Not where one of several hangs."""
        failed = next((worker.name for worker in self.workers if worker.died()), None)
        if failed is not None:
            return False, f"the thread of Airflow {failed} has died"
        if self._election_loop is not None:
            stepping, text = self._election_heartbeat.check()
            if not stepping:
                return False, f"leader election: {text}"
        hanging = self.hanging()
        return len(hanging) < len(self.workers), "; ".join(hanging) or "all make steps"

    def _is_ready(self) -> tuple[bool, str]:
        ready = self._resync.ready
        return ready, "the Pods are known" if ready else "the Pods were not listed yet"

    def _kubernetes_call(self, verb: str, code: str) -> None:
        heartbeat = self._heartbeats.get(threading.current_thread())
        if heartbeat is not None:
            heartbeat.beat()
        self._metrics.kubernetes_call(verb, code)


def _exit_now(code: int) -> None:
    end_programs()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
