"""The chart as the tests use it: rendered by the real helm, or refused by it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deploy.generate import CHART
from tests.lab.chart_assets import helm, tools

Json = Any

VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
"""The sets of values that the chart is tried with."""

RELEASE, NAMESPACE = "kpo-healer", "healer"


class RefusedError(Exception):
    """helm would not render the chart; the text is what it said."""


def render(
    *values: Path | Json, namespace: str = NAMESPACE, version: str = "1.36.0", folder: Path | None = None
) -> str:
    """The manifests of the chart with these values: files, or documents that are written into `folder` first.

    Raises RefusedError.
    """
    files = [_as_file(value, index, folder) for index, value in enumerate(values)]
    words = [word for file in files for word in ("--values", str(file))]
    return run("template", RELEASE, str(CHART), "--namespace", namespace, "--kube-version", version, *words)


def objects(text: str) -> list[Json]:
    """The objects in a manifest."""
    return [document for document in yaml.safe_load_all(text) if document]


def named(documents: Sequence[Json], kind: str, name: str | None = None, namespace: str | None = None) -> Json:
    """The one object of this kind, name and namespace."""
    (found,) = (
        one
        for one in documents
        if one["kind"] == kind
        and name in (None, one["metadata"]["name"])
        and namespace in (None, one["metadata"].get("namespace"))
    )
    return found


def run(*words: str) -> str:
    """What helm answers. Raises RefusedError."""
    done = subprocess.run([helm(), *words], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def conform(version: str, *files: Path, schemas: Sequence[str] = ()) -> Json:
    """What kubeconform says of them: the objects with something wrong, and how many there are.

    schemas: where those of further kinds are, as kubeconform's templates.
    """
    has = tools()
    command = [str(has.kubeconform), "-strict", "-summary", "-output", "json", "-kubernetes-version", version]
    places = [word for place in (has.kubernetes, has.operator, *schemas) for word in ("-schema-location", place)]
    done = subprocess.run(
        [*command, *places, *map(str, files)], capture_output=True, text=True, timeout=300, check=False
    )
    return json.loads(done.stdout)


def _as_file(value: Path | Json, index: int, folder: Path | None) -> Path:
    if isinstance(value, Path):
        return value
    assert folder is not None
    path = folder / f"values-{index}.yaml"
    path.write_text(yaml.safe_dump(value))
    return path
