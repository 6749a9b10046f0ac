"""The sliding-window cache: a ring of `max_size` rows, whose first `keep` rows never leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import mlx.core as mx

from mlxkv._base import PlainCache, as_size, check_trim
from mlxkv._buffers import (
    ALL,
    UPDATE,
    Pair,
    Shape,
    check_window,
    count_steps,
    explain_join,
    lengthen,
    measure,
)
from mlxkv._errors import NotQuantizableError, NotTrimmableError, RingStateError
from mlxkv._in_place import capacity_for
from mlxkv._masks import Mask, create_causal_mask
from mlxkv._words import Window, splice

if TYPE_CHECKING:
    from mlxkv._batch_rotating import BatchRotatingKVCache


def drop(buffer: mx.array, keep: int, count: int) -> mx.array:
    """A new array: the buffer without the `count` rows that follow the first `keep`."""
    return splice(buffer, [(ALL, ALL, slice(keep)), (ALL, ALL, slice(keep + count, None))])


class Ring(PlainCache):
    """What rings of one sequence and of a batch share: neither has a quantized form."""

    def to_quantized(self, group_size: int = 64, bits: int = 4) -> NoReturn:  # noqa: ARG002
        """Raise `NotQuantizableError`: mlx-lm has no quantized ring either."""
        raise NotQuantizableError(
            self, "to_quantized", "a cache with a quantized form", "a rotating cache"
        )


class RotatingKVCache(Ring):
    """The last `max_size` tokens, and the first `keep` for ever.

    One token is written in place, at `_idx`, which runs round the ring from `keep` on. Several at
    once put the ring into temporal order and stay whole until the next single token, so that each
    of them sees `max_size` tokens: the buffer may be longer than `max_size` for a while.
    Source: 0.31.3 cache.py:410-591, 0.32.2 cache.py:423-593.
    """

    _reference_name = "RotatingKVCache"
    step: int = 256

    _batch_class: ClassVar[type[BatchRotatingKVCache]]

    def __init__(self, max_size: int, keep: int = 0) -> None:
        sizes = as_size(self, "max_size", max_size), as_size(self, "keep", keep)
        super().__init__()
        self.max_size, self.keep = sizes
        self._idx = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        """Store rows (batch, n_kv_heads, tokens, head_dim), dropping the oldest after `keep`.

        The first update of several tokens stores the caller's own arrays. Returns the rows in the
        order of the buffer, which after a wrap is not that of time. Raises as
        `Cache.update_and_fetch`, `StepError` and `RingStateError`; `LostWriteError` also where
        `keep` leaves the ring no row (`keep >= max_size`).
        """
        fetched = self._overwrite(keys, values)
        if fetched is not None:
            return fetched
        k_shape, v_shape = measure(self, keys, values)
        if k_shape[2] == 1:
            self._write(keys, values, k_shape, v_shape)
            return self._fetch()
        self._append(keys, values)
        return self.keys, self.values

    def _overwrite(self, keys: mx.array, values: mx.array) -> Pair | None:
        """Store one token in place and fetch, where nothing grows, leaves or broadcasts; else None.

        What most updates are, in the fewest steps. Nothing has changed where it is None: `_write`
        does those, and says what is wrong with the others. Of 0 rows none is inside.
        """
        k_buffer, v_buffer = self.keys, self.values
        held = capacity_for(k_buffer, v_buffer, keys, values)
        offset, idx, max_size = self.offset, self._idx, self.max_size
        if held != max_size:
            if not offset < held < max_size:
                return None
        elif idx == held:
            idx = self.keep
        if not self.keep <= idx < held:
            return None
        window = (ALL, ALL, slice(idx, idx + 1))
        k_buffer[window] = keys
        v_buffer[window] = values
        self.offset, self._idx = offset + 1, idx + 1
        if offset >= max_size:
            return k_buffer, v_buffer
        return self._first(offset + 1) if offset + 1 < held else self._fetch()

    def _write(self, keys: mx.array, values: mx.array, k_shape: Shape, v_shape: Shape) -> None:
        """Store one token in place, growing the buffers up to `max_size` first."""
        k_buffer, v_buffer, prev, idx = self.keys, self.values, self.offset, self._idx
        if k_buffer is None or prev >= k_buffer.shape[2] < self.max_size:
            k_buffer, v_buffer = self._lengthen(keys, values, k_shape, v_shape)
            idx = prev
        elif (excess := k_buffer.shape[2] - self.max_size) > 0:
            k_buffer = drop(k_buffer, self.keep, excess)
            v_buffer = drop(v_buffer, self.keep, excess)
            idx = self.max_size
        if idx == self.max_size:
            idx = self.keep
        if idx < self.keep and idx < prev:
            self._contradict(f"_idx {idx} among the {self.keep} kept rows after {prev} tokens")
        check_window(self, "keys", k_buffer, k_shape, idx)
        check_window(self, "values", v_buffer, v_shape, idx)
        window = (ALL, ALL, slice(idx, idx + 1))
        k_buffer[window] = keys
        v_buffer[window] = values
        self.keys, self.values, self.offset, self._idx = k_buffer, v_buffer, prev + 1, idx + 1

    def _lengthen(self, keys: mx.array, values: mx.array, k_shape: Shape, v_shape: Shape) -> Pair:
        """Buffers with up to `step` rows more, `max_size` in all."""
        rows = min(count_steps(self, self.step, 1), self.max_size - self.offset)
        if rows < 0:
            self._contradict(f"rows to grow by after {self.offset} of {self.max_size} tokens")
        k_tail = (*k_shape[:2], rows, k_shape[3])
        v_tail = (*k_shape[:2], rows, v_shape[3])
        values_held = None if self.keys is None else self.values
        return (
            lengthen(self, "keys", self.keys, k_tail, keys.dtype),
            lengthen(self, "values", values_held, v_tail, values.dtype),
        )

    def _append(self, keys: mx.array, values: mx.array) -> None:
        """Store any other number of tokens after the rows in temporal order: new arrays."""
        tokens = keys.shape[2]
        if self.keys is not None:
            k_held, v_held = self.keys.shape[2], self.values.shape[2]
            in_use = k_held if self._idx < self.offset else min(self._idx, k_held)
            excess = max(0, in_use - self.max_size + 1)
            k_windows = self._retain(k_held, excess)
            v_windows = k_windows if v_held == k_held else self._retain(v_held, excess)
            new = keys, values
            try:
                keys = splice(self.keys, k_windows, keys)
                values = splice(self.values, v_windows, values)
            except ValueError:
                explain_join(self, *new)
        self.keys, self.values = keys, values
        self.offset += tokens
        self._idx = keys.shape[2]

    def _retain(self, held: int, excess: int, operation: str = UPDATE) -> list[Window]:
        """What stays of a buffer of `held` rows when the `excess` oldest after `keep` leave.

        The windows are in temporal order and leave out the spare rows.
        """
        keep, idx = self.keep, self._idx
        if held != idx < self.offset:  # wrapped: the oldest row is at idx
            if idx < keep:
                got = f"_idx {idx} among the {keep} kept rows after {self.offset} tokens"
                self._contradict(got, operation)
            left = max(0, excess - max(0, held - idx))
            spans = [slice(keep), slice(idx + excess, held), slice(keep + left, idx)]
        elif excess:
            spans = [slice(min(keep, idx)), slice(keep + excess, idx)]
        else:
            spans = [slice(idx)]
        return [(ALL, ALL, span) for span in spans]

    def size(self) -> int:
        return min(self.offset, self.max_size)

    def is_trimmable(self) -> bool:
        return self.offset < self.max_size

    def trim(self, n: int) -> int:
        n = check_trim(self, n)
        if n and not self.is_trimmable():
            got = f"{n} at offset {self.offset}, max_size {self.max_size}"
            raise NotTrimmableError(self, "trim", "0 tokens once the ring is full", got)
        trimmed = min(self.offset, n)
        if trimmed > self._idx:
            self._contradict(f"_idx {self._idx} after {self.offset} tokens", "trim")
        self.offset -= trimmed
        self._idx -= trimmed
        return trimmed

    def make_mask(
        self,
        N: int,  # noqa: N803 - the release's name, passed by keyword
        window_size: int | None = None,
        return_array: bool = False,
    ) -> Mask:
        """The mask of N new tokens over the buffer as the update will leave it; does not mutate.

        None, "causal", bool (N, min(offset, max_size - 1) + N), or for one token and a window
        smaller than `max_size` bool (rows,), rolled as the ring is.
        Source: 0.31.3 cache.py:550-577, 0.32.2 cache.py:552-579.
        """
        if N > 1:
            window_size = window_size or self.max_size
            past = min(self.max_size - 1, self.offset)
            if not return_array and past + N <= window_size:
                return "causal"
            return create_causal_mask(N, past, window_size=window_size)
        if window_size is None or self.offset < window_size or self.max_size <= window_size:
            return None
        rows = min(self.offset + 1, self.max_size)
        newest = self._idx if self._idx < self.max_size else 0
        return mx.roll(mx.arange(rows) >= rows - window_size, newest + 1)

    @classmethod
    def merge(cls, caches: Any) -> BatchRotatingKVCache:
        """A batch of these caches, one row each; see `BatchRotatingKVCache.merge`."""
        return cls._batch_class.merge(caches)

    def _contradict(self, got: str, operation: str = UPDATE) -> NoReturn:
        expected = "offset, _idx and buffers that agree"
        raise RingStateError(self, operation, expected, got)
