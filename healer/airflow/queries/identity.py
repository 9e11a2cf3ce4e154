"""Which Pod Airflow itself names for a task instance.

Two sources: the task state store's `pod_identifier` (Airflow 3.3 and later; written after the Pod is created or
adopted) and the XComs `pod_name` and `pod_namespace`. One that has nothing (404), that we may not read (403) or that
holds something that is no Pod's name is no source. One that fails in any other way, a 403 after it could be read
included, makes the answer unknown: it might have given a reason to keep.

A 403 alone does not say that we may not read: a login that has just ended may give one too. It is believed when another
question, sent after the 403 was there, is answered positively with the very same login.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from healer.airflow.api import pod_names
from healer.airflow.api.dialect import Ask
from healer.airflow.api.pod_names import Value, ValuePlace
from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.task_key import TaskKey, is_addressable
from healer.airflow.queries.lookups import ask_task_instance
from healer.airflow.queries.session import QuerySession, map_concurrently
from healer.decision.rules import ENDED, HELD
from healer.errors import NoAnswerError
from healer.model import NamedPods, Pod, TaskInstance

T = TypeVar("T")

PROOFS = 3
"""Task instances that are tried, one after the other, to prove a login alive: one of them may be gone or be broken."""

_NO_URL = "its ids can't be part of a URL, so that Airflow can't be asked which Pod it uses"

Readable = set[tuple[str, str]]
"""Sources that have answered before, as (call, DAG): rights may differ from DAG to DAG."""


class _Kept(Struct, frozen=True):
    """What was heard, and when that was begun (monotonic seconds), of which task instance in which state."""

    task: TaskInstance
    identity: NamedPods
    heard: float

    @property
    def ended(self) -> bool:
        return self.task.state in ENDED

    def fits(self, task: TaskInstance) -> bool:
        """Whether it is the same task instance, and has ended now as it had then."""
        return (self.task.id, self.ended) == (task.id, task.state in ENDED)

    def stays_true(self, pod: Pod, task: TaskInstance) -> bool:
        """Whether it can't have become untrue: that an ended try has used this very Pod, as long as it has not ended
        once more (the id of a task instance can come again out of a backup)."""
        end = (self.task.id, self.task.try_number, self.task.state, self.task.end_date)
        same = end == (task.id, task.try_number, task.state, task.end_date)
        return same and self.ended and task.end_date is not None and self.identity.names_with_namespace(pod)


class _Refusal(Struct, frozen=True):
    """A 403 that says nothing yet: for which task instance, when it was there, and with which login."""

    task: TaskInstance
    received: float
    login: int


class Heard(Struct, frozen=True):
    """What the sources said of one task instance; it holds only if each refusal is proven to be a missing right.

    `failure`: why one of them failed.
    """

    identity: NamedPods
    refusals: tuple[_Refusal, ...] = ()
    failure: NoAnswerError | None = None


class NamedPodsCache:
    """Asks for identities; remembers them per Pod and task instance `id`, which changes with each retry or clear."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._readable: Readable = set()

    def known(self, pod: Pod, task: TaskInstance, *, fresh: bool) -> tuple[NamedPods, float] | None:
        """Return what is remembered of which Pods Airflow names, and when it was asked.

        Where the answer has to be `fresh`: only what stays true, that an ended try has used this very Pod. Whether that
        try is still the latest, and ended, is told by the row. A try that goes on may adopt another Pod at any time,
        and where there was no name one may have come.
        """
        kept = self._kept.get(pod.uid)
        good = kept is not None and (kept.stays_true(pod, task) if fresh else kept.fits(task))
        return (kept.identity, kept.heard) if kept is not None and good else None

    def hear(self, session: QuerySession, pod: Pod, task: TaskInstance) -> Heard:
        """Ask which Pods Airflow names: it holds as far as `prove` says so. Never raises."""
        self._kept.pop(pod.uid, None)
        return ask_identity(session, pod, task, self._readable)

    def prove(self, session: QuerySession, told: Sequence[tuple[Pod, TaskInstance, Heard]]) -> list[NamedPods]:
        """Return what holds of what was heard, and remember it. Never raises."""
        proven = _proven(session, [heard for _, _, heard in told])
        for (pod, task, _), identity in zip(told, proven, strict=True):
            if identity.failed is None and task.id is not None:
                self._kept[pod.uid] = _Kept(task, identity, session.began)
        return proven

    def current(self, session: QuerySession, tasks: Sequence[TaskInstance]) -> list[NamedPods]:
        """Return which Pod the latest try of each task instance has named itself. Never raises."""
        return _proven(session, map_concurrently(lambda task: ask_current(session, task, self._readable), tasks))

    def start_audit(self) -> None:
        """Forget what may have changed: as long as the task instance has not ended, another Pod may be adopted.

        Which Pod an ended try has used stays true when its record expires or is removed: a reason to keep.
        """
        self._kept = {uid: kept for uid, kept in self._kept.items() if kept.ended}

    def forget(self, uid: str) -> None:
        """Forget one Pod."""
        self._kept.pop(uid, None)


