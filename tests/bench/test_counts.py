"""What a healer asks of a real API server and of a real Airflow: as much for ten times the Pods as for a few.

Counts don't depend on the machine. Where a retry is legitimate they are bounds; the bounds are far below one call per
Pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.bench.measure import requests_of
from tests.bench.steady import Meter
from tests.faults.proxy import FaultProxy
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run, Task
from tests.lab.healer import USER, Installation, Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for

DAGS: Final = 5
RUNS: Final = 2
PASSES: Final = 5
PATIENCE: Final = 120.0
EAGER: Final = {"minAge": "0s", "grace": "1s"}

_numbers = count()


@dataclass(frozen=True)
class Used:
    """What was used by a phase of a healer's life: to the API server, and to Airflow."""

    kubernetes: Counter[str]
    calls: int
    rows: int
    size: int
    passes: float = 1

    @property
    def for_pods(self) -> Counter[str]:
        """Without the Lease and the questions about rights."""
        return Counter({k: n for k, n in self.kubernetes.items() if k.endswith((" pods", " events"))})


class Stage:
    """Ten live runs with some Pods each, in a namespace of its own, and a way to Airflow that counts."""

    def __init__(
        self, cluster: Cluster, airflow: Airflow, namespace: str, folder: Path, url: str, meter: Meter
    ) -> None:
        self._cluster, self._airflow, self._namespace, self._folder = cluster, airflow, namespace, folder
        self._url, self.meter = url, meter
        self.runs = [(f"count{next(_numbers)}", f"manual__{number}") for number in range(DAGS) for _ in range(RUNS)]

    def fill(self, each: int, *, ended: int = 0) -> None:
        """Gives each run so many Pods of running task instances, and so many of ended ones."""
        rendered = {"namespace": self._namespace, "base_container_name": "base"}
        for dag, run in self.runs:
            tasks = [Task("work", map_index=0, count=each, rendered=rendered)] if each else []
            tasks += [Task("gone", "success", map_index=0, count=ended, rendered=rendered)] if ended else []
            self._airflow.seed([Dag(dag, [Run(run, tasks)])])
        self._cluster.create_pods(
            kpo_pod(dag_id=dag, run_id=run, task_id=task, map_index=index, namespace=self._namespace)
            for dag, run in self.runs
            for task, number in (("work", each), ("gone", ended))
            for index in range(number)
        )

    @contextmanager
    def healer(self, mode: str, *, limits: dict[str, object] | None = None) -> Iterator[tuple[Running, Used]]:
        """A healer after its first pass, and what that pass has used."""
        made = Installation.make(
            self._folder, self._cluster, url=self._url, namespaces=[self._namespace], policy=EAGER, limits=limits or {}
        )
        made.config |= {"interval": "1s", "auditInterval": "24h"}
        before = self.mark()
        with made.run(mode=mode, url=self._url) as healer:
            wait_for(lambda: passes(healer) >= 1, timeout=PATIENCE, what="the first pass")
            yield healer, self.since(before)

    def quiet(self, healer: Running) -> Used:
        """What some passes use in which nothing happens, begun when the watch is there."""
        healer.wait_passes(2, timeout=PATIENCE)
        before, begin = self.mark(), passes(healer)
        healer.wait_passes(PASSES, timeout=PATIENCE)
        return self.since(before, passes(healer) - begin)

    def told(self, reason: str = "") -> int:
        """How many Events there are."""
        path = f"/api/v1/namespaces/{self._namespace}/events"
        return sum(reason in (event["reason"], "") for event in self._cluster.request("GET", path)["items"])

    def mark(self) -> tuple[int, int, int, int]:
        return self._cluster.audit_mark(), *self.meter.now()

    def since(self, mark: tuple[int, int, int, int], made: float = 1) -> Used:
        events = self._cluster.audit(mark[0], user=USER)
        here = [event for event in events if event.namespace == self._namespace]
        calls, rows, size = (now - then for now, then in zip(self.meter.now(), mark[1:], strict=True))
        return Used(requests_of(here), calls, rows, size, made)


def passes(healer: Running) -> float:
    return healer.metric("pass_duration_seconds_count")


@pytest.fixture
def stage(cluster: Cluster, airflow_api: Airflow, namespace: str, tmp_path: Path) -> Iterator[Stage]:
    meter = Meter()
    with FaultProxy(airflow_api.url) as proxy:
        proxy.rule(meter.fault)
        yield Stage(cluster, airflow_api, namespace, tmp_path, proxy.url, meter)


@pytest.mark.parametrize("each", [4, 40])
def test_ten_times_the_pods_cost_no_more_calls(stage: Stage, each: int) -> None:
    """The same bounds for 40 Pods and for 400."""
    pods = each * len(stage.runs)
    stage.fill(each)
    with stage.healer("report") as (healer, audit):
        quiet = stage.quiet(healer)
    assert audit.calls <= 12, "login, version, lists of at most 500 rows"
    assert pods <= audit.rows <= 2 * pods, "each row once; again only where a call was repeated"
    assert audit.size <= 3_000 * pods
    assert audit.kubernetes["list pods"] <= 3, "one look, and what the watch begins with"
    assert audit.kubernetes["get pods"] == 0
    _is_quiet(quiet)


def test_suspects_that_only_stand_cost_nothing(stage: Stage) -> None:
    """40 orphans in report mode: each is told once, and then a pass is as cheap as one without them."""
    suspects = 4 * len(stage.runs)
    stage.fill(6, ended=4)
    with stage.healer("report") as (healer, _):
        wait_for(
            lambda: (
                healer.metric("withheld", why="report-mode") >= suspects
                and healer.metric("withheld", why="not-due") == 0
            ),
            timeout=PATIENCE,
            what="all suspects to be due",
        )
        wait_for(lambda: stage.told() >= suspects, timeout=PATIENCE, interval=0.5, what="an Event for each suspect")
        quiet = stage.quiet(healer)
    _is_quiet(quiet)


def test_a_deletion_costs_one_delete_and_one_event(stage: Stage) -> None:
    orphans = 3 * len(stage.runs)
    stage.fill(2, ended=3)
    with stage.healer("enforce", limits={"deletionsPerMinute": None, "breaker": {"minCount": 1000}}) as (healer, audit):
        before = stage.mark()
        deleted = {"result": "deleted"}
        wait_for(lambda: healer.metric("deletions_total", **deleted) >= orphans, timeout=PATIENCE, what="all deletions")
        wait_for(lambda: stage.told("OrphanDeleted") >= orphans, timeout=PATIENCE, interval=0.5, what="their Events")
        used = stage.since(before)
    sent = used.kubernetes + audit.kubernetes
    assert orphans <= sent["delete pods"] <= orphans + 3, "once each; again only after a conflict"
    assert sent["create events"] + sent["patch events"] <= 2 * orphans, "one when it is found, one when it is deleted"
    assert sent["get pods"] <= 3, "only after a conflict"
    assert not {key for key in sent if key in {"patch pods", "update pods", "create pods", "deletecollection pods"}}
    assert used.calls <= 4 * orphans + 2 * PATIENCE, "a task instance and its identity, confirmed; the passes beside it"


def _is_quiet(used: Used) -> None:
    """One or two Airflow calls a pass, hardly a byte, and nothing from the API server but the Lease."""
    assert used.calls <= 2 * used.passes + 2, "a retry or a new login at most"
    assert used.rows == 0, "nothing has ended"
    assert used.size <= 2_000 * used.passes
    assert not used.for_pods, "neither LIST nor GET nor Event"
