"""Whose turn it is where not all can be asked, and what is set aside because asking about it fails.

Whatever an author of Pods can multiply has a cap, and what is beyond it comes first the next time, DAG by DAG, so that
the flood of one DAG holds up no other. A question that fails by itself, while the server answers others, is set aside:
it is asked again after all others, a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import chain, zip_longest
from typing import Any, Generic, Protocol, TypeVar

from healer.errors import FailureScope, LeftAloneError, NoAnswerError

K = TypeVar("K")
T = TypeVar("T")

AGAIN = 20
"""How many of one kind that are set aside are asked again in one question (0.1 s of the server's time)."""

MEMORY = 20_000
"""How many turns are remembered of each kind: forged ids must not fill the memory."""

NOT_YET = "not yet asked: there is too much to ask about at once, its turn comes in a later pass"


class Turns(Generic[K]):
    """The turns of one kind of question. Used by one thread; `kind` is how messages call what is asked about."""

    def __init__(self, kind: str, dag_of: Callable[[K], str]) -> None:
        self.kind = kind
        self._dag_of = dag_of
        self._last: dict[K, int] = {}
        self._dags: dict[str, int] = {}
        self._count = 0
        self._wanted: set[K] = set()
        self._slow: dict[K, int] = {}
        self.failed: dict[K, str] = {}
        """What is set aside, and why; the newest failure is the last one."""
        self.resting: dict[K, None] = {}
        """What of it is not asked again before an audit, those first that have rested longest."""

    def take(self, wanted: Collection[K], most: int) -> list[K]:
        """Return what is to be asked now: at most so many, and then at most `AGAIN` of those set aside."""
        if self.resting:
            self._wanted.update(self.resting.keys() & set(wanted))
            wanted = [key for key in wanted if key not in self.resting]
        if self._slow:
            wanted = sorted(wanted, key=lambda key: self._slow.get(key, 0))
        if not self.failed:
            return self.in_turn(wanted, most)
        again = [key for key in wanted if key in self.failed]
        self._wanted.update(again)
        return self.in_turn([key for key in wanted if key not in self.failed], most) + self.in_turn(again, AGAIN)

    def in_turn(self, wanted: Collection[K], most: int) -> list[K]:
        """Return at most so many: whose last turn is longest ago, one of each DAG after the other."""
        if len(wanted) <= most:
            return list(wanted)
        of_dags: dict[str, list[K]] = {}
        for key in sorted(wanted, key=lambda key: (self._last.get(key, 0), key)):
            of_dags.setdefault(self._dag_of(key), []).append(key)
        rows = zip_longest(*(of_dags[dag] for dag in sorted(of_dags, key=lambda dag: (self._dags.get(dag, 0), dag))))
        taken = [key for key in chain.from_iterable(rows) if key is not None][:most]
        self._count += 1
        for key in taken:
            _move(self._last, key, self._count)
            _move(self._dags, self._dag_of(key), self._count)
        return taken

    def fail(self, key: K, why: str) -> None:
        """Set it aside."""
        self.failed.pop(key, None)
        self.failed[key] = why
        self._wanted.add(key)

    def slow(self, key: K) -> None:
        """Let it come last the next time: timeouts in a row end a question, and must not always be the same first
        ones."""
        _move(self._slow, key, self._slow.get(key, 0) + 1)

    def pause(self, key: K, why: str) -> None:
        """Let it come last the next time: to a question about it the server has said that it wants to be left alone.

        The second time in a row it is set aside until an audit: else all others would have to wait for it in each pass.
        """
        if key in self._slow:
            self.fail(key, why)
            self.resting[key] = None
        self.slow(key)

    def good(self, key: K) -> None:
        """Take it back: it was answered. What rests may be well then, too."""
        if self.failed.pop(key, None) is not None:
            self.resting.clear()
        self._slow.pop(key, None)

    def waits(self, key: K) -> NoAnswerError:
        """Return why nothing was asked about it now."""
        return NoAnswerError(apart(self.failed[key]) if key in self.failed else NOT_YET)

    def start_audit(self) -> None:
        """Forget what nobody has asked about since the last audit, and let one that rests be asked about again."""
        self.failed = {key: why for key, why in self.failed.items() if key in self._wanted}
        self.resting = {key: None for key in self.resting if key in self.failed}
        if self.resting:
            del self.resting[next(iter(self.resting))]
        self._wanted = set()


def _move(turns: dict[T, int], key: T, count: int) -> None:
    """Put a turn behind all others, and forget the oldest where there are too many."""
    turns.pop(key, None)
    turns[key] = count
    if len(turns) > MEMORY:
        del turns[next(iter(turns))]


_APART = "set aside, and asked again alone after all others: "


def apart(why: str) -> str:
    """Return the sentence for what is set aside."""
    return why if why.startswith(_APART) else _APART + why


class Asking(Protocol):
    """What asks, and knows when to stop (`healer.airflow.queries.session`)."""

    @property
    def aborted(self) -> NoAnswerError | None:
        """Why nothing more is asked."""

    def trouble(self, turns: Turns[Any], key: Any, why: str) -> None:
        """Note that a question failed."""

    def map_concurrently(self, work: Callable[[K], T], items: Iterable[K]) -> list[T]:
        """Return the work's results, a few done at a time."""


def ask_in_turn(
    session: Asking, turns: Turns[K], wanted: Collection[K], most: int, ask: Callable[[K], T]
) -> dict[K, T | NoAnswerError]:
    """Ask about those whose turn it is. Return for each what was told, or why that is not known."""

    def one(key: K) -> T | NoAnswerError:
        asked = session.aborted is None
        try:
            return ask(key)
        except NoAnswerError as failed:
            if asked and failed.scope is FailureScope.SLOW:
                slow.append(key)
            if isinstance(failed, LeftAloneError):
                paused.append(key)
            return failed

    slow: list[K] = []
    paused: list[K] = []

    taken = turns.take(wanted, most)
    told = dict(zip(taken, session.map_concurrently(one, taken), strict=True))
    for key in slow:
        turns.slow(key)
    for key in paused:
        turns.pause(key, str(told[key]))
    for key, answer in told.items():
        if not isinstance(answer, NoAnswerError):
            turns.good(key)
        elif session.aborted is None:
            session.trouble(turns, key, str(answer))
            told[key] = NoAnswerError(apart(str(answer)), answer.scope, answer.code, answer.kind)
    return told | {key: turns.waits(key) for key in wanted if key not in told}
