"""What a deep copy shares within itself is what the caches share, and nothing of it is theirs."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest
from property_tests.port_support import CONTRACTS, digest

ATOMS = (int, float, bool, str, type(None))


class Note:
    """A foreign object in a field, which holds others."""

    def __init__(self, *held):
        self.held = list(held)


def walk(value, seen=None):
    """Every object that can be reached, in order: what it is, and the first place it was met."""
    seen = {} if seen is None else seen
    if isinstance(value, ATOMS):
        return [value]
    if id(value) in seen:
        return [seen[id(value)]]
    seen[id(value)] = len(seen)
    if isinstance(value, mx.array):
        return [digest(value)]
    inside = value if isinstance(value, list | tuple) else vars(value).values()
    return [type(value), *(found for one in inside for found in walk(one, seen))]


def objects(value, met=None):
    """Each mutable object that can be reached, by its id."""
    met = {} if met is None else met
    if isinstance(value, ATOMS) or id(value) in met:
        return met
    if value != ():
        met[id(value)] = value
    if not isinstance(value, mx.array):
        for one in value if isinstance(value, list | tuple) else vars(value).values():
            objects(one, met)
    return met


def filled(cache):
    rows = mx.random.normal((2, 1, 3, 32))
    cache.update_and_fetch(rows, -rows)
    return cache


def in_two_fields(contract):
    cache = filled(contract.ConcatenateKVCache())
    cache.values = cache.keys
    return [cache]


def in_two_caches(contract):
    rings = [contract.RotatingKVCache(max_size=8) for _ in range(2)]
    rows = mx.random.normal((1, 1, 3, 4))
    for ring in rings:
        ring.update_and_fetch(rows, rows)
    return rings


def one_cache_twice(contract):
    cache = filled(contract.KVCache())
    return [cache, contract.CacheList(cache, contract.CacheList(cache)), cache]


def one_list_of_slots(contract):
    first, second = contract.ArraysCache(2, left_padding=[0, 1]), contract.ArraysCache(2)
    first[0] = mx.ones((2, 3))
    second.cache = first.cache
    return [first, second]


def one_tuple_of_parts(contract):
    first, second = (contract.QuantizedKVCache(group_size=32) for _ in range(2))
    filled(first)
    second.keys = second.values = first.keys
    return [first, second]


def a_list_that_holds_itself(contract):
    cache = contract.CacheList(filled(contract.KVCache()))
    cache.caches = [*cache.caches]
    cache.caches.append(cache.caches)
    return [cache]


def a_foreign_field(contract):
    cache, other = filled(contract.ConcatenateKVCache()), filled(contract.ConcatenateKVCache())
    cache.note = Note(cache.keys, other, 1)
    cache.numbers = (1, "two", None)
    return [cache, other]


def a_subclass(contract):
    class Mine(contract.KVCache):
        pass

    cache = filled(Mine())
    cache.extra = [cache.keys, cache.offset]
    return [cache]


def a_promise(contract):
    cache = contract.KVCache()
    cache.reserve(700)
    return [filled(cache)]


MAKERS = pytest.mark.parametrize(
    "make",
    [
        in_two_fields,
        in_two_caches,
        one_cache_twice,
        one_list_of_slots,
        one_tuple_of_parts,
        a_list_that_holds_itself,
        a_foreign_field,
        a_subclass,
        a_promise,
    ],
)


def fetched(contract, caches):
    """The same caches as an LRU cache hands them out."""
    lru = contract.LRUPromptCache()
    lru.insert_cache("model", [1, 2], caches)
    return lru.fetch_nearest_cache("model", [1, 2])[0]


@CONTRACTS
@MAKERS
@pytest.mark.parametrize("through", ["deepcopy", "lru"])
def test_a_copy_shares_within_itself(contract, make, through):
    """Arrays, lists and caches that are one object in several places are one in the copy."""
    if through == "lru" and make is a_list_that_holds_itself:
        pytest.skip("its bytes cannot be counted")
    caches = make(contract)
    expected = walk(caches)
    twins = copy.deepcopy(caches) if through == "deepcopy" else fetched(contract, caches)
    assert walk(twins) == expected
    assert walk(caches) == expected
    both = objects(caches).keys() & objects(twins).keys()
    assert all(isinstance(objects(caches)[one], tuple) for one in both)


@CONTRACTS
def test_a_memo_goes_from_copy_to_copy(contract):
    """What one copy put into the memo, arrays in lists and children too, the next one takes."""
    cache = filled(contract.QuantizedKVCache(group_size=32))
    listed = contract.CacheList(filled(contract.KVCache()))
    memo = {}
    twins = copy.deepcopy(cache, memo), copy.deepcopy(listed, memo)
    assert copy.deepcopy(cache.keys, memo) is twins[0].keys
    assert copy.deepcopy(cache.keys[0], memo) is twins[0].keys[0]
    assert copy.deepcopy(listed.caches, memo) is twins[1].caches
    assert copy.deepcopy(listed[0], memo) is twins[1][0]
    assert copy.deepcopy(listed[0]._keys, memo) is twins[1][0]._keys
