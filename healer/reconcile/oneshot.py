"""What the one-shot commands do: look once, explain one Pod, heal what is there and end.

They use the same reconciler as the controller does, so that what they show is what it would do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from healer.airflow import Airflow, Call
from healer.clock import steady
from healer.cluster import Cluster, ClusterError, Right, sole_replica
from healer.config import AirflowConfig, Config
from healer.log import get_logger
from healer.metrics import Metrics
from healer.model import Answer, Pod, Reason, Unknown
from healer.reconcile.casebook import owns
from healer.reconcile.notary import Notary
from healer.reconcile.reconciler import Depth, Reconciler, Tools, never_lifted
from healer.report import Herald, Notable, Shown
from healer.rules import Step, Terms, trace

log = get_logger(__name__)

SLACK = 2.0
"""Seconds beyond the longest grace that `run --once` waits, for the last look."""


def _ignore(_text: str) -> None:
    """Tell nobody."""


class NoSuchPodError(Exception):
    """There is nothing to explain; the text says why."""


class Scan(Struct, frozen=True):
    """The findings on all Pods, what was deleted, and why the picture is not complete (empty if it is)."""

    findings: tuple[Shown, ...]
    incomplete: tuple[str, ...]
    deleted: tuple[Shown, ...] = ()
    notices: tuple[Notable, ...] = ()


class Explanation(Struct, frozen=True):
    """All there is to say about one Pod: every rule that was tried, in order."""

    pod: Pod
    shown: Shown
    answer: Answer
    steps: tuple[Step, ...]


class Picture(Struct, frozen=True):
    """The Pods that could be listed, and why a namespace could not."""

    pods: tuple[Pod, ...]
    unreadable: Mapping[str, str]


def scan(config: Config, cluster: Cluster, tell: Callable[[str], None] = _ignore) -> Scan:
    """Look once at every Pod; change nothing. `tell` hears, in a few words, what is being done.

    Raises AirflowRefused when a login is refused.
    """
    tell("logging in")
    house = _House(config, cluster, sole_replica, tell=tell)
    tell("listing Pods")
    picture = house.picture()
    house.known = len(picture.pods)
    for reconciler in house.reconcilers:
        reconciler.look(picture.pods, picture.unreadable)
    return house.first_look(picture)


def explain(config: Config, cluster: Cluster, namespace: str, name: str) -> Explanation:
    """Look at one Pod and say of every rule why it did or did not match.

    Raises NoSuchPodError, AirflowRefused, or ClusterError when the Pod can't be read.
    """
    claimants = [airflow for airflow in config.airflows if namespace in airflow.namespaces]
    if not claimants:
        raise NoSuchPodError(f"namespace {namespace} belongs to no Airflow of the configuration: add it there")
    pod = cluster.get_pod(namespace, name)
    if pod is None:
        raise NoSuchPodError(f"there is no Pod {namespace}/{name}: look with kubectl get pods -n {namespace}")
    mine = next((airflow for airflow in claimants if owns(airflow, pod)), None)
    if mine is None:
        raise NoSuchPodError(f"{pod} is stamped for none of {', '.join(a.name for a in claimants)}: it is left alone")
    house = _House(config, cluster, sole_replica, only=mine)
    reconciler = house.reconcilers[0]
    if not pod.selected:
        raise NoSuchPodError(f"{pod} does not carry the labels of KubernetesPodOperator: it is left alone")
    reconciler.look([pod], {})
    return _explanation(reconciler, pod, mine)


def _explanation(reconciler: Reconciler, pod: Pod, airflow: AirflowConfig) -> Explanation:
    terms = Terms(frozenset(airflow.policy.foreign_operators), airflow.policy.grace)
    shown = next((shown for shown in reconciler.shown(first_look=True) if shown.pod.uid == pod.uid), None)
    record = reconciler.record(pod.uid)
    if shown is None or record is None:
        raise NoSuchPodError(f"{pod} has just vanished")
    answer = record.doubt or record.answer or Unknown(0.0, "Airflow need not be asked: the Pod alone decides")
    return Explanation(record.pod, shown, answer, tuple(trace(record.pod, answer, terms)))


def heal_once(
    config: Config,
    cluster: Cluster,
    *,
    right: Right = sole_replica,
    lifted: Callable[[str], bool] = never_lifted,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = steady,
) -> Scan:
    """Heal what is there now: look, wait for at most the longest grace, look again, act.

    `lifted`: whether the breaker of an Airflow is.

    Raises AirflowRefused when a login is refused.
    """
    house = _House(config, cluster, right, lifted=lifted, clock=clock)
    patience = max(airflow.policy.grace for airflow in config.airflows) + SLACK
    house.herald.start()
    try:
        return _heal_within(house, patience, wait, clock)
    finally:
        house.herald.stop(timeout=5.0)
        house.notary.stop(timeout=30.0)


def _heal_within(house: _House, patience: float, wait: Callable[[float], object], clock: Callable[[], float]) -> Scan:
    deleted: list[Shown] = []
    depth, deadline = Depth.AUDIT, math.inf
    while True:
        picture = house.picture()
        for reconciler in house.reconcilers:
            reconciler.reconcile(picture.pods, depth, picture.unreadable)
            deleted += reconciler.deleted
        if depth is Depth.AUDIT:  # patience begins with the first sight, however long that took
            deadline = clock() + patience
        event = min(reconciler.next_event() for reconciler in house.reconcilers)
        if event > deadline:
            return house.scan(picture, deleted)
        wait(max(0.0, event - clock()))
        depth = Depth.FULL  # so that Pods that came meanwhile are asked about too


class _House:
    """The reconcilers of a one-shot command, with all that they need."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        right: Right,
        *,
        only: AirflowConfig | None = None,
        lifted: Callable[[str], bool] = never_lifted,
        clock: Callable[[], float] = steady,
        tell: Callable[[str], None] = _ignore,
    ) -> None:
        self._tell, self._answers, self._rows, self.known = tell, 0, 0, 0
        self._config, self._cluster = config, cluster
        self.herald, self.notary = Herald(cluster), Notary()
        tools = Tools(
            cluster,
            self.herald,
            Metrics(config),
            right,
            clock,
            lifted=lifted,
            freshness=config.freshness,
            notary=self.notary,
        )
        airflows = [only] if only is not None else config.airflows
        self._trouble: list[str] = []
        self.reconcilers = [Reconciler(airflow, self._ready(airflow), tools) for airflow in airflows]

    def _ready(self, airflow: AirflowConfig) -> Airflow:
        """Log in at once: a command whose login is refused must say so, also where there is no Pod to ask about."""
        client = Airflow(airflow, observe=self._heard)
        trouble = client.login()
        if trouble is not None:
            self._trouble.append(f"Airflow {airflow.name}: {trouble}")
        return client

    def _heard(self, call: Call) -> None:
        """Tell how far the asking is. Calls end in several threads: a figure that is one too low harms nobody."""
        self._answers, self._rows = self._answers + 1, self._rows + call.rows
        self._tell(f"{self.known:,} Pods; Airflow: {self._answers:,} answers, {self._rows:,} task instances")

    def picture(self) -> Picture:
        pods: list[Pod] = []
        unreadable: dict[str, str] = {}
        for namespace in _namespaces(self._config, self.reconcilers):
            try:
                pods += self._cluster.list_pods(namespace).pods
            except ClusterError as error:
                unreadable[namespace] = str(error)
        return Picture(tuple(pods), unreadable)

    def first_look(self, picture: Picture) -> Scan:
        """Return what one look has found."""
        findings = [shown for r in self.reconcilers for shown in r.shown(first_look=True)]
        notices = tuple(notable for reconciler in self.reconcilers for notable in reconciler.view().notices())
        return Scan(tuple(findings), self._incomplete(picture, findings), notices=notices)

    def scan(self, picture: Picture, deleted: Sequence[Shown]) -> Scan:
        """Return what is left, what was deleted, and what could not be done."""
        findings = [shown for r in self.reconcilers for shown in r.shown()]
        failures = [why for r in self.reconcilers for why in r.failures().values()]
        failed = (f"{len(failures)} Pods: due and not deleted: {failures[0]}",) if failures else ()
        return Scan(tuple(findings), (*self._incomplete(picture, findings), *failed), tuple(deleted))

    def _incomplete(self, picture: Picture, findings: Sequence[Shown]) -> tuple[str, ...]:
        incomplete = [*self._trouble, *(f"namespace {name}: {why}" for name, why in picture.unreadable.items())]
        unknown = [shown for shown in findings if shown.finding.reason is Reason.AIRFLOW_UNKNOWN]
        if unknown and not incomplete:
            incomplete.append(f"{len(unknown)} Pods: Airflow gave no clear answer: {unknown[0].finding.detail}")
        return tuple(dict.fromkeys(incomplete))


def _namespaces(config: Config, reconcilers: Sequence[Reconciler]) -> list[str]:
    used = {name for reconciler in reconcilers for name in reconciler.config.namespaces}
    return list(dict.fromkeys(name for airflow in config.airflows for name in airflow.namespaces if name in used))
