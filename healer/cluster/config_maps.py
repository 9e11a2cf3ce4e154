"""One ConfigMap of the healer's own: read, created, and replaced only as it was when it was read."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from healer.cluster.responses import as_object, dig, require_success
from healer.cluster.transport import KubeRequest, KubeTransport


class ConfigMap(Struct, frozen=True):
    """A ConfigMap with one binary value under `key`; `data` is None where it has none that can be decoded.

    `metadata` is the object's as it was read, so that a replacement loses nothing of it.
    """

    data: bytes | None
    resource_version: str = ""
    metadata: Mapping[str, Any] = {}


class ConfigMapClient:
    """One ConfigMap, by its name. Every call is sent once."""

    def __init__(self, transport: KubeTransport, namespace: str, name: str, key: str, *, timeout: float) -> None:
        """Send nothing yet. `timeout` in seconds."""
        self._transport, self._timeout = transport, timeout
        self._namespace, self._name, self._key = namespace, name, key

    def __str__(self) -> str:
        """`namespace/name`, for messages."""
        return f"{self._namespace}/{self._name}"

    def get(self) -> ConfigMap | None:
        """Return it as it is now, None if there is none.

        Raises:
            ClusterError: any failure.
        """
        reply = self._transport.send(KubeRequest("get", "GET", self._path(self._name), timeout=self._timeout))
        if reply.status == 404:
            return None
        return self._decode(require_success(reply, "read a ConfigMap", ("get", "configmaps", self._namespace)))

    def create(self, data: bytes) -> ConfigMap:
        """Create it; return it as it was written.

        Raises:
            ClusterError: any failure; its status is 409 if there is one already.
        """
        body = self._body(data, {})
        reply = self._transport.send(KubeRequest("create", "POST", self._path(), body=body, timeout=self._timeout))
        return self._decode(require_success(reply, "create a ConfigMap", ("create", "configmaps", self._namespace)))

    def replace(self, seen: ConfigMap, data: bytes) -> ConfigMap:
        """Write `data` if it still is as it was `seen`; return it as it was written.

        Raises:
            ClusterError: any failure; its status is 409 if somebody else wrote to it, 404 or 409 if it is gone.
        """
        path, body = self._path(self._name), self._body(data, seen.metadata)
        body["metadata"]["resourceVersion"] = seen.resource_version
        reply = self._transport.send(KubeRequest("update", "PUT", path, body=body, timeout=self._timeout))
        return self._decode(require_success(reply, "write a ConfigMap", ("update", "configmaps", self._namespace)))

    def _path(self, *name: str) -> tuple[str, ...]:
        return ("api", "v1", "namespaces", self._namespace, "configmaps", *name)

    def _body(self, data: bytes, metadata: Mapping[str, Any]) -> dict[str, Any]:
        named = {**metadata, "name": self._name, "namespace": self._namespace}
        values = {self._key: b64encode(data).decode()}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "binaryData": values}

    def _decode(self, body: bytes) -> ConfigMap:
        raw = as_object(body)
        metadata = raw.get("metadata")
        text = dig(raw.get("binaryData"), self._key)
        try:
            data = b64decode(text, validate=True) if isinstance(text, str) else None
        except (binascii.Error, ValueError):
            data = None
        known = metadata if isinstance(metadata, dict) else {}
        return ConfigMap(data, str(known.get("resourceVersion") or ""), known)
