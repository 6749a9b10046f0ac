"""Caches of arrays, of caches and of tokens: a failure changes nothing in any of them."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.port_support import CONTRACTS

import mlxkv
from mlxkv import mlx_lm_0_31, mlx_lm_0_32

PROFILE = settings(max_examples=60, deadline=None)

batches = st.integers(1, 3)
dtypes = st.sampled_from([mx.float32, mx.float16, mx.bfloat16, mx.int32])


def rows(tokens, batch=1):
    return mx.random.normal((batch, 2, tokens, 4))


def digest(tree):
    """Every scalar, and shape, dtype and bytes of every array, of a tree of caches."""
    if isinstance(tree, mx.array):
        return tree.shape, tree.dtype, bytes(memoryview(tree)) if tree.size else b""
    if isinstance(tree, list | tuple):
        return type(tree), [digest(branch) for branch in tree]
    if isinstance(tree, dict):
        return {name: digest(branch) for name, branch in tree.items()}
    return digest(vars(tree)) if hasattr(tree, "__dict__") else tree


def identities(tree):
    """Which object is where, in a tree of caches."""
    if isinstance(tree, list | tuple):
        return id(tree), [identities(branch) for branch in tree]
    if hasattr(tree, "__dict__") and not isinstance(tree, mx.array):
        return id(tree), {name: identities(branch) for name, branch in vars(tree).items()}
    return id(tree)


def snapshot(*caches):
    return [(identities(cache), digest(cache)) for cache in caches]


def fill(cache, batch, tokens, dtype=mx.float32):
    """Store something in a cache, or in every child."""
    if hasattr(cache, "caches"):
        for child in cache.caches:
            fill(child, batch, tokens, dtype)
    elif hasattr(cache, "cache"):
        for slot in range(len(cache.cache)):
            cache[slot] = mx.random.normal((batch, 3 + slot)).astype(dtype)
    elif tokens:
        cache.update_and_fetch(rows(tokens, batch), rows(tokens, batch))
    return cache


def empty_cache(contract, kind, batch):
    padding = list(range(batch))
    return {
        "arrays": lambda: contract.ArraysCache(2, padding),
        "slots": lambda: contract.ArraysCache(3),
        "batch": lambda: contract.BatchKVCache(padding),
        "ring": lambda: contract.BatchRotatingKVCache(4, padding),
        "standard": contract.KVCache,
        "rotating": lambda: contract.RotatingKVCache(4),
        "nothing": contract.CacheList,
    }[kind]()


KINDS = ["arrays", "slots", "batch", "ring", "standard", "rotating", "nothing"]


@st.composite
def lists(draw, contract, batch, depth=2):
    """A list of mixed children, nested, each empty or filled."""
    children = []
    for kind in draw(st.lists(st.sampled_from([*KINDS, "list"]), min_size=1, max_size=3)):
        if kind == "list" and depth:
            children.append(draw(lists(contract, batch, depth - 1)))
        elif kind != "list":
            child = empty_cache(contract, kind, batch)
            children.append(fill(child, batch, draw(st.integers(0, 5)), draw(dtypes)))
    return contract.CacheList(*children)


@st.composite
def arrays(draw, contract, batch):
    """A cache of arrays, some slots empty, with or without paddings."""
    cache = contract.ArraysCache(draw(st.integers(0, 3)), [2] * batch * draw(st.integers(0, 1)))
    for slot in range(len(cache.cache)):
        shape = draw(st.sampled_from([(batch, 2), (batch, 2), (batch, 1, 3), (batch + 1, 2), ()]))
        if draw(st.booleans()):
            cache[slot] = mx.random.normal(shape).astype(draw(dtypes))
    if draw(st.booleans()):
        cache.prepare([3] * batch)
    return cache


odd = st.sampled_from(
    [None, -1, 0, 1, 2, 99, 1.5, "a", True, 2**31, 2**70, [], (0,), [0, 5], [1.5]]
)
paddings = st.sampled_from([None, [1], [1, 2], [2, 0, 1], [-1], "ab", 3])
operations = st.one_of(
    st.builds(lambda n: lambda a, _: a.filter(n), st.one_of(odd, st.lists(st.integers(-4, 4)))),
    st.builds(lambda n: lambda a, _: a.extract(n), odd),
    st.builds(lambda n: lambda a, _: a.trim(n), odd),
    st.builds(lambda n: lambda a, _: a.advance(n), odd),
    st.builds(lambda n: lambda a, _: a.make_mask(n), odd),
    st.builds(lambda n: lambda a, _: a[n], odd),
    st.builds(lambda n: lambda a, _: a.__setitem__(n, mx.zeros((1, 2))), odd),
    st.builds(lambda n: lambda a, _: setattr(a, "state", n), odd),
    st.builds(lambda n: lambda a, _: setattr(a, "state", [n, n, n]), odd),
    st.builds(lambda n: lambda a, _: setattr(a, "meta_state", (n, [n, n])), odd),
    st.builds(lambda p, q: lambda a, _: a.prepare(lengths=p, right_padding=q), paddings, paddings),
    st.builds(lambda p: lambda a, _: a.prepare(left_padding=p), paddings),
    st.just(lambda a, b: a.extend(b)),
    st.just(lambda a, b: type(a).merge([a, b])),
    st.just(lambda a, b: setattr(a, "state", b.state)),
    st.just(lambda a, _: a.finalize()),
    st.just(lambda a, _: a.size()),
)


def check_unchanged(operation, one, other):
    """Run it; what raises must leave both, and every handle taken before, as they were."""
    handles = copy.copy([*vars(one).values(), *vars(other).values()])
    before = snapshot(one, other, handles)
    try:
        operation(one, other)
    except AttributeError:  # The class has no such operation, or a child has not.
        assert snapshot(one, other, handles) == before
    except mlxkv.CacheError as error:
        assert snapshot(one, other, handles) == before
        start = f"{error.cache}.{error.operation}: expected {error.expected}, got "
        said = str(error)
        assert said.startswith(start)


@CONTRACTS
@PROFILE
@given(data=st.data(), batch=batches, peer=batches, operation=operations)
def test_failure_of_a_list_changes_no_child(contract, data, batch, peer, operation):
    """Whatever raises leaves a list, its peer and all their children as they were."""
    one, other = data.draw(lists(contract, batch)), data.draw(lists(contract, peer))
    if data.draw(st.booleans()):
        other = fill(copy.deepcopy(one), batch, 0)
    check_unchanged(operation, one, other)


@CONTRACTS
@PROFILE
@given(data=st.data(), batch=batches, peer=batches, operation=operations)
def test_failure_of_arrays_changes_nothing(contract, data, batch, peer, operation):
    """Whatever raises leaves a cache of arrays and its peer as they were."""
    one, other = data.draw(arrays(contract, batch)), data.draw(arrays(contract, peer))
    check_unchanged(operation, one, other)


@CONTRACTS
@PROFILE
@given(data=st.data(), n=st.integers(-2, 9))
def test_trimming_all_layers_is_one_operation(contract, data, n):
    """Where one layer cannot be trimmed, no layer is."""
    layers = [data.draw(lists(contract, 1)) for _ in range(data.draw(st.integers(0, 3)))]
    layers.append(fill(contract.KVCache(), 1, 3))
    before, twins = snapshot(*layers), copy.deepcopy(layers)
    try:
        trimmed = contract.trim_prompt_cache(layers, n)
    except mlxkv.CacheError:
        assert snapshot(*layers) == before
    else:
        possible = contract.can_trim_prompt_cache(twins)
        assert trimmed == ([twin.trim(n) for twin in twins][0] if possible else 0)  # noqa: RUF015
        assert digest(layers) == digest(twins)


@CONTRACTS
@pytest.mark.parametrize("indices", [[3], [0, 3], [-4], [2**40], [0, -9]])
@pytest.mark.parametrize("kind", ["arrays", "batch", "ring"])
@pytest.mark.parametrize("wrap", ["bare", "list", "nested", "array"])
def test_filter_out_of_range_raises(contract, indices, kind, wrap):
    """A row outside the batch raises an IndexError where mlx reads past the buffer."""
    cache = fill(empty_cache(contract, kind, 3), 3, 2)
    if wrap == "list":
        cache = contract.CacheList(fill(contract.ArraysCache(1), 4, 0), cache)
    if wrap == "nested":
        cache = contract.CacheList(contract.CacheList(cache))
    before = snapshot(cache)
    with pytest.raises(mlxkv.RowIndexError) as caught:
        cache.filter(mx.array(indices) if wrap == "array" else indices)
    assert isinstance(caught.value, IndexError)
    assert snapshot(cache) == before


@CONTRACTS
def test_failed_prepare_undoes_what_was_added_in_place(contract):
    """A handle on the padding of an earlier child shows the old numbers again."""
    first, second = contract.BatchKVCache([1, 2]), contract.BatchKVCache([0, 1])
    second.update_and_fetch(rows(1, 2), rows(1, 2))
    cache = contract.CacheList(contract.CacheList(first), second)
    handle = first.left_padding
    before = snapshot(cache)
    with pytest.raises(mlxkv.NotEmptyError):
        cache.prepare(left_padding=[3, 4])
    assert handle is first.left_padding
    assert handle.tolist() == [1, 2]
    assert snapshot(cache) == before


@CONTRACTS
def test_failed_trim_gives_back_what_was_trimmed(contract):
    """Trimming a list gives its earlier children their tokens back when a later one refuses."""
    cache = contract.CacheList(contract.KVCache(), contract.RotatingKVCache(3))
    fill(cache, 1, 5)
    before = snapshot(cache)
    with pytest.raises(mlxkv.NotTrimmableError):
        cache.trim(2)
    assert snapshot(cache) == before


@CONTRACTS
def test_trim_answers_for_the_last_child_and_the_first_layer(contract):
    """A list returns what its last child forgot, trimming all layers what the first did."""
    short, long = fill(contract.KVCache(), 1, 1), fill(contract.KVCache(), 1, 4)
    assert contract.CacheList(short, long).trim(3) == 3
    assert (short.offset, long.offset) == (0, 1)
    assert contract.trim_prompt_cache([short, long], 1) == 0
    assert contract.trim_prompt_cache([], 1) == 0


@CONTRACTS
@pytest.mark.parametrize(
    ("operation", "builtin"),
    [
        (lambda cache: cache.trim(1), UnboundLocalError),
        (lambda cache: cache.size(), ValueError),
        (lambda cache: cache.empty(), IndexError),
        (lambda cache: type(cache).merge([]), IndexError),
    ],
)
def test_list_without_children(contract, operation, builtin):
    """What needs a child raises a NothingError, and what does not is harmless."""
    cache = contract.CacheList()
    with pytest.raises(mlxkv.NothingError) as caught:
        operation(cache)
    assert isinstance(caught.value, builtin)
    assert cache.is_trimmable()
    assert cache.nbytes == 0
    cache.filter([0])
    assert cache.extract(0).caches == ()
    assert contract.CacheList.merge([cache, cache]).caches == ()


@CONTRACTS
@pytest.mark.parametrize(
    "operation", ["filter", "extract", "extend", "prepare", "finalize", "trim"]
)
def test_children_without_the_operation(contract, operation):
    """A list says that a child lacks the operation, after undoing the others."""
    bare = contract.ArraysCache(1) if operation == "trim" else contract.KVCache()
    cache = contract.CacheList(fill(empty_cache(contract, "arrays", 2), 2, 0), bare)
    arguments = {"finalize": (), "extend": (cache,), "prepare": (), "filter": ([0],)}
    keywords = {"prepare": {"lengths": [1, 2]}}
    before = snapshot(cache)
    with pytest.raises(mlxkv.UnsupportedError) as caught:
        getattr(cache, operation)(*arguments.get(operation, (0,)), **keywords.get(operation, {}))
    assert isinstance(caught.value, AttributeError)
    assert snapshot(cache) == before


@CONTRACTS
@pytest.mark.parametrize("name", ["ArraysCache", "CacheList"])
def test_absent_operations_are_absent(contract, name):
    """The attributes that mlx-lm asks for with hasattr are those of mlx-lm's classes."""
    cache = getattr(contract, name)(2) if name == "ArraysCache" else contract.CacheList()
    wanted = {"merge", "filter", "extend", "extract", "prepare", "finalize", "size", "nbytes"}
    wanted |= {"make_mask", "advance"} if name == "ArraysCache" else {"trim"}
    asked = ["keys", "values", "offset", "bits", "to_quantized", "update_and_fetch", "trim"]
    asked += ["make_mask", "advance", "keys_and_values", *wanted]
    found = {name for name in asked if hasattr(cache, name)} - {"nbytes"}
    assert found == wanted - {"nbytes"}


