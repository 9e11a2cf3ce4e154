"""The model of the cluster: Pods with resourceVersions, DELETEs with preconditions, hints, and failures.

The DELETE is sent by the healer's own `Deleter`; only the transport beneath it is the model's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from healer.cluster import Busy, Listing, Outcome, Proof, Refused, Right, Unreachable
from healer.cluster.deletes import Deleter
from healer.cluster.transport import Reply, Request
from healer.model import Pod
from healer.watch import PodStore

EPOCH = 1_700_000_000.0
"""What the API server's clock shows when ours shows 0."""

NAMESPACES = ("airflow", "jobs")

Time = Callable[[], float]


@dataclass
class Facts:
    """What the model knows of a Pod and nobody else does. Times are seconds of the simulated monotonic clock."""

    task: int | None
    born: float
    used_since: float | None = None
    free_since: float = math.inf
    done_at: float | None = None
    gone_at: float = math.inf
    stuck: bool = False
    looks: int = 0
    asked: float | None = None
    lag: float = 0.0
    sends: int = 0


@dataclass
class Faults:
    """What is wrong with the API server and the watch right now."""

    unlisted: dict[str, str] = field(default_factory=dict)
    unread: bool = False
    delete: str = ""
    hints: str = "prompt"
    silent_clock: bool = False


class Server:
    """The API server: truth about the Pods, and what it answers."""

    def __init__(self, clock: Time) -> None:
        self._clock = clock
        self.version = 100
        self.pods: dict[str, Pod] = {}
        self.facts: dict[str, Facts] = {}
        self.faults = Faults()
        self.store = PodStore()
        self.late: list[tuple[float, Pod, bool]] = []
        self.on_change: Callable[[], None] = lambda: None
        self._born = 0

    @property
    def time(self) -> float:
        """What the API server's clock shows."""
        return EPOCH + self._clock()

    # --- what happens to Pods ---------------------------------------------------------------------------------------

    def create(self, pod: Pod, task: int | None) -> Pod:
        """Add a Pod; uid, version and time are the server's to give."""
        self._born += 1
        self.version += 1
        uid = f"uid-{self._born}"
        pod = replace(pod, uid=uid, resource_version=str(self.version), created=math.floor(self.time))
        self.pods[uid] = pod
        self.facts[uid] = Facts(task, self._clock())
        self._hint(pod)
        return pod

    def change(self, uid: str, **fields: Any) -> None:
        """Write to a Pod: its resourceVersion changes too."""
        self.version += 1
        self.pods[uid] = replace(self.pods[uid], resource_version=str(self.version), **fields)
        self._hint(self.pods[uid])

    def end(self, uid: str, grace: float = 10.0) -> None:
        """Accept a deletion: the Pod terminates, and is gone after its grace period unless something holds it."""
        if uid in self.pods and not self.pods[uid].terminating:
            self.change(uid, terminating=True)
            self.facts[uid].gone_at = self._clock() + grace

    def remove(self, uid: str) -> None:
        """Let a Pod vanish."""
        self.version += 1
        self._hint(replace(self.pods.pop(uid), resource_version=str(self.version)), gone=True)

    def expire(self) -> None:
        """Let all go whose grace period is over."""
        now = self._clock()
        for uid in [uid for uid in self.pods if self.facts[uid].gone_at <= now and not self.facts[uid].stuck]:
            self.remove(uid)

    def next_timer(self) -> float:
        """When a Pod vanishes or a late hint arrives."""
        times = [self.facts[uid].gone_at for uid in self.pods if not self.facts[uid].stuck]
        return min([*times, *(at for at, _, _ in self.late)], default=math.inf)

    def of_name(self, namespace: str, name: str) -> Pod | None:
        """Return the Pod that has this name now."""
        return next((p for p in self.pods.values() if p.name == name and p.namespace == namespace), None)

    # --- hints ------------------------------------------------------------------------------------------------------

    def _hint(self, pod: Pod, *, gone: bool = False) -> None:
        mode = self.faults.hints
        if mode == "prompt":
            self._deliver(pod, gone)
        elif mode == "late":
            self.late.append((self._clock() + 45.0, pod, gone))
        elif mode == "reversed":
            # Each one overtakes its predecessor.
            self.late.insert(0, (self._clock() + 90.0 - len(self.late), pod, gone))

    def _deliver(self, pod: Pod, gone: bool) -> None:
        if gone or not pod.selected:
            self.store.drop(pod.uid, pod.namespace, pod.resource_version)
        else:
            self.store.apply(pod)

    def deliver_late(self) -> None:
        """Deliver the late hints that are due."""
        now = self._clock()
        due = sorted((late for late in self.late if late[0] <= now), key=lambda late: late[0])
        self.late = [late for late in self.late if late[0] > now]
        for _, pod, gone in due:
            self._deliver(pod, gone)


