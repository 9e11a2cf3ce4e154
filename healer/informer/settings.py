"""kopf's settings: as slim and as silent as it can be."""

from __future__ import annotations

from typing import Any

import kopf

from healer.informer.backoff import ApiBackoff
from healer.informer.status import SERVER_TIMEOUT
from healer.model import POD_SELECTOR

PAGE_SIZE = 500
IDLE_TIMEOUT = 0.1
"""Seconds after which kopf's worker of a quiet Pod ends: with the default of 5 s, 10,000 Pods cost 460 MB, not 120."""
REQUEST_TIMEOUT = 30.0
CONNECT_TIMEOUT = 10.0


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf would else copy and compare each Pod at each event, for handlers that we don't have."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nowhere to write to: our one handler has no progress."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def quiet_settings() -> kopf.OperatorSettings:
    """Return settings by which nothing is ever written, neither to Pods nor as Events."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # else it SIGKILLs us ten minutes after it died
    settings.scanning.disabled = True  # exact namespaces: nothing to discover, and no rights to do so
    settings.posting.enabled = False
    settings.persistence.finalizer = "kpo-healer.invalid/never-used"  # it strips its default one, whoever set it
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.queueing.idle_timeout = IDLE_TIMEOUT
    settings.watching.chunk_size = PAGE_SIZE
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.label_selectors["", "v1", "pods"] = POD_SELECTOR
    settings.networking.request_timeout = REQUEST_TIMEOUT
    settings.networking.connect_timeout = CONNECT_TIMEOUT
    settings.networking.error_backoffs = ApiBackoff()
    return settings
