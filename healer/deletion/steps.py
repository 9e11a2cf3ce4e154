"""The steps of a deletion, as types: candidates, what a fresh answer has confirmed of them, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from healer.decision.quarantine import Suspect
from healer.model import Answer, CauseFinding, DeleteResult, Finding, Known, Pod, TaskInstance, Withheld


class Candidate(Struct, frozen=True):
    """A suspect that may be deleted if a fresh answer confirms it. `pod` is what is to be confirmed and deleted."""

    suspect: Suspect
    pod: Pod


class Confirmed(Struct, frozen=True):
    """A candidate that a fresh answer has confirmed as the same case. `suspect` is as of then, due time included.

    `cause`: why the Pod was left behind, where that is known; it decides nothing.
    """

    suspect: Suspect
    pod: Pod
    answer: Answer
    finding: Finding
    cause: CauseFinding | None = None

    @property
    def task(self) -> TaskInstance | None:
        """The task instance, where Airflow knows it."""
        return self.answer.task if isinstance(self.answer, Known) else None


class Confirmation(Struct, frozen=True):
    """What fresh answers made of a batch of candidates. `silent`: Airflow gave no clear answer about any of them."""

    confirmed: tuple[Confirmed, ...] = ()
    silent: bool = False


class PassResult(Struct, frozen=True):
    """What a pass left behind. `withheld` and `results` are by Pod uid.

    `not_enforced`: the suspects that live on although nothing spoke for them: the mode is to report, or the right is
    missing. `results`: what became of the last DELETE of each Pod that one was tried for.
    """

    withheld: Mapping[str, Withheld] = {}
    deleted: tuple[Suspect, ...] = ()
    not_enforced: tuple[Suspect, ...] = ()
    results: Mapping[str, DeleteResult] = {}
