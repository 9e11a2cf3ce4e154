"""Tens of thousands of realistic Pods in seconds: real ones are copied, past the API server, into etcd.

For each shape one Pod is created through the API server and brought by kwok into its state; what the API server then
stores, kwok's status and managedFields included, is copied with other names, uids and label values of the same length.
A Pod of a hundred thousand differs in nothing from one that was created the usual way.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import httpx

from healer.decision.labels import safe_label
from tests.bench.population import NAMESPACE, Seat, pod_name, pod_uid
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import LabError, wait_for

Shape = tuple[str, bool, str, int, int, int]

BATCH = 100
"""Operations in one transaction; etcd takes 128 at most by default."""

ENDS = {"succeeded": {"run-for": "1s"}, "kept": {"run-for": "1s"}, "failed": {"run-for": "1s", "exit-code": "1"}}


class Stamp:
    """The stored form of one Pod of each shape."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._models: dict[Shape, tuple[Seat, str, bytes]] = {}

    def learn(self, seats: Iterable[Seat]) -> None:
        """Makes a real Pod of each shape among these, keeps what is stored of it, and removes it. Needs kwok."""
        wanted = {seat.shape: seat for seat in seats if seat.shape not in self._models}
        for kind in {seat.kind for seat in wanted.values()}:  # a seat that is taken in two kinds has one name
            self._learn([seat for seat in wanted.values() if seat.kind == kind])

    def _learn(self, seats: Sequence[Seat]) -> None:
        made = self._cluster.create_pods([_body(seat) for seat in seats])
        for seat, pod in zip(seats, made, strict=True):
            phase = {"running": "Running", "failed": "Failed"}.get(seat.kind, "Succeeded")
            self._cluster.wait_pod(NAMESPACE, pod_name(seat), phase, timeout=120)
            self._models[seat.shape] = seat, pod["metadata"]["uid"], self._stored(seat)
        self.remove(seats)

    def put(self, seats: Sequence[Seat]) -> None:
        """Copies: afterwards there is one Pod for each of these seats, as new."""
        operations = (
            {"request_put": {"key": _base64(_key(seat)), "value": _base64(self._copy(seat))}} for seat in seats
        )
        self._write(operations)

    def remove(self, seats: Iterable[Seat]) -> None:
        """Removes them at once, whatever state they are in."""
        self._write({"request_delete_range": {"key": _base64(_key(seat))}} for seat in seats)

    def wait_served(self, count: int) -> None:
        """Waits until the API server's cache has so many Pods in the namespace."""

        def served() -> bool:
            query = {"limit": 1, "labelSelector": ""}
            answer = self._cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods", query=query)
            return len(answer["items"]) + answer["metadata"].get("remainingItemCount", 0) == count

        wait_for(served, timeout=300, what=f"{count} Pods to be served", interval=0.5)

    def _copy(self, seat: Seat) -> bytes:
        model, uid, stored = self._models[seat.shape]
        for old, new in zip(_texts(model, uid), _texts(seat, pod_uid(seat)), strict=True):
            if len(old) != len(new):
                raise LabError(f"{old!r} and {new!r} differ in length: they can't be of one shape")
            stored = stored.replace(old, new)
        return stored

    def _stored(self, seat: Seat) -> bytes:
        answer = self._etcd("kv/range", {"key": _base64(_key(seat))})
        return base64.b64decode(answer["kvs"][0]["value"])

    def _write(self, operations: Iterable[dict[str, dict[str, str]]]) -> None:
        todo = iter(operations)
        with ThreadPoolExecutor(4) as pool:
            batches = iter(lambda: list(islice(todo, BATCH)), [])
            while wave := list(islice(batches, 16)):  # not all at once: a hundred thousand Pods are 600 MB
                list(pool.map(lambda batch: self._etcd("kv/txn", {"success": batch}), wave))

    def _etcd(self, call: str, body: object) -> dict[str, list[dict[str, str]]]:
        answer = httpx.post(f"{self._cluster.etcd_url}/v3/{call}", json=body, trust_env=False, timeout=120)
        if answer.status_code != 200:
            raise LabError(f"etcd refused {call}: {answer.text[:300]}")
        return dict(answer.json())


def _body(seat: Seat) -> dict[str, object]:
    """The Pod that is the model, named after its own seat. What kube-janitor shall delete carries its mark."""
    annotations = {f"lab.kpo-healer.io/{key}": value for key, value in ENDS.get(seat.kind, {}).items()}
    return kpo_pod(
        dag_id=seat.dag,
        task_id=seat.task,
        run_id=seat.run,
        map_index=seat.map_index,
        try_number=seat.try_number,
        namespace=NAMESPACE,
        name=pod_name(seat),
        annotations=annotations | ({"janitor/ttl": "1s"} if seat.orphan else {}),
        checked=seat.kind == "kept",
    )


def _texts(seat: Seat, uid: str) -> Iterator[bytes]:
    """What is a Pod's own in its stored form: names, and labels as entries of a protobuf map."""
    yield pod_name(seat).encode()
    yield uid.encode()
    labels = {"dag_id": seat.dag, "task_id": seat.task, "run_id": safe_label(seat.run)}
    index = {} if seat.map_index is None else {"map_index": str(seat.map_index)}
    for key, value in {**labels, **index, "try_number": str(seat.try_number)}.items():
        yield b"\x0a" + _sized(key) + b"\x12" + _sized(value)


def _sized(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 128, text
    return bytes([len(raw)]) + raw


def _key(seat: Seat) -> bytes:
    return f"/registry/pods/{NAMESPACE}/{pod_name(seat)}".encode()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
