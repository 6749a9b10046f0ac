"""Facts of a step: the names that a ledger entry's `when` may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kvlockstep._recipes import AnyRecipe, StateItem
from kvlockstep._sizes import Sizes
from kvlockstep._snapshots import Snapshot
from kvlockstep._steps import Construct, SetState, Update
from kvlockstep._trace import AnyStep

# The numbers that a batch keeps of its rows, and the fields that they are in.
_COUNTS = {
    "left_paddings": ("left_padding",),
    "offsets": ("offset",),
    "pending": ("_right_padding", "_lengths"),
}


def counts_of(caches: Iterable[Any], contents: Mapping[int, Snapshot]) -> dict[str, Any]:
    """Return the numbers of each cache as they were last seen: read only if something is told."""
    fields = [vars(cache) for cache in caches]
    return {
        name: [
            next(filter(None, (contents.get(id(own.get(f))) for f in names)), None)
            for own in fields
        ]
        for name, names in _COUNTS.items()
    }


def facts_of(step: AnyStep, sizes: Sizes, context: dict[str, Any]) -> dict[str, Any]:
    """Return the step's arguments by name, the sizes before it, and what follows from both.

    `context` is what the engine saw of the caches: `trimmable` before a trim, and for each of them,
    the step's own first: `states`, the state classes; `slot_shapes`, None for an empty slot;
    `leaves`, what is inside a list, the class and the state class of each ("KVCache: empty");
    `leaf_batches`, their batch rows; `classes`; `sizes`; of a batch its `left_paddings` and
    `offsets`, and `pending`, the right padding, or the lengths, that wait for `finalize`; None
    where there are none. The sizes of the first peer are `peer_offset`, ...

    For an update: `keys_shape`, `values_shape`, `keys_rows`, `values_rows` (-1 where the rank has
    no sequence axis), `keys_dtype`, `values_dtype`. For a `set_state`: `state`, its `items`, the
    `shapes` of its arrays (those in triples left out), `keys_rows` (-1 without keys), and
    `scalars`, what stands behind keys and values, and `kinds`, what each item is: "array", "None",
    "int", "str", a list of kinds. For a construction: its arguments and `cache`.
    """
    facts: dict[str, Any] = {**sizes, **context}
    for name in _COUNTS.keys() & context.keys():
        facts[name] = [seen and seen.array().tolist() for seen in context[name]]
    if isinstance(step, Construct):
        return {**facts, "cache": step.cache, **step.args}
    if isinstance(step, Update):
        values = step.values or step.keys
        facts |= _facts_of_recipe("keys", step.keys) | _facts_of_recipe("values", values)
        return facts
    if isinstance(step, SetState):
        keys = step.state[0] if step.state else None
        keys = keys[0] if isinstance(keys, tuple) and keys else keys
        return {
            **facts,
            "state": step.state,
            "items": len(step.state),
            "shapes": [item.shape for item in step.state if isinstance(item, AnyRecipe)],
            "keys_rows": _rows(keys) if isinstance(keys, AnyRecipe) else -1,
            "scalars": step.state[2:],
            "kinds": [_kind(item) for item in step.state],
        }
    names = (name for name in step.__struct_fields__ if name not in ("slot", "to"))
    return facts | {name: getattr(step, name) for name in names}


def _facts_of_recipe(name: str, recipe: AnyRecipe) -> dict[str, Any]:
    return {
        f"{name}_shape": recipe.shape,
        f"{name}_rows": _rows(recipe),
        f"{name}_dtype": recipe.dtype,
    }


def _kind(item: StateItem) -> Any:
    if isinstance(item, tuple):
        return [_kind(inner) for inner in item]
    if isinstance(item, AnyRecipe):
        return "array"
    return "None" if item is None else type(item).__name__


def _rows(recipe: AnyRecipe) -> Any:
    return recipe.shape[2] if len(recipe.shape) > 2 else -1
