"""What the commands do that only look: scan all Pods once, or explain one of them.

They ask and judge by the same scanner as the controller does, so that what they show is what it would do. Nothing that
is imported here can delete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from healer.airflow import Airflow, Call
from healer.cluster import Cluster, Undecodable
from healer.config import AirflowConfig, Config
from healer.decision.records import owns, rule_options
from healer.decision.rules import Step, trace
from healer.errors import ClusterError, NoSuchPodError
from healer.informer import PodStore
from healer.informer.namespaces import NO_MATCH
from healer.informer.resync import Resync
from healer.model import Answer, PassKind, Pod, Reason, Requirement, Unknown
from healer.scanner import Scanner
from healer.telemetry.findings import FindingView, NoticeView
from healer.telemetry.metrics import Metrics


def no_progress(_text: str) -> None:
    """Show nothing."""


class ScanResult(Struct, frozen=True):
    """The findings on all Pods, what was deleted, and why this is not complete (empty if it is).

    `undecodable`: Pods that nothing could be found out about.
    """

    findings: tuple[FindingView, ...]
    incomplete: tuple[str, ...]
    deleted: tuple[FindingView, ...] = ()
    notices: tuple[NoticeView, ...] = ()
    undecodable: tuple[Undecodable, ...] = ()


class Explanation(Struct, frozen=True):
    """All there is to say about one Pod: every rule that was tried, in order."""

    pod: Pod
    view: FindingView
    answer: Answer
    steps: tuple[Step, ...]


class PodListing(Struct, frozen=True):
    """The Pods that could be listed, and why a namespace could not.

    `bare`: named namespaces that hold none of ours; `vacant`: patterns that stand for none; `nowhere`: Airflows
    without any namespace.
    """

    pods: tuple[Pod, ...]
    unreadable: Mapping[str, str]
    bare: tuple[str, ...] = ()
    vacant: tuple[str, ...] = ()
    nowhere: tuple[str, ...] = ()
    undecodable: tuple[Undecodable, ...] = ()


def scan(config: Config, cluster: Cluster, on_progress: Callable[[str], None] = no_progress) -> ScanResult:
    """Look once at every Pod; change nothing. `on_progress` is called with a few words on what is being done.

    Raises LoginRefusedError when a login is refused.
    """
    on_progress("logging in")
    one_shot = OneShot(config, cluster, on_progress)
    scanners = [Scanner(airflow, one_shot.connect(airflow), cluster) for airflow in config.airflows]
    on_progress("listing Pods")
    listing = one_shot.list_pods()
    for scanner in scanners:
        scanner.scan_once(*one_shot.of(scanner.config))
    findings = tuple(view for scanner in scanners for view in scanner.findings(first_look=True))
    notices = tuple(notice for scanner in scanners for notice in scanner.snapshot().notices())
    vacant = (f"namespaces {pattern}: {NO_MATCH}" for pattern in listing.vacant)
    incomplete = (*one_shot.incomplete(listing, findings), *vacant, *one_shot.bare(listing, why=cluster.why_empty))
    return ScanResult(findings, incomplete, notices=notices, undecodable=listing.undecodable)


def explain(config: Config, cluster: Cluster, namespace: str, name: str) -> Explanation:
    """Look at one Pod and say of every rule why it did or did not match.

    Raises NoSuchPodError, LoginRefusedError, or ClusterError when the Pod can't be read.
    """
    mine, pod = find_pod(config, cluster, namespace, name)
    scanner = Scanner(mine, OneShot(config, cluster).connect(mine), cluster)
    scanner.scan_once([pod], {})
    view = next((view for view in scanner.findings(first_look=True) if view.pod.uid == pod.uid), None)
    record = scanner.record(pod.uid)
    if view is None or record is None:
        raise NoSuchPodError(f"{pod} has just vanished")
    answer = record.last_unclear or record.answer or Unknown(0.0, "Airflow need not be asked: the Pod alone decides")
    return Explanation(record.pod, view, answer, tuple(trace(record.pod, answer, rule_options(mine.policy))))


def find_pod(config: Config, cluster: Cluster, namespace: str, name: str) -> tuple[AirflowConfig, Pod]:
    """Return a Pod, and the Airflow whose Pod it is.

    Raises NoSuchPodError, or ClusterError when the Pod can't be read.
    """
    claimants, problem = config.claim(namespace)
    if problem is not None:
        raise NoSuchPodError(f"{problem}; until then nothing is decided there")
    if not claimants:
        raise NoSuchPodError(f"namespace {namespace} belongs to no Airflow of the configuration: add it there")
    pod = cluster.get_pod(namespace, name)
    if pod is None:
        raise NoSuchPodError(f"there is no Pod {namespace}/{name}: look with kubectl get pods -n {namespace}")
    if not pod.selected:
        raise NoSuchPodError(f"{pod} {what_it_is(cluster.unmet_requirements(namespace, name))}: it is left alone")
    mine = next((airflow for airflow in claimants if owns(airflow, pod)), None)
    if mine is None:
        raise NoSuchPodError(f"{pod} is stamped for none of {', '.join(a.name for a in claimants)}: it is left alone")
    return mine, pod


def what_it_is(unmet: Sequence[Requirement]) -> str:
    """Say what a Pod is that the selector leaves out, by the terms that its labels do not meet."""
    labels = {requirement.label for requirement in unmet}
    if labels & {"airflow-worker", "kubernetes_executor"}:
        return (
            "is a worker of Airflow's KubernetesExecutor, in which a task runs and which the executor itself deletes, "
            "and no Pod that a KubernetesPodOperator made"
        )
    if "spark_kubernetes_operator" in labels:
        return "belongs to a SparkKubernetesOperator, whose own operator looks after it"
    return "does not carry the labels of KubernetesPodOperator"


class OneShot:
    """What the Airflows of a one-shot command share: the cluster, and its Pods, which are listed anew each time."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        on_progress: Callable[[str], None] = no_progress,
        *,
        only: AirflowConfig | None = None,
    ) -> None:
        """Ask nothing yet. `only`: the one Airflow that is looked at; whose a namespace is, all of them tell."""
        self.cluster, self.on_progress = cluster, on_progress
        self._pods = self._answers = self._rows = 0
        self._airflows = config.airflows if only is None else (only,)
        self._login_errors: list[str] = []
        self.metrics, self.store = Metrics(config), PodStore(log_undecodable=False)
        self.resync = Resync(cluster, self.store, None, config, self.metrics, log_failures=False)

    def connect(self, airflow: AirflowConfig) -> Airflow:
        """Log in at once: a command whose login is refused must say so, also where there is no Pod to ask about."""
        client = Airflow(airflow, observe=self._on_call)
        error = client.login()
        if error is not None:
            self._login_errors.append(f"Airflow {airflow.name}: {error}")
        return client

    def _on_call(self, call: Call) -> None:
        """Show how far the asking is. Calls end in several threads: a figure that is one too low harms nobody."""
        self._answers, self._rows = self._answers + 1, self._rows + call.rows
        self.on_progress(f"{self._pods:,} Pods; Airflow: {self._answers:,} answers, {self._rows:,} task instances")

    def list_pods(self) -> PodListing:
        """List all namespaces."""
        resync, airflows = self.resync, self._airflows
        resync.refresh(airflows, PassKind.AUDIT)
        pods, unreadable, names = self.store.list_pods(), resync.unreadable(airflows), resync.namespaces(airflows)
        odd = [each for namespace in names for each in self.store.undecodable(namespace)]
        known = {pod.namespace for pod in pods} | {each.namespace for each in odd} | unreadable.keys()
        named = {name for airflow in airflows for name in airflow.namespaces}
        self._pods = len(pods)
        return PodListing(
            tuple(pods),
            unreadable,
            tuple(name for name in names if name in named and name not in known),
            resync.territory.vacant if resync.territory.problem is None else (),
            tuple(a.name for a in airflows if not resync.namespaces([a]) and not resync.unreadable([a])),
            tuple(odd),
        )

    def of(self, airflow: AirflowConfig) -> tuple[Sequence[Pod], Mapping[str, str]]:
        """Return the Pods where an Airflow looks, and which of its namespaces could not be listed, and why."""
        return self.resync.pods(airflow), self.resync.unreadable([airflow])

    def incomplete(self, listing: PodListing, findings: Sequence[FindingView]) -> tuple[str, ...]:
        """Say what could not be read, or asked."""
        incomplete = [*self._login_errors, *(f"namespace {name}: {why}" for name, why in listing.unreadable.items())]
        unknown = [view for view in findings if view.finding.reason is Reason.AIRFLOW_UNKNOWN]
        if unknown and not incomplete:
            incomplete.append(f"{len(unknown)} Pods: Airflow gave no clear answer: {unknown[0].finding.detail}")
        return tuple(dict.fromkeys(incomplete))

    def bare(self, listing: PodListing, *, why: Callable[[str], str | None]) -> Iterable[str]:
        """Say `why` a namespace holds none of ours, where that is worth a word."""
        for namespace in listing.bare:
            try:
                said = why(namespace)
            except ClusterError as error:
                said = str(error)
            if said:
                yield f"namespace {namespace}: {said}"
