"""Writers of the steps that act on one cache: legal and illegal arguments, and boundaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from msgspec.structs import replace

from kvlockstep import _write_state
from kvlockstep._caches import CACHES
from kvlockstep._recipes import Size
from kvlockstep._steps import (
    Copy,
    Depends,
    Fetch,
    FrontTrim,
    Held,
    Hold,
    Mask,
    Quantize,
    Reload,
    Reserve,
    Trim,
)
from kvlockstep._trace import AnyStep
from kvlockstep._writing import Writer, Writing

_FIRST_TOKENS: tuple[Size, ...] = ("window", 1, 2, 3, "window", "step", "window+1", "window")
_LAST_TOKENS: tuple[Size, ...] = (1, 1, 1, "room", "window", 2)
_TRIMS: tuple[int | float | str, ...] = (
    1, 1, 1, 2, 2, 3, 5, 0, "offset", "offset-1", "offset+1", "rows", "window", "window-1",
    1000, -1, -5, 1.5,
)  # fmt: skip
_WINDOWS: tuple[int | str | None, ...] = (
    None, None, None, 1, 2, 3, 4, 8, "window", "window-1", "window+1", "offset", "offset+1",
    "offset", "offset-1", 0,
)  # fmt: skip
_HELD: tuple[Held, ...] = get_args(Held)
_HELD_UNFED: tuple[Held, ...] = ("state", "copy")
_RESERVED: tuple[Size, ...] = (
    "offset+5", "offset+1", "capacity+1", 40, 9, "capacity", "offset", "offset+9", 3, 0,
)  # fmt: skip
_MASK_TOKENS = (1, 1, 1, 2, 2, 3, 4, 5, 8, 0)


def _fetch(writing: Writing) -> Iterator[AnyStep]:
    yield Fetch(slot=writing.slot())


def _trim(writing: Writing) -> Iterator[AnyStep]:
    yield Trim(slot=writing.slot(), n=writing.source.pick(_TRIMS))


def _front_trim(writing: Writing) -> Iterator[AnyStep]:
    yield FrontTrim(slot=writing.slot())


def _mask(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    yield Mask(
        slot=writing.slot(),
        n=source.pick(_MASK_TOKENS),
        window=source.pick(_WINDOWS),
        return_array=source.one_in(2),
    )


def _depends(writing: Writing) -> Iterator[AnyStep]:
    yield Depends(slot=writing.slot())


def _reserve(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot = source.pick(writing.singles) if writing.singles else writing.slot()
    yield Reserve(slot=slot, tokens=source.pick(_RESERVED))


def _hold(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot = writing.slot()
    what = source.pick(_HELD if CACHES[writing.classes[slot]].fed else _HELD_UNFED)
    if what == "inputs":
        if source.one_in(2):
            # What an empty cache is given, it may keep: the caller's own array.
            yield from _construct_in(writing, slot)
        yield writing.update_of(slot, _FIRST_TOKENS)
    elif what == "result":
        # What a full buffer returns may be the buffer.
        yield writing.update_of(slot, _LAST_TOKENS)
    yield Hold(slot=slot, what=what)


def _update(writing: Writing) -> Iterator[AnyStep]:
    yield writing.update_of(writing.fed_slot())


def _construct(writing: Writing) -> Iterator[AnyStep]:
    yield from _construct_in(writing, writing.slot())


def _construct_in(writing: Writing, slot: str) -> Iterator[AnyStep]:
    yield replace(writing.constructs.get(slot, writing.constructs["a"]), slot=slot)


def _reload(writing: Writing) -> Iterator[AnyStep]:
    slot, to = writing.slot(), writing.source.pick(("a", "a", "b"))
    yield Reload(slot=slot, to=to)
    writing.add_slot(to, writing.classes[slot])


def _copy(writing: Writing) -> Iterator[AnyStep]:
    yield Copy(slot="a", to="b")
    writing.add_slot("b", writing.classes["a"])


def _quantize(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    to = source.pick(("a", "b", "c"))
    yield Quantize(
        slot="a",
        to=to,
        group_size=source.pick((32, 32, 64, 64, 128, 16)),
        bits=source.pick((4, 8, 2, 3, 4, 8, 6, 5, 7)),
    )
    writing.add_slot(to, "QuantizedKVCache")


def _set_state(writing: Writing) -> Iterator[AnyStep]:
    slot = writing.slot()
    yield from _write_state.write(writing, writing.classes[slot], slot)


WRITERS: dict[str, Writer] = {
    "construct": _construct,
    "update": _update,
    "fetch": _fetch,
    "trim": _trim,
    "front_trim": _front_trim,
    "mask": _mask,
    "set_state": _set_state,
    "set_meta_state": _set_state,
    "depends": _depends,
    "reserve": _reserve,
    "hold": _hold,
    "reload": _reload,
    "copy": _copy,
    "quantize": _quantize,
}
