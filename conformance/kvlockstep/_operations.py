"""How each step runs on one side of the lockstep. The next operation goes here.

An operation is a function of a side and a step whose sizes are all numbers. It returns what the
cache returned, or lets the cache's error through.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import mlx.core as mx

from kvlockstep._arrays import carrier, make
from kvlockstep._trace import (
    AnyRecipe,
    AttentionMask,
    CausalMask,
    Construct,
    Copy,
    Depends,
    Fetch,
    FrontTrim,
    Hold,
    Mask,
    OnSlot,
    Quantize,
    Reload,
    SetMetaState,
    SetState,
    StateItem,
    Step,
    Trim,
    Update,
)


@dataclass(frozen=True, slots=True)
class Handle:
    """Something that a caller keeps across later steps."""

    what: str
    value: Any


@dataclass(slots=True)
class Side:
    """One side of the lockstep: a module of cache classes and the caches made from it.

    `passed` and `returned` are what the previous step handed over and got back, for a `hold` that
    follows; they are dropped after one step, for a handle that is kept makes MLX copy instead of
    writing in place.
    """

    module: ModuleType
    slots: dict[str, Any] = field(default_factory=dict)
    held: list[Handle] = field(default_factory=list)
    passed: Any = None
    returned: Any = None

    def let_go(self) -> None:
        """Drop what the previous step handed over and got back."""
        self.passed = self.returned = None


def build(recipe: AnyRecipe) -> mx.array:
    """Return a fresh array."""
    return make(carrier(recipe), recipe.dtype)


def _build_item(item: StateItem) -> Any:
    if isinstance(item, tuple):
        return tuple(build(recipe) for recipe in item)
    if item is None or isinstance(item, (bool, int)):
        return item
    return build(item)


def _construct(side: Side, step: Construct) -> None:
    side.slots[step.slot] = getattr(side.module, step.cache)(**step.args)


def _update(side: Side, step: Update) -> Any:
    keys = build(step.keys)
    values = keys if step.values is None else build(step.values)
    side.passed = keys, values
    side.returned = side.slots[step.slot].update_and_fetch(keys, values)
    return side.returned


def _fetch(side: Side, step: Fetch) -> Any:
    side.returned = side.slots[step.slot].keys_and_values()
    return side.returned


def _trim(side: Side, step: Trim) -> Any:
    return side.slots[step.slot].trim(step.n)


def _front_trim(side: Side, step: FrontTrim) -> Any:
    return side.slots[step.slot].maybe_trim_front()


def _mask(side: Side, step: Mask) -> Any:
    make_mask = side.slots[step.slot].make_mask
    return make_mask(step.n, window_size=step.window, return_array=step.return_array)


def _set_state(side: Side, step: SetState) -> None:
    side.slots[step.slot].state = tuple(_build_item(item) for item in step.state)


def _set_meta_state(side: Side, step: SetMetaState) -> None:
    side.slots[step.slot].meta_state = step.values


def _depends(side: Side, step: Depends) -> None:
    cache = side.slots[step.slot]
    cache.keys = mx.depends(cache.keys, mx.array(0))


def _hold(side: Side, step: Hold) -> None:
    cache = side.slots[step.slot]
    match step.what:
        case "state":
            held = cache.state
        case "result":
            held = side.returned
        case "inputs":
            held = side.passed
        case "copy":
            held = copy.deepcopy(cache)
    side.held.append(Handle(step.what, held))


def _reload(side: Side, step: Reload) -> None:
    cache = side.slots[step.slot]
    meta = (cache.meta_state,) if hasattr(type(cache), "meta_state") else ()
    side.slots[step.to] = type(cache).from_state(cache.state, *meta)


def _copy(side: Side, step: Copy) -> None:
    side.slots[step.to] = copy.deepcopy(side.slots[step.slot])


def _quantize(side: Side, step: Quantize) -> None:
    cache = side.slots[step.slot]
    side.slots[step.to] = cache.to_quantized(group_size=step.group_size, bits=step.bits)


def _padding(padding: tuple[int, ...] | None) -> mx.array | None:
    return None if padding is None else mx.array(padding, mx.int32)


def _causal_mask(side: Side, step: CausalMask) -> Any:
    return side.module.create_causal_mask(
        step.n,
        offset=step.offset,
        window_size=step.window,
        right_padding=_padding(step.right_padding),
        left_padding=_padding(step.left_padding),
    )


def _attention_mask(side: Side, step: AttentionMask) -> Any:
    return side.module.create_attention_mask(
        step.n, offset=step.offset, return_array=step.return_array, window_size=step.window
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """`perform` runs the step; `member` is what the class (or module) must have for it."""

    name: str
    perform: Callable[[Side, Any], Any]
    member: str | None = None


OPERATIONS: dict[type[Step], Operation] = {
    Construct: Operation("construct", _construct),
    Update: Operation("update", _update, "update_and_fetch"),
    Fetch: Operation("fetch", _fetch, "keys_and_values"),
    Trim: Operation("trim", _trim, "trim"),
    FrontTrim: Operation("front_trim", _front_trim, "maybe_trim_front"),
    Mask: Operation("mask", _mask, "make_mask"),
    SetState: Operation("set_state", _set_state, "state"),
    SetMetaState: Operation("set_meta_state", _set_meta_state, "meta_state"),
    Depends: Operation("depends", _depends),
    Hold: Operation("hold", _hold),
    Reload: Operation("reload", _reload, "from_state"),
    Copy: Operation("copy", _copy),
    Quantize: Operation("quantize", _quantize, "to_quantized"),
    CausalMask: Operation("causal_mask", _causal_mask, "create_causal_mask"),
    AttentionMask: Operation("attention_mask", _attention_mask, "create_attention_mask"),
}


def destination(step: OnSlot) -> str | None:
    """Return the slot that `step` puts a new cache into, or None."""
    match step:
        case Construct(slot=slot):
            return slot
        case Reload(to=to) | Copy(to=to) | Quantize(to=to):
            return to
        case _:
            return None
