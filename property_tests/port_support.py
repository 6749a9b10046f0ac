"""What the properties of the port share: its contracts, its caches, and what is in them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlxkv import mlx_lm_0_31, mlx_lm_0_32

CONTRACTS = pytest.mark.parametrize("contract", [mlx_lm_0_31, mlx_lm_0_32], ids=["0.31", "0.32"])
# The caches of one sequence.
CLASSES = pytest.mark.parametrize(
    "name",
    ["KVCache", "ConcatenateKVCache", "RotatingKVCache", "ChunkedKVCache", "QuantizedKVCache"],
)


def construct(contract: Any, name: str, step: int = 2, limit: int = 4, keep: int = 1) -> Any:
    """Return a cache of one sequence that grows, and wraps, within a few tokens."""
    arguments = {
        "RotatingKVCache": {"max_size": limit, "keep": keep},
        "ChunkedKVCache": {"chunk_size": limit},
        "QuantizedKVCache": {"group_size": 32, "bits": 4},
    }
    cache = getattr(contract, name)(**arguments.get(name, {}))
    cache.step = step
    return cache


def leaves(tree: Any) -> list[Any]:
    """Return what is in a tree of lists and tuples."""
    if isinstance(tree, list | tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree]


def digest(leaf: Any) -> Any:
    """Return shape, dtype and bytes of an array, and anything else as it is."""
    if isinstance(leaf, mx.array):
        return leaf.shape, leaf.dtype, bytes(memoryview(leaf)) if leaf.size else b""
    return leaf


def snapshot(cache: Any) -> dict[str, Any]:
    """Every field, with the identity of every object in it and the bytes of every array."""
    return {
        field: (id(value), [(id(leaf), digest(leaf)) for leaf in leaves(value)])
        for field, value in vars(cache).items()
    }
