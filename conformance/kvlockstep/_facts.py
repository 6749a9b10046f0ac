"""Facts of a step: the names that a ledger entry's `when` may use."""

from __future__ import annotations

from typing import Any

from kvlockstep._sizes import Sizes
from kvlockstep._trace import AnyRecipe, AnyStep, Construct, SetState, Update


def facts_of(step: AnyStep, sizes: Sizes, trimmable: bool) -> dict[str, Any]:
    """Return the step's arguments by name, the sizes before it, and what follows from both.

    For an update: `keys_shape`, `values_shape`, `keys_rows`, `values_rows` (-1 where the rank has
    no sequence axis), `keys_dtype`, `values_dtype`. For a `set_state`: the number of `items`, the
    `shapes` of its arrays (those in triples left out), `keys_rows` (-1 without keys), and
    `scalars`, what stands behind keys and values. For a construction: its arguments and `cache`.
    """
    facts: dict[str, Any] = {**sizes, "trimmable": trimmable}
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
            "items": len(step.state),
            "shapes": [item.shape for item in step.state if isinstance(item, AnyRecipe)],
            "keys_rows": _rows(keys) if isinstance(keys, AnyRecipe) else -1,
            "scalars": step.state[2:],
        }
    names = (name for name in step.__struct_fields__ if name not in ("slot", "to"))
    return facts | {name: getattr(step, name) for name in names}


def _facts_of_recipe(name: str, recipe: AnyRecipe) -> dict[str, Any]:
    return {
        f"{name}_shape": recipe.shape,
        f"{name}_rows": _rows(recipe),
        f"{name}_dtype": recipe.dtype,
    }


def _rows(recipe: AnyRecipe) -> Any:
    return recipe.shape[2] if len(recipe.shape) > 2 else -1
