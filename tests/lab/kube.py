"""A real Kubernetes API server for tests and the demo: etcd, kube-apiserver and kwok, without containers.

kwok plays the kubelets. A pod is Running within a second of its creation and runs for ever, unless its annotations say
otherwise. Their prefix is `lab.kpo-healer.io/`; durations are a number with s, m or h, counted from the pod's start and
rounded up to a whole second:

    run-for: "5s"              all containers end then; phase Succeeded, or Failed if `exit-code` is not "0"
    exit-code: "1"             of the base container
    base: "main"               which container is the base container (default: the first)
    base-for: "3s"             the base container alone ends; others go on, the phase stays Running (`run-for`, if there
                               too, ends the rest)
    evict-after: "3s"          Failed with reason Evicted, its containers killed (137)
    stay-pending: "true"       is never bound to a node: Pending for ever
    hang-terminating: "true"   once deleted it stays Terminating
    terminate-for: "3s"        how long it takes to go, once deleted (default: at once)
    xcom: '{"a": 1}'           what an exec in the xcom sidecar finds in return.json (see kubelet.py)
    log: "text"                what the containers' logs say
"""

from __future__ import annotations

import base64
import ssl
import sys
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import quote

import httpx
import trustme
import yaml

from tests.lab import audit
from tests.lab.assets import Assets, binaries
from tests.lab.audit import AuditEvent
from tests.lab.processes import LabError, Process, free_ports, new_folder, remove_folder, wait_for

Json = Any
"""A decoded JSON document."""

MANIFESTS: Final = Path(__file__).with_name("manifests")
REPOSITORY: Final = Path(__file__).parents[2]
ANNOTATION: Final = "lab.kpo-healer.io/"
ADMIN_TOKEN: Final = "lab-admin"
KWOK_TOKEN: Final = "lab-kwok"
IN_A_NAMESPACE: Final = (
    "pods",
    "events",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "leases",
    "jobs",
    "rolebindings",
    "roles",
)


