"""The floor of both sides: one look at all Pods, and at all task instances that they may belong to, in one process.

    floor_airflow.py URL CA_FILE TOKEN NAMESPACE AIRFLOW_URL USERNAME PASSWORD TASKS_FILE

TASKS_FILE: JSON, a list of objects with "dag_ids", "dag_run_ids" and "task_ids", each the body of one POST. Bare
requests, a typed subset, and nothing else. Prints one JSON object: Pods, bytes of their bodies, calls, rows, bytes.
"""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
from floor_kubernetes import look
from msgspec import Struct
from msgspec.json import Decoder

ROWS = 100_000


class TaskInstance(Struct, gc=False):
    id: str
    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int
    operator: str | None
    end_date: str | None


class Answer(Struct, gc=False):
    task_instances: list[TaskInstance]
    total_entries: int


async def read(http: aiohttp.ClientSession, url: str, login: dict[str, str], chunks: list[dict]) -> tuple[list, int]:
    """All task instances of these chunks, and the bytes of the answers once unzipped."""
    async with http.post(f"{url}/auth/token", json=login, raise_for_status=True) as answer:
        headers = {"Authorization": f"Bearer {(await answer.json())['access_token']}", "Accept-Encoding": "gzip"}
    where, decoder = f"{url}/api/v2/dags/~/dagRuns/~/taskInstances/list", Decoder(Answer)
    rows: list[TaskInstance] = []
    size = 0
    for chunk in chunks:
        query = {**chunk, "page_limit": ROWS, "order_by": "map_index"}
        async with http.post(where, json=query, headers=headers, raise_for_status=True) as answer:
            body = await answer.read()
        page = decoder.decode(body)
        assert len(page.task_instances) == page.total_entries, "this Airflow limits its pages"
        rows += page.task_instances
        size += len(body)
    return rows, size


async def main(
    url: str, ca: str, token: str, namespace: str, airflow: str, user: str, password: str, file: str
) -> None:
    chunks = json.loads(Path(file).read_text())
    async with aiohttp.ClientSession() as http:
        pods, size = await look(http, url, ca, token, namespace)
        rows, read_bytes = await read(http, airflow, {"username": user, "password": password}, chunks)
    said = {"pods": len(pods), "bytes": size, "calls": len(chunks), "rows": len(rows), "airflow_bytes": read_bytes}
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
