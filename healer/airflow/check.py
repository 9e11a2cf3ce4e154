"""What `check` tells about one Airflow: whether it is reached, gets us in, and lets us read what is needed, and how to
grant what is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from healer.airflow.api.client import AirflowClient
from healer.airflow.api.dialect import BEYOND, Ask
from healer.airflow.api.dialects import Version
from healer.airflow.api.pod_names import Value
from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.task_key import TaskKey
from healer.airflow.notes import may_note
from healer.config import AirflowConfig
from healer.errors import LoginRefusedError, NoAnswerError
from healer.model import TaskInstance, printable, rfc3339

T = TypeVar("T")

NO_SUCH_ID = "kpo-healer-check"
"""An id that nothing has: asking for it tells whether we might read it."""

OPERATORS = ("KubernetesPodOperator", "GKEStartPodOperator", "EksPodOperator", "AksPodOperator")
"""Operators whose task instances have Pods: among the newest of these a real value is looked for."""

MAX_SUBJECT = 100
"""Characters of a name or role out of a token that are shown."""

RECENT, LOOKS = 25, 5
"""How many task instances are listed for that, and of how many the values are read."""


class Status(StrEnum):
    """How a check came out. A warning costs comfort, a failure stops the work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class ProbeCheck(Struct, frozen=True):
    """One thing checked: its name, how it came out, and one sentence (with how to set it right)."""

    name: str
    status: Status
    text: str


class Probe(Struct, frozen=True):
    """All checks of one Airflow, in order. `version` is None if it is not known, `refused` if the login was."""

    url: str
    version: str | None
    refused: bool
    checks: tuple[ProbeCheck, ...]

    @property
    def good(self) -> bool:
        """Whether nothing failed."""
        return all(check.status is not Status.FAIL for check in self.checks)


SOON = 86400.0
"""Seconds before the end of a credential that nobody renews here, from which on it is a warning."""


def probe(client: AirflowClient, config: AirflowConfig, now: Callable[[], float] = time.time) -> Probe:
    """Check one Airflow, stopping where going on makes no sense. Never raises. `now` tells epoch seconds."""
    checks: list[ProbeCheck] = []
    try:
        version = client.ask_version()
    except NoAnswerError as failed:
        refused = isinstance(failed, LoginRefusedError)
        return Probe(client.url, None, refused, (ProbeCheck("version", Status.FAIL, str(failed)),))
    text = f"Airflow {version.text} (asked by {client.dialect.API}) at {client.url}"
    checks.append(ProbeCheck("version", Status.OK, text))
    try:
        client.log_in()
    except NoAnswerError as failed:
        checks.append(ProbeCheck("login", Status.FAIL, str(failed)))
        return Probe(client.url, version.text, isinstance(failed, LoginRefusedError), tuple(checks))
    checks.append(_login(client, now))
    checks += _rights(client, version)
    checks += [_notes(client)] if config.notes else []
    return Probe(client.url, version.text, False, tuple(checks))


def _login(client: AirflowClient, now: Callable[[], float]) -> ProbeCheck:
    """Say who we are, as which role as far as the token tells, and until when."""
    credential = client.credential
    subject = credential.subject
    text = f"Airflow accepts {client.who}"
    # What a token says of itself was written by whoever has made it.
    text += f" ({printable(subject)[:MAX_SUBJECT]})" if subject and subject != client.who else ""
    text += f", role {printable(credential.role)[:MAX_SUBJECT]}" if credential.role else ""
    until = rfc3339(credential.expires)
    if until is None:
        return ProbeCheck("login", Status.OK, text)
    if credential.renewable:
        return ProbeCheck("login", Status.OK, f"{text}, until {until}; it is renewed before")
    ends_soon = credential.expires is not None and credential.expires - now() < SOON
    text += f", until {until}, and nobody here renews it"
    return ProbeCheck("login", Status.WARN if ends_soon else Status.OK, text)


def _rights(client: AirflowClient, version: Version) -> list[ProbeCheck]:
    dag, dags = _dags(client)
    checks = [dags, _runs(client), _task_instances(client)]
    if dag is None:
        text = "can't be told as long as no DAG can be read"
        return [*checks, ProbeCheck("read state store", Status.WARN, text), ProbeCheck("read XComs", Status.WARN, text)]
    sources = [_state_store(client, version, dag), _xcoms(client, version, dag)]
    return [*checks, *sources, *_values(client, version)]


def _dags(client: AirflowClient) -> tuple[str | None, ProbeCheck]:
    name = "read DAGs"
    try:
        listed = client.get_ok(client.dialect.dags(1)).known
    except NoAnswerError as failed:
        return None, ProbeCheck(name, Status.FAIL, str(failed))
    if not listed.ids:
        text = "no DAG can be read: grant can_read on DAGs, or on each DAG whose Pods are looked after"
        return None, ProbeCheck(name, Status.WARN, text)
    return listed.ids[0], ProbeCheck(
        name, Status.OK, f"{listed.total} DAGs can be read; Pods of any other DAG are kept"
    )


def _runs(client: AirflowClient) -> ProbeCheck:
    try:
        client.get_ok(client.dialect.runs("~", 1))
    except NoAnswerError as failed:
        return ProbeCheck("read dag runs", Status.FAIL, str(failed))
    return ProbeCheck("read dag runs", Status.OK, "dag runs can be read")


