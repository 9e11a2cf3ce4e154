"""The DELETE: the one thing here that can do harm, so it has its own file.

It wants the evidence and the leadership, and checks both as its last act before sending. It is sent once. Whether an
answer comes or not, a repetition is a new decision with new evidence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from msgspec import Struct

from healer.clock import boottime
from healer.cluster import Cluster
from healer.cluster.transport import KubeReply, KubeRequest, KubeTransport
from healer.errors import ClusterError, DeleteNotSentError
from healer.leader_election import LeadershipCheck
from healer.model import ACTING, DeleteResult, DeleteStatus, Finding, Pod

TIMEOUT = 5.0
"""Seconds to connect, and to wait for the answer."""


class Evidence(Struct, frozen=True):
    """Why a Pod may go: the finding, and when the oldest Airflow request behind it was sent (monotonic seconds)."""

    finding: Finding
    sent: float


class UnderWay:
    """Counts what is under way, in any number of threads: a `with` block is one."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._count, self._changed = 0, threading.Condition()

    def __enter__(self) -> None:
        """Begin one."""
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        """End it."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def ended(self, timeout: float) -> bool:
        """Wait until nothing is under way, for at most `timeout` seconds. Return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout)


class PodDeleter:
    """Sends DELETEs, each with the age of its evidence bounded by `freshness` (seconds)."""

    def __init__(self, transport: KubeTransport, *, freshness: float, clock: Callable[[], float] = boottime) -> None:
        """Take the clock by which `Evidence.sent` was read."""
        self._transport = transport
        self._freshness = freshness
        self._clock = clock
        self.under_way = UnderWay()
        """The DELETEs. A right that is lost while there are none is seen by every later one."""

    @classmethod
    def of(cls, cluster: Cluster) -> PodDeleter:
        """Return what deletes Pods where `cluster` reads them: one for each, so that all can wait for its DELETEs."""
        with _ONE_AT_A_TIME:  # the threads of all Airflows ask: with two deleters the wait for one would miss the other
            found = _OF.get(cluster)
            if found is None:
                found = cls(cluster.transport, freshness=cluster.freshness, clock=cluster.clock)
                _OF[cluster] = found
            return found

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no DELETE is under way, for at most `timeout` seconds. Return whether that is so."""
        return self.under_way.ended(timeout)

    def delete_pod(self, pod: Pod, evidence: Evidence, is_leader: LeadershipCheck) -> DeleteResult:
        """Delete this Pod, as it was when it was judged and not otherwise. Never raises for what a server does.

        The uid keeps a new Pod of the same name alive, the resourceVersion one that changed since it was judged. The
        Pod's own grace period counts.
        """

        def last_check() -> None:
            refusal = self._refusal(pod, evidence, is_leader)
            if refusal:
                raise DeleteNotSentError(refusal)

        with self.under_way:  # before the check: `wait_idle` would else miss what has just passed it
            try:
                # Asked before connecting too: what is stale already needs no connection.
                last_check()
                return _to_result(pod, self._transport.send(_request(pod), last_check=last_check))
            except DeleteNotSentError as error:
                return DeleteResult(DeleteStatus.STALE, f"{pod} was not deleted: {error}.")
            except ClusterError as error:
                return DeleteResult(DeleteStatus.ERROR, f"It is not known whether {pod} was deleted: {error}")

    def _refusal(self, pod: Pod, evidence: Evidence, is_leader: LeadershipCheck) -> str | None:
        """Say why nothing may be sent now, or None."""
        if not pod.selected:
            return "the selector leaves it out: it is no Pod of KubernetesPodOperator"
        if evidence.finding.reason not in ACTING:
            return f"{evidence.finding.reason} is no reason to delete"
        if not (pod.uid and pod.resource_version):
            return "its uid or resourceVersion is unknown"
        age = self._clock() - evidence.sent
        # Written so that an age that is no number counts as too old.
        if not 0 <= age <= self._freshness:
            return f"what Airflow said is {age:.1f} s old, more than {self._freshness:g} s"
        if not is_leader():
            return "this replica is not the leader"
        return None


def _request(pod: Pod) -> KubeRequest:
    preconditions = {"uid": pod.uid, "resourceVersion": pod.resource_version}
    body = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": preconditions,
        "propagationPolicy": "Background",
    }
    path = ("api", "v1", "namespaces", pod.namespace, "pods", pod.name)
    return KubeRequest("delete", "DELETE", path, body=body, timeout=TIMEOUT)


def _to_result(pod: Pod, reply: KubeReply) -> DeleteResult:
    if 200 <= reply.status < 300:
        return DeleteResult(DeleteStatus.DELETED, f"{pod} is deleted.")
    said = f" ({reply.message})" if reply.message else ""
    match reply.status:
        case 404:
            return DeleteResult(DeleteStatus.GONE, f"{pod} is gone already.")
        case 409:
            return DeleteResult(
                DeleteStatus.CONFLICT, f"{pod} changed since it was judged, so it was not deleted{said}."
            )
        case 403 | 422:
            # A policy of the API server answers 422, RBAC 403, and a webhook what it likes.
            grant = f"; without the right, grant the healer the verb delete on pods in namespace {pod.namespace}"
            why = grant if reply.status == 403 else ", by an admission policy"
            return DeleteResult(DeleteStatus.DENIED, f"The API server refuses to delete {pod}{said}{why}.")
        case status:
            return DeleteResult(
                DeleteStatus.ERROR, f"The DELETE of {pod} was answered with {status}{said}.", reply.retry_after
            )


_ONE_AT_A_TIME = threading.Lock()
_OF: WeakKeyDictionary[Cluster, PodDeleter] = WeakKeyDictionary()
