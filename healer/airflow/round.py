"""One round of questions: what the server's version can do, and when to stop asking one that does not answer."""

from __future__ import annotations

import atexit
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.pool import ThreadPool
from typing import TypeVar

from msgspec import Struct

from healer.airflow import rows
from healer.airflow.client import Client, Reply
from healer.airflow.transport import CONCURRENCY, NoAnswerError, Reach, Request

T = TypeVar("T")
S = TypeVar("S")

OLDEST = (3, 0)
NEWEST = (3, 3)
"""The versions of Airflow whose answers are known. Of any other nothing is believed."""

PATIENCE = 20
"""Failures in a row after which no more is asked. Halving down to one bad row among 500 fails about ten times."""

COST = {Reach.CALL: 1, Reach.SLOW: 7, Reach.SERVER: PATIENCE}
"""What each kind of failure takes from it: three timeouts in a row are enough."""

VERSION_PATIENCE = 10.0
"""Seconds to wait for the version: it takes a millisecond, so that a silent server is known for one soon."""


class Version(Struct, frozen=True):
    """The server's version, and what it can do. What it can't it ignores silently, so it must never be sent."""

    text: str
    number: tuple[int, int]

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


def ask_version(client: Client) -> Version:
    """Return the server's version. Raises NoAnswerError where it gives none, or one that is not known here."""
    reply = client.open(Request("version", "/api/v2/version", patience=VERSION_PATIENCE), rows.version)
    if reply.status == 404:
        _refuse_airflow_2(client)
    text = client.positive(reply).known
    found = re.match(r"(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if not OLDEST <= number <= NEWEST:
        raise NoAnswerError(
            f"{client.url} is Airflow {text[:30]}, of which this kpo-healer knows nothing (it knows 3.0 to 3.3): "
            "use a kpo-healer made for it",
            Reach.SERVER,
        )
    return Version(text, number)


def _refuse_airflow_2(client: Client) -> None:
    try:
        reply = client.open(Request("version", "/api/v1/version", patience=VERSION_PATIENCE), rows.version)
    except NoAnswerError:
        return
    if reply.status == 200:
        raise NoAnswerError(
            f"{client.url} is Airflow {reply.known[:30]}: kpo-healer needs Airflow 3.0 to 3.3", Reach.SERVER
        )


class Versions:
    """Remembers the version: asked at first use, at each audit, and after a failure."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen: str | None = None
        self._known: Version | None = None

    @property
    def text(self) -> str | None:
        """The last version seen, None after one that could not be told."""
        return self._seen

    def now(self) -> Version:
        """Return the version. Raises NoAnswerError."""
        if self._known is None:
            self._seen = None
            self._known = ask_version(self._client)
            self._seen = self._known.text
        return self._known

    def doubt(self) -> None:
        """Ask again before the next round: there may be another version by now."""
        self._known = None


class Round:
    """Asks, and gives up when too much in a row has failed. Safe to use from a few threads."""

    def __init__(self, client: Client, version: Version) -> None:
        self._client = client
        self.version = version
        self._left = PATIENCE
        self._given_up: NoAnswerError | None = None
        self.failures = 0

    @property
    def given_up(self) -> bool:
        """Whether nothing more will be asked."""
        return self._given_up is not None

    def ask(self, request: Request, decode: Callable[[bytes], T]) -> Reply[T]:
        """Return a 200, 403 or 404. Raises NoAnswerError, at once when the round has been given up."""
        with self._counted():
            return self._client.ask(request, decode)

    def need(self, request: Request, decode: Callable[[bytes], T]) -> Reply[T]:
        """Return a 200. Raises NoAnswerError, at once when the round has been given up."""
        with self._counted():
            return self._client.need(request, decode)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._given_up is not None:
            raise self._given_up
        try:
            yield
        except NoAnswerError as failed:
            self.failures += 1
            # Threads may lose a count to each other: it bounds effort, nothing is concluded from it.
            self._left -= COST[failed.reach]
            if self._left <= 0:
                self._given_up = failed
            raise
        self._left = PATIENCE

    def positive(self, reply: Reply[T]) -> Reply[T]:
        """Return the reply if it is a 200. Raises NoAnswerError otherwise."""
        return self._client.positive(reply)


def side_by_side(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return the work's results in order, a few done at a time. `work` must not raise, nor call this itself."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    return workers().map(work, todo, chunksize=1)


@cache
def workers() -> ThreadPool:
    """Return the process's threads for questions, which stay: a pool that comes and goes costs more than an answer.

    Daemon threads: a server that is silent must not hold up the end of the process.
    """
    pool = ThreadPool(CONCURRENCY)
    atexit.register(pool.terminate)
    return pool
