"""When the namespaces are listed: shared by all threads that make passes, each for its own Airflow's namespaces."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence

from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import AirflowConfig, Config, exact_names, only_patterns
from healer.errors import ClusterError
from healer.informer import Informer, PodStore
from healer.informer.namespaces import NO_MATCH, NOT_LISTED, Territory, found, named
from healer.log import get_logger
from healer.model import PassKind, Pod
from healer.telemetry.metrics import Metrics

JUST_NOW = 1.0
"""Seconds: a LIST that another thread began so lately, or later, is as good as one of our own."""

log = get_logger(__name__)


class _Lister:
    """What is known of the LISTs of one namespace, or of the namespaces themselves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began = -math.inf
        self.thread: threading.Thread | None = None
        self.stale = False

    @property
    def tried(self) -> bool:
        """Whether it was listed once, with or without success."""
        return self.began > -math.inf

    def begin(self) -> None:
        """Note that this thread begins a LIST."""
        self.stale = False  # before the LIST: what is noted while it runs asks for another one
        self.began, self.thread = boottime(), threading.current_thread()

    def is_fresh(self, began: float) -> bool:
        """Whether another thread has listed so lately that this one, whose pass began then, need not."""
        return self.thread is not threading.current_thread() and self.began > began - JUST_NOW


