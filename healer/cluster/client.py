"""The calls the healer makes to the API server: list, get and delete Pods, post Events, ask for rights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from healer.clock import steady
from healer.cluster.answers import as_object, good, inside
from healer.cluster.connection import Connection
from healer.cluster.deletes import Deleter, Outcome, Proof, Right
from healer.cluster.errors import ClusterError, Gone, Malformed, Refused, Unreachable
from healer.cluster.events import MAX_MESSAGE, Posted, event_body, event_name
from healer.cluster.leases import LeaseClient
from healer.cluster.pods import decode_page, decode_pod
from healer.cluster.postmortem import Examiner
from healer.cluster.transport import Observe, Reply, Request, Transport
from healer.model import POD_SELECTOR, Pod, rfc3339

PAGE_SIZE = 500
RELISTS = 3
"""How often a listing is begun anew when the server forgets the version it was reading from."""
LIST_TIMEOUT = 30.0
READ_TIMEOUT = 10.0
FRESHNESS = 15.0
MERGE_PATCH = "application/merge-patch+json"

_log = logging.getLogger(__name__)


class Listing(Struct, frozen=True):
    """All Pods of a namespace that the selector finds, as of one resourceVersion. `skipped`: items that are no Pods."""

    pods: list[Pod]
    resource_version: str
    skipped: int = 0


class Cluster:
    """The API server, as one account sees it. Safe to use from several threads."""

    def __init__(
        self,
        connection: Connection,
        *,
        freshness: float = FRESHNESS,
        observe: Observe = lambda _verb, _code: None,
        clock: Callable[[], float] = steady,
    ) -> None:
        """Load the credentials; nothing is sent.

        Args:
            connection: where and as whom.
            freshness: the greatest age of the evidence behind a DELETE, in seconds.
            observe: told the verb and the status code of each request.
            clock: the monotonic clock by which evidence is dated, in seconds.

        Raises:
            ConnectError: no usable configuration.
        """
        self.connection = connection
        self.observe = observe
        self._transport = Transport(connection.configuration, observe=observe, clock=clock)
        self._deleter = Deleter(self._transport, freshness=freshness, clock=clock)
        self._no_events: set[str] = set()

    @property
    def server(self) -> str:
        """The address of the API server."""
        return self._transport.server

    def close(self) -> None:
        """Close the connections. The cluster can still be used; it then opens new ones."""
        self._transport.close()

    def __enter__(self) -> Cluster:
        """Return itself: `with` closes the connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def now(self) -> float | None:
        """Return the API server's time in seconds since the epoch, at most about a second early; None at first."""
        return self._transport.now()

    def list_pods(self, namespace: str) -> Listing:
        """Return every KPO Pod of the namespace: all of them as of one moment, or an error.

        Raises:
            ClusterError: any failure.
        """
        for _ in range(RELISTS):
            try:
                return self._list(namespace)
            except Gone as error:
                gone = error
        raise gone

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Return the Pod as it is now, whatever its labels; None if there is none of that name.

        Raises:
            ClusterError: any failure.
        """
        request = Request("get", "GET", (*_namespace(namespace), "pods", name), timeout=READ_TIMEOUT)
        reply = self._read(request)
        if reply.status == 404:
            return None
        body = good(reply, f"get the Pod {namespace}/{name}", ("get", "pods", namespace))
        pod = decode_pod(body)
        if pod is None:
            raise Malformed(f"The answer for {namespace}/{name} is no Pod.")
        return pod

    def delete_pod(self, pod: Pod, proof: Proof, right: Right) -> Outcome:
        """Delete the Pod if the proof is fresh and the right to act holds at the moment of sending: see `Deleter`."""
        return self._deleter.delete(pod, proof, right)

    def leases(self, namespace: str, name: str, *, timeout: float = READ_TIMEOUT) -> LeaseClient:
        """Return the client of one Lease. `timeout`: of each of its calls, in seconds."""
        return LeaseClient(self._transport, namespace, name, timeout=timeout)

    def examiner(self) -> Examiner:
        """Return what reads how Pods fare that are about to go."""
        return Examiner(self._transport)

    def settled(self, timeout: float) -> bool:
        """Wait until no DELETE is under way, for at most `timeout` seconds. Return whether that is so."""
        return self._deleter.idle.wait(timeout)

    def post_event(self, pod: Pod, reason: str, message: str, *, warning: bool = False, suffix: str = "") -> Posted:
        """Write an Event on the Pod, or renew the one that says the same. Never raises.

        A namespace where we may not write Events is told once in the log; healing goes on without them.
        """
        try:
            return self._post_event(pod, reason, message, warning, suffix)
        except Refused as error:
            self._tell_no_events(pod.namespace, error)
            return Posted.DENIED
        except ClusterError as error:
            _log.debug("The Event %s on %s is lost: %s", reason, pod, error)
            return Posted.FAILED

    def can_i(self, verb: str, resource: str, namespace: str, *, group: str = "", name: str = "") -> bool:
        """Ask whether we have a right, as `kubectl auth can-i` does; everybody may ask. `name`: on one object only.

        `resource` may name a subresource, as `pods/log`.

        Raises:
            ClusterError: any failure.
        """
        kind, _, part = resource.partition("/")
        attributes = {"verb": verb, "resource": kind, "namespace": namespace, "group": group, "name": name}
        attributes |= {"subresource": part} if part else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = ("apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews")
        reply = self._transport.send(Request("create", "POST", path, body=review, timeout=READ_TIMEOUT))
        answer = as_object(good(reply, "ask for our rights", ("create", "selfsubjectaccessreviews", "")))
        return inside(answer, "status", "allowed") is True

    def version(self) -> str:
        """Return the API server's version, as `v1.36.3`; whoever may not log in may not see it.

        Raises:
            ClusterError: any failure.
        """
        reply = self._read(Request("get", "GET", ("version",), timeout=READ_TIMEOUT))
        return str(as_object(good(reply, "read the version", ("get", "/version", ""))).get("gitVersion", "unknown"))

    def whoami(self) -> str | None:
        """Return our user name as the API server sees it; None where it doesn't tell (before Kubernetes 1.28).

        Raises:
            ClusterError: any failure.
        """
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = ("apis", "authentication.k8s.io", "v1", "selfsubjectreviews")
        reply = self._transport.send(Request("create", "POST", path, body=review, timeout=READ_TIMEOUT))
        if reply.status in {403, 404}:
            return None
        answer = as_object(good(reply, "ask for our name", ("create", "selfsubjectreviews", "")))
        name = inside(answer, "status", "userInfo", "username")
        return str(name) if name else None

    def _list(self, namespace: str) -> Listing:
        query = {"labelSelector": POD_SELECTOR, "limit": str(PAGE_SIZE)}
        pods: list[Pod] = []
        skipped = 0
        while True:
            request = Request("list", "GET", (*_namespace(namespace), "pods"), query, timeout=LIST_TIMEOUT)
            page = decode_page(good(self._read(request), "list the Pods", ("list", "pods", namespace)))
            pods.extend(page.pods)
            skipped += page.skipped
            if page.continue_token is None:
                return Listing(pods, page.resource_version, skipped)
            query = {**query, "continue": page.continue_token}

    def _read(self, request: Request) -> Reply:
        """Send a read; once more if the connection broke, as an idle one does when the server restarts."""
        try:
            return self._transport.send(request)
        except Unreachable as error:
            if not error.broken:
                raise
        return self._transport.send(request)

    def _post_event(self, pod: Pod, reason: str, message: str, warning: bool, suffix: str) -> Posted:
        if self.now() is None:
            self.version()  # for its Date: Events want the API server's time
        now = self.now() or 0.0
        name = event_name(pod, reason, suffix)
        body = event_body(pod, name=name, reason=reason, message=message, warning=warning, now=now)
        path = (*_namespace(pod.namespace), "events")
        reply = self._transport.send(Request("create", "POST", path, body=body, timeout=READ_TIMEOUT))
        if reply.status == 409:
            return self._renew_event((*path, name), {"message": message[:MAX_MESSAGE], "lastTimestamp": rfc3339(now)})
        good(reply, "write Events", ("create", "events", pod.namespace))
        return Posted.NEW

    def _renew_event(self, path: tuple[str, ...], change: dict[str, Any]) -> Posted:
        """Renew an Event and count it. The answer to the first PATCH tells the count: we may not read Events."""
        answer = as_object(self._patch_event(path, change))
        count = answer.get("count")
        self._patch_event(path, {"count": count + 1 if isinstance(count, int) else 2})
        return Posted.RENEWED

    def _patch_event(self, path: tuple[str, ...], change: dict[str, Any]) -> bytes:
        request = Request("patch", "PATCH", path, body=change, content_type=MERGE_PATCH, timeout=READ_TIMEOUT)
        return good(self._transport.send(request), "renew Events", ("patch", "events", path[3]))

    def _tell_no_events(self, namespace: str, error: Refused) -> None:
        if namespace not in self._no_events:
            self._no_events.add(namespace)
            _log.warning("Events are not written in namespace %s: %s", namespace, error)


def connect(
    kubeconfig: Path | None = None,
    context: str | None = None,
    *,
    freshness: float = FRESHNESS,
    observe: Observe = lambda _verb, _code: None,
) -> Cluster:
    """Return the cluster that the user's choice names: see `Connection` and `Cluster`.

    Raises:
        ConnectError: no usable configuration.
    """
    return Cluster(Connection(kubeconfig, context), freshness=freshness, observe=observe)


def _namespace(name: str) -> tuple[str, ...]:
    return "api", "v1", "namespaces", name
