"""Keeps the history in a ConfigMap of the healer's own, so that it survives restarts.

In a thread of its own: nobody waits for it. It is read when leading begins and written at most once a minute, and at
the end. Whatever goes wrong is told once and tried again; the history in memory goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from healer.clock import boottime
from healer.cluster import Cluster, ConfigMap, ConfigMapClient
from healer.config import LeaderElectionConfig
from healer.errors import ClusterError
from healer.insights.history import History, InvalidHistoryError
from healer.leader_election import lease_namespace
from healer.log import get_logger

log = get_logger(__name__)

KEY = "history.json.gz"

WRITE_INTERVAL = 60.0
"""Seconds between two writes, and between two attempts."""

TIMEOUT = 5.0
"""Seconds that one call to the API server may take."""

Step = Callable[[], None]

ATTEMPTS = 3
"""How often one that somebody else just wrote to is read and written again."""


class ConfigMaps(Protocol):
    """The one ConfigMap, as `healer.cluster.ConfigMapClient` reads and writes it. All raise ClusterError."""

    def get(self) -> ConfigMap | None:
        """Return it as it is now."""

    def create(self, data: bytes) -> ConfigMap:
        """Create it if there is none."""

    def replace(self, seen: ConfigMap, data: bytes) -> ConfigMap:
        """Write it if it still is as it was seen."""


def history_name(election: LeaderElectionConfig) -> str:
    """Return what the ConfigMap is called: after the Lease, so that installations side by side share none."""
    return f"{election.name}-history"


def config_map_client(cluster: Cluster, election: LeaderElectionConfig) -> ConfigMapClient:
    """Return the client of the ConfigMap, which is beside the Lease.

    Raises ConnectError.
    """
    return cluster.config_map(lease_namespace(cluster, election), history_name(election), KEY, timeout=TIMEOUT)


class HistoryStore:
    """Saves a history, and adds to it what was saved before."""

    def __init__(self, history: History, config_map: ConfigMaps, *, interval: float = WRITE_INTERVAL) -> None:
        """Prepare; nothing is read before `start` and the first term."""
        self._history, self._config_map, self._interval = history, config_map, interval
        self._changed, self._begun, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._wake = threading.Condition()
        self._seen: ConfigMap | None = None
        self._told: str | None = None
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        history.on_begin, history.on_record = self._on_begin, self._on_record

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float) -> None:
        """Write what is new, and end; wait for that for at most `timeout` seconds."""
        self._stopping.set()
        self._notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _on_begin(self) -> None:
        self._begun.set()
        self._notify()

    def _on_record(self) -> None:
        self._changed.set()
        self._notify()

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    # --- its thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        next_write = next_read = boottime()
        while not self._stopping.is_set():
            now = boottime()
            if self._begun.is_set() and now >= next_read:
                self._begun.clear()
                if not self._attempt(self._load):
                    self._begun.set()
                    next_read = boottime() + self._interval
            elif self._changed.is_set() and now >= next_write:
                next_write = boottime() + self._interval
                self._write()
            else:
                self._wait(next_read, next_write)
        if self._changed.is_set():
            self._write()

    def _wait(self, next_read: float, next_write: float) -> None:
        with self._wake:
            moments = [next_read] if self._begun.is_set() else []
            moments += [next_write] if self._changed.is_set() else []
            if not self._stopping.is_set():
                self._wake.wait(max(0.0, min(moments) - boottime()) if moments else None)

    def _write(self) -> None:
        self._changed.clear()
        if not self._attempt(self._save):
            self._changed.set()

    def _attempt(self, step: Step) -> bool:
        """Make a step; say once what keeps it from succeeding, and once that it does again."""
        try:
            step()
        except ClusterError as error:
            return self._failed(str(error))
        except Exception:
            # The rim of this thread: the history is not worth the healer's life.
            log.exception("the history can't be kept")
            return False
        if self._told is not None:
            self._told = None
            log.info("the history is kept again", config_map=str(self._config_map))
        return True

    def _failed(self, why: str) -> bool:
        if why != self._told:
            self._told = why
            log.warning("the history is in memory only, healing goes on", config_map=str(self._config_map), why=why)
        return False

    def _load(self) -> None:
        """Add what was saved."""
        self._seen = self._config_map.get()
        if self._seen is None:
            return
        try:
            added = self._history.merge(self._seen.data or b"")
        except InvalidHistoryError as error:
            where = str(self._config_map)
            log.warning("the saved history is left aside, a new one begins", config_map=where, why=str(error))
            return
        log.info("the saved history was read", entries=added)

    def _save(self) -> None:
        """Write all of it. What another replica has written meanwhile is read first: nothing of it is lost."""
        for left in reversed(range(ATTEMPTS)):
            if self._seen is None:
                self._load()
            try:
                data = self._history.pack()
                self._seen = self._config_map.replace(self._seen, data) if self._seen else self._config_map.create(data)
            except ClusterError as error:
                self._seen = None
                if error.status not in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND} or not left:
                    raise
            else:
                return
