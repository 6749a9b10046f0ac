"""The cache of quantized keys and values: three arrays each, packed rows, scales and biases."""

from __future__ import annotations

from typing import Any, TypeAlias

import mlx.core as mx

from mlxkv._base import PlainCache, as_integer
from mlxkv._buffers import (
    ALL,
    UPDATE,
    Shape,
    check_window,
    count_steps,
    lengthen,
    measure,
)
from mlxkv._errors import EmptyCacheError, QuantizationError

Parts: TypeAlias = list[mx.array] | tuple[mx.array, ...]


def as_sizes(cache: object, operation: str, group_size: Any, bits: Any) -> tuple[int, int]:
    """Both as ints; raises unless they are integers of at least 1: 0 kills the process in mlx."""
    return (
        _as_size(cache, operation, "group_size", group_size),
        _as_size(cache, operation, "bits", bits),
    )


def _as_size(cache: object, operation: str, name: str, size: Any) -> int:
    number = as_integer(cache, operation, name, size)
    if number < 1:
        raise QuantizationError(cache, operation, f"{name} of at least 1", str(number))
    return number


def quantize(cache: object, operation: str, rows: mx.array, group_size: int, bits: int) -> Parts:
    """Packed rows, scales and biases, as `mx.quantize` returns them; raises only our errors.

    Of no elements they are made without it: evaluating it would kill the process on CUDA.
    """
    try:
        parts = mx.quantize(rows, group_size=group_size, bits=bits)
    except ValueError as error:
        expected = f"rows that quantize with group_size={group_size}, bits={bits}"
        raise QuantizationError(cache, operation, expected, f"{rows.shape}: {error}") from error
    return parts if rows.size else [mx.zeros(part.shape, part.dtype) for part in parts]


def first_parts(parts: Parts, rows: int) -> Parts:
    """Views of the first rows of each part, in a new container of the same type."""
    window = (ALL, ALL, slice(rows))
    views = [part[window] for part in parts]
    return views if isinstance(parts, list) else tuple(views)


class QuantizedKVCache(PlainCache):
    """All keys and values of the sequence, quantized.

    `keys` and `values` are triples of uint32 (batch, n_kv_heads, capacity, head_dim * bits / 32)
    and two of (batch, n_kv_heads, capacity, head_dim / group_size) in the dtype of the first keys.
    Source: 0.31.3 cache.py:232-322, 0.32.2 cache.py:251-336.
    """

    _reference_name = "QuantizedKVCache"
    step: int = 256

    def __init__(self, group_size: int = 64, bits: int = 8) -> None:
        sizes = as_sizes(self, "__init__", group_size, bits)
        super().__init__()
        self.group_size, self.bits = sizes

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Parts, Parts]:
        """Quantize rows (batch, n_kv_heads, tokens, head_dim) and write them at the offset.

        Returns two triples, of the first `offset` rows. Raises as `Cache.update_and_fetch`,
        `QuantizationError` and `StepError`.
        """
        k_shape, v_shape = measure(self, keys, values)
        sizes = as_sizes(self, UPDATE, self.group_size, self.bits)
        k_rows = quantize(self, UPDATE, keys, *sizes)
        v_rows = quantize(self, UPDATE, values, *sizes)
        prev = self.offset
        stop = prev + k_shape[2]
        k_parts, v_parts = self.keys, self.values
        if k_parts is None:
            k_parts = self._allocate(k_rows, k_shape, k_shape[3], keys.dtype)
            v_parts = self._allocate(v_rows, k_shape, v_shape[3], keys.dtype)
        elif stop > k_parts[0].shape[2]:
            k_parts = self._lengthen("keys", k_parts, k_shape)
            v_parts = self._lengthen("values", v_parts, k_shape)
        for name, parts, rows in (("keys", k_parts, k_rows), ("values", v_parts, v_rows)):
            for part, row in zip(parts, rows, strict=True):
                check_window(self, name, part, row.shape, prev)
        window = (ALL, ALL, slice(prev, stop))
        for i in range(3):
            k_parts[i][window] = k_rows[i]
            v_parts[i][window] = v_rows[i]
        self.keys, self.values, self.offset = k_parts, v_parts, stop
        return self._fetch()

    def _allocate(self, rows: Parts, shape: Shape, head_dim: int, dtype: mx.Dtype) -> Parts:
        """Three buffers of zeros, whole steps long, for the first rows.

        mlx-lm reckons 32 // bits elements to a word; where that is not what `mx.quantize` packs
        (bits 3, 5, 6 and some head_dims) its first write fails, and so does this.
        """
        lead = (*shape[:2], count_steps(self, self.step, shape[2]))
        packed, groups = head_dim // (32 // self.bits), head_dim // self.group_size
        if packed != rows[0].shape[3]:
            expected = f"a head_dim of whole words of {32 // self.bits} elements"
            got = f"head_dim {head_dim} with bits={self.bits}"
            raise QuantizationError(self, UPDATE, expected, got)
        return (
            mx.zeros((*lead, packed), mx.uint32),
            mx.zeros((*lead, groups), dtype),
            mx.zeros((*lead, groups), dtype),
        )

    def _lengthen(self, name: str, parts: Parts, shape: Shape) -> Parts:
        """The parts with whole steps more for rows of that shape, in the same kind of container."""
        lead = (*shape[:2], count_steps(self, self.step, shape[2]))
        if self.offset % self.step:
            parts = first_parts(parts, self.offset)
        grown = [lengthen(self, name, part, (*lead, part.shape[3]), part.dtype) for part in parts]
        return grown if isinstance(parts, list) else tuple(grown)

    @property
    def nbytes(self) -> int:
        if self.keys is None:
            raise EmptyCacheError(self, "nbytes", "stored keys and values", "none")
        return sum(part.nbytes for part in (*self.keys, *self.values))

    def _fetch(self) -> tuple[Parts, Parts]:  # type: ignore[override]
        raise NotImplementedError
