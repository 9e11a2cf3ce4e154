"""Whether the models hold a recorded history of a real task instance possible: `accepts(trace) -> str | None`.

A trace is followed through the models' own moves, all that can explain it at a time. What the recorder could not see (a
worker that dies, what is written down) may happen between any two events; what a move shows must be in the trace, soon
after or a little before. A trace that no history of the models explains is a fault of the models, and of whatever was
concluded from them.

A trace is a list of objects, one JSON object a line in a file. The first may be a header (`"kind": "trace"`) with what
is known of the task: `deferrable`, `durable`, `on_finish`, `retries`, `base`. The others have `at` and `kind`:
`task-state` (`state`, `try`), `pod-created` (`pod`, `try`, `by`), `pod-adopted` (`pod`, `try`), `pod-phase` (`pod`,
`phase`, `exit`), `pod-base-ended` (`pod`, `exit`), `pod-checked` (`pod`), `pod-deleted` (`pod`, `by`), `run-deleted`,
and `note`, which is ignored.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace as changed
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from msgspec.structs import replace

from healer.model import Container
from tests.simulation.airflow import Kpo, Setup, Stage, Task, Worker
from tests.simulation.answers import AirflowFaults
from tests.simulation.cluster import Server
from tests.simulation.moves import MOVES
from tests.simulation.world import World

Json = Mapping[str, Any]

UNSEEN = frozenset(
    {
        "debug copy",
        "executor's Pod",
        "run marked failed",
        "many workers killed",
        "identity expires",
        "reattach switched on",
    }
)
"""Moves that are not of one task instance alone, each of whose effects on one is another move's too, or that make Pods
which are not its operator's."""

_MOVES = [move for move in MOVES.values() if move.kind == "task" and move.name not in UNSEEN]

VARIED = frozenset(
    {
        "odd state",
        "trigger dies",
        "clean up",
        "time out",
        "worker killed",
        "heartbeat missed",
        "zombie returns",
        "doomed worker ends",
        "doomed worker creates",
        "doomed worker cleans up",
        "mark",
        "restart",
    }
)
"""Moves with variants."""

CHOICES = (0.05, 0.17, 0.25, 0.35, 0.45, 0.55, 0.95)
"""One for each variant of any move."""

MOST_OWED = 1
"""How many things that were shown may be recorded later than what followed them."""

SOON = 8
"""Within how many events they must be recorded then."""

HIDDEN = 4
"""How many moves in a row explain one event, the one that shows it included."""

MOST = 4000
"""How many explanations are followed at a time."""


class Sign(NamedTuple):
    """Something that a recorder sees: its kind, which Pod (in the order of creation; -1: none), and what."""

    kind: str
    pod: int = -1
    what: Any = None


class Choice(float):
    """Tells whether a move looked at it: most have one variant only."""

    asked = False

    def __lt__(self, other: float) -> bool:
        """Moves choose by `choice < share`."""
        self.asked = True
        return float(self) < other

    def __mul__(self, other: float) -> float:
        """Or by a place in a list."""
        self.asked = True
        return float(self) * other


class At(NamedTuple):
    """A worker, as far as it matters for what comes."""

    number: int
    stage: str
    pod: int
    failing: bool
    lost: bool
    starts: bool = False


class Thing(NamedTuple):
    """A Pod, as far as it matters for what comes."""

    number: int
    phase: str
    base_exit: int | None
    ended: bool
    checked: bool
    going: bool
    there: bool


class State(NamedTuple):
    """The models between two moves."""

    state: str | None
    number: int
    retries: int
    exists: bool
    stored: int
    holder: At | None
    zombies: frozenset[At]
    pods: tuple[Thing, ...]
    starting: bool = False


class Guess(NamedTuple):
    """One explanation of what was recorded so far: the state, and what should still be seen."""

    state: State
    owed: tuple[Sign, ...] = ()


