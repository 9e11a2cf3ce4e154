"""Lives of kpo-healer that begin quickly: each is a process of its own, forked from one that has imported all."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import kopf
import kubernetes.config

import healer.controller
import healer.telemetry.metrics
from healer.cli import main
from tests.faults import hasty

IMPORTED = (kopf, kubernetes.config, healer.controller, healer.telemetry.metrics)


def begin(words: Sequence[str], log: Path) -> ForkServerProcess:
    """Starts `kpo-healer` with these words; what it says is added to `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_live, args=(list(words), str(log)), daemon=True)
    process.start()
    return process


def _live(words: list[str], log: str) -> None:
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    hasty.hurry()
    main(words)


def _end_with_the_tests() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
