"""The configuration as frozen models. All durations are float seconds; defaults stand as the user would write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel

from healer.config.fields import (
    Actions,
    AirflowName,
    Command,
    Duration,
    Election,
    History,
    HistoryMode,
    LeaseName,
    Listen,
    LogFormat,
    LogLevel,
    Mode,
    Namespace,
    NamespacePattern,
    Owned,
    Ownership,
    OwnershipLabel,
    PositiveDuration,
    Switch,
    Url,
)
from healer.config.namespaces import covers, is_pattern, only_patterns
from healer.model import OWNER_LABEL, RETENTION_ANNOTATION


class ConfigModel(BaseModel):
    """What all sections share: camelCase keys, no unknown ones, nothing changes after loading."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_default=True
    )


def _duration(default: str, description: str) -> Any:
    """A duration whose default is written as in the file."""
    return Field(default=default, description=description)


class LogConfig(ConfigModel):
    """How the healer logs."""

    format: LogFormat = Field(default=LogFormat.JSON, description="`json` or `text`")
    level: LogLevel = Field(default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`")


class Retention(ConfigModel):
    """How long a done Pod stays after the end of its work."""

    succeeded: Duration = _duration("10m", "how long a done Pod stays that succeeded")
    failed: Duration = _duration("24h", "how long a done Pod stays that failed or was evicted")
    kept: Duration = _duration("24h", "how long a done Pod stays that the operator itself left (`already_checked`)")
    purged: Duration = _duration("7d", "how long a done Pod stays whose run or DAG Airflow has no more (`purged`)")
    longest: Duration = _duration(
        "30d",
        f"how long at most a done Pod stays by its own annotation `{RETENTION_ANNOTATION}`, which only lengthens the "
        "others; `0s`: it counts for nothing",
    )


class Policy(ConfigModel):
    """How patient the healer is, and what it does with what it finds."""

    min_age: Duration = _duration("2m", "younger Pods are never acted on")
    grace: Duration = _duration("2m", "patience with `orphaned`, `superseded` and `abandoned` Pods")
    absent_grace: Duration = _duration(
        "30m", "patience with `run-deleted` and `task-removed` Pods, and the least with `purged` ones"
    )
    sightings: int = Field(default=2, ge=1, le=1000, strict=True, description="how many looks must find the same")
    retention: Retention = Field(default_factory=Retention)
    foreign_operators: tuple[str, ...] = Field(
        default=(), description="more operator classes whose Pods are not KubernetesPodOperator's own"
    )
    actions: Actions = Field(
        default_factory=dict,
        description="`delete`, `report` or `keep` for a reason; what is not named keeps its default",
    )


class BreakerConfig(ConfigModel):
    """When deletions stop because too much is pending deletion at once."""

    max_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        strict=True,
        description="opens when more than this share of the active Pods is pending deletion",
    )
    min_count: int = Field(
        default=5,
        ge=0,
        le=1_000_000,
        strict=True,
        description="opens only when at least this many are pending deletion; half-open, at most this many are deleted",
    )
    cool_down: Duration = _duration("10m", "how long it stays open before a few are tried")


class LimitsConfig(ConfigModel):
    """How fast the healer may delete."""

    deletions_per_minute: int | None = Field(
        default=60, ge=1, le=1_000_000, strict=True, description="`null`: unlimited; the burst is the same number"
    )
    breaker: BreakerConfig = Field(default_factory=BreakerConfig)


class NoticesConfig(ConfigModel):
    """Thresholds for notices."""

    pending: Duration = _duration("10m", "how old a Pending Pod is that its task instance waits for in vain")
    terminating: Duration = _duration("10m", "how long a Pod is still there after it should have ended")
    deferred: Duration = _duration("24h", "how old a Pod is whose task instance is deferred for too long")
    uncertain: Duration = _duration("24h", "how long a Pod is kept for the same uncertain reason")
    gone: Duration = _duration("10m", "how long the Pod of a running or deferred task instance is gone")


class DiagnosticsConfig(ConfigModel):
    """What is read of a Pod just before it is deleted, for one log line."""

    enabled: bool = Field(
        default=False,
        strict=True,
        description="`true`: one log line with how a deleted Pod's containers fared, and what it said last",
    )
    log_lines: int = Field(
        default=50,
        ge=0,
        le=1000,
        strict=True,
        description="last lines of the base container's log, which may hold secrets; needs `get` on `pods/log`; "
        "`0`: none",
    )
    log_bytes: int = Field(default=16384, ge=1, le=1 << 20, strict=True, description="at most so many bytes of these")
    manifest: bool = Field(
        default=False,
        strict=True,
        description="`true`: the line also has the Pod's manifest, as far as it may be told: images, resources, names; "
        "no env, args, command, annotations or Secrets",
    )


class ExecConfig(ConfigModel):
    """A program that prints a credential, as kubectl knows it."""

    command: Command = Field(
        min_length=1, description="program and arguments, run without a shell; whoever sets it runs code in the Pod"
    )
    timeout: PositiveDuration = _duration("30s", "how long the program may take")


class AirflowConfig(ConfigModel):
    """One Airflow, its namespaces and how it is treated. `mode` is the effective one: its own, else the global."""

    name: AirflowName = Field(description="how metrics, findings and the stamp call it")
    namespaces: tuple[NamespacePattern, ...] = Field(
        min_length=1,
        description="exact names, and patterns as `team-*`, for which the account must be allowed to list namespaces",
    )
    ownership: Owned | None = Field(
        default=None,
        description="`exclusive`: every KubernetesPodOperator Pod there is this Airflow's; `stamped`: only Pods "
        f"labelled `{OWNER_LABEL}=<name>` are; `{{label: KEY, value: VALUE}}`: only Pods with this label of yours are; "
        "enforce mode refuses to start without it",
    )
    mode: Mode = Field(default=Mode.REPORT, description="`report` or `enforce`; else the global `mode`")
    url: Url = Field(description="where Airflow's web page and API are found")
    username: str | None = Field(default=None, min_length=1, description="logs in with this user")
    password: SecretStr | None = Field(default=None, min_length=1, description="its password; better: `passwordFile`")
    password_file: Path | None = Field(default=None, description="a file with the password, read at each login")
    token: SecretStr | None = Field(default=None, min_length=1, description="an API token; better: `tokenFile`")
    token_file: Path | None = Field(default=None, description="a file with an API token, read for every request")
    cookie_file: Path | None = Field(
        default=None, description="a file with a session cookie, as of MWAA, read for every request"
    )
    client_id: str | None = Field(
        default=None, min_length=1, description="logs in as this client (Keycloak, `grant_type: client_credentials`)"
    )
    client_secret_file: Path | None = Field(default=None, description="a file with its secret, read at each login")
    exec: ExecConfig | None = Field(
        default=None,
        description="a program that prints a token or an ExecCredential; run again before that ends and when it is "
        "refused",
    )
    headers_file: Path | None = Field(
        default=None, description="a file with further headers for a gateway in front, `Name: value` in each line"
    )
    cert_file: Path | None = Field(default=None, description="PEM file of our own certificate, for mutual TLS")
    key_file: Path | None = Field(default=None, description="PEM file of its key; `null`: it stands in `certFile`")
    ca_file: Path | None = Field(default=None, description="PEM file of the CAs that vouch for the server")
    timeout: PositiveDuration = _duration("60s", "how long one answer of Airflow may take")
    policy: Policy = Field(default_factory=Policy)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    notices: NoticesConfig = Field(default_factory=NoticesConfig)
    post_mortem: DiagnosticsConfig = Field(default_factory=DiagnosticsConfig)
    notes: bool = Field(
        default=False,
        strict=True,
        description="`true`: a deletion is noted on its task instance in Airflow; needs the right to edit these",
    )

    @field_validator("namespaces")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a namespace twice: name each once")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        pairs = ((self.username, (self.password, self.password_file)), (self.client_id, (self.client_secret_file,)))
        given = [self.token, self.token_file, self.cookie_file, self.exec]
        ways = [bool(each) for each in given if each] + [
            bool(name) and sum(map(bool, secrets)) == 1 for name, secrets in pairs if name or any(secrets)
        ]
        if ways == [True]:
            return self
        raise ValueError(
            "give exactly one login: username with password or passwordFile, clientId with clientSecretFile, or else "
            "token, tokenFile, cookieFile or exec"
        )

    @model_validator(mode="after")
    def _a_key_has_a_certificate(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("keyFile needs certFile: name the certificate that it belongs to")
        return self


class LeaderElectionConfig(ConfigModel):
    """By which Lease several replicas agree who acts, and how fast another one takes over."""

    enabled: Election = Field(
        default="auto",
        description="`auto`: in a cluster, and wherever an Airflow enforces; `false`: exactly one replica runs, ever",
    )
    name: LeaseName = Field(
        default="kpo-healer", description="the Lease; installations side by side need one each, the chart sees to that"
    )
    namespace: Namespace | None = Field(default=None, description="where the Lease is; `null`: where the healer lives")
    lease_duration: PositiveDuration = _duration(
        "15s", "another replica takes over when the Lease was not renewed for so long; whole seconds"
    )
    renew_deadline: PositiveDuration = _duration("10s", "a leader that could not renew for so long stops acting")
    retry_period: PositiveDuration = _duration("2s", "between two attempts to acquire or renew")

    @field_validator("lease_duration")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise ValueError("must be whole seconds, as the API keeps no fractions: write one like 15s")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        wrong = []
        if not self.lease_duration > self.renew_deadline:
            wrong.append("leaseDuration must be longer than renewDeadline, else two would act: lengthen it")
        if not self.renew_deadline > self.retry_period:
            wrong.append("renewDeadline must be longer than retryPeriod, else nobody leads for long: lengthen it")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class Claim(NamedTuple):
    """Which Airflows look after a namespace. None where patterns of several claim it and `problem` says why not."""

    airflows: tuple[AirflowConfig, ...]
    problem: str | None = None


class Config(ConfigModel):
    """Everything the user sets."""

    mode: Mode = Field(default=Mode.REPORT, description="`report` deletes nothing, `enforce` deletes")
    interval: PositiveDuration = _duration("60s", "between passes")
    audit_interval: PositiveDuration = _duration("10m", "between full reads of Pods and task instances")
    freshness: PositiveDuration = _duration("15s", "how old Airflow's answer may be when a Pod is deleted on it")
    listen: Listen = Field(default=":8080", description="where `/metrics`, `/healthz` and `/readyz` are served")
    findings: Switch = Field(default=False, description="`true`: `run` serves what it has found, at `/findings`")
    history: History = Field(
        default=HistoryMode.MEMORY,
        description="what was healed in the last 14 days, for `/history`: `off`, `memory`, or `configMap`, which "
        "survives restarts",
    )
    listen_token_file: Path | None = Field(
        default=None,
        description="a file with the bearer token that `/findings` and its like want, read for each request; metrics "
        "and probes want none",
    )
    leader_election: LeaderElectionConfig = Field(default_factory=LeaderElectionConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    airflows: tuple[AirflowConfig, ...] = Field(min_length=1, description="one entry per Airflow")

    @field_validator("airflows")
    @classmethod
    def _effective_mode(cls, value: tuple[AirflowConfig, ...], info: ValidationInfo) -> tuple[AirflowConfig, ...]:
        mode = info.data.get("mode", Mode.REPORT)
        return tuple(a if "mode" in a.model_fields_set else a.model_copy(update={"mode": mode}) for a in value)

    @property
    def namespaces(self) -> list[str]:
        """All namespaces of all Airflows, names and patterns, each once, in the order of the file."""
        return list(dict.fromkeys(name for airflow in self.airflows for name in airflow.namespaces))

    @property
    def patterns(self) -> list[str]:
        """Those of them that stand for whatever namespaces there are."""
        return only_patterns(self.namespaces)

    def claim(self, namespace: str) -> Claim:
        """Return whose a namespace is. Where Airflows can't share it, an exact name wins over a pattern."""
        claimants = [airflow for airflow in self.airflows if covers(airflow.namespaces, namespace)]
        problem = next(_clashes(namespace, claimants), None)
        if problem is None:
            return Claim(tuple(claimants))
        named = tuple(airflow for airflow in claimants if namespace in airflow.namespaces)
        return Claim(named) if named else Claim((), problem)

    @property
    def owner_labels(self) -> frozenset[str]:
        """The keys of the labels that tell whose a Pod is, beside the stamp."""
        return frozenset(a.ownership.label for a in self.airflows if isinstance(a.ownership, OwnershipLabel))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*_same_names(self.airflows), *_claims(self.airflows), *_unowned(self.airflows)]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _same_names(airflows: Sequence[AirflowConfig]) -> Iterator[str]:
    names = [airflow.name for airflow in airflows]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"airflows: {names.count(name)} entries are called {name}: give each Airflow its own name"


def _claims(airflows: Sequence[AirflowConfig]) -> Iterator[str]:
    """What is claimed twice for certain; of patterns that may have a namespace in common only that namespace tells."""
    for namespace in dict.fromkeys(name for airflow in airflows for name in airflow.namespaces):
        claimants = [a for a in airflows if namespace in a.namespaces or _always_claims(a, namespace)]
        yield from (f"airflows: {clash}" for clash in _clashes(namespace, claimants))


def _always_claims(airflow: AirflowConfig, pattern: str) -> bool:
    """Whether an Airflow has a pattern for all that another one stands for; over an exact name none wins."""
    return is_pattern(pattern) and covers(airflow.namespaces, pattern)


def _clashes(namespace: str, claimants: Sequence[AirflowConfig]) -> Iterator[str]:
    """What keeps these from sharing a namespace."""
    labels = [str(a.ownership) for a in claimants if isinstance(a.ownership, OwnershipLabel)]
    for label in sorted({each for each in labels if labels.count(each) > 1}):
        yield f"{label} in namespace {namespace} is claimed twice: give each Airflow a value of its own"
    if len(claimants) > 1 and any(a.ownership in (None, Ownership.EXCLUSIVE) for a in claimants):
        names = " and ".join(a.name for a in claimants)
        yield (
            f"namespace {namespace} is claimed by {names}: give it to one of them, "
            "or set ownership: stamped or a label of your own on each"
        )


def _unowned(airflows: Sequence[AirflowConfig]) -> Iterator[str]:
    for index, airflow in enumerate(airflows):
        if airflow.mode is Mode.ENFORCE and airflow.ownership is None:
            yield (
                f"airflows[{index}].ownership: enforce mode needs it: set exclusive if every KubernetesPodOperator Pod "
                f"in {', '.join(airflow.namespaces)} is this Airflow's, stamped if only Pods labelled "
                f"{OWNER_LABEL}={airflow.name} are"
            )
