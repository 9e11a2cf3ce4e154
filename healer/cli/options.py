"""The options that every command takes, and what they are turned into: a checked configuration and a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from healer.cli.logs import set_up
from healer.cluster import Connection
from healer.config import TWINS, Config, LogFormat, LogLevel, Mode, Ownership, load


@dataclass(frozen=True)
class Session:
    """What a command works with: the checked configuration and where the cluster is."""

    config: Config
    connection: Connection


_OPTIONS = (
    click.option("--config", metavar="FILE", help="The configuration, in YAML."),
    click.option(
        "--mode", type=click.Choice([each.value for each in Mode]), help="report deletes nothing, enforce deletes."
    ),
    click.option("--interval", metavar="DURATION", help="Between passes, as 60s."),
    click.option("--audit-interval", metavar="DURATION", help="Between full reads of Pods and task instances, as 10m."),
    click.option("--freshness", metavar="DURATION", help="How old Airflow's answer may be when a Pod is deleted."),
    click.option("--listen", metavar="ADDRESS", help="Where run serves /metrics, /healthz, /readyz, as :8080."),
    click.option("-n", "--namespace", multiple=True, metavar="NAME", help="Where the Pods are; may be repeated."),
    click.option(
        "--ownership",
        type=click.Choice([each.value for each in Ownership]),
        help="Whose Pods these are; enforce needs it.",
    ),
    click.option("--airflow-url", metavar="URL", help="Where Airflow's web page and API are."),
    click.option("--airflow-username", metavar="NAME", help="Logs in with this user."),
    click.option("--airflow-password-file", metavar="FILE", help="Its password (or KPO_HEALER_AIRFLOW_PASSWORD)."),
    click.option("--airflow-token-file", metavar="FILE", help="An API token (or KPO_HEALER_AIRFLOW_TOKEN)."),
    click.option("--airflow-ca-file", metavar="FILE", help="PEM file of the CAs that vouch for Airflow's server."),
    click.option("--kubeconfig", metavar="FILE", help="Else KUBECONFIG, the Pod's own account, ~/.kube/config."),
    click.option("--context", metavar="NAME", help="The kubeconfig's context; else its current one."),
    click.option(
        "--log-format", type=click.Choice([each.value for each in LogFormat]), help="How log lines are written."
    ),
    click.option(
        "--log-level", type=click.Choice([each.value for each in LogLevel]), help="The least severe log lines to write."
    ),
)

output = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    help="table is the default.",
)


remote = click.option(
    "--from",
    "source",
    metavar="URL",
    callback=lambda _ctx, _parameter, value: value and _remote(value),
    help="Read it from a running healer that has findings: true.",
)


def _remote(source: str) -> str:
    from healer.cli.remote import url_of

    try:
        return url_of(source)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def configured(*, quiet: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the common options and hand it a `Session` instead, or None where it needs neither.

    It reads a running healer with `--from`, or a log with `--proof`.

    `quiet` is for one-shot commands: they answer on standard output, so they log only what is asked for, or warnings.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def wrapped(**given: Any) -> int:
            if given.get("source"):
                _stand_by(given, "--from shows what a running healer has found")
            elif given.get("proof") is not None:
                _stand_by(given, "--proof asks nobody")
            else:
                return command(_session(given, quiet=quiet), **given)
            return command(None, **given)

        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _stand_by(given: dict[str, Any], why: str) -> None:
    """Take the common options out of what click collected: `why` none of them means anything here."""
    common = {"config", "kubeconfig", "context", *(twin.flag for twin in TWINS if twin.flag)}
    form, level = given.pop("log_format"), given.pop("log_level")
    for name in common & given.keys():
        if given.pop(name) not in (None, ()):
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{why}: leave {option} away")
    set_up(LogFormat(form or LogFormat.TEXT), LogLevel(level or LogLevel.WARNING))


def _session(given: dict[str, Any], *, quiet: bool) -> Session:
    """Take the common options out of what click collected."""
    path, kubeconfig, context = given.pop("config"), given.pop("kubeconfig"), given.pop("context")
    flags = {twin.flag: given.pop(twin.flag) for twin in TWINS if twin.flag}
    config = load(path, flags, os.environ)
    asked = flags["log_level"] or os.environ.get("KPO_HEALER_LOG_LEVEL")
    set_up(config.log.format, config.log.level if asked or not quiet else LogLevel.WARNING)
    return Session(config, Connection(Path(kubeconfig) if kubeconfig else None, context))
