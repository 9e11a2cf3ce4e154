"""The part of the API server's audit log that the verdict needs, read as it grows."""

from __future__ import annotations

import itertools
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.chaos.replicas import LEASE
from tests.lab import audit
from tests.lab.audit import AuditEvent

Json = Any

_WANTED: Final = re.compile(rb'"verb":"delete"|"resource":"leases"')


@dataclass(frozen=True)
class Deletion:
    """A DELETE of a Pod. at: when the API server received it, epoch seconds. by: healer, kpo or other."""

    at: float
    by: str
    user: str
    name: str
    code: int
    uid: str | None
    version: str | None

    @property
    def accepted(self) -> bool:
        return 200 <= self.code < 300


@dataclass(frozen=True)
class Renewal:
    """A Lease that the API server accepted. at: when it received it. holder: the identity in it; user: who sent it."""

    at: float
    user: str
    holder: str


class AuditTail:
    """DELETEs of Pods in one namespace, and the Lease's holders, so far."""

    def __init__(self, log: Path, namespace: str, healers: frozenset[str]) -> None:
        self._log, self._namespace, self._healers = log, namespace, healers
        self._offset = 0
        self._lock = threading.Lock()
        self._decoder = msgspec.json.Decoder(audit._Line)
        self.deletions: list[Deletion] = []
        self.renewals: list[Renewal] = []

    def update(self) -> None:
        """Reads what has come since the last time."""
        with self._lock, self._log.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                if _WANTED.search(line):
                    self._take(audit._event(self._decoder.decode(line)))

    def _take(self, event: AuditEvent) -> None:
        if event.stage != "ResponseComplete":
            return
        at = event.received.timestamp()
        if event.resource == "pods" and event.verb == "delete" and event.namespace == self._namespace:
            uid, version = (event.preconditions.get(name) for name in ("uid", "resourceVersion"))
            self.deletions.append(Deletion(at, self._who(event), event.user, event.name, event.code, uid, version))
        elif (
            event.resource == "leases"
            and event.name == LEASE
            and event.verb in {"create", "update", "patch"}
            and event.code in {200, 201}
        ):
            spec = (event.body or {}).get("spec") or {}
            self.renewals.append(Renewal(at, event.user, spec.get("holderIdentity") or ""))

    def _who(self, event: AuditEvent) -> str:
        if event.user in self._healers:
            return "healer"
        return "other" if event.user_agent == "lab" else "kpo"

    @property
    def take_overs(self) -> list[tuple[float, str, str]]:
        """When the Lease went from one replica to another: (epoch seconds, from, to), by the names of their users."""
        held = [renewal for renewal in self.renewals if renewal.holder]
        pairs = itertools.pairwise(held)
        return [(b.at, a.user, b.user) for a, b in pairs if a.user != b.user]

    def holder_at(self, moment: float) -> str | None:
        """The user of the replica that was the last to write the Lease; None when it was nobody's."""
        last = next((r for r in reversed(self.renewals) if r.at <= moment), None)
        return last.user if last is not None and last.holder else None
