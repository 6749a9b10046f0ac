"""Traces from bytes: legal and illegal arguments, boundaries, dtype changes, several slots.

Arguments are drawn for each kind of operation on its own. A trace uses a random subset of the
operations (a swarm), for a fault that an operation undoes is only seen in traces without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from msgspec.structs import replace

from kvlockstep import _generate_state
from kvlockstep._caches import CACHES, FUNCTIONS, CacheKind
from kvlockstep._contract import Contract
from kvlockstep._operations import OPERATIONS
from kvlockstep._source import HEAD_BYTES, STEP_BYTES, Source, steps_in
from kvlockstep._style import Style
from kvlockstep._trace import (
    AnyStep,
    AttentionMask,
    CausalMask,
    Construct,
    Copy,
    Depends,
    Fetch,
    FrontTrim,
    Held,
    Hold,
    Mask,
    Mode,
    Quantize,
    Reload,
    Size,
    Trace,
    Trim,
    Update,
)

_STEP_SIZES = (4, 2, 1, 3, 4, 8, 2, 5, 4, 1, 6, 4, 2, 3, 1, 256)
# Tokens in an update: mostly one, for that is decoding; then small, then the boundaries.
_TOKENS: tuple[Size, ...] = (
    *(1,) * 8, 2, 2, 3, 3, 4, 5, 6, 0, "room", "room+1", "room-1", "window", "window+1", "window-1",
    "step", "step+1", "capacity+1",
)  # fmt: skip
_FIRST_TOKENS: tuple[Size, ...] = ("window", 1, 2, 3, "window", "step", "window+1", "window")
_LAST_TOKENS: tuple[Size, ...] = (1, 1, 1, "room", "window", 2)
_DECODING: tuple[Size, ...] = (*(1,) * 23, 3)
_LARGE_TOKENS: tuple[Size, ...] = (1, 1, 1, 3, 255, 256, 257, "room", "room+1", 513)
_TRIMS: tuple[int | float | str, ...] = (
    1, 1, 1, 2, 2, 3, 5, 0, "offset", "offset-1", "offset+1", "rows", "window", "window-1",
    1000, -1, -5, 1.5,
)  # fmt: skip
_WINDOWS: tuple[int | str | None, ...] = (
    None, None, None, 1, 2, 3, 4, 8, "window", "window-1", "window+1", "offset", "offset+1",
    "offset", "offset-1", 0,
)  # fmt: skip
_WEIGHTS = {"trim": 3, "front_trim": 3, "mask": 2, "hold": 2, "set_state": 2}
_HELD: tuple[Held, ...] = get_args(Held)
_MASK_TOKENS = (1, 1, 1, 2, 2, 3, 4, 5, 8, 0)


@dataclass
class _Writing:
    """A trace being written."""

    kind: CacheKind
    contract: Contract
    source: Source
    style: Style
    slots: list[str]
    construct: Construct


def generate(data: bytes, contract: Contract, cache: str, mode: Mode) -> Trace:
    """Return the trace that `data` stands for, on `cache` (or the mask functions)."""
    source = Source(data[:HEAD_BYTES] if data else b"")
    if cache == FUNCTIONS:
        return _generate_functions(data, mode)
    kind = CACHES[cache]
    step_size = source.pick(_STEP_SIZES)
    style = Style.draw(source, cache, large=step_size == 256)
    construct = Construct(cache=cache, args=_construct_arguments(source, cache, style))
    writing = _Writing(kind, contract, source, style, ["a"], construct)
    offered = _offered(kind, contract, mode)
    operations = _swarm(source, offered, style.decoding)
    source = writing.source = Source(data)
    steps: list[AnyStep] = [construct]
    for index in range(steps_in(data)):
        source.window(HEAD_BYTES + index * STEP_BYTES, STEP_BYTES)
        steps.extend(_WRITERS[source.pick(operations)](writing))
    return Trace(steps=tuple(steps), step_size=step_size, mode=mode)


def _offered(kind: CacheKind, contract: Contract, mode: Mode) -> list[str]:
    """Return the operations that the class has in this contract; handles are for in-place mode."""
    members = contract.surfaces[kind.name].members
    needs = {operation.name: operation.member for operation in OPERATIONS.values()}
    return [
        name
        for name in ("construct", *kind.operations)
        if name in _WRITERS
        and ((need := needs[name]) is None or need in members)
        and (name != "hold" or mode == "in-place")
    ]


def _swarm(source: Source, offered: Sequence[str], decoding: bool) -> tuple[str, ...]:
    """Return a random subset of the operations, weighted by repetition."""
    # A trace that decodes goes round the window several times, with little in between.
    share = 1 if decoding else 4
    chosen = [name for name in offered if source.below(8) < share]
    weights = _WEIGHTS | {"update": source.pick((4, 8, 12))}
    return ("update",) * 4 + tuple(name for name in chosen for _ in range(weights.get(name, 1)))


def _construct_arguments(source: Source, cache: str, style: Style) -> dict[str, int | float | None]:
    match cache:
        case "RotatingKVCache":
            size = source.pick((4, 3, 5, 2, 8, 1, 6, 7, 0, 16, 4, 3))
            keep = source.pick((0, 0, 0, 1, 1, 2, 3, size - 1, size, size + 1))
            return {"max_size": size} if keep == 0 else {"max_size": size, "keep": keep}
        case "ChunkedKVCache":
            return {"chunk_size": source.pick((4, 3, 2, 1, 5, 8, 6, 4, 3, 0, 16, None, -1))}
        case "QuantizedKVCache":
            group_size = source.pick((32, 32, 64, 128))
            if style.k_head_dim % group_size or style.v_head_dim % group_size:
                group_size = 32
            if source.one_in(16):
                group_size = source.pick((64, 128, 16))
            bits = source.pick((8, 8, 4, 4, 2, 8, 8, 4, 4, 2, 1, 8, 3, 5, 6, 7))
            return {"group_size": group_size, "bits": bits}
        case _:
            return {}


def _slot(writing: _Writing) -> str:
    slots = writing.slots
    return slots[0] if len(slots) == 1 else writing.source.pick((slots[0], *slots))


def _update(writing: _Writing) -> Iterator[AnyStep]:
    yield _update_of(writing, _slot(writing), _DECODING if writing.style.decoding else _TOKENS)


def _update_of(writing: _Writing, slot: str, tokens: tuple[Size, ...]) -> Update:
    source, style = writing.source, writing.style
    keys, values = style.pair(source, source.pick(_LARGE_TOKENS if style.large else tokens))
    return Update(slot=slot, keys=keys, values=values)


def _fetch(writing: _Writing) -> Iterator[AnyStep]:
    yield Fetch(slot=_slot(writing))


def _trim(writing: _Writing) -> Iterator[AnyStep]:
    yield Trim(slot=_slot(writing), n=writing.source.pick(_TRIMS))


def _front_trim(writing: _Writing) -> Iterator[AnyStep]:
    yield FrontTrim(slot=_slot(writing))


def _mask(writing: _Writing) -> Iterator[AnyStep]:
    source = writing.source
    yield Mask(
        slot=_slot(writing),
        n=source.pick(_MASK_TOKENS),
        window=source.pick(_WINDOWS),
        return_array=source.one_in(2),
    )


def _depends(writing: _Writing) -> Iterator[AnyStep]:
    yield Depends(slot=_slot(writing))


def _hold(writing: _Writing) -> Iterator[AnyStep]:
    source = writing.source
    slot = _slot(writing)
    what = source.pick(_HELD)
    if what == "inputs":
        if source.one_in(2):
            # What an empty cache is given, it may keep: the caller's own array.
            yield replace(writing.construct, slot=slot)
        yield _update_of(writing, slot, _FIRST_TOKENS)
    elif what == "result":
        # What a full buffer returns may be the buffer.
        yield _update_of(writing, slot, _LAST_TOKENS)
    yield Hold(slot=slot, what=what)


def _construct(writing: _Writing) -> Iterator[AnyStep]:
    yield replace(writing.construct, slot=_slot(writing))


def _reload(writing: _Writing) -> Iterator[AnyStep]:
    to = writing.source.pick(("a", "a", "b"))
    yield Reload(slot=_slot(writing), to=to)
    _add_slot(writing, to)


def _copy(writing: _Writing) -> Iterator[AnyStep]:
    yield Copy(slot="a", to="b")
    _add_slot(writing, "b")


def _quantize(writing: _Writing) -> Iterator[AnyStep]:
    source = writing.source
    to = source.pick(("a", "b", "c"))
    yield Quantize(
        slot="a",
        to=to,
        group_size=source.pick((32, 32, 64, 64, 128, 16)),
        bits=source.pick((4, 8, 2, 3, 4, 8, 6, 5, 7)),
    )
    _add_slot(writing, to)


def _add_slot(writing: _Writing, slot: str) -> None:
    if slot not in writing.slots:
        writing.slots.append(slot)


def _set_state(writing: _Writing) -> Iterator[AnyStep]:
    yield from _generate_state.write(
        writing.source, writing.style, writing.kind.name, _slot(writing), writing.contract
    )


_WRITERS: dict[str, Callable[[_Writing], Iterator[AnyStep]]] = {
    "construct": _construct,
    "update": _update,
    "fetch": _fetch,
    "trim": _trim,
    "front_trim": _front_trim,
    "mask": _mask,
    "set_state": _set_state,
    "set_meta_state": _set_state,
    "depends": _depends,
    "hold": _hold,
    "reload": _reload,
    "copy": _copy,
    "quantize": _quantize,
}


def _generate_functions(data: bytes, mode: Mode) -> Trace:
    source = Source(data)
    steps: list[AnyStep] = []
    for index in range(steps_in(data)):
        source.window(HEAD_BYTES + index * STEP_BYTES, STEP_BYTES)
        n = source.pick((1, 2, 3, 4, 5, 8, 0, 1))
        offset = source.pick((0, 0, 1, 2, 3, 5, 8, 17))
        window = source.pick((None, None, 1, 2, 3, 4, 5, 8, 100, 0, -1))
        if source.one_in(3):
            return_array = source.one_in(2)
            steps.append(
                AttentionMask(n=n, offset=offset, window=window, return_array=return_array)
            )
            continue
        steps.append(
            CausalMask(
                n=n,
                offset=offset,
                window=window,
                right_padding=_padding(source),
                left_padding=_padding(source),
            )
        )
    return Trace(steps=tuple(steps), mode=mode)


def _padding(source: Source) -> tuple[int, ...] | None:
    if not source.one_in(3):
        return None
    return tuple(source.pick((0, 1, 2, 3, 5, -1)) for _ in range(1 + source.below(3)))
