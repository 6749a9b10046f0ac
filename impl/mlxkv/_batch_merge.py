"""Merging single caches into a batch: where each holds its rows, and stacking those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import mlx.core as mx

from mlxkv._base import PlainCache
from mlxkv._batch_layout import Block, Layout, Span, lay, skip, width
from mlxkv._buffers import Pair, Shape
from mlxkv._errors import NothingError, PeerError, ShapeError
from mlxkv._kv import KVCache
from mlxkv._rotating import RotatingKVCache

# A buffer, and which of its columns.
Part: TypeAlias = tuple[mx.array, Sequence[Span]]


def check_caches(name: str, caches: Any, family: type[PlainCache]) -> list[Any]:
    """The caches to merge, as a list; raises unless there are some, all of the family."""
    try:
        every = list(caches)
    except TypeError:
        raise PeerError(name, "merge", "a list of caches", repr(caches)) from None
    if not every:
        raise NothingError(name, "merge", "at least one cache", "none")
    for cache in every:
        if not isinstance(cache, family):
            raise PeerError.between(name, "merge", family, cache)
    return every


def stack(name: str, rows: Sequence[tuple[Part, Part] | None], lengths: list[int]) -> Pair:
    """One row of a batch from the rows of each cache, right-justified, zeros before them: new.

    n_kv_heads and the dtype of both are those of the keys, the most and the first; rows are cast,
    and sizes of 1 broadcast. Raises `NothingError`, `ShapeError`.
    """
    filled = [parts for parts in rows if parts is not None]
    if not filled:
        raise NothingError(name, "merge", "stored keys and values", "none")
    keys = [parts[0][0] for parts in filled]
    n_kv_heads, dtype = max(buffer.shape[1] for buffer in keys), keys[0].dtype
    columns = max(lengths)
    stacked = []
    for part, kind in enumerate(("keys", "values")):
        head_dim = max(parts[part][0].shape[3] for parts in filled)
        blocks = []
        for parts, length in zip(rows, lengths, strict=True):
            if parts is None:
                blocks.append(Block(None, 1, 0, ()))
                continue
            buffer, spans = parts[part]
            batch, heads, _, held = buffer.shape
            fit = (1, n_kv_heads, length, head_dim)
            if (batch, heads, width(spans), held) != fit:
                check_fit(name, kind, (batch, heads, width(spans), held), fit)
            blocks.append(Block(buffer if length else None, 1, columns - length, spans))
        layout = Layout(len(blocks), n_kv_heads, columns, head_dim, dtype)
        stacked.append(lay(blocks, layout))
    return stacked[0], stacked[1]


def check_fit(name: str, kind: str, rows: Shape, held: Shape) -> None:
    """Raise unless mlx writes all of these rows, and one to one but for the sizes of 1."""
    tokens = rows[2] == held[2] or (held[2] == 0 and rows[2] == 1)
    if not tokens or any(rows[axis] not in (1, held[axis]) for axis in (0, 1, 3)):
        expected = f"{kind} that broadcast to {held}, with as many tokens"
        raise ShapeError(name, "merge", expected, str(rows))


def stored(cache: KVCache) -> tuple[Part, Part] | None:
    """Where the tokens of a cache are stored, None where nothing ever was."""
    if cache.empty():
        return None
    first = 0 if cache._span is None else cache._span.first
    stop = first + cache.offset
    keys, values = cache._keys, cache._values
    return (
        (keys, [(first, min(stop, keys.shape[2]))]),
        (values, [(first, min(stop, values.shape[2]))]),
    )


def newest(cache: RotatingKVCache) -> tuple[Part, Part] | None:
    """Where the rows are that merge takes, in temporal order; None where nothing was stored."""
    if cache.keys is None:
        return None
    return _part(cache, cache.keys), _part(cache, cache.values)


def _part(cache: RotatingKVCache, buffer: mx.array) -> Part:
    """The newest rows of a buffer, as many as the size says; all in use where it is 0."""
    spans = []
    for _, _, rows in cache._retain(buffer.shape[2], 0, "merge"):
        first, stop, _ = rows.indices(buffer.shape[2])
        spans.append((first, max(first, stop)))
    size = cache.size()
    return buffer, skip(spans, width(spans) - size) if size else spans
