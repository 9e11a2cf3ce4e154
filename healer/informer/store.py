"""The Pods, as LISTs and events of the watch bring them, in whatever order they come."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from msgspec import Struct

from healer.cluster import Listing, Undecodable
from healer.log import get_logger
from healer.model import Pod

LOGGED = 10_000
"""How many Pods that can't be decoded are remembered as logged; beyond that they are logged again."""

log = get_logger(__name__)


class _Tombstone(Struct, frozen=True):
    """A Pod that is gone: from which namespace, by which event, and as of which resourceVersion."""

    namespace: str
    event: int
    version: int | None


class PodStore:
    """The KPO Pods as far as known, by uid. Safe to use from several threads.

    Events and LISTs reach it in any order. What is older never replaces what is newer: resourceVersions decide where
    both are numbers, as they are for Pods on any API server over etcd; else the order of arrival does.
    """

    def __init__(self, *, log_undecodable: bool = True, listed_only: bool = False) -> None:
        """Start empty.

        Args:
            log_undecodable: whether the log names each Pod that can't be decoded.
            listed_only: whether events count only of namespaces that were listed: where namespaces are forgotten, the
                watch of one may bring late events, and those of a namesake from before.
        """
        self._log_undecodable, self._listed_only = log_undecodable, listed_only
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._updated_at: dict[str, int] = {}
        self._tombstones: dict[str, _Tombstone] = {}
        self._unavailable: dict[str, str] = {}
        self._listed: dict[str, str] = {}
        self._undecodable: dict[str, dict[str, Undecodable]] = {}
        self._logged: set[str] = set()
        self._deleted: dict[str, frozenset[str]] = {}
        self._generation = 0

    def upsert(self, pod: Pod) -> None:
        """Take an event: the Pod looks like this."""
        with self._lock:
            self._generation += 1
            if self._is_unlisted(pod.namespace) or not self._is_news(pod):
                return
            self._tombstones.pop(pod.uid, None)
            self._updated_at[pod.uid] = self._generation
            self._put(pod)
            self._undecodable.get(pod.namespace, {}).pop(pod.uid, None)

    def spoil(self, odd: Undecodable, resource_version: str = "") -> None:
        """Take an event: the Pod can't be decoded as it is now. What was known of it is forgotten; always safe."""
        if odd.uid:
            self.delete(odd.uid, odd.namespace, resource_version)
        with self._lock:
            if self._is_unlisted(odd.namespace):
                return
            self._undecodable.setdefault(odd.namespace, {})[odd.key] = odd
        self._log([odd])

    def undecodable(self, namespace: str) -> list[Undecodable]:
        """Return the Pods of a namespace that can't be decoded, as far as known."""
        with self._lock:
            return list(self._undecodable.get(namespace, {}).values())

    def _log(self, odd: Iterable[Undecodable]) -> None:
        """Log each Pod once."""
        for each in odd if self._log_undecodable else ():
            if each.key in self._logged:
                continue
            self._logged = {each.key} if len(self._logged) >= LOGGED else self._logged | {each.key}
            log.warning(
                "a Pod can't be decoded: nothing is decided about it, look at it with kubectl get -o yaml",
                pod=str(each),
                uid=each.uid,
            )

    def delete(self, uid: str, namespace: str = "", resource_version: str = "") -> None:
        """Take an event: there is no such Pod any more, or it left the selection. Always safe."""
        with self._lock:
            self._generation += 1
            known = self._pods.get(uid)
            if known is not None:
                namespace = known.namespace
            if self._is_unlisted(namespace):
                return
            self._tombstones[uid] = _Tombstone(namespace, self._generation, _number(resource_version))
            self._undecodable.get(namespace, {}).pop(uid, None)
            if known is not None:
                self._remove(uid)

    def generation(self) -> int:
        """Return the token to give to `replace`: call it before the LIST is sent."""
        with self._lock:
            return self._generation

    def replace(self, namespace: str, listing: Listing, started: int) -> None:
        """Take a complete LIST as the truth about a namespace, but for events that came after it.

        Args:
            namespace: the one that was listed.
            listing: all of it.
            started: what `generation` returned before it was sent.
        """
        version = _number(listing.resource_version)
        listed = {pod.uid for pod in listing.pods}
        with self._lock:
            for uid in [pod.uid for pod in self._pods.values() if pod.namespace == namespace]:
                if uid not in listed and not self._is_later(uid, version, started):
                    self._remove(uid)
            for pod in listing.pods:
                if self._is_news(pod, started):
                    self._tombstones.pop(pod.uid, None)
                    self._put(pod)
            self._forget_tombstones(namespace, version, started)
            self._unavailable.pop(namespace, None)
            self._listed[namespace] = listing.resource_version
            self._undecodable[namespace] = {odd.key: odd for odd in listing.skipped}
        self._log(listing.skipped)

    def forget(self, namespace: str) -> None:
        """Forget all that is known of a namespace. One of the same name that comes later is not listed yet."""
        with self._lock:
            for uid in [pod.uid for pod in self._pods.values() if pod.namespace == namespace]:
                self._remove(uid)
            for uid in [uid for uid, gone in self._tombstones.items() if gone.namespace == namespace]:
                del self._tombstones[uid]
            for known in (self._unavailable, self._listed, self._undecodable):
                known.pop(namespace, None)

    def mark_unavailable(self, namespace: str, why: str) -> None:
        """Note that the last LIST of a namespace failed: its Pods stay, but nothing is known about them."""
        with self._lock:
            self._unavailable[namespace] = why

    def why_unavailable(self, namespace: str) -> str | None:
        """Return why a namespace can't be read now, in one sentence; None where its last LIST was complete."""
        with self._lock:
            if namespace in self._unavailable:
                return self._unavailable[namespace]
            return None if namespace in self._listed else f"Namespace {namespace} was not listed yet."

    def listed_at(self, namespace: str) -> str | None:
        """Return the resourceVersion of the last complete LIST of a namespace, None before the first."""
        with self._lock:
            return self._listed.get(namespace)

    def expect_deleted(self, uid: str, resource_versions: frozenset[str]) -> None:
        """Leave a Pod that we have deleted out of `list_pods` while it still looks as it did then.

        One that changes is shown again: it terminates, or the DELETE did not reach it.
        """
        with self._lock:
            if uid in self._pods:
                self._deleted[uid] = resource_versions

    def list_pods(self) -> list[Pod]:
        """Return all Pods but those that are expected to go; also those of namespaces that can't be read now."""
        with self._lock:
            pods = list(self._pods.values())
            if not self._deleted:
                return pods
            return [pod for pod in pods if pod.resource_version not in self._deleted.get(pod.uid, ())]

    def __len__(self) -> int:
        """Return how many Pods are known."""
        return len(self._pods)

    def _is_news(self, pod: Pod, listed_since: int | None = None) -> bool:
        """Whether this look at a Pod is newer than what we have; `listed_since` where it comes from a LIST."""
        version = _number(pod.resource_version)
        gone = self._tombstones.get(pod.uid)
        if gone is not None:
            return _newer(version, gone.version, otherwise=listed_since is None or gone.event <= listed_since)
        known = self._pods.get(pod.uid)
        if known is None:
            # What a complete LIST does not have was gone by then, whatever an older event says.
            listed = self._listed.get(pod.namespace, "") if self._listed_only and listed_since is None else ""
            return _newer(version, _number(listed), otherwise=True)
        late = listed_since is None or self._updated_at.get(pod.uid, 0) <= listed_since
        return _newer(version, _number(known.resource_version), otherwise=late)

    def _is_unlisted(self, namespace: str) -> bool:
        """Whether events of this namespace don't count: there is no LIST that they add to."""
        return self._listed_only and namespace not in self._listed

    def _is_later(self, uid: str, listed: int | None, started: int) -> bool:
        """Whether a Pod that a LIST does not have came, or was changed, after that LIST."""
        known = _number(self._pods[uid].resource_version)
        return _newer(known, listed, otherwise=self._updated_at.get(uid, 0) > started)

    def _forget_tombstones(self, namespace: str, version: int | None, started: int) -> None:
        """Forget Pods that are gone where no LIST which is still to come can bring them back."""
        for uid, gone in list(self._tombstones.items()):
            if gone.namespace in {namespace, ""} and gone.event <= started and not _newer(gone.version, version):
                del self._tombstones[uid]

    def _put(self, pod: Pod) -> None:
        if self._pods.get(pod.uid) != pod:
            self._pods[pod.uid] = pod

    def _remove(self, uid: str) -> None:
        del self._pods[uid]
        self._updated_at.pop(uid, None)
        self._deleted.pop(uid, None)


def _number(resource_version: str) -> int | None:
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


def _newer(one: int | None, other: int | None, *, otherwise: bool = False) -> bool:
    """Whether the first resourceVersion is newer; `otherwise` where one of them is no number."""
    return otherwise if one is None or other is None else one > other
