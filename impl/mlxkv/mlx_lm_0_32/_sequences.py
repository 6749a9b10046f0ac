"""The caches of one sequence, as mlx-lm 0.32.2 has them."""

from __future__ import annotations

from typing import Any, Self

from mlxkv import _chunked, _concatenate, _kv, _quantized, _rotating
from mlxkv._base import PlainCache
from mlxkv._buffers import Pair
from mlxkv._errors import EmptyCacheError
from mlxkv._quantized import Parts, first_parts
from mlxkv._states import check_arrays, check_parts, check_range, check_scalars, unpack


class Restored:
    """A cache that is made from its state."""

    state: Any

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """A new cache with that state. Source: 0.32.2 cache.py:187-192."""
        cache = cls.__new__(cls)
        cache.state = state
        return cache


class Saved(Restored, PlainCache):
    """State as 0.32.2 saves it: the buffers and the scalars, together."""

    def keys_and_values(self) -> Any:
        """The keys and values to attend to, as the last update returned them.

        Views of the first `offset` rows, or the buffers themselves where those are all. Raises
        `EmptyCacheError`.
        """
        if self.offset < self._rows("keys_and_values"):
            return self._first(self.offset)
        return self.keys, self.values

    def _fetch(self) -> Any:
        return self.keys_and_values()

    def _rows(self, operation: str) -> int:
        """The rows of the keys' buffer, which `operation` needs."""
        if self.empty():
            raise EmptyCacheError(self, operation, "stored keys and values", "none")
        return self._rows_held()


def _check_buffers(cache: object, keys: Any, values: Any) -> int:
    """Return the rows of the keys: none for an empty cache, whose keys and values are None."""
    if keys is None and values is None:
        return 0
    check_arrays(cache, keys, values)
    return int(keys.shape[2])


class ConcatenateKVCache(Saved, _concatenate.ConcatenateKVCache):
    """See `mlxkv._concatenate`. state: keys, values; the offset is their rows."""

    def keys_and_values(self) -> Pair:
        """The stored arrays themselves, None while the cache is empty."""
        return self.keys, self.values

    @property
    def state(self) -> Pair:
        return self.keys, self.values

    @state.setter
    def state(self, state: Any) -> None:
        keys, values = unpack(self, state, "keys values")
        check_arrays(self, keys, values)
        self.keys, self.values, self.offset = keys, values, keys.shape[2]


class QuantizedKVCache(Saved, _quantized.QuantizedKVCache):
    """See `mlxkv._quantized`. state: keys, values, offset, group_size, bits."""

    def keys_and_values(self) -> tuple[Parts, Parts]:
        """Two triples of views of the first `offset` rows, or those stored when that is all."""
        if self.keys is None:
            raise EmptyCacheError(self, "keys_and_values", "stored keys and values", "none")
        if self.offset == self.keys[0].shape[2]:
            return self.keys, self.values
        return first_parts(self.keys, self.offset), first_parts(self.values, self.offset)

    @property
    def state(self) -> tuple[Any, Any, int, int, int]:
        return self.keys, self.values, self.offset, self.group_size, self.bits

    @state.setter
    def state(self, state: Any) -> None:
        names = "keys values offset group_size bits"
        keys, values, offset, group_size, bits = unpack(self, state, names)
        check_scalars(self, offset=offset)
        check_scalars(self, low=1, group_size=group_size, bits=bits)
        if keys is not None or values is not None:
            check_parts(self, "keys", keys)
            check_parts(self, "values", values)
        check_range(self, "offset", offset, 0 if keys is None else keys[0].shape[2])
        self.keys, self.values, self.offset = keys, values, offset
        self.group_size, self.bits = group_size, bits


class KVCache(Saved, _kv.KVCache):
    """See `mlxkv._kv`. state: keys, values, offset."""

    _quantized_class = QuantizedKVCache

    def _fetch(self) -> Pair:
        offset = self.offset
        return self._first(offset) if offset < self._rows_held() else self._lend()

    @property
    def state(self) -> tuple[Any, Any, int]:
        return self.keys, self.values, self.offset

    @state.setter
    def state(self, state: Any) -> None:
        keys, values, offset = unpack(self, state, "keys values offset")
        check_scalars(self, offset=offset)
        check_range(self, "offset", offset, _check_buffers(self, keys, values))
        self.keys, self.values, self.offset = keys, values, offset


class RotatingKVCache(Saved, _rotating.RotatingKVCache):
    """See `mlxkv._rotating`. state: keys, values, offset, keep, max_size, _idx."""

    @property
    def state(self) -> tuple[Any, Any, int, int, int, int]:
        return self.keys, self.values, self.offset, self.keep, self.max_size, self._idx

    @state.setter
    def state(self, state: Any) -> None:
        names = "keys values offset keep max_size _idx"
        keys, values, offset, keep, max_size, idx = unpack(self, state, names)
        check_scalars(self, offset=offset, keep=keep, max_size=max_size, _idx=idx)
        rows = _check_buffers(self, keys, values)
        check_range(self, "_idx", idx, rows)
        if offset < max_size or keys is None:
            check_range(self, "offset", offset, rows)
        self.keys, self.values, self.offset = keys, values, offset
        self.keep, self.max_size, self._idx = keep, max_size, idx


class ChunkedKVCache(Saved, _chunked.ChunkedKVCache):
    """See `mlxkv._chunked`. state: keys, values, offset, chunk_size, start_position."""

    def _fetch(self) -> Pair:
        return self._first(self.offset - self.start_position)

    def keys_and_values(self) -> Pair:
        """Views of the rows from `start_position` to `offset`, always new objects."""
        self._rows("keys_and_values")
        return self._first(self.offset - self.start_position)

    @property
    def state(self) -> tuple[Any, Any, int, int | None, int]:
        return self.keys, self.values, self.offset, self.chunk_size, self.start_position

    @state.setter
    def state(self, state: Any) -> None:
        names = "keys values offset chunk_size start_position"
        keys, values, offset, chunk_size, start = unpack(self, state, names)
        check_scalars(self, offset=offset, start_position=start)
        if chunk_size is not None:
            check_scalars(self, chunk_size=chunk_size)
        check_range(
            self, "offset - start_position", offset - start, _check_buffers(self, keys, values)
        )
        self.keys, self.values, self.offset = keys, values, offset
        self.chunk_size, self.start_position = chunk_size, start

    def maybe_trim_front(self) -> None:
        """Forget the valid rows before the last `chunk_size`; moves `start_position`.

        Source: 0.32.2 cache.py:738-747.
        """
        if self._keys is None or self.chunk_size is None:
            return
        held = self.offset - self.start_position
        excess = held - self.chunk_size
        if excess > 0:
            self._forget(excess, held)
            self.start_position += excess
