"""`python -m tests.e2e.stuck FILE run --config …`: kpo-healer whose deciding thread hangs as soon as FILE is there.

Everything else in the process goes on: only its own health check can tell.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from healer.cli import main
from healer.reconciler import Reconciler


def hang_when(there: Path) -> None:
    reconcile = Reconciler.reconcile

    def stuck(self: Reconciler, *arguments: Any) -> None:
        if there.exists():
            threading.Event().wait()
        reconcile(self, *arguments)

    Reconciler.reconcile = stuck  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    hang_when(Path(sys.argv[1]))
    main(sys.argv[2:])
