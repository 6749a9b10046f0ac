"""The lockstep engine: what it runs, what it compares, and what it leaves behind."""

from __future__ import annotations

from itertools import islice
from typing import get_args

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    module_with,
    release_module,
    trace_of,
    update,
)

from kvlockstep._arrays import RecipeError
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Signature
from kvlockstep._engine import Lockstep
from kvlockstep._generate import generate
from kvlockstep._jobs import LEDGER
from kvlockstep._ledger import Ledger
from kvlockstep._operations import build
from kvlockstep._search import seeded_bytes, trace_bytes
from kvlockstep._snapshots import Raised, Snapshot
from kvlockstep._targets import Target, load_target
from kvlockstep._trace import (
    CausalMask,
    Copy,
    Fetch,
    Held,
    Hold,
    Literals,
    Mask,
    Mode,
    Quantize,
    Reload,
    Rows,
    SetState,
    TraceError,
    Trim,
    Update,
)
from kvreference import RELEASES

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache


def itself(release: str) -> Lockstep:
    """Return the engine for a release against itself."""
    return Lockstep(contract_of(release), load_target(f"release:{release}", release))


def shown(run) -> list[tuple[int, str]]:
    """Return step and field of each divergence."""
    return [(found.index, found.signature.field) for found in run.divergences]


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


@settings(max_examples=40, deadline=None)
@given(data=trace_bytes(), other=trace_bytes(), caches=st.permutations(list(CACHES)))
def test_steps_of_two_traces_can_be_mixed(data, other, caches):
    """Steps that were meant for one class do no harm on another."""
    contract = contract_of(RELEASE)
    one, two = (
        generate(bits, contract, cache, "value")
        for bits, cache in zip((data, other), caches, strict=False)
    )
    steps = [step for pair in zip(one.steps, two.steps, strict=False) for step in pair]

    run = itself(RELEASE).run(one.part(steps))

    assert run.divergences == []
    assert len(run.log) == len(steps)


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


# Outcomes.


def raising(error: Exception):
    """Return a KVCache whose trim raises `error`."""

    class KVCache(KV):
        def trim(self, _):
            raise error

    return KVCache


def test_error_of_the_target_alone():
    """A target that raises where the reference does not is told by the error's class."""
    run = lockstep_with(raising(KeyError("x"))).run(trace_of(construct(), update(1), Trim(n=1)))

    assert shown(run) == [(2, "raises KeyError")]
    assert isinstance(run.divergences[0].actual, Raised)
    assert run.divergences[0].expected == 1


def test_error_of_the_reference_alone():
    """A target that goes on where the reference raises is told by the reference's error."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            return keys, values

    step = Update(keys=Rows(shape=(1, 2, 1, 2)), values=Rows(shape=(1, 2, 1)))
    run = lockstep_with(KVCache).run(trace_of(construct(), step))

    assert shown(run)[0][1].startswith("returns, not ")


@pytest.mark.parametrize(
    ("promise", "expected"),
    [("raises", []), ("type", [(1, "raises KeyError, not TypeError")]),
     ("type+message", [(1, "raises KeyError, not TypeError")])],
)  # fmt: skip
def test_another_error(promise, expected):
    """Where both raise, the errors are compared as far as the target promises."""
    trace = trace_of(construct(), Trim(n="offset"), Update(keys=Rows(shape=(2,))))
    bad = trace_of(construct("ChunkedKVCache", chunk_size=None), *trace.steps[2:])

    class ChunkedKVCache(RELEASED.ChunkedKVCache):
        def update_and_fetch(self, keys, values):
            try:
                return super().update_and_fetch(keys, values)
            except Exception as error:
                raise KeyError from error

    run = lockstep_with(ChunkedKVCache, errors=promise).run(bad)
    reference_error = type(run.divergences[0].expected.error).__name__ if run.divergences else ""
    expected = [(index, field.replace("TypeError", reference_error)) for index, field in expected]

    assert shown(run) == expected


def test_another_message():
    """The same error with another text is `message`, where messages are promised."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            try:
                return super().update_and_fetch(keys, values)
            except Exception as error:
                raise type(error)("in other words") from None

    trace = trace_of(construct(), Update(keys=Rows(shape=(2,))))

    assert shown(lockstep_with(KVCache).run(trace)) == [(1, "message")]
    assert shown(lockstep_with(KVCache, errors="type").run(trace)) == []


def test_error_while_looking_is_seen():
    """A property that raises on one side only is a difference in that property."""

    class KVCache(KV):
        @property
        def nbytes(self):
            raise RuntimeError("not now")

    run = lockstep_with(KVCache).run(trace_of(construct(), update(1)))

    assert run.divergences[0].signature == Signature(RELEASE, "KVCache", "construct", "nbytes")


