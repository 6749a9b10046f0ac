"""Plain words: every step, every trace, and what was expected and what came."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)
from property_tests.harness.samples import TOLD

from kvlockstep._caches import CACHES, make_cache
from kvlockstep._divergence import Signature
from kvlockstep._explain import tell_divergence, tell_made, tell_side, tell_step, tell_trace
from kvlockstep._operations import OPERATIONS
from kvlockstep._prompt_steps import LruFetch, LruInsert, TrieAdd, TrieSearch
from kvlockstep._recipes import Bits
from kvlockstep._shrink import shrink
from kvlockstep._steps import Extend, Extract, Merge, SetItem, Trim
from kvlockstep._trace import dumps, loads

RELEASED = release_module()


def test_there_is_a_sample_of_every_step():
    """The table of samples leaves out no operation that the harness knows."""
    assert {type(step) for step in TOLD.values()} == set(OPERATIONS)


@pytest.mark.parametrize("words", TOLD)
def test_step_is_told(words):
    """Each step has words of its own: what it is done to, and with what."""
    assert tell_step(TOLD[words]) == words


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_step_is_written_and_read(step):
    """Each step comes back from its file as it was, down to 1, 1.0 and True."""
    text = dumps(trace_of(step))
    back = loads(text)

    assert repr(back.steps) == repr((step,))
    assert dumps(back) == text


@pytest.mark.parametrize("cache", CACHES)
def test_construction_is_told_as_it_would_be_written(cache):
    """The words for a construction are what a caller would write: they make that cache."""
    sample = CACHES[cache].sample

    made = eval(tell_made(sample), vars(RELEASED).copy())

    assert type(made) is type(make_cache(RELEASED, sample))


def test_a_trace_is_told_step_by_step():
    """A trace is numbered lines and its settings."""
    trace = trace_of(construct(), update(2), Trim(n="offset-1"), step_size=4, mode="in-place")

    assert tell_trace(trace).splitlines() == [
        "  1. a = KVCache()",
        "  2. a: update with 2 tokens, float32 [1, 2, 2, 2]",
        "  3. a: trim offset-1",
        "     growth step 4, in-place mode",
    ]


def told(engine, trace) -> list[str]:
    """Return what is told of the first divergence."""
    run = engine.run(trace)
    return tell_divergence(run.divergences[0], run).splitlines()


def test_difference_in_a_peer_is_told():
    """A peer that an extend changed is told as the peer, with both numbers."""

    class BatchKVCache(RELEASED.BatchKVCache):
        def extend(self, other):
            super().extend(other)
            other._idx += 1

    steps = (construct("BatchKVCache", slot, left_padding=(0,)) for slot in "ab")
    trace = trace_of(*steps, update(2), update(2, slot="b"), Extend())

    assert told(lockstep_with(BatchKVCache, level="buffer"), trace) == [
        "  step 5, peer: _idx",
        "    expected  2",
        "    actual    3",
    ]


def test_result_of_a_search_is_told():
    """What a search returned is told as its parts, the flag of identity last."""

    class PromptTrie(RELEASED.PromptTrie):
        def search(self, model, tokens):
            found = super().search(model, tokens)
            found.exact = found.exact and list(found.exact)
            return found

    trace = trace_of(construct("PromptTrie"), TrieAdd(tokens=(1, 2)), TrieSearch(tokens=(1, 2)))

    assert told(lockstep_with(PromptTrie), trace) == [
        "  step 3, result[6]",
        "    expected  True",
        "    actual    False",
    ]
    run = lockstep_with(PromptTrie).run(trace)
    assert tell_side(run.divergences[0], run, "actual") == "result[6] is False"


def test_row_that_a_merge_lost_is_told():
    """The rows of a merged cache are told by the tokens that its sources were fed."""

    class KVCache(RELEASED.KVCache):
        @classmethod
        def merge(cls, caches):
            merged = RELEASED.KVCache.merge(caches)
            merged.keys[1, :, -1] = 0
            return merged

    steps = construct(slot="s"), construct(slot="t"), update(2, slot="s")
    trace = trace_of(*steps, update(1, slot="t", start=9), Merge(slot="s", peers=("t",)))

    lines = told(lockstep_with(KVCache, level="buffer"), trace)

    assert lines[0] == "  step 5, keys"
    assert lines[1].endswith("rows: 0|· 1|2")
    assert lines[2].endswith("rows: 0|· 1|·")


def test_class_of_another_module_is_told():
    """A cache of another class is told by the name of either class."""

    class Other(RELEASED.KVCache):
        pass

    class KVCache(RELEASED.KVCache):
        pass

    class BatchKVCache(RELEASED.BatchKVCache):
        def extract(self, _):
            return Other()

    trace = trace_of(construct("BatchKVCache", left_padding=(0,)), update(1), Extract(index=0))

    assert told(lockstep_with(KVCache, BatchKVCache), trace) == [
        "  step 3, class",
        "    expected  'KVCache'",
        "    actual    'Other'",
    ]


# Shrinking traces of several caches and of look-up.


def test_merge_is_shrunk_to_what_it_needs():
    """A fault in merges of unlike lengths shrinks to two caches and one row."""

    class KVCache(RELEASED.KVCache):
        @classmethod
        def merge(cls, caches):
            merged = RELEASED.KVCache.merge(caches)
            if len({cache.offset for cache in caches}) > 1:
                merged.left_padding += 1
            return merged

    engine = lockstep_with(KVCache)
    steps = [construct(slot=slot) for slot in "stu"]
    steps += [update(3, slot="s"), update(3, slot="t", start=5), update(1, slot="u", start=9)]
    trace = trace_of(*steps, Trim(slot="s", n=1), Merge(slot="s", peers=("t", "u"), to="b"))

    small = shrink(trace, Signature(RELEASE, "KVCache", "merge", "left_padding"), engine.run)

    assert [tell_step(step) for step in small.steps] in (
        ["s = KVCache()", f"{one} = KVCache()", f"{fed}: update with 1 token, float32 [1, 1, 1, 1]",
         f"b = merge([s, {one}])"]
        for one in "tu" for fed in ("s", one)
    )  # fmt: skip


def test_lookup_is_shrunk_to_what_it_needs():
    """A fault in fetches of a longer prompt shrinks to one cache, one insert and one fetch."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def fetch_nearest_cache(self, model, tokens):
            caches, left = super().fetch_nearest_cache(model, tokens)
            if caches and left:
                left = [*left, left[-1]]
            return caches, left

    steps = [construct("LRUPromptCache", max_size=3), construct(slot="s"), construct(slot="t")]
    steps += [update(3, slot="s"), LruInsert(tokens=(5, 6, 7), caches=("s", "t"))]
    steps += [LruInsert(tokens=(1, 2), caches=("t",), cache_type="user"), LruFetch(tokens=(9,))]
    trace = trace_of(*steps, LruFetch(tokens=(5, 6, 7, 8), to="g"))
    signature = Signature(RELEASE, "LRUPromptCache", "lru_fetch", "result[1]")

    small = shrink(trace, signature, lockstep_with(LRUPromptCache).run)

    made, cache, insert, fetch = small.steps
    assert tell_step(made) == "a = LRUPromptCache()"
    assert tell_step(cache) in ("s = KVCache()", "t = KVCache()")
    assert len(insert.caches) == 1
    assert len(fetch.tokens) == len(insert.tokens) + 1


def test_item_is_shrunk_to_what_it_needs():
    """A fault in the second slot for arrays shrinks to one assignment of a tiny array."""

    class ArraysCache(RELEASED.ArraysCache):
        def __setitem__(self, index, value):
            super().__setitem__(index, value if index != 1 or value is None else value + 1)

    array = Bits(shape=("batch", 3, 2), dtype="float16")
    steps = [construct("ArraysCache", size=2, left_padding=(1, 0))]
    steps += [SetItem(index=index, value=array) for index in (0, 1, 0)]
    signature = Signature(RELEASE, "ArraysCache", "set_item", "cache[1]")

    small = shrink(trace_of(*steps), signature, lockstep_with(ArraysCache).run)

    assert [tell_step(step) for step in small.steps] == [
        "a = ArraysCache(size=2)",
        "a[1] = float32 [1, 1, 1]",
    ]
