"""Made-up findings: an ordinary day of a data team, 10,000 at once, and hostile texts."""

from __future__ import annotations

import datetime as dt
import random
from email.utils import format_datetime
from typing import Any

from tests.lab.airflow_seed import Dag, Run, Task
from tests.ui.fake_healer import World

RUN = "scheduled__2026-11-30T04:00:00+00:00"

HOSTILE = "<img src=x onerror=\"document.title='owned'\">\u202e\"'`${alert(1)}{{7*7}}"
"""A text that would run, or turn the others around, wherever it is not treated as text."""

DAGS = [
    Dag(
        "sales",
        [
            Run(
                RUN,
                [
                    Task("extract", "failed"),
                    Task("load", "success"),
                    Task("train", "running", try_number=2),
                    Task("report"),
                ],
            )
        ],
    ),
    Dag("ml_features", [Run(RUN, [Task("embed", "failed", map_index=0, count=5), Task("score")])]),
    Dag("finance", [Run(RUN, [Task("close_books", "failed")])]),
    Dag("quiet", [Run(RUN, [Task("work", "success")])]),
]


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def at(**ago: float) -> str:
    """A moment as the healer writes it, so long ago."""
    return (now() - dt.timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def task(dag: str, name: str, *, index: int = -1, attempt: int = 1, state: str | None = "failed") -> dict[str, Any]:
    return {"dag_id": dag, "run_id": RUN, "task_id": name, "map_index": index, "try_number": attempt, "state": state}


def holds(cpu: float, gib: float, *, gpus: int = 0, **ago: float) -> dict[str, Any]:
    more = {"nvidia.com/gpu": float(gpus)} if gpus else {}
    return {"cpu_cores": cpu, "memory_bytes": gib * 2**30, "extended": more, "since": at(**ago)}


def finding(pod: str, of: dict[str, Any] | None, reason: str, **fields: Any) -> dict[str, Any]:
    """One finding of the contract; `fields` replace what is made up."""
    made = {
        "namespace": "jobs",
        "pod": pod,
        "uid": f"uid-{pod}",
        "airflow": "default",
        "dag_id": of["dag_id"] if of else None,
        "task": of,
        "labels": {"try_number": "1"},
        "reason": reason,
        "action": "delete",
        "withheld": "not-due",
        "detail": "task instance is failed at try 1, the Pod is of try 1, active (phase Running)",
        "since": at(minutes=3),
        "due": at(minutes=-2),
        "holds": holds(1, 2, minutes=5),
        "cause": None,
        "notices": [],
    }
    return made | fields


def cause(name: str, detail: str, remedy: str) -> dict[str, str]:
    return {"name": name, "detail": detail, "remedy": remedy}


LOST = cause(
    "worker-lost",
    "it was running when last seen: its worker was killed or lost (out of memory, eviction, a node)",
    "more memory and a longer terminationGracePeriodSeconds for workers; the right to delete Pods for them",
)
NOT_REATTACHED = cause(
    "not-reattached", "try 2 did not take the Pod over: reattach_on_restart is off", "reattach_on_restart=True"
)


def findings() -> list[dict[str, Any]]:
    return [
        finding("extract-b3k2x9qd", task("sales", "extract"), "orphaned", holds=holds(2, 4, minutes=4), cause=LOST),
        finding(
            "train-9x1mmq0a",
            task("sales", "train", attempt=2, state="running"),
            "superseded",
            detail="the task instance is at try 2 and names another Pod; this one is of try 1, active (phase Running)",
            due=at(seconds=-40),
            holds=holds(8, 64, gpus=2, minutes=31),
            cause=NOT_REATTACHED,
        ),
        finding(
            "score-77hqk2lp",
            None,
            "run-deleted",
            dag_id="ml_features",
            labels={
                "dag_id": "ml_features",
                "task_id": "score",
                "run_id": "manual__2026-11-29-5ac1f3cbf",
                "try_number": "1",
            },
            action="report",
            withheld=None,
            due=None,
            detail="the run is not there any more, and its DAG is",
            holds=holds(4, 16, hours=27),
            cause=cause("run-deleted", "the run was deleted while its Pod worked", "end a run before it is deleted"),
        ),
        finding(
            "embed-12pqa8vv",
            task("ml_features", "embed", index=3),
            "orphaned",
            withheld="breaker",
            holds=holds(1, 2, minutes=55),
            cause=LOST,
        ),
        finding(
            "close-books-5tz0k1mm",
            task("finance", "close_books"),
            "abandoned",
            action="report",
            withheld=None,
            due=None,
            holds=holds(0.5, 1, hours=3),
            cause=cause(
                "sidecar", "the base container has ended, and istio-proxy runs on", "a sidecar that ends with the task"
            ),
        ),
        finding(
            "load-ee1ppl0z",
            task("sales", "load", state="success"),
            "finished",
            due=at(minutes=-22),
            since=at(minutes=8),
            holds=None,
            cause=cause("kept-by-policy", "on_finish_action is keep_pod", 'on_finish_action="delete_pod"'),
        ),
        finding(
            "unproven-0000aaaa",
            None,
            "run-deleted",
            labels={"dag_id": "cut-off-5ac1f3cbf", "task_id": "work", "run_id": "x"},
            action="report",
            withheld=None,
            due=None,
        ),
        finding("elsewhere-1111bbbb", task("sales", "extract"), "orphaned", airflow="staging"),
    ]


def notices() -> list[dict[str, Any]]:
    def notice(kind: str, pod: str, of: dict[str, Any] | None, detail: str) -> dict[str, Any]:
        dag = of["dag_id"] if of else None
        about = {"notice": kind, "namespace": "jobs", "pod": pod, "uid": f"uid-{pod}", "airflow": "default"}
        return about | {"dag_id": dag, "task": of, "detail": detail}

    return [
        notice(
            "stuck-pending",
            "report-1f0amz3k",
            task("sales", "report", state="running"),
            "Pending for 41 min: 0/12 nodes are available: 12 Insufficient nvidia.com/gpu",
        ),
        notice(
            "stuck-terminating",
            "books-9",
            task("finance", "close_books"),
            "still there 20 min after its end: a finalizer",
        ),
        notice("uncertain-long", "who-knows-1", None, "kept for 26 h: labels-ambiguous"),
    ]


def history() -> list[dict[str, Any]]:
    """Two weeks, three DAGs, newest first, always the same."""
    dice = random.Random(7)
    of = {"sales": "extract", "ml_features": "score", "finance": "close_books"}
    made = []
    for number in range(64):
        ended = 1.5 + number * 5.2 + dice.random() * 4
        dag = dice.choices(list(of), [5, 3, 1])[0]
        reason = dice.choices(["orphaned", "superseded", "finished"], [5, 3, 2])[0]
        held = holds(dice.choice([0.5, 1, 2, 4]), dice.choice([1, 2, 8]), hours=ended + dice.uniform(0.05, 1.2))
        entry = finding(
            f"{of[dag].replace('_', '-')}-{number:04x}",
            task(dag, of[dag]),
            reason,
            deleted=at(hours=ended),
            due=at(hours=ended),
            withheld=None,
            holds=None if reason == "finished" else held,
            cause=LOST if reason == "orphaned" else NOT_REATTACHED,
        )
        made.append(entry)
    return made


def ordinary() -> World:
    return World(findings(), notices(), history(), looked=format_datetime(now(), usegmt=True))


def hostile() -> World:
    of = task("sales", HOSTILE)
    evil = cause(HOSTILE, HOSTILE, HOSTILE)
    long = "x" * 250
    found = [
        finding("evil-1", of, HOSTILE, detail=HOSTILE, cause=evil, holds=holds(1, 1) | {"extended": {HOSTILE: 1.0}}),
        finding("evil-2", task("sales", long) | {"run_id": long}, "orphaned", detail=long * 8, withheld=HOSTILE),
        finding(
            "evil-3",
            None,
            "run-deleted",
            dag_id="sales",
            labels={"dag_id": HOSTILE, "task_id": HOSTILE, "run_id": HOSTILE},
        ),
    ]
    note = {"notice": HOSTILE, "namespace": "jobs", "pod": HOSTILE, "uid": "e", "airflow": "default", "dag_id": "sales"}
    return World(
        found, [note | {"task": of, "detail": HOSTILE}], [found[0] | {"deleted": at(hours=1)}], incomplete="<b>x</b>"
    )


def many(count: int = 10_000, dags: int = 100) -> World:
    """As many findings, most of them of DAGs that Airflow has."""
    known = ["sales", "ml_features", "finance"]
    names = known + [f"team{n:03}" for n in range(dags - len(known))]
    found = [
        finding(
            f"bulk-{n:05}",
            task(names[n % len(names)], "extract"),
            "orphaned",
            holds=holds(1, 2, minutes=n % 600 + 5),
            cause=LOST,
            due=at(minutes=-(n % 90) - 1),
        )
        for n in range(count)
    ]
    return World(found, [], history(), looked=format_datetime(now(), usegmt=True))
