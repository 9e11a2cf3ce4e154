"""The manifest of a post-mortem: what may be told of a Pod, and no secret, wherever in a Pod one stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from kubernetes.client import models
from msgspec import to_builtins

from healer.cluster.manifest import MOST, decode_manifest
from healer.redaction import HIDDEN

TOLD = {
    "metadata.name",
    "metadata.namespace",
    "metadata.labels.dag_id",
    "metadata.ownerReferences[].kind",
    "metadata.ownerReferences[].name",
    *(f"spec.{name}Name" for name in ("node", "serviceAccount", "priorityClass", "runtimeClass", "scheduler")),
    "spec.restartPolicy",
    "spec.volumes[].name",
    *(f"spec.{kind}[].{field}" for kind in ("containers", "initContainers") for field in ("name", "image")),
}
"""Where a text is told if it has the form of a name, or of an image."""


def planted(kind: str, path: str, numbers: Iterator[int], found: dict[str, str], secret: str) -> Any:
    """Return a value of a type of the API, with a secret of its own in each text; `found` gets where each stands."""
    if kind == "str":
        found[path] = f"{secret}{next(numbers)}"
        return found[path]
    if kind in {"int", "float", "bool", "object", "datetime"}:
        times = {"int": 1, "float": 1.5, "bool": True, "object": None, "datetime": "2026-01-01T00:00:00Z"}
        return times[kind]
    several = re.fullmatch(r"(?:List|list)\[(.*)\]", kind)
    if several:
        return [planted(several[1], f"{path}[]", numbers, found, secret)]
    mapping = re.fullmatch(r"(?:Dict|dict)\(?\[?str, (.*?)\]?\)?", kind)
    if mapping:
        return {
            key: planted(mapping[1], f"{path}.{key}", numbers, found, secret) for key in ("dag_id", "cpu", "acme.io/x")
        }
    made = getattr(models, kind)
    fields = {made.attribute_map[name]: inner for name, inner in made.openapi_types.items()}
    return {name: planted(inner, f"{path}.{name}", numbers, found, secret) for name, inner in fields.items()}


def a_pod_of_secrets(secret: str) -> tuple[dict[str, Any], dict[str, str]]:
    found: dict[str, str] = {}
    numbers = count(1000)
    pod = {part: planted(kind, part, numbers, found, secret) for part, kind in PARTS.items()}
    return pod, found


PARTS = {"metadata": "V1ObjectMeta", "spec": "V1PodSpec", "status": "V1PodStatus"}


def told_of(pod: dict[str, Any]) -> str:
    manifest = decode_manifest(json.dumps(pod).encode())
    assert manifest is not None
    return json.dumps(to_builtins(manifest))


def test_a_secret_at_any_place_that_is_not_told_is_not_told() -> None:
    pod, places = a_pod_of_secrets("hunter")
    told = told_of(pod)
    assert len(places) > 400, "all of a Pod, as the API has it"
    assert {path for path, text in places.items() if f'"{text}"' in told} == TOLD
    untold = {path for path, text in places.items() if text in told} - TOLD
    assert untold == set()


@pytest.mark.parametrize(
    "secret",
    [
        "p@ss w0rd ",
        "https://user:hunter2@example.com/",
        "Bearer abcdefgh",
        "eyJhbGciOi.eyJzdWIi.c2ln",
        "-----BEGIN KEY-----\n",
        "AKIA/secret+",
        "x" * 600,
    ],
)
def test_what_has_not_the_form_of_its_field_is_withheld_also_where_names_are_told(secret: str) -> None:
    pod, places = a_pod_of_secrets(secret)
    told = told_of(pod)
    assert not [path for path, text in places.items() if json.dumps(text)[1:-1] in told]
    assert HIDDEN in told


def test_what_is_told_reads_like_a_manifest() -> None:
    container = {
        "name": "base",
        "image": "registry.example.com:5000/team/etl:1.2@sha256:" + "a" * 64,
        "command": ["sh", "-c", "echo hunter2"],
        "args": ["--password=hunter2"],
        "env": [{"name": "TOKEN", "value": "hunter2"}],
        "envFrom": [{"secretRef": {"name": "hunter2"}}],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": 1}, "limits": {"cpu": "hunter2"}},
    }
    pod = {
        "metadata": {
            "name": "p",
            "namespace": "a",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"dag_id": "d", "try_number": "1", "team": "hunter2"},
            "annotations": {"note": "hunter2"},
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "v", "secret": {"secretName": "hunter2"}}, {"name": "w", "quobyte": {"volume": "x"}}],
            "imagePullSecrets": [{"name": "hunter2"}],
        },
    }
    assert json.loads(told_of(pod)) == {
        "metadata": {
            "name": "p",
            "namespace": "a",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"dag_id": "d", "try_number": "1"},
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "base",
                    "image": container["image"],
                    "resources": {
                        "requests": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"},
                        "limits": {"cpu": HIDDEN},
                    },
                }
            ],
            "volumes": [{"name": "v", "kind": "secret"}, {"name": "w", "kind": "other"}],
        },
    }


@pytest.mark.parametrize(
    "image", ["busybox", "busybox:1.36", "ghcr.io/a/b:v1", "localhost:5000/x/y_z", "a/b@sha256:" + "0" * 64]
)
def test_an_image_is_told(image: str) -> None:
    assert image in told_of({"spec": {"containers": [{"name": "base", "image": image}]}})


@pytest.mark.parametrize("image", ["user:hunter2@registry/x", "hunter 2", "https://hunter2/x", "x:" + "hunter2" * 30])
def test_what_is_no_image_is_withheld(image: str) -> None:
    assert "hunter" not in told_of({"spec": {"containers": [{"name": "base", "image": image}]}})


def test_a_log_line_has_an_end() -> None:
    many = [{"name": f"c{number}", "image": "x"} for number in range(5000)]
    told = json.loads(told_of({"spec": {"containers": many, "volumes": [{"name": f"v{n}"} for n in range(5000)]}}))
    assert (len(told["spec"]["containers"]), len(told["spec"]["volumes"])) == (MOST, MOST)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"spec": 1}', b'{"spec": {"containers": [1]}}', b"\xff"])
def test_what_is_no_pod_has_no_manifest(body: bytes) -> None:
    assert decode_manifest(body) is None
