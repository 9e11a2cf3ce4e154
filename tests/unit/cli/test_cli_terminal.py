"""Recordings of the commands on real pseudo-terminals: nothing is left to the terminal's folding, nothing is lost
without `…`, and the colours are those of the user's own theme, light or dark."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.unit.cli_world import Answer, Seen, Server, serving, world

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_logging")]

WIDTHS = (80, 120, 200)

SGR = re.compile(r"\x1b\[([0-9;]*)m")
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OF_THE_THEME = frozenset({"", "0", "1", "2", "31", "32", "33"})
"""Reset, bold, dim, and three colours that every theme makes readable on its own background."""

CASES: dict[str, tuple[str, ...]] = {
    "scan": ("scan", "--all"),
    "scan wide": ("scan", "--all", "-o", "wide"),
    "scan by dag": ("scan", "--by", "dag"),
    "scan notices": ("scan", "--notices"),
    "history": ("history",),
    "explain": ("explain", "team-data/ingest-customer-orders-into-warehouse-eu-0-x7k2p9qa"),
}
"""Commands that a running healer answers."""


def finding(number: int, **changes: Any) -> dict[str, Any]:
    name = f"ingest-customer-orders-into-warehouse-eu-{number}-x7k2p9qa"
    task = {
        "dag_id": "customer_orders_to_the_warehouse_of_the_whole_group",
        "run_id": "scheduled__2026-01-31T00:00:00+00:00",
        "task_id": f"ingest.customer_orders_{number}",
        "map_index": number,
        "try_number": 1,
        "state": "failed",
    }
    return {
        "namespace": "team-data",
        "pod": name,
        "uid": f"u{number}",
        "airflow": "prod",
        "task": task,
        "labels": {"dag_id": "customer_orders", "task_id": "ingest", "run_id": "r", "map_index": str(number)},
        "reason": "adoption-unknown" if number % 2 else "orphaned",
        "action": "keep" if number % 2 else "delete",
        "withheld": None if number % 2 else "report-mode",
        "detail": "task instance is failed at try 1, it ended 2026-01-31T00:00:00Z, and its Pod still runs",
        "since": "2026-01-31T00:12:31Z",
        "due": "2026-01-31T00:14:31Z",
        "created": "2026-01-30T22:14:31Z",
        "holds": {"cpu_cores": 2.5, "memory_bytes": 4 << 30, "extended": {"nvidia.com/gpu": 1}, "since": None},
        "cause": {"name": "worker-lost", "detail": "its worker was killed", "remedy": "give it more memory " * 8},
        "notices": [],
    } | changes


FOUND = [finding(0), finding(1), finding(2, task=None), finding(3, namespace="другой-namespace", holds=None)]
NOTICE = {key: FOUND[0][key] for key in ("namespace", "pod", "uid", "airflow", "task", "detail")} | {
    "notice": "deferred-for-long"
}


def running_healer(seen: Seen) -> Answer:
    """Answer as a healer that has found these."""
    if seen.path.startswith("/notices"):
        return Answer(200, [NOTICE])
    if seen.path.startswith("/history"):
        return Answer(200, [each | {"deleted": "2026-01-31T00:15:00Z"} for each in FOUND])
    return Answer(200, FOUND[:1] if "pod=" in seen.path else FOUND)


@pytest.fixture(scope="module")
def healer() -> Iterator[Server]:
    with serving(running_healer) as server:
        yield server


class Recording:
    """A command whose streams are one terminal, and what a user saw there."""

    def __init__(self, words: tuple[str, ...], columns: int) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        env = {name: value for name, value in os.environ.items() if not name.startswith(("KPO_", "COLUMNS", "NO_CO"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "healer", *words],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=env | {"TERM": "xterm-256color"},
            # A shell that runs the tests in the background has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        self._ours, self._said = ours, b""

    def read(self, until: str | None = None) -> str:
        """Read up to a text, or to the end."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                piece = os.read(self._ours, 1 << 16)
            except OSError:  # how Linux tells the end of a terminal
                break
            self._said += piece
            if until is not None and until in self._said.decode(errors="replace"):
                break
        return self._said.decode(errors="replace")

    def end(self, number: signal.Signals) -> str:
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> str:
        said = self.read()
        self.process.wait(60)
        os.close(self._ours)
        return said


def recorded(words: tuple[str, ...], columns: int) -> str:
    return Recording(words, columns).finish()


