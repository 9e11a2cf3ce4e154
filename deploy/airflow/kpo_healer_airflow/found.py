"""The findings in the order in which they are shown, and what those of each DAG come to.

Made once for each answer of the healer: of 10,000 findings a viewer is shown 500 rows and the figures of all, so each
of them asks for the sums of some DAGs, and for no finding that they don't see.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

from msgspec import Struct

from kpo_healer_airflow.wire import Finding

__all__ = ["Found", "Sums", "begun", "fate", "sums"]

_NEVER = datetime.max.replace(tzinfo=timezone.utc)


class Sums(Struct, frozen=True):
    """What some findings come to. oldest: since when the first of them is not needed; next_due: of those due `soon`."""

    pods: int = 0
    fates: Mapping[str, int] = {}
    reasons: Mapping[str, int] = {}
    oldest: datetime | None = None
    next_due: datetime | None = None
    cpu_cores: float = 0.0
    memory_bytes: float = 0.0
    extended: Mapping[str, float] = {}

    @staticmethod
    def of_all(parts: Iterable[Sums]) -> Sums:
        """Return what these come to together."""
        parts = list(parts)
        fates, reasons, extended = Counter[str](), Counter[str](), defaultdict[str, float](float)
        for part in parts:
            fates.update(part.fates)
            reasons.update(part.reasons)
            for name, amount in part.extended.items():
                extended[name] += amount
        return Sums(
            sum(part.pods for part in parts),
            fates,
            reasons,
            min((part.oldest for part in parts if part.oldest), default=None),
            min((part.next_due for part in parts if part.next_due), default=None),
            sum(part.cpu_cores for part in parts),
            sum(part.memory_bytes for part in parts),
            extended,
        )


class Found(Struct, frozen=True):
    """All findings of one answer. places: where in `findings` those of a DAG are; sums: what they come to. By DAG id,
    None where none is proven."""

    findings: Sequence[Finding] = ()
    places: Mapping[str | None, Sequence[int]] = {}
    sums: Mapping[str | None, Sums] = {}

    @staticmethod
    def of(findings: Iterable[Finding]) -> Found:
        """Put them in order, and add up those of each DAG."""
        ordered = sorted(findings, key=_order)
        places: dict[str | None, list[int]] = {}
        for place, finding in enumerate(ordered):
            dag = finding.dag
            if dag in places:
                places[dag].append(place)
            else:
                places[dag] = [place]
        return Found(ordered, places, {dag: sums([ordered[n] for n in these]) for dag, these in places.items()})


def fate(finding: Finding) -> str:
    """Return what happens to the Pod: `soon`, `paused` or `reported`."""
    withheld = finding.withheld
    if finding.action != "delete" or withheld == "report-mode" or withheld == "ownership":
        return "reported"
    return "paused" if withheld == "breaker" else "soon"


def begun(finding: Finding) -> datetime | None:
    """Return since when nobody has needed the Pod, as far as that is known."""
    holds = finding.holds
    return (holds.since if holds is not None else None) or finding.since


def sums(findings: Sequence[Finding]) -> Sums:
    """Add all up in one walk, for there may be 10,000."""
    fates: dict[str, int] = defaultdict(int)
    reasons: dict[str, int] = defaultdict(int)
    extended: dict[str, float] = defaultdict(float)
    cpu = memory = 0.0
    oldest = next_due = None
    for finding in findings:
        holds, due, its_fate, since = finding.holds, finding.due, fate(finding), begun(finding)
        fates[its_fate] += 1
        reasons[finding.reason] += 1
        if since is not None and (oldest is None or since < oldest):
            oldest = since
        if its_fate == "soon" and due is not None and (next_due is None or due < next_due):
            next_due = due
        if holds is not None:
            cpu += holds.cpu_cores
            memory += holds.memory_bytes
            for name, amount in holds.extended.items():
                extended[name] += amount
    return Sums(len(findings), fates, reasons, oldest, next_due, cpu, memory, extended)


def _order(finding: Finding) -> tuple[datetime, float, float, str]:
    """What is due first comes first, then what holds the most."""
    due = finding.due if finding.action == "delete" and finding.withheld != "report-mode" else None
    cpu, memory = (finding.holds.cpu_cores, finding.holds.memory_bytes) if finding.holds else (0.0, 0.0)
    return due or _NEVER, -cpu, -memory, finding.pod
