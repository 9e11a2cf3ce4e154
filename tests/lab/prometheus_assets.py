"""Prometheus and promtool for the tests of the dashboard and the alerts, found or fetched once.

Looked for in this order: PATH, the user's cache. What is in neither comes from Debian's package, which apt downloads
and dpkg unpacks into the cache without root and without a look at what is installed (seconds); where there is no apt,
it is built from the Go module, without its service discoveries (minutes).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.assets import cache_folder, go, locked
from tests.lab.processes import LabError, run_shown, say

NAMES: Final = ("prometheus", "promtool")
OLDEST: Final = (2, 42)
"""What Debian 12 has; older ones may lack a function that a query uses."""

MODULE: Final = "github.com/prometheus/prometheus@v0.316.0"
CHECKSUM: Final = "h1:f1GRFerhTMKQma+awCoC9T820ecWeGSdF+xAlMHzZzM="
"""Of the module, so that the pin holds without a go.sum of our own."""


@dataclass(frozen=True)
class Programs:
    prometheus: Path
    promtool: Path


def programs() -> Programs:
    """Both programs, fetched first where they are missing.

    Raises LabError when neither apt nor Go brings them.
    """
    found = {name: _on_path(name) for name in NAMES}
    if not all(found.values()):
        folder = cache_folder() / "prometheus"
        found = {name: folder / name for name in NAMES}
        with locked(cache_folder() / ".prometheus.lock"):
            if not all(path and path.exists() for path in found.values()):
                _fetch(folder)
    return Programs(**{name: path for name, path in found.items() if path})


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found and _version(Path(found)) >= OLDEST else None


def _version(program: Path) -> tuple[int, ...]:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    version = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _fetch(folder: Path) -> None:
    """Into a name of its own, renamed at the end, so that nothing half-made is left."""
    unfinished = folder.with_name(".prometheus.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    if not _from_debian(unfinished):
        _from_go(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _from_debian(folder: Path) -> bool:
    """Whether apt had a package whose programs run here and are new enough."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    apt = ["apt-get", "-q", *private_apt(folder / "apt")]
    try:
        run_shown("fetching Debian's list of packages (once)", [*apt, "update"])
        run_shown("fetching Prometheus (once)", [*apt, "download", "prometheus"], cwd=folder)
        (package,) = folder.glob("prometheus_*.deb")
        run_shown("unpacking Prometheus", ["dpkg", "-x", package, folder / "root"])
    except (LabError, ValueError) as error:
        say(f"Debian has no Prometheus for us ({str(error).splitlines()[0]}); it is built instead")
        return False
    if _version(folder / "root/usr/bin/prometheus") < OLDEST:
        return False
    for name in NAMES:
        (folder / "root/usr/bin" / name).rename(folder / name)
    for rest in (folder / "root", folder / "apt"):
        shutil.rmtree(rest)
    package.unlink()
    return True


def private_apt(folder: Path) -> list[str]:
    """Options by which apt keeps to `folder`, so that it needs no root and changes nothing of the system's."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    options = {
        "Dir::State": folder,
        "Dir::State::status": "/dev/null",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
        "APT::Update::Post-Invoke": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _from_go(folder: Path) -> None:
    """From inside the module as it lies in Go's cache: its own go.mod and go.sum pin all it needs."""
    told = subprocess.run(
        [go(), "mod", "download", "-json", MODULE], capture_output=True, text=True, cwd=folder, check=False
    )
    module = json.loads(told.stdout or "{}")
    if module.get("Sum") != CHECKSUM:
        raise LabError(f"{MODULE} can't be had: {module.get('Error') or told.stderr or module.get('Sum')}")
    flags = ["-trimpath", "-tags", "remove_all_sd", "-ldflags", _stamp()]
    run_shown(
        "building Prometheus and promtool (once)",
        [go(), "build", *flags, "-o", f"{folder}/", *(f"./cmd/{name}" for name in NAMES)],
        env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
        cwd=Path(module["Dir"]),
    )


def _stamp() -> str:
    """The version, which is 3.x where the module's is v0.3xx."""
    major, rest = MODULE.rpartition("@v0.")[2][0], MODULE.rpartition("@v0.")[2][1:]
    minor, patch = rest.split(".")
    return f"-s -w -X github.com/prometheus/common/version.Version={major}.{int(minor)}.{patch}"
