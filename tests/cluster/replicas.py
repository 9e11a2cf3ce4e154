"""Two replicas of kpo-healer on the real API server, each with an account of its own, so that the audit log tells them
apart; their Airflow knows one task instance, which has failed: every Pod of it is an orphan."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from tests.lab.audit import AuditEvent
from tests.lab.healer import ACCOUNT, RIGHTS, Installation, Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.unit.cli_world import Server, serving, with_row

Json = Any

LEASE = "kpo-healer"

PATIENCE = 150.0
"""Seconds after which a condition that never comes true is a failure, on a machine that has much else to do."""

DURATION, DEADLINE, RETRY = 5.0, 3.0, 0.5
TERMS: Mapping[str, Json] = {"leaseDuration": "5s", "renewDeadline": "3s", "retryPeriod": "500ms"}
EAGER: Mapping[str, Json] = {
    "minAge": "0s",
    "grace": "1s",
    "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"},
}
UNLIMITED: Mapping[str, Json] = {"deletionsPerMinute": None, "breaker": {"maxShare": 1.0}}


def times(variable: str, default: int) -> int:
    """How often to try something: a few times as a test, many as evidence."""
    return int(os.environ.get(variable, default))


@dataclass
class Replica:
    """One of them. user: as the audit log calls it. running: the latest process."""

    name: str
    installation: Installation
    trap: Path
    running: Running | None = None

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{ACCOUNT}:{self.name}"

    @property
    def healer(self) -> Running:
        assert self.running is not None
        return self.running

    def leads(self) -> bool:
        return self.healer.metric("leader") == 1


@dataclass
class Pair:
    """Both replicas, their namespace and what the API server saw of them."""

    cluster: Cluster
    namespace: str
    replicas: Sequence[Replica]
    mark: int
    stack: ExitStack
    _names: Iterator[int] = field(default_factory=lambda: count(1))

    def start(self, replica: Replica, *, mode: str = "enforce", trapped: bool = False) -> Running:
        """Starts a replica; trapped: it stops itself between check and sending while its `trap` is there."""
        healer = replica.installation.run(mode=mode)
        healer.start_timeout = PATIENCE
        if trapped:
            healer.args = [*healer.args[:2], "tests.cluster.paused", replica.trap, *healer.args[3:]]
        replica.running = self.stack.enter_context(healer)
        return healer

    def start_both(self, **more: Any) -> None:
        for replica in self.replicas:
            self.start(replica, **more)

    def leader(self) -> tuple[Replica, Replica]:
        """Waits until one leads; it and the other."""
        return self.wait(self._leader, "a leader")

    def _leader(self) -> tuple[Replica, Replica] | None:
        one, other = self.replicas
        holder = self.holder()
        if holder is None:
            return None
        return (one, other) if holder == one.user else (other, one)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, timeout=PATIENCE, what=what, interval=0.1)

    def orphan(self, **more: Any) -> str:
        """A Pod that may be deleted."""
        name = f"orphan-{next(self._names)}"
        self.cluster.create_pod(
            kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=self.namespace, name=name, **more)
        )
        return name

    def names(self) -> set[str]:
        metas = (pod["metadata"] for pod in self.cluster.pods(self.namespace))
        return {meta["name"] for meta in metas if "deletionTimestamp" not in meta}

    def wait_gone(self, *names: str) -> None:
        self.wait(lambda: not self.names() & set(names), f"the end of {names}")

    def deletes(self, replica: Replica | None = None, name: str | None = None) -> list[AuditEvent]:
        """The DELETEs of both or one, answered or refused, in the order in which they were received."""
        sent = self.cluster.audit(self.mark, verb="delete", resource="pods")
        mine = [event for event in sent if event.namespace == self.namespace and event.name == (name or event.name)]
        users = {replica.user} if replica else {each.user for each in self.replicas}
        return sorted((event for event in mine if event.user in users), key=lambda event: event.received)

    def lease(self) -> Json | None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{LEASE}"
        answer = self.cluster.request("GET", path, expect=(200, 404))
        return answer if answer["kind"] == "Lease" else None

    def lease_writes(self) -> list[AuditEvent]:
        """The writes to the Lease that the API server took, in the order in which it was done with them."""
        written = self.cluster.audit(self.mark, resource="leases")
        good = (e for e in written if e.verb in {"create", "update"} and e.code in {200, 201})
        return sorted((e for e in good if e.namespace == self.namespace), key=lambda event: event.completed)

    def holder(self) -> str | None:
        """The user that wrote the Lease last; None where it has been given away, or there is none."""
        writes = self.lease_writes()
        return writes[-1].user if writes and holder_of(writes[-1]) else None

    def late(self) -> list[AuditEvent]:
        """The DELETEs that came when their sender could not lead any more: another had taken the Lease, or the last
        renewal was too long ago."""
        return list(late(self.deletes(), self.lease_writes()))


def holder_of(write: AuditEvent) -> str | None:
    identity = (write.body or {}).get("spec", {}).get("holderIdentity")
    return str(identity) if identity else None


def late(deletes: Sequence[AuditEvent], writes: Sequence[AuditEvent]) -> Iterator[AuditEvent]:
    """A renewal that is received here began earlier, so this never takes a good DELETE for a late one, unless that was
    long on its way."""
    for delete in deletes:
        before = [write for write in writes if write.received <= delete.received]
        mine = [write for write in before if write.user == delete.user and holder_of(write)]
        taken = [write for write in before if write.user != delete.user and write.completed <= delete.received]
        over = not mine or (taken and taken[-1].completed > mine[-1].completed)
        if over or (delete.received - mine[-1].received).total_seconds() > DEADLINE:
            yield delete


@contextmanager
def airflow() -> Iterator[Server]:
    """An Airflow whose only task instance has failed."""
    with serving(partial(with_row, {"end_date": None})) as server:
        yield server


@contextmanager
def pair(cluster: Cluster, namespace: str, folder: Path, url: str) -> Iterator[Pair]:
    """Two replicas that are not started yet."""
    made = Installation.make(
        folder, cluster, url=url, namespaces=[namespace], policy=EAGER, limits=copy.deepcopy(UNLIMITED)
    )
    made.config["leaderElection"] |= TERMS
    made.config["freshness"] = "15s"
    replicas = []
    for name in ("one", "other"):
        kubeconfig = cluster.service_account(ACCOUNT, name, RIGHTS, namespaces=[namespace])
        (folder / name).mkdir()
        own = replace(made, folder=folder / name, kubeconfig=kubeconfig)
        replicas.append(Replica(name, own, folder / name / "trap"))
    with ExitStack() as stack:
        yield Pair(cluster, namespace, replicas, cluster.audit_mark(), stack)
