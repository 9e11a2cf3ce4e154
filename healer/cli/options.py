"""The options that every command takes, and what they are turned into: a checked configuration and a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from healer.cli import completion
from healer.cluster import Connection
from healer.config import OVERRIDES, Config, LogFormat, LogLevel, Mode, Ownership, load
from healer.telemetry.logs import set_up

if TYPE_CHECKING:
    from healer.cli.remote import Healer


@dataclass(frozen=True)
class CommandContext:
    """What a command works with: the checked configuration and where the cluster is."""

    config: Config
    connection: Connection


def _default(key: str) -> str:
    """Say what holds where an option, its variable and the file leave a key open."""
    return f"{Config.model_fields[key].default} by default"


_OPTIONS = (
    click.option("--config", metavar="FILE", help="The configuration, in YAML (or KPO_HEALER_CONFIG)."),
    click.option(
        "--mode",
        type=click.Choice([each.value for each in Mode]),
        help=f"report deletes nothing, enforce deletes; {_default('mode')}.",
    ),
    click.option("--interval", metavar="DURATION", help=f"Between passes; {_default('interval')}."),
    click.option(
        "--audit-interval",
        metavar="DURATION",
        help=f"Between full reads of Pods and task instances; {_default('audit_interval')}.",
    ),
    click.option(
        "--freshness",
        metavar="DURATION",
        help=f"How old Airflow's answer may be when a Pod is deleted; {_default('freshness')}.",
    ),
    click.option(
        "--listen", metavar="ADDRESS", help=f"Where run serves /metrics, /healthz, /readyz; {_default('listen')}."
    ),
    click.option(
        "-n",
        "--namespace",
        multiple=True,
        metavar="NAME",
        help="Where the Pods are; may be repeated.",
        shell_complete=completion.namespaces,
    ),
    click.option(
        "--ownership",
        type=click.Choice([each.value for each in Ownership]),
        help="Whose Pods these are; enforce needs it.",
    ),
    click.option("--airflow-url", metavar="URL", help="Where Airflow's web page and API are."),
    click.option("--airflow-username", metavar="NAME", help="Logs in with this user."),
    click.option("--airflow-password-file", metavar="FILE", help="Its password (or KPO_HEALER_AIRFLOW_PASSWORD)."),
    click.option("--airflow-token-file", metavar="FILE", help="An API token (or KPO_HEALER_AIRFLOW_TOKEN)."),
    click.option("--airflow-cookie-file", metavar="FILE", help="A session cookie, as of MWAA."),
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

FORMS = ("table", "json", "yaml")


def output_in(*forms: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the option that says in which form it answers."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(forms), default=forms[0], help=f"{forms[0]} is the default."
    )


output = output_in(*FORMS)


remote = click.option(
    "--from",
    "source",
    metavar="URL",
    callback=lambda _ctx, _parameter, value: value and _remote(value),
    help="Read it from a running healer that has findings: true.",
)


remote_only = click.option(
    "--from",
    "source",
    metavar="URL",
    callback=lambda _ctx, _parameter, value: _required(value),
    help="The running healer; it has findings: true.",
)


listen_token = click.option(
    "--listen-token-file",
    "token_file",
    metavar="FILE",
    envvar="KPO_HEALER_LISTEN_TOKEN_FILE",
    help="With --from: the token that its listenTokenFile holds.",
)


def _remote(source: str) -> str:
    from healer.cli.remote import url_of

    try:
        return url_of(source)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _required(source: str | None) -> str:
    if not source:
        raise click.UsageError("which healer? Give its URL with --from, as http://localhost:8080")
    return _remote(source)


def healer_at(source: str, token_file: str | None) -> Healer:
    """Return the running healer that --from and --listen-token-file name.

    Raises ConfigError.
    """
    from healer.cli.remote import Healer, read_token

    return Healer(source, read_token(token_file))


def configured(*, quiet: bool, audit: bool = False) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the common options and hand it a `Session` instead, or None where it needs neither.

    It reads a running healer with `--from`, or a log with `--proof`.

    `quiet` is for one-shot commands: they answer on standard output, so they log only what is asked for, or warnings.
    `audit`: what is deleted, and why, is written down all the same.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def wrapped(**given: Any) -> int:
            if given.get("source"):
                _reject_common_options(given, "--from shows what a running healer has found")
            elif given.get("proof") is not None:
                _reject_common_options(given, "--proof asks nobody")
            else:
                return command(_session(given, quiet=quiet, audit=audit), **given)
            return command(None, **given)

        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _reject_common_options(given: dict[str, Any], why: str) -> None:
    """Take the common options out of what click collected: `why` none of them means anything here."""
    common = {"config", "kubeconfig", "context", *(override.flag for override in OVERRIDES if override.flag)}
    form, level = given.pop("log_format"), given.pop("log_level")
    for name in common & given.keys():
        if given.pop(name) not in (None, ()):
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{why}: leave {option} away")
    set_up(LogFormat(form or LogFormat.TEXT), LogLevel(level or LogLevel.WARNING))


def _log_format(config: Config) -> LogFormat:
    """Return how log lines are written: on a terminal as text, unless somebody has asked for another form."""
    asked = "format" in config.log.model_fields_set
    return LogFormat.TEXT if sys.stderr.isatty() and not asked else config.log.format


def _session(given: dict[str, Any], *, quiet: bool, audit: bool) -> CommandContext:
    """Take the common options out of what click collected."""
    path, kubeconfig, context = given.pop("config"), given.pop("kubeconfig"), given.pop("context")
    flags = {override.flag: given.pop(override.flag) for override in OVERRIDES if override.flag}
    config = load(path, flags, os.environ)
    asked = flags["log_level"] or os.environ.get("KPO_HEALER_LOG_LEVEL")
    level = config.log.level if asked or not quiet else LogLevel.WARNING
    set_up(_log_format(config), level, LogLevel.INFO if audit and not asked else None)
    return CommandContext(config, Connection(Path(kubeconfig) if kubeconfig else None, context))
