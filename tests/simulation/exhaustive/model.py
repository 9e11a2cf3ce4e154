"""One task instance, its Pods, the Lease and the two replicas as one immutable value: every event makes a new one.

It is written from the facts and not shared with the random walk, so that no error in reading them hides in both.
Times are seconds of one monotonic clock; the API server and Airflow show `EPOCH` more.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from healer.decision.labels import safe_label
from healer.decision.rules import DEFAULT_BASE, ENDED, is_done
from healer.model import Container, Labels, Pod, TaskInstance

EPOCH = 1_700_000_000.0
START = 5000.0
GRACE = 30.0
MOST_PODS = 2
MOST_TRIES = 3
NAMESPACE = "airflow"
RUN_ID = "scheduled__2026-01-01T00:00:00+00:00"
DYING = 10.0
"""Seconds for which a deleted Pod goes on terminating."""

HELD = frozenset({"running", "deferred"})
BETWEEN = frozenset({None, "up_for_retry", "restarting"})
WAITING = frozenset({"scheduled", "queued"})

Stage = Literal["search", "made", "watching", "deferred", "resuming", "ending"]
OnFinish = Literal["delete_pod", "delete_succeeded_pod", "keep_pod"]


class Setup(Struct, frozen=True):
    """What the author of the DAG chose. `reattach`: the next try takes over the Pod of the last one."""

    reattach: bool = True
    store: bool = True
    xcom: bool = True
    deferrable: bool = False
    on_finish: OnFinish = "delete_pod"
    retries: int = 1


class Worker(Struct, frozen=True):
    """A try in progress: a worker process, or a trigger and what will be resumed from it. `pod` is a uid."""

    number: int
    stage: Stage = "search"
    pod: str | None = None
    failing: bool = False
    lost: bool = False


class Row(Struct, frozen=True):
    """What Airflow's database says of the task instance, and which Pods it names."""

    state: str | None = None
    number: int = 0
    ident: int = 1
    end: float | None = None
    stored: str | None = None
    xcom: str | None = None

    def task_instance(self) -> TaskInstance:
        """Return it as Airflow's answer."""
        return TaskInstance(
            "etl",
            RUN_ID,
            "load",
            -1,
            f"id-{self.ident}",
            self.state,
            self.number,
            "KubernetesPodOperator",
            None,
            self.end,
            DEFAULT_BASE,
            NAMESPACE,
        )


class Before(Struct, frozen=True):
    """The row before its last change, and the Pods that were in use until then: what a lagging replica answers."""

    row: Row
    used: frozenset[str]


class Claim(Struct, frozen=True):
    """A confirmation under way, and the DELETE that follows from it: whose, of which Pod, and asked when.

    `used`: the Pod was in use all the time since. `touched`: it was at some time. `stale`: a lagging replica answered.
    `sent`: the DELETE as it passed the last check: of which name, under which uid and resourceVersion.
    """

    side: int
    uid: str
    asked: float
    used: bool
    touched: bool
    stale: bool = False
    sent: tuple[str, str | None, str | None] | None = None


class Sight(Struct, frozen=True):
    """What one replica, in one term, has seen of a Pod that nobody uses: since when, and how often."""

    side: int
    uid: str
    since: float
    looks: int
    stale: bool = False


class LeaseRecord(Struct, frozen=True):
    """The Lease on the API server; `None` in the world while there is none."""

    holder: str
    duration: float
    transitions: int
    version: int


class Side(Struct, frozen=True):
    """A replica: what its deciding thread and its elector know, and how it is connected.

    `brain` and `mind` are kept by `replica.py`. `link`: cut (nothing arrives), deaf (no answer comes back), late
    (a DELETE arrives when its sender has given up). `life` counts its starts.
    """

    brain: Any
    mind: Any
    link: str = ""
    stopping: bool = False
    life: int = 1


