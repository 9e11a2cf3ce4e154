"""What a contestant costs: its own process, and everything it makes the servers do."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.world import World
from tests.lab.audit import AuditEvent
from tests.lab.processes import LabError, Process, session_members, wait_for

TICKS: Final = os.sysconf("SC_CLK_TCK")
PATIENCE: Final = 1800.0
"""Seconds after which a contestant has lost."""

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """Of one run. Seconds, bytes, counts; `calls`: requests to the API server by verb and resource.

    cpu: of the process and all it started and waited for; rss: the most that one process held.
    """

    wall: float
    cpu: float
    rss: int
    calls: Mapping[str, int]
    kubernetes_bytes: int
    servers: Mapping[str, float] = field(default_factory=dict)
    audit_rows: int = 0
    out: str = ""

    @property
    def requests(self) -> int:
        return sum(self.calls.values())


def cpu_of(pid: int) -> float:
    """Seconds of CPU that the process and what it has waited for have used; 0 when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def rss_of(pid: int, which: str = "VmHWM") -> int:
    """Resident bytes of a process: `VmHWM` the most so far, `VmRSS` now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise LabError(f"process {pid} has no {which}")


class Servers:
    """The processor time of all servers and the API server's own count of bytes, since it was made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._begin = self._now()
        self._bytes = self._sent()
        self._rows = world.airflow_log()[0] if world.postgres else 0
        self.mark = world.cluster.audit_mark()

    def cpu(self) -> dict[str, float]:
        """Seconds of each server since the beginning."""
        return {name: round(value - self._begin[name], 3) for name, value in self._now().items()}

    def audit_rows(self) -> int:
        """New rows in Airflow's audit table."""
        return self._world.airflow_log()[0] - self._rows if self._world.postgres else 0

    def kubernetes_bytes(self) -> int:
        """Bytes of the answers to requests about Pods, Events and Leases, and of watch events of Pods."""
        return self._sent() - self._bytes

    def _now(self) -> dict[str, float]:
        world = self._world
        processes = {"kube-apiserver": world.cluster.apiserver, "etcd": world.cluster.etcd}
        if world.airflow is not None and world.postgres is not None:
            processes |= {"airflow": world.airflow.api_server, "postgres": world.postgres.process}
        return {name: sum(map(cpu_of, session_members(p.pid))) for name, p in processes.items()}

    def _sent(self) -> int:
        """Audit lines know no sizes; the server's metrics do. They count what is on the wire, compressed or not."""
        text = self._world.cluster.request("GET", "/metrics")
        wanted = {
            "apiserver_response_sizes_sum": ("pods", "events", "leases"),
            "apiserver_watch_events_sizes_sum": ("pods",),
        }
        total = 0.0
        for family in text_string_to_metric_families(_only(text, wanted)):
            for sample in family.samples:
                if sample.name in wanted and sample.labels.get("resource", "").lower() in wanted[sample.name]:
                    total += sample.value
        return int(total)


def _only(text: str, names: Mapping[str, object]) -> str:
    """The lines of these metrics: parsing all of them would take a second."""
    return "".join(line + "\n" for line in text.splitlines() if line.startswith(tuple(names)))


def calls(world: World, since: int, *, user: str | None = None) -> Counter[str]:
    """Requests to the API server behind an audit mark; the bench's own are not among them."""
    return requests_of(event for event in world.cluster.audit(since, user=user) if event.user_agent != "lab")


def requests_of(events: Iterable[AuditEvent]) -> Counter[str]:
    """How many there are, as `verb resource`; a watch counts when it begins."""
    return Counter(
        f"{event.verb} {event.resource}{'/' + event.subresource if event.subresource else ''}"
        for event in events
        if event.resource and (event.verb != "watch" or event.stage == "ResponseStarted")
    )


def run(
    world: World,
    args: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    expect: Sequence[int] = (0,),
) -> Cost:
    """Runs a contestant to its end. LabError with what it said when it fails or takes too long."""
    servers = Servers(world)
    used, out = _launched(world.folder / "used.json", [str(arg) for arg in args], {**os.environ, **(env or {})}, expect)
    time.sleep(0.5)  # the last lines of the audit log
    return Cost(
        wall=used["wall"],
        cpu=used["cpu"],
        rss=int(used["rss"]),
        calls=dict(calls(world, servers.mark)),
        kubernetes_bytes=servers.kubernetes_bytes(),
        servers=servers.cpu(),
        audit_rows=servers.audit_rows(),
        out=out,
    )


def _launched(
    file: Path, args: Sequence[str], env: Mapping[str, str], expect: Sequence[int]
) -> tuple[dict[str, float], str]:
    """What the command used and what it printed."""
    file.unlink(missing_ok=True)
    log, out = file.with_name("said.txt"), file.with_name("out.txt")
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), str(file), str(out), *args]
    log.unlink(missing_ok=True)
    child = Process(args[0], command, log, env=env, cwd=ROOT)
    try:
        child.launch().wait(PATIENCE)
    finally:
        child.kill()
    used = json.loads(file.read_text()) if file.exists() else {"code": "nothing"}
    if used["code"] not in expect:
        raise LabError(f"{' '.join(args)} ended with {used['code']}: {child.tail(30)}")
    return used, out.read_text(errors="replace")


def wait_still(pid: int, *, seconds: float = 2.0, below: float = 0.03) -> float:
    """Waits until the process uses hardly any CPU for some seconds; what it had used when that began."""
    history: list[tuple[float, float]] = []

    def still() -> float | None:
        now, used = time.monotonic(), cpu_of(pid)
        history.append((now, used))
        before = [cpu for at, cpu in history if at <= now - seconds]
        return before[-1] if before and used - before[-1] <= below else None

    return wait_for(still, timeout=300, interval=0.25, what="the process to have nothing to do") or 0.0


def metrics(url: str) -> dict[str, float]:
    """The healer's own metrics, labels in the name as Prometheus writes them."""
    lines = httpx.get(f"{url}/metrics", trust_env=False, timeout=30).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def middle(costs: Sequence[Cost], name: str) -> float:
    """The median of one figure."""
    return float(median(getattr(cost, name) for cost in costs))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of sorted values that so many percent do not exceed."""
    return values[max(0, -(-len(values) * round(percent) // 100) - 1)]


def spread(costs: Sequence[Cost], name: str) -> tuple[float, float]:
    values = [float(getattr(cost, name)) for cost in costs]
    return min(values), max(values)


def summary(costs: Sequence[Cost]) -> dict[str, Any]:
    """Medians and spread of several runs, for bench.json."""
    low, high = spread(costs, "wall")
    cpu_low, cpu_high = spread(costs, "cpu")
    return {
        "runs": len(costs),
        "wall_seconds": round(middle(costs, "wall"), 2),
        "wall_spread": [round(low, 2), round(high, 2)],
        "cpu_seconds": round(middle(costs, "cpu"), 2),
        "cpu_spread": [round(cpu_low, 2), round(cpu_high, 2)],
        "rss_mb": round(middle(costs, "rss") / 1e6, 1),
        "kubernetes_calls": int(middle(costs, "requests")),
        "kubernetes_mb": round(middle(costs, "kubernetes_bytes") / 1e6, 2),
        "calls": dict(costs[-1].calls),
        "server_cpu_seconds": {
            name: round(median(cost.servers[name] for cost in costs), 2) for name in costs[0].servers
        },
        "audit_rows": int(middle(costs, "audit_rows")),
    }
