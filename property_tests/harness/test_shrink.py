"""Shrinking: what is left shows the divergence, and nothing of it can be left out."""

from __future__ import annotations

from itertools import islice

import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)

from kvlockstep._divergence import Divergence, Run, Signature
from kvlockstep._generate import generate
from kvlockstep._recipes import Bits, Rows
from kvlockstep._search import seeded_bytes
from kvlockstep._shrink import shrink
from kvlockstep._steps import Trim, Update
from kvlockstep._trace import dumps

RELEASED = release_module()


class KVCache(RELEASED.KVCache):
    """Counts one too many from the fourth token on, and says one too many after trims of two."""

    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        self.offset += self.offset > 3
        return result

    def trim(self, n):
        return super().trim(n) + (n > 1)


class RotatingKVCache(RELEASED.RotatingKVCache):
    """Loses the row before the last one when it decodes into a full ring."""

    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        if self.offset > self.max_size and keys.shape[2] == 1 and self.max_size > 1:
            self.keys[..., self._idx - 2, :] = 0
        return result


ENGINE = lockstep_with(KVCache, RotatingKVCache, level="buffer")


def found_in(cache: str, mode: str, number: int):
    """Return traces that show a divergence, each with its first signature."""
    shown = 0
    for data in seeded_bytes(5):
        trace = generate(data, ENGINE.contract, cache, mode)
        run = ENGINE.run(trace)
        if run.divergences:
            yield trace, run.divergences[0].signature
            shown += 1
        if shown == number:
            return


def shows(trace, signature) -> bool:
    """Tell whether a trace shows `signature`."""
    return signature in ENGINE.run(trace).signatures()


@pytest.mark.parametrize("mode", ["value", "in-place"])
@pytest.mark.parametrize("cache", ["KVCache", "RotatingKVCache"])
def test_result_is_minimal(cache, mode):
    """The result shows the signature, is no longer than the trace, and needs each of its steps."""
    for trace, signature in found_in(cache, mode, 4):
        small = shrink(trace, signature, ENGINE.run)

        assert shows(small, signature)
        assert len(small.steps) <= len(trace.steps)
        for index in range(len(small.steps)):
            less = small.part([*small.steps[:index], *small.steps[index + 1 :]])
            assert not shows(less, signature), dumps(small)


def test_result_is_the_same_every_time():
    """The same trace shrinks to the same text, and what is shrunk already stays as it is."""
    for trace, signature in found_in("RotatingKVCache", "value", 2):
        small = shrink(trace, signature, ENGINE.run)

        assert dumps(shrink(trace, signature, ENGINE.run)) == dumps(small)
        assert dumps(shrink(small, signature, ENGINE.run)) == dumps(small)


def test_different_traces_of_a_fault_shrink_alike():
    """However the divergence was found, its shortest trace is the same."""
    texts = {
        dumps(shrink(trace, signature, ENGINE.run))
        for trace, signature in islice(found_in("KVCache", "value", 12), 12)
        if signature == Signature(RELEASE, "KVCache", "update", "offset")
    }

    assert len(texts) == 1


def test_shortest_trace_is_found():
    """Of many steps and raw bits on two slots, one update of four plain rows is left."""
    recipe = Bits(shape=(2, 3, 1, 5), dtype="bfloat16", seed=7)
    steps = [construct(slot="b"), construct(slot="c"), Trim(slot="c", n=1)]
    steps += [Update(slot="b", keys=recipe, values=recipe)] * 6
    trace = trace_of(*steps, step_size=3, mode="in-place", note="kept")

    small = shrink(trace, Signature(RELEASE, "KVCache", "update", "offset"), ENGINE.run)

    row = Rows(shape=(1, 1, 4, 1))
    keys, values = row, Rows(shape=(1, 1, 4, 1), start=100)
    assert small == trace_of(construct(), Update(keys=keys, values=values), note="kept")


def test_relative_sizes_become_numbers():
    """A size that was written relative to the cache is the number that it came to."""
    trace = trace_of(construct(), update(3), Trim(n="offset"))

    small = shrink(trace, Signature(RELEASE, "KVCache", "trim", "result"), ENGINE.run)

    assert [type(step).__name__ for step in small.steps] == ["Construct", "Trim"]
    assert isinstance(small.steps[-1].n, int)


def test_steps_behind_the_divergence_go():
    """What comes after the divergence is not tried at all."""
    trace = trace_of(construct(), Trim(n=2), *(update(1),) * 3, Trim(n=2))
    lengths = []

    def run(candidate):
        lengths.append(len(candidate.steps))
        return ENGINE.run(candidate)

    shrink(trace, Signature(RELEASE, "KVCache", "trim", "result"), run)

    assert lengths[0] == 6
    assert max(lengths[1:]) == 2


def test_only_the_signature_counts():
    """A trace that shows two things shrinks to the one that was asked for."""
    trace = trace_of(construct(), Trim(n=2), update(1), update(4))

    trim, offset = (
        shrink(trace, Signature(RELEASE, "KVCache", operation, field), ENGINE.run)
        for operation, field in (("trim", "result"), ("update", "offset"))
    )

    assert [type(step).__name__ for step in trim.steps] == ["Construct", "Trim"]
    assert [type(step).__name__ for step in offset.steps] == ["Construct", "Update"]


def test_number_of_runs_is_bounded():
    """Shrinking ends after a while, also where each of hundreds of steps is needed."""
    runs = 0
    signature = Signature(RELEASE, "KVCache", "update", "offset")
    trace = trace_of(construct(), *(update(1, start=number) for number in range(300)))

    def run(candidate):
        nonlocal runs
        runs += 1
        shown = Divergence(signature, len(candidate.steps) - 1, "offset", 0, 1, {})
        whole = len(candidate.steps) == len(trace.steps)
        return Run(divergences=[shown] if whole else [], log=list(candidate.steps))

    small = shrink(trace, signature, run)

    assert len(small.steps) == len(trace.steps)
    assert 1_000 < runs < 2_000
