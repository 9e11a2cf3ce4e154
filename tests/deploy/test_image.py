"""The image, without a container engine: its steps are run one by one in a folder, and what comes out is used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.container import DOCKERFILE, ROOT
from tests.e2e.world import World
from tests.lab.airflow import Airflow
from tests.lab.kube import Cluster

PLACES = ("/opt/", "/src")
"""The image's own folders, which are below the test's folder here."""


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile, such as `RUN` and what follows."""

    word: str
    rest: str


def stages() -> list[list[Step]]:
    """The instructions of each stage; those before the first one belong to none."""
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    found: list[list[Step]] = [[]]
    for line in lines:
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append(Step(word, rest))
    return found[1:]


class Scratch:
    """The file system of the build stage, as far as its steps need one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        python = root / "bin/python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        self.env["PATH"] = f"{python.parent}:{self.env['PATH']}"

    def run(self, step: Step) -> None:
        """Raises AssertionError with what a failed command said."""
        match step.word:
            case "ENV":
                self.env |= dict(pair.split("=", 1) for pair in step.rest.split())
                self.env.pop("PIP_NO_CACHE_DIR", None)  # no layer gets smaller here by fetching everything anew
            case "WORKDIR":
                self.folder = self.here(step.rest)
                self.folder.mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = step.rest.split()
                for source in sources:
                    self.copy(ROOT / source, self.folder / target, into=target.endswith("/"))
            case "RUN":
                command = self.seen(step.rest)
                done = subprocess.run(
                    ["/bin/sh", "-c", command],
                    cwd=self.folder,
                    env=self.env,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def shell(self, command: str) -> None:
        words, where = ["/bin/sh", "-c", command], {"cwd": self.folder, "env": self.env}
        done = subprocess.run(words, **where, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def copy(self, source: Path, target: Path, *, into: bool) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            return
        target.mkdir(parents=True, exist_ok=True) if into else target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)

    def here(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def seen(self, command: str) -> str:
        """A command with the image's paths as they are here."""
        return re.sub(rf"(?<![\w/])({'|'.join(PLACES)})", rf"{self.root}\1", command)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the final stage copies: the environment in /opt/kpo-healer."""
    return built(tmp_path_factory.mktemp("image"))


def built(folder: Path, **arguments: str) -> Path:
    """The same, built in this folder with these build arguments."""
    build, final = stages()
    scratch = Scratch(folder)
    scratch.env |= arguments
    for step in build[1:]:
        scratch.run(step)
    (copied,) = (step.rest for step in final if step.word == "COPY")
    assert copied == "--from=build /opt/kpo-healer /opt/kpo-healer"
    return scratch.here("/opt/kpo-healer")


@pytest.fixture
def world(cluster: Cluster, airflow_api: Airflow, tmp_path: Path) -> Iterator[World]:
    with World.open(cluster, airflow_api, tmp_path) as made:
        yield made


def test_what_the_steps_make_checks_a_real_installation(image: Path, world: World) -> None:
    world.pod("t")
    installation = world.installation()
    words = installation.command("check", "-o", "json")[3:]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KPO_HEALER", "KUBE"))}
    done = subprocess.run(
        [image / "bin/kpo-healer", *words], cwd=image, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {line["status"] for line in json.loads(done.stdout)} <= {"ok", "warn"}


def test_the_environment_has_what_it_needs_and_is_small(image: Path) -> None:
    """No pip, no build tools; the size is what the image adds to its base."""
    packages = next((image / "lib").glob("python3.*")) / "site-packages"
    assert (packages / "healer").is_dir()
    assert not [name for name in ("pip", "setuptools", "hatchling", "uv") if (packages / name).exists()]
    size = sum(file.stat().st_size for file in image.rglob("*") if file.is_file() and not file.is_symlink())
    assert size < 100e6


def test_the_libraries_of_platforms_are_there_when_they_are_asked_for(image: Path, tmp_path: Path) -> None:
    """Without the build argument the command says how to get them."""

    def said(root: Path, *words: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_GCE_CHECK": "true"}
        command = [root / "bin/kpo-healer", "token", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (3, "")
        return done.stderr

    assert "build the image with --build-arg EXTRA=google" in said(image, "google")
    assert "build the image with --build-arg EXTRA=aws" in said(image, "mwaa", "--environment", "prod")
    both = built(tmp_path / "image", EXTRA="all")
    assert "default credentials were not found" in said(both, "google")
    assert "You must specify a region" in said(both, "mwaa", "--environment", "prod")


@pytest.mark.parametrize("extra", ["aws", "google", "all"])
def test_what_is_pinned_for_platforms_fits_what_they_need(extra: str) -> None:
    """Other versions than elsewhere are there only where a platform's library wants them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = pins(f"deploy/requirements-{extra}.txt")
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(one for name in extras if extra in (name, "all") for one in extras[name])]:
        needed = Requirement(text)
        assert needed.specifier.contains(image[needed.name]), text
    assert pins("deploy/requirements.txt").keys() - image.keys() <= {"tzdata"}


def test_the_image_is_pinned_and_not_root() -> None:
    build, final = stages()
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    assert {build[0].rest, final[0].rest} == {"${PYTHON} AS build", "${PYTHON}"}
    words = {step.word: step.rest for step in final}
    assert words["USER"] == "65532:65532"
    assert "RUN" not in words
    installs = [step.rest for step in build if "pip" in step.rest and " -r " in step.rest]
    assert installs
    assert all("--require-hashes" in command for command in installs)


def pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", (ROOT / path).read_text(), re.MULTILINE))


def test_the_image_has_what_the_tests_have() -> None:
    """`make pins` writes both."""
    image, tests = pins("deploy/requirements.txt"), pins("tests/requirements.txt")
    assert image == {name: tests.get(name) for name in image}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for text in project["project"]["dependencies"]:
        needed = Requirement(text)
        assert needed.specifier.contains(image[needed.name]), text
    (backend,) = (Requirement(text) for text in project["build-system"]["requires"])
    assert backend.specifier.contains(pins("deploy/requirements-build.txt")[backend.name])
