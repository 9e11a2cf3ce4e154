"""What a reader would see on a terminal: the demo's `scan`, recorded as an SVG."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import tempfile
import termios
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.lab.demo.story import Story
from tests.lab.processes import LabError, say

COLUMNS: Final = 100
COMMAND: Final = "kpo-healer scan"


def main(target: Path) -> None:
    """Plays the demo up to `scan` and writes what that prints. Raises LabError when it finds nothing."""
    root = Path(tempfile.mkdtemp(prefix="kpo-healer-picture-"))
    story = Story(root, None)
    try:
        with ExitStack() as stack:
            stage, _, installation = story.set_up(stack)
            story.wait_until_ended(stage)
            code, text = on_a_terminal(installation.command("scan"))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if code != 1:
        raise LabError(f"{COMMAND} was to find something and ended with {code}: {text[-2000:]}")
    target.write_text(drawn(text))
    say(f"{target} is written")


def on_a_terminal(command: Sequence[str], timeout: float = 120) -> tuple[int, str]:
    """Runs a command whose standard output is a terminal of `COLUMNS`; its exit code and what it printed there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    foreign = ("KPO_HEALER_", "KUBE", "NO_COLOR", "COLUMNS", "LINES")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env["TERM"] = "xterm-256color"
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL, env=env) as run:
        os.close(theirs)
        with io.FileIO(ours) as terminal:
            said = _all_of(terminal)
        return run.wait(timeout), said.decode().replace("\r\n", "\n")


def _all_of(terminal: io.FileIO) -> bytes:
    """Until the other end is closed, which Linux tells by an error."""
    said = b""
    try:
        while chunk := terminal.read(65536):
            said += chunk
    except OSError:
        pass
    return said


def drawn(text: str) -> str:
    """The SVG: no line is folded, and no font is fetched from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text(f"$ {COMMAND}", "bold"))
    for line in text.rstrip().split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis", crop=True)
    svg = console.export_svg(title=COMMAND, theme=DIMMED_MONOKAI, unique_id="scan")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono")
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"
