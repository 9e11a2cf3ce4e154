"""What `make node` says where it can't run, and what it calls a change of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.lab.kube import REPOSITORY
from tests.lab.processes import wait_for
from tests.node import __main__ as command
from tests.node import machine


def test_without_root_it_is_skipped_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main([]) == 0
    assert capsys.readouterr().err.startswith("skipped: a real node needs root")


@pytest.mark.parametrize("failure", [FileNotFoundError("unshare"), 1])
def test_without_the_right_to_make_namespaces_too(monkeypatch: pytest.MonkeyPatch, failure: Exception | int) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if isinstance(failure, Exception):
            raise failure
        return subprocess.CompletedProcess([], failure, "", "unshare failed: Operation not permitted\n")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(subprocess, "run", run)
    reason = machine.hindrance()
    assert reason is not None
    assert "unshare" in reason
    assert "\n" not in reason


def test_a_change_of_the_machine_is_told_with_what_was_before() -> None:
    before = {"sysctl kernel.panic": "0", "link eth0": "a", "mount x": "there"}
    after = {"sysctl kernel.panic": "10", "link eth0": "a", "link lab0": "b"}
    assert machine.differences(before, after) == [
        "link lab0: absent -> b",
        "mount x: there -> absent",
        "sysctl kernel.panic: 0 -> 10",
    ]


def test_what_the_kernel_counts_is_no_change() -> None:
    names = machine.facts()
    assert not [name for name in names if name.removeprefix("sysctl ").startswith(machine.COUNTERS)]


def test_folders_of_runs_that_were_killed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, ours = (tmp_path / f"{machine.FOLDER}{pid}-x" for pid in (gone.pid, os.getpid()))
    for folder in (left, ours):
        (folder / "below").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    machine.sweep()
    assert list(tmp_path.iterdir()) == [ours]


def test_who_started_a_node_and_is_killed_takes_it_with_him() -> None:
    if reason := machine.hindrance():
        pytest.skip(reason)
    sleeper = f"3600.{os.getpid()}"
    words = f"[*command.NAMESPACES, 'bash', '-c', command.INSIDE, command.ADDRESS, 'sleep', '{sleeper}']"
    script = f"import subprocess; from tests.node import __main__ as command; subprocess.Popen({words}).wait()"

    def sleeps() -> bool:
        wanted = f"sleep\0{sleeper}\0".encode()
        return any(_command_line(path) == wanted for path in Path("/proc").glob("[0-9]*/cmdline"))

    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY) as maker:
        try:
            wait_for(sleeps, what="a process in there", timeout=60)
        finally:
            maker.kill()
    wait_for(lambda: not sleeps(), what="its end", timeout=60)


def _command_line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has gone meanwhile
        return b""
