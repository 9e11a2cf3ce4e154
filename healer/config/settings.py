"""Every key by its place: for hints, for the docs' table, and for the flags and variables that can give it too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, get_args

from pydantic.alias_generators import to_camel

from healer.config.models import Config, Model

ENV_PREFIX = "KPO_HEALER_"


class Twin(NamedTuple):
    """A setting that flags and environment can give too: its place in the file, its flag in Python's spelling."""

    place: tuple[str, ...]
    flag: str | None
    env: str

    @property
    def option(self) -> str | None:
        """The flag as it is typed, None for secrets, which other users of the machine could read there."""
        return self.flag and f"--{self.flag.replace('_', '-')}"

    def __str__(self) -> str:
        """How an error names it where neither was given."""
        return " or ".join(filter(None, (self.option, self.env)))


def _twin(place: str, name: str, *, flag: bool = True) -> Twin:
    return Twin(tuple(place.split(".")), name if flag else None, ENV_PREFIX + name.upper())


TOP_TWINS = (
    _twin("mode", "mode"),
    _twin("interval", "interval"),
    _twin("auditInterval", "audit_interval"),
    _twin("freshness", "freshness"),
    _twin("listen", "listen"),
    _twin("findings", "findings", flag=False),
    _twin("log.format", "log_format"),
    _twin("log.level", "log_level"),
)
"""What has a flag and a variable whether or not a file describes the Airflows."""

AIRFLOW_TWINS = (
    _twin("namespaces", "namespace"),
    _twin("ownership", "ownership"),
    _twin("url", "airflow_url"),
    _twin("username", "airflow_username"),
    _twin("password", "airflow_password", flag=False),
    _twin("passwordFile", "airflow_password_file"),
    _twin("token", "airflow_token", flag=False),
    _twin("tokenFile", "airflow_token_file"),
    _twin("caFile", "airflow_ca_file"),
)
"""What describes the one Airflow `default` where no file does."""


TWINS = (*TOP_TWINS, *AIRFLOW_TWINS)


class Setting(NamedTuple):
    """One key of the file: the keys it stands under, its default as YAML (None: required), what it means."""

    parent: tuple[str, ...]
    key: str
    default: str | None
    description: str
    twin: Twin | None

    @property
    def path(self) -> str:
        """`airflows[].policy.grace`."""
        return ".".join((*self.parent, self.key)).replace("airflows.", "airflows[].", 1)


def settings() -> list[Setting]:
    """Every key of the file, in order; sections themselves have no default of their own."""
    return list(_settings(Config, ()))


def settings_table() -> str:
    """Return the table of all keys in Markdown, as the docs show it."""
    rows = ["| key | default | flag | variable | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*rows, *(_row(setting) for setting in settings() if setting.description)])


def _row(setting: Setting) -> str:
    default = "required" if setting.default is None else f"`{setting.default}`"
    if setting.path == "airflows[].mode":
        default = "the global one"
    flag = f"`{setting.twin.option}`" if setting.twin and setting.twin.option else ""
    variable = f"`{setting.twin.env}`" if setting.twin else ""
    return f"| `{setting.path}` | {default} | {flag} | {variable} | {setting.description} |"


def _settings(model: type[Model], parent: tuple[str, ...]) -> Iterator[Setting]:
    twins = {("airflows", *t.place): t for t in AIRFLOW_TWINS} | {t.place: t for t in TOP_TWINS}
    for name, field in model.model_fields.items():
        key = to_camel(name)
        default = None if field.is_required() else _as_yaml(field.default)
        yield Setting(parent, key, default, field.description or "", twins.get((*parent, key)))
        section = _section(field.annotation)
        if section:
            yield from _settings(section, (*parent, key))


def _section(annotation: object) -> type[Model] | None:
    """The model behind a key that has keys of its own."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Model)), None)


def _as_yaml(default: object) -> str:
    if default is None or isinstance(default, bool):
        return "null" if default is None else str(default).lower()
    return str(default) if isinstance(default, str | int | float) else "[]" if default == () else "{}"