def _task_instances(client: AirflowClient) -> ProbeCheck:
    nothing = TaskKey(NO_SUCH_ID, NO_SUCH_ID, NO_SUCH_ID)
    try:
        if client.dialect.LISTS_UNKNOWN:
            client.get_ok(client.dialect.listed((nothing,), {"page_limit": 1}))
        else:
            client.get_ok(client.dialect.may_list(NO_SUCH_ID))
    except NoAnswerError as failed:
        return ProbeCheck("read task instances", Status.FAIL, str(failed))
    return ProbeCheck("read task instances", Status.OK, "task instances can be read")


def _state_store(client: AirflowClient, version: Version, dag: str) -> ProbeCheck:
    name = "read state store"
    question = client.dialect.state_store(TaskKey(dag, NO_SUCH_ID, NO_SUCH_ID), -1)
    if question is None or not version.state_store:
        return ProbeCheck(name, Status.OK, f"Airflow {version.text} has no task state store (3.3 brings it)")
    try:
        if not _may_read(client, question):
            return ProbeCheck(name, Status.WARN, _lost("the task state store", "Task Instances"))
    except NoAnswerError as failed:
        return ProbeCheck(name, Status.FAIL, str(failed))
    return ProbeCheck(name, Status.OK, "the task state store can be read: Airflow names the Pod it uses")


def _xcoms(client: AirflowClient, version: Version, dag: str) -> ProbeCheck:
    name, which = "read XComs", "a second" if version.state_store else "the only"
    try:
        if not _may_read(client, client.dialect.xcom(TaskKey(dag, NO_SUCH_ID, NO_SUCH_ID), -1, "pod_name")):
            return ProbeCheck(name, Status.WARN, _lost("XComs", "XComs"))
    except NoAnswerError as failed:
        return ProbeCheck(name, Status.FAIL, str(failed))
    return ProbeCheck(name, Status.OK, f"XComs can be read: {which} source for the Pod that Airflow uses")


def _may_read(client: AirflowClient, question: Ask[Any]) -> bool:
    """Whether a source of what is not there may be read. Raises NoAnswerError where neither is told.

    A 403 is for want of a right only if the login still gets another answer.
    """
    reply: AirflowReply[Any] = client.ask(question)
    if reply.status == 403:
        client.get_ok(client.dialect.dags(1, BEYOND))
        return False
    if not reply.missing:
        client.require_ok(reply)
    return True


def _values(client: AirflowClient, version: Version) -> list[ProbeCheck]:
    """Look at what really stands there for the newest task instances that had a Pod; nothing is said where none do."""
    try:
        recent = _recent(client)[:LOOKS]
    except NoAnswerError:
        return []
    looks: list[tuple[str, Callable[[TaskInstance], Value | None]]] = [
        ("XCom pod_name", lambda task: _xcom_of(client, task))
    ]
    if version.state_store:
        looks.append(("state store's pod_identifier", lambda task: _stored_for(client, task)))
    checks = []
    for what, look in looks:
        found = next(((task, value) for task in recent if (value := look(task)) is not None), None)
        if found is not None:
            checks.append(_told(what, *found))
    return checks


def _recent(client: AirflowClient) -> list[TaskInstance]:
    now = client.get_ok(client.dialect.dags(1, BEYOND)).date
    listed = client.get_ok(client.dialect.recent(OPERATORS, RECENT, now)).known
    # Not every version can filter and sort.
    found = [task for task in listed.rows if task.operator in OPERATORS and task.start_date is not None]
    return sorted(found, key=lambda task: -(task.start_date or 0))


def _xcom_of(client: AirflowClient, task: TaskInstance) -> Value | None:
    found = _value(client, client.dialect.xcom(_key(task), task.map_index, "pod_name"))
    return None if found is None else found.value


def _stored_for(client: AirflowClient, task: TaskInstance) -> Value | None:
    question = client.dialect.state_store(_key(task), task.map_index)
    return None if question is None else _value(client, question)


def _value(client: AirflowClient, question: Ask[T]) -> T | None:
    try:
        return client.ask(replace(question, request=replace(question.request, call="check"))).value
    except NoAnswerError:
        return None


def _key(task: TaskInstance) -> TaskKey:
    return TaskKey(task.dag_id, task.run_id, task.task_id)


def _told(what: str, task: TaskInstance, value: Value) -> ProbeCheck:
    where = f"of task {task.task_id} of DAG {task.dag_id}"
    if value.odd is None:
        return ProbeCheck("Pod names", Status.OK, f"the {what} {where} is a Pod's name")
    text = (
        f"the {what} {where} holds {value.odd} and no Pod's name, as where a custom backend keeps values elsewhere: it "
        "is no source, and a Pod that a later try has replaced stays adoption-unknown; keep pod_name and pod_namespace "
        "in Airflow's own database"
    )
    return ProbeCheck("Pod names", Status.WARN, text)


def _notes(client: AirflowClient) -> ProbeCheck:
    name = "write notes"
    dag, _ = _dags(client)
    if dag is None:
        return ProbeCheck(name, Status.WARN, "can't be told as long as no DAG can be read")
    try:
        if may_note(client, dag, NO_SUCH_ID):
            return ProbeCheck(name, Status.OK, "task instances can be edited: deletions are noted on them")
    except NoAnswerError as failed:
        return ProbeCheck(name, Status.WARN, str(failed))
    text = "task instances can't be edited (403), so that no deletion is noted; grant can_edit on Task Instances"
    return ProbeCheck(
        name, Status.WARN, f"{text} and on the DAGs (simple auth manager: role user), or set notes: false"
    )


def _lost(what: str, right: str) -> str:
    return (
        f"{what} can't be read (403): a superseded twin or a copy of a Pod can't be told from the one in use, and is "
        f"judged without; grant can_read on {right} (simple auth manager: role viewer)"
    )
