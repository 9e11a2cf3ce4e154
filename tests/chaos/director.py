"""Starts runs, lets things happen to them, and makes the weather around them, until the quotas are met."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.chaos import verdict
from tests.chaos.audit_tail import AuditTail
from tests.chaos.gate import FAULTS
from tests.chaos.recorder import ENDED, Picture, PodStory
from tests.chaos.replicas import LEASE_DURATION, Replica, Replicas
from tests.chaos.scenarios import SCENARIOS, TROUBLE, MissedError, Play, Scenario, configuration, size_of, task_of
from tests.lab.airflow import Airflow
from tests.lab.airflow2 import Airflow2
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, say

SHARES: Final[Mapping[str, float]] = {
    "adopted": 0.05,
    "cleared": 0.02,
    "twins": 0.02,
    "handed over": 0.05,
    "orphans": 0.10,
    "taken over": 0.01,
}
"""What must at least have happened, as a share of the task runs."""

MARGIN: Final = 1.15
OVERTIME: Final = 1.6
"""At most this many times the wanted runs, when the quotas are not met by then."""

AT_ONCE: Final = 12
TAKE_OVER: Final = 120.0
"""Seconds in which a replica takes over at least once, as the leader is frozen or killed again and again."""

PATIENCE: Final = 240.0

SILENT: Final = 60.0
"""Seconds without a word after which a scheduler is held for dead; Airflow's own threshold is 30, this machine busy."""

AT_MOST: Final = 3.0
"""How many times the wanted runs there are when it is to take a certain time."""

LATE: Final = 1.5
"""Overdue events of one kind at which no more runs are started until the weather has caught up."""

SETTLING: Final = 3.0
"""Seconds after a scenario's last act in which its effect may not be recorded yet."""


@dataclass(frozen=True)
class Plan:
    """What is asked for. minutes: the least duration of the activity. storm: how many times the usual bad weather."""

    runs: int
    seed: int
    minutes: float = 0.0
    at_once: int = AT_ONCE
    storm: float = 1.0


WEATHER: Final[Mapping[str, float]] = {
    "leader": 0.016,
    "follower": 0.006,
    "kube gate": 0.03,
    "airflow gate": 0.03,
    "triggerer": 0.010,
    "scheduler": 0.005,
    "api server": 0.004,
    "etcd": 0.002,
}
"""Events per task run."""

STREAMS: Final = (
    ("leader", "follower"),
    ("kube gate", "airflow gate"),
    ("triggerer", "scheduler", "api server", "etcd"),
)
"""What goes on side by side; within a stream one event ends before the next begins."""


def in_words(error: Exception) -> str:
    """What went wrong, and with which request if it was one."""
    if isinstance(error, LabError):
        return str(error)[:300]
    asked = ""
    if isinstance(error, httpx.RequestError):
        with contextlib.suppress(RuntimeError):  # it does not know its request
            asked = f"{error.request.method} {error.request.url}: "
    return f"{asked}{type(error).__name__}: {str(error)[:300]}"


@dataclass
class Stage:
    """The parts on which it is played."""

    airflow: Airflow
    cluster: Cluster
    picture: Picture
    replicas: Replicas
    audit: AuditTail


