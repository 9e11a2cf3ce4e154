"""The import contracts hold what they promise: an import that a tired programmer adds makes lint fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMPORTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
NAMES = [each["name"] for each in IMPORTS]
READING = "What only reads can't reach what deletes"
DELETING = "Only the reconciler knows what deletes"


def lint(root: Path) -> str:
    """Return what the import contracts say of a copy of the healer."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=300).stdout
    return " ".join(told.split())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "healer", tmp_path / "healer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


PLANTED = [
    ("cli/oneshot.py", "from healer.deletion import executor", READING),
    ("cli/oneshot.py", "from healer.reconciler import Reconciler", READING),
    ("cli/explain.py", "from healer.deletion.pod_deleter import PodDeleter", READING),
    ("cli/check.py", "from healer.wiring import build", READING),
    ("scanner.py", "from healer.deletion.steps import Confirmed", READING),
    ("worker.py", "from healer.deletion.pod_deleter import PodDeleter", DELETING),
    ("cli/run_once.py", "from healer.deletion.executor import DeletionExecutor", DELETING),
    ("cli/delete.py", "from healer.deletion.pod_deleter import PodDeleter", DELETING),
    ("cli/kept.py", "from healer.wiring import build", READING),
    ("decision/rules.py", "import time", "Decision is pure"),
    ("deletion/executor.py", "from healer.insights import causes", "What explains does not decide"),
    ("worker.py", "import kopf", "Only the informer knows kopf"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "line", "contract"), PLANTED)
def test_an_import_that_must_not_be_makes_lint_fail(copy: Path, file: str, line: str, contract: str) -> None:
    source = copy / "healer" / file
    first = "from __future__ import annotations\n"
    source.write_text(source.read_text().replace(first, f"{first}\n{line}\n", 1))
    assert line in source.read_text()
    name = next(each for each in NAMES if each.startswith(contract))
    assert f"{name} BROKEN" in lint(copy)


@pytest.mark.slow
def test_without_it_all_are_kept(copy: Path) -> None:
    assert "0 broken" in lint(copy)
