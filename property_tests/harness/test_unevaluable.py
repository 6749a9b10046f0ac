"""Arrays that MLX accepts when an operation is called, and fails to evaluate."""

from __future__ import annotations

import mlx.core as mx
from property_tests.harness.ports import construct, lockstep_with, trace_of, update

from kvlockstep import _undefined
from kvlockstep._explain import _tell_value
from kvlockstep._findings import Findings, Place
from kvlockstep._labels import Labels
from kvlockstep._snapshots import freeze, settle
from kvlockstep._steps import Finalize, Prepare

PLACE = Place(0, "result")


def good() -> mx.array:
    """Return an array that can be evaluated."""
    return mx.array([[1.0, 2.0]])


def bad() -> mx.array:
    """Return an array of the same shape that cannot: gathered by floating indices."""
    return mx.take_along_axis(good(), mx.array([[0.0, 1.0]]), axis=1)


def test_all_that_was_evaluated_together_has_the_error():
    """MLX does not say which array failed, and leaves garbage in it: none of them is trusted."""
    one, other = freeze((good(), bad()), "in-place").items

    assert "Cannot gather" in settle([one, other])

    assert "Cannot gather" in one.failed
    assert "Cannot gather" in other.failed
    assert (one.data, other.data) == (b"", b"")


def test_it_differs_from_an_array_that_can_be():
    """That only one side's array can be evaluated is a difference."""
    findings = Findings("type")

    findings.compare(PLACE, ("result",), good(), bad())
    findings.settle()

    assert [finding.field for finding in findings._found] == ["result"]


def test_two_that_fail_alike_are_the_same():
    """The same error on both sides is no difference."""
    findings = Findings("type")

    findings.compare(PLACE, ("result",), bad(), bad())
    findings.settle()

    assert not findings._found


def test_the_trace_ends_there(monkeypatch):
    """In in-place mode nothing is run on arrays that could not be evaluated."""
    monkeypatch.setattr(_undefined, "_ZONES_OF", {})
    lengths = Prepare(lengths=(), right_padding=(1,))
    ring = construct("BatchRotatingKVCache", max_size=4, left_padding=(1,))
    steps = (ring, lengths, update(2), Finalize(), Finalize())

    run = lockstep_with().run(trace_of(*steps, mode="in-place"))

    assert run.steps == 4
    assert not run.divergences


def test_it_is_told_with_its_error():
    """A report says of such an array what MLX said."""
    snapshot = freeze(bad(), "value")
    settle([snapshot])

    assert "that cannot be evaluated: RuntimeError" in _tell_value(snapshot, Labels([]))
