"""On a terminal: colour, progress and a view that renews itself; elsewhere none of it. And the names we go by."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from healer.cli import complete, main, watch
from healer.errors import RemoteError
from tests.unit.cli_world import World, kpo_healer

pytestmark = pytest.mark.usefixtures("own_logging")


class EndedError(Exception):
    """The watch was to end here."""


def watched(look: Callable[[Callable[[], None]], int], times: int) -> None:
    """Look so many times, then press Ctrl-C."""
    left = iter(range(times - 1))

    def wait(_seconds: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    watch.watch(look, 5.0, (RemoteError,), wait)


class TestWatch:
    def test_looks_until_interrupted_and_tells_when(self, capsys: pytest.CaptureFixture[str]) -> None:
        looks: list[int] = []

        def look(begin: Callable[[], None]) -> int:
            looks.append(1)
            begin()
            print(f"look {len(looks)}")
            return 1

        watched(look, 3)
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("look")] == ["look 1", "look 2", "look 3"]
        assert sum("every 5 s; Ctrl-C ends it" in line for line in lines) == 3
        assert "\x1b" not in "".join(lines)

    def test_a_look_that_fails_is_not_the_last(self, capsys: pytest.CaptureFixture[str]) -> None:
        def look(_begin: Callable[[], None]) -> int:
            raise RemoteError("no healer answers\x1b[2J")

        watched(look, 2)
        assert capsys.readouterr().out.count("error: no healer answers\\x1b[2J\n") == 2

    def test_any_other_failure_ends_it(self) -> None:
        def look(_begin: Callable[[], None]) -> int:
            raise EndedError

        with pytest.raises(EndedError):
            watched(look, 2)

    def test_clears_a_terminal_and_leaves_it_as_it_was(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

        def look(begin: Callable[[], None]) -> int:
            begin()
            return 0

        watched(look, 2)
        out = capsys.readouterr().out
        assert out.startswith(watch.CUT_LINES)
        assert out.endswith(watch.WHOLE_LINES)
        assert out.count(watch.CLEAR) == 2

    @pytest.mark.parametrize("every", [(), ("2s",)])
    def test_the_command_takes_a_duration_or_none(
        self, good: World, monkeypatch: pytest.MonkeyPatch, every: tuple[str, ...]
    ) -> None:
        seen: list[float] = []

        def once(look: Any, every: float, _failures: Any) -> None:
            seen.append(every)
            look(lambda: None)

        monkeypatch.setattr(watch, "watch", once)
        outcome = good.run("scan", "--watch", *every)
        assert (outcome.code, outcome.err) == (0, "")
        assert "orphaned" in outcome.out
        assert seen == [2.0 if every else 60.0]

    @pytest.mark.parametrize("words", [("--watch", "soon"), ("--watch", "5s", "-o", "json")])
    def test_what_makes_no_sense_is_one_sentence(self, good: World, words: tuple[str, ...]) -> None:
        outcome = good.run("scan", *words)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def on_a_terminal(made: World, *words: str, **env: str) -> tuple[str, str]:
    """Run a command whose two streams are terminals of their own. Return what each of them showed."""
    where = ("--config", str(made.config()), "--kubeconfig", str(made.folder / "kubeconfig"))
    told: list[bytearray] = [bytearray(), bytearray()]
    pairs = [pty.openpty(), pty.openpty()]
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "healer", *words, *where],
        stdin=subprocess.DEVNULL,
        stdout=pairs[0][1],
        stderr=pairs[1][1],
        env=plain | {"TERM": "xterm-256color"} | env,
    )
    for _, theirs in pairs:
        os.close(theirs)
    readers = [threading.Thread(target=_read, args=(ours, into)) for (ours, _), into in zip(pairs, told, strict=True)]
    for reader in readers:
        reader.start()
    process.wait(120)
    for reader, (ours, _) in zip(readers, pairs, strict=True):
        reader.join(30)
        os.close(ours)
    return told[0].decode(), told[1].decode()


def _read(terminal: int, into: bytearray) -> None:
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(terminal, 1 << 16):
            into += piece


@pytest.mark.slow
class TestTerminal:
    def test_colour_and_progress_are_for_terminals(self, good: World) -> None:
        out, err = on_a_terminal(good, "scan")
        assert "\x1b[1;31m" in out, "delete is bold red"
        assert "answers" in err
        assert "answers" not in out

    def test_no_color_is_heeded(self, good: World) -> None:
        out, _ = on_a_terminal(good, "scan", NO_COLOR="1")
        assert "orphaned" in out
        assert "\x1b[1;31m" not in out
        assert "31m" not in out

    def test_elsewhere_there_is_neither(self, good: World) -> None:
        outcome = good.run("scan")
        assert "\x1b" not in outcome.out + outcome.err
        assert outcome.err == ""


class TestNames:
    def test_as_a_plugin_of_kubectl(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-kpo_healer"])
        assert "Usage: kubectl kpo-healer [OPTIONS]" in kpo_healer(capsys, "--help").out
        monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kpo-healer"])
        assert "Usage: kpo-healer [OPTIONS]" in kpo_healer(capsys, "--help").out

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    @pytest.mark.parametrize("name", ["kpo-healer", "kubectl-kpo_healer"])
    def test_completion_scripts(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, name: str
    ) -> None:
        monkeypatch.setattr(sys, "argv", [name])
        monkeypatch.setenv("_KPO_HEALER_COMPLETE", f"{shell}_source")
        monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda _self=None: None)
        with pytest.raises(SystemExit) as ended:
            main([])
        assert not ended.value.code
        assert "_KPO_HEALER_COMPLETE" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            (("s",), "scan"),
            (("scan", "--fr"), "--from"),
            (("scan", "-o", "j"), "json"),
            (("",), "release"),
        ],
    )
    def test_kubectl_asks_for_completions(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        words: tuple[str, ...],
        wanted: str,
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-kpo_healer", *words])
        complete()
        lines = capsys.readouterr().out.splitlines()
        assert wanted in [line.partition("\t")[0] for line in lines]
        assert lines[-1] == ":4"
