"""How the operations on one cache run on one side, and the mask functions.

Each is a function of a side and a step whose sizes are all numbers. It returns what the cache
returned, or lets the cache's error through.
"""

from __future__ import annotations

import copy as copying
from typing import Any

import mlx.core as mx

from kvlockstep._arrays import build, build_item, pass_as
from kvlockstep._caches import make_cache
from kvlockstep._side import Handle, Side
from kvlockstep._steps import (
    AttentionMask,
    CausalMask,
    Construct,
    Copy,
    Depends,
    Fetch,
    FrontTrim,
    Hold,
    Mask,
    Quantize,
    Reload,
    Reserve,
    SetMetaState,
    SetState,
    Trim,
    Update,
)


def construct(side: Side, step: Construct) -> None:
    side.slots[step.slot] = make_cache(side.module, step.made)


def update(side: Side, step: Update) -> Any:
    keys = pass_as(build(step.keys), step.keys_as)
    values = keys if step.values is None else pass_as(build(step.values), step.values_as)
    side.passed = keys, values
    side.returned = side.at(step.slot).update_and_fetch(keys, values)
    return side.returned


def fetch(side: Side, step: Fetch) -> Any:
    side.returned = side.at(step.slot).keys_and_values()
    return side.returned


def trim(side: Side, step: Trim) -> Any:
    return side.at(step.slot).trim(step.n)


def front_trim(side: Side, step: FrontTrim) -> Any:
    return side.at(step.slot).maybe_trim_front()


def mask(side: Side, step: Mask) -> Any:
    make_mask = side.at(step.slot).make_mask
    if step.bare:
        return make_mask(step.n)
    return make_mask(step.n, window_size=step.window, return_array=step.return_array)


def set_state(side: Side, step: SetState) -> None:
    state = build_item(step.state, list if step.as_list else tuple)
    side.at(step.slot).state = state if step.bare is None else step.bare


def set_meta_state(side: Side, step: SetMetaState) -> None:
    side.at(step.slot).meta_state = step.values


def depends(side: Side, step: Depends) -> None:
    cache = side.at(step.slot)
    cache.keys = mx.depends(cache.keys, mx.array(0))


def reserve(side: Side, step: Reserve) -> None:
    """A target promises; no release has such a method."""
    promise = getattr(side.at(step.slot), "reserve", None)
    if promise is not None:
        promise(step.tokens)


def hold(side: Side, step: Hold) -> None:
    cache = side.at(step.slot)
    match step.what:
        case "state":
            held = cache.state
        case "result":
            held = side.returned
        case "inputs":
            held = side.passed
        case "copy":
            held = copying.deepcopy(cache)
    side.held.append(Handle(step.what, held))


def reload(side: Side, step: Reload) -> None:
    cache = side.at(step.slot)
    state = cache.state if step.state is None else build_item(step.state, list)
    meta: tuple[Any, ...] = ()
    if hasattr(type(cache), "meta_state"):
        given = step.meta_state
        meta = (cache.meta_state if given is None else build_item(given, list),)
    side.slots[step.to] = type(cache).from_state(state, *meta)


def copy(side: Side, step: Copy) -> None:
    side.slots[step.to] = copying.deepcopy(side.at(step.slot))


def quantize(side: Side, step: Quantize) -> None:
    cache = side.at(step.slot)
    side.slots[step.to] = cache.to_quantized(group_size=step.group_size, bits=step.bits)


def _padding(padding: tuple[int, ...] | None) -> mx.array | None:
    return None if padding is None else mx.array(padding, mx.int32)


def causal_mask(side: Side, step: CausalMask) -> Any:
    return side.module.create_causal_mask(
        step.n,
        offset=step.offset,
        window_size=step.window,
        right_padding=_padding(step.right_padding),
        left_padding=_padding(step.left_padding),
    )


def attention_mask(side: Side, step: AttentionMask) -> Any:
    return side.module.create_attention_mask(
        step.n, offset=step.offset, return_array=step.return_array, window_size=step.window
    )
