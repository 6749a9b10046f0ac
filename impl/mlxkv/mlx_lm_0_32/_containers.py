"""The caches of caches and of arrays, and finding a class by name, as mlx-lm 0.32.2 has them."""

from __future__ import annotations

from typing import Any

from mlxkv._errors import MetaStateError
from mlxkv._names import find_class
from mlxkv.mlx_lm_0_32._sequences import (
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    Saved,
)


def from_state(name: str, state: Any, meta_state: Any = None) -> Saved:
    """A cache of the class of that name, or of its Rust alias, from its state.

    The release has no meta_state: `MetaStateError` unless it is None or empty. Raises
    `UnknownCacheError` and what the class's `from_state` raises.
    """
    cls = find_class(name, CLASSES)
    if meta_state:
        raise MetaStateError(cls.__name__, "from_state", "no meta_state", repr(meta_state))
    return cls.from_state(state)


CLASSES: dict[str, type[Saved]] = {
    cls.__name__: cls
    for cls in (ChunkedKVCache, ConcatenateKVCache, KVCache, QuantizedKVCache, RotatingKVCache)
}