class World(Struct, frozen=True):
    """Everything. `pods` are those that exist; `versions` the last resourceVersion given to each uid that ever was;
    `late` the DELETEs that are still on their way although nobody waits for an answer any more."""

    setup: Setup
    now: float
    row: Row
    before: Before
    holder: Worker | None
    zombies: tuple[Worker, ...]
    tries: int
    pods: tuple[Pod, ...]
    gone_at: tuple[tuple[str, float], ...]
    versions: tuple[int, ...]
    airflow: str
    lease: LeaseRecord | None
    sides: tuple[Side, Side]
    claims: tuple[Claim, ...] = ()
    late: tuple[Claim, ...] = ()
    sights: tuple[Sight, ...] = ()

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def server_time(self) -> float:
        """What the API server's clock shows."""
        return EPOCH + self.now

    def pod(self, uid: str | None) -> Pod | None:
        """Return the Pod of this uid, if it is there."""
        return next((pod for pod in self.pods if pod.uid == uid), None)

    def named(self, name: str | None) -> Pod | None:
        """Return the Pod of this name, if it is there."""
        return next((pod for pod in self.pods if pod.name == name), None)

    def candidates(self) -> tuple[str, ...]:
        """Return the uids that KPO's next search would find: the Pod that the state store names, else all unchecked.

        Neither looks at deletionTimestamp or phase.
        """
        if not self.setup.reattach:
            return ()
        stored = self.named(self.row.stored) if self.setup.store else None
        if stored is not None and not stored.checked:
            return (stored.uid,)
        return tuple(pod.uid for pod in self.pods if not pod.checked)

    # --- changing ---------------------------------------------------------------------------------------------------

    def with_row(self, **fields: Any) -> World:
        """Write to Airflow's database."""
        row = replace(self.row, **fields)
        if row == self.row:
            return self
        return replace(self, row=row, before=Before(self.row, used_pods(self)))

    def moved(self, state: str | None, *, anew: bool = False) -> World:
        """Bring the task instance to a state. `anew`: its row gets another id, as at each retry and clear."""
        ended = state in ENDED - {"skipped"} or state == "up_for_retry"
        end = self.server_time if ended else None if state not in ENDED else self.row.end
        return self.with_row(state=state, end=end, ident=self.row.ident + anew)

    def with_pod(self, uid: str, **fields: Any) -> World:
        """Write to a Pod: its resourceVersion changes too."""
        number = int(uid[4:]) - 1
        versions = tuple(each + (index == number) for index, each in enumerate(self.versions))
        fields["resource_version"] = str(versions[number])
        pods = tuple(replace(pod, **fields) if pod.uid == uid else pod for pod in self.pods)
        return replace(self, pods=pods, versions=versions)

    def created(self, try_number: int) -> World:
        """Create a Pod of this try."""
        number = len(self.versions) + 1
        labels = Labels("etl", "load", safe_label(RUN_ID), None, str(try_number))
        base = (Container(DEFAULT_BASE),)
        made = self.server_time
        pod = Pod(NAMESPACE, f"pod-{number}", f"uid-{number}", "1", made, "Pending", labels, base)
        return replace(self, pods=(*self.pods, pod), versions=(*self.versions, 1))

    def deleted(self, uid: str) -> World:
        """Accept a DELETE: the Pod terminates, and is gone after its grace period."""
        pod = self.pod(uid)
        if pod is None or pod.terminating:
            return self
        gone_at = (*self.gone_at, (uid, self.now + DYING))
        return replace(self.with_pod(uid, terminating=True), gone_at=gone_at)

    def with_side(self, index: int, **fields: Any) -> World:
        """Change a replica."""
        side = replace(self.sides[index], **fields)
        return replace(self, sides=(side, self.sides[1]) if index == 0 else (self.sides[0], side))

    def settled(self) -> World:
        """Note which Pods nobody uses any more, and forget what was seen of those that are in use again."""
        if not self.claims and not self.late and not self.sights:
            return self
        used = used_pods(self)
        return replace(
            self,
            claims=tuple(_noted(claim, used) for claim in self.claims),
            late=tuple(_noted(claim, used) for claim in self.late),
            sights=tuple(sight for sight in self.sights if sight.uid not in used),
        )


def _noted(claim: Claim, used: frozenset[str]) -> Claim:
    now = claim.uid in used
    return replace(claim, used=claim.used and now, touched=claim.touched or now)


# --- the truth --------------------------------------------------------------------------------------------------------


def is_over(pod: Pod) -> bool:
    """Whether the Pod's work has ended."""
    return is_done(pod, DEFAULT_BASE)


def used_pods(world: World) -> frozenset[str]:
    """Return the uids of the Pods that Airflow uses or may still use."""
    return frozenset(pod.uid for pod in world.pods if why_used(world, pod) is not None)


def why_used(world: World, pod: Pod) -> str | None:
    """Return why a Pod must not be deleted as far as Airflow goes; None if nobody needs it (facts: D2-D16)."""
    row = world.row
    label = int(pod.labels.try_number or 0)
    if label > row.number:
        return "Airflow has not come to its try"
    if row.state in ENDED:
        return _maybe_a_copy(row, pod, label)
    if row.state in HELD | WAITING and label == row.number:
        return f"its task instance is {row.state} at this try"
    holder = world.holder
    if holder is not None and holder.pod == pod.uid and (not pod.checked or holder.stage != "ending"):
        return "a later try has adopted it"
    if pod.checked:
        return None
    if row.state not in HELD and holder is None:  # with a holder it is a hand-over: no search, so no adoption
        return f"its task instance is {row.state or 'cleared'}: the next try may adopt it"
    if holder is not None and holder.stage == "search" and not holder.lost and world.setup.reattach:
        return "the try in progress may adopt it"
    return "the next try would adopt it" if world.candidates() == (pod.uid,) else None


def _maybe_a_copy(row: Row, pod: Pod, label: int) -> str | None:
    """An ended task instance's Pod while Airflow names another one: it may be another Airflow's (D13).

    Of an earlier try only one that works is in doubt, as the later try's name says nothing of what was done before.
    """
    names = {name for name in (row.stored, row.xcom) if name is not None}
    through = is_over(pod) and (pod.checked or label < row.number)
    doubtful = label <= row.number and not through and names and pod.name not in names
    return "Airflow names another Pod: this one may be a copy" if doubtful else None


def must_go(world: World, pod: Pod) -> str | None:
    """Return why this Pod must be gone in the end, None if it may stay."""
    if pod.terminating or pod.protected or why_used(world, pod) is not None:
        return None
    row, label = world.row, int(pod.labels.try_number or 0)
    if pod.checked:
        named = pod.name in {row.stored, row.xcom}
        return "kept" if is_over(pod) and not (named and row.state in HELD) else None
    if row.state in ENDED:
        return "finished" if is_over(pod) else "orphaned"
    if row.state in HELD and label < row.number and pod.name not in {row.stored, row.xcom}:
        living = any(_replaces(world, world.named(name), pod) for name in (row.stored, row.xcom))
        return "superseded" if living else None
    return None


def _replaces(world: World, other: Pod | None, pod: Pod) -> bool:
    if other is None or other.terminating or other.checked:
        return False
    tries = int(pod.labels.try_number or 0) < int(other.labels.try_number or 0) <= world.row.number
    return tries and (other.created or 0.0) - (pod.created or 0.0) >= GRACE
