"""The caches of a whole model and the buffer of its tokens, as mlx-lm 0.32.2 has them."""

from __future__ import annotations

from typing import Any

from mlxkv import _tokens
from mlxkv._prompts import make_caches
from mlxkv.mlx_lm_0_32._sequences import KVCache, RotatingKVCache


def make_prompt_cache(model: Any, max_kv_size: int | None = None) -> list[Any]:
    """What the model's `make_cache` returns, else a cache for each of its `layers`.

    With `max_kv_size` those are rotating, of that size, and keep the first 4 tokens; else
    standard. Raises what the model raises, and `RotatingKVCache`.
    Source: 0.32.2 cache.py:15-40.
    """
    return make_caches(model, max_kv_size, KVCache, RotatingKVCache)


class TokenBuffer(_tokens.TokenBuffer):
    """See `mlxkv._tokens`."""

    def __init__(self, tokens: Any = None) -> None:
        """None is no tokens."""
        super().__init__([] if tokens is None else tokens)
