"""What a run reached of the reference: lines of its classes, and (operation, state) cells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import coverage

from kvlockstep._caches import CACHES
from kvlockstep._contract import Contract


@contextmanager
def lines_reached(contract: Contract, reached: set[int]) -> Iterator[None]:
    """Add to `reached` the lines of the reference's cache module that run meanwhile.

    Does nothing where another tracer is at work (a debugger, `pytest --cov`).
    """
    if sys.gettrace() is not None:
        yield
        return
    file = str(contract.reference.cache_file)
    tracer = coverage.Coverage(data_file=None, include=[file], config_file=False)
    tracer.set_option("run:disable_warnings", ["no-data-collected"])
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()
        reached.update(tracer.get_data().lines(file) or ())


def lines_of_classes(contract: Contract) -> dict[str, set[int]]:
    """Return the lines inside the functions of each cache class of the reference."""
    return {
        name: set().union(*(_lines(code) for code in _codes(getattr(contract.module, name))))
        for name in CACHES
        if hasattr(contract.module, name)
    }


def _codes(cls: type) -> Iterator[CodeType]:
    for value in vars(cls).values():
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
