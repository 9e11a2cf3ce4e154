"""Bugs planted into the healer, each a small and realistic change: the simulation must catch every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from healer import guard, rules, suspects
from healer.cluster import Proof, deletes
from healer.model import Answer, Finding, Pod, Reason
from healer.reconcile import casebook, healing, reconciler

Plant = Callable[[pytest.MonkeyPatch], None]


def _without(patch: pytest.MonkeyPatch, *reasons: Reason) -> None:
    patch.setattr(rules, "RULES", tuple(rule for rule in rules.RULES if rule[0] not in reasons))


def retry_counts_as_ended(patch: pytest.MonkeyPatch) -> None:
    """A task instance that waits for its next try is taken for ended."""
    patch.setattr(rules, "ENDED", rules.ENDED | {"up_for_retry"})
    patch.setattr(rules, "BETWEEN", rules.BETWEEN - {"up_for_retry"})


def no_grace(patch: pytest.MonkeyPatch) -> None:
    """What has ended is deleted without patience."""
    patch.setattr(suspects, "_patience_over", lambda _pod, _finding, since, _now, _policy: since)


def no_preconditions(patch: pytest.MonkeyPatch) -> None:
    """The DELETE names neither uid nor resourceVersion."""
    request = deletes._request
    patch.setattr(deletes, "_request", lambda pod: replace(request(pod), body={}))


def clear_forgiven(patch: pytest.MonkeyPatch) -> None:
    """Patience goes on although the task instance was cleared or tried again in between."""

    def signature(finding: Finding) -> tuple[Any, ...]:
        return finding.reason, None, None, None

    for module in (suspects, healing, casebook, reconciler):
        patch.setattr(module, "signature", signature)


def evidence_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The evidence is dated when the answer came, not when the question was sent."""
    patch.setattr(healing, "Proof", lambda finding, sent: Proof(finding, sent + 0.05))


def older_try_kills(patch: pytest.MonkeyPatch) -> None:
    """A Pod of an earlier try is superseded, whoever holds it."""
    older = tuple((r, (lambda case: case.held) if r is Reason.SUPERSEDED else m, f) for r, m, f in rules.RULES)
    patch.setattr(rules, "RULES", tuple(rule for rule in older if rule[0] is not Reason.REATTACHED))


def protection_ignored(patch: pytest.MonkeyPatch) -> None:
    """The mark to protect a Pod has no effect."""
    _without(patch, Reason.PROTECTED)


def not_confirmed(patch: pytest.MonkeyPatch) -> None:
    """Nobody is asked again before the DELETE."""

    def confirm(self: Any, pods: Sequence[Pod]) -> dict[str, tuple[Answer, Finding]]:
        records = ((pod.uid, self._book.get(pod.uid)) for pod in pods)
        now = self._tools.clock()
        return {uid: (replace(record.answer, sent=now), record.finding) for uid, record in records if record.answer}

    patch.setattr(reconciler.Reconciler, "_confirm", confirm)


def breaker_never_opens(patch: pytest.MonkeyPatch) -> None:
    """The breaker lets everything through."""
    patch.setattr(guard.Breaker, "allowance", lambda _self, _now: None)


PLANTS: Mapping[str, Plant] = {
    plant.__name__: plant
    for plant in (
        retry_counts_as_ended,
        no_grace,
        no_preconditions,
        clear_forgiven,
        evidence_from_the_answer,
        older_try_kills,
        protection_ignored,
        not_confirmed,
        breaker_never_opens,
    )
}
