"""Handles that a caller keeps across later steps."""

from __future__ import annotations

from typing import get_args

import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    itself,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._snapshots import Snapshot
from kvlockstep._steps import Fetch, Held, Hold, Mask, Trim
from kvlockstep._trace import Mode

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache


def corrupting(what: str):
    """Return a KVCache whose trim writes into what a caller may still hold."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            self._inputs = [keys, values]
            self._result = list(super().update_and_fetch(keys, values))
            return tuple(self._result)

        def trim(self, n):
            if what == "state":
                held = [self.keys]
            else:
                held = self._inputs if what == "inputs" else self._result
            for array in held:
                array[...] = 55
            return super().trim(n)

    return KVCache


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["result", "inputs"])
def test_held_handles_are_looked_at_after_every_later_step(what, mode):
    """A handle that changes steps after it was taken is found at that step."""
    steps = construct(), update(2), Hold(what=what), Fetch(), update(1), Mask(n=1), Trim(n=1)
    engine = lockstep_with(corrupting(what), level="state")

    quiet = engine.run(trace_of(*steps[:-1], mode=mode))
    run = engine.run(trace_of(*steps, mode=mode))

    assert quiet.divergences == []
    # The second update has other arrays: what is held is from the first one.
    assert shown(run) == []
    again = construct(), update(2), Hold(what=what), Fetch(), Mask(n=1), Trim(n=1)
    assert shown(engine.run(trace_of(*again, mode=mode))) == [(5, f"held {what}[0]")]


@pytest.mark.parametrize("what", get_args(Held))
def test_each_kind_of_handle_is_compared_with_its_own(what):
    """Handles of either side are compared with each other, and a release has its own."""
    steps = construct(), update(2), Hold(what=what), update(1, start=9), Trim(n=2), Fetch()

    for mode in MODES:
        run = itself(RELEASE).run(trace_of(*steps, mode=mode, step_size=2))
        assert run.divergences == []
        assert run.steps == len(steps)


def test_held_copy_is_looked_at_field_by_field():
    """A held copy that changes with its original is found in the field that changed."""

    class KVCache(KV):
        def __deepcopy__(self, memo):
            return self

    run = lockstep_with(KVCache).run(
        trace_of(construct(), update(2), Hold(what="copy"), update(1, start=4))
    )

    assert shown(run) == [(3, "held copy: offset")]


def test_held_state_that_is_a_view_of_the_buffer_is_found():
    """A state that follows the cache's later writes, where the release's does not, is found."""

    class KVCache(KV):
        def trim(self, n):
            self.keys[...] = self.keys + 1
            return super().trim(n)

    trace = trace_of(construct(), update(2), Hold(what="state"), Trim(n=1), mode="in-place")
    run = lockstep_with(KVCache).run(trace)

    assert run.divergences[0].index == 3
    assert isinstance(run.divergences[0].expected, Snapshot)
