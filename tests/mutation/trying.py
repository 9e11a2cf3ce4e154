"""Tries mutants: each in a forked process that imports the changed module and runs tests until one fails."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

from tests.mutation.mutants import Mutant

FOREIGN = ("hypothesis", "msgspec", "prometheus_client", "pydantic", "pytest", "structlog", "urllib3", "yaml")
"""What healer and tests import of others: loaded once, before anything is forked."""

FIRST = {
    "rules": ("test_rules_table",),
    "labels": ("test_labels", "test_rules_table"),
    "suspects": ("test_suspects", "test_reconciler"),
    "guard": ("test_guard", "test_healing"),
}
"""Tests that a mutant of a module meets first."""

THEN = {
    "rules": ("test_rules_properties", "test_casebook", "test_docs", "test_reconciler"),
    "labels": ("test_rules_properties", "test_airflow_resolve", "test_raw_ids", "test_airflow_questions"),
    "suspects": ("test_healing", "test_oneshot", "test_casebook"),
    "guard": ("test_reconciler", "test_oneshot"),
}
"""Tests that those meet which the first ones let live."""

ABOUT_TESTS = "tests/unit/test_rules_properties.py::test_the_generated_cases_reach_every_reason"
"""Tells something of the tests themselves, and takes as long as all others together."""

PLAIN = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("--deselect", ABOUT_TESTS),
)
"""Options of pytest: stop at the first failure, and don't mind that libraries are loaded already."""

_BELOW = ("healer.model", "healer.config", "healer.clock")
BENEATH = {
    "labels": _BELOW,
    "rules": (*_BELOW, "healer.labels", "healer.cluster"),
    "suspects": (*_BELOW, "healer.rules", "healer.airflow", "healer.cluster"),
    "guard": (*_BELOW, "healer.rules", "healer.airflow", "healer.cluster", "healer.suspects"),
}
"""What does not import the module, nor anything that does: imported once, before anything is forked."""

SLOWEST = 300.0
"""Seconds after which a mutant counts as hung, and so as killed."""


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != f"healer.{self._mutant.module}":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._mutant.source)
        return spec


def survivors(mutants: Sequence[Mutant], tests: Mapping[str, Sequence[str]], processes: int) -> Iterator[Mutant]:
    """Yield the mutants with which all these tests of their module pass."""
    os.environ["HYPOTHESIS_PROFILE"] = "brief"
    for name in (*FOREIGN, *(BENEATH[mutants[0].module] if mutants else ())):
        importlib.import_module(name)
    if any(f"healer.{mutant.module}" in sys.modules for mutant in mutants):
        raise RuntimeError("a module must not be imported before it is changed: try each in a process of its own")
    running: dict[int, tuple[Mutant, float]] = {}
    waiting = list(reversed(mutants))
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                mutant = waiting.pop()
                files = [f"tests/unit/{name}.py" for name in tests[mutant.module]]
                running[_start(mutant, files)] = mutant, time.monotonic()
            yield from _ended(running)
    finally:
        for pid in running:
            _kill(pid)


def _ended(running: dict[int, tuple[Mutant, float]]) -> Iterator[Mutant]:
    """Wait a moment; yield those that ended with all tests passed, and end those that hang."""
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid:
        mutant, _ = running.pop(pid)
        if os.waitstatus_to_exitcode(status) == 0:
            yield mutant
        return
    time.sleep(0.02)
    for pid, (_, started) in list(running.items()):
        if time.monotonic() - started > SLOWEST:
            _kill(pid)
            os.waitpid(pid, 0)
            del running[pid]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _start(mutant: Mutant, tests: Sequence[str]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        code = _meet(mutant, tests)
    finally:
        os._exit(code)


def _meet(mutant: Mutant, tests: Sequence[str]) -> int:
    """Run the tests with the mutant in the healer's place."""
    import pytest

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.meta_path.insert(0, _Finder(mutant))
    return int(pytest.main([*tests, *PLAIN]))
