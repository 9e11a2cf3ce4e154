"""The JSON schema of the configuration: complete, as strict as its models, and the one that the chart has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deploy.generate import SCHEMA, values_schema
from healer.config import settings
from healer.config.schema import json_schema


def places(schema: Any, parent: str = "") -> Iterator[str]:
    for name, inner in schema["properties"].items():
        yield f"{parent}{name}"
        inner = inner.get("items", inner)
        if "properties" in inner and name != "actions":
            yield from places(inner, f"{parent}{name}{'[]' if name == 'airflows' else ''}.")


def objects(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield node
        for inner in node.values():
            yield from objects(inner)


def test_every_key_is_in_it() -> None:
    assert set(places(json_schema())) == {setting.path for setting in settings()}


def test_it_takes_no_key_that_it_does_not_name() -> None:
    assert all(node["additionalProperties"] is False for node in objects(json_schema()))


def test_it_is_written_out_in_full() -> None:
    """helm's words about an `anyOf` would say only that nothing in it fits."""
    text = json.dumps(json_schema())
    assert [word for word in ("$ref", "$defs", "anyOf") if word in text] == []


def test_the_schema_of_the_chart_has_it() -> None:
    assert SCHEMA.read_text() == values_schema(), "call make manifests"
