"""kpo-healer-airflow as a wheel, installed into a folder that an Airflow of the lab gets on its PYTHONPATH.

The lab's environments are shared, so nothing is installed into them; the entry points are found all the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.lab.airflow_settings import LOCAL_SETTINGS
from tests.lab.assets import cache_folder, locked
from tests.lab.processes import run_shown

SOURCE: Final = Path(__file__).parents[2] / "deploy" / "airflow"


def install() -> Path:
    """The folder with the installed wheel, built first where its source has changed (some seconds)."""
    folder = cache_folder() / f"plugin-{_digest()}"
    if not folder.exists():
        with locked(cache_folder() / ".plugin.lock"):
            if not folder.exists():  # else another process has built it meanwhile
                _build(folder)
    return folder


def python_path(*folders: Path, local_settings: bool = True) -> dict[str, str]:
    """The variable with which an Airflow finds the plugin, `folders`, and the lab's settings if wanted."""
    found = [install(), *folders, *([LOCAL_SETTINGS] if local_settings else [])]
    return {"PYTHONPATH": os.pathsep.join(map(str, found))}


def _digest() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for file in sorted(SOURCE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(SOURCE)}".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _build(folder: Path) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run_shown("building kpo-healer-airflow", [*pip, "wheel", "--no-deps", "--wheel-dir", unfinished / "wheel", SOURCE])
    (wheel,) = (unfinished / "wheel").glob("*.whl")
    run_shown(
        "installing kpo-healer-airflow", [*pip, "install", "--no-deps", "--target", unfinished / "packages", wheel]
    )
    shutil.rmtree(folder, ignore_errors=True)
    (unfinished / "packages").rename(folder)
    shutil.rmtree(unfinished)