class ApiError(LabError):
    """The API server refused; `status` is the HTTP code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Cluster:
    """One running cluster; `Cluster.start()` makes it, `stop()` or leaving the `with` block ends it.

    url: of the API server. ca: PEM file of its certificate authority. kubeconfig: of an admin. root: folder with all
    files and logs. etcd, apiserver, kwok, kubelet: the processes (freeze, thaw, kill, restart); the last two are None
    in a cluster without kwok.
    """

    PORT: ClassVar[int | None] = None
    """Of the API server; None takes a free one."""

    NAMES: ClassVar[Sequence[str]] = ("127.0.0.1", "localhost", "kubernetes.default.svc")
    """What the API server's certificate is for."""

    def __init__(self, root: Path, assets: Assets) -> None:
        self.root = root
        self._assets = assets
        self._etcd_port, self._peer_port, free_port, self._kubelet_port, self._kwok_port = free_ports(5)
        self._api_port = self.PORT or free_port
        self.url = f"https://127.0.0.1:{self._api_port}"
        self.etcd_url = f"http://127.0.0.1:{self._etcd_port}"
        self.audit_log = root / "audit.log"
        self._authority = trustme.CA()
        self.ca = root / "pki" / "ca.pem"
        self._write_files()
        self.kubeconfig = self.write_kubeconfig("admin", {"token": ADMIN_TOKEN})
        self._tls = ssl.create_default_context(cafile=str(self.ca))
        self._client: tuple[int, httpx.Client] | None = None
        self._client_lock = threading.Lock()
        self._own_root = False
        self.etcd = self._make_etcd()
        self.apiserver = self._make_apiserver()
        self.kwok: Process | None = None
        self.kubelet: Process | None = None

    @classmethod
    def start(cls, root: Path | None = None, *, kwok: bool = True) -> Self:
        """Starts a cluster and returns when a pod that is created would run.

        root: an empty folder that is kept; by default a temporary one that goes with the cluster. Without `kwok` pods
        stay Pending and nothing happens to them. Raises LabError with a log's tail when a part does not come up.
        """
        assets = binaries()
        for attempt in (1, 2, 3):
            cluster = cls._prepare(root, assets)
            try:
                cluster._bring_up(with_kwok=kwok)
            except BaseException as error:
                cluster.stop()
                # Between the choice of a port and its use another process may take it.
                if attempt < 3 and isinstance(error, LabError) and "address already in use" in str(error):
                    continue
                raise
            return cluster
        raise AssertionError("unreachable")

    @classmethod
    def _prepare(cls, root: Path | None, assets: Assets) -> Self:
        folder = new_folder("kpo-healer-cluster-") if root is None else root.absolute()
        (folder / "pki").mkdir(parents=True, exist_ok=True)
        cluster = cls(folder, assets)
        cluster._own_root = root is None
        return cluster

    def stop(self) -> None:
        """Ends every process at once (nothing here outlives the cluster) and removes a temporary root."""
        for process in (self.kwok, self.kubelet, self.apiserver, self.etcd):
            if process is not None:
                process.kill()
        if self._client is not None:
            self._client[1].close()
            self._client = None
        if self._own_root:
            remove_folder(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Bringing it up

    def _write_files(self) -> None:
        pki = self.root / "pki"
        self._authority.cert_pem.write_to_path(self.ca)
        for name, cert in {
            "server": self._authority.issue_cert(*self.NAMES),
            # Keys only matter here: it signs the tokens of ServiceAccounts.
            "accounts": self._authority.issue_cert("accounts.invalid", key_type=trustme.KeyType.RSA),
        }.items():
            cert.private_key_pem.write_to_path(pki / f"{name}.key")
            cert.cert_chain_pems[0].write_to_path(pki / f"{name}.pem")
        users = ((ADMIN_TOKEN, "admin"), (KWOK_TOKEN, "kwok"))
        (pki / "tokens.csv").write_text("".join(f'{token},{user},{user},"system:masters"\n' for token, user in users))

    def _make_etcd(self) -> Process:
        peer = f"http://127.0.0.1:{self._peer_port}"
        flags = {
            "data-dir": self.root / "etcd",
            "listen-client-urls": self.etcd_url,
            "advertise-client-urls": self.etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "error",
        }
        return Process(
            "etcd",
            [self._assets.etcd, *as_flags(flags), "--unsafe-no-fsync"],
            self.root / "etcd.log",
            ready=lambda: httpx.get(f"{self.etcd_url}/readyz", trust_env=False).status_code == 200,
        )

    def _make_apiserver(self) -> Process:
        args = [self._assets.kube_apiserver, *as_flags(self._apiserver_flags())]
        return Process("kube-apiserver", args, self.root / "kube-apiserver.log", ready=self._answers)

    def _apiserver_flags(self) -> dict[str, object]:
        pki = self.root / "pki"
        return {
            "etcd-servers": self.etcd_url,
            "secure-port": self._api_port,
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "cert-dir": pki,
            "tls-cert-file": pki / "server.pem",
            "tls-private-key-file": pki / "server.key",
            "client-ca-file": self.ca,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": pki / "accounts.key",
            "service-account-signing-key-file": pki / "accounts.key",
            "service-cluster-ip-range": "10.0.0.0/24",
            "authorization-mode": "RBAC",
            "token-auth-file": pki / "tokens.csv",
            # No controller makes the default ServiceAccount that this plugin insists on.
            "disable-admission-plugins": "ServiceAccount",
            "endpoint-reconciler-type": "none",
            "kubelet-preferred-address-types": "InternalIP",
            "audit-policy-file": MANIFESTS / "audit.yaml",
            "audit-log-path": self.audit_log,
            "audit-log-maxsize": 4096,
        }

    def _answers(self) -> bool:
        answer = self.client.get("/readyz")
        return answer.status_code == 200

    def _bring_up(self, *, with_kwok: bool) -> None:
        self.etcd.start()
        self.apiserver.start()
        if with_kwok:
            self._start_kwok()

    def _start_kwok(self) -> None:
        for document in yaml.safe_load_all((MANIFESTS / "cluster.yaml").read_text()):
            self.apply(document)
        self.kwok = self._make_kwok().launch()
        self.kubelet = self._make_kubelet().start()
        wait_for(self._node_is_ready, what="the kwok node: Ready", timeout=180)
        wait_for(self._pods_are_bound, what="the admission policy that binds pods", timeout=180)

    def _make_kwok(self) -> Process:
        flags = {
            "kubeconfig": self.write_kubeconfig("kwok", {"token": KWOK_TOKEN}),
            "config": MANIFESTS / "stages.yaml",
            "manage-all-nodes": "true",
            "node-ip": "127.0.0.1",
            "node-port": self._kubelet_port,
            "server-address": f"127.0.0.1:{self._kwok_port}",
            "node-lease-duration-seconds": 0,
        }
        return Process("kwok", [self._assets.kwok, *as_flags(flags)], self.root / "kwok.log")

    def _make_kubelet(self) -> Process:
        pki, url = self.root / "pki", f"https://127.0.0.1:{self._kubelet_port}/healthz"
        files = {"kubeconfig": self.root / "kwok.kubeconfig", "cert": pki / "server.pem", "key": pki / "server.key"}
        return Process(
            "kubelet",
            [sys.executable, "-m", "tests.lab.kubelet", *as_flags({"port": self._kubelet_port, **files})],
            self.root / "kubelet.log",
            cwd=REPOSITORY,
            ready=lambda: httpx.get(url, verify=self._tls, trust_env=False),
        )

    def _node_is_ready(self) -> bool:
        conditions = self.request("GET", "/api/v1/nodes/kwok-0")["status"].get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _pods_are_bound(self) -> bool:
        """A policy takes effect some time after its creation; a dry run tells."""
        pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "base", "image": "probe"}]}}
        made = self.request(
            "POST", "/api/v1/namespaces/default/pods", pod, query={"dryRun": "All"}, expect=(201, 404)
        )  # 404: the API server has not made the namespace yet
        return "nodeName" in made.get("spec", {})

    # Asking it

    @property
    def client(self) -> httpx.Client:
        """An HTTP client for `url` as admin, safe for threads; a new one after each restart of the API server."""
        pid = self.apiserver.pid
        with self._client_lock:
            if self._client is None or self._client[0] != pid:
                if self._client is not None:
                    self._client[1].close()
                self._client = (pid, self._new_client())
            return self._client[1]

    def _new_client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "User-Agent": "lab"},
            verify=self._tls,
            trust_env=False,
            timeout=120,
            limits=httpx.Limits(max_connections=64),
        )

    def request(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        query: Mapping[str, str | int] | None = None,
        expect: Collection[int] = (200, 201, 202),
        content_type: str | None = None,
    ) -> Json:
        """One request as admin; the decoded answer. A PATCH is a merge patch unless `content_type` says otherwise.

        Raises ApiError for a status that is not in `expect`.
        """
        default = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = self.client.request(
            method, path, json=body, params=query, headers={"Content-Type": content_type or default}
        )
        if answer.status_code not in expect:
            raise ApiError(answer.status_code, f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        kind = answer.headers.get("content-type", "")
        return answer.json() if "json" in kind else answer.text

    def apply(self, document: Json) -> Json:
        """Creates or changes one object by server-side apply; its kind needs a plain `…s`-plural."""
        meta, version = document["metadata"], document["apiVersion"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        space = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
        kind = document["kind"].lower()
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        return self.request(
            "PATCH",
            f"{base}{space}/{plural}/{meta['name']}",
            document,
            query={"fieldManager": "lab", "force": "true"},
            content_type="application/apply-patch+yaml",
        )

    def audit(
        self, since: int = 0, *, user: str | None = None, verb: str | None = None, resource: str | None = None
    ) -> list[AuditEvent]:
        """Finished and running requests behind `since` (from `audit_mark`), all but kwok's and the server's own.

        The line of a request is written just after its answer: wait for the count you expect. A ServiceAccount's user
        is `system:serviceaccount:<namespace>:<name>`.
        """
        wanted = {"user": user, "verb": verb, "resource": resource}
        given = {key: value for key, value in wanted.items() if value is not None}
        events = audit.read(self.audit_log, since)
        return [event for event in events if all(getattr(event, key) == value for key, value in given.items())]

    def audit_mark(self) -> int:
        """The present end of the audit log, for `audit(since=…)`."""
        return self.audit_log.stat().st_size

    # Namespaces and pods

    def namespace(self, name: str) -> str:
        """Creates the namespace, if it is not there yet, and returns its name."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}}, expect=(201, 409))
        return name

    def delete_namespace(self, name: str) -> None:
        """Removes the namespace and what is in it at once, past finalizers: no controller is there to do it.

        Thousands of pods would take the API server half a minute, etcd a moment; watches see every deletion.
        Ends when admission, which reads namespaces from a watch of its own, has seen it too: one of the same name
        that comes back sooner would be refused Pods as if it were terminating.
        """
        for plural in IN_A_NAMESPACE:
            self._erase(f"/registry/{plural}/{name}/", whole_prefix=True)
        path = f"/api/v1/namespaces/{name}"
        empty = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        probe = {"metadata": {"name": "probe"}}

        def gone() -> bool:
            self.request("DELETE", path, expect=(200, 202, 404, 409))
            self.request("PUT", f"{path}/finalize", empty, expect=(200, 404, 409))
            seen = self.client.request("POST", f"{path}/configmaps", json=probe, params={"dryRun": "All"})
            return seen.status_code == 404

        wait_for(gone, what=f"namespace {name} is gone")

    def create_pod(self, body: Json) -> Json:
        """Creates the pod in `metadata.namespace`; the object that the server made of it."""
        return self.request("POST", _pods(body["metadata"]["namespace"]), body)

    def create_pods(self, bodies: Iterable[Json], *, connections: int = 16) -> list[Json]:
        """Creates many pods side by side."""
        with ThreadPoolExecutor(connections) as pool:
            return list(pool.map(self.create_pod, bodies))

    def pods(self, namespace: str, selector: str = "") -> list[Json]:
        """All pods of the namespace that match the label selector."""
        answer = self.request("GET", _pods(namespace), query={"labelSelector": selector} if selector else None)
        return list(answer["items"])

    def get_pod(self, namespace: str, name: str) -> Json | None:
        """The pod, or None when there is none of that name."""
        answer = self.request("GET", _pods(namespace, name), expect=(200, 404))
        return answer if answer["kind"] == "Pod" else None

    def delete_pod(self, namespace: str, name: str, *, grace: int | None = None) -> None:
        """Deletes the pod; `grace` 0 removes it at once, even one that hangs. It is no error if it is gone."""
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        self.request("DELETE", _pods(namespace, name), body, expect=(200, 202, 404))

    def patch_pod(self, namespace: str, name: str, patch: Json) -> Json:
        """Changes the pod by a merge patch, such as `{"metadata": {"labels": {"already_checked": "True"}}}`."""
        return self.request("PATCH", _pods(namespace, name), patch)

    def set_status(self, namespace: str, name: str, **status: Json) -> Json:
        """Changes fields of the pod's status, as a kubelet would; kwok leaves them unless one of its stages matches."""
        return self.request("PATCH", f"{_pods(namespace, name)}/status", {"status": status})

    def wait_pod(self, namespace: str, name: str, phase: str = "Running", *, timeout: float = 30) -> Json:
        """Waits until the pod has that phase and returns it; the phase "gone" waits until there is none (None)."""

        def seen() -> tuple[Json] | None:
            pod = self.get_pod(namespace, name)
            found = "gone" if pod is None else pod["status"].get("phase")
            return (pod,) if found == phase else None

        reached = wait_for(seen, timeout=timeout, what=f"pod {namespace}/{name}: {phase}")
        return reached[0] if reached else None

    # Users

    def service_account(
        self, namespace: str, name: str, rules: Sequence[Json], *, namespaces: Iterable[str] | None = None
    ) -> Path:
        """A ServiceAccount with a Role of these rules in each of `namespaces` (default: its own); its kubeconfig.

        rules: RBAC PolicyRules. Called again it changes the rules. The rights are in force on return.
        """
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
        user = f"system:serviceaccount:{namespace}:{name}"
        for space in namespaces if namespaces is not None else (namespace,):
            self._grant(space, name, account, rules)
            self._wait_for_rights(space, user, rules)
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200},
        }
        token = self.request("POST", path, request)["status"]["token"]
        return self.write_kubeconfig(f"{namespace}-{name}", {"token": token}, namespace=namespace)

    def user(
        self,
        name: str,
        rules: Sequence[Json] = (),
        *,
        namespaces: Iterable[str] = (),
        groups: Sequence[str] = (),
    ) -> Path:
        """A user with a client certificate (at most one group); its kubeconfig. `namespaces`: where the rules hold."""
        group = groups[0] if groups else None
        # Go refuses a certificate without any alternative name that trustme has marked as critical.
        cert = self._authority.issue_cert("user.invalid", common_name=name, organization_name=group)
        for space in namespaces:
            subject = {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
            self._grant(space, f"user-{name}", subject, rules)
            self._wait_for_rights(space, name, rules)
        identity = {
            "client-certificate-data": _base64(cert.cert_chain_pems[0].bytes()),
            "client-key-data": _base64(cert.private_key_pem.bytes()),
        }
        return self.write_kubeconfig(f"user-{name}", identity)

    def revoke(self, namespace: str, name: str) -> None:
        """Takes the rights of `service_account(…, name, …)` in this namespace away; they are gone soon, not at once."""
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{quote(name)}"
        self.request("DELETE", path, expect=(200, 404))

    def _grant(self, namespace: str, name: str, subject: Json, rules: Sequence[Json]) -> None:
        group = "rbac.authorization.k8s.io"
        common = {"apiVersion": f"{group}/v1", "metadata": {"name": name, "namespace": namespace}}
        ref = {"apiGroup": group, "kind": "Role", "name": name}
        self.apply({**common, "kind": "Role", "rules": list(rules)})
        self.apply({**common, "kind": "RoleBinding", "roleRef": ref, "subjects": [subject]})

    def _wait_for_rights(self, namespace: str, user: str, rules: Sequence[Json]) -> None:
        """RBAC reads its rules through a watch: they hold a moment after they were written."""

        def allowed() -> bool:
            return all(self._may(namespace, user, rule) for rule in rules)

        wait_for(allowed, what=f"the rights of {user} in {namespace}")

    def _may(self, namespace: str, user: str, rule: Json) -> bool:
        resource, _, sub = rule["resources"][0].partition("/")
        asked = {"namespace": namespace, "verb": rule["verbs"][0], "group": rule["apiGroups"][0]}
        asked |= {"resource": resource, "subresource": sub, "name": (*rule.get("resourceNames", ()), "")[0]}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": asked},
        }
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def write_kubeconfig(self, name: str, user: Json, *, namespace: str = "default") -> Path:
        """A kubeconfig (context `lab`) for this cluster with the given user entry; `root/<name>.kubeconfig`."""
        cluster = {"server": self.url, "certificate-authority-data": _base64(self.ca.read_bytes())}
        context = {"cluster": "lab", "user": name, "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "lab", "context": context}],
            "current-context": "lab",
        }
        path = self.root / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    # Trouble

    def compact(self) -> None:
        """Makes etcd forget its history up to now.

        The API server still serves young history from its own cache; `expire_watches` gets rid of that as well.
        """
        revision = self._etcd("kv/range", {"key": _base64(b"/registry/none")})["header"]["revision"]
        self._etcd("kv/compaction", {"revision": revision, "physical": True})

    def expire_watches(self, *, while_down: Iterable[tuple[str, str]] = ()) -> None:
        """Restarts the API server with an empty history: every watch breaks and none can be continued (410 Expired).

        while_down: (namespace, name) of pods that vanish in between, so that no watch ever tells of it.
        """
        self.apiserver.kill()
        for namespace, name in while_down:
            self.erase_pod(namespace, name)
        # The new server's history begins at etcd's present revision: it has to be past what watchers have seen.
        self._etcd("kv/put", {"key": _base64(b"/lab/tick"), "value": _base64(b"tick")})
        self.compact()
        self.apiserver.start()

    def erase_pod(self, namespace: str, name: str) -> None:
        """Removes the pod from etcd itself, past the API server."""
        self._erase(f"/registry/pods/{namespace}/{name}")

    def _erase(self, key: str, *, whole_prefix: bool = False) -> None:
        body = {"key": _base64(key.encode())}
        if whole_prefix:
            body["range_end"] = _base64(key[:-1].encode() + bytes([ord(key[-1]) + 1]))
        self._etcd("kv/deleterange", body)

    def _etcd(self, call: str, body: Json) -> Json:
        answer = httpx.post(f"{self.etcd_url}/v3/{call}", json=body, trust_env=False, timeout=30)
        if answer.status_code != 200:
            raise LabError(f"etcd refused {call}: {answer.text[:300]}")
        return answer.json()


def as_flags(values: Mapping[str, object]) -> list[str | Path]:
    return [f"--{name}={value}" for name, value in values.items()]


def _pods(namespace: str, name: str | None = None) -> str:
    base = f"/api/v1/namespaces/{quote(namespace)}/pods"
    return base if name is None else f"{base}/{quote(name)}"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
