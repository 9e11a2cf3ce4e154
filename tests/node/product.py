"""The product's image, built from deploy/Dockerfile by buildah, on a base that debootstrap makes.

No registry is asked: the base stands for the one that the Dockerfile names by its digest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from tests.lab.assets import cache_folder, locked
from tests.lab.kube import REPOSITORY
from tests.lab.processes import run_shown
from tests.node.assets import unpacked

NAME: Final = "localhost/kpo-healer:lab"
PACKAGES: Final = ("buildah", "debootstrap", "libgpgme11", "libassuan0")
INPUTS: Final = ("deploy/Dockerfile", "deploy/requirements*.txt", "pyproject.toml", "README.md", "healer/**/*.py")
"""What the image is made of: it is built anew when one of them changes."""

GIVEN: Final = "LAB_NODE_IMAGE"
"""The variable that names what was built before the node's namespaces were entered, in which nothing can be built."""

PRIVATE: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def image() -> Path:
    """The image as a tar file in OCI's layout, in the cache; built first where it is missing or old (a minute, or so).

    Raises LabError with the end of the build's output when it fails.
    """
    if given := os.environ.get(GIVEN):
        return Path(given)
    folder = cache_folder() / "node-image"
    folder.mkdir(exist_ok=True)
    target = folder / f"{_digest()}.tar"
    with locked(folder / ".lock"):
        if not target.exists():
            programs = unpacked("node-image-programs", PACKAGES)
            work = Path(tempfile.mkdtemp(prefix="kpo-healer-image-"))
            try:
                _build(programs, folder / "base.tar", work, target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            for old in folder.glob("*.tar"):
                if old.name not in (target.name, "base.tar"):
                    old.unlink()
    return target


def _build(programs: Path, base: Path, work: Path, target: Path) -> None:
    script = Path(__file__).with_name("build_image.sh")
    words = [REPOSITORY, programs, base, work, target]
    run_shown("building kpo-healer's image", [*PRIVATE, "bash", script, *words])


def _digest() -> str:
    files = sorted(path for pattern in INPUTS for path in REPOSITORY.glob(pattern))
    digest = hashlib.sha256()
    for path in (*files, Path(__file__).with_name("build_image.sh")):
        digest.update(str(path.name).encode() + path.read_bytes())
    return digest.hexdigest()[:12]
