"""How a Pod's containers fare and what they said last: read once more before it goes, for people and not for the rules.

Statuses come without their messages, which may quote what a container wrote about itself; env and args are never
decoded, and images only where the manifest is wanted: see `manifest.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from healer.cluster.manifest import Manifest, decode_manifest
from healer.cluster.responses import require_success
from healer.cluster.transport import KubeRequest, KubeTransport
from healer.errors import InvalidResponseError
from healer.model import Pod

TIMEOUT = 2.0
"""Seconds to connect, and to wait for each piece of an answer: nobody waits long for what is only told."""

MAX_LOG_BYTES = 1 << 20
"""Bytes that the kubelet may send: it cuts off the end of what is longer, so this is not the limit of what is told."""


class _TerminatedDetails(Struct, rename="camel"):
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


class _WaitingDetails(Struct):
    reason: str | None = None


class _RunningDetails(Struct, rename="camel"):
    started_at: str | None = None


class _StateDetails(Struct):
    terminated: _TerminatedDetails | None = None
    waiting: _WaitingDetails | None = None
    running: _RunningDetails | None = None


class _ContainerStatusDetails(Struct, rename="camel"):
    name: str = ""
    restart_count: int = 0
    state: _StateDetails | None = None
    last_state: _StateDetails | None = None


class _PodStatusDetails(Struct, rename="camel"):
    phase: str | None = None
    reason: str | None = None
    init_container_statuses: list[_ContainerStatusDetails] | None = None
    container_statuses: list[_ContainerStatusDetails] | None = None


class _PodMetadataDetails(Struct):
    uid: str | None = None


class _PodSpecDetails(Struct, rename="camel"):
    node_name: str | None = None


class _PodDetails(Struct):
    metadata: _PodMetadataDetails
    spec: _PodSpecDetails = msgspec.field(default_factory=_PodSpecDetails)
    status: _PodStatusDetails = msgspec.field(default_factory=_PodStatusDetails)


_POD_DETAILS = msgspec.json.Decoder(_PodDetails)
"""Made here, by one thread: where several make what msgspec knows of a class at once, the process crashes."""


class ContainerDiagnostics(Struct, frozen=True, omit_defaults=True):
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


class PodDiagnostics(Struct, frozen=True):
    """What is left of a Pod's work: where it ran, its containers, the last lines of a log (None: not wanted).

    `manifest`: as far as it may be told, None where it is not wanted.
    """

    node: str | None
    phase: str | None
    reason: str | None
    containers: tuple[ContainerDiagnostics, ...]
    log: tuple[str, ...] | None = None
    manifest: Manifest | None = None


class DiagnosticsReader:
    """Reads what is left of Pods. Safe to use from several threads."""

    def __init__(self, transport: KubeTransport) -> None:
        self._transport = transport

    def statuses(self, pod: Pod, *, manifest: bool = False) -> PodDiagnostics:
        """Return how the Pod's containers fare, its log left out; with its `manifest`, where that is wanted.

        Raises:
            ClusterError: any failure, and a Pod of the same name that is another one.
        """
        request = KubeRequest("get", "GET", _path(pod), timeout=TIMEOUT)
        body = require_success(self._transport.send(request), f"get the Pod {pod}", ("get", "pods", pod.namespace))
        try:
            found = _POD_DETAILS.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InvalidResponseError(f"The answer for {pod} is no Pod ({error}).") from error
        if found.metadata.uid != pod.uid:
            raise InvalidResponseError(f"There is another Pod by now that is called {pod}.")
        status = found.status
        listed = (*(status.init_container_statuses or ()), *(status.container_statuses or ()))
        told = decode_manifest(body) if manifest else None
        containers = tuple(map(_state, listed))
        return PodDiagnostics(found.spec.node_name, status.phase, status.reason, containers, manifest=told)

    def log(self, pod: Pod, container: str, *, lines: int, size: int) -> tuple[str, ...]:
        """Return the last lines that a container has written, at most `size` bytes of them: the latest.

        Raises:
            ClusterError: any failure.
        """
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(MAX_LOG_BYTES)}
        reply = self._transport.send(KubeRequest("get", "GET", (*_path(pod), "log"), query, timeout=TIMEOUT))
        body = require_success(reply, f"read the log of {pod}", ("get", "pods/log", pod.namespace))
        return tuple(body[-size:].decode("utf-8", "replace").splitlines()[-lines:])


def _path(pod: Pod) -> tuple[str, ...]:
    return "api", "v1", "namespaces", pod.namespace, "pods", pod.name


def _state(status: _ContainerStatusDetails) -> ContainerDiagnostics:
    state, last = status.state or _StateDetails(), (status.last_state or _StateDetails()).terminated
    more: dict[str, Any] = {"restarts": status.restart_count, "before": last.reason if last else None}
    if (ended := state.terminated) is not None:
        return ContainerDiagnostics(
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
        return ContainerDiagnostics(status.name, "waiting", state.waiting.reason, **more)
    return ContainerDiagnostics(
        status.name, "running", started=state.running.started_at if state.running else None, **more
    )
