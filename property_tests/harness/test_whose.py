"""Whose a difference is: the cache's own, a peer's, a child's, another's; and of which class."""

from __future__ import annotations

from typing import get_args

import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._prompt_steps import LruFetch, LruInsert
from kvlockstep._steps import Construct, Extend, Extract, GetItem, Hold, Made, Merge, Trim
from kvlockstep._trace import Mode

MODES = get_args(Mode)
RELEASED = release_module()
KV = Made(cache="KVCache")
LIST = Construct(cache="CacheList", children=(KV, KV))
BATCH, OTHER = (construct("BatchKVCache", slot, left_padding=(1, 0)) for slot in "ab")


def told(*steps, classes, **promises) -> list[tuple[int, str]]:
    """Return what a run of a port with these classes shows."""
    promises = {"level": "buffer", **promises}
    return shown(lockstep_with(*classes, **promises).run(trace_of(*steps, step_size=2)))


class BatchKVCache(RELEASED.BatchKVCache):
    """Its extend changes the peer."""

    def extend(self, other):
        super().extend(other)
        other.left_padding = other.left_padding + 1


def test_difference_in_a_peer_is_the_peers():
    """What an extend does to its peer is told with `peer`."""
    steps = BATCH, OTHER, update(1, batch=2), update(2, "b", batch=2), Extend()

    assert told(*steps, classes=[BatchKVCache]) == [(4, "peer: left_padding")]


def test_difference_in_a_child_of_the_list():
    """What an extend of lists does to the other list is told as the peer's."""
    children = (Made(cache="BatchKVCache", args={"left_padding": (0,)}),)
    lists = [Construct(slot=slot, cache="CacheList", children=children) for slot in "ab"]

    assert told(*lists, Extend(), classes=[BatchKVCache]) == [(2, "peer: left_padding")]


def test_difference_in_a_child_of_one_list():
    """What a trim of a list does to a child is the child's; of a child to its list, the list's."""

    class KVCache(RELEASED.KVCache):
        def trim(self, n):
            result = super().trim(n)
            self.offset += 1
            return result

    class CacheList(RELEASED.CacheList):
        def empty(self):
            return super().empty() or self.caches[0].offset == 2

    steps = LIST, update(3, "a.0"), update(3, "a.1")

    assert told(*steps, Trim(n=1), classes=[KVCache]) == [(3, "child: offset")]
    shows = told(*steps, Trim(slot="a.0", n=1), classes=[CacheList])
    assert shows == [(3, "list: empty()")]


def test_difference_in_another_cache():
    """What a step does to a cache that it was not given is told as another cache's."""
    known = []

    class KVCache(RELEASED.KVCache):
        def __init__(self):
            super().__init__()
            known.append(self)

        def trim(self, n):
            known[0].offset = 0
            return super().trim(n)

    steps = LIST, construct(slot="b"), update(2, "a.0"), update(2, "b"), Trim(slot="b", n=1)

    assert told(*steps, classes=[KVCache]) == [(4, "other cache: offset")]


def test_difference_in_a_new_cache_is_its_own():
    """What a merge or an extract makes is compared as the step's own result."""

    class KVCache(RELEASED.KVCache):
        @classmethod
        def merge(cls, caches):
            merged = RELEASED.KVCache.merge(caches)
            merged._idx += 1
            return merged

    class BatchKVCache(RELEASED.BatchKVCache):
        def extract(self, idx):
            single = super().extract(idx)
            single.keys = single.keys + 1
            return single

    made = construct(slot="s"), update(1, "s"), Merge(slot="s")
    taken = BATCH, update(2, batch=2), Extract(index=1)

    assert told(*made, classes=[KVCache]) == [(2, "_idx")]
    assert told(*taken, classes=[BatchKVCache]) == [(2, "keys")]


def test_difference_in_an_inserted_cache_is_a_peers():
    """A port that touches what is inserted into its LRU cache is told so."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def insert_cache(self, model, tokens, prompt_cache, *, cache_type="assistant"):
            super().insert_cache(model, tokens, prompt_cache, cache_type=cache_type)
            prompt_cache[0].offset += 1

    steps = construct("LRUPromptCache"), construct(slot="s"), update(2, "s")

    assert told(*steps, LruInsert(tokens=(1,), caches=("s",)), classes=[LRUPromptCache]) == [
        (3, "peer: offset")
    ]


def test_difference_in_a_fetched_cache():
    """A fetched cache has a slot that the step does not name: it is told as another cache's."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def fetch_nearest_cache(self, model, tokens):
            caches, left = super().fetch_nearest_cache(model, tokens)
            for cache in caches or ():
                cache.offset -= 1
            return caches, left

    steps = construct("LRUPromptCache"), construct(slot="s"), update(2, "s")
    steps = *steps, LruInsert(tokens=(1,), caches=("s",)), LruFetch(tokens=(1,))

    assert told(*steps, classes=[LRUPromptCache]) == [(4, "other cache: offset")]


