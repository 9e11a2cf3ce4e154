"""What a configuration may say but had better not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from pydantic.alias_generators import to_camel

from healer.config.fields import LogFormat, LogLevel, hint, parse_duration
from healer.config.models import AirflowConfig, Breaker, Config, Model, Policy, Retention
from healer.config.settings import ENV_PREFIX, TWINS

_NO_ENV: Mapping[str, str] = MappingProxyType({})


def warnings(config: Config, env: Mapping[str, str] = _NO_ENV) -> list[str]:
    """What is allowed but unwise, a sentence each. None of them keeps the healer from running."""
    found = [*_stale(config), *_alone(config), *_unproven(config), *_stray(env)]
    for index, airflow in enumerate(config.airflows):
        found += [f"airflows[{index}].{text}" for text in _unwise(airflow)]
    return found


def _stale(config: Config) -> Iterator[str]:
    default = parse_duration(Config.model_fields["freshness"].default)
    if config.freshness > default:
        yield f"freshness: longer than the default {default:g}s, so Pods are deleted on older answers: shorten it"


def _alone(config: Config) -> Iterator[str]:
    if not config.leader_election.enabled:
        yield (
            "leaderElection.enabled: false, so nothing keeps two replicas from acting at once: run exactly one, also "
            "while it is updated (strategy Recreate), or set it to true"
        )


def _unproven(config: Config) -> Iterator[str]:
    if config.log.level in (LogLevel.WARNING, LogLevel.ERROR):
        yield f"log.level: {config.log.level} leaves out decisions and deletions, so that nobody can say why: set info"
    elif config.log.format is not LogFormat.JSON:
        yield "log.format: text, and explain --proof judges decisions again from JSON only: set json"


def _stray(env: Mapping[str, str]) -> Iterator[str]:
    known = [twin.env for twin in TWINS]
    for name in sorted(env):
        # Kubernetes itself sets KPO_HEALER_SERVICE_HOST and the like for a Service called kpo-healer.
        if name.startswith(ENV_PREFIX) and name not in known and not re.search(r"_(SERVICE|PORT)(_|$)", name):
            yield f"{name}: this variable does nothing: {hint(name, known)}"


def _unwise(airflow: AirflowConfig) -> Iterator[str]:
    yield from _impatient("policy", airflow.policy, Policy)
    yield from _impatient("policy.retention", airflow.policy.retention, Retention)
    yield from _impatient("limits.breaker", airflow.limits.breaker, Breaker)
    if airflow.policy.sightings < 2:
        yield "policy.sightings: a single look is enough to act: set 2 or more"
    if airflow.ownership is None:
        yield "ownership: not set, so every KubernetesPodOperator Pod there counts as this Airflow's: set it"
    if airflow.limits.deletions_per_minute is None:
        yield "limits.deletionsPerMinute: null lets any number of Pods be deleted at once: set a number"
    if airflow.limits.breaker.max_share >= 1:
        yield "limits.breaker.maxShare: with 1 the breaker never opens: set a smaller share"
    yield from _exposed(airflow)


def _impatient(place: str, given: Model, model: type[Model]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, str) and getattr(given, name) < parse_duration(field.default):
            yield f"{place}.{to_camel(name)}: shorter than the default {field.default}: lengthen it"


def _exposed(airflow: AirflowConfig) -> Iterator[str]:
    parts = urlsplit(airflow.url)
    host = parts.hostname or ""
    near = host in ("localhost", "127.0.0.1", "::1") or "." not in host or host.endswith((".svc", ".cluster.local"))
    if parts.scheme == "http" and not near:
        yield "url: http sends the login in clear text over the network: use https"
    for key in ("password", "token"):
        if getattr(airflow, key):
            yield f"{key}: a secret in the configuration or environment is easily read by others: use {key}File"
