"""Viewing rows as wider words to move them faster.

On the CPU, MLX concatenates one element after the other: moving eight bytes at a time takes 1.3 to
1.9 times less, and the bytes are the same. A view costs nothing where the array is dense, and a
copy of it where it is not: so buffers are viewed first and cut then, and rows that may be a
model's transposed ones are best no more than what they are joined to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import mlx.core as mx

Window: TypeAlias = tuple[slice, slice, slice]

# mlx takes any sequence, and a tuple is the fastest; its stub asks for a list.
concatenate = cast(Callable[[Sequence[mx.array], int], mx.array], mx.concatenate)

# The bytes of an array from which on the views cost less than they save.
MANY = 1 << 16

_WORD = mx.uint64
# The elements of a word, where a row of whole words can be viewed as such.
_ELEMENTS = {mx.float16: 4, mx.bfloat16: 4, mx.float32: 2}


def join(parts: Sequence[mx.array], axis: int = 2) -> mx.array:
    """The arrays one after the other along an axis but the last: a new array.

    Each is (batch, n_kv_heads, tokens, head_dim). In words where all are of one dtype and one
    head_dim; otherwise, and with the errors of, `mx.concatenate`: dtypes promote there.
    """
    dtype = shared_words(parts)
    if dtype is None:
        return concatenate(parts, axis)
    return concatenate([part.view(_WORD) for part in parts], axis).view(dtype)


def splice(buffer: mx.array, windows: Sequence[Window], *rows: mx.array) -> mx.array:
    """Those windows of a buffer, and then the rows, along the sequence axis: a new array.

    All as in `join`.
    """
    dtype = shared_words((buffer, *rows))
    if dtype is None:
        return concatenate([*[buffer[window] for window in windows], *rows], 2)
    words = buffer.view(_WORD)
    parts = [*[words[window] for window in windows], *[part.view(_WORD) for part in rows]]
    return concatenate(parts, 2).view(dtype)


def widen(rows: mx.array) -> mx.array:
    """The rows as words, which they are whole numbers of (`shared_words`)."""
    return rows.view(_WORD)


def shared_words(parts: Sequence[mx.array]) -> mx.Dtype | None:
    """The one dtype of arrays whose rows are to be moved as words; None where they are not.

    They are alike in dtype and head_dim, of rank 4, and large enough together.
    """
    first = parts[0]
    dtype = first.dtype
    elements = _ELEMENTS.get(dtype)
    if elements is None or first.ndim != 4:
        return None
    head_dim = first.shape[3]
    if not head_dim or head_dim % elements:
        return None
    size = 0
    for part in parts:
        if part.dtype != dtype or part.ndim != 4 or part.shape[3] != head_dim:
            return None
        size += part.nbytes
    return dtype if size >= MANY else None
