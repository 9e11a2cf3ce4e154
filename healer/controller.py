"""The controller: wires the parts together, runs them until SIGTERM, and stops them in order.

One thread decides, by passes, while this replica leads; else it only keeps the picture of the Pods warm. Helpers around
it: kopf's thread keeps that picture fresh, a thread holds the Lease, a thread writes Events, a thread answers HTTP. The
main thread only waits for the end: so a stop takes no longer than a few seconds, even while Airflow is silent. No
thread dies unseen: each survives its own mistakes, and if one is gone all the same, the process ends and says so.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FrameType

from healer import __version__
from healer.airflow import Airflow, Call
from healer.allocator import give_back
from healer.board import Board
from healer.clock import steady
from healer.clockwork import Pulse, Schedule
from healer.cluster import Cluster, ClusterError, Connection, grant
from healer.config import AirflowConfig, Config, Mode
from healer.leader import Campaign, Elector, Office, SoleReplica, identity, is_released, lease_client
from healer.log import get_logger
from healer.metrics import Metrics
from healer.reconcile import NOTES, Depth, Notary, Reconciler, Tools
from healer.report import Herald
from healer.serving import serve
from healer.watch import PodStore, Watch

log = get_logger(__name__)

STOP_TIMEOUT = 3.0
"""Seconds that all parts together get to stop."""

LAST_WORDS = 2.0
"""Seconds of these for the Events that are still waiting."""

SETTLE_TIMEOUT = 2.0
"""Seconds of these for a DELETE that is under way; if it takes longer, the Lease is left to run out by itself."""

STEADY_ELECTOR = 30.0
"""Seconds without a step of the elector that are never too many, however short the Lease is."""

DECIDER = "decide"


def run(config: Config, connection: Connection) -> int:
    """Run until SIGTERM or SIGINT. Return the exit code.

    Raises ConnectError or ListenError when it can't even start.
    """
    controller = Controller(config, connection)
    stop = threading.Event()
    previous = {number: signal.signal(number, _setter(stop)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        controller.start()
        dead = None
        while not stop.wait(1.0) and dead is None:
            dead = controller.dead()
        return controller.stop(dead=None if stop.is_set() else dead)
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
        self._config = config
        self._stopping, self._wake = threading.Event(), threading.Event()
        slowest = max(airflow.timeout for airflow in config.airflows)
        self._pulse = Pulse(max(3 * config.interval, 2 * slowest))
        self._cluster = Cluster(connection, freshness=config.freshness, observe=self._kubernetes_call)
        self._namespaces = list(dict.fromkeys(name for airflow in config.airflows for name in airflow.namespaces))
        self._office, self._campaign = self._candidacy()
        self._elector_pulse = Pulse(max(3 * config.leader_election.lease_duration, STEADY_ELECTOR))
        self._metrics = Metrics(config, leads=self._office.leads)
        self._board = Board(self._office)
        self._herald = Herald(self._cluster)
        self._notary = Notary()
        self._store = PodStore()
        self._watch = Watch(
            connection,
            self._namespaces,
            self._store,
            on_list=self._listed_anew,
            observe=self._metrics.kubernetes_call,
        )
        self._watching = False
        self._relisted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failed: set[str] = set()
        self._ready = False
        self._known: object = None
        self._term = 0
        self._reconcilers: list[Reconciler] = []
        self._schedule = Schedule(config, steady())
        self._looked = threading.Event()
        self._decider = threading.Thread(target=self._decide, name=DECIDER, daemon=True)

    def start(self) -> None:
        """Start all parts."""
        for airflow in self._config.airflows:
            self._metrics.mode(airflow.name, airflow.mode)
        pages = {"/findings": self._board.findings, "/notices": self._board.notices}
        more = pages if self._config.findings else {}
        self._http = serve(self._config.listen, self._metrics, health=self._is_healthy, ready=self._is_ready, more=more)
        modes = {airflow.name: airflow.mode.value for airflow in self._config.airflows}
        log.info("started", version=__version__, port=self._http.port, airflows=modes, namespaces=self._namespaces)
        self._herald.start()
        if self._campaign is not None:
            self._campaign.start()
        self._decider.start()

    def dead(self) -> str | None:
        """Name a thread that should run and does not, None if all run."""
        threads = {
            "deciding": self._decider.is_alive(),
            "leader election": self._campaign is None or self._campaign.alive(),
            "watch": self._watch.supervised(),
            "Events": self._herald.alive(),
            "HTTP": self._http.alive(),
        }
        return next((name for name, alive in threads.items() if not alive), None)

    def stop(self, *, dead: str | None = None) -> int:
        """Stop all parts; from now on nothing is deleted. Return 0, or 1 where a thread that is dead is the reason."""
        self._stopping.set()
        self._wake.set()
        log.error("a thread has died: the process ends", thread=dead) if dead else log.info("stopping")
        ends = [self._watch.stop, self._http.stop, lambda: self._herald.stop(LAST_WORDS)]
        ends.append(lambda: self._notary.stop(LAST_WORDS))
        if self._campaign is not None:
            campaign = self._campaign
            ends.append(lambda: campaign.stop(STOP_TIMEOUT))
        threads = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        deadline = steady() + STOP_TIMEOUT
        for thread in (*threads, self._decider):
            thread.join(max(0.0, deadline - steady()))
        log.info("stopped")
        code = 1 if dead else 0
        if self._decider.is_alive():
            # It waits for an answer of Airflow, and so would the interpreter at its exit.
            _exit_now(code)
        return code

    # --- leading and following ----------------------------------------------------------------------------------------

    def _candidacy(self) -> tuple[Office, Campaign | None]:
        terms = self._config.leader_election
        if not terms.enabled:
            return SoleReplica(), None
        elector = Elector(lease_client(self._cluster, terms), terms, identity())
        return elector, Campaign(elector, on_step=self._stepped, settle=self._has_settled)

    def _may_act(self) -> bool:
        """Whether this replica has the right to act at this moment."""
        return self._office.leads() and not self._stopping.is_set()

    def _is_lifted(self, airflow: str) -> bool:
        return is_released(self._office.annotations, airflow, self._cluster.now())

    def _has_settled(self) -> bool:
        return self._cluster.settled(SETTLE_TIMEOUT)

    def _begin_term(self) -> None:
        """Begin knowing nothing of what was found in an earlier term: others may have acted since."""
        self._term = self._office.term
        tools = Tools(
            self._cluster,
            self._herald,
            self._metrics,
            self._may_act,
            lifted=self._is_lifted,
            freshness=self._config.freshness,
            notary=self._notary,
        )
        self._reconcilers = [Reconciler(airflow, self._client(airflow), tools) for airflow in self._config.airflows]
        self._metrics.forget()
        self._board.clear()
        self._failed.clear()
        self._schedule = Schedule(self._config, steady())

    def _stepped(self) -> None:
        """Note a step of the elector, and wake the deciding thread where it has something new to do."""
        self._elector_pulse.beat()
        known = self._office.leads(), self._office.term, dict(self._office.annotations)
        if known != self._known:
            self._known = known
            self._wake.set()

    # --- the deciding thread ------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        try:
            self._tell_missing_rights()
            if self._campaign is not None:
                self._wake.wait(self._config.leader_election.retry_period)  # who leads is known after its first step
            while not self._stopping.is_set():
                self._wake.clear()
                pause = self._lead() if self._office.leads() else self._follow()
                self._looked.set()
                self._wake.wait(pause)
        except Exception:
            # The rim of this thread: whoever finds it dead ends the process, and the log must say why.
            log.exception("the deciding thread fails")

    def _tell_missing_rights(self) -> None:
        """Say at once what enforce mode will fail at; reporting goes on."""
        enforced = dict.fromkeys(n for a in self._config.airflows if a.mode is Mode.ENFORCE for n in a.namespaces)
        for namespace in enforced:
            with suppress(ClusterError):  # whatever is wrong, the first listing tells
                if not self._cluster.can_i("delete", "pods", namespace):
                    log.warning(
                        "enforce mode, but the healer may not delete Pods here: what is found is only reported",
                        namespace=namespace,
                        fix=grant("delete", "pods", namespace),
                    )

    def _lead(self) -> float:
        """Make a pass as leader. Return how long to wait until the next one, in seconds."""
        if self._term != self._office.term:
            self._begin_term()
        depth = self._schedule.next(steady())
        self._pass(depth)
        if depth is Depth.AUDIT:
            give_back()
        return self._schedule.pause(steady(), self._next_event())

    def _follow(self) -> float:
        """Keep the picture of the Pods warm, and ask Airflow nothing."""
        if self._reconcilers and self._term:
            log.warning("this replica does not lead any more: it forgets all suspicion")
        self._reconcilers = []
        self._resync(Depth.FULL)
        self._metrics.watch_restarts(self._watch.restarts)
        self._pulse.beat()
        return self._config.interval

    def _next_event(self) -> float:
        """When a reconciler wants a pass; one whose pass failed has to wait for the regular one."""
        events = (each.next_event() for each in self._reconcilers if each.config.name not in self._failed)
        return min(events, default=math.inf)

    def _pass(self, depth: Depth) -> None:
        self._resync(depth)
        unreadable = {name: why for name in self._namespaces if (why := self._store.why_unreadable(name)) is not None}
        for reconciler in self._reconcilers:
            if not self._may_act():
                return
            self._reconcile(reconciler, depth, unreadable)
        if self._config.findings:
            self._board.post([reconciler.view() for reconciler in self._reconcilers], unreadable, time.time())
        self._metrics.watch_restarts(self._watch.restarts)

    def _reconcile(self, reconciler: Reconciler, depth: Depth, unreadable: Mapping[str, str]) -> None:
        name = reconciler.config.name
        try:
            reconciler.reconcile(self._store.snapshot(), depth, unreadable)
        except Exception:
            # The rim of the loop: a bug in one pass must not end all healing. It is no step, so the probe will tell.
            log.exception("a pass failed: nothing is lost, the next starts anew", airflow=name)
            self._failed.add(name)
            return
        self._failed.discard(name)
        self._pulse.beat()

    def _resync(self, depth: Depth) -> None:
        """List what must be listed: all at an audit, else what the watch may have missed or what could not be read.

        While a namespace is not watched, each full pass lists it: a picture that nobody renews must not be acted upon.
        """
        stale = set(_drained(self._relisted))
        for namespace in self._namespaces:
            if depth is Depth.AUDIT or namespace in stale or (depth is Depth.FULL and self._is_blind(namespace)):
                self._list(namespace)
        if not self._watching:
            # It begins where our first LIST ended; importing it would hold up the first look, if that is quick.
            self._watch.start(after=self._looked)
            self._watching = True
        self._ready = self._ready or any(self._store.why_unreadable(name) is None for name in self._namespaces)

    def _is_blind(self, namespace: str) -> bool:
        return self._store.why_unreadable(namespace) is not None or not self._watch.watches(namespace)

    def _list(self, namespace: str) -> None:
        started = self._store.begin()
        before = self._store.why_unreadable(namespace)
        try:
            self._store.replace(namespace, self._cluster.list_pods(namespace), started)
        except ClusterError as error:
            if before != str(error):
                log.warning("a namespace can't be read, nothing is decided there", namespace=namespace, why=str(error))
            self._store.unreadable(namespace, str(error))
        self._metrics.namespace_readable(namespace, self._store.why_unreadable(namespace) is None)

    # --- what the other threads call ----------------------------------------------------------------------------------

    def _listed_anew(self, namespace: str) -> None:
        """Note that the watch starts over elsewhere than where our LIST ended: Pods may have vanished unseen."""
        self._relisted.put(namespace)
        self._wake.set()

    def _is_healthy(self) -> tuple[bool, str]:
        good, text = self._pulse.check()
        if not good or self._campaign is None:
            return good, text
        stepping, elector = self._elector_pulse.check()
        return stepping, text if stepping else f"leader election: {elector}"

    def _is_ready(self) -> tuple[bool, str]:
        return self._ready, "the Pods are known" if self._ready else "the Pods were not listed yet"

    def _client(self, airflow: AirflowConfig) -> Airflow:
        def observe(call: Call) -> None:
            if threading.current_thread().name != NOTES:  # whose steps say nothing of the deciding thread
                self._pulse.beat()
            self._metrics.airflow_call(airflow.name, call)
            if call.code in {"200", "201"}:
                self._metrics.airflow_success(airflow.name, time.time())

        return Airflow(airflow, observe=observe)

    def _kubernetes_call(self, verb: str, code: str) -> None:
        if threading.current_thread().name == DECIDER:
            self._pulse.beat()
        self._metrics.kubernetes_call(verb, code)


def _drained(waiting: queue.SimpleQueue[str]) -> Iterator[str]:
    with suppress(queue.Empty):
        while True:
            yield waiting.get_nowait()


def _exit_now(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
