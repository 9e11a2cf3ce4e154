"""The configuration as frozen models. All durations are float seconds; defaults stand as the user would write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel

from healer.config.fields import (
    Actions,
    AirflowName,
    Duration,
    Listen,
    LogFormat,
    LogLevel,
    Mode,
    Namespace,
    Ownership,
    PositiveDuration,
    Switch,
    Url,
)
from healer.model import STAMP_LABEL


class Model(BaseModel):
    """What all sections share: camelCase keys, no unknown ones, nothing changes after loading."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_default=True
    )


def _lasting(default: str, description: str) -> Any:
    """A duration whose default is written as in the file."""
    return Field(default=default, description=description)


class Log(Model):
    """How the healer logs."""

    format: LogFormat = Field(default=LogFormat.JSON, description="`json` or `text`")
    level: LogLevel = Field(default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`")


class Retention(Model):
    """How long a done Pod stays after its base container ended."""

    succeeded: Duration = _lasting("10m", "how long a done Pod stays that succeeded")
    failed: Duration = _lasting("24h", "how long a done Pod stays that failed or was evicted")
    kept: Duration = _lasting("24h", "how long a done Pod stays that the operator itself left (`already_checked`)")


class Policy(Model):
    """How patient the healer is, and what it does with what it finds."""

    min_age: Duration = _lasting("2m", "younger Pods are never acted on")
    grace: Duration = _lasting("2m", "patience with `orphaned`, `superseded` and `abandoned` Pods")
    absent_grace: Duration = _lasting("30m", "patience with `run-deleted` and `task-removed` Pods")
    sightings: int = Field(default=2, ge=1, strict=True, description="how many looks must find the same")
    retention: Retention = Field(default_factory=Retention)
    foreign_operators: tuple[str, ...] = Field(
        default=(), description="more operator classes whose Pods are not KubernetesPodOperator's own"
    )
    actions: Actions = Field(
        default_factory=dict,
        description="`delete`, `report` or `keep` for a reason; what is not named keeps its default",
    )


class Breaker(Model):
    """When deletions stop because too much is condemned at once."""

    max_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        strict=True,
        description="opens when more than this share of the active Pods is condemned",
    )
    min_count: int = Field(
        default=5,
        ge=0,
        strict=True,
        description="opens only when at least this many are condemned; half-open, at most this many are deleted",
    )
    cool_down: Duration = _lasting("10m", "how long it stays open before a few are tried")


class Limits(Model):
    """How fast the healer may delete."""

    deletions_per_minute: int | None = Field(
        default=60, ge=1, strict=True, description="`null`: unlimited; the burst is the same number"
    )
    breaker: Breaker = Field(default_factory=Breaker)


class Notices(Model):
    """When something is worth a look that nobody acts on."""

    pending: Duration = _lasting("10m", "how old a Pending Pod is that its task instance waits for in vain")
    terminating: Duration = _lasting("10m", "how long a Pod is still there after it should have ended")
    deferred: Duration = _lasting("24h", "how old a Pod is whose task instance is deferred for too long")
    uncertain: Duration = _lasting("24h", "how long a Pod is kept for the same uncertain reason")
    gone: Duration = _lasting("10m", "how long the Pod of a running or deferred task instance is gone")


class PostMortem(Model):
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


class AirflowConfig(Model):
    """One Airflow, its namespaces and how it is treated. `mode` is the effective one: its own, else the global."""

    name: AirflowName = Field(description="how metrics, findings and the stamp call it")
    namespaces: tuple[Namespace, ...] = Field(min_length=1, description="exact names")
    ownership: Ownership | None = Field(
        default=None,
        description="`exclusive`: every KubernetesPodOperator Pod there is this Airflow's; `stamped`: only Pods "
        f"labelled `{STAMP_LABEL}=<name>` are; enforce mode refuses to start without it",
    )
    mode: Mode = Field(default=Mode.REPORT, description="`report` or `enforce`; else the global `mode`")
    url: Url = Field(description="where Airflow's web page and API are found")
    username: str | None = Field(default=None, min_length=1, description="logs in with this user")
    password: SecretStr | None = Field(default=None, min_length=1, description="its password; better: `passwordFile`")
    password_file: Path | None = Field(default=None, description="a file with the password, read at each login")
    token: SecretStr | None = Field(default=None, min_length=1, description="an API token; better: `tokenFile`")
    token_file: Path | None = Field(default=None, description="a file with an API token, read again when it is refused")
    ca_file: Path | None = Field(default=None, description="PEM file of the CAs that vouch for the server")
    timeout: PositiveDuration = _lasting("60s", "how long one answer of Airflow may take")
    policy: Policy = Field(default_factory=Policy)
    limits: Limits = Field(default_factory=Limits)
    notices: Notices = Field(default_factory=Notices)
    post_mortem: PostMortem = Field(default_factory=PostMortem)
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
        user = (self.username, self.password, self.password_file)
        token = (self.token, self.token_file)
        if any(token) and not any(user) and not all(token):
            return self
        if not any(token) and self.username and bool(self.password) != bool(self.password_file):
            return self
        raise ValueError("give exactly one login: username with password or passwordFile, or else token or tokenFile")


class LeaderElection(Model):
    """By which Lease several replicas agree who acts, and how fast another one takes over."""

    enabled: bool = Field(default=True, strict=True, description="`false`: exactly one replica runs, ever")
    namespace: Namespace | None = Field(
        default=None, description="where the Lease `kpo-healer` is; `null`: where the healer lives"
    )
    lease_duration: PositiveDuration = _lasting(
        "15s", "another replica takes over when the Lease was not renewed for so long; whole seconds"
    )
    renew_deadline: PositiveDuration = _lasting("10s", "a leader that could not renew for so long stops acting")
    retry_period: PositiveDuration = _lasting("2s", "between two attempts to acquire or renew")

    @field_validator("lease_duration")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise ValueError("must be whole seconds, as the API keeps no fractions: write one like 15s")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.lease_duration > self.renew_deadline:
            raise ValueError("leaseDuration must be longer than renewDeadline, else two would act: lengthen it")
        if not self.renew_deadline > self.retry_period:
            raise ValueError("renewDeadline must be longer than retryPeriod, else nobody leads for long: lengthen it")
        return self


class Config(Model):
    """Everything the user sets."""

    mode: Mode = Field(default=Mode.REPORT, description="`report` deletes nothing, `enforce` deletes")
    interval: PositiveDuration = _lasting("60s", "between passes")
    audit_interval: PositiveDuration = _lasting("10m", "between full reads of Pods and task instances")
    freshness: PositiveDuration = _lasting("15s", "how old Airflow's answer may be when a Pod is deleted on it")
    listen: Listen = Field(default=":8080", description="where `/metrics`, `/healthz` and `/readyz` are served")
    findings: Switch = Field(default=False, description="`true`: `run` serves what it has found, at `/findings`")
    leader_election: LeaderElection = Field(default_factory=LeaderElection)
    log: Log = Field(default_factory=Log)
    airflows: tuple[AirflowConfig, ...] = Field(min_length=1, description="one entry per Airflow")

    @field_validator("airflows")
    @classmethod
    def _effective_mode(cls, value: tuple[AirflowConfig, ...], info: ValidationInfo) -> tuple[AirflowConfig, ...]:
        mode = info.data.get("mode", Mode.REPORT)
        return tuple(a if "mode" in a.model_fields_set else a.model_copy(update={"mode": mode}) for a in value)

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
    claims: dict[str, list[AirflowConfig]] = {}
    for airflow in airflows:
        for namespace in airflow.namespaces:
            claims.setdefault(namespace, []).append(airflow)
    for namespace, claimants in claims.items():
        if len(claimants) > 1 and any(a.ownership is not Ownership.STAMPED for a in claimants):
            names = " and ".join(a.name for a in claimants)
            yield (
                f"airflows: namespace {namespace} is claimed by {names}: give it to one of them, "
                "or set ownership: stamped on each"
            )


def _unowned(airflows: Sequence[AirflowConfig]) -> Iterator[str]:
    for index, airflow in enumerate(airflows):
        if airflow.mode is Mode.ENFORCE and airflow.ownership is None:
            yield (
                f"airflows[{index}].ownership: enforce mode needs it: set exclusive if every KubernetesPodOperator Pod "
                f"in {', '.join(airflow.namespaces)} is this Airflow's, stamped if only Pods labelled "
                f"{STAMP_LABEL}={airflow.name} are"
            )
