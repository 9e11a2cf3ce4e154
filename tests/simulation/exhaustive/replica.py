"""A replica: the healer's real reconciler, deleter and elector, run step by step on a world that is a value.

A pass is run from a photo of everything that the replica knows. Whatever it asks goes through a tape. What was asked
before is answered from the tape, what is new by the world, which may change by it. Before each request that others can
overtake there is a pause: the world as it is then, with the photo and the tape so far, is a state of its own. To go on
from there later, the same pass is run again on the same tape. It is deterministic, so it gets to the same point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from healer.cluster import Lease, Listing
from healer.cluster.transport import KubeReply, KubeRequest
from healer.config import Config
from healer.decision.rules import ENDED, may_prove_itself, needs_identity
from healer.deletion.pod_deleter import Evidence, PodDeleter
from healer.deletion.steps import Candidate
from healer.errors import ClusterError, UnreachableError
from healer.informer import PodStore
from healer.leader_election import LeaderElector, LeadershipCheck
from healer.model import Answer, DeleteResult, Known, NamedPods, Pod, Unknown
from healer.reconciler import Dependencies, Reconciler
from healer.schedule import Schedule
from tests.simulation.exhaustive.model import (
    EPOCH,
    GRACE,
    NAMESPACE,
    Claim,
    LeaseRecord,
    Row,
    Sight,
    World,
    used_pods,
    why_used,
)

NAMES = ("A", "B")
CONFIG = Config.model_validate(
    {
        "airflows": [
            {
                "name": "prod",
                "namespaces": [NAMESPACE],
                "ownership": "exclusive",
                "mode": "enforce",
                "url": "http://airflow:8080",
                "token": "t",
                "policy": {
                    "minAge": "0s",
                    "grace": f"{GRACE:g}s",
                    "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"},
                },
                "limits": {"deletionsPerMinute": None, "breaker": {"maxShare": 1}},
            }
        ],
        "interval": "8s",
        "auditInterval": "60s",
    }
)


class Violation(Exception):  # noqa: N818 - it is what the checks find, no error of the program
    """The healer did what it must never do, or did not do what it must."""


class Moment(Struct, frozen=True):
    """What a pass knows of the present without asking: its clock, and whether its elector leads."""

    now: float
    leads: bool


class Stop(Struct, frozen=True):
    """A point at which others may overtake: where it is, and the world as it is then."""

    where: str
    world: World


class Tape:
    """What was asked and answered since a pass or a step of the elector began."""

    def __init__(self) -> None:
        self.world: World
        self.stops: list[Stop] = []
        self._log: list[Any] = []
        self._at = self._resumed = 0
        self._keep: Callable[[World, tuple[Any, ...]], World]
        self._present: Callable[[World], Moment]
        self.moment: Moment

    def wind(
        self,
        world: World,
        log: Sequence[Any],
        keep: Callable[[World, tuple[Any, ...]], World],
        present: Callable[[World], Moment],
    ) -> None:
        """Begin anew at what was recorded. `keep` puts a tape into a world; `present` tells the moment."""
        self.world, self._log, self._at, self._resumed = world, list(log), 0, len(log)
        self._keep, self._present, self.stops = keep, present, []

    def pause(self, where: str) -> None:
        """Let others overtake here."""
        if self._at < len(self._log):
            self.moment = self._log[self._at]
        else:
            if self._at > self._resumed or not self._resumed:
                self.stops.append(Stop(where, self._keep(self.world, tuple(self._log))))
            self.moment = self._present(self.world)
            self._log.append(self.moment)
        self._at += 1

    def op(self, live: Callable[[], Any]) -> Any:
        """Answer from the tape, or ask the world now."""
        if self._at == len(self._log):
            self._log.append(live())
        self._at += 1
        return self._log[self._at - 1]


class Photo:
    """Takes down and brings back all that some objects know. What it can't copy must never change."""

    def __init__(self, *objects: Any) -> None:
        self._objects = objects
        self.kinds = [type(each) for each in objects]
        self._fixed = [{name: value for name, value in vars(each).items() if not _plain(value)} for each in objects]
        self.names = [tuple(name for name, value in vars(each).items() if _plain(value)) for each in objects]

    def take(self) -> tuple[tuple[Any, ...], ...]:
        """Return what the objects know."""
        for each, fixed in zip(self._objects, self._fixed, strict=True):
            for name, value in fixed.items():
                if getattr(each, name) is not value:
                    raise TypeError(f"{type(each).__name__}.{name} changes and can't be copied")
        return tuple(
            tuple(_copied(getattr(each, name)) for name in names)
            for each, names in zip(self._objects, self.names, strict=True)
        )

    def bring_back(self, photo: tuple[tuple[Any, ...], ...]) -> None:
        """Let the objects know this, and nothing else."""
        for each, names, values in zip(self._objects, self.names, photo, strict=True):
            known = vars(each)
            for name, value in zip(names, values, strict=True):
                known[name] = _copied(value)


