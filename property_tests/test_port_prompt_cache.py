"""The port's cache of prompt caches: its counts hold, and a failure changes nothing."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.port_support import CONTRACTS

import mlxkv

PROFILE = settings(max_examples=100, deadline=None)


class Layer:
    """What `LRUPromptCache` needs of a cache."""

    def __init__(self, tokens=0, nbytes=1, trimmable=True):
        self.tokens, self.nbytes, self.trimmable = tokens, nbytes, trimmable

    def is_trimmable(self):
        return self.trimmable

    def trim(self, n):
        self.tokens -= n
        return n


def entries_of(cache):
    """The entries of all prompts in an LRU cache's trie, with their nodes."""
    nodes = list(cache._trie._trie.values())
    for node in nodes:
        nodes += node.children.values()
    return [(id(node), node.label, node.held[0]) for node in nodes if node.held is not None]


def snapshot(cache):
    """Everything that an LRU cache holds, its trie and its queues included."""
    queues = {name: list(queue.items()) for name, queue in cache._lru._lrus.items()}
    return entries_of(cache), queues, cache.stats_by_type(), cache.nbytes, len(cache)


insertions = st.tuples(
    st.lists(st.integers(0, 1), max_size=5),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["assistant", "user", "system"]),
)


@CONTRACTS
@PROFILE
@given(steps=st.lists(insertions, max_size=25), most=st.integers(0, 4), room=st.integers(0, 20))
def test_counts_and_limits_hold(contract, steps, most, room):
    """Bytes and numbers are those of the prompts that are held, and within the limits."""
    cache = contract.LRUPromptCache(most, room)
    for tokens, nbytes, trimmable, cache_type in steps:
        layers = [Layer(len(tokens), nbytes, trimmable)]
        cache.insert_cache("m", tokens, layers, cache_type=cache_type)
        entries = [entry for _, _, entry in entries_of(cache)]
        stats = cache.stats_by_type()
        assert len(cache) == len(entries) == sum(one["n_sequences"] for one in stats.values())
        assert cache.nbytes == sum(one["n_bytes"] for one in stats.values())
        assert cache.nbytes == sum(entry.nbytes for entry in entries) <= room
        assert len(cache) <= most
    cache.trim_to(n_sequences=0)
    assert (len(cache), cache.nbytes) == (0, 0)


@CONTRACTS
def test_an_insertion_evicts_one_at_most_for_its_number(contract):
    """A limit that is lowered later is not enforced at once, as in mlx-lm."""
    cache = contract.LRUPromptCache(4)
    for i in range(4):
        cache.insert_cache("m", [i], [Layer()])
    cache.max_size = 1
    cache.insert_cache("m", [4], [Layer()])
    assert len(cache) == 4
    assert cache.fetch_nearest_cache("m", [0]) == (None, [0])


class Unready(Layer):
    """A cache that cannot say whether it is trimmable."""

    def is_trimmable(self):
        raise AttributeError


@CONTRACTS
@PROFILE
@given(
    steps=st.lists(insertions, max_size=6),
    failure=st.sampled_from(
        [
            (KeyError, {"cache_type": "tool"}, {}),
            (TypeError, {"cache_type": []}, {}),
            (TypeError, {"tokens": [0, []]}, {}),
            (TypeError, {"tokens": mx.array([0, 1])}, {}),
            (TypeError, {"model": []}, {}),
            (AttributeError, {"prompt_cache": [Unready()]}, {}),
            (AttributeError, {"prompt_cache": [object()]}, {}),
            (IndexError, {}, {"max_bytes": -1}),
            (TypeError, {}, {"max_bytes": None}),
            (TypeError, {}, {"max_size": None}),
        ]
    ),
)
def test_failed_insertion_changes_nothing(contract, steps, failure):
    """An insertion that raises leaves prompts, order and byte counts as they were."""
    cache = contract.LRUPromptCache(4)
    for tokens, nbytes, trimmable, cache_type in steps:
        cache.insert_cache("m", tokens, [Layer(0, nbytes, trimmable)], cache_type=cache_type)
    error, change, limits = failure
    call = {"model": "m", "tokens": [0, 1], "prompt_cache": [Layer()], **change}
    for name, limit in limits.items():
        setattr(cache, name, limit)
    before = snapshot(cache)
    with pytest.raises(error):
        cache.insert_cache(**call)
    assert snapshot(cache) == before


