"""What happens to the healer's own process, beside a real API server and a real Airflow."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults import brief
from tests.faults.proxy import Exchange, FaultProxy
from tests.faults.scene import PATIENCE, Orphan, Scene
from tests.lab.airflow import Airflow
from tests.lab.kube import Cluster
from tests.lab.processes import wait_for

PODS = 40

STRIDE = 1 if os.environ.get("KPO_HEALER_STEPS") == "all" else 2
"""Every step by both signals takes some minutes: by default each signal takes every other step."""


@pytest.fixture(scope="module")
def scene(cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene.open(cluster, airflow_api, tmp_path_factory.mktemp("process"), pods=PODS) as made:
        yield made


@dataclass
class Steps:
    """Counts the requests of one life of the healer, to both servers, and sends a signal at one of them."""

    number: signal.Signals
    at: int
    pid: int = 0
    count: int = 0
    told: bool = False
    struck: threading.Event = field(default_factory=threading.Event)
    _begun: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, exchange: Exchange) -> None:
        """Strikes while the request waits; it has been sent, so it is passed on, whoever is left to hear the answer."""
        with self._lock:
            self.count += 1
            strikes = self.count == self.at
        if strikes:
            self._begun.wait()
            os.kill(self.pid, self.number)
            self.struck.set()
        exchange.through()
        self.told = self.told or exchange.asked.text.endswith("/events")

    def begin(self, pid: int) -> None:
        self.pid = pid
        self._begun.set()


class Lives:
    """Healers one after another, each with both its servers behind a proxy."""

    def __init__(self, scene: Scene, airflow: FaultProxy, folder: Path) -> None:
        self.scene, self.airflow, self.log = scene, airflow, folder / "log"
        self.orphans: list[Orphan] = []
        installation = scene.installation(mode="enforce", listen="127.0.0.1:0")
        installation.config["airflows"][0]["url"] = airflow.url
        self._words = installation.command("run")[3:]

    def with_an_orphan(self) -> Lives:
        """Itself, with a Pod to delete: the one that the life before left, or another one."""
        if not any(orphan.there() for orphan in self.orphans):
            self.orphans.append(self.scene.end())
        return self

    def live(self, number: signal.Signals, at: int) -> Steps:
        """One life, which a signal ends at its request number `at`."""
        steps = Steps(number, at)
        with self.scene.proxy.rule(steps.fault), self.airflow.rule(steps.fault):
            process = brief.begin(self._words, self.log)
            try:
                assert process.pid is not None
                steps.begin(process.pid)
                assert steps.struck.wait(PATIENCE), f"no request number {at}: {self.log.read_text()[-2000:]}"
                process.join(PATIENCE)
                assert process.exitcode == (0 if number is signal.SIGTERM else -number)
            finally:
                process.kill()
                process.join()
        self.forget_the_lease()
        return steps

    def forget_the_lease(self) -> None:
        """Nobody waits here until the Lease of a dead one has run out."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.scene.world.namespace}/leases/kpo-healer"
        self.scene.world.cluster.request("DELETE", path, expect=(200, 404))


@pytest.mark.parametrize(("number", "first"), [(signal.SIGKILL, 1), (signal.SIGTERM, STRIDE)], ids=["kill", "term"])
def test_a_signal_at_every_step(scene: Scene, tmp_path: Path, number: signal.Signals, first: int) -> None:
    """At each request from the first one to the Event that tells of the deletion; the next life goes on from there."""
    with FaultProxy(scene.world.airflow.url) as airflow:
        lives, at = Lives(scene, airflow, tmp_path), first
        while not lives.with_an_orphan().live(number, at).told:
            at += STRIDE
        lives.live(signal.SIGTERM, 2 * at)  # with nothing left to do but to leave all as it is
    print(f"{number.name} at {len(range(first, at + 1, STRIDE))} of {at} steps")
    assert at > 10, "a life has more steps than that"
    for orphan in lives.orphans:
        assert not orphan.there()
        assert orphan.codes() == [200]
    scene.check()


def test_out_of_file_descriptors(scene: Scene) -> None:
    """Nothing can be asked, so nothing is decided; when there are some again, all goes on."""
    with scene.healer() as healer:
        wait_for(lambda: healer.metric("pods", reason="in-use"), timeout=PATIENCE, what="Pods in use")
        soft, hard = resource.prlimit(healer.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(healer.pid, resource.RLIMIT_NOFILE, (3, hard))
        try:
            scene.proxy.reset_all()
            orphan = scene.end()
            wait_for(lambda: "Too many open files" in healer.log.read_text(), timeout=PATIENCE, what="a complaint")
            orphan.kept()
        finally:
            resource.prlimit(healer.pid, resource.RLIMIT_NOFILE, (soft, hard))
        orphan.wait_healed()
        orphan.wait_decided(healer, "deleted")
        assert healer.stop() == 0


def test_no_room_for_the_log(scene: Scene) -> None:
    """Every line is lost, and nothing else is."""
    healer = scene.healer()
    healer.args = ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", *healer.args]
    with healer:
        orphan = scene.end()
        orphan.wait_healed()
        healer.wait_passes(2, timeout=PATIENCE)
        assert healer.metric("deletions_total", result="deleted") == 1
        assert healer.running
        assert healer.stop() == 0
    assert orphan.codes() == [200]
    assert orphan.sent() == 1
