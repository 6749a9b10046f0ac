"""Caches that a step left alone: what is read of them again, and what is seen all the same."""

from __future__ import annotations

from itertools import chain
from typing import ClassVar, get_args

import mlx.core as mx
import pytest
from property_tests.harness.ports import (
    construct,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._prompt_steps import LruInsert
from kvlockstep._steps import Construct, Copy, Fetch, Made, Prepare, Transfer, Trim
from kvlockstep._stillness import Stillness, wholes_in
from kvlockstep._trace import Mode

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache
TWO = construct(), construct(slot="b"), update(2), update(3, "b")


def reads(*steps, level="buffer") -> list[int]:
    """Return of how many caches the `nbytes` was read after each update."""
    read: list[int] = []

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            read.append(0)
            return super().update_and_fetch(keys, values)

        @property
        def nbytes(self):
            read[-1:] = [number + 1 for number in read[-1:]]
            return super().nbytes

    run = lockstep_with(KVCache, level=level).run(trace_of(*steps))
    assert run.divergences == []
    return read


def test_what_derives_is_read_of_the_cache_that_the_step_took():
    """Of two caches the one that was not taken is read when the trace ends, and not before."""
    assert reads(*TWO, update(1), update(1), update(1)) == [1, 1, 1, 1, 2]


def test_all_is_read_at_level_state():
    """Where buffers are not compared themselves, what derives from them is always read."""
    assert reads(*TWO, update(1), update(1), level="state") == [2, 2, 2, 2]


def meddling(change):
    """Return a KVCache whose trim changes every other one there is."""

    class KVCache(KV):
        every: ClassVar[list[KV]] = []

        def __init__(self):
            super().__init__()
            self.every.append(self)

        def trim(self, n):
            for cache in self.every:
                if cache is not self:
                    change(cache)
            return super().trim(n)

    return KVCache


@pytest.mark.parametrize("mode", MODES)
def test_stored_field_of_a_cache_left_alone_is_seen_at_once(mode):
    """A port whose caches change each other behind the scenes is found in that very step."""

    def move(cache):
        cache.offset += 1

    run = lockstep_with(meddling(move), level="buffer").run(
        trace_of(*TWO, Fetch(), Trim(n=1), Fetch(), mode=mode)
    )

    assert shown(run) == [(5, "other cache: offset")]


@pytest.mark.parametrize("mode", MODES)
def test_array_of_a_cache_left_alone_that_is_written_to_is_seen_at_once(mode):
    """A port that writes into another cache's buffer is found in that very step."""

    def overwrite(cache):
        cache.keys[..., :1, :] = 77

    run = lockstep_with(meddling(overwrite), level="buffer").run(
        trace_of(*TWO, Fetch(), Trim(n=1), Fetch(), mode=mode)
    )

    assert shown(run) == [(5, "other cache: keys")]


@pytest.mark.parametrize("mode", MODES)
def test_what_derives_from_a_shared_array_is_seen_at_once(mode):
    """Two caches that share an array that one of them writes to are both read in full."""

    class BatchKVCache(RELEASED.BatchKVCache):
        restored = False

        @property
        def state(self):
            return super().state

        @state.setter
        def state(self, value):
            RELEASED.BatchKVCache.state.fset(self, value)
            self.restored = True

        def empty(self):
            return super().empty() != (self.restored and self.left_padding.max().item() > 3)

    steps = [construct("BatchKVCache", slot, left_padding=(1, 0)) for slot in "ab"]
    steps += [Transfer(slot="b", source="a"), Prepare(slot="a", left_padding=(4, 4)), Trim(n=0)]

    run = lockstep_with(BatchKVCache, level="buffer").run(trace_of(*steps, mode=mode))

    assert shown(run) == [(3, "other cache: empty()")]


def test_what_derives_from_nothing_stored_is_seen_when_the_trace_ends():
    """A port with a size that a hidden number gives is found with the last step at the latest."""

    class KVCache(KV):
        hidden: ClassVar[list[int]] = [0]

        def trim(self, n):
            self.hidden[0] += 1
            return super().trim(n)

        def size(self):
            return super().size() + 5 * (self.hidden[0] and self.offset == 3)

    run = lockstep_with(KVCache, level="buffer").run(
        trace_of(*TWO, Fetch(), Trim(n=1), Fetch(), Fetch())
    )

    assert shown(run) == [(7, "other cache: size()")]


def still(module=RELEASED, share: bool = False) -> tuple[Stillness, object, object]:
    """Return what is known of two caches, in slots `a` and `b`, and those caches."""
    one, other = module.KVCache(), module.KVCache()
    rows = mx.ones((1, 1, 2, 4))
    for cache in (one, other):
        cache.update_and_fetch(rows, rows)
    if share:
        other.keys = one.keys
    stillness = Stillness()
    stillness.learn("a", one, one)
    stillness.learn("b", other, other)
    return stillness, one, other


def test_cache_that_was_not_taken_is_still():
    """It is what it was, and nothing that the step took reaches it."""
    stillness, one, other = still()
    stillness.take({"a"})

    assert stillness.holds("b", other, other)
    assert not stillness.holds("a", one, one)
    assert not stillness.holds("c", other, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: setattr(cache, "offset", 300),
        lambda cache: setattr(cache, "keys", cache.keys[...]),
        lambda cache: setattr(cache, "more", 1),
        lambda cache: delattr(cache, "values"),
    ],
    ids=["number", "array", "new", "gone"],
)
def test_cache_that_stores_something_else_is_not_still(change):
    """Another object, even of the same content, a field more or less: it may have changed."""
    stillness, _, other = still()
    stillness.take({"a"})
    change(other)

    assert not stillness.holds("b", other, other)


