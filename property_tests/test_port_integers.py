"""NumPy's integers, which mlx-lm takes too, are taken wherever one is, and kept as plain ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from property_tests.port_support import CONTRACTS, digest, leaves, snapshot

import mlxkv

KINDS = pytest.mark.parametrize(
    "kind", [np.int64, np.uint16, np.array], ids=lambda kind: kind.__name__
)

# What makes or changes a cache by a number, and returns it.
MAKERS = {
    "RotatingKVCache": lambda cache, n: cache.RotatingKVCache(n(4), keep=n(1)),
    "ChunkedKVCache": lambda cache, n: cache.ChunkedKVCache(n(4)),
    "QuantizedKVCache": lambda cache, n: cache.QuantizedKVCache(n(32), n(4)),
    "BatchRotatingKVCache": lambda cache, n: cache.BatchRotatingKVCache(n(4), [0, 1]),
    "ArraysCache": lambda cache, n: cache.ArraysCache(n(2)),
    "to_quantized": lambda cache, n: filled(cache.KVCache()).to_quantized(n(32), n(4)),
    "trim": lambda cache, n: trimmed(filled(cache.KVCache()), n(2)),
    "reserve": lambda cache, n: reserved(cache.KVCache(), n(600)),
}


def content(cache):
    """The types and bytes of all fields, whatever objects they are."""
    fields = vars(cache).items()
    return {name: (type(field), [*map(digest, leaves(field))]) for name, field in fields}


def filled(cache, batch=1, head_dim=64):
    rows = mx.arange(batch * 3 * head_dim).reshape(batch, 1, 3, head_dim).astype(mx.float16)
    cache.update_and_fetch(rows, -rows)
    return cache


def trimmed(cache, n):
    assert type(cache.trim(n)) is int
    return cache


def reserved(cache, n):
    cache.reserve(n)
    return filled(cache)


def batch_of(contract, name):
    window = [4] if name == "BatchRotatingKVCache" else []
    return filled(getattr(contract, name)(*window, [0, 1]), batch=2)


@CONTRACTS
@KINDS
@pytest.mark.parametrize("name", MAKERS)
def test_numbers_of_numpy_are_kept_as_plain_ones(contract, kind, name):
    """The cache is what it would be with plain numbers, down to their types."""
    expected, made = (MAKERS[name](contract, as_number) for as_number in (int, kind))
    assert content(made) == content(expected)


@CONTRACTS
@KINDS
@pytest.mark.parametrize("name", ["BatchKVCache", "BatchRotatingKVCache"])
@pytest.mark.parametrize("row", [0, 1])
def test_rows_named_by_numpy_are_extracted(contract, kind, name, row):
    """The row that `np.argmax` names is the one that the plain number names."""
    batch = batch_of(contract, name)
    assert content(batch.extract(kind(row))) == content(batch.extract(row))


@CONTRACTS
@pytest.mark.parametrize("name", ["BatchKVCache", "BatchRotatingKVCache"])
@pytest.mark.parametrize("row", [mx.array(1), True, np.True_, 1.0, "1", None, np.array([1])])
def test_what_is_no_row_is_refused(contract, name, row):
    """An array of MLX's is none: mlx-lm cannot cut with it either."""
    batch = batch_of(contract, name)
    before = snapshot(batch)
    with pytest.raises(mlxkv.RowSelectionError, match="expected a row of"):
        batch.extract(row)
    assert snapshot(batch) == before


@CONTRACTS
@pytest.mark.parametrize("size", [1.0, "4", None, np.float32(4), np.array([4]), mx.array([4])])
def test_what_is_no_integer_is_refused(contract, size):
    """Sizes that only look like integers raise a TypeError that names the size."""
    with pytest.raises(mlxkv.NotAnIntegerError, match="an integer as max_size"):
        contract.RotatingKVCache(size)