@dataclass
class Director:
    """Plays one plan on one stage."""

    plan: Plan
    stage: Stage
    plays: list[tuple[Scenario, Play]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    weather: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)
    diary: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.plan.seed)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._scheduling = threading.Lock()
        self._size = 0
        self._due: dict[str, float] = {}
        self._active: list[Play] = []
        self._playing: Counter[str] = Counter()
        self._started = time.monotonic()
        self._counts: tuple[float, dict[str, int]] = (-math.inf, {})

    # Counting

    def counts(self, *, fresh: bool = False) -> dict[str, int]:
        """What has happened so far of what the quotas ask for; some seconds old unless it is to be fresh."""
        with self._lock:
            due, counts = self._counts
            began = time.monotonic()
            if fresh or began >= due:
                counts = self._count()
                took = time.monotonic() - began
                self._counts = began + max(2, 20 * took), counts
            return counts

    def _count(self) -> dict[str, int]:
        picture, audit = self.stage.picture, self.stage.audit
        audit.update()
        rulings = [verdict.rule(picture, d) for d in list(audit.deletions) if d.by == "healer" and d.accepted]
        kinds = Counter(ruling.kind for ruling in rulings)
        return {
            "runs": sum(1 for key in list(picture.pods_of)),
            "tries": len(picture.pods),
            "adopted": len(verdict.adoptions(picture)),
            "cleared": verdict.cleared_after_end(picture),
            "twins": kinds["superseded"],
            "handed over": verdict.hand_overs(picture),
            "orphans": kinds["orphan"],
            "taken over": len(audit.take_overs),
        }

    def quotas(self) -> dict[str, int]:
        """The least that each count must reach."""
        several = len(self.stage.replicas.all) > 1
        wanted = {name: math.ceil(share * self.plan.runs) for name, share in SHARES.items()}
        return {name: count for name, count in wanted.items() if several or name != "taken over"}

    def lacking(self, *, fresh: bool = False) -> dict[str, int]:
        """The quotas that are not met, and by how much."""
        counts = self.counts(fresh=fresh)
        lacks = {name: quota - counts[name] for name, quota in self.quotas().items()}
        return {name: lack for name, lack in lacks.items() if lack > 0}

    # Playing

    def play(self) -> None:
        """All of it; returns when every run has come to its end, or can't."""
        workers = [threading.Thread(target=self._work, name=f"play-{n}") for n in range(self.plan.at_once)]
        weather = [threading.Thread(target=self._weather, args=(kinds,), name=kinds[0]) for kinds in STREAMS]
        others = [threading.Thread(target=self._conclude, name="conclude"), *weather]
        for thread in (*workers, *others):
            thread.start()
        try:
            self._join(workers)
            # Quick runs may all be over before a Lease can end: the weather goes on until one has.
            self._wait(lambda: "taken over" not in self.lacking(fresh=True), TAKE_OVER)
            self._stop.set()
            for thread in weather:
                thread.join()
            self._clear_up()
            self._settle()
        finally:
            self._stop.set()
            for thread in (*workers, *others):
                thread.join()

    def _join(self, workers: list[threading.Thread]) -> None:
        told = time.monotonic()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.5)
            self._look_after_scheduler()
            if time.monotonic() - told > 30:
                told = time.monotonic()
                self.tell()

    def tell(self) -> None:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        say(f"{time.monotonic() - self._started:5.0f} s: {counts}; going on: {len(self._active)}")

    def _more(self) -> bool:
        """Whether another run is to be started."""
        if self._stop.is_set():
            return False
        if self._size < self.plan.runs or time.monotonic() < self._started + self.plan.minutes * 60:
            return True
        return self._size < self.plan.runs * OVERTIME + 40 and bool(self.lacking())

    def _work(self) -> None:
        while self._more():
            if self._too_fast():
                self._stop.wait(0.5)
                continue
            try:
                self._one(self._next())
            except MissedError:
                pass
            except TROUBLE as error:
                self.trouble.append(in_words(error))
                self._stop.wait(1)

    def _too_fast(self) -> bool:
        """Whether the runs that go on wait for something (a scheduler, a timeout), or the weather can't keep up.

        Where a duration is asked for, the runs are spread over it, at most a few times as many as are asked for.
        """
        if self.plan.minutes:
            elapsed = (time.monotonic() - self._started) / (self.plan.minutes * 60)
            if self._size > AT_MOST * self.plan.runs * elapsed + self.plan.at_once:
                return True
        late = max(self._behind(kind) for kind in WEATHER)
        return len(self._active) >= self.plan.at_once * 2 or late > LATE

    def _next(self) -> tuple[Scenario, Play]:
        """A scenario by chance, more often one that feeds a quota which lags behind; and its run, not yet started."""
        counts = self.counts()
        with self._lock:
            done = min(1.0, (self._size + 1) / self.plan.runs)
            behind = {
                name: quota * MARGIN * done - counts[name] - self._playing[name]
                for name, quota in self.quotas().items()
                if name != "taken over"
            }
            most = max(behind, key=lambda name: behind[name])
            steered = behind[most] > 0 and self._dice.random() < 0.6
            two = isinstance(self.stage.airflow, Airflow2)
            choice = [one for one in SCENARIOS if (two or not one.two) and (not steered or one.feeds == most)]
            scenario = self._dice.choices(choice, [one.weight for one in choice])[0]
            dag = self._dice.choice(scenario.dags)
            number = len(self.plays)
            hashed = self._dice.random() < 0.3
            run = f"chaos__2026-11-22T00:00:00+00:00_{number:05}" if hashed else f"chaos-{self.plan.seed}-{number:05}"
            dice = random.Random(f"{self.plan.seed} {number}")
            stage = self.stage
            play = Play(stage.airflow, stage.cluster, stage.picture, dice, dag, run, task_of(dag), clock=time.time)
            self._size += size_of(dag)
            self.plays.append((scenario, play))
            return scenario, play

    def _one(self, both: tuple[Scenario, Play]) -> None:
        scenario, play = both
        feeds = scenario.feeds or ""
        self._playing[feeds] += 1
        try:
            play.note(f"trigger {play.dag} for {scenario.name!r}")
            play.airflow.trigger(play.dag, play.run, configuration(scenario, play.run, play.airflow.namespace))
            self._active.append(play)
            scenario.play(play)
            self.done[scenario.name] += 1
        except MissedError:
            self.missed[scenario.name] += 1
        except TROUBLE as error:
            raise LabError(f"{scenario.name!r} on {play.dag} {play.run}: {in_words(error)}") from error
        finally:
            self._playing[feeds] -= 1
            play.finished = time.monotonic()

    # Ends

    def _conclude(self) -> None:
        """Ends the work of Pods whose scenario is over, so that every run ends."""
        while not self._stop.wait(1) or self._active:
            for play in list(self._active):
                with contextlib.suppress(*TROUBLE):
                    if self._is_over(play):
                        self._active.remove(play)
            if self._stop.is_set() and time.monotonic() > self._given_up:
                return

    _given_up: float = math.inf

    def _is_over(self, play: Play) -> bool:
        if play.finished is None or time.monotonic() < play.finished + SETTLING:
            return False
        keys = self.stage.picture.keys(play.dag, play.run)
        state = self.stage.picture.run_state(play.dag, play.run)
        if state in {"success", "failed", "deleted"} and all(play.state(key) in ENDED for key in keys):
            return True
        for key in keys:
            if play.state(key) not in ENDED:
                for pod in self.stage.picture.pods_of.get(key, ()):
                    if pod.alive and not pod.last.done and pod.uid not in play.ended and pod.last.phase == "Running":
                        play.end_pod(pod, sidecar="xcom" in play.dag)
                        play.ended.add(pod.uid)
        return False

    def _clear_up(self) -> None:
        """Everything runs again and every gate is open."""
        self.stage.replicas.open_gates()
        with self.stage.replicas.lock:
            for replica in self.stage.replicas.all:
                replica.thaw() if replica.frozen else None
        self._note("the weather is fine from here on")

    def _settle(self) -> None:
        """Waits until the runs have ended, then until no Pod is left that ought to go."""
        picture = self.stage.picture
        self._wait(lambda: not self._active, PATIENCE / 2)
        for play in list(self._active):
            with contextlib.suppress(*TROUBLE):
                self._note(f"mark {play.dag} {play.run} failed: it does not end")
                play.airflow.mark_run(play.dag, play.run, "failed")
        self._wait(lambda: not self._active, PATIENCE / 4)
        self._given_up = time.monotonic()
        self._wait(lambda: not verdict.unexplained(picture), PATIENCE)
        self.stage.audit.update()

    def _wait(self, condition: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            time.sleep(1)
            self._look_after_scheduler()

    # Weather

    def _note(self, what: str) -> None:
        self.diary.append((time.time(), what))

    def _weather(self, kinds: Sequence[str]) -> None:
        """Each of these kinds of event as often as its share says, spread over the runs, one after another."""
        dice = random.Random(f"{self.plan.seed} {kinds}")
        self._due.update({kind: dice.uniform(0.3, 1.0) for kind in kinds})
        while not self._stop.wait(0.5):
            for kind in kinds:
                if not self._stop.is_set() and self._behind(kind) >= 0:
                    self._event(kind, dice)
                    self._due[kind] += dice.uniform(0.7, 1.3)
            if "leader" in kinds and "taken over" in self.lacking() and self._size >= self.plan.runs:
                self._event("leader", dice)
                self._stop.wait(LEASE_DURATION)

    def _behind(self, kind: str) -> float:
        """How many events of this kind are overdue; negative before the next one."""
        return WEATHER[kind] * self.plan.storm * self._size - self._due.get(kind, math.inf)

    def _event(self, kind: str, dice: random.Random) -> None:
        try:
            {
                "leader": lambda: self._hurt(self.stage.replicas.leader(), dice),
                "follower": lambda: self._hurt(self._follower(), dice),
                "kube gate": lambda: self._fault("kube", dice),
                "airflow gate": lambda: self._fault("airflow", dice),
                "triggerer": lambda: self._triggerer(dice),
                "scheduler": self._scheduler,
                "api server": self._api_server,
                "etcd": self._etcd,
            }[kind]()
        except TROUBLE as error:
            self.trouble.append(f"{kind}: {in_words(error)}")

    def diary_around(self, pod: PodStory) -> list[tuple[float, str]]:
        """The weather from the Pod's first to its last sight."""
        end = pod.gone or math.inf
        return [(at, what) for at, what in list(self.diary) if pod.created - 5 <= at <= end + 5]

    def _did(self, what: str) -> None:
        self.weather[what] += 1
        self._note(what)

    def _follower(self) -> Replica | None:
        leader = self.stage.replicas.leader()
        return next((replica for replica in self.stage.replicas.all if replica is not leader), None)

    def _hurt(self, replica: Replica | None, dice: random.Random) -> None:
        if replica is None:
            return
        how = (
            "freeze" if replica.steady and len(self.stage.replicas.all) > 1 else dice.choice(("kill", "term", "freeze"))
        )
        role = "leader" if replica.leads() else "follower"
        with self.stage.replicas.lock:
            if not replica.process.running:
                return
            self._did(f"{role}: {how}")
            if how == "freeze":
                replica.freeze()
            elif how == "kill":
                replica.process.kill()
            else:
                replica.process.stop(timeout=30)
            if how != "freeze":
                self._stop.wait(dice.uniform(0, 6))
                replica.start()
        if how == "freeze":
            self._stop.wait(dice.choice((1.0, 4.0, LEASE_DURATION + 4, LEASE_DURATION + 4, LEASE_DURATION + 10)))
            with self.stage.replicas.lock:
                replica.thaw()

    def _fault(self, side: str, dice: random.Random) -> None:
        """One gate fails in one way for some seconds; now and then both replicas' gates at once."""
        fault, replicas = dice.choice(FAULTS), self.stage.replicas.all
        chosen = replicas if dice.random() < 0.3 else [dice.choice(replicas)]
        gates = [getattr(replica, side) for replica in chosen]
        self._did(f"{side} gate: {fault}")
        for gate in gates:
            gate.set(fault)
        self._stop.wait(dice.choice((0.5, 2.0, 5.0, 10.0)))
        for gate in gates:
            gate.set(None)

    def _triggerer(self, dice: random.Random) -> None:
        if dice.random() < 0.5:
            self._did("triggerer: killed, another one is up")
            self.stage.airflow.lose_triggerer()
        else:
            self._did("triggerer: killed and restarted")
            self.stage.airflow.triggerer.kill()
            self._stop.wait(dice.uniform(0, 5))
            self.stage.airflow.triggerer.start()

    def _scheduler(self) -> None:
        with self._scheduling:
            self._did("scheduler: killed with all its task processes, and restarted")
            self.stage.airflow.scheduler.kill()
            self.stage.airflow.scheduler.start()

    def _look_after_scheduler(self) -> None:
        """One that has ended or fallen silent by itself is started again, as by Kubernetes and a liveness probe.

        Airflow 2's does so where a run is deleted while it writes the states of all runs (StaleDataError): its loop
        ends, and it waits for its tasks, which wait for a scheduler.
        """
        with self._scheduling:
            scheduler = self.stage.airflow.scheduler
            try:
                if scheduler.running and self.stage.airflow.scheduler_silence() < SILENT:
                    return
            except sqlite3.OperationalError:  # it is being written to for longer than one may wait
                return
            self._did("scheduler: fell silent by itself, and restarted")
            scheduler.kill()
            with contextlib.suppress(*TROUBLE):
                scheduler.start()

    def _api_server(self) -> None:
        self._did("API server: killed and restarted")
        self.stage.cluster.apiserver.kill()
        self.stage.cluster.apiserver.start()

    def _etcd(self) -> None:
        self._did("etcd: killed and restarted")
        self.stage.cluster.etcd.kill()
        self.stage.cluster.etcd.start()
