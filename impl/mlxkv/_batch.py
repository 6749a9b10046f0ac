"""What the batch caches share: padding, and joining, picking and stacking batch rows."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

import mlx.core as mx

from mlxkv._base import PlainCache
from mlxkv._batch_layout import Block, Layout, Span, lay
from mlxkv._batch_rows import Counts, ones_for, read_counts, select_rows
from mlxkv._buffers import UPDATE, Shape
from mlxkv._errors import (
    ArrayTypeError,
    BatchStateError,
    EmptyCacheError,
    NotEmptyError,
    PeerError,
    PendingPaddingError,
    RowIndexError,
    RowSelectionError,
    ShapeError,
    StateError,
)
from mlxkv._states import check_arrays
from mlxkv._words import concatenate, join


class Rows(NamedTuple):
    """The rows of one batch, right-justified at column `idx`; no buffers while it is empty.

    `spans` are the columns of the buffers in their order; None is as they are, spare ones too.
    """

    keys: Any
    values: Any
    offset: mx.array
    left_padding: mx.array
    idx: int
    spans: Sequence[Span] | None = None


class BatchCache(PlainCache):
    """The attention state of one layer for several sequences, padded on the left to one length.

    `left_padding` and `offset` are integer arrays (batch,): the columns to be ignored at the front
    of a row, and the tokens after them. A row that is padded further than the columns stored so
    far has a negative offset. `left_padding` changes in place: a handle shows it.
    """

    __slots__ = ("_counted",)  # No field: what copies and states need not have.

    left_padding: Any
    offset: Any
    _idx: int
    _counted: tuple[mx.array, mx.array, mx.array | int]

    def __init__(self, left_padding: list[int]) -> None:
        """Start an empty batch of as many rows as there are paddings; raises `PaddingError`."""
        padding, _ = read_counts(self, "__init__", "left_padding", left_padding)
        super().__init__()
        self.left_padding = padding
        self.offset = mx.array([-columns for columns in left_padding])
        self._idx = 0

    def prepare(
        self,
        *,
        left_padding: list[int] | None = None,
        lengths: list[int] | None = None,
        right_padding: list[int] | None = None,
    ) -> None:
        """Announce the padding of the prompts that are to be stored next.

        `left_padding` is added to that of an empty cache. `right_padding`, where any is above 0,
        stays pending until `finalize`; a second call replaces it. One number a row each, or one
        for all. Raises `PaddingError`, `NotEmptyError`.
        """
        batch = self._batch()
        left = pending = None
        if left_padding is not None:
            if self.keys is not None:
                got = f"left padding after {self._idx} columns"
                raise NotEmptyError(self, "prepare", "an empty cache", got)
            left, _ = read_counts(self, "prepare", "left_padding", left_padding, batch)
        if right_padding is not None:
            right = read_counts(self, "prepare", "right_padding", right_padding, batch, 1)
            if max(right[1]) > 0:
                pending = self._read_pending(lengths, right)
        if left is not None:
            self.left_padding += left
            self._rewind(left)
        if pending is not None:
            self._await(pending)

    def finalize(self) -> None:
        """Turn pending right padding into left padding by rolling each row; else do nothing.

        Mutates the buffers (new objects), `left_padding` and `offset`. Raises `EmptyCacheError`,
        `BatchStateError`.
        """
        raise NotImplementedError

    def materialize(self) -> None:
        """Evaluate the buffers, `offset`, `left_padding` and padding that is pending."""
        mx.eval(self.keys, self.values, self.offset, self.left_padding, self._pending())

    def _read_pending(self, lengths: Any, right: Counts) -> mx.array:
        """What the class keeps of right padding until `finalize`."""
        raise NotImplementedError

    def _await(self, pending: mx.array) -> None:
        """Keep it."""
        raise NotImplementedError

    def _pending(self) -> mx.array | None:
        """What is kept of right padding, None where none is pending."""
        raise NotImplementedError

    def _count(self, leave: bool) -> tuple[mx.array, mx.array]:
        """Count one token a row, and where a column leaves the padding of each row down.

        Returns left_padding and offset. What to count by is looked up where those are not the
        arrays of the token before.
        """
        left, offset = self.left_padding, self.offset
        try:
            left_before, offset_before, one = self._counted
            known = left_before is left and offset_before is offset
        except AttributeError:
            known = False
        if not known:
            one = ones_for(left, offset)
        if leave:
            self.left_padding -= one
        self._advance(one)
        offset = self.offset
        self._counted = left, offset, one
        return left, offset

    def _advance(self, tokens: int | mx.array) -> None:
        """Add to every offset; each release says whether a handle shows it."""
        raise NotImplementedError

    def _rewind(self, tokens: int | mx.array) -> None:
        """Subtract from every offset, likewise."""
        raise NotImplementedError

    def _batch(self) -> int:
        return int(self.left_padding.shape[0])

    def _check_batch(self, rows: Shape) -> None:
        """Raise unless the first rows to be stored are as many as the paddings."""
        if rows[0] != self._batch():
            expected = f"a row for each of {self._batch()} left paddings"
            raise ShapeError(self, UPDATE, expected, str(rows))

    def _check_alike(self, operation: str) -> None:
        """Raise unless all arrays have as many batch rows: mlx would read past the shorter."""
        batches = [self.left_padding.shape[0], self.offset.shape[0]]
        if self.keys is not None:
            batches += [self.keys.shape[0], self.values.shape[0]]
        if batches.count(batches[0]) != len(batches):
            expected = "as many batch rows in left_padding, offset, keys and values"
            raise BatchStateError(self, operation, expected, ", ".join(map(str, batches)))

    def _check_filled(self, operation: str) -> None:
        if self.keys is None:
            raise EmptyCacheError(self, operation, "stored keys and values", "none")

    def _check_pending(self, operation: str) -> mx.array | None:
        """What is pending, to be applied to all rows; raises unless it is for these rows."""
        pending = self._pending()
        if pending is not None and pending.shape not in ((1,), (self._batch(),)):
            expected = f"right padding for {self._batch()} rows"
            raise BatchStateError(self, operation, expected, f"{pending.shape[0]} pending")
        return pending

    def _pending_of(self, row: int) -> int | None:
        """What is pending for one row."""
        pending = self._check_pending("extract")
        if pending is None:
            return None
        amounts: Any = pending.tolist()
        return int(amounts[row % len(amounts)])

    def _select(self, batch_indices: Any) -> Counts:
        """The rows to filter; raises while right padding is pending that would not follow them."""
        self._check_alike("filter")
        selected, rows = select_rows(self, batch_indices, self._batch())
        pending = self._check_pending("filter")
        if pending is not None and pending.size > 1:
            amounts: Any = pending.tolist()
            if [amounts[row] for row in rows] != amounts:
                got = f"right padding pending, and rows {rows}"
                raise PendingPaddingError(self, "filter", "finalize() first", got)
        return selected, rows

    def _check_row(self, idx: Any) -> int:
        """The row as an int; raises unless `extract` can take it out.

        -1 is none: in mlx-lm it takes no row. Nor is an array, which mlx-lm refuses too.
        """
        self._check_alike("extract")
        batch = self._batch()
        expected = f"a row of [0, {batch}) or [-{batch}, -1)"
        try:
            row = index(idx)
        except TypeError:
            raise RowSelectionError(self, "extract", expected, repr(idx)) from None
        if not -batch <= row < batch:
            raise RowIndexError(self, "extract", expected, str(row))
        if isinstance(idx, bool | mx.array):
            raise RowSelectionError(self, "extract", expected, repr(idx))
        self._check_filled("extract")
        if row == -1:
            raise RowIndexError(self, "extract", expected, str(row))
        return row

    def _check_peer(self, other: Any, family: type[BatchCache]) -> None:
        if not isinstance(other, family):
            raise PeerError.between(self, "extend", family, other)

    def _check_settled(self, other: BatchCache) -> None:
        """Raise while right padding is pending in either: it would go to other rows, or be lost."""
        pending = self._pending() is not None
        if pending or other._pending() is not None:
            got = f"right padding pending in {'the cache' if pending else 'the peer'}"
            raise PendingPaddingError(self, "extend", "finalize() first", got)

    def _rows_of(self, operation: str) -> Rows:
        """The rows as they are; raises where cursor and buffers contradict each other."""
        keys, values, idx = self.keys, self.values, self._idx
        if keys is not None:
            held = keys.shape[2]
            if values.shape[2] != held or idx > held:
                expected = "keys and values of one length, and _idx inside them"
                got = f"keys {keys.shape}, values {values.shape}, _idx {idx}"
                raise BatchStateError(self, operation, expected, got)
        return Rows(keys, values, self.offset, self.left_padding, idx)

    def _blank_dtype(self, filled: mx.Dtype) -> mx.Dtype:
        """The type of the rows that an empty side contributes to `extend`."""
        raise NotImplementedError

    def _join(self, mine: Rows, other: Rows) -> Rows:
        """Both batches as one, the shorter moved right to end at the same column: new arrays.

        Spare columns stay, as many as the longer buffer has. dtypes promote. Raises `ShapeError`.
        """
        offset = concatenate((mine.offset, other.offset), 0)
        filled = [side for side in (mine, other) if side.keys is not None]
        if not filled:
            left = concatenate((mine.left_padding, other.left_padding), 0)
            return Rows(None, None, offset, left, self._idx)
        last = filled[-1]
        k_shape, v_shape = last.keys.shape, last.values.shape
        idx, columns, blank = max(mine.idx, other.idx), k_shape[2], None
        if len(filled) == 1:
            check_equal(self, "values", v_shape, (*k_shape[:3], v_shape[3]))
            blank = self._blank_dtype(last.keys.dtype)
        else:
            held = mine.keys.shape
            check_equal(self, "keys", held, k_shape)
            check_equal(self, "values", mine.values.shape, v_shape)
            if mine.idx == other.idx and held[2] == columns and mine.spans is None:
                left = concatenate((mine.left_padding, other.left_padding), 0)
                keys = join((mine.keys, other.keys), 0)
                return Rows(keys, join((mine.values, other.values), 0), offset, left, idx)
            columns = max(columns, held[2])
        lefts, k_blocks, v_blocks = [], [], []
        for side in (mine, other):
            shift, batch, spans = idx - side.idx, side.offset.shape[0], side.spans
            lefts.append(side.left_padding + shift if shift else side.left_padding)
            if spans is None:
                held = 0 if side.keys is None else side.keys.shape[2]
                spans = [(0, min(held, columns - shift))]
            k_blocks.append(Block(side.keys, batch, shift, spans))
            v_blocks.append(Block(side.values, batch, shift, spans))
        keys, values = _lay(k_blocks, columns, blank), _lay(v_blocks, columns, blank)
        return Rows(keys, values, offset, concatenate(lefts, 0), idx)


def check_equal(cache: object, name: str, rows: Shape, held: Shape) -> None:
    """Raise unless n_kv_heads and head_dim are the same."""
    if rows[1] != held[1] or rows[3] != held[3]:
        expected = f"{name} with the n_kv_heads and head_dim of {held}"
        raise ShapeError(cache, "extend", expected, str(rows))


def _lay(blocks: list[Block], columns: int, blank: mx.Dtype | None) -> mx.array:
    """The blocks of one n_kv_heads and head_dim, zeros around them; dtypes promote."""
    buffers = [block.buffer for block in blocks if block.buffer is not None]
    types = [buffer.dtype for buffer in buffers] + ([] if blank is None else [blank])
    _, n_kv_heads, _, head_dim = buffers[0].shape
    batch, dtype = sum(block.batch for block in blocks), mx.result_type(*types)
    return lay(blocks, Layout(batch, n_kv_heads, columns, head_dim, dtype))


def check_state(cache: object, keys: Any, values: Any, offset: Any, left_padding: Any) -> int:
    """Return the columns of the keys, 0 for keys and values of None, the empty batch.

    Raises unless offset and left_padding are integer arrays of rank 1 with a number for each batch
    row of the buffers, which keeps a row of one from being looked for in the other.
    """
    rows = []
    for name, numbers in (("offset", offset), ("left_padding", left_padding)):
        if not isinstance(numbers, mx.array):
            raise ArrayTypeError(cache, "state", f"an mx.array as {name}", type(numbers).__name__)
        if numbers.ndim != 1 or mx.issubdtype(numbers.dtype, mx.inexact):
            got = f"{numbers.dtype} {numbers.shape}"
            raise StateError(cache, "state", f"integers of rank 1 as {name}", got)
        rows.append(numbers.shape[0])
    columns = 0
    if keys is not None or values is not None:
        check_arrays(cache, keys, values)
        rows += [keys.shape[0], values.shape[0]]
        columns = keys.shape[2]
    if len(set(rows)) > 1:
        expected = "as many batch rows in offset, left_padding, keys and values"
        raise StateError(cache, "state", expected, ", ".join(map(str, rows)))
    return columns
