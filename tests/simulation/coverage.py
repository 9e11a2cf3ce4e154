"""What a long enough walk must have seen at least once: each reason, fault, move and outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from healer.model import DeleteStatus, Reason, Withheld
from tests.simulation.answers import REFUSALS
from tests.simulation.moves import DELETES, HINTS, LEASES, MODES, MOVES

_HEALED = ("orphaned", "finished", "kept", "superseded", "abandoned", "task-removed", "run-deleted", "purged")
_KPO = (
    "adopted",
    "created",
    "found",
    "found more than one",
    "gave up",
    "kept",
    "replaced",
    "cleanup lost",
    "name taken",
    "marked a twin",
    "killed, Pod deleted",
    "killed, Pod left",
)
_LEASE = ("get", "create", "replace", "conflict", *LEASES)
_HEALERS = ("take-over", "term", "sent after the leadership was lost")

ENOUGH = 20_000
"""Histories after which nothing may be missing."""


@dataclass(frozen=True)
class Part:
    """A part of the table: its title and what it expects, by the names that the tally counts."""

    title: str
    names: tuple[str, ...]


PARTS = (
    Part("Findings of the rules, passes in which each occurred", tuple(f"reason: {r.value}" for r in Reason)),
    Part("Right deletions, by reason", tuple(f"healed: {name}" for name in _HEALED)),
    Part("What happened (moves of the models)", tuple(f"move: {name}" for name in MOVES)),
    Part("What KubernetesPodOperator did", tuple(f"KPO: {name}" for name in _KPO)),
    Part("Airflow's answers", tuple(f"Airflow: {mode}" for mode in ("clear", *MODES, *REFUSALS))),
    Part("What became of a DELETE on the wire", tuple(f"DELETE: {n}" for n in (*DELETES, "200", "404", "409"))),
    Part("What became of a decision", tuple(f"deletion: {n}" for n in (*(r.value for r in DeleteStatus), "refuted"))),
    Part("What was withheld", tuple(f"withheld: {why.value}" for why in Withheld)),
    Part("Hints of the watch that began to be", tuple(f"hints: {mode}" for mode in HINTS)),
    Part("Requests about the Lease, and what they met", tuple(f"Lease: {name}" for name in _LEASE)),
    Part(
        "Healers", ("take-over", "term", "sent after the leadership was lost", "pass: audit", "pass: full", "pass: due")
    ),
    Part("Counted apart", ("window", "stale replica", "restored to the same row", "namesake")),
)

EXPECTED = tuple(name for part in PARTS for name in part.names)


def missing(counts: Mapping[str, int]) -> list[str]:
    """Return what was expected and never seen."""
    return [name for name in EXPECTED if not counts.get(name)]
