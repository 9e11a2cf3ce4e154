"""Many faults at a time: each has an Airflow of its own in one kpo-healer's configuration, with its own proxy before
one and the same real API server, its own DAG and its own Pods.

In each lane the same Pods: `used` by a running task; `adopted` by a later try; `between` two tries; `copied`, as
Airflow names another Pod for its ended task; and `orphan`, whose task fails when the fault has begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from healer.decision.labels import safe_label
from healer.model import OWNER_LABEL
from tests.e2e.world import RUN, World, ago
from tests.faults.airflow_cases import Case
from tests.faults.proxy import FaultProxy, Json, Rule
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.healer import Installation, Running
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for

PATIENCE: Final = 300.0
"""Seconds that anything may take on a busy machine."""

STATES: Final[Mapping[str, Mapping[str, Any]]] = {
    "used": {"state": "running"},
    "adopted": {"state": "running", "try_number": 2, "max_tries": 2},
    "between": {"state": "up_for_retry", "max_tries": 2},
    "copied": {"state": "failed"},
    "orphan": {"state": "running"},
}
"""The task instances of each lane while all is well; all Pods are of the first try."""


@dataclass(frozen=True)
class More:
    """A task instance of one lane alone, with a Pod of its own or without."""

    run: str
    task: str
    state: str
    has_pod: bool = True


MORE: Final[Mapping[str, Sequence[More]]] = {
    "restored": [More("today", "young", "running")],
    "slow": [More(RUN, "cleared", "running")],
    "other-airflow-with-same-ids-nameless": [More(RUN, f"used-too-{n}", "running") for n in range(4)],
    # The label of a run id that had to be changed may be the very id of another run.
    "short-page": [
        More("nightly load", "twin", "failed"),
        More(safe_label("nightly load"), "twin", "running", has_pod=False),
    ],
}


@dataclass
class Lane:
    """One fault, and what it is tried on."""

    case: Case
    world: World
    proxy: FaultProxy
    meanwhile: list[str] = field(default_factory=list)
    """Whose Pods a DELETE was sent for while the fault lasted."""
    missing: list[str] = field(default_factory=list)
    """What should have been seen while the fault lasted, and was not."""
    came: set[str] = field(default_factory=set)
    """What was seen while it lasted, be it for a moment."""
    cleared: bool = False
    _rules: list[Rule] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def dag(self) -> str:
        return f"{self.world.dag}_{self.name}"

    def pod_name(self, task: str) -> str:
        return f"{self.name}-{task}"

    @property
    def pods(self) -> dict[str, str]:
        """The task of each Pod, by the Pod's name."""
        return {self.pod_name(task): task for task in (*STATES, *(one.task for one in self._more if one.has_pod))}

    @property
    def keeps(self) -> set[str]:
        """The tasks whose Pods must outlive it all."""
        return set(self.pods.values()) - {"orphan"}

    @property
    def _more(self) -> Sequence[More]:
        return MORE.get(self.name, ())

    # What there is

    def seed(self, **fields: Mapping[str, Any]) -> Dag:
        """The lane's DAG; fields: what is different, by task."""
        runs: dict[str, list[Task]] = {RUN: []}
        for task, usual in STATES.items():
            named = {"pod": self.named(task), "xcom": self.named(task)}
            runs[RUN].append(self.world.task(task, **{**usual, **named, **fields.get(task, {})}))
        for one in self._more:
            row = {"state": one.state, **fields.get(one.task, {})}
            runs.setdefault(one.run, []).append(self.world.task(one.task, **row))
        return Dag(self.dag, runs=[Run(run, tasks=tasks) for run, tasks in runs.items()])

    def named(self, task: str) -> str | None:
        """The Pod that Airflow names for a task, in all places where KPO writes it down."""
        return {"adopted": self.pod_name(task), "copied": "the-real-one"}.get(task)

    def bodies(self) -> Iterator[Json]:
        """The Pods."""
        yield from (self._body(RUN, task) for task in STATES)
        yield from (self._body(one.run, one.task) for one in self._more if one.has_pod)

    def _body(self, run: str, task: str) -> Json:
        return kpo_pod(
            dag_id=self.dag,
            task_id=task,
            run_id=run,
            name=self.pod_name(task),
            namespace=self.world.namespace,
            labels={OWNER_LABEL: self.name},
        )

    def entry(self, like: Json) -> Json:
        """The lane's Airflow in the configuration."""
        own = {"name": self.name, "ownership": "stamped", "url": self.proxy.url, **self.case.settings}
        return {**like, **own, "policy": dict(self.case.policy), "limits": dict(self.case.limits)}

    # What happens

    def begin(self) -> None:
        """The fault sets in."""
        if self.case.refused:
            self._stack.enter_context(self.proxy.refused())
        self._rules = [self.proxy.rule(one.fault, when=one.when, times=one.times) for one in self.case.breaks]

    @property
    def met(self) -> bool:
        """Whether everything that is broken was asked for."""
        return all(rule.hits for rule in self._rules)

    def end(self) -> None:
        """All is well again."""
        self._stack.close()
        for rule in self._rules:
            rule.lift()
        self.proxy.target = self.world.airflow.url

    def fail(self, task: str = "orphan") -> None:
        """The task fails."""
        self.world.airflow.act(self.dag, RUN, task, "fail")

    def alive(self) -> set[str]:
        """The tasks whose Pods are there and not on their way out."""
        names = self.world.names()
        return {task for pod, task in self.pods.items() if pod in names}

    def deleted(self, sent: Sequence[str] | None = None) -> list[str]:
        """The tasks whose Pods kpo-healer sent a DELETE for, in order. sent: the names, where they are known."""
        names = [event.name for event in self.world.deletes()] if sent is None else sent
        return [self.pods[name] for name in names if name in self.pods]


