"""`run --once`: heal what is there and end. The same reconciler as the controller's, without a watch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from healer.airflow.note_writer import NoteWriter
from healer.cli.oneshot import OneShot, PodListing, ScanResult, no_progress
from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import Config, Mode, unreachable
from healer.leader_election import AlwaysLeader, Leadership
from healer.model import PassKind, Withheld
from healer.reconciler import Reconciler
from healer.telemetry.events import EventRecorder, Silence
from healer.telemetry.findings import FindingView
from healer.wiring import Shared, build

SLACK = 2.0
"""Seconds beyond the longest grace that `run --once` waits, for the last look."""


def heal_once(
    config: Config,
    cluster: Cluster,
    leadership: Leadership | None = None,
    *,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = boottime,
    events: bool = True,
    on_progress: Callable[[str], None] = no_progress,
) -> ScanResult:
    """Heal what is there now: look, wait for at most the longest grace, look again, act.

    `events`: whether Events may be written; `on_progress` takes, in a few words, what is being done.

    Raises LoginRefusedError when a login is refused.
    """
    on_progress("logging in")
    one_shot = OneShot(config, cluster, on_progress)
    recorder, note_writer = EventRecorder(cluster) if events else Silence(cluster), NoteWriter()
    leadership = leadership or AlwaysLeader()
    shared = Shared(config, cluster, one_shot.store, one_shot.resync, leadership, recorder, one_shot.metrics)
    reconcilers = [
        build(airflow, one_shot.connect(airflow), shared, leadership.is_leader, note_writer, clock)
        for airflow in config.airflows
    ]
    recorder.start()
    try:
        return _run_passes(one_shot, reconcilers, config, wait, clock)
    finally:
        recorder.stop(timeout=5.0)
        note_writer.stop(timeout=30.0)


def _run_passes(
    one_shot: OneShot,
    reconcilers: Sequence[Reconciler],
    config: Config,
    wait: Callable[[float], object],
    clock: Callable[[], float],
) -> ScanResult:
    deleted: list[FindingView] = []
    kind, deadline = PassKind.AUDIT, math.inf
    while True:
        listing = one_shot.list_pods()
        for reconciler in reconcilers:
            pods, unreadable = one_shot.of(reconciler.config)
            reconciler.reconcile(pods, kind, unreadable)
            deleted += reconciler.deleted
        if kind is PassKind.AUDIT:  # patience begins with the first sight, however long that took
            deadline = clock() + patience_of(config)
        event = min(reconciler.next_event() for reconciler in reconcilers)
        if event > deadline:
            break
        one_shot.on_progress(f"{len(listing.pods):,} Pods; waiting {event - clock():.0f} s, then it looks again")
        wait(max(0.0, event - clock()))
        kind = PassKind.FULL  # so that Pods that came meanwhile are asked about too
    findings = tuple(view for reconciler in reconcilers for view in reconciler.findings())
    incomplete = (
        *one_shot.incomplete(listing, findings),
        *_failed(reconcilers),
        *_undone(config, findings),
        *_missing(one_shot, listing),
    )
    return ScanResult(findings, incomplete, tuple(deleted), undecodable=listing.undecodable)


def patience_of(config: Config) -> float:
    """Return how long `run --once` waits at most, in seconds: for the longest grace."""
    return max(airflow.policy.grace for airflow in config.airflows) + SLACK


def shortcomings(config: Config) -> list[str]:
    """What of its policy `run --once` may not carry out, a sentence each; known before anything is asked."""
    patience = patience_of(config)
    found = [f"Airflow {name}: {text}" for name, texts in unreachable(config, patience).items() for text in texts]
    for airflow in config.airflows:
        breaker = airflow.limits.breaker
        if breaker.max_share < 1 and breaker.cool_down > patience:
            found.append(
                f"Airflow {airflow.name}: limits.breaker.coolDown is longer than run --once waits ({patience:g} s): "
                "where the breaker opens it stays open; look with scan, then kpo-healer release lifts it"
            )
    return found


def _failed(reconcilers: Sequence[Reconciler]) -> list[str]:
    failures = [why for reconciler in reconcilers for why in reconciler.failures().values()]
    return [f"{len(failures)} Pods: due and not deleted: {failures[0]}"] if failures else []


def _undone(config: Config, findings: Sequence[FindingView]) -> list[str]:
    """Say what an Airflow that enforces was not healed of, because no `run --once` can: the next one neither."""
    cannot = unreachable(config, patience_of(config))
    undone = []
    for airflow in (each for each in config.airflows if each.mode is Mode.ENFORCE):
        undone += [f"Airflow {airflow.name}: {text}" for text in cannot[airflow.name]]
        stopped = [s for s in findings if s.airflow == airflow.name and s.withheld is Withheld.BREAKER]
        if stopped:
            undone.append(
                f"Airflow {airflow.name}: its breaker is open and {len(stopped)} Pods are not deleted: look with "
                f"scan, then kpo-healer release --airflow {airflow.name} lifts it"
            )
    return undone


def _missing(one_shot: OneShot, listing: PodListing) -> list[str]:
    def why(namespace: str) -> str | None:
        exists = one_shot.cluster.namespace_exists(namespace)
        return "there is no such namespace: check its name" if exists is False else None

    nowhere = (f"Airflow {name}: no namespace matches any of its patterns: check them" for name in listing.nowhere)
    return [*nowhere, *one_shot.bare(listing, why=why)]
