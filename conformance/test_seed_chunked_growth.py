"""How a chunked cache grows and forgets, as the seed's Rust port has it, on 0.31.3.

Scenarios and values are those of seeds/000_72ceb988708f82f3.txt; each test names its own there.
What can be seen on mlx-lm itself is a trace in `traces/seed` too, and runs in lockstep.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from conformance.seed_support import assert_holds, restored, rows

# Updates ----------------------------------------------------------------------------------------


def test_new_cache_is_empty(port: Any) -> None:
    """A new cache is empty, at offset 0, without bytes (chunked_single_token_growth)."""
    cache = port.ChunkedKVCache(chunk_size=4)

    assert cache.empty()
    assert (cache.keys, cache.values) == (None, None)
    assert cache.offset == 0
    assert cache.nbytes == 0
    assert cache.meta_state == ("4", "0")


def test_single_tokens_grow_one_buffer(port: Any) -> None:
    """Tokens that come singly add up in one buffer of 256 rows (chunked_single_token_growth)."""
    cache = port.ChunkedKVCache(chunk_size=4)

    for token in range(4):
        keys, values = cache.update_and_fetch(rows(token), rows(token))

        assert cache.offset == token + 1
        assert_holds(keys, *range(token + 1))
        assert_holds(values, *range(token + 1))

    assert not cache.empty()
    assert cache.meta_state == ("4", "0")
    for buffer in (cache.keys, cache.values):
        assert_holds(buffer, 0, 1, 2, 3, *[0] * 252)


def test_rope_offset_is_the_offset(port: Any) -> None:
    """The position of the next token is one number for all rows (chunked_single_token_growth)."""
    cache = port.ChunkedKVCache(chunk_size=4)
    for token in range(4):
        cache.update_and_fetch(rows(token), rows(token))

    assert type(cache.rope_offset) is int
    assert cache.rope_offset == 4


def test_prefill_may_cross_a_chunk_boundary(port: Any) -> None:
    """An update longer than a chunk is stored whole (chunked_multi_token_spans_chunk_boundary)."""
    cache = port.ChunkedKVCache(chunk_size=4)

    keys, values = cache.update_and_fetch(rows(0, 1, 2, 3, 4), rows(0, 1, 2, 3, 4))

    assert cache.offset == 5
    assert_holds(keys, 0, 1, 2, 3, 4)
    assert_holds(values, 0, 1, 2, 3, 4)
    assert cache.keys.shape == cache.values.shape == (1, 1, 256, 1)
    assert cache.meta_state == ("4", "0")


def test_batch_of_one_broadcasts_into_a_full_window(port: Any) -> None:
    """One row written over the whole buffer of a batch of two goes to both, and the buffer stays a
    batch of two (chunked_set_seq_full_window_broadcasts_size_one_rhs).
    """
    cache = port.ChunkedKVCache(chunk_size=None)
    batch = rows(10, 20, shape=(2, 1, 1, 1))
    cache.state = batch, batch
    assert cache.offset == 1
    cache.trim(1)
    assert cache.offset == 0

    for array in cache.update_and_fetch(rows(99), rows(99)):
        assert_holds(array, 99, 99, shape=(2, 1, 1, 1))
    assert cache.offset == 1

    batch = rows(7, 8, shape=(2, 1, 1, 1))
    for array in cache.update_and_fetch(batch, batch):
        assert_holds(array, 99, 7, 99, 8, shape=(2, 1, 2, 1))
    assert cache.offset == 2


# Front trim -------------------------------------------------------------------------------------


def test_front_trim_keeps_the_last_chunk(trimmed: Any) -> None:
    """The last four of six rows stay, and start_position moves while the offset does not
    (chunked_maybe_trim_front_then_update).
    """
    assert trimmed.offset == 6
    assert trimmed.meta_state == ("4", "2")
    for array in (*trimmed.state, trimmed.keys, trimmed.values):
        assert_holds(array, 2, 3, 4, 5)


def test_update_goes_on_behind_a_front_trim(trimmed: Any) -> None:
    """The next token comes behind the rows that are left, in a buffer grown by 256
    (chunked_maybe_trim_front_then_update).
    """
    keys, values = trimmed.update_and_fetch(rows(6), rows(6))

    assert trimmed.offset == 7
    assert trimmed.meta_state == ("4", "2")
    assert_holds(keys, 2, 3, 4, 5, 6)
    assert_holds(values, 2, 3, 4, 5, 6)
    for buffer in (trimmed.keys, trimmed.values):
        assert_holds(buffer, 2, 3, 4, 5, 6, *[0] * 255)


@pytest.mark.parametrize("token", [0, 9])
def test_front_trim_counts_spare_rows(port: Any, token: int) -> None:
    """A fresh buffer of 256 rows with one token is cut to its last four, which are spare
    (chunked_maybe_trim_front_raw_step_buffer_semantics).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    # The seed's token 0 cannot be told from a spare row; token 9 can.
    cache.update_and_fetch(rows(token), rows(token))

    cache.maybe_trim_front()

    assert cache.offset == 1
    assert cache.meta_state == ("4", "252")
    for array in cache.state:
        assert_holds(array, 0)
    for buffer in (cache.keys, cache.values):
        assert_holds(buffer, 0, 0, 0, 0)


