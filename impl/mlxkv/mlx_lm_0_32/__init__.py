"""Stands in for `mlx_lm.models.cache` of mlx-lm 0.32.2: what is particular to that release.

`state` holds the buffers as they are and the scalars; there is no `meta_state`. An update returns
`keys_and_values()`: the buffers themselves when they are full.
"""

from mlxkv._base import Cache
from mlxkv._lru import LRUPromptCache
from mlxkv._masks import create_attention_mask, create_causal_mask
from mlxkv._prompts import can_trim_prompt_cache, trim_prompt_cache
from mlxkv._trie import PromptTrie, PromptTrieResult
from mlxkv.mlx_lm_0_32._batches import BatchKVCache, BatchRotatingKVCache
from mlxkv.mlx_lm_0_32._containers import ArraysCache, CacheList, from_state
from mlxkv.mlx_lm_0_32._files import load_prompt_cache, save_prompt_cache
from mlxkv.mlx_lm_0_32._prompts import TokenBuffer, make_prompt_cache
from mlxkv.mlx_lm_0_32._sequences import (
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

KVLOCKSTEP = {
    "contract": "0.32.2",
    "level": "buffer",
    "errors": "type",
    "own_errors": "CacheError",
    "transactional": True,
    "reserves": True,
    "seeds": False,
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
