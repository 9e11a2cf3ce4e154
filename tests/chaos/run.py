"""One run of chaos from the first process to the report."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos import memory, traces
from tests.chaos.audit_tail import AuditTail
from tests.chaos.director import Director, Plan, Stage
from tests.chaos.recorder import Recorder
from tests.chaos.replicas import Replicas
from tests.chaos.report import Outcome
from tests.chaos.verdict import Findings, judge_all, story
from tests.lab.airflow2 import Airflow2, start
from tests.lab.airflow_env import AIRFLOW_2, FULL
from tests.lab.kube import Cluster
from tests.lab.processes import say

NAMESPACE = "jobs"


def chaos(plan: Plan, folder: Path, *, replicas: int = 2, sabotage: str | None = None, version: str = FULL) -> Outcome:
    """Plays the plan on a lab of its own below `folder`; what came of it. LabError when the lab does not come up.

    The simulation's model, which is of Airflow 3, is not asked about the histories of an Airflow 2.
    """
    two = version in AIRFLOW_2
    with ExitStack() as stack:
        begin = time.monotonic()
        cluster = stack.enter_context(Cluster.start(folder / "cluster"))
        cluster.namespace(NAMESPACE)
        airflow = stack.enter_context(start(version, folder / "airflow", cluster, NAMESPACE))
        recorder = stack.enter_context(Recorder(airflow.root / "airflow.db", cluster, NAMESPACE, two=two))
        team = stack.enter_context(Replicas(folder, cluster, airflow, count=replicas, sabotage=sabotage))
        audit = AuditTail(cluster.audit_log, NAMESPACE, frozenset(one.user for one in team.all))
        director = Director(plan, Stage(airflow, cluster, recorder.picture, team, audit))
        say(f"the lab is up after {time.monotonic() - begin:.0f} s")
        begin = time.monotonic()
        director.play()
        seconds = time.monotonic() - begin
        say(f"played for {seconds:.0f} s; now the verdict")
        outcome = _outcome(director, seconds, folder)
        files = {} if two else traces.write(recorder.picture, audit, folder / "traces")
    if two:
        return outcome
    say(f"asking the simulation's model about {len(files)} histories")  # with nothing else running
    return replace(outcome, traces=len(files), refused=traces.refused(files))


def _outcome(director: Director, seconds: float, folder: Path) -> Outcome:
    stage = director.stage
    stage.audit.update()
    claimed = {str(line["uid"]) for replica in stage.replicas.all for line in replica.lines() if _is_deletion(line)}
    findings = judge_all(stage.picture, stage.audit, stage.airflow.root / "logs", claimed)
    _write_down(director, folder / "stories.txt")
    return Outcome(
        director=director,
        findings=findings,
        trends=memory.trends(stage.replicas.all),
        seconds=seconds,
        versions=_versions(stage),
        stories=_stories(director, findings),
        traces=0,
        refused=[],
        unexpected=[text for replica in stage.replicas.all for text in replica.unexpected],
        two=isinstance(stage.airflow, Airflow2),
    )


def _is_deletion(line: Any) -> bool:
    return "delete" in (line.get("message"), line.get("event")) and "uid" in line


def _write_down(director: Director, file: Path) -> None:
    """The story of every Pod: for whoever wants to look closer."""
    picture, audit = director.stage.picture, director.stage.audit
    diaries = {(play.dag, play.run): play.diary for _, play in director.plays}
    with file.open("w") as out:
        for pod in picture.pods.values():
            diary = diaries.get((pod.key.dag, pod.key.run), []) if pod.key else []
            out.write(story(picture, pod, audit.deletions, diary) + "\n\n")


def _versions(stage: Stage) -> dict[str, str]:
    kubernetes: Any = stage.cluster.request("GET", "/version")
    packages = stage.airflow.environment.packages.glob("apache_airflow_providers_cncf_kubernetes-*.dist-info")
    provider = next((path.name.split("-")[1] for path in packages), "unknown").removesuffix(".dist")
    return {"Airflow": stage.airflow.version, "cncf.kubernetes": provider, "Kubernetes": kubernetes["gitVersion"]}


def _stories(director: Director, findings: Findings) -> list[str]:
    picture, audit = director.stage.picture, director.stage.audit
    diaries = {(play.dag, play.run): play.diary for _, play in director.plays}
    suspicions = [(r.pod, f"{r.verdict}, {r.kind}: {r.why}") for r in findings.rulings if r.verdict != "right"]
    suspicions += [(pod, "missed: it is still there") for pod in findings.missed]
    suspicions += [(pod, f"used after its deletion: {line}") for pod, line in findings.used_later]
    suspicions += [(pod, "deleted twice") for pod in findings.repeated]
    for deletion in findings.out_of_turn:
        held = audit.holder_at(deletion.at)
        why = f"DELETE at {deletion.at:.3f} by {deletion.user}, while the Lease was {held or 'free'}"
        suspicions.append((picture.pods.get(deletion.uid or ""), why))
    told = []
    for pod, why in suspicions:
        if pod is None:
            told.append(why)
            continue
        diary = diaries.get((pod.key.dag, pod.key.run), []) if pod.key else []
        told.append(why + "\n" + story(picture, pod, audit.deletions, diary + director.diary_around(pod)))
    return told
