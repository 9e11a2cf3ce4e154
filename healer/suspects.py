"""Quarantine: nobody is acted on at first sight.

A Pod whose reason acts becomes a suspect. It is due when its patience is over and it was seen `sightings` times as the
very same case: same Pod uid, reason, task instance id, try, state and end. Any change starts the patience over. An
answer that knows nothing is no sighting and no change; the suspect then waits until it is seen again.

Grace and sightings run on our monotonic clock; retention and Pod age compare what Kubernetes wrote with the API
server's clock. Our wall clock is never asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from healer.config import Policy
from healer.model import Action, Block, Finding, Pod, Reason
from healer.rules import base_name, base_of, is_done

RETAINED = frozenset({Reason.FINISHED, Reason.KEPT})
"""Reasons whose patience counts from the end of the base container."""

ABSENT = frozenset({Reason.TASK_REMOVED, Reason.RUN_DELETED})
"""Reasons that rest on something missing and so get the longest grace."""

_BLURRED = -math.inf
"""`next_look` of a suspect whose last answer knew nothing, or whose Pod became another case since."""

Signature = tuple[Reason, str | None, int | None, object, float | None]


class Now(Struct, frozen=True):
    """One moment on both clocks: ours (monotonic seconds) and the API server's (epoch seconds, None before its first
    answer)."""

    ours: float
    server: float | None

    def to_ours(self, server_time: float) -> float:
        """When the API server's clock shows this time, on our clock. Never, while its clock is not known."""
        return math.inf if self.server is None else self.ours + server_time - self.server

    def to_server(self, ours: float) -> float | None:
        """What the API server's clock shows at this moment of ours."""
        return None if self.server is None or math.isinf(ours) else self.server + ours - self.ours


class Outcome(Struct, frozen=True):
    """How the base container ended, and when (epoch seconds, None where Kubernetes does not say)."""

    succeeded: bool
    ended: float | None


class Suspect(Struct, frozen=True):
    """A Pod in quarantine. `since`, `due`, `next_look` are monotonic seconds."""

    pod: Pod
    finding: Finding
    action: Action
    since: float
    due: float
    sightings: int = 1
    next_look: float = math.inf
    refuted: int = 0

    @property
    def signature(self) -> Signature:
        """What must stay the same from sighting to sighting."""
        return signature(self.finding)

    @property
    def active(self) -> bool:
        """Whether the Pod still works."""
        return not is_done(self.pod, base_name(self.finding.task))

    @property
    def blurred(self) -> bool:
        """Whether it must be seen clearly again before anything follows."""
        return self.next_look == _BLURRED


def signature(finding: Finding) -> Signature:
    """What makes two findings the same case. The id changes at each retry and clear.

    Out of a backup comes an id of the past, and the task instance may end in the same state once more, at another time.
    """
    task = finding.task
    if task is None:
        return finding.reason, None, None, None, None
    return finding.reason, task.id, task.try_number, task.state, task.end_date


def outcome(pod: Pod, base: str) -> Outcome:
    """Return how the Pod's work ended: by its exit code, else by the phase; no status (an eviction) is a failure."""
    container = base_of(pod, base)
    if container is not None and container.terminated:
        succeeded = container.exit_code == 0 if container.exit_code is not None else pod.phase == "Succeeded"
        return Outcome(succeeded, container.finished_at)
    return Outcome(pod.phase == "Succeeded", None)


def due_at(pod: Pod, finding: Finding, since: float, now: Now, policy: Policy) -> float:
    """Return when the patience with a Pod is over, in monotonic seconds; infinite while its age can't be told."""
    if pod.created is None:
        return math.inf
    return max(now.to_ours(pod.created + policy.min_age), _patience_over(pod, finding, since, now, policy))


def _patience_over(pod: Pod, finding: Finding, since: float, now: Now, policy: Policy) -> float:
    if finding.reason in ABSENT:
        return since + policy.absent_grace
    if finding.reason not in RETAINED:
        return since + policy.grace
    ending = outcome(pod, base_name(finding.task))
    retention = _retention(finding.reason, ending, policy)
    over = since + retention if ending.ended is None else now.to_ours(ending.ended + retention)
    return max(over, since + policy.grace)


def _retention(reason: Reason, ending: Outcome, policy: Policy) -> float:
    if reason is Reason.KEPT:
        return policy.retention.kept
    return policy.retention.succeeded if ending.succeeded else policy.retention.failed