@CONTRACTS
@PROFILE
@given(batch=st.integers(2, 4), slots=st.integers(1, 3), dtype=dtypes)
def test_merging_extracted_rows_gives_the_batch_back(contract, batch, slots, dtype):
    """The rows of a list, taken out one by one and merged, are the batch again, byte for byte."""
    arrays_of = fill(contract.ArraysCache(slots), batch, 0, dtype)
    cache = contract.CacheList(arrays_of, contract.CacheList(arrays_of))
    merged = contract.CacheList.merge([cache.extract(i) for i in range(batch)])
    assert type(merged.caches) is tuple
    assert digest(merged) == digest(cache)


@CONTRACTS
@PROFILE
@given(batch=batches, data=st.data())
def test_filter_keeps_the_rows_named(contract, batch, data):
    """Filtering by a list, an array or a slice keeps those rows of slots and paddings."""
    cache = fill(empty_cache(contract, "arrays", batch), batch, 0)
    picked = data.draw(st.lists(st.integers(-batch, batch - 1), min_size=1, max_size=5))
    held = [array.tolist() for array in (*cache.cache, cache.left_padding) if array is not None]
    twin = copy.deepcopy(cache)
    cache.filter(picked)
    twin.filter(mx.array(picked))
    assert digest(cache) == digest(twin)
    kept = [array.tolist() for array in (*cache.cache, cache.left_padding) if array is not None]
    assert kept == [[array[row] for row in picked] for array in held]


