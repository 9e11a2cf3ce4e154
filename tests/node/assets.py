"""The programs of the real node: kubelet and kube-controller-manager from Go modules, the rest from Debian's packages.

`go/go.mod` is a module of its own, so that the lab's cluster is not built anew when the node changes. Debian's packages
are downloaded and unpacked into the user's cache; nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.assets import cache_folder, go, locked
from tests.lab.processes import LabError, run_shown
from tests.lab.prometheus_assets import private_apt

MODULE: Final = Path(__file__).with_name("go")
BUILT: Final = ("kubelet", "kube-controller-manager")
PACKAGES: Final = ("containerd", "runc", "containernetworking-plugins", "busybox-static")
"""Debian's; containerd 1.6 and later will do for the kubelet 1.36 that go.mod pins."""


@dataclass(frozen=True)
class Programs:
    """cni: the folder with the network plugins."""

    kubelet: Path
    controller_manager: Path
    containerd: Path
    ctr: Path
    runc: Path
    busybox: Path
    cni: Path


def programs() -> Programs:
    """All of them, fetched and built first where they are missing (minutes, once).

    Raises LabError where there is no apt, or a download or the build fails.
    """
    built, debian = _built(), unpacked("node-debian", PACKAGES)
    return Programs(
        kubelet=built / "kubelet",
        controller_manager=built / "kube-controller-manager",
        containerd=debian / "usr/bin/containerd",
        ctr=debian / "usr/bin/ctr",
        runc=debian / "usr/sbin/runc",
        busybox=debian / "bin/busybox",
        cni=debian / "usr/lib/cni",
    )


def _built() -> Path:
    digest = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes())
    folder = cache_folder() / f"node-{digest.hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    with locked(folder / ".lock"):
        for name in BUILT:
            if not (folder / name).exists():
                _build(name, folder / name)
    return folder


def _build(name: str, target: Path) -> None:
    """Under another name first: a build that was cut short leaves nothing half-made. Flags as the API server's."""
    found = re.search(r"^\s+k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    unfinished = target.with_name(f".{name}.unfinished")
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={found[1]}"
    run_shown(
        f"building {name} from Go modules (once)",
        [go(), "build", "-trimpath", "-ldflags", flags, "-o", unfinished, f"k8s.io/kubernetes/cmd/{name}"],
        env={**os.environ, "CGO_ENABLED": "0"},
        cwd=MODULE,
    )
    unfinished.replace(target)


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """The folder `name` of the cache, with Debian's packages unpacked into it; downloaded first where it is missing.

    Raises LabError where there is no apt, or it can't bring them.
    """
    folder = cache_folder() / name
    with locked(cache_folder() / f".{name}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f".{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _unpack(unfinished, packages)
            unfinished.rename(folder)
    return folder


def _unpack(folder: Path, packages: Sequence[str]) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise LabError("the real node takes containerd and runc from Debian's packages: run it where there is apt")
    apt = ["apt-get", "-q", *private_apt(folder / "apt")]
    run_shown("fetching Debian's list of packages (once)", [*apt, "update"])
    run_shown(f"fetching {', '.join(packages)} (once)", [*apt, "download", *packages], cwd=folder)
    for package in sorted(folder.glob("*.deb")):
        run_shown(f"unpacking {package.name.split('_')[0]}", ["dpkg", "-x", package, folder])
        package.unlink()
    shutil.rmtree(folder / "apt")
