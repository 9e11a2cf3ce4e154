"""The demo's judgement is worth something: with a fault in kpo-healer it turns out badly, and without one it does not.

The same verdict as in the demo, on a smaller cast: real Pods on the real API server, real answers of Airflow's API to
rows that were put into its database. One lab for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.lab import healer as lab
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.audit import AuditEvent
from tests.lab.demo import verdict
from tests.lab.demo.cast import Fate, Json, Role
from tests.lab.demo.verdict import Evidence, Row
from tests.lab.door import Door
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.pods import kpo_pod

POLICY = {
    "minAge": "0s",
    "grace": "1s",
    "absentGrace": "1s",
    "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"},
}
WITHOUT_BREAKER = {"breaker": {"maxShare": 1.0}}
"""So that a fault does all the harm it can: by default the breaker would stop the worst of them."""

PASSES = 14
"""Passes are half a second apart at the least: enough to be seen twice, to ripen, to be confirmed and deleted."""


@dataclass
class Scene:
    """Four task instances and six Pods of one DAG."""

    cluster: Cluster
    airflow: Airflow
    namespace: str
    cast: dict[str, Role] = field(default_factory=dict)

    @property
    def dag(self) -> str:
        return f"dag-{self.namespace}"

    def set_up(self) -> None:
        spaced = Run("nightly load", [self._task("work", "running")])
        # The newer run: who takes the first that looks alike takes this one.
        colon = Run("nightly:load", [self._task("work", "failed", try_number=2)])
        plain = Run("plain", [self._task(name, state) for name, state in _STATES.items()])
        self.airflow.seed([Dag(self.dag, runs=[spaced, colon, plain])])
        self._add("alive", "plain", "alive", Fate.LIVES, "in-use")
        self._add("dead", "plain", "dead", Fate.HEALED, "orphaned")
        self._add("ahead", "plain", "dead", Fate.LIVES, "try-ahead", try_number=2)
        # Stamped: else Airflow's name for the other run's Pod would save it whatever its labels are taken for.
        stamp = {"kpo-healer.io/airflow": "demo"}
        self._add("spaced", "nightly load", "work", Fate.LIVES, "in-use", labels=stamp)
        self._add("colon", "nightly:load", "work", Fate.HEALED, "orphaned")
        for name in self.cast:
            self.cluster.wait_pod(self.namespace, name, timeout=240)  # a Pod that changes later is a conflict
        self._add("renamed", "plain", "renamed", Fate.GOES, "orphaned", annotations=_UNSCHEDULED)

    def take_the_name(self) -> None:
        """A running task's new Pod gets the name of the Pod that is just being judged."""
        self.cluster.delete_pod(self.namespace, "renamed", grace=0)
        self._add("heir", "plain", "alive", Fate.LIVES, "in-use", name="renamed")

    def _task(self, name: str, state: str, *, try_number: int = 1) -> Task:
        rendered = {"namespace": self.namespace, "base_container_name": "base"}
        pod = "colon" if try_number == 2 else name
        place = {"pod": pod, "pod_namespace": self.namespace}
        return Task(name, state, try_number=try_number, max_tries=try_number, rendered=rendered, **place)  # type: ignore[arg-type]

    def _add(self, key: str, run: str, task: str, should: Fate, reason: str, **more: Any) -> None:
        about: Json = {"dag_id": self.dag, "run_id": run, "task_id": task, "namespace": self.namespace, "name": key}
        made = self.cluster.create_pod(kpo_pod(**about | more))
        self.cast[key] = Role(key, made["metadata"]["name"], made["metadata"]["uid"], should, reason)

    def uids(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.cluster.pods(self.namespace)}


_UNSCHEDULED = {f"{ANNOTATION}stay-pending": "true"}
"""kwok deletes by name alone what was on its node: it would take a new Pod of that name too."""

_STATES: Mapping[str, str] = {"alive": "running", "dead": "failed", "renamed": "failed"}


@dataclass(frozen=True)
class Outcome:
    """What became of it all."""

    rows: Mapping[str, Row]
    events: list[AuditEvent]
    cast: list[Role]

    def wrong(self) -> dict[str, str]:
        """What became of each Pod that did not meet its fate, whatever the reason."""
        return {key: row.did for key, row in self.rows.items() if row.did != row.role.should}


@pytest.fixture
def scene(cluster: Cluster, airflow_api: Airflow, namespace: str) -> Scene:
    made = Scene(cluster, airflow_api, namespace)
    made.set_up()
    return made


def play(scene: Scene, install: Install, sabotage: str | None) -> Outcome:
    """Lets kpo-healer loose on the scene for a number of passes."""
    installation = install(scene.airflow, policy=POLICY, limits=WITHOUT_BREAKER, sabotage=sabotage)
    installation.config["auditInterval"] = "1h"  # its lists would take the place of single questions
    mark = scene.cluster.audit_mark()
    with Door(scene.airflow.url) as door:
        # The first single question is the second sighting; the next one asks for confirmation, just before the DELETE.
        door.once("/taskInstances/renamed/-1", scene.take_the_name, after=1)
        with installation.run(mode="enforce", url=door.url) as healer:
            healer.wait_passes(PASSES, timeout=240)
            reasons = {line["uid"]: line["reason"] for line in healer.deletions()}
            assert healer.stop() == 0
    assert sabotage == "never-fires" or "heir" in scene.cast, "no Pod was asked about a third time"
    scanned = {uid: finding["reason"] for uid, finding in installation.findings().items()}
    mine = [event for event in lab.deletes(scene.cluster, mark) if event.namespace == scene.namespace]
    heard = {scene.cast["renamed"].uid: "orphaned"}
    evidence = Evidence(scene.uids(), mine, {**heard, **scanned, **reasons}, since=0)
    rows = {key: verdict.judge(role, evidence) for key, role in scene.cast.items()}
    return Outcome(rows, mine, list(scene.cast.values()))


def test_without_a_fault_every_pod_meets_its_fate(scene: Scene, install: Install) -> None:
    outcome = play(scene, install, None)
    assert {key: (row.did, row.reason) for key, row in outcome.rows.items() if not row.good} == {}
    assert verdict.unaccounted(outcome.events, outcome.cast) == []
    assert verdict.careless(outcome.events) == []
    assert [event.name for event in outcome.events if event.code == 409] == ["renamed"]


@pytest.mark.parametrize(
    ("sabotage", "harm"),
    [
        ("always-fires", {"alive": Fate.HEALED}),
        ("tries-swapped", {"ahead": Fate.HEALED, "colon": Fate.LIVES}),
        ("hash-ignored", {"spaced": Fate.HEALED}),
        ("uid-ignored", {"heir": Fate.HEALED}),
    ],
)
def test_a_fault_kills_a_pod_that_must_live_and_is_seen(
    scene: Scene, install: Install, sabotage: str, harm: Mapping[str, str]
) -> None:
    outcome = play(scene, install, sabotage)
    assert harm.items() <= outcome.wrong().items()
    assert verdict.unaccounted(outcome.events, outcome.cast) != []


def test_a_rule_that_never_fires_leaves_the_orphans(scene: Scene, install: Install) -> None:
    outcome = play(scene, install, "never-fires")
    assert {"dead": Fate.LIVES, "colon": Fate.LIVES}.items() <= outcome.wrong().items()


def test_a_delete_without_uid_is_seen_though_the_version_still_protects(scene: Scene, install: Install) -> None:
    outcome = play(scene, install, "uid-left-out")
    assert verdict.careless(outcome.events) != []