_PLAIN = (str, int, float, bool, type(None), dict, set, frozenset, tuple, Struct)


def _plain(value: Any) -> bool:
    if isinstance(value, type(CONFIG)) or not isinstance(value, _PLAIN):
        return False
    return not isinstance(value, Dependencies)


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in {dict, set} else value


class Brain(Struct, frozen=True):
    """What a deciding thread knows: of which term, its photo at the start of its pass, and the tape of that if it is
    under way."""

    term: int
    photo: tuple[Any, ...]
    tape: tuple[Any, ...] | None = None
    memo: dict[Any, Any] = {}


class Mind(Struct, frozen=True):
    """What an elector knows: its photo at the start of its step, the tape of that if it is under way, and its term."""

    term: int
    photo: tuple[Any, ...]
    tape: tuple[Any, ...] | None = None
    memo: dict[Any, Any] = {}


class Tally:
    """In the place of the metrics and of the recorder: nothing is told."""

    def ignore(self, *_: object, **__: object) -> None:
        """Do nothing."""

    deletion = pods = withheld = breaker = healing_delay = suspects = held = wasted = reclaimed = ignore
    notices = pass_done = record_detected = record_deletion = ownership_refuted = set_aside = ignore
    withheld_longest = kept_longest = ignore


class Seam:
    """In the place of the Airflow client: the same three questions."""

    version = "3.3.2"
    set_aside = 0

    def __init__(self, body: Body) -> None:
        self._body = body
        self._resolved: set[str] = set()
        self._kept: dict[str, tuple[str | None, bool, NamedPods]] = {}

    def start_audit(self) -> None:
        self._kept = {uid: kept for uid, kept in self._kept.items() if kept[1]}

    def forget(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._resolved.discard(uid)
            self._kept.pop(uid, None)

    def get_all(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(pods, fresh=False)

    def get_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._ask(pods, fresh=True)

    def list_recently_ended(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        answers = self._ask([pod for pod in pods if pod.uid in self._resolved], fresh=False)
        return {
            uid: answer
            for uid, answer in answers.items()
            if isinstance(answer, Unknown) or (isinstance(answer, Known) and answer.task.state in ENDED)
        }

    def _ask(self, pods: Sequence[Pod], *, fresh: bool) -> dict[str, Answer]:
        if not pods:
            return {}
        tape, body = self._body.tape, self._body
        sent = body.clock()
        if fresh and body.confirming:
            tape.op(lambda: body.claim(pods))
        tape.pause("its question is on the way to Airflow")
        row = tape.op(lambda: body.read_row(pods))
        if row is None:
            return {pod.uid: Unknown(sent, "Airflow is down") for pod in pods}
        task = row.task_instance()
        self._resolved.update(pod.uid for pod in pods)
        return {pod.uid: self._identified(pod, Known(sent, task), fresh=fresh) for pod in pods}

    def _identified(self, pod: Pod, answer: Known, *, fresh: bool) -> Answer:
        refuted = pod.namespace in getattr(self, "refuted", ())
        if not needs_identity(pod, answer.task) and not may_prove_itself(pod, answer.task, refuted=refuted):
            return answer
        kept, ended = self._kept.get(pod.uid), answer.task.state in ENDED
        if not fresh and kept is not None and kept[:2] == (answer.task.id, ended):
            return replace(answer, identity=kept[2])
        self._body.tape.pause("it is about to ask Airflow which Pod it uses")
        identity: NamedPods = self._body.tape.op(lambda: self._body.read_identity(pod))
        self._kept.pop(pod.uid, None)
        if identity.failed is None:
            self._kept[pod.uid] = answer.task.id, ended, identity
        return replace(answer, identity=identity)


class Body:
    """The real parts of one replica, into which any state of it can be put."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.told: Counter[str] = Counter()
        """What became of the DELETEs."""
        self.tape = Tape()
        self.confirming = False
        self._deleter = PodDeleter(self, freshness=CONFIG.freshness, clock=self.clock)  # type: ignore[arg-type]
        self._build(0.0)
        self._elect("", 0.0)

    def clock(self) -> float:
        """Seconds of the replica's clock."""
        return self.tape.moment.now

    def _build(self, now: float) -> None:
        self.tape.moment = Moment(now, leads=False)
        tally = Tally()
        self.seam, self.store = Seam(self), PodStore()
        tools = Dependencies(
            self, tally, tally, lambda: self.tape.moment.leads, self.clock, lambda: 0.0, store=self.store, deleter=self
        )  # type: ignore[arg-type]
        self.reconciler = Reconciler(CONFIG.airflows[0], self.seam, tools)  # type: ignore[arg-type]
        self.schedule = Schedule(CONFIG, now)
        self._mark_confirmations()
        limits = self.reconciler._limits
        parts = (
            self.reconciler,
            self.reconciler._executor,
            limits.breaker,
            limits.rate_limiter,
            self.reconciler._records,
            self.store,
            self.seam,
            self.schedule,
        )
        self.brain_photo = Photo(*parts)

    def _mark_confirmations(self) -> None:
        """Tell the questions before a DELETE from first looks."""
        confirm = self.reconciler._confirm

        def marked(batch: Sequence[Candidate]) -> Any:
            self.confirming = True
            try:
                return confirm(batch)
            finally:
                self.confirming = False

        self.reconciler._confirm = marked  # type: ignore[method-assign]

    def _elect(self, identity: str, now: float) -> None:
        self.tape.moment = Moment(now, leads=False)
        self.elector = LeaderElector(self, CONFIG.leader_election, identity, clock=self.clock, wall=lambda: 0.0)
        self.mind_photo = Photo(self.elector)

    # --- states -----------------------------------------------------------------------------------------------------

    def new_brain(self, now: float, term: int) -> Brain:
        """Return a deciding thread that knows nothing."""
        self._build(now)
        return Brain(term, self.brain_photo.take(), memo={})

    def new_mind(self, now: float, life: int) -> Mind:
        """Return an elector that knows nothing."""
        self._elect(f"{NAMES[self.index]}.{life}", now)
        return Mind(0, self.mind_photo.take(), memo={})

    def leads(self, world: World) -> bool:
        """Ask the real elector whether it leads now, in the middle of a step too."""
        side = world.sides[self.index]
        if side.stopping:
            return False
        known = side.mind.memo.get(("leads", world.now))
        if known is None:
            known = side.mind.memo["leads", world.now] = self._ask_leads(world, side.mind)
        return bool(known)

    def _ask_leads(self, world: World, mind: Mind) -> bool:
        tape, self.tape = self.tape, Tape()
        try:
            self.mind_photo.bring_back(mind.photo)
            if mind.tape is not None:
                self._to_stop(world, mind)
            self.tape.moment = Moment(world.now, leads=False)
            return self.elector.is_leader()
        finally:
            self.tape = tape

    def _to_stop(self, world: World, mind: Mind) -> None:
        """Repeat a step up to where it is."""
        tape = self.tape
        tape.wind(world, mind.tape or (), lambda w, _: w, lambda _: _halt())
        try:
            tape.pause("")
            self.elector.try_acquire_or_renew()
        except _Halt:
            return

    # --- a step of the elector --------------------------------------------------------------------------------------

    def steps(self, world: World) -> list[Stop]:
        """Run a step of the elector from where it is; return each point at which others may overtake, and its end."""
        mind: Mind = world.sides[self.index].mind
        return self._election(world, mind, self.elector.try_acquire_or_renew)

    def resign(self, world: World) -> World:
        """Let the elector give the Lease away."""
        *_, last = self._election(world, replace(world.sides[self.index].mind, tape=None), self.elector.release)
        return last.world

    def _election(self, world: World, mind: Mind, step: Callable[[], object]) -> list[Stop]:
        def keep(then: World, log: tuple[Any, ...]) -> World:
            return then.with_side(self.index, mind=Mind(self.elector.term, mind.photo, log, memo={}))

        self.mind_photo.bring_back(mind.photo)
        self.tape.wind(world, mind.tape or (), keep, lambda then: Moment(then.now, leads=False))
        self.tape.pause("")
        step()
        done = Mind(self.elector.term, self.mind_photo.take(), memo={})
        return [*self._stops(), Stop("", self.tape.world.with_side(self.index, mind=done))]

    def _stops(self) -> Iterator[Stop]:
        return (stop for stop in self.tape.stops if stop.where)

    def get(self) -> Lease | None:
        """Answer as the API server does."""
        record = self.tape.op(lambda: self._get())
        if record == "unreachable":
            raise UnreachableError("no answer")
        return _as_lease(record)

    def _get(self) -> LeaseRecord | str | None:
        return "unreachable" if self.tape.world.sides[self.index].link else self.tape.world.lease

    def create(self, lease: Lease) -> Lease:
        """Create the Lease as the API server does."""
        return self._write(lease, None)

    def replace(self, lease: Lease) -> Lease:
        """Write the Lease as the API server does."""
        return self._write(lease, lease.resource_version)

    def _write(self, lease: Lease, version: str | None) -> Lease:
        self.tape.pause("its write of the Lease is on the way")
        written = self.tape.op(lambda: self._write_now(lease, version))
        self.tape.pause("the answer to its write of the Lease is on the way")
        if written == "unreachable":
            raise UnreachableError("no answer")
        if written == "conflict":
            raise ClusterError("somebody else was faster", status=409)
        answer = _as_lease(written)
        assert answer is not None
        return answer

    def _write_now(self, lease: Lease, version: str | None) -> LeaseRecord | str:
        world, link = self.tape.world, self.tape.world.sides[self.index].link
        if link == "cut":
            return "unreachable"
        there = world.lease
        if version != (str(there.version) if there else None):
            return "unreachable" if link else "conflict"
        written = LeaseRecord(lease.holder, lease.duration, lease.transitions, there.version + 1 if there else 1)
        self.tape.world = replace(world, lease=written)
        return "unreachable" if link else written

    # --- a pass -----------------------------------------------------------------------------------------------------

    def passes(self, world: World, leads: Callable[[World], bool]) -> list[Stop]:
        """Run a pass from where it is; return each point at which others may overtake, and its end.

        Raises Violation.
        """
        world = self._anew(world) if world.sides[self.index].brain.tape is None else world
        brain: Brain = world.sides[self.index].brain

        def keep(then: World, log: tuple[Any, ...]) -> World:
            return then.with_side(self.index, brain=Brain(brain.term, brain.photo, log, memo={}))

        self.brain_photo.bring_back(brain.photo)
        self.tape.wind(world, brain.tape or (), keep, lambda then: Moment(then.now, leads(then)))
        self.tape.pause("")
        picture = self.tape.op(lambda: self.tape.world.pods)
        self.store.replace(NAMESPACE, Listing(list(picture), ""), self.store.generation())
        self.reconciler.reconcile(self.store.list_pods(), self.schedule.next(self.clock()), {})
        done = Brain(brain.term, self.brain_photo.take(), memo={})
        return [*self._stops(), Stop("", self._ended(self.tape.world).with_side(self.index, brain=done))]

    def _anew(self, world: World) -> World:
        """Forget all if the leadership was gained since: what was known in an earlier term may be old."""
        side = world.sides[self.index]
        if side.mind.term == side.brain.term:
            return world
        brain = self.new_brain(world.now, side.mind.term)
        sights = tuple(sight for sight in world.sights if sight.side != self.index)
        return replace(world.with_side(self.index, brain=brain), sights=sights)

    def _ended(self, world: World) -> World:
        claims = tuple(claim for claim in world.claims if claim.side != self.index)
        return replace(world, claims=claims) if claims != world.claims else world

    # --- what a pass asks of Airflow --------------------------------------------------------------------------------

    def claim(self, pods: Sequence[Pod]) -> None:
        """Note that a confirmation was asked for."""
        world, used = self.tape.world, used_pods(self.tape.world)
        uids = {pod.uid for pod in pods}
        others = (claim for claim in world.claims if claim.side != self.index or claim.uid not in uids)
        new = (Claim(self.index, uid, world.now, uid in used, uid in used) for uid in sorted(uids))
        self.tape.world = replace(world, claims=(*others, *new))

    def read_row(self, pods: Sequence[Pod]) -> Row | None:
        """Return the row as Airflow answers it now, None if it does not answer."""
        world = self.tape.world
        if world.airflow == "down":
            return None
        stale = world.airflow == "stale"
        used = world.before.used if stale else used_pods(world)
        self._note_stale(stale, [pod.uid for pod in pods])
        for pod in pods:
            if pod.uid not in used:
                self._sight(pod.uid, stale)
        return world.before.row if stale else world.row

    def _sight(self, uid: str, stale: bool) -> None:
        world = self.tape.world
        known = next((s for s in world.sights if (s.side, s.uid) == (self.index, uid)), None)
        since, looks = (known.since, known.looks) if known else (world.now, 0)
        sight = Sight(self.index, uid, since, min(3, looks + 1), stale or (known is not None and known.stale))
        others = tuple(each for each in world.sights if each is not known)
        self.tape.world = replace(world, sights=(*others, sight))

    def _note_stale(self, stale: bool, uids: Sequence[str]) -> None:
        world = self.tape.world
        if stale:
            claims = tuple(self._staled(claim, uids, world) for claim in world.claims)
            self.tape.world = replace(world, claims=claims)

    def _staled(self, claim: Claim, uids: Sequence[str], world: World) -> Claim:
        if claim.side != self.index or claim.uid not in uids or claim.sent:
            return claim
        return replace(claim, stale=True, used=claim.used and claim.uid in world.before.used)

    def read_identity(self, pod: Pod) -> NamedPods:
        """Return which Pods Airflow names now."""
        world = self.tape.world
        if world.airflow in {"down", "nameless"}:
            return NamedPods(failed="the state store answers 500")
        stale = world.airflow == "stale"
        self._note_stale(stale, [pod.uid])
        row = world.before.row if stale else world.row
        return NamedPods(frozenset((NAMESPACE, name) for name in (row.stored, row.xcom) if name is not None))

    # --- what a pass asks of the API server -------------------------------------------------------------------------

    def now(self) -> float:
        """Return what the API server's clock shows."""
        return EPOCH + self.clock()

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Answer a GET."""
        self.tape.pause("it is about to read a Pod")
        found = self.tape.op(lambda: self._get_pod(name))
        if found == "unreachable":
            raise UnreachableError("no answer")
        return found  # type: ignore[no-any-return]

    def _get_pod(self, name: str) -> Pod | str | None:
        world = self.tape.world
        return "unreachable" if world.sides[self.index].link else world.named(name)

    def delete_pod(self, pod: Pod, proof: Evidence, right: LeadershipCheck) -> DeleteResult:
        """Let the real deleter send it."""
        return self._deleter.delete_pod(pod, proof, right)

    def send(self, request: KubeRequest, *, last_check: Callable[[], None] = lambda: None) -> KubeReply:
        """Carry a DELETE as the real transport does: connect, check for the last time, send, wait."""
        self.tape.pause("it is about to connect for the DELETE")
        last_check()
        preconditions: Mapping[str, str] = (request.body or {}).get("preconditions", {})
        uid, version = preconditions.get("uid"), preconditions.get("resourceVersion")
        name = request.path[-1]
        self.tape.op(lambda: self._passed(name, uid, version))
        self.tape.pause("it has checked for the last time, and its DELETE is not sent yet")
        status = self.tape.op(self._arrives)
        if status == 0:
            raise UnreachableError("no answer")
        return KubeReply(status, b"{}")

    def _passed(self, name: str, uid: str | None, version: str | None) -> None:
        """Check that this DELETE may be sent at all."""
        world = self.tape.world
        claim = next((c for c in world.claims if c.side == self.index and f"pod-{c.uid[4:]}" == name), None)
        if claim is None or claim.sent:
            raise Violation(f"{name}: a DELETE was sent without a confirmation of its own")
        if not self.leads(world):
            raise Violation(f"{name}: a DELETE was sent by replica {NAMES[self.index]}, which does not lead")
        if world.now - claim.asked > CONFIG.freshness:
            raise Violation(f"{name}: the evidence is {world.now - claim.asked:.0f} s old")
        _judge_patience(world, claim)
        sent = replace(claim, sent=(name, uid, version))
        self.tape.world = replace(world, claims=tuple(sent if c is claim else c for c in world.claims))

    def _arrives(self) -> int:
        """Take the DELETE to the API server, as the link does; return the status, 0 if no answer comes."""
        world = self.tape.world
        claim = next(c for c in world.claims if c.side == self.index and c.sent)
        world = replace(world, claims=tuple(c for c in world.claims if c is not claim))
        link, status = world.sides[self.index].link, 0
        if link == "late":
            world = replace(world, late=(*world.late, claim))
        elif link != "cut":
            world, status = self.deliver(world, claim)
        else:
            self.told["lost"] += 1
        self.tape.world = world
        return 0 if link else status

    def deliver(self, world: World, claim: Claim) -> tuple[World, int]:
        """Let a DELETE take effect, if its preconditions hold; judge it; return its status. Raises Violation."""
        assert claim.sent is not None
        name, uid, version = claim.sent
        there = world.named(name)
        if there is None:
            self.told["refused: gone (404)"] += 1
            return world, 404
        if uid not in {None, there.uid} or version not in {None, there.resource_version}:
            self.told["refused: changed since it was judged (409)"] += 1
            return world, 409
        self.told[_judge(world, there, claim)] += 1
        return world.deleted(there.uid).settled(), 200


def _judge(world: World, pod: Pod, claim: Claim) -> str:
    """Judge a DELETE at the moment at which it takes effect; return what it was. Raises Violation."""
    assert claim.sent is not None
    for refused, why in ((pod.terminating, "it terminates already"), (pod.protected, "it is protected")):
        if refused:
            raise Violation(f"{pod.name} was deleted although {why}")
    if claim.sent[1:] != (pod.uid, pod.resource_version):
        raise Violation(f"{pod.name} was deleted whatever it is by now: the DELETE names no uid or resourceVersion")
    why_not = why_used(world, pod)
    if why_not is None:
        return "healed"
    if claim.used:
        raise Violation(f"{pod.name} was deleted although {why_not}, all the time since Airflow was asked")
    return "a lagging replica answered" if claim.stale else "in use again since Airflow was asked"


def _judge_patience(world: World, claim: Claim) -> None:
    """Judge whether a Pod was seen free long and often enough, when its DELETE is sent."""
    sight = next((s for s in world.sights if (s.side, s.uid) == (claim.side, claim.uid)), None)
    if world.pod(claim.uid) is None or claim.stale or claim.touched or (sight is not None and sight.stale):
        return  # in use for a moment since Airflow was asked, or a replica of its database lagged
    since, looks = (sight.since, sight.looks) if sight else (world.now, 0)
    if world.now - since < GRACE or looks < 3:
        seen = f"first seen free {world.now - since:.0f} s ago, {looks} times in all"
        raise Violation(f"pod-{claim.uid[4:]} is deleted too early: {seen}, the grace is {GRACE:g} s")


class _Halt(Exception):  # noqa: N818 - no error: where a step is to be looked at
    pass


def _halt() -> Moment:
    raise _Halt


def _as_lease(record: LeaseRecord | None) -> Lease | None:
    if record is None:
        return None
    return Lease(record.holder, record.duration, record.transitions, resource_version=str(record.version))
