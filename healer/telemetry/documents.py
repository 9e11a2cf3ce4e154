"""Findings in JSON, each written once: ten thousand hardly change from pass to pass, but for their times.

The times of a suspect are told in the API server's time, whose second begins somewhere else in each answer, so they are
put in anew; the rest is kept as long as the finding is the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from healer.model import rfc3339
from healer.telemetry.findings import FindingView

_SINCE, _DUE = b'"since":', b',"due":'
_TIMELESS = _SINCE + b"null" + _DUE + b"null"
"""Where the times stand. No text can hold it: within a text each quote is escaped."""


class _Document(Struct, frozen=True, gc=False):
    """What a finding without its times is in JSON, before and after them, with a comma at the end."""

    view: FindingView
    head: bytes
    tail: bytes


class Documents:
    """Writes findings, and keeps what it has written as long as the picture holds them. Not for several threads."""

    def __init__(self) -> None:
        """Start with none."""
        self._picture: object = None
        self._kept: dict[tuple[str, str], _Document] = {}
        self._earlier: dict[tuple[str, str], _Document] = {}

    def write(self, views: Iterable[FindingView], picture: object) -> bytes:
        """Return these findings as a JSON array. `picture`: which one they are of; what it lacks is forgotten."""
        if picture != self._picture:
            self._picture, self._kept, self._earlier = picture, {}, self._kept
        times: dict[float | None, bytes] = {}  # what was found in one pass has the same ones
        parts = [b"["]
        for view in views:
            document = self._document(view)
            for moment in (view.since, view.due):
                if moment not in times:
                    times[moment] = msgspec.json.encode(rfc3339(moment))
            parts += (document.head, _SINCE, times[view.since], _DUE, times[view.due], document.tail)
        if len(parts) > 1:
            parts[-1] = parts[-1][:-1]  # its comma
        return b"".join([*parts, b"]"])

    def _document(self, view: FindingView) -> _Document:
        key = view.airflow, view.pod.uid
        timeless = replace(view, since=None, due=None)
        known = self._kept.get(key) or self._earlier.get(key)
        if known is None or known.view != timeless:
            head, _, tail = msgspec.json.encode(timeless.to_dict()).partition(_TIMELESS)
            known = _Document(timeless, head, tail + b",")
        self._kept[key] = known
        return known
