"""Plants a bug: the edited modules are compiled from their changed source when they are first imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

from tests.simulation.planted.bugs import Bug, Edit


class MisplacedError(Exception):
    """The healer's source has changed, and with it the place where a bug was to be planted."""


class _Loader(SourceFileLoader):
    """Reads the source of a module with the edits made, and never a compiled one."""

    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        source = self.get_data(self.path).decode()
        for edit in self._edits:
            if source.count(edit.old) != 1:
                raise MisplacedError(f"{fullname} has {source.count(edit.old)} times: {edit.old}")
            source = source.replace(edit.old, edit.new)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, bug: Bug) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in bug.edits:
            self._edits.setdefault(f"healer.{edit.module}", []).append(edit)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._edits:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._edits[fullname])
        return spec


def plant(bug: Bug) -> None:
    """Plant a bug in this process, in which nothing of the healer may have been imported yet."""
    if any(name == "healer" or name.startswith("healer.") for name in sys.modules):
        raise RuntimeError("the healer has been imported already, no bug can be planted in it")
    sys.meta_path.insert(0, _Finder(bug))
