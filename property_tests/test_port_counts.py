"""Offsets and paddings of batches count as plain numbers would, whatever arrays they are."""

from __future__ import annotations

import mlx.core as mx
import pytest
from property_tests.port_support import CONTRACTS, digest

INTEGERS = [getattr(mx, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = pytest.mark.parametrize(
    "dtype", [*INTEGERS, mx.bool_, mx.float16, mx.bfloat16, mx.float32, mx.complex64], ids=str
)
TIMES = 7


def make(contract, name):
    """A cache of two rows, and the operation that counts one token of each."""
    if name == "ArraysCache":
        cache = contract.ArraysCache(1, left_padding=[0, 1])
        return cache, lambda: cache.advance(1)
    window = [3] if name == "BatchRotatingKVCache" else []
    cache = getattr(contract, name)(*window, [0, 1])
    rows = mx.random.normal((2, 1, 1, 4))
    return cache, lambda: cache.update_and_fetch(rows, -rows)


def leaves(cache):
    """Whether the next token pushes a column out, or counts the padding down anyway."""
    if hasattr(cache, "cache"):
        return True
    return hasattr(cache, "rotated") and (cache.rotated or cache._idx == cache.max_size)


def check(cache, count):
    """Count some tokens, each as numbers are added to the arrays that there are."""
    for _ in range(TIMES):
        left = cache.left_padding - 1 if leaves(cache) else cache.left_padding
        expected = [digest(left), digest(cache.offset + 1) if hasattr(cache, "offset") else None]
        count()
        offset = getattr(cache, "offset", None)
        assert [digest(cache.left_padding), digest(offset)] == expected


def names_of(cache):
    return [name for name in ("offset", "left_padding") if hasattr(cache, name)]


@CONTRACTS
@pytest.mark.parametrize("name", ["ArraysCache", "BatchKVCache", "BatchRotatingKVCache"])
@DTYPES
def test_counts_of_any_dtype(contract, name, dtype):
    """Counts that are put in keep their dtype, where those before were of another."""
    cache, count = make(contract, name)
    check(cache, count)
    for field in names_of(cache):
        setattr(cache, field, getattr(cache, field).astype(dtype))
    check(cache, count)


@CONTRACTS
@pytest.mark.parametrize("name", ["ArraysCache", "BatchKVCache", "BatchRotatingKVCache"])
@DTYPES
def test_counts_that_change_in_place(contract, name, dtype):
    """Counts to which something was added in place go on from there, in the dtype that it gave."""
    cache, count = make(contract, name)
    check(cache, count)
    for field in names_of(cache):
        array = getattr(cache, field)
        array += mx.ones((3, 2), dtype)
        assert getattr(cache, field).shape == (3, 2)
    check(cache, count)


@CONTRACTS
def test_counts_of_no_rows(contract):
    """A ring from which every row was taken counts on in integers."""
    cache, count = make(contract, "BatchRotatingKVCache")
    count()
    cache.filter(mx.array([], mx.int32))
    nothing = mx.zeros((0, 1, 1, 4))
    for _ in range(2):
        cache.update_and_fetch(nothing, nothing)
    assert digest(cache.offset) == digest(cache.left_padding) == ((0,), mx.int32, b"")


@CONTRACTS
def test_a_handle_on_the_padding_shows_the_count(contract):
    """The padding of arrays is counted down in place, the first time and later."""
    cache, count = make(contract, "ArraysCache")
    held = cache.left_padding
    for taken in (1, 2, 3):
        count()
        assert cache.left_padding is held
        assert held.tolist() == [-taken, 1 - taken]
