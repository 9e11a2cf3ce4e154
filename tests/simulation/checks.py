"""What must hold: of each DELETE when it leaves and when it arrives, of the leadership, and in the end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from healer.cluster.transport import KubeRequest
from healer.decision.rules import DEFAULT_BASE
from healer.deletion.pod_deleter import Evidence
from healer.model import Pod, Reason
from tests.simulation.airflow import Task
from tests.simulation.verdict import ended_for_good, succeeded

if TYPE_CHECKING:
    from tests.simulation.cluster import Facts
    from tests.simulation.replica import Replica
    from tests.simulation.world import World

FRESHNESS = 15.0
"""Seconds that evidence may be old when a DELETE is sent: the promise, not what the healer was told."""

PAST_CHECK = 1
"""DELETEs that a leader which was stopped after its last check may still send."""


UNPROVEN = frozenset({Reason.ORPHANED, Reason.FINISHED})
"""Reasons that rest on ids alone where Airflow does not name the very Pod."""


class Left(NamedTuple):
    """A DELETE that left, and what its healer knew then.

    When its last check was passed, since when that healer decides, how often it looked at the Pod, Airflow's lag, the
    API server's latest time, and whether it had found another Airflow's Pod in that namespace.
    """

    proof: Evidence
    checked: float
    began: float
    looks: int
    lag: float
    server_time: float
    foreign: bool


class Violation(Exception):  # noqa: N818 - it is what the checks find, no error of the program
    """The healer did what it must never do, or did not do what it must."""


class Checks:
    """The checks on one healer's DELETEs. Times are the model's seconds."""

    def __init__(self, world: World, replica: Replica) -> None:
        self._world, self._replica = world, replica
        self._sends: deque[float] = deque()
        self._checked = -math.inf
        self._overtaken = 0
        self._left: dict[int, Left] = {}
        self.not_before = -math.inf
        """Until when the API server asked us to wait."""
        self._active = self._struck = 0
        self._tripped = False
        self._struck_while: list[float] = []

    def begin_pass(self, picture: Sequence[Pod]) -> None:
        """Count the Pods that work, and how many of these this healer has found to be orphans, before any deletion."""
        world = self._world
        there = [pod for pod in picture if not pod.terminating]
        active = [pod for pod in there if not ended_for_good(pod, self._task(pod))]
        # Until Airflow was asked about it, a Pod whose base container has another name works while its phase says so.
        counted = [pod for pod in there if pod in active or self._may_count(pod)]
        self._active, self._struck = len(counted), 0
        pending_deletion = sum(self._is_condemned(pod) for pod in active)
        wanted = world.wanted
        tripped = pending_deletion >= wanted.min_count and pending_deletion > wanted.max_share * len(counted)
        if tripped is not self._tripped:
            self._tripped, self._struck_while = tripped, []

    def _may_count(self, pod: Pod) -> bool:
        return self._task(pod).setup.base != DEFAULT_BASE and pod.phase not in {"Succeeded", "Failed"}

    def _is_condemned(self, pod: Pod) -> bool:
        there = self._world.server.pods.get(pod.uid)
        seen = there is not None and self._replica.note(pod.uid).looks > 0
        return seen and there == pod and self._world.verdict.expected(pod) is not None

    def _task(self, pod: Pod) -> Task:
        """Return its task instance of ours (of a forged Pod, which has none, any)."""
        return self._world.tasks[self._world.server.facts[pod.uid].task or 0]

    # --- the leadership -----------------------------------------------------------------------------------------------

    def checked(self, pod: Pod, proof: Evidence) -> None:
        """The last check before a DELETE is passed: this replica leads, and nobody else does."""
        self._checked = self._world.time
        self._overtaken = 0  # it leads again: what it sent late before belongs to a leadership that is over
        why = self._replica.why_not_leader()
        self.check(why is None, pod, f"the last check was passed although {why}")
        self._world.check_one_leader()
        self._world.hook("checked", [pod])

    def leaves(self, pod: Pod, proof: Evidence, request: KubeRequest) -> None:
        """The request leaves; after the check at most one may, however long its sender was stopped there."""
        waited = self._world.time - self._checked
        conditions = (request.body or {}).get("preconditions", {})
        wanted = {"uid": pod.uid, "resourceVersion": pod.resource_version}
        self.check(conditions == wanted, pod, f"its DELETE has the preconditions {conditions}")
        self.check(self._world.time - waited >= self.not_before, pod, "a DELETE before Retry-After is over")
        if self._replica.why_not_leader() is not None:
            self._overtaken += 1
            self._world.tally.counts["sent after the leadership was lost"] += 1
            self.check(self._overtaken <= PAST_CHECK, pod, f"{self._overtaken} DELETEs sent after the leadership ended")
        self._leaves(pod, proof, waited)
        self._world.hook("sent", [pod])

    def _leaves(self, pod: Pod, proof: Evidence, waited: float) -> None:
        """Check that this DELETE may be sent at all: once per confirmation, in enforce mode, within the rate."""
        world, wanted = self._world, self._world.wanted
        note, sent = self._replica.note(pod.uid), self._replica.to_model(proof.sent)
        self.check(wanted.enforce, pod, "a DELETE was sent in report mode")
        self.check(note.asked is not None, pod, "a DELETE was sent without a confirmation of its own")
        self.check(sent <= (note.asked or 0.0) + 1e-6, pod, "the evidence is dated later than the question")
        self.check(world.time - waited - (note.asked or 0.0) <= FRESHNESS, pod, "the evidence is too old")
        note.asked = None
        self._left[id(proof)] = Left(
            proof,
            world.time - waited,
            self._replica.began,
            note.looks,
            note.lag,
            world.server.latest,
            pod.namespace in self._replica.foreign,
        )
        world.say(f"[{pod.uid}] {pod.name}", f"gets a DELETE as {proof.finding.reason.value}{self._replica.signed}")
        self._sends.append(world.time)
        while self._sends[0] <= world.time - 60:
            self._sends.popleft()
        rate = wanted.per_minute
        lately = len(self._sends)
        self.check(rate is None or lately <= 2 * rate, pod, f"{lately} DELETEs in a minute, allowed are {rate}")

    # --- the effect ---------------------------------------------------------------------------------------------------

    def arrives(self, pod: Pod, there: Pod, proof: Evidence) -> None:
        """Judge a DELETE at the moment at which it takes effect."""
        world = self._world
        world.refresh()
        facts, sent = world.server.facts[there.uid], self._replica.to_model(proof.sent)
        self.check(there.uid == pod.uid, there, "another Pod of this name was deleted")
        why = world.verdict.never_of_pod(there)
        self.check(why is None, there, f"deleted although {why}")
        self.check(there.resource_version == pod.resource_version, there, "deleted although it changed since")
        why = world.verdict.never_of_airflow(there)
        left = self._left[id(proof)]
        lag = left.lag
        if why is not None:
            self._excuse(there, facts, sent, lag, why)
        elif self._is_shared(there, facts, left):
            world.tally.counts["namesake"] += 1
        elif facts.free_since >= sent - lag:  # in use for a moment, after Airflow was asked
            world.tally.windows += 1
        else:
            self._check_patience(there, facts, left)
            self._check_breaker(there, left)
            world.tally.counts[f"healed: {proof.finding.reason.value}"] += 1

    def _excuse(self, pod: Pod, facts: Facts, sent: float, lag: float, why: str) -> None:
        """Tell the documented window, and a replica's lag, from a wrong deletion."""
        since = facts.used_since or 0.0
        if since >= sent:
            self._world.tally.windows += 1
        elif since >= sent - lag:
            self._world.tally.lagged += 1
        else:
            self.check(False, pod, f"deleted although {why}, since {self._world.time - since:.1f} s")

    def _is_shared(self, pod: Pod, facts: Facts, left: Left) -> bool:
        """Whether another Airflow with the same ids uses it. Where one was seen, only what is proven ours may go."""
        reason = left.proof.finding.reason
        shared = facts.shared_since is not None
        proven = facts.proven_until >= self._replica.to_model(left.proof.sent) - left.lag
        if left.foreign and (shared or reason in UNPROVEN) and not proven:
            why = "a Pod of another Airflow was found in its namespace, and nothing says that this one is ours"
            self.check(False, pod, f"deleted as {reason.value} although {why}")
        return shared

    def _check_patience(self, pod: Pod, facts: Facts, left: Left) -> None:
        world, wanted, reason = self._world, self._world.wanted, left.proof.finding.reason
        absent = reason in {Reason.TASK_REMOVED, Reason.RUN_DELETED, Reason.PURGED}
        grace = wanted.absent_grace if absent else wanted.grace
        task = self._task(pod)
        revived = task.ident in task.revived
        since = max(facts.free_since, left.began)
        unnamed = reason in {Reason.RUN_DELETED, Reason.PURGED}
        if unnamed:  # a run that was there again for a while has no id to tell
            since = max(facts.vanished_first, left.began)
        elif task.idle and task.end is not None and world.time - since < grace:
            # Cleared and ended again while nobody looked: the row is what it was, as no try has begun that might have
            # taken the Pod over.
            since, revived = max(left.began, self._ended(task)), True
            world.tally.counts["cleared and ended again without a try"] += 1
        elif revived:  # a database was restored: the very case that was seen before may come again unseen
            since = left.began
            world.tally.counts["restored to the same row"] += 1
        free = world.time - since
        if grace - world.most_lag <= free < grace:  # the first look was at a replica that lagged
            world.tally.lagged += 1
            return
        self.check(free >= grace, pod, f"free for {free:.0f} s only, the grace is {grace:.0f} s")
        age = max(world.time - facts.born, left.server_time - (pod.created or math.inf))  # by either clock
        self.check(age >= wanted.min_age - 1, pod, f"only {age:.0f} s old")
        if not unnamed and not revived:
            self.check(left.looks > wanted.sightings, pod, f"only {left.looks} looks found it free")
        if reason in {Reason.FINISHED, Reason.KEPT, Reason.PURGED} and facts.done_at is not None:
            self._check_retention(pod, facts, left)

    def _ended(self, task: Task) -> float:
        """When it ended, by the model's clock."""
        return (task.end or 0.0) - self._world.airflow_time + self._world.time

    def _check_retention(self, pod: Pod, facts: Facts, left: Left) -> None:
        """By either clock: the API server's may have jumped, and jumped back while the DELETE was on its way."""
        world = self._world
        reason = left.proof.finding.reason
        what = (
            reason.value
            if reason in {Reason.KEPT, Reason.PURGED}
            else "succeeded"
            if succeeded(pod, self._task(pod))
            else "failed"
        )
        wanted = world.wanted.stay(what, pod.retention)
        ours, theirs = world.time - (facts.done_at or 0.0), left.server_time - facts.done_at_server
        self.check(max(ours, theirs) >= wanted - 1, pod, f"its retention ({what}) is not over")

    def _check_breaker(self, pod: Pod, left: Left) -> None:
        """By their last checks: from there on one may be on its way for as long as its sender is stopped.

        The healer counts it when it begins to act, after it has asked: no longer before the check than evidence lasts.
        """
        if ended_for_good(pod, self._task(pod)):
            return
        self._struck += 1
        wanted = self._world.wanted
        most = max(wanted.min_count, wanted.max_share * self._active)
        self.check(self._struck <= most, pod, f"{self._struck} of {self._active} active Pods deleted in one pass")
        if not self._tripped:
            return
        since = left.checked - wanted.cool_down + FRESHNESS
        self._struck_while = [at for at in self._struck_while if at > since] + [left.checked]
        lately = len(self._struck_while)
        why = f"{lately} active Pods deleted within {wanted.cool_down:.0f} s, though too many are pending deletion"
        self.check(lately <= wanted.min_count, pod, why)

    def check(self, good: bool, pod: Pod, why: str) -> None:
        """Raise a violation unless all is well."""
        if not good:
            raise Violation(f"[{pod.uid}] {pod.name}: {why}{self._replica.signed}")
