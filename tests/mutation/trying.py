"""Tries mutants: each in a forked process in which it stands in the place of the real code, until a test fails.

The tests are collected once, with the module as it is, and run once to learn which of them call which function. A
mutant then meets only the tests that call the function it changes, quick ones and good hunters first: to all others it
is the same code. A change outside functions (a constant, a default) takes effect while the module is imported; such a
mutant is imported in a process of its own, and meets all tests of its module.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

import pytest

from tests.mutation.forks import Fate, Forks
from tests.mutation.grafting import Graft, graft
from tests.mutation.mutants import Mutant, path_of
from tests.mutation.rehearsal import Rehearsed, rehearse, run

FOREIGN = ("hypothesis", "msgspec", "prometheus_client", "pydantic", "structlog", "urllib3", "yaml")
"""What healer and tests import of others: loaded once, before anything is forked."""

TESTS = {
    "rules": (
        *(f"decision/test_rules_{about}" for about in ("table", "sentences", "questions", "properties")),
        "decision/test_namesakes",
        "decision/test_ownership_label",
    ),
    "labels": ("decision/test_labels", "airflow/test_raw_ids", "decision/test_rules_table"),
    "quarantine": ("decision/test_quarantine", "controller/test_reconciler"),
    "limits": ("decision/test_limits", "deletion/test_healing"),
}
"""The tests that the mutants of a module meet: its own, and those of what builds on it."""

ABOUT_TESTS = "tests/unit/decision/test_rules_properties.py::test_the_generated_cases_reach_every_reason"
"""Tells something of the tests themselves, and takes as long as all others together."""

OPTIONS = (
    *("-x", "-s", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "timeout=0", "-o", "addopts="),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning", "--deselect", ABOUT_TESTS),
)
"""Options of pytest: stop at the first failure, say nothing, and don't mind that libraries are loaded already."""

_TRIED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
"""All passed, one failed, or the mutant can't even be imported."""

_BELOW = ("healer.model", "healer.config", "healer.clock")
BENEATH = {
    "labels": _BELOW,
    "rules": (*_BELOW, "healer.decision.labels", "healer.cluster"),
    "quarantine": (*_BELOW, "healer.decision.rules", "healer.airflow", "healer.cluster"),
    "limits": (*_BELOW, "healer.decision.rules", "healer.airflow", "healer.cluster", "healer.decision.quarantine"),
}
"""What does not import the module, nor anything that does: imported once, before anything is forked."""


Told = Callable[[Mutant, Fate], None]
"""Is called with what becomes of each mutant, as soon as it is known."""


def try_all(module: str, mutants: Sequence[Mutant], processes: int, told: Told) -> None:
    """Try the mutants of a module, once per process: afterwards the module is imported."""
    os.environ["HYPOTHESIS_PROFILE"] = "brief"
    for name in (*FOREIGN, *BENEATH[module]):
        importlib.import_module(name)
    if f"healer.decision.{module}" in sys.modules:
        raise RuntimeError("a module must not be imported before it is changed: try each in a process of its own")
    real = compile(path_of(module).read_text(), str(path_of(module)), "exec", dont_inherit=True)
    grafts = {mutant: graft(real, mutant) for mutant in mutants}
    with Forks(processes, told) as forks:
        for mutant in mutants:
            if grafts[mutant] is None:
                forks.start(mutant, lambda mutant=mutant: _import_and_run(mutant))
    sys.meta_path.insert(0, _Finder(module, real))
    loop = _Loop(module, {mutant: each for mutant, each in grafts.items() if each is not None}, processes, told)
    if pytest.main([*_files(module), *OPTIONS], plugins=[loop]) != pytest.ExitCode.OK:
        raise SystemExit(f"the tests of {module} can't be collected: set them right first")


def _import_and_run(mutant: Mutant) -> bool:
    code = compile(mutant.source, str(path_of(mutant.module)), "exec", dont_inherit=True)
    sys.meta_path.insert(0, _Finder(mutant.module, code))
    try:
        importlib.import_module("healer.cli")
    except Exception:  # whoever starts the healer notices it, before any test
        return False
    code = pytest.main([*_files(mutant.module), *OPTIONS])
    if code not in _TRIED:
        raise RuntimeError(f"pytest ended with {code}")
    return code == pytest.ExitCode.OK


def _files(module: str) -> list[str]:
    return [f"tests/unit/{name}.py" for name in TESTS[module]]


class _Loop:
    """A plugin of pytest that runs the collected tests not once, but with one mutant after another."""

    def __init__(self, module: str, grafts: dict[Mutant, Graft], processes: int, told: Told) -> None:
        self._module, self._grafts, self._processes, self._told = module, grafts, processes, told

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        rehearsed = rehearse(session, str(path_of(self._module)))
        with Forks(self._processes, self._told) as forks:
            for mutant, one in self._grafts.items():
                forks.start(mutant, lambda one=one: self._graft_and_run(session, rehearsed, one))
        return True

    @staticmethod
    def _graft_and_run(session: pytest.Session, rehearsed: Rehearsed, one: Graft) -> bool:
        tests = rehearsed.tests_of(one.names)
        one.apply()
        failed = run(session, [session.items[test] for test in tests])
        if failed is not None:
            rehearsed.remember(tests[failed])
        return failed is None


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder(MetaPathFinder):
    """Finds one module of the healer as the code given."""

    def __init__(self, module: str, code: CodeType) -> None:
        self._name, self._code = f"healer.decision.{module}", code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._code)
        return spec
