"""What the tests of the seed's scenarios share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest


def rows(*ids: float, shape: tuple[int, ...] = (1, 1, -1, 1)) -> mx.array:
    """Rows of shape (1, 1, tokens, 1), each with its token's id; or of another shape."""
    return mx.array(ids, mx.float32).reshape(shape)


def assert_holds(array: mx.array, *ids: float, shape: tuple[int, ...] = ()) -> None:
    """Assert that an array has exactly these bytes and that shape, one lane of rows by default."""
    assert array.shape == (shape or (1, 1, len(ids), 1))
    assert array.flatten().tolist() == list(ids)
    assert array.dtype == mx.float32
    assert bytes(memoryview(array)) == bytes(memoryview(mx.array(ids, mx.float32)))


def restored(port: Any, chunk_size: int | None, *ids: float) -> Any:
    """A cache that was set to a state of these rows, as keys and as values."""
    cache = port.ChunkedKVCache(chunk_size=chunk_size)
    cache.state = rows(*ids), rows(*ids)
    return cache


def look_at(cache: Any) -> tuple[Any, ...]:
    """The offset, the scalars, and both buffers to the byte."""
    buffers = [array for array in (cache.keys, cache.values) if array is not None]
    seen = [(array.dtype, array.shape, bytes(memoryview(array))) for array in buffers]
    return cache.offset, cache.meta_state, seen


@contextmanager
def refused(cache: Any, error: type[Exception]) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Assert that the block raises `error` and leaves the cache as it was, its buffers too."""
    keys, values, before = cache.keys, cache.values, look_at(cache)
    with pytest.raises(error) as info:
        yield info
    assert cache.keys is keys
    assert cache.values is values
    assert look_at(cache) == before
