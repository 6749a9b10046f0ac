"""What a run reached of the reference: lines of its classes, and operation and state cells."""

from __future__ import annotations

import inspect
import sys

from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)

from kvlockstep._contract import contract_of
from kvlockstep._coverage import lines_of_classes, lines_reached
from kvlockstep._divergence import Cell
from kvlockstep._trace import Trim

CONTRACT = contract_of(RELEASE)
KV = release_module().KVCache


def body(method) -> set[int]:
    """Return the line numbers from a method's first statement to its last."""
    lines, start = inspect.getsourcelines(method)
    return set(range(start + 1, start + len(lines)))


def test_lines_that_ran_are_measured():
    """The lines of a method that ran are reached, those of one that did not are not."""
    reached: set[int] = set()

    with lines_reached(CONTRACT, reached):
        run = lockstep_with().run(trace_of(construct(), Trim(n=1)))

    assert run.steps == 2
    classes = lines_of_classes(CONTRACT)
    assert body(KV.trim) & classes["KVCache"] <= reached
    assert body(KV.trim) & reached
    assert not body(KV.update_and_fetch) & reached
    assert not classes["RotatingKVCache"] & reached


def test_measurements_add_up():
    """What is measured is added to what was reached before."""
    reached = {1_000_000}

    with lines_reached(CONTRACT, reached):
        lockstep_with().run(trace_of(construct(), update(1)))

    assert 1_000_000 in reached
    assert body(KV.update_and_fetch) & reached


def test_measuring_ends():
    """Nothing is traced after the measurement, also when an error ended it."""
    reached: set[int] = set()

    try:
        with lines_reached(CONTRACT, reached):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    lockstep_with().run(trace_of(construct(), Trim(n=1)))

    assert sys.gettrace() is None
    assert not body(KV.trim) & reached


def test_another_tracer_is_left_alone():
    """Where a debugger or `pytest --cov` traces, nothing is measured, and it goes on tracing."""
    reached: set[int] = set()

    def tracer(*_):
        return None

    sys.settrace(tracer)
    try:
        with lines_reached(CONTRACT, reached):
            lockstep_with().run(trace_of(construct(), Trim(n=1)))
        left = sys.gettrace()
    finally:
        sys.settrace(None)

    assert left is tracer
    assert reached == set()


def test_lines_of_classes_are_the_bodies_of_their_functions():
    """A class's lines are those inside its methods and properties, without their `def`."""
    lines = lines_of_classes(CONTRACT)["KVCache"]
    source, start = inspect.getsourcelines(KV)

    assert lines <= set(range(start, start + len(source)))
    assert body(KV.trim) & lines
    assert body(KV.state.fget) & lines
    assert body(KV.state.fset) & lines
    assert not any(source[line - start].lstrip().startswith("def ") for line in lines)


def test_cells_count_operations_by_state():
    """A run counts each operation with the state that the cache was in before it."""
    trace = trace_of(
        construct("RotatingKVCache", max_size=4),
        *(update(1, start=number) for number in range(6)),
        Trim(n=1),
        update(3),
        step_size=2,
    )

    cells = lockstep_with().run(trace).cells

    kept = {cell: number for cell, number in cells.items() if cell.operation == "update"}
    assert kept == {
        Cell("RotatingKVCache", "update", "empty"): 1,
        Cell("RotatingKVCache", "update", "filling"): 3,
        Cell("RotatingKVCache", "update", "full"): 1,
        Cell("RotatingKVCache", "update", "wrapped"): 1,
        Cell("RotatingKVCache", "update", "trimmed"): 1,
    }
    assert cells[Cell("RotatingKVCache", "trim", "wrapped")] == 1
    assert cells[Cell("RotatingKVCache", "construct", "none")] == 1


def test_cells_of_a_buffer():
    """A growing buffer is empty, has spare rows, is full, or is just trimmed."""
    trace = trace_of(construct(), update(1), update(1), Trim(n=1), Trim(n=1), step_size=2)

    cells = lockstep_with().run(trace).cells

    states = [cell.state for cell in cells if cell.operation in ("update", "trim")]
    assert states == ["empty", "spare", "full", "trimmed"]