class Bench(World):
    """Just enough of a world for one task instance: no healer, no faults, and time that stands still."""

    def __init__(self, setup: Setup, state: State) -> None:  # pylint: disable=super-init-not-called
        self.server = Server(lambda: 0.0)
        self.kpo = Kpo(self.server, lambda: 0.0)
        task = Task(0, setup, state.state, state.number, retries=state.retries)
        self.tasks = self.ours = [task]
        self.others: list[Task] = []
        self.twins = False
        self.faults = AirflowFaults()
        self.uids = [self._made(task, thing) for thing in state.pods]
        task.number, task.run_exists = state.number, state.exists
        task.stored = self._name(state.stored)
        task.holder = self._worker(task, state.holder) if state.holder else None
        task.zombies = [self._worker(task, zombie) for zombie in sorted(state.zombies)]
        task.starting_until = math.inf if state.starting else -math.inf

    @property
    def time(self) -> float:
        """No time passes."""
        return 0.0

    @property
    def airflow_time(self) -> float:
        """No time passes."""
        return 0.0

    def _made(self, task: Task, thing: Thing) -> str:
        task.number = thing.number
        worker = Worker(thing.number)
        self.kpo.create(task, worker)
        uid = worker.pod or ""
        if not thing.there:
            self.server.remove(uid)
            return uid
        first, *others = self.server.pods[uid].containers
        first = Container(first.name, thing.ended, thing.base_exit)
        self.server.pods[uid] = replace(
            self.server.pods[uid],
            phase=thing.phase,
            containers=(first, *others),
            checked=thing.checked,
            terminating=thing.going,
            created=float(len(self.server.facts)),
        )
        return uid

    def _name(self, pod: int) -> str | None:
        there = self.server.pods.get(self.uids[pod]) if pod >= 0 else None
        return there.name if there else None

    def _worker(self, task: Task, at: At) -> Worker:
        uid = self.uids[at.pod] if at.pod >= 0 else None
        return Worker(at.number, cast("Stage", at.stage), uid, at.failing, at.lost, row=task.ident if at.starts else -1)

    def state(self, before: State) -> State:
        """Read the state back."""
        task = self.tasks[0]
        order = {uid: number for number, uid in enumerate(self.server.facts)}
        names = {pod.name: order[uid] for uid, pod in self.server.pods.items()}
        return State(
            task.state,
            task.number,
            task.retries,
            task.exists,
            names.get(task.stored or "", before.stored if task.stored else -1),
            _at(task, task.holder, order) if task.holder else None,
            frozenset(self._doomed(task, zombie, order) for zombie in task.zombies if self._matters(task, zombie)),
            tuple(self._thing(uid, before, number) for uid, number in order.items()),
            task.starting_until >= 0.0,
        )

    def _matters(self, task: Task, zombie: Worker) -> bool:
        """Whether it may still do something that is seen: start, create a Pod, or delete its own."""
        pod = self.server.pods.get(zombie.pod or "")
        starts = zombie.stage == "resuming" and zombie.row == task.ident
        return starts or zombie.stage in {"search", "asked"} or (pod is not None and not pod.terminating)

    @staticmethod
    def _doomed(task: Task, zombie: Worker, order: Mapping[str, int]) -> At:
        """Leave out what makes no difference any more."""
        if zombie.stage in {"search", "asked", "resuming"}:
            return _at(task, zombie, order)
        return At(0, "watching", order.get(zombie.pod or "", -1), failing=False, lost=False)

    def _thing(self, uid: str, before: State, number: int) -> Thing:
        pod = self.server.pods.get(uid)
        if pod is None:
            return before.pods[number]._replace(there=False, going=True)
        base = pod.containers[0]
        tried = int(pod.labels.try_number or 0)
        return Thing(tried, pod.phase, base.exit_code, base.terminated, pod.checked, pod.terminating, there=True)


def _at(task: Task, worker: Worker, order: Mapping[str, int]) -> At:
    pod = order.get(worker.pod or "", -1)
    return At(worker.number, worker.stage, pod, worker.failing, worker.lost, worker.row == task.ident)


@cache
def steps(setup: Setup, state: State) -> frozenset[tuple[State, tuple[Sign, ...]]]:
    """Return where one move may lead, each with what it shows."""
    found = set()
    bench = Bench(setup, state)
    able = [move for move in _MOVES if move.possible(bench, bench.tasks[0])]
    for move in able:
        for choice in CHOICES if move.name in VARIED else CHOICES[:1]:
            bench = Bench(setup, state)
            move.do(bench, bench.tasks[0], choice)
            after = bench.state(state)
            found.add((after, _shown(state, after)))
    found |= {(_gone(state, number), ()) for number, pod in enumerate(state.pods) if pod.going and pod.there}
    return frozenset(found - {(state, ())})


