"""The lockstep engine: what it runs, with which sizes, and how it leaves the classes behind."""

from __future__ import annotations

from itertools import islice, zip_longest
from typing import get_args

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.harness.ports import (
    RELEASE,
    construct,
    itself,
    lockstep_with,
    module_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._arrays import RecipeError, build
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Signature
from kvlockstep._engine import Lockstep
from kvlockstep._generate import generate
from kvlockstep._operations import OPERATIONS
from kvlockstep._recipes import Literals, Rows
from kvlockstep._search import seeded_bytes, trace_bytes
from kvlockstep._steps import (
    Copy,
    Fetch,
    Hold,
    Reload,
    Reserve,
    SetMetaState,
    SetState,
    Trim,
    Update,
)
from kvlockstep._targets import Target
from kvlockstep._trace import Mode, TraceError
from kvreference import RELEASES

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache


# A part of a trace is a trace; a release is itself.


@settings(max_examples=120, deadline=None)
@given(
    data=trace_bytes(),
    cache=st.sampled_from([*CACHES, FUNCTIONS]),
    mode=st.sampled_from(MODES),
    release=st.sampled_from(RELEASES),
    kept=st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_any_part_of_a_trace_is_a_trace(data, cache, mode, release, kept):
    """Any steps of a trace can be left out: nothing escapes, and a release is still itself."""
    trace = generate(data, contract_of(release), cache, mode)
    steps = [step for i, step in enumerate(trace.steps) if kept[i % len(kept)]]

    run = itself(release).run(trace.part(steps))

    assert run.divergences == []
    assert len(run.log) == len(steps)
    assert run.steps == len(steps) - run.log.count(None)


def mixed(data, release, mode):
    """Return a trace with the steps of a trace on every class, one of each in turn."""
    contract = contract_of(release)
    traces = [generate(data, contract, cache, mode) for cache in (*CACHES, FUNCTIONS)]
    turns = zip_longest(*(trace.steps for trace in traces))
    return traces[0].part([step for turn in turns for step in turn if step is not None])


@settings(max_examples=15, deadline=None)
@given(
    data=trace_bytes(),
    mode=st.sampled_from(MODES),
    release=st.sampled_from(RELEASES),
    kept=st.lists(st.booleans(), min_size=20, max_size=60),
)
def test_steps_of_all_classes_can_be_mixed(data, mode, release, kept):
    """Steps that were meant for one class do no harm on another, whichever are left out."""
    trace = mixed(data, release, mode)
    steps = [step for i, step in enumerate(trace.steps) if kept[i % len(kept)]]

    run = itself(release).run(trace.part(steps))

    assert run.divergences == []
    assert len(run.log) == len(steps)
    assert run.steps == len(steps) - run.log.count(None)


@pytest.mark.parametrize("release", RELEASES)
def test_every_operation_runs_among_all_the_others(release):
    """Mixed traces run each operation that the release has, and a release is still itself."""
    engine = itself(release)
    waiting = {*OPERATIONS} - {SetMetaState if release == RELEASE else Fetch, Reserve}
    for data in islice(seeded_bytes(4), 120):
        run = engine.run(mixed(data, release, "in-place"))
        assert run.divergences == []
        waiting -= {type(step) for step in run.log}
        if not waiting:
            break

    assert waiting == set()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("cache", [*CACHES, FUNCTIONS])
def test_release_conforms_to_itself(cache, release, mode):
    """A release against itself shows nothing, over some hundred steps of every class and mode."""
    engine, steps = itself(release), 0
    for data in islice(seeded_bytes(7), 12):
        trace = generate(data, engine.contract, cache, mode)
        run = engine.run(trace)
        assert run.divergences == []
        steps += run.steps

    assert steps > 150
    assert engine.lacking == run.lacking == set()


def test_runs_do_not_depend_on_each_other():
    """The same trace shows the same when it is run again, after others."""

    class KVCache(KV):
        def trim(self, n):
            return super().trim(n) + 1

    engine = lockstep_with(KVCache)
    trace = trace_of(construct(), update(3), Trim(n=2), Trim(n="offset"))
    first = shown(engine.run(trace))
    for data in islice(seeded_bytes(1), 5):
        engine.run(generate(data, engine.contract, "KVCache", "in-place"))

    assert first == [(2, "result"), (3, "result")]
    assert shown(engine.run(trace)) == first


# Sizes and arguments.


def test_sizes_come_from_the_reference():
    """A relative size is what the reference's cache has, for both sides, not the target's own."""
    seen = []

    class KVCache(KV):
        step = 64

        def update_and_fetch(self, keys, values):
            seen.append(keys.shape[2])
            return super().update_and_fetch(keys, values)

    trace = trace_of(construct(), update(1), update("room"), step_size=256)
    run = lockstep_with(KVCache, level="state").run(trace)

    assert seen[:2] == [1, 255][: len(seen)]
    assert [step.keys.shape[2] for step in run.log[1:] if step] == seen
    same = lockstep_with(level="state").run(trace)
    assert [step.keys.shape[2] for step in same.log[1:]] == [1, 255]


def test_sizes_are_read_before_either_side_runs():
    """A step that changes a size is given the size from before the change, on both sides."""
    trims = []

    class KVCache(KV):
        def trim(self, n):
            trims.append(n)
            return super().trim(n)

    run = lockstep_with(KVCache).run(trace_of(construct(), update(5), Trim(n="offset-1")))

    assert run.divergences == []
    assert run.log[2] == Trim(n=4)
    assert trims == [4]


@pytest.mark.parametrize("mode", MODES)
def test_target_that_writes_into_its_arguments_harms_nobody_else(mode):
    """A target that overwrites what it is given changes neither the reference nor the recipe."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            result = super().update_and_fetch(keys, values)
            keys[...] = 99
            values[...] = 99
            return result

    step = update(2)
    trace = trace_of(construct(), step, Hold(what="inputs"), mode=mode)

    (found,) = lockstep_with(KVCache).run(trace).divergences

    assert found.signature == Signature(RELEASE, "KVCache", "hold", "held inputs[0]")
    assert found.expected.data == bytes(memoryview(build(step.keys)))
    assert found.actual.data == bytes(memoryview(mx.full((1, 2, 2, 2), 99.0)))


def test_values_left_out_are_the_keys():
    """An update without values passes one array object as both, on each side its own."""
    passed = []

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            passed.append(keys is values)
            return super().update_and_fetch(keys, values)

    step = Update(keys=Rows(shape=(1, 1, 2, 2)))
    run = lockstep_with(KVCache).run(trace_of(construct(), step))

    assert run.divergences == []
    assert passed == [True]


# The growth step, and traces that cannot be run.


@pytest.mark.parametrize("size", [1, 7, 256])
def test_growth_step_is_set_and_restored(size):
    """Classes have the trace's growth step while it runs, and their own one afterwards."""
    seen = []

    class KVCache(KV):
        step = 256

        def update_and_fetch(self, keys, values):
            seen.append((type(self).step, KV.step, RELEASED.QuantizedKVCache.step))
            return super().update_and_fetch(keys, values)

    run = lockstep_with(KVCache).run(trace_of(construct(), update(1), step_size=size))

    assert run.divergences == []
    assert seen == [(size, size, size)]
    assert (KVCache.step, KV.step, RELEASED.QuantizedKVCache.step) == (256, 256, 256)


def test_growth_step_that_was_inherited_stays_inherited():
    """A class that had no growth step of its own has none afterwards."""

    class KVCache(KV):
        pass

    lockstep_with(KVCache).run(trace_of(construct(), update(1), step_size=3))

    assert "step" not in vars(KVCache)
    assert KVCache.step == 256


def test_growth_step_is_restored_when_a_run_is_broken_off():
    """Also when the user ends the run, the classes have their own growth step."""

    class KVCache(KV):
        def update_and_fetch(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lockstep_with(KVCache).run(trace_of(construct(), update(1), step_size=3))

    assert (KVCache.step, KV.step) == (256, 256)


def test_trace_that_cannot_be_made_is_nobodys_fault():
    """A recipe without an array escapes as `RecipeError`, and the growth step is restored."""
    step = Update(keys=Literals(shape=(1, 1, 1, 2), values=(1,)))

    with pytest.raises(RecipeError, match="expected 2 values, got 1"):
        lockstep_with().run(trace_of(construct(), step, step_size=3))

    assert KV.step == 256


def test_unknown_class_is_nobodys_fault():
    """A class that the harness does not know is the trace's fault, and named."""
    with pytest.raises(TraceError, match=r"cache 'PagedKVCache': expected one of KVCache"):
        lockstep_with().run(trace_of(construct("PagedKVCache")))


def test_growth_step_is_left_alone_where_one_side_has_none():
    """A target whose class has no growth step to set is compared with the release's own."""

    class KVCache:
        def __init__(self):
            self.offset = 0

    run = lockstep_with(KVCache, level="state").run(trace_of(construct(), step_size=2))

    assert run.steps == 1
    assert KV.step == 256
    assert not hasattr(KVCache, "step")


def test_steps_without_a_cache_do_nothing():
    """Steps on an empty slot do nothing and are not counted."""
    run = itself(RELEASE).run(trace_of(update(1), Reload(), Hold(what="copy"), Copy(), construct()))

    assert run.log == [None, None, None, None, construct()]
    assert run.steps == 1


def test_engine_takes_any_module_like_object():
    """The engine needs no target string: a module, a contract and promises will do."""
    target = Target("py:anything", module_with(), None)

    run = Lockstep(contract_of(RELEASE), target).run(
        trace_of(construct(), SetState(state=(None, None, 0)))
    )

    assert run.divergences == []
    assert run.steps == 2
