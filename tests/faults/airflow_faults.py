"""What can be wrong with Airflow's answers, as faults for the proxy before a real API server.

Each makes a careless healer delete: rows vanish, say that a running task has ended, or belong to somebody else.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from tests.faults import proxy
from tests.faults.proxy import Asked, Exchange, Fault, Json, Reply

Row = dict[str, Any]

HTML: Final = b"<html><head><title>Sign in</title></head><body>Sign in to continue</body></html>"
AS_HTML: Final = {"Content-Type": "text/html"}

NEEDED: Final = ("state", "try_number", "operator", "id", "end_date", "map_index", "dag_run_id", "task_id")
"""What every row of Airflow has and the rules rest on."""

_TASK = re.compile(r"/api/v2/dags/([^/]+)/dagRuns/([^/]+)/taskInstances/([^/]+)/(-?\d+)")
_RUN = re.compile(r"/api/v2/dags/([^/]+)/dagRuns/([^/]+)")
_DAG = re.compile(r"/api/v2/dags/([^/]+)")


# --- which requests ---------------------------------------------------------------------------------------------------


def everything(_: Asked) -> bool:
    """Login and version included."""
    return True


def questions(asked: Asked) -> bool:
    """What is asked about DAGs, runs and task instances; login and version go well."""
    return "/api/v2/dags" in asked.path


def login(asked: Asked) -> bool:
    return asked.path.startswith("/auth/token")


def version(asked: Asked) -> bool:
    return asked.path == "/api/v2/version"


def lists(asked: Asked) -> bool:
    """Lists of task instances."""
    return asked.path.startswith("/api/v2/dags/~/dagRuns/~/taskInstances/list")


def identity(asked: Asked) -> bool:
    """Which Pod Airflow names."""
    return "/state-store/" in asked.path or "/xcomEntries/" in asked.path


def singles(asked: Asked) -> bool:
    """Single task instances, runs and DAGs."""
    path = _path(asked)
    return any(pattern.fullmatch(path) for pattern in (_TASK, _RUN, _DAG))


def _path(asked: Asked) -> str:
    return urlsplit(asked.path).path


# --- answers that are none --------------------------------------------------------------------------------------------


def refusal(status: int, detail: str) -> Fault:
    """A refusal in Airflow's own shape."""
    return proxy.answer(status, {"detail": detail})


def page(status: int, headers: Mapping[str, str] | None = None) -> Fault:
    """A page of a proxy, for browsers."""
    return proxy.answer(status, HTML, {**AS_HTML, **(headers or {})})


def crashed(exchange: Exchange) -> None:
    """What Airflow answers when it comes upon a bug of its own; then it closes the connection."""
    exchange.reply(Reply(500, [("Content-Type", "text/plain; charset=utf-8")], b"Internal Server Error"))
    exchange.hang_up()


