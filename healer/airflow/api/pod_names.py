"""What people's set-ups put where KPO keeps the name of its Pod, and which of it is a name.

A custom XCom backend keeps a reference there (`s3://…`, an object with `__classname__`), object storage a path, a
masker `***`; older providers and API versions wrap a name in one more layer of JSON or in quotes. A well-formed answer
whose value is no Pod's name names nobody. An answer that is not well-formed raises: it is a failure and no value.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

ValuePlace = tuple[str | None, str]
"""A Pod as (namespace, name); the namespace is None where it is not told: then the name counts wherever it is."""

_PART = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_POD_NAME = re.compile(rf"(?=.{{1,253}}\Z){_PART}(?:\.{_PART})*", re.ASCII)
_NAMESPACE = re.compile(rf"(?=.{{1,63}}\Z){_PART}", re.ASCII)

LAYERS = 3
"""How many layers of JSON or quotes around a value are taken off."""


class _Entry(Struct):
    value: Any


_ENTRY = msgspec.json.Decoder(_Entry)


class Value(Struct, frozen=True):
    """The value of a well-formed answer: the Pod that it names, or what it is instead."""

    place: ValuePlace | None = None
    odd: str | None = None

    @property
    def text(self) -> str | None:
        """The name, None where there is none."""
        return None if self.place is None else self.place[1]


def pod_identifier(body: bytes) -> Value:
    """Read the state store's `pod_identifier`. Raises msgspec.MsgspecError where the answer itself can't be read."""
    value = _unwrapped(_ENTRY.decode(body).value)
    if isinstance(value, dict):
        name, namespace = _unwrapped(value.get("name")), _unwrapped(value.get("namespace"))
        if is_pod_name(name):
            return Value((namespace if is_namespace(namespace) else None, name))
        return Value(odd=f"an object whose name is {_kind(name)}" if "name" in value else "an object without a name")
    return _named(value)


def xcom(body: bytes) -> Value:
    """Read the XCom `pod_name` or `pod_namespace`. Raises msgspec.MsgspecError where the answer can't be read."""
    return _named(_unwrapped(_ENTRY.decode(body).value))


def value(raw: msgspec.Raw) -> Value:
    """Read the value of such an XCom. Raises msgspec.MsgspecError where it can't be read."""
    return _named(_unwrapped(msgspec.json.decode(raw)))


def is_pod_name(value: object) -> bool:
    """Whether Kubernetes allows this as a Pod's name."""
    return isinstance(value, str) and _POD_NAME.fullmatch(value) is not None


def is_namespace(value: object) -> bool:
    """Whether Kubernetes allows this as a namespace's name."""
    return isinstance(value, str) and _NAMESPACE.fullmatch(value) is not None


def _named(value: object) -> Value:
    return Value((None, value)) if isinstance(value, str) and is_pod_name(value) else Value(odd=_kind(value))


def _unwrapped(value: Any) -> Any:
    """Return what is inside strings of JSON and quotes; a bare text that happens to be JSON, as `7`, stays a text."""
    for _ in range(LAYERS):
        if not isinstance(value, str):
            return value
        text = value.strip()
        if len(text) > 1 and text[0] == text[-1] == "'":
            value = text[1:-1]
            continue
        if text[:1] not in ('"', "{", "["):
            return value
        try:
            value = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return value
    return value


def _kind(value: object) -> str:
    """Say what a value is without telling it: it may be anything, a secret too."""
    if value is None:
        return "null"
    if isinstance(value, str):
        scheme = re.match(r"([a-z][a-z0-9+.-]{0,15})://", value)
        if scheme:
            return f"a reference ({scheme[1]}://…)"
        return f"a text of {len(value)} characters that no Pod can be called" if value else "an empty text"
    if isinstance(value, bool):
        return "true or false"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a number"
