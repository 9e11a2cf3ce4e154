"""Kubernetes Events on Pods, as `kubectl describe pod` shows them."""

from __future__ import annotations

import socket
from enum import StrEnum
from hashlib import sha256
from typing import Any

from healer.model import Pod, rfc3339

COMPONENT = "kpo-healer"
MAX_NAME = 253
MAX_MESSAGE = 1024
"""What kubectl and the API server take: longer messages of core/v1 Events are refused."""


class EventResult(StrEnum):
    """What became of an Event."""

    NEW = "new"
    RENEWED = "renewed"
    DENIED = "denied"
    FAILED = "failed"


def event_name(pod: Pod, reason: str, suffix: str = "") -> str:
    """Return the same name for the same Pod, reason and suffix, so that a repetition renews the Event it repeats."""
    digest = sha256(f"{pod.uid}/{reason}/{suffix}".encode()).hexdigest()[:16]
    return f"{pod.name[: MAX_NAME - len(digest) - 1].rstrip('.-')}.{digest}"


def event_body(pod: Pod, *, name: str, reason: str, message: str, warning: bool, now: float) -> dict[str, Any]:
    """Return a core/v1 Event; `now` is the API server's time in seconds since the epoch."""
    time = rfc3339(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "resourceVersion": pod.resource_version,
        },
        "reason": reason,
        "message": message[:MAX_MESSAGE],
        "type": "Warning" if warning else "Normal",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": socket.gethostname(),
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
