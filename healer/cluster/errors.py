"""What can go wrong with the Kubernetes API server: each is one sentence that says what to do."""

from __future__ import annotations

# ruff: noqa: N818 - they are named for what happened


class ClusterError(Exception):
    """A call did not give a full answer.

    `retry_after` is what the server asked us to wait, in seconds; `status` the HTTP status, None where there was none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, status: int | None = None) -> None:
        """Take the sentence that a user will read."""
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status


class ConnectError(ClusterError):
    """There is no usable configuration: no kubeconfig, an unknown context, no ServiceAccount."""


class Refused(ClusterError):
    """401 or 403: the sentence says which right is missing and how to grant it."""


class Unreachable(ClusterError):
    """No answer: nothing listens, the connection broke, the server was silent for too long, TLS failed.

    `broken` says that the connection broke before the answer was there, which a server that restarts or an idle
    connection that was cut explain: a read may be tried again at once.
    """

    def __init__(self, message: str, *, broken: bool = False) -> None:
        """Take the sentence and whether the connection broke."""
        super().__init__(message)
        self.broken = broken


class Busy(ClusterError):
    """429 or 5xx: the server has trouble or asks to come back later."""


class Gone(ClusterError):
    """410: the server has forgotten the version that a listing was reading from."""


class Malformed(ClusterError):
    """An answer that no Kubernetes API server gives."""
