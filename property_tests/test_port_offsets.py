"""What the port's scalars, sizes, views and masks are after any legal sequence of operations."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.port_support import CONTRACTS

from mlxkv import mlx_lm_0_31, mlx_lm_0_32

PROFILE = settings(max_examples=80, deadline=None)

steps = st.integers(1, 5)
updates = st.lists(st.integers(0, 6), min_size=1, max_size=8)
trims = st.lists(st.one_of(st.integers(1, 5), st.integers(-4, -1)), max_size=8)


class Ids:
    """Rows that carry their token's id, so that what is held can be read off."""

    def __init__(self):
        self.next = 1

    def take(self, tokens, head_dim=1):
        ids = mx.arange(self.next, self.next + tokens, dtype=mx.float32)
        self.next += tokens
        return mx.broadcast_to(ids[None, None, :, None], (1, 1, tokens, head_dim))


def ids_of(array):
    return [int(x) for x in array[0, 0, :, 0].tolist()]


@CONTRACTS
@PROFILE
@given(moves=trims, step=steps)
def test_kv_offset_counts_tokens(contract, moves, step):
    """Updates add, trims take away, and the rows returned are exactly the tokens not trimmed."""
    cache, ids, tokens = contract.KVCache(), Ids(), []
    cache.step = step
    for move in moves:
        if move > 0:
            new = ids.take(move)
            tokens += ids_of(new)
            keys, values = cache.update_and_fetch(new, new + 0.0)
            assert ids_of(keys) == ids_of(values) == tokens
        else:
            trimmed = cache.trim(-move)
            assert trimmed == min(-move, len(tokens))
            tokens = tokens[: len(tokens) - trimmed]
        assert cache.offset == cache.size() == cache.rope_offset == len(tokens)
        assert cache.empty() or cache.keys.shape[2] >= cache.offset


@CONTRACTS
@PROFILE
@given(sizes=updates, step=steps)
def test_kv_capacity_grows_by_whole_steps(contract, sizes, step):
    """A growth cuts the rows to the offset, unless that is whole steps, and adds whole steps."""
    cache, ids, capacity = contract.KVCache(), Ids(), 0
    cache.step = step
    for size in sizes:
        prev = cache.offset
        new = ids.take(size)
        cache.update_and_fetch(new, new)
        if prev + size > capacity or capacity == 0:
            capacity = (prev if prev % step else capacity) + -(-size // step) * step
        assert cache.keys.shape[2] == capacity
        assert cache.nbytes == 2 * 4 * capacity


@CONTRACTS
@PROFILE
@given(sizes=updates, n=st.integers(0, 9))
def test_concatenating_keeps_every_row(contract, sizes, n):
    """The offset is the number of rows; a trim moves it and the next update moves it back."""
    cache, ids = contract.ConcatenateKVCache(), Ids()
    total = 0
    for size in sizes:
        new = ids.take(size)
        keys, _ = cache.update_and_fetch(new, new)
        total += size
        assert keys is cache.keys
        assert cache.offset == keys.shape[2] == total
    assert ids_of(cache.keys) == list(range(1, total + 1))
    assert cache.trim(n) == min(n, total)
    assert cache.offset == total - min(n, total)
    cache.update_and_fetch(ids.take(1), ids.take(1))
    assert cache.offset == total + 1
    assert cache.size() == 0


@CONTRACTS
@PROFILE
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=10),
    step=steps,
    max_size=st.integers(1, 5),
    keep=st.integers(0, 3),
)
def test_ring_holds_the_last_tokens(contract, sizes, step, max_size, keep):
    """After any update the ring holds the kept tokens and the most recent ones, no others."""
    keep = min(keep, max_size - 1)
    cache, ids, order = contract.RotatingKVCache(max_size, keep), Ids(), []
    cache.step = step
    for size in sizes:
        new = ids.take(size)
        dropped = max(0, len(order) - (max_size - 1))
        order = order[:keep] + order[keep + dropped :] + ids_of(new)
        keys, values = cache.update_and_fetch(new, new + 0.0)
        assert sorted(ids_of(keys)) == sorted(ids_of(values)) == order
        assert cache.offset == ids.next - 1
        assert cache.size() == min(cache.offset, max_size)
        assert cache.is_trimmable() == (cache.offset < max_size)
        assert 0 <= cache._idx <= cache.keys.shape[2]


@CONTRACTS
@PROFILE
@given(first=st.integers(1, 4), n=st.integers(0, 6))
def test_unfilled_ring_trims(contract, first, n):
    """Before it is full a ring trims as a standard cache does, offset and cursor together."""
    cache, ids = contract.RotatingKVCache(5), Ids()
    new = ids.take(first)
    cache.update_and_fetch(new, new)
    assert cache.trim(n) == min(n, first)
    assert cache.offset == cache._idx == first - min(n, first)


@PROFILE
@given(sizes=updates, step=steps, chunk=st.one_of(st.none(), st.integers(0, 6)))
def test_chunked_032_keeps_the_last_chunk(sizes, step, chunk):
    """In 0.32 a front trim leaves the last chunk_size tokens; position minus start is the row."""
    cache, ids, tokens = mlx_lm_0_32.ChunkedKVCache(chunk), Ids(), []
    cache.step = step
    for size in sizes:
        new = ids.take(size)
        tokens += ids_of(new)
        keys, _ = cache.update_and_fetch(new, new)
        assert ids_of(keys) == tokens
        cache.maybe_trim_front()
        if chunk is not None:
            tokens = tokens[max(0, len(tokens) - chunk) :]
        assert cache.offset - cache.start_position == len(tokens)
        assert ids_of(cache.keys_and_values()[0]) == tokens


