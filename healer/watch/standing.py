"""What kopf's thread and the others tell each other."""

from __future__ import annotations

import threading


class Standing:
    """What kopf's thread lets others know: whether kopf is up, and which namespaces it watches; and a wish to stop."""

    def __init__(self) -> None:
        """Start with nothing up."""
        self.running, self.stopping = threading.Event(), threading.Event()
        self.watched: set[str] = set()

    def down(self) -> None:
        """Note that kopf has ended."""
        self.running.clear()
        self.watched.clear()
