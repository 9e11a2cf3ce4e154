"""Pods as the API server writes them, decoded to the few facts the healer needs.

Env, args and volumes are never decoded: they are most of a Pod's bytes and may hold secrets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import replace

from healer.cluster.resource_requests import ContainerSpec, Quantity, Resources, effective_requests
from healer.config import parse_duration
from healer.decision.labels import MAX_ID
from healer.errors import InvalidResponseError
from healer.model import (
    ID_ANNOTATIONS,
    OWNER_LABEL,
    PROTECT_ANNOTATION,
    RETENTION_ANNOTATION,
    SELECTOR,
    UNREADABLE,
    Container,
    Labels,
    Pod,
    RawIds,
    Requirement,
    intern_bounded,
    protects,
)

T = TypeVar("T")


class _LabelFields(Struct, gc=False):
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
    stamp: str | None = field(default=None, name=OWNER_LABEL)
    airflow_version: str | None = None


class _AnnotationFields(Struct, gc=False):
    protect: str | None = field(default=None, name=PROTECT_ANNOTATION)
    retention: str | None = field(default=None, name=RETENTION_ANNOTATION)
    dag_id: str | None = field(default=None, name=ID_ANNOTATIONS["dag_id"])
    task_id: str | None = field(default=None, name=ID_ANNOTATIONS["task_id"])
    run_id: str | None = field(default=None, name=ID_ANNOTATIONS["run_id"])
    map_index: str | None = field(default=None, name=ID_ANNOTATIONS["map_index"])


class _OwnerReference(Struct, gc=False):
    controller: bool | None = None


class _PodMetadata(Struct, rename="camel", gc=False):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: _LabelFields | None = None
    annotations: _AnnotationFields | None = None
    owner_references: list[_OwnerReference] | None = None


class _PodSpec(Struct, rename="camel", gc=False):
    restart_policy: str | None = None
    node_name: str | None = None
    containers: list[ContainerSpec] | None = None
    init_containers: list[ContainerSpec] | None = None
    overhead: dict[str, Quantity] | None = None
    resources: Resources | None = None


class _ContainerEnd(Struct, rename="camel", gc=False):
    exit_code: int | None = None
    finished_at: str | None = None


class _ContainerWaiting(Struct, gc=False):
    reason: str | None = None


class _ContainerStateFields(Struct, gc=False):
    terminated: _ContainerEnd | None = None
    waiting: _ContainerWaiting | None = None


class _ContainerStatusFields(Struct, gc=False):
    name: str | None = None
    state: _ContainerStateFields | None = None


class _PodCondition(Struct, rename="camel", gc=False):
    type: str | None = None
    status: str | None = None
    last_transition_time: str | None = None


class _PodStatus(Struct, rename="camel", gc=False):
    phase: str | None = None
    conditions: list[_PodCondition] | None = None
    container_statuses: list[_ContainerStatusFields] | None = None
    init_container_statuses: list[_ContainerStatusFields] | None = None


class _PodObject(Struct, gc=False):
    metadata: _PodMetadata | None = None
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


class _PodListMetadata(Struct, rename="camel", gc=False):
    resource_version: str | None = None
    continue_token: str | None = field(default=None, name="continue")


class _PodList(Struct, gc=False):
    """A page of a listing. `kind` and `items` must be there: half an answer must not look like an empty one."""

    kind: str
    metadata: _PodListMetadata
    items: list[_PodObject] | None


class _LoosePodList(Struct, gc=False):
    kind: str
    metadata: _PodListMetadata
    items: list[Raw] | None


class Undecodable(Struct, frozen=True):
    """A Pod, or what should be one, that can't be decoded: it is left alone, and told. What is not known is "" ."""

    namespace: str = ""
    name: str = ""
    uid: str = ""

    def __str__(self) -> str:
        """`namespace/name`, as kubectl users write it."""
        return f"{self.namespace or '?'}/{self.name or '?'}"

    @property
    def key(self) -> str:
        """What tells it from others: its uid, else its name."""
        return self.uid or str(self)


class PodPage(Struct, frozen=True):
    """One page: its Pods, which of its items were no usable Pods, and where the next page begins."""

    pods: list[Pod]
    skipped: tuple[Undecodable, ...]
    resource_version: str
    continue_token: str | None


_POD_OBJECT = msgspec.json.Decoder(_PodObject)
_POD_LIST = msgspec.json.Decoder(_PodList)
_LOOSE_POD_LIST = msgspec.json.Decoder(_LoosePodList)


class _LabelledMetadata(Struct, gc=False):
    labels: dict[str, str] = {}


class _Labelled(Struct, gc=False):
    metadata: _LabelledMetadata


_LABELLED = msgspec.json.Decoder(_Labelled)


