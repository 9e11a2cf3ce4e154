"""A healer in enforce mode that reaches a real API server through a proxy, beside a seeded real Airflow.

Every Pod of a scene is in use at first, so that all the others are the control of each fault: `end` lets the task of
one of them end, and from then on it is an orphan that must be kept as long as nothing is known for sure, and must be
healed afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import yaml

from tests.e2e.world import EAGER, RUN, World
from tests.faults.proxy import FaultProxy
from tests.lab.airflow import Airflow
from tests.lab.healer import ACCOUNT, Installation, Running
from tests.lab.kube import ANNOTATION, Cluster
from tests.lab.processes import wait_for

TASK: Final = "work"
THERE: Final = "there"
"""The task whose Pods are in the neighbouring namespace."""

TERMS: Final = {"leaseDuration": "6s", "renewDeadline": "4s", "retryPeriod": "1s"}
"""After trouble with the whole API server the Lease is taken again so much sooner than in production."""

PATIENCE: Final = 90.0
"""Seconds until what must happen has happened, on a machine that is busy."""


@dataclass
class Scene:
    """One namespace with mapped Pods, the proxy before the API server, and the healer.

    clock: the file with the seconds by which the healer's wall clock is wrong. token: the file with its credentials.
    """

    world: World
    proxy: FaultProxy
    folder: Path
    pods: int
    ended: set[int] = field(default_factory=set)
    _turns: count[int] = field(default_factory=count, repr=False)
    _secret: str = ""

    @classmethod
    @contextmanager
    def open(cls, cluster: Cluster, airflow: Airflow, folder: Path, *, pods: int) -> Iterator[Scene]:
        """Makes the Pods, all of them Running and in use."""
        with World.open(cluster, airflow, folder) as world, FaultProxy(cluster.url, ca=cluster.ca) as proxy:
            scene = cls(world, proxy, folder, pods)
            world.seed(world.task(TASK, "running", map_index=0, count=pods))
            cluster.create_pods(scene.body(index) for index in range(pods))
            for index in range(pods):
                cluster.wait_pod(world.namespace, name(index), timeout=PATIENCE)
            with scene._neighbour():
                yield scene

    @contextmanager
    def _neighbour(self) -> Iterator[None]:
        """A second namespace of the same Airflow, with two Pods in use."""
        cluster, world = self.world.cluster, self.world
        cluster.namespace(self.neighbour)
        try:
            world.seed(world.task(THERE, "running", map_index=0, count=2, rendered_namespace=self.neighbour))
            for index in range(2):
                body = world.body(THERE, map_index=index, name=f"{THERE}-{index}")
                body["metadata"]["namespace"] = self.neighbour
                cluster.create_pod(body)
            for index in range(2):
                cluster.wait_pod(self.neighbour, f"{THERE}-{index}", timeout=PATIENCE)
            yield
        finally:
            cluster.delete_namespace(self.neighbour)

    @property
    def neighbour(self) -> str:
        return f"{self.world.namespace}-next"

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    @property
    def token(self) -> Path:
        return self.folder / "token"

    def body(self, index: int) -> Any:
        """A Pod that stays Terminating once it is deleted, so that a second DELETE would be seen."""
        marks = {f"{ANNOTATION}hang-terminating": "true"}
        return self.world.body(TASK, map_index=index, name=name(index), annotations=marks)

    # kpo-healer

    def installation(self, **config: Any) -> Installation:
        """One that goes through the proxy with a token from a file; `config` goes over the file's top level."""
        made = self.world.installation(policy={**EAGER, "grace": "0s"}, more_namespaces=[self.neighbour])
        made.config |= {"interval": "0.5s", "auditInterval": "1s", **config}
        made.config["leaderElection"] |= TERMS
        made.kubeconfig = self.proxy.kubeconfig(made.kubeconfig)
        document = yaml.safe_load(made.kubeconfig.read_text())
        self.rotate_token()
        document["users"][0]["user"] = {"tokenFile": str(self.token)}
        made.kubeconfig.write_text(yaml.safe_dump(document))
        return made

    def healer(self, **config: Any) -> Running:
        """A healer in enforce mode, with short timeouts."""
        healer = self.installation(**config).run(mode="enforce")
        healer.args = [*healer.args[:2], "tests.faults.hasty", self.clock, *healer.args[3:]]
        return healer

    def set_clock(self, seconds: int) -> None:
        """Makes the healer's wall clock wrong by so much."""
        self.clock.write_text(str(seconds))

    def rotate_token(self) -> None:
        """Writes a new token, and ends the former one: it was bound to a Secret that goes."""
        request, base = self.world.cluster.request, f"/api/v1/namespaces/{ACCOUNT}"
        secret = f"token-{uuid.uuid4().hex[:8]}"
        bound = {"kind": "Secret", "apiVersion": "v1", "name": secret}
        bound["uid"] = request("POST", f"{base}/secrets", {"metadata": {"name": secret}})["metadata"]["uid"]
        spec = {"expirationSeconds": 7200, "boundObjectRef": bound}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        new = request("POST", f"{base}/serviceaccounts/{ACCOUNT}/token", body)["status"]["token"]
        fresh = self.token.with_suffix(".new")
        fresh.write_text(new)
        fresh.replace(self.token)
        former, self._secret = self._secret, secret
        if former:
            request("DELETE", f"{base}/secrets/{former}")

    # Airflow

    def end(self) -> Orphan:
        """Lets the task of the next Pod end without it."""
        orphan = self.end_later()
        self.end_now(orphan)
        return orphan

    def end_later(self) -> Orphan:
        """The Pod whose task ends next; until `end_now` it is in use."""
        index = next(self._turns)
        assert index < self.pods - 1, "the scene has too few Pods: the last one stays in use"
        return Orphan(self, index, len(self.sent()))

    def end_now(self, orphan: Orphan) -> None:
        self.ended.add(orphan.index)
        self.world.airflow.act(self.world.dag, RUN, TASK, "fail", orphan.index)

    # What has happened

    def in_use(self) -> set[str]:
        """The Pods that must be there whatever happens."""
        return {name(index) for index in range(self.pods) if index not in self.ended}

    def sent(self) -> list[str]:
        """The paths of the DELETEs that reached the proxy, whether it passed them on or not."""
        return [each.asked.text for each in list(self.proxy.passed) if each.asked.method == "DELETE"]

    def check(self) -> None:
        """What is in use is there, untouched, and nobody tried to delete it."""
        assert self.world.names() >= self.in_use()
        assert not {event.name for event in self.world.deletes()} & self.in_use()


