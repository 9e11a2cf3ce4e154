"""`kubectl exec`, through the API server and the kubelet."""

from __future__ import annotations

from kubernetes import client, config
from kubernetes.stream import stream

from tests.lab.kube import Cluster


def execute(cluster: Cluster, namespace: str, pod: str, *command: str) -> tuple[int, str]:
    """Runs a command in the Pod's container; its exit code, and what it said: output, then errors."""
    configuration = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    api = client.CoreV1Api(client.ApiClient(configuration))
    channel = stream(
        api.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        command=list(command),
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
        _preload_content=False,
    )
    try:
        channel.run_forever(timeout=120)
        out, errors = channel.read_channel(1), channel.read_channel(2)
        return int(channel.returncode or 0), f"{out}{errors}"
    finally:
        channel.sock.shutdown()  # close() leaves the socket of a channel that the other side has closed
        api.api_client.close()