def piped(words: tuple[str, ...]) -> str:
    """What the command says where there is no terminal."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KPO_")}
    ended = subprocess.run(
        [sys.executable, "-m", "healer", *words], capture_output=True, text=True, env=env, check=False
    )
    return ended.stdout + ended.stderr


def assert_fits(said: str, columns: int) -> None:
    """No line is wider than the terminal, and no colour is its own."""
    for line in STEERING.sub("", said).replace("\r", "\n").splitlines():
        assert cell_len(line) <= columns, f"{cell_len(line)} columns of {columns}: {line!r}"
    codes = {code for codes in SGR.findall(said) for code in codes.split(";")}
    assert codes <= OF_THE_THEME, codes - OF_THE_THEME


def assert_loses_nothing(said: str, whole: str) -> None:
    """Each word is one of the whole answer, or a part of one that was folded, unless `…` says that it is cut."""
    solid = re.sub(r"\s+", "", whole)
    for word in STEERING.sub("", said).split():
        parts = [re.sub(r"\d", "", part) for part in word.split("…")]
        assert all(part in re.sub(r"\d", "", solid) for part in parts), word
    if "…" not in said:
        shown = set(re.sub(r"[\s\d]+", "", STEERING.sub("", said)))
        assert set(re.sub(r"\d", "", solid)) <= shown


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_what_a_running_healer_tells(name: str, columns: int, healer: Server) -> None:
    words = (*CASES[name], "--from", f"http://127.0.0.1:{healer.port}")
    said = recorded(words, columns)
    assert "team-data" in said or "customer_or" in said
    assert_fits(said, columns)
    assert_loses_nothing(said, piped(words))


def test_eighty_columns_show_what_matters(healer: Server) -> None:
    lines = STEERING.sub("", recorded(("scan", "--from", f"http://127.0.0.1:{healer.port}"), 80)).splitlines()
    assert lines[0].split() == ["POD", "REASON", "AGE", "HOLDS", "TASK", "DUE"]
    first = next(line for line in lines if "orphaned" in line)
    assert first.endswith(" report")
    assert "…-x7k2p9qa" in first, "what tells a Pod from its neighbours stands at its end"
    assert "2.5cpu" in first


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    "words", [("scan",), ("explain", "p"), ("check",), ("run", "--once", "--mode", "report")], ids=" ".join
)
def test_what_a_command_finds_itself(words: tuple[str, ...], columns: int, tmp_path: Path, capsys: Any) -> None:
    with world(tmp_path, capsys) as made:
        where = ("--config", str(made.config()), "--kubeconfig", str(made.folder / "kubeconfig"))
        said = recorded((*words, *where), columns)
    assert "error" not in said
    assert_fits(said, columns)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", ["run", "scan", "explain", "check", "release"])
def test_help(command: str, columns: int) -> None:
    said = recorded((command, "--help"), columns)
    for part in ("Options:", "Cluster:", "Log:", "Examples:", "60s by default" if command == "run" else "--config"):
        assert part in said
    assert_fits(said, columns)


def test_a_missing_right_is_shown_whole(tmp_path: Path, capsys: Any) -> None:
    """The manifest is to be copied from the terminal: no line of it is folded, and 80 columns have room for it."""

    def denied(seen: Seen) -> Answer:
        from tests.unit.cli_world import answer, kubernetes

        if seen.path.endswith("/selfsubjectaccessreviews"):
            return answer(201, {"status": {"allowed": False}})
        return kubernetes(seen)

    with world(tmp_path, capsys, cluster=denied) as made:
        where = ("--config", str(made.config()), "--kubeconfig", str(made.folder / "kubeconfig"))
        said = recorded(("check", *where), 80)
    assert "verbs: [get, list, watch, delete]" in said
    assert "resourceNames: [kpo-healer]" in said
    assert_fits(said, 80)


def test_an_error_is_folded_at_words() -> None:
    said = recorded(("scan", "--from", "not a url at all"), 40)
    assert said.startswith("error: --from: that is not the URL of a\r\n  running healer")
    assert "see kpo-healer scan --help" in " ".join(said.split())
    assert_fits(said, 40)


@pytest.mark.parametrize("columns", [80, 33, 7])
def test_a_watch_cuts_its_lines(columns: int, healer: Server) -> None:
    view = Recording(("scan", "--all", "--watch", "1s", "--from", f"http://127.0.0.1:{healer.port}"), columns)
    view.read(until="…")
    said = view.end(signal.SIGINT)
    assert "…" in said
    assert_fits(said, columns)
    assert view.process.returncode == 0
