"""One real node: containerd, runc and a kubelet in mount and process namespaces of their own.

It stands inside the network namespace that `python -m tests.node` makes; see there for what keeps the machine as it is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.lab.processes import LabError, Process, free_ports, wait_for
from tests.node import images
from tests.node.assets import Programs

Json = Any

NAME: Final = "127.0.0.1"
"""The node is called by its address, as in Kubernetes' own local-up-cluster: a kubelet refuses a loopback --node-ip."""

SUBNET: Final = "10.88.0.0/16"

HOLDER: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")

CONTAINERD: Final = """
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# A machine may deny CAP_SYS_RESOURCE; without it no sandbox would start.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{folder}/cni"
"""

NETWORK: Final = """
{{
  "cniVersion": "0.4.0", "name": "lab",
  "plugins": [{{
    "type": "bridge", "bridge": "lab0", "isGateway": true, "ipMasq": false,
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}
  }}]
}}
"""

_EXIT: Final = re.compile(
    r'^(?P<at>\S+ \S+) \S+ \S+ \S+ /tasks/exit \{.*?"container_id":"(?P<container>\w+)".*?"pid":(?P<pid>\d+)'
    r'(?:.*?"exit_status":(?P<code>\d+))?'
)


@dataclass(frozen=True)
class Exit:
    """The end of a container's first process as containerd saw it. code: 128 + the signal that ended it, if one did."""

    container: str
    pid: int
    code: int
    at: dt.datetime