@CONTRACTS
def test_merge_of_unlike_arrays(contract):
    """A slot that all lack, or that does not fit, raises; a slot that some lack is zeros."""
    one, other = contract.ArraysCache(2), contract.ArraysCache(2)
    one[0] = mx.ones((1, 2))
    with pytest.raises(mlxkv.MissingSlotError) as caught:
        contract.ArraysCache.merge([one, other])
    assert isinstance(caught.value, StopIteration)
    with pytest.raises(mlxkv.MissingSlotError) as caught:
        contract.CacheList.merge([contract.CacheList(one), contract.CacheList(other)])
    assert isinstance(caught.value, RuntimeError)
    other[1] = mx.ones((1, 3), mx.float16)
    merged = contract.ArraysCache.merge([one, other])
    assert [slot.tolist() for slot in merged.cache] == [[[1, 1], [0, 0]], [[0, 0, 0], [1, 1, 1]]]
    for shape in [(1, 1), (2,), (2, 2), (1, 1, 2), (0, 2), ()]:
        other[0] = mx.ones(shape)
        with pytest.raises(mlxkv.SlotShapeError):
            contract.ArraysCache.merge([one, other])
    with pytest.raises(mlxkv.CountError):
        contract.ArraysCache.merge([one, contract.ArraysCache(3)])


