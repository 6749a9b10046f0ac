"""Facts of a step: the names that a ledger entry's `when` may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
from msgspec import Struct

from kvlockstep._arrays import numbers_in
from kvlockstep._recipes import AnyRecipe, StateItem
from kvlockstep._sizes import Sizes
from kvlockstep._snapshots import Snapshot
from kvlockstep._steps import Construct, Filter, SetState, Update
from kvlockstep._trace import AnyStep

# The numbers that a batch keeps of its rows; of `pending` the ones or the others.
_COUNTS = ("left_paddings", "offsets", "pending")
# Arguments that are numbers, one a row.
_NUMBERS = frozenset({"left_padding", "lengths", "right_padding", "indices"})


class Seen(Struct, frozen=True, gc=False):
    """What was seen of a cache before a step: `leaves` of a list, `counts` of a batch."""

    name: str
    sizes: Sizes
    state: str
    slot_shapes: list[tuple[int, ...] | None] = []
    leaves: list[tuple[str, int]] = []
    counts: Sequence[Snapshot | None] = (None, None, None)


class Context(Struct, frozen=True, gc=False):
    """What was seen of the caches that a step takes, its own first, and of the trace so far."""

    caches: tuple[Seen, ...] = ()
    trimmable: bool = False
    tokens_so_far: frozenset[Any] | None = None


def counts_of(cache: Any, contents: Mapping[int, Snapshot]) -> list[Snapshot | None]:
    """Return the numbers of a cache as they were last seen: read only if something is told."""

    def seen(name: str) -> Snapshot | None:
        array = fields.get(name)
        return contents.get(id(array)) if isinstance(array, mx.array) else None

    fields = vars(cache)
    return [seen("left_padding"), seen("offset"), seen("_right_padding") or seen("_lengths")]


def facts_of(step: AnyStep, sizes: Sizes, context: Context) -> dict[str, Any]:
    """Return the step's arguments by name, the sizes before it, and what follows from both.

    `trimmable` is known before a trim, `tokens_so_far` before a step that names a sequence. Of each
    cache that the step takes, its own first: `states`, the state classes; `slot_shapes`, None for
    an empty slot; `leaves`, what is inside a list, the class and the state class of each
    ("KVCache: empty"); `leaf_batches`, their batch rows; `classes`; `sizes`; of a batch its
    `left_paddings` and `offsets`, and `pending`, the right padding, or the lengths, that wait for
    `finalize`; None where there are none. The sizes of the first peer are `peer_offset`, ...

    For an update: `keys_shape`, `values_shape`, `keys_rows`, `values_rows` (-1 where the rank has
    no sequence axis), `keys_dtype`, `values_dtype`, `keys_as`, `values_as`. For a `set_state`:
    `state`, its `items`, the `shapes` and `dtypes` of its arrays (those in triples left out),
    `keys_rows` (-1 without keys), `scalars`, what stands behind keys and values, and `kinds`, what
    each item is: "array", "None", "int", "str", a list of kinds. For a construction: its arguments
    and `cache`. Of numbers that are an array all in one list, and of any their shape:
    `indices_shape`, `left_padding_shape`. The `indices` of a slice are the rows that it takes.
    """
    caches = context.caches
    facts: dict[str, Any] = {**sizes, "trimmable": context.trimmable}
    for peer in caches[1:2]:
        facts |= {f"peer_{size}": number for size, number in peer.sizes.items()}
    facts["sizes"] = [seen.sizes for seen in caches]
    facts["classes"] = [seen.name for seen in caches]
    facts["states"] = [seen.state for seen in caches]
    facts["slot_shapes"] = [seen.slot_shapes for seen in caches]
    facts["leaves"] = [[name for name, _ in seen.leaves] for seen in caches]
    facts["leaf_batches"] = [[batch for _, batch in seen.leaves] for seen in caches]
    for number, name in enumerate(_COUNTS):
        counts = [seen.counts[number] for seen in caches]
        facts[name] = [count and count.array().tolist() for count in counts]
    if context.tokens_so_far is not None:
        facts["tokens_so_far"] = context.tokens_so_far
    if isinstance(step, Construct):
        return {**facts, "cache": step.cache, **step.args, **_facts_of_numbers(step.args)}
    if isinstance(step, Update):
        values = step.values or step.keys
        facts |= _facts_of_recipe("keys", step.keys) | _facts_of_recipe("values", values)
        values_as = step.values_as if step.values else step.keys_as
        facts |= {"keys_as": step.keys_as, "values_as": values_as}
        return facts
    if isinstance(step, SetState):
        keys = step.state[0] if step.state else None
        keys = keys[0] if isinstance(keys, tuple) and keys else keys
        return {
            **facts,
            "state": step.state,
            "items": len(step.state),
            "dtypes": [item.dtype for item in step.state if isinstance(item, AnyRecipe)],
            "shapes": [item.shape for item in step.state if isinstance(item, AnyRecipe)],
            "keys_rows": _rows(keys) if isinstance(keys, AnyRecipe) else -1,
            "scalars": step.state[2:],
            "kinds": [_kind(item) for item in step.state],
        }
    names = (name for name in step.__struct_fields__ if name not in ("slot", "to"))
    arguments = {name: getattr(step, name) for name in names}
    facts |= arguments | _facts_of_numbers(arguments)
    if isinstance(step, Filter) and step.as_slice:
        with suppress(TypeError):
            facts["indices"] = [*range(sizes["batch"])[step.rows]]
    return facts


def _facts_of_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in _NUMBERS & arguments.keys():
        value = arguments[name]
        shape = (len(value),) if isinstance(value, tuple) else getattr(value, "shape", ())
        facts |= {name: numbers_in(value), f"{name}_shape": shape}
    return facts


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
