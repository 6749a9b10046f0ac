"""What is done to the caches of all layers of a model at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlxkv._list import CacheList, check_trims, count_down, trim_all

KEEP = 4


def make_caches(
    model: Any,
    max_kv_size: int | None,
    standard: Callable[[], Any],
    rotating: Callable[..., Any],
) -> list[Any]:
    """The model's own caches, else one a layer: rotating where a size is given."""
    if hasattr(model, "make_cache"):
        caches: list[Any] = model.make_cache()
        return caches
    layers = range(len(model.layers))
    if max_kv_size is None:
        return [standard() for _ in layers]
    return [rotating(max_size=max_kv_size, keep=KEEP) for _ in layers]


def can_trim_prompt_cache(cache: Sequence[Any]) -> bool:
    """Whether all of the caches are trimmable now; True for none.

    Source: 0.31.3 cache.py:88-92, 0.32.2 cache.py:115-119.
    """
    return all(one.is_trimmable() for one in cache)


def trim_prompt_cache(cache: Sequence[Any], num_tokens: int) -> int:
    """Forget the last tokens in every cache; return how many the first one forgot.

    0, and nothing changes, unless all are trimmable. Where one raises, all are as they were.
    Raises what `trim` raises. Source: 0.31.3 cache.py:95-111, 0.32.2 cache.py:122-138.
    """
    if not len(cache) or not can_trim_prompt_cache(cache):
        return 0
    trimmed = count_down(cache, num_tokens)
    if trimmed is None:
        for one in cache:
            if isinstance(one, CacheList):
                check_trims(one)
        trimmed = trim_all(cache, num_tokens)
    return trimmed[0]
