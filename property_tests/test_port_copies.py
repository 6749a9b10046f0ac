"""Copies and restored states of the port are caches of their own that decode alike."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.port_support import CLASSES, CONTRACTS, construct, digest, leaves

import mlxkv
from mlxkv import mlx_lm_0_31, mlx_lm_0_32

PROFILE = settings(max_examples=50, deadline=None)

tokens_of_updates = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def rows(tokens):
    return mx.random.normal((1, 2, tokens, 32))


def contents(tree):
    """Shape, dtype and bytes of every array, every scalar as it is."""
    return [digest(leaf) for leaf in leaves(tree)]


def fields(cache):
    return {name: contents(value) for name, value in vars(cache).items()}


def fill(cache, updates):
    for tokens in updates:
        cache.update_and_fetch(rows(tokens), rows(tokens))
    return cache


def decode(cache, pairs):
    """What a cache returns for these rows, or the error it ends with."""
    outcomes = []
    for keys, values in pairs:
        try:
            outcomes.append(contents(cache.update_and_fetch(keys, values)))
        except mlxkv.CacheError as error:
            outcomes.append(str(error))
    return outcomes


def rebuild(contract, cache):
    cls = type(cache)
    if contract is mlx_lm_0_31:
        twin = cls.from_state(cache.state, cache.meta_state)
    else:
        twin = cls.from_state(cache.state)
    twin.step = cache.step
    return twin


@CONTRACTS
@CLASSES
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cache: cache.copy()])
@PROFILE
@given(updates=tokens_of_updates, later=tokens_of_updates)
def test_copy_is_independent_both_ways(contract, name, duplicate, updates, later):
    """Updating either of a cache and its copy never shows in the other."""
    cache = fill(construct(contract, name), updates)
    twin = duplicate(cache)
    before = fields(cache)
    assert fields(twin) == before
    fill(twin, later)
    assert fields(cache) == before
    before = fields(twin)
    fill(cache, later)
    assert fields(twin) == before


@CONTRACTS
@CLASSES
@PROFILE
@given(updates=tokens_of_updates, later=tokens_of_updates, limit=st.integers(2, 5))
def test_restored_state_decodes_alike(contract, name, updates, later, limit):
    """A cache rebuilt from its state holds the same and returns the same from then on."""
    cache = fill(construct(contract, name, limit=limit), updates)
    twin = rebuild(contract, cache.copy())
    assert contents(twin.state) == contents(cache.state)
    if contract is mlx_lm_0_31:
        assert twin.meta_state == cache.meta_state
    else:
        assert fields(twin) == fields(cache)
    pairs = [(rows(tokens), rows(tokens)) for tokens in later]
    assert decode(twin, pairs) == decode(cache, pairs)


@CONTRACTS
@PROFILE
@given(updates=tokens_of_updates, limit=st.one_of(st.none(), st.integers(0, 9)))
def test_chunked_state_survives_a_front_trim(contract, updates, limit):
    """State, and with it what a front trim has left, survives from_state by either name."""
    cache = fill(construct(contract, "ChunkedKVCache", limit=limit), updates)
    cache.maybe_trim_front()
    meta_state = getattr(cache, "meta_state", None)
    for name in ("ChunkedKVCache", "ChunkedKvCache"):
        twin = contract.from_state(name, cache.state, meta_state)
        assert twin.start_position == cache.start_position
        assert twin.chunk_size == cache.chunk_size
        assert contents(twin.keys) == contents(cache.state[0])
        assert contents(twin.values) == contents(cache.state[1])


@CONTRACTS
@PROFILE
@given(updates=tokens_of_updates)
def test_quantizing_leaves_the_original_alone(contract, updates):
    """to_quantized makes a cache of the contract's own class, independent of the original."""
    cache = fill(construct(contract, "KVCache"), updates)
    before = fields(cache)
    quantized = cache.to_quantized(group_size=32, bits=8)
    assert type(quantized) is contract.QuantizedKVCache
    assert type(quantized.keys) is list
    assert quantized.offset == cache.offset
    quantized.update_and_fetch(rows(1), rows(1))
    assert fields(cache) == before


@CONTRACTS
@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("KVCache", "KVCache"),
        ("KvCache", "KVCache"),
        ("StandardKvCache", "KVCache"),
        ("ConcatenateKvCache", "ConcatenateKVCache"),
    ],
)
def test_from_state_knows_the_aliases(contract, name, cls):
    """The module's from_state takes mlx-lm's class names and the Rust port's."""
    cache = fill(construct(contract, cls), [3])
    twin = contract.from_state(name, cache.state)
    assert type(twin) is getattr(contract, cls)
    assert twin.reference_class_name == cls
    assert twin.offset == 3


@CONTRACTS
@pytest.mark.parametrize("name", ["MambaCache", "dict", "", None])
def test_from_state_refuses_other_names(contract, name):
    """A name that no cache has raises a KeyError, as mlx-lm's look-up does."""
    with pytest.raises(mlxkv.UnknownCacheError) as caught:
        contract.from_state(name, (rows(1), rows(1)))
    assert isinstance(caught.value, KeyError)


def test_from_state_of_032_has_no_meta_state():
    """The 0.32 module refuses a meta_state instead of ignoring it."""
    state = fill(mlx_lm_0_32.KVCache(), [2]).state
    with pytest.raises(mlxkv.MetaStateError):
        mlx_lm_0_32.from_state("KVCache", state, ("1",))


@pytest.mark.parametrize(
    ("meta_state", "expected"),
    [(("7", "5"), (7, 5)), (("None", "3"), (None, 3)), ((4, 0), (4, 0)), (["0", "0"], (0, 0))],
)
def test_chunked_meta_state_round_trips(meta_state, expected):
    """chunk_size and start_position are decimal strings; "None" never forgets (seed test)."""
    cache = mlx_lm_0_31.ChunkedKVCache(99)
    cache.meta_state = meta_state
    assert (cache.chunk_size, cache.start_position) == expected
    assert cache.meta_state == tuple(map(str, expected))


@CONTRACTS
@CLASSES
def test_materialize_evaluates_and_changes_nothing(contract, name):
    """Materialize does nothing to an empty cache and keeps the objects of a filled one."""
    cache = construct(contract, name)
    cache.materialize()
    fill(cache, [3])
    held = leaves([cache.keys, cache.values])
    cache.materialize()
    assert all(a is b for a, b in zip(held, leaves([cache.keys, cache.values]), strict=True))
