"""The calls the healer makes to the API server: list and get Pods, post Events, ask for rights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from healer.clock import boottime
from healer.cluster.config_maps import ConfigMapClient
from healer.cluster.connection import Connection
from healer.cluster.diagnostics import DiagnosticsReader
from healer.cluster.events import MAX_MESSAGE, EventResult, event_body, event_name
from healer.cluster.leases import LeaseClient
from healer.cluster.pods import Undecodable, decode_page, decode_pod, decode_unmet
from healer.cluster.responses import as_object, dig, require_success
from healer.cluster.transport import KubeReply, KubeRequest, KubeTransport, ObserveRequest
from healer.errors import (
    AccessDeniedError,
    ClusterError,
    InvalidResponseError,
    ResourceExpiredError,
    UnreachableError,
)
from healer.model import POD_SELECTOR, Pod, Requirement, rfc3339

PAGE_SIZE = 500
RELISTS = 3
"""How often a listing is begun anew when the server forgets the version it was reading from."""
LIST_TIMEOUT = 30.0
READ_TIMEOUT = 10.0
FRESHNESS = 15.0
MERGE_PATCH = "application/merge-patch+json"

_log = logging.getLogger(__name__)


class Listing(Struct, frozen=True):
    """All Pods of a namespace that the selector finds, as of one resourceVersion.

    `skipped`: those that can't be decoded; nothing is decided about them, but they are told.
    """

    pods: list[Pod]
    resource_version: str
    skipped: tuple[Undecodable, ...] = ()


class Cluster:
    """The API server, as one account sees it. Safe to use from several threads."""

    def __init__(
        self,
        connection: Connection,
        *,
        freshness: float = FRESHNESS,
        observe: ObserveRequest = lambda _verb, _code: None,
        clock: Callable[[], float] = boottime,
        owner_labels: Collection[str] = (),
    ) -> None:
        """Load the credentials; nothing is sent.

        Args:
            connection: where and as whom.
            freshness: the greatest age of the evidence behind a DELETE, in seconds.
            observe: told the verb and the status code of each request.
            clock: the monotonic clock by which evidence is dated, in seconds.
            owner_labels: the keys of labels that tell whose a Pod is (`Config.owner_labels`).

        Raises:
            ConnectError: no usable configuration.
        """
        self.connection = connection
        self.observe = observe
        self._transport = KubeTransport(connection.configuration, observe=observe, clock=clock)
        self.freshness, self.clock = freshness, clock
        self._owner_labels = owner_labels
        self._no_events: set[str] = set()

    @property
    def transport(self) -> KubeTransport:
        """What sends requests: for those that are no reads."""
        return self._transport

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
            except ResourceExpiredError as error:
                gone = error
        raise gone

    def holds_pods(self, namespace: str) -> bool:
        """Return whether there is any Pod in the namespace, whoever made it.

        Raises:
            ClusterError: any failure.
        """
        request = KubeRequest("list", "GET", (*_namespace(namespace), "pods"), {"limit": "1"}, timeout=READ_TIMEOUT)
        page = decode_page(require_success(self._read(request), "list the Pods", ("list", "pods", namespace)))
        return bool(page.pods or page.skipped)

    def namespace_exists(self, namespace: str) -> bool | None:
        """Return whether there is such a namespace, None where we may not read that.

        Raises:
            ClusterError: any other failure.
        """
        reply = self._read(KubeRequest("get", "GET", _namespace(namespace), timeout=READ_TIMEOUT))
        if reply.status == 404:
            return False
        if reply.status == 403:
            return None
        require_success(reply, "read the namespace", ("get", "namespaces", namespace))
        return True

    def list_namespaces(self) -> list[str]:
        """Return the names of all namespaces, of the first thousand where there are more.

        Raises:
            ClusterError: any failure, such as no right to list them.
        """
        return [name for name in self._namespaces_page({"limit": "1000"})[0] if isinstance(name, str)]

    def all_namespaces(self) -> frozenset[str]:
        """Return the names of all namespaces: all of them as of one moment, or an error, also where one has no name.

        Raises:
            ClusterError: any failure, such as no right to list them.
        """
        for _ in range(RELISTS):
            found: list[str] = []
            query = {"limit": str(PAGE_SIZE)}
            try:
                while True:
                    names, more = self._namespaces_page(query)
                    if not all(isinstance(name, str) and name for name in names):
                        raise InvalidResponseError("The list of namespaces can't be decoded: one of them has no name.")
                    found += names
                    if more is None:
                        return frozenset(found)
                    query = {**query, "continue": more}
            except ResourceExpiredError as error:
                gone = error
        raise gone

    def unmet_requirements(self, namespace: str, name: str) -> tuple[Requirement, ...]:
        """Return the terms of `SELECTOR` that keep a Pod from being the operator's; () where there is no such Pod.

        Raises:
            ClusterError: any failure.
        """
        request = KubeRequest("get", "GET", (*_namespace(namespace), "pods", name), timeout=READ_TIMEOUT)
        reply = self._read(request)
        if reply.status == 404:
            return ()
        return decode_unmet(require_success(reply, f"get the Pod {namespace}/{name}", ("get", "pods", namespace)))

    def why_empty(self, namespace: str) -> str | None:
        """Return what is odd about a namespace without any Pod, None where it holds some, be they another's.

        Raises:
            ClusterError: its Pods can't be listed.
        """
        if self.holds_pods(namespace):
            return None
        try:
            exists = self.namespace_exists(namespace)
        except ClusterError:
            exists = None
        if exists is None:
            return "it holds no Pod at all, and we may not read whether it exists (get on namespaces): check its name"
        if exists:
            return "it exists and holds no Pod at all: are these tasks' Pods in another one?"
        return "there is no such namespace: check its name, kubectl get namespaces lists them"

    def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Return the Pod as it is now, whatever its labels; None if there is none of that name.

        Raises:
            ClusterError: any failure.
        """
        request = KubeRequest("get", "GET", (*_namespace(namespace), "pods", name), timeout=READ_TIMEOUT)
        reply = self._read(request)
        if reply.status == 404:
            return None
        body = require_success(reply, f"get the Pod {namespace}/{name}", ("get", "pods", namespace))
        pod = decode_pod(body, self._owner_labels)
        if pod is None:
            raise InvalidResponseError(
                f"The Pod {namespace}/{name} can't be decoded, so that nothing is decided about it."
            )
        return pod

    def leases(self, namespace: str, name: str, *, timeout: float = READ_TIMEOUT) -> LeaseClient:
        """Return the client of one Lease. `timeout`: of each of its calls, in seconds."""
        return LeaseClient(self._transport, namespace, name, timeout=timeout)

    def config_map(self, namespace: str, name: str, key: str, *, timeout: float = READ_TIMEOUT) -> ConfigMapClient:
        """Return the client of one value of one ConfigMap. `timeout`: of each of its calls, in seconds."""
        return ConfigMapClient(self._transport, namespace, name, key, timeout=timeout)

    def diagnostics_reader(self) -> DiagnosticsReader:
        """Return what reads how Pods fare that are about to go."""
        return DiagnosticsReader(self._transport)

    def post_event(
        self, pod: Pod, reason: str, message: str, *, warning: bool = False, suffix: str = ""
    ) -> EventResult:
        """Write an Event on the Pod, or renew the one that says the same. Never raises.

        A namespace where we may not write Events is told once in the log; healing goes on without them.
        """
        try:
            return self._post_event(pod, reason, message, warning, suffix)
        except AccessDeniedError as error:
            self._tell_no_events(pod.namespace, error)
            return EventResult.DENIED
        except ClusterError as error:
            _log.debug("The Event %s on %s is lost: %s", reason, pod, error)
            return EventResult.FAILED

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
        reply = self._transport.send(KubeRequest("create", "POST", path, body=review, timeout=READ_TIMEOUT))
        answer = as_object(require_success(reply, "ask for our rights", ("create", "selfsubjectaccessreviews", "")))
        return dig(answer, "status", "allowed") is True

    def version(self) -> str:
        """Return the API server's version, as `v1.36.3`; whoever may not log in may not see it.

        Raises:
            ClusterError: any failure.
        """
        reply = self._read(KubeRequest("get", "GET", ("version",), timeout=READ_TIMEOUT))
        return str(
            as_object(require_success(reply, "read the version", ("get", "/version", ""))).get("gitVersion", "unknown")
        )

    def whoami(self) -> str | None:
        """Return our user name as the API server sees it; None where it doesn't tell (before Kubernetes 1.28).

        Raises:
            ClusterError: any failure.
        """
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = ("apis", "authentication.k8s.io", "v1", "selfsubjectreviews")
        reply = self._transport.send(KubeRequest("create", "POST", path, body=review, timeout=READ_TIMEOUT))
        if reply.status in {403, 404}:
            return None
        answer = as_object(require_success(reply, "ask for our name", ("create", "selfsubjectreviews", "")))
        name = dig(answer, "status", "userInfo", "username")
        return str(name) if name else None

    def _list(self, namespace: str) -> Listing:
        query = {"labelSelector": POD_SELECTOR, "limit": str(PAGE_SIZE)}
        pods: list[Pod] = []
        skipped: tuple[Undecodable, ...] = ()
        while True:
            request = KubeRequest("list", "GET", (*_namespace(namespace), "pods"), query, timeout=LIST_TIMEOUT)
            body = require_success(self._read(request), "list the Pods", ("list", "pods", namespace))
            page = decode_page(body, self._owner_labels)
            pods.extend(page.pods)
            # An item without a namespace is of the one that was listed.
            skipped += tuple(odd if odd.namespace else replace(odd, namespace=namespace) for odd in page.skipped)
            if page.continue_token is None:
                return Listing(pods, page.resource_version, skipped)
            query = {**query, "continue": page.continue_token}

    def _namespaces_page(self, query: Mapping[str, str]) -> tuple[list[Any], str | None]:
        """Return what stands for the names on one page, and the token of the next one."""
        request = KubeRequest("list", "GET", ("api", "v1", "namespaces"), query, timeout=READ_TIMEOUT)
        body = as_object(require_success(self._read(request), "list the namespaces", ("list", "namespaces", "")))
        items = body.get("items")
        names = [dig(item, "metadata", "name") for item in (items if isinstance(items, list) else (None,))]
        return names, dig(body, "metadata", "continue") or None

    def _read(self, request: KubeRequest) -> KubeReply:
        """Send a read; once more if the connection broke, as an idle one does when the server restarts."""
        try:
            return self._transport.send(request)
        except UnreachableError as error:
            if not error.broken:
                raise
        return self._transport.send(request)

    def _post_event(self, pod: Pod, reason: str, message: str, warning: bool, suffix: str) -> EventResult:
        if self.now() is None:
            self.version()  # for its Date: Events want the API server's time
        now = self.now() or 0.0
        name = event_name(pod, reason, suffix)
        body = event_body(pod, name=name, reason=reason, message=message, warning=warning, now=now)
        path = (*_namespace(pod.namespace), "events")
        reply = self._transport.send(KubeRequest("create", "POST", path, body=body, timeout=READ_TIMEOUT))
        if reply.status == 409:
            return self._renew_event((*path, name), {"message": message[:MAX_MESSAGE], "lastTimestamp": rfc3339(now)})
        require_success(reply, "write Events", ("create", "events", pod.namespace))
        return EventResult.NEW

    def _renew_event(self, path: tuple[str, ...], change: dict[str, Any]) -> EventResult:
        """Renew an Event and count it. The answer to the first PATCH tells the count: we may not read Events."""
        answer = as_object(self._patch_event(path, change))
        count = answer.get("count")
        self._patch_event(path, {"count": count + 1 if isinstance(count, int) else 2})
        return EventResult.RENEWED

    def _patch_event(self, path: tuple[str, ...], change: dict[str, Any]) -> bytes:
        request = KubeRequest("patch", "PATCH", path, body=change, content_type=MERGE_PATCH, timeout=READ_TIMEOUT)
        return require_success(self._transport.send(request), "renew Events", ("patch", "events", path[3]))

    def _tell_no_events(self, namespace: str, error: AccessDeniedError) -> None:
        if namespace not in self._no_events:
            self._no_events.add(namespace)
            _log.warning("Events are not written in namespace %s: %s", namespace, error)


def connect(
    kubeconfig: Path | None = None,
    context: str | None = None,
    *,
    freshness: float = FRESHNESS,
    observe: ObserveRequest = lambda _verb, _code: None,
) -> Cluster:
    """Return the cluster that the user's choice names: see `Connection` and `Cluster`.

    Raises:
        ConnectError: no usable configuration.
    """
    return Cluster(Connection(kubeconfig, context), freshness=freshness, observe=observe)


def _namespace(name: str) -> tuple[str, ...]:
    return "api", "v1", "namespaces", name
