"""The floor: what one look at all Pods costs at least. Bare HTTP, pages of 500, a typed subset, and nothing else.

    floor_kubernetes.py URL CA_FILE TOKEN NAMESPACE

Prints one JSON object: the Pods read and the bytes of their bodies. Kept as it is, so that figures of different days
can be compared.
"""

import asyncio
import json
import ssl
import sys

import aiohttp
from msgspec import Struct, field
from msgspec.json import Decoder

SELECTOR = "kubernetes_pod_operator=True,!airflow-worker,kubernetes_executor!=True,!spark_kubernetes_operator"


class Labels(Struct, gc=False):
    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: str = ""
    try_number: str = ""
    already_checked: str = ""


class Metadata(Struct, gc=False):
    name: str
    namespace: str
    uid: str
    version: str = field(name="resourceVersion")
    created: str = field(name="creationTimestamp")
    deleted: str | None = field(name="deletionTimestamp", default=None)
    labels: Labels | None = None


class Terminated(Struct, gc=False):
    exit_code: int = field(name="exitCode", default=0)
    finished: str | None = field(name="finishedAt", default=None)


class State(Struct, gc=False):
    terminated: Terminated | None = None


class Container(Struct, gc=False):
    name: str
    state: State | None = None


class Status(Struct, gc=False):
    phase: str = ""
    containers: list[Container] = field(name="containerStatuses", default=[])


class Item(Struct, gc=False):
    metadata: Metadata
    status: Status


class PageMetadata(Struct, gc=False):
    next: str = field(name="continue", default="")


class Page(Struct, gc=False):
    metadata: PageMetadata
    items: list[Item]


Pod = tuple[str, str, str, str, str, bool, Labels | None, str, tuple[Container, ...]]


def slim(item: Item) -> Pod:
    meta, status = item.metadata, item.status
    identity = (meta.namespace, meta.name, meta.uid, meta.version, meta.created)
    return *identity, meta.deleted is not None, meta.labels, status.phase, tuple(status.containers)


async def look(
    http: aiohttp.ClientSession, url: str, ca_file: str, token: str, namespace: str
) -> tuple[list[Pod], int]:
    """All Pods of the namespace, and the bytes of the pages."""
    tls, decoder = ssl.create_default_context(cafile=ca_file), Decoder(Page)
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
    query = {"limit": "500", "labelSelector": SELECTOR}
    pods: list[Pod] = []
    size, more = 0, True
    while more:
        where = f"{url}/api/v1/namespaces/{namespace}/pods"
        async with http.get(where, params=query, headers=headers, ssl=tls, raise_for_status=True) as answer:
            body = await answer.read()
        page = decoder.decode(body)
        pods += map(slim, page.items)
        size += len(body)
        query["continue"] = page.metadata.next
        more = bool(page.metadata.next)
    return pods, size


async def main(url: str, ca_file: str, token: str, namespace: str) -> None:
    async with aiohttp.ClientSession() as http:
        pods, size = await look(http, url, ca_file, token, namespace)
    print(json.dumps({"pods": len(pods), "bytes": size}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