class Quarantine:
    """The suspects of one Airflow, by Pod uid."""

    def __init__(self, policy: Policy) -> None:
        """Start empty: after a restart all patience starts over, which is safe and only later."""
        self._policy = policy
        self._suspects: dict[str, Suspect] = {}

    def __contains__(self, uid: object) -> bool:
        """Whether the Pod is a suspect."""
        return uid in self._suspects

    def __iter__(self) -> Iterator[Suspect]:
        """All suspects."""
        return iter(list(self._suspects.values()))

    def get(self, uid: str) -> Suspect | None:
        """Return the suspect of this uid."""
        return self._suspects.get(uid)

    def observe(self, pod: Pod, finding: Finding, now: Now) -> None:
        """Take one fresh look into account: a sighting of the same case, a new case, or an acquittal."""
        known = self._suspects.get(pod.uid)
        if finding.reason is Reason.AIRFLOW_UNKNOWN:
            self._not_seen(known)
            return
        action = self._policy.actions.get(finding.reason, Action.KEEP)
        if action is Action.KEEP:
            self._suspects.pop(pod.uid, None)
            return
        same = known is not None and known.signature == signature(finding)
        since = known.since if known and same else now.ours
        sightings = known.sightings + 1 if known and same else 1
        refuted = known.refuted if known and same else 0
        due = due_at(pod, finding, since, now, self._policy)
        look = self._next_look(since, due, sightings, now)
        self._suspects[pod.uid] = Suspect(pod, finding, action, since, due, sightings, look, refuted)

    def follow(self, pod: Pod, finding: Finding, now: Now) -> None:
        """Take over a Pod that changed, and what follows from it; no sighting.

        The same case has a new due time. What the Pod alone decides (a mark to protect it) is an acquittal. Any other
        case must be seen first, and nothing is done meanwhile.
        """
        known = self._suspects.get(pod.uid)
        if known is None:
            return
        if known.signature == signature(finding):
            due = due_at(pod, finding, known.since, now, self._policy)
            look = _BLURRED if known.blurred else self._next_look(known.since, due, known.sightings, now)
            self._suspects[pod.uid] = replace(known, pod=pod, finding=finding, due=due, next_look=look)
        elif finding.reason.block is Block.NOT_OURS:
            self.drop(pod.uid)
        else:
            self._suspects[pod.uid] = replace(known, pod=pod, next_look=_BLURRED)

    def refute(self, uid: str) -> None:
        """Send a suspect that could not be confirmed to the back of the queue."""
        known = self._suspects.get(uid)
        if known is not None:
            self._suspects[uid] = replace(known, refuted=known.refuted + 1)

    def drop(self, uid: str) -> None:
        """Forget a Pod that is gone."""
        self._suspects.pop(uid, None)

    def to_look_at(self, now: Now, *, blurred: bool) -> list[Suspect]:
        """Suspects whose next sighting is due, with or without those that could not be seen clearly.

        The latter wait for a regular pass: an Airflow that is down must not be asked at each suspect's due time.
        """
        return [s for s in self._suspects.values() if s.next_look <= now.ours and (blurred or not s.blurred)]

    def ripe(self, now: Now) -> list[Suspect]:
        """Suspects that may be acted on: those never refuted first, then the longest due, then the oldest Pod."""
        ripe = [suspect for suspect in self._suspects.values() if self.is_ripe(suspect, now)]
        return sorted(ripe, key=lambda s: (s.refuted, s.due, s.pod.created or 0.0))

    def is_ripe(self, suspect: Suspect, now: Now) -> bool:
        """Whether its patience is over and it was seen often enough, the last time with a clear answer."""
        seen = suspect.sightings >= self._policy.sightings and suspect.next_look == math.inf
        return seen and suspect.due <= now.ours

    def next_event(self, now: Now) -> float:
        """When the next suspect wants a look or falls due, in monotonic seconds; infinite if none does.

        Who could not be seen clearly waits for the next regular pass, and who is due already for the guard.
        """
        clear = [suspect for suspect in self._suspects.values() if not suspect.blurred]
        looks = (suspect.next_look for suspect in clear)
        dues = (suspect.due for suspect in clear if suspect.due > now.ours)
        return min((*looks, *dues), default=math.inf)

    def counts(self) -> Mapping[tuple[Reason, Action], int]:
        """How many suspects there are of each reason and action."""
        counts: dict[tuple[Reason, Action], int] = {}
        for suspect in self._suspects.values():
            key = suspect.finding.reason, suspect.action
            counts[key] = counts.get(key, 0) + 1
        return counts

    def _not_seen(self, known: Suspect | None) -> None:
        if known is not None:
            self._suspects[known.pod.uid] = replace(known, next_look=_BLURRED)

    def _next_look(self, since: float, due: float, sightings: int, now: Now) -> float:
        """Spread the sightings still missing over the patience, all of them before its end.

        At its end comes the confirmation, which is a look too: one that fell on the same moment would only hold it up.
        """
        wanted = self._policy.sightings
        if sightings >= wanted:
            return math.inf
        if math.isinf(due):
            return now.ours + self._policy.grace
        return max(now.ours, since + (due - since) * sightings / wanted)