class Watched:
    """A kpo-healer that runs for some lanes. Its figures are those of the last `refresh`: there are many lanes."""

    def __init__(self, running: Running, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self._metrics = httpx.Client(base_url=running.url, timeout=60, trust_env=False)
        self._samples: list[Sample] = []
        self._before = 0.0

    def refresh(self) -> None:
        text = self._metrics.get("/metrics").text
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def close(self) -> None:
        self._metrics.close()

    def figure(self, name: str, lane: Lane | None = None, **labels: str) -> float:
        """The sum of all series of this name with these labels, of one lane or of all."""
        wanted = {**labels, **({"airflow": lane.name} if lane else {})}.items()
        return sum(s.value for s in self._samples if s.name == f"kpo_healer_{name}" and wanted <= s.labels.items())

    def wait_judged(self) -> None:
        """Until each Pod was asked about."""
        wait_for(self._is_judged, timeout=PATIENCE, what="every Pod to be judged", interval=0.5)

    def _is_judged(self) -> bool:
        self.refresh()
        known = self.figure("pods") - self.figure("pods", reason="airflow-unknown")
        return known == sum(len(lane.pods) for lane in self.lanes)

    def mark(self) -> None:
        """From here on audits are counted."""
        self.refresh()
        self._before = self._lists()

    def wait_audits(self, audits: int) -> None:
        """Until that many were made since the mark."""

        def made() -> bool:
            self.refresh()
            return self.audits >= audits

        wait_for(made, timeout=PATIENCE, what=f"{audits} audits", interval=0.5)

    @property
    def audits(self) -> float:
        """How often it has asked about everything since the mark."""
        return self._lists() - self._before

    def _lists(self) -> float:
        """An audit begins with a LIST of the Pods."""
        return self.figure("kubernetes_requests_total", verb="list")


@contextmanager
def watched(world: World, lanes: Sequence[Lane], **settings: Any) -> Iterator[Watched]:
    """A kpo-healer in enforce mode for these lanes, once it has judged every Pod. settings: top-level keys."""
    installation: Installation = world.installation()
    (like,) = installation.config["airflows"]
    installation.config["airflows"] = [lane.entry(like) for lane in lanes]
    # This is not about replicas, and there are several healers in one namespace.
    installation.config |= {"leaderElection": {"enabled": False}, **settings}
    with installation.run(mode="enforce") as running:
        made = Watched(running, lanes)
        with closing(made):
            made.wait_judged()
            yield made


def make(lanes: Sequence[Lane]) -> None:
    """Makes the rows and the Pods of all lanes."""
    world = lanes[0].world
    world.airflow.seed([lane.seed() for lane in lanes])
    world.cluster.create_pods((body for lane in lanes for body in lane.bodies()), connections=8)
    world.wait(lambda: _all_running(world), "all Pods to run", timeout=PATIENCE)


def _all_running(world: World) -> bool:
    return all(pod["status"].get("phase") == "Running" for pod in world.cluster.pods(world.namespace))


# --- other truths behind the same address -----------------------------------------------------------------------------


def restore(lane: Lane) -> None:
    """The lane's part of the database as it was yesterday: today's run is unknown, today's tries have not been made."""
    airflow = lane.world.airflow
    for table in ("rendered_task_instance_fields", "task_instance", "dag_run"):
        airflow.sql(f"delete from {table} where dag_id = ? and run_id = 'today'", lane.dag)
    yesterday = ago(days=1).isoformat()
    for task in ("used", "orphan"):
        airflow.update(lane.dag, RUN, task, state=None, try_number=0, start_date=None, end_date=None)
    for task in ("adopted", "between"):
        airflow.update(lane.dag, RUN, task, state="success", try_number=1, end_date=yesterday)


def bring_back(lane: Lane) -> None:
    """The lane's part of the database as it was before it was restored; the orphan's task has failed."""
    airflow = lane.world.airflow
    airflow.seed([Dag(lane.dag, runs=[run for run in lane.seed().runs if run.run_id == "today"])])
    for task in ("used", "adopted", "between"):
        columns = {"try_number": 1, **STATES[task], "end_date": None}
        columns.pop("max_tries", None)
        airflow.update(lane.dag, RUN, task, **columns)
    airflow.update(lane.dag, RUN, "orphan", try_number=1)
    lane.fail()


def seed_elsewhere(lane: Lane, airflow: Airflow) -> None:
    """What another Airflow has of the lane's DAG, if anything. Before 3.3 Pods are named by XComs alone."""
    if lane.name == "upgraded":
        airflow.seed([lane.seed(**{task: {"pod": None} for task in STATES})])
    elif lane.name.startswith("other-airflow-with-same-ids"):
        named = None if lane.name.endswith("nameless") else "its-own-pod"
        done = {"state": "success", "try_number": 1, "pod": None, "xcom": named}
        airflow.seed([lane.seed(**dict.fromkeys(lane.pods.values(), done))])
