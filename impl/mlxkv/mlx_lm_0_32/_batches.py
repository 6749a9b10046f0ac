"""The caches of a batch of sequences, as mlx-lm 0.32.2 has them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxkv import _batch_kv, _batch_rotating
from mlxkv._batch import check_state
from mlxkv._buffers import Pair, first
from mlxkv._errors import StateScalarError
from mlxkv._states import check_range, check_scalars, unpack
from mlxkv.mlx_lm_0_32._sequences import KVCache, RotatingKVCache, Saved


class Batch(Saved):
    """Offsets are new arrays at every change; an empty peer contributes the other's dtype."""

    offset: Any

    def _advance(self, tokens: int | mx.array) -> None:
        self.offset = self.offset + tokens

    def _rewind(self, tokens: int | mx.array) -> None:
        self.offset = self.offset - tokens

    def _blank_dtype(self, filled: mx.Dtype) -> mx.Dtype:
        return filled


class BatchKVCache(Batch, _batch_kv.BatchKVCache):
    """See `mlxkv._batch_kv`. state: keys, values, offset, left_padding, _idx."""

    _single_class = KVCache

    def keys_and_values(self) -> Pair:
        """Views of the columns in use, always new objects. Raises `EmptyCacheError`."""
        self._check_filled("keys_and_values")
        return first((self.keys, self.values), self._idx)

    @property
    def state(self) -> tuple[Any, ...]:
        return self.keys, self.values, self.offset, self.left_padding, self._idx

    @state.setter
    def state(self, state: Any) -> None:
        names = "keys values offset left_padding _idx"
        keys, values, offset, left, idx = unpack(self, state, names)
        check_scalars(self, _idx=idx)
        check_range(self, "_idx", idx, check_state(self, keys, values, offset, left))
        self.keys, self.values, self.offset, self.left_padding = keys, values, offset, left
        self._idx = idx


class BatchRotatingKVCache(Batch, _batch_rotating.BatchRotatingKVCache):
    """See `mlxkv._batch_rotating`.

    state: keys, values, offset, left_padding, max_size, _offset, _idx, rotated.
    """

    _single_class = RotatingKVCache

    def keys_and_values(self) -> Pair:
        """The buffers, or views of the first `_offset` columns. Raises `EmptyCacheError`."""
        if self._offset < self._rows("keys_and_values"):
            return first((self.keys, self.values), self._offset)
        return self.keys, self.values

    @property
    def state(self) -> tuple[Any, ...]:
        return (
            *(self.keys, self.values, self.offset, self.left_padding),
            *(self.max_size, self._offset, self._idx, self.rotated),
        )

    @state.setter
    def state(self, state: Any) -> None:
        names = "keys values offset left_padding max_size _offset _idx rotated"
        entries = unpack(self, state, names)
        keys, values, offset, left, max_size, count, idx, rotated = entries
        check_scalars(self, max_size=max_size, _offset=count, _idx=idx)
        if not isinstance(rotated, bool):
            raise StateScalarError(self, "state", "True or False as rotated", repr(rotated))
        columns = check_state(self, keys, values, offset, left)
        check_range(self, "_idx", idx, columns)
        if count < max_size or keys is None:
            check_range(self, "_offset", count, columns)
        self.keys, self.values, self.offset, self.left_padding = keys, values, offset, left
        self.max_size, self._offset, self._idx, self.rotated = max_size, count, idx, rotated


# Merging single caches makes one of these, and extracting makes a single cache again.
KVCache._batch_class = BatchKVCache
RotatingKVCache._batch_class = BatchRotatingKVCache
