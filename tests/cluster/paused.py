"""`python -m tests.cluster.paused FILE run --config …`: kpo-healer that stops itself where it hurts most.

While FILE is there, the whole process is stopped (SIGSTOP) when a DELETE has passed its last check and before its first
byte is sent; FILE is renamed to FILE.stopped before. Whoever made FILE wakes it up again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from healer.cli import main
from healer.cluster import transport


def stop_between(there: Path) -> None:
    checking = transport._checking

    def watched(check: Callable[[], None] | None) -> Any:
        def check_and_stop() -> None:
            assert check is not None
            check()
            with suppress(FileNotFoundError):
                there.rename(f"{there}.stopped")
                # To this thread, so that it stops here; sent to the process it would get some way further.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

        return checking(check_and_stop if check is not None else None)

    transport._checking = watched


if __name__ == "__main__":
    stop_between(Path(sys.argv[1]))
    main(sys.argv[2:])
