"""What a configuration may say but had better not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from pydantic.alias_generators import to_camel

from healer.config.fields import HistoryMode, LogFormat, LogLevel, Mode, Ownership, hint, parse_duration
from healer.config.models import AirflowConfig, BreakerConfig, Config, ConfigModel, Policy, Retention
from healer.config.settings import CONFIG_ENV, ENV_PREFIX, OVERRIDES
from healer.model import Action, Reason

ABSENT = (Reason.RUN_DELETED, Reason.TASK_REMOVED, Reason.PURGED)
"""The reasons whose patience is `absentGrace`."""

SHORTEST_FRESHNESS = 1.0
"""Seconds below which a slice of twenty Pods is hardly ever confirmed and deleted in time."""

_NO_ENV: Mapping[str, str] = MappingProxyType({})


def warnings(config: Config, env: Mapping[str, str] = _NO_ENV) -> list[str]:
    """What is allowed but unwise, a sentence each. None of them keeps the healer from running."""
    found = [*_stale(config), *_unserved(config), *_no_election(config), *_no_audit_log(config), *_unknown_env(env)]
    for index, airflow in enumerate(config.airflows):
        found += [f"airflows[{index}].{text}" for text in _risky(airflow)]
    return found


def unreachable(config: Config, patience: float) -> dict[str, list[str]]:
    """What `run --once`, which waits for at most `patience` seconds, can never do: sentences by the Airflow's name.

    Each run begins anew, so that a patience that counts from the first sight is never over in any of them.
    """
    return {airflow.name: list(_unreachable(airflow, patience)) for airflow in config.airflows}


def _unreachable(airflow: AirflowConfig, patience: float) -> Iterator[str]:
    actions = airflow.policy.actions
    absent = [reason.value for reason in ABSENT if actions[reason] is Action.DELETE]
    if absent and airflow.policy.absent_grace > patience:
        yield (
            f"policy.absentGrace is longer than run --once waits ({patience:g} s), so that {' and '.join(absent)} Pods "
            "are never deleted: shorten it to grace, let these actions be report, or run without --once"
        )


def _useless(airflow: AirflowConfig) -> Iterator[str]:
    """What is set and does nothing in this mode, or keeps what the mode is for from being done."""
    if airflow.mode is Mode.REPORT:
        if airflow.notes:
            yield "notes: true does nothing in report mode, where nothing is deleted: leave it away, or set enforce"
        if airflow.post_mortem.enabled:
            yield "postMortem: does nothing in report mode, where nothing is deleted: leave it away, or set enforce"
    elif Action.DELETE not in airflow.policy.actions.values():
        yield "mode: enforce, and no reason has the action delete, so that nothing is ever deleted: set report"
    if airflow.post_mortem.manifest and not airflow.post_mortem.enabled:
        yield "postMortem.manifest: does nothing without postMortem.enabled: set that too, or leave it away"
    if airflow.limits.breaker.min_count == 0 and airflow.limits.breaker.max_share < 1:
        yield "limits.breaker.minCount: with 0 nothing is tried after coolDown, so that it stays open: set 1 or more"


def _stale(config: Config) -> Iterator[str]:
    default = parse_duration(Config.model_fields["freshness"].default)
    if config.freshness > default:
        yield f"freshness: longer than the default {default:g}s, so Pods are deleted on older answers: shorten it"
    if config.freshness < SHORTEST_FRESHNESS:
        yield "freshness: too short for any answer to be fresh enough when a Pod is deleted on it: lengthen it"
    if config.interval > config.audit_interval:
        yield "interval: longer than auditInterval, so that every pass is an audit: shorten it"


def _unserved(config: Config) -> Iterator[str]:
    """What is about pages that are not served."""
    if config.findings:
        return
    if config.listen_token_file is not None:
        yield "listenTokenFile: does nothing without findings: true, no page wants it: set that too, or leave it away"
    if config.history is HistoryMode.CONFIG_MAP:
        yield "history: configMap is written for nobody without findings: true: set that too, or leave it away"


def _no_election(config: Config) -> Iterator[str]:
    if not config.leader_election.enabled:
        yield (
            "leaderElection.enabled: false, so nothing keeps two replicas from acting at once: run exactly one, also "
            "while it is updated (strategy Recreate), or set it to true"
        )


def _no_audit_log(config: Config) -> Iterator[str]:
    if config.log.level in (LogLevel.WARNING, LogLevel.ERROR):
        yield f"log.level: {config.log.level} leaves out decisions and deletions, so that nobody can say why: set info"
    elif config.log.format is not LogFormat.JSON:
        yield "log.format: text, and explain --proof judges decisions again from JSON only: set json"


def _unknown_env(env: Mapping[str, str]) -> Iterator[str]:
    known = [CONFIG_ENV, *(override.env for override in OVERRIDES)]
    for name in sorted(env):
        # Kubernetes itself sets KPO_HEALER_SERVICE_HOST and the like for a Service called kpo-healer.
        if name.startswith(ENV_PREFIX) and name not in known and not re.search(r"_(SERVICE|PORT)(_|$)", name):
            yield f"{name}: this variable does nothing: {hint(name, known)}"


def _risky(airflow: AirflowConfig) -> Iterator[str]:
    yield from _impatient("policy", airflow.policy, Policy)
    yield from _impatient("policy.retention", airflow.policy.retention, Retention, but="longest")
    yield from _impatient("limits.breaker", airflow.limits.breaker, BreakerConfig)
    if airflow.policy.sightings < 2:
        yield "policy.sightings: a single look is enough to act: set 2 or more"
    if airflow.ownership is None:
        yield "ownership: not set, so every KubernetesPodOperator Pod there counts as this Airflow's: set it"
    elif airflow.ownership is Ownership.EXCLUSIVE and any(not name.strip("*") for name in airflow.namespaces):
        yield (
            "ownership: exclusive with the namespaces *, so every KubernetesPodOperator Pod of the cluster counts as "
            "this Airflow's: name its namespaces, or stamp its Pods"
        )
    if airflow.limits.deletions_per_minute is None:
        yield "limits.deletionsPerMinute: null lets any number of Pods be deleted at once: set a number"
    if airflow.limits.breaker.max_share >= 1:
        yield "limits.breaker.maxShare: with 1 the breaker never opens: set a smaller share"
    yield from _useless(airflow)
    yield from _exposed(airflow)


def _impatient(place: str, given: ConfigModel, model: type[ConfigModel], but: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name != but and isinstance(field.default, str) and getattr(given, name) < parse_duration(field.default):
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
