"""What a planted bug is: an edit of the healer's source, as small as the slip of a tired programmer."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """Text of a module (`healer.` is left out) that stands there exactly once, and what comes in its place."""

    module: str
    old: str
    new: str


class Bug(NamedTuple):
    """A bug: its name, what it does to users in words, and the edits that make it."""

    name: str
    words: str
    edits: tuple[Edit, ...]


def bug(name: str, words: str, *edits: tuple[str, str, str]) -> Bug:
    """Return a bug made by these edits."""
    return Bug(name, words, tuple(Edit(*edit) for edit in edits))


WITHOUT_PROOF = (
    "deletion.decision_record",
    'raise AssertionError("nothing acts on an answer that knows nothing")',
    'return RunEvidence("", "")',
)
"""The edit that a bug needs which acts on no knowledge: the line of proof before a DELETE would end the pass."""
