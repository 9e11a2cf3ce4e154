"""The healer with all platforms' libraries, in an environment of its own: what the image has that is built for them.

Not in the environment of the tests: botocore wants an older python-dateutil than the newest client of Kubernetes.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.lab.assets import cache_folder, locked
from tests.lab.processes import run_shown

ROOT: Final = Path(__file__).parents[2]
REQUIREMENTS: Final = ROOT / "deploy/requirements-all.txt"


def python() -> Path:
    """The interpreter of that environment, installed first where it is missing (half a minute).

    The healer itself is not in it: run it with PYTHONPATH=ROOT. Raises LabError when pip fails.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + f"{sys.base_prefix} {sys.version}".encode()).hexdigest()[:12]
    folder = cache_folder() / f"platforms-{digest}"
    if not (folder / ".complete").exists():
        with locked(cache_folder() / ".platforms.lock"):
            if not (folder / ".complete").exists():  # else another process has installed it meanwhile
                _install(folder)
    return folder / "bin/python"


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    run_shown("installing the platforms' libraries (once): environment", [sys.executable, "-m", "venv", folder])
    pip: list[str | Path] = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_shown(
        "installing the platforms' libraries (once): packages",
        [*pip, "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", REQUIREMENTS],
    )
    (folder / ".complete").touch()
