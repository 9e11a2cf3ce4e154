"""What msgspec knows of a class is made by one thread, when its module is imported.

Made by several threads at once, for the first time and while garbage is collected, it crashed the process.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import healer

SOURCE = Path(healer.__file__).parent
ONE_THREAD = {"cli"}
"""Rooms in which nothing is decoded by more than one thread."""


def decoded_by_class(source: str) -> Iterator[str]:
    """Calls that make a decoder of a class where they stand: `decode(…, type=Class)`, `convert(…, Class)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kinds = [word.value for word in node.keywords if word.arg == "type"]
            kinds += node.args[1:2] if node.func.attr == "convert" else []
            for kind in kinds:
                if node.func.attr in {"decode", "convert"} and isinstance(kind, ast.Name) and kind.id != "str":
                    yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_thread_makes_a_decoder_of_a_class() -> None:
    found = {
        str(path.relative_to(SOURCE)): calls
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in ONE_THREAD
        if (calls := list(decoded_by_class(path.read_text())))
    }
    assert found == {}, "make a msgspec.json.Decoder beside the class, and use that"


def test_such_a_call_is_found() -> None:
    assert list(decoded_by_class("msgspec.json.decode(body, type=Pod)"))
    assert list(decoded_by_class("msgspec.convert(body, Pod)"))
    assert not list(decoded_by_class("POD.decode(body)"))