def test_front_trim_of_less_than_a_chunk_does_nothing(port: Any) -> None:
    """Four rows are fewer than a chunk of eight (chunked_maybe_trim_front_noop_paths)."""
    cache = restored(port, 8, 0, 1, 2, 3)

    cache.maybe_trim_front()

    assert cache.offset == 4
    assert cache.meta_state == ("8", "0")
    assert_holds(cache.keys, 0, 1, 2, 3)
    assert_holds(cache.values, 0, 1, 2, 3)


def test_front_trim_without_a_chunk_size_does_nothing(port: Any) -> None:
    """A chunk size of None, as mlx-swift-lm has it, never forgets a row
    (chunked_maybe_trim_front_noop_paths).
    """
    # mlx-lm accepts None, and shows it in meta_state, but its front trim raises TypeError.
    cache = restored(port, None, 0, 1, 2, 3, 4, 5)
    assert cache.meta_state == ("None", "0")

    cache.maybe_trim_front()

    assert cache.offset == 6
    assert cache.meta_state == ("None", "0")
    assert_holds(cache.keys, 0, 1, 2, 3, 4, 5)
    assert_holds(cache.values, 0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("values", "left"),
    [(range(20, 30), (26, 27, 28, 29)), ((40, 41, 42), (40, 41, 42))],
    ids=["longer", "shorter-than-a-chunk"],
)
def test_front_trim_cuts_values_by_their_own_length(port: Any, values: Any, left: Any) -> None:
    """Values of another length than the keys keep their own last rows, and start_position follows
    the keys (chunked_maybe_trim_front_seq_mismatched_kv_trims_each_independently).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    cache.state = rows(*range(10, 16)), rows(*values)
    assert cache.offset == 6
    assert cache.meta_state == ("4", "0")

    cache.maybe_trim_front()

    assert cache.offset == 6
    assert cache.meta_state == ("4", "2")
    for keys in (cache.state[0], cache.keys):
        assert_holds(keys, 12, 13, 14, 15)
    for array in (cache.state[1], cache.values):
        assert_holds(array, *left)


def test_front_trim_with_chunk_size_zero_keeps_every_row(port: Any) -> None:
    """A chunk size of 0 keeps all rows, as a slice from -0 does, and moves start_position past them
    (chunked_maybe_trim_front_chunk_size_zero_is_python_neg_zero_noop).
    """
    cache = port.ChunkedKVCache(chunk_size=0)
    cache.state = rows(10, 11, 12, 13), rows(20, 21, 22, 23)
    assert cache.offset == 4
    assert cache.meta_state == ("0", "0")

    cache.maybe_trim_front()

    assert cache.offset == 4
    assert cache.meta_state == ("0", "4")
    for keys in (cache.state[0], cache.keys):
        assert_holds(keys, 10, 11, 12, 13)
    for values in (cache.state[1], cache.values):
        assert_holds(values, 20, 21, 22, 23)


def test_front_trim_with_chunk_size_zero_from_meta_state(port: Any) -> None:
    """A chunk size of 0 that was restored acts as a constructed one
    (chunked_maybe_trim_front_chunk_size_zero_is_python_neg_zero_noop).
    """
    cache = port.ChunkedKVCache(chunk_size=99)
    cache.state = rows(100, 101, 102), rows(200, 201, 202)
    cache.meta_state = ["0", "0"]
    assert cache.meta_state == ("0", "0")

    cache.maybe_trim_front()

    assert cache.offset == 3
    assert cache.meta_state == ("0", "3")
    assert_holds(cache.keys, 100, 101, 102)
    assert_holds(cache.values, 200, 201, 202)


# Trim -------------------------------------------------------------------------------------------


def test_trim_stops_at_the_start_position(trimmed: Any) -> None:
    """A trim takes tokens from the end, none from before start_position, and no byte
    (chunked_is_trimmable_and_trim).
    """
    assert trimmed.is_trimmable() is True

    assert trimmed.trim(3) == 3
    assert trimmed.offset == 3
    assert trimmed.meta_state == ("4", "2")

    assert trimmed.trim(10) == 1
    assert trimmed.offset == 2
    assert trimmed.meta_state == ("4", "2")
    assert_holds(trimmed.keys, 2, 3, 4, 5)
    assert_holds(trimmed.values, 2, 3, 4, 5)


# Mask -------------------------------------------------------------------------------------------
# mlx-lm's chunked cache has no make_mask: its `create_attention_mask` then knows no offset, and an
# array for two tokens after three cached ones is (2, 2), not (2, 5).


@pytest.mark.parametrize(("tokens", "mask"), [(1, None), (3, "causal")])
def test_mask_is_symbolic_where_it_can_be(port: Any, tokens: int, mask: str | None) -> None:
    """One token needs no mask, and several the causal one (chunked_make_mask)."""
    cache = restored(port, 4, 0, 1, 2)
    assert cache.offset == 3

    assert cache.make_mask(tokens) == mask


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"N": 2, "return_array": True}, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
        (
            {"N": 3, "window_size": 2},
            [[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]],
        ),
    ],
    ids=["array", "window"],
)
def test_mask_array_covers_the_cached_tokens(port: Any, arguments: Any, expected: Any) -> None:
    """An array that is asked for, or that a window needs, also covers the cached tokens
    (chunked_make_mask).
    """
    cache = restored(port, 4, 0, 1, 2)

    mask = cache.make_mask(**arguments)

    assert mask.dtype == mx.bool_
    assert mask.tolist() == expected
