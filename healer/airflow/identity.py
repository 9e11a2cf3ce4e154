"""Which Pod Airflow itself names for a task instance.

Two sources: the task state store's `pod_identifier` (Airflow 3.3 and later; written after the Pod is created or
adopted) and the XComs `pod_name` and `pod_namespace`. One that has nothing (404) or that we may not read (403) is no
source. One that fails in any other way, a 403 after it could be read included, makes the answer unknown: it might have
given a reason to keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from healer.airflow import rows
from healer.airflow.client import Reply
from healer.airflow.missing import POD_IDENTIFIER, is_state_missing, is_xcom_missing
from healer.airflow.resolve import Cell
from healer.airflow.round import Round
from healer.airflow.singles import askable, ids_of
from healer.airflow.transport import NoAnswerError, Request
from healer.model import Identity, Pod, TaskInstance
from healer.rules import ENDED

T = TypeVar("T")

TASK = "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}"
STATE = TASK + "/state-store/{key}"
XCOM = TASK + "/xcomEntries/{key}"

_NO_URL = "its ids can't be part of a URL, so that Airflow can't be asked which Pod it uses"

_POD_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


Readable = set[tuple[str, str]]
"""Sources that have answered before, as (call, DAG): rights may differ from DAG to DAG."""


class _Kept(Struct, frozen=True):
    task: str
    ended: bool
    identity: Identity


class Identities:
    """Asks for identities; remembers them per Pod and task instance `id`, which changes with each retry or clear."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._readable: Readable = set()

    def of(self, round_: Round, pod: Pod, task: TaskInstance, *, fresh: bool) -> Identity:
        """Return which Pods Airflow names. `fresh`: ask, whatever is remembered. Never raises."""
        kept = self._kept.get(pod.uid)
        ended = task.state in ENDED
        if not fresh and kept is not None and (kept.task, kept.ended) == (task.id, ended):
            return kept.identity
        identity = ask_identity(round_, pod, task, self._readable)
        self._kept.pop(pod.uid, None)
        if identity.failed is None and task.id is not None:
            self._kept[pod.uid] = _Kept(task.id, ended, identity)
        return identity

    def current(self, round_: Round, task: TaskInstance) -> Identity:
        """Return which Pod the latest try has named itself. Never raises."""
        return ask_current(round_, task, self._readable)

    def start_audit(self) -> None:
        """Forget what may have changed: as long as the task instance has not ended, another Pod may be adopted.

        Which Pod an ended try has used stays true when its record expires or is removed: a reason to keep.
        """
        self._kept = {uid: kept for uid, kept in self._kept.items() if kept.ended}

    def forget(self, uid: str) -> None:
        """Forget one Pod."""
        self._kept.pop(uid, None)


def ask_identity(round_: Round, pod: Pod, task: TaskInstance, readable: Readable) -> Identity:
    """Ask both sources; the XComs only if the state store does not name this very Pod. Never raises.

    A source that answers is added to `readable`.
    """

    def ask(sources: _Sources) -> Identity:
        stored = Identity(sources.state_store())
        return stored if stored.names(pod) else Identity(stored.named | sources.xcoms())

    return _asked(round_, task, readable, ask)


def ask_current(round_: Round, task: TaskInstance, readable: Readable) -> Identity:
    """Ask which Pod the latest try has named itself. Never raises.

    Airflow removes XComs when a try begins, so they can't be left from an earlier one. The state store is kept from try
    to try, and speaks only where XComs may not be read.
    """

    def ask(sources: _Sources) -> Identity:
        named = sources.xcoms()
        return Identity(named if named or ("xcom", task.dag_id) in readable else sources.state_store())

    return _asked(round_, task, readable, ask)


def _asked(round_: Round, task: TaskInstance, readable: Readable, ask: Callable[[_Sources], Identity]) -> Identity:
    """Return what `ask` learns from the sources, or why one of them failed."""
    cell = Cell(task.dag_id, task.run_id, task.task_id)
    if not askable(cell):
        return Identity(failed=_NO_URL)
    try:
        return ask(_Sources(round_, cell, task.map_index, readable))
    except NoAnswerError as failed:
        return Identity(failed=str(failed))


class _Sources(Struct, frozen=True):
    """The sources about one task instance. All methods raise NoAnswerError."""

    round_: Round
    cell: Cell
    map_index: int
    readable: Readable

    def state_store(self) -> frozenset[tuple[str | None, str]]:
        """Return the Pod that the state store names, as (namespace, name)."""
        if not self.round_.version.state_store:
            return frozenset()
        found = self._ask("state-store", STATE, POD_IDENTIFIER, rows.pod_identifier, is_state_missing)
        return frozenset() if found is None else frozenset({(found.namespace, _checked(found.name))})

    def xcoms(self) -> frozenset[tuple[str | None, str]]:
        """Return the Pod that the XComs name; its namespace is None where they don't say."""
        name = self._xcom("pod_name")
        return frozenset() if name is None else frozenset({(self._xcom("pod_namespace"), name)})

    def _xcom(self, key: str) -> str | None:
        found = self._ask("xcom", XCOM, key, rows.xcom_text, lambda reply: is_xcom_missing(reply, key))
        return None if found is None else _checked(found)

    def _ask(
        self, call: str, path: str, key: str, decode: Callable[[bytes], T], missing: Callable[[Reply[T]], bool]
    ) -> T | None:
        """Return what the source says, None if it has nothing or may not be read."""
        request = Request(call, path, {**ids_of(self.cell), "key": key}, (("map_index", self.map_index),))
        reply = self.round_.ask(request, decode)
        known = call, self.cell.dag_id
        if reply.status == 403 and reply.detail == "Forbidden" and known not in self.readable:
            return None
        value = None if missing(reply) else self.round_.positive(reply).known
        self.readable.add(known)
        return value


def _checked(name: str) -> str:
    if _POD_NAME.fullmatch(name) is None:
        raise NoAnswerError("Airflow names a Pod by something that is no name")
    return name
