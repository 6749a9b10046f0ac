"""How a chunked cache is saved, restored and copied, as the seed's Rust port has it, on 0.31.3.

Scenarios and values are those of seeds/000_72ceb988708f82f3.txt; each test names its own there.
What can be seen on mlx-lm itself is a trace in `traces/seed` too, and runs in lockstep.
"""

from __future__ import annotations

from typing import Any

import pytest
from conformance.seed_support import assert_holds, refused, restored, rows

# State ------------------------------------------------------------------------------------------


def test_state_is_cut_to_the_valid_rows(port: Any) -> None:
    """The state of a buffer with spare rows holds the three that are valid
    (chunked_state_roundtrip).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    for token in range(3):
        cache.update_and_fetch(rows(token), rows(token))

    assert type(cache.state) is tuple
    assert len(cache.state) == 2
    for array in cache.state:
        assert_holds(array, 0, 1, 2)


def test_state_of_a_full_buffer_is_the_buffer(port: Any) -> None:
    """A state from another cache is kept as the buffers themselves, and its rows are the offset
    (chunked_state_roundtrip).
    """
    other = port.ChunkedKVCache(chunk_size=4)
    other.update_and_fetch(rows(0, 1, 2), rows(0, 1, 2))
    keys, values = other.state

    cache = port.ChunkedKVCache(chunk_size=4)
    cache.state = keys, values

    assert cache.offset == 3
    assert cache.state[0] is cache.keys is keys
    assert cache.state[1] is cache.values is values
    assert_holds(keys, 0, 1, 2)
    assert_holds(values, 0, 1, 2)


@pytest.mark.parametrize("meta_state", [("7", "5"), ("None", "3")])
def test_meta_state_goes_round(port: Any, meta_state: tuple[str, str]) -> None:
    """Another cache takes a meta_state, "None" for the chunk size included
    (chunked_meta_state_roundtrip).
    """
    # mlx-lm writes "None" for a chunk size of None, but raises ValueError when it reads it.
    cache = port.ChunkedKVCache(chunk_size=99)

    cache.meta_state = list(meta_state)

    assert cache.meta_state == meta_state
    assert cache.chunk_size == (None if meta_state[0] == "None" else int(meta_state[0]))
    assert cache.start_position == int(meta_state[1])
    assert cache.offset == 0
    assert cache.empty()


def test_from_state_sets_state_then_meta_state(port: Any, trimmed: Any) -> None:
    """A cache of mlx-lm's class name gets the offset from its rows and start_position from its
    meta_state (chunked_from_state_roundtrip).
    """
    cache = port.from_state("ChunkedKVCache", trimmed.state, trimmed.meta_state)

    assert type(cache) is port.ChunkedKVCache
    assert cache.offset == 4
    assert cache.meta_state == ("4", "2")
    for array in (*cache.state, cache.keys, cache.values):
        assert_holds(array, 2, 3, 4, 5)


def test_from_state_knows_the_rust_name(port: Any) -> None:
    """Files of the Rust port may name the class its own way (chunked_from_state_roundtrip)."""
    state = rows(0, 1, 2, 3, 4, 5), rows(0, 1, 2, 3, 4, 5)

    cache = port.from_state("ChunkedKvCache", state, ["4", "0"])

    assert type(cache) is port.ChunkedKVCache
    assert cache.offset == 6
    assert cache.meta_state == ("4", "0")
    assert_holds(cache.keys, 0, 1, 2, 3, 4, 5)


def test_nbytes_counts_keys_and_values(port: Any) -> None:
    """Four float32 rows of keys and of values are 32 bytes (chunked_nbytes_and_copy)."""
    assert restored(port, 4, 0, 1, 2, 3).nbytes == 4 * 4 + 4 * 4


def test_copy_is_independent(port: Any) -> None:
    """An update of a copy does not reach the original (chunked_nbytes_and_copy)."""
    cache = restored(port, 4, 0, 1, 2, 3)
    copy = cache.copy()

    copy.update_and_fetch(rows(9), rows(9))

    assert copy.offset == 5
    for array in copy.state:
        assert_holds(array, 0, 1, 2, 3, 9)
    assert cache.offset == 4
    assert cache.meta_state == ("4", "0")
    for array in (*cache.state, cache.keys, cache.values):
        assert_holds(array, 0, 1, 2, 3)


def test_copy_with_spare_rows_is_independent(port: Any) -> None:
    """Nor does one that is written in place, and the copy does not see the original's
    (chunked_nbytes_and_copy).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    cache.update_and_fetch(rows(0, 1, 2, 3), rows(0, 1, 2, 3))
    copy = cache.copy()

    copy.update_and_fetch(rows(9), rows(9))
    cache.update_and_fetch(rows(8), rows(8))

    for array in copy.state:
        assert_holds(array, 0, 1, 2, 3, 9)
    for array in cache.state:
        assert_holds(array, 0, 1, 2, 3, 8)
    assert (cache.offset, copy.offset) == (5, 5)


