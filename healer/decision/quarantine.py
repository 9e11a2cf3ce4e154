"""Quarantine: no Pod is acted on at first sight. Pure functions over what is known of a suspect.

A Pod whose reason acts becomes a suspect. It is due when its patience is over and it was seen `sightings` times as the
very same case: same Pod uid, reason, task instance id, try, state and end. Any change starts the patience over. An
answer that knows nothing is no sighting and no change; the suspect then waits until it is seen again.

Grace and sightings run on our monotonic clock; retention and Pod age compare what Kubernetes wrote with the API
server's clock. Our wall clock is never asked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from healer.config import Policy
from healer.decision.rules import base_name, base_of, is_done
from healer.model import UNREADABLE, Action, Finding, Pod, Reason, RuleGroup

RETAINED = frozenset({Reason.FINISHED, Reason.KEPT, Reason.PURGED})
"""Reasons whose patience counts from the end of the Pod's work."""

ABSENT = frozenset({Reason.TASK_REMOVED, Reason.RUN_DELETED, Reason.PURGED})
"""Reasons that rest on something missing and so get the longest grace."""

CLOCK_SKEW = 3600.0
"""How far ahead of the API server (seconds) a node's or Airflow's clock may be; what is later is no date of an end.

To believe a clock that is ahead only delays a deletion by as much.
"""

CLOCK_STEP = 1.0
"""The API server tells its time in whole seconds: a due time computed anew may differ by as much."""

_STALE = -math.inf
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


class ContainerResult(Struct, frozen=True):
    """How the base container ended, and when (epoch seconds, None where its status does not say)."""

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
    requeues: int = 0

    @property
    def signature(self) -> Signature:
        """What must stay the same from sighting to sighting."""
        return signature(self.finding)

    @property
    def active(self) -> bool:
        """Whether the Pod still works."""
        return not is_done(self.pod, base_name(self.finding.task))

    @property
    def stale(self) -> bool:
        """Whether it must be seen clearly again before anything follows."""
        return self.next_look == _STALE


def signature(finding: Finding) -> Signature:
    """What makes two findings the same case. The id changes at each retry and clear.

    Out of a backup comes an id of the past, and the task instance may end in the same state once more, at another time.
    """
    task = finding.task
    if task is None:
        return finding.reason, None, None, None, None
    return finding.reason, task.id, task.try_number, task.state, task.end_date


def container_result(pod: Pod, base: str) -> ContainerResult:
    """Return how the Pod's work ended: by its exit code, else by the phase; no status (an eviction) is a failure."""
    container = base_of(pod, base)
    if container is not None and container.terminated:
        succeeded = container.exit_code == 0 if container.exit_code is not None else pod.phase == "Succeeded"
        return ContainerResult(succeeded, container.finished_at)
    return ContainerResult(pod.phase == "Succeeded", None)


def due_at(pod: Pod, finding: Finding, since: float, now: Now, policy: Policy) -> float:
    """Return when the patience with a Pod is over, in monotonic seconds; infinite while its age is not known."""
    if pod.created is None:
        return math.inf
    return max(now.to_ours(pod.created + policy.min_age), _patience_over(pod, finding, since, now, policy))


def end_of_work(pod: Pod, finding: Finding, now: Now) -> float | None:
    """Return when a done Pod's work was over (epoch seconds), None where nothing says so.

    The base container says it best. An evicted Pod has no status of it, but conditions; else its task instance ended
    about then. A date before the Pod was made or after now is none: kubelets write 1970 for what they don't know. Where
    one is ahead of now the task instance's end does not stand in for it: the work may have ended long after that.
    """
    task = finding.task
    ends = container_result(pod, base_name(task)).ended, pod.ended
    own = next((end for end in ends if end is not None and _is_possible(end, pod, now)), None)
    if own is not None or task is None or task.end_date is None or any(_is_ahead(end, now) for end in ends):
        return own
    return task.end_date if _is_possible(task.end_date, pod, now) else None


def _is_possible(end: float, pod: Pod, now: Now) -> bool:
    return (pod.created is None or pod.created <= end) and not _is_ahead(end, now)


def _is_ahead(end: float | None, now: Now) -> bool:
    return end is not None and now.server is not None and end > now.server + CLOCK_SKEW


def _patience_over(pod: Pod, finding: Finding, since: float, now: Now, policy: Policy) -> float:
    grace = since + (policy.absent_grace if finding.reason in ABSENT else policy.grace)
    if finding.reason not in RETAINED:
        return grace
    retention = _retention(pod, finding, policy)
    ended = end_of_work(pod, finding, now)
    return max(grace, since + retention if ended is None else now.to_ours(ended + retention))


def _retention(pod: Pod, finding: Finding, policy: Policy) -> float:
    """Return how long a done Pod stays: as the policy says, or longer by its annotation, up to the policy's bound."""
    own = _retention_by_policy(pod, finding, policy)
    return own if pod.retention is None else max(own, retention_asked(pod.retention, policy))


