"""What a long enough walk must have seen at least once: each reason, fault, move and outcome."""

from __future__ import annotations

from healer.cluster import Result
from healer.model import Reason, Withheld
from tests.simulation.moves import DELETES, MODES, MOVES

_HEALED = ("orphaned", "finished", "kept", "superseded", "abandoned", "task-removed", "run-deleted")
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
    "killed, Pod deleted",
    "killed, Pod left",
)

EXPECTED = (
    *(f"reason: {reason.value}" for reason in Reason),
    *(f"move: {name}" for name in MOVES),
    *(f"healed: {name}" for name in _HEALED),
    *(f"KPO: {name}" for name in _KPO),
    *(f"Airflow: {mode}" for mode in ("clear", *MODES)),
    *(f"DELETE: {name}" for name in (*DELETES, "200", "404", "409")),
    *(f"deletion: {name}" for name in (*(result.value for result in Result), "refuted")),
    *(f"withheld: {why.value}" for why in Withheld),
    "window",
    "stale replica",
)
