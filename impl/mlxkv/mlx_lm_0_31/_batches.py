"""The caches of a batch of sequences, as mlx-lm 0.31.3 has them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxkv import _batch_kv, _batch_rotating
from mlxkv._batch import check_state
from mlxkv._buffers import Pair, first
from mlxkv._errors import MetaStateError
from mlxkv._states import check_arrays, parse_count, unpack, unpack_meta
from mlxkv.mlx_lm_0_31._sequences import KVCache, RotatingKVCache, Saved

_FLAGS = {"True": True, "False": False, "1": True, "0": False}


class Batch(Saved):
    """Offsets change in place, so a handle shows it; an empty peer contributes float32."""

    offset: Any

    def _advance(self, tokens: int | mx.array) -> None:
        self.offset += tokens

    def _rewind(self, tokens: int | mx.array) -> None:
        self.offset -= tokens

    def _blank_dtype(self, _filled: mx.Dtype) -> mx.Dtype:
        return mx.float32


class BatchKVCache(Batch, _batch_kv.BatchKVCache):
    """See `mlxkv._batch_kv`."""

    _single_class = KVCache

    @property
    def state(self) -> tuple[Any, ...]:
        """(keys, values, offset, left_padding), the buffers cut to the columns in use.

        The buffers themselves where those are all. Setting it keeps the arrays given and takes
        `_idx` from the keys' columns. Raises `EmptyCacheError`; on setting `StateArityError`,
        `StateError`, `ArrayTypeError`, `RankError`.
        """
        pair = self.keys, self.values
        if self._idx < self._rows():
            pair = first(pair, self._idx)
        return *pair, self.offset, self.left_padding

    @state.setter
    def state(self, state: Any) -> None:
        keys, values, offset, left = unpack(self, state, "keys values offset left_padding")
        check_arrays(self, keys, values)
        check_state(self, keys, values, offset, left)
        self.keys, self.values, self.offset, self.left_padding = keys, values, offset, left
        self._idx = keys.shape[2]


class BatchRotatingKVCache(Batch, _batch_rotating.BatchRotatingKVCache):
    """See `mlxkv._batch_rotating`. meta_state: max_size, _offset, _idx, rotated."""

    _single_class = RotatingKVCache

    def _fetch(self) -> Pair:
        if self._offset < self.max_size:
            return first((self.keys, self.values), self._offset)
        return self.keys, self.values

    @property
    def state(self) -> tuple[Any, ...]:
        """(keys, values, offset, left_padding), the buffers cut while `_offset` is short of them.

        Setting it leaves the scalars. Raises as that of `BatchKVCache`.
        """
        pair = self.keys, self.values
        if self._offset < self._rows():
            pair = first(pair, self._offset)
        return *pair, self.offset, self.left_padding

    @state.setter
    def state(self, state: Any) -> None:
        keys, values, offset, left = unpack(self, state, "keys values offset left_padding")
        check_state(self, keys, values, offset, left)
        self.keys, self.values, self.offset, self.left_padding = keys, values, offset, left

    @property
    def meta_state(self) -> tuple[str, ...]:
        """The scalars as strings. `rotated` is read back as it was; the release makes it True."""
        return str(self.max_size), str(self._offset), str(self._idx), str(self.rotated)

    @meta_state.setter
    def meta_state(self, meta_state: Any) -> None:
        fields = unpack_meta(self, meta_state, "max_size _offset _idx rotated")
        names = ("max_size", "_offset", "_idx")
        counts = [parse_count(self, *field) for field in zip(names, fields, strict=False)]
        rotated = _FLAGS.get(str(fields[3]))
        if rotated is None:
            raise MetaStateError(self, "meta_state", "True or False as rotated", repr(fields[3]))
        self.max_size, self._offset, self._idx = counts
        self.rotated = rotated


# Merging single caches makes one of these, and extracting makes a single cache again.
KVCache._batch_class = BatchKVCache
RotatingKVCache._batch_class = BatchRotatingKVCache
