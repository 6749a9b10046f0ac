"""Sizes of the reference's cache before a step: what relative arguments and the ledger refer to.

Both sides get the arguments that these sizes give. Sizes read from one side after it had moved on
would make false alarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
from msgspec.structs import replace

from kvlockstep._recipes import AnyRecipe, Count, Shape
from kvlockstep._steps import (
    MAX_ROWS,
    Extract,
    Filter,
    Mask,
    Prepare,
    Reload,
    Reserve,
    SetItem,
    SetState,
    Trim,
    Update,
)
from kvlockstep._trace import AnyStep

MAX_RELATIVE = 2048
# The fields that may hold arrays with a row for each sequence of a batch.
_BATCHED = ("keys", "values", "offset", "left_padding", "lengths", "cache")

Sizes = dict[str, int]


def sizes_of(cache: Any) -> Sizes:
    """Return the sizes of a cache.

    `offset`: tokens seen. `position`: the row that the next token goes to, before any wrap.
    `capacity`: rows of the keys' buffer, `values_capacity`: of the values'. `rows`: rows in use.
    `room`: rows left before the buffer grows or wraps. `window`: `max_size` or `chunk_size`.
    `keep`: rows that a ring never drops. `rotated`: 1 of a batch's ring that has turned. `heads`:
    of the keys' buffer. `groups`: groups of a quantized row. `step`: the growth step. `batch`: the
    fewest batch rows of any of its arrays, for a failed operation may have left them unlike. What a
    cache does not have is 0, and so is what a failed operation left as no integer. Of a list of
    caches only `batch` is told.
    """
    get = vars(cache).get
    keys, values = get("keys"), get("values")
    tokens = get("offset", get("_size"))
    offset = _integer(tokens)
    position = _integer(get("_idx", offset - _integer(get("start_position"))))
    if isinstance(tokens, mx.array):
        offset = _integer(get("_offset", position))
    capacity = 0 if keys is None else _rows(keys)
    return {
        "offset": offset,
        "position": position,
        "capacity": capacity,
        "values_capacity": 0 if values is None else _rows(values),
        "rows": max(0, min(position, capacity)),
        "room": capacity - position,
        "window": _integer(get("max_size", get("chunk_size"))),
        "keep": _integer(get("keep")),
        "rotated": int(get("rotated") is True),
        "heads": 0 if keys is None else _heads(keys),
        "groups": _groups(keys),
        "step": _integer(getattr(cache, "step", 0)),
        "batch": min(_batches(cache) or [1]),
    }


def children_of(cache: Any) -> Sequence[Any]:
    """Return the caches in a list of caches, none of any other cache."""
    if type(cache).__name__ != "CacheList":
        return ()
    children = getattr(cache, "caches", ())
    return children if isinstance(children, (list, tuple)) else ()


def all_in(caches: Iterable[Any]) -> list[Any]:
    """Return some caches, and all that are in them behind those that they are in."""
    found = [*caches]
    for cache in found:
        found += children_of(cache)
    return found


def slot_shapes_of(cache: Any) -> list[tuple[int, ...] | None]:
    """Return the shape of each slot of a cache of arrays, or of all in a list; None: empty."""
    if type(cache).__name__ != "ArraysCache":
        return [shape for child in children_of(cache) for shape in slot_shapes_of(child)]
    # A state of another class may have put anything there.
    slots = vars(cache).get("cache")
    slots = slots if isinstance(slots, (list, tuple)) else ()
    return [slot.shape if isinstance(slot, mx.array) else None for slot in slots]


def _batches(cache: Any) -> list[int]:
    """Return the batch rows of each array of a cache and of its children."""
    batches = []
    for value in map(vars(cache).get, _BATCHED):
        if isinstance(value, mx.array):
            if value.ndim:
                batches.append(value.shape[0])
        elif isinstance(value, (list, tuple)):
            batches += [one.shape[0] for one in value if isinstance(one, mx.array) and one.ndim]
    for child in children_of(cache):
        batches += _batches(child)
    return batches


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
    if isinstance(step, Reserve) and isinstance(step.tokens, str):
        return replace(step, tokens=_bounded(step.tokens, sizes))
    if isinstance(step, Mask) and isinstance(step.window, str):
        return replace(step, window=_evaluate(step.window, sizes))
    if isinstance(step, Reload) and step.state is not None:
        return replace(step, state=_resolve_item(step.state, sizes))
    if isinstance(step, SetState):
        return replace(step, state=_resolve_item(step.state, sizes))
    if isinstance(step, SetItem) and step.value is not None:
        return replace(step, value=_resolve_item(step.value, sizes))
    if isinstance(step, Filter) and isinstance(step.indices, tuple):
        return replace(step, indices=tuple(_number(index, sizes) for index in step.indices))
    if isinstance(step, Extract) and isinstance(step.index, str):
        return replace(step, index=_evaluate(step.index, sizes))
    if isinstance(step, Prepare) and step.fit:
        names = ("left_padding", "lengths", "right_padding")
        fitted = {
            name: _fit(numbers, sizes["batch"])
            for name in names
            if isinstance(numbers := getattr(step, name), tuple)
        }
        return replace(step, fit=False, **fitted)
    return step


def _resolve_item(item: Any, sizes: Sizes) -> Any:
    if isinstance(item, tuple):
        return tuple(_resolve_item(inner, sizes) for inner in item)
    return _resolve_recipe(item, sizes) if isinstance(item, AnyRecipe) else item


def _fit(numbers: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Cut or repeat the numbers to that many."""
    return numbers and tuple(numbers[i % len(numbers)] for i in range(min(size, MAX_ROWS)))


def _number(index: int | str, sizes: Sizes) -> int:
    return _evaluate(index, sizes) if isinstance(index, str) else index


def _resolve_recipe(recipe: AnyRecipe, sizes: Sizes) -> AnyRecipe:
    for size in recipe.shape:
        if isinstance(size, str):
            return replace(recipe, shape=_resolve_shape(recipe.shape, sizes))
    return recipe


def _resolve_shape(shape: Shape, sizes: Sizes) -> Shape:
    return tuple(_bounded(size, sizes) if isinstance(size, str) else size for size in shape)


def _bounded(size: str, sizes: Sizes) -> int:
    return max(0, min(_evaluate(size, sizes), MAX_RELATIVE))


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


def _heads(keys: object) -> int:
    return keys.shape[1] if isinstance(keys, mx.array) and keys.ndim >= 2 else 0


def _groups(keys: object) -> int:
    if isinstance(keys, (list, tuple)) and len(keys) > 1 and isinstance(keys[1], mx.array):
        return keys[1].shape[-1] if keys[1].ndim else 0
    return 0
