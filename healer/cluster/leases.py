"""The Lease by which replicas agree who acts: read, created, and replaced only as it was when it was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from healer.cluster.responses import as_object, require_success
from healer.cluster.transport import KubeRequest, KubeTransport
from healer.errors import InvalidResponseError

API = "coordination.k8s.io/v1"


class Lease(Struct, frozen=True):
    """A Lease as it was read or shall be written.

    `duration` is in seconds, whole ones when written; `transitions` counts how often it changed hands. `acquired` and
    `renewed` are RFC 3339 by the holder's wall clock: for people, never compared. `source` is the object as it was
    read, so that a replacement loses nothing of it.
    """

    holder: str = ""
    duration: float = 0.0
    transitions: int = 0
    acquired: str | None = None
    renewed: str | None = None
    annotations: Mapping[str, str] = {}
    resource_version: str = ""
    source: Mapping[str, Any] = {}


_LEASE = msgspec.json.Decoder(Lease)


class LeaseClient:
    """One Lease, by its name. Every call is sent once."""

    def __init__(self, transport: KubeTransport, namespace: str, name: str, *, timeout: float) -> None:
        """Send nothing yet. `timeout` in seconds."""
        self._transport, self._namespace, self._name, self._timeout = transport, namespace, name, timeout

    def get(self) -> Lease | None:
        """Return the Lease as it is now, None if there is none.

        Raises:
            ClusterError: any failure.
        """
        reply = self._transport.send(KubeRequest("get", "GET", self._path(self._name), timeout=self._timeout))
        if reply.status == 404:
            return None
        return _decode(require_success(reply, "read its Lease", ("get", "leases", self._namespace)))

    def create(self, lease: Lease) -> Lease:
        """Create the Lease; return it as it was written.

        Raises:
            ClusterError: any failure; its status is 409 if there is one already.
        """
        body = self._body(lease)
        reply = self._transport.send(KubeRequest("create", "POST", self._path(), body=body, timeout=self._timeout))
        return _decode(require_success(reply, "create its Lease", ("create", "leases", self._namespace)))

    def replace(self, lease: Lease) -> Lease:
        """Write the Lease if it still has this resourceVersion; return it as it was written.

        Raises:
            ClusterError: any failure; its status is 409 if somebody else wrote to it, 404 or 409 if it is gone.
            ValueError: there is no resourceVersion; the API server would take any.
        """
        if not lease.resource_version:
            raise ValueError("A Lease without a resourceVersion can't be replaced safely.")
        path, body = self._path(self._name), self._body(lease)
        reply = self._transport.send(KubeRequest("update", "PUT", path, body=body, timeout=self._timeout))
        return _decode(require_success(reply, "renew its Lease", ("update", "leases", self._namespace)))

    def _path(self, *name: str) -> tuple[str, ...]:
        return ("apis", *API.split("/"), "namespaces", self._namespace, "leases", *name)

    def _body(self, lease: Lease) -> dict[str, Any]:
        metadata = {**lease.source.get("metadata", {}), "name": self._name, "namespace": self._namespace}
        metadata["annotations"] = dict(lease.annotations)
        if lease.resource_version:
            metadata["resourceVersion"] = lease.resource_version
        spec = {
            **lease.source.get("spec", {}),
            "holderIdentity": lease.holder or None,  # the API server refuses an empty one
            "leaseDurationSeconds": max(1, round(lease.duration)),
            "leaseTransitions": lease.transitions,
            "acquireTime": lease.acquired,
            "renewTime": lease.renewed,
        }
        return {"apiVersion": API, "kind": "Lease", "metadata": metadata, "spec": spec}


def _decode(body: bytes) -> Lease:
    try:
        raw = as_object(body)
        metadata, spec = raw.get("metadata") or {}, raw.get("spec") or {}
        return msgspec.convert(
            {
                "holder": spec.get("holderIdentity") or "",
                "duration": spec.get("leaseDurationSeconds") or 0.0,
                "transitions": spec.get("leaseTransitions") or 0,
                "acquired": spec.get("acquireTime"),
                "renewed": spec.get("renewTime"),
                "annotations": metadata.get("annotations") or {},
                "resource_version": metadata.get("resourceVersion") or "",
                "source": {"metadata": metadata, "spec": spec},
            },
            _LEASE.type,
        )
    except (AttributeError, ValueError) as error:
        raise InvalidResponseError(f"The answer is no Lease ({error}).") from error