# Refused states ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [0, 1])
def test_state_of_the_wrong_arity_is_refused(port: Any, entries: int) -> None:
    """A state of no array, or of keys alone, changes nothing (chunked_state_roundtrip)."""
    cache = port.ChunkedKVCache(chunk_size=4)

    with refused(cache, ValueError):
        cache.state = [rows(0)] * entries

    assert cache.empty()
    assert_holds(cache.update_and_fetch(rows(5), rows(5))[0], 5)


def test_from_state_of_an_empty_state_is_refused(port: Any) -> None:
    """No cache comes out of an empty state (chunked_from_state_roundtrip)."""
    with pytest.raises(ValueError):  # noqa: PT011 - the wording is the target's own
        port.from_state("ChunkedKVCache", [], ["4", "0"])


@pytest.mark.parametrize(
    "meta_state",
    [["4"], ["4", "0", "x"], ["4", "bad"]],
    ids=["one-field", "three-fields", "no-number"],
)
def test_meta_state_that_cannot_be_parsed_is_refused(port: Any, meta_state: list[str]) -> None:
    """A meta_state of another length, or without a number for start_position, changes nothing
    (chunked_meta_state_roundtrip).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    cache.meta_state = ["None", "3"]

    with refused(cache, ValueError):
        cache.meta_state = meta_state

    assert cache.meta_state == ("None", "3")
    cache.meta_state = ["7", "5"]
    assert cache.meta_state == ("7", "5")


def test_state_with_values_of_rank_two_is_refused(port: Any) -> None:
    """Values of rank 2 beside good keys leave the cache empty
    (chunked_malformed_state_values_rank_is_err_not_panic).
    """
    # mlx-lm takes such a state, and front-trims it, until the next growth raises IndexError with
    # the keys grown and the values not.
    cache = port.ChunkedKVCache(chunk_size=4)

    with refused(cache, ValueError):
        cache.state = rows(0, 1, 2, 3, 4, 5), rows(0, 1, shape=(1, 2))

    assert cache.empty()
    assert cache.offset == 0
    assert cache.meta_state == ("4", "0")


def test_from_state_with_values_of_rank_two_is_refused(port: Any) -> None:
    """No cache comes out of values of rank 2
    (chunked_malformed_state_values_rank_is_err_not_panic).
    """
    state = rows(0, 1, 2, 3, 4, 5), rows(0, 1, shape=(1, 2))

    with pytest.raises(ValueError):  # noqa: PT011 - the wording is the target's own
        port.from_state("ChunkedKVCache", state, ["4", "0"])


def test_good_state_after_a_refused_one_is_trimmed(port: Any) -> None:
    """A cache that refused a state takes a good one and front-trims it
    (chunked_malformed_state_values_rank_is_err_not_panic).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    good = rows(0, 1, 2, 3, 4, 5)
    with refused(cache, ValueError):
        cache.state = good, rows(0, 1, shape=(1, 2))

    cache.state = good, good
    cache.maybe_trim_front()

    assert cache.offset == 6
    assert cache.meta_state == ("4", "2")
    assert_holds(cache.keys, 2, 3, 4, 5)
    assert_holds(cache.values, 2, 3, 4, 5)
