"""What the real node must leave as it was on the machine, and what it needs of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
PREFIX: Final = "kpo-healer-lab-"
"""Of the group in each hierarchy; the id of the process that made it follows."""

FOLDER: Final = "kpo-healer-node-"
"""Of the folder for temporary files; the same follows."""

PLACES: Final = ("/etc", "/etc/cni", "/opt", "/opt/cni", "/run", "/run/netns", "/var/lib", "/var/log", "/usr/bin")
"""Folders whose entries must be the same: where kubelets, runtimes, plugins and packages leave things."""

GUARDED: Final = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""The sysctls below /proc/sys that a kubelet writes at its start (`setupKernelTunables`)."""

BEFORE: Final = "LAB_NODE_SYSCTLS"
"""The variable with their values before any node was started: `name=value;…`."""

COUNTERS: Final = (
    "dev.cdrom.",
    "fs.aio-nr",
    "fs.dentry-state",
    "fs.file-nr",
    "fs.inode-",
    "fs.quota.",
    "kernel.cad_pid",
    "kernel.ns_last_pid",
    "kernel.pty.nr",
    "kernel.random.",
    "net.netfilter.nf_conntrack_count",
)
"""Sysctls (by prefix) that count what the machine does: the kernel's own to change."""


def hindrance() -> str | None:
    """Why no real node can run here, as one sentence; None where it can."""
    if os.geteuid() != 0:
        return "a real node needs root: containers are made with mounts, networks and control groups"
    if not (CGROUPS / "memory").is_dir():
        return "the real node was tried with control groups v1 only, and /sys/fs/cgroup/memory is not there"
    try:
        done = subprocess.run(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except OSError as error:
        return f"a real node needs the program unshare: {error}"
    if done.returncode:
        return f"a real node needs the right to make namespaces (CAP_SYS_ADMIN): {done.stderr.strip()}"
    return None


def facts() -> dict[str, str]:
    """Sysctls, mounts, network links and addresses, routes, control groups and folders, each by a name."""
    return {
        **_sysctls(),
        **{f"mount {line}": "there" for line in _mounts()},
        **{f"link {path.name}": str(path.readlink()) for path in Path("/sys/class/net").glob("*") if path.is_symlink()},
        **{f"route {line}": "there" for line in _routes()},
        **{f"cgroup {path}": "there" for path in _cgroups()},
        **{f"entry {place}/{entry}": "there" for place in PLACES for entry in _entries(place)},
    }


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What has changed, one line each."""
    names = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def guarded() -> dict[str, str]:
    """What the machine's own GUARDED are now."""
    return {name: Path("/proc/sys", name).read_text().strip() for name in GUARDED}


def _sysctls() -> dict[str, str]:
    root = Path("/proc/sys")
    found: dict[str, str] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder) / file
            name = ".".join(path.relative_to(root).parts)
            if not name.startswith(COUNTERS):
                with contextlib.suppress(OSError):  # some can only be written
                    found[f"sysctl {name}"] = path.read_text(errors="replace").strip()
    return found


def _mounts() -> list[str]:
    """Without the ids, which the kernel gives anew."""
    return [line.partition(" ")[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _routes() -> list[str]:
    rows = [line.split("\t") for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    return [" ".join((row[0], row[1], row[2], row[7])) for row in rows]  # but for what counts uses


def _cgroups() -> Iterator[Path]:
    """The first level of each hierarchy: what is below it belongs to other programs, and comes and goes."""
    return (path for path in CGROUPS.glob("*/*") if path.is_dir() and not _of_another_run(path.name))


def _of_another_run(name: str) -> bool:
    """Whether a process that still runs, and is not this one, has made the group."""
    maker = name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""
    return bool(maker) and maker != str(os.getpid()) and Path("/proc", maker).exists()


def _entries(place: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [path.name for path in Path(place).iterdir()]
    return []


# The control group


def sweep() -> None:
    """Removes the groups and folders of earlier runs that were killed."""
    for left in {path.name for path in CGROUPS.glob(f"*/{PREFIX}*")}:
        if not _of_another_run(left):
            remove_cgroup(left)
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        maker = folder.name.removeprefix(FOLDER).partition("-")[0]
        if maker.isdigit() and not Path("/proc", maker).exists():
            shutil.rmtree(folder, ignore_errors=True)


def make_cgroup() -> str:
    """Makes a group in each hierarchy; its name."""
    name = f"{PREFIX}{os.getpid()}"
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, and nothing runs in it until they are set
            if (group / file).exists():
                (group / file).write_text((hierarchy / file).read_text())
    return name


def remove_cgroup(name: str) -> None:
    """Removes the group with all below it; one in which something still runs stays."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def members(name: str) -> list[int]:
    """Processes of the machine in the group or below it."""
    files = (Path(folder) / "cgroup.procs" for group in CGROUPS.glob(f"*/{name}") for folder, _, _ in os.walk(group))
    return sorted({int(pid) for file in files if file.exists() for pid in file.read_text().split()})


def _hierarchies() -> list[Path]:
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]
