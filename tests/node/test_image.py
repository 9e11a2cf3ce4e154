"""The image from deploy/Dockerfile in a bare container: who it runs as, what it may write, says and consists of."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from healer import __version__
from tests.lab.kube import REPOSITORY
from tests.lab.processes import say
from tests.node import materials, product
from tests.node.cluster import NodeCluster

Json = Any


@pytest.fixture(scope="module")
def loaded(cluster: NodeCluster) -> NodeCluster:
    cluster.node.load(product.image())
    return cluster


def test_it_starts_without_a_right_to_write(loaded: NodeCluster) -> None:
    told = loaded.node.container(product.NAME, "kpo-healer", "--version")
    assert told.returncode == 0, told.stderr
    assert __version__ in told.stdout


def test_it_runs_as_nobody_in_particular(loaded: NodeCluster) -> None:
    told = loaded.node.container(
        product.NAME, "sh", "-c", "id -u; id -g; touch /tmp/x /opt/x; grep CapEff /proc/1/status"
    )
    user, group, caps = told.stdout.split("\n", 2)
    assert (user, group, caps.split()) == ("65532", "65532", ["CapEff:", "0000000000000000"])
    assert told.stderr.count("Read-only file system") == 2


def test_a_command_without_a_configuration_says_so_in_one_sentence(loaded: NodeCluster) -> None:
    told = loaded.node.container(product.NAME, "kpo-healer", "run", "--config", "/etc/kpo-healer/config/config.yaml")
    assert told.returncode == 2
    assert "/etc/kpo-healer/config/config.yaml" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.fixture(scope="module")
def inventory(loaded: NodeCluster) -> Json:
    told = loaded.node.container(product.NAME, "python", "-c", materials.INVENTORY)
    assert told.returncode == 0, told.stderr
    return materials.read(told.stdout)


def test_its_packages_are_those_that_are_pinned_and_no_others(inventory: Json) -> None:
    """Neither pip nor what it was built with."""
    text = (REPOSITORY / "deploy/requirements.txt").read_text()
    pinned = [Requirement(line.rstrip(" \\")) for line in text.splitlines() if re.match("[a-z0-9]", line)]
    python = {"python_full_version": inventory["python"], "python_version": inventory["python"].rpartition(".")[0]}
    asked = [one for one in pinned if one.marker is None or one.marker.evaluate(python)]
    wanted = {str(canonicalize_name(one.name)): str(one.specifier)[2:] for one in asked}
    found = {str(canonicalize_name(name)): version for name, version, _ in inventory["pypi"]}
    assert found == wanted | {"kpo-healer": __version__}


def test_each_of_its_packages_tells_its_licence(inventory: Json) -> None:
    found = materials.licences(inventory)
    assert not {name: told for name, told in found.items() if not told or not materials.ALLOWED.issuperset(told)}
    assert not [name for name, _, told in inventory["debian"] if not told]


def test_its_list_of_materials_is_made(inventory: Json) -> None:
    folder = REPOSITORY / "sbom"
    folder.mkdir(exist_ok=True)
    made = materials.document(inventory)
    (folder / "kpo-healer-image.cdx.json").write_text(json.dumps(made, indent=1))
    kinds = [one["purl"].partition("/")[0] for one in made["components"]]
    say(f"the image has {kinds.count('pkg:pypi')} Python packages and {kinds.count('pkg:deb')} of Debian")
    assert set(kinds) == {"pkg:pypi", "pkg:deb"}


def test_its_entrypoint_is_the_program() -> None:
    config, _ = _opened()
    assert config["config"]["Entrypoint"] == ["kpo-healer"]
    assert config["config"]["User"] == "65532:65532"


def test_it_adds_little_to_its_base_and_nothing_that_nobody_imports() -> None:
    _, layers = _opened()
    *below, own = [list(layer) for layer in layers]
    size, base = (
        sum(entry.size for entry in entries) / 1e6 for entries in (own, [one for all_ in below for one in all_])
    )
    say(f"the image has {base:.0f} MB of its base and {size:.0f} MB of its own")
    assert size < 75
    names = [entry.name for entry in own]
    assert any(name.endswith("/kubernetes/client/api_client.py") for name in names)
    assert not [name for name in names if re.search("/kubernetes/(aio|client/api)/", name)]


def _opened() -> tuple[Json, Iterator[Iterator[tarfile.TarInfo]]]:
    """The image's configuration, and what is in each of its layers, the base's first."""
    with tarfile.open(product.image()) as archive:

        def blob(digest: str) -> bytes:
            member = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return member.read()

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        raw = [blob(layer["digest"]) for layer in manifest["layers"]]
    return config, (_entries(layer) for layer in raw)


def _entries(layer: bytes) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer)) as entries:
        yield from entries
