"""What kopf's thread and the others let each other know."""

from __future__ import annotations

import threading

SERVER_TIMEOUT = 300
"""Seconds after which the server ends a watch; an int, as it refuses `300.0` (400) and kopf would end."""

IN_TIME = 0.9 * SERVER_TIMEOUT


class WatchStatus:
    """What kopf's thread lets others know: whether kopf is up, and which namespaces it watches; and what they wish."""

    def __init__(self) -> None:
        """Start with nothing up."""
        self.running, self.stopping = threading.Event(), threading.Event()
        self.watched: set[str] = set()
        self.wanted: frozenset[str] | None = None
        """Which namespaces shall be watched; None: always those that are configured."""
        self.restarts = 0
        """How often a watch had to be started again: kopf's as a whole, or that of a namespace before its time."""
        self._began: dict[str, float] = {}

    def down(self) -> None:
        """Note that kopf has ended."""
        self.running.clear()
        self.watched.clear()
        self._began.clear()

    def forget(self, namespace: str) -> None:
        """Note that a namespace is not watched any more, as nobody wants it to be."""
        self.watched.discard(namespace)
        self._began.pop(namespace, None)

    def begun(self, namespace: str, now: float) -> None:
        """Note that the watch of a namespace begins; `now` in monotonic seconds.

        The server ends each after `SERVER_TIMEOUT`, which is no restart: one that ends earlier was cut off.
        """
        if self.wanted is not None and namespace not in self.wanted:
            return  # it was on its way while the namespace was forgotten, and is about to be ended
        before = self._began.get(namespace)
        if before is not None and now - before < IN_TIME:
            self.restarts += 1
        self._began[namespace] = now
        self.watched.add(namespace)
