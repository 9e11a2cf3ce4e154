"""The picture of the Pods: what listings and hints have told, in whatever order they come."""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec import Struct

from healer.cluster import Listing
from healer.model import Pod


class _Gone(Struct, frozen=True):
    """A Pod that was dropped: from which namespace, by which hint, and as of which resourceVersion."""

    namespace: str
    hint: int
    version: int | None


class PodStore:
    """The KPO Pods as far as known, by uid. Safe to use from several threads.

    Hints and listings reach it in any order. What is older never replaces what is newer: resourceVersions decide where
    both are numbers, as they are for Pods on any API server over etcd; else the order of arrival does.
    """

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """Take `wake`, which is called after each change, outside the lock; it must be quick and not raise."""
        self._wake = wake
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._hinted: dict[str, int] = {}
        self._gone: dict[str, _Gone] = {}
        self._unreadable: dict[str, str] = {}
        self._listed: dict[str, str] = {}
        self._hints = 0

    def apply(self, pod: Pod) -> None:
        """Take a hint: the Pod looks like this."""
        with self._lock:
            self._hints += 1
            if not self._is_news(pod):
                return
            self._gone.pop(pod.uid, None)
            self._hinted[pod.uid] = self._hints
            self._put(pod)
        self._wake()

    def drop(self, uid: str, namespace: str = "", resource_version: str = "") -> None:
        """Take a hint: there is no such Pod any more, or it left the selection. Always safe."""
        with self._lock:
            self._hints += 1
            known = self._pods.get(uid)
            if known is not None:
                namespace = known.namespace
            self._gone[uid] = _Gone(namespace, self._hints, _number(resource_version))
            if known is not None:
                self._remove(uid)
        self._wake()

    def begin(self) -> int:
        """Return the token to give to `replace`: call it before the LIST is sent."""
        with self._lock:
            return self._hints

    def replace(self, namespace: str, listing: Listing, started: int) -> None:
        """Take a complete LIST as the truth about a namespace, but for what was hinted after it.

        Args:
            namespace: the one that was listed.
            listing: all of it.
            started: what `begin` returned before it was sent.
        """
        version = _number(listing.resource_version)
        listed = {pod.uid for pod in listing.pods}
        with self._lock:
            for uid in [pod.uid for pod in self._pods.values() if pod.namespace == namespace]:
                if uid not in listed and not self._is_later(uid, version, started):
                    self._remove(uid)
            for pod in listing.pods:
                if self._is_news(pod, started):
                    self._gone.pop(pod.uid, None)
                    self._put(pod)
            self._forget_gone(namespace, version, started)
            self._unreadable.pop(namespace, None)
            self._listed[namespace] = listing.resource_version
        self._wake()

    def unreadable(self, namespace: str, why: str) -> None:
        """Note that the last LIST of a namespace failed: its Pods stay, but nothing is known about them."""
        with self._lock:
            self._unreadable[namespace] = why
        self._wake()

    def why_unreadable(self, namespace: str) -> str | None:
        """Return why a namespace can't be read now, in one sentence; None where its last LIST was complete."""
        with self._lock:
            if namespace in self._unreadable:
                return self._unreadable[namespace]
            return None if namespace in self._listed else f"Namespace {namespace} was not listed yet."

    def listed_at(self, namespace: str) -> str | None:
        """Return the resourceVersion of the last complete LIST of a namespace, None before the first."""
        with self._lock:
            return self._listed.get(namespace)

    def snapshot(self) -> list[Pod]:
        """Return all Pods, also those of namespaces that can't be read now."""
        with self._lock:
            return list(self._pods.values())

    def get(self, uid: str) -> Pod | None:
        """Return one Pod as far as known."""
        with self._lock:
            return self._pods.get(uid)

    def __len__(self) -> int:
        """Return how many Pods are known."""
        return len(self._pods)

    def _is_news(self, pod: Pod, listed_since: int | None = None) -> bool:
        """Whether this look at a Pod is newer than what we have; `listed_since` where it comes from a LIST."""
        version = _number(pod.resource_version)
        gone = self._gone.get(pod.uid)
        if gone is not None:
            return _newer(version, gone.version, otherwise=listed_since is None or gone.hint <= listed_since)
        known = self._pods.get(pod.uid)
        if known is None:
            return True
        late = listed_since is None or self._hinted.get(pod.uid, 0) <= listed_since
        return _newer(version, _number(known.resource_version), otherwise=late)

    def _is_later(self, uid: str, listed: int | None, started: int) -> bool:
        """Whether a Pod that a LIST does not have came, or was changed, after that LIST."""
        known = _number(self._pods[uid].resource_version)
        return _newer(known, listed, otherwise=self._hinted.get(uid, 0) > started)

    def _forget_gone(self, namespace: str, version: int | None, started: int) -> None:
        """Forget dropped Pods that no listing which is still to come can bring back."""
        for uid, gone in list(self._gone.items()):
            if gone.namespace in {namespace, ""} and gone.hint <= started and not _newer(gone.version, version):
                del self._gone[uid]

    def _put(self, pod: Pod) -> None:
        if self._pods.get(pod.uid) != pod:
            self._pods[pod.uid] = pod

    def _remove(self, uid: str) -> None:
        del self._pods[uid]
        self._hinted.pop(uid, None)


def _number(resource_version: str) -> int | None:
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


def _newer(one: int | None, other: int | None, *, otherwise: bool = False) -> bool:
    """Whether the first resourceVersion is newer; `otherwise` where one of them is no number."""
    return otherwise if one is None or other is None else one > other
