"""The log as text is for people: no object dumps, and on a terminal no line wider than it."""

from __future__ import annotations

import os
import pty
import re
import struct
import sys
import termios
from fcntl import ioctl

import pytest
import structlog

from healer.config import LogFormat, LogLevel
from healer.decision.rules import RuleOptions
from healer.telemetry.logs import set_up

pytestmark = pytest.mark.usefixtures("own_logging")


def test_no_object_is_dumped(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.TEXT, LogLevel.INFO)
    record = RuleOptions(frozenset(), 1.0)
    structlog.get_logger("healer.x").info(
        "decision", pod="a/p", proof=record, said=None, task={"dag_id": "d", "state": None}, some=["a", "b"]
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[info", line)
    assert "RuleOptions" not in line
    assert not set("{}[]()") & set(line.partition("]")[2])
    assert "healer.x" not in line
    assert "pod=a/p" in line
    assert "dag_id d" in line


def test_json_still_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogFormat.JSON, LogLevel.INFO)
    structlog.get_logger("healer.x").info("decision", proof=RuleOptions(frozenset(), 1.0), said=None)
    line = capsys.readouterr().err
    assert '"proof": {' in line
    assert '"said": null' in line


def test_a_terminal_folds_nothing_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        set_up(LogFormat.TEXT, LogLevel.INFO)
        structlog.get_logger("healer.x").warning("a thing happened", why="one word after another " * 8)
        stream.flush()
        said = os.read(ours, 1 << 16).decode()
        monkeypatch.undo()
    os.close(ours)
    assert "\x1b[33m[warning" in said
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
