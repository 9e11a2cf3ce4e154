"""The DELETE: the one thing here that can do harm, so it has its own file.

It wants the proof and the right to act, and looks at both as its last act before sending. It is sent once. Whether an
answer comes or not, a repetition is a new decision with a new proof.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from healer.clock import steady
from healer.cluster.errors import ClusterError
from healer.cluster.transport import Reply, Request, Transport
from healer.model import ACTING, Finding, Pod

TIMEOUT = 5.0
"""Seconds to connect, and to wait for the answer."""


class Right(Protocol):
    """Whether we may act now: the leadership."""

    def __call__(self) -> bool:
        """Answer at once, without asking anybody."""


def sole_replica() -> bool:
    """Return True: the right to act of an installation that runs one replica only."""
    return True


class Proof(Struct, frozen=True):
    """Why a Pod may go: the finding, and when the oldest Airflow request behind it was sent (monotonic seconds)."""

    finding: Finding
    sent: float


class Result(StrEnum):
    """What became of a DELETE. `deleted` means accepted: the Pod may still be terminating."""

    DELETED = "deleted"
    CONFLICT = "conflict"
    GONE = "gone"
    DENIED = "denied"
    STALE = "stale"
    ERROR = "error"


class Outcome(Struct, frozen=True):
    """The result, a sentence about it, and how many seconds the server asked us to wait, if it did.

    After `stale` nothing was sent. After `error` it is not known whether the Pod was deleted.
    """

    result: Result
    message: str
    retry_after: float | None = None


class _NotSentError(Exception):
    """The last check failed: nothing was sent."""


class Deleter:
    """Sends DELETEs, each with the age of its proof bounded by `freshness` (seconds)."""

    def __init__(self, transport: Transport, *, freshness: float, clock: Callable[[], float] = steady) -> None:
        """Take the clock by which `Proof.sent` was read."""
        self._transport = transport
        self._freshness = freshness
        self._clock = clock
        self.idle = threading.Event()
        """Set while no DELETE is under way. A right that is lost while it is set is seen by every later DELETE."""
        self.idle.set()

    def delete(self, pod: Pod, proof: Proof, right: Right) -> Outcome:
        """Delete this Pod, as it was when it was judged and not otherwise. Never raises for what a server does.

        The uid keeps a new Pod of the same name alive, the resourceVersion one that changed since it was judged. The
        Pod's own grace period counts.
        """

        def last_check() -> None:
            refusal = self._refusal(pod, proof, right)
            if refusal:
                raise _NotSentError(refusal)

        self.idle.clear()  # before the check: whoever waits for `idle` would else miss what has just passed it
        try:
            # Asked before connecting too: what is stale already needs no connection.
            last_check()
            return _outcome(pod, self._transport.send(_request(pod), last_check=last_check))
        except _NotSentError as error:
            return Outcome(Result.STALE, f"{pod} was not deleted: {error}.")
        except ClusterError as error:
            return Outcome(Result.ERROR, f"It is not known whether {pod} was deleted: {error}")
        finally:
            self.idle.set()

    def _refusal(self, pod: Pod, proof: Proof, right: Right) -> str | None:
        """Say why nothing may be sent now, or None."""
        if proof.finding.reason not in ACTING:
            return f"{proof.finding.reason} is no reason to delete"
        if not (pod.uid and pod.resource_version):
            return "its uid or resourceVersion is unknown"
        age = self._clock() - proof.sent
        # Written so that an age that is no number counts as too old.
        if not 0 <= age <= self._freshness:
            return f"what Airflow said is {age:.1f} s old, more than {self._freshness:g} s"
        if not right():
            return "this replica is not the leader"
        return None


def _request(pod: Pod) -> Request:
    preconditions = {"uid": pod.uid, "resourceVersion": pod.resource_version}
    body = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": preconditions,
        "propagationPolicy": "Background",
    }
    path = ("api", "v1", "namespaces", pod.namespace, "pods", pod.name)
    return Request("delete", "DELETE", path, body=body, timeout=TIMEOUT)


def _outcome(pod: Pod, reply: Reply) -> Outcome:
    if 200 <= reply.status < 300:
        return Outcome(Result.DELETED, f"{pod} is deleted.")
    said = f" ({reply.message})" if reply.message else ""
    match reply.status:
        case 404:
            return Outcome(Result.GONE, f"{pod} is gone already.")
        case 409:
            return Outcome(Result.CONFLICT, f"{pod} changed since it was judged, so it was not deleted{said}.")
        case 403 | 422:
            # A policy of the API server answers 422, RBAC 403, and a webhook what it likes.
            grant = f"; without the right, grant the healer the verb delete on pods in namespace {pod.namespace}"
            why = grant if reply.status == 403 else ", by an admission policy"
            return Outcome(Result.DENIED, f"The API server refuses to delete {pod}{said}{why}.")
        case status:
            return Outcome(Result.ERROR, f"The DELETE of {pod} was answered with {status}{said}.", reply.retry_after)
