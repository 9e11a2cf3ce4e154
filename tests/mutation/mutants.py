"""All mutants of a module, by mutmut's own operators.

mutmut itself leaves out what is not the body of a plain function: properties, and the rule table of lambdas. Here the
whole module is mutated, so each mutant is a changed source that is imported in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

_ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """One change: where, which line was changed to what, and the whole source with it."""

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same when lines move."""
        return self.module, self.before, self.after


def path_of(module: str) -> Path:
    """Return where a module of the healer stands."""
    return _ROOT / "healer" / "decision" / f"{module}.py"


def mutants(module: str) -> Iterator[Mutant]:
    """Yield the mutants of a module of the healer, in the order of its lines, each once."""
    source = path_of(module).read_text()
    wrapper = MetadataWrapper(cst.parse_module(source))
    statements = [wrapper.module.code_for_node(statement) for statement in wrapper.module.body]
    before, after = source.split("".join(statements))
    seen = {source}
    for place, statement in enumerate(wrapper.module.body):
        collector = _Collector(wrapper.resolve(PositionProvider))
        statement.visit(collector)
        # A whole module is slow to write anew, a statement is not.
        top, bottom = before + "".join(statements[:place]), "".join(statements[place + 1 :]) + after
        for line, old, new in sorted(collector.found, key=lambda found: found[0]):
            changed = f"{top}{wrapper.module.code_for_node(statement.deep_replace(old, new))}{bottom}"
            if changed not in seen and _compiles(changed):
                seen.add(changed)
                yield Mutant(module, line, *_difference(source, changed), changed)


class _Collector(cst.CSTVisitor):
    """Finds the nodes to change; leaves out annotations, docstrings, decorators and imports."""

    def __init__(self, positions: Mapping[cst.CSTNode, CodeRange]) -> None:
        super().__init__()
        self._positions = positions
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom) or _is_docstring(node):
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                # Of a string one change is enough: another case is another text.
                changes = list(operator(node))[: 1 if operator is operator_string else None]
                self.found += [(self._line(node), node, change) for change in changes]
        return True

    def _line(self, node: cst.CSTNode) -> int:
        position = self._positions.get(node)
        return position.start.line if position else 0


def _is_docstring(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _difference(before: str, after: str) -> tuple[str, str]:
    """Return the lines that differ, as one text each."""
    old, new = before.splitlines(), after.splitlines()
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    end = next((i for i, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), 0)
    return _joined(old[start : len(old) - end]), _joined(new[start : len(new) - end])


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
