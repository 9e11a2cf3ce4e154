"""Reading the file, laying environment and flags over it, and saying what is wrong with it in the user's own terms."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from healer.config.fields import Mode, hint
from healer.config.mistakes import KeyPath, Mistakes, unexpanded
from healer.config.models import AirflowConfig, Config
from healer.config.secret_files import SecretKind, opened, read_headers, read_secret
from healer.config.settings import AIRFLOW_OVERRIDES, CONFIG_ENV, TOP_OVERRIDES, Override, settings
from healer.errors import ConfigError
from healer.redaction import shown


class _GivenOverride(NamedTuple):
    """A value given by flag or environment, and the name under which the user knows it."""

    override: Override
    value: object
    source: str


def load(path: str | Path | None, flags: Mapping[str, Any], env: Mapping[str, str]) -> Config:
    """Read and check the configuration; without a path, the variable KPO_HEALER_CONFIG may name one.

    `flags` are the options of the command line by their Python names (None or empty: not given). Raises ConfigError,
    whose text has a line for each mistake.
    """
    path = path or env.get(CONFIG_ENV) or None
    raw, doubled = _read(Path(path)) if path is not None else ({}, ())
    top, one = _given(TOP_OVERRIDES, flags, env), _given(AIRFLOW_OVERRIDES, flags, env)
    names: dict[KeyPath, str] = {given.override.place: given.source for given in top}
    for given in top:
        _overlay(raw, given.override.place, given.value)
    if "airflows" not in raw:
        names |= _names_of(one)
        raw["airflows"] = [_described(one, path)]
    elif one:
        sources = ", ".join(given.source for given in one)
        raise ConfigError(f"{sources}: {path} describes the Airflows: set it there, or remove airflows from that file")
    elif ("mode",) in names:
        raw["airflows"] = _reporting(raw["airflows"], raw["mode"])
    problems = [*doubled, *_problems(raw, names)]
    if problems:
        raise ConfigError("\n".join(problems if path is None else [f"{path}: {line}" for line in problems]))
    return Config.model_validate(raw, by_alias=True, by_name=False)


def _given(overrides: Sequence[Override], flags: Mapping[str, Any], env: Mapping[str, str]) -> list[_GivenOverride]:
    return [given for override in overrides if (given := _flag(override, flags) or _variable(override, env))]


def _flag(override: Override, flags: Mapping[str, Any]) -> _GivenOverride | None:
    value = flags.get(override.flag) if override.flag else None
    if value is None or value == ():
        return None
    return _GivenOverride(override, list(value) if isinstance(value, tuple) else value, str(override.option))


def _variable(override: Override, env: Mapping[str, str]) -> _GivenOverride | None:
    text = env.get(override.env)
    if not text:  # an empty variable is how charts and compose files say "not set"
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return _GivenOverride(override, names if override.place == ("namespaces",) else text, override.env)


def _overlay(raw: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    *parents, last = place
    for parent in parents:
        inner = raw.get(parent)
        if not isinstance(inner, dict | None):
            return  # the models say what is wrong with it
        raw[parent] = raw = dict(inner or {})
    raw[last] = value


def _described(given: Sequence[_GivenOverride], path: str | Path | None) -> dict[str, Any]:
    """The entry `default` that flags and environment make."""
    if not given:
        file = f"give a file with --config or {CONFIG_ENV}" if path is None else f"add airflows to {path}"
        raise ConfigError(
            f"no Airflow is described: {file}, or --namespace, --airflow-url, --ownership and a "
            "login (--airflow-username with --airflow-password-file or KPO_HEALER_AIRFLOW_PASSWORD, or "
            "--airflow-token-file)"
        )
    return {"name": "default"} | {g.override.place[0]: g.value for g in given}


def _names_of(given: Sequence[_GivenOverride]) -> dict[KeyPath, str]:
    """How errors call the keys of the entry `default`."""
    unset = {("airflows", 0, override.place[0]): str(override) for override in AIRFLOW_OVERRIDES}
    return unset | {("airflows", 0, g.override.place[0]): g.source for g in given} | {("airflows", 0): "Airflow login"}


def _reporting(entries: object, mode: object) -> object:
    """Let `--mode report` hold for every Airflow of the file.

    Who asks for report mode on the command line must see no deletions; `--mode enforce` leaves an Airflow's own alone.
    """
    if mode != Mode.REPORT or not isinstance(entries, list):
        return entries
    return [entry | {"mode": mode} if isinstance(entry, dict) else entry for entry in entries]


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"

MOST_VALUES = 200_000
"""Values of a file, each counted as often as anchors repeat it: more than a thousand Airflows need."""


class _UniqueKeys(yaml.SafeLoader):
    """Notes a key that stands twice in one mapping, where YAML would silently take the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.doubled: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                key.tag = _TEXT  # `on`, 7 or a date is a key by its letters, as all others are
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                mark = key.start_mark
                self.doubled.append(
                    f"a key stands there twice in line {mark.line + 1}, column {mark.column + 1}: remove one of them"
                )
            seen.add(str(key.value))
        return node


