"""The standard cache of a batch: rows that are padded on the left, and grow in step."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import mlx.core as mx

from mlxkv._base import check_trim
from mlxkv._batch import BatchCache
from mlxkv._batch_layout import PIECE, Block, Layout, compose, take_row
from mlxkv._batch_merge import check_caches, stack, stored
from mlxkv._batch_rows import Counts, roll_rows
from mlxkv._buffers import ALL, Pair, append, measure
from mlxkv._errors import BatchStateError, PendingPaddingError, RowSelectionError
from mlxkv._in_place import capacity_for
from mlxkv._kv import KVCache
from mlxkv._masks import create_causal_mask


class BatchKVCache(BatchCache):
    """All keys and values of several sequences, each padded on the left to the longest.

    Buffers are (batch, n_kv_heads, capacity, head_dim); the first `_idx` columns are in use.
    Source: 0.31.3 cache.py:912-1130, 0.32.2 cache.py:880-1098.
    """

    _reference_name = "BatchKVCache"
    step: int = 256

    _single_class: ClassVar[type[KVCache]]
    _right_padding: mx.array | None = None

    def __init__(self, left_padding: list[int]) -> None:
        super().__init__(left_padding)
        self._right_padding = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        """Write rows (batch, n_kv_heads, tokens, head_dim) at the column `_idx` and advance it.

        The first update has a row for each left padding, and fixes the dtypes; later rows are
        cast, until a growth promotes. Returns views of the first `_idx` columns. Raises as
        `Cache.update_and_fetch` and `StepError`.
        """
        k_buffer, v_buffer, prev = self.keys, self.values, self._idx
        if prev < capacity_for(k_buffer, v_buffer, keys, values):
            window = (ALL, ALL, slice(prev, prev + 1))
            k_buffer[window] = keys
            v_buffer[window] = values
            self._count(False)
            self._idx = stop = prev + 1
            window = (ALL, ALL, slice(stop))
            return k_buffer[window], v_buffer[window]
        if k_buffer is None:
            self._check_batch(measure(self, keys, values)[0])
        append(self, keys, values, prev)
        tokens = keys.shape[2]
        self._idx += tokens
        self._advance(tokens)
        return self._fetch()

    def _fetch(self) -> Pair:
        return self._first(self._idx)

    def _read_pending(self, lengths: Any, right: Counts) -> mx.array:  # noqa: ARG002
        return right[0]

    def _await(self, pending: mx.array) -> None:
        self._right_padding = pending

    def _pending(self) -> mx.array | None:
        return self._right_padding

    def finalize(self) -> None:
        padding = self._right_padding
        if padding is None:
            return
        self._check_filled("finalize")
        self._check_pending("finalize")
        self.keys, self.values = roll_rows(self.keys, padding), roll_rows(self.values, padding)
        self._rewind(padding)
        self.left_padding += padding
        self._right_padding = None

    def trim(self, n: int) -> int:
        trimmed = min(self._idx, check_trim(self, n))
        self._idx -= trimmed
        self._rewind(trimmed)
        return trimmed

    def make_mask(
        self,
        N: int,  # noqa: N803 - the release's name, passed by keyword
        return_array: bool = False,  # noqa: ARG002 - it is always an array
        **kwargs: Any,
    ) -> mx.array:
        """The mask of N new tokens a row: bool (batch, 1, N, _idx + N); does not mutate.

        Further arguments, such as `window_size`, go to `create_causal_mask`.
        Source: 0.31.3 cache.py:1011-1014, 0.32.2 cache.py:977-980.
        """
        return create_causal_mask(N, offset=self._idx, left_padding=self.left_padding, **kwargs)

    def filter(self, batch_indices: Any) -> None:
        """Keep these batch rows, in this order, and drop the columns that pad all of them.

        A list, a slice or an integer array of rank 1; negative rows count from the end. Raises
        `RowSelectionError` (for no row as well), `RowIndexError`, `PendingPaddingError`, and
        `BatchStateError` where a row is padded past the columns stored.
        Source: 0.31.3 cache.py:1016-1033, 0.32.2 cache.py:982-999.
        """
        selected, rows = self._select(batch_indices)
        if not rows:
            raise RowSelectionError(self, "filter", "at least one batch row", "none")
        left = self.left_padding[selected]
        common = max(0, min(left.tolist()))
        if common > self._idx:
            expected = f"rows without {common} columns of padding in common"
            raise BatchStateError(self, "filter", expected, f"{self._idx} columns stored")
        offset, keys, values = self.offset[selected], self.keys, self.values
        if keys is not None:
            if common:
                keys = _without(keys, (selected, rows), common)
                values = _without(values, (selected, rows), common)
            else:
                keys, values = keys[selected], values[selected]
        if common:
            left -= common
        self.keys, self.values, self.offset, self.left_padding = keys, values, offset, left
        self._idx -= common

    def extend(self, other: BatchKVCache) -> None:
        """Append the batch rows of another, which is not changed; all rows end at one column.

        An empty cache adds rows of padding, in float32 with 0.31.3. Raises `PeerError`,
        `PendingPaddingError`, `ShapeError`, `BatchStateError`.
        Source: 0.31.3 cache.py:1035-1078, 0.32.2 cache.py:1001-1045.
        """
        self._check_peer(other, BatchKVCache)
        self._check_settled(other)
        rows = self._join(self._rows_of("extend"), other._rows_of("extend"))
        self.keys, self.values, self.offset, self.left_padding, self._idx, _ = rows

    def extract(self, idx: int) -> KVCache:
        """A cache of one row, without its padding, in dense buffers of its own.

        Raises `RowSelectionError`, `RowIndexError`, `EmptyCacheError`, `PendingPaddingError`,
        `BatchStateError`. Source: 0.31.3 cache.py:1080-1086, 0.32.2 cache.py:1047-1054.
        """
        row = self._check_row(idx)
        if self._pending_of(row):
            got = f"right padding pending in row {row}"
            raise PendingPaddingError(self, "extract", "finalize() first", got)
        paddings: Any = self.left_padding.tolist()
        padding = paddings[row]
        if padding < 0:
            raise BatchStateError(self, "extract", "left padding of at least 0", str(padding))
        spans = [(padding, self._idx)]
        cache = self._single_class()
        cache.keys = take_row(self.keys, row, spans)
        cache.values = take_row(self.values, row, spans)
        cache.offset = cache.keys.shape[2]
        return cache

    @classmethod
    def merge(cls, caches: Any) -> Self:
        """A batch of the tokens of these caches, one row each, which are not changed.

        Heads and head_dim are the largest, the dtype of keys and values is that of the first keys;
        rows are cast, and sizes of 1 broadcast. Raises `PeerError`, `NothingError`, `ShapeError`.
        Source: 0.31.3 cache.py:1088-1118, 0.32.2 cache.py:1056-1086.
        """
        every = check_caches(cls.__name__, caches, KVCache)
        lengths = [cache.offset for cache in every]
        columns = max(lengths)
        batch = cls([columns - length for length in lengths])
        if columns:
            batch.keys, batch.values = stack(cls.__name__, [stored(c) for c in every], lengths)
            batch._idx = columns
            batch._advance(columns)
        return batch

    def size(self) -> int:
        return self._idx


def _without(buffer: mx.array, selected: Counts, columns: int) -> mx.array:
    """Those batch rows of a buffer without its first columns: a view where that is the fastest."""
    array, rows = selected
    dense, (batch, n_kv_heads, capacity, head_dim) = None, buffer.shape
    if buffer.nbytes >= PIECE * batch * n_kv_heads:
        spans = [(columns, capacity)]
        blocks = [Block(buffer[i : i + 1], 1, 0, spans) for i in (row % batch for row in rows)]
        shape = len(rows), n_kv_heads, capacity - columns, head_dim
        dense = compose(blocks, Layout(*shape, buffer.dtype))
    return buffer[array][:, :, columns:] if dense is None else dense