class Api:
    """The seam: what the healer calls. Every call may fail as the faults say."""

    def __init__(self, server: Server, clock: Time, freshness: float, wire: Wire) -> None:
        self._server, self._clock, self._wire = server, clock, wire
        self._deleter = Deleter(wire, freshness=freshness, clock=clock)  # type: ignore[arg-type]

    def now(self) -> float | None:
        """The Date header counts whole seconds."""
        return None if self._server.faults.silent_clock else math.floor(self._server.time)

    def list_pods(self, namespace: str) -> Listing:
        why = self._server.faults.unlisted.get(namespace)
        if why is not None:
            raise Refused(f"may not list {namespace}") if why == "403" else Busy("the API server answers 500")
        pods = [pod for pod in self._server.pods.values() if pod.namespace == namespace and pod.selected]
        return Listing(pods, str(self._server.version))

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        if self._server.faults.unread:
            raise Unreachable("no answer")
        return self._server.of_name(namespace, name)

    def delete_pod(self, pod: Pod, proof: Proof, right: Right) -> Outcome:
        self._wire.proof, self._wire.pod = proof, pod
        return self._deleter.delete(pod, proof, right)


class Wire:
    """The transport beneath the DELETE: takes it to the server, or does not."""

    def __init__(self, server: Server, before: Callable[[Pod], None], judge: Callable[[Pod, Pod, Proof], None]) -> None:
        self._server, self._before, self._judge = server, before, judge
        self.proof: Proof | None = None
        self.pod: Pod | None = None
        self.outcomes: dict[str, int] = {}
        self.sent: Callable[[Pod, Proof], None] = lambda _pod, _proof: None

    def send(self, request: Request, *, last_check: Callable[[], None] = lambda: None) -> Reply:
        """Send a DELETE as the real transport does: the last check, then the wire, then the server."""
        assert self.pod is not None
        assert self.proof is not None
        last_check()
        self.sent(self.pod, self.proof)
        self._before(self.pod)
        fault = self._server.faults.delete
        if fault in {"refused", "error", "denied", "throttled"}:
            return self._fail(fault)
        reply = self._apply(request, self.pod, self.proof)
        if fault == "lost":
            self._count("lost")
            raise Unreachable("the answer was lost")
        return reply

    def _fail(self, fault: str) -> Reply:
        self._count(fault)
        if fault == "refused":
            raise Unreachable("connection refused")
        status = {"error": 500, "denied": 403, "throttled": 429}[fault]
        return Reply(status, b"{}", 20.0 if status == 429 else None)

    def _apply(self, request: Request, pod: Pod, proof: Proof) -> Reply:
        *_, namespace, _, name = request.path
        there = self._server.of_name(namespace, name)
        if there is None:
            return self._answer(404)
        conditions = (request.body or {}).get("preconditions", {})
        if conditions.get("uid", there.uid) != there.uid:
            return self._answer(409)
        if conditions.get("resourceVersion", there.resource_version) != there.resource_version:
            return self._answer(409)
        self._judge(pod, there, proof)
        self._server.end(there.uid)
        self._server.on_change()
        return self._answer(200)

    def _answer(self, status: int) -> Reply:
        self._count(str(status))
        return Reply(status, json.dumps({"message": "simulated"}).encode())

    def _count(self, what: str) -> None:
        self.outcomes[what] = self.outcomes.get(what, 0) + 1