def _gone(state: State, number: int) -> State:
    return _with_pod(state, number, there=False)


def _with_pod(state: State, number: int, **fields: Any) -> State:
    pods = list(state.pods)
    pods[number] = pods[number]._replace(**fields)
    return state._replace(pods=tuple(pods))


def _shown(before: State, after: State) -> tuple[Sign, ...]:
    signs = []
    if (before.state, before.number) != (after.state, after.number):
        signs.append(Sign("task-state", -1, (after.state, after.number)))
    if before.exists and not after.exists:
        signs.append(Sign("run-deleted"))
    for number, pod in enumerate(after.pods):
        old = before.pods[number] if number < len(before.pods) else None
        if old is None:
            signs.append(Sign("pod-created", number, pod.number))
            continue
        if pod.checked and not old.checked:
            signs.append(Sign("pod-checked", number))
        if pod.going and not old.going:
            signs.append(Sign("pod-deleted", number))
    return tuple(signs)


class Follower:
    """Follows one trace."""

    def __init__(self, setups: Iterable[Setup], events: Sequence[Json]) -> None:
        start = State(None, 0, 0, exists=True, stored=-1, holder=None, zombies=frozenset(), pods=())
        self.guesses = {(setup, Guess(start._replace(retries=setup.retries))) for setup in setups}
        pods = dict.fromkeys(event["pod"] for event in events if event["kind"] == "pod-created")
        self._pods = {pod: number for number, pod in enumerate(pods)}
        self._events = events
        self._signs = [_sign(event, self._number(event)) for event in events]
        self._coming: frozenset[Sign] | None = None

    def _number(self, event: Json) -> int:
        return self._pods.get(event.get("pod", ""), -1)

    def follow(self, position: int) -> bool:
        """Keep the explanations that allow this event; return whether there are any."""
        event, sign, number = self._events[position], self._signs[position], self._number(self._events[position])
        later = self._signs[position + 1 : position + 1 + SOON]
        self._coming = frozenset(later) if len(later) == SOON else None
        kind = event["kind"]
        if kind == "pod-adopted":
            self.guesses = self._holding(number, event["try"])
        elif kind in {"pod-phase", "pod-base-ended"} or (kind == "pod-deleted" and event["by"] != "kpo"):
            seen = self._seeing(sign) if event.get("by") == "other" else set()
            self.guesses = seen | {(setup, _happened(guess, number, event)) for setup, guess in self.guesses}
        else:
            self.guesses = self._seeing(sign)
        return bool(self.guesses)

    def _seeing(self, sign: Sign) -> set[tuple[Setup, Guess]]:
        kept = set()
        for setup, guess in self._reached(sign):
            if sign in guess.owed:
                if _is_next(sign, guess.owed):
                    kept.add((setup, guess._replace(owed=_without(guess.owed, sign))))
            elif sign.kind == "task-state" and sign.what == (guess.state.state, guess.state.number) and not guess.owed:
                kept.add((setup, guess))
        return kept

    def _holding(self, pod: int, number: int) -> set[tuple[Setup, Guess]]:
        """Keep, or reach without being seen, what has this Pod in this try's hands."""

        def holds(guess: Guess) -> bool:
            holder = guess.state.holder
            held = holder is not None and (holder.pod, holder.number) == (pod, number)
            return held or any(zombie.pod == pod for zombie in guess.state.zombies)

        return {each for each in self._reached(None) if holds(each[1])}

    def _reached(self, sign: Sign | None) -> set[tuple[Setup, Guess]]:
        """Return all that a few moves may lead to, up to where the sign is shown."""
        reached, todo = set(self.guesses), list(self.guesses)
        for _ in range(HIDDEN):
            further = {
                (setup, Guess(state, guess.owed + shown))
                for setup, guess in todo
                if sign not in guess.owed
                for state, shown in steps(setup, guess.state)
                if self._may_show(sign, guess.owed, shown)
            } - reached
            todo = list(further)[: MOST - len(reached)]
            reached.update(todo)
        return reached

    def _may_show(self, sign: Sign | None, owed: tuple[Sign, ...], shown: tuple[Sign, ...]) -> bool:
        others = [other for other in shown if other != sign]
        if self._coming is not None and not self._coming.issuperset(others):
            return False
        return sign in shown or len(owed) + len(shown) <= MOST_OWED

    def possible(self) -> str:
        """Say what the models hold possible now."""
        states = {(guess.state.state, guess.state.number) for _, guess in self.guesses}
        return ", ".join(sorted(f"{state or 'none'} at try {number}" for state, number in states)[:6])


