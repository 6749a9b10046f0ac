"""Writers of the steps on batches, on caches of arrays and lists, and on several caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from msgspec.structs import replace

from kvlockstep import _write_one
from kvlockstep._prompt_steps import CanTrimPrompt, MakePrompt, TrimPrompt
from kvlockstep._recipes import Given, Literals, Shape, Size
from kvlockstep._steps import (
    Advance,
    Extend,
    Extract,
    Filter,
    Finalize,
    GetItem,
    Index,
    Mask,
    Merge,
    OddIndex,
    Prepare,
    SetItem,
    Transfer,
    Trim,
)
from kvlockstep._trace import AnyStep
from kvlockstep._writing import Writer, Writing

# What is no row, no rows or no number of tokens.
_ODD: tuple[Given, ...] = (0.5, "x", Literals(shape=(), dtype="int32", values=(0,)))
_ODD_ROWS: tuple[Given, ...] = ((0.5,), ("x",), (True,), (0, None), "x", 1.5)
_INDICES: tuple[Index, ...] = (0, 1, "batch-1", "batch-2", 0, 1, -1, 2, "batch-1", 0)
_KEPT = (1, 2, 1, 3, 2, 4, 1, 2, 2, 0)
_EXTRACTED: tuple[OddIndex, ...] = (
    0, "batch-1", 1, 0, "batch-1", 1, -1, 2, "batch", "batch-4", 0, True, 1.0,
)  # fmt: skip
_PADDINGS = ((0, 1), (1, 0), (2, 0, 1), (1,), (3, 1), (0, 2), (0,), (1, 1))
_TRIMS = (1, 1, 2, 3, 0, 5, 100, -1, 1.5)
_SINGLE_TRIMS: tuple[Index, ...] = (1, 1, 2, "offset")
_ROWS: tuple[Size, ...] = ("batch", "batch", "batch", 1, 2, 3)
_FEW: tuple[Size, ...] = (1, 1, 2, 3, "window", "window+1", "room", 4, "window-1", 5)
_BRINGING: tuple[tuple[Size, ...], ...] = (
    (2,), (3, 1, 2, "step"), (2, 3), ("window",), ("window+2",), ("window",),
)  # fmt: skip


def _filter(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    indices = tuple(source.pick(_INDICES) for _ in range(source.pick(_KEPT)))
    slot, as_list = writing.slot(), source.one_in(2)
    as_slice = len(indices) < 4 and source.one_in(8)
    given = source.pick(_ODD_ROWS) if source.one_in(24) else None
    yield Filter(slot=slot, indices=indices, as_list=as_list, as_slice=as_slice, given=given)


def _extend(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot, peer = source.pick((("a", "b"), ("a", "b"), ("b", "a"), ("a", "a"), ("a", "m")))
    yield Extend(slot=slot, peer=source.pick(writing.fed) if source.one_in(12) else peer)


def _extract(writing: Writing) -> Iterator[AnyStep]:
    slot = writing.slot()
    source = writing.source
    index, given = source.pick(_EXTRACTED), source.pick(_ODD) if source.one_in(24) else None
    yield Extract(slot=slot, index=index, to="e", given=given)
    single = writing.classes[slot].removeprefix("Batch")
    writing.add_slot("e", single)


def _merge(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    first, *peers = (source.pick(writing.singles) for _ in range(source.pick((2, 2, 3, 1))))
    if source.one_in(12):
        first = writing.slot()
    to = source.pick(("m", "a", "b"))
    yield Merge(slot=first, peers=tuple(peers), to=to)
    writing.add_slot(to, writing.classes["a"])


def _single(writing: Writing) -> Iterator[AnyStep]:
    """Bring a cache that is to be merged into another state."""
    source = writing.source
    slot = source.pick(writing.singles)
    match source.below(6):
        case 0:
            yield replace(writing.constructs[slot], slot=slot)
        case 1:
            yield Trim(slot=slot, n=source.pick(_SINGLE_TRIMS))
        case 2:
            yield replace(writing.constructs[slot], slot=slot)
            yield writing.update_of(slot, _FEW)
        case _:
            yield writing.update_of(slot, _FEW)


def _meet(writing: Writing) -> Iterator[AnyStep]:
    """Bring two caches into states of their own, and then together."""
    source = writing.source
    kinds = source.below(64)
    merging = source.one_in(2) and writing.classes["s"] in ("ArraysCache", "CacheList")
    pair = ("s", "t") if merging or source.one_in(4) else ("a", "b")
    for slot, kind in zip(pair, (kinds % 8, kinds // 8), strict=True):
        construct = writing.constructs[slot]
        if writing.classes[slot] == "ArraysCache":
            if source.one_in(8):
                construct = replace(construct, args={"size": 0})
            yield replace(construct, slot=slot)
            yield from _fill(writing, slot, kind)
        else:
            yield replace(construct, slot=slot)
            yield from _bring(writing, slot, kind)
    if pair == ("a", "b"):
        yield Extend(slot="a", peer="b")
    else:
        yield Merge(slot="s", peers=("t",), to="m")
        writing.add_slot("m", writing.classes["a"])


def _bring(writing: Writing, slot: str, kind: int) -> Iterator[AnyStep]:
    """Bring an empty cache of rows into one of eight states."""
    if kind in (1, 2):
        yield Prepare(slot=slot, lengths=(1, 2), right_padding=(1, 0), fit=True)
    if kind > 1:
        yield writing.update_of(slot, _BRINGING[kind - 2])
    if kind == 4:
        yield Trim(slot=slot, n=writing.source.pick((1, 1, -5)))
    if kind == 7:
        yield writing.update_of(slot, (1,))


def _fill(writing: Writing, slot: str, kind: int) -> Iterator[AnyStep]:
    """Fill some of two slots for arrays, and set lengths or not."""
    style = writing.style
    for index in range(2):
        if kind >> index & 1:
            value = style.array(writing.source, (writing.source.pick((1, 2)), 3, 2), style.dtype)
            yield SetItem(slot=slot, index=index, value=value)
    if kind >> 2:
        yield Prepare(slot=slot, lengths=(3, 2), fit=True)


def _prepare(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot = writing.slot()
    kind = source.below(12)
    if (kind < 3 or kind == 7) and "." not in slot:
        # The start of a batch: an empty cache, prompts of unlike length.
        yield replace(writing.constructs.get(slot, writing.constructs["a"]), slot=slot)
    if kind < 8:
        # A prefill with padding on the right, as a server has it.
        tokens = source.pick((2, 3, 4, 5, 8))
        padding = tuple(min(p, tokens) for p in source.pick(_PADDINGS))
        lengths = tuple(tokens - p for p in padding)
        yield Prepare(slot=slot, lengths=lengths, right_padding=padding, fit=True)
        if kind != 7:
            yield writing.update_of(slot, (tokens,))
        if kind in (0, 1, 4, 5):
            yield Finalize(slot=slot)
        return
    padding = source.pick(_PADDINGS)
    match kind:
        case 8 | 9:
            yield Prepare(slot=slot, left_padding=padding, fit=kind == 8)
        case 10:
            yield Prepare(slot=slot, lengths=padding, right_padding=padding)
        case _:
            yield Prepare(slot=slot, right_padding=source.pick(((), padding)))


def _finalize(writing: Writing) -> Iterator[AnyStep]:
    yield Finalize(slot=writing.slot())


def _prepare_lengths(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot = writing.slot()
    lengths = source.pick(((3,), (2, 3), (1, 4, 2), (3, 3)))
    if source.one_in(8):
        yield Prepare(slot=slot, right_padding=lengths, fit=True)
    else:
        yield Prepare(slot=slot, lengths=lengths, fit=not source.one_in(8))


def _advance(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot, n = writing.slot(), source.pick((1, 2, 3, 0, -1))
    yield Advance(slot=slot, n=n, given=source.pick(_ODD) if source.one_in(24) else None)


def _set_item(writing: Writing) -> Iterator[AnyStep]:
    source, style = writing.source, writing.style
    batch = source.pick(_ROWS)
    shape: Shape = source.pick(((batch, 3, 2), (batch, 3, 2), (batch, 3, 2), (batch, 4), (batch,)))
    value = style.array(source, shape, style.dtype, source.below(8))
    index = source.pick((0, 1, 0, 1, 0, 1, 0, 1, -1, 5))
    slot = source.pick([slot for slot in writing.classes if _holds_arrays(writing, slot)] or ["a"])
    yield SetItem(slot=slot, index=index, value=None if source.one_in(12) else value)


def _holds_arrays(writing: Writing, slot: str) -> bool:
    return writing.classes[slot] == "ArraysCache"


def _get_item(writing: Writing) -> Iterator[AnyStep]:
    yield GetItem(slot=writing.slot(), index=writing.source.pick((0, 1, 0, 1, 2, -1, -3)))


def _bare_mask(writing: Writing) -> Iterator[AnyStep]:
    yield Mask(slot=writing.slot(), n=writing.source.pick((1, 2, 3, 5, 0)), bare=True)


def _transfer(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot, other = source.pick((("a", "b"), ("b", "a"), ("a", "a")))
    yield Transfer(slot=slot, source=source.pick(writing.fed) if source.one_in(6) else other)


def _child(writing: Writing) -> Iterator[AnyStep]:
    """Do something to one child of a list."""
    source = writing.source
    children = [slot for slot in writing.classes if "." in slot]
    if not children:
        return
    child = source.pick(children)
    alone = dataclasses.replace(writing, slots=[child], fed=[child])
    name = source.pick(("trim", "mask", "front_trim", "fetch", "prepare", "finalize", "filter"))
    writers = _write_one.WRITERS | WRITERS
    yield from writers[name](alone)


def _prompt(writing: Writing) -> Iterator[AnyStep]:
    """Do something to several caches, as a prompt's caches have it."""
    source = writing.source
    slots = tuple(
        source.pick(("a", "b", *writing.singles)) for _ in range(source.pick((2, 2, 1, 3, 0)))
    )
    match source.below(8):
        case 0:
            yield MakePrompt(
                layers=source.pick((2, 1, 0)),
                max_kv_size=source.pick((None, 5, 8, 3)),
                makes=source.one_in(3),
            )
            yield writing.update_of("p0", (1, 2, 3))
        case 1:
            yield CanTrimPrompt(slots=source.pick((slots, ("p0", "p1"))))
        case _:
            yield TrimPrompt(slots=source.pick((slots, slots, ("p0", "p1"))), n=source.pick(_TRIMS))


WRITERS: dict[str, Writer] = {
    "filter": _filter,
    "extend": _extend,
    "extract": _extract,
    "merge": _merge,
    "single": _single,
    "meet": _meet,
    "prepare": _prepare,
    "prepare_lengths": _prepare_lengths,
    "finalize": _finalize,
    "advance": _advance,
    "set_item": _set_item,
    "get_item": _get_item,
    "bare_mask": _bare_mask,
    "transfer": _transfer,
    "child": _child,
    "prompt": _prompt,
}
