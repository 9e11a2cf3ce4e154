"""`python -m tests.walk`: the way of one orphan from the watch's event to its DELETE, counted in the code as it runs.

One Pod goes through the real store, reconciler, rules, quarantine and limits; Airflow and the API server are fakes, so
that the requests themselves (transports, sockets) are not among the figures. A step is a function of the healer that is
entered on the way, lambdas and what only counts or explains aside; frames are those of the healer on the stack when the
DELETE is asked for. Collections are attributes that hold something by Pod uid, found by their annotations.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from healer.cluster import Listing
from healer.informer import PodStore
from healer.model import PassKind, Pod
from tests.unit.fakes import ORPHANED, World

HOUSE = Path(__file__).parents[1] / "healer"

KEYED = ("dict[str, ", "set[str]", "Mapping[str, ")
"""How an annotation of a collection by uid begins; others by name have a word of these in theirs."""

BY_OTHERS = frozenset(
    [
        "_still",
        "_no_events",
        "_failed",
        "_of_airflows",
        "_begins",
        "_tried",
        "watched",
        "_unreadable",
        "_unavailable",
        "_listed",
        "_labels",
        "_dags",
        "_names",
        "_resources",
        "_found",
        "claims",
        "_of_dags",
        "_lister",
        "_stale",
        "_began",
        "_refuted",
        "_posted",
    ]
)
"""Attributes that hold something by namespace, DAG or Airflow."""

ASIDE = (
    *("metrics", "telemetry", "insights", "notices", "regrets", "waste", "causes", "decision/withheld"),
    *("reconcile/lookout", "reconcile/ledger"),
)
"""Where what is counted, explained and logged is made: beside the way, not on it."""

ASIDE_TOO = (
    "next_event",
    "_export_metrics",
    "_emit_events",
    "_track_would_delete",
    "_check_regrets",
    "snapshot",
    "counts",
)
"""The same in functions of modules that are on the way; and when the next pass is due."""

RULES = ("rules.py", "decision/rules.py", "labels.py", "decision/labels.py", "model.py")
"""Functions of the verdict are one step together: `judge`."""


class Trail:
    """What is entered of the healer, in order, and the stack at the DELETE."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, str]] = []
        self.at_delete: list[str] = []
        self._seen: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        place = _place(frame)
        if event == "call" and place is not None and place not in self._seen:
            self._seen.add(place)
            self.entered.append(place)

    def stop(self, _pod: Pod) -> None:
        """Take down the stack: the DELETE is about to be sent."""
        if not self.at_delete:
            sys.setprofile(None)
            frame: FrameType | None = sys._getframe()
            while frame is not None:
                place = _place(frame)
                self.at_delete += [f"{place[0]}:{place[1]}"] if place else []
                frame = frame.f_back


def _place(frame: FrameType) -> tuple[str, str] | None:
    path = Path(frame.f_code.co_filename)
    if HOUSE not in path.parents or frame.f_code.co_name.startswith("<"):
        return None
    return str(path.relative_to(HOUSE)), frame.f_code.co_qualname if sys.version_info >= (3, 11) else ""


def walked() -> Trail:
    """Send one orphan through the healer until its DELETE is asked for."""
    world, store, trail = World(), PodStore(), Trail()
    pod = world.pod("a", ORPHANED)
    world.cluster.at_delete = trail.stop
    store.replace("airflow", Listing([], "0"), store.generation())

    def step() -> None:
        world.reconciler.reconcile(store.list_pods(), next(depths), world.unreadable)
        world.clock.forward(max(1.0, world.reconciler.next_event() - world.clock()))

    depths: Any = iter([PassKind.FULL, *[PassKind.DUE] * 20])
    sys.setprofile(trail)
    try:
        store.upsert(pod)
        while not trail.at_delete:
            step()
    finally:
        sys.setprofile(None)
    return trail


def collections() -> list[str]:
    """Name the attributes that hold something by Pod uid."""
    found = []
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute)):
                continue
            kind, name = ast.unparse(node.annotation), node.target.attr
            if kind.startswith(KEYED) and name not in BY_OTHERS:
                found.append(f"{path.relative_to(HOUSE)}: {name}")
    return found


def main() -> None:
    trail, by_uid = walked(), collections()
    on_the_way = (place for place in trail.entered if not place[0].startswith((*ASIDE, *RULES)))
    steps = [place for place in on_the_way if not place[1].endswith(ASIDE_TOO)]
    steps += [place for place in trail.entered if place[1] == "judge"]
    files = {file for file, _ in steps}
    lines = sum(len(path.read_text().splitlines()) for path in HOUSE.rglob("*.py"))
    if "-v" in sys.argv:
        print("\n".join(f"{file}:{name}" for file, name in trail.entered))
        print("\non the stack at the DELETE, innermost first:", *trail.at_delete, sep="\n  ")
        print("\nby uid:", *by_uid, sep="\n  ")
    print(f"functions entered {len(trail.entered)}; of these on the way: steps {len(steps)}, files {len(files)}")
    print(f"own frames at the DELETE {len(trail.at_delete)}")
    print(f"collections by Pod uid {len(by_uid)} in {len({each.partition(':')[0] for each in by_uid})} files")
    print(f"lines of healer/ {lines} in {len(list(HOUSE.rglob('*.py')))} files")


if __name__ == "__main__":
    main()
