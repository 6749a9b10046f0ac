"""What a run reached of the reference: lines and branches, and operation and state cells."""

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

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._coverage import Arc, arcs_reached, lines_in, lines_of_classes, reached_of_classes
from kvlockstep._divergence import Cell
from kvlockstep._steps import Trim

CONTRACT = contract_of(RELEASE)
KV = release_module().KVCache


def body(method) -> set[int]:
    """Return the line numbers from a method's first statement to its last."""
    lines, start = inspect.getsourcelines(method)
    return set(range(start + 1, start + len(lines)))


def test_lines_that_ran_are_measured():
    """The lines of a method that ran are reached, those of one that did not are not."""
    reached: set[Arc] = set()

    with arcs_reached(CONTRACT, reached):
        run = lockstep_with().run(trace_of(construct(), Trim(n=1)))

    assert run.steps == 2
    classes = lines_of_classes(CONTRACT)
    lines = lines_in(reached)
    assert body(KV.trim) & classes["KVCache"] <= lines
    assert body(KV.trim) & lines
    assert not body(KV.update_and_fetch) & lines
    assert not classes["RotatingKVCache"] & lines


def test_measurements_add_up():
    """What is measured is added to what was reached before."""
    reached = {(1_000_000, 1_000_001)}

    with arcs_reached(CONTRACT, reached):
        lockstep_with().run(trace_of(construct(), update(1)))

    assert (1_000_000, 1_000_001) in reached
    assert body(KV.update_and_fetch) & lines_in(reached)


def test_measuring_ends():
    """Nothing is traced after the measurement, also when an error ended it."""
    reached: set[Arc] = set()

    try:
        with arcs_reached(CONTRACT, reached):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    lockstep_with().run(trace_of(construct(), Trim(n=1)))

    assert sys.gettrace() is None
    assert not body(KV.trim) & lines_in(reached)


def test_another_tracer_is_left_alone():
    """Where a debugger or `pytest --cov` traces, nothing is measured, and it goes on tracing."""
    reached: set[Arc] = set()

    def tracer(*_):
        return None

    sys.settrace(tracer)
    try:
        with arcs_reached(CONTRACT, reached):
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


def test_branches_are_counted():
    """Both ways out of a line are branches: a first growth takes one of some, a second one more."""
    reached: set[Arc] = set()

    def measured(*steps):
        with arcs_reached(CONTRACT, reached):
            lockstep_with().run(trace_of(construct(), *steps, step_size=2))
        return reached_of_classes(CONTRACT, reached)["KVCache"]

    assert reached_of_classes(CONTRACT, set())["KVCache"].taken == 0
    first = measured(update(1))
    again = measured(update(1))
    grown = measured(update(1), update(1), update(1))

    assert 0 < first.taken < grown.taken < grown.branches
    assert again == first
    assert set(grown.missed) < set(first.missed) < first.lines
    assert first.branches == grown.branches


def test_branches_of_one_class_are_not_anothers():
    """What ran in one class says nothing of another, nor of the base class and the functions."""
    reached: set[Arc] = set()

    with arcs_reached(CONTRACT, reached):
        lockstep_with().run(trace_of(construct(), update(1)))

    classes = reached_of_classes(CONTRACT, reached)
    assert {name for name, found in classes.items() if found.taken} == {"KVCache"}
    assert set(classes) == {"_BaseCache", *CACHES, FUNCTIONS}
    assert all(found.lines and found.branches for found in classes.values())
