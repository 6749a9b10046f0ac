"""The caches of one sequence, as mlx-lm 0.31.3 has them."""

from __future__ import annotations

from typing import Any, Self

from mlxkv import _chunked, _concatenate, _kv, _quantized, _rotating
from mlxkv._base import PlainCache
from mlxkv._buffers import Pair, first
from mlxkv._errors import EmptyCacheError, MetaStateError
from mlxkv._quantized import Parts, first_parts
from mlxkv._states import check_arrays, check_parts, parse_count, unpack, unpack_meta


class Restored:
    """A cache that is made from its state, and has no scalars in `meta_state` unless it says so."""

    state: Any

    @classmethod
    def from_state(cls, state: Any, meta_state: Any) -> Self:
        """A new cache with that state, then that meta_state. Source: 0.31.3 cache.py:169-175."""
        cache = cls.__new__(cls)
        cache.state = state
        cache.meta_state = meta_state
        return cache

    @property
    def meta_state(self) -> Any:
        """The scalars as decimal strings; "" for a class that has none."""
        return ""

    @meta_state.setter
    def meta_state(self, meta_state: Any) -> None:
        if meta_state is not None and meta_state:
            raise MetaStateError(self, "meta_state", "no fields", repr(meta_state))


class Saved(Restored, PlainCache):
    """State as 0.31.3 saves it: (keys, values), and scalars, if any, in `meta_state`."""

    @property
    def state(self) -> tuple[Any, Any]:
        """(keys, values), cut to the valid rows; the buffers themselves when those are all.

        Setting it keeps the arrays given and takes the offset from the keys' rows. Raises
        `EmptyCacheError`; on setting `StateArityError`, `StateError`, `ArrayTypeError`,
        `RankError`.
        """
        if self.offset == self._rows():
            return self.keys, self.values
        return self._first(self.offset)

    @state.setter
    def state(self, state: Any) -> None:
        self._restore(state)

    def _restore(self, state: Any) -> None:
        """Keep the arrays given; the offset is the rows of the keys."""
        keys, values = unpack(self, state, "keys values")
        check_arrays(self, keys, values)
        self.keys, self.values, self.offset = keys, values, keys.shape[2]

    def _rows(self) -> int:
        """The rows of the keys' buffer, which `state` needs."""
        if self.empty():
            raise EmptyCacheError(self, "state", "stored keys and values", "none")
        return self._rows_held()


class ConcatenateKVCache(Saved, _concatenate.ConcatenateKVCache):
    """See `mlxkv._concatenate`. Its state is the arrays themselves, None while it is empty."""

    @property
    def state(self) -> tuple[Any, Any]:
        return self._fetch()

    @state.setter
    def state(self, state: Any) -> None:
        self._restore(state)

    def _fetch(self) -> Pair:
        return self.keys, self.values


class QuantizedKVCache(Saved, _quantized.QuantizedKVCache):
    """See `mlxkv._quantized`. meta_state: offset, group_size, bits."""

    @property
    def state(self) -> tuple[Any, Any]:
        """Two triples, cut to the valid rows; setting it leaves the offset to `meta_state`."""
        if self.keys is None:
            raise EmptyCacheError(self, "state", "stored keys and values", "none")
        if self.offset == self.keys[0].shape[2]:
            return self.keys, self.values
        return self._fetch()

    @state.setter
    def state(self, state: Any) -> None:
        keys, values = unpack(self, state, "keys values")
        if keys is not None or values is not None:
            check_parts(self, "keys", keys)
            check_parts(self, "values", values)
        self.keys, self.values = keys, values

    @property
    def meta_state(self) -> tuple[str, ...]:
        return str(self.offset), str(self.group_size), str(self.bits)

    @meta_state.setter
    def meta_state(self, meta_state: Any) -> None:
        fields = unpack_meta(self, meta_state, "offset group_size bits")
        offset = parse_count(self, "offset", fields[0])
        group_size = parse_count(self, "group_size", fields[1], low=1)
        bits = parse_count(self, "bits", fields[2], low=1)
        self.offset, self.group_size, self.bits = offset, group_size, bits

    def _fetch(self) -> tuple[Parts, Parts]:  # type: ignore[override]
        return first_parts(self.keys, self.offset), first_parts(self.values, self.offset)


class KVCache(Saved, _kv.KVCache):
    """See `mlxkv._kv`."""

    _quantized_class = QuantizedKVCache

    def _fetch(self) -> Pair:
        return self._first(self.offset)


class RotatingKVCache(Saved, _rotating.RotatingKVCache):
    """See `mlxkv._rotating`. meta_state: keep, max_size, offset, _idx."""

    @property
    def state(self) -> tuple[Any, Any]:
        """(keys, values), cut while the offset is short of them; setting it leaves the scalars."""
        if self.offset < self._rows():
            return first((self.keys, self.values), self.offset)
        return self.keys, self.values

    @state.setter
    def state(self, state: Any) -> None:
        keys, values = unpack(self, state, "keys values")
        if keys is not None or values is not None:
            check_arrays(self, keys, values)
        self.keys, self.values = keys, values

    @property
    def meta_state(self) -> tuple[str, ...]:
        return str(self.keep), str(self.max_size), str(self.offset), str(self._idx)

    @meta_state.setter
    def meta_state(self, meta_state: Any) -> None:
        names = "keep max_size offset _idx"
        fields = unpack_meta(self, meta_state, names)
        counts = [parse_count(self, *field) for field in zip(names.split(), fields, strict=True)]
        self.keep, self.max_size, self.offset, self._idx = counts

    def _fetch(self) -> Pair:
        if self.offset < self.max_size:
            return first((self.keys, self.values), self.offset)
        return self.keys, self.values


class ChunkedKVCache(Saved, _chunked.ChunkedKVCache):
    """See `mlxkv._chunked`. meta_state: chunk_size, start_position; the offset is not saved."""

    @property
    def meta_state(self) -> tuple[str, ...]:
        return str(self.chunk_size), str(self.start_position)

    @meta_state.setter
    def meta_state(self, meta_state: Any) -> None:
        """Also takes "None" for chunk_size (mlx-swift-lm; seed test meta_state_roundtrip)."""
        chunk, start = unpack_meta(self, meta_state, "chunk_size start_position")
        unbounded = chunk is None or chunk == "None"
        chunk_size = None if unbounded else parse_count(self, "chunk_size", chunk)
        start_position = parse_count(self, "start_position", start)
        self.chunk_size, self.start_position = chunk_size, start_position

    def _fetch(self) -> Pair:
        return self._first(self.offset - self.start_position)

    def maybe_trim_front(self) -> None:
        """Forget the rows of the buffers before the last `chunk_size`; moves `start_position`.

        The buffer's rows count, spare ones too: those of a fresh buffer of 256 are the last, and
        a token before them is forgotten (seed test raw_step_buffer_semantics). A chunk_size of 0
        forgets nothing, for -0 is where a Python slice starts. Source: 0.31.3 cache.py:742-747.
        """
        if self.empty() or self.chunk_size is None:
            return
        excess = self._rows_held() - self.chunk_size
        if excess >= 0:
            last = slice(-self.chunk_size, None)
            self.keys, self.values = self.keys[:, :, last], self.values[:, :, last]
            self.start_position += excess
