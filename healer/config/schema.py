"""The configuration as a JSON schema, for editors and for the values of the Helm chart."""

from __future__ import annotations

from typing import Any, TypeAlias

from healer.config.models import Config

Json: TypeAlias = Any
"""A decoded JSON document."""


def json_schema() -> Json:
    """Return the schema of the file, written out in full: no `$ref`, no titles, unknown keys refused everywhere.

    It is as strict as a schema can be; what spans several keys only `load` knows.
    """
    raw = Config.model_json_schema(by_alias=True)
    shared = raw.pop("$defs")
    schema: Json = _plain(raw, shared)
    airflow = schema["properties"]["airflows"]["items"]["properties"]
    del airflow["mode"]["default"]  # the global one, whatever that is
    return schema


def _plain(node: Json, shared: Json) -> Json:
    """Return the schema with what it refers to in place, and without what only code reads."""
    if isinstance(node, list):
        return [_plain(item, shared) for item in node]
    if not isinstance(node, dict):
        return node
    target = shared[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    merged = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return _nullable({key: _entry(key, value, shared) for key, value in merged.items() if _tells(key, value)})


def _entry(key: str, value: Json, shared: Json) -> Json:
    if key == "properties":  # its keys are names, not words of the schema
        return {name: _plain(inner, shared) for name, inner in value.items()}
    return _plain(value, shared)


def _tells(key: str, value: Json) -> bool:
    if key == "title":
        return False
    if key == "format":
        return value not in ("path", "password")
    return not (key == "default" and value in ({}, [], None))


def _nullable(node: Json) -> Json:
    """Write "this or null" as one type: a validator says of an `anyOf` only that nothing in it fits."""
    match node.get("anyOf"):
        case [{"oneOf": [*_]} as value, {"type": "null"}]:  # tells of null itself
            return {**value, **{key: inner for key, inner in node.items() if key != "anyOf"}}
        case [dict(value), {"type": "null"}]:
            one = {key: inner for key, inner in node.items() if key != "anyOf"}
            told: Json = {**value, **one, "type": [value["type"], "null"]}
            if "enum" in told:
                told["enum"] = [*told["enum"], None]
            return told
    return node
