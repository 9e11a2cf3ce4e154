"""What was healed lately: a ring of findings with the moment of their deletion, for people.

It informs and decides nothing: losing it, or finding garbage in what is left of it, changes no decision. Entries are
kept as the JSON in which they are served, so that thousands of them cost little to hold and nothing to serve.
"""

from __future__ import annotations

import secrets
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from healer.model import rfc3339

MAX_AGE = 14 * 86400.0
"""Seconds that an entry is kept."""

MAX_ENTRIES = 2000

MAX_PACKED = 700 << 10
"""Bytes of a packed history: in base64 and with its ConfigMap it stays below the 1 MiB that the API server takes."""

MAX_UNPACKED = 32 << 20
"""Bytes beyond which what is packed is not unpacked: no history is so long."""

TOLERANCE = 86400.0
"""Seconds by which a saved entry may be of the future, since clocks differ; one beyond would never grow old."""

FORMAT = 1
"""Version of the packed form. Another one is not read."""


Moment = Annotated[datetime, Meta(tz=True)]


class InvalidHistoryError(ValueError):
    """This is no packed history; the text says why."""


class HistoryEntry(Struct, frozen=True, gc=False):
    """One deletion. `document` is the finding in JSON with `deleted`, which is also here, in epoch seconds."""

    uid: str
    airflow: str
    dag_id: str | None
    deleted: float
    document: bytes


class _Task(Struct):
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int | None
    state: str | None


class _Holds(Struct):
    cpu_cores: float
    memory_bytes: float
    extended: dict[str, float]
    since: Moment | None


class _Cause(Struct):
    name: str
    detail: str
    remedy: str


class _Notice(Struct):
    name: str
    detail: str


class _Told(Struct):
    """The form of an entry: whoever may write the ConfigMap can't serve something else by it."""

    namespace: str
    pod: str
    uid: str
    airflow: str
    dag_id: str | None
    task: _Task | None
    labels: dict[str, str]
    reason: str
    action: str
    withheld: str | None
    detail: str
    since: Moment | None
    due: Moment | None
    created: Moment | None
    holds: _Holds | None
    cause: _Cause | None
    notices: list[_Notice]
    deleted: Moment


class _Packed(Struct):
    """A history as it is saved. `since`: all that was deleted later is in it, but for what was cut off."""

    format: int
    since: Moment
    entries: list[Raw]


_TOLD, _PACKED = msgspec.json.Decoder(_Told), msgspec.json.Decoder(_Packed)


