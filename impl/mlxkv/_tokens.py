"""The buffer of the tokens of one sequence, for samplers that look at the past."""

from __future__ import annotations

from typing import Any, NoReturn

import mlx.core as mx

from mlxkv._buffers import UPDATE
from mlxkv._errors import StepError, TokensError
from mlxkv._words import concatenate

INTEGERS = frozenset(
    (
        mx.bool_,
        *(mx.int8, mx.int16, mx.int32, mx.int64),
        *(mx.uint8, mx.uint16, mx.uint32, mx.uint64),
    )
)


class TokenBuffer:
    """Token ids, int32 (capacity,), of which the first are valid; it grows by whole steps.

    Appending is in place where there is room: whoever holds the buffer sees it.
    Source: 0.31.3 cache.py:1487-1520, 0.32.2 cache.py:1462-1496.
    """

    step: int = 256

    def __init__(self, tokens: Any) -> None:
        """Keep a copy of the tokens, a list or an array (n,) of integers.

        An array of wider integers is cast. Raises `TokensError`, also for floats, which mlx-lm
        cuts off.
        """
        array = self._read("__init__", tokens)
        too_wide = isinstance(tokens, list | tuple) and array.dtype == mx.int64
        if array.ndim != 1 or too_wide or (array.size and array.dtype not in INTEGERS):
            self._refuse("__init__", tokens)
        self._buffer = array.astype(mx.int32)
        self._size = array.size

    def update_and_fetch(self, tokens: Any) -> mx.array:
        """Append an array (n,) of integers and return all tokens: a view, int32 (size,).

        An array of one element may have more dimensions; wider integers are cast. Raises
        `TokensError`, also for floats, which mlx-lm cuts off, and `StepError`.
        """
        step = self.step
        if step < 1:
            raise StepError(self, UPDATE, "a step of at least 1", str(step))
        if not isinstance(tokens, mx.array):
            if not hasattr(tokens, "dtype"):  # an array of another library's; no list, as in mlx-lm
                self._refuse(UPDATE, tokens)
            tokens = self._read(UPDATE, tokens)
        shape, start = tokens.shape, self._size
        if len(shape) != 1 and (not shape or tokens.size != 1):
            self._refuse(UPDATE, tokens)
        if tokens.dtype not in INTEGERS and shape[0]:
            self._refuse(UPDATE, tokens)
        end = start + shape[0]
        buffer, capacity = self._buffer, -(-end // step) * step
        if capacity > buffer.size:
            buffer = concatenate((buffer, mx.zeros(capacity - buffer.size, mx.int32)), 0)
        buffer[start:end] = tokens
        self._buffer, self._size = buffer, end
        return buffer[:end]

    @property
    def state(self) -> mx.array:
        """The buffer itself, spare capacity included."""
        return self._buffer

    @property
    def tokens(self) -> mx.array:
        """A view of the valid tokens, int32 (size,)."""
        return self._buffer[: self._size]

    def _read(self, operation: str, tokens: Any) -> mx.array:
        try:
            return mx.array(tokens)
        except (TypeError, ValueError, RuntimeError):
            self._refuse(operation, tokens)

    def _refuse(self, operation: str, tokens: Any) -> NoReturn:
        expected = "token ids, integers of 32 bits in one dimension"
        array = isinstance(tokens, mx.array)
        got = f"{tokens.dtype} {tokens.shape}" if array else repr(tokens)
        raise TokensError(self, operation, expected, got) from None
