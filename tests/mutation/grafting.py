"""A mutant as new code for functions that exist already, wherever somebody holds them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType
from typing import NamedTuple

from tests.mutation.mutants import Mutant


class Graft(NamedTuple):
    """Functions of a module as they are, and as the mutant has them."""

    pairs: tuple[tuple[CodeType, CodeType], ...]

    @property
    def names(self) -> frozenset[str]:
        """The functions that it changes."""
        return frozenset(name_of(old) for old, _ in self.pairs)

    def apply(self) -> None:
        """Change every function that runs one of these codes. Raises RuntimeError if there is none."""
        for old, new in self.pairs:
            functions = [holder for holder in gc.get_referrers(old) if isinstance(holder, FunctionType)]
            if not functions:
                raise RuntimeError(f"nobody holds {name_of(old)}")
            for function in functions:
                function.__code__ = new


def name_of(code: CodeType) -> str:
    """Return what tells a function from the others of its module: lambdas have all the same name."""
    return f"{code.co_qualname}:{code.co_firstlineno}"


def graft(real: CodeType, mutant: Mutant) -> Graft | None:
    """Return a mutant as changed functions, None if it changes anything else. `real` is the code of its module."""
    try:
        changed = compile(mutant.source, real.co_filename, "exec", dont_inherit=True)
        return Graft(tuple(_pairs(real, changed)))
    except _OutsideError:
        return None


class _OutsideError(Exception):
    """Something differs that runs when the module is imported."""


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the functions that differ in the body of a module or class."""
    inner, changed = _inner(old), _inner(new)
    if _itself(old) != _itself(new) or len(inner) != len(changed):
        raise _OutsideError
    for one, other in zip(inner, changed, strict=True):
        if one == other:
            continue
        if not one.co_flags & CO_OPTIMIZED:  # the body of a class
            yield from _pairs(one, other)
        elif one.co_freevars == other.co_freevars:
            yield one, other
        else:
            raise _OutsideError


def _inner(code: CodeType) -> list[CodeType]:
    return [const for const in code.co_consts if isinstance(const, CodeType)]


def _itself(code: CodeType) -> tuple[object, ...]:
    consts = [_comparable(const) for const in code.co_consts if not isinstance(const, CodeType)]
    return code.co_code, code.co_names, code.co_varnames, consts


def _comparable(const: object) -> object:
    """Return what tells 1 from True and 1.0, and does not depend on the order of a set."""
    return sorted(map(repr, const)) if isinstance(const, frozenset) else repr(const)
