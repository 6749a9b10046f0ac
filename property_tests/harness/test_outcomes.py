"""What a difference is told as: errors, fields, results, and where a trace ends."""

from __future__ import annotations

import gc
import weakref
from itertools import islice
from typing import get_args

import mlx.core as mx
import pytest
from msgspec.structs import replace
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._divergence import Signature
from kvlockstep._generate import generate
from kvlockstep._recipes import Rows
from kvlockstep._search import seeded_bytes
from kvlockstep._snapshots import Raised
from kvlockstep._steps import Copy, Trim, Update
from kvlockstep._trace import Mode

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache


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


def test_port_that_would_end_the_process():
    """A port that exits, in an operation or in a field, is told of it and ends nothing."""

    class KVCache(raising(SystemExit(0))):
        def size(self):
            raise SystemExit(0)

    run = lockstep_with(KVCache).run(trace_of(construct(), update(1), Trim(n=1)))

    assert shown(run) == [(0, "size()"), (2, "raises SystemExit")]


def test_caches_do_not_outlive_a_trace_that_raises():
    """An error that was raised over another one holds frames, and those what was made of it."""
    made = []

    class KVCache(KV):
        def trim(self, _):
            made.append(weakref.ref(self))
            try:
                return self.nothing
            except AttributeError:
                raise KeyError("x")  # noqa: B904

    run = lockstep_with(KVCache).run(trace_of(construct(), update(1), Trim(n=1)))
    assert shown(run) == [(2, "raises KeyError")]
    del run
    gc.collect()

    assert [cache() for cache in made] == [None]


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
