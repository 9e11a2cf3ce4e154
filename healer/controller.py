"""The controller: wires the parts together, runs them until SIGTERM, and stops them in order.

One thread decides, by passes. Helpers around it: kopf's thread keeps the picture of the Pods fresh, a thread writes
Events, a thread answers HTTP. The main thread only waits for the end: so a stop takes no longer than a few seconds,
even while Airflow is silent.
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

import structlog

from healer import __version__
from healer.airflow import Airflow, Call
from healer.cluster import Cluster, ClusterError, Connection
from healer.config import AirflowConfig, Config
from healer.metrics import Metrics, serve
from healer.reconcile import Depth, Reconciler, Tools
from healer.report import Herald
from healer.watch import PodStore, Watch

log = structlog.get_logger(__name__)

BETWEEN_PASSES = 0.5
"""Seconds between two passes at the least, so that suspects falling due one after another are taken together."""

STOP_TIMEOUT = 3.0
"""Seconds that all parts together get to stop."""

LAST_WORDS = 2.0
"""Seconds of these for the Events that are still waiting."""

DECIDER = "decide"


class Pulse:
    """Says whether the deciding thread still makes steps. Each request that ends is one, and so is each pass."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`patience` in seconds."""
        self._patience, self._clock = patience, clock
        self._last = clock()

    def beat(self) -> None:
        """Note a step."""
        self._last = self._clock()

    def check(self) -> tuple[bool, str]:
        """Whether the last step is recent, and a sentence."""
        age = self._clock() - self._last
        return age <= self._patience, f"the last step ended {age:.0f} s ago (allowed: {self._patience:.0f} s)"


class Schedule:
    """When which pass is made. Times are monotonic seconds."""

    def __init__(self, config: Config, now: float) -> None:
        """Begin with an audit at once."""
        self._interval, self._audit_interval = config.interval, config.audit_interval
        self._next_pass = self._next_audit = now

    def next(self, now: float) -> Depth:
        """Return the pass to make now."""
        depth = Depth.AUDIT if now >= self._next_audit else Depth.FULL if now >= self._next_pass else Depth.DUE
        if depth is Depth.AUDIT:
            self._next_audit = now + self._audit_interval
        if depth is not Depth.DUE:
            self._next_pass = now + self._interval
        return depth

    def pause(self, now: float, event: float) -> float:
        """Return the seconds until the next pass; `event` is when a reconciler wants one."""
        return max(BETWEEN_PASSES, min(self._next_pass, self._next_audit, event) - now)


def run(config: Config, connection: Connection) -> int:
    """Run until SIGTERM or SIGINT. Return the exit code.

    Raises ConnectError or ListenError when it can't even start.
    """
    controller = Controller(config, connection)
    stop = threading.Event()
    previous = {number: signal.signal(number, _setter(stop)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        controller.start()
        while not stop.wait(0.2) and controller.alive():
            pass
        return controller.stop(asked=stop.is_set())
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
        self._metrics = Metrics(config)
        self._stopping = threading.Event()
        slowest = max(airflow.timeout for airflow in config.airflows)
        self._pulse = Pulse(max(3 * config.interval, 2 * slowest))
        self._cluster = Cluster(connection, freshness=config.freshness, observe=self._kubernetes_call)
        self._herald = Herald(self._cluster)
        self._store = PodStore()
        self._namespaces = list(dict.fromkeys(name for airflow in config.airflows for name in airflow.namespaces))
        self._watch = Watch(
            connection,
            self._namespaces,
            self._store,
            on_list=self._listed_anew,
            observe=self._metrics.kubernetes_call,
        )
        tools = Tools(self._cluster, self._herald, self._metrics, lambda: not self._stopping.is_set())
        self._reconcilers = [Reconciler(airflow, self._client(airflow), tools) for airflow in config.airflows]
        self._seen_lists: set[str] = set()
        self._relisted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failed: set[str] = set()
        self._ready = False
        self._decider = threading.Thread(target=self._decide, name=DECIDER, daemon=True)

    def start(self) -> None:
        """Start all parts."""
        for airflow in self._config.airflows:
            self._metrics.mode(airflow.name, airflow.mode)
        self._http = serve(self._config.listen, self._metrics, health=self._pulse.check, ready=self._is_ready)
        modes = {airflow.name: airflow.mode.value for airflow in self._config.airflows}
        log.info("started", version=__version__, port=self._http.port, airflows=modes, namespaces=self._namespaces)
        self._herald.start()
        self._watch.start()
        self._decider.start()

    def alive(self) -> bool:
        """Whether the deciding thread runs."""
        return self._decider.is_alive()

    def stop(self, *, asked: bool) -> int:
        """Stop all parts; from now on nothing is deleted. Return 0, or 1 when nobody asked for the end."""
        self._stopping.set()
        log.info("stopping") if asked else log.error("the deciding thread has died: the process ends")
        ends = (self._watch.stop, self._http.stop, lambda: self._herald.stop(LAST_WORDS))
        threads = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + STOP_TIMEOUT
        for thread in (*threads, self._decider):
            thread.join(max(0.0, deadline - time.monotonic()))
        log.info("stopped")
        code = 0 if asked else 1
        if self._decider.is_alive():
            # It waits for an answer of Airflow, and so would the interpreter at its exit.
            _exit_now(code)
        return code

    # --- the deciding thread ------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        schedule = Schedule(self._config, time.monotonic())
        try:
            while not self._stopping.is_set():
                self._pass(schedule.next(time.monotonic()))
                self._stopping.wait(schedule.pause(time.monotonic(), self._next_event()))
        except Exception:
            # The rim of this thread: whoever finds it dead ends the process, and the log must say why.
            log.exception("the deciding thread fails")

    def _next_event(self) -> float:
        """When a reconciler wants a pass; one whose pass failed has to wait for the regular one."""
        events = (each.next_event() for each in self._reconcilers if each.config.name not in self._failed)
        return min(events, default=math.inf)

    def _pass(self, depth: Depth) -> None:
        self._resync(depth)
        unreadable = {name: why for name in self._namespaces if (why := self._store.why_unreadable(name)) is not None}
        for reconciler in self._reconcilers:
            if self._stopping.is_set():
                return
            self._reconcile(reconciler, depth, unreadable)
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
        """List what must be listed: all at an audit, else what the watch may have missed or what could not be read."""
        stale = set(_drained(self._relisted))
        for namespace in self._namespaces:
            broken = depth is Depth.FULL and self._store.why_unreadable(namespace) is not None
            if depth is Depth.AUDIT or namespace in stale or broken:
                self._list(namespace)
        self._ready = self._ready or any(self._store.why_unreadable(name) is None for name in self._namespaces)

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
        """Note that the watch started over: Pods may have vanished unseen. Its very first list has missed nothing."""
        if namespace in self._seen_lists:
            self._relisted.put(namespace)
        self._seen_lists.add(namespace)

    def _is_ready(self) -> tuple[bool, str]:
        return self._ready, "the Pods are known" if self._ready else "the Pods were not listed yet"

    def _client(self, airflow: AirflowConfig) -> Airflow:
        def observe(call: Call) -> None:
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
