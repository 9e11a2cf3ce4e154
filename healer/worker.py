"""The passes over the Pods of one Airflow, in a thread of their own: one that hangs, is dead or slow holds up no other.

Each has its own schedule, limits, breaker, notes and budget of failures. What it shares is safe to use from several
threads: the store of Pods, the API server's client, Events, metrics, what was found, and the leadership.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from healer.airflow import Airflow, Call
from healer.airflow.note_writer import THREAD_NAME as NOTES
from healer.airflow.note_writer import NoteWriter
from healer.clock import boottime
from healer.cluster import grant_hint
from healer.config import AirflowConfig, Mode, exact_names
from healer.errors import ClusterError, LoginRefusedError, NoAnswerError
from healer.insights.history import History
from healer.leader_election import LeadershipCheck
from healer.log import get_logger
from healer.memory import trim_heap
from healer.model import PassKind
from healer.reconciler import Reconciler
from healer.schedule import Heartbeat, Schedule
from healer.telemetry.findings_endpoint import FindingsEndpoint
from healer.telemetry.reachability import Reachability
from healer.telemetry.snapshot import Snapshot
from healer.wiring import Shared, build

log = get_logger(__name__)

_MISSED = {
    "get": "the healer may not read a Pod by its name: what rests on that is kept",
    "watch": "the healer may not watch Pods here: it lists them anew in each full pass instead",
    "delete": "enforce mode, but the healer may not delete Pods here: what is found is only reported",
}
"""Verbs on Pods, and what follows where one is not granted."""


class Worker:
    """Makes the passes over the Pods of one Airflow while this replica leads; else only keeps the store up to date."""

    def __init__(
        self,
        config: AirflowConfig,
        shared: Shared,
        endpoint: FindingsEndpoint,
        stopping: threading.Event,
        history: History | None = None,
    ) -> None:
        """Prepare; nothing is asked before `start`. `stopping` is set when nothing must be done any more."""
        self.config, self._shared, self._endpoint, self._stopping = config, shared, endpoint, stopping
        self._history = history
        self.name = config.name
        self._interval = shared.config.interval
        self.heartbeat = Heartbeat(max(3 * self._interval, 2 * config.timeout))
        self.note_writer = NoteWriter()
        self._reachability = Reachability(config.name, shared.metrics)
        self._airflow: Airflow | None = None
        self.reconciler: Reconciler | None = None
        self._schedule = Schedule(shared.config, boottime())
        self._term, self._failed, self._passes, self._overdue = 0, False, 0, False
        self._known = frozenset(exact_names(config.namespaces))
        """The namespaces for which it was asked which rights lack."""
        self._wake = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"airflow-{config.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def wake(self) -> None:
        """Have it look at once what there is to do."""
        self._wake.set()

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self.thread.is_alive()

    def died(self) -> bool:
        """Whether the thread was started and has ended."""
        return self.thread.ident is not None and not self.thread.is_alive()

    def overdue(self) -> str | None:
        """Say that it makes no steps any more, None while it does. Logged once for each time."""
        good, text = self.heartbeat.check()
        if not good and not self._overdue:
            log.warning("a pass hangs: this Airflow's Pods are not looked at", airflow=self.name, why=text)
        self._overdue = not good
        return None if good else f"Airflow {self.name}: {text}"

    # --- its thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping, leadership = self._stopping, self._shared.leadership
        try:
            with self._survive():
                self._log_missing_rights(name for name in self.config.namespaces if name in self._known)
            if not leadership.is_leader():
                self._wake.wait(self._shared.config.leader_election.retry_period)  # it is known after a first step
            while not stopping.is_set():
                self._wake.clear()
                pause = self.run_leader() if leadership.is_leader() else self._run_follower()
                self._shared.resync.looked.set()
                if not stopping.is_set():
                    self._wake.wait(pause)
        except Exception:
            # The rim of this thread: the main thread ends the process when it is dead, and the log must say why.
            log.exception("the thread of an Airflow fails", airflow=self.name)

    def _log_missing_rights(self, namespaces: Iterable[str]) -> None:
        """Log at once which rights will be missed later; what can't be listed, the first LIST logs."""
        for namespace in namespaces:
            with suppress(ClusterError):  # whatever is wrong, the first LIST logs it
                for verb, effect in self._wanted_rights():
                    if not self._shared.cluster.can_i(verb, "pods", namespace):
                        log.warning(effect, namespace=namespace, fix=grant_hint(verb, "pods", namespace))

    def _wanted_rights(self) -> Iterator[tuple[str, str]]:
        enforces = self.config.mode is Mode.ENFORCE
        return ((verb, effect) for verb, effect in _MISSED.items() if verb != "delete" or enforces)

    def _refresh(self, kind: PassKind) -> None:
        """List what must be listed, and log which rights lack in namespaces that are new."""
        resync = self._shared.resync
        resync.refresh([self.config], kind)
        names = frozenset(resync.namespaces([self.config]))
        new, self._known = sorted(names - self._known), names
        if new and not self._may_everywhere():
            self._log_missing_rights(new)

    def _may_everywhere(self) -> bool:
        """Whether a few questions for the rights in all namespaces stand for those about each one that is new."""
        with suppress(ClusterError):
            return all(self._shared.cluster.can_i(verb, "pods", "") for verb, _ in self._wanted_rights())
        return False

    def run_leader(self) -> float:
        """Make a pass as leader. Return how long to wait until the next one, in seconds."""
        if self.reconciler is None or self._term != self._shared.leadership.term:
            with self._survive():
                self.on_started_leading()
        kind = self._schedule.next(boottime())
        self.make_pass(kind)
        if kind is PassKind.AUDIT:
            trim_heap()
        return self._schedule.pause(boottime(), self.next_event())

    def _run_follower(self) -> float:
        """Keep the store up to date, and ask Airflow nothing."""
        if self.reconciler is not None:
            log.warning("this replica does not lead any more: it forgets all suspicion", airflow=self.name)
        self.reconciler = None
        with self._survive():
            self._refresh(PassKind.FULL)
            self._shared.metrics.watch_restarts(self._shared.resync.watch_restarts)
            self.heartbeat.beat()
        return self._interval

    def on_started_leading(self) -> None:
        """Begin knowing nothing of what was found in an earlier term: others may have acted since."""
        shared = self._shared
        self._term = shared.leadership.term
        self._airflow = Airflow(self.config, observe=self._observe, failed=self._not_answered)
        is_leader = self._leadership_check(self._term)
        self.reconciler = build(self.config, self._airflow, shared, is_leader, self.note_writer)
        shared.metrics.forget(self.name)
        self._endpoint.clear(self.name)
        if self._history is not None:
            self._history.begin(self._term)
        self._failed, self._passes = False, 0
        self._schedule = Schedule(shared.config, boottime())

    def _leadership_check(self, term: int) -> LeadershipCheck:
        """Return whether we may act at a moment: a pass that outlives its term has no right left, also in the next."""
        leadership, stopping = self._shared.leadership, self._stopping

        def may_act() -> bool:
            return leadership.is_leader() and leadership.term == term and not stopping.is_set()

        return may_act

    def next_event(self) -> float:
        """When another pass is wanted; after one that failed, not before the regular one."""
        return math.inf if self._failed or self.reconciler is None else self.reconciler.next_event()

    def make_pass(self, kind: PassKind) -> None:
        """List what must be listed and reconcile the Pods with Airflow."""
        self._failed = False
        with self._survive():
            self._make_pass(kind)

    def _make_pass(self, kind: PassKind) -> None:
        shared, reconciler = self._shared, self.reconciler
        self._refresh(kind)
        if reconciler is None or not self._leadership_check(self._term)():
            return
        unreadable = shared.resync.unreadable([self.config])
        with self._survive():
            reconciler.reconcile(shared.resync.pods(self.config), kind, unreadable)
        if kind is PassKind.AUDIT and not self._reachability.asked:
            self._try_login()
        self._reachability.pass_done(audit=kind is PassKind.AUDIT)
        if self._history is not None and reconciler.deleted:
            self._history.record(view.to_dict() for view in reconciler.deleted)
        self._tell_credential()
        if not self._failed:
            self.heartbeat.beat()
            snapshot = reconciler.snapshot()
            if shared.config.findings:
                names = shared.resync.namespaces([self.config])
                odd = [str(each) for name in names for each in shared.store.undecodable(name)]
                problem = self._reachability.problem
                self._endpoint.publish([snapshot], unreadable, time.time(), undecodable=odd, problem=problem)
            if kind is PassKind.AUDIT:
                self._log_audit(snapshot)
        shared.metrics.watch_restarts(shared.resync.watch_restarts)

    @contextmanager
    def _survive(self) -> Iterator[None]:
        """Log what goes wrong: a bug in one pass must not end all healing. It is no step, so the probe will fail."""
        try:
            yield
        except Exception:
            self._failed = True
            log.exception("a pass failed: nothing is lost, the next starts anew", airflow=self.name)

    def _tell_credential(self) -> None:
        """Show how long the credential is still good, while it is."""
        if self._airflow is not None:
            known = self._airflow.credential
            self._shared.metrics.airflow_credential(
                self.name, known.expires, renewable=known.renewable, failed_renewals=known.failed_renewals
            )

    def _try_login(self) -> None:
        """Where there is no Pod to ask about, learn all the same whether Airflow could be asked."""
        if self._airflow is not None:
            with suppress(LoginRefusedError, NoAnswerError):  # logged by `_not_answered`
                self._airflow.login()

    def _log_audit(self, snapshot: Snapshot) -> None:
        self._passes += 1
        log.info(
            "first pass" if self._passes == 1 else "audit",
            airflow=self.name,
            pods=len(snapshot.records),
            suspects=len(snapshot.suspects),
            withheld={why.value: count for why, count in sorted(Counter(snapshot.withheld.values()).items())},
        )

    # --- what other threads call --------------------------------------------------------------------------------------

    def _observe(self, call: Call) -> None:
        if threading.current_thread().name == NOTES:  # whose steps say nothing of the passes
            self._shared.metrics.airflow_call(self.name, call)
            return
        self.heartbeat.beat()
        self._reachability.observe(call)

    def _not_answered(self, failure: NoAnswerError) -> None:
        if threading.current_thread().name != NOTES:  # which logs its own failures
            self._reachability.failed(failure)