@PROFILE
@given(held=st.integers(0, 9), short=st.integers(0, 9), chunk=st.integers(0, 9))
def test_chunked_031_trims_each_buffer_by_its_own_rows(held, short, chunk):
    """In 0.31 a front trim keeps each buffer's last rows; the keys' rows move start_position."""
    cache, ids = mlx_lm_0_31.ChunkedKVCache(chunk), Ids()
    keys, values = ids.take(held), ids.take(short)
    cache.state = [keys, values]
    cache.maybe_trim_front()
    trims = held >= chunk
    assert cache.start_position == (held - chunk if trims else 0)
    assert cache.offset == held
    assert ids_of(cache.keys) == (ids_of(keys)[-chunk:] if trims else ids_of(keys))
    assert ids_of(cache.values) == (ids_of(values)[-chunk:] if trims else ids_of(values))


@CONTRACTS
@PROFILE
@given(first=st.integers(0, 6), n=st.integers(0, 9), chunk=st.integers(0, 9))
def test_chunked_trims_what_it_holds(contract, first, n, chunk):
    """A trim takes no more than the tokens since start_position, and leaves that alone."""
    cache, ids = contract.ChunkedKVCache(chunk), Ids()
    cache.step = 1
    new = ids.take(first)
    cache.update_and_fetch(new, new)
    cache.maybe_trim_front()
    start = cache.start_position
    held = cache.offset - start
    assert cache.trim(n) == min(n, held)
    assert cache.offset == first - min(n, held)
    assert cache.start_position == start
    assert cache.size() == 0


@CONTRACTS
@PROFILE
@given(moves=trims, step=steps)
def test_quantized_offset_counts_tokens(contract, moves, step):
    """The quantized cache counts as the standard one; every part has as many rows."""
    cache, ids, offset = contract.QuantizedKVCache(group_size=32), Ids(), 0
    cache.step = step
    for move in moves:
        if move > 0:
            new = ids.take(move, head_dim=32)
            keys, values = cache.update_and_fetch(new, new)
            offset += move
            assert {part.shape[2] for part in (*keys, *values)} == {offset}
        else:
            offset -= cache.trim(-move)
        assert cache.offset == offset >= 0


@CONTRACTS
@PROFILE
@given(size=st.integers(1, 4), step=st.integers(1, 4), capacity=st.sampled_from(["full", "spare"]))
def test_full_buffers_are_views_in_031_and_themselves_in_032(contract, size, step, capacity):
    """What an update returns when the buffer is full is a view in 0.31 and the buffer in 0.32."""
    cache, ids = contract.KVCache(), Ids()
    cache.step = size * step if capacity == "full" else size * step + 1
    new = ids.take(size * step)
    keys, values = cache.update_and_fetch(new, new)
    is_buffer = contract is mlx_lm_0_32 and capacity == "full"
    assert (keys is cache.keys) == is_buffer
    assert (values is cache.values) == is_buffer


@CONTRACTS
@pytest.mark.parametrize("name", ["RotatingKVCache", "ConcatenateKVCache"])
def test_first_rows_are_the_callers_own(contract, name):
    """The first update of several tokens stores the caller's arrays themselves."""
    cls = getattr(contract, name)
    cache = cls(8) if name == "RotatingKVCache" else cls()
    keys, values = Ids().take(3), Ids().take(3)
    returned = cache.update_and_fetch(keys, values)
    assert returned[0] is cache.keys is keys
    assert returned[1] is cache.values is values


@CONTRACTS
@PROFILE
@given(
    offset=st.integers(0, 5),
    n=st.integers(0, 5),
    window_size=st.one_of(st.none(), st.integers(1, 6)),
    return_array=st.booleans(),
)
def test_standard_masks_count_the_offset(contract, offset, n, window_size, return_array):
    """Standard, concatenating, quantized and chunked caches mask alike, offset counted in."""
    made = [
        contract.KVCache(),
        contract.ConcatenateKVCache(),
        contract.ChunkedKVCache(4),
        contract.QuantizedKVCache(),
    ]
    for cache in made:
        cache.offset = offset
        mask = cache.make_mask(n, return_array=return_array, window_size=window_size)
        if window_size is None and n == 1:
            assert mask is None
        elif window_size is None and not return_array:
            assert mask == "causal"
        else:
            reach = window_size or offset + n
            assert mask.tolist() == [
                [query - reach < key <= query for key in range(offset + n)]
                for query in range(offset, offset + n)
            ]


@CONTRACTS
@PROFILE
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    max_size=st.integers(2, 6),
    window_size=st.integers(1, 6),
)
def test_ring_mask_shows_the_last_tokens(contract, sizes, max_size, window_size):
    """For one token and a smaller window, the ring's mask shows exactly the window's tokens."""
    cache, ids = contract.RotatingKVCache(max_size), Ids()
    for size in (*sizes, 1):  # a single token last: it ends a buffer longer than max_size
        new = ids.take(size)
        cache.update_and_fetch(new, new + 0.0)
    mask = cache.make_mask(1, window_size=window_size)
    new = ids.take(1)
    keys, _ = cache.update_and_fetch(new, new + 0.0)
    newest = ids.next - 1
    if mask is None:
        assert window_size >= min(max_size, newest)
    else:
        seen = [x for x, shown in zip(ids_of(keys), mask.tolist(), strict=True) if shown]
        assert sorted(seen) == list(range(newest - window_size + 1, newest + 1))