def test_another_cache_in_the_slot_is_not_still():
    """A cache that was put in the place of another is read, equal or not."""
    stillness, _, other = still()
    stillness.take({"a"})
    twin = RELEASED.KVCache()
    vars(twin).update(vars(other))

    assert not stillness.holds("b", other, twin)
    assert not stillness.holds("b", twin, other)


def test_cache_that_shares_an_array_with_one_that_was_taken_is_not_still():
    """An array may be written in place: then it is the same object with another content."""
    stillness, _, other = still(share=True)
    stillness.take({"a"})

    assert not stillness.holds("b", other, other)


def test_nothing_is_still_after_a_step_on_a_cache_with_unknown_parts():
    """What a cache with parts that cannot be told reaches cannot be told either."""
    stillness, _, other = still()
    lru = RELEASED.LRUPromptCache(max_size=2)
    stillness.learn("a", lru, lru)
    stillness.take({"a"})

    assert not stillness.holds("b", other, other)
    assert not stillness.holds("a", lru, lru)


def test_nothing_is_still_once_all_is_forgotten():
    """After `forget` each cache has to be learned anew."""
    stillness, _, other = still()
    stillness.take({"a"})
    stillness.forget()

    assert not stillness.holds("b", other, other)


def test_parts_are_told_of_plain_caches_only():
    """Lists, tuples, slots and children are looked into; a dict or a stranger cannot be."""

    class Slotted:
        __slots__ = ("keys",)

    slotted = type("KVCache", (Slotted,), {})()
    slotted.keys = mx.zeros((1,))
    stranger = type("KVCache", (bytearray,), {})()
    child, arrays = RELEASED.KVCache(), RELEASED.ArraysCache(2)
    arrays[1] = array = mx.zeros((2,))
    parts = [*chain(*wholes_in([RELEASED.CacheList(arrays, child)]))]

    assert {id(array), id(child), id(arrays.cache)} <= {*map(id, parts)}
    assert any(part is slotted.keys for part in chain(*wholes_in([slotted])))
    assert wholes_in([stranger]) is None
    assert wholes_in([RELEASED.PromptTrie()]) is None
    child.pool = object()
    assert wholes_in([child]) is None


@pytest.mark.parametrize("mode", MODES)
def test_lists_and_what_is_kept_out_of_sight_run_beside_each_other(mode):
    """Traces with caches of every sort in several slots show nothing of a release itself."""
    lists = Construct(slot="b", cache="CacheList", children=(Made(cache="KVCache"),) * 2)
    steps = construct("LRUPromptCache", max_size=2), construct(slot="s"), lists, update(2, "s")
    steps = *steps, LruInsert(tokens=(1, 2), caches=("s",)), update(1, "b.0")
    steps = *steps, Copy(slot="s", to="c"), update(1, "s"), update(1, "c"), update(2, "b.1")

    run = lockstep_with(level="buffer").run(trace_of(*steps, mode=mode))

    assert run.divergences == []
    assert run.steps == len(steps)
