"""What the API server's audit log says: who asked for what, and what the answer was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Object(msgspec.Struct, frozen=True):
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class _Status(msgspec.Struct, frozen=True):
    code: int = 0


class _Line(msgspec.Struct, frozen=True, rename="camel"):
    stage: str
    verb: str
    request_uri: str = msgspec.field(name="requestURI")
    user: _User
    request_received_timestamp: datetime
    stage_timestamp: datetime
    object_ref: _Object = _Object()
    response_status: _Status = _Status()
    user_agent: str = ""
    request_object: Any = None


class AuditEvent(msgspec.Struct, frozen=True):
    """One request, or one stage of a WATCH.

    A plain request has one event (`ResponseComplete`); a WATCH has `ResponseStarted` when it begins and
    `ResponseComplete` when it ends. `verb` is Kubernetes' own word: get, list, watch, create, update, patch, delete,
    deletecollection. `body` is there for deletes, and for writes to pods/status, Events and Leases.
    """

    stage: str
    verb: str
    user: str
    namespace: str
    resource: str
    name: str
    subresource: str
    code: int
    uri: str
    user_agent: str
    received: datetime
    completed: datetime
    body: Any

    @property
    def preconditions(self) -> dict[str, str]:
        """`uid` and `resourceVersion` that a DELETE asked for; empty when it named none."""
        body = self.body if isinstance(self.body, dict) else {}
        return dict(body.get("preconditions") or {})


def read(log: Path, offset: int = 0) -> Iterator[AuditEvent]:
    """The events behind byte `offset`; a last line that is still being written is left out."""
    if not log.exists():
        return
    decoder = msgspec.json.Decoder(_Line)
    with log.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if line.endswith(b"\n"):
                yield _event(decoder.decode(line))


def _event(line: _Line) -> AuditEvent:
    ref = line.object_ref
    return AuditEvent(
        stage=line.stage,
        verb=line.verb,
        user=line.user.username,
        namespace=ref.namespace,
        resource=ref.resource,
        name=ref.name,
        subresource=ref.subresource,
        code=line.response_status.code,
        uri=line.request_uri,
        user_agent=line.user_agent,
        received=line.request_received_timestamp,
        completed=line.stage_timestamp,
        body=line.request_object,
    )
