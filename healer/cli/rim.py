"""The rim: whatever goes wrong inside becomes one sentence on standard error and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from click.shell_completion import ShellComplete

from healer.cli.commands import cli
from healer.cli.output import NoReaderError, printable
from healer.config import ConfigError

USAGE = 2
INCOMPLETE = 3
INTERRUPTED = 130
NO_READER = 141
"""What a shell answers for a program that SIGPIPE ended."""

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
        return _tell(f"{error.format_message().rstrip('.')}: see kpo-healer --help", USAGE)
    except ConfigError as error:
        return _tell(str(error), USAGE)
    except Exception as error:  # noqa: BLE001 - the last rim: a user gets a sentence, the traceback is for debugging
        return _failed(error)


def _failed(error: Exception) -> int:
    """Tell what the world or we did wrong. Imports late: whoever raises these has paid for their imports already."""
    from healer.airflow import AirflowRefused
    from healer.cli.office import NotLeaderError, ReleaseError
    from healer.cli.remote import RemoteError
    from healer.cluster import ClusterError, ConnectError
    from healer.reconcile import NoSuchPodError
    from healer.reconcile.proof import UnusableProofError
    from healer.serving import ListenError

    usage = ConnectError | ListenError | NoSuchPodError | UnusableProofError | AirflowRefused | ReleaseError
    if isinstance(error, usage):
        return _tell(str(error), USAGE)
    if isinstance(error, ClusterError | NotLeaderError | RemoteError):
        return _tell(str(error), INCOMPLETE)
    _log.debug("the traceback of the mistake", exc_info=error)
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    return _tell(f"kpo-healer made a mistake ({what}): please report it with what --log-level debug shows", INCOMPLETE)


def _tell(text: str, code: int) -> int:
    for line in text.splitlines():
        click.echo(f"error: {printable(line)}", err=True)
    return code