def decode_pod(source: Mapping[str, Any] | bytes | Raw, owner_labels: Collection[str] = ()) -> Pod | None:
    """Return the Pod that a JSON object or its bytes describe, or None where it has no namespace, name or uid.

    `owner_labels` are the keys of the labels that are kept as they are (`Pod.owner_labels`).

    Never raises: what is missing is None, what is no Pod at all is None.
    """
    raw = _decoded(source, _POD_OBJECT)
    pod = None if raw is None else _pod(raw)
    return _with_owner(pod, source, owner_labels) if owner_labels and pod is not None else pod


def _decoded(source: Mapping[str, Any] | bytes | Raw, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return what a JSON object or its bytes hold in the decoder's form, None where they have another one."""
    try:
        if isinstance(source, bytes | Raw):
            return decoder.decode(source)
        return msgspec.convert(source, decoder.type, strict=True)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _with_owner(pod: Pod, source: Mapping[str, Any] | bytes | Raw, keys: Collection[str]) -> Pod:
    """Return the Pod with those of its labels that have these keys; none where its labels can't be read."""
    found = _decoded(source, _LABELLED)
    if found is None:
        return pod
    labels = found.metadata.labels
    return replace(pod, owner_labels=tuple((key, intern_bounded(labels[key])) for key in sorted(keys) if key in labels))


def decode_page(body: bytes, owner_labels: Collection[str] = ()) -> PodPage:
    """Return one page of a listing.

    Raises:
        Malformed: it is no list of Pods.
    """
    if owner_labels:
        return _decode_loosely(body, owner_labels)
    try:
        page = _POD_LIST.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _decode_loosely(body)
    pods = [_pod(item) for item in page.items or ()]
    if None in pods:
        return _decode_loosely(body)
    return _page(page.kind, page.metadata, pods)


def _decode_loosely(body: bytes, owner_labels: Collection[str] = ()) -> PodPage:
    """Decode item by item, so that one odd Pod doesn't spoil its whole page."""
    try:
        page = _LOOSE_POD_LIST.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidResponseError(f"The answer is no list of Pods ({error}).") from error
    return _page(
        page.kind, page.metadata, [decode_pod(item, owner_labels) or what_is_told(item) for item in page.items or ()]
    )


def _page(kind: str, metadata: _PodListMetadata, pods: Sequence[Pod | Undecodable | None]) -> PodPage:
    if kind != "PodList":
        raise InvalidResponseError(f"The answer is a {kind} and no list of Pods.")
    usable = [pod for pod in pods if isinstance(pod, Pod)]
    skipped = tuple(pod for pod in pods if isinstance(pod, Undecodable))
    return PodPage(usable, skipped, metadata.resource_version or "", metadata.continue_token or None)


def what_is_told(source: Mapping[str, Any] | bytes | Raw) -> Undecodable:
    """Return what can be told of something that `decode_pod` could not decode. Never raises."""
    try:
        found = msgspec.json.decode(source) if isinstance(source, bytes | Raw) else source
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Undecodable()
    metadata = found.get("metadata") if isinstance(found, Mapping) else None
    if not isinstance(metadata, Mapping):
        return Undecodable()
    told = (metadata.get(name) for name in ("namespace", "name", "uid"))
    return Undecodable(*(each[:253] if isinstance(each, str) else "" for each in told))


def _pod(raw: _PodObject) -> Pod | None:
    metadata, spec, status = raw.metadata or _PodMetadata(), raw.spec or _PodSpec(), raw.status or _PodStatus()
    if not (metadata.namespace and metadata.name and metadata.uid):
        return None
    labels, annotations = metadata.labels or _LabelFields(), metadata.annotations or _AnnotationFields()
    requests = effective_requests(spec.containers or (), spec.init_containers, spec.overhead, spec.resources)
    return Pod(
        namespace=intern_bounded(metadata.namespace),
        name=metadata.name,
        uid=metadata.uid,
        resource_version=metadata.resource_version or "",
        created=_seconds(metadata.creation_timestamp),
        phase=intern_bounded(status.phase or ""),
        labels=_labels(labels),
        containers=_containers(spec.containers or (), status.container_statuses or ()),
        terminating=metadata.deletion_timestamp is not None,
        protected=protects(annotations.protect),
        owned=any(owner.controller for owner in metadata.owner_references or ()),
        checked=labels.already_checked == "True",
        restart_never=spec.restart_policy == "Never",
        owner_label=_intern(labels.stamp),
        selected=_selected(labels),
        cpu_cores=requests.cpu_cores,
        memory_bytes=requests.memory_bytes,
        extended=requests.extended,
        airflow_version=_intern(labels.airflow_version),
        ends=_seconds(metadata.deletion_timestamp),
        waiting=_waiting(spec, status) if status.phase == "Pending" else None,
        raw=_raw_ids(annotations),
        ended=_ended_by_condition(status) if status.phase in _OVER else None,
        retention=None if annotations.retention is None else _retention(annotations.retention),
    )


MAX_RETENTION = 64
"""Characters of the annotation beyond which it is not read."""


def _retention(text: str) -> float | None:
    """Return how long the annotation wants the Pod to stay; None where it is empty.

    What is no duration was written to keep the Pod, and so it is not taken for nothing.
    """
    wish = text.strip() if len(text) <= MAX_RETENTION else text
    if not wish:
        return None
    try:
        return parse_duration(wish) if len(wish) <= MAX_RETENTION else UNREADABLE
    except ValueError:
        return UNREADABLE


_OVER = frozenset({"Succeeded", "Failed"})

_ENDING = {"DisruptionTarget": "True", "Ready": "False", "ContainersReady": "False"}
"""Conditions that turn to this status when a Pod ends or is made to; of a phase that is over the newest tells when."""


def _ended_by_condition(status: _PodStatus) -> float | None:
    """Return when the phase was over, None where no condition tells it."""
    told = (c for c in status.conditions or () if c.type is not None and _ENDING.get(c.type) == c.status)
    return max((time for c in told if (time := _seconds(c.last_transition_time)) is not None), default=None)


_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of a container that waits for nothing in particular."""


def _waiting(spec: _PodSpec, status: _PodStatus) -> str | None:
    """Return why a Pod does not start, if that is told."""
    if not spec.node_name:
        return "no node has been found for it (unschedulable, or gated)"
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        reason = container.state.waiting.reason if container.state and container.state.waiting else None
        if reason and reason not in _STARTING:
            what = "its image can't be pulled" if "Image" in reason else "its container can't be started"
            return f"{what} ({reason}, container {container.name})"
    return None


_READ = {field.encode_name: attrgetter(field.name) for field in msgspec.structs.fields(_LabelFields)}

_REQUIRED = tuple((_READ[requirement.label], requirement.admits) for requirement in SELECTOR)


def _selected(labels: _LabelFields) -> bool:
    """Whether `SELECTOR` finds a Pod with these labels: a GET finds it anyway."""
    for read, admits in _REQUIRED:  # noqa: SIM110 - a page has hundreds of Pods: no generator
        if not admits(read(labels)):
            return False
    return True


def decode_unmet(body: bytes) -> tuple[Requirement, ...]:
    """Return the terms of `SELECTOR` that the labels of a Pod do not meet; all of them where it can't be decoded."""
    try:
        raw = _POD_OBJECT.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return SELECTOR
    labels = (raw.metadata and raw.metadata.labels) or _LabelFields()
    return tuple(each for each in SELECTOR if not each.admits(_READ[each.label](labels)))


def _raw_ids(found: _AnnotationFields) -> RawIds | None:
    ids = _raw_id(found.dag_id), _raw_id(found.task_id), _raw_id(found.run_id), _raw_id(found.map_index)
    return None if ids == (None, None, None, None) else RawIds(*ids)


def _raw_id(text: str | None) -> str | None:
    """Return an id as it stands there; what is too long for any id is not kept in memory, and believed as little."""
    return None if text is None else intern_bounded(text) if len(text) <= MAX_ID else ""


def _intern(text: str | None) -> str | None:
    return None if text is None else intern_bounded(text)


def _labels(labels: _LabelFields) -> Labels:
    return Labels(
        dag_id=_intern(labels.dag_id),
        task_id=_intern(labels.task_id),
        run_id=_intern(labels.run_id),
        map_index=_intern(labels.map_index),
        try_number=_intern(labels.try_number),
    )


def _containers(
    specified: Iterable[ContainerSpec], statuses: Iterable[_ContainerStatusFields]
) -> tuple[Container, ...]:
    """Join the regular containers of the spec (init containers are not among them) with how they ended."""
    names = tuple(container.name for container in specified if container.name)
    ended = {each.name: each.state.terminated for each in statuses if each.state and each.state.terminated}
    if not ended:
        return _none_ended(names)
    return tuple(_ended(name, ended[name]) if name in ended else Container(name) for name in names)


@lru_cache(maxsize=1024)
def _none_ended(names: tuple[str, ...]) -> tuple[Container, ...]:
    """Nearly all Pods that run look the same here: they share one tuple."""
    return tuple(Container(intern_bounded(name)) for name in names)


def _ended(name: str, how: _ContainerEnd) -> Container:
    return Container(intern_bounded(name), True, how.exit_code, _seconds(how.finished_at))


def _seconds(time: str | None) -> float | None:
    """Return an RFC 3339 time as seconds since the epoch; None where it is missing, malformed or has no zone."""
    if not time:
        return None
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