def test_handle_on_a_list_is_compared_child_by_child():
    """A held copy of a list that changes is told with the child's place in it."""

    class CacheList(RELEASED.CacheList):
        def __deepcopy__(self, memo):
            return self

    steps = LIST, update(1, "a.0"), update(1, "a.1"), Hold(what="copy"), update(1, "a.1")

    assert told(*steps, classes=[CacheList]) == [(4, "held copy.1: offset")]


# Of which class a cache is.


@pytest.mark.parametrize("mode", MODES)
def test_cache_of_another_class_is_a_difference(mode):
    """A new cache that is not of the class that the target has under that name is `class`."""

    class KVCache(RELEASED.KVCache):
        pass

    steps = BATCH, update(1, batch=2), Extract(index=1), update(1, "e")
    run = lockstep_with(KVCache).run(trace_of(*steps, mode=mode))

    assert shown(run) == [(2, "class")]
    assert (run.divergences[0].expected, run.divergences[0].actual) == ("KVCache", "KVCache")
    assert lockstep_with().run(trace_of(*steps, mode=mode)).divergences == []


def test_subclass_is_of_the_class():
    """A target may make subclasses of its own classes."""

    class KVCache(RELEASED.KVCache):
        pass

    class Single(KVCache):
        pass

    class BatchKVCache(RELEASED.BatchKVCache):
        def extract(self, idx):
            single = Single()
            vars(single).update(vars(super().extract(idx)))
            return single

    steps = BATCH, update(1, batch=2), Extract(index=1), update(1, "e")

    assert lockstep_with(KVCache, BatchKVCache).run(trace_of(*steps)).divergences == []


def test_child_of_another_class_is_a_difference():
    """A child that a list made of another class is told as that child's."""

    class KVCache(RELEASED.KVCache):
        pass

    class CacheList(RELEASED.CacheList):
        def extract(self, _):
            return CacheList(RELEASED.ConcatenateKVCache())

    children = (Made(cache="BatchKVCache", args={"left_padding": (0,)}),)
    steps = Construct(cache="CacheList", children=children), update(1, "a.0"), Extract(index=0)
    run = lockstep_with(KVCache, CacheList).run(trace_of(*steps))

    assert shown(run) == [(2, "class")]
    assert run.divergences[0].actual == "ConcatenateKVCache"


def test_missing_child_is_a_difference():
    """A list that lost a child differs in its children."""

    class CacheList(RELEASED.CacheList):
        def extract(self, idx):
            return CacheList(*super().extract(idx).caches[:1])

    children = (Made(cache="BatchKVCache", args={"left_padding": (0,)}),) * 2
    steps = Construct(cache="CacheList", children=children), *(update(1, f"a.{i}") for i in (0, 1))
    run = lockstep_with(CacheList).run(
        trace_of(*steps, Extract(index=0), GetItem(slot="e", index=1))
    )

    assert shown(run)[0] == (3, "caches")
    assert run.steps == 4


def test_class_that_the_target_lacks_is_not_asked_for():
    """Where the target has no class of that name, what it makes is compared by its fields."""
    steps = BATCH, update(1, batch=2), Extract(index=1), update(1, "e")

    run = lockstep_with(lacks=("KVCache",), release=RELEASE).run(trace_of(*steps))

    assert run.divergences == []
    assert run.steps == 4


def test_list_that_hides_its_children_is_compared_without_them():
    """A list without `caches` cannot be looked into: that is lacking, and no difference."""

    class CacheList:
        def __init__(self, *caches):
            self.hidden = caches

        def trim(self, n):
            return [cache.trim(n) for cache in self.hidden][-1]

    engine = lockstep_with(CacheList, level="state")
    run = engine.run(trace_of(LIST, update(1, "a.0"), Trim(n=1)))

    assert run.divergences == []
    assert [step is None for step in run.log] == [False, True, False]
    assert "CacheList.caches" in engine.lacking
