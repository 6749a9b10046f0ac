"""Growing and writing the buffers of a cache: what can fail fails before the first write.

A buffer is (batch, n_kv_heads, capacity, head_dim); rows are the same with their tokens on axis 2,
the sequence axis. `buffer[:, :, a:b] = rows` changes the array object that others may hold, so the
checks here are what makes an update transactional.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn, Protocol, TypeAlias

import mlx.core as mx

from mlxkv._errors import (
    ArrayTypeError,
    LengthMismatchError,
    LostWriteError,
    RankError,
    ShapeError,
    StepError,
)
from mlxkv._words import join, splice

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[mx.array, mx.array]

ALL = slice(None)
UPDATE = "update_and_fetch"


class Buffered(Protocol):
    """A cache with buffers, None while it is empty."""

    keys: Any
    values: Any


class Stepped(Buffered, Protocol):
    """A cache that grows its buffers by whole steps."""

    step: int


def measure(cache: object, keys: Any, values: Any) -> tuple[Shape, Shape]:
    """The shapes of new keys and values: rank 4 each, and the same number of tokens."""
    if not (isinstance(keys, mx.array) and isinstance(values, mx.array)):
        got = f"{type(keys).__name__} and {type(values).__name__}"
        raise ArrayTypeError(cache, UPDATE, "keys and values as mx.array", got)
    k_shape, v_shape = keys.shape, values.shape
    if len(k_shape) != 4 or len(v_shape) != 4:
        expected = "keys and values of rank 4 (batch, n_kv_heads, tokens, head_dim)"
        raise RankError(cache, UPDATE, expected, f"keys {k_shape} and values {v_shape}")
    if k_shape[2] != v_shape[2]:
        expected = "as many tokens in values as in keys"
        raise LengthMismatchError(cache, UPDATE, expected, f"keys {k_shape} and values {v_shape}")
    return k_shape, v_shape


def check_window(cache: object, name: str, buffer: mx.array, rows: Shape, start: int) -> None:
    """Raise unless rows of that shape can be written at `start`: all of them, and none elsewhere.

    Batch, n_kv_heads and head_dim of size 1 broadcast into a larger buffer, as in mlx.
    """
    held = buffer.shape
    stop = start + rows[2]
    if (start < 0 or stop > held[2]) and rows[2]:
        expected = f"the window [{start}, {stop}) inside the {name} buffer"
        raise LostWriteError(cache, UPDATE, expected, f"a buffer of {held[2]} rows")
    if rows[1] != held[1] or rows[3] != held[3] or rows[0] != held[0]:
        for axis in (0, 1, 3):
            vanishes = held[axis] == 0 and rows[2]
            if rows[axis] != held[axis] and (rows[axis] != 1 or vanishes):
                expected = f"{name} that broadcast into the buffer {held} off the sequence axis"
                raise ShapeError(cache, UPDATE, expected, str(rows))


def explain_join(cache: Buffered, keys: Any, values: Any) -> NoReturn:
    """Raise the error of ours for new rows that mlx has refused to concatenate to the buffers."""
    k_shape, v_shape = measure(cache, keys, values)
    held = f"{cache.keys.shape} and {cache.values.shape}"
    expected = f"keys and values equal to the buffers {held} off the sequence axis"
    raise ShapeError(cache, UPDATE, expected, f"{k_shape} and {v_shape}")


def count_steps(cache: object, step: int, tokens: int) -> int:
    """The rows of as many whole steps as hold `tokens`."""
    if step < 1:
        raise StepError(cache, UPDATE, "a step of at least 1", str(step))
    return -(-tokens // step) * step


def lengthen(
    cache: object, name: str, buffer: mx.array | None, shape: Shape, dtype: mx.Dtype
) -> mx.array:
    """A new buffer: the old one, if any, followed by zeros of that shape: no axis broadcasts."""
    zeros = mx.zeros(shape, dtype)
    if buffer is None:
        return zeros
    try:
        return join((buffer, zeros))
    except ValueError:
        expected = f"{name} equal to the buffer {buffer.shape} off the sequence axis"
        raise ShapeError(cache, UPDATE, expected, str(shape)) from None


def append(cache: Stepped, keys: mx.array, values: mx.array, prev: int) -> None:
    """Write the rows at `prev`, growing the buffers by whole steps when they do not fit.

    A growth drops the spare rows first, unless `prev` is a multiple of `step`. Both new shapes
    follow the batch and n_kv_heads of the keys.
    """
    k_shape, v_shape = measure(cache, keys, values)
    k_buffer, v_buffer = cache.keys, cache.values
    stop = prev + k_shape[2]
    if k_buffer is None or stop > k_buffer.shape[2]:
        steps = count_steps(cache, cache.step, k_shape[2])
        if alike(k_buffer, v_buffer, keys, values, prev):
            held = 0 if k_buffer is None else k_buffer.shape[2]
            rows = grown_rows(cache, held, prev, steps)
            pair = fuse(k_buffer, keys, prev, rows), fuse(v_buffer, values, prev, rows)
        else:
            pair = grow(cache, (k_buffer, v_buffer), (keys, values), prev, steps)
        cache.keys, cache.values = pair
        return
    check_window(cache, "keys", k_buffer, k_shape, prev)
    check_window(cache, "values", v_buffer, v_shape, prev)
    window = (ALL, ALL, slice(prev, stop))
    k_buffer[window] = keys
    v_buffer[window] = values


def grown_rows(cache: Stepped, held: int, prev: int, steps: int) -> int:
    """The rows of buffers of `held` rows, `prev` of them in use, after a growth by `steps`."""
    return (prev if prev % cache.step else held) + steps


def grow(cache: Stepped, buffers: tuple[Any, Any], rows: Pair, prev: int, steps: int) -> Pair:
    """The buffers (None: none) with `steps` rows more, and the new rows written at `prev`.

    For rows that are not `alike`: they may broadcast. dtypes promote. Raises `ShapeError` and
    `LostWriteError`.
    """
    (k_buffer, v_buffer), (keys, values) = buffers, rows
    if k_buffer is None:
        v_buffer = None
    elif prev % cache.step:
        k_buffer, v_buffer = k_buffer[:, :, :prev], v_buffer[:, :, :prev]
    lead = (*keys.shape[:2], steps)
    k_buffer = lengthen(cache, "keys", k_buffer, (*lead, keys.shape[3]), keys.dtype)
    v_buffer = lengthen(cache, "values", v_buffer, (*lead, values.shape[3]), values.dtype)
    check_window(cache, "keys", k_buffer, keys.shape, prev)
    check_window(cache, "values", v_buffer, values.shape, prev)
    window = (ALL, ALL, slice(prev, prev + keys.shape[2]))
    k_buffer[window] = keys
    v_buffer[window] = values
    return k_buffer, v_buffer


def alike(
    k_buffer: Any, v_buffer: Any, keys: mx.array, values: mx.array, prev: int, first: int = 0
) -> bool:
    """Whether new rows follow `prev` rows of both buffers, from `first` on, as they are."""
    k_shape, v_shape = keys.shape, values.shape
    if k_shape[:2] != v_shape[:2]:
        return False
    if k_buffer is None:
        return prev == 0
    k_held, v_held = k_buffer.shape, v_buffer.shape
    return (
        0 <= prev <= k_held[2] - first
        and k_held[2] == v_held[2]
        and (*k_held[:2], k_held[3]) == (*k_shape[:2], k_shape[3])
        and (*v_held[:2], v_held[3]) == (*v_shape[:2], v_shape[3])
    )


def fuse(
    buffer: mx.array | None, rows: mx.array, prev: int, capacity: int, first: int = 0
) -> mx.array:
    """`prev` rows of the buffer from `first` on, the new rows, and zeros: each is written once.

    (batch, n_kv_heads, capacity, head_dim); they are `alike`. dtypes promote. Rows that follow no
    buffer and need no zeros share their memory with the result, as in mlx-lm.
    """
    batch, n_kv_heads, tokens, head_dim = rows.shape
    stop = prev + tokens
    spare = capacity - stop
    if buffer is None and not spare:
        return copy.copy(rows)
    dtype = rows.dtype if buffer is None else mx.result_type(buffer.dtype, rows.dtype)
    zeros = mx.zeros((batch, n_kv_heads, capacity if spare > stop else spare, head_dim), dtype)
    if spare > stop:  # They are the buffer.
        if buffer is not None:
            zeros[:, :, :prev] = buffer[:, :, first : first + prev]
        zeros[:, :, prev:stop] = rows
        return zeros
    tail = (rows.astype(dtype), zeros) if spare else (rows.astype(dtype),)
    if buffer is None:
        return join(tail)
    return splice(buffer.astype(dtype), [(ALL, ALL, slice(first, first + prev))], *tail)


def fit(buffer: mx.array, rows: mx.array) -> bool:
    """Whether a growth of the buffer for such rows would leave its dtype as it is."""
    return bool(mx.result_type(buffer.dtype, rows.dtype) == buffer.dtype)


def first(pair: Pair, rows: int) -> Pair:
    """Views of the first rows of both, new objects even when that is all of them."""
    window = (ALL, ALL, slice(rows))
    return pair[0][window], pair[1][window]
