"""What really became of each Pod, by the API server's own record, and whether it is what should have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from tests.lab.audit import AuditEvent
from tests.lab.demo.cast import Fate, Role

UNTOUCHED = "not looked at"


@dataclass(frozen=True)
class Row:
    """One Pod's line of the table. deleted: when kpo-healer did it (epoch seconds); after: how soon (seconds)."""

    role: Role
    did: str
    reason: str
    good: bool
    deleted: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Claim:
    """One thing that must be true, in a sentence."""

    text: str
    good: bool


@dataclass(frozen=True)
class Evidence:
    """What is known at the end.

    alive: uids of the Pods that are there. events: kpo-healer's DELETEs by the audit log. said: the last reason that
    kpo-healer gave, by uid. since: when kpo-healer was let loose (epoch seconds).
    """

    alive: Collection[str]
    events: Sequence[AuditEvent]
    said: Mapping[str, str]
    since: float

    def deletion(self, role: Role) -> AuditEvent | None:
        """The DELETE by which kpo-healer ended this Pod."""
        return next((event for event in self.events if event.code == 200 and _meant(event, role)), None)


def _meant(event: AuditEvent, role: Role) -> bool:
    """A DELETE that names no uid hits whoever has the name."""
    return event.name == role.name and event.preconditions.get("uid", role.uid) == role.uid


def judge(role: Role, evidence: Evidence) -> Row:
    """The line of one Pod."""
    event = evidence.deletion(role)
    reason = evidence.said.get(role.uid, UNTOUCHED)
    if role.uid in evidence.alive:
        return Row(role, Fate.LIVES, reason, _fits(role, Fate.LIVES, reason))
    if event is None:
        return Row(role, Fate.GOES, reason, _fits(role, Fate.GOES, reason))
    at = event.received.timestamp()
    after = at - max(role.began or 0, evidence.since)
    return Row(role, Fate.HEALED, reason, _fits(role, Fate.HEALED, reason), at, after)


def _fits(role: Role, did: Fate, reason: str) -> bool:
    return role.should is did and reason == (role.reason or UNTOUCHED)


def unaccounted(events: Sequence[AuditEvent], cast: Sequence[Role]) -> list[AuditEvent]:
    """DELETEs that were carried out on a Pod that should not have been deleted, or that nobody knows."""
    meant = {(role.name, role.uid) for role in cast if role.should is Fate.HEALED}
    return [
        event for event in events if event.code == 200 and (event.name, event.preconditions.get("uid")) not in meant
    ]


def hasty(rows: Sequence[Row], retention: Mapping[str, float]) -> list[Row]:
    """Pods that were deleted before the retention of their reason, counted from the end of their work, was over."""
    retained = [row for row in rows if row.reason in retention and row.deleted is not None]
    return [row for row in retained if (row.deleted or 0) < (row.role.began or 0) + retention[row.reason]]


def careless(events: Sequence[AuditEvent]) -> list[AuditEvent]:
    """DELETEs that did not name both the uid and the version of the Pod that was judged."""
    return [event for event in events if event.preconditions.keys() != {"uid", "resourceVersion"}]


def table(rows: Sequence[Row]) -> Table:
    """Every Pod: what should have happened, what did, why, and after how long."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "pod", "story", "should", "did", "kpo-healer says", "after"):
        made.add_column(heading, justify="right" if heading == "after" else "left", overflow="fold")
    for row in sorted(rows, key=lambda row: (row.good, list(Fate).index(row.role.should))):
        made.add_row(*_cells(row))
    return made


def _cells(row: Row) -> tuple[Text, ...]:
    mark = Text("ok", "green") if row.good else Text("WRONG", "bold red")
    after = "" if row.after is None else f"{row.after:.1f} s"
    colour = {Fate.LIVES: "green", Fate.HEALED: "red", Fate.GOES: "dim"}[Fate(row.did)]
    plain = (row.role.name, row.role.story, row.role.should.value)
    wrong_reason = row.reason != (row.role.reason or UNTOUCHED)
    reason = f"{row.reason} (not {row.role.reason or UNTOUCHED})" if wrong_reason else row.reason
    return (mark, *map(Text, plain), Text(row.did, colour), Text(reason), Text(after))
