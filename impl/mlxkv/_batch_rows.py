"""Reading the rows of a batch that a caller names or counts, and rolling the rows of buffers."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx

from mlxkv._errors import PaddingError, RowIndexError, RowSelectionError

Counts = tuple[mx.array, list[int]]

_SIGNED = (mx.int8, mx.int16, mx.int32, mx.int64, mx.bool_)


def read_counts(
    cache: object,
    operation: str,
    name: str,
    counts: Any,
    batch: int | None = None,
    rank: int = 0,
) -> Counts:
    """A new array of the counts, and the same as a list: integers of at least 0, one a batch row.

    With `batch` given they must be as many, or one for all rows, which mlx broadcasts; a bare
    integer is one for all too, unless `rank`, the least that is taken, is 1. Without `batch` they
    make the batch. None at all are never enough. Raises `PaddingError`.
    """
    expected = f"one integer of at least 0 a batch row as {name}"
    if batch is not None:
        expected += f", or one for all {batch}"
    try:
        array = mx.array(counts)
    except (TypeError, ValueError, RuntimeError):
        raise PaddingError(cache, operation, expected, repr(counts)) from None
    if batch is None:
        fits = array.ndim == 1
    else:
        fits = array.ndim >= rank and array.shape in ((), (1,), (batch,))
    if not fits or not array.size or array.dtype not in _SIGNED:
        raise PaddingError(cache, operation, expected, repr(counts))
    numbers: Any = array.tolist()
    if array.ndim == 0:
        numbers = [numbers]
    if min(numbers) < 0:
        raise PaddingError(cache, operation, expected, repr(counts))
    return array, numbers


def select_rows(cache: object, indices: Any, batch: int) -> Counts:
    """An integer array of rank 1 that selects these batch rows, and the same as a list.

    A list, a slice, or an array of rank 1 and of any integer type. Raises `RowSelectionError`,
    and `RowIndexError` for a row that is not there: mlx would read past the buffer.
    """
    expected = "a list, a slice or an integer array of rank 1 with batch rows"
    try:
        if isinstance(indices, slice):
            array = mx.array(list(range(batch))[indices], mx.int32)
        elif isinstance(indices, list):
            array = mx.array(indices)
        else:
            array = indices
    except (TypeError, ValueError, RuntimeError):
        raise RowSelectionError(cache, "filter", expected, repr(indices)) from None
    integral = isinstance(array, mx.array) and mx.issubdtype(array.dtype, mx.integer)
    if not integral or array.ndim != 1:
        raise RowSelectionError(cache, "filter", expected, repr(indices))
    rows: Any = array.tolist()
    for row in rows:
        if not -batch <= row < batch:
            raise RowIndexError(cache, "filter", f"rows of [-{batch}, {batch})", str(row))
    return array, rows


def roll_rows(buffer: mx.array, shifts: mx.array) -> mx.array:
    """A new array, each batch row rolled by its shift along the sequence axis, or by the only one.

    Whole rows of head_dim are gathered: a third of the time of `mx.take_along_axis`.
    """
    if not buffer.size:
        return buffer[:]
    batch, n_kv_heads, rows, head_dim = buffer.shape
    source = (mx.arange(rows) - shifts[:, None, None]) % rows
    start = mx.arange(0, batch * n_kv_heads * rows, rows).reshape(batch, n_kv_heads, 1)
    return mx.take(buffer.reshape(-1, head_dim), source + start, axis=0)


def ones_for(*counts: Any) -> mx.array | int:
    """1 as an array that, added to each of these counts, gives what the number would; sooner.

    The number itself where they are not int32 (batch,). In-place arithmetic changes nothing of it:
    int32 counts can only become what takes an int32 1 as it takes the number.
    """
    for one in counts:
        if type(one) is not mx.array or one.dtype != mx.int32 or one.ndim != 1:
            return 1
    batches = {one.size for one in counts}
    return _ones(*batches) if len(batches) == 1 else 1


@cache
def _ones(batch: int) -> mx.array:
    return mx.array([1] * batch, mx.int32)  # Of no rows it would be float32.
