"""What a run reached of the reference: lines and branches of its cache module."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import coverage

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import TESTED_FUNCTIONS, Contract

Arc = tuple[int, int]
# The base class of all of the releases' caches.
_BASE = "_BaseCache"


class Reached(NamedTuple):
    """Of one class: its lines, those that never ran, and its branches, taken and in all."""

    lines: frozenset[int]
    missed: tuple[int, ...]
    taken: int
    branches: int


@contextmanager
def arcs_reached(contract: Contract, reached: set[Arc]) -> Iterator[None]:
    """Add to `reached` the steps from line to line in the reference's cache module meanwhile.

    Does nothing where another tracer is at work (a debugger, `pytest --cov`).
    """
    if sys.gettrace() is not None:
        yield
        return
    tracer = _tracer(contract)
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()
        reached.update(tracer.get_data().arcs(str(contract.reference.cache_file)) or ())


def _tracer(contract: Contract) -> coverage.Coverage:
    file = str(contract.reference.cache_file)
    tracer = coverage.Coverage(data_file=None, branch=True, include=[file], config_file=False)
    tracer.set_option("run:disable_warnings", ["no-data-collected"])
    return tracer


def lines_in(arcs: Collection[Arc]) -> set[int]:
    """Return the lines that ran."""
    return {line for arc in arcs for line in arc if line > 0}


def reached_of_classes(contract: Contract, arcs: Collection[Arc]) -> dict[str, Reached]:
    """Return what was reached of each class, and of the functions, of the reference."""
    file = str(contract.reference.cache_file)
    tracer = _tracer(contract)
    tracer.get_data().add_arcs({file: arcs})
    branches = tracer.branch_stats(file)
    ran = lines_in(arcs)
    found = {}
    for name, lines in lines_of_classes(contract).items():
        mine = [counts for line, counts in branches.items() if line in lines]
        found[name] = Reached(
            frozenset(lines),
            tuple(sorted(lines - ran)),
            sum(taken for _, taken in mine),
            sum(total for total, _ in mine),
        )
    return found


def lines_of_classes(contract: Contract) -> dict[str, set[int]]:
    """Return the lines inside the functions of each cache class of the reference.

    And of its base class, and of the functions that are tested.
    """
    module = contract.module
    file = str(contract.reference.cache_file)
    classes = [name for name in (_BASE, *CACHES) if hasattr(module, name)]
    codes = {name: _codes(getattr(module, name)) for name in classes}
    functions = [getattr(module, name, None) for name in TESTED_FUNCTIONS]
    codes[FUNCTIONS] = (f.__code__ for f in functions if isinstance(f, FunctionType))
    return {
        name: set().union(*(_lines(code) for code in found if code.co_filename == file))
        for name, found in codes.items()
    }


def _codes(cls: type) -> Iterator[CodeType]:
    for value in vars(cls).values():
        if isinstance(value, type):
            yield from _codes(value)
            continue
        parts: list[Any] = [value]
        if isinstance(value, property):
            parts = [value.fget, value.fset]
        for part in parts:
            code = getattr(getattr(part, "__func__", part), "__code__", None)
            if code is not None:
                yield code


def _lines(code: CodeType) -> set[int]:
    """Return the lines of a function's body, inner functions included, its `def` left out."""
    lines = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            lines |= _lines(constant)
    return lines
