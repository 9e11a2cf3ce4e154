"""What a Pod's manifest says, for people who ask later what was deleted: by a list of what may be told.

Nothing else is decoded: no env, args or command, no probes and hooks, no annotations, no names of Secrets, no labels
but the operator's. A text that has not the form of its field, where a secret may stand by mistake, is withheld.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from healer.model import OWNER_LABEL
from healer.redaction import HIDDEN, scrubbed

MOST = 50
"""Containers of a kind, volumes, owners and resources beyond which the rest is left away: a log line has an end."""

LABELS = frozenset(
    {
        *("dag_id", "task_id", "run_id", "map_index", "try_number", "already_checked", "kubernetes_pod_operator"),
        *("airflow_version", "airflow_kpo_in_cluster", OWNER_LABEL),
    }
)
"""The labels that are told: those that the operator and the stamp write."""

VOLUMES = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "hostPath", "image", "nfs"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
)
"""The kinds of volumes that are told by their name; what they hold or point at never is."""

_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._]{0,251}[A-Za-z0-9])?", re.ASCII)
_RESOURCE = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,252})/)?[A-Za-z0-9](?:[-A-Za-z0-9._]{0,62})", re.ASCII)
_QUANTITY = re.compile(r"[0-9.]{1,24}(?:[eE][-+]?[0-9]{1,3}|[numkMGTPE]|[KMGTPE]i)?", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(?:Z|[-+][0-9]{2}:[0-9]{2})", re.ASCII)
_IMAGE = re.compile(
    r"[a-zA-Z0-9][-a-zA-Z0-9._]*(?::[0-9]{1,5})?(?:/[a-z0-9][-a-z0-9._]*)*"
    r"(?::[a-zA-Z0-9_][-a-zA-Z0-9._]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
MAX_TEXT = 512

T = TypeVar("T")


class _Form(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What is told has the form of a manifest, and what is not set is left away."""


class Owner(_Form, frozen=True):
    """Who owns the Pod."""

    kind: str | None = None
    name: str | None = None
    controller: bool | None = None


class ResourceTerms(_Form, frozen=True):
    """What a container asks for."""

    requests: Mapping[str, str] = {}
    limits: Mapping[str, str] = {}


class _ContainerTexts(_Form, frozen=True):
    name: str | None = None
    image: str | None = None


class ContainerTerms(_ContainerTexts, frozen=True):
    """A container: what it is called, its image, what it asks for."""

    resources: ResourceTerms = ResourceTerms()


class VolumeTerms(_Form, frozen=True):
    """A volume and of which kind it is."""

    name: str | None = None
    kind: str | None = None


class _MetadataTexts(_Form, frozen=True):
    name: str | None = None
    namespace: str | None = None
    creation_timestamp: str | None = None


class ManifestMetadata(_MetadataTexts, frozen=True):
    """Which Pod it was."""

    labels: Mapping[str, str] = {}
    owner_references: tuple[Owner, ...] = ()


class _SpecFacts(_Form, frozen=True):
    node_name: str | None = None
    service_account_name: str | None = None
    restart_policy: str | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    scheduler_name: str | None = None
    active_deadline_seconds: int | None = None
    termination_grace_period_seconds: int | None = None
    host_network: bool | None = None


class ManifestSpec(_SpecFacts, frozen=True):
    """How it was to run."""

    init_containers: tuple[ContainerTerms, ...] = ()
    containers: tuple[ContainerTerms, ...] = ()
    volumes: tuple[VolumeTerms, ...] = ()


class Manifest(_Form, frozen=True):
    """What may be told of a Pod's manifest."""

    metadata: ManifestMetadata
    spec: ManifestSpec


class _Resources(Struct):
    requests: dict[str, str | int | float] | None = None
    limits: dict[str, str | int | float] | None = None


class _Container(_ContainerTexts, frozen=True):
    resources: _Resources | None = None


class _Metadata(_MetadataTexts, frozen=True):
    labels: dict[str, str] | None = None
    owner_references: list[Owner] | None = None


class _Spec(_SpecFacts, frozen=True):
    init_containers: list[_Container] | None = None
    containers: list[_Container] | None = None
    volumes: list[dict[str, Raw]] | None = None


class _Pod(Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_POD = msgspec.json.Decoder(_Pod)


def decode_manifest(body: bytes) -> Manifest | None:
    """Return what may be told of the Pod that these bytes describe; None where they describe none. Never raises."""
    try:
        found = _POD.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return Manifest(_metadata(found.metadata), _spec(found.spec))


def _metadata(found: _Metadata) -> ManifestMetadata:
    labels = {key: value for key, value in (found.labels or {}).items() if key in LABELS}
    return ManifestMetadata(
        name=_told(found.name),
        namespace=_told(found.namespace),
        creation_timestamp=_told(found.creation_timestamp, _TIME),
        labels={key: _told(value) or "" for key, value in labels.items()},
        owner_references=tuple(
            Owner(_told(each.kind), _told(each.name), each.controller) for each in _some(found.owner_references)
        ),
    )


def _spec(found: _Spec) -> ManifestSpec:
    return ManifestSpec(
        **_facts(found),
        init_containers=tuple(map(_container, _some(found.init_containers))),
        containers=tuple(map(_container, _some(found.containers))),
        volumes=tuple(map(_volume, _some(found.volumes))),
    )


def _facts(found: _Spec) -> dict[str, Any]:
    """Return the facts that are told as they stand, texts only in their form."""
    facts = ((name, getattr(found, name)) for name in _SpecFacts.__struct_fields__)
    return {name: _told(fact) if isinstance(fact, str) else fact for name, fact in facts}


def _container(found: _Container) -> ContainerTerms:
    resources = found.resources or _Resources()
    asked = ResourceTerms(_amounts(resources.requests), _amounts(resources.limits))
    return ContainerTerms(_told(found.name), _told(found.image, _IMAGE), asked)


def _amounts(found: Mapping[str, str | int | float] | None) -> dict[str, str]:
    some = [(name, str(amount)) for name, amount in (found or {}).items()][:MOST]
    return {name: _told(amount, _QUANTITY) or "" for name, amount in some if _RESOURCE.fullmatch(name)}


def _volume(found: Mapping[str, Raw]) -> VolumeTerms:
    try:
        name = msgspec.json.decode(found.get("name", b"null"), type=str | None)
    except (msgspec.DecodeError, ValueError):
        name = None
    return VolumeTerms(_told(name), next((kind for kind in found if kind in VOLUMES), "other"))


def _some(found: Sequence[T] | None) -> Iterable[T]:
    return (found or ())[:MOST]


def _told(text: str | None, form: re.Pattern[str] = _NAME) -> str | None:
    """Return a text that has the form of its field, what stands for a secret where it has another; None for none."""
    if not text:
        return None
    return text if len(text) <= MAX_TEXT and form.fullmatch(text) and scrubbed(text) == text else HIDDEN