@CONTRACTS
def test_prompts_outlive_the_list_they_came_in(contract):
    """A list that its owner changes later, or a tuple of the same tokens, is the same prompt."""
    cache = contract.LRUPromptCache()
    tokens = [1, 2]
    cache.insert_cache("m", tokens, [Layer(nbytes=3)])
    tokens.append(3)
    cache.insert_cache("m", (1, 2), [Layer(nbytes=4)], cache_type="user")
    assert (len(cache), cache.nbytes) == (1, 4)
    cache.insert_cache("m", [1, 2, 3], [Layer(nbytes=5)])
    assert (len(cache), cache.nbytes) == (1, 5)
    cache.trim_to(n_bytes=0)
    assert (len(cache), cache.nbytes) == (0, 0)


@CONTRACTS
def test_fetched_caches_are_copies(contract):
    """What is fetched decodes on without changing what is held, and is trimmed to the prefix."""
    cache = contract.LRUPromptCache()
    kv = contract.KVCache()
    kv.update_and_fetch(mx.arange(5.0).reshape(1, 1, 5, 1), mx.arange(5.0).reshape(1, 1, 5, 1))
    cache.insert_cache("m", [1, 2, 3, 4, 5], [kv])
    (fetched,), rest = cache.fetch_nearest_cache("m", [1, 2, 9, 9])
    assert (fetched.offset, rest) == (2, [9, 9])
    fetched.update_and_fetch(mx.zeros((1, 1, 2, 1)), mx.zeros((1, 1, 2, 1)))
    (again,), rest = cache.fetch_nearest_cache("m", [1, 2, 3, 4, 5])
    assert (again.offset, rest) == (5, [])
    assert again.keys[..., :5, :].flatten().tolist() == [0, 1, 2, 3, 4]


@CONTRACTS
def test_cache_can_be_copied(contract):
    """A deep copy of an LRU cache goes on by itself."""
    cache = contract.LRUPromptCache(3)
    for i in range(3):
        cache.insert_cache("m", [1, i], [Layer()])
    twin = copy.deepcopy(cache)
    for i in range(3, 6):
        twin.insert_cache("m", [1, i], [Layer()])
    assert cache.fetch_nearest_cache("m", [1, 0])[1] == []
    assert twin.fetch_nearest_cache("m", [1, 5])[1] == []
    assert twin.fetch_nearest_cache("m", [1])[1] == [1]
    assert len(twin) == len(cache) == 3


@CONTRACTS
@PROFILE
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "remove", "pop"]),
            st.lists(st.sampled_from([0, 1, True, "a"]), max_size=2),
            st.sampled_from(["assistant", "user", "system"]),
        )
    )
)
def test_order_is_that_of_plain_lists(contract, steps):
    """An order pushes, removes and pops as three lists would, duplicates included."""
    order = contract.LRUPromptCache.CacheOrder()
    lists = {"assistant": [], "user": [], "system": []}
    for name, tokens, cache_type in steps:
        if name == "push":
            order.push("m", tokens, cache_type)
            lists[cache_type].append(tokens)
        elif name == "remove":
            order.remove("m", tokens)
            held = next((one for one in lists.values() if tokens in one), [tokens])
            held.remove(tokens)
        elif len(order):
            a, b, c = lists.values()
            oldest = a if a and len(a) >= len(b) else b if b and len(b) >= len(c) else c
            assert order.pop() == ("m", oldest.pop(0))
        else:
            with pytest.raises(IndexError):
                order.pop()
        assert len(order) == sum(map(len, lists.values()))


@CONTRACTS
def test_order_keeps_what_it_was_given(contract):
    """Neither the ordering nor a prompt changes with the list that it was given in."""
    ordering, tokens = ["a", "b"], [1]
    order = contract.LRUPromptCache.CacheOrder(ordering)
    order.push("m", tokens, "b")
    ordering.append("c")
    tokens.append(2)
    with pytest.raises(mlxkv.UnknownCacheTypeError):
        order.push("m", [3], "c")
    assert order.pop() == ("m", [1])
    contract.LRUPromptCache.CacheOrder()._ordering.append("tool")
    assert len(contract.LRUPromptCache().stats_by_type()) == 3


@CONTRACTS
@pytest.mark.parametrize("ordering", [[], ["a"]])
def test_one_type_is_no_order(contract, ordering):
    """An order of fewer than two types cannot say what to evict, and keeps what it has."""
    order = contract.LRUPromptCache.CacheOrder(ordering)
    for name in ordering:
        order.push("m", [1], name)
    with pytest.raises(mlxkv.OrderingError) as caught:
        order.pop()
    assert isinstance(caught.value, UnboundLocalError)
    assert len(order) == len(ordering)
