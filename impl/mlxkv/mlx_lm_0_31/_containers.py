"""The caches of caches and of arrays, and finding a class by name, as mlx-lm 0.31.3 has them."""

from __future__ import annotations

from typing import Any, Self

import mlx.core as mx

from mlxkv import _arrays, _list
from mlxkv._errors import ListMetaStateError, StateArityError
from mlxkv._list import AllOrNothing, entries
from mlxkv._masks import padding_mask
from mlxkv._names import find_class
from mlxkv._states import check_slots
from mlxkv.mlx_lm_0_31._batches import BatchKVCache, BatchRotatingKVCache
from mlxkv.mlx_lm_0_31._sequences import (
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    Restored,
    RotatingKVCache,
)


def from_state(name: str, state: Any, meta_state: Any = None) -> Any:
    """A cache of the class of that name, or of its Rust alias, from its state and meta_state.

    Raises `UnknownCacheError` and what the class's `from_state` raises.
    """
    return find_class(name, CLASSES).from_state(state, meta_state)


class ArraysCache(Restored, _arrays.ArraysCache):
    """See `mlxkv._arrays`. Its state is the list of slots itself; nothing else is saved."""

    left_padding: mx.array | None
    lengths: mx.array | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004 - they are __init__'s
        cache = super().__new__(cls)
        cache.left_padding = cache.lengths = None
        return cache

    @property
    def state(self) -> Any:
        """The list of slots itself; setting it keeps the list, or tuple, that is given.

        Setting raises `StateError`, `ArrayTypeError`.
        """
        return self.cache

    @state.setter
    def state(self, state: Any) -> None:
        check_slots(self, state)
        self.cache = state

    def make_mask(self, N: int) -> mx.array | None:  # noqa: N803 - the release's name
        """The mask bool (batch, N) past left_padding; only without it, within `lengths`.

        None where neither is set. Raises `PaddingError`. Source: 0.31.3 cache.py:691-699.
        """
        left_padding, lengths = self.left_padding, self.lengths
        if left_padding is not None:
            return padding_mask(self, N, left_padding, None)
        return None if lengths is None else padding_mask(self, N, None, lengths)


class CacheList(_list.CacheList):
    """See `mlxkv._list`. Its state is a list of states, its meta_state names and meta_states."""

    @classmethod
    def from_state(cls, state: Any, meta_state: Any) -> Self:
        """A new list of new children. Source: 0.31.3 cache.py:894-900.

        Raises `StateError`, `ListMetaStateError`, `UnknownCacheError` and what a child raises.
        """
        cache = cls.__new__(cls)
        states = entries(cache, state)
        names, metas = cache._unpack_meta(meta_state, len(states))
        cache.caches = [from_state(*child) for child in zip(names, states, metas, strict=True)]
        return cache

    @property
    def state(self) -> list[Any]:
        """The children's states. Setting it sets theirs, all or none.

        Raises what a child raises; setting also `StateError`, `StateArityError` unless there is
        one for each.
        """
        return [child.state for child in self.caches]

    @state.setter
    def state(self, state: Any) -> None:
        states = entries(self, state)
        with AllOrNothing(self.caches):
            for child, its_state in zip(self.caches, states, strict=False):
                child.state = its_state
            if len(states) != len(self.caches):
                expected = f"{len(self.caches)} entries"
                raise StateArityError(self, "state", expected, f"{len(states)}")

    @property
    def meta_state(self) -> tuple[list[str], list[Any]]:
        """The children's class names and meta_states. Setting it sets theirs, all or none.

        The names are not looked at then. Raises `ListMetaStateError` and what a child raises.
        """
        return (
            [type(child).__name__ for child in self.caches],
            [child.meta_state for child in self.caches],
        )

    @meta_state.setter
    def meta_state(self, meta_state: Any) -> None:
        _, metas = self._unpack_meta(meta_state, len(self.caches))
        with AllOrNothing(self.caches):
            for child, its_meta in zip(self.caches, metas, strict=True):
                child.meta_state = its_meta

    def _unpack_meta(self, meta_state: Any, count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The names and the meta_states, as many as there are children."""
        try:
            names, metas = (tuple(part) for part in meta_state)
        except (TypeError, ValueError):
            expected = "(names, meta_states)"
            raise ListMetaStateError(self, "meta_state", expected, repr(meta_state)) from None
        if len(names) != count or len(metas) != count:
            expected = f"{count} names and {count} meta_states"
            got = f"{len(names)} and {len(metas)}"
            raise ListMetaStateError(self, "meta_state", expected, got)
        return names, metas


ArraysCache._extracted_class = ArraysCache
CacheList._extracted_class = CacheList

CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        ArraysCache,
        BatchKVCache,
        BatchRotatingKVCache,
        CacheList,
        ChunkedKVCache,
        ConcatenateKVCache,
        KVCache,
        QuantizedKVCache,
        RotatingKVCache,
    )
}
