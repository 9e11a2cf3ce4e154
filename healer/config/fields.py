"""The values that keys may have, each with the sentence that says what is wrong with another one.

The checks raise ValueError, as pydantic wants it; `load` turns these into one line per problem. No sentence repeats
the value: whatever it was meant to be, it may be a secret that stands in the wrong place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

from healer.model import ACTING, Action, Reason

LONGEST = 10 * 365 * 86400.0
"""No duration is longer (seconds): the platform's own waits overflow not far above it."""

_UNITS = MappingProxyType({"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0})
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_NAMESPACE_PATTERN = re.compile(r"[a-z0-9*](?:[-a-z0-9*]{0,61}[a-z0-9*])?")
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class Mode(StrEnum):
    """Whether the healer deletes."""

    REPORT = "report"
    ENFORCE = "enforce"


class Ownership(StrEnum):
    """Which Pods of its namespaces are an Airflow's."""

    EXCLUSIVE = "exclusive"
    STAMPED = "stamped"


class HistoryMode(StrEnum):
    """Where it is kept what was healed lately."""

    OFF = "off"
    MEMORY = "memory"
    CONFIG_MAP = "configMap"


class OwnershipLabel(Struct, frozen=True, forbid_unknown_fields=True):
    """A label by which an Airflow's Pods are told from those of others: `stamped` with a label of the site's own."""

    label: str
    value: str

    def __str__(self) -> str:
        """As `kubectl` writes a selector."""
        return f"{self.label}={self.value}"


class LogFormat(StrEnum):
    """How log lines are written."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least severe log lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def parse_duration(value: object) -> float:
    """Seconds of `30s`, `10m`, `24h`, `7d`, `1h30m`, `500ms`, `0s`.

    A float is taken as seconds already: it comes from code. Raises ValueError with a sentence for anything else.
    """
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return _bounded(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)))
    if isinstance(value, float) and value >= 0:
        return _bounded(value)
    unit = ": it has no unit" if isinstance(value, int) and not isinstance(value, bool) else ""
    raise ValueError(f"is not a duration{unit}: write one like 30s, 10m, 24h, 7d, 1h30m or 500ms")


def _bounded(seconds: float) -> float:
    if seconds > LONGEST:
        raise ValueError("is longer than ten years: write a shorter duration")
    return seconds


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be longer than 0s")
    return seconds


def _namespace(value: str) -> str:
    if not _NAMESPACE.fullmatch(value):
        raise ValueError(
            "is not a namespace's name: write it exactly, without wildcards (lower-case letters, digits and -, "
            "at most 63 characters)"
        )
    return value


def _namespace_or_pattern(value: str) -> str:
    if not _NAMESPACE_PATTERN.fullmatch(value):
        raise ValueError(
            "is not a namespace's name, nor a pattern as team-*: use lower-case letters, digits and -, and * for any "
            "of them (at most 63 characters)"
        )
    return value


def _airflow_name(value: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise ValueError(
            "can't be a label value: use letters, digits, - _ . (at most 63 characters, a letter or digit at both ends)"
        )
    return value


def _ownership(value: object) -> Ownership | OwnershipLabel:
    """Take `exclusive`, `stamped`, or a label and its value."""
    if isinstance(value, OwnershipLabel):
        return value
    if not isinstance(value, Mapping):
        try:
            return Ownership(str(value))
        except ValueError:
            raise ValueError("should be 'exclusive' or 'stamped', or {label: KEY, value: VALUE}") from None
    unknown = [str(key) for key in value if key not in ("label", "value")]
    if unknown:
        raise ValueError(f"unknown key: {hint(unknown[0], ['label', 'value'])}")
    label, wanted, wrong = value.get("label"), value.get("value"), []
    if not (isinstance(label, str) and _LABEL_KEY.fullmatch(label)):
        wrong.append("label is no label's key: write one like acme.io/airflow")
    if not (isinstance(wanted, str) and _LABEL_VALUE.fullmatch(wanted)):
        wrong.append("value is no label's value: put it in quotes; letters, digits, - _ . (at most 63 characters)")
    if wrong:
        raise ValueError("; ".join(wrong))
    return OwnershipLabel(str(label), str(wanted))


def _command_word(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL character, which no argument can")
    return value


def _command(value: tuple[str, ...]) -> tuple[str, ...]:
    if value and not value[0].strip():
        raise ValueError("names no program: its first word is empty")
    return value


def listen_address(value: str) -> tuple[str, int]:
    """Host and port of `:8080`, `127.0.0.1:8080` or `[::1]:8080`; an empty host means every interface.

    Raises ValueError with a sentence.
    """
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("is not an address to listen on: write host:port or :port, as :8080")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("is not an address to listen on: put an IPv6 host in brackets, as [::1]:8080")
    return host.strip("[]"), int(port)


def _listen(value: str) -> str:
    listen_address(value)
    return value


def _url(value: str) -> str:
    parts = _parts(value)
    if parts is None:
        raise ValueError("is not the URL of an Airflow: write it like http://airflow-api-server:8080")
    user, query, path = parts
    if user:
        raise ValueError("must not hold a user or password: give them in their own keys")
    if query:
        raise ValueError("must not hold a query or fragment: write it like http://airflow-api-server:8080")
    if re.search(r"/(api/v\d+|auth/token)(/|$)", path):
        raise ValueError("must be the URL under which Airflow's web page is found: leave away /api/... and /auth/...")
    return value.rstrip("/")


def _parts(url: str) -> tuple[str, str, str] | None:
    """User, query or fragment, and path of an http(s) URL; None if it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at for its ValueError
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s%\\]", parts.netloc + parts.path):
        return None
    if "@" in parts.path:  # a password with a slash: what stands before it was taken for the host
        return parts.path, "", ""
    return parts.netloc.rpartition("@")[0], parts.query or parts.fragment, parts.path


def _actions(value: object) -> Mapping[Reason, Action]:
    if not isinstance(value, Mapping):
        raise ValueError("must map reasons to actions, as {orphaned: report}")  # noqa: TRY004 pydantic wants this one
    wrong = [text for key, action in value.items() if (text := _wrong_action(str(key), action))]
    if wrong:
        raise ValueError("; ".join(wrong))
    defaults = {reason: reason.action for reason in ACTING}
    return defaults | {_REASONS[str(key)]: Action(action) for key, action in value.items()}


def _sealed(value: Mapping[Reason, Action]) -> Mapping[Reason, Action]:
    return MappingProxyType(dict(value))


_REASONS = MappingProxyType({reason.value: reason for reason in Reason})


def _wrong_action(key: str, action: object) -> str | None:
    acting = [reason.value for reason in Reason if reason in ACTING]
    if key in _REASONS and key not in acting:
        return f"{key} always keeps: only {', '.join(acting)} can be set"
    if key not in acting:
        return f"{told(key)} is no reason: {hint(key, acting)}"
    return None if action in tuple(Action) else f"{key} should be delete, report or keep"


def told(key: str) -> str:
    """Return a key as a message may name it: one that looks like none may be a value that lost its key."""
    return f"'{key}'" if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,30}", key) else "a key that is no word"


