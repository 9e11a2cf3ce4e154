"""Every key by its place: for hints, for the docs' table, and for the flags and variables that can give it too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, get_args

from pydantic.alias_generators import to_camel

from healer.config.models import Config, ConfigModel

ENV_PREFIX = "KPO_HEALER_"

CONFIG_ENV = f"{ENV_PREFIX}CONFIG"
"""The variable that names the file where `--config` does not."""


class Override(NamedTuple):
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


def _override(place: str, name: str, *, flag: bool = True) -> Override:
    return Override(tuple(place.split(".")), name if flag else None, ENV_PREFIX + name.upper())


TOP_OVERRIDES = (
    _override("mode", "mode"),
    _override("interval", "interval"),
    _override("auditInterval", "audit_interval"),
    _override("freshness", "freshness"),
    _override("listen", "listen"),
    _override("findings", "findings", flag=False),
    _override("history", "history", flag=False),
    _override("listenTokenFile", "listen_token_file", flag=False),
    _override("log.format", "log_format"),
    _override("log.level", "log_level"),
)
"""What has a flag and a variable whether or not a file describes the Airflows."""

AIRFLOW_OVERRIDES = (
    _override("namespaces", "namespace"),
    _override("ownership", "ownership"),
    _override("url", "airflow_url"),
    _override("username", "airflow_username"),
    _override("password", "airflow_password", flag=False),
    _override("passwordFile", "airflow_password_file"),
    _override("token", "airflow_token", flag=False),
    _override("tokenFile", "airflow_token_file"),
    _override("cookieFile", "airflow_cookie_file"),
    _override("caFile", "airflow_ca_file"),
)
"""What describes the one Airflow `default` where no file does."""


OVERRIDES = (*TOP_OVERRIDES, *AIRFLOW_OVERRIDES)


class Setting(NamedTuple):
    """One key of the file: the keys it stands under, its default as YAML (None: required), what it means."""

    parent: tuple[str, ...]
    key: str
    default: str | None
    description: str
    override: Override | None

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
    flag = f"`{setting.override.option}`" if setting.override and setting.override.option else ""
    variable = f"`{setting.override.env}`" if setting.override else ""
    return f"| `{setting.path}` | {default} | {flag} | {variable} | {setting.description} |"


def _settings(model: type[ConfigModel], parent: tuple[str, ...]) -> Iterator[Setting]:
    duplicates = {("airflows", *t.place): t for t in AIRFLOW_OVERRIDES} | {t.place: t for t in TOP_OVERRIDES}
    for name, field in model.model_fields.items():
        key = to_camel(name)
        default = None if field.is_required() else _as_yaml(field.default)
        yield Setting(parent, key, default, field.description or "", duplicates.get((*parent, key)))
        section = _section(field.annotation)
        if section:
            yield from _settings(section, (*parent, key))


def _section(annotation: object) -> type[ConfigModel] | None:
    """The model behind a key that has keys of its own."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, ConfigModel)), None)


def _as_yaml(default: object) -> str:
    if default is None or isinstance(default, bool):
        return "null" if default is None else str(default).lower()
    return str(default) if isinstance(default, str | int | float) else "[]" if default == () else "{}"
