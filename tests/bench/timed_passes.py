"""`python -m tests.bench.timed_passes FILE run --config …`: kpo-healer, and what each of its passes costs.

FILE gets a line for each pass: its depth, and the milliseconds of CPU that all threads used while it lasted.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from healer.reconciler import Reconciler


def timed(reconcile: Callable[..., None], file: Path) -> Callable[..., None]:
    @functools.wraps(reconcile)
    def wrapper(itself: Any, pods: Any, depth: Any, unreadable: Any) -> None:
        begin = time.process_time()
        reconcile(itself, pods, depth, unreadable)
        with file.open("a") as lines:
            lines.write(f"{depth.name} {(time.process_time() - begin) * 1000:.1f}\n")

    return wrapper


def main() -> None:
    file, *arguments = sys.argv[1:]
    Reconciler.reconcile = timed(Reconciler.reconcile, Path(file))  # type: ignore[method-assign]
    from healer.cli import main as cli

    cli(arguments)


if __name__ == "__main__":
    main()
