"""The namespaces of an Airflow: exact names, and patterns in which `*` stands for any characters, also none.

Whether a pattern stands for a namespace is told by its name alone: of the same name it is always the same.
"""

from __future__ import annotations

from collections.abc import Iterable

RESERVED = ("kube-", "openshift-")
"""How the names begin that Kubernetes and OpenShift keep for themselves. As a shell's `*` finds no hidden file, a
pattern finds these only where it begins so itself."""


def is_pattern(name: str) -> bool:
    """Return whether this is a pattern, and no namespace's exact name."""
    return "*" in name


def exact_names(namespaces: Iterable[str]) -> list[str]:
    """Return those of an Airflow's namespaces that are written with their exact names."""
    return [name for name in namespaces if not is_pattern(name)]


def only_patterns(namespaces: Iterable[str]) -> list[str]:
    """Return those that stand for whatever namespaces there are."""
    return [name for name in namespaces if is_pattern(name)]


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern stands for a namespace."""
    reserved = next((prefix for prefix in RESERVED if name.startswith(prefix)), "")
    return pattern.startswith(reserved) and _fits(pattern, name)


def covers(namespaces: Iterable[str], wanted: str) -> bool:
    """Return whether a namespace is among these names and patterns; or all that a pattern stands for.

    A `*` of `wanted` is a character like any other, which only a `*` fits: sound, as that fits all.
    """
    return any(each == wanted or (is_pattern(each) and matches(each, wanted)) for each in namespaces)


def _fits(pattern: str, name: str) -> bool:
    """Look for the pieces between the stars one after the other: linear, whatever the pattern."""
    first, *middle = pattern.split("*")
    if not middle:
        return pattern == name
    *middle, last = middle
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    place, end = len(first), len(name) - len(last)
    for piece in middle:
        found = name.find(piece, place, end)
        if found < 0:
            return False
        place = found + len(piece)
    return True
