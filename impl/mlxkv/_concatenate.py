"""The cache that concatenates at every update."""

from __future__ import annotations

import mlx.core as mx

from mlxkv._base import PlainCache
from mlxkv._buffers import Pair, explain_join, measure
from mlxkv._words import MANY, concatenate, join


class ConcatenateKVCache(PlainCache):
    """Keys and values exactly as long as the sequence, new arrays at each update.

    The first update stores the caller's own arrays. `trim` moves the offset only: the rows stay,
    and the next update appends after them, as in mlx-lm.
    Source: 0.31.3 cache.py:178-229, 0.32.2 cache.py:195-248.
    """

    _reference_name = "ConcatenateKVCache"

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        """Append rows (batch, n_kv_heads, tokens, head_dim); return the stored arrays.

        dtypes promote. Nothing broadcasts: `ShapeError` unless all but the tokens agree with what
        is stored.
        """
        held = self.keys
        if held is None:
            measure(self, keys, values)
            all_keys, all_values = keys, values
        else:
            try:
                append = concatenate if held.nbytes < MANY else join
                all_keys = append((held, keys), 2)
                all_values = append((self.values, values), 2)
            except (AttributeError, TypeError, ValueError):
                explain_join(self, keys, values)
        rows = all_keys.shape[2]  # Looked at once each: this class is all dispatch.
        if rows != all_values.shape[2]:
            measure(self, keys, values)
        self.keys = all_keys
        self.values = all_values
        self.offset = rows
        return all_keys, all_values