def _read(path: Path) -> tuple[dict[str, Any], Sequence[str]]:
    """Return what the file holds, and which of its keys stand twice."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        loader = _UniqueKeys(text)
        raw = loader.get_single_data()
        if _values(raw, {}) > MOST_VALUES:
            raise ConfigError(f"the configuration {path} repeats its anchors within one another: write the values out")
    except OSError as error:
        raise ConfigError(f"can't read the configuration, {shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration {path} is not text in UTF-8: write it anew") from None
    except RecursionError:
        raise ConfigError(f"the configuration {path} is nested too deeply: is it one?") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:  # PyYAML's own, for a tag that lies
        raise ConfigError(f"the configuration {path} is not YAML: {_yaml_problem(error, text)}") from None
    if not isinstance(raw, dict | None):
        raise ConfigError(f"the configuration {path} must hold keys and values, as `mode: report`")
    return raw or {}, loader.doubled


def _values(raw: object, known: dict[int, float]) -> float:
    """Return for how many values something stands; infinitely many where an anchor stands within itself."""
    if not isinstance(raw, dict | list):
        return 1
    if id(raw) not in known:
        known[id(raw)] = math.inf
        known[id(raw)] = 1 + sum(_values(each, known) for each in (raw.values() if isinstance(raw, dict) else raw))
    return known[id(raw)]


def _yaml_problem(error: Exception, text: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].split("\n")
        return f"it holds a control character in line {len(before)}, column {len(before[-1]) + 1}: remove it"
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None)
    if not isinstance(error, yaml.MarkedYAMLError) or not problem:
        return f"it holds a value that can't be read, such as a date or number that is none{place}"
    if f"{error.context} {problem}".startswith(("while scanning an a", "None found undefined alias")):
        return f'what begins with * or & there is not text to YAML: put it in quotes, as "*-prod"{place}'
    if "'\\t'" in problem:
        return f"it holds a tab: put spaces in its place{place}"
    # What PyYAML quotes is a piece of the file: an alias, a tag, an anchor, which may be a password without its quotes.
    return re.sub(r"'[^' ]{2,}'|\"[^\" ]{2,}\"", "what stands there", problem) + place


def _problems(raw: dict[str, Any], names: Mapping[KeyPath, str]) -> list[str]:
    """Return a line for each mistake."""
    unfilled = dict(unexpanded(raw))
    lines = [f"{_place(place, names)}: {sentence}" for place, sentence in unfilled.items()]
    found = Mistakes(raw)
    for detail in found.details:
        if detail["loc"] not in unfilled:
            lines += _lines(detail, names)
    if found.config is not None:
        readable = found.config.model_copy(update={"airflows": tuple(found.files())})
        told = {line.partition(":")[0] for line in lines}
        lines += [line for line in _unreadable(readable, names) if line.partition(":")[0] not in told]
    return list(dict.fromkeys(lines))


def _lines(detail: ErrorDetails, names: Mapping[KeyPath, str]) -> list[str]:
    """The error as sentences; those about the whole configuration bring their place themselves."""
    if detail["loc"]:
        return [f"{_place(detail['loc'], names)}: {_sentence(detail)}"]
    ownership = names.get(("airflows", 0, "ownership"), "airflows[0].ownership")
    return [line.replace("airflows[0].ownership", ownership) for line in _sentence(detail).split("\n")]


def _place(loc: KeyPath, names: Mapping[KeyPath, str]) -> str:
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
    "bool_type": "must be true or false, without quotes",
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
    return detail["msg"].removeprefix("Input ")


def _unknown_key(loc: KeyPath) -> str:
    parent = tuple(part for part in loc[:-1] if isinstance(part, str))
    elsewhere = [_section(s.parent) for s in settings() if s.key == loc[-1] and s.parent != parent]
    if elsewhere:
        return f"stands in the wrong place: it belongs {' or '.join(dict.fromkeys(elsewhere))}"
    return f"unknown key: {hint(str(loc[-1]), [s.key for s in settings() if s.parent == parent])}"


def _section(parent: tuple[str, ...]) -> str:
    """Name the section that a key belongs to, so that one finds it in the file."""
    if not parent:
        return "at the top of the file, outside of every section"
    return "under " + ".".join(parent).replace("airflows", "airflows[]", 1)


_SECRETS: Mapping[str, SecretKind] = {
    "password_file": "password",
    "client_secret_file": "password",
    "token_file": "token",
    "cookie_file": "cookie",
}


def _unreadable(config: Config, names: Mapping[KeyPath, str]) -> Iterator[str]:
    wrong = config.listen_token_file and _no_secret(config.listen_token_file, "token")
    if wrong:
        yield f"{_place(('listenTokenFile',), names)}: {wrong}"
    for index, airflow in enumerate(config.airflows):
        for key, check in _FILE_CHECKS.items():
            problem = check(airflow) if getattr(airflow, key) else None
            if problem:
                yield f"{_place(('airflows', index, to_camel(key)), names)}: {problem}"


def _secret_problem(key: str, airflow: AirflowConfig) -> str | None:
    return _no_secret(getattr(airflow, key), _SECRETS[key])


def _no_secret(path: Path, kind: SecretKind) -> str | None:
    """Return why a file holds no secret."""
    try:
        read_secret(path, kind)
    except ValueError as error:
        return str(error)
    return None


def _headers_problem(airflow: AirflowConfig) -> str | None:
    try:
        read_headers(airflow.headers_file or Path())
    except ValueError as error:
        return str(error)
    return None


def _authority_problem(airflow: AirflowConfig) -> str | None:
    path = airflow.ca_file or Path()
    return _file_problem(path) or _certificate_problem(path)


def _identity_problem(airflow: AirflowConfig) -> str | None:
    """Return what keeps certFile and keyFile from being our own certificate."""
    cert, key = airflow.cert_file or Path(), airflow.key_file
    problem = _file_problem(cert)
    if problem or _key_problem(airflow):
        return problem
    try:
        # Without an answer OpenSSL would ask the terminal for the passphrase.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            return "the key does not belong to the certificate: name the one that does"
        return (
            "certFile and keyFile hold no certificate and its key, in PEM and without a passphrase; without keyFile "
            "both stand in certFile"
        )
    return None


def _key_problem(airflow: AirflowConfig) -> str | None:
    return _file_problem(airflow.key_file) if airflow.key_file and airflow.cert_file else None


_FILE_CHECKS: Mapping[str, Callable[[AirflowConfig], str | None]] = {
    **{key: partial(_secret_problem, key) for key in _SECRETS},
    "headers_file": _headers_problem,
    "cert_file": _identity_problem,
    "key_file": _key_problem,
    "ca_file": _authority_problem,
}


def _file_problem(path: Path) -> str | None:
    try:
        with opened(path) as file:
            return None if file.read().decode().strip() else "the file is empty"
    except OSError as error:
        return f"can't read the file that it names: {error.strerror}"
    except UnicodeDecodeError:
        return "the file is not text in UTF-8"
    except ValueError:  # a NUL in the path
        return "can't read the file that it names: that is no path"


def _certificate_problem(path: Path) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return "the file holds no certificate in PEM"
    return None