def hint(word: str, known: Sequence[str]) -> str:
    """`did you mean X?` where a known word is close, else all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"


def _election(value: object) -> object:
    """Take `auto` and the words of a switch; 1 and 0 are neither."""
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("must be auto, true or false")


def _history(value: object) -> object:
    """Take `off` for what it means: without quotes YAML reads it as false."""
    mode = HistoryMode.OFF if value is False else value
    if not isinstance(mode, str) or mode not in set(HistoryMode):
        raise ValueError("must be off, memory or configMap")
    return mode


def _lease_name(value: str) -> str:
    if len(value) > 253 or not _OBJECT_NAME.fullmatch(value):
        raise ValueError(
            "is not a Lease's name: use lower-case letters, digits, - and . (at most 253 characters, a letter or digit "
            "at both ends)"
        )
    return value


def _switch(value: object) -> object:
    """Take the words of a variable, which knows only text, for what they mean."""
    switch = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 pydantic wants this one
    return switch


_AS_DURATION = WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$"})
"""How a JSON schema tells a duration: in a file it is text."""

_AS_ACTIONS = WithJsonSchema(
    {
        "type": "object",
        "properties": {reason.value: {"enum": [action.value for action in Action]} for reason in ACTING},
        "additionalProperties": False,
    }
)


def _as_text(pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern.pattern}$"})


Duration = Annotated[float, BeforeValidator(parse_duration), _AS_DURATION]
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_positive), _AS_DURATION]
Namespace = Annotated[str, AfterValidator(_namespace), _as_text(_NAMESPACE)]
NamespacePattern = Annotated[str, AfterValidator(_namespace_or_pattern), _as_text(_NAMESPACE_PATTERN)]
AirflowName = Annotated[str, AfterValidator(_airflow_name), _as_text(_LABEL_VALUE)]
Owned = Annotated[
    Ownership | OwnershipLabel,
    PlainValidator(_ownership),
    WithJsonSchema(
        {
            "oneOf": [
                {"enum": [each.value for each in Ownership]},
                {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string", "pattern": f"^{_LABEL_KEY.pattern}$"},
                        "value": {"type": "string", "pattern": f"^{_LABEL_VALUE.pattern}$"},
                    },
                    "required": ["label", "value"],
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]
CommandWord = Annotated[str, AfterValidator(_command_word)]
Command = Annotated[tuple[CommandWord, ...], AfterValidator(_command)]
Url = Annotated[str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
Listen = Annotated[str, AfterValidator(_listen), WithJsonSchema({"type": "string", "pattern": ":[0-9]{1,5}$"})]
LeaseName = Annotated[str, AfterValidator(_lease_name), _as_text(_OBJECT_NAME)]
Election = Annotated[
    bool | Literal["auto"], BeforeValidator(_election), WithJsonSchema({"enum": ["auto", True, False]})
]
History = Annotated[
    HistoryMode, BeforeValidator(_history), WithJsonSchema({"enum": [*(each.value for each in HistoryMode), False]})
]
Switch = Annotated[bool, BeforeValidator(_switch)]
Actions = Annotated[Mapping[Reason, Action], BeforeValidator(_actions), AfterValidator(_sealed), _AS_ACTIONS]
