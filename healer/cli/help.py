"""A command's help: its own options first, the common ones in groups, those that do nothing for it left away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from healer.config import OVERRIDES

COMMON: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "Configuration": ("config", "mode", "interval", "audit_interval", "freshness", "listen"),
        "One Airflow, described without a file": ("namespace", "ownership"),
        "Cluster": ("kubeconfig", "context"),
        "Log": ("log_format", "log_level"),
    }
)
"""Titles, and the options that every command takes. What begins with `airflow_` describes an Airflow."""

AIRFLOW_GROUP = "One Airflow, described without a file"

IDLE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "scan": frozenset({"audit_interval", "listen", "freshness"}),
        "delete": frozenset({"interval", "audit_interval", "listen"}),
        **dict.fromkeys(
            ("explain", "check", "release"), frozenset({"interval", "audit_interval", "listen", "freshness"})
        ),
        "history": frozenset(
            {"kubeconfig", "context", "config", *(override.flag for override in OVERRIDES if override.flag)}
        )
        - {"log_format", "log_level"},
    }
)
"""Options that change nothing there: they are taken, so that one set of flags serves all commands.

`history` refuses them, as whatever asks a running healer alone.
"""

EXAMPLES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "run": ("kpo-healer run --config config.yaml", "kpo-healer run --once --config config.yaml"),
        "scan": (
            "kpo-healer scan --config config.yaml --reason orphaned --sort-by cpu",
            "kpo-healer scan --config config.yaml --by dag",
            "kpo-healer scan --from http://localhost:8080 --watch",
        ),
        "explain": (
            "kpo-healer explain airflow/my-pod-abc --config config.yaml",
            "kpo-healer explain --proof kpo-healer.log",
        ),
        "delete": (
            "kpo-healer delete airflow/my-pod-abc --config config.yaml",
            "kpo-healer delete airflow/my-pod-abc --config config.yaml --yes --wait 31m",
        ),
        "history": (
            "kpo-healer history --from http://localhost:8080 --days 7",
            "kpo-healer history --from http://localhost:8080 --dag etl --output json",
        ),
        "check": ("kpo-healer check --config config.yaml",),
        "release": ("kpo-healer release --airflow prod --config config.yaml",),
        "token google": ("kpo-healer token google",),
        "token mwaa": ("kpo-healer token mwaa --environment prod --region eu-central-1",),
    }
)


class GroupedCommand(click.Command):
    """Writes its options in groups, and examples below them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups, the command's own first."""
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Options", *COMMON)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.name not in IDLE.get(_whole_name(ctx), frozenset()):
                groups[_group(parameter)].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        examples = EXAMPLES.get(_whole_name(ctx))
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def _whole_name(ctx: click.Context) -> str:
    """Return a command with the group that it is in, as `token google`."""
    words = []
    while ctx.parent is not None:
        words.append(str(ctx.info_name))
        ctx = ctx.parent
    return " ".join(reversed(words))


def _group(parameter: click.Parameter) -> str:
    name = str(parameter.name)
    if isinstance(parameter, click.Option) and name.startswith("airflow_"):
        return AIRFLOW_GROUP
    return next((title for title, names in COMMON.items() if name in names), "Options")


def wrong_use(error: click.ClickException, commands: Sequence[str]) -> str:
    """Return what is wrong with the command line, and where to read on.

    The words that were given are not repeated: one of them may be a secret.
    """
    context: click.Context | None = getattr(error, "ctx", None)
    return f"{_sentence(error, commands)}: see {context.command_path if context else 'kpo-healer'} --help"


def _sentence(error: click.ClickException, commands: Sequence[str]) -> str:
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{error.param.get_error_hint(error.ctx)} is missing: give it"
    if isinstance(error, click.BadParameter) and error.param is not None:
        kind: Any = error.param.type
        wanted = f"use one of {', '.join(map(str, kind.choices))}" if isinstance(kind, click.Choice) else "wrong value"
        return f"{error.param.get_error_hint(error.ctx)}: {wanted}"
    text = error.format_message().rstrip(".")
    if text.startswith("No such command"):
        group = error.ctx.command if isinstance(error, click.UsageError) and error.ctx else None
        commands = list(group.commands) if isinstance(group, click.Group) else commands
        return f"No such command: use one of {', '.join(commands)}"
    if "unexpected extra argument" in text:
        return "an unexpected extra argument stands there: options stand after the command, each with its own name"
    return text
