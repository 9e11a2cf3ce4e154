"""The lab's cluster with a real node in place of kwok, and with Kubernetes' own controllers."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx
import trustme
import yaml

from tests.lab.kube import KWOK_TOKEN, MANIFESTS, Cluster, as_flags
from tests.lab.processes import LabError, Process, free_ports, wait_for
from tests.node import node
from tests.node.assets import programs
from tests.node.node import Node

Json = Any

ADDRESS: Final = "10.0.0.1"
"""The first of --service-cluster-ip-range, by which Pods know the API server: there is no kube-proxy to make it so."""

CGROUP: Final = "LAB_NODE_CGROUP"
"""The variable that names the group which `python -m tests.node` has made; nothing here runs without it."""

CONTROLLERS: Final = (
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "pod-garbage-collector-controller",
    "deployment-controller",
    "replicaset-controller",
    "disruption-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
)


class NodeCluster(Cluster):
    """One running cluster with one real node; to be started inside the namespaces of `python -m tests.node`."""

    PORT: ClassVar[int | None] = 443
    NAMES: ClassVar[Sequence[str]] = (*Cluster.NAMES, ADDRESS)

    node: Node
    controllers: Process

    def _apiserver_flags(self) -> dict[str, object]:
        pki = self.root / "pki"
        flags = super()._apiserver_flags()
        del flags["disable-admission-plugins"]
        return flags | {
            "bind-address": "0.0.0.0",
            "advertise-address": ADDRESS,
            "kubelet-certificate-authority": self.ca,
            "kubelet-client-certificate": pki / "apiserver-to-kubelet.pem",
            "kubelet-client-key": pki / "apiserver-to-kubelet.key",
        }

    def _write_files(self) -> None:
        super()._write_files()
        # Go refuses a certificate without any alternative name that trustme has marked as critical.
        cert = self._authority.issue_cert("apiserver.invalid", common_name="kube-apiserver-kubelet-client")
        self._write_cert("apiserver-to-kubelet", cert)

    def _write_cert(self, name: str, cert: trustme.LeafCert) -> None:
        cert.private_key_pem.write_to_path(self.root / "pki" / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(self.root / "pki" / f"{name}.pem")

    def _bring_up(self, *, with_kwok: bool) -> None:
        if CGROUP not in os.environ:
            raise LabError("a real node needs namespaces of its own: call make node")
        self.etcd.start()
        self.apiserver.start()
        kubeconfig = self.write_kubeconfig("kwok", {"token": KWOK_TOKEN})
        self.controllers = self._make_controllers(kubeconfig).start()
        self._bind_pods()
        self.node = Node(
            self.root / "node", programs(), pki=self.root / "pki", kubeconfig=kubeconfig, cgroup=os.environ[CGROUP]
        )
        self.node.start()
        wait_for(lambda: self.node_is("True"), what="the node: Ready", timeout=180)
        self._await_account("default")
        wait_for(self._pods_are_bound, what="the admission policy that binds pods", timeout=180)

    def _make_controllers(self, kubeconfig: Path) -> Process:
        pki = self.root / "pki"
        (port,) = free_ports(1)
        flags = {
            "kubeconfig": kubeconfig,
            "controllers": ",".join(CONTROLLERS),
            "leader-elect": "false",
            "bind-address": "127.0.0.1",
            "secure-port": port,
            "tls-cert-file": pki / "server.pem",
            "tls-private-key-file": pki / "server.key",
            "service-account-private-key-file": pki / "accounts.key",
            "root-ca-file": self.ca,
            "node-monitor-period": "1s",
            "node-monitor-grace-period": "8s",
        }
        tls = ssl.create_default_context(cafile=str(self.ca))
        return Process(
            "kube-controller-manager",
            [programs().controller_manager, *as_flags(flags)],
            self.root / "kube-controller-manager.log",
            ready=lambda: httpx.get(f"https://127.0.0.1:{port}/healthz", verify=tls, trust_env=False).is_success,
        )

    def _bind_pods(self) -> None:
        """The lab's policy in place of a scheduler, for this node."""
        text = (MANIFESTS / "cluster.yaml").read_text().replace('"kwok-0"', f'"{node.NAME}"')
        for document in yaml.safe_load_all(text):
            if document["kind"] != "Node":
                self.apply(document)

    def node_is(self, ready: str) -> bool:
        """Whether the node's condition Ready is "True", "False" or "Unknown"."""
        found = self.request("GET", f"/api/v1/nodes/{node.NAME}", expect=(200, 404))
        conditions = found.get("status", {}).get("conditions", ()) if found.get("kind") == "Node" else ()
        return any(one["type"] == "Ready" and one["status"] == ready for one in conditions)

    def _await_account(self, namespace: str) -> None:
        """Pods are refused until their ServiceAccount is there, and wait for the authority beside its token."""
        base = f"/api/v1/namespaces/{namespace}"
        for path in (f"{base}/serviceaccounts/default", f"{base}/configmaps/kube-root-ca.crt"):
            wait_for(functools.partial(self._exists, path), what=path, timeout=60)

    def _exists(self, path: str) -> bool:
        return bool(self.request("GET", path, expect=(200, 404))["kind"] != "Status")

    def namespace(self, name: str) -> str:
        super().namespace(name)
        self._await_account(name)
        return name

    def delete_namespace(self, name: str) -> None:
        """As a user does: controllers and the kubelet clear it; Pods get no time to end."""
        for pod in self.pods(name):
            self.delete_pod(name, pod["metadata"]["name"], grace=1)
        path = f"/api/v1/namespaces/{name}"
        self.request("DELETE", path, expect=(200, 202, 404))
        wait_for(lambda: not self._exists(path), what=f"the end of namespace {name}", timeout=120)

    def stop(self) -> None:
        if "node" in vars(self):
            self.node.stop()
        if "controllers" in vars(self):
            self.controllers.kill()
        super().stop()
