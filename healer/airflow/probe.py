"""What `check` tells about one Airflow: whether it is reached, gets us in, and lets us read what is needed, and how to
grant what is not."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from healer.airflow import rows
from healer.airflow.client import Client
from healer.airflow.identity import STATE, XCOM
from healer.airflow.lists import LIST
from healer.airflow.missing import POD_IDENTIFIER, is_state_missing, is_xcom_missing
from healer.airflow.notes import may_note
from healer.airflow.round import Version, ask_version
from healer.airflow.transport import AirflowRefused, NoAnswerError, Request
from healer.config import AirflowConfig

NOBODY = "kpo-healer-check"
"""An id that nothing has: asking for it tells whether we might read it."""


class Mark(StrEnum):
    """How a check came out. A warning costs comfort, a failure stops the work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(Struct, frozen=True):
    """One thing checked: its name, how it came out, and one sentence (with how to set it right)."""

    name: str
    mark: Mark
    text: str


class Probe(Struct, frozen=True):
    """All checks of one Airflow, in order. `version` is None if it is not known, `refused` if the login was."""

    url: str
    version: str | None
    refused: bool
    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        """Whether nothing failed."""
        return all(check.mark is not Mark.FAIL for check in self.checks)


def probe(client: Client, config: AirflowConfig) -> Probe:
    """Check one Airflow, stopping where going on makes no sense. Never raises."""
    checks: list[Check] = []
    try:
        version = ask_version(client)
    except NoAnswerError as failed:
        refused = isinstance(failed, AirflowRefused)
        return Probe(client.url, None, refused, (Check("version", Mark.FAIL, str(failed)),))
    checks.append(Check("version", Mark.OK, f"Airflow {version.text} at {client.url}"))
    try:
        client.log_in()
    except NoAnswerError as failed:
        checks.append(Check("login", Mark.FAIL, str(failed)))
        return Probe(client.url, version.text, isinstance(failed, AirflowRefused), tuple(checks))
    checks.append(Check("login", Mark.OK, f"Airflow accepts {config.username or 'the token'}"))
    checks += _rights(client, version)
    checks += [_notes(client)] if config.notes else []
    return Probe(client.url, version.text, False, tuple(checks))


def _rights(client: Client, version: Version) -> list[Check]:
    dag, dags = _dags(client)
    checks = [dags, _runs(client), _task_instances(client)]
    if dag is None:
        text = "can't be told as long as no DAG can be read"
        return [*checks, Check("read state store", Mark.WARN, text), Check("read XComs", Mark.WARN, text)]
    return [*checks, _state_store(client, version, dag), _xcoms(client, dag)]


def _dags(client: Client) -> tuple[str | None, Check]:
    name = "read DAGs"
    query = (("limit", 1), ("exclude_stale", "false"))
    try:
        listed = client.need(Request("dags", "/api/v2/dags", query=query), rows.dag_ids).known
    except NoAnswerError as failed:
        return None, Check(name, Mark.FAIL, str(failed))
    if not listed.ids:
        text = "no DAG can be read: grant can_read on DAGs, or on each DAG whose Pods are looked after"
        return None, Check(name, Mark.WARN, text)
    return listed.ids[0], Check(name, Mark.OK, f"{listed.total} DAGs can be read; Pods of any other DAG are kept")


def _runs(client: Client) -> Check:
    request = Request("runs", "/api/v2/dags/{dag_id}/dagRuns", {"dag_id": "~"}, (("limit", 1),))
    try:
        client.need(request, rows.run_ids)
    except NoAnswerError as failed:
        return Check("read dag runs", Mark.FAIL, str(failed))
    return Check("read dag runs", Mark.OK, "dag runs can be read")


def _task_instances(client: Client) -> Check:
    body = {"dag_ids": [NOBODY], "page_limit": 1}
    try:
        client.need(Request("list", LIST, body=body, method="POST"), rows.page)
    except NoAnswerError as failed:
        return Check("read task instances", Mark.FAIL, str(failed))
    return Check("read task instances", Mark.OK, "task instances can be read")


def _state_store(client: Client, version: Version, dag: str) -> Check:
    name = "read state store"
    if not version.state_store:
        return Check(name, Mark.OK, f"Airflow {version.text} has no task state store (3.3 brings it)")
    request = Request("state-store", STATE, _nothing(dag, POD_IDENTIFIER), (("map_index", -1),))
    try:
        reply = client.ask(request, rows.pod_identifier)
        if reply.status == 403:
            return Check(name, Mark.WARN, _lost("the task state store", "Task Instances"))
        if not is_state_missing(reply):
            client.positive(reply)
    except NoAnswerError as failed:
        return Check(name, Mark.FAIL, str(failed))
    return Check(name, Mark.OK, "the task state store can be read: Airflow names the Pod it uses")


def _xcoms(client: Client, dag: str) -> Check:
    name, key = "read XComs", "pod_name"
    request = Request("xcom", XCOM, _nothing(dag, key), (("map_index", -1),))
    try:
        reply = client.ask(request, rows.xcom_text)
        if reply.status == 403:
            return Check(name, Mark.WARN, _lost("XComs", "XComs"))
        if not is_xcom_missing(reply, key):
            client.positive(reply)
    except NoAnswerError as failed:
        return Check(name, Mark.FAIL, str(failed))
    return Check(name, Mark.OK, "XComs can be read: a second source for the Pod that Airflow uses")


def _notes(client: Client) -> Check:
    name = "write notes"
    dag, _ = _dags(client)
    if dag is None:
        return Check(name, Mark.WARN, "can't be told as long as no DAG can be read")
    try:
        if may_note(client, dag, NOBODY):
            return Check(name, Mark.OK, "task instances can be edited: deletions are noted on them")
    except NoAnswerError as failed:
        return Check(name, Mark.WARN, str(failed))
    text = "task instances can't be edited (403), so that no deletion is noted; grant can_edit on Task Instances"
    return Check(name, Mark.WARN, f"{text} and on the DAGs (simple auth manager: role user), or set notes: false")


def _nothing(dag: str, key: str) -> dict[str, str | int]:
    return {"dag_id": dag, "dag_run_id": NOBODY, "task_id": NOBODY, "key": key}


def _lost(what: str, right: str) -> str:
    return (
        f"{what} can't be read (403): a superseded twin or a copy of a Pod can't be told from the one in use, and is "
        f"judged without; grant can_read on {right} (simple auth manager: role viewer)"
    )