@pytest.mark.parametrize("mode", MODES)
def test_modes_agree_on_a_state_difference(mode):
    """A stored difference has the same signature whether arrays are evaluated late or at once."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            result = super().update_and_fetch(keys, values)
            if self.offset > 3:
                self.keys[..., 0, :] = -0.0
            return result

    trace = trace_of(construct(), update(2), update(1), update(1), update(1), mode=mode)
    run = lockstep_with(KVCache, level="buffer").run(trace)

    assert [found.signature for found in run.divergences] == [
        Signature(RELEASE, "KVCache", "update", "keys")
    ]
    assert run.divergences[0].index == 3


FAULTS = {
    "offset": "self.offset += self.offset > 2",
    "keys": "self.keys = self.keys + 0.0",
    "dtype": "self.values = self.values.astype(mx.float16)",
    "nothing": "pass",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_modes_agree_on_generated_traces(fault):
    """Over generated traces both modes tell the same signatures of a port."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            result = super().update_and_fetch(keys, values)
            exec(FAULTS[fault], {"mx": mx, "self": self})
            return result

    engine = lockstep_with(KVCache, level="buffer")
    traces = [
        generate(data, engine.contract, "KVCache", "value") for data in islice(seeded_bytes(11), 15)
    ]
    seen = {
        mode: [engine.run(replace(trace, mode=mode)).signatures() for trace in traces]
        for mode in MODES
    }

    assert seen["value"] == seen["in-place"]
    assert any(seen["value"]) == (fault != "nothing")


def test_trace_ends_where_the_sides_have_parted():
    """After a stored difference nothing more is told: it would only repeat it."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            result = super().update_and_fetch(keys, values)
            self.offset += 1
            return result

    run = lockstep_with(KVCache).run(trace_of(construct(), *(update(1),) * 5))

    assert shown(run) == [(1, "offset")]
    assert run.steps == 2


def test_trace_goes_on_after_a_difference_in_what_is_seen():
    """A difference that is only derived is told once, and the trace goes on."""

    class KVCache(KV):
        @property
        def nbytes(self):
            return super().nbytes + 1

    run = lockstep_with(KVCache).run(trace_of(construct(), *(update(1),) * 4))

    assert shown(run) == [(0, "nbytes")]
    assert run.steps == 5


def test_other_caches_are_looked_at_too():
    """An operation on one cache that changes another one is found, and said to be about another."""
    known = []

    class KVCache(KV):
        def __init__(self):
            super().__init__()
            known.append(self)

        def trim(self, n):
            for cache in known:
                if cache is not self:
                    cache.offset = 0
            return super().trim(n)

    steps = construct(slot="a"), construct(slot="b"), update(2, slot="a"), update(2, slot="b")
    run = lockstep_with(KVCache).run(trace_of(*steps, Trim(slot="b", n=1)))

    assert shown(run) == [(4, "other cache: offset")]


def test_copies_are_compared_with_copies():
    """A copy that shares its buffers with its original shows when the original goes on."""

    class KVCache(KV):
        def __deepcopy__(self, memo):
            return self

    trace = trace_of(construct(), update(2), Copy(to="b"), update(1, start=5))

    assert lockstep_with().run(trace).divergences == []
    assert shown(lockstep_with(KVCache).run(trace)) == [(3, "other cache: offset")]


# Errors, and what is left behind.


def undeclared(run) -> set[Signature]:
    """Return what our ledger does not declare."""
    ledger = Ledger.read(LEDGER)
    return {found.signature for found in run.divergences if ledger.declares(found) is None}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_transactional_target_goes_on_after_an_error(release, mode):
    """Good updates after a failed one run in lockstep with a reference that was put back."""
    failing = Update(keys=Rows(shape=(1, 2, 3, 2)), values=Rows(shape=(1, 2, 3, 3)))
    steps = construct(), update(3), failing, update(2, start=7), failing, Trim(n=1), update(4)
    engine = Lockstep(contract_of(release), load_target("py:mlxkv", release))

    run = engine.run(trace_of(*steps, mode=mode, step_size=4))

    assert run.steps == len(steps)
    assert undeclared(run) == set()
    changed = [index for index, field in shown(run) if field == "half changed"]
    assert changed[:1] == [2]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_rows_that_a_failing_release_wrote_are_put_back(release, mode):
    """Where the release wrote the keys in place before it failed, it goes on without them."""
    failing = Update(
        keys=Rows(shape=(1, 2, 1, 2), start=50), values=Rows(shape=(1, 2, 1, 3), start=50)
    )
    steps = construct(), update(3), failing, Fetch(), Copy(), update(2, slot="b", start=9)
    steps = *steps, failing, update(1, start=20)
    engine = Lockstep(contract_of(release), load_target("py:mlxkv", release))
    engine.level = "buffer"

    run = engine.run(trace_of(*steps, mode=mode, step_size=8))

    assert undeclared(run) == set()
    assert (2, "half changed") in shown(run)
    assert run.log[-1] == steps[-1]


def test_transactional_target_is_held_to_it():
    """A target that promises transactions and leaves its offset moved is caught in the field."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            self.offset += 1
            if keys.shape[1] != values.shape[1]:
                raise ValueError("heads")
            self.offset -= 1
            return super().update_and_fetch(keys, values)

    failing = Update(keys=Rows(shape=(1, 2, 1, 2)), values=Rows(shape=(1, 1, 1, 2)))
    trace = trace_of(construct(), update(2), failing, update(1))

    run = lockstep_with(KVCache, transactional=True, errors="raises").run(trace)

    assert (2, "offset") in shown(run)
    assert run.steps == 3


