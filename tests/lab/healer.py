"""kpo-healer itself beside the lab's cluster and Airflow: its own account, its own configuration, a child process.

installation = Installation.make(folder, cluster, url=airflow.url, namespaces=["jobs"])
installation.findings()                              # scan --all -o json
with installation.run(mode="enforce") as healer:     # kpo-healer run, until it is ready
    wait_for(lambda: healer.metric("pods", reason="orphaned") == 0)
    healer.lines()                                   # its log so far
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.audit import AuditEvent
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, Process, free_ports, wait_for

Json = Any
"""A decoded JSON document."""

ACCOUNT: Final = "kpo-healer"
"""The name of the ServiceAccount, of the namespace it lives in, and of its Role where it works."""

USER: Final = f"system:serviceaccount:{ACCOUNT}:{ACCOUNT}"

RIGHTS: Final[Sequence[Json]] = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "delete"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
)
"""All that kpo-healer needs in a namespace, the Lease's included."""

QUICK: Final[Json] = {
    "interval": "1s",
    "auditInterval": "4s",
    "freshness": "60s",  # an Airflow with a dozen tasks on two cores may take long to answer
    "log": {"format": "json", "level": "info"},
}

RETENTION: Final = {"finished": 10.0, "kept": 15.0}
"""Seconds that a done Pod stays: one that succeeded, one that KPO itself left."""

PATIENCE: Final[Json] = {
    "minAge": "0s",
    "grace": "5s",
    "absentGrace": "5s",
    "retention": {"succeeded": f"{RETENTION['finished']}s", "failed": "1h", "kept": f"{RETENTION['kept']}s"},
}
"""Short enough to be watched: where production waits minutes, this waits seconds."""

_FOREIGN: Final = ("KPO_HEALER_", "KUBECONFIG", "KUBERNETES_")
"""Variables (by prefix) of the caller that must not reach the healer of the lab."""


@dataclass(frozen=True)
class Told:
    """What a one-shot command answered."""

    code: int
    out: str
    err: str

    def data(self) -> Json:
        """Its standard output as JSON."""
        return json.loads(self.out)


EMPTY = "holds no Pod at all"
"""What `scan` says of a namespace in which all was healed."""


