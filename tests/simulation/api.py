"""The seam to the cluster: what the healer calls, answered from the model as its faults allow.

The DELETE is sent by the healer's own `Deleter`; only the transport beneath it is the model's.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from healer.cluster import Listing
from healer.cluster.transport import KubeReply, KubeRequest
from healer.deletion.pod_deleter import Evidence, PodDeleter
from healer.errors import AccessDeniedError, ServerBusyError, UnreachableError
from healer.leader_election import LeadershipCheck
from healer.model import DeleteResult, Pod
from tests.simulation.cluster import Server, Time

TIMEOUT = 5.0
"""Seconds until a healer stops waiting for an answer."""


class Link:
    """One healer's way to the API server; it may be cut while others get through. `sleep` lets time pass for it."""

    def __init__(self, server: Server, sleep: Callable[[float], None]) -> None:
        self.server, self.sleep = server, sleep
        self.fault = ""

    def reach(self, timeout: float = TIMEOUT) -> None:
        """Get through to the server, or raise Unreachable: at once where it refuses, late where it is silent."""
        if self.fault == "refused":
            raise UnreachableError("connection refused")
        if self.fault == "silent":
            self.sleep(timeout)
            raise UnreachableError("no answer in time")


class Watchdog(Protocol):
    """Who looks at each DELETE."""

    def checked(self, pod: Pod, proof: Evidence) -> None:
        """The last check is passed: nothing has left yet."""

    not_before: float

    def leaves(self, pod: Pod, proof: Evidence, request: KubeRequest) -> None:
        """The request leaves."""

    def arrives(self, pod: Pod, there: Pod, proof: Evidence) -> None:
        """The request takes effect on this Pod."""


class Flight(Struct, frozen=True):
    """A DELETE that arrives although nobody waits for its answer any more."""

    at: float
    request: KubeRequest
    pod: Pod
    proof: Evidence


class Api:
    """One healer's client. Every call may fail as the faults say."""

    def __init__(self, link: Link, clock: Time, freshness: float, watchdog: Watchdog) -> None:
        self._link, self._server = link, link.server
        self.wire = Wire(link, watchdog)
        self._deleter = PodDeleter(self.wire, freshness=freshness, clock=clock)  # type: ignore[arg-type]

    def now(self) -> float | None:
        """The Date header counts whole seconds."""
        return None if self._server.faults.silent_clock else math.floor(self._server.time)

    def list_pods(self, namespace: str) -> Listing:
        self._link.reach()
        why = self._server.faults.unlisted.get(namespace)
        if why is not None:
            raise (
                AccessDeniedError(f"may not list {namespace}")
                if why == "403"
                else ServerBusyError("the API server answers 500")
            )
        pods = [
            pod
            for pod in self._server.pods.values()
            if pod.namespace == namespace and (pod.selected or self._server.faults.unfiltered)
        ]
        listing = Listing(pods, str(self._server.version))
        self._link.sleep(0.03)  # what changes meanwhile is hinted, and not in the list
        return listing

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        self._link.reach()
        if self._server.faults.unread:
            raise UnreachableError("no answer")
        return self._server.of_name(namespace, name)

    def delete_pod(self, pod: Pod, proof: Evidence, right: LeadershipCheck) -> DeleteResult:
        self.wire.proof, self.wire.pod = proof, pod
        return self._deleter.delete_pod(pod, proof, right)


class Wire:
    """The transport beneath the DELETE: takes it to the server, or does not."""

    def __init__(self, link: Link, watchdog: Watchdog) -> None:
        self._link, self._server, self.watchdog = link, link.server, watchdog
        self.proof: Evidence | None = None
        self.pod: Pod | None = None
        self.outcomes: Counter[str] = Counter()
        self.under_way: Flight | None = None
        self.late: list[Flight] = []

    def send(self, request: KubeRequest, *, last_check: Callable[[], None] = lambda: None) -> KubeReply:
        """Send a DELETE as the real transport does: the last check, then the wire, then the server."""
        pod, proof = self.pod, self.proof
        assert pod is not None
        assert proof is not None
        if self._link.fault == "refused":
            self.outcomes["refused"] += 1
            raise UnreachableError("connection refused")
        if self._server.faults.delete == "slow to connect":
            self.outcomes["slow to connect"] += 1
            self._link.sleep(3.0)
        last_check()
        self.watchdog.checked(pod, proof)
        self.under_way = Flight(self._server.clock(), request, pod, proof)
        self.watchdog.leaves(pod, proof, request)
        self._link.sleep(0.02)
        self.under_way = None
        return self._outcome(request, pod, proof)

    def _outcome(self, request: KubeRequest, pod: Pod, proof: Evidence) -> KubeReply:
        fault = self._server.faults.delete or self._link.fault
        if fault in _REFUSALS:
            self.outcomes[fault] += 1
            pause = 20.0 if fault == "throttled" else None
            self.watchdog.not_before = self._server.clock() + (pause or 0.0)
            return KubeReply(_REFUSALS[fault], b"{}", pause)
        if fault in {"refused", "silent"}:
            self.outcomes[fault] += 1
            self._link.sleep(TIMEOUT if fault == "silent" else 0.0)
            raise UnreachableError("no answer")
        if fault == "late":
            self.outcomes[fault] += 1
            self.late.append(Flight(self._server.clock() + 9.0, request, pod, proof))
            self._server.touch()
            self._link.sleep(TIMEOUT)
            raise UnreachableError("no answer in time")
        reply = self.arrive(request, pod, proof)
        if fault == "lost":
            self.outcomes["lost"] += 1
            raise UnreachableError("the answer was lost")
        return reply

    def arrive(self, request: KubeRequest, pod: Pod, proof: Evidence) -> KubeReply:
        """Let the server do what it is told."""
        *_, namespace, _, name = request.path
        there = self._server.of_name(namespace, name)
        if there is None:
            return self._answer(404)
        conditions = (request.body or {}).get("preconditions", {})
        if conditions.get("uid", there.uid) != there.uid:
            return self._answer(409)
        if conditions.get("resourceVersion", there.resource_version) != there.resource_version:
            return self._answer(409)
        self.watchdog.arrives(pod, there, proof)
        self._server.end(there.uid)
        return self._answer(200)

    def arrive_late(self) -> None:
        """Let those arrive that were long under way."""
        now = self._server.clock()
        due, self.late = [f for f in self.late if f.at <= now], [f for f in self.late if f.at > now]
        for flight in due:
            self.arrive(flight.request, flight.pod, flight.proof)

    def lose(self, *, arrives: bool) -> None:
        """Let go of a request whose sender was killed while it was on its way."""
        if self.under_way is not None and arrives:
            self.late.append(self.under_way)
        self.under_way = None

    def _answer(self, status: int) -> KubeReply:
        self.outcomes[str(status)] += 1
        return KubeReply(status, json.dumps({"message": "simulated"}).encode())


_REFUSALS = {"error": 500, "denied": 403, "throttled": 429}