class History:
    """The deletions of the last 14 days, at most 2,000. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with none. `clock` tells epoch seconds, best the API server's."""
        self._clock, self._lock = clock, threading.Lock()
        self._entries: dict[str, HistoryEntry] = {}
        self._since, self._term = clock(), 0
        self._identity, self._version = secrets.token_hex(4), 0
        self.on_begin: Callable[[], None] = lambda: None
        """Called when a term begins: what was saved in earlier ones may be read."""
        self.on_record: Callable[[], None] = lambda: None
        """Called when there is something new to be saved."""

    @property
    def since(self) -> float:
        """From when on it is complete (epoch seconds), as far as it reaches back at all."""
        return max(self._since, self._clock() - MAX_AGE)

    @property
    def tag(self) -> str:
        """A text that is another one whenever the history is, also in another process."""
        return f"{self._identity}-h{self._version}-{int(self._clock() // 3600)}"

    def begin(self, term: int) -> None:
        """Note that this replica leads, in its `term`-th term: what others have deleted before is not known to it."""
        with self._lock:
            if term == self._term:
                return
            self._term, self._since = term, self._clock()
            self._version += 1
        self.on_begin()

    def record(self, deleted: Iterable[Mapping[str, Any]]) -> None:
        """Add findings that were deleted just now, in the form of the JSON output. One Pod is one entry."""
        now = self._clock()
        made = [_entry(finding, now) for finding in deleted]
        with self._lock:
            new = [entry for entry in made if entry.uid not in self._entries]
            self._add(new)
        if new:
            self.on_record()

    def select(self, *, days: float = 14.0, airflow: str | None = None, dag_id: str | None = None) -> list[bytes]:
        """Return the entries of the last so many days in JSON, newest first."""
        oldest = self._clock() - days * 86400
        return [
            entry.document
            for entry in reversed(self._in_order())
            if entry.deleted >= oldest and airflow in {None, entry.airflow} and dag_id in {None, entry.dag_id}
        ]

    def pack(self) -> bytes:
        """Return all of it, compressed: as many of the newest entries as there is room for."""
        entries, since = self._in_order(), self.since
        while True:
            packed = zlib.compress(_json(entries, since), wbits=GZIP)
            if len(packed) <= MAX_PACKED or not entries:
                return packed
            # What others wrote into their ids may not compress at all.
            cut = entries[: len(entries) // 4 + 1]
            entries, since = entries[len(cut) :], max(since, cut[-1].deleted)

    def merge(self, packed: bytes) -> int:
        """Add what was saved earlier, by this replica or another one. Return how many entries that were.

        Raises InvalidHistoryError; nothing is added then.
        """
        saved = _unpacked(packed)
        now = self._clock()
        entries = [entry for raw in saved.entries if (entry := _read(raw, now)) is not None]
        with self._lock:
            self._since = min(self._since, saved.since.timestamp())
            new = [entry for entry in entries if entry.uid not in self._entries]
            self._add(new)
        return len(new)

    def _add(self, new: Iterable[HistoryEntry]) -> None:
        """Add entries and let the oldest go. Called with the lock held."""
        oldest = self._clock() - MAX_AGE
        together = sorted([*self._entries.values(), *new], key=attrgetter("deleted"))
        kept = [entry for entry in together if entry.deleted >= oldest][-MAX_ENTRIES:]
        if len(together) > len(kept) and together[-len(kept) - 1].deleted >= oldest:
            self._since = max(self._since, together[-len(kept) - 1].deleted)  # until then there was more
        self._entries = {entry.uid: entry for entry in kept}
        self._version += 1

    def _in_order(self) -> list[HistoryEntry]:
        with self._lock:
            return list(self._entries.values())


GZIP = 16 + zlib.MAX_WBITS
"""So that `gunzip` understands it too."""


def _entry(finding: Mapping[str, Any], deleted: float) -> HistoryEntry:
    document = msgspec.json.encode({**finding, "deleted": rfc3339(deleted)})
    return HistoryEntry(finding["uid"], finding["airflow"], finding.get("dag_id"), deleted, document)


def _json(entries: Iterable[HistoryEntry], since: float) -> bytes:
    head = msgspec.json.encode({"format": FORMAT, "since": rfc3339(since)})[:-1]
    return head + b',"entries":[' + b",".join(entry.document for entry in entries) + b"]}"


def _unpacked(packed: bytes) -> _Packed:
    try:
        decompressor = zlib.decompressobj(wbits=GZIP)
        text = decompressor.decompress(packed, MAX_UNPACKED)
        if decompressor.unconsumed_tail or not decompressor.eof:
            raise InvalidHistoryError("it is cut off or too long")
        saved = _PACKED.decode(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise InvalidHistoryError(f"it can't be read: {error}") from None
    if saved.format != FORMAT:
        raise InvalidHistoryError(f"it is of format {saved.format}, not {FORMAT}")
    return saved


def _read(raw: Raw, now: float) -> HistoryEntry | None:
    """Return a saved entry, None for what is none: it is only left out."""
    try:
        told = _TOLD.decode(raw)
        deleted = told.deleted.timestamp()
        # Written anew: in what is left away here may stand what no reader can decode.
        document = msgspec.json.encode(told)
    except (ValueError, OverflowError, RecursionError):
        return None
    if deleted > now + TOLERANCE:
        return None
    return HistoryEntry(told.uid, told.airflow, told.dag_id, deleted, document)
