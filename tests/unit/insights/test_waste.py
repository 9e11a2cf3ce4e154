"""What Pods hold that nobody needs: by the scheduler's rule, second by second, and in one line."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from healer.cli.summary import summary
from healer.cluster import decode_pod
from healer.decision.quarantine import Suspect
from healer.insights.resource_usage import requested
from healer.insights.usage_meter import UsageMeter
from healer.model import Amounts, Finding, Known, Pod, Reason
from tests.unit.cluster_server import raw_pod
from tests.unit.fakes import ORPHANED, PROMPT, Clock, World
from tests.unit.strategies import NO_SOURCE, a_done_pod, a_pod, a_task, ended

GPU = "nvidia.com/gpu"


def container(cpu: str | None = None, *, always: bool = False, **more: str) -> dict[str, Any]:
    requests = ({"cpu": cpu} if cpu else {}) | more
    policy = {"restartPolicy": "Always"} if always else {}
    return {"name": f"c{cpu}", "resources": {"requests": requests}, **policy}


def pod_of(**spec: Any) -> Pod:
    raw = raw_pod()
    raw["spec"] |= spec
    pod = decode_pod(raw)
    assert pod is not None
    return pod


class TestEffectiveRequests:
    @pytest.mark.parametrize(
        ("init", "cores"),
        [
            ([], 3.0),
            ([container("2")], 3.0),
            ([container("5")], 5.0),
            ([container("4"), container("5")], 5.0),
            ([container("1", always=True)], 4.0),
            ([container("1", always=True), container("5")], 6.0),
            ([container("5"), container("1", always=True)], 5.0),
            ([container("1", always=True), container("1", always=True), container("1")], 5.0),
            ([{"name": "odd"}], 3.0),
        ],
    )
    def test_init_containers_count_at_their_peak_and_sidecars_always(self, init: list[Any], cores: float) -> None:
        assert pod_of(containers=[container("1"), container("2")], initContainers=init).cpu_cores == cores

    def test_the_overhead_of_the_runtime_class_is_added(self) -> None:
        pod = pod_of(containers=[container("1")], overhead={"cpu": "250m", "memory": "64Mi"})
        assert (pod.cpu_cores, pod.memory_bytes) == (1.25, 64 * 2**20)

    def test_what_is_requested_for_the_pod_counts_instead(self) -> None:
        resources = {"requests": {"cpu": "1"}}
        pod = pod_of(containers=[container("2", memory="1Gi", **{GPU: "1"})], resources=resources)
        assert (pod.cpu_cores, pod.memory_bytes, pod.extended) == (1.0, 2**30, ((GPU, 1.0),))

    def test_extended_resources_are_those_of_another_domain(self) -> None:
        more = {GPU: "2", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi", "x.kubernetes.io/y": "1", "a.b/c": "0"}
        assert pod_of(containers=[container("1", **more), container(**{GPU: "1"})]).extended == ((GPU, 3.0),)

    def test_resource_by_resource(self) -> None:
        pod = pod_of(containers=[container("1", memory="1Gi")], initContainers=[container("3", memory="1Mi")])
        assert (pod.cpu_cores, pod.memory_bytes) == (3.0, 2**30)

    def test_nothing_is_requested(self) -> None:
        pod = pod_of(containers=[{"name": "base", "resources": {"requests": None}}, {"name": "other"}])
        assert (pod.cpu_cores, pod.memory_bytes, pod.extended) == (0.0, 0.0, ())


def test_a_pod_that_has_ended_holds_nothing() -> None:
    working = a_pod(cpu_cores=1.0, memory_bytes=8.0, extended=((GPU, 2.0),))
    over = [a_done_pod(cpu_cores=5.0), a_pod(phase="Failed", cpu_cores=5.0, extended=((GPU, 1.0),))]
    assert requested([working, replace(working, phase="Pending"), *over]) == Amounts(2.0, 16.0, {GPU: 4.0})


def suspected(clock: Clock, *, ago: float, **task: Any) -> Suspect:
    pod = a_pod(cpu_cores=2.0, created=clock.server - 10_000)
    finding = Finding(Reason.ORPHANED, "", a_task(**task) if task else None)
    return Suspect(pod, finding, Reason.ORPHANED.action, clock() - ago, clock())


class TestLedger:
    def test_counts_from_the_end_of_the_task(self) -> None:
        clock = Clock()
        suspect = suspected(clock, ago=10, state="failed", end_date=clock.server - 30)
        ledger = UsageMeter(clock() - 1000)
        assert ledger.accrue([suspect], [], clock.now()).cpu_cores == 2 * 30
        clock.forward(60)
        assert ledger.accrue([suspect], [], clock.now()).cpu_cores == 2 * 60
        clock.forward(5)
        assert ledger.accrue([], [suspect], clock.now()).cpu_cores == 2 * 5
        clock.forward(60)
        assert ledger.accrue([], [], clock.now()) == Amounts()

    def test_never_counts_what_was_before_its_term(self) -> None:
        clock = Clock()
        suspect = suspected(clock, ago=10, state="failed", end_date=clock.server - 5000)
        assert UsageMeter(clock() - 15).accrue([suspect], [], clock.now()).cpu_cores == 2 * 15

    def test_counts_from_the_first_sight_where_no_end_is_known(self) -> None:
        clock = Clock()
        for task in ({}, {"state": "skipped", "end_date": None}, {"state": "running", "end_date": 5.0}):
            assert UsageMeter(0.0).accrue([suspected(clock, ago=10, **task)], [], clock.now()).cpu_cores == 2 * 10

    def test_an_end_before_the_pod_was_made_counts_from_there(self) -> None:
        clock = Clock()
        suspect = suspected(clock, ago=1, state="failed", end_date=clock.server - 500)
        young = replace(suspect, pod=replace(suspect.pod, created=clock.server - 100))
        assert UsageMeter(0.0).accrue([young], [], clock.now()).cpu_cores == 2 * 100


def test_a_healer_counts_what_is_held_and_what_it_gave_back() -> None:
    world = World(policy={**PROMPT, "grace": "2m", "sightings": 2})
    task = ended("failed", end_date=world.clock.server - 50)
    more = {"cpu_cores": 4.0, "memory_bytes": 100.0, "extended": ((GPU, 1.0),)}
    world.pod("a", Known(0.0, task, NO_SOURCE), **more)
    world.pod("late", ORPHANED, phase="Succeeded", cpu_cores=50.0)
    world.audit()
    assert world.metric("held_cpu_cores") == 4
    assert world.metric("held_extended_resources", resource=GPU) == 1
    assert world.metric("held_cpu_core_seconds_total") == 0, "its term has just begun"
    world.wait(120)
    world.audit()
    assert "a" in world.deleted
    assert world.metric("held_cpu_core_seconds_total") == pytest.approx(4 * 120)
    assert world.metric("held_extended_resource_seconds_total", resource=GPU) == pytest.approx(120)
    assert world.metric("reclaimed_cpu_cores_total") == 4
    assert world.metric("reclaimed_memory_bytes_total") == 100
    assert world.metric("reclaimed_extended_resources_total", resource=GPU) == 1
    assert world.metric("held_cpu_cores") == world.metric("held_extended_resources", resource=GPU) == 0


def holding(cpu: float = 0.0, memory: float = 0.0, since: str | None = None, **extended: float) -> dict[str, Any]:
    named = {name.replace("_", "/"): amount for name, amount in extended.items()}
    return {"holds": {"cpu_cores": cpu, "memory_bytes": memory, "extended": named, "since": since}}


@pytest.mark.parametrize(
    ("suspects", "line"),
    [
        ([], None),
        ([{"holds": None}, {}], None),
        ([holding(), {"holds": None}], "1 orphan holds nothing that it asked for"),
        ([holding(1.0, 2**20, "1970-01-01T00:00:00Z")], "1 orphan holds 1 core, 1 MiB; oldest 3 days"),
        (
            [holding(51.5, 200 * 2**30, "1970-01-03T23:58:00Z", a_gpu=1), holding(0.5, 10 * 2**30, b_gpu=1, c_fpga=3)],
            "2 orphans hold 52 cores, 210 GiB, 2 GPUs, 3 c/fpga; oldest 2 minutes",
        ),
        ([holding(0.25, 3 * 2**40, "1971-01-01T00:00:00Z")], "1 orphan holds 0.25 cores, 3 TiB; oldest 0 seconds"),
    ],
)
def test_the_summary(suspects: list[Any], line: str | None) -> None:
    assert summary(suspects, 3 * 86400.0) == line