@dataclass
class Installation:
    """kpo-healer as it is installed for one Airflow: account, configuration, command line.

    config: the document of the configuration file. sabotage: a name of tests/lab/sabotage.py; every command is then
    run with that fault in it.
    """

    folder: Path
    kubeconfig: Path
    config: Json
    sabotage: str | None = None
    _runs: count[int] = field(default_factory=lambda: count(1), repr=False)

    @classmethod
    def make(
        cls,
        folder: Path,
        cluster: Cluster,
        *,
        url: str,
        namespaces: Sequence[str],
        policy: Mapping[str, Json] | None = None,
        limits: Mapping[str, Json] | None = None,
        sabotage: str | None = None,
        more_rights: Sequence[Json] = (),
    ) -> Installation:
        """Creates the account with its rights in `namespaces`, and a configuration that logs in as `viewer`.

        policy, limits: added to, or in place of, the quick ones of this file and the defaults. more_rights: RBAC rules
        of what is not needed by default.
        """
        cluster.namespace(ACCOUNT)
        kubeconfig = cluster.service_account(ACCOUNT, ACCOUNT, [*RIGHTS, *more_rights], namespaces=namespaces)
        folder.mkdir(parents=True, exist_ok=True)
        password = folder / "password"
        password.write_text("viewer\n")
        airflow = {
            "name": "demo",
            "namespaces": list(namespaces),
            "ownership": "exclusive",
            "url": url,
            "username": "viewer",
            "passwordFile": str(password),
            "policy": PATIENCE | dict(policy or {}),
            "limits": dict(limits or {}),
        }
        # Beside the Pods: installations side by side, and one after another that was killed, don't share a Lease then.
        # A replica of the lab runs outside the cluster, and is to behave as one inside.
        election = {"enabled": True, "namespace": namespaces[0]}
        _give_away(cluster, namespaces[0])
        config = {"mode": "report", **copy.deepcopy(QUICK), "leaderElection": election, "airflows": [airflow]}
        return cls(folder, kubeconfig, config, sabotage)

    @property
    def config_file(self) -> Path:
        """The configuration as a file; written anew each time it is asked for."""
        path = self.folder / "kpo-healer.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        return path

    def command(self, *words: str, config: Path | None = None) -> list[str]:
        """The command line with this installation's configuration and account."""
        program = ["tests.lab.sabotage", self.sabotage, "--"] if self.sabotage else ["healer"]
        where = ["--config", str(config or self.config_file), "--kubeconfig", str(self.kubeconfig)]
        return [sys.executable, "-m", *program, *words, *where]

    def ask(self, *words: str, expect: Sequence[int] = (0, 1), timeout: float = 120) -> Told:
        """Runs a one-shot command. LabError with what it said when its exit code is not among `expect`."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout, env=_environment(), cwd=_ROOT
        )
        if done.returncode not in expect:
            said = (done.stderr or done.stdout)[-2000:]
            raise LabError(f"kpo-healer {' '.join(words)} ended with {done.returncode}: {said}")
        return Told(done.returncode, done.stdout, done.stderr)

    def findings(self) -> dict[str, Json]:
        """Every Pod that kpo-healer sees, by uid, as `scan --all` shows it. A namespace may have been healed empty."""
        told = self.ask("scan", "--all", "-o", "json", expect=(0, 1, 3))
        other = [line for line in told.err.splitlines() if "incomplete: " in line and EMPTY not in line]
        if told.code == 3 and (other or EMPTY not in told.err):
            raise LabError(f"kpo-healer scan is incomplete: {told.err[-2000:]}")
        return {finding["uid"]: finding for finding in told.data()}

    def run(self, *, mode: str, url: str | None = None, port: int | None = None) -> Running:
        """A `kpo-healer run`, ready when its `with` block begins. `url`: another way to Airflow than the file's.

        port: where it listens, by default a free one.
        """
        port = port or free_ports(1)[0]
        config = copy.deepcopy(self.config) | {"mode": mode, "listen": f"127.0.0.1:{port}"}
        if url is not None:
            config["airflows"][0]["url"] = url
        name = f"run-{next(self._runs)}-{mode}"
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return Running(self.command("run", config=path), self.folder / f"{name}.log", port)


def _give_away(cluster: Cluster, namespace: str) -> None:
    """Leaves a Lease as a leader that has gone would: where there is none, the first leader waits for 15 s."""
    lease = {
        "metadata": {"name": ACCOUNT, "namespace": namespace},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 15, "leaseTransitions": 1},
    }
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    cluster.request("POST", path, lease, expect=(201, 409))


class Running(Process):
    """A `kpo-healer run`; as a context manager it is started and stopped."""

    def __init__(self, args: Sequence[str], log: Path, port: int) -> None:
        super().__init__("kpo-healer", args, log, env=_environment(), cwd=_ROOT, ready=self._says_ready)
        self.url = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def _says_ready(self) -> bool:
        return self._client.get("/readyz").status_code == 200

    def __enter__(self) -> Running:
        if not self.running:
            self.start()
        return self

    def stop(self, timeout: float = 10) -> int | None:
        self._client.close()
        return super().stop(timeout)

    def lines(self) -> list[Json]:
        """Its log so far, line by line; what is no JSON becomes a `message`."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [_line(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def deletions(self) -> list[Json]:
        """The log lines about DELETEs: `pod`, `uid`, `reason`, `result`, `detail`, …"""
        return [line for line in self.lines() if line.get("message") == "delete" or line.get("event") == "delete"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of this name (without `kpo_healer_`) that have these labels."""
        wanted = labels.items()
        text = self._client.get("/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(s.value for s in samples if s.name == f"kpo_healer_{name}" and wanted <= s.labels.items())

    def wait_passes(self, passes: int, *, timeout: float = 60) -> None:
        """Waits until it has made this many more passes over all Pods."""
        goal = self.metric("pass_duration_seconds_count") + passes
        wait_for(
            lambda: self.metric("pass_duration_seconds_count") >= goal,
            timeout=timeout,
            what=f"{passes} more passes of kpo-healer",
            interval=0.2,
        )


def deletes(cluster: Cluster, since: int = 0) -> list[AuditEvent]:
    """The DELETEs of Pods that kpo-healer sent, refused ones included, as the API server's audit log has them."""
    return cluster.audit(since, user=USER, verb="delete", resource="pods")


def other_writes(cluster: Cluster, since: int = 0) -> list[AuditEvent]:
    """What else kpo-healer wrote to Pods: there must be nothing."""
    verbs = {"create", "update", "patch", "deletecollection"}
    return [event for event in cluster.audit(since, user=USER, resource="pods") if event.verb in verbs]


_ROOT: Final = Path(__file__).parents[2]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def _line(text: str) -> Json:
    try:
        line = json.loads(text)
    except ValueError:
        line = text.rstrip()
    return line if isinstance(line, dict) else {"message": str(line), "level": "raw"}
