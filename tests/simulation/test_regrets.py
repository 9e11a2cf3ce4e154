"""Regret in the random walk: whatever is counted has happened in the model."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

import pytest
from msgspec.structs import replace

from healer.insights.regrets import Regret, RegretTracker
from healer.model import Finding, Pod
from healer.reconciler import Reconciler
from tests.simulation.airflow import Kpo, Task, Worker
from tests.simulation.walk import Walker, make_plan
from tests.simulation.world import Event, Tally, World

pytestmark = pytest.mark.slow

HISTORIES = 400

BY_HAND = "user checks"
"""The move that looks like KPO."""

HELD = frozenset({"running", "deferred"})

AFTERMATH = 1500.0
"""Seconds without events in which the healer may still find out: some audits."""


@dataclass
class Truth:
    """What happened to each Pod of one history, by uid: whether it would have been deleted, and who used it then."""

    victims: set[str] = field(default_factory=set)
    used: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    regrets: list[Regret] = field(default_factory=list)

    def note(self, uid: str | None, words: str) -> None:
        """Something is done with a Pod; what comes before the would-be deletion is no regret."""
        if uid in self.victims:
            self.used[uid].append(words)


class Watched(World):
    """A world that notes what is used."""

    truth: Truth

    def happen(self, event: Event) -> None:
        if event.move == BY_HAND:  # whoever does that is taken for KPO
            self.truth.used[f"uid-{event.target}"].append("is marked by a user")
        super().happen(event)

    def refresh(self) -> None:
        super().refresh()
        held = {
            (task.index, task.number) for task in self.tasks if task.exists and task.state in {"running", "deferred"}
        }
        for uid in self.truth.victims:
            facts = self.server.facts[uid]
            if facts.key and (facts.task, facts.key.try_number) in held:
                self.truth.note(uid, "its try runs")


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> Truth:
    """Filled anew by each history."""
    truth = Truth()
    condemn, search, cleanup = RegretTracker.track, Kpo.search, Kpo.cleanup

    def condemned(self: RegretTracker, pod: Pod, finding: Finding, at: float | None) -> bool:
        truth.victims.add(pod.uid)
        return condemn(self, pod, finding, at)

    def searched(self: Kpo, task: Task, worker: Worker) -> str:
        words = search(self, task, worker)
        truth.note(worker.pod, words)
        return words

    def cleaned(self: Kpo, task: Task, worker: Worker, *, lost: bool) -> str:
        truth.note(worker.pod, "its result is read")
        return cleanup(self, task, worker, lost=lost)

    monkeypatch.setattr(RegretTracker, "track", condemned)
    monkeypatch.setattr(Kpo, "search", searched)
    monkeypatch.setattr(Kpo, "cleanup", cleaned)
    monkeypatch.setattr(Reconciler, "_log_regret", lambda _self, regret: truth.regrets.append(regret))
    monkeypatch.setattr(Watched, "truth", truth, raising=False)
    return truth


def report(seed: int) -> World:
    """Let a history happen in report mode, with one healer, and then let all be well for a while."""
    random = Random(seed)
    plan = make_plan(random)
    plan = replace(plan, airflow={**plan.airflow, "mode": "report"}, lease=None, offsets=plan.offsets[:1], rest=False)
    walker = Walker(random)
    world = Watched(plan, walker, Tally())
    try:
        while walker.next_at() < math.inf and world.step():
            pass
        world.settle()
        end = world.time + AFTERMATH
        while world.time < end and world.step(end):
            pass
    finally:
        world.close()
    return world


def test_what_is_counted_has_happened(truth: Truth) -> None:
    victims = 0
    for seed in range(HISTORIES):
        truth.victims.clear()
        truth.used.clear()
        truth.regrets.clear()
        report(seed)
        victims += len(truth.victims)
        for regret in truth.regrets:
            assert truth.used[regret.tracked.pod.uid], (
                f"seed {seed}: {regret.use} of {regret.tracked.pod}: {regret.how}"
            )
    assert victims > HISTORIES / 10