def retention_asked(wish: float, policy: Policy) -> float:
    """Return for how long a Pod may stay by its annotation, in seconds: what is no duration asks for all there is."""
    longest = policy.retention.longest
    return longest if wish == UNREADABLE else min(wish, longest)


def is_kept_longer(pod: Pod, finding: Finding, policy: Policy) -> bool:
    """Return whether a Pod's own annotation lets it stay longer than the policy would."""
    if pod.retention is None or finding.reason not in RETAINED:
        return False
    return retention_asked(pod.retention, policy) > _retention_by_policy(pod, finding, policy)


def _retention_by_policy(pod: Pod, finding: Finding, policy: Policy) -> float:
    if finding.reason is Reason.PURGED:
        return policy.retention.purged
    if finding.reason is Reason.KEPT:
        return policy.retention.kept
    succeeded = container_result(pod, base_name(finding.task)).succeeded
    return policy.retention.succeeded if succeeded else policy.retention.failed


def observe(known: Suspect | None, pod: Pod, finding: Finding, now: Now, policy: Policy) -> Suspect | None:
    """Return what a fresh look makes of a Pod: a sighting of the same case, a new case, or no suspect (any more)."""
    if finding.reason is Reason.AIRFLOW_UNKNOWN:
        return replace(known, next_look=_STALE) if known is not None else None
    action = policy.actions.get(finding.reason, Action.KEEP)
    if action is Action.KEEP:
        return None
    same = known is not None and known.signature == signature(finding)
    since = known.since if known and same else now.ours
    sightings = known.sightings + 1 if known and same else 1
    requeues = known.requeues if known and same else 0
    due = due_at(pod, finding, since, now, policy)
    look = _next_look(since, due, sightings, now, policy)
    return Suspect(pod, finding, action, since, due, sightings, look, requeues)


def update_pod(known: Suspect, pod: Pod, finding: Finding, now: Now, policy: Policy) -> Suspect | None:
    """Return what becomes of a suspect whose Pod changed; no sighting.

    The same case has a new due time. What the Pod alone decides (a mark to protect it) ends the suspicion. Any other
    case must be seen first, and nothing is done meanwhile.
    """
    if known.signature == signature(finding):
        due = due_at(pod, finding, known.since, now, policy)
        look = _STALE if known.stale else _next_look(known.since, due, known.sightings, now, policy)
        return replace(known, pod=pod, finding=finding, due=due, next_look=look)
    if finding.reason.block is RuleGroup.NOT_OURS:
        return None
    return replace(known, pod=pod, next_look=_STALE)


def requeued(known: Suspect) -> Suspect:
    """Return a suspect that could not be confirmed: the next passes try it after all others."""
    return replace(known, requeues=known.requeues + 1)


def is_due(suspect: Suspect, now: Now, policy: Policy) -> bool:
    """Whether its patience is over and it was seen often enough, the last time with a clear answer."""
    seen = suspect.sightings >= policy.sightings and suspect.next_look == math.inf
    return seen and suspect.due <= now.ours


def due(suspects: Iterable[Suspect], now: Now, policy: Policy) -> list[Suspect]:
    """Return who may be acted on: those never requeued first, then the longest due, then the oldest Pod."""
    due = [suspect for suspect in suspects if is_due(suspect, now, policy)]
    return sorted(due, key=lambda s: (s.requeues, s.due, s.pod.created or 0.0))


def awaiting_sighting(suspects: Iterable[Suspect], now: Now, *, stale: bool) -> list[Suspect]:
    """Return whose next sighting is due, with or without those that could not be seen clearly.

    The latter wait for a regular pass: an Airflow that is down must not be asked at each suspect's due time.
    """
    return [s for s in suspects if s.next_look <= now.ours and (stale or not s.stale)]


def next_event(suspects: Iterable[Suspect], now: Now) -> float:
    """When the next suspect wants a look or falls due, in monotonic seconds; infinite if none does.

    Suspects with a stale answer wait for the next full pass; due ones wait for the breaker or rate limiter.
    """
    clear = [suspect for suspect in suspects if not suspect.stale]
    looks = (suspect.next_look for suspect in clear)
    dues = (suspect.due for suspect in clear if suspect.due > now.ours)
    return min((*looks, *dues), default=math.inf)


def counts(suspects: Iterable[Suspect]) -> Mapping[tuple[Reason, Action], int]:
    """How many suspects there are of each reason and action."""
    return Counter((suspect.finding.reason, suspect.action) for suspect in suspects)


def _next_look(since: float, due: float, sightings: int, now: Now, policy: Policy) -> float:
    """Spread the sightings still missing over the patience, all of them before its end.

    At its end comes the confirmation, which is a look too: one that fell on the same moment would only hold it up.
    """
    wanted = policy.sightings
    if sightings >= wanted:
        return math.inf
    if math.isinf(due):
        return now.ours + policy.grace
    return max(now.ours, since + (due - since) * sightings / wanted)