@CONTRACTS
def test_arrays_hand_out_their_own_objects(contract):
    """The state is the live list, and advancing shows in handles on the paddings."""
    cache = contract.ArraysCache(2, [1, 2])
    cache.prepare([4, 5])
    handles = cache.left_padding, cache.lengths
    state = cache.state if contract is mlx_lm_0_31 else cache.state[0]
    cache[1] = value = mx.zeros((2, 1))
    assert state[1] is value
    assert cache[1:] == [value]
    cache.advance(3)
    assert [handle.tolist() for handle in handles] == [[-2, -1], [1, 2]]
    with pytest.raises(mlxkv.EmptySlotError) as caught:
        cache.extract(0)
    assert isinstance(caught.value, TypeError)


@CONTRACTS
def test_masks_of_both_paddings(contract):
    """With left padding set, 0.31 leaves the lengths out of the mask and 0.32 combines them."""
    cache = contract.ArraysCache(1, [1, 0])
    cache.prepare([2, 1])
    lengths = contract is mlx_lm_0_32
    assert cache.make_mask(3).tolist() == [[False, True, not lengths], [True, *[not lengths] * 2]]
    cache.finalize()
    assert cache.make_mask(3) is None


@CONTRACTS
@PROFILE
@given(first=st.lists(st.integers(0, 9)), later=st.lists(st.lists(st.integers(0, 9)), max_size=5))
def test_token_buffer_holds_all_tokens(contract, first, later):
    """What was appended comes back, from a buffer of whole steps; a failure changes nothing."""
    buffer = contract.TokenBuffer(first)
    buffer.step = 4
    for held, tokens in zip(itertools.accumulate([first, *later]), [[], *later], strict=True):
        returned = buffer.update_and_fetch(mx.array(tokens, mx.uint32))
        assert returned.tolist() == buffer.tokens.tolist() == held
        assert buffer.state is buffer._buffer
        before = snapshot(buffer)
        for bad in ([1], None, mx.array(1), mx.array([1.5]), mx.zeros((2, 2), mx.int32)):
            with pytest.raises(mlxkv.TokensError):
                buffer.update_and_fetch(bad)
        assert snapshot(buffer) == before


@CONTRACTS
def test_caches_of_a_model(contract):
    """A model's own caches, else standard ones, else rings that keep the first four tokens."""
    model = SimpleNamespace(layers=[0, 1])
    assert [type(cache) for cache in contract.make_prompt_cache(model)] == [contract.KVCache] * 2
    ring = contract.make_prompt_cache(model, max_kv_size=8)[1]
    assert (type(ring), ring.max_size, ring.keep) == (contract.RotatingKVCache, 8, 4)
    own = [contract.CacheList()]
    model.make_cache = lambda: own
    assert contract.make_prompt_cache(model, 8) is own


@CONTRACTS
def test_row_is_extracted_by_any_integer(contract):
    """An index that is no int, but stands for one, names its row like an int."""
    cache = contract.ArraysCache(1)
    cache[0] = mx.array([[1], [2]])

    for row in (0, 1, -2):
        assert cache.extract(np.int64(row))[0].tolist() == cache.extract(row)[0].tolist()
