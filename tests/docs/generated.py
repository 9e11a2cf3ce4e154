"""What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in the pages, made from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Final

import click
import yaml
from prometheus_client.metrics import MetricWrapperBase

from healer.cli import cli
from healer.config import AirflowConfig, Config, settings_table
from healer.decision.rules import rule_table
from healer.insights.causes import cause_table
from healer.insights.notices import notice_table
from healer.telemetry.metrics import Metrics

ROOT: Final = Path(__file__).parents[2]
ALERTS: Final = ROOT / "deploy" / "chart" / "files" / "alerts.yaml"


def metrics_table() -> str:
    """Every family of the registry: name without the prefix, labels, kind, help."""
    rows = ["| name | labels | kind | |", "| --- | --- | --- | --- |"]
    return "\n".join([*rows, *(_metric(each) for each in _collectors())])


def _collectors() -> Iterator[MetricWrapperBase]:
    airflow: dict[str, Any] = {"name": "a", "namespaces": ["a"], "url": "http://h", "token": "t"}
    registry = Metrics(Config(airflows=(AirflowConfig.model_validate(airflow),))).registry
    found = registry._collector_to_names
    return (each for each in found if isinstance(each, MetricWrapperBase))


def _metric(family: MetricWrapperBase) -> str:
    name = family._name.removeprefix("kpo_healer_") + ("_total" if family._type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in family._labelnames)
    return f"| `{name}` | {labels} | {family._type} | {_sentence(family._documentation)} |"


def _sentence(text: str) -> str:
    return text.removesuffix(".")


def options_tables() -> str:
    """The options of every command: those that all that look somewhere have, then each command's own."""
    looking = [command for command in cli.commands.values() if not isinstance(command, click.Group)]
    everywhere = reduce(lambda some, more: some & more, map(set, map(_names, looking)))
    parts = [
        "All commands but `token` take these; where a running healer is read with `--from`, only those of the log:",
        _options(looking[0], everywhere),
    ]
    for name, command in leaf_commands():
        own = set(_names(command)) - everywhere
        parts += [f"### {name}", f"`kpo-healer {_usage(name, command)}`", _described(command)]
        parts += [_options(command, own)] if own else []
    return "\n\n".join(parts)


def leaf_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name, as `token google`."""
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", inner) for each, inner in command.commands.items())
        else:
            yield name, command


def _names(command: click.Command) -> Iterator[str]:
    return (str(each.name) for each in command.params if isinstance(each, click.Option))


def _usage(name: str, command: click.Command) -> str:
    return " ".join([name, *command.collect_usage_pieces(click.Context(command, info_name=name))])


def _described(command: click.Command) -> str:
    """The help as paragraphs, without click's marks."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or ""))


def _options(command: click.Command, names: set[str]) -> str:
    rows = ["| option | |", "| --- | --- |"]
    chosen = (each for each in command.params if isinstance(each, click.Option) and each.name in names)
    return "\n".join([*rows, *(_option(each) for each in chosen)])


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(cli))}"
    *short, long = option.opts
    spelled = ", ".join([*(f"`{each}`" for each in short), f"`{long}{value}`"]).replace("|", "\\|")
    return f"| {spelled} | {_sentence(option.help or '')} |"


def alerts_reference() -> str:
    """Every alert with its severity, its patience, its expression and where to read on."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return "\n\n".join(_alert(rule) for group in groups for rule in group["rules"])


def _alert(rule: Mapping[str, Any]) -> str:
    name, after = rule["alert"], rule.get("for", "0m")
    head = f"### {name}\n\n*{rule['labels']['severity']}*, after {after}. [Runbook](runbook.md#{name.lower()})."
    return f"{head}\n\n```promql\n{rule['expr']}\n```"


PARTS: Final[Mapping[tuple[str, str], Callable[[], str]]] = {
    ("docs/rules.md", "rules"): rule_table,
    ("docs/configuration.md", "settings"): settings_table,
    ("docs/metrics.md", "metrics"): metrics_table,
    ("docs/cli.md", "options"): options_tables,
    ("docs/alerts.md", "alerts"): alerts_reference,
    ("docs/findings.md", "causes"): cause_table,
    ("docs/findings.md", "notices"): notice_table,
}
"""From the page and the name of its marks to what stands between them."""


def between(text: str, name: str) -> str:
    """What stands between the marks. Raises ValueError when the page has none."""
    found = re.search(rf"<!-- {name}: begin -->\n+(.*?)\n+<!-- {name}: end -->", text, re.DOTALL)
    if found is None:
        raise ValueError(f"there is no <!-- {name}: begin --> … <!-- {name}: end -->")
    return found[1]


def replaced(text: str, name: str, part: str) -> str:
    """The page with another text between the marks."""
    blank = "\n" if name in {"options", "alerts"} else ""
    return text.replace(
        text[text.index(f"<!-- {name}: begin -->") : text.index(f"<!-- {name}: end -->")],
        f"<!-- {name}: begin -->\n{blank}{part}\n{blank}",
    )


def write() -> None:
    """Put all parts into their pages."""
    for (page, name), make in PARTS.items():
        path = ROOT / page
        path.write_text(replaced(path.read_text(), name, make()))
