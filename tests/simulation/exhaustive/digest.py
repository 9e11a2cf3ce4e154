"""What makes two worlds the same: everything on which the future depends, and nothing else.

* Times count relative to now. What is past and only ever compared with now (the next pass, the end of a term) is zero.
* The id of a row and the resourceVersion of a Pod are only ever compared: they count as so many changes ago.
* What is only told (sentences, figures, what the last pass did) is left out, and when an answer was read that has been
  judged already: only the age of a confirmation matters, and that is part of the claim.

That equal digests behave alike is tested by sampling: their successors must have equal digests too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

from healer.cluster import Lease
from healer.decision.limits import RateLimiter
from healer.decision.quarantine import Suspect
from healer.decision.records import Record, RecordStore
from healer.deletion.executor import DeletionExecutor
from healer.informer import PodStore
from healer.model import Finding, Known, NamedPods, Pod, TaskInstance, Unknown
from healer.reconciler import Reconciler
from tests.simulation.exhaustive.model import Claim, LeaseRecord, Row, Side, Sight, Worker, World
from tests.simulation.exhaustive.replica import CONFIG, NAMES, Body, Brain, Mind, Moment

LONG = 3600.0
"""No walk lasts so long: what is due later than this is never due."""

FRESH = CONFIG.freshness + 1
GRACE = CONFIG.airflows[0].policy.grace
WAIT = CONFIG.leader_election.lease_duration
SIGHTINGS = CONFIG.airflows[0].policy.sightings

UNTOLD = {
    (Reconciler, "_result"),
    (Reconciler, "deleted"),
    (Reconciler, "_withheld"),
    (Reconciler, "_usage_meter"),
    (Reconciler, "_notice_tracker"),
    (RecordStore, "_unclear"),
    (RecordStore, "_not_queryable"),
    (RecordStore, "_active"),
    (RecordStore, "_uncounted"),
    (DeletionExecutor, "_tried"),
    (DeletionExecutor, "_waiting"),
    (RateLimiter, "_filled"),
    (PodStore, "_pods"),
}
"""Attributes that decide nothing here: what is told, when the next pass is due (any time will do), the fill of a
budget without limit, and what follows from the records."""

_encode = msgspec.msgpack.Encoder().encode


def digest(world: World, bodies: tuple[Body, Body]) -> bytes:
    """Return what makes this world the same as another."""
    present = Present(world)
    sides = [_side(index, world, bodies[index], present) for index in (0, 1)]
    return blake2b(_encode((_common(world, present), sides)), digest_size=12).digest()


class Present:
    """What everything is seen relative to."""

    def __init__(self, world: World) -> None:
        self.now = world.now
        self.ident = world.row.ident
        self.versions = world.versions
        self.lease = world.lease
        self.identity = ""
        self.of_brain = (world.now, world.row.ident, world.versions)
        self.of_mind = (world.now, world.lease)

    def age(self, time: float | None) -> float | None:
        """Return how long ago a time of either clock was."""
        if time is None:
            return None
        age = self.now - (time if time < 1e9 else time - 1_700_000_000.0)
        return -math.inf if age < -LONG else age


def _common(world: World, present: Present) -> Any:
    now = world.now
    gap = 0.0
    if len(world.pods) == 2:
        gap = min(GRACE, (world.pods[1].created or 0.0) - (world.pods[0].created or 0.0))
    before = () if world.before.row == world.row else (_row(world.before.row, present), sorted(world.before.used))
    return (
        _row(world.row, present),
        before,
        _worker(world.holder),
        [_worker(zombie) for zombie in world.zombies],
        world.tries,
        len(world.versions),
        [_pod(pod) for pod in world.pods],
        gap,
        [(uid, at - now) for uid, at in world.gone_at],
        world.airflow,
        _lease_kind(world),
    )


def _lease_kind(world: World) -> str:
    if world.lease is None:
        return "none"
    return "free" if not world.lease.holder else "held"


def _row(row: Row, present: Present) -> Any:
    return row.state, row.number, present.ident - row.ident, row.end is None, row.stored, row.xcom


def _worker(worker: Worker | None) -> Any:
    return (worker.number, worker.stage, worker.pod, worker.failing, worker.lost) if worker else None


def _pod(pod: Pod) -> Any:
    ends = [(each.terminated, each.exit_code) for each in pod.containers]
    return pod.uid, pod.labels.try_number, pod.phase, ends, pod.terminating, pod.protected, pod.checked


def _side(index: int, world: World, body: Body, present: Present) -> Any:
    side = world.sides[index]
    present.identity = f"{NAMES[index]}.{side.life}"
    holds = world.lease is not None and world.lease.holder == present.identity
    return (
        _memoed(side.brain, present.of_brain, lambda: of_brain(body, side.brain, present)),
        _memoed(side.mind, present.of_mind, lambda: of_mind(body, side.mind, present)),
        side.brain.term == side.mind.term,
        side.link,
        side.stopping,
        side.life,
        holds,
        [_claim(claim, present) for claim in world.claims if claim.side == index],
        [_claim(claim, present) for claim in world.late if claim.side == index],
        [_sight(sight, present) for sight in world.sights if sight.side == index],
    )


def _claim(claim: Claim, present: Present) -> Any:
    # How old a confirmation is matters until the last check only.
    age = 0.0 if claim.sent else min(FRESH, present.now - claim.asked)
    return claim.uid, age, claim.used, claim.touched, claim.stale, _sent(claim, present)


def _sent(claim: Claim, present: Present) -> Any:
    if claim.sent is None:
        return None
    name, uid, version = claim.sent
    return name, uid, version and present.versions[int(claim.uid[4:]) - 1] - int(version)


def _sight(sight: Sight, present: Present) -> Any:
    return sight.uid, min(GRACE, present.now - sight.since), sight.looks, sight.stale


def _memoed(known: Brain | Mind, key: Any, make: Callable[[], bytes]) -> bytes:
    memo: bytes | None = known.memo.get(key)
    if memo is None:
        memo = known.memo[key] = make()
    return memo


# --- what a replica knows ---------------------------------------------------------------------------------------------


def of_brain(body: Body, brain: Brain, present: Present) -> bytes:
    """Return the digest of what a deciding thread knows."""
    photo = body.brain_photo
    parts = [
        [_attribute(kind, name, value, present) for name, value in zip(names, values, strict=True)]
        for kind, names, values in zip(photo.kinds, photo.names, brain.photo, strict=True)
    ]
    tape = None if brain.tape is None else [canon(value, present) for value in brain.tape]
    return blake2b(_encode((parts, tape)), digest_size=16).digest()


def _attribute(kind: type, name: str, value: Any, present: Present) -> Any:
    if (kind, name) in UNTOLD:
        return None
    if name in {"_next_pass", "_next_audit"}:
        return min(0.0, present.age(value) or 0.0)
    return canon(value, present)


def of_mind(body: Body, mind: Mind, present: Present) -> bytes:
    """Return the digest of what an elector knows."""
    known = dict(zip(body.mind_photo.names[0], mind.photo[0], strict=True))
    parts = [_of_elector(name, value, present) for name, value in known.items()]
    tape = None if mind.tape is None else [canon(value, present) for value in mind.tape]
    return blake2b(_encode((parts, tape)), digest_size=16).digest()


def _of_elector(name: str, value: Any, present: Present) -> Any:
    match name:
        case "identity" | "term" | "_last_error":
            return None
        case "_until":
            return max(0.0, value - present.now)
        case "_since":
            return min(WAIT, present.now - value)
        case "_transitions" if value is not None and present.lease is not None:
            return present.lease.transitions - value
    return canon(value, present)


def canon(value: Any, present: Present) -> Any:
    """Return a value as it counts."""
    plain = _CANON.get(type(value))
    if plain is not None:
        return plain(value, present)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Struct):
        fields = [canon(getattr(value, name), present) for name in value.__struct_fields__]
        return [type(value).__name__, *fields]
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _same(value: Any, present: Present) -> Any:
    return value


def _float(value: float, present: Present) -> Any:
    return present.age(value) if 1000.0 < abs(value) < math.inf else value


def _text(value: str, present: Present) -> Any:
    return present.ident - int(value[3:]) if value.startswith("id-") else value


def _items(value: Any, present: Present) -> Any:
    return [canon(each, present) for each in value]


def _mapping(value: dict[Any, Any], present: Present) -> Any:
    return [(canon(name, present), _member(name, each, present)) for name, each in value.items()]


def _member(name: Any, value: Any, present: Present) -> Any:
    """In a mapping by uid, a set holds the versions of that Pod."""
    if isinstance(value, frozenset) and isinstance(name, str) and name.startswith("uid-"):
        return sorted(present.versions[int(name[4:]) - 1] - int(version) for version in value)
    return canon(value, present)


def _set(value: Any, present: Present) -> Any:
    return sorted((canon(each, present) for each in value), key=repr)


def _held_pod(pod: Pod, present: Present) -> Any:
    return *_pod(pod), present.versions[int(pod.uid[4:]) - 1] - int(pod.resource_version)


def _task(task: TaskInstance, present: Present) -> Any:
    return _text(task.id or "", present), task.state, task.try_number


def _suspect(suspect: Suspect, present: Present) -> Any:
    return (
        _held_pod(suspect.pod, present),
        canon(suspect.finding, present),
        suspect.action.value,
        present.age(suspect.since),
        present.age(suspect.due),
        min(SIGHTINGS, suspect.sightings),
        _float(suspect.next_look, present),
        suspect.requeues,
    )


def _record(record: Record, present: Present) -> Any:
    return (
        _held_pod(record.pod, present),
        canon(record.finding, present),
        canon(record.answer, present),
        canon(record.last_unclear, present),
        canon(record.attempts.reported, present),
        record.attempts.denied,
        record.attempts.needs_reread,
    )


def _lease(lease: Lease, present: Present) -> Any:
    there = present.lease
    assert there is not None
    age = there.version - int(lease.resource_version or 0)
    return age, there.transitions - lease.transitions, _holder(lease.holder, present)


def _lease_record(record: LeaseRecord, present: Present) -> Any:
    there = present.lease
    assert there is not None
    age = there.version - record.version
    return age, there.transitions - record.transitions, _holder(record.holder, present)


def _holder(name: str, present: Present) -> str:
    return "ours" if name == present.identity else "another's" if name else "free"


_CANON: dict[type, Callable[[Any, Present], Any]] = {
    bool: _same,
    int: _same,
    type(None): _same,
    float: _float,
    str: _text,
    list: _items,
    tuple: _items,
    dict: _mapping,
    set: _set,
    frozenset: _set,
    Pod: _held_pod,
    TaskInstance: _task,
    Suspect: _suspect,
    Record: _record,
    Finding: lambda finding, present: (finding.reason.value, canon(finding.task, present)),
    Known: lambda known, p: ("known", _task(known.task, p), canon(known.identity, p), _items(known.siblings, p)),
    Unknown: lambda _unknown, _present: "unknown",
    NamedPods: lambda identity, _present: (sorted(name for _, name in identity.named), identity.failed is None),
    Row: _row,
    Moment: lambda moment, present: (present.now - moment.now, moment.leads),
    Lease: _lease,
    LeaseRecord: _lease_record,
}

__all__ = ["Present", "Side", "canon", "digest", "of_brain", "of_mind"]
