"""Which Airflows are known, and how each is asked."""

from __future__ import annotations

import re

from msgspec import Struct

from healer.airflow.api import dialect2, dialect3
from healer.airflow.api.dialect import Dialect

KNOWN = (((2, 10), (2, 11)), ((3, 0), (3, 3)))
"""Oldest and newest version of each kind whose answers are known. Of any other nothing is believed."""

KNOWN_TEXT = "2.10, 2.11 and 3.0 to 3.3"

IN_TURN: tuple[Dialect, ...] = (dialect3, dialect2)
"""In this order a server is asked for its version: each answers 404 to the other's question."""


class Version(Struct, frozen=True):
    """The server's version, and what it can do. What it can't it ignores silently, so it must never be sent."""

    text: str
    number: tuple[int, int]

    @property
    def dialect(self) -> Dialect:
        """How it is asked."""
        return dialect3 if self.number >= (3, 0) else dialect2

    @property
    def maps(self) -> bool:
        """Whether lists can be filtered by `map_index`."""
        return self.number >= (3, 1)

    @property
    def prefixes(self) -> bool:
        """Whether runs can be filtered by `run_id_prefix_pattern`."""
        return self.number >= (3, 2)

    @property
    def state_store(self) -> bool:
        """Whether there is a task state store."""
        return self.number >= (3, 3)


def version_of(text: str) -> Version | str:
    """Return the version, or why nothing that such an Airflow says can be believed, to be read after its URL."""
    found = re.match(r"(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if any(oldest <= number <= newest for oldest, newest in KNOWN):
        return Version(text, number)
    if (0, 0) < number < KNOWN[0][0]:
        # TaskInstance.try_number was a property up to 2.9: one more than the column, but for a running task.
        return (
            f"is Airflow {text[:30]}: up to 2.9 the number of a try depends on the state it is read in, so that nobody "
            f"can tell whose a Pod is; kpo-healer knows Airflow {KNOWN_TEXT}: upgrade to 2.10 or later"
        )
    return (
        f"is Airflow {text[:30]}, of which this kpo-healer knows nothing (it knows {KNOWN_TEXT}): "
        "use a kpo-healer made for it"
    )
