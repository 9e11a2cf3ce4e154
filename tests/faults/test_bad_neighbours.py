"""One bad thing stops nobody else: orphans that have nothing to do with it are healed in as many passes as without it.

A real Airflow and a real API server; what a real one does on its bad days only is done by the proxy between the healer
and Airflow. The control of each fault is the very same healing without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import httpx
import pytest

from healer.decision.labels import safe_label
from healer.model import ID_ANNOTATIONS, OWNER_LABEL
from tests.e2e.world import EAGER, RUN, World
from tests.faults import airflow_faults as bad
from tests.faults import proxy
from tests.faults.passes import Bench
from tests.faults.proxy import Asked, FaultProxy
from tests.lab.airflow import Airflow
from tests.lab.airflow_seed import Dag, Run
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for

pytestmark = pytest.mark.timeout(600)

PATIENCE: Final = 120.0

HOSTILE: Final = {
    "nul": "m\0x",
    "200-kB": "m" * 200_000,
    "emoji": "m\U0001f600",
    "right-to-left": "m\u202egnp.exe",
    "slash": "m/../../x",
    "dots": "m..",
}
"""Raw ids as somebody may write them into an annotation; their labels are computed as KPO does."""

IDS: Final = ("dag_id", "task_id", "run_id")

MOST_AT_FIRST: Final = 2000
MOST_REQUESTS: Final = 100
"""Requests to Airflow in the first pass and in each later one, whatever is wrong; without a fault about two dozen.

The first one finds out what is bad: each of a thousand bad rows is asked about once, alone.
"""


@pytest.fixture
def bench(cluster: Cluster, airflow_api: Airflow, namespace: str) -> Iterator[Bench]:
    with FaultProxy(airflow_api.url) as through:
        made = Bench(cluster, airflow_api, namespace, through)
        made.seed()
        yield made


@pytest.fixture(scope="module")
def passes(cluster: Cluster, airflow_api: Airflow) -> Iterator[dict[str, int]]:
    """In which pass each orphan goes where nothing is wrong."""
    name = cluster.namespace("nothing-is-wrong")
    with FaultProxy(airflow_api.url) as through:
        control = Bench(cluster, airflow_api, name, through)
        control.seed()
        with control.healer() as healer:
            gone = healer.until_healed()
        assert gone.keys() == control.orphans
        assert control.names() == control.used
        yield gone
    cluster.delete_namespace(name)


def _heals_as_ever(bench: Bench, passes: dict[str, int], neighbours: set[str]) -> None:
    with bench.healer() as healer:
        assert healer.until_healed() == passes
    assert bench.names() == bench.used | neighbours
    assert bench.costs[0] <= MOST_AT_FIRST
    assert max(bench.costs[1:]) <= MOST_REQUESTS


# --- rows and ids that spoil the answer about themselves -------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 11, 1000])
def test_bad_rows(bench: Bench, passes: dict[str, int], number: int) -> None:
    """Each answer that would have one of them is a 500 in its place."""
    dag = bench.dag("m")
    tasks = [f"bad-{n:04}" for n in range(number)]
    bench.make([bench.body(dag, task, name=task) for task in tasks])

    def has_one(asked: Asked) -> bool:
        wanted = asked.json or {}
        if bad.lists(asked):
            return dag in wanted["dag_ids"] and any(task.startswith("bad-") for task in wanted["task_ids"])
        return f"/dags/{dag}/" in asked.path and "/taskInstances" in asked.path

    bench.proxy.rule(bad.crashed, when=has_one)
    _heals_as_ever(bench, passes, set(tasks))


@pytest.mark.parametrize(("what", "status"), [("nul", 422), *((what, 500) for what in HOSTILE)])
def test_hostile_ids(bench: Bench, passes: dict[str, int], what: str, status: int) -> None:
    """As DAG, task and run. A NUL is refused as PostgreSQL does, which has none; all others go to a real Airflow."""
    forged = [_forged(bench, place, HOSTILE[what], number) for number, place in enumerate(IDS)]
    bench.make(forged)
    bench.proxy.rule(proxy.answer(status, {"detail": "refused"}), when=_has_nul)
    _heals_as_ever(bench, passes, {body["metadata"]["name"] for body in forged})


@pytest.mark.parametrize("status", [500, 422])
def test_a_thousand_forged_pods(bench: Bench, passes: dict[str, int], status: int) -> None:
    bodies = [_forged(bench, "dag_id", f"{'am'[n % 2]}\0{n}", n) for n in range(1000)]
    bench.make(bodies)
    bench.proxy.rule(proxy.answer(status, {"detail": "refused"}), when=_has_nul)
    _heals_as_ever(bench, passes, {body["metadata"]["name"] for body in bodies})


def _forged(bench: Bench, place: str, raw: str, number: int = 0) -> Any:
    labels = {place: safe_label(raw)}
    annotations = {_annotation(place): raw}
    return bench.body(bench.dag("m"), "work", name=f"forged-{number}", labels=labels, annotations=annotations)


def _annotation(place: str) -> str:
    return ID_ANNOTATIONS[place]


def _has_nul(asked: Asked) -> bool:
    return "\0" in asked.text or b"\\u0000" in asked.body


# --- who refuses -----------------------------------------------------------------------------------------------------


def test_a_login_that_ends_in_mid_run(bench: Bench, passes: dict[str, int]) -> None:
    """The token is really revoked, by Airflow itself, before the pass that would delete; a new login is made in it."""
    last = min(passes.values())
    with bench.healer() as healer:
        gone: dict[str, int] = {}
        while len(gone) < len(passes):
            if healer.passes == last - 1:
                _log_out(bench)
            left = healer.one_pass()
            gone |= dict.fromkeys(bench.orphans - left - gone.keys(), healer.passes)
            assert healer.passes <= max(passes.values())
    assert gone == passes
    assert bench.proxy.count(part="/auth/token") == 2
    assert bench.names() == bench.used


def _log_out(bench: Bench) -> None:
    tokens = (each.asked.headers.get("Authorization") for each in reversed(bench.proxy.passed))
    token = next(one for one in tokens if one)
    httpx.get(f"{bench.airflow.url}/api/v2/auth/logout", headers={"Authorization": token}, trust_env=False)


def test_a_gate_in_front(bench: Bench, passes: dict[str, int]) -> None:
    """A gate lets nobody through for some passes: nothing is deleted. Then it takes as many as after a start."""
    gate = proxy.answer(401, {"error": "sign in"}, {"WWW-Authenticate": 'Basic realm="gate"', "Server": "nginx"})
    with bench.healer() as healer:
        with bench.proxy.rule(gate):
            for _ in range(3):
                assert healer.one_pass() >= bench.orphans
        closed = healer.passes
        gone = healer.until_healed()
    assert {name: at - closed for name, at in gone.items()} == passes
    assert bench.names() == bench.used


# --- Airflows and installations side by side --------------------------------------------------------------------------


@dataclass
class Side:
    """One Airflow of a running kpo-healer: a task that runs, one that fails later, their Pods."""

    world: World
    name: str
    url: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def dag(self) -> str:
        return f"{self.world.dag}-{self.name}"

    def make(self) -> None:
        tasks = [self.world.task(task, "running") for task in ("orphan", "used")]
        self.world.airflow.seed([Dag(self.dag, runs=[Run(RUN, tasks=tasks)])])
        self.world.cluster.create_pods(_body_of(self, task) for task in ("orphan", "used"))

    def entry(self, like: dict[str, Any]) -> dict[str, Any]:
        return {**like, "name": self.name, "ownership": "stamped", "url": self.url, **self.settings}

    def pod(self, task: str) -> str:
        return f"{self.name}-{task}"


def _body_of(side: Side, task: str) -> Any:
    labels = {OWNER_LABEL: side.name}
    namespace = side.world.namespace
    return kpo_pod(
        dag_id=side.dag,
        task_id=task,
        run_id=RUN,
        name=side.pod(task),
        namespace=namespace,
        labels=labels,
        node="nowhere",
    )


_NUMBERS = count()


def _healed_in(world: World, sides: list[Side], well: Side, **config: Any) -> int:
    """Run a healer for these Airflows; return how many passes of the well one its orphan lasts."""
    for side in sides:
        side.make()
    installation = world.installation(policy={**EAGER, "grace": "0s"})
    (like,) = installation.config["airflows"]
    installation.config["airflows"] = [side.entry(like) for side in sides]
    installation.config |= {"interval": "1s", "auditInterval": "4s", **config}
    installation.config["leaderElection"] |= {"name": f"kpo-healer-{next(_NUMBERS)}"}
    with installation.run(mode="enforce") as healer:

        def made() -> float:
            return healer.metric("pass_duration_seconds_count", airflow=well.name)

        wait_for(lambda: made() >= 2, timeout=PATIENCE, what="the first passes")
        world.airflow.act(well.dag, RUN, "orphan", "fail")
        before = made()
        wait_for(lambda: well.pod("orphan") not in world.names(), timeout=PATIENCE, what="healing", interval=0.05)
        return round(made() - before)


@pytest.fixture
def world(cluster: Cluster, airflow_api: Airflow, tmp_path: Any) -> Iterator[World]:
    with World.open(cluster, airflow_api, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def usual(cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many of its passes an orphan lasts where its Airflow is the only one."""
    with World.open(cluster, airflow_api, tmp_path_factory.mktemp("alone")) as opened:
        alone = Side(opened, "alone", airflow_api.url)
        return _healed_in(opened, [alone], alone)


