"""The watch as the others see it: a thread that starts kopf, and starts it again whenever it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from healer.clock import boottime
from healer.cluster import Connection
from healer.informer.backoff import Backoff
from healer.informer.status import WatchStatus
from healer.informer.store import PodStore

if TYPE_CHECKING:
    from healer.informer.kopf_watcher import KopfWatcher

FIRST_BACKOFF = 1.0
STOP_TIMEOUT = 10.0
START_DELAY = 5.0
"""Seconds that the watch waits for something else at the most; it then begins as far back as it has to."""
POLL_INTERVAL = 0.1
"""Seconds between two looks whether it may begin, or shall stop."""

_log = logging.getLogger(__name__)


class Informer:
    """kopf in a thread and an event loop of its own, watching some namespaces; its events go into the store."""

    def __init__(
        self,
        connection: Connection,
        namespaces: Sequence[str],
        store: PodStore,
        *,
        on_list: Callable[[str], None] = lambda _namespace: None,
        observe: Callable[[str, str], None] = lambda _verb, _code: None,
        owner_labels: Collection[str] = (),
    ) -> None:
        """Start nothing yet.

        Args:
            connection: where the API server is and who we are.
            namespaces: exact names, which are always watched, and patterns, of which `retarget` says what to watch.
            store: where the events go; it also knows where our LISTs ended, from where on is watched.
            on_list: called, in kopf's thread, each time a watch begins that can't begin where our LIST of the namespace
                ended: there was none yet, kopf died, the watch expired (410). Pods may have vanished unseen until
                then, so a full LIST is due.
            observe: called with the verb and the status code of each request.
            owner_labels: the keys of labels that tell whose a Pod is.

        Raises:
            ValueError: no namespaces; kopf would take that for all of them.
        """
        if not namespaces:
            raise ValueError("There are no namespaces to watch.")
        self._connection, self._store = connection, store
        self._namespaces = list(dict.fromkeys(namespaces))
        self._on_list, self._observe = on_list, observe
        self._owner_labels = owner_labels
        self._status = WatchStatus()
        self._watcher: KopfWatcher | None = None
        self._after: threading.Event | None = None
        self._thread = threading.Thread(target=self._supervise, name="watch", daemon=True)

    @property
    def restarts(self) -> int:
        """How often a watch had to be started again: all of kopf, or that of one namespace before its time."""
        return self._status.restarts

    def retarget(self, namespaces: Collection[str]) -> None:
        """Watch exactly these namespaces from now on: begin with those that are new, end with those that are not there.

        Only where a pattern was given; before `start` it tells with which ones to begin.
        """
        wanted, before = frozenset(namespaces), self._status.wanted or frozenset()
        self._status.wanted = wanted
        for namespace in before - wanted:
            self._status.forget(namespace)
        if self._watcher is not None and wanted != before:
            self._watcher.retarget()

    def start(self, *, after: threading.Event | None = None) -> None:
        """Start watching, and go on until `stop`; once `after` is set, or `START_DELAY` has gone by."""
        _quieten()
        self._after = after
        self._thread.start()

    def stop(self) -> None:
        """Stop within seconds. May be called twice, and before `start`."""
        self._status.stopping.set()
        if self._watcher is not None:
            self._watcher.stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT)

    def alive(self) -> bool:
        """Whether kopf is up now; between a death and the next start it is not."""
        return self._status.running.is_set() and self._thread.is_alive()

    def supervised(self) -> bool:
        """Whether the thread that starts kopf again and again is there, or need not be there yet."""
        return self._thread.ident is None or self._thread.is_alive()

    def watches(self, namespace: str) -> bool:
        """Whether events of a namespace come in: its last request was answered, and kopf is up."""
        return namespace in self._status.watched

    def _supervise(self) -> None:
        backoff, stopping = Backoff(FIRST_BACKOFF), self._status.stopping
        until = boottime() + START_DELAY
        while (
            self._after is not None
            and not self._after.wait(POLL_INTERVAL)
            and not stopping.is_set()
            and boottime() < until
        ):
            pass
        while not stopping.is_set():
            died = self._run_once()
            if stopping.is_set():
                return
            self._status.restarts += 1
            delay = backoff.next()
            _log.warning("The watch ended (%s); it starts again in %.0f s.", died, delay)
            stopping.wait(delay)

    def _run_once(self) -> str:
        """Run kopf until it ends, and say why it did."""
        try:
            asyncio.run(self._make_watcher().run())
        except asyncio.CancelledError:
            return "cancelled"
        except Exception as error:  # noqa: BLE001 - kopf ends with whatever went wrong, and must be started again
            return f"{type(error).__name__}: {error}"
        finally:
            self._status.down()
        return "without an error"

    def _make_watcher(self) -> KopfWatcher:
        """Return the operator, made in this thread: importing kopf takes as long as a look at all Pods."""
        if self._watcher is None:
            from healer.informer.kopf_watcher import KopfWatcher

            self._watcher = KopfWatcher(
                self._connection,
                self._namespaces,
                self._store,
                self._status,
                on_list=self._on_list,
                observe=self._observe,
                owner_labels=self._owner_labels,
            )
        return self._watcher


def _quieten() -> None:
    """Keep kopf's log out of ours, unless the level is DEBUG.

    It logs each attempt at a forbidden namespace and each of its ends with several tracebacks. What a user can act
    upon, our own listings and the supervisor say in one sentence.
    """
    debugging = logging.getLogger().isEnabledFor(logging.DEBUG)
    logging.getLogger("kopf").setLevel(logging.INFO if debugging else logging.CRITICAL)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line for each Pod at each listing