class Node:
    """containerd and kubelet; `start` returns when containerd answers and the kubelet is healthy.

    folder: all files. pki: folder with `server.pem`, `server.key` and the cluster's `ca.pem`. cgroup: a group of that
    name, made in every hierarchy before, in which all containers run.
    """

    def __init__(self, folder: Path, programs: Programs, *, pki: Path, kubeconfig: Path, cgroup: str) -> None:
        self.folder, self.programs = folder, programs
        self._pki, self._kubeconfig, self._cgroup = pki, kubeconfig, cgroup
        self.port, self._health_port = free_ports(2)
        folder.mkdir(parents=True)
        holder: list[str | Path] = [*HOLDER, "bash", Path(__file__).with_name("namespaces.sh"), folder]
        self.holder = Process("node", holder, folder / "namespaces.log", ready=(folder / "ready").exists)
        self._started: list[Process] = []

    def start(self) -> Node:
        self._write_files()
        self.holder.start()
        self.containerd = self._inside(
            "containerd",
            [self.programs.containerd, "--config", self.folder / "containerd.toml"],
            ready=lambda: self._ctr("version", check=False),
        ).start()
        events: list[str | Path] = [self.programs.ctr, "-a", self._socket, "-n", "k8s.io", "events"]
        self._events = Process("containerd's events", events, self.folder / "events.log").launch()
        self._started.append(self._events)
        for image in images.write_all(self.folder / "images", self.programs.busybox, self._applets()):
            self.load(image)
        flags = {
            "config": self.folder / "kubelet.yaml",
            "kubeconfig": self._kubeconfig,
            "root-dir": "/var/lib/kubelet",
            "hostname-override": NAME,
        }
        self.kubelet = self._inside(
            "kubelet",
            [self.programs.kubelet, *(f"--{name}={value}" for name, value in flags.items())],
            ready=lambda: httpx.get(f"http://127.0.0.1:{self._health_port}/healthz", trust_env=False).is_success,
        ).start()
        return self

    def stop(self) -> None:
        """Ends all of it at once, containers included, as a loss of power would."""
        for process in reversed(self._started):
            process.kill()
        self.holder.kill()

    def load(self, image: Path) -> None:
        """Imports the images of a tar file in OCI's or Docker's layout."""
        self._ctr("images", "import", image)

    def tag(self, image: str, name: str) -> None:
        """Another name for an image that is loaded."""
        self._ctr("images", "tag", image, name)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the node's namespaces."""
        return subprocess.run([*self._enter(), *command], capture_output=True, text=True, timeout=120, check=False)

    def container(self, image: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end in a container without a Pod: read-only, without a network, as the image's user."""
        name = f"bare-{uuid.uuid4().hex[:8]}"
        options = [
            "--rm",
            "--read-only",
            "--runc-binary",
            str(self.programs.runc),
            "--cgroup",
            f"{self._cgroup}/{name}",
        ]
        words = ["run", *options, image, name, *command]
        ctr = [str(self.programs.ctr), "-a", "/run/containerd/containerd.sock", "-n", "k8s.io"]
        return self.run(*ctr, *words)

    def kill(self, container_id: str) -> None:
        """SIGKILL for a container's first process, past the API; named as in a Pod's status: `containerd://…`."""
        self._ctr("tasks", "kill", "--signal", "SIGKILL", container_id.rpartition("/")[2])

    # What is seen on the machine, past the API

    def processes(self, variable: str) -> list[int]:
        """The first processes of containers that have this `NAME=value` in their environment, by their Pod's spec."""
        return [pid for pid in _pids() if _is_first(pid) and variable.encode() in _read(pid, "environ").split(b"\0")]

    def pods_at_work(self) -> set[str]:
        """The uids of the Pods of which any process runs, by the control groups that the kubelet made for them."""
        found = (re.search(r"/pod([0-9a-f-]{36})(/|$)", _read(pid, "cgroup").decode()) for pid in _pids())
        return {match[1] for match in found if match}

    def first_process(self, container_id: str) -> int:
        """The process of a container, named as in a Pod's status, that is process 1 in there."""
        wanted = container_id.rpartition("/")[2]
        return next(pid for pid in _pids() if _is_first(pid) and wanted in _read(pid, "cgroup").decode())

    def limit(self, container_id: str, controller: str, file: str) -> int:
        """What the kernel has as a limit for a container."""
        lines = _read(self.first_process(container_id), "cgroup").decode().splitlines()
        paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
        return int(Path(f"/sys/fs/cgroup/{controller}{paths[controller]}/{file}").read_text())

    def wait_process(self, variable: str, *, timeout: float = 120) -> int:
        """Waits for the first such process; its id."""
        found = wait_for(lambda: self.processes(variable), timeout=timeout, what=f"a process with {variable}")
        return min(found)

    def exits(self) -> list[Exit]:
        """The ends of all containers so far, sandboxes and what was run inside of them included."""
        found = (_EXIT.match(line) for line in self._events.log.read_text(errors="replace").splitlines())
        return [
            Exit(one["container"], int(one["pid"]), int(one["code"] or 0), _time(one["at"])) for one in found if one
        ]

    def wait_exit(self, container_id: str, *, timeout: float = 120) -> Exit:
        """Waits for the end of a container, named as in a Pod's status: `containerd://…`."""
        wanted = container_id.rpartition("/")[2]

        def ended() -> Exit | None:
            return next((one for one in self.exits() if one.container == wanted), None)

        found = wait_for(ended, timeout=timeout, what=f"the end of {container_id}")
        assert found is not None
        return found

    # Bringing it up

    @property
    def _socket(self) -> Path:
        return self.folder / "run/containerd/containerd.sock"

    def _ctr(self, *words: str | Path, check: bool = True) -> bool:
        command = [self.programs.ctr, "-a", self._socket, "-n", "k8s.io", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if check and done.returncode:
            raise LabError(f"ctr {' '.join(map(str, words))} failed: {(done.stderr or done.stdout)[-500:]}")
        return done.returncode == 0

    def _applets(self) -> list[str]:
        done = subprocess.run([self.programs.busybox, "--list"], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.split()

    def _enter(self) -> list[str]:
        first = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0]
        return ["nsenter", "--target", first, "--mount", "--pid", "--"]

    def _inside(self, name: str, args: Sequence[str | Path], *, ready: Any) -> Process:
        """A process in the node's namespaces."""
        env = {**os.environ, "PATH": f"{self.programs.containerd.parent}:{os.environ['PATH']}"}
        process = Process(name, [*self._enter(), *args], self.folder / f"{name}.log", env=env, ready=ready)
        self._started.append(process)
        return process

    def _write_files(self) -> None:
        for part in ("images", "cni"):
            (self.folder / part).mkdir()
        places = {"folder": self.folder, "runc": self.programs.runc, "cni": self.programs.cni, "pause": images.PAUSE}
        (self.folder / "containerd.toml").write_text(CONTAINERD.format(**places))
        (self.folder / "cni" / "lab.conflist").write_text(NETWORK.format(subnet=SUBNET))
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(self._configuration()))

    def _configuration(self) -> Json:
        """Sources: KubeletConfiguration v1beta1; what is said of sysctls in namespaces.sh."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": self.port,
            "readOnlyPort": 0,
            "healthzPort": self._health_port,
            "tlsCertFile": str(self._pki / "server.pem"),
            "tlsPrivateKeyFile": str(self._pki / "server.key"),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self._pki / "ca.pem")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            # It fails where a sysctl is not as it wants it, instead of writing the machine's.
            "protectKernelDefaults": True,
            "resolvConf": "",
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "1s",
            "nodeStatusReportFrequency": "5s",
            "nodeLeaseDurationSeconds": 5,
            "syncFrequency": "2s",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        }


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _is_first(pid: int) -> bool:
    """Whether it is process 1 of a container; NSpid has its id in each process namespace from ours down to its own."""
    return re.search(r"^NSpid:.*\t1$", _read(pid, "status").decode(), re.MULTILINE) is not None


def _read(pid: int, file: str) -> bytes:
    """What the kernel says of a process; nothing of one that has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{file}").read_bytes()
    return b""


def _time(text: str) -> dt.datetime:
    """As Go prints it: up to nine digits of a second."""
    return dt.datetime.fromisoformat(text[:26]).replace(tzinfo=dt.UTC)
