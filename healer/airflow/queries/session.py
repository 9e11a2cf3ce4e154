"""One round of questions: what the server's version can do, and when to stop asking one that does not answer."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from typing import Any, TypeVar

from healer.airflow.api.client import VERSION_TIMEOUT, AirflowClient
from healer.airflow.api.dialect import BEYOND, Ask, Dialect
from healer.airflow.api.dialects import Version
from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.task_key import TaskKey
from healer.airflow.api.transport import CONCURRENCY
from healer.airflow.queries.turns import Turns
from healer.clock import boottime
from healer.errors import FailureScope, LeftAloneError, LoginRefusedError, NoAnswerError

T = TypeVar("T")
S = TypeVar("S")

SUSPICION = 10
"""Failures in a row after which a question that depends on nothing is asked, to tell a server that fails from questions
that do. After each one that is answered it takes twice as many, up to `LONGEST_SUSPICION`."""

LONGEST_SUSPICION = 160

SLOWEST = 3
"""Timeouts in a row after which no more is asked."""

SERVERS = frozenset({"503", "refused", "tls", "timeout", "paused"})
"""Codes that tell of the server, where they are said to spoil every question. Any other may be owed to the question: a
gateway that lets no such body pass, a path that a proxy does not know, guards (401) or limits (429)."""

NOBODY = "kpo-healer-check"
"""An id that nothing has."""


class VersionCache:
    """Remembers the version: asked at first use, at each audit, and after a failure."""

    def __init__(self, client: AirflowClient) -> None:
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
            self._known = self._client.ask_version()
            self._seen = self._known.text
        return self._known

    def invalidate(self) -> None:
        """Ask again before the next round: there may be another version by now."""
        self._known = None


class QuerySession:
    """Asks, and gives up where the server fails. Safe to use from a few threads.

    A question that fails is no reason to ask no other: that ends only with the server itself, after timeouts in a row,
    or when a question that depends on nothing fails too.
    """

    def __init__(self, client: AirflowClient, version: Version) -> None:
        self._client = client
        self.version = version
        self.began = boottime()
        """When the first question can have been sent, in monotonic seconds."""
        self.aborted: NoAnswerError | None = None
        """Why nothing more is asked, None as long as there is no reason."""
        self._in_a_row, self._slow, self._suspicion = 0, 0, SUSPICION
        self._troubles: list[tuple[Turns[Any], Any, str]] = []
        self._alive = self._vouched = False
        self._only_slow: bool | None = None
        self._lock = threading.Lock()

    def apart(self) -> QuerySession:
        """Return another session that has begun with this one, and gives up by itself."""
        other = QuerySession(self._client, self.version)
        other.began = self.began
        return other

    @property
    def dialect(self) -> Dialect:
        """How the server is asked."""
        return self.version.dialect

    def ask(self, question: Ask[T]) -> AirflowReply[T]:
        """Return a 200, 403 or 404. Raises NoAnswerError, at once when the round has been given up."""
        with self._counted():
            return self._client.ask(question)

    def get_ok(self, question: Ask[T]) -> AirflowReply[T]:
        """Return a 200. Raises NoAnswerError, at once when the round has been given up."""
        with self._counted():
            return self._client.get_ok(question)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if isinstance(self.aborted, LeftAloneError):  # it was said to another question
            raise NoAnswerError(str(self.aborted), self.aborted.scope, "paused")
        if self.aborted is not None:
            raise self.aborted
        try:
            yield
        except NoAnswerError as failed:
            self._count(failed)
            raise
        self._in_a_row = self._slow = 0
        self._alive = True

    def _count(self, failed: NoAnswerError) -> None:
        """Give up where the failure tells of the server, and where it may find out whether it does."""
        with self._lock:
            self._in_a_row += 1
            self._slow += failed.scope is FailureScope.SLOW
            suspicious = self._in_a_row >= self._suspicion or (
                failed.scope is FailureScope.SERVER and not self._vouched
            )
            if self.aborted is not None:
                return
            refused = isinstance(failed, LoginRefusedError)  # one more try may lock the account
            down = refused or self._slow >= SLOWEST or (failed.scope is FailureScope.SERVER and failed.code in SERVERS)
            if down or (suspicious and not self._is_alive()):
                self.aborted = failed
            elif suspicious:
                self._in_a_row, self._suspicion = 0, min(2 * self._suspicion, LONGEST_SUSPICION)
                self._vouched = True

    def _is_alive(self) -> bool:
        """Whether the server answers a question that is the same whatever Pods there are."""
        try:
            return self._client.ask(self.dialect.dags(1, BEYOND).within(VERSION_TIMEOUT)).status in {200, 403}
        except NoAnswerError:
            return False

    def is_only_slow(self) -> bool:
        """Whether this session has ended with timeouts while the server answers what takes it no time: asked once."""
        if self.aborted is None or self.aborted.scope is not FailureScope.SLOW:
            return False
        if self._only_slow is None:
            self._only_slow = self._is_alive()
        return self._only_slow

    def can_list(self) -> bool:
        """Whether task instances can be listed at all: asked by a list of what does not exist."""
        nothing = (TaskKey(NOBODY, NOBODY, NOBODY),)
        try:
            self._client.get_ok(self.dialect.listed(nothing, {"page_limit": 1}).within(VERSION_TIMEOUT))
        except NoAnswerError as failed:
            # Where a list with a DAG that may not be read is refused, one that does not exist is too.
            return failed.code == "403" and not self.dialect.LISTS_UNKNOWN and self.may_list()
        return True

    def may_list(self, dag: str = "~") -> bool:
        """Whether task instances may be listed at all, some of their DAGs excepted; or those of one DAG."""
        try:
            return self._client.ask(self.dialect.may_list(NOBODY, dag).within(VERSION_TIMEOUT)).status == 200
        except NoAnswerError:
            return False

    def trouble(self, turns: Turns[Any], key: Any, why: str) -> None:
        """Note that a question failed for which there are turns: it is set aside if the server does not fail."""
        self._troubles.append((turns, key, why))
        self._alive = False

    def settle(self) -> None:
        """Set aside what has failed, now that it shows whether the server did."""
        troubles, self._troubles = self._troubles, []
        if troubles and self.aborted is None and (self._alive or self._is_alive()):
            for turns, key, why in troubles:
                turns.fail(key, why)

    def require_ok(self, reply: AirflowReply[T]) -> AirflowReply[T]:
        """Return the reply if it is a 200. Raises NoAnswerError otherwise."""
        return self._client.require_ok(reply)

    @staticmethod
    def map_concurrently(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Do as the function of this name does."""
        return map_concurrently(work, items)


def map_concurrently(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return the work's results in order, a few done at a time. `work` must not raise, nor call this itself."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    return workers().map(work, todo, chunksize=1)


_mine = threading.local()


def workers() -> ThreadPool:
    """Return this thread's own threads for questions: an Airflow that is silent must not hold up another one's.

    They stay: a pool that comes and goes costs more than an answer. Daemon threads: a server that is silent must not
    hold up the end of the process either.
    """
    pool: ThreadPool | None = getattr(_mine, "pool", None)
    if pool is None:
        pool = _mine.pool = ThreadPool(CONCURRENCY)
        atexit.register(pool.terminate)
    return pool
