"""States to assign: what a release's own `state` looks like, and what does not fit it."""

from __future__ import annotations

from collections.abc import Iterator

from kvlockstep._recipes import AnyRecipe, Literals, StateItem
from kvlockstep._source import Source
from kvlockstep._steps import SetMetaState, SetState
from kvlockstep._style import VALUES_START, Style
from kvlockstep._trace import AnyStep
from kvlockstep._writing import Writing

_BAD_META = (("4", "x", "0", "0"), ("4",), ("1", "2", "3", "4", "5"), ("None", "3"), ("-1", "2"))


def write(writing: Writing, cache: str, slot: str) -> Iterator[AnyStep]:
    """Yield an assignment of `state`, and of `meta_state` where the contract has one.

    `cache` is the class that the state is made for; what is in the slot may be of another.
    """
    source, style = writing.source, writing.style
    members = writing.contract.surfaces[cache].members
    meta = "meta_state" in members
    if cache == "ArraysCache":
        yield _of_arrays(writing, slot, meta)
        return
    batch = source.pick((1, 2, 2, 3)) if cache.startswith("Batch") else style.batch
    rows = source.pick((3, 1, 2, 4, 5, 6, 8, 0))
    quantized = cache == "QuantizedKVCache"
    group_size, bits = source.pick((32, 32, 32, 64)), source.pick((8, 4))
    arrays: list[StateItem]
    if quantized:
        arrays = [
            _triple(style, source, rows, dim, group_size, bits)
            for dim in (style.k_head_dim, style.v_head_dim)
        ]
    else:
        arrays = [
            style.array(source, (batch, style.heads, rows, dim), style.dtype, start)
            for dim, start in ((style.k_head_dim, 0), (style.v_head_dim, VALUES_START))
        ]
    odd = source.below(26)
    if odd >= 23 and not quantized:
        shape = (batch, style.heads, source.pick((1, 2, 9, 12)), style.v_head_dim)
        arrays[1] = style.array(source, shape, style.dtype, VALUES_START)
    if odd == 22:
        arrays[1] = style.array(source, (1, 2), style.dtype)
    if odd == 21:
        arrays = [None, None]
    if cache.startswith("Batch"):
        arrays += _counts(source, batch if isinstance(batch, int) else 1, rows)
    if odd == 20:
        arrays = arrays[: source.below(2)]
    scalars = _scalars(source, cache, rows, group_size, bits)
    if not meta:
        yield SetState(slot=slot, state=(*arrays, *scalars))
        return
    if not (scalars and source.one_in(5)):
        yield SetState(slot=slot, state=tuple(arrays))
    if scalars and not source.one_in(8):
        values = _meta(cache, scalars)
        yield SetMetaState(slot=slot, values=source.pick(_BAD_META) if odd == 19 else values)


def _counts(source: Source, batch: int, rows: int) -> list[StateItem]:
    """Return the offset and the left padding of each batch row."""
    padding = [source.pick((0, 0, 1, 2)) for _ in range(batch)]
    shape = (batch,)
    return [
        Literals(shape=shape, dtype="int32", values=tuple(rows - p for p in padding)),
        Literals(shape=shape, dtype="int32", values=tuple(padding)),
    ]


def _of_arrays(writing: Writing, slot: str, meta: bool) -> SetState:
    source, style = writing.source, writing.style
    batch = source.pick((1, 2, 3))
    slots: list[AnyRecipe | None] = [
        None if source.one_in(4) else style.array(source, (batch, 2, 3), style.dtype)
        for _ in range(source.pick((2, 2, 1, 0)))
    ]
    if meta:
        return SetState(slot=slot, state=tuple(slots), as_list=not source.one_in(8))
    paddings: list[AnyRecipe | None] = [
        Literals(shape=(batch,), dtype="int32", values=(1,) * batch) if source.one_in(3) else None
        for _ in range(2)
    ]
    state = (tuple(slots), *paddings)[: source.pick((3, 3, 3, 2))]
    return SetState(slot=slot, state=state, as_list=not source.one_in(8))


def _triple(
    style: Style, source: Source, rows: int, dim: int, group_size: int, bits: int
) -> tuple[AnyRecipe, ...]:
    shape = (style.batch, style.heads, rows)
    return (
        style.array(source, (*shape, dim * bits // 32), "uint32"),
        style.array(source, (*shape, dim // group_size), style.dtype),
        style.array(source, (*shape, dim // group_size), style.dtype),
    )


def _scalars(source: Source, cache: str, rows: int, group_size: int, bits: int) -> tuple[int, ...]:
    """Return the scalars behind the two buffers, in the order of the 0.32 state."""
    odd = source.below(16)
    offset = {15: rows + 3, 14: -1}.get(odd, rows if odd < 10 else max(0, rows - 1))
    match cache:
        case "KVCache":
            return (offset,)
        case "BatchKVCache":
            return (offset,)
        case "BatchRotatingKVCache":
            window = source.pick((4, 3, 5, 2, 8))
            index = {13: 0, 12: rows + 1, 11: -1}.get(odd, min(rows, max(offset, 0)))
            return window, offset, index, source.one_in(2)
        case "RotatingKVCache":
            window = source.pick((4, 3, 5, 2, 8))
            keep = source.pick((0, 1, 2))
            index = {13: 0, 12: rows + 1, 11: -1}.get(odd, min(rows, max(offset, 0)))
            return offset, keep, window, index
        case "ChunkedKVCache":
            start = source.pick((0, 0, 1, 2))
            return offset + start, source.pick((4, 3, 2, 8)), start
        case "QuantizedKVCache":
            return offset, group_size, bits
        case _:
            return ()


def _meta(cache: str, scalars: tuple[int, ...]) -> tuple[str, ...]:
    """Return the scalars as 0.31's `meta_state` has them."""
    match cache:
        case "KVCache" | "ConcatenateKVCache" | "BatchKVCache":
            return ()
        case "RotatingKVCache":
            offset, keep, window, index = scalars
            scalars = keep, window, offset, index
        case "ChunkedKVCache":
            scalars = scalars[1:]
    return tuple(map(str, scalars))
