"""A failed operation of the port changes nothing, and says what it wanted."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.port_support import CLASSES, CONTRACTS, construct, digest, leaves, snapshot

import mlxkv
from mlxkv import mlx_lm_0_31, mlx_lm_0_32

PROFILE = settings(max_examples=60, deadline=None)

HEADS, HEAD_DIM = 2, 32
counts = st.integers(0, 6)
dtypes = st.sampled_from([mx.float32, mx.float16, mx.bfloat16])


def rows(tokens, dtype=mx.float32, batch=1, heads=HEADS, head_dim=HEAD_DIM):
    shape = (batch, heads, tokens, head_dim)
    return mx.random.normal(shape).astype(dtype)


@st.composite
def used_caches(draw, contract, name):
    """A cache after a few legal operations, with steps and windows small enough to wrap."""
    cache = construct(
        contract, name, draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(0, 6))
    )
    for tokens in draw(st.lists(st.integers(0, 5), max_size=6)):
        try:
            dtype = draw(dtypes)
            cache.update_and_fetch(rows(tokens, dtype), rows(tokens, dtype))
            if name == "ChunkedKVCache" and draw(st.booleans()):
                cache.maybe_trim_front()
            if draw(st.booleans()) and cache.is_trimmable():
                cache.trim(draw(counts))
        except mlxkv.CacheError:
            break
    return cache


def array_of_rank(rank):
    return mx.zeros((1,) * rank)


@st.composite
def bad_updates(draw):
    """An update that at least some cache must refuse."""
    tokens = draw(st.integers(1, 4))
    keys = rows(tokens, heads=draw(st.integers(1, 3)), batch=draw(st.integers(1, 2)))
    kind = draw(st.sampled_from(["type", "rank", "tokens", "heads", "head_dim", "dtype", "none"]))
    values = {
        "type": None,
        "rank": array_of_rank(draw(st.sampled_from([0, 1, 2, 3, 5]))),
        "tokens": rows(draw(counts)),
        "heads": rows(tokens, heads=draw(st.integers(0, 3))),
        "head_dim": rows(tokens, head_dim=draw(st.sampled_from([0, 1, 31, 64]))),
        "dtype": rows(tokens, mx.int32),
        "none": rows(tokens),
    }[kind]
    pair = (keys, values) if draw(st.booleans()) else (values, keys)
    return lambda cache: cache.update_and_fetch(*pair)


scalars = st.sampled_from([-1, 0, 1, 3, 99, 1.5, None, "2"])
tensors = st.one_of(
    st.none(),
    st.sampled_from(["x", 3, ()]),
    st.builds(array_of_rank, st.sampled_from([0, 1, 2, 3, 4, 5])),
    st.lists(st.builds(array_of_rank, st.sampled_from([2, 4])), max_size=4),
)
bad_states = st.builds(
    lambda state: lambda cache: setattr(cache, "state", state),
    st.one_of(
        st.sampled_from([None, 7, [], "ab"]),
        st.builds(
            lambda pair, rest: [*pair, *rest], st.lists(tensors, max_size=3), st.lists(scalars)
        ),
    ),
)
bad_metas = st.builds(
    lambda meta: lambda cache: setattr(cache, "meta_state", meta),
    st.one_of(st.sampled_from([5, "ab"]), st.lists(st.sampled_from(["-1", "x", "", 1.5, None]))),
)
bad_trims = st.builds(
    lambda n: lambda cache: cache.trim(n), st.sampled_from([-1, -300, 1.5, None, "1", 1, 4])
)
bad_quantizations = st.builds(
    lambda group_size, bits: lambda cache: quantize(cache, group_size, bits),
    st.sampled_from([0, -32, 7, 64, None]),
    st.sampled_from([0, -1, 7, 33, 4]),
)


def quantize(cache, group_size, bits):
    if hasattr(cache, "to_quantized"):
        cache.to_quantized(group_size=group_size, bits=bits)


operations = st.one_of(bad_updates(), bad_states, bad_metas, bad_trims, bad_quantizations)


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_failure_changes_nothing(contract, name, data):
    """Whatever raises leaves every field, byte and object of the cache as it was."""
    cache = data.draw(used_caches(contract, name))
    operation = data.draw(operations)
    before = snapshot(cache)
    try:
        operation(cache)
    except mlxkv.CacheError:
        assert snapshot(cache) == before


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_goes_on_after_failure(contract, name, data):
    """After a failed operation a cache decodes as a twin that never saw it."""
    cache = data.draw(used_caches(contract, name))
    twin = copy.deepcopy(cache)
    operation = data.draw(operations)
    try:
        operation(cache)
    except mlxkv.CacheError:
        keys, values = rows(1), rows(1)
        outcomes = []
        for one in (cache, twin):
            try:
                outcomes.append([digest(x) for x in leaves(one.update_and_fetch(keys, values))])
            except mlxkv.CacheError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_messages_say_what_was_expected(contract, name, data):
    """Every error names the cache, the operation, what was expected and what came."""
    cache = data.draw(used_caches(contract, name))
    operation = data.draw(operations)
    raised = None
    try:
        operation(cache)
    except mlxkv.CacheError as error:
        raised = error
    if raised is not None:
        start = f"{name}.{raised.operation}: expected {raised.expected}, got "
        assert str(raised).startswith(start)
        assert raised.cache == name
        assert raised.expected
        assert raised.got


@CONTRACTS
@CLASSES
@given(data=st.data())
@PROFILE
def test_short_values_never_lose_a_row(contract, name, data):
    """With fewer value rows than key rows, an update stores both tokens or raises."""
    if name == "QuantizedKVCache":
        return
    cache = construct(contract, name, data.draw(st.integers(1, 3)), 9, 0)
    held, short = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 6))
    scalars_of = {"KVCache": (held,), "ChunkedKVCache": (held, 9, 0)}
    scalars_of["RotatingKVCache"] = (held, 0, 9, held)
    extra = scalars_of.get(name, ()) if contract is mlx_lm_0_32 else ()
    cache.state = [rows(held), rows(short), *extra]
    if contract is mlx_lm_0_31 and name == "RotatingKVCache":
        cache.meta_state = ("0", "9", str(held), str(held))
    before = snapshot(cache)
    keys, values = rows(1), rows(1)
    try:
        cache.update_and_fetch(keys, values)
    except mlxkv.LostWriteError:
        assert snapshot(cache) == before
    else:
        stored = mx.any(mx.all(cache.values == values, axis=(0, 1, 3)))
        assert stored.item()


@CONTRACTS
@CLASSES
@pytest.mark.parametrize("n", [-1, -300])
def test_negative_trim_raises(contract, name, n):
    """A negative trim would move the offset past the data, so it raises a ValueError."""
    cache = construct(contract, name, 4, 4, 0)
    cache.update_and_fetch(rows(3), rows(3))
    with pytest.raises(mlxkv.NegativeTrimError) as caught:
        cache.trim(n)
    assert isinstance(caught.value, ValueError)
    assert cache.offset == 3


@CONTRACTS
@CLASSES
@pytest.mark.parametrize("n", [1.5, None, "1", mx.array(1.5)])
def test_trim_takes_integers_only(contract, name, n):
    """Anything but an integer to trim raises a TypeError."""
    cache = construct(contract, name, 4, 4, 0)
    cache.update_and_fetch(rows(3), rows(3))
    with pytest.raises(mlxkv.NotAnIntegerError) as caught:
        cache.trim(n)
    assert isinstance(caught.value, TypeError)
    assert cache.offset == 3


@CONTRACTS
@CLASSES
@pytest.mark.parametrize(("k", "v"), [(1, 0), (0, 1), (1, 2), (2, 1), (3, 4)])
@pytest.mark.parametrize("held", [0, 1, 3])
def test_keys_and_values_of_unlike_length_raise(contract, name, k, v, held):
    """One update takes as many value tokens as key tokens, though mlx would broadcast one."""
    cache = construct(contract, name, 4, 4, 0)
    if held:
        cache.update_and_fetch(rows(held), rows(held))
    before = snapshot(cache)
    with pytest.raises(mlxkv.LengthMismatchError):
        cache.update_and_fetch(rows(k), rows(v))
    assert snapshot(cache) == before


@CONTRACTS
@pytest.mark.parametrize(("group_size", "bits"), [(0, 4), (-64, 4), (64, 0), (64, -2)])
def test_undefined_quantization_raises(contract, group_size, bits):
    """Sizes that kill the process in mlx raise before mlx sees them, wherever they come in."""
    cache = contract.KVCache()
    cache.update_and_fetch(rows(2, head_dim=64), rows(2, head_dim=64))
    before = snapshot(cache)
    with pytest.raises(mlxkv.QuantizationError):
        cache.to_quantized(group_size=group_size, bits=bits)
    assert snapshot(cache) == before
    with pytest.raises(mlxkv.QuantizationError):
        contract.QuantizedKVCache(group_size=group_size, bits=bits)
    poked = contract.QuantizedKVCache()
    poked.group_size, poked.bits = group_size, bits
    with pytest.raises(mlxkv.QuantizationError):
        poked.update_and_fetch(rows(1, head_dim=64), rows(1, head_dim=64))
    assert poked.empty()
    assert poked.offset == 0


@CONTRACTS
@pytest.mark.parametrize(("max_size", "keep"), [(0, 0), (1, 1), (4, 4), (3, 5)])
def test_ring_without_room_raises(contract, max_size, keep):
    """A ring whose kept rows leave no room raises instead of dropping tokens."""
    cache = contract.RotatingKVCache(max_size, keep)
    for _ in range(max_size):
        cache.update_and_fetch(rows(1), rows(1))
    before = snapshot(cache)
    with pytest.raises(mlxkv.LostWriteError) as caught:
        cache.update_and_fetch(rows(1), rows(1))
    assert isinstance(caught.value, ValueError)
    assert snapshot(cache) == before


@CONTRACTS
def test_full_ring_is_not_trimmable(contract):
    """A full ring refuses to trim tokens and still trims none."""
    cache = contract.RotatingKVCache(2)
    cache.update_and_fetch(rows(3), rows(3))
    with pytest.raises(mlxkv.NotTrimmableError):
        cache.trim(1)
    assert cache.trim(0) == 0
    assert (cache.offset, cache._idx) == (3, 3)


@CONTRACTS
@pytest.mark.parametrize(
    "name", ["KVCache", "RotatingKVCache", "ChunkedKVCache", "QuantizedKVCache"]
)
@pytest.mark.parametrize("step", [0, -1, -256])
def test_step_below_one_raises(contract, name, step):
    """A step that buffers cannot grow by raises a StepError."""
    cache = construct(contract, name, step, 8, 0)
    before = snapshot(cache)
    with pytest.raises(mlxkv.StepError):
        cache.update_and_fetch(rows(1), rows(1))
    assert snapshot(cache) == before


@CONTRACTS
@pytest.mark.parametrize(
    "build",
    [
        lambda m: m.ChunkedKVCache(-1),
        lambda m: m.RotatingKVCache(-1),
        lambda m: m.RotatingKVCache(4, keep=-1),
    ],
)
def test_negative_size_raises(contract, build):
    """A negative window size or chunk size raises when the cache is made."""
    with pytest.raises(mlxkv.NegativeSizeError):
        build(contract)


@CONTRACTS
def test_front_trim_past_the_tokens_raises_at_the_next_write(contract):
    """A token that would land before the first row raises (seed raw_step_buffer_semantics)."""
    cache = contract.ChunkedKVCache(4)
    cache.update_and_fetch(rows(1), rows(1))
    cache.maybe_trim_front()
    if contract is mlx_lm_0_31:
        assert (cache.offset, cache.start_position) == (1, 252)
        before = snapshot(cache)
        with pytest.raises(mlxkv.LostWriteError):
            cache.update_and_fetch(rows(1), rows(1))
        with pytest.raises(mlxkv.NotTrimmableError):
            cache.trim(1)
        assert snapshot(cache) == before
    else:
        assert (cache.offset, cache.start_position) == (1, 0)
        cache.update_and_fetch(rows(1), rows(1))


@CONTRACTS
@CLASSES
def test_empty_cache_raises_where_the_release_does(contract, name):
    """What needs stored rows raises an AttributeError on an empty cache, as mlx-lm does."""
    cache = construct(contract, name, 4, 4, 0)
    if name == "QuantizedKVCache":
        with pytest.raises(AttributeError):
            _ = cache.nbytes
    if contract is mlx_lm_0_31 and name != "ConcatenateKVCache":
        with pytest.raises(mlxkv.EmptyCacheError):
            _ = cache.state
    if contract is mlx_lm_0_32 and name != "ConcatenateKVCache":
        with pytest.raises(mlxkv.EmptyCacheError):
            cache.keys_and_values()


@CONTRACTS
def test_a_token_that_cannot_be_counted_takes_no_column(contract, monkeypatch):
    """Where memory ends as a batch counts its token, the next one goes into the same column."""
    cache = contract.BatchKVCache([0, 1])
    cache.update_and_fetch(rows(2, batch=2), rows(2, batch=2))
    before = cache._idx, cache.offset.tolist()

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("mlxkv._batch.ones_for", fail)
        with pytest.raises(MemoryError):
            cache.update_and_fetch(rows(1, batch=2), rows(1, batch=2))

    assert (cache._idx, cache.offset.tolist()) == before
