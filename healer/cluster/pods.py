"""Pods as the API server writes them, decoded to the few facts the healer needs.

Env, args and volumes are never decoded: they are most of a Pod's bytes and may hold secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from healer.cluster.errors import Malformed
from healer.cluster.requests import Quantity, Requester, Resources, effective
from healer.model import ID_ANNOTATIONS, PROTECT_ANNOTATION, STAMP_LABEL, Container, Labels, Pod, RawIds, shared


class _Labels(Struct, gc=False):
    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    map_index: str | None = None
    try_number: str | None = None
    already_checked: str | None = None
    kubernetes_pod_operator: str | None = None
    worker: str | None = field(default=None, name="airflow-worker")
    kubernetes_executor: str | None = None
    spark_kubernetes_operator: str | None = None
    stamp: str | None = field(default=None, name=STAMP_LABEL)
    airflow_version: str | None = None


class _Annotations(Struct, gc=False):
    protect: str | None = field(default=None, name=PROTECT_ANNOTATION)
    dag_id: str | None = field(default=None, name=ID_ANNOTATIONS["dag_id"])
    task_id: str | None = field(default=None, name=ID_ANNOTATIONS["task_id"])
    run_id: str | None = field(default=None, name=ID_ANNOTATIONS["run_id"])
    map_index: str | None = field(default=None, name=ID_ANNOTATIONS["map_index"])


class _Owner(Struct, gc=False):
    controller: bool | None = None


class _Metadata(Struct, rename="camel", gc=False):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: _Labels | None = None
    annotations: _Annotations | None = None
    owner_references: list[_Owner] | None = None


class _Spec(Struct, rename="camel", gc=False):
    restart_policy: str | None = None
    node_name: str | None = None
    containers: list[Requester] | None = None
    init_containers: list[Requester] | None = None
    overhead: dict[str, Quantity] | None = None
    resources: Resources | None = None


class _Terminated(Struct, rename="camel", gc=False):
    exit_code: int | None = None
    finished_at: str | None = None


class _Waiting(Struct, gc=False):
    reason: str | None = None


class _State(Struct, gc=False):
    terminated: _Terminated | None = None
    waiting: _Waiting | None = None


class _ContainerStatus(Struct, gc=False):
    name: str | None = None
    state: _State | None = None


class _Status(Struct, rename="camel", gc=False):
    phase: str | None = None
    container_statuses: list[_ContainerStatus] | None = None
    init_container_statuses: list[_ContainerStatus] | None = None


class _Pod(Struct, gc=False):
    metadata: _Metadata | None = None
    spec: _Spec | None = None
    status: _Status | None = None


class _PageMetadata(Struct, rename="camel", gc=False):
    resource_version: str | None = None
    continue_token: str | None = field(default=None, name="continue")


class _Page(Struct, gc=False):
    """A page of a listing. `kind` and `items` must be there: half an answer must not look like an empty one."""

    kind: str
    metadata: _PageMetadata
    items: list[_Pod] | None


class _LoosePage(Struct, gc=False):
    kind: str
    metadata: _PageMetadata
    items: list[Raw] | None


class Page(Struct, frozen=True):
    """One page: its Pods, how many of its items were no usable Pods, and where the next page begins."""

    pods: list[Pod]
    skipped: int
    resource_version: str
    continue_token: str | None


_POD = msgspec.json.Decoder(_Pod)
_PAGE = msgspec.json.Decoder(_Page)
_LOOSE_PAGE = msgspec.json.Decoder(_LoosePage)


def decode_pod(source: Mapping[str, Any] | bytes | Raw) -> Pod | None:
    """Return the Pod that a JSON object or its bytes describe, or None where it has no namespace, name or uid.

    Never raises: what is missing is None, what is no Pod at all is None.
    """
    try:
        raw = _POD.decode(source) if isinstance(source, bytes | Raw) else msgspec.convert(source, _Pod, strict=True)
    except (msgspec.DecodeError, ValueError):
        return None
    return _pod(raw)


def decode_page(body: bytes) -> Page:
    """Return one page of a listing.

    Raises:
        Malformed: it is no list of Pods.
    """
    try:
        page = _PAGE.decode(body)
    except (msgspec.DecodeError, ValueError):
        return _decode_loosely(body)
    return _page(page.kind, page.metadata, [_pod(item) for item in page.items or ()])


def _decode_loosely(body: bytes) -> Page:
    """Decode item by item, so that one odd Pod doesn't spoil its whole page."""
    try:
        page = _LOOSE_PAGE.decode(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise Malformed(f"The answer is no list of Pods ({error}).") from error
    return _page(page.kind, page.metadata, [decode_pod(item) for item in page.items or ()])


def _page(kind: str, metadata: _PageMetadata, pods: list[Pod | None]) -> Page:
    if kind != "PodList":
        raise Malformed(f"The answer is a {kind} and no list of Pods.")
    usable = [pod for pod in pods if pod is not None]
    return Page(usable, len(pods) - len(usable), metadata.resource_version or "", metadata.continue_token or None)


def _pod(raw: _Pod) -> Pod | None:
    metadata, spec, status = raw.metadata or _Metadata(), raw.spec or _Spec(), raw.status or _Status()
    if not (metadata.namespace and metadata.name and metadata.uid):
        return None
    labels, annotations = metadata.labels or _Labels(), metadata.annotations or _Annotations()
    requests = effective(spec.containers or (), spec.init_containers, spec.overhead, spec.resources)
    return Pod(
        namespace=shared(metadata.namespace),
        name=metadata.name,
        uid=metadata.uid,
        resource_version=metadata.resource_version or "",
        created=_seconds(metadata.creation_timestamp),
        phase=shared(status.phase or ""),
        labels=_shared_labels(labels),
        containers=_containers(spec.containers or (), status.container_statuses or ()),
        terminating=metadata.deletion_timestamp is not None,
        # Whoever writes "True" means it too, and one keep more harms nobody.
        protected=(annotations.protect or "").strip().lower() == "true",
        owned=any(owner.controller for owner in metadata.owner_references or ()),
        checked=labels.already_checked == "True",
        restart_never=spec.restart_policy == "Never",
        stamp=_shared(labels.stamp),
        selected=_selected(labels),
        cpu_cores=requests.cpu_cores,
        memory_bytes=requests.memory_bytes,
        extended=requests.extended,
        airflow_version=_shared(labels.airflow_version),
        ends=_seconds(metadata.deletion_timestamp),
        waiting=_waiting(spec, status) if status.phase == "Pending" else None,
        raw=_raw_ids(annotations),
    )


_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of a container that waits for nothing in particular."""


def _waiting(spec: _Spec, status: _Status) -> str | None:
    """Return why a Pod does not start, if that is told. Conditions are not decoded: all Pods would pay for it."""
    if not spec.node_name:
        return "no node has been found for it (unschedulable, or gated)"
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        reason = container.state.waiting.reason if container.state and container.state.waiting else None
        if reason and reason not in _STARTING:
            what = "its image can't be pulled" if "Image" in reason else "its container can't be started"
            return f"{what} ({reason}, container {container.name})"
    return None


def _selected(labels: _Labels) -> bool:
    """Whether `POD_SELECTOR` finds a Pod with these labels: a GET finds it anyway."""
    others = (labels.worker, labels.kubernetes_executor, labels.spark_kubernetes_operator)
    return labels.kubernetes_pod_operator == "True" and all(other is None for other in others)


def _raw_ids(found: _Annotations) -> RawIds | None:
    ids = _shared(found.dag_id), _shared(found.task_id), _shared(found.run_id), _shared(found.map_index)
    return None if ids == (None, None, None, None) else RawIds(*ids)


def _shared(text: str | None) -> str | None:
    return None if text is None else shared(text)


def _shared_labels(labels: _Labels) -> Labels:
    return Labels(
        dag_id=_shared(labels.dag_id),
        task_id=_shared(labels.task_id),
        run_id=_shared(labels.run_id),
        map_index=_shared(labels.map_index),
        try_number=_shared(labels.try_number),
    )


def _containers(specified: Iterable[Requester], statuses: Iterable[_ContainerStatus]) -> tuple[Container, ...]:
    """Join the regular containers of the spec (init containers are not among them) with how they ended."""
    names = tuple(container.name for container in specified if container.name)
    ended = {each.name: each.state.terminated for each in statuses if each.state and each.state.terminated}
    if not ended:
        return _none_ended(names)
    return tuple(_ended(name, ended[name]) if name in ended else Container(name) for name in names)


@lru_cache(maxsize=1024)
def _none_ended(names: tuple[str, ...]) -> tuple[Container, ...]:
    """Nearly all Pods that run look the same here: they share one tuple."""
    return tuple(Container(shared(name)) for name in names)


def _ended(name: str, how: _Terminated) -> Container:
    return Container(shared(name), True, how.exit_code, _seconds(how.finished_at))


def _seconds(time: str | None) -> float | None:
    """Return an RFC 3339 time as seconds since the epoch; None where it is missing, malformed or has no zone."""
    if not time:
        return None
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
