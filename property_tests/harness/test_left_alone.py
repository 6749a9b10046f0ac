"""Caches that a step left alone: all of them is seen again."""

from __future__ import annotations

from typing import ClassVar, get_args

import pytest
from property_tests.harness.ports import (
    construct,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._contract import Level
from kvlockstep._prompt_steps import LruInsert
from kvlockstep._steps import Construct, Copy, Fetch, Made, Prepare, Transfer, Trim
from kvlockstep._trace import Mode

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache
TWO = construct(), construct(slot="b"), update(2), update(3, "b")


@pytest.mark.parametrize("level", get_args(Level))
def test_what_derives_is_read_of_every_cache_after_every_step(level):
    """Of two caches the one that was not taken is read in full too."""
    read: list[int] = []

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            read.append(0)
            return super().update_and_fetch(keys, values)

        @property
        def nbytes(self):
            read[-1:] = [number + 1 for number in read[-1:]]
            return super().nbytes

    run = lockstep_with(KVCache, level=level).run(trace_of(*TWO, update(1), update(1)))

    assert run.divergences == []
    assert read == [2, 2, 2, 2]


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


def test_what_derives_from_nothing_stored_is_seen_at_once():
    """A port with a size that a hidden number gives is found in that very step."""

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

    assert shown(run) == [(5, "other cache: size()")]


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
