"""Sizes of the reference's cache before a step: what relative arguments and the ledger refer to.

Both sides get the arguments that these sizes give. Sizes read from one side after it had moved on
would make false alarms.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from msgspec.structs import replace

from kvlockstep._trace import (
    AnyRecipe,
    AnyStep,
    Count,
    Mask,
    SetState,
    Shape,
    StateItem,
    Trim,
    Update,
)

MAX_RELATIVE = 2048

Sizes = dict[str, int]


def sizes_of(cache: Any) -> Sizes:
    """Return the sizes of a cache.

    `offset`: tokens seen. `position`: the row that the next token goes to, before any wrap.
    `capacity`: rows of the keys' buffer, `values_capacity`: of the values'. `rows`: rows in use.
    `room`: rows left before the buffer grows or wraps. `window`: `max_size` or `chunk_size`.
    `keep`: rows that a ring never drops. `groups`: groups of a quantized row. `step`: the growth
    step. What a cache does not have is 0, and so is what a failed operation left as no integer.
    """
    fields = vars(cache)
    offset = _integer(fields.get("offset"))
    position = offset - _integer(fields.get("start_position"))
    if "_idx" in fields:
        position = _integer(fields["_idx"])
    capacity = _rows(fields.get("keys"))
    return {
        "offset": offset,
        "position": position,
        "capacity": capacity,
        "values_capacity": _rows(fields.get("values")),
        "rows": max(0, min(position, capacity)),
        "room": capacity - position,
        "window": _integer(fields.get("max_size", fields.get("chunk_size"))),
        "keep": _integer(fields.get("keep")),
        "groups": _groups(fields.get("keys")),
        "step": _integer(getattr(cache, "step", 0)),
    }


def resolve(step: AnyStep, sizes: Sizes) -> AnyStep:
    """Return `step` with every relative size replaced by its number."""
    if isinstance(step, Update):
        keys = _resolve_recipe(step.keys, sizes)
        values = step.values and _resolve_recipe(step.values, sizes)
        if keys is step.keys and values is step.values:
            return step
        return replace(step, keys=keys, values=values)
    if isinstance(step, Trim) and isinstance(step.n, str):
        return replace(step, n=_evaluate(step.n, sizes))
    if isinstance(step, Mask) and isinstance(step.window, str):
        return replace(step, window=_evaluate(step.window, sizes))
    if isinstance(step, SetState):
        return replace(step, state=tuple(_resolve_item(item, sizes) for item in step.state))
    return step


def _resolve_item(item: StateItem, sizes: Sizes) -> StateItem:
    if isinstance(item, tuple):
        return tuple(_resolve_recipe(recipe, sizes) for recipe in item)
    if item is None or isinstance(item, (bool, int)):
        return item
    return _resolve_recipe(item, sizes)


def _resolve_recipe(recipe: AnyRecipe, sizes: Sizes) -> AnyRecipe:
    for size in recipe.shape:
        if isinstance(size, str):
            return replace(recipe, shape=_resolve_shape(recipe.shape, sizes))
    return recipe


def _resolve_shape(shape: Shape, sizes: Sizes) -> Shape:
    return tuple(
        max(0, min(_evaluate(size, sizes), MAX_RELATIVE)) if isinstance(size, str) else size
        for size in shape
    )


def _evaluate(size: str, sizes: Sizes) -> Count:
    for sign in "+-":
        name, found, number = size.partition(sign)
        if found:
            return sizes[name] + int(sign + number)
    return sizes[size]


def _integer(value: object) -> int:
    return value if type(value) is int else 0


def _rows(keys: object) -> int:
    if isinstance(keys, (list, tuple)) and keys:
        keys = keys[0]
    if isinstance(keys, mx.array) and keys.ndim >= 2:
        return keys.shape[-2]
    return 0


def _groups(keys: object) -> int:
    if isinstance(keys, (list, tuple)) and len(keys) > 1 and isinstance(keys[1], mx.array):
        return keys[1].shape[-1] if keys[1].ndim else 0
    return 0
