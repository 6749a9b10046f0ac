"""Stands in for `mlx_lm.models.cache` of mlx-lm 0.31.3: what is particular to that release.

`state` holds the valid rows, `meta_state` the scalars as strings; an update always returns views.
"""

from mlxkv._base import Cache
from mlxkv._masks import create_attention_mask, create_causal_mask
from mlxkv._prompts import can_trim_prompt_cache, trim_prompt_cache
from mlxkv._trie import PromptTrie, PromptTrieResult
from mlxkv.mlx_lm_0_31._batches import BatchKVCache, BatchRotatingKVCache
from mlxkv.mlx_lm_0_31._containers import ArraysCache, CacheList, from_state
from mlxkv.mlx_lm_0_31._files import load_prompt_cache, save_prompt_cache
from mlxkv.mlx_lm_0_31._lookup import LRUPromptCache
from mlxkv.mlx_lm_0_31._prompts import TokenBuffer, make_prompt_cache
from mlxkv.mlx_lm_0_31._sequences import (
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

KVLOCKSTEP = {
    "contract": "0.31.3",
    "level": "buffer",
    "errors": "type",
    "own_errors": "CacheError",
    "transactional": True,
    "reserves": True,
    "seeds": True,
}

__all__ = [
    "KVLOCKSTEP",
    "ArraysCache",
    "BatchKVCache",
    "BatchRotatingKVCache",
    "CacheList",
    "ChunkedKVCache",
    "ConcatenateKVCache",
    "KVCache",
    "LRUPromptCache",
    "PromptTrie",
    "PromptTrieResult",
    "QuantizedKVCache",
    "RotatingKVCache",
    "TokenBuffer",
    "can_trim_prompt_cache",
    "create_attention_mask",
    "create_causal_mask",
    "from_state",
    "load_prompt_cache",
    "make_prompt_cache",
    "save_prompt_cache",
    "trim_prompt_cache",
]

_BaseCache = Cache