def _half(reply: Reply) -> Reply:
    return replace(reply, body=reply.body[: len(reply.body) // 2])


half_of_the_json: Final = proxy.edit(_half)
"""An answer that is complete as HTTP and ends in the middle of its JSON."""


def _damaged(reply: Reply) -> Reply:
    packed = bytearray(gzip.compress(reply.body))
    middle = len(packed) // 2
    packed[middle : middle + 4] = b"\xff\xff\xff\xff"
    return replace(reply, headers=[*reply.headers, ("Content-Encoding", "gzip")], body=bytes(packed[:-6]))


damaged_gzip: Final = proxy.edit(_damaged)


# --- answers that lie -------------------------------------------------------------------------------------------------


def edit_list(change: Callable[[list[Row], int], tuple[list[Row], int]]) -> Fault:
    """Changes the rows of a list and the number of rows that it says there are."""

    def apply(value: Json) -> None:
        value["task_instances"], value["total_entries"] = change(value["task_instances"], value["total_entries"])

    return proxy.edit_json(apply)


no_rows: Final = edit_list(lambda rows, total: ([], 0))
"""A list that has nothing, and says so."""


def edit_rows(change: Callable[[Row], Sequence[Row]]) -> Fault:
    """Puts other rows in each row's place, in lists and in single answers (there the first of them)."""

    def apply(value: Json) -> Json:
        if "task_instances" in value:
            value["task_instances"] = [made for row in value["task_instances"] for made in change(row)]
            value["total_entries"] = len(value["task_instances"])
            return value
        return change(value)[0] if _is_row(value) else value

    return proxy.edit_json(apply)


def _is_row(value: Json) -> bool:
    return isinstance(value, dict) and {"task_id", "dag_run_id", "state"} <= value.keys()


def without_one_field() -> Fault:
    """Each row lacks something, each time something else."""
    turn = cycle(NEEDED)

    def robbed(row: Row) -> list[Row]:
        lost = next(turn)
        return [{name: value for name, value in row.items() if name != lost}]

    return edit_rows(robbed)


def with_one_null() -> Fault:
    """Null in the place of something, each time of something else. (A row without end is one that Airflow has too.)"""
    turn = cycle([name for name in NEEDED if name != "end_date"])
    return edit_rows(lambda row: [row | {next(turn): None}])


def ended(row: Row) -> Row:
    """The row as it would be if the task instance had failed at its first try."""
    return row | {"state": "failed", "try_number": 1, "end_date": row["start_date"]}


def contradicted(row: Row) -> list[Row]:
    """The row twice, one of them a lie; the lie comes first."""
    lie = {"state": "running", "end_date": None} if row["state"] == "failed" else {"state": "failed"}
    return [row | lie, row]


def decorated(row: Row) -> list[Row]:
    """The row of a later Airflow, which says more."""
    return [row | {"mood": "fine", "state_v2": {"state": "failed", "try_number": 99}, "pods": [{"name": None}]}]


def of_another_run(row: Row) -> list[Row]:
    return [ended(row) | {"dag_run_id": "another_run"}]


def clamped(rows: list[Row], total: int) -> tuple[list[Row], int]:
    """What a server with a maximum page does: it says how many there are, and gives half of them, the ended first."""
    return sorted(rows, key=lambda row: row["state"] not in {"failed", "success"})[: max(1, total // 2)], total


def stale(task: str) -> Fault:
    """The answer of a replica on which this task has not been cleared yet."""
    return edit_rows(lambda row: [ended(row) if row["task_id"] == task else row])


def old(seconds: float) -> Fault:
    """The answer is true when Airflow gives it, and so many seconds old when it arrives; whatever happens meanwhile."""

    def late(exchange: Exchange) -> None:
        reply = exchange.pass_on()
        threading.Event().wait(seconds)
        exchange.reply(reply)

    return late


def no_such_thing(exchange: Exchange) -> None:
    """Airflow's exact words for what is not there, whatever is asked for singly."""
    exchange.reply(
        Reply(404, [("Content-Type", "application/json")], json.dumps({"detail": _words(exchange)}).encode())
    )


def _words(exchange: Exchange) -> str:
    path = _path(exchange.asked)
    if found := _TASK.fullmatch(path):
        dag, run_id, task, index = map(unquote, found.groups())
        return (
            f"The Mapped Task Instance with dag_id: `{dag}`, run_id: `{run_id}`, task_id: `{task}`, "
            f"and map_index: `{index}` was not found"
        )
    if found := _RUN.fullmatch(path):
        dag, run_id = map(unquote, found.groups())
        return f"The DagRun with dag_id: `{dag}` and run_id: `{run_id}` was not found"
    found = _DAG.fullmatch(path)
    return f"The Dag with ID: `{unquote(found[1]) if found else ''}` was not found"


def task_instance(asked: Asked) -> bool:
    """A single task instance."""
    return _TASK.fullmatch(_path(asked)) is not None
