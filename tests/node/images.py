"""Images made by hand: an OCI layout in a tar file, as `ctr images import` takes it. No registry is asked."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Json = Any

PAUSE: Final = "localhost/pause:lab"
"""The sandbox of each Pod."""

WORK: Final = "registry.example.com/team/etl:1.2.3"
"""What the example DAGs run as `python -m etl.run`."""

SIDECAR: Final = "docker.io/library/alpine:3.24.2"
"""Of KubernetesPodOperator's xcom sidecar, in the provider that the lab's Airflow has."""

WORK_SCRIPT: Final = r"""#!/bin/sh
# The first word of the run id says what the work is: `exit-3.anything` ends with 3, `after-exit-3` once USR1 came.
word=${RUN%%.*}
echo "begin $RUN"
case "$word" in
  after-*)
    trap 'word=${word#after-}' USR1
    trap 'exit 143' TERM
    while [ "$word" != "${word#after-}" ]; do sleep 1 & wait $!; done
    trap - TERM
    ;;
esac
case "$word" in
  exit-*) sleep 1; echo "end $RUN"; exit "${word#exit-}" ;;
  lines-*) i=0; while [ $i -lt "${word#lines-}" ]; do i=$((i+1)); echo "line $i of $RUN"; done ;;
  rows-*) sleep 1; echo "{\"rows\": ${word#rows-}}" > /airflow/xcom/return.json ;;
  hungry) x=0123456789abcdef; while :; do x=$x$x; done ;;
  full) dd if=/dev/zero of=/tmp/full bs=1M count=32; while :; do sleep 1; done ;;
  deaf) trap '' TERM; while :; do sleep 1; done ;;
  tidy) trap 'echo "tidying $RUN"; sleep 2; exit 7' TERM; while :; do sleep 1 & wait $!; done ;;
  unaware) while :; do sleep 1; done ;;
  *) trap 'exit 143' TERM; trap 'echo "end $RUN"; exit 0' USR1; while :; do sleep 1 & wait $!; done ;;
esac
echo "end $RUN"
"""
"""Any other word: it works until it is ended, badly by TERM, well by USR1. `unaware` is what most programs are as
process 1 of a container: without a handler the kernel drops their SIGTERM."""

PAUSE_SCRIPT: Final = "trap 'exit 0' TERM INT; while :; do sleep 1000 & wait $!; done"


@dataclass(frozen=True)
class File:
    """One entry of a layer. `link`: a symbolic link's target, then there is no content."""

    path: str
    content: bytes = b""
    mode: int = 0o755
    link: str | None = None


def write_all(folder: Path, busybox: Path, applets: Iterable[str]) -> list[Path]:
    """The three images that every story needs, as tar files in `folder`."""
    shell = list(_busybox(busybox, applets))
    work = [*shell, File("bin/python", WORK_SCRIPT.encode()), File("tmp/.keep")]
    return [
        write(folder / "pause.tar", PAUSE, shell, entrypoint=["/bin/sh", "-c", PAUSE_SCRIPT]),
        write(folder / "work.tar", WORK, work),
        write(folder / "sidecar.tar", SIDECAR, shell),
    ]


def _busybox(program: Path, applets: Iterable[str]) -> Iterable[File]:
    yield File("bin/busybox", program.read_bytes())
    for name in applets:
        if name != "busybox":  # a link of that name would take the program's place
            yield File(f"bin/{name}", link="busybox")


def write(target: Path, name: str, files: Iterable[File], *, entrypoint: list[str] | None = None) -> Path:
    """An image of one uncompressed layer under this name; `target`."""
    layer = _layer(files)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": entrypoint or []},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = [layer, raw_config := json.dumps(config).encode()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", raw_config),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    }
    blobs.append(raw_manifest := json.dumps(manifest).encode())
    named = {"annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "manifests": [_descriptor(manifest["mediaType"], raw_manifest) | named]}
    with tarfile.open(target, "w") as tar:
        _add(tar, File("oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644))
        _add(tar, File("index.json", json.dumps(index).encode(), 0o644))
        for blob in blobs:
            _add(tar, File(f"blobs/sha256/{_digest(blob).partition(':')[2]}", blob, 0o644))
    return target


def _layer(files: Iterable[File]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for file in files:
            _add(tar, file)
    return raw.getvalue()


def _add(tar: tarfile.TarFile, file: File) -> None:
    entry = tarfile.TarInfo(file.path)
    entry.mode, entry.size = file.mode, len(file.content)
    if file.link is not None:
        entry.type, entry.linkname = tarfile.SYMTYPE, file.link
    tar.addfile(entry, io.BytesIO(file.content))


def _digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _descriptor(kind: str, raw: bytes) -> Json:
    return {"mediaType": kind, "digest": _digest(raw), "size": len(raw)}
