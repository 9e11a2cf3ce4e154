"""A world without servers: an Airflow and a cluster that answer from dictionaries, and a clock that a test turns.

The fakes keep the contracts of the real ones where a test could be fooled otherwise: a DELETE looks at the age of its
proof, the right to act and both preconditions; every Airflow answer is dated when it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from healer.cluster import Listing
from healer.config import AirflowConfig, Config
from healer.decision.quarantine import Now
from healer.deletion import pod_deleter
from healer.deletion.pod_deleter import Evidence
from healer.errors import ClusterError, ResourceExpiredError
from healer.informer import PodStore
from healer.leader_election import AlwaysLeader, LeadershipCheck
from healer.model import (
    SELECTOR,
    Absent,
    Answer,
    DeleteResult,
    DeleteStatus,
    Finding,
    Known,
    NamedPods,
    PassKind,
    Pod,
    Requirement,
    TaskInstance,
    Unknown,
    Withheld,
)
from healer.reconciler import Dependencies, Reconciler
from healer.schedule import Schedule
from healer.telemetry.findings import FindingView
from healer.telemetry.metrics import Metrics
from tests.unit.strategies import NO_SOURCE, a_pod, a_task, ended

FRESHNESS = 15.0
LISTED = "1000000"
"""The resourceVersion of a LIST: later than that of any Pod."""

EPOCH = 1_000_000.0
"""What the API server's clock shows when ours shows 0."""

ORPHANED = Known(0.0, ended("failed", end_date=None), NO_SOURCE)
"""Ended, at a time that Airflow has lost: so that no Pod postdates it."""
RUNNING = Known(0.0, a_task("running"))
NOT_KNOWN = Unknown(0.0, "500")

always_leader = AlwaysLeader().is_leader


class Clock:
    """Monotonic seconds that only a test moves."""

    def __init__(self) -> None:
        self.time = 5000.0

    def __call__(self) -> float:
        return self.time

    @property
    def server(self) -> float:
        """What the API server's clock shows."""
        return EPOCH + self.time

    def now(self) -> Now:
        """Both clocks."""
        return Now(self.time, self.server)

    def forward(self, seconds: float) -> None:
        self.time += seconds


