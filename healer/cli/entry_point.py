"""The rim: whatever goes wrong inside becomes one sentence on standard error and an exit code."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click
from click.shell_completion import ShellComplete

from healer.cli.commands import cli
from healer.cli.help import wrong_use
from healer.cli.output import write_error
from healer.errors import INCOMPLETE, NO_READER, USAGE, HealerError, NoReaderError
from healer.model import printable
from healer.redaction import first_line, scrubbed

INTERRUPTED = 130

KUBECTL_NAME = "kubectl kpo-healer"
COMPLETE = "_KPO_HEALER_COMPLETE"
"""The variable by which click's completion scripts call us, under whichever name."""

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # ids may hold what the terminal's encoding lacks
    sys.exit(outcome(lambda: cli.main(arguments, prog_name=_name(), complete_var=COMPLETE, standalone_mode=False)))


def program() -> None:
    """Run the command line as the whole process, and end it at once.

    Python would free ten thousand Pods one by one before it ends, which takes a tenth of a second. What is registered
    for the end is done as always: the client's temporary files with keys are removed there.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else somebody wants it ignored, as nohup does
            signal.signal(number, _ended_by)
    try:
        main()
    except SystemExit as end:
        atexit._run_exitfuncs()  # noqa: SLF001 - as the interpreter does; it knows no public name for it
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            raise end from None  # Python has words for it, and an exit code
        os._exit(end.code if isinstance(end.code, int) else INCOMPLETE)


def _ended_by(number: int, _frame: FrameType | None) -> None:
    """End at once, as without us; but what `exec` of the configuration has started ends too."""
    if "healer.airflow" in sys.modules:  # its import takes time, and who has not asked has started nothing
        with suppress(ImportError):  # it is under way
            from healer.airflow import end_programs

            end_programs()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container does not heed a signal that it does not handle


def complete() -> None:
    """Answer kubectl, which asks a plugin's `kubectl_complete-…` for completions: words after our name, the last open.

    A line for each candidate, with its help after a tab; then what the shell shall do besides: nothing (4: no files).
    """
    *words, open_word = sys.argv[1:] or [""]
    shell = ShellComplete(cli, {}, KUBECTL_NAME, COMPLETE)
    for item in shell.get_completions(words, open_word):
        click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(":4")


def _name() -> str:
    """How the user calls us: as a program, or as a plugin of kubectl, which goes by the file's name."""
    return KUBECTL_NAME if Path(sys.argv[0]).name.startswith("kubectl-") else "kpo-healer"


def outcome(command: Callable[[], int | None]) -> int:
    """Return the exit code of a command; tell on standard error what went wrong."""
    try:
        return command() or 0
    except NoReaderError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its own exit
        return NO_READER
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return USAGE
    except click.ClickException as error:
        return _tell(wrong_use(error, list(cli.commands)), USAGE)
    except HealerError as error:
        return _tell(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last rim: a user gets a sentence, the traceback is for debugging
        return _failed(error)


def _failed(error: Exception) -> int:
    """Say that this is a mistake of ours."""
    _log.debug("the traceback of the mistake", exc_info=error)
    what = first_line(f"{type(error).__name__}: {error}")
    return _tell(f"kpo-healer made a mistake ({what}): please report it with what --log-level debug shows", INCOMPLETE)


def _tell(text: str, code: int) -> int:
    for line in text.splitlines():
        write_error(f"error: {printable(scrubbed(line))}")
    return code