@dataclass
class Orphan:
    """A Pod whose task has ended; `before`: how many DELETEs there had been."""

    scene: Scene
    index: int
    before: int

    @property
    def name(self) -> str:
        return name(self.index)

    def there(self) -> bool:
        return self.name in self.scene.world.names()

    def codes(self) -> list[int]:
        """What the API server answered to the DELETEs of it, by its audit log."""
        return [event.code for event in self.scene.world.deletes() if event.name == self.name]

    def sent(self) -> int:
        """How many DELETEs of it the healer sent, also those that never reached the API server."""
        return sum(path.endswith(f"/pods/{self.name}") for path in self.scene.sent())

    def unsent(self) -> None:
        """Nothing was sent to delete it or any other."""
        assert self.scene.sent()[self.before :] == []

    def kept(self) -> None:
        """It is there, and nothing was sent to delete it or any other."""
        assert self.there()
        self.unsent()
        self.scene.check()

    def wait_healed(self, code: int = 200) -> None:
        """Waits until it is gone by the healer's hand, and nothing else is."""
        wait_for(lambda: not self.there(), timeout=PATIENCE, what=f"the end of {self.name}", interval=0.1)
        wait_for(lambda: code in self.codes(), timeout=PATIENCE, what=f"{code} in the audit log")
        self.scene.check()

    def wait_deleted(self, healer: Running) -> None:
        """Waits until it is gone, by the only DELETE that the healer decided on."""
        self.wait_healed()
        self.wait_decided(healer, "deleted")

    def decided(self, healer: Running) -> list[str]:
        """What became of the healer's decisions to delete it, by its log; where nothing was sent left out."""
        lines = (line for line in healer.deletions() if str(line["pod"]).endswith(f"/{self.name}"))
        return [line["result"] for line in lines if line["result"] != "stale"]

    def wait_decided(self, healer: Running, *results: str) -> None:
        """Waits until these, in this order, are the healer's decisions, and holds what was sent to it."""
        wanted = list(results)
        wait_for(lambda: self.decided(healer) == wanted, timeout=PATIENCE, what=f"{wanted}: {self.decided(healer)}")
        assert self.sent() == len(wanted)


def name(index: int) -> str:
    return f"{TASK}-{index}"
