"""Writes what was measured: bench.json, the tables of docs/performance.md, the plots.

Each part replaces only its own, so that parts can be measured anew one by one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.bench import plots
from tests.lab.assets import cache_folder, locked

ROOT: Final = Path(__file__).parents[2]
FILE: Final = Path(__file__).with_name("bench.json")
DOCUMENT: Final = ROOT / "docs" / "performance.md"

Result = dict[str, Any]

EVIDENCE_BEFORE: Final = 0.93
"""Seconds it was before questions were left out, on two cores that others kept busy: no answer may be older."""

GOALS: Final[Sequence[tuple[str, str, str, float]]] = (
    ("1", "pass_wall_vs_kube_janitor", "full healing pass, wall / kube-janitor's wall", 1.0),
    ("1", "pass_wall_vs_cleanup_pods", "the same / wall of `airflow kubernetes cleanup-pods`", 0.2),
    (
        "2",
        "healed_airflow_cpu_ms",
        "CPU of Airflow's API server for each healed orphan, the look at all included, ms",
        5.0,
    ),
    ("2", "two_orphan_cpu_ms", "the same of an Airflow 2.11's web server, with a session, ms", 45),
    ("3", "startup_with_airflow_cpu_ratio", "a scan including the Airflow side / floor of both", 1.5),
    ("4", "startup_cpu_ratio", "CPU until 10,000 Pods are judged once, without Airflow's share, / floor", 1.2),
    ("4", "watch_established_cpu_ratio", "the same including the established watch, / floor", 1.4),
    ("5", "quiet_airflow_calls", "Airflow calls in a quiet pass, 200 live runs", 1),
    ("5", "quiet_kubernetes_lists", "Kubernetes LISTs in a quiet pass", 0),
    ("5", "quiet_cpu_ms", "CPU of the healer in a quiet pass, ms", 20),
    ("6", "rss_mb", "peak RSS in MB, 10,000 Pods, steady state included", 120),
    ("6", "rss_mb_per_hour", "growth of RSS in the second half of the steady state, MB in an hour", 1),
    ("7", "growth_cpu_10x", "CPU at 100,000 Pods / at 10,000", 10),
    ("7", "growth_rss_10x", "RSS at 100,000 Pods / at 10,000", 4),
    (
        "8",
        "evidence_age_p99_seconds",
        "age of the evidence at the DELETE in a full healing pass, p99, s",
        EVIDENCE_BEFORE,
    ),
    ("9", "latency_p99_over_interval_seconds", "ended → DELETE beyond grace, p99, seconds over one interval", 2),
    ("10", "ready_over_floor_seconds", "start until `/readyz`, seconds over the floor's wall", 3),
)
"""Row of the goals, figure, what it is, the most it may be."""


_MEANING: Final = {
    "steady": """\
* **Itself**: at most {rss_mb:.0f} MB of memory, and {quiet_minute_cpu_ms} ms of CPU in a quiet minute.
* **The API server**: no LIST while the watch holds; {quiet_kubernetes_requests} small requests a minute.
* **Airflow**: one question a minute, with {quiet_airflow_kb:g} kB for an answer; {audit_calls} in an audit.
""",
    "latency": """\
* **An orphan** goes {beyond_grace_seconds[p50]:.0f} s after its grace, {beyond_grace_seconds[p99]:.0f} s at the 99th
  percentile, where `interval` is {interval_seconds} s.
""",
    "pass": """\
* **A bad day**: {orphans:,} orphans among {pods:,} Pods are proven and deleted in
  {contestants[kpo-healer][wall_seconds]:.0f} s where no budget slows that down; the default allows 60 a minute.
""",
    "growth": """\
* **More of them**: {pods[4][pods]:,} Pods take {pods[4][controller_rss]:.0f} MB at its start, which is over after
  {pods[4][ready]:.0f} s.
