"""What a Pod occupies on its node: its effective requests, by the rule that the scheduler goes by.

The containers run together, and so do the init containers that are restarted always (sidecars); the other init
containers run before, one after another, beside the sidecars that stand above them. What counts is the larger of the
two, resource by resource, plus the overhead of the Pod's runtime class. CPU and memory that are requested for the Pod
as a whole take the place of its containers' sum. (Kubernetes, "Sidecar containers: resource sharing within containers",
"Pod overhead", "Pod-level resources".)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

Quantity = str | int | float | None
ResourceAmounts = Mapping[str, float]
"""By resource: cores, bytes, pieces."""

_Items = tuple[tuple[str, Quantity], ...]
"""The requests of one container."""

_NONE: ResourceAmounts = {}


class Resources(Struct, gc=False):
    """`resources` of a container or a Pod."""

    requests: dict[str, Quantity] | None = None


class ContainerSpec(Struct, rename="camel", gc=False):
    """A container as far as its requests go."""

    name: str | None = None
    resources: Resources | None = None
    restart_policy: str | None = None


class EffectiveRequests(NamedTuple):
    """What a Pod occupies: cores, bytes, and extended resources such as `nvidia.com/gpu`, by name."""

    cpu_cores: float
    memory_bytes: float
    extended: tuple[tuple[str, float], ...]


def effective_requests(
    containers: Iterable[ContainerSpec],
    init: Iterable[ContainerSpec] | None,
    overhead: Mapping[str, Quantity] | None,
    whole: Resources | None,
) -> EffectiveRequests:
    """Return what a Pod requests; `whole` are the resources of the Pod itself."""
    running = tuple(tuple(c.resources.requests.items()) for c in containers if c.resources and c.resources.requests)
    if not (init or overhead or whole):
        return _plain(running)
    total = _with_init(_sum(running), init or ())
    if whole is not None:
        total = {**total, **{name: amount for name, amount in _of(whole).items() if name in {"cpu", "memory"}}}
    return _summary(_plus(total, _amounts((overhead or {}).items())))


@lru_cache(maxsize=1024)
def _plain(running: tuple[_Items, ...]) -> EffectiveRequests:
    """Nearly all Pods look alike here: thousands are made from few tasks."""
    return _summary(_sum(running))


def _summary(total: ResourceAmounts) -> EffectiveRequests:
    extended = ((name, amount) for name, amount in total.items() if _is_extended(name) and amount)
    return EffectiveRequests(total.get("cpu", 0.0), total.get("memory", 0.0), tuple(sorted(extended)))


def _sum(running: Iterable[_Items]) -> ResourceAmounts:
    total: ResourceAmounts = _NONE
    for requests in running:
        total = _plus(total, _amounts(requests))
    return total


@lru_cache(maxsize=1024)
def quantity(value: Quantity) -> float:
    """Return a Kubernetes quantity (`500m`, `2Gi`) as a plain number; 0 where it is missing or malformed."""
    from kubernetes.utils.quantity import parse_quantity

    if value is None:
        return 0.0
    try:
        return float(parse_quantity(value))  # type: ignore[no-untyped-call]
    except (ValueError, ArithmeticError):
        return 0.0


def _with_init(running: ResourceAmounts, init: Iterable[ContainerSpec]) -> ResourceAmounts:
    sidecars: ResourceAmounts = _NONE
    peak: ResourceAmounts = _NONE
    for container in init:
        beside = _plus(sidecars, _of(container.resources))
        if container.restart_policy == "Always":
            sidecars = beside
        peak = {name: max(peak.get(name, 0.0), beside.get(name, 0.0)) for name in peak.keys() | beside.keys()}
    running = _plus(running, sidecars)
    return {name: max(peak.get(name, 0.0), running.get(name, 0.0)) for name in peak.keys() | running.keys()}


def _of(resources: Resources | None) -> ResourceAmounts:
    return _amounts(resources.requests.items()) if resources is not None and resources.requests else _NONE


def _amounts(requests: Iterable[tuple[str, Quantity]]) -> ResourceAmounts:
    return {name: quantity(value) for name, value in requests}


def _plus(one: ResourceAmounts, other: ResourceAmounts) -> ResourceAmounts:
    if not one or not other:
        return one or other
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in one.keys() | other.keys()}


def _is_extended(name: str) -> bool:
    """Whether a resource is an extended one: it has a domain, and none of Kubernetes' own."""
    domain, slash, _ = name.partition("/")
    return bool(slash) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io")
