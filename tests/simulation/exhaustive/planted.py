"""Bugs planted into the healer, and the walk that finds each of them: nothing else looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from healer import reconciler
from healer.cluster import Lease
from healer.decision import quarantine, records, rules
from healer.deletion import executor, pod_deleter
from healer.deletion.pod_deleter import Evidence
from healer.deletion.steps import Candidate, Confirmation, Confirmed
from healer.leader_election import LeaderElector
from healer.model import Finding, Pod, Reason
from healer.telemetry import snapshot

Plant = Callable[[pytest.MonkeyPatch], None]


class Planted(Struct, frozen=True):
    """A bug, and where it shows: the scene, the theme, within how many events, and in one of how many states it is
    looked at whether all orphans are healed in the end."""

    plant: Plant
    scene: str
    theme: str
    depth: int
    every: int = 50

    @property
    def name(self) -> str:
        """Its name."""
        return self.plant.__name__


def retry_counts_as_ended(patch: pytest.MonkeyPatch) -> None:
    """A task instance that waits for its next try is taken for ended."""
    patch.setattr(rules, "ENDED", rules.ENDED | {"up_for_retry"})
    patch.setattr(rules, "BETWEEN", rules.BETWEEN - {"up_for_retry"})


def older_try_kills(patch: pytest.MonkeyPatch) -> None:
    """A Pod of an earlier try is superseded, whoever holds it."""
    older = tuple((r, (lambda case: case.held) if r is Reason.SUPERSEDED else m, f) for r, m, f in rules.RULES)
    patch.setattr(rules, "RULES", tuple(rule for rule in older if rule[0] is not Reason.REATTACHED))


def clear_forgiven(patch: pytest.MonkeyPatch) -> None:
    """Patience goes on although the task instance was cleared in between."""

    def signature(finding: Finding) -> tuple[Any, ...]:
        return finding.reason, None, None, None

    for module in (quarantine, records, snapshot):
        patch.setattr(module, "signature", signature)


def not_confirmed(patch: pytest.MonkeyPatch) -> None:
    """Nobody is asked again before the DELETE."""

    def confirm(self: Any, batch: Sequence[Candidate]) -> Confirmation:
        known = ((each, self._records.get(each.pod.uid)) for each in batch)
        now = self._deps.clock()
        return Confirmation(
            tuple(
                Confirmed(each.suspect, each.pod, replace(record.answer, sent=now), record.finding)
                for each, record in known
                if record.answer
            )
        )

    patch.setattr(reconciler.Reconciler, "_confirm", confirm)


def no_version(patch: pytest.MonkeyPatch) -> None:
    """The DELETE does not name the resourceVersion."""
    request = pod_deleter._request

    def without(pod: Pod) -> Any:
        return replace(request(pod), body={"preconditions": {"uid": pod.uid}})

    patch.setattr(pod_deleter, "_request", without)


def evidence_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The evidence is dated when it is used, not when the question was sent."""
    act = executor.DeletionExecutor._delete

    def late(self: Any, case: Confirmed, run: Any) -> None:
        act(self, replace(case, answer=replace(case.answer, sent=self._clock())), run)

    patch.setattr(executor.DeletionExecutor, "_delete", late)


def right_asked_before_connecting_only(patch: pytest.MonkeyPatch) -> None:
    """Whether the replica leads is asked before it connects, and not again before it sends."""
    refusal = pod_deleter.PodDeleter._refusal
    asked: dict[int, Evidence] = {}

    def once(self: Any, pod: Pod, proof: Evidence, right: Any) -> str | None:
        if asked.get(id(self)) is proof:
            return refusal(self, pod, proof, lambda: True)
        asked[id(self)] = proof
        return refusal(self, pod, proof, right)

    patch.setattr(pod_deleter.PodDeleter, "_refusal", once)


def freshness_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The age of the evidence is not looked at."""
    refusal = pod_deleter.PodDeleter._refusal

    def lenient(self: Any, pod: Pod, proof: Evidence, right: Any) -> str | None:
        return refusal(self, pod, replace(proof, sent=self._clock()), right)

    patch.setattr(pod_deleter.PodDeleter, "_refusal", lenient)


def term_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The leadership counts from the answer to the renewal, not from its start."""
    write = LeaderElector._write

    def late(self: Any, lease: Lease | None) -> None:
        write(self, lease)
        self._until = self._clock() + self._config.renew_deadline

    patch.setattr(LeaderElector, "_write", late)


def taken_too_early(patch: pytest.MonkeyPatch) -> None:
    """Another replica's Lease is taken after renewDeadline instead of leaseDuration."""
    patch.setattr(LeaderElector, "_wait", lambda self: self._config.renew_deadline - 2)


def leads_until_told(patch: pytest.MonkeyPatch) -> None:
    """A replica that can't renew its Lease goes on leading until it sees another holder."""
    patch.setattr(LeaderElector, "is_leader", lambda self: self._until > 0)


def lost_renewal_counts(patch: pytest.MonkeyPatch) -> None:
    """A renewal whose answer was lost counts as a renewal."""
    failed = LeaderElector._failed

    def hopeful(self: Any, error: Any) -> None:
        failed(self, error)
        if self._until > self._clock():
            self._until = self._clock() + self._config.renew_deadline

    patch.setattr(LeaderElector, "_failed", hopeful)


def no_grace(patch: pytest.MonkeyPatch) -> None:
    """Patience is not asked for: a suspect is ripe at its second sighting, however soon."""
    patch.setattr(quarantine, "_patience_over", lambda _pod, _finding, since, _now, _policy: since)


def patience_starts_over(patch: pytest.MonkeyPatch) -> None:
    """Each look at a suspect starts its patience anew, so that it never falls due."""
    patch.setattr(quarantine, "due_at", lambda _pod, _finding, _since, now, policy: now.ours + policy.grace)


def never_taken_over(patch: pytest.MonkeyPatch) -> None:
    """The Lease of a replica that is gone is never taken over."""
    patch.setattr(LeaderElector, "_wait", lambda _self: 1e9)


PLANTED: Mapping[str, Planted] = {
    planted.name: planted
    for planted in (
        Planted(retry_counts_as_ended, "waiting", "tries", 1),
        Planted(older_try_kills, "adopted", "tries", 2),
        Planted(clear_forgiven, "orphan", "tries", 3),
        Planted(not_confirmed, "orphan", "tries", 1),
        Planted(no_version, "orphan", "everything", 3),
        Planted(evidence_from_the_answer, "orphan", "leadership", 5),
        Planted(right_asked_before_connecting_only, "orphan", "leadership", 4),
        Planted(freshness_forgotten, "orphan", "leadership", 5),
        Planted(term_from_the_answer, "working", "elections", 6),
        Planted(taken_too_early, "working", "elections", 2),
        Planted(leads_until_told, "working", "elections", 3),
        Planted(lost_renewal_counts, "working", "elections", 3),
        Planted(no_grace, "orphan", "tries", 4),
        Planted(patience_starts_over, "orphan", "tries", 1, every=1),
        Planted(never_taken_over, "orphan", "leadership", 2, every=5),
    )
}


@contextmanager
def planted(name: str) -> Iterator[Planted]:
    """Plant a bug for a while."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name].plant(patch)
        yield PLANTED[name]