def ask_identity(session: QuerySession, pod: Pod, task: TaskInstance, readable: Readable) -> Heard:
    """Ask both sources; the XComs only if the state store does not name this very Pod. Never raises.

    A source that answers is added to `readable`.
    """

    def ask(sources: _Sources) -> NamedPods:
        stored = NamedPods(sources.state_store())
        named = stored if stored.names(pod) else NamedPods(stored.named | sources.xcoms())
        if sources.odd and task.state in HELD and named.names_another(pod):
            # What can't be read may be this Pod's name: the other source alone must not rule it out.
            return NamedPods()
        return named

    return _ask_sources(session, task, readable, ask)


def ask_current(session: QuerySession, task: TaskInstance, readable: Readable) -> Heard:
    """Ask which Pod the latest try has named itself. Never raises.

    Airflow removes XComs when a try begins, so they can't be left from an earlier one. The state store is kept from try
    to try, and speaks only where XComs may not be read.
    """

    def ask(sources: _Sources) -> NamedPods:
        named = sources.xcoms()
        return NamedPods(named if named or ("xcom", task.dag_id) in readable else sources.state_store())

    return _ask_sources(session, task, readable, ask)


def _ask_sources(
    session: QuerySession, task: TaskInstance, readable: Readable, ask: Callable[[_Sources], NamedPods]
) -> Heard:
    """Return what `ask` learns from the sources, or why one of them failed."""
    if not is_addressable(TaskKey(task.dag_id, task.run_id, task.task_id)):
        return Heard(NamedPods(failed=_NO_URL))
    sources = _Sources(session, task, readable)
    try:
        identity = ask(sources)
    except NoAnswerError as failed:
        return Heard(NamedPods(failed=str(failed)), failure=failed)
    return Heard(identity, tuple(sources.refusals))


def _proven(session: QuerySession, heard: Sequence[Heard]) -> list[NamedPods]:
    """Return the identities; those that rest on a 403 only where the login was alive after it.

    One proof is enough for all 403s that were there before it was sent: the login is the same for all DAGs.
    """
    refusals = [refusal for each in heard for refusal in each.refusals]
    alive, why = _alive(session, refusals) if refusals else (None, "")

    def is_proven(each: Heard) -> bool:
        return all(alive and alive.login == one.login and alive.sent >= one.received for one in each.refusals)

    return [each.identity if is_proven(each) else NamedPods(failed=why) for each in heard]


def _alive(session: QuerySession, refusals: Iterable[_Refusal]) -> tuple[AirflowReply[Any] | None, str]:
    """Return a positive answer to another question, sent after all these refusals, or why there is none."""
    tasks = list({(t.dag_id, t.run_id, t.task_id, t.map_index): t for t in (r.task for r in refusals)}.values())
    why = ""
    for task in tasks[:PROOFS]:
        try:
            reply = ask_task_instance(session, TaskKey(task.dag_id, task.run_id, task.task_id), task.map_index)
        except NoAnswerError as failed:
            why = f"Airflow forbids to read which Pod it uses, and then: {failed}"
            continue
        if reply.value is not None:
            return reply, "the login changed while Airflow was asked which Pod it uses"
    return None, why or "Airflow forbids to read which Pod it uses, and may not know the login any more"


class _Sources:
    """The sources about one task instance. All methods raise NoAnswerError.

    `odd`: whether one holds something that is no Pod's name; `refusals`: the 403s that are still to be proven.
    """

    def __init__(self, session: QuerySession, task: TaskInstance, readable: Readable) -> None:
        self._round, self._task, self._readable = session, task, readable
        self._cell = TaskKey(task.dag_id, task.run_id, task.task_id)
        self.odd = False
        self.refusals: list[_Refusal] = []

    def state_store(self) -> frozenset[ValuePlace]:
        """Return the Pod that the state store names."""
        if not self._round.version.state_store:
            return frozenset()
        question = self._round.dialect.state_store(self._cell, self._task.map_index)
        found = None if question is None else self._noted(self._ask(question))
        return frozenset() if found is None or found.place is None else frozenset({found.place})

    def xcoms(self) -> frozenset[ValuePlace]:
        """Return the Pod that the XComs name; a namespace that is missing or none leaves the name to count anywhere."""
        name = self._xcom("pod_name")
        if name is None or name.text is None:
            return frozenset()
        was_odd, namespace = self.odd, self._xcom("pod_namespace")
        self.odd = was_odd  # an odd namespace takes nothing off the name
        where = namespace.text if namespace is not None and pod_names.is_namespace(namespace.text) else None
        return frozenset({(where, name.text)})

    def _xcom(self, key: str) -> Value | None:
        """Return an XCom. One that the try before has left names nobody."""
        found = self._ask(self._round.dialect.xcom(self._cell, self._task.map_index, key))
        counts = found is not None and self._round.dialect.counts(self._task, found)
        return self._noted(found.value if found is not None and counts else None)

    def _noted(self, value: Value | None) -> Value | None:
        self.odd = self.odd or (value is not None and value.odd is not None)
        return value

    def _ask(self, question: Ask[T]) -> T | None:
        """Return what the source says, None if it has nothing or may not be read."""
        reply = self._round.ask(question)
        known = question.request.call, self._cell.dag_id
        if reply.forbidden and known not in self._readable:
            self.refusals.append(_Refusal(self._task, reply.received, reply.login))
            return None
        value = None if reply.missing else self._round.require_ok(reply).known
        self._readable.add(known)
        return value
