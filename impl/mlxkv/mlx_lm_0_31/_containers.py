"""The caches of caches and of arrays, and finding a class by name, as mlx-lm 0.31.3 has them."""

from __future__ import annotations

from typing import Any

from mlxkv._names import find_class
from mlxkv.mlx_lm_0_31._sequences import (
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    Saved,
)


def from_state(name: str, state: Any, meta_state: Any = None) -> Saved:
    """A cache of the class of that name, or of its Rust alias, from its state and meta_state.

    Raises `UnknownCacheError` and what the class's `from_state` raises.
    """
    return find_class(name, CLASSES).from_state(state, meta_state)


CLASSES: dict[str, type[Saved]] = {
    cls.__name__: cls
    for cls in (ChunkedKVCache, ConcatenateKVCache, KVCache, QuantizedKVCache, RotatingKVCache)
}
