"""One answer of an API server that was understood."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from msgspec import Struct

from healer.errors import NoAnswerError

T = TypeVar("T")


LONGEST_SAID = 300
"""Characters of what a server says that are told: they come back with each Pod, in the log and in Events."""


def shortened(said: str) -> str:
    """Return what a server says, as long as it may be told."""
    return said if len(said) <= LONGEST_SAID else f"{said[:LONGEST_SAID]}…"


class Problem(Struct, frozen=True):
    """What a refusal says: `title` and `detail` ("" for none), and whether Airflow itself says it of a thing."""

    title: str = ""
    detail: str = ""
    of_airflow: bool = False

    @property
    def text(self) -> str:
        """What there is to tell a user."""
        return shortened(self.detail or self.title)


class AirflowReply(Struct, Generic[T], frozen=True):
    """An answer that was understood: `value` of a 200, or status 401, 403 or 404 with what Airflow says of it.

    `missing`: Airflow itself says, in its very words, that there is no such thing. `forbidden`: it says that a right is
    missing, which a login that has just ended may look like too. `login_refused`: the login is not accepted.
    `sent` is when it was asked and `received` when the answer was there (monotonic seconds), `date` the server's clock
    (seconds since the epoch). `login` tells the logins of this process apart: which one the question was asked with.
    """

    status: int
    sent: float
    value: T | None = None
    said: Problem = Problem()
    date: float | None = None
    received: float = math.inf
    login: int = 0
    missing: bool = False
    forbidden: bool = False
    login_refused: bool = False

    @property
    def known(self) -> T:
        """The value, where the status is known to be 200."""
        if self.value is None:
            raise NoAnswerError("Airflow's answer is empty")
        return self.value

    @property
    def answers(self) -> bool:
        """Whether it is an answer of Airflow's own: a value, or a 404 in its own words."""
        return self.status in (200, 201) or (self.status == 404 and self.said.of_airflow)
