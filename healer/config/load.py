"""Reading the file, laying environment and flags over it, and saying what is wrong with it in the user's own terms."""

from __future__ import annotations

import reprlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from healer.config.fields import Mode, hint
from healer.config.models import Config
from healer.config.settings import AIRFLOW_TWINS, TOP_TWINS, Twin, settings

Place = tuple[str | int, ...]
"""Where a value stands: keys and list indexes."""


class ConfigError(Exception):
    """The configuration can't be used; the text has one line for each problem and says what to do."""


class _Given(NamedTuple):
    """A value given by flag or environment, and the name under which the user knows it."""

    twin: Twin
    value: object
    source: str


def load(path: str | Path | None, flags: Mapping[str, Any], env: Mapping[str, str]) -> Config:
    """Read and check the configuration.

    `flags` are the options of the command line by their Python names (None or empty: not given). Raises ConfigError.
    """
    raw = _read(Path(path)) if path is not None else {}
    top, one = _given(TOP_TWINS, flags, env), _given(AIRFLOW_TWINS, flags, env)
    names: dict[Place, str] = {given.twin.place: given.source for given in top}
    for given in top:
        _overlay(raw, given.twin.place, given.value)
    if "airflows" not in raw:
        names |= _names_of(one)
        raw["airflows"] = [_described(one, path)]
    elif one:
        sources = ", ".join(given.source for given in one)
        raise ConfigError(f"{sources}: {path} describes the Airflows: set it there, or remove airflows from that file")
    elif ("mode",) in names:
        raw["airflows"] = _reporting(raw["airflows"], raw["mode"])
    config = _validate(raw, names, path)
    _raise_all(_unreadable(config, names))
    return config


def _given(twins: Sequence[Twin], flags: Mapping[str, Any], env: Mapping[str, str]) -> list[_Given]:
    return [given for twin in twins if (given := _flag(twin, flags) or _variable(twin, env))]


def _flag(twin: Twin, flags: Mapping[str, Any]) -> _Given | None:
    value = flags.get(twin.flag) if twin.flag else None
    if value is None or value == ():
        return None
    return _Given(twin, list(value) if isinstance(value, tuple) else value, str(twin.option))


def _variable(twin: Twin, env: Mapping[str, str]) -> _Given | None:
    text = env.get(twin.env)
    if not text:  # an empty variable is how charts and compose files say "not set"
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return _Given(twin, names if twin.place == ("namespaces",) else text, twin.env)


def _overlay(raw: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    *parents, last = place
    for parent in parents:
        inner = raw.get(parent)
        if not isinstance(inner, dict | None):
            return  # the models say what is wrong with it
        raw[parent] = raw = dict(inner or {})
    raw[last] = value


def _described(given: Sequence[_Given], path: str | Path | None) -> dict[str, Any]:
    """The entry `default` that flags and environment make."""
    if not given:
        file = "give a file with --config" if path is None else f"add airflows to {path}"
        raise ConfigError(
            f"no Airflow is described: {file}, or --namespace, --airflow-url, --ownership and a "
            "login (--airflow-username with --airflow-password-file or KPO_HEALER_AIRFLOW_PASSWORD, or "
            "--airflow-token-file)"
        )
    return {"name": "default"} | {g.twin.place[0]: g.value for g in given}


def _names_of(given: Sequence[_Given]) -> dict[Place, str]:
    """How errors call the keys of the entry `default`."""
    unset = {("airflows", 0, twin.place[0]): str(twin) for twin in AIRFLOW_TWINS}
    return unset | {("airflows", 0, g.twin.place[0]): g.source for g in given} | {("airflows", 0): "Airflow login"}


def _reporting(entries: object, mode: object) -> object:
    """Let `--mode report` hold for every Airflow of the file.

    Who asks for report mode on the command line must see no deletions; `--mode enforce` leaves an Airflow's own alone.
    """
    if mode != Mode.REPORT or not isinstance(entries, list):
        return entries
    return [entry | {"mode": mode} if isinstance(entry, dict) else entry for entry in entries]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, where YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return node


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 it is a SafeLoader
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration {path} is not text in UTF-8: write it anew") from None
    except RecursionError:
        raise ConfigError(f"the configuration {path} is nested too deeply: is it one?") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the configuration {path} is not YAML: {_yaml_problem(error)}") from None
    if not isinstance(raw, dict | None):
        raise ConfigError(f"the configuration {path} must hold keys and values, as `mode: report`")
    return raw or {}


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{place}"


def _validate(raw: dict[str, Any], names: Mapping[Place, str], path: str | Path | None) -> Config:
    try:
        return Config.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # A list whose entries are all wrong is empty for pydantic, not for the user.
    told = [detail for detail in details if detail["type"] != "too_short" or not detail["input"]]
    lines = [line for detail in told for line in _lines(detail, names)]
    raise ConfigError("\n".join(lines if path is None else [f"{path}: {line}" for line in lines]))


def _lines(detail: ErrorDetails, names: Mapping[Place, str]) -> list[str]:
    """The error as sentences; those about the whole configuration bring their place themselves."""
    if detail["loc"]:
        return [f"{_place(detail['loc'], names)}: {_sentence(detail)}"]
    ownership = names.get(("airflows", 0, "ownership"), "airflows[0].ownership")
    return [line.replace("airflows[0].ownership", ownership) for line in _sentence(detail).split("\n")]


def _place(loc: Place, names: Mapping[Place, str]) -> str:
    """`airflows[0].policy.grace`, or the flag or variable that gave it."""
    for end in range(len(loc), 0, -1):
        if loc[:end] in names:
            return names[loc[:end]]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


_SENTENCES: Mapping[str, str] = {
    "missing": "is missing: set it",
    "model_type": "must hold keys and values of its own",
    "too_short": "is empty: name at least one",
    "tuple_type": "must be a list, as [one, two]",
    "string_type": "must be text: put it in quotes",
    "string_too_short": "is empty: set it or remove the key",
    "path_type": "must be the path of a file",
}
"""What pydantic says in the terms of Python."""


def _sentence(detail: ErrorDetails) -> str:
    kind, loc = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return _unknown_key(loc)
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    text = detail["msg"].removeprefix("Input ")
    return text if loc[-1] in ("password", "token") else f"{text}, not {reprlib.repr(detail['input'])}"


def _unknown_key(loc: Place) -> str:
    parent = tuple(part for part in loc[:-1] if isinstance(part, str))
    return f"unknown key: {hint(str(loc[-1]), [s.key for s in settings() if s.parent == parent])}"


def _unreadable(config: Config, names: Mapping[Place, str]) -> Iterator[str]:
    for index, airflow in enumerate(config.airflows):
        for key in ("password_file", "token_file", "ca_file"):
            path: Path | None = getattr(airflow, key)
            problem = path and (_file_problem(path) or (key == "ca_file" and _certificate_problem(path)))
            if problem:
                yield f"{_place(('airflows', index, to_camel(key)), names)}: {problem}"


def _file_problem(path: Path) -> str | None:
    try:
        return None if path.read_text(encoding="utf-8").strip() else f"{path} is empty"
    except OSError as error:
        return f"can't read {path}: {error.strerror}"
    except ValueError:
        return f"{path} is not text in UTF-8"


def _certificate_problem(path: Path) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"{path} holds no certificate in PEM"
    return None


def _raise_all(problems: Iterator[str]) -> None:
    text = "\n".join(problems)
    if text:
        raise ConfigError(text)
