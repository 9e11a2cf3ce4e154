"""The kpo-healers under test: each with its own account, its own gates, and a watch over its memory and threads."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.chaos.gate import Gate
from tests.lab.airflow import Airflow
from tests.lab.healer import ACCOUNT, RIGHTS, Installation, Running
from tests.lab.kube import Cluster
from tests.lab.processes import LabError

Json = Any

LEASE: Final = "kpo-healer"
LEASE_RIGHTS: Final[Sequence[Json]] = (
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
)
LEASE_DURATION: Final = 12.0
TERMS: Final = {"leaseDuration": f"{LEASE_DURATION:g}s", "renewDeadline": "6s", "retryPeriod": "1s"}
"""The gap between the first two is longer than a DELETE may be under way (5 s), as it is by default."""

GRACE: Final = 4.0
FRESHNESS: Final = 15.0
"""Production's own: the age at which Airflow's answer is no longer good enough for a DELETE."""

CONFIG: Final[Json] = {
    "mode": "enforce",
    "interval": "2s",
    "auditInterval": "12s",
    "freshness": f"{FRESHNESS:g}s",
    "log": {"format": "json", "level": "info"},
}
POLICY: Final[Json] = {
    "minAge": "1s",
    "grace": f"{GRACE:g}s",
    "absentGrace": "6s",
    "retention": {"succeeded": "3s", "failed": "5s", "kept": "4s"},
    "actions": {"run-deleted": "delete", "abandoned": "delete"},
}
LIMITS: Final[Json] = {"deletionsPerMinute": 120, "breaker": {"maxShare": 0.9, "minCount": 5, "coolDown": "20s"}}

SAMPLE: Final = 5.0
"""Seconds between two looks at a replica's memory."""


@dataclass(frozen=True)
class Sample:
    """`at`: monotonic seconds. rss: MB. life: which start of the process, from 1."""

    at: float
    life: int
    rss: float
    threads: int


@dataclass
class Replica:
    """One kpo-healer of the installation.

    steady: only ever frozen, so that its memory can be watched for long. freezes: from when to when, epoch seconds.
    """

    name: str
    installation: Installation
    kube: Gate
    airflow: Gate
    steady: bool
    life: int = 0
    frozen: bool = False
    samples: list[Sample] = field(default_factory=list)
    lives: list[Running] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    freezes: list[tuple[float, float]] = field(default_factory=list)

    @property
    def user(self) -> str:
        """The name under which the API server knows it."""
        return user(self.name)

    @property
    def process(self) -> Running:
        return self.lives[-1]

    def start(self) -> None:
        """Starts it without waiting: a gate may be closed."""
        running = self.installation.run(mode="enforce", url=self.airflow.url)
        self.lives.append(running)
        self.life += 1
        running.launch()

    def leads(self) -> bool:
        """Whether it says so itself; a replica that says nothing does not."""
        if self.frozen or not self.process.running:
            return False
        with contextlib.suppress(httpx.HTTPError, LabError):
            text = httpx.get(f"{self.process.url}/metrics", timeout=3, trust_env=False).text
            return "\nkpo_healer_leader 1.0" in text
        return False

    def freeze(self) -> None:
        self.frozen = True
        self.freezes.append((time.time(), float("inf")))
        self.process.freeze()

    def thaw(self) -> None:
        self.freezes[-1] = (self.freezes[-1][0], time.time())
        self.process.thaw()
        self.frozen = False

    def sample(self) -> None:
        if not self.lives or not self.process.running:
            return
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            )
            rss, threads = int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"])
            self.samples.append(Sample(time.monotonic(), self.life, rss, threads))

    def look_after(self) -> None:
        """A replica that ended without being told to is noted and started again, as Kubernetes would."""
        if self.lives and not self.process.running:
            tail = self.process.tail(30)
            self.unexpected.append(f"{self.name}, life {self.life}: ended with {self.process.exit_code}: {tail}")
            self.start()

    def lines(self) -> Iterator[Json]:
        """The log lines of all its lives."""
        for running in self.lives:
            yield from running.lines()


def user(name: str) -> str:
    return f"system:serviceaccount:{ACCOUNT}:{name}"


class Replicas:
    """All of them; a context manager that starts them and stops them."""

    def __init__(
        self, folder: Path, cluster: Cluster, airflow: Airflow, *, count: int, sabotage: str | None = None
    ) -> None:
        """`sabotage`: a name of tests/lab/sabotage.py, for chaos that has to find something."""
        self._sabotage = sabotage
        self._stack = ExitStack()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self.lock = threading.Lock()
        """Held by whoever kills, freezes or starts one."""
        self.all = [self._make(folder / f"healer-{n}", cluster, airflow, n) for n in range(count)]

    def _make(self, folder: Path, cluster: Cluster, airflow: Airflow, number: int) -> Replica:
        name = f"{ACCOUNT}-{number}"
        cluster.namespace(ACCOUNT)
        cluster.service_account(ACCOUNT, name, RIGHTS, namespaces=[airflow.namespace])
        kubeconfig = cluster.service_account(ACCOUNT, name, LEASE_RIGHTS, namespaces=[ACCOUNT])
        pki = cluster.root / "pki"
        kube = self._stack.enter_context(Gate(cluster.url, tls=(pki / "server.pem", pki / "server.key", cluster.ca)))
        door = self._stack.enter_context(Gate(airflow.url))
        installation = Installation(folder, _through(kubeconfig, kube.url), _config(folder, airflow), self._sabotage)
        return Replica(name, installation, kube, door, steady=number == 0)

    def __enter__(self) -> Replicas:
        for replica in self.all:
            replica.start()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()
        for replica in self.all:
            for running in replica.lives:
                running.kill()
        self._stack.close()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE):
            for replica in self.all:
                replica.sample()
                with self.lock:
                    replica.look_after()

    def leader(self) -> Replica | None:
        """Who says that it leads; the first of them."""
        return next((replica for replica in self.all if replica.leads()), None)

    def open_gates(self) -> None:
        for replica in self.all:
            replica.kube.set(None)
            replica.airflow.set(None)


def _through(kubeconfig: Path, url: str) -> Path:
    document = yaml.safe_load(kubeconfig.read_text())
    for cluster in document["clusters"]:
        cluster["cluster"]["server"] = url
    through = kubeconfig.with_name(f"{kubeconfig.stem}-gate.kubeconfig")
    through.write_text(yaml.safe_dump(document))
    return through


def _config(folder: Path, airflow: Airflow) -> Json:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text("viewer\n")
    one = {
        "name": "chaos",
        "namespaces": [airflow.namespace],
        "ownership": "exclusive",
        "url": airflow.url,
        "username": "viewer",
        "passwordFile": str(folder / "password"),
        "timeout": "20s",
        "policy": POLICY,
        "limits": LIMITS,
    }
    return copy.deepcopy(
        {**CONFIG, "leaderElection": {"enabled": True, "namespace": ACCOUNT, **TERMS}, "airflows": [one]}
    )
