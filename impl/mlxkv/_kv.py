"""The standard cache: buffers that grow by whole steps and are written in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from mlxkv._backed import BackedCache
from mlxkv._buffers import Pair
from mlxkv._quantized import QuantizedKVCache, as_sizes, quantize

if TYPE_CHECKING:
    from mlxkv._batch_kv import BatchKVCache


class KVCache(BackedCache):
    """All keys and values of the sequence.

    Source: 0.31.3 cache.py:325-407, 0.32.2 cache.py:339-420.
    """

    _reference_name = "KVCache"
    step: int = 256

    _quantized_class: ClassVar[type[QuantizedKVCache]]
    _batch_class: ClassVar[type[BatchKVCache]]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        """Write rows (batch, n_kv_heads, tokens, head_dim) at the offset and advance it.

        The first update fixes the dtypes; later rows are cast, until a growth promotes. Returns
        the first `offset` rows of both. Raises as `Cache.update_and_fetch` and `StepError`.
        """
        prev = self.offset
        fetched = self._overwrite(keys, values, prev)
        if fetched is not None:
            self.offset = prev + 1
            return fetched
        self._write(keys, values, prev)
        self.offset += keys.shape[2]
        return self._fetch()

    def size(self) -> int:
        return self.offset

    def to_quantized(self, group_size: int = 64, bits: int = 4) -> QuantizedKVCache:
        """A quantized cache of the same tokens, spare rows included; self is not changed.

        Raises `QuantizationError`. Source: 0.31.3 cache.py:383-391, 0.32.2 cache.py:396-404.
        """
        group_size, bits = as_sizes(self, "to_quantized", group_size, bits)
        quantized = self._quantized_class(group_size=group_size, bits=bits)
        if self.keys is not None:
            quantized.keys = quantize(self, "to_quantized", self.keys, group_size, bits)
            quantized.values = quantize(self, "to_quantized", self.values, group_size, bits)
        quantized.offset = self.offset
        return quantized

    @classmethod
    def merge(cls, caches: Any) -> BatchKVCache:
        """A batch of these caches, one row each; see `BatchKVCache.merge`."""
        return cls._batch_class.merge(caches)
