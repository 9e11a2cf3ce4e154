"""A server of the tests' own in a thread, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer


@contextmanager
def in_a_thread(server: HTTPServer, *, poll_interval: float = 0.05) -> Iterator[str]:
    """Its address while it serves; afterwards it is closed. `poll_interval`: seconds that its end takes at most."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": poll_interval}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