class FakeAirflow:
    """Answers by Pod uid; `calls` tells which questions were asked about whom."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers: dict[str, Answer] = {}
        self.calls: list[tuple[str, list[str]]] = []
        self.down = False
        self.slow = 0.0
        """Seconds that one question takes."""
        self.journal: list[tuple[str, tuple[str, ...]]] = []
        """What was asked and deleted, in order; shared with the cluster."""
        self.named: dict[str, NamedPods] = {}
        """Which Pod the latest try of a Pod's task instance names."""
        self.forgotten: set[str] = set()
        self.audits = 0
        self.at_ask: Callable[[Sequence[Pod]], None] = lambda _pods: None
        """Called when `ask_each` is, before it answers."""
        self.version: str | None = "3.3.2"
        self.set_aside = 0

    def troubles(self) -> dict[str, str]:
        return {"task instances": "500"} if self.set_aside else {}

    def start_audit(self) -> None:
        self.audits += 1

    def forget(self, uids: Iterable[str]) -> None:
        self.forgotten |= set(uids)

    def get_all(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        return self._answer("look", pods)

    def get_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        self.at_ask(pods)
        return self._answer("ask_each", pods)

    def list_recently_ended(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        answers = self._answer("ended_lately", pods)
        return {uid: answer for uid, answer in answers.items() if self._is_news(answer)}

    def get_current_pods(self, cases: Sequence[tuple[Pod, TaskInstance]]) -> dict[str, NamedPods]:
        self.journal.append(("current", tuple(pod.uid for pod, _ in cases)))
        return {pod.uid: self.named.get(pod.uid, NamedPods()) for pod, _ in cases}

    def asked(self, question: str) -> list[list[str]]:
        """Return about whom a question was asked, call by call."""
        return [uids for name, uids in self.calls if name == question]

    @staticmethod
    def _is_news(answer: Answer) -> bool:
        ended_states = {"success", "failed", "skipped", "upstream_failed"}
        return isinstance(answer, Unknown) or (isinstance(answer, Known) and answer.task.state in ended_states)

    def _answer(self, question: str, pods: Sequence[Pod]) -> dict[str, Answer]:
        assert pods, "no Pods, no call"
        self.calls.append((question, [pod.uid for pod in pods]))
        self.journal.append((question, tuple(pod.uid for pod in pods)))
        sent = self._clock()
        self._clock.forward(self.slow)
        if self.down:
            return {pod.uid: Unknown(sent, "Airflow is down") for pod in pods}
        return {pod.uid: replace(self.answers.get(pod.uid, Absent(0.0, "no DAG")), sent=sent) for pod in pods}


def takes_deletes(cluster: Any) -> None:
    """Let a cluster that is a fake get the DELETEs itself: only a real one has a transport for `PodDeleter`."""
    pod_deleter._OF[cluster] = cluster


class FakeCluster:
    """Pods by uid, deleted as an API server does; `deletes` are the DELETEs that were sent."""

    def __init__(self, clock: Clock, freshness: float = FRESHNESS) -> None:
        self._clock, self._freshness = clock, freshness
        takes_deletes(self)
        self.pods: dict[str, Pod] = {}
        self.deletes: list[tuple[Pod, Finding]] = []
        self.reads: list[str] = []
        self.lists: list[str] = []
        self.results: dict[str, list[DeleteResult]] = {}
        """What the next DELETEs of a Pod are answered with, whatever the cluster would do."""
        self.unreadable: dict[str, ClusterError] = {}
        self.vacant: dict[str, str] = {}
        """Namespaces where a GET or LIST fails."""
        """Pods that the selector does not find."""
        self.knows_time = True
        self.at_delete: Callable[[Pod], None] = lambda _pod: None
        self.events: list[tuple[str, str, str]] = []
        self.journal: list[tuple[str, tuple[str, ...]]] = []

    def add(self, *pods: Pod) -> None:
        """Put Pods there, or others in their place."""
        self.pods |= {pod.uid: pod for pod in pods}

    def change(self, uid: str, **fields: Any) -> Pod:
        """Write to a Pod: its resourceVersion changes too."""
        pod = self.pods[uid]
        self.pods[uid] = replace(pod, resource_version=str(int(pod.resource_version) + 1), **fields)
        return self.pods[uid]

    def now(self) -> float | None:
        return self._clock.server if self.knows_time else None

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        self.reads.append(f"{namespace}/{name}")
        self.journal.append(("get", (name,)))
        if namespace in self.unreadable:
            raise self.unreadable[namespace]
        return next((pod for pod in self.pods.values() if (pod.namespace, pod.name) == (namespace, name)), None)

    def unmet_requirements(self, _namespace: str, _name: str) -> tuple[Requirement, ...]:
        return SELECTOR[:1]

    def list_pods(self, namespace: str) -> Listing:
        self.lists.append(namespace)
        if namespace in self.unreadable:
            raise self.unreadable[namespace]
        return Listing([pod for pod in self.selected() if pod.namespace == namespace], LISTED)

    def why_empty(self, namespace: str) -> str | None:
        return self.vacant.get(namespace)

    def namespace_exists(self, namespace: str) -> bool | None:
        return namespace not in self.vacant

    def selected(self) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.selected]

    def delete_pod(self, pod: Pod, proof: Evidence, right: LeadershipCheck) -> DeleteResult:
        self.at_delete(pod)
        if not 0 <= self._clock() - proof.sent <= self._freshness or not right():
            return DeleteResult(DeleteStatus.STALE, "nothing was sent")
        self.deletes.append((pod, proof.finding))
        self.journal.append(("delete", (pod.uid,)))
        scripted = self.results.get(pod.uid)
        return scripted.pop(0) if scripted else self._delete(pod)

    def _delete(self, pod: Pod) -> DeleteResult:
        there = next((p for p in self.pods.values() if (p.namespace, p.name) == (pod.namespace, pod.name)), None)
        if there is None:
            return DeleteResult(DeleteStatus.GONE, "gone")
        if (there.uid, there.resource_version) != (pod.uid, pod.resource_version):
            return DeleteResult(DeleteStatus.CONFLICT, "changed")
        del self.pods[pod.uid]
        return DeleteResult(DeleteStatus.DELETED, "deleted")

    def post_event(self, pod: Pod, reason: str, message: str, *, warning: bool = False, suffix: str = "") -> None:
        self.events.append((pod.uid, reason, message))


class FakeRecorder:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any]] = []
        self.causes: dict[str, str | None] = {}

    def record_detected(
        self,
        pod: Pod,
        finding: Finding,
        action: Any,
        withheld: Withheld | None,
        cause: Any,
        *,
        due: float | None = None,
    ) -> None:
        self.told.append((pod.uid, "detected", withheld))
        self.causes[pod.uid] = cause and cause.cause.value

    def record_deletion(self, pod: Pod, finding: Finding, outcome: DeleteResult, cause: Any) -> None:
        self.told.append((pod.uid, "deletion", outcome.status))
        self.causes[pod.uid] = cause and cause.cause.value