SLACK: Final = 2
"""Passes by which two counts of the same may differ: one may be under way when the task ends, one when it is looked."""


def test_three_sick_airflows_beside_a_well_one(world: World, usual: int) -> None:
    """One hangs, one is dead, one answers in 30 s; the well one heals as if it were alone."""
    url = world.airflow.url
    with ExitStack() as stack:
        silent, dead, slow = (stack.enter_context(FaultProxy(url)) for _ in range(3))
        silent.rule(proxy.silence)
        stack.enter_context(dead.refused())
        slow.rule(bad.old(30.0))
        sick = [Side(world, name, one.url) for name, one in (("silent", silent), ("dead", dead), ("slow", slow))]
        well = Side(world, "well", url)
        assert _healed_in(world, [*sick, well], well) <= usual + SLACK
    assert world.names() >= {side.pod(task) for side in sick for task in ("orphan", "used")} | {well.pod("used")}


def test_two_installations_side_by_side(world: World, usual: int) -> None:
    """Each has a Lease of its own in the same namespace: neither waits for the other."""
    first, second = (Side(world, name, world.airflow.url) for name in ("first", "second"))
    first.make()
    installation = world.installation()
    (like,) = installation.config["airflows"]
    installation.config["airflows"] = [first.entry(like)]
    installation.config["leaderElection"] |= {"name": "kpo-healer-first"}
    with installation.run(mode="enforce") as running:
        wait_for(lambda: running.metric("leader") == 1, timeout=PATIENCE, what="the first one's Lease")
        assert _healed_in(world, [second], second) <= usual + SLACK
        assert running.metric("leader") == 1
    assert world.names() >= {first.pod("orphan"), first.pod("used"), second.pod("used")}
