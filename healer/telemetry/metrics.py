"""What Prometheus sees: the figures of one process.

Labels are bounded: Airflows and namespaces of the configuration and enumerations of this package, never a DAG, run,
task or Pod. Every series that can be named in advance exists from the start, so that none appears or vanishes; those of
namespaces that only a pattern stands for live as long as these.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from healer import __version__
from healer.config import AirflowConfig, Config, Mode, is_pattern
from healer.insights.notices import UNCERTAIN, Notice
from healer.model import ACTING, Action, Amounts, Reason, Withheld

RESULTS = ("deleted", "conflict", "gone", "denied", "stale", "refuted", "error")
"""How a deletion can end: the values of `result`."""

RESOURCES = 16
"""How many extended resources are told apart by name: their names come out of Pods, whoever made them."""

OTHER = "other"
"""What the extended resources beyond these are told as."""

DELAYS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)
REQUESTS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PASSES = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class CallObservation(Protocol):
    """One finished request to Airflow, as `healer.airflow.Call` tells it."""

    @property
    def call(self) -> str:
        """Which kind of request."""

    @property
    def code(self) -> str:
        """HTTP status, or the kind of failure."""

    @property
    def seconds(self) -> float:
        """How long it took."""


class Metrics:
    """All figures of one process, in a registry of its own. Wall times are seconds since the epoch."""

    def __init__(self, config: Config, *, is_leader: Callable[[], bool] = lambda: True) -> None:
        """Create every series that the configuration bounds. `leads`: whether this replica tells about the Airflows."""
        # The creation time of each counter would double the series and tells nothing here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._is_leader = is_leader
        self._of_airflows: set[str] = set()
        self._names = [airflow.name for airflow in config.airflows]
        self._restarts_told = 0
        self._lock = threading.Lock()
        """Several threads tell: one per Airflow."""
        ProcessCollector(registry=self.registry)
        self._create_findings()
        self._create_holdings()
        self._create_calls()
        self._create_passes(config)
        self.forget()
        for airflow in config.airflows:
            self._prepare(airflow)
            for namespace in airflow.namespaces:
                self._readable.labels(namespace).set(0)
                if not is_pattern(namespace):
                    self._undecodable.labels(namespace).set(0)

    def forget(self, airflow: str | None = None) -> None:
        """Forget what was found, of one Airflow or of all: another replica may have led since. Counters stay."""
        for name in self._names if airflow is None else [airflow]:
            self.pods(name, {})
            self.suspects(name, {})
            self.withheld(name, {})
            self.ownership_refuted(name, 0)
            self.notices(name, {})
            self.held(name, Amounts())
            self.breaker(name, False)
            self.kept_longest(name, {})
            self.withheld_longest(name, {})
            self.airflow_up(name, False)
            self.airflow_login(name, True)
            self.set_aside(name, 0)
            self.airflow_credential(name, None, renewable=False, failed_renewals=0)

    def collect(self) -> Iterator[Metric]:
        """Yield all families; those about Airflows only where this replica leads."""
        leads = self._is_leader()
        return (family for family in self.registry.collect() if leads or family.name not in self._of_airflows)

    def pods(self, airflow: str, counts: Mapping[Reason, int]) -> None:
        """Set how many Pods there are of each reason."""
        for reason in Reason:
            self._pods.labels(airflow, reason.value).set(counts.get(reason, 0))

    def suspects(self, airflow: str, counts: Mapping[tuple[Reason, Action], int]) -> None:
        """Set how many suspects there are of each reason and policy action."""
        for reason in ACTING:
            for action in (Action.REPORT, Action.DELETE):
                self._suspects.labels(airflow, reason.value, action.value).set(counts.get((reason, action), 0))

    def withheld(self, airflow: str, counts: Mapping[Withheld, int]) -> None:
        """Set how many suspects are not acted on now, and why."""
        for why in Withheld:
            self._withheld.labels(airflow, why.value).set(counts.get(why, 0))

    def kept_longest(self, airflow: str, seconds: Mapping[Reason, float]) -> None:
        """Set for how long the Pod has been kept that is kept longest for each uncertain reason."""
        for reason in UNCERTAIN:
            self._kept_longest.labels(airflow, reason.value).set(seconds.get(reason, 0.0))

    def withheld_longest(self, airflow: str, seconds: Mapping[Withheld, float]) -> None:
        """Set for how long the suspect has been withheld that is withheld longest for each cause."""
        for why in Withheld:
            self._withheld_longest.labels(airflow, why.value).set(seconds.get(why, 0.0))

    def ownership_refuted(self, airflow: str, namespaces: int) -> None:
        """Set in how many namespaces Pods of another Airflow were seen."""
        self._ownership.labels(airflow).set(namespaces)

    def notices(self, airflow: str, counts: Mapping[Notice, int]) -> None:
        """Set how many Pods are worth a look, and why."""
        for notice in Notice:
            self._notices.labels(airflow, notice.value).set(counts.get(notice, 0))

    def deletion(self, airflow: str, reason: str, result: str) -> None:
        """Count one attempt to delete; `result` is one of `RESULTS`."""
        self._deletions.labels(airflow, str(reason), result).inc()

    def regret(self, airflow: str, reason: str) -> None:
        """Count one use of a Pod that would have been deleted for this reason."""
        self._regrets.labels(airflow, str(reason)).inc()

    def healing_delay(self, airflow: str, seconds: float) -> None:
        """Observe the time from due to deleted."""
        self._delay.labels(airflow).observe(max(0.0, seconds))

    def held(self, airflow: str, amounts: Amounts) -> None:
        """Set what the suspects hold."""
        self._cpu.labels(airflow).set(amounts.cpu_cores)
        self._memory.labels(airflow).set(amounts.memory_bytes)
        bounded = self._bounded(amounts.extended)
        for resource in self._resources:
            self._extended.labels(airflow, resource).set(bounded.get(resource, 0.0))

    def wasted(self, airflow: str, seconds: Amounts) -> None:
        """Count resource-seconds that suspects have held since their task instance ended."""
        self._cpu_seconds.labels(airflow).inc(seconds.cpu_cores)
        self._memory_seconds.labels(airflow).inc(seconds.memory_bytes)
        for resource, amount in self._bounded(seconds.extended).items():
            self._extended_seconds.labels(airflow, resource).inc(amount)

    def reclaimed(self, airflow: str, amounts: Amounts) -> None:
        """Count what deleted Pods held."""
        self._cpu_reclaimed.labels(airflow).inc(amounts.cpu_cores)
        self._memory_reclaimed.labels(airflow).inc(amounts.memory_bytes)
        for resource, amount in self._bounded(amounts.extended).items():
            self._extended_reclaimed.labels(airflow, resource).inc(amount)

    def _bounded(self, extended: Mapping[str, float]) -> dict[str, float]:
        """Return these by the names that may be labels: the first `RESOURCES` that were met, and `OTHER`."""
        bounded: dict[str, float] = {}
        with self._lock:
            for name, amount in extended.items():
                resource = name if name in self._resources or len(self._resources) < RESOURCES else OTHER
                self._resources |= {resource}
                bounded[resource] = bounded.get(resource, 0.0) + amount
        return bounded

    def breaker(self, airflow: str, is_open: bool) -> None:
        """Set whether the breaker is open or half-open."""
        self._breaker.labels(airflow).set(is_open)

    def set_aside(self, airflow: str, count: int) -> None:
        """Set how much is asked about alone and last, as asking about it fails."""
        self._set_aside.labels(airflow).set(count)

    def mode(self, airflow: str, mode: Mode) -> None:
        """Set the mode that is in force."""
        for each in Mode:
            self._mode.labels(airflow, each.value).set(each is mode)

    def airflow_call(self, airflow: str, request: CallObservation) -> None:
        """Count and time one request to Airflow."""
        self._requests.labels(airflow, request.call, request.code).inc()
        self._request_duration.labels(airflow, request.call).observe(request.seconds)

    def airflow_up(self, airflow: str, up: bool) -> None:
        """Set whether the last question that needs a login was answered."""
        self._up.labels(airflow).set(up)

    def airflow_login(self, airflow: str, accepted: bool) -> None:
        """Set whether the login is accepted, as far as Airflow has said."""
        self._login.labels(airflow).set(accepted)

    def airflow_credential(self, airflow: str, expires: float | None, *, renewable: bool, failed_renewals: int) -> None:
        """Set when the credential ends (epoch seconds), whether we renew it, and how often in a row that has failed."""
        self._credential_expiry.labels(airflow).set(expires or 0)
        self._credential_renewable.labels(airflow).set(renewable)
        self._failed_renewals.labels(airflow).set(failed_renewals)

    def lease_conflict(self, conflict: bool) -> None:
        """Set whether the holder of our Lease looks after other Airflows than we do."""
        self._conflict.set(conflict)

    def airflow_success(self, airflow: str, wall_time: float) -> None:
        """Set when Airflow last answered a question that needs a login."""
        self._airflow_success.labels(airflow).set(wall_time)

    def kubernetes_call(self, verb: str, code: str) -> None:
        """Count one request to the API server."""
        self._kubernetes.labels(verb, code).inc()

    def namespace_readable(self, namespace: str, readable: bool) -> None:
        """Set whether the Pods of a namespace can be listed; of a pattern, whether namespaces can."""
        self._readable.labels(namespace).set(readable)

    def undecodable(self, namespace: str, count: int) -> None:
        """Set how many Pods of a namespace can't be decoded."""
        self._undecodable.labels(namespace).set(count)

    def forget_namespace(self, namespace: str) -> None:
        """Forget a namespace that is gone, which only a pattern stood for."""
        self._readable.remove(namespace)
        self._undecodable.remove(namespace)

    def pass_done(self, airflow: str, seconds: float, wall_time: float) -> None:
        """Observe a finished pass and when it ended."""
        self._pass_duration.labels(airflow).observe(seconds)
        self._last_pass.labels(airflow).set(wall_time)

    def watch_restarts(self, total: int) -> None:
        """Bring the counter up to how often the watch was restarted so far."""
        with self._lock:
            if total > self._restarts_told:
                self._restarts.inc(total - self._restarts_told)
                self._restarts_told = total

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def _create_findings(self) -> None:
        self._pods = self._gauge(
            "pods", "Pods of the KubernetesPodOperator, by what the rules say.", "airflow", "reason"
        )
        self._suspects = self._gauge(
            "suspects", "Pods in quarantine, by reason and what the policy wants.", "airflow", "reason", "action"
        )
        self._withheld = self._gauge("withheld", "Suspects that are not acted on now, and why.", "airflow", "why")
        self._kept_longest = self._gauge(
            "kept_longest_seconds",
            "For how long the Pod is kept that is kept longest for the same uncertain reason; 0: none.",
            "airflow",
            "reason",
        )
        self._withheld_longest = self._gauge(
            "withheld_longest_seconds",
            "For how long the suspect is not acted on that is not acted on longest for the same cause; 0: none.",
            "airflow",
            "why",
        )
        self._ownership = self._gauge(
            "ownership_refuted",
            "Namespaces in which Pods of another Airflow were seen, so that ownership: exclusive proves nothing there.",
            "airflow",
        )
        self._notices = self._gauge("notices", "Pods worth a look that nobody acts on.", "airflow", "notice")
        self._deletions = self._counter(
            "deletions", "Decisions to delete, by what became of them.", "airflow", "reason", "result"
        )
        self._regrets = self._counter(
            "regrets", "Pods that would have been deleted and that Airflow used later.", "airflow", "reason"
        )
        self._delay = self._histogram("healing_delay_seconds", "From due to deleted.", DELAYS, "airflow")
        self._breaker = self._gauge(
            "breaker_open", "1 while the breaker is open or half-open, so that no active Pod goes.", "airflow"
        )
        self._set_aside = self._gauge(
            "set_aside", "Task instances and look-ups asked about alone and last, as Airflow fails on them.", "airflow"
        )
        self._mode = self._gauge("mode", "1 for the mode in force, 0 for the other.", "airflow", "mode")

    def _create_holdings(self) -> None:
        self._resources: frozenset[str] = frozenset()
        one, each = ("airflow",), ("airflow", "resource")
        self._cpu = self._gauge("held_cpu_cores", "CPU that suspects request, as long as they hold it.", *one)
        self._memory = self._gauge("held_memory_bytes", "Memory that suspects request, as long as they hold it.", *one)
        self._extended = self._gauge(
            "held_extended_resources", "Extended resources that suspects request, as long as they hold them.", *each
        )
        held = "that suspects have held since their task instance ended."
        self._cpu_seconds = self._counter("held_cpu_core_seconds", f"Core-seconds {held}", *one)
        self._memory_seconds = self._counter("held_memory_byte_seconds", f"Byte-seconds {held}", *one)
        self._extended_seconds = self._counter("held_extended_resource_seconds", f"Resource-seconds {held}", *each)
        self._cpu_reclaimed = self._counter("reclaimed_cpu_cores", "CPU that deleted Pods held.", *one)
        self._memory_reclaimed = self._counter("reclaimed_memory_bytes", "Memory that deleted Pods held.", *one)
        self._extended_reclaimed = self._counter(
            "reclaimed_extended_resources", "Extended resources that deleted Pods held.", *each
        )

    def _create_calls(self) -> None:
        self._requests = self._counter("airflow_requests", "Requests to Airflow.", "airflow", "call", "code")
        self._request_duration = self._histogram(
            "airflow_request_duration_seconds", "How long requests to Airflow took.", REQUESTS, "airflow", "call"
        )
        self._airflow_success = self._gauge(
            "airflow_last_success_timestamp_seconds",
            "When Airflow last answered a question that needs a login; 0: never.",
            "airflow",
        )
        self._up = self._gauge("airflow_up", "1 if the last question that needs a login was answered.", "airflow")
        self._login = self._gauge("airflow_login_ok", "0 while Airflow refuses the login.", "airflow")
        self._credential_expiry = self._gauge(
            "airflow_credential_expiry_timestamp_seconds",
            "When the credential for Airflow ends; 0: never, or it does not say.",
            "airflow",
        )
        self._credential_renewable = self._gauge(
            "airflow_credential_renewable", "1 if the healer itself renews the credential before it ends.", "airflow"
        )
        self._failed_renewals = self._gauge(
            "airflow_credential_failed_renewals",
            "Renewals of the credential that have failed in a row since the last good one.",
            "airflow",
        )
        self._kubernetes = self._counter("kubernetes_requests", "Requests to the API server.", "verb", "code")
        self._readable = self._gauge(
            "namespace_readable",
            "1 if the Pods of the namespace could be listed; of a pattern, if the namespaces could.",
            "watched_namespace",
        )

        self._undecodable = self._gauge(
            "pods_undecodable",
            "Pods that can't be decoded, so that nothing is decided about them.",
            "watched_namespace",
        )

    def _create_passes(self, config: Config) -> None:
        self._pass_duration = self._histogram("pass_duration_seconds", "How long a pass took.", PASSES, "airflow")
        self._last_pass = self._gauge("last_pass_timestamp_seconds", "When the last pass ended; 0: never.", "airflow")
        self._restarts = self._counter("watch_restarts", "How often the watch had to be started again.")
        self._conflict = self._gauge(
            "lease_conflict", "1 while the Lease is held by a replica that looks after other Airflows than this one."
        )
        self._gauge("leader", "1 while this replica may act.").set_function(lambda: float(self._is_leader()))
        self._gauge("build_info", "1 for the version that runs.", "version").labels(__version__).set(1)
        self._gauge(
            "config_hash", "A hash of the configuration, without its secrets: replicas that differ are no equals."
        ).set(_hash(config))
        self._gauge("interval_seconds", "The configured time between passes.").set(config.interval)

    def _prepare(self, airflow: AirflowConfig) -> None:
        name = airflow.name
        self.mode(name, airflow.mode)
        self.airflow_success(name, 0)
        self._delay.labels(name)
        self._pass_duration.labels(name)
        self._last_pass.labels(name)
        self.wasted(name, Amounts())
        self.reclaimed(name, Amounts())
        for reason in ACTING:
            for result in RESULTS:
                self._deletions.labels(name, reason.value, result)
            self._regrets.labels(name, reason.value)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(self._note(name, labels), text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self._note(name, labels), text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(self._note(name, labels), text, labels, registry=self.registry, buckets=buckets)

    def _note(self, name: str, labels: tuple[str, ...]) -> str:
        """Return the full name of a family, and note whether it is about Airflows."""
        if "airflow" in labels:
            self._of_airflows.add(f"kpo_healer_{name}")
        return f"kpo_healer_{name}"


def _hash(config: Config) -> float:
    """Return a number that a float can hold, which another configuration does not have; secrets are masked in it."""
    # Replicas on one machine listen at different ports and are equals all the same.
    told = config.model_dump(exclude={"listen"}, warnings=False)
    text = json.dumps(told, default=_plain, sort_keys=True)
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)
