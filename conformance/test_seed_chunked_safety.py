"""A chunked cache that refuses an update is as it was, as the seed's Rust port has it, on 0.31.3.

Scenarios and values are those of seeds/000_72ceb988708f82f3.txt; each test names its own there.
What mlx-lm does instead stands in a comment, and the ledger declares it.
"""

from __future__ import annotations

from typing import Any

import pytest
from conformance.seed_support import assert_holds, refused, rows


def test_update_that_cannot_grow_the_values_does_not_grow_the_keys(port: Any) -> None:
    """Values of another head_dim than the stored ones fail with the keys not yet grown
    (chunked_update_err_after_keys_realloc_leaves_cache_unchanged).
    """
    # mlx-lm raises ValueError too, with its keys already grown to 257 rows.
    cache = port.ChunkedKVCache(chunk_size=None)
    cache.state = rows(7), rows(7, 8, shape=(1, 1, 1, 2))
    assert cache.meta_state == ("None", "0")

    with refused(cache, ValueError):
        cache.update_and_fetch(rows(9), rows(9))

    assert not cache.empty()
    assert cache.offset == 1
    assert_holds(cache.keys, 7)
    assert_holds(cache.values, 7, 8, shape=(1, 1, 1, 2))


def test_update_goes_on_after_one_that_could_not_grow(port: Any) -> None:
    """After the failure, values of the right head_dim are appended to the rows from before
    (chunked_update_err_after_keys_realloc_leaves_cache_unchanged).
    """
    cache = port.ChunkedKVCache(chunk_size=None)
    cache.state = rows(7), rows(7, 8, shape=(1, 1, 1, 2))
    with refused(cache, ValueError):
        cache.update_and_fetch(rows(9), rows(9))

    keys, values = cache.update_and_fetch(rows(1), rows(1, 2, shape=(1, 1, 1, 2)))

    assert cache.offset == 2
    assert_holds(keys, 7, 1)
    assert_holds(values, 7, 8, 1, 2, shape=(1, 1, 2, 2))


def test_update_out_of_the_values_range_is_refused(port: Any) -> None:
    """A token whose place lies beyond the values, but not beyond the keys, is not half stored
    (chunked_update_out_of_bounds_values_write_is_err_not_silent_corrupt).
    """
    # The seed says that mlx-lm raises IndexError here. Measured on 0.31.3 with mlx 0.32.4, it does
    # not: mlx clamps the slice as Python does, and one row broadcasts into no rows. The key is
    # stored (10, 11, 99, 13), the value lost (20), the offset is 5, and keys (10, 11, 99) come back
    # with values (20). The seed's error is what a caller wants, so the port raises it.
    cache = port.ChunkedKVCache(chunk_size=4)
    cache.state = rows(10, 11, 12, 13), rows(20)
    cache.meta_state = ["4", "2"]

    with refused(cache, IndexError):
        cache.update_and_fetch(rows(99), rows(99))

    assert cache.offset == 4
    assert cache.meta_state == ("4", "2")
    assert_holds(cache.keys, 10, 11, 12, 13)
    assert_holds(cache.values, 20)


def test_update_goes_on_after_a_write_out_of_range(port: Any) -> None:
    """After the failure, a token whose place lies inside both is stored
    (chunked_update_out_of_bounds_values_write_is_err_not_silent_corrupt).
    """
    cache = port.ChunkedKVCache(chunk_size=4)
    cache.state = rows(10, 11, 12, 13), rows(20)
    cache.meta_state = ["4", "2"]
    with refused(cache, IndexError):
        cache.update_and_fetch(rows(99), rows(99))

    assert cache.trim(2) == 2
    keys, values = cache.update_and_fetch(rows(98), rows(97))

    assert cache.offset == 3
    assert_holds(keys, 98)
    assert_holds(values, 97)
    assert_holds(cache.keys, 98, 11, 12, 13)
    assert_holds(cache.values, 97)


@pytest.fixture
def rewound(port: Any) -> Any:
    """A cache with a buffer of one row, (1, 1, 1, 1), that the next token overwrites whole."""
    cache = port.ChunkedKVCache(chunk_size=None)
    cache.state = rows(7), rows(7)
    assert cache.offset == 1
    assert cache.trim(1) == 1
    assert cache.offset == 0
    assert cache.meta_state == ("None", "0")
    return cache


def assert_refuses(cache: Any, *ids: float, shape: tuple[int, ...]) -> None:
    """Assert that a token of this shape is refused, also if the values alone have it.

    The error says its shape and the buffer's.
    """
    token = rows(*ids, shape=shape)

    for keys in (token, rows(9)):
        with refused(cache, ValueError) as error:
            cache.update_and_fetch(keys, token)

        said = str(error.value).replace(" ", "")
        assert "1,1,1,1" in said
        assert ",".join(map(str, shape)) in said


def assert_takes_over(cache: Any) -> None:
    """Assert that a token of the buffer's own shape still takes the place of the one before."""
    for array in cache.update_and_fetch(rows(42), rows(42)):
        assert_holds(array, 42)
    assert cache.offset == 1
    for buffer in (cache.keys, cache.values):
        assert_holds(buffer, 42)


def test_full_window_refuses_another_batch(rewound: Any) -> None:
    """A batch of two does not take the place of the whole buffer of a batch of one
    (chunked_set_seq_full_window_rejects_mismatched_batch_dim).
    """
    # mlx-lm raises ValueError too, here and below, with its offset already advanced to 1.
    assert_refuses(rewound, 9, 9.5, shape=(2, 1, 1, 1))
    assert_takes_over(rewound)


@pytest.mark.parametrize(
    ("ids", "shape"),
    [((9, 9.5, 9.7), (1, 3, 1, 1)), ((9, 9.5), (1, 1, 1, 2))],
    ids=["n_kv_heads", "head_dim"],
)
def test_full_window_refuses_other_heads_and_head_dim(rewound: Any, ids: Any, shape: Any) -> None:
    """Neither do more heads, nor a larger head_dim
    (chunked_set_seq_full_window_rejects_mismatched_heads_and_head_dim).
    """
    assert_refuses(rewound, *ids, shape=shape)
    assert_takes_over(rewound)
