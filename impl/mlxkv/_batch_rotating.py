"""The sliding-window cache of a batch: one ring of `max_size` columns, rows padded on the left."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import mlx.core as mx

from mlxkv._base import as_size, check_trim
from mlxkv._batch import BatchCache, Rows
from mlxkv._batch_layout import Span, as_windows, take_row
from mlxkv._batch_merge import check_caches, newest, stack
from mlxkv._batch_rows import Counts, read_counts, roll_rows
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
from mlxkv._errors import (
    BatchStateError,
    NotTrimmableError,
    PendingPaddingError,
    RingStateError,
    WindowError,
)
from mlxkv._in_place import capacity_for
from mlxkv._masks import create_causal_mask
from mlxkv._rotating import Ring, RotatingKVCache
from mlxkv._words import splice


class BatchRotatingKVCache(Ring, BatchCache):
    """The last `max_size` columns of several sequences, each padded on the left to the longest.

    Buffers are (batch, n_kv_heads, columns, head_dim). One token a row is written in place, at
    `_idx`, which runs round the ring once it is full (`rotated`). Several at once put the ring
    into temporal order and stay whole until the next single token. `left_padding` counts from the
    oldest column, so it falls, below 0 too, as columns leave. No row is kept for ever.
    Source: 0.31.3 cache.py:1133-1484, 0.32.2 cache.py:1101-1459.
    """

    _reference_name = "BatchRotatingKVCache"
    step: int = 256

    _single_class: ClassVar[type[RotatingKVCache]]
    _lengths: mx.array | None = None

    def __init__(self, max_size: int, left_padding: list[int]) -> None:
        """As `BatchCache`; also raises what `RotatingKVCache` does for its `max_size`."""
        size = as_size(self, "max_size", max_size)
        super().__init__(left_padding)
        self.max_size = size
        self._offset = 0
        self.rotated = False
        self._lengths = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        """Store rows (batch, n_kv_heads, tokens, head_dim), dropping the oldest columns.

        The first update has a row for each left padding; with several tokens it stores the
        caller's own arrays. Returns the columns in the order of the buffer, which after a wrap is
        not that of time. Raises as `Cache.update_and_fetch`, `StepError` and `RingStateError`;
        `PendingPaddingError` for single tokens before `finalize`.
        """
        fetched = self._overwrite(keys, values)
        if fetched is not None:
            return fetched
        if self._lengths is not None:
            self._check_prefill(keys)
        k_shape, v_shape = measure(self, keys, values)
        if self.keys is None:
            self._check_batch(k_shape)
            if k_shape[2] != 1:  # stored as they come, where one value row would not broadcast
                self._check_batch(v_shape)
        if k_shape[2] == 1:
            self._write(keys, values, k_shape, v_shape)
            return self._fetch()
        self._append(keys, values)
        return self.keys, self.values

    def _check_prefill(self, keys: Any) -> None:
        shape = keys.shape if isinstance(keys, mx.array) else ()
        if shape[2:3] == (1,):
            expected = "finalize() before single tokens"
            raise PendingPaddingError(self, UPDATE, expected, "right padding pending")

    def _overwrite(self, keys: mx.array, values: mx.array) -> Pair | None:
        """As in `RotatingKVCache`, for one token a row."""
        k_buffer, v_buffer = self.keys, self.values
        held = capacity_for(k_buffer, v_buffer, keys, values)
        if not held or self._lengths is not None:
            return None
        prev, idx, max_size = self._offset, self._idx, self.max_size
        if held != max_size:
            if not prev < held < max_size:
                return None
        elif idx == held:
            idx = 0
            self.rotated = True
        if not 0 <= idx < held:
            return None
        window = (ALL, ALL, slice(idx, idx + 1))
        k_buffer[window] = keys
        v_buffer[window] = values
        self._offset, self._idx = prev + 1, idx + 1
        self.keys = k_buffer = mx.depends(k_buffer, self._count(self.rotated))
        if prev >= max_size:
            return k_buffer, v_buffer
        return self._first(prev + 1) if prev + 1 < held else self._fetch()

    def _write(self, keys: mx.array, values: mx.array, k_shape: Shape, v_shape: Shape) -> None:
        """Store one token a row in place, growing the buffers up to `max_size` first."""
        k_buffer, v_buffer, prev, idx = self.keys, self.values, self._offset, self._idx
        held = 0 if k_buffer is None else k_buffer.shape[2]
        leave, rotated = 0, self.rotated
        if k_buffer is None or (prev >= held and held < self.max_size):
            k_buffer, v_buffer = self._lengthen(keys, values, k_shape, v_shape)
            idx = prev
        elif held > self.max_size:
            self._check_ring(UPDATE, held)
            leave = held - self.max_size
            newest = [(ALL, ALL, slice(leave, None))]
            k_buffer, v_buffer = splice(k_buffer, newest), splice(v_buffer, newest)
            idx = self.max_size
        if idx == self.max_size:
            rotated, idx = True, 0
        if rotated:
            leave += 1
        check_window(self, "keys", k_buffer, k_shape, idx)
        check_window(self, "values", v_buffer, v_shape, idx)
        window = (ALL, ALL, slice(idx, idx + 1))
        k_buffer[window] = keys
        v_buffer[window] = values
        self._offset, self._idx, self.rotated = prev + 1, idx + 1, rotated
        self._commit(k_buffer, v_buffer, leave, 1)

    def _lengthen(self, keys: mx.array, values: mx.array, k_shape: Shape, v_shape: Shape) -> Pair:
        """Buffers with up to `step` columns more, `max_size` in all."""
        columns = min(count_steps(self, self.step, 1), self.max_size - self._offset)
        if columns < 0:
            held = 0 if self.keys is None else self.keys.shape[2]
            got = f"{held} columns after {self._offset} tokens, max_size {self.max_size}"
            raise self._contradiction(UPDATE, got)
        k_tail = (*k_shape[:2], columns, k_shape[3])
        v_tail = (*k_shape[:2], columns, v_shape[3])
        return (
            lengthen(self, "keys", self.keys, k_tail, keys.dtype),
            lengthen(self, "values", self.values, v_tail, values.dtype),
        )

    def _append(self, keys: mx.array, values: mx.array) -> None:
        """Store any other number of tokens a row after the columns in temporal order."""
        tokens = keys.shape[2]
        leave, roll = 0, None
        if self.keys is not None:
            held = self._rows_of(UPDATE)
            in_use = held.keys.shape[2] if self.rotated else held.idx
            leave = max(0, in_use - self.max_size + 1)
            k_held, v_held = held.keys, held.values
            if self._check_pending(UPDATE) is None:
                spans = self._retain(held, leave)
            else:
                roll = mx.maximum(0, self.offset - self._lengths)
                windows = as_windows(self._retain(held, 0))
                k_held = roll_rows(splice(k_held, windows), roll)
                v_held = roll_rows(splice(v_held, windows), roll)
                spans = [(leave, k_held.shape[2])]
            new = keys, values
            windows = as_windows(spans)
            try:
                keys = splice(k_held, windows, keys)
                values = splice(v_held, windows, values)
            except ValueError:
                explain_join(self, *new)
            self.rotated = False
        if roll is not None:
            self.left_padding += roll
            self._rewind(roll)
        self._offset += tokens
        self._idx = keys.shape[2]
        self._commit(keys, values, leave, tokens)

    def _commit(self, keys: mx.array, values: mx.array, leave: int, tokens: int) -> None:
        """Keep the buffers; the oldest columns left, and tokens came. The keys evaluate both."""
        if leave:
            self.left_padding -= leave
        self._advance(tokens)
        self.keys = mx.depends(keys, (self.left_padding, self.offset))
        self.values = values

    def _retain(self, rows: Rows, leave: int) -> list[Span]:
        """The columns in use, in temporal order, without the `leave` oldest."""
        idx = rows.idx
        if not self.rotated:
            return [(min(leave, idx), idx)]
        held = rows.keys.shape[2]
        older = held - idx
        return [(min(idx + leave, held), held), (min(max(0, leave - older), idx), idx)]

    def _in_order(self, rows: Rows) -> Rows:
        """The rows with the spans of a ring in temporal order.

        Where it is not rotated the spare columns stay, past `idx`.
        """
        if not self.rotated:
            return rows
        return rows._replace(spans=self._retain(rows, 0), idx=rows.keys.shape[2])

    def _read_pending(self, lengths: Any, right: Counts) -> mx.array:  # noqa: ARG002
        return read_counts(self, "prepare", "lengths", lengths, self._batch())[0]

    def _await(self, pending: mx.array) -> None:
        self._lengths = pending + self.offset

    def _pending(self) -> mx.array | None:
        return self._lengths

    def finalize(self) -> None:
        if self._lengths is None:
            return
        self._check_pending("finalize")
        self._check_filled("finalize")
        roll = mx.maximum(0, self.offset - self._lengths)
        self.keys, self.values = roll_rows(self.keys, roll), roll_rows(self.values, roll)
        self.left_padding += roll
        self._rewind(roll)
        self._lengths = None

    def is_trimmable(self) -> bool:
        return not self._is_full()

    def _is_full(self) -> bool:
        return self._offset >= self.max_size

    def trim(self, n: int) -> int:
        n = check_trim(self, n)
        if n and not self.is_trimmable():
            got = f"{n} after {self._offset} tokens, max_size {self.max_size}"
            raise NotTrimmableError(self, "trim", "0 tokens once the ring is full", got)
        trimmed = min(self._offset, n)
        if trimmed > self._idx:
            raise self._contradiction("trim", f"_idx {self._idx} after {self._offset} tokens")
        self._offset -= trimmed
        self._idx -= trimmed
        self._rewind(trimmed)
        return trimmed

    def make_mask(
        self,
        N: int,  # noqa: N803 - the release's name, passed by keyword
        window_size: int | None = None,
        return_array: bool = False,  # noqa: ARG002 - it is always an array
    ) -> mx.array:
        """The mask of N new tokens a row over the buffer as the update will leave it.

        Bool (batch, 1, N, min(_offset, max_size - 1) + N), for one token rolled as the ring is;
        does not mutate. Source: 0.31.3 cache.py:1330-1357, 0.32.2 cache.py:1304-1331.
        """
        past = min(self.max_size - 1, self._offset)
        rolled = N == 1 and (self.rotated or self._idx >= self.max_size)
        leave = max(0, self._idx - self.max_size + (N > 1)) + rolled
        left = self.left_padding - leave if leave else self.left_padding
        mask = create_causal_mask(N, past, window_size or self.max_size, left_padding=left)
        if rolled:
            newest = self._idx if self._idx < self.max_size else 0
            mask = mx.roll(mask, newest + 1, -1)
        return mask

    def filter(self, batch_indices: Any) -> None:
        """Keep these batch rows, in this order, with all of their columns.

        A list, a slice or an integer array of rank 1, which may be empty; negative rows count
        from the end. Raises `RowSelectionError`, `RowIndexError`, `PendingPaddingError`.
        Source: 0.31.3 cache.py:1359-1367, 0.32.2 cache.py:1333-1341.
        """
        selected, _ = self._select(batch_indices)
        if self.keys is not None:
            self.keys, self.values = self.keys[selected], self.values[selected]
        self.offset = self.offset[selected]
        self.left_padding = self.left_padding[selected]

    def extend(self, other: BatchRotatingKVCache) -> None:
        """Append the batch rows of another; all rows end at one column.

        Unless both rings have turned equally far, each that has is put into temporal order, the
        other's as well. An empty cache adds rows of padding, in float32 with 0.31.3. Raises
        `PeerError`, `WindowError`, `PendingPaddingError`, `ShapeError`, `BatchStateError`, and
        `RingStateError` where a ring that an update of no tokens has left one column short would
        get an empty column that no padding hides.
        Source: 0.31.3 cache.py:1369-1415, 0.32.2 cache.py:1343-1390.
        """
        self._check_peer(other, BatchRotatingKVCache)
        empty = self.keys is None and other.keys is None
        reorder = not empty and (self.rotated != other.rotated or self._idx != other._idx)
        for one in (self, other):
            if one.rotated and reorder:
                one._check_filled("extend")
        if other.max_size != self.max_size:
            got = f"{self.max_size} and {other.max_size}"
            raise WindowError(self, "extend", "one max_size", got)
        self._check_settled(other)
        mine, theirs = self._rows_of("extend"), other._rows_of("extend")
        if reorder:
            mine, theirs = self._in_order(mine), other._in_order(theirs)
            if other.rotated:
                windows = as_windows(theirs.spans or ())
                keys, values = splice(theirs.keys, windows), splice(theirs.values, windows)
                theirs = theirs._replace(keys=keys, values=values, spans=None)
        elif self.rotated and not empty:
            columns = [0 if one.keys is None else one.keys.shape[2] for one in (mine, theirs)]
            if columns[0] != columns[1]:
                raise self._contradiction("extend", f"{columns[0]} and {columns[1]} columns")
        for one, held, end in ((self, mine, theirs.idx), (other, theirs, mine.idx)):
            if held.keys is not None and held.idx < min(end, one.max_size) and one._is_full():
                got = f"{held.idx} columns after {one._offset} tokens, max_size {one.max_size}"
                raise self._contradiction("extend", got)
        rows = self._join(mine, theirs)
        if reorder and other.rotated:
            other.keys, other.values, _, _, other._idx, _ = theirs
            other.rotated = False
        self.keys, self.values, self.offset, self.left_padding, self._idx, _ = rows
        if not empty:
            self.rotated = self.rotated and not reorder
            self._offset = max(self._offset, other._offset)

    def extract(self, idx: int) -> RotatingKVCache:
        """A cache of one row, without its padding, in temporal order and buffers of its own.

        Raises `RowSelectionError`, `RowIndexError`, `EmptyCacheError`, `PendingPaddingError`, and
        `BatchStateError` for a row that is padded past the columns stored.
        Source: 0.31.3 cache.py:1417-1433, 0.32.2 cache.py:1392-1408.
        """
        row = self._check_row(idx)
        offsets: Any = self.offset.tolist()
        paddings: Any = self.left_padding.tolist()
        offset, padding = offsets[row], paddings[row]
        length = self._pending_of(row)
        if length is not None and offset > length:
            got = f"right padding pending in row {row}"
            raise PendingPaddingError(self, "extract", "finalize() first", got)
        if offset < 0:
            raise BatchStateError(self, "extract", "an offset of at least 0", str(offset))
        rows = self._rows_of("extract")
        spans = self._retain(rows, max(0, padding))
        cache = self._single_class(self.max_size)
        cache.keys = take_row(rows.keys, row, spans)
        cache.values = take_row(rows.values, row, spans)
        cache.offset, cache._idx = offset, cache.keys.shape[2]
        return cache

    @classmethod
    def merge(cls, caches: Any) -> Self:
        """A batch of what these caches hold, one row each, which are not changed.

        Rows are in temporal order; from now on none of them is kept for ever. Heads and head_dim
        are the largest, the dtype of keys and values is that of the first keys; rows are cast, and
        sizes of 1 broadcast. Raises `PeerError`, `NothingError`, `WindowError`, `ShapeError`.
        Source: 0.31.3 cache.py:1436-1472, 0.32.2 cache.py:1411-1447.
        """
        every = check_caches(cls.__name__, caches, RotatingKVCache)
        sizes = {cache.max_size for cache in every}
        if len(sizes) > 1:
            raise WindowError(cls.__name__, "merge", "one max_size", str(sorted(sizes)))
        lengths = [cache.size() for cache in every]
        columns = max(lengths)
        batch = cls(every[0].max_size, [columns - length for length in lengths])
        if columns:
            batch.keys, batch.values = stack(cls.__name__, [newest(c) for c in every], lengths)
            batch.offset = mx.array([cache.offset for cache in every])
            batch._idx = batch._offset = columns
        return batch

    def size(self) -> int:
        return min(self._offset, self.max_size)

    def _rows_of(self, operation: str) -> Rows:
        rows = super()._rows_of(operation)
        if rows.keys is not None:
            self._check_ring(operation, rows.keys.shape[2])
        return rows

    def _check_ring(self, operation: str, held: int) -> None:
        if self.rotated and held > self.max_size:
            got = f"{held} columns in a rotated ring of {self.max_size}"
            raise self._contradiction(operation, got)

    def _contradiction(self, operation: str, got: str) -> RingStateError:
        return RingStateError(self, operation, "_offset, _idx and buffers that agree", got)