def test_target_without_transactions_must_leave_what_the_release_leaves():
    """Without the promise, a target is compared with the release as its error left it."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            before = self.offset
            try:
                return super().update_and_fetch(keys, values)
            except Exception:
                self.offset = before + 40
                raise

    failing = Update(keys=Rows(shape=(1, 2, 1, 2)), values=Rows(shape=(1, 1, 1, 3)))
    trace = trace_of(construct(), update(2), failing)

    assert lockstep_with().run(trace).divergences == []
    assert shown(lockstep_with(KVCache).run(trace)) == [(2, "offset")]


def test_cache_made_by_one_side_only_is_dropped():
    """After a construction that one side refuses, no step runs on the slot."""

    class RotatingKVCache(RELEASED.RotatingKVCache):
        def __init__(self, max_size, keep=0):
            if max_size < 4:
                raise ValueError("too small")
            super().__init__(max_size, keep)

    steps = construct("RotatingKVCache", max_size=2), update(1), Fetch()
    run = lockstep_with(RotatingKVCache).run(trace_of(*steps))

    assert shown(run) == [(0, "raises ValueError")]
    assert run.log[1:] == [None, None][: len(run.log) - 1]
    assert run.steps == 1


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_growth_step_is_restored_when_a_run_is_broken_off(error):
    """Also when the user or the target ends the run, the classes have their own growth step."""

    class KVCache(KV):
        def update_and_fetch(self, *_):
            raise error

    with pytest.raises(error):
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


# What is never run, and what is lacking.


@pytest.mark.parametrize(
    "steps",
    [
        (construct(), update(1), Quantize(group_size=0)),
        (construct("QuantizedKVCache", group_size=0), update(1)),
    ],
)
def test_undefined_zones_are_never_run(steps):
    """A step into an undefined zone runs on neither side and is counted with its reason."""
    ran = []

    class KVCache(KV):
        def to_quantized(self, **_):
            ran.append("quantize")

    class QuantizedKVCache(RELEASED.QuantizedKVCache):
        def update_and_fetch(self, *_):
            ran.append("update")

    run = lockstep_with(KVCache, QuantizedKVCache).run(trace_of(*steps))

    assert ran == []
    assert run.log[-1] is None
    assert list(run.undefined.values()) == [1]
    assert "SIGFPE" in next(iter(run.undefined))
    assert run.divergences == []


def test_class_that_is_lacking_is_skipped():
    """Steps on a class that the target lacks do nothing, and the class is noted."""
    engine = lockstep_with(lacks=("RotatingKVCache",))
    steps = construct("RotatingKVCache", max_size=4), update(1), construct(slot="b")

    run = engine.run(trace_of(*steps, update(1, slot="b")))

    assert run.lacking == {"RotatingKVCache"}
    assert [step is None for step in run.log] == [True, True, False, False]
    assert run.divergences == []


def test_operation_that_is_lacking_is_skipped():
    """A method that the target's class lacks is noted, and the other steps run."""

    class KVCache:
        def __init__(self):
            self.keys = None

        def update_and_fetch(self, keys, values):
            return keys, values

    run = lockstep_with(KVCache, level="state").run(
        trace_of(construct(), Trim(n=1), update(1), Mask(n=1))
    )

    assert run.lacking == {"KVCache.trim", "KVCache.make_mask"}
    assert [step is None for step in run.log] == [False, True, False, True]
    assert run.divergences == []


def test_function_that_is_lacking_is_skipped():
    """A mask function that the target lacks is noted."""
    run = lockstep_with(lacks=("create_causal_mask",)).run(trace_of(CausalMask(n=2)))

    assert run.lacking == {f"{FUNCTIONS}.create_causal_mask"}
    assert run.steps == 0


def test_attribute_that_is_lacking_is_noted():
    """An attribute that the target's class lacks is not compared, and noted."""

    class KVCache:
        step = 256

        def __init__(self):
            self.offset = 0

    engine = lockstep_with(KVCache, level="state")
    run = engine.run(trace_of(construct()))

    assert run.divergences == []
    assert {"KVCache.state", "KVCache.nbytes"} <= engine.lacking


def test_steps_without_a_cache_do_nothing():
    """Steps on an empty slot do nothing and are not counted."""
    run = itself(RELEASE).run(trace_of(update(1), Reload(), Hold(what="copy"), Copy(), construct()))

    assert run.log == [None, None, None, None, construct()]
    assert run.steps == 1


# Handles that a caller keeps.


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


def test_engine_takes_any_module_like_object():
    """The engine needs no target string: a module, a contract and promises will do."""
    target = Target("py:anything", module_with(), None)

    run = Lockstep(contract_of(RELEASE), target).run(
        trace_of(construct(), SetState(state=(None, None, 0)))
    )

    assert run.divergences == []
    assert run.steps == 2
