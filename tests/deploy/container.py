"""What a kubelet would make of the rendered Pod: its files, environment, account and command line, as a process.

The objects are those of the API server, after the manifest was applied: a ConfigMap that does not exist there, or a
Secret's missing key, is missing here too.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.lab.healer import _FOREIGN, Running, Told
from tests.lab.kube import Cluster
from tests.lab.processes import LabError

Json = Any

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
MOUNTED = "/etc/kpo-healer/"
ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"


class Container:
    """The healer's container of a Pod template in a namespace. `root`: its file system, as far as it has one."""

    def __init__(self, cluster: Cluster, namespace: str, template: Json, root: Path) -> None:
        self.cluster, self.namespace, self.root = cluster, namespace, root
        self.spec = template["spec"]
        (self.container,) = (one for one in self.spec["containers"] if one["name"] == "kpo-healer")
        self.user = f"system:serviceaccount:{namespace}:{self.spec['serviceAccountName']}"
        self.token = self._token()
        self._mount_account()
        for mount in self.container["volumeMounts"]:
            self._mount(mount)

    def _object(self, plural: str, name: str) -> Json:
        return self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")

    def _token(self, *audiences: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{self.spec['serviceAccountName']}/token"
        answer = self.cluster.request("POST", path, {"spec": {"expirationSeconds": 3600, "audiences": list(audiences)}})
        return str(answer["status"]["token"])

    def _mount_account(self) -> None:
        assert self.spec["automountServiceAccountToken"] is True
        self._write(f"/{ACCOUNT}/token", self.token)
        self._write(f"/{ACCOUNT}/namespace", self.namespace)
        self._write(f"/{ACCOUNT}/ca.crt", self.cluster.ca.read_text())

    def _mount(self, mount: Json) -> None:
        (volume,) = (one for one in self.spec["volumes"] if one["name"] == mount["name"])
        if "emptyDir" in volume:
            return
        if "projected" in volume:
            for source in volume["projected"]["sources"]:
                asked = source["serviceAccountToken"]
                self._write(f"{mount['mountPath']}/{asked['path']}", self._token(asked["audience"]))
            return
        if "configMap" in volume:
            files = self._object("configmaps", volume["configMap"]["name"])["data"]
        else:
            raw = self._object("secrets", volume["secret"]["secretName"])["data"]
            files = {name: base64.b64decode(value).decode() for name, value in raw.items()}
        for name, text in files.items():
            self._write(f"{mount['mountPath']}/{name}", self._seen(text))

    def _write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _seen(self, text: str) -> str:
        """Paths of the container as they are here."""
        return text.replace(MOUNTED, f"{self.root}{MOUNTED}")

    def environment(self, **more: str) -> dict[str, str]:
        """The container's own variables and those that Kubernetes sets: of the API server, and of the Service."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        server = urlsplit(self.cluster.url)
        kubernetes = {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
        service = {"KPO_HEALER_SERVICE_HOST": "10.0.0.7", "KPO_HEALER_PORT": "tcp://10.0.0.7:8080"}
        given = {one["name"]: one["value"] for one in self.container.get("env", ())}
        return mine | kubernetes | service | given | {"PYTHONDONTWRITEBYTECODE": "1"} | more

    def command(self, *words: str) -> list[str]:
        """The command line of the container, or of `kubectl exec` with these words in it."""
        own = [*entrypoint(), *self.container["args"]]
        return [sys.executable, "-m", "tests.deploy.inside", str(self.root), *map(self._seen, words or own)]

    def start(self, log: Path, **environment: str) -> Running:
        """The container's process; to be used in a `with` block, and ready by its readiness probe."""
        port = self.container["ports"][0]["containerPort"]
        process = Running(self.command(), log, port)
        process.env, process.start_timeout = self.environment(**environment), 180
        return process

    def run(self, *words: str, expect: Sequence[int] = (0,)) -> Told:
        """The same until it ends by itself; with words, what `kubectl exec … -- words` does beside it."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=300, env=self.environment(), cwd=ROOT
        )
        if done.returncode not in expect:
            raise LabError(f"{words or self.container['args']} ended with {done.returncode}: {done.stderr[-2000:]}")
        return Told(done.returncode, done.stdout, done.stderr)


def entrypoint() -> list[str]:
    """Of the image."""
    found = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    words: list[str] = json.loads(found[-1])
    return words
