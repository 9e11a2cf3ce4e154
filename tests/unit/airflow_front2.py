"""The pretended Airflow in the words of Airflow 2: what it is asked and what it answers, translated.

The world behind it is the same, so that a test of the healer's questions need not know which Airflow answers. What
Airflow 2 would refuse to be asked is refused here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from tests.unit.airflow_fake import Asked, FakeAirflow, Reply

SECRET = "PLANTED-KUBECONFIG-TOKEN"
"""What stands in the kwargs of each trigger, as KubernetesPodOperator puts the kubeconfig there."""

PROBLEM = {"Content-Type": "application/problem+json"}
PAGE = {"Content-Type": "text/html"}
FORM = b'<form><input name="csrf_token" type="hidden" value="csrf"><input name="password" type="password"></form>'

LIST_KEYS = {
    "dag_ids", "dag_run_ids", "task_ids", "state", "start_date_gte", "start_date_lte", "end_date_gte", "end_date_lte",
    "page_limit", "page_offset", "pool",
}  # fmt: skip
GET_KEYS = {
    r"/dags": {"only_active", "order_by", "fields", "limit", "offset"},
    r"/dags/[^/]+/dagRuns": {"order_by", "limit", "offset"},
    r"/dags/[^/]+/dagRuns/[^/]+/taskInstances": {"limit", "offset", "pool"},
    r".*/xcomEntries/[^/]+": {"map_index"},
}
_TI = re.compile(r"(.*/taskInstances/(?!list$)[^/]+)(/setNote)?")

TEXTS: list[tuple[str, str, str | None]] = [
    (r"The Dag with ID: `(.*)` was not found", "DAG not found", r"The DAG with dag_id: \1 was not found"),
    (
        r"The DagRun with dag_id: `(.*)` and run_id: `(.*)` was not found",
        "DAGRun not found",
        r"DAGRun with DAG ID: '\1' and DagRun ID: '\2' not found",
    ),
    (r"The Mapped Task Instance with .* was not found", "Task instance not found", None),
    (r"XCom entry with key: `.*` not found", "XCom entry not found", None),
]
"""Airflow 3's words, and the title and detail of Airflow 2's."""


class Front2:
    """Speaks for one world. `dead`: the status for a login that is not accepted, 403 in 2.11 and 401 in 2.10."""

    def __init__(self, fake: FakeAirflow) -> None:
        self._fake = fake

    def answer(self, method: str, path: str, query: str, raw: bytes, headers: Mapping[str, str]) -> Reply:
        from tests.unit.airflow_fake import Asked, Reply

        if path == "/login/":
            return self._login(method, raw)
        if not path.startswith("/api/v1/"):
            return Reply(404, b"<title>Airflow 404</title>", PAGE)
        import json

        body = json.loads(raw) if raw else None
        pairs = tuple(parse_qsl(query))
        refused = _refused(path.removeprefix("/api/v1"), pairs, body)
        if refused is not None:
            return refused
        # Airflow 2 knows no id for "unmapped" in a path.
        found = _TI.fullmatch(path)
        wanted = f"{found[1]}/-1{found[2] or ''}" if found and not path.endswith("/tries") else path
        if found and wanted.endswith("/-1/setNote"):
            wanted = wanted.removesuffix("/setNote")
        asked = Asked(method, wanted.replace("/api/v1/", "/api/v2/", 1), pairs, body, _token(headers))
        if asked.token is None and not path.endswith("/version"):
            return Reply(403, problem(403, "Forbidden"), PROBLEM)  # a visitor
        return self._translated(asked, self._fake.answer(asked))

    def _login(self, method: str, raw: bytes) -> Reply:
        from tests.unit.airflow_fake import Asked, Reply

        if method == "GET":
            return Reply(200, FORM, {**PAGE, "Set-Cookie": "session=visitor; HttpOnly; Path=/"})
        form = dict(parse_qsl(raw.decode()))
        if form.get("csrf_token") != "csrf":
            return Reply(400, b"<h1>Bad Request</h1>", PAGE)
        told = self._fake.answer(Asked("POST", "/auth/token", body=form))
        if told.status == 201:
            cookie = f"session={told.body['access_token']}; Expires=Thu, 31 Dec 2026 00:00:00 GMT; HttpOnly; Path=/"
            return Reply(302, b"", {**PAGE, "Location": "/home", "Set-Cookie": cookie})
        return Reply(302, b"", {**PAGE, "Location": "/login/?next="}) if told.status == 401 else told

    def _translated(self, asked: Asked, reply: Reply) -> Reply:
        from tests.unit.airflow_fake import Reply

        if reply.fault is not None or not isinstance(reply.body, dict):
            return reply
        if reply.status in (200, 201):
            return Reply(reply.status, self._body(asked, reply.body), reply.headers)
        detail = reply.body.get("detail")
        if set(reply.body) != {"detail"} or not isinstance(detail, str):
            return reply
        told = problem(reply.status, detail)
        if asked.path.endswith("/tasks"):  # of a DAG it has not parsed: no word more
            told["detail"] = None
        return Reply(reply.status, told, {**PROBLEM, **reply.headers})

    def _body(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        if "task_instances" in body and isinstance(body["task_instances"], list):
            return {**body, "task_instances": [_row(row) for row in body["task_instances"]]}
        parts = [unquote(part) for part in asked.path.split("/")]
        if "xcomEntries" in parts:
            return {
                "dag_id": parts[4],
                "task_id": parts[8],
                "map_index": int(dict(asked.query).get("map_index", -1)),
                "timestamp": self._fake.pushed,
                **body,
            }
        return _row(body)


def problem(status: int, detail: str) -> dict[str, Any]:
    """Return the refusal of Airflow 2 that means the same as Airflow 3's `detail`."""
    kind = "https://airflow.apache.org/docs/apache-airflow/2.11.2/stable-rest-api-ref.html#section/Errors/"
    if status in (401, 403):
        return {"detail": None, "status": status, "title": "Forbidden", "type": f"{kind}PermissionDenied"}
    for said, title, text in TEXTS:
        found = re.fullmatch(said, detail)
        if found is not None:
            told = None if text is None else found.expand(text)
            return {"detail": told, "status": status, "title": title, "type": f"{kind}NotFound"}
    return {"detail": detail, "status": status, "title": "Problem", "type": "about:blank"}


def _row(row: Any) -> Any:
    """A task instance in the shape of Airflow 2: no id; a trigger with what must not be read."""
    if not isinstance(row, dict) or "task_id" not in row:
        return row
    trigger = {"id": 7, "kwargs": f"{{'config': {{'token': '{SECRET}'}}}}", "classpath": "x"}
    return {"max_tries": 0, **{key: value for key, value in row.items() if key != "id"}, "trigger": trigger}


def _token(headers: Mapping[str, str]) -> str | None:
    cookie = headers.get("Cookie") or ""
    if cookie:
        return cookie.removeprefix("session=")
    return (headers.get("Authorization") or "").removeprefix("Bearer ") or None


def _refused(path: str, query: tuple[tuple[str, str], ...], body: Any) -> Reply | None:
    """What Airflow 2 does not take: keys that it does not know."""
    from tests.unit.airflow_fake import Reply

    odd: set[str] = set()
    if path.endswith("/taskInstances/list"):
        odd = set(body) - LIST_KEYS
    for pattern, keys in GET_KEYS.items():
        if query and re.fullmatch(pattern, path):
            odd = {key for key, _ in query} - keys
    if not odd:
        return None
    said = {"detail": f"Unknown field {sorted(odd)}", "status": 400, "title": "Bad Request", "type": "about:blank"}
    return Reply(400, said, PROBLEM)
