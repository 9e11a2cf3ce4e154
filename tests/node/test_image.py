"""The image from deploy/Dockerfile in a bare container: who it runs as, what it may write, and what it says."""

from __future__ import annotations

import json
import tarfile

import pytest

from healer import __version__
from tests.node import product
from tests.node.cluster import NodeCluster


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


def test_its_entrypoint_is_the_program_and_it_holds_no_build_tools() -> None:
    with tarfile.open(product.image()) as archive:

        def blob(digest: str) -> bytes:
            member = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return member.read()

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))["config"]
    assert config["Entrypoint"] == ["kpo-healer"]
    assert config["User"] == "65532:65532"
