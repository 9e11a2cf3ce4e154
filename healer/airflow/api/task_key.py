"""One task of one run by its raw ids, and the selection of many in one list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PAGE_LIMIT = 1000
"""Rows taken in one answer. Twice what is expected, so that a wrong guess rarely costs a second call."""


class TaskKey(NamedTuple):
    """One task of one run by its raw ids: all map indices of it."""

    dag_id: str
    run_id: str
    task_id: str


TaskKeys = tuple[TaskKey, ...]
"""Task keys that are asked about in one list, sorted."""


def is_addressable(task_key: TaskKey) -> bool:
    """Whether the ids can be part of a URL: servers undo `%2F` before they look for the path's parts."""
    return not any("/" in part or part in {"", ".", ".."} for part in task_key)


def body(batch: TaskKeys, filters: Mapping[str, object]) -> dict[str, object]:
    """Return the body of the list. No list in it is ever empty: Airflow takes that for no filter at all."""
    if not batch:
        raise ValueError("an empty chunk would ask for everything")
    dags, runs, tasks = (sorted(set(column)) for column in zip(*batch, strict=True))
    return {"dag_ids": dags, "dag_run_ids": runs, "task_ids": tasks, "page_limit": PAGE_LIMIT, **filters}
