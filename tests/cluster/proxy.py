"""A TCP proxy before the API server, to break connections at a chosen moment."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import yaml

RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER of zero seconds: closing sends RST."""


class Proxy:
    """Passes bytes on; `reset_when_asked` breaks a connection as soon as the client's next request was passed on."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._armed = threading.Event()
        self._spawn(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def reset_when_asked(self) -> None:
        """The next request reaches the API server, its answer reaches nobody."""
        self._armed.set()

    def reset_all(self) -> None:
        """Break all connections now."""
        for each in self._sockets:
            _close(each)

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset_all()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._spawn(self._pass_on, client, server, True)
                self._spawn(self._pass_on, server, client, False)

    def _pass_on(self, source: socket.socket, sink: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not asking and self._armed.is_set():
                    self._armed.clear()
                    _close(sink)
                    return
                sink.sendall(data)
        for each in (source, sink):
            _close(each)

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def proxied(url: str, kubeconfig: Path) -> Iterator[tuple[Proxy, Path]]:
    """A proxy before the API server at `url`, and a copy of the kubeconfig that goes through it."""
    proxy = Proxy(url)
    document = yaml.safe_load(kubeconfig.read_text())
    for cluster in document["clusters"]:
        cluster["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    through = kubeconfig.with_name(f"{kubeconfig.name}-{proxy.port}")
    through.write_text(yaml.safe_dump(document))
    try:
        yield proxy, through
    finally:
        proxy.stop()
        through.unlink()
