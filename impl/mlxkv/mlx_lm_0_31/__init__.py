"""Stands in for `mlx_lm.models.cache` of mlx-lm 0.31.3: what is particular to that release.

`state` holds the valid rows, `meta_state` the scalars as strings; an update always returns views.
"""

from mlxkv._base import Cache
from mlxkv._masks import create_attention_mask, create_causal_mask
from mlxkv.mlx_lm_0_31._containers import from_state
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
    "transactional": True,
    "seeds": True,
}

__all__ = [
    "KVLOCKSTEP",
    "ChunkedKVCache",
    "ConcatenateKVCache",
    "KVCache",
    "QuantizedKVCache",
    "RotatingKVCache",
    "create_attention_mask",
    "create_causal_mask",
    "from_state",
]

_BaseCache = Cache
