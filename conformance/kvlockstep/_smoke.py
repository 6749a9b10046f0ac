"""The smoke test: can the target be driven at all?

What fails here is the adapter, not the cache: a class that cannot be constructed, an update that
takes no arrays or returns none. Whether what it returns is right is for the lockstep to say.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from kvlockstep._caches import CACHES, CacheKind, make_cache
from kvlockstep._contract import Contract
from kvlockstep._explain import tell_made
from kvlockstep._snapshots import CAUGHT
from kvlockstep._steps import Made
from kvlockstep._targets import Target

# As many batch rows as the sample's left padding has.
_ROWS, _TOKENS, _HEAD_DIM = 2, 3, 32


def smoke(contract: Contract, target: Target) -> list[str]:
    """Return what is wrong with the adapter, one line a cache class."""
    if not any(hasattr(target.module, name) for name in contract.surfaces):
        return [
            f"smoke: target {target.spec!r} has no cache class: expected one or more of "
            f"{', '.join(contract.surfaces)}. The adapter, not the cache, is wrong."
        ]
    problems = []
    for name in contract.surfaces:
        if not _has(target.module, CACHES[name].sample):
            continue
        if (problem := _drive(target.module, CACHES[name])) is not None:
            problems.append(
                f"smoke: {target.spec} {name}: {problem}. The adapter, not the cache, is wrong."
            )
    return problems


def _has(module: Any, made: Made) -> bool:
    """Tell whether the target has the class, and those of the children of a list."""
    return hasattr(module, made.cache) and all(_has(module, child) for child in made.children)


def _drive(module: Any, kind: CacheKind) -> str | None:
    doing = tell_made(kind.sample)
    try:
        cache = make_cache(module, kind.sample)
        if not kind.fed:
            return None
        shape = (_ROWS if "left_padding" in kind.sample.args else 1, 1, _TOKENS, _HEAD_DIM)
        doing = f"update_and_fetch(keys, values), both float32 {list(shape)}"
        rows = mx.ones(shape)
        result = cache.update_and_fetch(rows, rows + 1)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            return f"{doing}: expected a pair (keys, values), got {type(result).__name__}"
        arrays = [part[0] if isinstance(part, (tuple, list)) else part for part in result]
        if not all(isinstance(array, mx.array) for array in arrays):
            kinds = ", ".join(type(array).__name__ for array in arrays)
            return f"{doing}: expected mlx.core.array, got {kinds}"
        mx.eval(arrays)
    except CAUGHT as error:
        return f"{doing}: expected no error, got {type(error).__name__}: {error}"
    return None
