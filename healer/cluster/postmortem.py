"""How a Pod's containers fare and what they said last: read once more before it goes, for people and not for the rules.

Statuses come without their messages, which may quote what a container wrote about itself; env, args and images are
never decoded.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from healer.cluster.answers import good
from healer.cluster.errors import Malformed
from healer.cluster.transport import Request, Transport
from healer.model import Pod

TIMEOUT = 2.0
"""Seconds to connect, and to wait for each piece of an answer: nobody waits long for what is only told."""

MOST_LOG = 1 << 20
"""Bytes that the kubelet may send: it cuts off the end of what is longer, so this is not the limit of what is told."""


class _Terminated(Struct, rename="camel"):
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


class _Waiting(Struct):
    reason: str | None = None


class _Running(Struct, rename="camel"):
    started_at: str | None = None


class _State(Struct):
    terminated: _Terminated | None = None
    waiting: _Waiting | None = None
    running: _Running | None = None


class _ContainerStatus(Struct, rename="camel"):
    name: str = ""
    restart_count: int = 0
    state: _State | None = None
    last_state: _State | None = None


class _Status(Struct, rename="camel"):
    phase: str | None = None
    reason: str | None = None
    init_container_statuses: list[_ContainerStatus] | None = None
    container_statuses: list[_ContainerStatus] | None = None


class _Metadata(Struct):
    uid: str | None = None


class _Spec(Struct, rename="camel"):
    node_name: str | None = None


class _Pod(Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class State(Struct, frozen=True, omit_defaults=True):
    """What a container does or did last; `what` is running, waiting or terminated. Times as Kubernetes wrote them."""

    name: str
    what: str
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    started: str | None = None
    finished: str | None = None
    restarts: int = 0
    before: str | None = None
    """Why it ended the time before, where it was restarted."""


class Remains(Struct, frozen=True):
    """What is left of a Pod's work: where it ran, its containers, the last lines of a log (None: not wanted)."""

    node: str | None
    phase: str | None
    reason: str | None
    containers: tuple[State, ...]
    log: tuple[str, ...] | None = None


class Examiner:
    """Reads what is left of Pods. Safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def statuses(self, pod: Pod) -> Remains:
        """Return how the Pod's containers fare, its log left out.

        Raises:
            ClusterError: any failure, and a Pod of the same name that is another one.
        """
        request = Request("get", "GET", _path(pod), timeout=TIMEOUT)
        body = good(self._transport.send(request), f"get the Pod {pod}", ("get", "pods", pod.namespace))
        try:
            found = msgspec.json.decode(body, type=_Pod)
        except (msgspec.DecodeError, ValueError) as error:
            raise Malformed(f"The answer for {pod} is no Pod ({error}).") from error
        if found.metadata.uid != pod.uid:
            raise Malformed(f"There is another Pod by now that is called {pod}.")
        status = found.status
        listed = (*(status.init_container_statuses or ()), *(status.container_statuses or ()))
        return Remains(found.spec.node_name, status.phase, status.reason, tuple(map(_state, listed)))

    def log(self, pod: Pod, container: str, *, lines: int, size: int) -> tuple[str, ...]:
        """Return the last lines that a container has written, at most `size` bytes of them: the latest.

        Raises:
            ClusterError: any failure.
        """
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(MOST_LOG)}
        reply = self._transport.send(Request("get", "GET", (*_path(pod), "log"), query, timeout=TIMEOUT))
        body = good(reply, f"read the log of {pod}", ("get", "pods/log", pod.namespace))
        return tuple(body[-size:].decode("utf-8", "replace").splitlines()[-lines:])


def _path(pod: Pod) -> tuple[str, ...]:
    return "api", "v1", "namespaces", pod.namespace, "pods", pod.name


def _state(status: _ContainerStatus) -> State:
    state, last = status.state or _State(), (status.last_state or _State()).terminated
    more: dict[str, Any] = {"restarts": status.restart_count, "before": last.reason if last else None}
    if (ended := state.terminated) is not None:
        return State(
            status.name,
            "terminated",
            ended.reason,
            ended.exit_code,
            ended.signal,
            ended.started_at,
            ended.finished_at,
            **more,
        )
    if state.waiting is not None:
        return State(status.name, "waiting", state.waiting.reason, **more)
    return State(status.name, "running", started=state.running.started_at if state.running else None, **more)