def _is_next(sign: Sign, owed: tuple[Sign, ...]) -> bool:
    """Whether nothing of the same object was to be seen before it.

    A DELETE is told by the API server, all else of a Pod by a watch, which may come later.
    """
    return sign.kind == "pod-deleted" or next(other for other in owed if other.pod == sign.pod) == sign


def _without(owed: tuple[Sign, ...], sign: Sign) -> tuple[Sign, ...]:
    position = owed.index(sign)
    return owed[:position] + owed[position + 1 :]


def _sign(event: Json, number: int) -> Sign:
    kind = event["kind"]
    if kind == "task-state":
        return Sign(kind, -1, (event["state"], event["try"]))
    if kind == "pod-created":
        tried = event.get("try") or event["labels"]["try_number"]
        return Sign(kind, number, int(tried))
    return Sign(kind, number)


def _happened(guess: Guess, number: int, event: Json) -> Guess:
    """Let happen to a Pod what KubernetesPodOperator has no part in."""
    state = guess.state
    if number >= len(state.pods):
        return guess
    match event["kind"]:
        case "pod-base-ended":
            fields: dict[str, Any] = {"ended": True, "base_exit": event.get("exit")}
        case "pod-deleted":
            fields = {"going": True}
        case _:
            fields = {"phase": event["phase"]}
            if event["phase"] in {"Succeeded", "Failed"}:
                code = event.get("exit", 0 if event["phase"] == "Succeeded" else 1)
                fields |= {"ended": True, "base_exit": code}
    return guess._replace(state=_with_pod(state, number, **fields))


def setups(header: Json) -> Iterator[Setup]:
    """Yield what the task may be, as far as the header does not say."""
    flags = (header["deferrable"],) if "deferrable" in header else (False, True)
    finishes = (header["on_finish"],) if "on_finish" in header else ("delete_pod", "keep_pod", "delete_succeeded_pod")
    base = Setup(retries=header.get("retries", 2), durable=header.get("durable", True), xcom=False)
    for deferrable in flags:
        for finish in finishes:
            on_finish = cast("Literal['delete_pod']", finish)
            yield changed(base, deferrable=deferrable, on_finish=on_finish, base=header.get("base", "base"))


def accepts(trace: Iterable[Json]) -> str | None:
    """Return None if the models hold the history possible, else a sentence that says from where on they don't."""
    events = [dict(event) for event in trace]
    header = events.pop(0) if events and events[0]["kind"] == "trace" else {}
    events = [event for event in events if event["kind"] != "note"]
    unknown = next((event for event in events if event["kind"] not in KINDS), None)
    if unknown is not None:
        return f"an event is of the unknown kind {unknown['kind']!r}"
    follower = Follower(setups(header), events)
    for position, event in enumerate(events, 1):
        before = follower.possible()
        if not follower.follow(position - 1):
            shown = {name: value for name, value in event.items() if name not in {"at", "task"}}
            return f"event {position} is not possible: {json.dumps(shown)}; before it the models had {before}"
    return None


KINDS = frozenset(
    {
        "task-state",
        "pod-created",
        "pod-adopted",
        "pod-phase",
        "pod-base-ended",
        "pod-checked",
        "pod-deleted",
        "run-deleted",
    }
)


def load(path: Path) -> list[Json]:
    """Read a trace, one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def main(paths: Iterable[str]) -> int:
    """Follow the traces in these files; return 1 if one is not possible."""
    refused = 0
    for path in paths:
        why = accepts(load(Path(path)))
        if why is not None:
            refused += 1
            print(f"{path}: {why}", flush=True)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
