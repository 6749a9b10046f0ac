"""Laying rows of several buffers into the buffer of one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import mlx.core as mx

from mlxkv._buffers import ALL
from mlxkv._words import MANY, WORD, Window, concatenate, is_on_cpu, shared_words, words_in

Span: TypeAlias = tuple[int, int]
# A flat buffer, its first row and the one after the last; None for rows of zeros.
Run: TypeAlias = tuple[mx.array | None, int, int]

# The bytes of a piece of `compose` from which on handling it takes less than moving it.
PIECE = 1 << 16


class Block(NamedTuple):
    """Batch rows of a buffer (batch, n_kv_heads, capacity, head_dim); of zeros where it is None.

    Its columns in the `spans`, each (first, stop), come one after the other in the columns from
    `start` on of what is laid out. Spans lie inside the buffer and, together, inside that.
    """

    buffer: mx.array | None
    batch: int
    start: int
    spans: Sequence[Span]

    def is_whole(self, columns: int) -> bool:
        """Whether its rows lie in the layout just as in the buffer, one after the other."""
        buffer = self.buffer
        if buffer is None or not buffer.size:
            return True
        return buffer.shape[2] == columns and list(self.spans) == [(0, columns)]


class Layout(NamedTuple):
    """What blocks are laid into, one below the other."""

    batch: int
    n_kv_heads: int
    columns: int
    head_dim: int
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """The bytes of it."""
        return self.batch * self.n_kv_heads * self.columns * self.head_dim * self.dtype.size

    def alike(self, blocks: Sequence[Block]) -> bool:
        """Whether nothing of the blocks is cast or broadcast."""
        _, n_kv_heads, _, head_dim, dtype = self
        for buffer, batch, _, _ in blocks:
            if buffer is not None:
                rows, heads, _, width = buffer.shape
                if (rows, heads, width) != (batch, n_kv_heads, head_dim) or buffer.dtype != dtype:
                    return False
        return True


def lay(blocks: Sequence[Block], layout: Layout) -> mx.array:
    """A new array (batch, n_kv_heads, columns, head_dim), zeros where no block is.

    Rows are cast, and sizes of 1 broadcast.
    """
    if layout.nbytes < MANY:
        return _write(blocks, layout)
    laid = compose(blocks, layout)
    if laid is None:
        laid = _write(*_widened(blocks, layout)).view(layout.dtype)
    return laid


def compose(blocks: Sequence[Block], layout: Layout) -> mx.array | None:
    """The same in one concatenation, where that is the fastest: each byte is moved once.

    None where it is not: for rows that are cast or broadcast, for small ones, and on a GPU, which
    would start a kernel for each head of each row.
    """
    size, pieces = layout.nbytes, 0
    for block in blocks:
        heads = block.batch * layout.n_kv_heads
        pieces += 1 if block.is_whole(layout.columns) else heads * (len(block.spans) + 1)
    if size < pieces * PIECE or not layout.alike(blocks):
        return None
    if not is_on_cpu():
        return None
    flat = concatenate(list(_pieces(*_widened(blocks, layout))), 0)
    return flat.view(layout.dtype).reshape(layout[:4])


def _widened(blocks: Sequence[Block], layout: Layout) -> tuple[Sequence[Block], Layout]:
    """The blocks and the layout in words, where the rows are whole words; else as they are."""
    batch, n_kv_heads, columns, head_dim, dtype = layout
    words = words_in(head_dim, dtype)
    if not words or not layout.alike(blocks):
        return blocks, layout
    wide = [
        Block(None if buffer is None else buffer.view(WORD), batch, start, spans)
        for buffer, batch, start, spans in blocks
    ]
    return wide, Layout(batch, n_kv_heads, columns, words, WORD)


def width(spans: Sequence[Span]) -> int:
    """The columns of the spans, in all."""
    columns = 0
    for first, stop in spans:
        columns += stop - first
    return columns


def skip(spans: Sequence[Span], columns: int) -> list[Span]:
    """The spans without the first so many columns."""
    rest = []
    for first, stop in spans:
        left = min(max(0, columns), stop - first)
        rest.append((first + left, stop))
        columns -= left
    return rest


def take_row(buffer: mx.array, row: int, spans: Sequence[Span]) -> mx.array:
    """Those columns of one batch row, in their order, in a dense buffer of its own."""
    rows = slice(row, row + 1)
    dtype = shared_words((buffer,)) if buffer.nbytes >= MANY * buffer.shape[0] else None
    if dtype is None:
        parts = [buffer[rows, :, first:stop] for first, stop in spans]
    else:
        words = buffer[rows].view(WORD)
        parts = [words[:, :, first:stop] for first, stop in spans]
    taken = mx.contiguous(parts[0]) if len(parts) == 1 else concatenate(parts, 2)
    return taken if dtype is None else taken.view(dtype)


def as_windows(spans: Sequence[Span]) -> list[Window]:
    """The spans of columns as windows of a buffer."""
    return [(ALL, ALL, slice(first, stop)) for first, stop in spans]


def _write(blocks: Sequence[Block], layout: Layout) -> mx.array:
    """The blocks written into zeros, one after the other."""
    laid = mx.zeros(layout[:4], layout.dtype)
    row = 0
    for buffer, batch, start, spans in blocks:
        rows = slice(row, row + batch)
        row += batch
        if buffer is not None:
            column = start
            for first, stop in spans:
                end = column + stop - first
                laid[rows, :, column:end] = buffer[:, :, first:stop]
                column = end
    return laid


def _pieces(blocks: Sequence[Block], layout: Layout) -> Iterator[mx.array]:
    """What lies in the layout from its first byte to its last, in flat arrays."""
    _, _, _, head_dim, dtype = layout
    blanks: dict[int, mx.array] = {}
    gap = 0
    for flat, first, stop in _runs(blocks, layout):
        if flat is None:
            gap += stop - first
        elif first < stop:
            if gap:
                if gap not in blanks:
                    blanks[gap] = mx.zeros((gap * head_dim,), dtype)
                yield blanks[gap]
                gap = 0
            yield flat[first * head_dim : stop * head_dim]
    if gap:
        yield mx.zeros((gap * head_dim,), dtype)


def _runs(blocks: Sequence[Block], layout: Layout) -> Iterator[Run]:
    """The rows of head_dim in the order of the layout, in runs of those that lie side by side."""
    _, n_kv_heads, columns, _, _ = layout
    for block in blocks:
        buffer, batch, start, spans = block
        heads = batch * n_kv_heads
        if buffer is None or not buffer.size:
            yield None, 0, heads * columns
            continue
        flat, held = buffer.reshape(-1), buffer.shape[2]
        if block.is_whole(columns):
            yield flat, 0, heads * columns
            continue
        end = start + width(spans)
        for row in range(0, heads * held, held):
            yield None, 0, start
            for first, stop in spans:
                yield flat, row + first, row + stop
            yield None, end, columns