def gone(message: str = "forgot") -> ClusterError:
    """Return an error of the API server."""
    return ResourceExpiredError(message)


def an_airflow(**changes: Any) -> AirflowConfig:
    """Return a configuration; changes are written as in the file."""
    basics = {
        "name": "default",
        "namespaces": ["airflow"],
        "ownership": "exclusive",
        "mode": "enforce",
        "url": "http://airflow:8080",
        "token": "t",
    }
    return AirflowConfig.model_validate(basics | changes)


UNLIMITED = {"deletionsPerMinute": None, "breaker": {"maxShare": 1}}
PROMPT = {"minAge": "0s", "grace": "0s", "absentGrace": "0s", "sightings": 1}


class World:
    """A reconciler with all that it needs, and hands to turn the world around it."""

    def __init__(self, **changes: Any) -> None:
        self.config = an_airflow(**{"limits": UNLIMITED, **changes})
        self.clock = Clock()
        self.airflow = FakeAirflow(self.clock)
        self.cluster = FakeCluster(self.clock)
        self.journal = self.cluster.journal = self.airflow.journal
        self.recorder = FakeRecorder()
        self.metrics = Metrics(Config(airflows=(self.config,)))
        self.right, self.lifted = True, False
        self.unreadable: dict[str, str] = {}
        self.store = PodStore()
        tools = Dependencies(
            self.cluster,  # type: ignore[arg-type]
            self.recorder,  # type: ignore[arg-type]
            self.metrics,
            lambda: self.right,
            self.clock,
            lambda: 0.0,
            overridden=lambda _airflow: self.lifted,
            store=self.store,
            deleter=self.cluster,  # type: ignore[arg-type]
        )
        self.reconciler = Reconciler(self.config, self.airflow, tools)  # type: ignore[arg-type]

    def pod(self, uid: str, answer: Answer = ORPHANED, *, age: float = 100_000.0, **changes: Any) -> Pod:
        """Put a Pod there, and what Airflow says of it."""
        created = self.clock.server - age
        pod = a_pod(**{"uid": uid, "name": f"pod-{uid}", "created": created, **changes})
        self.cluster.add(pod)
        self.airflow.answers[uid] = answer
        return pod

    def run(self, kind: PassKind = PassKind.FULL) -> None:
        """Make one pass."""
        self.reconciler.reconcile(self.listed(self.cluster.selected()), kind, self.unreadable)

    def listed(self, pods: Iterable[Pod]) -> list[Pod]:
        """Return what the store shows once a LIST has brought these Pods."""
        found, started = list(pods), self.store.generation()
        for namespace in {pod.namespace for pod in (*found, *self.store.list_pods())} | {*self.config.namespaces}:
            there = [pod for pod in found if pod.namespace == namespace]
            self.store.replace(namespace, Listing(there, ""), started)
        return self.store.list_pods()

    def audit(self) -> None:
        self.run(PassKind.AUDIT)

    def due(self) -> None:
        self.run(PassKind.DUE)

    def wait(self, seconds: float) -> None:
        self.clock.forward(seconds)

    def live(self, seconds: float, *, interval: float = 60.0, audit: float = 600.0) -> int:
        """Let the controller's schedule run for a while. Return how many passes it made."""
        times = {"interval": f"{interval}s", "auditInterval": f"{audit}s"}
        schedule = Schedule(Config.model_validate({"airflows": [self.config], **times}), self.clock())
        end, passes = self.clock() + seconds, 0
        while self.clock() < end:
            self.run(schedule.next(self.clock()))
            passes += 1
            self.clock.forward(schedule.pause(self.clock(), self.reconciler.next_event()))
        return passes

    @property
    def deleted(self) -> list[str]:
        """The uids that DELETEs were sent for, in their order."""
        return [pod.uid for pod, _ in self.cluster.deletes]

    def shown(self, uid: str) -> FindingView:
        """Return how a Pod is shown now."""
        return next(each for each in self.reconciler.findings() if each.pod.uid == uid)

    def reason(self, uid: str) -> str:
        return self.shown(uid).finding.reason.value

    def metric(self, name: str, **labels: str) -> float:
        """Return a figure of this Airflow."""
        value = self.metrics.registry.get_sample_value(f"kpo_healer_{name}", {"airflow": "default", **labels})
        assert value is not None, f"{name} has no series {labels}"
        return value