class Resync:
    """Lists namespaces into the store, and starts the watch once each was tried. Safe to use from several threads."""

    def __init__(
        self,
        cluster: Cluster,
        store: PodStore,
        informer: Informer | None,
        config: Config,
        metrics: Metrics,
        *,
        log_failures: bool = True,
    ) -> None:
        """Ask nothing yet. Without an informer each pass lists anew."""
        self._cluster, self._store, self._informer, self._metrics = cluster, store, informer, metrics
        self._config, self._log_failures = config, log_failures
        self._named = exact_names(config.namespaces)
        self._territory = named(config)
        self._search = _Lister()
        self._changes = threading.Lock()
        """Held while a namespace is forgotten, and while the answer to a LIST is taken, which may come too late."""
        self._listers = {name: _Lister() for name in self._named}
        self._start = threading.Lock()
        self._watching = False
        self.looked = threading.Event()
        """Set when a first pass was made: the watch, which takes much CPU to start, waits a while for it."""
        self.ready = False
        """Whether any namespace could be listed yet."""

    def relist(self, namespace: str) -> None:
        """Note that Pods may have vanished unseen, so that the next pass lists the namespace."""
        lister = self._listers.get(namespace)
        if lister is not None:
            lister.stale = True

    def refresh(self, airflows: Sequence[AirflowConfig], kind: PassKind) -> None:
        """List what must be listed: all at an audit, else what the watch may have missed or what could not be read.

        While a namespace is not watched, each full pass lists it: what nothing renews must not be acted upon.
        """
        began = boottime()
        if kind is not PassKind.DUE and any(only_patterns(airflow.namespaces) for airflow in airflows):
            self._find_namespaces(began)
        for namespace in self.namespaces(airflows):
            lister = self._listers.get(namespace)
            if lister is None:  # another thread has just found that it is gone
                continue
            with lister.lock:
                if self._is_due(namespace, lister, kind, began):
                    self._list(namespace, lister)
            with self._changes:
                if self._listers.get(namespace) is lister:
                    self._metrics.undecodable(namespace, len(self._store.undecodable(namespace)))
        self._begin_to_watch()

    @property
    def watch_restarts(self) -> int:
        """How often a watch had to be started again."""
        return self._informer.restarts if self._informer is not None else 0

    @property
    def territory(self) -> Territory:
        """Whose the namespaces are, as last known."""
        return self._territory

    def namespaces(self, airflows: Sequence[AirflowConfig]) -> list[str]:
        """Return the namespaces that these Airflows look after now, each once."""
        return self._territory.names(airflows)

    def pods(self, airflow: AirflowConfig) -> list[Pod]:
        """Return the Pods in the namespaces that an Airflow looks after now; of exact names, all that the store has."""
        pods = self._store.list_pods()
        if not self._config.patterns:
            return pods
        mine = set(self._territory.of[airflow.name])
        return [pod for pod in pods if pod.namespace in mine]

    def unreadable(self, airflows: Sequence[AirflowConfig]) -> Mapping[str, str]:
        """Say of which of these Airflows' namespaces nothing is known now, and why."""
        names = self.namespaces(airflows)
        pods = {name: why for name in names if (why := self._store.why_unavailable(name)) is not None}
        for airflow in airflows:
            pods |= self._territory.unreadable(airflow)
        return pods

    # --- Pods ---------------------------------------------------------------------------------------------------------

    def _is_due(self, namespace: str, lister: _Lister, kind: PassKind, began: float) -> bool:
        if lister.stale:
            return True
        if lister.is_fresh(began) and self._store.why_unavailable(namespace) is None:
            return False
        if kind is not PassKind.FULL:
            return kind is PassKind.AUDIT
        watched = self._informer is not None and self._informer.watches(namespace)
        return not watched or self._store.why_unavailable(namespace) is not None

    def _list(self, namespace: str, lister: _Lister) -> None:
        lister.begin()
        started = self._store.generation()
        before = self._store.why_unavailable(namespace)
        try:
            listing, why = self._cluster.list_pods(namespace), None
        except ClusterError as error:
            listing, why = None, str(error)
        with self._changes:
            if self._listers.get(namespace) is not lister:  # it is gone: what was listed is of the past
                return
            if listing is not None:
                self._store.replace(namespace, listing, started)
            elif why is not None:
                self._store.mark_unavailable(namespace, why)
            readable = self._store.why_unavailable(namespace) is None
            self._metrics.namespace_readable(namespace, readable)
        self.ready = self.ready or readable
        if why is not None and self._log_failures and before != why:
            log.warning("a namespace can't be read, nothing is decided there", namespace=namespace, why=why)

    # --- the namespaces themselves ------------------------------------------------------------------------------------

    def _find_namespaces(self, began: float) -> None:
        """Learn which namespaces the patterns stand for, and forget those that are gone."""
        with self._search.lock:
            if self._search.is_fresh(began) and self._territory.problem is None:
                return
            self._search.begin()
            try:
                territory = found(self._config, self._cluster.all_namespaces())
            except ClusterError as error:
                territory = self._territory.failed(str(error))
            before, self._territory = self._territory, territory
            if territory.problem is None:
                self._follow(territory)
            self._tell(before, territory)

    def _follow(self, territory: Territory) -> None:
        wanted = dict.fromkeys((*self._named, *territory.names(self._config.airflows)))
        with self._changes:
            gone = [name for name in self._listers if name not in wanted]
            new = [name for name in wanted if name not in self._listers]
            self._listers = {name: self._listers.get(name) or _Lister() for name in wanted}
            for name in gone:
                self._store.forget(name)
                self._metrics.forget_namespace(name)
        self.ready = self.ready or not wanted  # all Pods are known: there are none
        if (new or gone) and self._log_failures:
            log.info("namespaces have changed", appeared=new, vanished=gone)

    def _tell(self, before: Territory, after: Territory) -> None:
        """Show what the patterns stand for; log each thing once, when it begins."""
        for pattern in self._config.patterns:
            self._metrics.namespace_readable(pattern, after.problem is None)
        contested, known = _contested(after), _contested(before)
        for namespace in known.keys() - contested.keys() - self._listers.keys():
            self._metrics.forget_namespace(namespace)
        for namespace in contested:
            self._metrics.namespace_readable(namespace, False)
        if not self._log_failures:
            return
        if after.problem is not None and after.problem != before.problem:
            log.warning(
                "namespaces can't be listed, nothing is decided where only a pattern stands for one", why=after.problem
            )
        if after.problem is None and before.problem not in (None, NOT_LISTED):
            log.info("namespaces can be listed again")
        for namespace in contested.keys() - known.keys():
            log.warning("nothing is decided in a namespace", namespace=namespace, why=contested[namespace])
        if after.problem is None:
            for pattern in sorted(set(after.vacant) - set(before.vacant)):
                log.warning(NO_MATCH, pattern=pattern)

    # --- the watch ----------------------------------------------------------------------------------------------------

    def _begin_to_watch(self) -> None:
        """Start the watch, which begins where our LISTs ended, when there was one of each namespace that is named.

        What a pattern finds is watched as soon as it could be listed: one that may not be read would only be refused.
        """
        with self._start:
            if self._informer is None:
                return
            if self._config.patterns:
                self._informer.retarget(self._to_watch())
            if self._watching or not all(self._listers[name].tried for name in self._named):
                return
            self._watching = True
            self._informer.start(after=self.looked)

    def _to_watch(self) -> Collection[str]:
        return {*self._named, *(name for name in self._listers if self._store.listed_at(name) is not None)}


def _contested(territory: Territory) -> dict[str, str]:
    return {namespace: why for each in territory.contested.values() for namespace, why in each.items()}