""",
}
"""What the figures of each part mean for a cluster."""


def load() -> Result:
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {"figures": {}, "parts": {}}


def merge(name: str, part: Result, versions: Mapping[str, str] | None = None) -> None:
    """Adds or replaces one part, and writes everything that depends on it."""
    with locked(cache_folder() / ".bench.lock"):  # parts may end side by side
        known = load()
        known["figures"] |= part.pop("figures")
        known["versions"] = dict(versions) if versions is not None else known.get("versions", {})
        known["parts"][name] = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), **_machine(), **part}
        FILE.write_text(json.dumps(known, indent=1) + "\n")
        write(known)


def _machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    model = re.search(r"model name\s*:\s*(.*)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    return {
        "commit": commit.stdout.strip(),
        "machine": {
            "cores": os.cpu_count(),
            "processor": model[1].strip() if model else platform.machine(),
            "memory_gb": round(int(memory[1]) / 1e6) if memory else None,
            "load": round(os.getloadavg()[2], 1),
        },
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


# --- the document ---------------------------------------------------------------------------------------------------


def write(known: Result) -> None:
    """Fills the places between the markers of the document, and draws the plots."""
    text = DOCUMENT.read_text()
    for name, table in _tables(known).items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text:
            head, _, rest = text.partition(begin)
            text = head + begin + "\n" + table.strip() + "\n" + end + rest.partition(end)[2]
    DOCUMENT.write_text(text)
    _draw(known["parts"])


def _tables(known: Result) -> dict[str, str]:
    parts, tables = known["parts"], {"goals": _goals(known["figures"]), "versions": _versions(known)}
    tables["meaning"] = _meaning(known)
    if "startup" in parts:
        tables["startup"] = _contestants(parts["startup"]["contestants"]) + _starts(parts["startup"]["controller"])
    if "pass" in parts:
        tables["pass"] = _contestants(parts["pass"]["contestants"])
    if "steady" in parts:
        tables["steady"] = _pairs(parts["steady"], _STEADY)
    if "latency" in parts:
        tables["latency"] = _table(["seconds beyond grace", ""], list(parts["latency"]["beyond_grace_seconds"].items()))
    if "growth" in parts:
        tables["growth"] = _growth(parts["growth"])
    if "orphan" in parts:
        tables["orphan"] = _orphan(parts["orphan"])
    return tables


def _meaning(known: Result) -> str:
    """What a cluster is asked for, in sentences: of the parts that were measured."""
    parts, figures = known["parts"], known["figures"]
    return "".join(text.format(**parts[part], **figures) for part, text in _MEANING.items() if part in parts)


def _goals(figures: Mapping[str, float | None]) -> str:
    rows = []
    for row, name, what, most in GOALS:
        value = figures.get(name)
        met = "not measured" if value is None else "yes" if value <= most else "**no**"
        rows.append([row, what, f"≤ {most:g}", "" if value is None else f"{value:g}", met])
    return _table(["row", "figure", "goal", "measured", "met"], rows)


def _versions(known: Result) -> str:
    places = [f"{name} {version}" for name, version in sorted(known.get("versions", {}).items())]
    rows = [
        [name, part["measured"], part["commit"], f"{part['machine']['cores']} cores", part["machine"]["processor"]]
        for name, part in sorted(known["parts"].items())
    ]
    return ", ".join(places) + ".\n\n" + _table(["part", "measured", "commit", "machine", "processor"], rows)


def _contestants(costs: Mapping[str, Result]) -> str:
    head = [
        "",
        "wall s",
        "CPU s",
        "RSS MB",
        "Kubernetes calls",
        "MB",
        "CPU of kube-apiserver",
        "etcd",
        "Airflow",
        "PostgreSQL",
    ]
    rows = []
    for name, cost in costs.items():
        low, high = cost["wall_spread"]
        servers = cost["server_cpu_seconds"]
        cpu = [servers.get(server, "") for server in ("kube-apiserver", "etcd", "airflow", "postgres")]
        wall = f"{cost['wall_seconds']} ({low} – {high})"
        rows.append(
            [name, wall, cost["cpu_seconds"], cost["rss_mb"], cost["kubernetes_calls"], cost["kubernetes_mb"], *cpu]
        )
        rows[-1].append(cost["audit_rows"])
    return _table([*head, "rows in Airflow's log"], rows)


def _starts(controller: Mapping[str, Sequence[float]]) -> str:
    return "\n" + _table(
        ["the controller, each start", ""], [[k, ", ".join(map(str, v))] for k, v in controller.items()]
    )


_STEADY: Final = {
    "steady_minutes": "minutes of steady state",
    "quiet_rows": "rows read in a quiet pass, at most",
    "ended_each_minute": "task instances that ended each minute",
    "quiet_airflow_kb": "kB from Airflow in a quiet pass",
    "quiet_minute_cpu_ms": "CPU of the healer in ms in a minute with one quiet pass, Lease and watch included",
    "quiet_kubernetes_requests": "requests to the API server in a quiet minute (the Lease's)",
    "audit_calls": "Airflow calls in an audit",
    "audit_rows": "rows read in an audit",
    "audit_cpu_ms": "CPU of the healer in ms in a minute with an audit",
}


def _pairs(part: Result, names: Mapping[str, str]) -> str:
    rows = [[what, part[name]] for name, what in names.items() if part.get(name) is not None]
    day = part["audit_table_per_day"]
    rows += [
        ["rows per day in Airflow's audit table", day["rows"]],
        ["MB per day there, as PostgreSQL stores them", round(day["bytes"] / 1e6, 1)],
    ]
    return _table(["", ""], rows)


def _growth(part: Result) -> str:
    tables = {key: _table(list(part[key][0]), [list(row.values()) for row in part[key]]) for key in _CURVES}
    texts = [f"{said}\n\n{tables[key]}" for key, said in _CURVES.items()]
    slopes = ", ".join(f"{name} {value}" for name, value in part["slopes"].items())
    texts.append(f"Slopes over the Pods (exponent of a power law; 1 is linear): {slopes}.\n")
    return "\n".join([*texts, *(f"![{title}]({name})" for name, title in PLOTS.items())])


def _orphan(part: Result) -> str:
    head = ["for each healed orphan", "CPU of Airflow's server, ms", "calls", "rows", "kB"]
    rows = [
        [f"Airflow {v}", *(row[name] for name in ("cpu_ms", "calls", "rows", "kb"))]
        for v, row in part["airflows"].items()
    ]
    return _table(head, rows)


_CURVES: Final = {
    "pods": "By the number of Pods, all of live task instances. CPU in seconds, RSS in MB; `cpu`, `rss` and `wall` are"
    " of a scan with Airflow, `judged`, `established`, `ready` and `controller_rss` of the controller's start.",
    "runs": "10,000 Pods in so many live runs.",
    "orphans": "10,000 Pods, so many percent of them orphans that nobody has deleted.",
    "standing": "10,000 Pods in report mode, so many of them suspects that stand: what each quiet pass costs.",
}
PLOTS: Final = {
    "performance-pods-cpu.svg": "CPU over the number of Pods",
    "performance-pods-rss.svg": "Peak memory over the number of Pods",
    "performance-runs.svg": "CPU over the number of live runs",
    "performance-orphans.svg": "CPU over the share of orphans",
}


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


# --- the plots ------------------------------------------------------------------------------------------------------


def _draw(parts: Result) -> None:
    if "growth" not in parts:
        return
    part = parts["growth"]
    folder = DOCUMENT.parent

    def curve(key: str, x: str, y: str) -> list[tuple[float, float]]:
        return [(row[x], row[y]) for row in part[key]]

    cpu = {
        "floor": "floor_cpu",
        "judged once": "judged",
        "watch established": "established",
        "scan with Airflow": "cpu",
    }
    drawn = {
        "performance-pods-cpu.svg": plots.lines(
            "CPU over the number of Pods", "Pods", "CPU, s", {name: curve("pods", "pods", y) for name, y in cpu.items()}
        ),
        "performance-pods-rss.svg": plots.lines(
            "Peak memory over the number of Pods",
            "Pods",
            "RSS, MB",
            {n: curve("pods", "pods", y) for n, y in {"scan": "rss", "controller": "controller_rss"}.items()},
        ),
        "performance-runs.svg": plots.lines(
            "10,000 Pods in few or many live runs",
            "live runs",
            "CPU of a scan, s",
            {"scan": curve("runs", "runs", "cpu")},
        ),
        "performance-orphans.svg": plots.lines(
            "10,000 Pods, some of them orphans",
            "orphans, %",
            "CPU of a scan, s",
            {"scan": curve("orphans", "percent", "cpu")},
            logarithmic=False,
        ),
    }
    for name, text in drawn.items():
        (folder / name).write_text(text)
